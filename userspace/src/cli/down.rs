//! `netns down`.

use clap::Args;

use super::open::open_wreck;
use super::{CliError, Global};

/// Arguments of `down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// If the state file is another version's, remove what can be recognised as the instance's
    #[arg(long)]
    pub force: bool,
}

pub(super) fn run(global: &Global, args: &DownArgs) -> Result<u8, CliError> {
    let dirs = global.dirs("down")?;
    dirs.unwant();
    let mut instance = open_wreck(dirs)?;
    let applied = if args.force { instance.down_force()? } else { instance.down()? };
    global.print(&applied, |a| {
        if a.changed {
            let (pods, networks) = (a.pods_removed.len(), a.networks_removed.len());
            let mut out = format!("instance {}: down ({pods} pods, {networks} networks removed)", a.instance);
            for gone in &a.not_found {
                out.push_str(&format!("\nnot found: {gone}"));
            }
            out
        } else {
            format!("instance {}: was not up", a.instance)
        }
    })?;
    Ok(0)
}
