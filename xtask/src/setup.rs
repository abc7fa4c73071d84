//! `cargo xtask setup`: installs what is missing on Debian, says what to install elsewhere.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::process::Run;
use crate::root;
use crate::toolchain::{LINKER_MIN, Missing, Toolchain, cargo_home};
use crate::workspace;

/// A program we start, and the Debian package that has it.
struct Tool(&'static str, &'static str);

/// To build host crates with C parts (SQLite) and bpf-linker.
const BUILD_TOOLS: [Tool; 2] = [Tool("cc", "gcc"), Tool("c++", "g++")];

/// What the tests and the benchmarks measure against and look with. The product needs none of them.
const PEERS: [Tool; 15] = [
    Tool("bpftool", "bpftool"),
    Tool("curl", "curl"),
    Tool("dig", "bind9-dnsutils"),
    Tool("ip", "iproute2"),
    Tool("iperf3", "iperf3"),
    Tool("iptables", "iptables"),
    Tool("nc", "netcat-openbsd"),
    Tool("nft", "nftables"),
    Tool("nginx", "nginx"),
    Tool("nsenter", "util-linux"),
    Tool("ping", "iputils-ping"),
    Tool("sockperf", "sockperf"),
    Tool("tcpdump", "tcpdump"),
    Tool("tracepath", "iputils-tracepath"),
    Tool("traceroute", "traceroute"),
];

/// Packages whose service would serve the machine's network from its next start on.
const SERVICES: [&str; 1] = ["nginx"];

/// Runs its arguments while no package may start a service (Debian Policy section 9.3.3.3), unless the machine has a rule of
/// its own.
const WITHOUT_SERVICES: &str = r#"
policy=/usr/sbin/policy-rc.d
[ -e "$policy" ] && exec "$@"
trap 'rm -f "$policy"' EXIT
trap 'exit 130' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod 755 "$policy" && "$@"
"#;

/// A rustc with a prebuilt `core` for BPF, its cargo, and its clippy for `cargo xtask lint`.
const COMPILER_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"];

/// What bpf-linker is built from.
const LINKER_PACKAGES: [&str; 5] = ["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev", "libxml2-dev"];

/// Where those packages put LLVM.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Directories that need not be in an ordinary user's `PATH`.
const SYSTEM_DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// `cargo xtask setup`: everything, and a word when it is there.
pub fn setup() -> Result<ExitCode> {
    all()?;
    println!("nothing is missing: {}", toolchain()?);
    Ok(ExitCode::SUCCESS)
}

/// What building, testing and measuring need.
pub fn all() -> Result<()> {
    install(BUILD_TOOLS.iter().chain(&PEERS))
}

/// What building needs.
pub fn build() -> Result<()> {
    install(BUILD_TOOLS.iter())
}

/// The toolchain of the eBPF crate, after [`build`] or [`all`].
pub fn toolchain() -> Result<Toolchain> {
    Ok(Toolchain::discover()?)
}

/// Looks, installs what is missing, and looks again.
fn install<'a>(tools: impl Iterator<Item = &'a Tool>) -> Result<()> {
    let missing_tools: Vec<_> = tools.filter(|tool| find(tool.0).is_none()).collect();
    let missing = Toolchain::discover().err();
    if missing_tools.is_empty() && missing.is_none() {
        return Ok(());
    }
    if let Some(Missing::ExplicitCompiler { .. }) = &missing {
        // Whoever names a compiler wants that one: installing another would not help.
        return missing.map_or(Ok(()), |missing| Err(missing.into()));
    }
    if !is_debian() {
        bail!("{}", advice(&missing_tools, missing.as_ref()));
    }
    let mut packages: Vec<&str> = missing_tools.iter().map(|tool| tool.1).collect();
    if matches!(missing, Some(Missing::Compiler(_))) {
        packages.extend(COMPILER_PACKAGES);
    }
    apt_install(&packages)?;
    // Asked again: with no compiler, the first answer said nothing of the linker.
    if let Err(Missing::Linker | Missing::OldLinker { .. }) = Toolchain::discover() {
        install_linker()?;
    }
    Toolchain::discover().context("still missing after the installation")?;
    if let Some(tool) = missing_tools.iter().find(|tool| find(tool.0).is_none()) {
        bail!("the package {} was installed, but there is no {} in PATH", tool.1, tool.0);
    }
    Ok(())
}

/// Installs Debian packages, with apt's own progress on the terminal.
fn apt_install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: installing {}", packages.join(" "));
    // The lists of a fresh machine are empty or old; if only the update fails they may still do.
    if let Err(error) = apt_get().arg("update").run() {
        eprintln!("xtask: {error}; going on with the package lists there are");
    }
    apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages).run()?;
    for service in SERVICES.iter().filter(|service| packages.contains(service) && find("systemctl").is_some()) {
        root::command("systemctl", "to keep a service off").args(["--quiet", "disable", service]).run()?;
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = root::command("sh", "to install packages");
    command.args(["-c", WITHOUT_SERVICES, "sh", "env"]);
    // Packages must neither ask questions nor wait long for another apt.
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]);
    command
}

/// Builds bpf-linker with the LLVM the compiler emits for.
fn install_linker() -> Result<()> {
    apt_install(&not_installed(&LINKER_PACKAGES)?)?;
    eprintln!("xtask: building bpf-linker {LINKER_MIN} (about a minute)");
    workspace::cargo()
        // Without the first the build finds another LLVM's library directory before this one.
        .envs([("LLVM_PREFIX", LLVM_PREFIX), ("LLVM_SYS_221_PREFIX", LLVM_PREFIX)])
        .args(["install", "bpf-linker", "--version", &LINKER_MIN.to_string(), "--force", "--locked"])
        .args(["--no-default-features", "--features", "llvm-22"])
        .run()
}

/// Those Debian packages that are not installed.
fn not_installed<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("cannot run dpkg-query")?;
    // It exits 1 if it does not know one of them, and still lists the others.
    Ok(not_listed(&String::from_utf8_lossy(&output.stdout), packages))
}

/// Those packages that a list of "name status" lines does not call installed.
fn not_listed<'a>(listed: &str, packages: &[&'a str]) -> Vec<&'a str> {
    packages.iter().copied().filter(|name| !listed.lines().any(|line| line == format!("{name} installed"))).collect()
}

/// A program in `PATH` or a system directory.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(SYSTEM_DIRS.iter().map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Whether this is Debian itself: its derivatives need not have the compiler's packages.
fn is_debian() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| is_debian_release(&text))
        && Path::new("/usr/bin/apt-get").exists()
}

fn is_debian_release(os_release: &str) -> bool {
    os_release.lines().any(|line| line == "ID=debian" || line == "ID=\"debian\"")
}

/// What to install where we do not do it.
fn advice(tools: &[&Tool], missing: Option<&Missing>) -> String {
    let mut lines =
        vec!["this machine lacks something, and only Debian's packages are known here; please install:".into()];
    if let Some(missing) = missing {
        if matches!(missing, Missing::Compiler(_)) {
            lines.push(format!(
                "  a compiler for eBPF: rustup toolchain install nightly --component rust-src ({missing})"
            ));
        }
        let bin = cargo_home().map_or_else(|| "PATH".into(), |home| home.join("bin").display().to_string());
        lines.push(format!(
            "  bpf-linker {LINKER_MIN} or later, in PATH or {bin}: cargo install bpf-linker \
             (with LLVM 22's development files; set LLVM_SYS_221_PREFIX to where they are)"
        ));
    }
    lines.extend(
        tools.iter().map(|Tool(program, package)| format!("  {program} (Debian has it in the package {package})")),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_is_told_from_its_derivatives() {
        assert!(is_debian_release("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n"));
        assert!(!is_debian_release("NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n"));
        assert!(!is_debian_release("ID_LIKE=debian\nVERSION_ID=12\n"));
    }

    #[test]
    fn the_advice_names_everything_that_is_missing() {
        let compiler = Missing::Compiler(vec!["rustup's nightly: not installed".into()]);
        let text = advice(&[&Tool("sockperf", "sockperf"), &Tool("nft", "nftables")], Some(&compiler));
        for word in ["rust-src", "bpf-linker 0.13.0", "sockperf", "nftables"] {
            assert!(text.contains(word), "{word} is not in:\n{text}");
        }
        assert!(!advice(&[&Tool("nft", "nftables")], None).contains("bpf-linker"));
    }

    #[test]
    fn programs_are_found_in_path() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-of-netns").is_none());
    }

    #[test]
    fn only_a_package_whose_status_is_installed_counts() {
        let listed = "zlib1g-dev installed\nlibxml2-dev config-files\n";
        assert_eq!(not_listed(listed, &["zlib1g-dev", "libxml2-dev", "llvm-22-dev"]), ["libxml2-dev", "llvm-22-dev"]);
    }
}
