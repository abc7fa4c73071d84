//! Segments of every kind.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::{Fragment, L4, Parsed, ipv4, ipv6};
use super::*;
use crate::hdr::eth::ETH_LEN;
use crate::hdr::tcp::flag::{ACK, FIN, RST, SYN};

const SEQ: u32 = 0xffff_fff0;

/// A segment with the options, filled up with what ends them.
fn segment(flags: u8, options: &[u8], payload_bytes: usize) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    let words = 5 + options.len() / 4;
    let [a, b, c, d] = SEQ.to_be_bytes();
    let header = [0, 80, 0, 81, a, b, c, d, 0, 0, 0, 2, (words as u8) << 4, flags, 0x10, 0, 0, 0, 0, 0];
    [&header[..], &options, &vec![0; payload_bytes]].concat()
}

/// Of the segment in IPv4 and in IPv6, whose frames end with `padding_bytes` that are not theirs; a BIG TCP packet has no length.
fn fields(segment: &[u8], padding_bytes: usize, more_pieces: bool) -> [TcpFields; 2] {
    let padding = vec![0; padding_bytes];
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(0).to_be_bytes();
    let [high, low] = length(20 + segment.len());
    let v4 = [0x45, 0, high, low, 0, 7, if more_pieces { 0x20 } else { 0 }, 0, 64, 6, 0, 0];
    let v4 = [&[0; ETH_LEN][..], &v4, &[10, 0, 0, 1], &[10, 0, 0, 2], segment, &padding].concat();
    let piece: &[u8] = if more_pieces { &[6, 0, 0, 1, 0, 0, 0, 7] } else { &[] };
    let [high, low] = length(piece.len() + segment.len());
    let v6 = [0x60, 0, 0, 0, high, low, if more_pieces { 44 } else { 6 }, 64];
    let v6 = [&[0; ETH_LEN][..], &v6, &[0xfd; 32], piece, segment, &padding].concat();
    let (mut p4, mut p6) = (Parsed::default(), Parsed::default());
    ipv4(v4.as_slice(), ETH_LEN, v4.len(), &mut p4).expect("IPv4");
    ipv6(v6.as_slice(), ETH_LEN, v6.len(), &mut p6).expect("IPv6");
    assert_eq!((p4.l4, p6.l4), (L4::Tcp, L4::Tcp));
    assert_eq!(p4.fragment, if more_pieces { Fragment::First } else { Fragment::Whole });
    [p4.tcp, p6.tcp]
}

fn scales(options: &[u8]) -> u8 {
    let [v4, v6] = fields(&segment(SYN, options, 0), 0, false);
    assert_eq!(v4, v6);
    v4.scale
}

#[test]
fn the_window_scale_is_that_of_the_syn() {
    const NO: u8 = TcpFields::NO_SCALE;
    let linux = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    for (what, options, scale) in [
        ("no options", &[][..], NO),
        ("Linux", &linux, 7),
        ("alone", &[3, 3, 0], 0),
        ("the largest", &[3, 3, 14], 14),
        ("too large", &[3, 3, 15], 14),
        ("far too large", &[3, 3, 0xff], 14),
        ("the last one counts", &[3, 3, 5, 3, 3, 6], 6),
        ("in the last bytes", &[1, 3, 3, 9], 9),
        ("behind 36 of no operation", &[[1; 36].as_slice(), &[1, 3, 3, 2]].concat(), 2),
        ("behind the end", &[0, 3, 3, 9], NO),
        ("another length", &[3, 4, 9, 9], NO),
        ("behind a length of 0", &[2, 0, 3, 3, 9, 0, 0, 0], NO),
        ("behind a length of 1", &[2, 1, 3, 3, 9, 0, 0, 0], NO),
        ("behind one that leaves the header", &[2, 40, 3, 3, 9, 0, 0, 0], NO),
        ("cut off", &[1, 1, 3, 3], NO),
        ("before a bad one", &[3, 3, 9, 2, 0, 0, 0, 0], 9),
    ] {
        assert_eq!(scales(options), scale, "{what}");
    }
    for flags in [ACK, FIN | ACK, RST, 0] {
        let [v4, v6] = fields(&segment(flags, &linux, 0), 0, false);
        assert_eq!((v4.scale, v6.scale), (NO, NO), "{flags:#x} is no SYN");
    }
    // An option's shift is not looked for in the payload.
    let [v4, v6] = fields(&segment(SYN, &[1, 1, 3, 3], 9), 0, false);
    assert_eq!((v4.scale, v6.scale), (NO, NO));
}

#[test]
fn the_end_of_a_large_packet_and_of_a_piece() {
    for bytes in [65_535 - 40, 65_536, 70_000, 400_000] {
        let [v4, v6] = fields(&segment(ACK, &[1; 4], bytes), 0, false);
        let end = SEQ.wrapping_add(bytes as u32);
        assert_eq!((v4.end, v6.end), (end, end), "{bytes} bytes");
    }
    let [v4, v6] = fields(&segment(ACK, &[], 20), 0, true);
    let end = SEQ.wrapping_add(0xffff);
    assert_eq!((v4.end, v6.end), (end, end));
}

#[test]
fn only_six_combinations_of_flags_are_valid() {
    // As nf_conntrack_proto_tcp.c has them.
    let valid = [SYN, SYN | ACK, RST, RST | ACK, FIN | ACK, ACK];
    for flags in 0..=u8::MAX {
        let fields = TcpFields { flags, ..TcpFields::default() };
        assert_eq!(fields.has_valid_flags(), valid.contains(&(flags & (FIN | SYN | RST | ACK))), "{flags:#04x}");
    }
}

/// What tcp_parse_options of the kernel makes of them.
fn scale_by_the_book(mut options: &[u8]) -> u8 {
    let mut scale = TcpFields::NO_SCALE;
    loop {
        match *options {
            [1, ref rest @ ..] => options = rest,
            [0, ..] | [] | [_] => return scale,
            [kind, len, ..] => {
                if len < 2 || len as usize > options.len() {
                    return scale;
                }
                if (kind, len) == (3, 3) {
                    scale = options[2].min(14);
                }
                options = &options[len as usize..];
            }
        }
    }
}

proptest! {
    #[test]
    fn any_options_are_read_as_linux_reads_them(
        options in proptest::collection::vec(prop_oneof![0u8..12, any::<u8>()], 0..=40),
    ) {
        let mut padded = options.clone();
        padded.resize(options.len().next_multiple_of(4), 0);
        prop_assert_eq!(scales(&options), scale_by_the_book(&padded));
    }

    #[test]
    fn the_end_is_where_the_next_segment_begins(
        flags: u8,
        options in proptest::collection::vec(any::<u8>(), 0..=40),
        payload_bytes in prop_oneof![0usize..100, 60_000usize..80_000],
        padding_bytes in 0usize..20,
    ) {
        // What follows a packet without a length is its own.
        let padding_bytes = if payload_bytes > 60_000 { 0 } else { padding_bytes };
        let [v4, v6] = fields(&segment(flags, &options, payload_bytes), padding_bytes, false);
        let syn_and_fin = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        prop_assert_eq!(v4.end, SEQ.wrapping_add(payload_bytes as u32).wrapping_add(syn_and_fin));
        prop_assert_eq!(v4, v6);
        prop_assert_eq!((v4.seq, v4.ack, v4.window, v4.flags), (SEQ, 2, 4096, flags));
    }
}
