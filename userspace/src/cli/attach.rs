//! `netns attach`.

use clap::Args;
use serde::Serialize;

use super::name::{namespace_name, taken, warn_if_cut_off};
use super::owner::{Owners, denied};
use super::{CliError, Global};
use crate::netns::Netns;
use crate::probe;

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The name to give
    pub name: String,
    /// A process in the network namespace
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: i32,
}

#[derive(Debug, Serialize)]
struct Attached {
    changed: bool,
    namespace: String,
    pid: i32,
}

pub(super) fn run(global: &Global, args: &AttachArgs) -> Result<u8, CliError> {
    probe::privileges()?;
    let name = namespace_name(&args.name)?;
    Owners::read()?.require_free(&args.name)?;
    warn_if_cut_off()?;
    let netns = Netns::of_pid(args.pid).map_err(denied)?;
    let changed = netns.attach(&name).map_err(|e| taken(&args.name, e))?;
    let attached = Attached { changed, namespace: args.name.clone(), pid: args.pid };
    global.print(&attached, |a| {
        if a.changed {
            format!("+ network namespace {} (of process {})", a.namespace, a.pid)
        } else {
            format!("network namespace {}: nothing to change", a.namespace)
        }
    })?;
    Ok(0)
}
