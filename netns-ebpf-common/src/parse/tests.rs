//! Golden packets, lies, and bytes of any kind.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::hdr::eth::ETH_LEN;
use crate::hdr::udp::UDP_LEN;
use crate::invariants;
use crate::{Addr4, Addr6};

const V4_SRC: [u8; 4] = [10, 244, 0, 10];
const V4_DST: [u8; 4] = [10, 244, 0, 20];

fn frame4(options: &[u8], frag: [u8; 2], proto: u8, l4: &[u8]) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let total = ((words * 4 + l4.len()) as u16).to_be_bytes();
    let header = [0x40 | words as u8, 0, total[0], total[1], 0xab, 0xcd, frag[0], frag[1], 64, proto, 0, 0];
    [&[0; ETH_LEN][..], &header, &V4_SRC, &V4_DST, options, l4].concat()
}

fn frame6(first: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], first, 64];
    let (mut src, mut dst) = ([0xfd; 16], [0xfd; 16]);
    (src[15], dst[15]) = (0x10, 0x20);
    [&[0; ETH_LEN][..], &header, &src, &dst, body].concat()
}

fn tcp() -> Vec<u8> {
    vec![0x03, 0xe8, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x12, 0x10, 0, 0, 0, 0, 0, b'x']
}

const UDP: [u8; 8] = [0x03, 0xe8, 0, 53, 0, 8, 0, 0];
/// The common header.
const SCTP: [u8; 12] = [0x0b, 0x59, 0x0b, 0x5a, 1, 2, 3, 4, 5, 6, 7, 8];
const ECHO: [u8; 8] = [8, 0, 0, 0, 0, 7, 0, 1];
const ECHO6: [u8; 8] = [128, 0, 0, 0, 0, 7, 0, 1];

fn parse4(frame: &[u8]) -> Result<Parsed<Addr4>, DropReason> {
    let mut p = Parsed::default();
    ipv4(frame, ETH_LEN, frame.len(), &mut p).map(|()| p)
}

fn parse6(frame: &[u8]) -> Result<Parsed<Addr6>, DropReason> {
    let mut p = Parsed::default();
    ipv6(frame, ETH_LEN, frame.len(), &mut p).map(|()| p)
}

fn ports<A>(p: &Parsed<A>) -> (u16, u16) {
    (p.tuple.sport.get(), p.tuple.dport.get())
}

#[test]
fn ipv4_golden() {
    let p = parse4(&frame4(&[], [0x40, 0], 6, &tcp())).expect("TCP");
    assert_eq!((p.l4, p.proto, p.hop_limit, p.fragment), (L4::Tcp, 6, 64, Fragment::Whole));
    assert_eq!((p.tuple.src.0, p.tuple.dst.0, ports(&p)), (V4_SRC, V4_DST, (1000, 80)));
    assert_eq!((p.l4_off(), p.headers_len_bytes(), p.csum_off()), (34, 40, Some(50)));
    assert_eq!(p.tcp, TcpFields { seq: 1, end: 3, ack: 2, window: 4096, flags: 0x12, scale: TcpFields::NO_SCALE });

    let p = parse4(&frame4(&[1; 8], [0, 0], 17, &UDP)).expect("UDP behind options");
    assert_eq!((p.l4, ports(&p), p.l4_off(), p.headers_len_bytes()), (L4::Udp, (1000, 53), 42, 36));

    let p = parse4(&frame4(&[], [0, 0], 1, &ECHO)).expect("echo");
    assert!(p.is_icmp(IcmpKind::EchoRequest) && ports(&p) == (7, 0));
    let p = parse4(&frame4(&[], [0, 0], 1, &[0, 0, 0, 0, 0, 7, 0, 1])).expect("echo reply");
    assert!(p.is_icmp(IcmpKind::EchoReply) && ports(&p) == (0, 7));

    let p = parse4(&frame4(&[1; 4], [0, 0], 132, &SCTP)).expect("SCTP");
    assert_eq!((p.l4, ports(&p), p.l4_off(), p.headers_len_bytes()), (L4::Sctp, (2905, 2906), 38, 36));
    assert_eq!(p.csum_off(), None, "its checksum is not for us to change");
    for length in 0..SCTP.len() {
        let short = parse4(&frame4(&[], [0, 0], 132, &SCTP[..length]));
        assert_eq!(short.map(|p| p.l4), Err(DropReason::Malformed), "{length} bytes of SCTP");
    }

    let p = parse4(&frame4(&[], [0, 0], 47, &[])).expect("GRE without anything");
    assert_eq!((p.l4, p.csum_off(), ports(&p)), (L4::Other, None, (0, 0)));
}

#[test]
fn ipv4_pieces() {
    let p = parse4(&frame4(&[], [0x20, 0], 17, &UDP)).expect("first");
    assert_eq!((p.fragment, p.fragment_id, ports(&p)), (Fragment::First, [0xab, 0xcd, 17, 0], (1000, 53)));
    for (frag, off_bytes) in [([0x20, 1], 8), ([0, 1], 8), ([0x1f, 0xfb], 0xffd8)] {
        // Whatever it looks like, it has no ports.
        let p = parse4(&frame4(&[], frag, 17, &UDP)).expect("later");
        assert_eq!((p.fragment, p.l4, ports(&p)), (Fragment::Later, L4::LaterFragment, (0, 0)));
        assert_eq!((p.csum_off(), p.piece_off_bytes, p.piece_len_bytes), (None, off_bytes, 8));
        assert_eq!(p.more_pieces, frag[0] & 0x20 != 0);
    }
    let bad = [
        ("not a multiple of 8", [0x20, 1], 12),
        ("nothing", [0, 1], 0),
        ("a first one without the transport's header", [0x20, 0], 0),
        ("beyond 65535", [0x1f, 0xfc], 20),
        ("far beyond", [0x1f, 0xff], 64),
    ];
    for (what, frag, bytes) in bad {
        assert_eq!(parse4(&frame4(&[], frag, 17, &[0; 64][..bytes])), Err(DropReason::Malformed), "{what}");
    }
    // 20 bytes of header, 65504 before this piece, 11 in it: the largest datagram there is.
    assert!(parse4(&frame4(&[], [0x1f, 0xfc], 17, &[0; 11])).is_ok());
    // RFC 1858 section 3: a TCP header in two pieces.
    assert_eq!(parse4(&frame4(&[], [0x20, 0], 6, &tcp()[..16])), Err(DropReason::Malformed), "tiny");
}

#[test]
fn ipv4_lies() {
    let whole = frame4(&[], [0, 0], 17, &UDP);
    let with = |at: usize, byte: u8| {
        let mut frame = whole.clone();
        frame[at] = byte;
        parse4(&frame).map(|p| p.l4)
    };
    for (what, at, byte) in [
        ("version 6", 14, 0x65),
        ("a header of 16 bytes", 14, 0x44),
        ("a header longer than the packet", 14, 0x4f),
        ("total length below the header's", 17, 19),
        ("no room for UDP", 17, 27),
        ("beyond the frame", 17, 29),
        ("far beyond", 16, 0xff),
    ] {
        assert_eq!(with(at, byte), Err(DropReason::Malformed), "{what}");
    }
    for length in 0..whole.len() {
        assert_eq!(parse4(&whole[..length]), Err(DropReason::Malformed), "{length} bytes");
    }
    let source_route = frame4(&[1, 131, 7, 4, 1, 2, 3, 4], [0, 0], 17, &UDP);
    assert_eq!(parse4(&source_route), Err(DropReason::SourceRoute));
}

#[test]
fn ipv4_options_end_in_the_header() {
    let parse = |options: &[u8]| parse4(&frame4(options, [0, 0], 17, &UDP)).map(|p| p.l4);
    for (what, options) in [
        ("nothing but no operation", &[1; 40][..]),
        ("record route to the last byte", &[1, 7, 7, 4, 0, 0, 0, 0]),
        ("end, and what it hides", &[0, 7, 40, 131]),
        ("two of the least length", &[222, 2, 222, 2]),
    ] {
        assert_eq!(parse(options), Ok(L4::Udp), "{what}");
    }
    for (what, options) in [
        ("a length of 0", &[7, 0, 0, 0][..]),
        ("a length of 1", &[7, 1, 0, 0]),
        ("one byte past the header", &[1, 7, 4, 0]),
        ("far past it", &[7, 255, 4, 0]),
        ("its length is the transport's first byte", &[1, 1, 1, 7]),
    ] {
        assert_eq!(parse(options), Err(DropReason::Malformed), "{what}");
    }
}

/// A UDP header with this length field, and a payload.
fn udp(length: u16, payload_bytes: usize) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    [&[0x03, 0xe8, 0, 53, high, low, 0, 0][..], &vec![0x5a; payload_bytes]].concat()
}

#[test]
fn udp_lengths() {
    let of = |length, payload_bytes| {
        let udp = udp(length, payload_bytes);
        let both = [parse4(&frame4(&[], [0, 0], 17, &udp)).map(|p| p.l4), parse6(&frame6(17, &udp)).map(|p| p.l4)];
        assert_eq!(both[0], both[1], "{length} of {payload_bytes}");
        both[0]
    };
    // Shorter than the packet is no lie: the rest is no part of the datagram (RFC 768), and Linux cuts it off.
    for (length, payload_bytes) in [(8, 0), (18, 10), (8, 10), (17, 10), (60_008, 60_000)] {
        assert_eq!(of(length, payload_bytes), Ok(L4::Udp), "{length} of {payload_bytes}");
    }
    for (length, payload_bytes) in [(0, 0), (0, 10), (7, 10), (1, 10), (9, 0), (19, 10), (0xffff, 10), (0, 60_000)] {
        assert_eq!(of(length, payload_bytes), Err(DropReason::Malformed), "{length} of {payload_bytes}");
    }
    // Of a datagram in pieces the first one has the length of all of them.
    for (length, ok) in [(2008, true), (0xffff, true), (8, true), (7, false), (0, false)] {
        let first = udp(length, 8);
        let want = if ok { Ok(L4::Udp) } else { Err(DropReason::Malformed) };
        assert_eq!(parse4(&frame4(&[], [0x20, 0], 17, &first)).map(|p| p.l4), want, "{length}");
        let first = [&[17, 0, 0, 1, 0, 0, 0, 1][..], &first].concat();
        assert_eq!(parse6(&frame6(44, &first)).map(|p| p.l4), want, "{length}");
    }
    // The field of one longer than it can say is 0 (RFC 2675 section 4).
    for (length, ok) in [(0, true), (7, false), (8, true)] {
        let want = if ok { Ok(L4::Udp) } else { Err(DropReason::Malformed) };
        let mut frame = frame6(17, &udp(length, 70_000));
        frame[18..20].copy_from_slice(&[0; 2]);
        assert_eq!(parse6(&frame).map(|p| p.l4), want, "{length}");
    }
}

#[test]
fn ipv6_golden() {
    let p = parse6(&frame6(6, &tcp())).expect("TCP");
    assert_eq!((p.l4, p.l4_off(), p.headers_len_bytes(), ports(&p)), (L4::Tcp, 54, 60, (1000, 80)));
    let p = parse6(&frame6(132, &SCTP)).expect("SCTP");
    assert_eq!((p.l4, p.l4_off(), p.headers_len_bytes(), ports(&p)), (L4::Sctp, 54, 52, (2905, 2906)));
    let p = parse6(&frame6(58, &ECHO6)).expect("echo");
    assert!(p.is_icmp(IcmpKind::EchoRequest) && ports(&p) == (7, 0));

    // Hop-by-hop, destination options of 16 bytes, authentication of 12 (its length counts otherwise), UDP.
    let mut body = vec![60, 0, 1, 4, 0, 0, 0, 0, 51, 1];
    body.extend([0; 14]);
    body.extend([17, 1]);
    body.extend([0; 10]);
    body.extend(UDP);
    let p = parse6(&frame6(0, &body)).expect("a chain");
    assert_eq!((p.proto, p.l4, p.l4_off(), ports(&p)), (17, L4::Udp, 54 + 8 + 16 + 12, (1000, 53)));
}

#[test]
fn big_tcp() {
    let big = [tcp(), vec![0; 70_000]].concat();
    let jumbo = [&[6, 0, 0xc2, 4][..], &(big.len() as u32 + 8).to_be_bytes(), &big].concat();
    for (what, first, body, l4_off) in [("without an option", 6, big, 54), ("with one", 0, jumbo, 62)] {
        let mut frame = frame6(first, &body);
        frame[18..20].copy_from_slice(&[0; 2]);
        let p = parse6(&frame).expect(what);
        // Segments have no such option, so none of them is larger for it.
        assert_eq!((p.l4, p.l4_off(), p.headers_len_bytes(), ports(&p)), (L4::Tcp, l4_off, 60, (1000, 80)), "{what}");
    }
    let mut frame = frame4(&[], [0x40, 0], 6, &[tcp(), vec![0; 70_000]].concat());
    frame[16..18].copy_from_slice(&[0; 2]);
    let p = parse4(&frame).expect("IPv4");
    assert_eq!((p.l4, p.headers_len_bytes(), ports(&p)), (L4::Tcp, 40, (1000, 80)));
}

#[test]
fn ipv6_pieces() {
    let piece = |offset_and_more: u16, next: u8, rest: &[u8]| {
        let [high, low] = offset_and_more.to_be_bytes();
        parse6(&frame6(44, &[&[next, 0, high, low, 1, 2, 3, 4][..], rest].concat()))
    };
    let p = piece(1, 17, &UDP).expect("first");
    assert_eq!((p.fragment, p.fragment_id, ports(&p)), (Fragment::First, [1, 2, 3, 4], (1000, 53)));
    let p = piece(8, 17, &UDP).expect("later");
    assert_eq!((p.fragment, p.l4, p.proto, ports(&p)), (Fragment::Later, L4::LaterFragment, 17, (0, 0)));
    // What follows a later piece's header is payload, whatever number the header gives it.
    let p = piece(8, 60, &[0; 3]).expect("later");
    assert_eq!((p.fragment, p.proto), (Fragment::Later, 60));
    assert_eq!((p.piece_off_bytes, p.piece_len_bytes, p.more_pieces), (8, 3, false));
    let bad = [
        ("not a multiple of 8", 9, 12),
        ("nothing", 8, 0),
        ("a first one without the transport's header", 1, 0),
        ("beyond 65535", 0xfff8, 8),
    ];
    for (what, offset_and_more, bytes) in bad {
        assert_eq!(piece(offset_and_more, 17, &[0; 64][..bytes]).err(), Some(DropReason::Malformed), "{what}");
    }
    assert!(piece(0xfff8, 17, &[0; 7]).is_ok(), "the last byte a datagram can have");
    assert_eq!(piece(1, 6, &tcp()[..16]).err(), Some(DropReason::Malformed), "tiny");
    let p = piece(0, 17, &UDP).expect("atomic (RFC 6946)");
    assert_eq!((p.fragment, p.l4), (Fragment::Whole, L4::Udp));
}

#[test]
fn ipv6_lies() {
    let chain = |n: usize, last: u8| {
        let mut body = Vec::new();
        for i in 0..n {
            body.extend([if i + 1 < n { 60 } else { last }, 0, 1, 4, 0, 0, 0, 0]);
        }
        body
    };
    assert!(parse6(&frame6(60, &[chain(8, 17), UDP.to_vec()].concat())).is_ok());
    for (what, first, body, reason) in [
        ("9 deep", 60, [chain(9, 17), UDP.to_vec()].concat(), DropReason::ExtensionHeader),
        ("hop-by-hop second", 60, [chain(1, 0), chain(1, 17)].concat(), DropReason::ExtensionHeader),
        ("routing", 43, [chain(1, 17), UDP.to_vec()].concat(), DropReason::SourceRoute),
        ("a chain without end", 60, chain(1, 60), DropReason::Malformed),
        ("a header beyond the packet", 60, vec![17, 9, 1, 4, 0, 0, 0, 0], DropReason::Malformed),
    ] {
        assert_eq!(parse6(&frame6(first, &body)), Err(reason), "{what}");
    }
    let whole = frame6(60, &[chain(3, 17), UDP.to_vec()].concat());
    for length in 0..whole.len() {
        assert_eq!(parse6(&whole[..length]), Err(DropReason::Malformed), "{length} bytes");
    }
}

#[test]
fn quotes_golden() {
    let mut q = Quote::default();
    let frame = frame4(&[1; 8], [0x40, 0], 6, &tcp()[..8]);
    assert!(quote4(frame.as_slice(), ETH_LEN, &mut q));
    assert_eq!((q.proto, q.l3_off(), q.l4_off()), (6, 14, 42));
    assert_eq!((q.tuple.sport.get(), q.tuple.dport.get()), (1000, 80));
    assert!(!quote4(&frame[..frame.len() - 1], ETH_LEN, &mut q), "8 bytes of the transport are the least");
    assert!(!quote4(frame4(&[], [0, 1], 6, &tcp()).as_slice(), ETH_LEN, &mut q), "a later piece");
    assert!(!quote4(frame4(&[], [0, 0], 47, &tcp()).as_slice(), ETH_LEN, &mut q), "GRE");
    assert!(quote4(frame4(&[], [0, 0], 132, &SCTP[..8]).as_slice(), ETH_LEN, &mut q));
    assert_eq!((q.proto, q.tuple.sport.get(), q.tuple.dport.get()), (132, 2905, 2906));
    assert!(!quote4(frame4(&[], [0, 0], 1, &[3; 8]).as_slice(), ETH_LEN, &mut q), "an error");

    let mut q = Quote::default();
    assert!(quote6(frame6(58, &ECHO6).as_slice(), ETH_LEN, &mut q));
    assert_eq!((q.icmp, q.tuple.sport.get(), q.tuple.dport.get()), (IcmpKind::EchoRequest, 7, 0));
    let first = [&[17, 0, 0, 1, 1, 2, 3, 4][..], &UDP].concat();
    assert!(quote6(frame6(44, &first).as_slice(), ETH_LEN, &mut q));
    assert_eq!((q.proto, q.l4_off(), q.tuple.dport.get()), (17, 62, 53));
    let options = [60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0];
    let behind = frame6(0, &[&options[..], &first].concat());
    assert!(quote6(behind.as_slice(), ETH_LEN, &mut q));
    assert_eq!((q.proto, q.l4_off(), q.tuple.dport.get()), (17, 78, 53));
    for length in 0..behind.len() {
        assert!(!quote6(&behind[..length], ETH_LEN, &mut q), "{length} bytes");
    }
    let later = [&[17, 0, 0, 8, 1, 2, 3, 4][..], &UDP].concat();
    assert!(!quote6(frame6(44, &later).as_slice(), ETH_LEN, &mut q), "a later piece");
}

fn check_all(frame: &[u8]) {
    invariants::packet(frame);
    for off in [ETH_LEN, 42, 62, frame.len(), 5000] {
        invariants::quote(frame, off);
    }
}

proptest! {
    #[test]
    fn a_udp_length_is_true_within_the_packet(length: u16, payload_bytes in 0usize..100, padding_bytes in 0usize..20) {
        let datagram = udp(length, payload_bytes);
        let ok = usize::from(length) >= UDP_LEN && usize::from(length) <= datagram.len();
        let padding = vec![0; padding_bytes];
        let v4 = parse4(&[frame4(&[1; 4], [0, 0], 17, &datagram), padding.clone()].concat()).map(|p| p.l4);
        let v6 = parse6(&[frame6(17, &datagram), padding].concat()).map(|p| p.l4);
        let want = if ok { Ok(L4::Udp) } else { Err(DropReason::Malformed) };
        prop_assert_eq!((v4, v6), (want, want));
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(frame in proptest::collection::vec(any::<u8>(), 0..300)) {
        check_all(&frame);
    }

    /// Nearly right packets get further into the parser than noise does.
    #[test]
    fn packets_with_a_few_wrong_bytes_are_parsed_or_refused(
        kind in 0usize..6,
        cut in 0usize..200,
        wrong in proptest::collection::vec((14usize..120, any::<u8>()), 0..6),
    ) {
        let chain = [60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 1, 2, 3, 4];
        let mut frame = match kind {
            0 => frame4(&[], [0, 0], 6, &tcp()),
            1 => frame4(&[7, 7, 4, 0, 0, 0, 0, 1, 68, 8, 5, 0, 0, 0, 0, 0], [0, 0], 17, &UDP),
            2 => frame4(&[], [0, 0], 1, &[&[3, 4, 0, 0, 0, 0, 5, 0][..], &frame4(&[1; 4], [0, 0], 6, &tcp())[14..]].concat()),
            3 => frame6(6, &tcp()),
            4 => frame6(0, &[&chain[..], &UDP].concat()),
            _ => frame6(58, &[&[1, 4, 0, 0, 0, 0, 0, 0][..], &frame6(17, &UDP)[14..]].concat()),
        };
        for (at, byte) in wrong {
            if let Some(b) = frame.get_mut(at) {
                *b = byte;
            }
        }
        frame.truncate(frame.len().saturating_sub(cut % 40));
        check_all(&frame);
    }
}
