//! The way out: the kernel's own routes decide, asked when a flow is opened.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
    BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE,
};
use netns_ebpf_common::family::{Address, Family};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::Parsed;

use crate::maps;
use crate::packet::Packet;

/// The device the host's routes send a packet of a network out of; 0 if there is none.
#[inline(never)]
pub fn ifindex<F: Family>(pkt: &Packet, network: &Network, p: &Parsed<F::Addr>) -> u32 {
    match look_up::<F>(pkt, network, p.proto, &p.tuple.src, &p.tuple.dst) {
        Way::Out(ifindex) => ifindex,
        Way::Host | Way::Nowhere | Way::Unknown => 0,
    }
}

/// Where the host's routes lead.
pub enum Way {
    /// Out of a device.
    Out(u32),
    /// To the host itself; or nowhere, as the kernel does not tell the two apart.
    Host,
    /// Nowhere, as a route says.
    Nowhere,
    /// The gateway device's forwarding is off, as when somebody has set `ip_forward` to 0 meanwhile: the kernel does not say.
    Unknown,
}

/// Asks the host's routes as for a packet that came in by the network's gateway device.
#[inline(always)]
pub fn look_up<F: Family>(pkt: &Packet, network: &Network, proto: u8, src: &F::Addr, dst: &F::Addr) -> Way {
    match ask::<F>(pkt, network, proto, src, dst) {
        // A missing neighbour is found later, by the redirect itself; too big is judged against the uplink's MTU.
        (BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED, ifindex) => {
            Way::Out(ifindex)
        }
        (BPF_FIB_LKUP_RET_NOT_FWDED, _) => Way::Host,
        (BPF_FIB_LKUP_RET_FWD_DISABLED, _) => Way::Unknown,
        _ => Way::Nowhere,
    }
}

/// Whether there is a way, and its next hop has no link-layer address at this moment: nobody has asked for it, or nobody answers.
#[inline(always)]
pub fn lacks_neighbour<F: Family>(pkt: &Packet, network: &Network, p: &Parsed<F::Addr>) -> bool {
    ask::<F>(pkt, network, p.proto, &p.tuple.src, &p.tuple.dst).0 == BPF_FIB_LKUP_RET_NO_NEIGH
}

/// Asks by the gateway device, the only one with forwarding on (`bpf_fib_lookup` asks for it, whatever the global `ip_forward`
/// says): what the kernel says, and the device of the way out.
#[inline(always)]
fn ask<F: Family>(pkt: &Packet, network: &Network, proto: u8, src: &F::Addr, dst: &F::Addr) -> (u32, u32) {
    let Some(params) = maps::fib_params() else { return (BPF_FIB_LKUP_RET_UNREACHABLE, 0) };
    params.family = F::AF;
    params.l4_protocol = proto;
    params.sport = 0;
    params.dport = 0;
    params.ifindex = network.gateway_ifindex;
    params.__bindgen_anon_1.tot_len = 0;
    params.__bindgen_anon_2.flowinfo = 0;
    params.__bindgen_anon_3.ipv6_src = words(src);
    params.__bindgen_anon_4.ipv6_dst = words(dst);
    params.__bindgen_anon_5.tbid = 0;
    let said = pkt.fib_lookup(params, 0) as u32;
    (said, params.ifindex)
}

#[inline(always)]
fn words<A: Address>(addr: &A) -> [u32; 4] {
    let mut words = [0; 4];
    let mut i = 0;
    while i < A::WORDS {
        words[i] = u32::from_ne_bytes(addr.word(i));
        i += 1;
    }
    words
}
