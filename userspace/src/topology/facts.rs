//! What the host has, as far as a topology must agree with it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Proto;

/// Finds out whether a process of the host is bound to a port.
pub trait PortProbe {
    /// Whether a socket is bound to `address` (unspecified: to any address of its family) and `port`.
    fn is_bound(&self, proto: Proto, address: IpAddr, port: u16) -> bool;
}

/// A host where nobody listens.
impl PortProbe for () {
    fn is_bound(&self, _: Proto, _: IpAddr, _: u16) -> bool {
        false
    }
}

impl<F: Fn(Proto, IpAddr, u16) -> bool> PortProbe for F {
    fn is_bound(&self, proto: Proto, address: IpAddr, port: u16) -> bool {
        self(proto, address, port)
    }
}

/// An interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Why it can be no uplink; `None`: it can.
    pub unfit: Option<&'static str>,
}

/// A route of the host's main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// Destination.
    pub destination: IpNet,
    /// Index of its interface; 0 for one without (blackhole and the like).
    pub ifindex: u32,
    /// Whether it belongs to one of this instance's own gateway devices.
    pub ours: bool,
}

/// What the host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Routes of the main table, default routes included; read only where a subnet is to be added.
    pub routes: Vec<HostRoute>,
    /// Names of the interfaces of default routes, IPv4's before IPv6's and the best first; known where the routes are.
    pub default_uplinks: Vec<String>,
    /// Names of all network namespaces in `/run/netns`.
    pub namespaces: Vec<String>,
    /// Indexes of interfaces that belong to this instance.
    pub ours: Vec<u32>,
}

impl HostFacts {
    /// The interface of this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// Name of the interface with this index, for messages.
    pub fn ifname(&self, index: u32) -> &str {
        self.interfaces.iter().find(|i| i.index == index).map_or("none", |i| i.name.as_str())
    }

    /// The interface that holds this address, not counting this instance's own.
    pub fn holder(&self, address: IpAddr) -> Option<&Interface> {
        self.interfaces
            .iter()
            .filter(|i| !self.ours.contains(&i.index))
            .find(|i| i.addresses.iter().any(|a| a.addr() == address))
    }
}
