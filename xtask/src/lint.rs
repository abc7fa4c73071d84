//! `cargo xtask lint`.

use std::env;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::process::Run;
use crate::toolchain::Toolchain;
use crate::{setup, verifier, workspace};

/// Runs every step, also after one that failed, and says at the end which did.
pub fn lint() -> Result<ExitCode> {
    setup::build()?;
    let toolchain = setup::toolchain()?;
    let steps: [(&str, &dyn Fn() -> Result<()>); 5] = [
        ("rustfmt", &rustfmt),
        ("clippy, host crates", &clippy),
        ("clippy, eBPF crate", &|| clippy_ebpf(&toolchain)),
        ("rustdoc", &rustdoc),
        ("verifier", &|| verifier::hold_to_baseline(&toolchain)),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        eprintln!("xtask: {name}");
        let started = Instant::now();
        match step() {
            Ok(()) => eprintln!("xtask: {name}: ok, {:.0} s", started.elapsed().as_secs_f64()),
            Err(error) => {
                eprintln!("xtask: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join("; "));
    }
    println!("lint: all {} steps ok", steps.len());
    Ok(ExitCode::SUCCESS)
}

fn rustfmt() -> Result<()> {
    workspace::cargo().args(["fmt", "--all", "--", "--check"]).run()
}

fn clippy() -> Result<()> {
    let scope = ["--workspace", "--exclude", "netns-ebpf", "--all-targets"];
    workspace::cargo().arg("clippy").args(scope).args(["--", "--deny", "warnings"]).run()
}

/// Clippy of the eBPF crate's own compiler, with and without its debugging feature.
fn clippy_ebpf(toolchain: &Toolchain) -> Result<()> {
    let cargo_clippy = toolchain.cargo.with_file_name("cargo-clippy");
    if !cargo_clippy.exists() {
        bail!(
            "there is no {}: install that toolchain's clippy (Debian: rust-web-clippy; \
             rustup: rustup component add clippy --toolchain nightly)",
            cargo_clippy.display()
        );
    }
    for features in [&[][..], &["--features", "trace"]] {
        let target_dir = workspace::ebpf_target_dir()?;
        let template = toolchain.cargo_command("clippy", &workspace::root(), &target_dir, env::consts::ARCH);
        // Started by its path: `cargo clippy` would find the host toolchain's in cargo's bin directory first.
        let mut command = Command::new(&cargo_clippy);
        for (name, value) in template.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("CARGO", &toolchain.cargo).current_dir(workspace::root()).args(template.get_args());
        command.args(features).args(["--", "--deny", "warnings"]).run()?;
    }
    Ok(())
}

fn rustdoc() -> Result<()> {
    let scope = ["--workspace", "--exclude", "netns-ebpf", "--no-deps", "--document-private-items"];
    workspace::cargo().env("RUSTDOCFLAGS", "--deny warnings").arg("doc").args(scope).run()
}
