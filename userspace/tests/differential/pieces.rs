//! Datagrams in pieces, put together again: the kernel's NAT takes them apart elsewhere than where it got them.

use super::End;
use super::canon::{put, word};
use crate::prog::packet::checksum;

/// A piece of a datagram.
struct Piece {
    offset: usize,
    more: bool,
    /// Bytes before the payload, the fragment header of IPv6 included.
    body_at: usize,
    packet: Vec<u8>,
}

impl Piece {
    fn is_v4(&self) -> bool {
        self.packet[0] >> 4 == 4
    }

    /// What the pieces of a datagram have alike: addresses, identification.
    fn datagram(&self) -> &[u8] {
        if self.is_v4() { &self.packet[12..20] } else { &self.packet[8..40] }
    }

    fn id(&self) -> &[u8] {
        if self.is_v4() { &self.packet[4..6] } else { &self.packet[44..48] }
    }
}

/// Cuts what follows the packets, and puts pieces together, in whichever order they come; a packet comes with whether it was
/// in pieces.
pub fn whole(end: End, packets: &[Vec<u8>]) -> Result<Vec<(End, bool, Vec<u8>)>, String> {
    let mut out = Vec::new();
    let mut pieces: Vec<Piece> = Vec::new();
    for packet in packets {
        let mut packet = packet.clone();
        let v4 = packet[0] >> 4 == 4;
        let length = if v4 { usize::from(word(&packet, 2)) } else { 40 + usize::from(word(&packet, 4)) };
        if length > packet.len() {
            return Err(format!("a packet says it has {length} bytes: {packet:02x?}"));
        }
        packet.truncate(length);
        let piece = if v4 {
            let field = word(&packet, 6);
            let body_at = usize::from(packet[0] & 15) * 4;
            Piece { offset: usize::from(field & 0x1fff) * 8, more: field & 0x2000 != 0, body_at, packet }
        } else if packet[6] == 44 {
            let field = word(&packet, 42);
            Piece { offset: usize::from(field & !7), more: field & 1 != 0, body_at: 48, packet }
        } else {
            Piece { offset: 0, more: false, body_at: 40, packet }
        };
        if piece.offset == 0 && !piece.more {
            out.push((end, false, piece.packet));
        } else {
            pieces.push(piece);
        }
    }
    pieces.sort_by(|a, b| (a.datagram(), a.id(), a.offset).cmp(&(b.datagram(), b.id(), b.offset)));
    let same = |a: &Piece, b: &Piece| (a.datagram(), a.id()) == (b.datagram(), b.id());
    for datagram in pieces.chunk_by(same) {
        let (in_pieces, packet) = together(datagram)?;
        out.push((end, in_pieces, packet));
    }
    Ok(out)
}

/// One datagram of its pieces, in order.
fn together(pieces: &[Piece]) -> Result<(bool, Vec<u8>), String> {
    let first = &pieces[0];
    let mut whole = first.packet.clone();
    if !first.is_v4() {
        whole[6] = first.packet[40];
        whole.drain(40..48);
    }
    let mut length = 0;
    for (i, piece) in pieces.iter().enumerate() {
        let (head, body) = piece.packet.split_at(piece.body_at);
        if piece.is_v4() && checksum(head) != 0 {
            return Err(format!("a piece's header checksum is wrong: {:02x?}", piece.packet));
        }
        if piece.offset != length {
            return Err(format!("a piece at {}, {length} bytes have come", piece.offset));
        }
        if piece.more != (i + 1 < pieces.len()) {
            return Err(format!("piece {} of {} says of more: {}", i + 1, pieces.len(), piece.more));
        }
        if i > 0 {
            whole.extend(body);
        }
        length += body.len();
    }
    let bytes = whole.len() as u16;
    if first.is_v4() {
        put(&mut whole, 2, bytes);
        put(&mut whole, 6, 0);
        put(&mut whole, 10, 0);
        let sum = checksum(&whole[..first.body_at]);
        put(&mut whole, 10, sum);
    } else {
        put(&mut whole, 4, bytes - 40);
    }
    // The kernel, which has it whole in between, sends IPv6 that is then no longer than its first piece as one.
    let as_one = !first.is_v4() && whole.len() <= first.packet.len();
    Ok((!as_one, whole))
}
