//! Set-up, run, test, lint and bench of the workspace: `cargo xtask help`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod lint;
mod process;
mod root;
mod run;
mod setup;
mod test;
mod toolchain;
mod verifier;
mod workspace;

/// Set-up, run, test, lint and bench of netns.
///
/// Every command does the set-up it needs by itself: on Debian it installs what is missing (through sudo if need be),
/// elsewhere it says what to install. NETNS_EBPF_RUSTC names the compiler for the eBPF programs; without it that is
/// rustup's nightly with rust-src, else /usr/bin/rustc with a prebuilt `core` for the target.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building, running and testing need; under a second when nothing is missing
    Setup,
    /// Build the release binary and run `netns run ARGS`: the sandbox if there are none
    Run(run::Args),
    /// Run the whole test suite, as root; each test isolates itself in namespaces of its own
    Test(test::Args),
    /// Run rustfmt, clippy (host crates and eBPF crate), rustdoc and the verifier report; warnings are errors
    Lint,
    /// Load every eBPF program and hold its instructions and stack against the committed baseline
    Verifier(verifier::Args),
    /// Measure a direct veth pair, bridge + iptables, and netns, in turns; medians and ratios
    Bench(bench::Args),
    #[command(hide = true)]
    BenchInside(bench::Args),
    #[command(hide = true)]
    BenchPrograms,
    #[command(hide = true)]
    BenchFlows { first: u32, count: u32 },
    #[command(hide = true, subcommand)]
    Crr(bench::crr::Side),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::setup(),
        Command::Run(args) => run::run(&args),
        Command::Test(args) => test::test(&args),
        Command::Lint => lint::lint(),
        Command::Verifier(args) => verifier::verifier(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::BenchInside(args) => bench::inside(&args),
        Command::BenchPrograms => bench::programs::print().map(|()| ExitCode::SUCCESS),
        Command::BenchFlows { first, count } => bench::verbs::load::send(first, count).map(|()| ExitCode::SUCCESS),
        Command::Crr(side) => bench::crr::run(&side).map(|()| ExitCode::SUCCESS),
    }
}
