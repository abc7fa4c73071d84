//! The `netns` command: parse, dispatch, exit status.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use netns::cli::{Cli, CliError, Format, Verb, Warnings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    ExitCode::from(run())
}

/// Returns the exit status.
fn run() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() && wants_json(std::env::args_os()) => {
            eprintln!("{}", CliError::usage_json(&e.to_string()));
            return 2;
        }
        Err(e) => e.exit(),
    };
    let format = cli.global.output;
    let warnings = Warnings::new(matches!(cli.verb, Verb::Run(_) | Verb::Agent(_)));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,aya=error"));
    match format {
        Format::Text => tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .without_time()
            .init(),
        Format::Json => tracing_subscriber::registry().with(filter).with(warnings.clone()).init(),
    }
    // On this one thread: a verb may move into its instance's host namespace, and everything after it stays there.
    match cli.run() {
        Ok(status) => {
            if let Some(document) = warnings.document() {
                eprintln!("{document}");
            }
            status
        }
        Err(e) => {
            match format {
                Format::Text => eprintln!("netns: {e}"),
                Format::Json => eprintln!("{}", warnings.beside(&e.to_json())),
            }
            e.exit_status()
        }
    }
}

/// Whether a command line that could not be read asked for JSON.
fn wants_json(args: impl Iterator<Item = OsString>) -> bool {
    let args: Vec<_> = args.map(|a| a.to_string_lossy().into_owned()).collect();
    let joined = ["-ojson", "-o=json", "--output=json"];
    args.iter().any(|a| joined.contains(&a.as_str()))
        || args.windows(2).any(|w| (w[0] == "-o" || w[0] == "--output") && w[1] == "json")
}
