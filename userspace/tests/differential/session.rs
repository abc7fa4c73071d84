//! Sessions: who talks to whom through which translation, and the packets they send.

use std::net::IpAddr;

use netns_ebpf_common::state::State;

use super::canon::Alias;
use super::known::Known;
use super::tcp::{Side, Tcp};
use super::worlds::{BLUE, GATEWAY, HOST, LAN, NOBODY, PUBLISHED, RED, ip};
use super::{End, Numbers};
use crate::prog::{L4, Packet, V4, V6, Version, flag};

/// The other side of a session, as it sees itself.
#[derive(Clone, Copy, Debug)]
pub struct Answerer {
    /// Where it is.
    pub end: End,
    /// Its address.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// The opener's address there.
    pub sees: IpAddr,
}

/// What a session has at a place of each world: ours, then the reference.
pub type Each<T> = [Option<T>; 2];

/// A session.
#[derive(Clone, Debug)]
pub struct Session {
    /// What it is, for messages.
    pub name: String,
    /// Its family.
    pub v: Version,
    /// Its protocol.
    pub proto: u8,
    /// Where the opener is.
    pub from: End,
    /// The opener.
    pub opener: (IpAddr, u16),
    /// Whom it asks for.
    pub target: (IpAddr, u16),
    /// Who answers, if not the host.
    pub answerer: Option<Answerer>,
    /// The opener's port as the answerer sees it.
    pub wire: Each<u16>,
    /// The last packet that came to the answerer, and to the opener.
    pub last: [Each<Vec<u8>>; 2],
    /// Of TCP.
    pub tcp: Tcp,
    /// It begins in its middle.
    pub headless: bool,
    /// The reference has given its port to another.
    pub over: bool,
}

/// What is put in, in each world.
pub struct Step {
    /// For messages.
    pub what: String,
    /// Where.
    pub at: End,
    /// IP packets, for us and for the reference.
    pub packets: [Vec<Vec<u8>>; 2],
    /// Tag and hop limit of each.
    pub tags: Vec<(u16, u8)>,
    /// What may differ.
    pub may: Option<Known>,
    /// Who sends, if it is a packet of the session.
    pub side: Option<Side>,
    /// The packet as it is after translation, with the sender's own port.
    pub forwarded: Option<Packet>,
}

impl Session {
    /// A session of any kind. `serial` numbers the sessions of a round: what must be its own is made of it.
    pub fn new(numbers: &mut Numbers, serial: usize) -> Self {
        let v = if numbers.percent(50) { V4 } else { V6 };
        let icmp = if v == V4 { 1 } else { 58 };
        let pods = [(End::Red, RED), (End::Blue, BLUE)];
        let pod = numbers.pick(&pods);
        let machine = numbers.pick(&LAN);
        // Few numbers, so that pods want the same port towards the same server; the serial keeps connections apart.
        let server_port = 1000 + (serial / 4) as u16;
        let port =
            numbers.pick(&[20_000, 25_000, 32_767, 1024, 40_000]) + if numbers.percent(20) { serial as u16 } else { 0 };
        let proto = numbers.pick(&[6, 6, 17, icmp]);
        let (kind, headless) = (numbers.below(100), numbers.percent(6));
        let lan_port = 30_000 + (serial / 3) as u16;
        let (name, proto, from, opener, target, answerer) = match kind {
            0..45 => {
                let server_port = if proto == icmp { 0 } else { server_port };
                let answerer = Answerer { end: End::Lan, addr: ip(machine, v), port: server_port, sees: ip(HOST, v) };
                ("to the LAN", proto, pod.0, (ip(pod.1, v), port), (ip(machine, v), server_port), Some(answerer))
            }
            45..67 => {
                let (proto, at, to) = numbers.pick(&PUBLISHED);
                let answerer = Answerer { end: End::Red, addr: ip(RED, v), port: to, sees: ip(machine, v) };
                ("published", proto, End::Lan, (ip(machine, v), lan_port), (ip(HOST, v), at), Some(answerer))
            }
            67..78 => {
                let (proto, at, to) = numbers.pick(&PUBLISHED);
                let answerer = Answerer { end: End::Red, addr: ip(RED, v), port: to, sees: ip(HOST, v) };
                ("hairpin", proto, pod.0, (ip(pod.1, v), lan_port), (ip(HOST, v), at), Some(answerer))
            }
            78..87 => {
                let to = if pod.0 == End::Red { pods[1] } else { pods[0] };
                let to_port = if proto == icmp { 0 } else { server_port };
                let answerer = Answerer { end: to.0, addr: ip(to.1, v), port: to_port, sees: ip(pod.1, v) };
                ("pod to pod", proto, pod.0, (ip(pod.1, v), lan_port), (ip(to.1, v), to_port), Some(answerer))
            }
            87..92 => ("to the host", proto, End::Lan, (ip(machine, v), lan_port), (ip(HOST, v), 7), None),
            92..96 => ("to the gateway", proto, pod.0, (ip(pod.1, v), lan_port), (ip(GATEWAY, v), 7), None),
            _ => ("to nobody", proto, pod.0, (ip(pod.1, v), lan_port), (ip(NOBODY, v), 7), None),
        };
        Self {
            name: format!("{serial}: {name}, {v:?}, protocol {proto}, {opener:?} to {target:?}"),
            v,
            proto,
            from,
            opener,
            target,
            answerer,
            wire: [None; 2],
            last: Default::default(),
            tcp: Tcp::new(numbers),
            headless: headless && proto == 6,
            over: false,
        }
    }

    /// What no two sessions of a round may have alike.
    pub fn identity(&self) -> (u8, (IpAddr, u16), (IpAddr, u16)) {
        (self.proto, self.opener, self.target)
    }

    /// How the opener's port is called in a world at the answerer's end.
    pub fn alias(&self, world: usize) -> Option<Alias> {
        let (answerer, wire) = (self.answerer?, self.wire[world]?);
        Some(Alias { proto: self.proto, addr: answerer.sees, wire, own: self.opener.1 })
    }

    /// Whether the opener's port is a choice of the world's.
    pub fn is_masqueraded(&self) -> bool {
        self.answerer.is_some_and(|a| a.sees == ip(HOST, self.v))
    }

    /// How an error about it may differ: if the reference translates both of its ends.
    pub(super) fn error_may(&self) -> Option<Known> {
        let hairpin =
            self.from != End::Lan && self.is_masqueraded() && self.answerer.is_some_and(|a| a.end != End::Lan);
        let both = self.from == End::Lan && self.wire[1].is_some_and(|wire| wire != self.opener.1);
        (hairpin || both).then_some(Known::ErrorSource)
    }

    /// What our flow must be, if there must be one.
    pub fn state(&self) -> Option<State> {
        let translated = self.from == End::Lan || self.answerer.is_some_and(|a| a.sees != self.opener.0);
        let followed = self.proto == 6 && !self.headless && !self.over && self.answerer.is_some() && translated;
        if followed { self.tcp.state() } else { None }
    }

    pub(super) fn is_echo(&self) -> bool {
        matches!(self.proto, 1 | 58)
    }

    /// A packet from one side, where the opener's port is `port` at the answerer's end.
    pub(super) fn packet(&self, side: Side, l4: L4, port: u16) -> Packet {
        match (side, self.answerer) {
            (Side::Answerer, Some(a)) => {
                let l4 = if self.is_echo() { l4.with_ports(port, port) } else { l4.with_ports(a.port, port) };
                Packet::new(a.addr, a.sees, l4)
            }
            _ => {
                let l4 = if self.is_echo() {
                    l4.with_ports(self.opener.1, 0)
                } else {
                    l4.with_ports(self.opener.1, self.target.1)
                };
                Packet::new(self.opener.0, self.target.0, l4)
            }
        }
    }

    /// The same after translation.
    fn translated(&self, side: Side, sent: &Packet) -> Option<Packet> {
        let a = self.answerer?;
        let mut p = sent.clone();
        p.hop_limit -= 1;
        let dport = if self.is_echo() { 0 } else { a.port };
        (p.src, p.dst, p.l4) = match side {
            Side::Opener => (a.sees, a.addr, sent.l4.clone().with_ports(self.opener.1, dport)),
            Side::Answerer if self.is_echo() => {
                (self.target.0, self.opener.0, sent.l4.clone().with_ports(0, self.opener.1))
            }
            Side::Answerer => (self.target.0, self.opener.0, sent.l4.clone().with_ports(self.target.1, self.opener.1)),
        };
        Some(p)
    }

    /// The next thing that happens to it; `None` if what was drawn cannot happen now.
    pub fn step(&mut self, numbers: &mut Numbers) -> Option<Step> {
        if self.over {
            return None;
        }
        match numbers.below(100) {
            0..64 => self.talk(numbers, false),
            64..70 => self.talk(numbers, true),
            70..78 => self.in_pieces(numbers),
            78..82 => self.too_big(numbers),
            82..96 => self.error(numbers),
            _ => self.outsider(numbers),
        }
    }

    /// Who speaks: an answerer only to what it has seen.
    pub(super) fn side(&self, numbers: &mut Numbers) -> Side {
        if self.wire.iter().all(Option::is_some) && numbers.percent(45) { Side::Answerer } else { Side::Opener }
    }

    /// A packet of the session as it should be, or one on its last hop.
    fn talk(&mut self, numbers: &mut Numbers, last_hop: bool) -> Option<Step> {
        let (side, l4, may);
        if self.proto == 6 && self.headless {
            // Which of the two is wrong with it first is nobody's business.
            if last_hop {
                return None;
            }
            side = Side::Opener;
            let flags = numbers.pick(&[flag::ACK, flag::RST, flag::FIN | flag::ACK, flag::SYN | flag::ACK]);
            (l4, may) = (crate::prog::tcp(0, 0, flags), None);
        } else if self.proto == 6 {
            let segment = self.tcp.segment(numbers);
            if segment.side == Side::Answerer && self.wire.contains(&None) {
                return None;
            }
            if last_hop
                && (segment.stray
                    || !self.tcp.phase.is_settled()
                    || !matches!(segment.l4, L4::Tcp { flags, .. } if flags & (flag::RST | flag::FIN | flag::SYN) == 0))
            {
                return None;
            }
            self.tcp.sent(&segment);
            (side, l4) = (segment.side, segment.l4);
            may = segment.stray.then_some(Known::StateNotPoliced);
        } else {
            side = self.side(numbers);
            (l4, may) = (self.datagram(side, numbers, 900), None);
        }
        let mut p = self.packet(side, l4, 0);
        self.ornament(&mut p, numbers);
        if last_hop {
            p.hop_limit = 1;
        }
        let what = format!("{side:?} sends {:?}{}", Brief(&p.l4), if last_hop { ", its last hop" } else { "" });
        Some(self.build(side, &p, what, may))
    }

    pub(super) fn datagram(&self, side: Side, numbers: &mut Numbers, most: usize) -> L4 {
        let payload: Vec<u8> = (0..numbers.below(most)).map(|_| numbers.any() as u8).collect();
        if self.is_echo() {
            L4::Echo { request: side == Side::Opener, id: 0, payload }
        } else {
            L4::Udp { sport: 0, dport: 0, checksum: self.v == V6 || numbers.percent(80), payload }
        }
    }

    /// What a header may have that no translation may touch.
    pub(super) fn ornament(&self, p: &mut Packet, numbers: &mut Numbers) {
        p.id = 1 + numbers.below(65_535) as u16;
        p.dont_fragment = numbers.percent(85);
        p.hop_limit = numbers.pick(&[2, 3, 63, 64, 66, 128, 255]);
        if numbers.percent(20) {
            p.class = numbers.any() as u8;
        }
        if numbers.percent(5) {
            match self.v {
                V4 => p.options = vec![1; 4 * (1 + numbers.below(10))],
                V6 => p.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])],
            }
        }
    }

    pub(super) fn build(&self, side: Side, p: &Packet, what: String, may: Option<Known>) -> Step {
        let packets = [0, 1].map(|world| {
            let mut own = self.packet(side, p.l4.clone(), self.wire[world].unwrap_or(self.opener.1));
            (own.id, own.hop_limit, own.class, own.dont_fragment) = (p.id, p.hop_limit, p.class, p.dont_fragment);
            (own.options, own.extensions) = (p.options.clone(), p.extensions.clone());
            let mut bytes = own.ip_bytes();
            super::canon::set_tag(&mut bytes, p.id);
            vec![bytes]
        });
        let at = if side == Side::Opener { self.from } else { self.answerer.map_or(self.from, |a| a.end) };
        let may = if self.target.0 == ip(NOBODY, self.v) { Some(Known::NobodyThere) } else { may };
        let may = may.or_else(|| (p.hop_limit == 1).then(|| self.error_may()).flatten());
        let forwarded = self.translated(side, p);
        Step { what, at, packets, tags: vec![(p.id, p.hop_limit)], may, side: Some(side), forwarded }
    }
}

/// A transport without its payload.
pub(super) struct Brief<'a>(pub(super) &'a L4);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            L4::Tcp { seq, ack, flags, window, payload, .. } => {
                let names = [(2, "SYN "), (16, "ACK "), (1, "FIN "), (4, "RST ")];
                let names: String = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, n)| *n).collect();
                write!(f, "{names}seq {seq} ack {ack} window {window}, {} bytes", payload.len())
            }
            L4::Udp { checksum, payload, .. } => write!(f, "UDP, {} bytes, checksum: {checksum}", payload.len()),
            L4::Echo { request, payload, .. } => write!(f, "echo, request: {request}, {} bytes", payload.len()),
            other => write!(f, "{other:?}"),
        }
    }
}
