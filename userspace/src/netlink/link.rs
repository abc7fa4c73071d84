//! Interfaces.

use std::os::fd::AsRawFd;

use futures_util::TryStreamExt;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netns_ebpf_common::Mac;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{Netlink, NetlinkError};
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
    /// Kind as the kernel names it (`veth`, `bridge`, ...); `None` for a physical device.
    pub kind: Option<String>,
    /// Whether frames have an Ethernet header.
    pub ethernet: bool,
    /// Whether there is no link layer: packets begin with the IP header (tunnels, point-to-point links).
    pub bare_ip: bool,
    /// The loopback interface.
    pub loopback: bool,
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
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu_bytes = *mtu,
                LinkAttribute::Link(index) => link.peer_index = Some(*index),
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

fn end(builder: LinkMessageBuilder<LinkUnspec>, end: &VethEnd, mtu_bytes: u32) -> LinkMessage {
    let mut builder = builder.name(end.name.clone()).address(end.mac.0.to_vec()).mtu(mtu_bytes);
    if let Some(index) = end.index {
        builder = builder.index(index);
    }
    if end.noarp {
        builder = builder.arp(false);
    }
    builder.build()
}

impl Netlink {
    /// All interfaces.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let messages: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| NetlinkError::of("list interfaces", e))?;
        Ok(messages.iter().map(Link::from).collect())
    }

    /// The interface of that name.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        // The kernel answers "numerical result out of range" to a longer one.
        if name.is_empty() || name.len() > 15 {
            return Ok(None);
        }
        self.one_link(self.handle.link().get().match_name(name), format!("find interface {name:?}")).await
    }

    /// The interface of that index.
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.one_link(self.handle.link().get().match_index(index), format!("find interface {index}")).await
    }

    async fn one_link(&self, request: rtnetlink::LinkGetRequest, what: String) -> Result<Option<Link>, NetlinkError> {
        let answer = request.execute().try_next().await.map_err(|e| NetlinkError::of(what, e));
        match answer {
            Ok(message) => Ok(message.as_ref().map(Link::from)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a veth pair, each end in its final place with its final name, address and index: one message, so it is
    /// there as a whole or not at all, and nothing sees an interface move or change its name.
    ///
    /// [`NetlinkError::Exists`] when a name or an index is taken at either end.
    pub async fn create_veth(&self, pair: &VethPair<'_>) -> Result<(), NetlinkError> {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new();
        if let Some(netns) = pair.peer_netns {
            peer = peer.setns_by_fd(netns.as_raw_fd());
        }
        let peer = end(peer, pair.peer, pair.mtu_bytes);
        let mut here = end(LinkMessageBuilder::<LinkUnspec>::new(), pair.here, pair.mtu_bytes);
        here.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.handle.link().add(here).execute().await.map_err(|e| {
            NetlinkError::of(format!("create interface pair {:?} and {:?}", pair.here.name, pair.peer.name), e)
        })
    }

    /// Sets an interface up or down.
    pub async fn set_up(&self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let builder = LinkMessageBuilder::<LinkUnspec>::new().index(index);
        let message = if up { builder.up() } else { builder.down() }.build();
        let what = || format!("set interface {index} {}", if up { "up" } else { "down" });
        self.handle.link().change(message).execute().await.map_err(|e| NetlinkError::of(what(), e))
    }

    /// Sets an interface's MTU, in bytes.
    pub async fn set_mtu(&self, index: u32, mtu_bytes: u32) -> Result<(), NetlinkError> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).mtu(mtu_bytes).build();
        let what = || format!("set MTU {mtu_bytes} on interface {index}");
        self.handle.link().change(message).execute().await.map_err(|e| NetlinkError::of(what(), e))
    }

    /// Deletes an interface, provided it has this name: an index alone may by now be somebody else's.
    ///
    /// `false`: there was none.
    pub async fn delete_link(&self, index: u32, name: &str) -> Result<bool, NetlinkError> {
        let Some(link) = self.link_by_index(index).await? else { return Ok(false) };
        if link.name != name {
            return Err(NetlinkError::NotOurs { index, expected: name.to_owned(), found: link.name });
        }
        match self.handle.link().del(index).execute().await {
            Ok(()) => Ok(true),
            Err(e) => match NetlinkError::of(format!("delete interface {name:?}"), e) {
                e if e.is_absent() => Ok(false),
                e => Err(e),
            },
        }
    }
}
