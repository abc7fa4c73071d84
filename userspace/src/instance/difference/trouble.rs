//! What can be wrong, in words, and what mends it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::present::Way;
use crate::netns::NetnsId;
use crate::store::Phase;
use crate::sysctl::PortSet;

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Programs and maps are gone.
    NotLoaded,
    /// Pins of programs and maps are gone; what they stood for may live on.
    PinsGone(BTreeSet<String>),
    /// A verb is at work on it, or was killed on the way: it has come to this phase.
    Unfinished(Phase),
    /// The pod's namespace is gone.
    NamespaceGone,
    /// The pod's namespace is there, but has lost its name.
    NameGone,
    /// Another namespace has the pod's name.
    NamespaceReplaced(NetnsId),
    /// An interface is gone: the host's of that name, or a pod's.
    DeviceGone(String),
    /// Another device, which is not ours, has its name or its index.
    InTheWay {
        /// The name it should have.
        wanted: String,
        /// The other one, in words.
        other: String,
    },
    /// It has another name.
    Renamed {
        /// The name it should have.
        wanted: String,
        /// The one it has.
        found: String,
    },
    /// It is down.
    Down(String),
    /// It has another link-layer address, and is told by its index or name.
    Mac(String),
    /// It has another MTU.
    Mtu {
        /// Its name.
        name: String,
        /// The MTU it has, in bytes.
        found: u32,
        /// The one it should have.
        wanted: u32,
    },
    /// It lacks addresses.
    AddressesGone(BTreeSet<IpNet>),
    /// It has addresses nobody gave it.
    AddressesAdded(BTreeSet<IpNet>),
    /// A pod's interface lacks routes.
    RoutesGone(BTreeSet<Way>),
    /// What leaves with addresses of a pod's interface does not leave by it, though the pod has others.
    RulesGone(BTreeSet<IpAddr>),
    /// The host's routes do not lead to subnets.
    HostRoutesGone(BTreeSet<IpNet>),
    /// More particular routes of the host lead elsewhere.
    LedElsewhere {
        /// Where to.
        destinations: BTreeSet<IpNet>,
        /// By which interface.
        by: String,
    },
    /// It resolves neighbours, or does not: that should be the other way round.
    Neighbours(String),
    /// It is a port of another device, and should be of none.
    Port(String),
    /// A setting of it was changed.
    Setting {
        /// Its name.
        name: String,
        /// Family and name of the setting.
        key: &'static str,
        /// The value it has.
        found: i32,
        /// The one it should have.
        wanted: i32,
    },
    /// It does not forward a family.
    NotForwarding(&'static str),
    /// The data path's maps do not have it as it should be.
    NotKnown,
    /// A program is not attached to it.
    Detached(&'static str),
    /// Socket hooks are not attached.
    SocketHooks(BTreeSet<&'static str>),
    /// Ports are not reserved.
    NotReserved(PortSet),
    /// An uplink is away.
    UplinkGone(String),
    /// An uplink was made anew.
    UplinkAnew(String),
    /// An uplink has another name.
    UplinkRenamed {
        /// The name it had.
        name: String,
        /// The one it has.
        found: String,
    },
    /// An interface has the default route, and is no uplink yet although uplinks are those that have.
    UplinkFound(String),
    /// There is no uplink, as there is no default route to find it by.
    UplinkAwaited,
}

/// How a difference is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Everything is made again.
    All,
    /// Pins are made again of what lives on; where something does not, everything is made again.
    Pins,
    /// The namespace gets its name again.
    Name,
    /// The namespace is made again, and its interfaces.
    Pod,
    /// What is left of the row's devices is removed, then made again.
    Anew,
    /// The row is made again: what is there stays.
    Again,
    /// The next look at the host does it.
    Refresh,
    /// The interface becomes an uplink.
    Uplink,
}

impl Trouble {
    /// Whether it keeps others from being seen, which come to light when it is mended.
    pub const fn hides_others(&self) -> bool {
        matches!(
            self,
            Self::NotLoaded
                | Self::PinsGone(_)
                | Self::NamespaceGone
                | Self::NameGone
                | Self::DeviceGone(_)
                | Self::Down(_)
        )
    }

    /// A word for programs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotLoaded => "not-loaded",
            Self::PinsGone(_) => "pins-gone",
            Self::Unfinished(_) => "unfinished",
            Self::NamespaceGone => "namespace-gone",
            Self::NameGone => "name-gone",
            Self::NamespaceReplaced(_) => "namespace-replaced",
            Self::DeviceGone(_) => "device-gone",
            Self::Renamed { .. } => "device-renamed",
            Self::Down(_) => "device-down",
            Self::Mac(_) => "mac",
            Self::Mtu { .. } => "mtu",
            Self::AddressesGone(_) => "addresses-gone",
            Self::AddressesAdded(_) => "addresses-added",
            Self::InTheWay { .. } => "device-in-the-way",
            Self::RoutesGone(_) | Self::HostRoutesGone(_) => "routes-gone",
            Self::RulesGone(_) => "rules-gone",
            Self::LedElsewhere { .. } => "led-elsewhere",
            Self::Neighbours(_) => "neighbours",
            Self::Port(_) => "port",
            Self::Setting { .. } => "setting",
            Self::NotForwarding(_) => "not-forwarding",
            Self::NotKnown => "not-known",
            Self::Detached(_) => "program-detached",
            Self::SocketHooks(_) => "socket-hooks-detached",
            Self::NotReserved(_) => "ports-not-reserved",
            Self::UplinkGone(_) => "uplink-gone",
            Self::UplinkAnew(_) => "uplink-anew",
            Self::UplinkRenamed { .. } => "uplink-renamed",
            Self::UplinkFound(_) => "uplink-found",
            Self::UplinkAwaited => "uplink-awaited",
        }
    }

    /// What mends it, or why nothing does.
    ///
    /// # Errors
    ///
    /// The reason.
    pub const fn repair(&self) -> Result<Repair, &'static str> {
        match self {
            Self::NotLoaded => Ok(Repair::All),
            Self::PinsGone(_) => Ok(Repair::Pins),
            Self::NamespaceGone => Ok(Repair::Pod),
            Self::NameGone => Ok(Repair::Name),
            Self::NamespaceReplaced(_) => {
                Err("the other one is somebody else's: give it another name, and the pod's is made anew")
            }
            Self::UplinkGone(_) => Err("it is used again as soon as there is an interface of that name"),
            Self::InTheWay { .. } => {
                Err("that one is somebody else's: give it another name, or remove it if it has ours's index")
            }
            Self::LedElsewhere { .. } => Err("the route is somebody else's: remove it"),
            Self::UplinkAwaited => Err("the interface of a default route becomes it as soon as there is one"),
            Self::UplinkFound(_) => Ok(Repair::Uplink),
            Self::DeviceGone(_) => Ok(Repair::Anew),
            Self::Renamed { .. }
            | Self::Down(_)
            | Self::Mac(_)
            | Self::Mtu { .. }
            | Self::AddressesGone(_)
            | Self::AddressesAdded(_)
            | Self::RoutesGone(_)
            | Self::RulesGone(_)
            | Self::HostRoutesGone(_)
            | Self::Neighbours(_)
            | Self::Port(_)
            | Self::Setting { .. }
            | Self::NotKnown
            // Whoever changes anything carries it on before.
            | Self::Unfinished(_)
            | Self::Detached(_)
            | Self::SocketHooks(_)
            | Self::NotForwarding(_) => Ok(Repair::Again),
            Self::NotReserved(_) | Self::UplinkAnew(_) | Self::UplinkRenamed { .. } => Ok(Repair::Refresh),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(items: &BTreeSet<T>) -> String {
            items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        match self {
            Self::NotLoaded => f.write_str("its programs and maps are gone"),
            Self::PinsGone(names) => write!(f, "pins are gone: {}", list(names)),
            Self::Unfinished(phase) => f.write_str(match phase {
                Phase::Creating => "it is being made, or its maker was killed",
                Phase::Waiting => "it is to be made when another has gone",
                Phase::Updating => "it is changing to what is wanted, or who changed it was killed",
                Phase::Deleting => "it is being removed, or its remover was killed",
                Phase::Ready => "it is there",
            }),
            Self::NamespaceGone => f.write_str("its namespace is gone"),
            Self::NameGone => f.write_str("its namespace has lost its name"),
            Self::NamespaceReplaced(_) => f.write_str("another namespace has its name"),
            Self::DeviceGone(name) => write!(f, "{name} is gone"),
            Self::Renamed { wanted, found } => write!(f, "{wanted} is called {found}"),
            Self::Down(name) => write!(f, "{name} is down"),
            Self::Mac(name) => write!(f, "{name} has another link-layer address"),
            Self::Mtu { name, found, wanted } => write!(f, "{name} has MTU {found}, not {wanted}"),
            Self::AddressesGone(nets) => write!(f, "it lacks {}", list(nets)),
            Self::AddressesAdded(nets) => write!(f, "it has {}, which nobody gave it", list(nets)),
            Self::InTheWay { wanted, other } => write!(f, "in the way of {wanted} is {other}"),
            Self::RoutesGone(ways) => write!(f, "it lacks its {}", list(ways)),
            Self::RulesGone(addresses) => write!(f, "it lacks its rules for what leaves with {}", list(addresses)),
            Self::HostRoutesGone(nets) => write!(f, "the host has no route to {} by it", list(nets)),
            Self::LedElsewhere { destinations, by } => {
                write!(f, "a route of the host leads to {} by {by}", list(destinations))
            }
            Self::Neighbours(name) => write!(f, "whether {name} resolves neighbours was changed"),
            Self::Port(name) => write!(f, "{name} is a port of another device"),
            Self::Setting { name, key, found, wanted } => write!(f, "{name} has {key} {found}, not {wanted}"),
            Self::NotForwarding(family) => {
                write!(f, "its gateway device does not forward {family}: the host's forwarding was switched off")
            }
            Self::NotKnown => f.write_str("the data path does not know it as it should"),
            Self::Detached(hook) => write!(f, "program {hook} is not attached"),
            Self::SocketHooks(hooks) => write!(f, "socket hooks are not attached: {}", list(hooks)),
            Self::NotReserved(ports) => write!(f, "ports {ports} are not reserved any more"),
            Self::UplinkGone(name) => write!(f, "uplink {name} is away"),
            Self::UplinkAnew(name) => write!(f, "uplink {name} was made anew"),
            Self::UplinkRenamed { name, found } => write!(f, "uplink {name} is called {found}"),
            Self::UplinkFound(name) => write!(f, "{name} has the default route and is no uplink yet"),
            Self::UplinkAwaited => f.write_str("it has no uplink: the host has no default route"),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.destination.prefix_len(), self.gateway) {
            (0, Some(gateway)) => write!(f, "default route via {gateway}"),
            (_, Some(gateway)) => write!(f, "route to {} via {gateway}", self.destination),
            (_, None) => write!(f, "route to {}", self.destination),
        }
    }
}
