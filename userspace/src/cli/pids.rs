//! `netns pids` and `netns identify`.

use clap::Args;
use serde::Serialize;

use super::name::namespace_name;
use super::owner::{denied, open_namespace};
use super::{CliError, Global};
use crate::netns::{Netns, names_of, pids_in};
use crate::probe;

/// Arguments of `pids`.
#[derive(Debug, Args)]
pub struct PidsArgs {
    /// Name of the pod or network namespace
    pub name: String,
}

/// Arguments of `identify`.
#[derive(Debug, Args)]
pub struct IdentifyArgs {
    /// The process [default: this command, so whoever called it]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
}

#[derive(Debug, Serialize)]
struct Pids {
    name: String,
    pids: Vec<i32>,
}

#[derive(Debug, Serialize)]
struct Names {
    pid: Option<i32>,
    names: Vec<String>,
}

pub(super) fn pids(global: &Global, args: &PidsArgs) -> Result<u8, CliError> {
    // Without them some processes are out of sight, and the list would be short without saying so.
    probe::privileges()?;
    let netns = open_namespace(&namespace_name(&args.name)?)?;
    let found = Pids { name: args.name.clone(), pids: pids_in(netns.id())? };
    global.print(&found, |found| lines(&found.pids))?;
    Ok(0)
}

pub(super) fn identify(global: &Global, args: &IdentifyArgs) -> Result<u8, CliError> {
    let netns = args.pid.map_or_else(Netns::current, Netns::of_pid).map_err(denied)?;
    let names = names_of(netns.id())?.iter().map(ToString::to_string).collect();
    global.print(&Names { pid: args.pid, names }, |found| lines(&found.names))?;
    Ok(0)
}

fn lines<T: ToString>(items: &[T]) -> String {
    items.iter().map(|item| format!("{}\n", item.to_string())).collect()
}
