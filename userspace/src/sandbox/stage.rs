//! The namespaces the sandbox plays in: a host with an uplink, and a LAN at its other end.

use std::net::IpAddr;

use ipnet::IpNet;
use netns_ebpf_common::Mac;

use super::SandboxError;
use super::layout::{
    FAR, HOST, HOST_SECOND, HOST_UPLINK, LAN, LAN_IFNAME, LAN_PREFIX_LEN, ON_LAN, PODS_SUBNETS, ROUTER, UPLINK,
};
use super::record::Record;
use crate::check::{Family, Site};
use crate::netlink::{AddressOptions, Netlink, NetlinkError, RouteSpec, VethEnd, VethPair};
use crate::netns::{Netns, NetnsError, NetnsName};
use crate::sysctl;

/// MTU of the LAN, in bytes.
const LAN_MTU_BYTES: u32 = 1500;
/// Locally administered, and the same each time: a sandbox looks the same whenever it is looked at.
const UPLINK_MAC: Mac = Mac([0x02, 0x4e, 0x4e, 0x00, 0x00, 0x02]);
const LAN_MAC: Mac = Mac([0x02, 0x4e, 0x4e, 0x00, 0x00, 0x01]);

/// The two namespaces, wired. They stay when this is dropped: [`Stage::strike`] removes them.
#[derive(Debug)]
pub(super) struct Stage {
    record: Record,
    host: Netns,
}

impl Stage {
    /// Makes both namespaces and the cable between them; on failure nothing is left.
    pub(super) fn set(mut record: Record) -> Result<Self, SandboxError> {
        match Self::make(&mut record) {
            Ok(host) => Ok(Self { record, host }),
            Err(e) => {
                // The first error is the one to report; what is left after a failed removal is in the record.
                let _ = record.remove_all();
                Err(e)
            }
        }
    }

    fn make(record: &mut Record) -> Result<Netns, SandboxError> {
        let host = record.create(&name(HOST)?)?;
        let lan = record.create(&name(LAN)?)?;
        for netns in [&host, &lan] {
            // Link-local addresses are made by the kernel when a link comes up: without this they would be tentative
            // for a second, and the first packets of the sandbox late by that.
            for key in ["ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad"] {
                netns.run(|| sysctl::write(key, "0"))??;
            }
        }
        cable(&host, &lan)?;
        Ok(host)
    }

    /// The namespace that plays the host.
    pub(super) fn host(&self) -> &Netns {
        &self.host
    }

    /// Removes both namespaces.
    pub(super) fn strike(self) -> Result<(), SandboxError> {
        self.record.remove_all()
    }
}

pub(super) fn name(name: &str) -> Result<NetnsName, SandboxError> {
    Ok(NetnsName::new(name).map_err(NetnsError::from)?)
}

fn cable(host: &Netns, lan: &Netns) -> Result<(), NetlinkError> {
    let in_host = Netlink::in_netns(host)?;
    let in_lan = Netlink::in_netns(lan)?;
    let uplink = VethEnd { name: UPLINK.to_owned(), index: None, mac: UPLINK_MAC, noarp: false, group: 0 };
    let other = VethEnd { name: LAN_IFNAME.to_owned(), index: None, mac: LAN_MAC, noarp: false, group: 0 };
    let pair = VethPair { here: &uplink, peer: &other, peer_netns: Some(lan), mtu_bytes: LAN_MTU_BYTES };
    in_host.create_veth(&pair)?;

    let host_index = up(&in_host, UPLINK)?;
    let lan_index = up(&in_lan, LAN_IFNAME)?;
    let lan_lo = up(&in_lan, "lo")?;
    up(&in_host, "lo")?;

    // The kernel prefers the oldest IPv4 address and the newest IPv6 one as a source: in both it is to be the first.
    let [v4, v6] = LAN_PREFIX_LEN;
    for (site, family, prefix_len) in [
        (HOST_UPLINK, Family::V4, v4),
        (HOST_SECOND, Family::V4, v4),
        (HOST_SECOND, Family::V6, v6),
        (HOST_UPLINK, Family::V6, v6),
    ] {
        address(&in_host, host_index, site, family, prefix_len)?;
    }
    for site in ON_LAN {
        addresses(&in_lan, lan_index, site, LAN_PREFIX_LEN)?;
    }
    // Behind the router, which is the LAN's namespace itself: an address of its loopback needs no forwarding.
    addresses(&in_lan, lan_lo, FAR, [32, 128])?;

    for family in Family::ALL {
        in_host.add_route(&RouteSpec::default_via(ROUTER.ip(family), host_index))?;
    }
    // What the LAN's router is told where pods keep their address (`no_masquerade`), so that replies find back.
    for (subnet, prefix_len) in PODS_SUBNETS {
        let destination = net(subnet, prefix_len);
        let gateway = HOST_UPLINK.ip(if subnet.is_ipv4() { Family::V4 } else { Family::V6 });
        let route = RouteSpec { gateway: Some(gateway), ..RouteSpec::connected(destination, lan_index) };
        in_lan.add_route(&route)?;
    }
    Ok(())
}

/// Sets a link up and returns its index.
fn up(netlink: &Netlink, ifname: &str) -> Result<u32, NetlinkError> {
    let absent = || NetlinkError::Absent { what: format!("set {ifname} up") };
    let index = netlink.link_by_name(ifname)?.ok_or_else(absent)?.index;
    netlink.set_up(index, true)?;
    Ok(index)
}

fn addresses(netlink: &Netlink, index: u32, site: Site, prefix_len: [u8; 2]) -> Result<(), NetlinkError> {
    for (family, prefix_len) in Family::ALL.into_iter().zip(prefix_len) {
        address(netlink, index, site, family, prefix_len)?;
    }
    Ok(())
}

fn address(netlink: &Netlink, index: u32, site: Site, family: Family, prefix_len: u8) -> Result<(), NetlinkError> {
    let options = AddressOptions { nodad: family == Family::V6, noprefixroute: false };
    netlink.add_address(index, net(site.ip(family), prefix_len), options)
}

fn net(address: IpAddr, prefix_len: u8) -> IpNet {
    // Only constants of `layout` come here; a length that is none becomes that of the single address.
    IpNet::new(address, prefix_len).unwrap_or_else(|_| IpNet::from(address))
}
