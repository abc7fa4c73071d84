//! Answers echo requests to a gateway whose network does not reach the host.

use netns_ebpf_common::csum::Sum;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::Family;
use netns_ebpf_common::hdr::Frame;
use netns_ebpf_common::hdr::icmp::{self, IcmpHdr};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::{DropReason, Verdict};

use crate::csum::ZeroCsum;
use crate::packet::Packet;
use crate::rewrite::{self, L3_OFF};

/// Turns the request into its reply.
///
/// Swapping the addresses changes no checksum, as ones'-complement addition does not care about order.
#[inline(always)]
pub fn run<F: Family>(
    pkt: &mut Packet,
    endpoint: &Endpoint,
    network: &Network,
    p: &Parsed<F::Addr>,
) -> Result<Verdict, DropReason> {
    let request: IcmpHdr = pkt.read(p.l4_off()).ok_or(DropReason::Malformed)?;
    let diff = Sum::default().sub([request.kind, request.code]).add([F::ECHO_REPLY, 0]);
    pkt.l4_csum_replace(p.l4_off() + icmp::CSUM_OFF, diff, false, false, ZeroCsum::Never)?;
    pkt.write(p.l4_off(), [F::ECHO_REPLY, 0])?;
    pkt.write(L3_OFF + F::SRC_OFF, p.tuple.dst)?;
    pkt.write(L3_OFF + F::SRC_OFF + size_of::<F::Addr>(), p.tuple.src)?;
    rewrite::link_layer(pkt, endpoint.mac, network.mac)?;
    Ok(Verdict::out(endpoint.ifindex))
}
