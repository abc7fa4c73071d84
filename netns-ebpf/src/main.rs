//! The TC programs of netns: one file per hook in [`path`], one per step in [`stage`].
//!
//! The only place where a [`Verdict`] becomes an action of the kernel is [`act`] below.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the program macro exports an undocumented twin of each function")]

mod maps;
mod packet;
mod path;
mod report;
mod rewrite;
mod stage;

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use netns_ebpf_common::counters::Hook;
use netns_ebpf_common::verdict::{Kind, Verdict};

use crate::packet::Packet;

/// TC ingress on the host end of a pod's veth: every packet a pod sends.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let mut pkt = Packet::new(ctx);
    // Before the run: an answer in the packet's place has a length of its own.
    let len_bytes = pkt.len_bytes();
    let (verdict, slot) = path::from_pod::run(&mut pkt);
    report::count(Hook::FromPod, verdict);
    report::count_endpoint_tx(slot, len_bytes, verdict);
    act(verdict)
}

/// TC egress on a network's gateway device: every packet the host sends to a pod.
#[classifier]
pub fn from_host(ctx: TcContext) -> i32 {
    let verdict = path::from_host::run(&mut Packet::new(ctx));
    report::count(Hook::FromHost, verdict);
    act(verdict)
}

/// TC ingress on an uplink: every packet from the LAN.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let verdict = path::from_uplink::run(&mut Packet::new(ctx));
    report::count(Hook::FromUplink, verdict);
    act(verdict)
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
        Kind::Drop => TC_ACT_SHOT,
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
