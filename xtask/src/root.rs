//! Root: who has it, and how to get it.

use std::env;
use std::process::Command;

/// Variables that sudo drops and our children need.
const KEPT: [&str; 7] =
    ["CARGO", "CARGO_HOME", "CARGO_MANIFEST_DIR", "HOME", "PATH", "RUSTUP_HOME", "NETNS_EBPF_RUSTC"];

/// Whether we are root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command that runs `program` as root: itself if we are root, else through sudo, which is announced.
pub fn command(program: &str, why: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    eprintln!("xtask: not root: running `{program}` through sudo {why}");
    let mut sudo = Command::new("sudo");
    sudo.arg("env").args(kept_variables()).arg(program);
    sudo
}

/// `NAME=value` of what must survive sudo.
fn kept_variables() -> impl Iterator<Item = String> {
    KEPT.into_iter().filter_map(|name| env::var(name).ok().map(|value| format!("{name}={value}")))
}
