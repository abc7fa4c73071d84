//! `netns up`.

use std::path::PathBuf;

use clap::Args;

use super::open::{in_file, open, read_topology};
use super::table::list;
use super::{CliError, Global};
use crate::instance::{Applied, PublishView};
use crate::netns::require_lasting_names;
use crate::topology::{InputError, Problem};

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// The topology file; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Take a file that declares nothing at its word: remove all networks, pods and publishes that came from files
    #[arg(long)]
    pub prune: bool,
}

pub(super) fn run(global: &Global, args: &UpArgs) -> Result<u8, CliError> {
    let document = read_topology(&args.file)?;
    if document.declares_nothing() && !args.prune {
        let error = InputError::new("the file", "", Problem::DeclaresNothing);
        return Err(CliError::File { path: args.file.clone(), error });
    }
    require_lasting_names()?;
    let mut instance = open(global.dirs("up")?)?;
    let applied = instance.up(&document).map_err(in_file(&args.file))?;
    global.print(&applied, text)?;
    Ok(0)
}

/// What a verb did, a line for each thing.
pub(super) fn text(applied: &Applied) -> String {
    if !applied.changed {
        return format!("instance {}: nothing to change\n", applied.instance);
    }
    let mut out = String::new();
    let mut line = |sign: char, what: &str, name: &str, more: String| {
        out.push_str(&format!("{sign} {what:<8} {name}{more}\n"));
    };
    if let Some(nat) = &applied.nat_changed {
        line('=', "timers", &nat.to_string(), String::new());
        line('=', "flows", &nat.limits(), String::new());
    }
    for difference in &applied.mended {
        line('~', "mended", &difference.object, format!(": {}", difference.message));
    }
    for publish in &applied.publishes_removed {
        line('-', "publish", &publish.publish, format!("  of {}", publish.pod));
    }
    for pod in &applied.pods_removed {
        line('-', "pod", pod, String::new());
    }
    for network in &applied.networks_removed {
        line('-', "network", network, String::new());
    }
    for publish in &applied.publishes_changed {
        let more = if publish.draining { "  drains at" } else { "  to" };
        line('=', "publish", &publish.publish, format!("{more} {}{}", publish.pod, clients(publish)));
    }
    for network in &applied.networks_added {
        line('+', "network", network, String::new());
    }
    for pod in &applied.pods_added {
        line('+', "pod", &pod.name, format!("  {}  in {}", list(&pod.addresses), pod.network));
    }
    for publish in &applied.publishes_added {
        line('+', "publish", &publish.publish, format!("  to {}{}", publish.pod, clients(publish)));
    }
    if out.is_empty() {
        out = format!("instance {}: up\n", applied.instance);
    }
    out
}

/// Who may come in, where that is not everybody.
fn clients(publish: &PublishView) -> String {
    if publish.allow.is_anyone() { String::new() } else { format!("  for {}", publish.allow) }
}
