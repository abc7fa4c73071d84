//! `netns down`.

use clap::Args;

use super::open::{open, open_damaged};
use super::{CliError, Global};

/// Arguments of `down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// If the state file is damaged, remove what can be recognised as the instance's
    #[arg(long)]
    pub force: bool,
}

pub(super) fn run(global: &Global, args: &DownArgs) -> Result<u8, CliError> {
    let dirs = global.dirs("down")?;
    let applied = if args.force { open_damaged(dirs)?.down_force()? } else { open(dirs)?.down()? };
    global.print(&applied, |a| {
        if a.changed {
            let (pods, networks) = (a.pods_removed.len(), a.networks_removed.len());
            format!("instance {}: down ({pods} pods, {networks} networks removed)", a.instance)
        } else {
            format!("instance {}: was not up", a.instance)
        }
    })?;
    Ok(0)
}
