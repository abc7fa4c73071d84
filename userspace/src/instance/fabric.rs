//! What the verbs need of the kernel, as a trait: the tests put a model in its place and fail every step of it.

use super::FabricError;
use crate::netns::NetnsId;
use crate::store::{AttachmentRow, InstanceRow, NetworkRow, PodRow, PublishRow, State, UplinkRow};
use crate::topology::{HostFacts, PortProbe};

/// What becomes of the flows of a publish that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// TCP connections run on, all else ends.
    RunOn,
    /// TCP connections get a RST, all else ends.
    Reset,
    /// Whatever there is goes with the maps.
    WithMaps,
}

/// The kernel side of an instance, seen from its host namespace.
///
/// Every `remove_*` is idempotent: what is absent is done. Every `add_*` leaves nothing of its own behind when it fails
/// by itself, but may be killed half-way: the matching `remove_*` takes away any part of it.
pub trait Fabric: PortProbe {
    /// Whether kernel and privileges suffice; asked before anything is changed.
    ///
    /// # Errors
    ///
    /// [`FabricError::Unsupported`], naming the feature or privilege.
    fn check(&self) -> Result<(), FabricError>;

    /// Which host namespace this is, in words only good for comparing.
    fn host_id(&self) -> String;

    /// What the host has; `state` tells what of it is the instance's own. Routes only if asked for: there may be many.
    fn facts(&self, state: &State, routes: bool) -> Result<HostFacts, FabricError>;

    /// The ports the kernel chooses from for sockets that ask for any, as a list of ranges.
    fn local_ports(&self) -> Result<String, FabricError>;

    /// Which of these ports are not reserved yet, as a list of ranges.
    fn unreserved(&self, ports: &str) -> Result<String, FabricError>;

    /// Reserves ports.
    fn reserve(&self, ports: &str) -> Result<(), FabricError>;

    /// Gives reserved ports back.
    fn release(&self, ports: &str) -> Result<(), FabricError>;

    /// Loads programs and maps and pins them, mounting bpffs if need be.
    fn load(&mut self, instance: &InstanceRow) -> Result<(), FabricError>;

    /// Opens what [`Self::load`] pinned. The `remove_*` steps do what can be done even after this has failed.
    fn open(&mut self) -> Result<(), FabricError>;

    /// Removes every pin, and bpffs if it was mounted by us and is used by nobody else.
    fn unload(&mut self) -> Result<(), FabricError>;

    /// Attaches to the uplinks and writes their entries.
    fn add_uplinks(&mut self, instance: &InstanceRow) -> Result<(), FabricError>;

    /// Undoes [`Self::add_uplinks`].
    fn remove_uplinks(&mut self, instance: &InstanceRow) -> Result<(), FabricError>;

    /// Brings the data path's timers, its limits and its view of the host's addresses and uplinks up to date, and ends the flows of
    /// addresses and uplinks that are gone; returns the uplinks as they are now: the index is another one after an interface
    /// was made anew, and that of the former while it is away.
    fn refresh(&mut self, instance: &InstanceRow) -> Result<Vec<UplinkRow>, FabricError>;

    /// Brings what the data path knows of all networks' source NAT up to date: the addresses the host has at present, and whether
    /// there are mappings. Their gateway devices forward, whatever somebody did to the host's own setting.
    fn refresh_networks(&mut self, networks: &[NetworkRow]) -> Result<(), FabricError>;

    /// Removes flows whose time is over, about `limit` entries of each family at most; says how many went.
    fn expire_flows(&self, limit: usize) -> Result<usize, FabricError>;

    /// Makes a network's gateway device and its entries.
    fn add_network(&mut self, network: &NetworkRow) -> Result<(), FabricError>;

    /// Undoes [`Self::add_network`].
    fn remove_network(&mut self, network: &NetworkRow) -> Result<(), FabricError>;

    /// Makes the pod's namespace; says which it is.
    ///
    /// # Errors
    ///
    /// [`FabricError::Exists`] when there is one of that name: it is not ours then.
    fn add_netns(&mut self, pod: &PodRow) -> Result<NetnsId, FabricError>;

    /// Deletes the pod's namespace.
    fn remove_netns(&mut self, pod: &PodRow) -> Result<(), FabricError>;

    /// Makes an interface of a pod: veth, addresses, routes, programs, endpoint.
    fn add_attachment(&mut self, attachment: &AttachmentRow, all: &State) -> Result<(), FabricError>;

    /// Undoes [`Self::add_attachment`], flows included.
    fn remove_attachment(&mut self, attachment: &AttachmentRow, all: &State) -> Result<(), FabricError>;

    /// Publishes ports: the declaration, then its ports.
    fn add_publish(&mut self, publish: &PublishRow, all: &State) -> Result<(), FabricError>;

    /// Gives live publishes the backends, clients and flags of their rows. Connections end with a RST if their client may not
    /// come in any more; other flows also if their pod is no backend any more, or none takes new ones.
    fn switch_publishes(&mut self, publishes: &[PublishRow], all: &State) -> Result<(), FabricError>;

    /// Undoes [`Self::add_publish`]. Any of the pods may have flows of a publish that was moved.
    fn remove_publishes(&mut self, publishes: &[PublishRow], ending: Ending, all: &State) -> Result<(), FabricError>;
}
