//! What netns promises to leave as it was, written down and compared.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::BPFFS;
use super::command::run;

/// Sysctls the kernel itself counts or rolls while traffic flows.
const VOLATILE: &[&str] = &[
    "/proc/sys/net/netfilter/nf_conntrack_count",
    "/proc/sys/net/ipv4/tcp_fastopen_key",
    "/proc/sys/net/ipv6/conf/all/stable_secret",
];

/// Links, addresses, routes, rules, namespaces, firewall, sysctls, mounts, and the trees of bpffs and `/run`.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    sections: Vec<(&'static str, BTreeSet<String>)>,
}

impl Snapshot {
    /// Of the calling thread's namespaces.
    pub fn take() -> Self {
        let ip = |arguments: &str| lines(&run("ip", arguments.split_whitespace()).ok());
        let sections = vec![
            ("links", links()),
            ("addresses", ip("-o addr")),
            ("routes (IPv4)", ip("-4 route show table all")),
            ("routes (IPv6)", ip("-6 route show table all")),
            ("rules (IPv4)", ip("-4 rule")),
            ("rules (IPv6)", ip("-6 rule")),
            ("namespaces", namespaces()),
            ("nft rules", lines(&run("nft", ["list", "ruleset"]).ok())),
            ("attached programs", attached()),
            ("mounts", mounts()),
            ("bpffs", tree(Path::new(BPFFS))),
            ("/run", without_notes(tree(Path::new("/run")))),
            ("sysctls", sysctls()),
        ];
        Self { sections }
    }

    /// What differs, one line each with its section; empty when nothing does.
    pub fn diff(&self, later: &Self) -> String {
        let mut text = String::new();
        for ((section, before), (_, after)) in self.sections.iter().zip(&later.sections) {
            for line in before.difference(after) {
                let _ = writeln!(text, "{section}: - {line}");
            }
            for line in after.difference(before) {
                let _ = writeln!(text, "{section}: + {line}");
            }
        }
        text
    }

    /// Asserts that nothing has changed since.
    #[track_caller]
    pub fn assert_unchanged(&self, when: &str) {
        let diff = self.diff(&Self::take());
        assert!(diff.is_empty(), "{when}, the machine is not as it was:\n{diff}");
    }
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

/// Links as `ip` has them, without what is the next number the kernel gives, whatever that is: the index of a peer elsewhere, and
/// that of the inner end of a gateway's cable.
fn links() -> BTreeSet<String> {
    let text = run("ip", ["-d", "-o", "link"]).ok();
    let line = |line: &str| {
        let (index, rest) = line.split_once(": ")?;
        let (name, rest) = rest.split_once(':')?;
        let own = if name.starts_with("nngw") && name.contains("p@") { "" } else { index };
        let name = name.split_once("@if").map_or(name, |(name, _)| name);
        Some(format!("{own}: {name}:{rest}"))
    };
    text.lines().map(|text| line(text).unwrap_or_else(|| text.to_owned())).collect()
}

/// Programs and where they are attached, without the numbers the kernel gives to those that are loaded anew.
fn attached() -> BTreeSet<String> {
    let text = run("bpftool", ["net", "show"]).ok();
    let line = |line: &str| line.split_once(" id ").map_or(line, |(named, _)| named).to_owned();
    text.lines().map(line).collect()
}

/// Names of namespaces; the numbers they have here are given again in any order.
fn namespaces() -> BTreeSet<String> {
    let text = run("ip", ["netns", "list"]).ok();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Mount points with type and source; mount ids differ from day to day and say nothing.
fn mounts() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/thread-self/mounts").expect("read the mount table");
    text.lines().map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect()
}

fn tree(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            found.insert(path.display().to_string());
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                pending.push(path);
            }
        }
    }
    found
}

/// Without the notes of instances that were to be up, which a failed or refused `up` leaves, and their directory if nothing else is
/// in it.
fn without_notes(mut found: BTreeSet<String>) -> BTreeSet<String> {
    const ROOT: &str = "/run/netns-ebpf";
    let before = found.len();
    found.retain(|path| !path.starts_with(&format!("{ROOT}/.wanted-")));
    if found.len() < before && !found.iter().any(|path| path.starts_with(&format!("{ROOT}/"))) {
        found.remove(ROOT);
    }
    found
}

/// All of `/proc/sys/net`, which shows the calling thread's namespace.
fn sysctls() -> BTreeSet<String> {
    tree(Path::new("/proc/sys/net"))
        .into_iter()
        .filter(|path| !VOLATILE.contains(&path.as_str()))
        // Directories and write-only files (route/flush) have nothing to compare.
        .filter_map(|path| fs::read_to_string(&path).ok().map(|value| format!("{path} = {}", value.trim_end())))
        .collect()
}
