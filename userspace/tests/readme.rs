//! README.md says what is so: its commands run and print what it shows, its file is one, its tables are complete.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::CommandFactory;
use common::{Background, Finished, Isolated, command, isolated, wait_until};
use ipnet::IpNet;
use netns::cli::Cli;
use netns::topology::{self, Effect, HostFacts, Interface, KEYS, Taken};
use netns_ebpf_common::verdict::DropReason;
use nix::sys::signal::Signal;

/// Commands that are shown and not run, each with the reason.
const EXCEPTIONS: [(&str, &str); 3] = [
    ("rustup toolchain install nightly --component rust-src", "downloads a compiler, and rustup need not be here"),
    ("cargo install bpf-linker", "downloads and builds for minutes; `cargo xtask setup` does it where it is missing"),
    ("cargo build --release", "builds for minutes; `cargo xtask run` and `cargo xtask bench` do the same build"),
];

/// Sub-commands of xtask that would install, or run this very test: their words are checked, and they are not run.
const XTASK_WORDS: [&str; 5] = ["setup", "test", "lint", "verifier", "bench"];

/// Where the commands run and find the README's topology file.
const DIR: &str = "/run/readme";

const SOON: Duration = Duration::from_secs(20);

#[test]
fn every_command_runs_and_prints_what_is_shown() {
    let commands = commands(&blocks());
    assert!(commands.len() > 20, "only {} commands found", commands.len());
    isolated(move |here| {
        here.lan();
        fs::create_dir(DIR).expect("make a directory");
        here.file("readme/netns.toml", &topology_text());
        let before = here.snapshot();
        let mut sandbox = None;
        for command in &commands {
            if command.in_sandbox {
                assert!(sandbox.is_some(), "{command}: no `cargo xtask run` comes before it");
            } else {
                end_sandbox(&mut sandbox);
            }
            run(here, command, &mut sandbox);
        }
        end_sandbox(&mut sandbox);
        before.assert_unchanged("after the commands of README.md");
    });
}

#[test]
fn the_topology_file_is_one() {
    let document = topology::parse(&topology_text()).expect("the file of README.md");
    let addresses = common::lan::UPLINK.map(|a| IpNet::from(a.parse::<std::net::IpAddr>().expect("an address")));
    let uplink = Interface { index: 2, name: "up0".to_owned(), mtu: 1500, addresses: addresses.to_vec(), unfit: None };
    let facts =
        HostFacts { default_uplinks: vec![uplink.name.clone()], interfaces: vec![uplink], ..HostFacts::default() };
    topology::validate(&document.topology, &facts, &(), &Taken::default()).expect("the file of README.md");
}

#[test]
fn the_table_of_keys_is_complete() {
    let listed = first_cells(&section("## The topology file"));
    // A test of the library holds these against the reader of the file.
    let known = KEYS.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), known);
}

#[test]
fn what_changes_end_is_what_is_said() {
    let text = section("## The topology file");
    let text = text.split("### What changes while pods run").nth(1).expect("the section");
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|c| c.trim().to_owned()).collect::<Vec<_>>();
    let shown: Vec<_> = text.lines().filter(|l| l.starts_with("| `")).map(cells).collect();
    let ends = |(key, effect): &(&str, Effect)| match effect {
        Effect::Live { ends: "" } | Effect::Another | Effect::Refused => None,
        Effect::Live { ends } => Some(vec![format!("`{key}`"), (*ends).to_owned()]),
    };
    assert_eq!(shown, KEYS.iter().filter_map(ends).collect::<Vec<_>>());
    let names = text.split("Names are no values").nth(1).expect("the sentence");
    for (key, _) in KEYS.iter().filter(|(_, effect)| *effect == Effect::Another) {
        assert!(names.contains(&format!("`{key}`")), "{key}");
    }
    let refused = text.split("While a pod is there").nth(1).expect("the sentence");
    for (key, _) in KEYS.iter().filter(|(_, effect)| *effect == Effect::Refused) {
        assert!(refused.contains(&format!("`{key}`")), "{key}");
    }
}

#[test]
fn the_list_of_verbs_is_complete() {
    let text = section("## Verbs");
    let listed: Vec<_> = first_cells(text.split("\n### ").next().unwrap_or_default());
    let cli = Cli::command();
    let verbs = |command: &clap::Command| {
        let names = command.get_subcommands().map(|c| c.get_name().to_owned());
        names.filter(|name| name != "help").collect::<Vec<_>>()
    };
    assert_eq!(listed, verbs(&cli));
    for verb in cli.get_subcommands() {
        for inner in verbs(verb) {
            let words = format!("`{} {inner}`", verb.get_name());
            assert!(text.contains(&words), "{words} is not in the table of verbs");
        }
    }
}

#[test]
fn the_table_of_drop_reasons_is_the_programs_own() {
    let row = |r: &DropReason| format!("| {} | `{}` | {} |\n", *r as u8, r.as_str(), r.explain().trim());
    let expected: String = DropReason::ALL.iter().map(row).collect();
    let text = section("## Drop reasons");
    let shown: String =
        text.lines().filter(|l| l.starts_with("| ") && !l.contains("Number")).fold(String::new(), |mut rows, line| {
            rows.push_str(line);
            rows.push('\n');
            rows
        });
    assert!(shown == expected, "the rows should be:\n{expected}");
}

#[test]
fn every_file_it_names_is_there() {
    let mut names = BTreeSet::new();
    let root = root();
    for dir in ["netns-ebpf", "netns-ebpf-common", "userspace", "xtask"] {
        names.insert(root.join(dir).display().to_string());
        walk(&root.join(dir), &mut names);
    }
    let readme = readme();
    let mentioned = readme.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs") || word.ends_with('/'));
    for word in mentioned.filter(|word| !word.starts_with('/')) {
        let there = names.iter().any(|name| name.ends_with(&format!("/{}", word.trim_end_matches('/'))));
        assert!(there, "README.md names `{word}`, which is not there");
    }
    for target in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        match target.strip_prefix('#') {
            Some(anchor) => {
                let is_title = |l: &str| {
                    l.starts_with('#') && l.trim_start_matches(['#', ' ']).to_lowercase().replace(' ', "-") == anchor
                };
                assert!(readme.lines().any(is_title), "no heading for #{anchor}");
            }
            None => assert!(root.join(target).exists(), "no file {target}"),
        }
    }
}

#[test]
fn what_differs_from_what_is_shown_is_noticed() {
    let shown = |output: &[&str]| Shown {
        line: 1,
        text: "netns status".to_owned(),
        output: output.iter().map(|&line| line.to_owned()).collect(),
        status: 0,
        in_sandbox: false,
    };
    let actual = "red  10.244.0.10  time=0.5 ms\nblue 3\ngreen 4\n";
    let good: [&[&str]; 4] = [
        &[],
        &["red 10.244.0.10 time=0.25 ms", "blue 3", "green 4"],
        &["...", "green  4"],
        &["red 10.244.0.10 time=7.0 ms", "..."],
    ];
    for output in good {
        assert_eq!(shown(output).check(actual), Ok(()), "{output:?}");
    }
    let bad: [&[&str]; 5] = [
        &["red 10.244.0.11 time=0.5 ms", "..."],
        &["red 10.244.0.10 time=0.5 ms", "blue 4", "green 4"],
        &["red 10.244.0.10 time=0.5 ms", "green 4"],
        &["red 10.244.0.10 time=0.5 ms", "blue 3"],
        &["...", "violet"],
    ];
    for output in bad {
        assert!(shown(output).check(actual).is_err(), "{output:?}");
    }
}

/// A command with what is shown of its output.
#[derive(Clone, Debug)]
struct Shown {
    /// Line of README.md.
    line: usize,
    text: String,
    output: Vec<String>,
    status: i32,
    in_sandbox: bool,
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "README.md:{}: `{}`", self.line, self.text)
    }
}

impl Shown {
    /// Whether `actual` is what is shown: `...` stands for any lines, and figures of time may be others.
    fn check(&self, actual: &str) -> Result<(), String> {
        let mut lines = actual.lines().map(str::trim_end);
        let mut skipping = false;
        for shown in &self.output {
            if shown == "..." {
                skipping = true;
                continue;
            }
            let found = if skipping { lines.find(|l| is_alike(shown, l)) } else { lines.next() };
            if !found.is_some_and(|l| is_alike(shown, l)) {
                return Err(format!("{self} does not print {shown:?} (found {found:?}):\n{actual}"));
            }
            skipping = false;
        }
        match lines.find(|l| !l.is_empty()) {
            Some(more) if !skipping && !self.output.is_empty() => {
                Err(format!("{self} also prints {more:?}; show it, or write ...:\n{actual}"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether two lines have the same words; a figure with a decimal point is a measurement, and may differ.
fn is_alike(shown: &str, actual: &str) -> bool {
    let is_measured = |word: &str| {
        let figure = word.rsplit('=').next().unwrap_or(word);
        figure.contains('.') && figure.parse::<f64>().is_ok()
    };
    let (shown, actual): (Vec<_>, Vec<_>) = (shown.split_whitespace().collect(), actual.split_whitespace().collect());
    shown.len() == actual.len() && shown.iter().zip(&actual).all(|(s, a)| s == a || (is_measured(s) && is_measured(a)))
}

/// Runs a command inside a test's namespaces.
fn run(_: &Isolated, shown: &Shown, sandbox: &mut Option<Background>) {
    if let Some((_, reason)) = EXCEPTIONS.iter().find(|(command, _)| *command == shown.text) {
        println!("{shown} is not run: {reason}");
        return;
    }
    let words: Vec<&str> = shown.text.split_whitespace().collect();
    match words.as_slice() {
        ["cargo", "xtask", "run", rest @ ..] => {
            let arguments = match rest {
                [] => [].as_slice(),
                ["--", arguments @ ..] => arguments,
                _ => panic!("{shown}: arguments of netns come after --"),
            };
            let netns: Vec<_> = ["netns", "run"].iter().chain(arguments).copied().collect();
            if arguments.contains(&"--check") {
                expect(shown, &finish(&netns.join(" ")));
                return;
            }
            let running = Background::start("sh", ["-c", &format!("{}; exec {}", surroundings(), netns.join(" "))]);
            wait_until("what README.md shows", SOON, || shown.check(&running.stdout()).is_ok());
            *sandbox = Some(running);
            if !arguments.is_empty() {
                end_sandbox(sandbox);
            }
        }
        ["cargo", "xtask", verb, rest @ ..] => {
            assert!(XTASK_WORDS.contains(verb), "{shown}: not a command this test knows");
            assert!(shown.output.is_empty(), "{shown}: its output is not checked, so none is shown");
            xtask_understands(shown, verb, rest);
        }
        ["netns" | "printf", ..] if words.contains(&"netns") => expect(shown, &finish(&shown.text)),
        _ => panic!("{shown}: not a command this test knows; teach it, or list it in EXCEPTIONS"),
    }
}

/// Words in front of every command: the binary under test by its name, and the directory of the file.
fn surroundings() -> String {
    let netns = Path::new(env!("CARGO_BIN_EXE_netns"));
    let dir = netns.parent().expect("a directory").display();
    format!("cd {DIR} && export PATH=\"{dir}:$PATH\"")
}

fn finish(line: &str) -> Finished {
    command::run("sh", ["-c", &format!("{}; {line}", surroundings())])
}

#[track_caller]
fn expect(shown: &Shown, finished: &Finished) {
    assert_eq!(finished.status, shown.status, "{shown}: {}", finished.report());
    let printed = if shown.status == 0 { &finished.stdout } else { &finished.stderr };
    if let Err(difference) = shown.check(printed) {
        panic!("{difference}");
    }
}

fn end_sandbox(sandbox: &mut Option<Background>) {
    if let Some(running) = sandbox.take() {
        running.signal(Signal::SIGINT);
        let ended = running.finish(SOON);
        assert_eq!(ended.status, 0, "{}", ended.report());
    }
}

/// Asks xtask for the help of a command line: it reads all words before that one.
fn xtask_understands(shown: &Shown, verb: &str, rest: &[&str]) {
    let own = rest.split(|word| *word == "--").next().unwrap_or_default();
    let output = xtask().arg(verb).args(own).arg("--help").output().expect("start xtask");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("Usage: cargo xtask"), "{shown}: {out}\n{err}");
}

/// xtask as `cargo xtask test` has built it; where that is older than its sources, cargo builds it.
///
/// Not cargo in any case: under sudo it need not find the crates it has downloaded for the user.
fn xtask() -> Command {
    let built = Path::new(env!("CARGO_BIN_EXE_netns")).with_file_name("xtask");
    let mut sources = BTreeSet::new();
    walk(&root().join("xtask/src"), &mut sources);
    let changed = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    let newest = sources.iter().filter_map(|path| changed(Path::new(path))).max();
    if changed(&built).is_some_and(|built| Some(built) >= newest) {
        return Command::new(built);
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from(env!("CARGO"))));
    cargo.current_dir(root()).args(["run", "--quiet", "--offline", "--package", "xtask", "--"]);
    cargo
}

/// A fenced block.
#[derive(Debug)]
struct Block {
    /// Line of README.md the fence is on.
    line: usize,
    info: String,
    lines: Vec<String>,
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (i, line) in readme().lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some(Block { line: i + 1, info: info.to_owned(), lines: Vec::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed: {open:?}");
    blocks
}

fn commands(blocks: &[Block]) -> Vec<Shown> {
    let mut commands: Vec<Shown> = Vec::new();
    for block in blocks {
        let mut words = block.info.split_whitespace();
        let language = words.next().unwrap_or_default();
        let (mut status, mut in_sandbox) = (0, false);
        for word in words {
            match word.split_once('=') {
                Some(("exit", n)) => status = n.parse().expect("an exit status"),
                None if word == "sandbox" => in_sandbox = true,
                _ => panic!("README.md:{}: unknown word {word:?} on a fence", block.line),
            }
        }
        let first = commands.len();
        for (i, line) in block.lines.iter().enumerate() {
            let new = |text: &str| Shown {
                line: block.line + 1 + i,
                text: text.to_owned(),
                output: Vec::new(),
                status,
                in_sandbox,
            };
            match (language, line.strip_prefix("$ ")) {
                ("console", Some(text)) => commands.push(new(text)),
                ("console", None) if commands.len() > first => {
                    commands.last_mut().expect("a command").output.push(line.clone());
                }
                ("sh", None) if !line.is_empty() => commands.push(new(line)),
                ("toml", _) => {}
                _ => panic!("README.md:{}: not a command, nor the output of one", block.line + 1 + i),
            }
        }
    }
    commands
}

/// The one TOML block.
fn topology_text() -> String {
    let found: Vec<_> = blocks().into_iter().filter(|block| block.info == "toml").collect();
    let [block] = found.as_slice() else { panic!("{} blocks of TOML", found.len()) };
    block.lines.join("\n") + "\n"
}

/// The text below a heading, up to the next one of the same depth.
fn section(heading: &str) -> String {
    let readme = readme();
    let (_, rest) = readme.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n## ").next().unwrap_or_default().to_owned()
}

/// The first column of the tables of a text, where it is code.
fn first_cells(text: &str) -> Vec<String> {
    text.lines().filter_map(|l| l.strip_prefix("| `")?.split_once("` |").map(|(cell, _)| cell.to_owned())).collect()
}

fn walk(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("read a directory").map(|e| e.expect("read a directory")) {
        names.insert(entry.path().display().to_string());
        if entry.file_type().expect("a file's type").is_dir() {
            walk(&entry.path(), names);
        }
    }
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("read README.md")
}

/// The workspace's directory.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in a workspace").to_owned()
}
