//! `netns del`.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::add::namespace_name;
use super::open::open;
use super::{CliError, Global, up};
use crate::instance::{Dirs, STATE_ROOT, choose, list};
use crate::netns::{delete_named, list_named};
use crate::probe;
use crate::store::Store;

/// Arguments of `del`.
#[derive(Debug, Args)]
pub struct DelArgs {
    /// Name of the pod or network namespace
    pub name: String,
}

/// What `del` prints when it deleted a bare namespace.
#[derive(Debug, Serialize)]
struct Bare {
    instance: Option<String>,
    changed: bool,
    namespace: String,
}

pub(super) fn run(global: &Global, args: &DelArgs) -> Result<u8, CliError> {
    probe::privileges()?;
    let name = namespace_name(&args.name)?;
    let dirs = choose(global.instance.as_deref())?;
    let mut instance = open(dirs.clone())?;
    let is_pod = instance.state()?.is_some_and(|s| s.pod(&args.name).is_some());
    if is_pod {
        let applied = instance.del(&args.name)?;
        global.print(&applied, up::text)?;
        return Ok(0);
    }
    refuse_if_needed(&args.name)?;
    if !list_named()?.contains(&name) {
        return Err(CliError::NoNamespace(args.name.clone()));
    }
    delete_named(&name)?;
    let gone = Bare { instance: None, changed: true, namespace: args.name.clone() };
    global.print(&gone, |g| format!("- network namespace {}", g.namespace))?;
    Ok(0)
}

/// Refuses a namespace that is another instance's pod or some instance's host.
fn refuse_if_needed(name: &str) -> Result<(), CliError> {
    for instance in list(Path::new(STATE_ROOT)) {
        let Some(store) = Dirs::new(&instance)?.open()? else { continue };
        let state = store.load().map_err(crate::instance::InstanceError::from)?;
        let belongs = |hint| CliError::Belongs { name: name.to_owned(), instance: instance.clone(), hint };
        if state.pod(name).is_some() {
            return Err(belongs("name it with --instance"));
        }
        if state.instance.is_some_and(|r| r.host_netns.as_deref() == Some(name)) {
            return Err(belongs("it is its host; `netns down` ends the instance"));
        }
    }
    Ok(())
}
