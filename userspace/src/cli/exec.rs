//! `netns exec`.

use std::ffi::OsString;

use clap::Args;

use super::CliError;
use super::add::namespace_name;
use crate::netns::exec_in;

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Name of the pod or network namespace
    pub name: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

pub(super) fn run(args: &ExecArgs) -> Result<u8, CliError> {
    let name = namespace_name(&args.name)?;
    match exec_in(&name, &args.command) {
        Err(e) if e.is_absent() => Err(CliError::NoNamespace(args.name.clone())),
        Err(e) => Err(e.into()),
    }
}
