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
use netns_ebpf_common::verdict::Verdict;

use crate::packet::Packet;

/// TC ingress on the host end of a pod's veth: every packet a pod sends.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let mut pkt = Packet::new(ctx);
    let (verdict, slot) = path::from_pod::run(&mut pkt);
    report::count(Hook::FromPod, verdict);
    report::count_endpoint_tx(slot, pkt.len_bytes(), verdict);
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
    match verdict {
        // "Continue": the programs after ours on the hook run too, then the stack.
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Peer(ifindex) => packet::redirect_peer(ifindex),
        Verdict::Neigh(ifindex) => packet::redirect_neigh(ifindex),
        Verdict::Host(ifindex) | Verdict::RejectHost(_, ifindex) => packet::redirect(ifindex, BPF_F_INGRESS as u64),
        Verdict::Out(ifindex) | Verdict::Reject(_, ifindex) => packet::redirect(ifindex, 0),
        Verdict::Drop(_) => TC_ACT_SHOT,
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
