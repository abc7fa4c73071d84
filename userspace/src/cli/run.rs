//! `netns run`: up, counters until a signal, down.

use std::path::{Path, PathBuf};

use clap::Args;

use super::open::{in_file, open, read_topology};
use super::watch::{Signals, live, watch};
use super::{CliError, Global, up};
use crate::netns::require_lasting_names;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A topology file to run on this host, instead of the sandbox
    #[arg(short, long, value_name = "FILE", conflicts_with = "check")]
    pub config: Option<PathBuf>,
    /// Send real traffic along every path of the sandbox, print a row for each, and end
    #[arg(long)]
    pub check: bool,
}

pub(super) fn run(global: &Global, args: &RunArgs) -> Result<u8, CliError> {
    // Before anything is made: a signal from here on ends in `down`, not in leftovers.
    let mut signals = Signals::new().map_err(CliError::Signals)?;
    match &args.config {
        Some(path) => run_file(global, path, &mut signals),
        None => super::sandbox::run(global, args.check, &mut signals),
    }
}

fn run_file(global: &Global, path: &Path, signals: &mut Signals) -> Result<u8, CliError> {
    let document = read_topology(path)?;
    require_lasting_names()?;
    let mut instance = open(global.dirs("run")?)?;
    let was_up = instance.state()?.is_some();
    let applied = instance.up_sparing(&document).map_err(in_file(path))?;
    let watched = match global.print(&applied, up::text) {
        Ok(()) => watch(&mut instance, signals, live(global)),
        Err(e) => Err(e),
    };
    // What was up before is somebody's: it is watched, and left as the file says.
    if !was_up {
        instance.down()?;
    }
    watched?;
    Ok(0)
}
