//! Addresses of interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};

use super::{Netlink, NetlinkError, Request, family};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of its interface.
    pub index: u32,
    /// The address itself with the length of its prefix; on a point-to-point link our end, not the peer's.
    pub net: IpNet,
    /// Global scope: neither link-local nor host-local.
    pub global: bool,
    /// A secondary (IPv4) or temporary (IPv6) one: no good as a source others remember.
    pub secondary: bool,
    /// Usable as a source: neither tentative, nor failed in duplicate detection, nor deprecated.
    pub usable: bool,
}

/// How an address is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressOptions {
    /// Skip duplicate-address detection: an IPv6 address is usable at once.
    pub nodad: bool,
    /// Make no route for the prefix.
    pub noprefixroute: bool,
}

impl Address {
    /// The address without its prefix.
    pub fn addr(&self) -> IpAddr {
        self.net.addr()
    }

    fn from_message(message: &AddressMessage) -> Option<Self> {
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        let (mut local, mut address) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(a) => local = Some(*a),
                AddressAttribute::Address(a) => address = Some(*a),
                AddressAttribute::Flags(f) => flags = *f,
                _ => {}
            }
        }
        let bad = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
        Some(Self {
            index: message.header.index,
            net: IpNet::new(local.or(address)?, message.header.prefix_len).ok()?,
            global: message.header.scope == AddressScope::Universe,
            secondary: flags.contains(AddressFlags::Secondary),
            usable: !flags.intersects(bad) || flags.contains(AddressFlags::Optimistic),
        })
    }
}

/// What adding and deleting an address have in common.
fn message(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    message.header.family = family(net.addr());
    message.attributes = vec![AddressAttribute::Address(net.addr()), AddressAttribute::Local(net.addr())];
    if let IpNet::V4(net) = net
        && net.prefix_len() < 31
    {
        message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
    }
    message
}

impl Request {
    /// Gives the interface `index` the address of `net` with its prefix length.
    pub fn add_address(index: u32, net: IpNet, options: AddressOptions) -> Self {
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Nodad, options.nodad);
        flags.set(AddressFlags::Noprefixroute, options.noprefixroute);
        let mut message = message(index, net);
        // The header has room for the low 8 bits only; the attribute, where present, counts.
        message.header.flags = AddressHeaderFlags::from_bits_truncate((flags.bits() & 0xff) as u8);
        message.attributes.push(AddressAttribute::Flags(flags));
        let what = format!("add address {net} to interface {index}");
        Self::new(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewAddress(message))
    }

    /// Takes an address from the interface `index`.
    pub fn delete_address(index: u32, net: IpNet) -> Self {
        let what = format!("delete address {net} of interface {index}");
        Self::new(what, 0, RouteNetlinkMessage::DelAddress(message(index, net)))
    }
}

impl Netlink {
    /// All addresses, or those of the interface `index`, in the kernel's order (an interface's primary ones first).
    pub fn addresses(&self, index: Option<u32>) -> Result<Vec<Address>, NetlinkError> {
        let mut request = AddressMessage::default();
        // The kernel's filter; 0 is none.
        request.header.index = index.unwrap_or(0);
        let found = self.dump("list addresses", &RouteNetlinkMessage::GetAddress(request))?;
        let addresses = found.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(message) => Address::from_message(message),
            _ => None,
        });
        Ok(addresses.filter(|a| index.is_none_or(|i| a.index == i)).collect())
    }

    /// [`Request::add_address`].
    pub fn add_address(&self, index: u32, net: IpNet, options: AddressOptions) -> Result<(), NetlinkError> {
        self.request(Request::add_address(index, net, options))
    }
}
