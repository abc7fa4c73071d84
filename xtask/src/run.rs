//! `cargo xtask run`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::process::Run;
use crate::{root, setup, workspace};

/// Arguments of `run`.
#[derive(clap::Args)]
pub struct Args {
    /// Arguments of `netns run`, after `--`: for example `-- --check`, `-- --config FILE`
    #[arg(last = true)]
    netns: Vec<OsString>,
}

/// Builds `netns` and becomes `netns run`, so that signals and the exit status are its own.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::build()?;
    let netns = workspace::build_netns()?;
    let netns = netns.to_str().with_context(|| format!("{} is not UTF-8", netns.display()))?;
    Err(root::command(netns, "(it makes namespaces and loads eBPF programs)").arg("run").args(&args.netns).become_it())
}
