//! `netns attach`.

use clap::Args;
use serde::Serialize;

use super::add::namespace_name;
use super::owner::{Owners, denied};
use super::{CliError, Global};
use crate::netns::{Netns, NetnsError, require_lasting_names};
use crate::probe;
use crate::topology::{InputError, Problem};

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

/// A name that is another's is refused input.
pub(super) fn taken(name: &str, error: NetnsError) -> CliError {
    if error.is_exists() { InputError::new("NAME", name, Problem::NameTaken).into() } else { error.into() }
}

/// Bare namespaces may be made anywhere, as by `ip netns`: whoever does it for the program's life alone is served.
pub(super) fn warn_if_cut_off() -> Result<(), CliError> {
    match require_lasting_names() {
        Err(e @ NetnsError::NamesCutOff) => tracing::warn!("{e}"),
        done => done?,
    }
    Ok(())
}
