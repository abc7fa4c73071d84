//! `netns repair`.

use clap::Args;

use super::open::open;
use super::{CliError, Global};
use crate::instance::Repaired;

/// Exit status when something is not as it should be.
pub(super) const DIFFERENT: u8 = 3;

/// Arguments of `repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Name of the pod; without one, everything of the instance
    pub pod: Option<String>,
}

pub(super) fn run(global: &Global, args: &RepairArgs) -> Result<u8, CliError> {
    let repaired = open(global.dirs("repair")?)?.repair(args.pod.as_deref())?;
    global.print(&repaired, text)?;
    Ok(if repaired.left.is_empty() && repaired.not_mended.is_empty() { 0 } else { DIFFERENT })
}

fn text(r: &Repaired) -> String {
    let mut out = String::new();
    for d in &r.mended {
        out.push_str(&format!("~ {}: {}\n", d.object, d.message));
    }
    for why in &r.not_mended {
        out.push_str(&format!("! {why}\n"));
    }
    if out.is_empty() {
        out = format!("instance {}: nothing to mend\n", r.instance);
    }
    out
}
