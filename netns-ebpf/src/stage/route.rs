//! The way out: the kernel's own routes decide, asked once per flow.

use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS};
use netns_ebpf_common::family::{Address, Family};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::Parsed;

use crate::maps;
use crate::packet::Packet;

/// The device the host's routes send a packet of a network out of; 0 if there is none.
///
/// The look-up is made as for a packet that came in by the gateway device, the only one with forwarding on
/// (`bpf_fib_lookup` asks for it, whatever the global `ip_forward` says).
#[inline(never)]
pub fn ifindex<F: Family>(pkt: &Packet, network: &Network, p: &Parsed<F::Addr>) -> u32 {
    let Some(params) = maps::fib_params() else { return 0 };
    params.family = F::AF;
    params.l4_protocol = p.proto;
    params.sport = 0;
    params.dport = 0;
    params.ifindex = network.gateway_ifindex;
    params.__bindgen_anon_1.tot_len = 0;
    params.__bindgen_anon_2.flowinfo = 0;
    params.__bindgen_anon_3.ipv6_src = words(&p.tuple.src);
    params.__bindgen_anon_4.ipv6_dst = words(&p.tuple.dst);
    params.__bindgen_anon_5.tbid = 0;
    // A missing neighbour is found later, by the redirect itself; too big is judged against the uplink's MTU.
    let usable = [BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_FRAG_NEEDED];
    let ret = pkt.fib_lookup(params, 0) as u32;
    if usable.contains(&ret) { params.ifindex } else { 0 }
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
