//! The compound steps of making a pod host: gateways, pods, uplinks, published ports.
//!
//! Each step may be repeated, and undoes what it did when it fails half-way. Each has its exact undo, for which "not
//! there" means done. What a step needs to know is in its spec; ids, slots and owners are the store's to give.

mod attachment;
mod buckets;
mod cable;
mod change;
mod device;
mod gateway;
mod host_socket;
mod local_route;
mod mend;
mod names;
mod pod;
mod publish;
mod publish_flows;
mod uplink;

use std::io;
use std::ops::RangeInclusive;

use crate::datapath::{Datapath, DatapathError};
use crate::netlink::{Netlink, NetlinkError};
use crate::netns::{Netns, NetnsError, NetnsName};
use crate::sysctl::{self, PortSet, SysctlError};

pub use cable::{Cable, CableEnd};
pub use device::{HOST_END, gateway_settings, is_ours, whose};
pub use gateway::NetworkSpec;
pub use names::{
    endpoint_ifindex, gateway_ifindex, gateway_ifname, gateway_mac, gateway_peer_ifname, gateway_peer_mac, host_ifname,
    pod_mac,
};
pub use pod::{PodSpec, own_table};
pub use publish::{BackendSpec, PublishSpec};
pub use uplink::{UplinkState, default_uplinks, unfit};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// A namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A link, address or route.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A program or map.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Another device has the index or the name of one that was to be made.
    #[error(
        "interface {name:?} (index {index}; {whose}) is in the way of {wanted}: rename it if it has that name, else remove it"
    )]
    Taken {
        /// The name of what was to be made.
        wanted: String,
        /// The other one's name.
        name: String,
        /// Its index.
        index: u32,
        /// What is known of it.
        whose: String,
    },
    /// A device we made is not there any more.
    #[error("interface {0:?} is gone, or was taken elsewhere")]
    Gone(String),
    /// An interface that is to be the end of a cable is something else.
    #[error("an interface of this name is in {namespace:?} already and is no end of this cable; choose another name")]
    NameTaken {
        /// Its name.
        ifname: String,
        /// Where it is.
        namespace: String,
    },
    /// The pod's namespace is the host's own.
    #[error("pod {0:?} cannot have the host's own namespace")]
    HostNamespace(NetnsName),
    /// There is no such interface to be an uplink.
    #[error("no interface {0:?} to be the uplink: name one that exists under [host] uplink")]
    NoUplink(String),
    /// The uplink's frames are of a kind the programs do not read.
    #[error("interface {0:?} cannot be an uplink: {1}")]
    BadUplink(String, &'static str),
    /// The host has more addresses than the maps hold.
    #[error("the host has {found} addresses, more than the {max} the data path can know")]
    TooManyAddresses {
        /// How many.
        found: usize,
        /// How many there may be.
        max: u32,
    },
    /// Something else of the kernel.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The host side of one instance: where its uplinks and host veths are, and its data path.
///
/// Its methods may be called from any thread: whatever depends on the namespace runs inside it.
#[derive(Debug)]
pub struct Host {
    instance: String,
    netns: Netns,
    netlink: Netlink,
    datapath: Datapath,
}

impl Host {
    /// The host of `instance`, in the namespace `netns`.
    pub fn new(instance: &str, netns: Netns, datapath: Datapath) -> Result<Self, WiringError> {
        let netlink = Netlink::in_netns(&netns)?;
        Ok(Self { instance: instance.to_owned(), netns, netlink, datapath })
    }

    /// The instance.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The namespace of host veths and uplinks.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Links, addresses and routes of that namespace.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Programs and maps.
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// Keeps the kernel from giving SNAT's ports to the host's own sockets.
    ///
    /// Returns those that were not reserved before: what to hand to [`Host::release_ports`] when all is taken down.
    pub fn reserve_ports(&self, ports: RangeInclusive<u16>) -> Result<PortSet, WiringError> {
        Ok(self.netns.run(|| sysctl::reserve_ports(&ports.into()))??)
    }

    /// Gives back what [`Host::reserve_ports`] added.
    pub fn release_ports(&self, added: &PortSet) -> Result<(), WiringError> {
        Ok(self.netns.run(|| sysctl::release_ports(added))??)
    }
}

/// Writes settings in the calling thread's namespace. A family that is switched off has none to write.
fn write_settings(settings: &[(String, &str)]) -> Result<(), SysctlError> {
    for (key, value) in settings {
        match sysctl::write(key, value) {
            Err(e) if e.is_absent() => tracing::debug!("{e}"),
            done => done?,
        }
    }
    Ok(())
}

/// Remembers the first of several errors: an undo goes on past them. Maps that are gone have nothing to undo.
#[derive(Default)]
struct FirstError(Option<WiringError>);

impl FirstError {
    fn note<T, E: Into<WiringError>>(&mut self, done: Result<T, E>) -> Option<T> {
        match done {
            Ok(value) => Some(value),
            Err(e) => {
                let e = e.into();
                tracing::debug!("going on past: {e}");
                if !matches!(&e, WiringError::Datapath(e) if e.is_not_loaded()) {
                    self.0.get_or_insert(e);
                }
                None
            }
        }
    }

    fn is_none(&self) -> bool {
        self.0.is_none()
    }

    fn done(self) -> Result<(), WiringError> {
        self.0.map_or(Ok(()), Err)
    }
}
