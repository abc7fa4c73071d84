//! The sandbox: a pod host to play with, in namespaces of its own.
//!
//! It has a host namespace with one uplink, a LAN at the other end of it, and the topology of `default.toml`. Nothing
//! of the machine's own network is touched.

pub mod layout;
mod picture;
mod record;
mod stage;

use std::io;

use crate::check::{self, Places, Report};
use crate::instance::{Applied, Dirs, Instance, InstanceError, Platform};
use crate::netlink::NetlinkError;
use crate::netns::{Netns, NetnsError, list_named};
use crate::sysctl::SysctlError;
use crate::topology;

pub use picture::picture;
pub use record::recorded_names;

use layout::{HOST, INSTANCE, LAN, PODS};
use record::Record;
use stage::Stage;

/// The topology of the sandbox, as a file would say it.
pub const DEFAULT_TOPOLOGY: &str = include_str!("default.toml");

/// Why the sandbox cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Another process runs it.
    #[error("a sandbox is running already: end it first, or look at it with `netns --instance sandbox status`")]
    Running,
    /// A name it needs is taken.
    #[error(
        "a network namespace named {0:?} exists already, and the sandbox needs the name: delete it with `netns del {0}` or `ip netns del {0}`"
    )]
    Taken(String),
    /// Its own file is out of reach.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file.
        path: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A namespace cannot be made, entered or removed.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A link, address or route cannot be made.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting cannot be made.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The topology cannot be brought up or taken down.
    #[error(transparent)]
    Instance(#[from] InstanceError),
}

impl SandboxError {
    /// The process's exit status: 2 for what was refused before anything changed, 1 for the rest.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Running | Self::Taken(_) => 2,
            Self::Instance(e) => e.exit_status(),
            _ => 1,
        }
    }
}

/// A sandbox that is up. It stays when this is dropped: [`Sandbox::down`] removes it.
#[derive(Debug)]
pub struct Sandbox<P> {
    stage: Stage,
    instance: Instance<P>,
    applied: Applied,
}

impl<P: Platform> Sandbox<P> {
    /// Brings the sandbox up and moves the calling thread, for good, into the namespace that plays the host.
    ///
    /// What a killed sandbox has left is removed first. `platform` is called inside that namespace.
    ///
    /// # Errors
    /// [`SandboxError::Running`] and [`SandboxError::Taken`] before anything is made; after any other nothing is left.
    pub fn up(platform: impl FnOnce() -> Result<P, InstanceError>) -> Result<Self, SandboxError> {
        let dirs = Dirs::new(INSTANCE).map_err(InstanceError::from)?;
        let mut record = Record::open()?;
        let leftovers = record.has_leftovers() || dirs.exists();
        let free = if leftovers { record.remove_namespaces() } else { refuse_taken(&[HOST, LAN]).and(refuse_pods()) };
        if let Err(e) = free {
            record.close();
            return Err(e);
        }
        let stage = Stage::set(record)?;
        match Self::bring_up(&stage, dirs, leftovers, platform) {
            Ok((instance, applied)) => Ok(Self { stage, instance, applied }),
            Err(e) => {
                // The first error is the one to report; what could not be removed is on record.
                let _ = stage.strike();
                Err(e)
            }
        }
    }

    fn bring_up(
        stage: &Stage,
        dirs: Dirs,
        leftovers: bool,
        platform: impl FnOnce() -> Result<P, InstanceError>,
    ) -> Result<(Instance<P>, Applied), SandboxError> {
        stage.host().enter()?;
        let mut instance = Instance::new(dirs, Some(HOST.to_owned()), platform()?);
        if leftovers {
            // Its devices went with the old host namespace; pods, pins and state are left.
            instance.down()?;
            refuse_pods()?;
        }
        let document = topology::parse(DEFAULT_TOPOLOGY).map_err(InstanceError::from)?;
        let applied = instance.up(&document)?;
        Ok((instance, applied))
    }

    /// The instance behind it.
    pub fn instance(&self) -> &Instance<P> {
        &self.instance
    }

    /// The same, to follow the host's changes with.
    pub fn instance_mut(&mut self) -> &mut Instance<P> {
        &mut self.instance
    }

    /// What was brought up.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The namespace that plays the host.
    pub fn host(&self) -> &Netns {
        self.stage.host()
    }

    /// Removes every trace. The calling thread stays in what was the host namespace.
    ///
    /// # Errors
    /// What could not be removed; the next sandbox tries again.
    pub fn down(mut self) -> Result<(), SandboxError> {
        self.instance.down()?;
        self.stage.strike()
    }
}

/// Sends real traffic along every path of a sandbox that is up. Blocks for a few seconds.
///
/// # Errors
/// A namespace is gone. A path that does not hold is in the report.
pub fn check() -> Result<Report, NetnsError> {
    let pods = PODS.iter().map(|site| site.place);
    let places = Places::open([HOST, LAN].into_iter().chain(pods).map(|name| (name, name)))?;
    Ok(check::run(&places, &check::sandbox_cases()))
}

fn refuse_pods() -> Result<(), SandboxError> {
    refuse_taken(&PODS.map(|site| site.place))
}

fn refuse_taken(names: &[&str]) -> Result<(), SandboxError> {
    let taken = list_named()?;
    match names.iter().find(|name| taken.iter().any(|taken| taken.as_str() == **name)) {
        Some(name) => Err(SandboxError::Taken((*name).to_owned())),
        None => Ok(()),
    }
}
