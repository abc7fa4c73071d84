//! What does not go smoothly in a session: pieces, sizes, errors, strangers.

use super::known::Known;
use super::session::{Brief, Session, Step};
use super::tcp::Side;
use super::worlds::{NOBODY, OUTSIDER, ROUTER, UPLINK_MTU, ip};
use super::{End, Numbers};
use crate::prog::packet::{Piece, checksum};
use crate::prog::{L4, Packet, V4, V6, flag};

/// The order in which a datagram's pieces are sent: now and then any, and if `again` now and then one twice.
fn order(numbers: &mut Numbers, pieces: usize, again: bool) -> Vec<usize> {
    let mut order: Vec<_> = (0..pieces).collect();
    if numbers.percent(50) {
        for i in (1..pieces).rev() {
            order.swap(i, numbers.below(i + 1));
        }
    }
    if again && numbers.percent(20) {
        // Not when it is complete: the rest of a second datagram would wait for its other pieces then.
        let i = numbers.below(pieces - 1);
        order.insert(i + 1, order[i]);
    }
    order
}

impl Session {
    /// A datagram in pieces.
    pub(super) fn in_pieces(&mut self, numbers: &mut Numbers) -> Option<Step> {
        if self.proto == 6 || (self.answerer.is_none() && !self.is_echo()) || self.target.0 == ip(NOBODY, self.v) {
            return None;
        }
        let side = self.side(numbers);
        let l4 = self.datagram(side, numbers, 4000);
        let mut p = self.packet(side, l4, 0);
        self.ornament(&mut p, numbers);
        (p.options, p.extensions, p.dont_fragment) = (Vec::new(), Vec::new(), false);
        let size = 8 * (1 + numbers.below(150));
        let mut step = self.build(side, &p, String::new(), None);
        let length = step.packets[0][0].len() - if self.v == V4 { 20 } else { 40 };
        // One piece is none, and a machine may refuse hundreds.
        if length <= size || length / size > 40 {
            return None;
        }
        // Between pods pieces are forwarded as they come, those that come again too.
        let between_pods = self.answerer.is_some_and(|a| a.sees == self.opener.0 && self.from != End::Lan);
        let order = order(numbers, length.div_ceil(size), !between_pods);
        step.what = format!("{side:?} sends {length} bytes of transport in pieces of {size}, in the order {order:?}");
        for (world, packets) in step.packets.iter_mut().enumerate() {
            let own = self.packet(side, p.l4.clone(), self.wire[world].unwrap_or(self.opener.1));
            let l4 = own.l4.bytes(own.src, own.dst);
            let chunks: Vec<_> = l4.chunks(size).collect();
            *packets = order
                .iter()
                .map(|&i| {
                    let chunk = chunks[i];
                    let mut piece = own.clone();
                    (piece.class, piece.hop_limit, piece.dont_fragment) = (p.class, p.hop_limit, false);
                    let offset = i * size;
                    piece.piece =
                        Some(Piece { id: p.id, offset: offset as u16, more: offset + chunk.len() < l4.len() });
                    piece.l4 = L4::Raw { proto: self.proto, bytes: chunk.to_vec() };
                    let mut bytes = piece.ip_bytes();
                    super::canon::set_tag(&mut bytes, p.id);
                    bytes
                })
                .collect();
        }
        step.forwarded = None;
        Some(step)
    }

    /// A packet the uplink is too small for.
    pub(super) fn too_big(&mut self, numbers: &mut Numbers) -> Option<Step> {
        if self.proto == 6 || self.from == End::Lan || self.answerer.is_none_or(|a| a.end != End::Lan) {
            return None;
        }
        let header = if self.v == V4 { 28 } else { 48 };
        let bytes = UPLINK_MTU + 1 + numbers.below(100) - header;
        let l4 = self.datagram(Side::Opener, numbers, 2).with_payload(bytes);
        let mut p = self.packet(Side::Opener, l4, 0);
        self.ornament(&mut p, numbers);
        (p.options, p.extensions) = (Vec::new(), Vec::new());
        let may = (self.v == V4 && !p.dont_fragment).then_some(Known::NotFragmented);
        let what = format!("the opener sends {} bytes{}", bytes + header, if p.dont_fragment { ", DF" } else { "" });
        Some(self.build(Side::Opener, &p, what, may))
    }

    /// An ICMP error about the last packet one side got.
    pub(super) fn error(&mut self, numbers: &mut Numbers) -> Option<Step> {
        use super::tcp::Phase::Refused;
        let a = self.answerer?;
        if self.proto == 6 && (self.tcp.phase == Refused || self.headless) {
            return None;
        }
        let side = numbers.pick(&[Side::Answerer, Side::Opener]);
        let [Some(ours), Some(reference)] = &self.last[usize::from(side == Side::Opener)] else { return None };
        let (at, own, to) =
            if side == Side::Opener { (self.from, self.opener.0, self.target.0) } else { (a.end, a.addr, a.sees) };
        let src = if at == End::Lan && numbers.percent(60) { ip(ROUTER, self.v) } else { own };
        let mtu = 68 + numbers.below(1400) as u32;
        let (kind, code, rest) = match (self.v, numbers.below(6)) {
            (V4, 0) => (3, numbers.below(16) as u8, 0),
            (V4, 1) => (3, 4, mtu),
            (V4, 2) => (11, numbers.below(2) as u8, 0),
            (V4, 3) if numbers.percent(30) => (4, 0, 0),
            // A redirect, which only a router has to give: to the host it is of no use for a pod's packet.
            (V4, 4) if at == End::Lan => (5, numbers.below(4) as u8, u32::from_be_bytes([192, 0, 2, 3])),
            (V4, _) => (12, numbers.below(3) as u8, (numbers.below(20) as u32) << 24),
            (V6, 0) => (1, numbers.below(8) as u8, 0),
            (V6, 1) => (2, 0, mtu + 1280),
            (V6, 2) => (3, numbers.below(2) as u8, 0),
            (V6, _) => (4, numbers.below(3) as u8, numbers.below(40) as u32),
        };
        let header = if self.v == V4 {
            usize::from(ours[0] & 15) * 4
        } else if ours[6] == 60 {
            return None;
        } else {
            40
        };
        let l4 = ours.len() - header;
        let mut length = 8 + numbers.below(l4 - 7);
        // The kernel edits a quoted TCP checksum only when all of the header is there, and leaves a wrong one else; and half a
        // checksum says nothing.
        if self.proto == 6 && (17..20).contains(&length) {
            length = 20.min(l4);
        }
        length = length.min(if self.v == V4 { 548 } else { 1200 });
        let options = if self.v == V4 && header == 20 && numbers.percent(25) { 4 * (1 + numbers.below(10)) } else { 0 };
        let id = 1 + numbers.below(65_535) as u16;
        let hop_limit = numbers.pick(&[2, 63, 64, 255]);
        let packets = [ours, reference].map(|about| {
            let mut quote = about[..header + length].to_vec();
            if options > 0 {
                quote.splice(20..20, vec![1; options]);
                quote[0] = 0x40 | (5 + options / 4) as u8;
                let total = (about.len() + options) as u16;
                quote[2..4].copy_from_slice(&total.to_be_bytes());
                quote[10..12].fill(0);
                let sum = checksum(&quote[..20 + options]);
                quote[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            let mut p = Packet::new(src, to, L4::Icmp { kind, code, rest: rest.to_be_bytes(), body: quote });
            (p.id, p.hop_limit) = (id, hop_limit);
            let mut bytes = p.ip_bytes();
            super::canon::set_tag(&mut bytes, id);
            vec![bytes]
        });
        let what = format!(
            "{src} says error {kind}/{code} about what {side:?} got, {length} bytes of its transport, {options} of options"
        );
        Some(Step {
            what,
            at,
            packets,
            tags: vec![(id, hop_limit)],
            may: if (self.v, kind) == (V4, 4) { Some(Known::SourceQuench) } else { self.error_may() },
            side: None,
            forwarded: None,
        })
    }

    /// A machine of the LAN tries the port a pod's session has got.
    pub(super) fn outsider(&mut self, numbers: &mut Numbers) -> Option<Step> {
        let a = self.answerer?;
        if a.end != End::Lan || self.wire.contains(&None) {
            return None;
        }
        let src = ip(OUTSIDER, self.v);
        let id = 1 + numbers.below(65_535) as u16;
        let l4 = match self.proto {
            6 => crate::prog::tcp(0, 0, numbers.pick(&[flag::SYN, flag::ACK, flag::RST])),
            17 => crate::prog::udp(0, 0),
            _ => crate::prog::echo(false, 0),
        };
        let packets = self.wire.map(|wire| {
            let wire = wire.unwrap_or_default();
            let mut p = Packet::new(src, a.sees, l4.clone().with_ports(a.port, wire));
            p.id = id;
            let mut bytes = p.ip_bytes();
            super::canon::set_tag(&mut bytes, id);
            vec![bytes]
        });
        let what = format!("{src}, an outsider, sends {:?}", Brief(&l4));
        Some(Step {
            what,
            at: End::Lan,
            packets,
            tags: vec![(id, 64)],
            may: Some(Known::Filtered),
            side: None,
            forwarded: None,
        })
    }
}
