//! The way out: the kernel's own routes decide, asked once per flow.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup, bpf_fib_lookup__bindgen_ty_1, bpf_fib_lookup__bindgen_ty_2, bpf_fib_lookup__bindgen_ty_3,
    bpf_fib_lookup__bindgen_ty_4, bpf_fib_lookup__bindgen_ty_5,
};
use netns_ebpf_common::family::{Address, Family};
use netns_ebpf_common::host::Uplink;
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::DropReason;

use crate::maps;
use crate::packet::Packet;

/// Where the host's routes send a packet of a network.
///
/// The look-up is made as for a packet that came in by the gateway device, the only one with forwarding on
/// (`bpf_fib_lookup` asks for it, whatever the global `ip_forward` says); a route through anything but an uplink is none.
#[inline(never)]
pub fn uplink<F: Family>(
    pkt: &Packet,
    network: &Network,
    p: &Parsed<F::Addr>,
) -> Result<(u32, &'static Uplink), DropReason> {
    let (src, dst) = (words(&p.tuple.src), words(&p.tuple.dst));
    let mut params = bpf_fib_lookup {
        family: F::AF,
        l4_protocol: p.proto,
        sport: 0,
        dport: 0,
        __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 { tot_len: 0 },
        ifindex: network.gateway_ifindex,
        __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 { flowinfo: 0 },
        __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 { ipv6_src: src },
        __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 { ipv6_dst: dst },
        __bindgen_anon_5: bpf_fib_lookup__bindgen_ty_5 { tbid: 0 },
        smac: [0; 6],
        dmac: [0; 6],
    };
    // A missing neighbour is found later, by the redirect itself; too big is judged against the uplink's MTU.
    let usable = [BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_FRAG_NEEDED];
    let ret = pkt.fib_lookup(&mut params, 0) as u32;
    if ret == BPF_FIB_LKUP_RET_PROHIBIT || !usable.contains(&ret) {
        return Err(DropReason::NoRoute);
    }
    let uplink = maps::uplink(params.ifindex).ok_or(DropReason::NoRoute)?;
    Ok((params.ifindex, uplink))
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
