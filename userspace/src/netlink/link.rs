//! Interfaces.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netns_ebpf_common::Mac;

use super::{Netlink, NetlinkError, Nsid, Request, settings};
use crate::netns::Netns;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Link-layer address; `None` for a device without Ethernet addresses.
    pub mac: Option<Mac>,
    /// Largest IP packet.
    pub mtu_bytes: u32,
    /// Administratively up.
    pub up: bool,
    /// Has carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Sends (`IFF_RUNNING`): the kernel has acted on the carrier, which it does in its own time.
    pub running: bool,
    /// Does not resolve neighbours (`IFF_NOARP`).
    pub noarp: bool,
    /// Index of the peer, when the peer is in the same namespace or one this namespace has an id for.
    pub peer_index: Option<u32>,
    /// The id of the peer's namespace; `None`: this one.
    pub peer_netns: Option<Nsid>,
    /// Index of the device it is a port of: a bridge, a bond.
    pub master: Option<u32>,
    /// Kind as the kernel names it (`veth`, `bridge`, ...); `None` for a physical device.
    pub kind: Option<String>,
    /// Whether frames have an Ethernet header.
    pub ethernet: bool,
    /// Whether there is no link layer: packets begin with the IP header (tunnels, point-to-point links).
    pub bare_ip: bool,
    /// The loopback interface.
    pub loopback: bool,
    /// Number of the group it is in; 0 unless somebody has put it into another.
    pub group: u32,
    /// Some of its settings, by family and name: `ipv4/forwarding`. Those of a family that is off are absent.
    pub settings: BTreeMap<&'static str, i32>,
}

/// One end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethEnd {
    /// Name, at most 15 bytes.
    pub name: String,
    /// Index, or `None` to let the kernel choose.
    pub index: Option<u32>,
    /// Explicit, or udev rewrites it later and breaks the neighbours' caches.
    pub mac: Mac,
    /// Do not resolve neighbours.
    pub noarp: bool,
    /// The group it is made in; 0 for none of its own.
    pub group: u32,
}

/// A veth pair to make.
#[derive(Clone, Copy, Debug)]
pub struct VethPair<'a> {
    /// The end in the socket's namespace.
    pub here: &'a VethEnd,
    /// The other end.
    pub peer: &'a VethEnd,
    /// Where the other end is to be; `None`: in the socket's namespace.
    pub peer_netns: Option<&'a Netns>,
    /// MTU of both ends.
    pub mtu_bytes: u32,
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu_bytes: 0,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            running: flags.contains(LinkFlags::Running),
            noarp: flags.contains(LinkFlags::Noarp),
            peer_index: None,
            peer_netns: None,
            master: None,
            kind: None,
            ethernet: matches!(message.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback),
            bare_ip: matches!(
                message.header.link_layer_type,
                LinkLayerType::None
                    | LinkLayerType::Rawip
                    | LinkLayerType::Ppp
                    | LinkLayerType::Tunnel
                    | LinkLayerType::Tunnel6
                    | LinkLayerType::Sit
                    | LinkLayerType::Ipgre
                    | LinkLayerType::Ip6gre
            ),
            loopback: flags.contains(LinkFlags::Loopback),
            group: 0,
            settings: BTreeMap::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu_bytes = *mtu,
                LinkAttribute::Link(index) => link.peer_index = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(*id),
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::Group(group) => link.group = *group,
                LinkAttribute::AfSpecUnspec(families) => link.settings = settings::read(families),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            link.kind = Some(kind.to_string());
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

fn end(end: &VethEnd, mtu_bytes: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = end.index.unwrap_or(0);
    if end.noarp {
        message.header.flags |= LinkFlags::Noarp;
        message.header.change_mask |= LinkFlags::Noarp;
    }
    message.attributes = vec![
        LinkAttribute::IfName(end.name.clone()),
        LinkAttribute::Address(end.mac.0.to_vec()),
        LinkAttribute::Mtu(mtu_bytes),
        LinkAttribute::Group(end.group),
    ];
    message
}

/// The question for interfaces; their counters are left out, which take the kernel most of the time.
fn question() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

impl Request {
    /// Makes a veth pair, each end in its final place with its final name, address and index: one message, so it is
    /// there as a whole or not at all, and nothing sees an interface move or change its name.
    ///
    /// [`NetlinkError::Exists`] when a name or an index is taken at either end.
    pub fn create_veth(pair: &VethPair<'_>) -> Self {
        let mut peer = end(pair.peer, pair.mtu_bytes);
        if let Some(netns) = pair.peer_netns {
            peer.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        }
        let mut here = end(pair.here, pair.mtu_bytes);
        here.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let what = format!("create interface pair {:?} and {:?}", pair.here.name, pair.peer.name);
        Self::new(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(here))
    }

    /// Sets an interface up or down.
    pub fn set_up(index: u32, up: bool) -> Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags.set(LinkFlags::Up, up);
        message.header.change_mask = LinkFlags::Up;
        let what = format!("set interface {index} {}", if up { "up" } else { "down" });
        Self::new(what, 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Has an interface resolve neighbours, or not.
    pub fn set_noarp(index: u32, noarp: bool) -> Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags.set(LinkFlags::Noarp, noarp);
        message.header.change_mask = LinkFlags::Noarp;
        let what = format!("have interface {index} {} neighbours", if noarp { "not resolve" } else { "resolve" });
        Self::new(what, 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Takes an interface from the device it is a port of.
    pub fn release(index: u32) -> Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Controller(0));
        Self::new(format!("release interface {index}"), 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Puts an interface into a group.
    pub fn set_group(index: u32, group: u32) -> Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Group(group));
        Self::new(format!("put interface {index} into a group"), 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Deletes all interfaces of a group, which takes the kernel no longer than one.
    pub fn delete_group(group: u32) -> Self {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(group));
        Self::new("delete a group of interfaces".to_owned(), 0, RouteNetlinkMessage::DelLink(message))
    }

    /// Gives an interface another name.
    pub fn rename(index: u32, name: &str) -> Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        Self::new(format!("call interface {index} {name:?}"), 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Gives an interface another link-layer address.
    pub fn set_mac(index: u32, mac: Mac) -> Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        Self::new(
            format!("set link-layer address {mac} on interface {index}"),
            0,
            RouteNetlinkMessage::SetLink(message),
        )
    }

    /// Sets an interface's MTU, in bytes.
    pub fn set_mtu(index: u32, mtu_bytes: u32) -> Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu_bytes));
        let what = format!("set MTU {mtu_bytes} on interface {index}");
        Self::new(what, 0, RouteNetlinkMessage::SetLink(message))
    }
}

impl Netlink {
    /// All interfaces.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let found = self.dump("list interfaces", &RouteNetlinkMessage::GetLink(question()))?;
        Ok(found.iter().filter_map(link).collect())
    }

    /// The interface of that name.
    pub fn link_by_name(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        // The kernel answers "numerical result out of range" to a longer one.
        if name.is_empty() || name.len() > 15 {
            return Ok(None);
        }
        let mut message = question();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(message, || format!("find interface {name:?}"))
    }

    /// The interface of that index.
    pub fn link_by_index(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut message = question();
        message.header.index = index;
        self.one_link(message, || format!("find interface {index}"))
    }

    fn one_link(&self, message: LinkMessage, what: impl Fn() -> String) -> Result<Option<Link>, NetlinkError> {
        match self.get(what, RouteNetlinkMessage::GetLink(message)) {
            Ok(message) => Ok(link(&message)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// [`Request::create_veth`].
    pub fn create_veth(&self, pair: &VethPair<'_>) -> Result<(), NetlinkError> {
        self.request(Request::create_veth(pair))
    }

    /// [`Request::set_up`].
    pub fn set_up(&self, index: u32, up: bool) -> Result<(), NetlinkError> {
        self.request(Request::set_up(index, up))
    }

    /// [`Request::set_mtu`].
    pub fn set_mtu(&self, index: u32, mtu_bytes: u32) -> Result<(), NetlinkError> {
        self.request(Request::set_mtu(index, mtu_bytes))
    }

    /// Deletes an interface, provided it has this name: an index alone may by now be somebody else's.
    ///
    /// `false`: there was none.
    pub fn delete_link(&self, index: u32, name: &str) -> Result<bool, NetlinkError> {
        let Some(link) = self.link_by_index(index)? else { return Ok(false) };
        if link.name != name {
            return Err(NetlinkError::NotOurs { index, expected: name.to_owned(), found: link.name });
        }
        let mut message = LinkMessage::default();
        message.header.index = index;
        let what = format!("delete interface {name:?}");
        match self.request(Request::new(what, 0, RouteNetlinkMessage::DelLink(message))) {
            Ok(()) => Ok(true),
            Err(e) if e.is_absent() => Ok(false),
            Err(e) => Err(e),
        }
    }
}

fn link(message: &RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from(message)),
        _ => None,
    }
}
