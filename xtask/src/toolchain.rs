//! Finds the compiler and the linker of the eBPF crate, and runs cargo with them.
//!
//! Shared by `cargo xtask` and, through `#[path]`, by `userspace/build.rs`: both must agree, and a build script cannot
//! depend on xtask. So nothing here needs more than `std`.
//!
//! The compiler is the first of these that can make `core` for the eBPF target:
//! 1. the one `NETNS_EBPF_RUSTC` names (it must do: there is no silent second choice),
//! 2. rustup's nightly, with the component `rust-src` (`core` is built by `-Zbuild-std`),
//! 3. a distribution's `/usr/bin/rustc` with a prebuilt `core` (Debian: `rustc-web` and `libstd-rust-web-dev-bpf`).

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Environment variable: the path of a rustc to compile the eBPF crate with; its `cargo` is looked for beside it.
pub const RUSTC_VAR: &str = "NETNS_EBPF_RUSTC";

/// The eBPF crate's package and binary name.
pub const PACKAGE: &str = "netns-ebpf";

/// The oldest bpf-linker that is known to link what the compilers above emit (LLVM 22).
pub const LINKER_MIN: Version = Version(0, 13, 0);

/// The eBPF target of this machine's byte order.
pub const TARGET: &str = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Separator of `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\u{1f}";

/// Prefixes of variables that the outer cargo, rustup or clippy set for *their* compiler, and that would reach ours.
const FOREIGN_PREFIXES: [&str; 13] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_",
    "CARGO_FEATURE_",
    "CARGO_INCREMENTAL",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CLIPPY_",
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
];

/// Variables of the same kind by their whole name. Build scripts of our dependencies watch `HOST`: were it there in one
/// way of starting us and not in the other, everything would be compiled again each time.
const FOREIGN: [&str; 8] = ["CARGO", "DEBUG", "HOST", "OPT_LEVEL", "OUT_DIR", "PROFILE", "RUSTUP_TOOLCHAIN", "TARGET"];

/// A compiler and a linker that can make the eBPF object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: PathBuf,
    /// The cargo that goes with it.
    pub cargo: PathBuf,
    /// Where `core` comes from.
    pub core: CoreLibrary,
    /// bpf-linker.
    pub linker: PathBuf,
}

/// Where `core` for the eBPF target comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreLibrary {
    /// It is in the compiler's sysroot.
    Prebuilt,
    /// Cargo builds it from `rust-src`.
    BuildStd,
}

/// A released version: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

/// What is missing, in words an operator can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// `NETNS_EBPF_RUSTC` names something that does not do.
    ExplicitCompiler {
        /// The variable's value.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// No compiler of the list does; a line for each one tried.
    Compiler(Vec<String>),
    /// No bpf-linker in `PATH` or cargo's bin directory.
    Linker,
    /// The bpf-linker there is too old.
    OldLinker {
        /// Where it is.
        path: PathBuf,
        /// What it said of its version.
        version: String,
    },
}

impl Toolchain {
    /// Looks at the machine; starts the compilers and the linker to ask them, and changes nothing.
    pub fn discover() -> Result<Self, Missing> {
        let (rustc, cargo, core) = compiler()?;
        Ok(Self { rustc, cargo, core, linker: linker()? })
    }

    /// A cargo command over the eBPF crate: `cargo <verb> --package netns-ebpf --release --target ...`.
    ///
    /// `arch` is the architecture the programs will run on (the layout of `pt_regs` depends on it); `target_dir` must
    /// not be the outer cargo's, which holds that one's lock.
    pub fn cargo_command(&self, verb: &str, workspace: &Path, target_dir: &Path, arch: &str) -> Command {
        let mut command = Command::new(&self.cargo);
        for (name, _) in env::vars_os().filter(|(name, _)| is_foreign(name)) {
            command.env_remove(name);
        }
        let flags = [
            format!("--cfg=bpf_target_arch=\"{arch}\""),
            "-Cdebuginfo=2".into(),
            "-Ctarget-cpu=v3".into(),
            "-Ctarget-feature=+allows-misaligned-mem-access".into(),
            "-Clink-arg=--btf".into(),
        ];
        command
            .current_dir(workspace)
            .env("RUSTC", &self.rustc)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join(FLAG_SEPARATOR))
            .env(format!("CARGO_TARGET_{}_LINKER", TARGET.to_uppercase().replace('-', "_")), &self.linker)
            .args([verb, "--locked", "--package", PACKAGE, "--release", "--target", TARGET, "--target-dir"])
            .arg(target_dir);
        match self.core {
            // aya-ebpf asks for unstable features of BPF targets; ours for one, inline assembly.
            CoreLibrary::Prebuilt => command.env("RUSTC_BOOTSTRAP", "aya_ebpf,netns_ebpf"),
            CoreLibrary::BuildStd => command.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=core"),
        };
        command
    }

    /// Where [`Self::cargo_command`]'s `build` leaves the object.
    pub fn object(target_dir: &Path) -> PathBuf {
        target_dir.join(TARGET).join("release").join(PACKAGE)
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = match self.core {
            CoreLibrary::Prebuilt => "prebuilt core",
            CoreLibrary::BuildStd => "core from rust-src",
        };
        write!(f, "{} ({core}), {}", self.rustc.display(), self.linker.display())
    }
}

impl Version {
    /// The first `a.b.c` of a tool's `--version` output, whatever surrounds it.
    pub fn parse(output: &str) -> Option<Self> {
        output.split_whitespace().find_map(|word| {
            let mut parts = word.split(['.', '-', '+']).map(|part| part.parse().ok());
            Some(Self(parts.next()??, parts.next()??, parts.next()??))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExplicitCompiler { path, reason } => {
                write!(f, "{RUSTC_VAR}={}: {reason}; unset it or name another compiler", path.display())
            }
            Self::Compiler(tried) => {
                write!(f, "no compiler for the eBPF target {TARGET} ({})", tried.join("; "))?;
                write!(
                    f,
                    ": run `cargo xtask setup`, or install rustup's nightly with `rust-src`, or name one in {RUSTC_VAR}"
                )
            }
            Self::Linker => write!(
                f,
                "no bpf-linker in PATH or cargo's bin directory: run `cargo xtask setup`, \
                 or `cargo install bpf-linker` (version {LINKER_MIN} or later)"
            ),
            Self::OldLinker { path, version } => write!(
                f,
                "{} says it is {version:?}, but {LINKER_MIN} or later is needed: run `cargo xtask setup`",
                path.display()
            ),
        }
    }
}

impl std::error::Error for Missing {}

/// Whether a variable was set for another compiler than ours.
fn is_foreign(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    FOREIGN.contains(&name) || FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The compiler, its cargo and its `core`.
fn compiler() -> Result<(PathBuf, PathBuf, CoreLibrary), Missing> {
    if let Some(path) = env::var_os(RUSTC_VAR).filter(|v| !v.is_empty()).map(PathBuf::from) {
        return match core_library(&path) {
            Ok(core) => Ok((path.clone(), cargo_beside(&path), core)),
            Err(reason) => Err(Missing::ExplicitCompiler { path, reason }),
        };
    }
    let mut tried = Vec::new();
    let candidates = [("rustup's nightly", nightly()), ("/usr/bin/rustc", Some(PathBuf::from("/usr/bin/rustc")))];
    for (name, path) in candidates {
        let Some(path) = path.filter(|path| path.exists()) else {
            tried.push(format!("{name}: not installed"));
            continue;
        };
        match core_library(&path) {
            Ok(core) => return Ok((path.clone(), cargo_beside(&path), core)),
            Err(reason) => tried.push(format!("{name}: {reason}")),
        }
    }
    Err(Missing::Compiler(tried))
}

/// The compiler of rustup's nightly, if that toolchain is installed.
fn nightly() -> Option<PathBuf> {
    let mut rustup = Command::new("rustup");
    // Without this a recent rustup downloads the toolchain it is asked about.
    rustup.env("RUSTUP_AUTO_INSTALL", "0").args(["which", "--toolchain", "nightly", "rustc"]);
    output(&mut rustup).ok().map(PathBuf::from)
}

/// The cargo in the compiler's directory, else the one in `PATH`.
fn cargo_beside(rustc: &Path) -> PathBuf {
    let beside = rustc.with_file_name("cargo");
    if beside.exists() { beside } else { PathBuf::from("cargo") }
}

/// Where this compiler gets `core` for the eBPF target from, or why it cannot.
fn core_library(rustc: &Path) -> Result<CoreLibrary, String> {
    let mut command = Command::new(rustc);
    command.env_remove("RUSTUP_TOOLCHAIN").args(["--print", "sysroot"]);
    let rustlib = PathBuf::from(output(&mut command)?).join("lib").join("rustlib");
    if has_core(&rustlib.join(TARGET).join("lib")) {
        Ok(CoreLibrary::Prebuilt)
    } else if rustlib.join("src/rust/library/core/Cargo.toml").exists() {
        Ok(CoreLibrary::BuildStd)
    } else {
        Err("neither a prebuilt `core` for the target nor the component rust-src".into())
    }
}

/// Whether a directory of a sysroot holds `libcore-*.rlib`.
fn has_core(dir: &Path) -> bool {
    dir.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|e| {
                e.file_name().to_str().is_some_and(|n| n.starts_with("libcore-") && n.ends_with(".rlib"))
            })
        })
    })
}

/// bpf-linker, recent enough.
fn linker() -> Result<PathBuf, Missing> {
    let path = find_linker().ok_or(Missing::Linker)?;
    let said = output(Command::new(&path).arg("--version")).unwrap_or_else(|error| error);
    match Version::parse(&said) {
        Some(version) if version >= LINKER_MIN => Ok(path),
        _ => Err(Missing::OldLinker { path, version: said }),
    }
}

/// bpf-linker in `PATH`, else where `cargo install` puts it (which need not be in root's `PATH`).
fn find_linker() -> Option<PathBuf> {
    let in_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    in_path
        .into_iter()
        .chain(cargo_home().map(|home| home.join("bin")))
        .map(|dir| dir.join("bpf-linker"))
        .find(|p| p.is_file())
}

/// Cargo's home directory.
pub fn cargo_home() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

/// A command's standard output without the final newline; its failure in words.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_among_words() {
        assert_eq!(Version::parse("bpf-linker 0.13.0"), Some(Version(0, 13, 0)));
        assert_eq!(Version::parse("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)"), Some(Version(1, 97, 0)));
        assert_eq!(Version::parse("bpf-linker"), None);
        assert_eq!(Version::parse("1.2"), None);
        assert!(Version(0, 9, 15) < LINKER_MIN && Version(1, 0, 0) > LINKER_MIN);
    }

    #[test]
    fn the_outer_compilers_variables_stay_out_and_the_users_stay() {
        for name in
            ["RUSTC", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO", "CARGO_ENCODED_RUSTFLAGS", "RUSTUP_TOOLCHAIN"]
        {
            assert!(is_foreign(OsStr::new(name)), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_NET_OFFLINE",
            "CARGO_MAKEFLAGS",
            "RUSTUP_HOME",
            "PATH",
            "RUST_LOG",
        ] {
            assert!(!is_foreign(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_missing_toolchain_says_what_to_do() {
        let missing = Missing::Compiler(vec!["rustup's nightly: not installed".into()]);
        assert!(missing.to_string().contains("cargo xtask setup"), "{missing}");
        assert!(Missing::Linker.to_string().contains("cargo xtask setup"));
    }
}
