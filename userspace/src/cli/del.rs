//! `netns del`.

use clap::Args;
use serde::Serialize;

use super::name::namespace_name;
use super::open::open;
use super::owner::Owners;
use super::{CliError, Global, up};
use crate::instance::InstanceError;
use crate::netns::{Netns, delete_named, delete_named_if, identify, list_named};
use crate::probe;
use crate::store::Store;
use crate::topology::{InputError, Problem};

/// Arguments of `del`.
#[derive(Debug, Args)]
pub struct DelArgs {
    /// Name of the pod or network namespace
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub name: Option<String>,
    /// That it is not there is all right
    #[arg(long, conflicts_with = "all")]
    pub if_exists: bool,
    /// Delete every bare network namespace; pods, and what else an instance needs, stay
    #[arg(long)]
    pub all: bool,
}

/// What `del` prints when it deleted a bare namespace.
#[derive(Debug, Serialize)]
struct Bare {
    instance: Option<String>,
    changed: bool,
    namespace: String,
}

/// What `del --all` prints.
#[derive(Debug, Default, Serialize)]
struct All {
    changed: bool,
    deleted: Vec<String>,
    kept: Vec<Kept>,
}

/// A namespace an instance needs.
#[derive(Debug, Serialize)]
struct Kept {
    namespace: String,
    instance: String,
    role: &'static str,
}

pub(super) fn run(global: &Global, args: &DelArgs) -> Result<u8, CliError> {
    probe::privileges()?;
    match &args.name {
        Some(name) => one(global, name, args.if_exists),
        None => all(global),
    }
}

fn one(global: &Global, given: &str, if_exists: bool) -> Result<u8, CliError> {
    let name = namespace_name(given)?;
    let dirs = global.dirs("del")?;
    let state = match dirs.open()? {
        Some(store) => Some(store.load().map_err(InstanceError::from)?),
        None => None,
    };
    if state.is_some_and(|s| s.instance.is_some() && s.pod(given).is_some()) {
        match open(dirs)?.del(given) {
            // Another `del` was quicker.
            Err(InstanceError::NoPod(_)) if if_exists => {}
            done => {
                global.print(&done?, up::text)?;
                return Ok(0);
            }
        }
    }
    Owners::read()?.require_free(given)?;
    let changed = match list_named()?.contains(&name) {
        true => match delete_named(&name) {
            Err(e) if e.is_absent() && if_exists => false,
            done => done.map(|()| true)?,
        },
        false if if_exists => false,
        false => return Err(CliError::NoNamespace(given.to_owned())),
    };
    let gone = Bare { instance: None, changed, namespace: given.to_owned() };
    global.print(&gone, |g| {
        if g.changed {
            format!("- network namespace {}", g.namespace)
        } else {
            format!("network namespace {}: was not there", g.namespace)
        }
    })?;
    Ok(0)
}

fn all(global: &Global) -> Result<u8, CliError> {
    if let Some(instance) = &global.instance {
        let why = "--all is about bare network namespaces; `netns down` removes the pods of an instance";
        return Err(InputError::new("--instance", instance, Problem::Usage(why.to_owned())).into());
    }
    // First the namespaces, then whose they are: a pod's row is written before its namespace is made, so one that is seen
    // without an owner is nobody's. One that is made under the same name after that is another, and is not touched.
    let mut found = Vec::new();
    for name in list_named()? {
        match identify(&name) {
            Ok(identity) => found.push((name, identity)),
            Err(e) if e.is_absent() => {}
            Err(e) => return Err(e.into()),
        }
    }
    let owners = Owners::read()?.with_sandbox();
    let (mut done, mut first_error) = (All::default(), None);
    for (name, identity) in found {
        if let Some(claim) = owners.of(name.as_str()).or_else(|| owners.of_namespace(identity)) {
            let (instance, role) = (claim.instance.clone(), claim.role.as_str());
            done.kept.push(Kept { namespace: name.to_string(), instance, role });
            continue;
        }
        match delete_named_if(&name, |found| found.map(Netns::id) == identity) {
            Ok(true) => done.deleted.push(name.to_string()),
            Ok(false) => {}
            Err(e) => {
                first_error.get_or_insert(e);
            }
        }
    }
    done.changed = !done.deleted.is_empty();
    global.print(&done, text)?;
    first_error.map_or(Ok(0), |e| Err(e.into()))
}

fn text(all: &All) -> String {
    let deleted = all.deleted.iter().map(|name| format!("- network namespace {name}\n"));
    let kept = all.kept.iter().map(|k| format!("  {} stays: {} of instance {}\n", k.namespace, k.role, k.instance));
    deleted.chain(kept).collect()
}
