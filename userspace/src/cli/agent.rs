//! `netns agent`: follows an instance, and leaves it up when it ends.

use std::path::PathBuf;

use clap::Args;
use sd_notify::NotifyState;

use super::open::{in_file, open, read_topology};
use super::watch::{Signals, watch};
use super::{CliError, Global, up};
use crate::instance::InstanceError;
use crate::netns::require_lasting_names;

/// Arguments of `agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Bring this topology up first
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: &AgentArgs) -> Result<u8, CliError> {
    let mut signals = Signals::new().map_err(CliError::Signals)?;
    let dirs = global.dirs("agent")?;
    if args.config.is_some() {
        dirs.want();
    }
    let mut instance = open(dirs.clone())?;
    if let Some(path) = &args.config {
        require_lasting_names()?;
        let document = read_topology(path)?;
        let applied = instance.up_sparing(&document).map_err(in_file(path))?;
        dirs.unwant();
        global.print(&applied, up::text)?;
    } else if instance.state()?.is_none() {
        return Err(InstanceError::NotUp(instance.dirs().name().to_owned()).into());
    }
    tell(NotifyState::Ready);
    watch(&mut instance, &mut signals, None)?;
    tell(NotifyState::Stopping);
    Ok(0)
}

/// Tells the service manager, if there is one that wants to know.
fn tell(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot tell the service manager: {e}");
    }
}
