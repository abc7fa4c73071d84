//! `netns exec`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use clap::Args;
use serde::Serialize;

use super::name::namespace_name;
use super::owner::{Owners, of_namespace, open_namespace};
use super::{CliError, Format, Global};
use crate::instance::{Dirs, InstanceError};
use crate::netns::{Netns, NetnsError, NetnsName, exec_in, list_named, run_in};
use crate::probe;
use crate::store::Store;

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Run it in every pod and network namespace, one after the other; with --instance, in its pods
    #[arg(long)]
    pub all: bool,
    /// Name of the pod or network namespace; not with --all
    #[arg(required = true, value_name = "NAME")]
    pub name: Option<OsString>,
    /// The program and its arguments; with --all, write -- before it
    #[arg(
        required_unless_present = "all",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<OsString>,
}

/// How it went in one namespace.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The namespace.
    name: String,
    /// Exit status; `None` if a signal ended it or it was not started.
    status: Option<i32>,
    /// The signal that ended it.
    signal: Option<i32>,
    /// What it wrote to standard output; bytes that are no UTF-8 are replaced.
    stdout: String,
    /// Why it was not started.
    error: Option<String>,
}

pub(super) fn run(global: &Global, args: &ExecArgs) -> Result<u8, CliError> {
    probe::privileges()?;
    if args.all {
        // The first word of the command stands where the name would be.
        let argv: Vec<OsString> = args.name.iter().chain(&args.command).cloned().collect();
        return all(global, &argv);
    }
    let name = namespace_name(&args.name.as_deref().unwrap_or_default().to_string_lossy())?;
    // A state that cannot be read says nothing of this name.
    Owners::read().unwrap_or_default().require_own(&name)?;
    let Err(e) = exec_in(&open_namespace(&name)?, &name, &args.command);
    Err(of_namespace(&name, e))
}

/// As `ip -all netns exec`: what a program's exit status is does not matter, nor that it cannot be started; a signal that ends
/// one ends all.
fn all(global: &Global, argv: &[OsString]) -> Result<u8, CliError> {
    let mut outcomes = Vec::new();
    for name in names(global)? {
        let outcome = match global.output {
            Format::Text => {
                header(&name)?;
                one(&name, argv, Stdio::inherit())
            }
            Format::Json => one(&name, argv, Stdio::piped()),
        };
        if let (Format::Text, Some(error)) = (global.output, &outcome.error) {
            eprintln!("netns: {error}");
        }
        let ended_by_signal = outcome.signal.is_some();
        outcomes.push(outcome);
        if ended_by_signal {
            break;
        }
    }
    let status = u8::from(outcomes.last().is_some_and(|last| last.signal.is_some()));
    if global.output == Format::Json {
        global.print(&outcomes, |_| String::new())?;
    }
    Ok(status)
}

/// Every name, or those of an instance's pods if one is asked for.
fn names(global: &Global) -> Result<Vec<NetnsName>, CliError> {
    let names = list_named()?;
    let Some(instance) = &global.instance else { return Ok(names) };
    let Some(store) = Dirs::new(instance)?.open()? else { return Err(InstanceError::NotUp(instance.clone()).into()) };
    let state = store.load().map_err(InstanceError::from)?;
    Ok(names.into_iter().filter(|name| state.pod(name.as_str()).is_some()).collect())
}

fn header(name: &NetnsName) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    // Out before the program writes: it has the same standard output.
    writeln!(out, "\nnetns: {name}").and_then(|()| out.flush()).map_err(CliError::Output)
}

fn one(name: &NetnsName, argv: &[OsString], stdout: Stdio) -> Outcome {
    let outcome = |status, signal, stdout, error: Option<NetnsError>| Outcome {
        name: name.to_string(),
        status,
        signal,
        stdout,
        error: error.map(|e| e.to_string()),
    };
    match Netns::open_named(name).and_then(|netns| run_in(&netns, name, argv, stdout)) {
        Ok((ended, written)) => {
            outcome(ended.code(), ended.signal(), String::from_utf8_lossy(&written).into_owned(), None)
        }
        Err(e) => outcome(None, None, String::new(), Some(e)),
    }
}
