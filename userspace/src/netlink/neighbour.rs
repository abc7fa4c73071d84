//! What an interface has found out of its neighbours.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};

use super::{Request, family};

impl Request {
    /// Has the interface `index` forget the link-layer address of a neighbour: it looks for it again.
    pub fn forget_neighbour(index: u32, address: IpAddr) -> Self {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        let destination = match address {
            IpAddr::V4(a) => NeighbourAddress::Inet(a),
            IpAddr::V6(a) => NeighbourAddress::Inet6(a),
        };
        message.attributes = vec![NeighbourAttribute::Destination(destination)];
        let what = format!("forget the neighbour {address} of interface {index}");
        Self::new(what, 0, RouteNetlinkMessage::DelNeighbour(message))
    }
}
