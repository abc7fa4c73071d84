//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use nix::errno::Errno;

use super::{Netlink, NetlinkError, Request, family};

/// The main routing table.
const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

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
    /// As the kernel makes it with an address, and takes it away with that.
    pub of_address: bool,
    /// Priority: the lower wins; `None`: what the kernel gives one that has none (0, and 1024 of IPv6).
    pub metric: Option<u32>,
    /// Table.
    pub table: u32,
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

    /// An address nobody has: IPv4's dummy address (RFC 7600), and one for documentation (RFC 9637).
    const fn somewhere(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 1)),
        }
    }
}

impl RouteSpec {
    /// A default route.
    pub fn default_via(gateway: IpAddr, oif: u32) -> Self {
        let destination = Family::of(gateway).default_net();
        Self { gateway: Some(gateway), ..Self::connected(destination, oif) }
    }

    /// The route the kernel makes when an interface gets an address, to the address's subnet.
    pub fn of_address(net: IpNet, oif: u32) -> Self {
        let preferred_source = Some(net.addr()).filter(IpAddr::is_ipv4);
        Self { preferred_source, of_address: true, ..Self::connected(net.trunc(), oif) }
    }

    /// A connected route.
    pub fn connected(destination: IpNet, oif: u32) -> Self {
        Self {
            destination,
            gateway: None,
            oif,
            preferred_source: None,
            onlink: false,
            of_address: false,
            metric: None,
            table: MAIN_TABLE,
        }
    }

    /// The same route with a priority of its own.
    #[must_use]
    pub const fn with_metric(self, metric: Option<u32>) -> Self {
        Self { metric, ..self }
    }

    /// The same route in another table.
    #[must_use]
    pub const fn in_table(self, table: u32) -> Self {
        Self { table, ..self }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(self.destination.addr());
        header.destination_prefix_length = self.destination.prefix_len();
        (header.table, header.protocol, header.kind) =
            (u8::try_from(self.table).unwrap_or_default(), RouteProtocol::Static, RouteType::Unicast);
        if self.gateway.is_none() && self.destination.addr().is_ipv4() {
            header.scope = RouteScope::Link;
        }
        header.flags.set(RouteFlags::Onlink, self.onlink);
        message.attributes =
            vec![RouteAttribute::Destination(self.destination.network().into()), RouteAttribute::Oif(self.oif)];
        message.attributes.extend(self.gateway.map(|a| RouteAttribute::Gateway(a.into())));
        message.attributes.extend(self.preferred_source.map(|a| RouteAttribute::PrefSource(a.into())));
        message.attributes.extend((self.table > u8::MAX.into()).then_some(RouteAttribute::Table(self.table)));
        message.attributes.extend(self.metric.map(RouteAttribute::Priority));
        if self.of_address {
            message.header.protocol = RouteProtocol::Kernel;
            // `IP6_RT_PRIO_ADDRCONF`; of IPv4 it is 0.
            message.attributes.extend(self.destination.addr().is_ipv6().then_some(RouteAttribute::Priority(256)));
        }
        message
    }
}

impl Request {
    /// Adds a route.
    pub fn add_route(route: &RouteSpec) -> Self {
        Self::route("add", NLM_F_EXCL, route)
    }

    /// Adds a route, in the place of one to the same destination with the same metric.
    pub fn put_route(route: &RouteSpec) -> Self {
        Self::route("put", NLM_F_REPLACE, route)
    }

    /// Adds a route, before others to the same destination with the same metric. Those stay.
    pub fn lead_by(route: &RouteSpec) -> Self {
        Self::route("lead by", 0, route)
    }

    fn route(what: &str, flags: u16, route: &RouteSpec) -> Self {
        let what = format!("{what} route to {} by interface {}", route.destination, route.oif);
        Self::new(what, NLM_F_CREATE | flags, RouteNetlinkMessage::NewRoute(route.message()))
    }

    /// Adds a route in place of the one that has its destination and metric.
    pub fn replace_route(route: &RouteSpec) -> Self {
        let what = format!("replace the route to {} by interface {}", route.destination, route.oif);
        Self::new(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewRoute(route.message()))
    }

    /// Removes a route that [`Self::add_route`] added.
    pub fn delete_route(route: &RouteSpec) -> Self {
        let what = format!("delete the route to {} by interface {}", route.destination, route.oif);
        Self::new(what, 0, RouteNetlinkMessage::DelRoute(route.message()))
    }
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
    /// The routes of the main table, of both families. Takes as long as there are many.
    pub fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in Family::ALL {
            routes.extend(self.main_routes(family, None)?);
        }
        Ok(routes)
    }

    /// The default route of the main table by this interface, the one the kernel would take first.
    pub fn default_route_by(&self, family: Family, oif: u32) -> Result<Option<Route>, NetlinkError> {
        // Asked for an address that hardly anything but a default route leads to, the kernel names that one without a look at
        // the others. Where something else leads there, or rules send it elsewhere, they are read.
        match self.look_up(family.somewhere(), Some(oif))? {
            Some(route) if route.is_default() && route.table == MAIN_TABLE && route.kind == RouteKind::Unicast => {
                Ok(Some(route))
            }
            _ => Ok(default_routes(&self.main_routes(family, Some(oif))?, family).first().map(|r| (*r).clone())),
        }
    }

    /// The default route of the main table the kernel would take; `None` also where something else leads nearly everywhere.
    pub fn best_default(&self, family: Family) -> Result<Option<Route>, NetlinkError> {
        let found = self.look_up(family.somewhere(), None)?;
        Ok(found.filter(|r| r.is_default() && r.table == MAIN_TABLE && r.kind == RouteKind::Unicast))
    }

    /// The route the kernel would send a packet to `destination` by, all of its next hops included (kernel 4.13); `None` if
    /// there is none.
    pub fn route_to(&self, destination: IpAddr) -> Result<Option<Route>, NetlinkError> {
        self.look_up(destination, None)
    }

    fn look_up(&self, destination: IpAddr, oif: Option<u32>) -> Result<Option<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination);
        message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        // The route itself, not what comes of it. Of IPv4, the kernel says that any is in the main table unless it is asked for
        // that as well; of IPv6 it always tells, and refuses the question.
        message.header.flags = RouteFlags::FibMatch;
        message.header.flags.set(RouteFlags::LookupTable, destination.is_ipv4());
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        message.attributes.extend(oif.map(RouteAttribute::Oif));
        let what = || format!("find the route to {destination}");
        match self.get(what, RouteNetlinkMessage::GetRoute(message)) {
            Ok(RouteNetlinkMessage::NewRoute(found)) => Ok(Some(Route::from_message(&found, Family::of(destination)))),
            Ok(_) => Ok(None),
            Err(e) if e.is_absent() || is_no_route(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The routes of the main table of a family, all of them or those by an interface: the kernel leaves out the others.
    fn main_routes(&self, of: Family, oif: Option<u32>) -> Result<Vec<Route>, NetlinkError> {
        self.routes_in(MAIN_TABLE, of, oif)
    }

    /// The routes of a table of a family, all of them or those by an interface: the kernel leaves out the others.
    pub fn routes_in(&self, table: u32, of: Family, oif: Option<u32>) -> Result<Vec<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(of.default_net().addr());
        message.header.table = u8::try_from(table).unwrap_or_default();
        message.attributes.extend((table > u8::MAX.into()).then_some(RouteAttribute::Table(table)));
        message.attributes.extend(oif.map(RouteAttribute::Oif));
        let address_family = message.header.address_family;
        match self.dump("list routes", &RouteNetlinkMessage::GetRoute(message)) {
            Ok(found) => Ok(found
                .iter()
                .filter_map(|message| match message {
                    // A kernel without the family answers for all others.
                    RouteNetlinkMessage::NewRoute(m) if m.header.address_family == address_family => Some(m),
                    _ => None,
                })
                .map(|message| Route::from_message(message, of))
                .collect()),
            // No such table yet, or no such interface.
            Err(e) if e.is_absent() => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// [`Request::add_route`].
    pub fn add_route(&self, route: &RouteSpec) -> Result<(), NetlinkError> {
        self.request(Request::add_route(route))
    }
}

/// The default routes of a family among those of the main table, those the kernel would take first.
pub fn default_routes(routes: &[Route], family: Family) -> Vec<&Route> {
    let is_default = |r: &&Route| r.is_default() && Family::of(r.destination.addr()) == family;
    let leads = |r: &&Route| r.kind == RouteKind::Unicast && r.oif.is_some();
    let mut found: Vec<&Route> = routes.iter().filter(is_default).filter(leads).collect();
    found.sort_by_key(|r| r.metric);
    found
}

/// Whether the kernel says that it has no route, or one that refuses.
fn is_no_route(error: &NetlinkError) -> bool {
    let NetlinkError::Refused { source, .. } = error else { return false };
    match source.errno {
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES => true,
        // A blackhole, of which there is nothing to say. Of a wrong question there is.
        Errno::EINVAL => source.words.is_none(),
        _ => false,
    }
}
