//! The verbs: from a topology to a running instance and back.
//!
//! A mutating verb takes the instance's lock, undoes what a killed predecessor left, judges its input against the host
//! and the store (`plan`), writes its intent, changes the kernel, and marks its rows ready in one step. Until then its
//! rows are `creating`; a failure and a later verb that finds them undo them by the same code, so there is one way back.

mod carry_on;
mod difference;
mod dirs;
mod error;
mod export;
mod kernel;
mod lock;
mod plan;
mod platform;
mod preview;
mod reserve;
mod session;
mod specs;
mod status;
mod verbs;
mod view;
mod wanted;
mod wreck;

use crate::store::{State, Store};

pub use difference::{Device, Difference, DifferenceView, Inside, Led, Present, Repair, Trouble, Way, differences};
pub use dirs::{
    BPFFS, DEFAULT_INSTANCE, Dirs, PIN_ROOT, SANDBOX_INSTANCE, STATE_ROOT, choose, is_hidden, leave, list, note_run_dir,
};
pub use error::InstanceError;
pub use kernel::{KernelPlatform, open_pod};
pub use plan::{ConnectRequest, Plan, PodRequest, Setting};
pub use platform::{Cause, HostPorts, Note, Object, Op, Platform, PlatformError, Tried};
pub use status::{
    DropStatus, ExhaustedStatus, FlowTotals, HookStatus, NetworkStatus, PodCounters, PodFlows, PodRefusals, PodStatus,
    PublishStatus, Status, Talker, UplinkStatus,
};
pub use verbs::{PublishChange, PublishRef, Unpublish};
pub use view::{Applied, AttachmentView, BackendView, InterfaceView, NetworkView, PodView, PublishView, Repaired};
pub use wanted::wanted;

/// An instance: one set of pins and state, and the kernel side it drives.
///
/// The calling thread must be in the instance's host namespace.
#[derive(Debug)]
pub struct Instance<P> {
    dirs: Dirs,
    host_netns: Option<String>,
    platform: P,
}

impl<P: Platform> Instance<P> {
    /// An instance below these directories, whose host is the named namespace, or the real one.
    pub const fn new(dirs: Dirs, host_netns: Option<String>, platform: P) -> Self {
        Self { dirs, host_netns, platform }
    }

    /// Its directories.
    pub const fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// Its kernel side.
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// What it holds; `None` when it is not up.
    ///
    /// # Errors
    ///
    /// The store is damaged.
    pub fn state(&self) -> Result<Option<State>, InstanceError> {
        let Some(store) = self.dirs.open()? else { return Ok(None) };
        let state = store.load()?;
        Ok(state.instance.is_some().then_some(state))
    }
}

#[cfg(test)]
mod tests;
