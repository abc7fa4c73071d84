//! `netns up` and `netns plan`.

use std::path::PathBuf;

use clap::Args;

use super::open::{in_file, open, read_topology};
use super::repair::DIFFERENT;
use super::table::{list, networks_of};
use super::{CliError, Global};
use crate::instance::{Applied, InterfaceView, PublishView, Setting};
use crate::netns::require_lasting_names;
use crate::topology::{Document, InputError, Problem};

/// Arguments of `up` and `plan`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// The topology file; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Delete pods that came from a file and are not in this one although processes run in them; also takes a file that declares
    /// nothing at its word
    #[arg(long)]
    pub prune: bool,
}

pub(super) fn run(global: &Global, args: &UpArgs) -> Result<u8, CliError> {
    let dirs = global.dirs("up")?;
    // Before the file is read: also one that is refused was to be up.
    dirs.want();
    let document = wanted(args)?;
    let mut instance = open(dirs.clone())?;
    let applied = if args.prune { instance.up(&document) } else { instance.up_sparing(&document) };
    let applied = applied.map_err(in_file(&args.file))?;
    dirs.unwant();
    global.print(&applied, text)?;
    Ok(0)
}

pub(super) fn plan(global: &Global, args: &UpArgs) -> Result<u8, CliError> {
    let document = wanted(args)?;
    let mut instance = open(global.dirs("plan")?)?;
    let planned = instance.plan(&document, args.prune).map_err(in_file(&args.file))?;
    global.print(&planned, text)?;
    Ok(if planned.changed { DIFFERENT } else { 0 })
}

/// What the file says, if it may be meant.
fn wanted(args: &UpArgs) -> Result<Document, CliError> {
    let document = read_topology(&args.file)?;
    if document.declares_nothing() && !args.prune {
        let error = InputError::new("the file", "", Problem::DeclaresNothing);
        return Err(CliError::File { path: args.file.clone(), error });
    }
    require_lasting_names()?;
    Ok(document)
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
    for Setting { object, key, from, to } in &applied.settings_changed {
        out.push_str(&format!("= {object} {key}: {from} to {to}\n"));
    }
    let mut line = |sign: char, what: &str, name: &str, more: String| {
        out.push_str(&format!("{sign} {what:<8} {name}{more}\n"));
    };
    for difference in &applied.mended {
        line('~', "mended", &difference.object, format!(": {}", difference.message));
    }
    for publish in &applied.publishes_removed {
        line('-', "publish", &publish.publish, format!("  of {}", publish.pod));
    }
    for pod in &applied.pods_removed {
        line('-', "pod", pod, String::new());
    }
    for interface in &applied.interfaces_removed {
        let more = format!("  {}  in {}", interface.attachment.ifname, interface.attachment.network);
        line('-', "pod", &interface.pod, more);
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
        let adopted = pod.adopted.as_ref().map_or_else(String::new, |from| format!("  (namespace of {from})"));
        line(
            '+',
            "pod",
            &pod.name,
            format!("  {}  in {}{adopted}", list(&pod.addresses), networks_of(&pod.attachments)),
        );
    }
    for interface in &applied.interfaces_added {
        let InterfaceView { pod, attachment } = interface;
        let more = format!("  {}  {}  in {}", attachment.ifname, list(&attachment.addresses), attachment.network);
        line('+', "pod", pod, more);
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
