//! Compiles the eBPF crate and leaves the object as `netns-ebpf.o` in `OUT_DIR`, where the library embeds it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use toolchain::Toolchain;

/// What the object is made of, from the workspace's root.
const INPUTS: [&str; 5] = ["Cargo.lock", "Cargo.toml", "netns-ebpf", "netns-ebpf-common", "xtask/src/toolchain.rs"];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error}");
            // Cargo shows a build script's standard error, here the compiler's own words, only if it fails.
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir.parent().ok_or("the package is not in a workspace")?;
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    println!("cargo::rerun-if-env-changed={}", toolchain::RUSTC_VAR);

    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let target_dir = ebpf_target_dir(&out_dir);
    let toolchain = Toolchain::discover()?;
    let mut cargo = toolchain.cargo_command("build", workspace, &target_dir, &variable("CARGO_CFG_TARGET_ARCH")?);
    if env::var_os("CARGO_FEATURE_TRACE").is_some() {
        cargo.args(["--features", "trace"]);
    }
    let status = cargo.status().map_err(|error| format!("{}: {error}", toolchain.cargo.display()))?;
    if !status.success() {
        return Err(format!("the eBPF crate does not build ({status}) with {toolchain}").into());
    }
    let object = Toolchain::object(&target_dir);
    fs::copy(&object, out_dir.join("netns-ebpf.o")).map_err(|error| format!("{}: {error}", object.display()))?;
    Ok(())
}

/// A directory all profiles of this workspace share, as the object is the same in all of them.
///
/// `OUT_DIR` is `<target>/<profile>/build/<package>/out`; where it is not, its own directory does.
fn ebpf_target_dir(out_dir: &Path) -> PathBuf {
    let mut above = out_dir.ancestors().skip(2);
    match (above.next(), above.nth(1)) {
        (Some(build), Some(target)) if build.ends_with("build") => target.join(toolchain::PACKAGE),
        _ => out_dir.join("target"),
    }
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
