//! Addresses of interfaces.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};

use super::{Netlink, NetlinkError};

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

impl Netlink {
    /// All addresses, or those of the interface `index`, in the kernel's order (an interface's primary ones first).
    pub async fn addresses(&self, index: Option<u32>) -> Result<Vec<Address>, NetlinkError> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| NetlinkError::of("list addresses", e))?;
        Ok(messages.iter().filter_map(Address::from_message).filter(|a| index.is_none_or(|i| a.index == i)).collect())
    }

    /// Gives the interface `index` the address of `net` with its prefix length.
    pub async fn add_address(&self, index: u32, net: IpNet, options: AddressOptions) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(index, net.addr(), net.prefix_len());
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Nodad, options.nodad);
        flags.set(AddressFlags::Noprefixroute, options.noprefixroute);
        let message = request.message_mut();
        // The header has room for the low 8 bits only; the attribute, where present, counts.
        message.header.flags = AddressHeaderFlags::from_bits_truncate((flags.bits() & 0xff) as u8);
        message.attributes.push(AddressAttribute::Flags(flags));
        request.execute().await.map_err(|e| NetlinkError::of(format!("add address {net} to interface {index}"), e))
    }

    /// Takes an address from the interface `index`.
    pub async fn delete_address(&self, index: u32, net: IpNet) -> Result<(), NetlinkError> {
        let message = self.handle.address().add(index, net.addr(), net.prefix_len()).message_mut().clone();
        self.handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(|e| NetlinkError::of(format!("delete address {net} of interface {index}"), e))
    }
}
