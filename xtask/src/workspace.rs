//! Where things are in the checkout.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::Run;
use crate::toolchain::{self, Toolchain};

/// The workspace's root directory.
pub fn root() -> PathBuf {
    // Cargo sets the variable for `cargo run`, so a moved checkout still finds itself.
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest_dir).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Cargo's target directory: the one this executable was built in.
pub fn target_dir() -> Result<PathBuf> {
    let exe = env::current_exe().context("cannot find this executable")?;
    let target = exe.ancestors().nth(2).with_context(|| format!("{} is not in a target directory", exe.display()))?;
    Ok(target.to_path_buf())
}

/// The cargo that started us, else the one in `PATH`, at the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where the eBPF crate is built: the directory `userspace/build.rs` uses too, so that nothing is compiled twice.
pub fn ebpf_target_dir() -> Result<PathBuf> {
    Ok(target_dir()?.join(toolchain::PACKAGE))
}

/// Builds the eBPF object and returns its path.
pub fn build_object(toolchain: &Toolchain) -> Result<PathBuf> {
    let target_dir = ebpf_target_dir()?;
    toolchain.cargo_command("build", &root(), &target_dir, env::consts::ARCH).run()?;
    Ok(Toolchain::object(&target_dir))
}

/// Builds the release binary `netns` and returns its path.
pub fn build_netns() -> Result<PathBuf> {
    cargo().args(["build", "--release", "--package", "netns", "--bin", "netns"]).run()?;
    Ok(target_dir()?.join("release").join("netns"))
}
