//! Answers ARP with the gateway's MAC: the gateway is the one neighbour every pod has, so no entry of a pod's neighbour
//! table ever names another pod, goes stale or can be forged.
//!
//! It answers for every address of the subnet, so a packet to one nobody has comes here and is told so at once, instead of
//! waiting for the sender's kernel to give up.

use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::family::{Family, V4};
use netns_ebpf_common::hdr::{Frame, arp};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::plain::Plain;
use netns_ebpf_common::verdict::{DropReason, Verdict};
use netns_ebpf_common::{Addr4, Mac};

use crate::packet::Packet;
use crate::path::out_of_line;
use crate::rewrite::{self, L3_OFF};

/// Turns a pod's request into the answer and sends it back.
///
/// Anything but a request that names the pod as its sender is dropped: announcements, answers, probes (RFC 5227) and
/// requests in somebody else's name.
#[inline(never)]
pub fn run(pkt: &mut Packet, endpoint: &Endpoint, network: &Network) -> Verdict {
    out_of_line(|| {
        let start: [u8; 8] = field(pkt, arp::START_OFF)?;
        let sender_mac: Mac = field(pkt, arp::SENDER_MAC_OFF)?;
        let sender: Addr4 = field(pkt, arp::SENDER_ADDR_OFF)?;
        let target: Addr4 = field(pkt, arp::TARGET_ADDR_OFF)?;
        let [.., operation] = start;
        if start[..7] != arp::REQUEST[..7] {
            return Err(DropReason::Malformed);
        }
        if operation != arp::REQUEST[7]
            || sender_mac != endpoint.mac
            || sender != endpoint.addr4
            || sender == Addr4::UNSPECIFIED
            || target == sender
        {
            return Err(DropReason::ArpSpoof);
        }
        if !V4::in_subnet(network, &target) {
            return Err(DropReason::UnknownNeighbour);
        }
        pkt.write(L3_OFF + arp::START_OFF, arp::REPLY)?;
        pkt.write(L3_OFF + arp::SENDER_MAC_OFF, network.mac)?;
        pkt.write(L3_OFF + arp::SENDER_ADDR_OFF, target)?;
        pkt.write(L3_OFF + arp::TARGET_MAC_OFF, endpoint.mac)?;
        pkt.write(L3_OFF + arp::TARGET_ADDR_OFF, sender)?;
        rewrite::link_layer(pkt, endpoint.mac, network.mac)?;
        Ok(Verdict::out(endpoint.ifindex))
    })
}

/// A field of the packet.
#[inline(always)]
fn field<T: Plain>(pkt: &Packet, off: usize) -> Result<T, DropReason> {
    pkt.read(L3_OFF + off).ok_or(DropReason::Malformed)
}
