//! What our devices are told from others by, and how they should be set.

use super::names::{IS_ANY_INSTANCES, device_group, gateway_peer_mac, is_gateway_mac};
use super::{Host, WiringError};
use crate::netlink::{Link, Netlink};
use crate::netns::Netns;
use crate::sysctl::{self, SysctlError};

/// Settings of the host end of a cable. Nothing reaches the host's own stack by it: it needs no address of its own. Should the
/// program go, whatever the pod sends ends there, and is not forwarded with any source it likes.
pub const HOST_END: [(&str, i32); 3] = [("ipv4/forwarding", 0), ("ipv4/rp_filter", 1), ("ipv6/disable_ipv6", 1)];

/// Settings of a network's gateway device, which has IPv6 or not.
pub fn gateway_settings(ipv6: bool) -> Vec<(&'static str, i32)> {
    let mut settings = vec![
        // Sources are checked by `from_pod`, exactly; the host's global setting may be stricter and then holds.
        ("ipv4/rp_filter", 0),
        ("ipv4/accept_redirects", 0),
        ("ipv4/send_redirects", 0),
        // Hosts that switch IPv6 off for devices to come mean the LAN's, not a network that is given IPv6 here.
        ("ipv6/disable_ipv6", i32::from(!ipv6)),
        ("ipv6/accept_ra", 0),
        ("ipv6/accept_redirects", 0),
        ("ipv4/forwarding", 1),
    ];
    if ipv6 {
        settings.push(("ipv6/forwarding", 1));
    }
    settings
}

/// Writes settings of an interface of the calling thread's namespace. A family that is switched off has none to write.
pub(super) fn write_device_settings(ifname: &str, settings: &[(&str, i32)]) -> Result<(), SysctlError> {
    for (key, value) in settings {
        let (family, name) = key.split_once('/').unwrap_or((key, ""));
        match sysctl::write(&format!("{family}/conf/{ifname}/{name}"), &value.to_string()) {
            Err(e) if e.is_absent() => tracing::debug!("{e}"),
            done => done?,
        }
    }
    Ok(())
}

impl Host {
    /// Whether a device is one we made for the host's side, by its kind and its link-layer address or the group it was made in:
    /// somebody may have changed one of these, and its name, which is nobody's own. Its index is for the caller to look at.
    pub fn is_ours(&self, link: &Link) -> bool {
        is_ours(&self.instance, link)
    }

    /// The pod's end of a cable among the interfaces of its namespace, whatever it is called by now; `None`: it is elsewhere.
    ///
    /// The kernel says in which namespace a cable's other end is, and which index it has there: nobody else's device is that.
    pub fn pods_end<'a>(
        &self,
        here: &Link,
        netns: &Netns,
        inside: &'a [Link],
    ) -> Result<Option<&'a Link>, WiringError> {
        let Some((index, id)) = here.peer_index.zip(here.peer_netns) else { return Ok(None) };
        if self.netlink.nsid_of(netns)? != Some(id) {
            return Ok(None);
        }
        Ok(inside.iter().find(|link| link.index == index && is_veth(link)))
    }

    /// The other end of a network's gateway device, among the interfaces of the host; `None`: it is elsewhere.
    pub fn gateways_end<'a>(&self, here: &Link, links: &'a [Link]) -> Option<&'a Link> {
        let index = here.peer_index.filter(|_| here.peer_netns.is_none())?;
        links.iter().find(|link| link.index == index && is_veth(link))
    }

    /// Whether a device is the other end of a network's gateway device, which may be elsewhere.
    pub(super) fn is_gateways_end(&self, link: &Link, network: u16) -> bool {
        is_veth(link) && link.mac == Some(gateway_peer_mac(&self.instance, network))
    }

    /// Refuses to make a device where another one has its name.
    pub(super) fn is_free(netlink: &Netlink, name: &str) -> Result<(), WiringError> {
        match netlink.link_by_name(name)? {
            Some(link) => Err(in_the_way(&link, name)),
            None => Ok(()),
        }
    }
}

/// [`Host::is_ours`], for an instance of this name.
pub fn is_ours(instance: &str, link: &Link) -> bool {
    is_veth(link) && (link.group == device_group(instance) || link.mac.is_some_and(|mac| is_gateway_mac(instance, mac)))
}

pub(super) fn is_veth(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
}

/// A device that has the index or the name of one of ours.
pub(super) fn in_the_way(link: &Link, wanted: &str) -> WiringError {
    WiringError::Taken {
        wanted: wanted.to_owned(),
        name: link.name.clone(),
        index: link.index,
        whose: whose(link.kind.as_deref(), link.group),
    }
}

/// What is known of a device that is not ours, in words.
pub fn whose(kind: Option<&str>, group: u32) -> String {
    let kind = kind.unwrap_or("physical device");
    let maker = if group & IS_ANY_INSTANCES == IS_ANY_INSTANCES { "another instance" } else { "somebody else" };
    format!("{kind}, made by {maker}")
}
