//! What the verbs need of the kernel, as a trait over rows: the tests put a model in its place and fail every step of it.

use std::fmt;
use std::io;

use super::difference::{Difference, Present};
use crate::datapath::DatapathError;
use crate::netlink::NetlinkError;
use crate::netns::{NetnsError, NetnsId, NetnsName};
use crate::probe::ProbeError;
use crate::store::{Row, RowId, State, StoreError};
use crate::sysctl::{PortSet, SysctlError};
use crate::topology::{HostFacts, PortProbe};
use crate::wiring::WiringError;

/// Writes a row down with what is known of it only now, before what it says is done: a namespace's identity before it has a
/// name, ports before they are reserved.
pub type Note<'a> = &'a mut dyn FnMut(Row) -> Result<(), StoreError>;

/// Ports of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPorts {
    /// Those the kernel chooses from for sockets that ask for any.
    pub local: PortSet,
    /// Those it gives to nobody who does not ask for them by number.
    pub reserved: PortSet,
}

/// What is left of an instance whose rows are lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wreck {
    /// Names and identities of its pods' namespaces.
    pub pods: Vec<(NetnsName, NetnsId)>,
    /// Indexes and names of its devices on the host.
    pub links: Vec<(u32, String)>,
}

impl Wreck {
    /// Takes it, which goes before an instance comes up, out of what that is judged against.
    pub(super) fn leave_out(&self, facts: &mut HostFacts) {
        let is_left = |index: u32| self.links.iter().any(|(i, _)| *i == index);
        facts.interfaces.retain(|i| !is_left(i.index));
        facts.routes.retain(|r| !is_left(r.ifindex));
        facts.namespaces.retain(|name| self.pods.iter().all(|(pod, _)| pod.as_str() != name));
    }
}

/// The kernel side of an instance, seen from its host namespace.
///
/// [`Self::make`] leaves nothing of its own behind when it fails by itself, but may be killed half-way: [`Self::remove`] takes away
/// any part of it. All but `make` may be repeated, and what is absent is removed.
pub trait Platform: PortProbe {
    /// Whether kernel and privileges suffice; asked before anything is changed.
    ///
    /// # Errors
    ///
    /// Which feature or privilege is missing.
    fn check(&self) -> Result<(), PlatformError>;

    /// Which host namespace this is, in words only good for comparing; `None`: it is gone, and all that was in it.
    fn host_id(&self) -> Option<String>;

    /// The host namespace the rows are of is gone, and all that was in it: only what is elsewhere is removed from now on.
    fn leave_host(&mut self);

    /// What the host has; `all` tells what of it is the instance's own. Routes only if asked for: there may be many.
    fn facts(&self, all: &State, routes: bool) -> Result<HostFacts, PlatformError>;

    /// The host's ports.
    fn ports(&self) -> Result<HostPorts, PlatformError>;

    /// Reserves ports besides those that are.
    fn reserve(&self, ports: &PortSet) -> Result<(), PlatformError>;

    /// Gives reserved ports back.
    fn release(&self, ports: &PortSet) -> Result<(), PlatformError>;

    /// Opens the data path that [`Self::make`] of the instance has loaded. What can be removed without is removed even after this
    /// has failed.
    fn open(&mut self) -> Result<(), PlatformError>;

    /// Makes what a row says. An interface whose addresses another one still has is made without them; [`Self::update`] gives it
    /// them.
    fn make(&mut self, row: &Row, all: &State, note: Note<'_>) -> Result<(), PlatformError>;

    /// The same of rows of one kind, none of which needs another of them. When one fails, others may have been made.
    fn make_all(&mut self, rows: &[Row], all: &State, note: Note<'_>) -> Result<(), PlatformError> {
        rows.iter().try_for_each(|row| self.make(row, all, note))
    }

    /// Brings what is live to what its rows, of one kind, say.
    ///
    /// Publishes get their backends, clients and flags. Connections end with a RST if their client may not come in any more;
    /// other flows also if their pod is no backend any more, or none takes new ones.
    fn update(&mut self, rows: &[Row], all: &State) -> Result<(), PlatformError>;

    /// Removes what rows of one kind stand for; with `whole`, everything goes with them. Says what of it was not there.
    ///
    /// What is not recognised as the row's own by its identity is left alone, whatever its name.
    fn remove(&mut self, rows: &[Row], all: &State, whole: bool) -> Result<Vec<String>, PlatformError>;

    /// What can be recognised as the instance's own without its rows.
    fn wreck(&self) -> Result<Wreck, PlatformError>;

    /// Removes what can be recognised as the instance's own without its rows. `None`: there is nothing.
    fn sweep(&mut self) -> Result<Option<Vec<String>>, PlatformError>;

    /// Brings what the data path knows of the host up to date: addresses, uplinks, timers; ends the flows of what is gone. Returns the
    /// rows that are something else by it.
    fn refresh(&mut self, all: &State) -> Result<Vec<Row>, PlatformError>;

    /// Removes flows whose time is over: all, or those among about `limit` entries of each family, in a time that does not depend on
    /// how many there are. Says how many went. With all, those of what is gone go too ([`Self::rests`]).
    fn expire_flows(&self, limit: usize) -> Result<usize, PlatformError>;

    /// Whether a number is one of something that is gone, and to be given to another only if there is none left: what it had is swept
    /// first, then.
    fn rests(&self, _: Numbered) -> bool {
        false
    }

    /// What is there of what the rows say.
    fn observe(&self, all: &State) -> Result<Present, PlatformError>;

    /// Mends one difference; one that is mended already is none.
    fn mend(&mut self, difference: &Difference, all: &State, note: Note<'_>) -> Result<(), PlatformError>;
}

/// What has a number of which there are few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbered {
    /// An interface of a pod: its slot.
    Slot(u32),
    /// A publish: its index.
    Publish(u32),
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Finding out whether it can be done.
    Check,
    /// Reading.
    Read,
    /// Opening.
    Open,
    /// Making.
    Make,
    /// Changing.
    Change,
    /// Mending.
    Mend,
    /// Removing.
    Remove,
}

impl Op {
    /// The word in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Read => "read",
            Self::Open => "open",
            Self::Make => "make",
            Self::Change => "change",
            Self::Mend => "mend",
            Self::Remove => "remove",
        }
    }
}

/// On what it was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// The host's network.
    Host,
    /// The host's reserved ports.
    Ports,
    /// Programs and maps.
    Datapath,
    /// Flows.
    Flows,
    /// An uplink.
    Uplink(String),
    /// A cable between the namespaces of these names.
    Cable(String),
    /// What a row stands for, with its name.
    Row(RowId, String),
}

impl Object {
    /// What a row stands for.
    pub fn of(row: &Row, all: &State) -> Self {
        let name = match row {
            Row::Instance(_) => String::new(),
            Row::Network(r) => format!("{:?}", r.network.name),
            Row::Pod(r) => format!("{:?}", r.name),
            Row::Attachment(r) => format!("{} of pod {:?}", r.ifname, all.pod_name(r.id)),
            Row::Publish(r) => r.publish.to_string(),
        };
        Self::Row(row.id(), name)
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host's network"),
            Self::Ports => f.write_str("the host's reserved ports"),
            Self::Datapath => f.write_str("the data path"),
            Self::Flows => f.write_str("flows"),
            Self::Uplink(name) => write!(f, "uplink {name:?}"),
            Self::Cable(ends) => write!(f, "the cable between {ends}"),
            Self::Row(RowId::Instance, _) => f.write_str("the instance"),
            Self::Row(RowId::Network(_), name) => write!(f, "network {name}"),
            Self::Row(RowId::Pod(_), name) => write!(f, "the namespace of pod {name}"),
            Self::Row(RowId::Attachment(_), name) => write!(f, "interface {name}"),
            Self::Row(RowId::Publish(_), name) => write!(f, "publish {name}"),
        }
    }
}

/// Why it failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// What was to be made is there already, made by somebody else.
    #[error("it exists already")]
    Exists,
    /// It cannot be done, for this reason.
    #[error("{0}")]
    Refused(&'static str),
    /// A step of the wiring.
    #[error(transparent)]
    Wiring(#[from] WiringError),
    /// A program or map.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// A namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A link, address or route.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// Kernel or privileges.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The kernel side refused or failed.
#[derive(Debug)]
pub struct PlatformError {
    /// What was tried.
    pub op: Op,
    /// On what.
    pub object: Object,
    /// Why it failed.
    pub source: Box<Cause>,
}

impl PlatformError {
    /// What was tried, on what, and why it failed.
    pub fn new(op: Op, object: Object, source: impl Into<Cause>) -> Self {
        Self { op, object, source: Box::new(source.into()) }
    }

    /// Whether it was found before anything was changed: the machine or the caller's privileges do not allow it.
    pub fn is_unsupported(&self) -> bool {
        matches!(*self.source, Cause::Probe(ProbeError::Privilege { .. } | ProbeError::Feature { .. }))
    }

    /// What kind of failure it is, for programs.
    pub fn kind(&self) -> &'static str {
        match &*self.source {
            Cause::Exists => "exists",
            Cause::Probe(_) => "unsupported",
            Cause::Store(e) => e.kind(),
            Cause::Datapath(e) | Cause::Wiring(WiringError::Datapath(e)) => match e {
                DatapathError::NotLoaded(_) => "not-loaded",
                DatapathError::AbiMismatch { .. } => "version",
                DatapathError::Full { .. } => "full",
                DatapathError::Owner { .. } | DatapathError::Published { .. } => "conflict",
                _ => "failed",
            },
            Cause::Netns(NetnsError::Another(_)) => "another",
            Cause::Netns(NetnsError::Busy { .. }) => "busy",
            Cause::Netns(e) | Cause::Wiring(WiringError::Netns(e)) if e.is_absent() => "absent",
            Cause::Wiring(WiringError::Taken { .. }) => "exists",
            _ => "failed",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match (self.op, self.kind()) {
            (_, "exists") => Some("remove it, or choose another name"),
            (Op::Open, "not-loaded" | "version") => Some("`netns down` and `netns up` make it anew"),
            (_, "another") => Some("give that namespace another name; `netns repair` then makes the pod's anew"),
            _ => None,
        }
    }
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unsupported() {
            return self.source.fmt(f);
        }
        write!(f, "{} {}: {}", self.op.as_str(), self.object, self.source)
    }
}

impl std::error::Error for PlatformError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.source)
    }
}

/// Says what was tried when something fails.
pub trait Tried<T> {
    /// With what was tried and on what.
    fn tried(self, op: Op, object: Object) -> Result<T, PlatformError>;
}

impl<T, E: Into<Cause>> Tried<T> for Result<T, E> {
    fn tried(self, op: Op, object: Object) -> Result<T, PlatformError> {
        self.map_err(|e| PlatformError::new(op, object, e))
    }
}
