//! TC egress on a network's gateway device: the host's own packets to its pods.

use netns_ebpf_common::area::lan_area;
use netns_ebpf_common::family::{Family, Scope, V4, V6};
use netns_ebpf_common::hdr::Frame;
use netns_ebpf_common::hdr::eth::{EthHdr, ethertype};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::{DropReason, Verdict};

use crate::maps::{self, FamilyMaps};
use crate::packet::{Packet, USUAL_HEADERS_BYTES};
use crate::path::out_of_line;
use crate::report;
use crate::rewrite;
use crate::stage::icmp_error::{self, Answer, ErrorFormat, Problem};
use crate::stage::{deliver, parse};

/// Runs the hook.
#[inline(always)]
pub fn run(pkt: &mut Packet) -> Verdict {
    link_layer(pkt).unwrap_or_else(Verdict::drop)
}

/// What there is to do below IP.
#[inline(always)]
fn link_layer(pkt: &mut Packet) -> Result<Verdict, DropReason> {
    let (id, network) = maps::network_by_gateway(pkt.ifindex()).ok_or(DropReason::NoEndpoint)?;
    // 1. The packet is the host's own. One that forwards (another tool turned it on) must not become a way around the published ports.
    if pkt.ingress_ifindex() != 0 {
        return Err(DropReason::NotFromHost);
    }
    pkt.pull(USUAL_HEADERS_BYTES)?;
    let eth: EthHdr = pkt.read(0).ok_or(DropReason::Malformed)?;

    // 2. The EtherType picks the family.
    match eth.ethertype() {
        ethertype::IPV4 => Ok(internet::<V4>(pkt, id, network)),
        ethertype::IPV6 => Ok(internet::<V6>(pkt, id, network)),
        _ => Err(DropReason::UnknownEtherType),
    }
}

/// The way of an IP packet.
#[inline(never)]
fn internet<F: FamilyMaps + ErrorFormat>(pkt: &mut Packet, id: u32, network: &Network) -> Verdict {
    out_of_line(|| {
        // 3. The packet is taken apart.
        let p = parse::run::<F>(pkt)?;
        if !matches!(F::scope(&p.tuple.dst), Scope::Unicast) {
            return Err(DropReason::Multicast);
        }

        // 4. The pod is found by its address.
        let live = match maps::slot_by_addr::<F>(id, p.tuple.dst) {
            Some(slot) => maps::endpoint(slot).map(|e| (slot, e)),
            None => None,
        };
        let Some((slot, endpoint)) = live else {
            return Ok(reject::<F>(pkt, network, p, Problem::HOST_UNREACHABLE));
        };

        // 5. The packet fits. The hop limit stays: the host is the sender.
        if !deliver::fits(pkt, p, endpoint.mtu_bytes) {
            report::count_endpoint_rx_drop(slot);
            return Ok(reject::<F>(pkt, network, p, Problem::too_big(endpoint.mtu_bytes)));
        }

        // 6. It goes out by the pod's host veth.
        rewrite::link_layer(pkt, endpoint.mac, network.mac)?;
        report::count_endpoint_rx(slot, pkt.len_bytes());
        Ok(Verdict::out(endpoint.ifindex))
    })
}

/// Drops the packet and tells the host's socket, in the name of the address it asked for: one of the host's own as
/// the source would be refused as a martian.
#[inline(never)]
fn reject<F: ErrorFormat>(
    pkt: &mut Packet,
    network: &Network,
    p: &Parsed<<F as Family>::Addr>,
    problem: Problem,
) -> Verdict {
    out_of_line(|| {
        let area = lan_area(&p.tuple.src);
        let answer = Answer { problem, area, src: &p.tuple.dst, dst_mac: network.mac, src_mac: network.mac };
        icmp_error::replace::<F>(pkt, p, &answer)?;
        Ok(Verdict::reject_host(problem.reason(), network.gateway_ifindex))
    })
}
