//! The programs of netns: one file per hook in [`path`] (all socket hooks share one), one per step in [`stage`].
//!
//! The only place where a [`Verdict`] becomes an action of the kernel is [`act`] below.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, reason = "the program macro exports an undocumented twin of each function")]

mod conntrack;
mod csum;
mod maps;
mod packet;
mod path;
mod report;
mod rewrite;
mod skb;
mod socket;
mod stage;

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::{cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use netns_ebpf_common::counters::Hook;
use netns_ebpf_common::hdr::eth::ETH_LEN;
use netns_ebpf_common::verdict::{Kind, Verdict};

use crate::packet::Packet;
use crate::path::host_socket;
use crate::socket::{Inet4, Inet6, Mapped4, Socket};

/// TC ingress on the host end of a pod's veth: every packet a pod sends.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let mut pkt = Packet::new(ctx);
    // Before the run: an answer in the packet's place has a length of its own.
    let len_bytes = pkt.len_bytes();
    let (verdict, slot) = path::from_pod::run(&mut pkt);
    report::count(&pkt, Hook::FromPod, verdict);
    report::count_endpoint_tx(slot, len_bytes, verdict);
    act(verdict)
}

/// TC egress on a network's gateway device: every packet the host sends to a pod.
#[classifier]
pub fn from_host(ctx: TcContext) -> i32 {
    let mut pkt = Packet::new(ctx);
    let verdict = path::from_host::run(&mut pkt);
    report::count(&pkt, Hook::FromHost, verdict);
    act(verdict)
}

/// TC ingress on an uplink: every packet from the LAN.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let mut pkt = Packet::new(ctx);
    let verdict = path::from_uplink::run::<ETH_LEN>(&mut pkt);
    report::count(&pkt, Hook::FromUplink, verdict);
    act(verdict)
}

/// TC ingress on an uplink without a link layer, such as a tunnel: every packet from the LAN.
#[classifier]
pub fn from_uplink_l3(ctx: TcContext) -> i32 {
    let mut pkt = Packet::new(ctx);
    let verdict = path::from_uplink::run::<0>(&mut pkt);
    report::count(&pkt, Hook::FromUplinkL3, verdict);
    act(verdict)
}

/// Run by user space over keys of the flow table; returns how many entries it took out or changed.
#[classifier]
pub fn sweep(ctx: TcContext) -> i32 {
    path::sweep::run(&Packet::new(ctx)) as i32
}

/// `connect` of an IPv4 socket of any process of the machine.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    host_socket::aim::<Inet4>(&Socket::new(ctx))
}

/// `connect` of an IPv6 socket, which may be to IPv4.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let socket = Socket::new(ctx);
    if socket.is_mapped() { host_socket::aim::<Mapped4>(&socket) } else { host_socket::aim::<Inet6>(&socket) }
}

/// A datagram with a destination of its own, to IPv4, from a socket of either family.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    host_socket::aim::<Inet4>(&Socket::new(ctx))
}

/// A datagram with a destination of its own, to IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    host_socket::aim::<Inet6>(&Socket::new(ctx))
}

/// The sender of a datagram, as an IPv4 socket shall see it.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    host_socket::name_peer::<Inet4>(&Socket::new(ctx))
}

/// The sender of a datagram, as an IPv6 socket shall see it.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    let socket = Socket::new(ctx);
    if socket.is_mapped() {
        host_socket::name_peer::<Mapped4>(&socket)
    } else {
        host_socket::name_peer::<Inet6>(&socket)
    }
}

/// `getpeername` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    host_socket::name_peer::<Inet4>(&Socket::new(ctx))
}

/// `getpeername` of an IPv6 socket, whose peer may be IPv4.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    let socket = Socket::new(ctx);
    if socket.is_mapped() {
        host_socket::name_peer::<Mapped4>(&socket)
    } else {
        host_socket::name_peer::<Inet6>(&socket)
    }
}

/// `bind` of an IPv4 socket.
#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    host_socket::bind::<Inet4>(&Socket::new(ctx))
}

/// `bind` of an IPv6 socket, which may be to an IPv4 address.
#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    let socket = Socket::new(ctx);
    if socket.is_mapped() { host_socket::bind::<Mapped4>(&socket) } else { host_socket::bind::<Inet6>(&socket) }
}

/// Does what the verdict says.
#[inline(always)]
fn act(verdict: Verdict) -> i32 {
    let ifindex = verdict.ifindex();
    match verdict.kind() {
        // "Continue": the programs after ours on the hook run too, then the stack.
        Kind::Pass => TC_ACT_UNSPEC,
        Kind::Peer => packet::redirect_peer(ifindex),
        Kind::Neigh => packet::redirect_neigh(ifindex),
        Kind::Host | Kind::RejectHost => packet::redirect(ifindex, BPF_F_INGRESS as u64),
        Kind::Out | Kind::Reject => packet::redirect(ifindex, 0),
        // What was put aside is a copy.
        Kind::Drop | Kind::Held => TC_ACT_SHOT,
    }
}

/// Never reached: the programs have no panicking path, and the verifier would refuse the loop if one were left.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some of the helpers are for programs that declare a GPL-compatible licence only.
#[expect(unsafe_code, reason = "the loader finds the licence by section and symbol")]
// SAFETY: the section holds nothing else, and nothing else of the object is named like this.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
