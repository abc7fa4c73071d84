//! Frames built by hand, right in everything their test does not want wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// ff:ff:ff:ff:ff:ff.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// Ethernet around a payload, filled up to the 60 bytes a wire wants.
pub fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&dst[..], &src, &ethertype.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// IPv4 without options, hop limit 64.
pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with_options(src, dst, protocol, &[], payload)
}

/// IPv4 with options of a length divisible by 4.
pub fn ipv4_with_options(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let length = words * 4 + payload.len();
    let mut packet = vec![0x40 | words as u8, 0];
    packet.extend_from_slice(&(length as u16).to_be_bytes());
    packet.extend_from_slice(&[0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend_from_slice(&src.octets());
    packet.extend_from_slice(&dst.octets());
    packet.extend_from_slice(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// IPv6 without extension headers.
pub fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[next_header, hop_limit]);
    packet.extend_from_slice(&src.octets());
    packet.extend_from_slice(&dst.octets());
    packet.extend_from_slice(payload);
    packet
}

/// UDP without a checksum, as IPv4 allows; for IPv6 see [`udp6`].
pub fn udp(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// UDP in IPv6, checksum included.
pub fn udp6(src: Ipv6Addr, dst: Ipv6Addr, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = udp(sport, dport, payload);
    let sum = checksum6(src, dst, 17, &packet);
    packet[6..8].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// TCP without options or payload.
pub fn tcp(src: Ipv4Addr, dst: Ipv4Addr, sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    let mut packet = [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[0; 8], &[0x50, flags, 0xff, 0xff]].concat();
    packet.extend_from_slice(&[0; 4]);
    let length = packet.len() as u16;
    let sum = checksum(&[&src.octets()[..], &dst.octets(), &[0, 6], &length.to_be_bytes(), &packet].concat());
    packet[16..18].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// ICMPv6, checksum included.
pub fn icmp6(src: Ipv6Addr, dst: Ipv6Addr, icmp_type: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[icmp_type, code, 0, 0][..], body].concat();
    let sum = checksum6(src, dst, 58, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// An ARP request (1) or reply (2).
pub fn arp(operation: u16, sender: ([u8; 6], Ipv4Addr), target: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4];
    let (sender_ip, target_ip) = (sender.1.octets(), target.1.octets());
    [&fixed[..], &operation.to_be_bytes(), &sender.0, &sender_ip, &target.0, &target_ip].concat()
}

/// A neighbour advertisement (solicited, override) that `target` is at `mac`.
pub fn neighbour_advertisement(src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let body = [&[0x60, 0, 0, 0][..], &target.octets(), &[2, 1], &mac].concat();
    ipv6(src, dst, 58, 255, &icmp6(src, dst, 136, 0, &body))
}

/// A router advertisement that makes the sender a default router for half an hour.
pub fn router_advertisement(src: Ipv6Addr, dst: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let body = [&[64, 0][..], &1800_u16.to_be_bytes(), &[0; 8], &[1, 1], &mac].concat();
    ipv6(src, dst, 58, 255, &icmp6(src, dst, 134, 0, &body))
}

/// The link-local address made from a MAC (modified EUI-64).
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    netns_ebpf_common::Addr6::link_local(netns_ebpf_common::Mac(mac)).into()
}

/// The sum of the addresses, protocol and length alone, as is in the place of a checksum that is left to the device.
pub fn pseudo_sum(src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> u16 {
    let octets = |address| match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    !checksum(&[&octets(src)[..], &octets(dst), &[0, protocol], &(length as u16).to_be_bytes()].concat())
}

pub fn checksum6(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, message: &[u8]) -> u16 {
    let length = message.len() as u32;
    checksum(&[&src.octets()[..], &dst.octets(), &length.to_be_bytes(), &[0, 0, 0, next_header], message].concat())
}

pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
