//! `netns add`.

use std::net::IpAddr;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::name::{namespace_name, taken, warn_if_cut_off};
use super::open::open;
use super::owner::Owners;
use super::publish::publishes;
use super::{CliError, Global, up};
use crate::instance::{Applied, PodRequest, STATE_ROOT, wanted};
use crate::netns::{Netns, require_lasting_names};
use crate::probe;
use crate::topology::{Adopt, InputError, Problem};

/// Arguments of `add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Name of the pod and of its network namespace
    pub name: String,
    /// Its network; may be left out when the instance has one. Given several times: an interface in each
    #[arg(short, long = "network", value_name = "NETWORK")]
    pub networks: Vec<String>,
    /// An address; may be given once per family and network, and is allocated otherwise
    #[arg(short, long = "address", value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// Ports to publish: `[ADDRESS:]HOSTPORT[-END]:PODPORT[-END][/tcp|udp|sctp]`
    #[arg(short, long = "publish", value_name = "PORTS")]
    pub publishes: Vec<String>,
    /// Take somebody else's network namespace: a name as `ip netns` has it, an absolute path, or a process id. `del` takes out
    /// of it what was put in, and leaves it
    #[arg(long, value_name = "NETNS")]
    pub adopt: Option<String>,
    /// A bare network namespace, also when an instance is up
    #[arg(long, conflicts_with_all = ["networks", "addresses", "publishes", "adopt"])]
    pub bare: bool,
}

/// What `add` prints when it made a bare namespace.
#[derive(Debug, Serialize)]
struct Bare {
    instance: Option<String>,
    changed: bool,
    namespace: String,
}

pub(super) fn run(global: &Global, args: &AddArgs) -> Result<u8, CliError> {
    if args.bare {
        return bare(global, &args.name, "");
    }
    let dirs = global.dirs("add")?;
    let plain =
        args.networks.is_empty() && args.addresses.is_empty() && args.publishes.is_empty() && args.adopt.is_none();
    if !dirs.exists() && global.instance.is_none() && plain {
        namespace_name(&args.name)?;
        if let Some(instance) = wanted(Path::new(STATE_ROOT)).into_iter().next() {
            return Err(CliError::Wanted(instance));
        }
        return bare(global, &args.name, "no instance is up; `netns up -f FILE` starts one");
    }
    let request = PodRequest {
        name: args.name.clone(),
        networks: args.networks.clone(),
        addresses: addresses(&args.addresses)?,
        adopt: args.adopt.as_deref().map(adopt).transpose()?,
        publishes: publishes("--publish", &args.publishes)?,
    };
    require_lasting_names()?;
    let mut instance = open(dirs)?;
    let applied: Applied = instance.add(&request)?;
    global.print(&applied, up::text)?;
    Ok(0)
}

fn bare(global: &Global, name: &str, why: &str) -> Result<u8, CliError> {
    probe::privileges()?;
    let checked = namespace_name(name)?;
    Owners::read()?.require_free(name)?;
    warn_if_cut_off()?;
    Netns::create_named(&checked).map_err(|e| taken(name, e))?;
    let made = Bare { instance: None, changed: true, namespace: name.to_owned() };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    global.print(&made, |m| format!("+ network namespace {} (bare{why})", m.namespace))?;
    Ok(0)
}

fn adopt(text: &str) -> Result<Adopt, InputError> {
    text.parse().map_err(|problem| InputError::new("--adopt", text, problem))
}

/// Addresses as `--address` gives them.
pub(super) fn addresses(given: &[String]) -> Result<Vec<IpAddr>, InputError> {
    given.iter().map(|text| address(text)).collect()
}

fn address(text: &str) -> Result<IpAddr, InputError> {
    text.parse().map_err(|_| {
        let hint = "write 10.244.0.10 or fd00:244::10, without a prefix length".to_owned();
        InputError::new("--address", text, Problem::Address(hint))
    })
}
