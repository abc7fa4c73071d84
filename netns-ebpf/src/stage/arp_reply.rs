//! Answers ARP with the gateway's MAC: the gateway is the one neighbour every pod has, so no entry of a pod's neighbour
//! table ever names another pod, goes stale or can be forged.
//!
//! It answers for every address of the subnet, so a packet to one nobody has comes here and is told so at once, instead of
//! waiting for the sender's kernel to give up.

use netns_ebpf_common::Addr4;
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Family, V4};
use netns_ebpf_common::hdr::Frame;
use netns_ebpf_common::hdr::arp::{self, ArpPacket};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::verdict::{DropReason, Verdict};

use crate::packet::Packet;
use crate::path::settle;
use crate::rewrite::{self, L3_OFF};

/// Turns a pod's request into the answer and sends it back.
///
/// Anything but a request that names the pod as its sender is dropped: announcements, answers, probes (RFC 5227) and
/// requests in somebody else's name.
#[inline(never)]
pub fn run(pkt: &mut Packet, endpoint: &Endpoint, network: &Network) -> Verdict {
    settle(|| {
        let request: ArpPacket = pkt.read(L3_OFF).ok_or(DropReason::Malformed)?;
        if request.kind != ArpPacket::ETHERNET_IPV4 {
            return Err(DropReason::Malformed);
        }
        let sender = Addr4(request.sender_addr);
        let target = Addr4(request.target_addr);
        if request.operation() != arp::REQUEST
            || request.sender_mac != endpoint.mac
            || sender != endpoint.addr4
            || sender == Addr4::UNSPECIFIED
            || target == sender
        {
            return Err(DropReason::ArpSpoof);
        }
        if !V4::in_subnet(network, &target) {
            return Err(DropReason::UnknownNeighbour);
        }
        pkt.write(L3_OFF, ArpPacket::new(arp::REPLY, network.mac, target, endpoint.mac, sender))?;
        rewrite::link_layer(pkt, endpoint.mac, network.mac)?;
        Ok(Verdict::out(endpoint.ifindex))
    })
}
