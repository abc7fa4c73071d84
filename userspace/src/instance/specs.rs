//! Rows of the store as what the wiring is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::datapath::PublishPorts;
use crate::store::{AttachmentRow, BackendRow, NetworkRow, PublishRow, State};
use crate::topology::{Affinity, Behaviour, gateway};
use crate::wiring::{BackendSpec, NetworkSpec, PublishSpec};

/// Ids are below `abi::MAX_NETWORKS`.
#[expect(clippy::cast_possible_truncation, reason = "network ids are at most 255")]
pub(super) const fn id16(id: u32) -> u16 {
    id as u16
}

pub(super) fn network_spec(row: &NetworkRow) -> NetworkSpec {
    let network = &row.network;
    let net4 = |n: Ipv4Net| match gateway(n.into()) {
        IpAddr::V4(a) => Ipv4Net::new(a, n.prefix_len()).ok(),
        IpAddr::V6(_) => None,
    };
    let net6 = |n: Ipv6Net| match gateway(n.into()) {
        IpAddr::V6(a) => Ipv6Net::new(a, n.prefix_len()).ok(),
        IpAddr::V4(_) => None,
    };
    NetworkSpec {
        id: id16(row.id),
        gateway4: network.subnet4().and_then(net4),
        gateway6: network.subnet6().and_then(net6),
        mtu_bytes: row.mtu_bytes,
        masquerade: network.masquerade,
        snat_addresses: network.snat_address.clone(),
        endpoint_independent: network.mapping == Behaviour::EndpointIndependent,
        open_to_all: network.filtering == Behaviour::EndpointIndependent,
        host_access: row.host_access,
        no_masquerade: network.no_masquerade.clone(),
    }
}

/// The network as an interface in a pod knows it: with the prefixes that one was given.
pub(super) fn network_spec_of(row: &AttachmentRow, network: &NetworkRow) -> NetworkSpec {
    let spec = network_spec(network);
    let [four, six] = row.prefix_bits;
    let known4 = spec.gateway4.map(|n| Ipv4Net::new(n.addr(), four.unwrap_or(n.prefix_len())).unwrap_or(n));
    let known6 = spec.gateway6.map(|n| Ipv6Net::new(n.addr(), six.unwrap_or(n.prefix_len())).unwrap_or(n));
    NetworkSpec { gateway4: known4, gateway6: known6, ..spec }
}

pub(super) fn publish_specs(rows: &[PublishRow], all: &State) -> Vec<PublishSpec> {
    rows.iter().map(|row| publish_spec(row, all)).collect()
}

pub(super) fn publish_spec(row: &PublishRow, all: &State) -> PublishSpec {
    let publish = &row.publish;
    let of = |b: &BackendRow| all.attachment(b.attachment).map(|a| (*b, a));
    let backends: Vec<(BackendRow, &AttachmentRow)> = row.backends.iter().filter_map(of).collect();
    // Of "any address, both families" only the families the pods have: the host's own sockets keep the other.
    let families = backends.first().map(|(_, a)| (a.addr4.is_some(), a.addr6.is_some()));
    let addr = match (publish.address, families) {
        (None, Some((true, false))) => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        (None, Some((false, true))) => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        (address, _) => address,
    };
    PublishSpec {
        id: row.index,
        owner: row.id,
        backends: backends
            .iter()
            .map(|(b, a)| BackendSpec {
                slot: a.slot,
                name: all.pod_name(a.id).to_owned(),
                weight: b.weight,
                open: !b.draining,
            })
            .collect(),
        sticky: row.affinity == Affinity::Client,
        allow: row.allow.clone(),
        active: !row.draining,
        loopback: publish.is_loopback(),
        ports: PublishPorts {
            addr,
            proto: publish.proto.number(),
            host_first: publish.host_ports.start(),
            pod_first: publish.pod_ports.start(),
            #[expect(clippy::cast_possible_truncation, reason = "without port 0 there are at most 65535")]
            count: publish.host_ports.len() as u16,
        },
    }
}
