//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteScope, RouteType, RouteVia,
};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, NetlinkError};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Leads somewhere.
    Unicast,
    /// The destination is this host's own.
    Local,
    /// Broadcast, anycast or multicast.
    Group,
    /// Refuses: blackhole, unreachable, prohibit or throw.
    Refusing,
}

/// A route the kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination; of prefix length 0 for a default route.
    pub destination: IpNet,
    /// Next hop; `None` for a connected route.
    pub gateway: Option<IpAddr>,
    /// Way out (of the first next hop, where there are several); `None` for a refusing route.
    pub oif: Option<u32>,
    /// Ways out of the next hops after the first.
    pub more_oifs: Vec<u32>,
    /// Source address the kernel prefers on it.
    pub preferred_source: Option<IpAddr>,
    /// Table: 254 is main, 255 local.
    pub table: u32,
    /// Priority: the lower wins.
    pub metric: u32,
    /// What it does.
    pub kind: RouteKind,
}

/// A route to add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Destination; prefix length 0 for a default route.
    pub destination: IpNet,
    /// Next hop, of the destination's family; `None`: directly connected.
    pub gateway: Option<IpAddr>,
    /// Way out.
    pub oif: u32,
    /// Source address to prefer.
    pub preferred_source: Option<IpAddr>,
    /// The next hop is on the link although no address of ours says so.
    pub onlink: bool,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Everything: 0.0.0.0/0 or ::/0.
    pub fn default_net(self) -> IpNet {
        match self {
            Self::V4 => Ipv4Net::default().into(),
            Self::V6 => Ipv6Net::default().into(),
        }
    }
}

impl RouteSpec {
    /// A default route.
    pub fn default_via(gateway: IpAddr, oif: u32) -> Self {
        let destination = Family::of(gateway).default_net();
        Self { destination, gateway: Some(gateway), oif, preferred_source: None, onlink: false }
    }

    /// A connected route.
    pub fn connected(destination: IpNet, oif: u32) -> Self {
        Self { destination, gateway: None, oif, preferred_source: None, onlink: false }
    }

    fn message(&self) -> RouteMessage {
        let scope = if self.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        match self.destination {
            IpNet::V4(net) => {
                let mut b = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(net.network(), net.prefix_len())
                    .output_interface(self.oif)
                    .scope(scope);
                if let Some(IpAddr::V4(a)) = self.gateway {
                    b = b.gateway(a);
                }
                if let Some(IpAddr::V4(a)) = self.preferred_source {
                    b = b.pref_source(a);
                }
                if self.onlink { b.onlink() } else { b }.build()
            }
            IpNet::V6(net) => {
                let mut b = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(net.network(), net.prefix_len())
                    .output_interface(self.oif);
                if let Some(IpAddr::V6(a)) = self.gateway {
                    b = b.gateway(a);
                }
                if let Some(IpAddr::V6(a)) = self.preferred_source {
                    b = b.pref_source(a);
                }
                if self.onlink { b.onlink() } else { b }.build()
            }
        }
    }
}

/// Whether the kernel says that it has no route, or one that refuses.
fn no_route(error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else { return false };
    let errno = message.code.map_or(0, |code| -code.get());
    [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EACCES, Errno::EINVAL].map(|e| e as i32).contains(&errno)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

impl Route {
    /// Whether it is a default route.
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }

    fn from_message(message: &RouteMessage, family: Family) -> Self {
        let mut route = Self {
            destination: family.default_net(),
            gateway: None,
            oif: None,
            more_oifs: Vec::new(),
            preferred_source: None,
            table: u32::from(message.header.table),
            metric: 0,
            kind: match message.header.kind {
                RouteType::Unicast => RouteKind::Unicast,
                RouteType::Local => RouteKind::Local,
                RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => RouteKind::Group,
                _ => RouteKind::Refusing,
            },
        };
        for attribute in &message.attributes {
            route.take(attribute, message.header.destination_prefix_length);
        }
        route
    }

    fn take(&mut self, attribute: &RouteAttribute, prefix_len: u8) {
        match attribute {
            RouteAttribute::Destination(a) => {
                if let Some(net) = ip(a).and_then(|a| IpNet::new(a, prefix_len).ok()) {
                    self.destination = net;
                }
            }
            RouteAttribute::Gateway(a) => self.gateway = ip(a),
            // An IPv4 route by way of an IPv6 next hop (RFC 5549).
            RouteAttribute::Via(RouteVia::Inet6(a)) => self.gateway = Some((*a).into()),
            RouteAttribute::Oif(index) => self.oif = Some(*index),
            RouteAttribute::PrefSource(a) => self.preferred_source = ip(a),
            RouteAttribute::Table(table) => self.table = *table,
            RouteAttribute::Priority(metric) => self.metric = *metric,
            RouteAttribute::MultiPath(hops) => {
                if let Some(hop) = hops.first() {
                    self.oif = Some(hop.interface_index);
                    for attribute in &hop.attributes {
                        self.take(attribute, prefix_len);
                    }
                }
                self.more_oifs = hops.iter().skip(1).map(|hop| hop.interface_index).collect();
            }
            _ => {}
        }
    }
}

impl Netlink {
    /// All routes of both families and all tables.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in Family::ALL {
            // Nothing but the family: the route builder's defaults would be taken for a filter.
            let mut message = RouteMessage::default();
            message.header.address_family = match family {
                Family::V4 => AddressFamily::Inet,
                Family::V6 => AddressFamily::Inet6,
            };
            let messages: Vec<RouteMessage> = self
                .handle
                .route()
                .get(message)
                .execute()
                .try_collect()
                .await
                .map_err(|e| NetlinkError::of("list routes", e))?;
            routes.extend(messages.iter().map(|m| Route::from_message(m, family)));
        }
        Ok(routes)
    }

    /// The default routes of the main table, those the kernel would take first.
    pub async fn default_routes(&self, family: Family) -> Result<Vec<Route>, NetlinkError> {
        let main = u32::from(RouteHeader::RT_TABLE_MAIN);
        let mut routes = self.routes().await?;
        routes.retain(|r| r.is_default() && Family::of(r.destination.addr()) == family);
        routes.retain(|r| r.table == main && r.kind == RouteKind::Unicast && r.oif.is_some());
        routes.sort_by_key(|r| r.metric);
        Ok(routes)
    }

    /// The route the kernel would send a packet to `destination` by, all of its next hops included (kernel 4.13); `None` if
    /// there is none.
    pub async fn route_to(&self, destination: IpAddr) -> Result<Option<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        let (family, address, length) = match destination {
            IpAddr::V4(a) => (AddressFamily::Inet, RouteAddress::Inet(a), 32),
            IpAddr::V6(a) => (AddressFamily::Inet6, RouteAddress::Inet6(a), 128),
        };
        message.header.address_family = family;
        message.header.destination_prefix_length = length;
        message.header.flags = RouteFlags::FibMatch;
        message.attributes.push(RouteAttribute::Destination(address));
        let found: Result<Vec<RouteMessage>, _> = self.handle.route().get(message).execute().try_collect().await;
        match found {
            Ok(messages) => Ok(messages.first().map(|m| Route::from_message(m, Family::of(destination)))),
            Err(e) if no_route(&e) => Ok(None),
            Err(e) => Err(NetlinkError::of(format!("find the route to {destination}"), e)),
        }
    }

    /// Adds a route to the main table.
    pub async fn add_route(&self, route: &RouteSpec) -> Result<(), NetlinkError> {
        self.handle
            .route()
            .add(route.message())
            .execute()
            .await
            .map_err(|e| NetlinkError::of(format!("add route to {} by interface {}", route.destination, route.oif), e))
    }

    /// Deletes a route of the main table.
    pub async fn delete_route(&self, route: &RouteSpec) -> Result<(), NetlinkError> {
        self.handle.route().del(route.message()).execute().await.map_err(|e| {
            NetlinkError::of(format!("delete route to {} by interface {}", route.destination, route.oif), e)
        })
    }
}
