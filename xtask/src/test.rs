//! `cargo xtask test`.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write, stdout};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::process::Run;
use crate::{root, setup, workspace};

/// Arguments of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Arguments of the test programs, after `--`: names of tests to run, `--nocapture`, ...
    #[arg(last = true)]
    tests: Vec<OsString>,
}

/// Sums of the `test result:` lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Runs every test of the workspace; fails if any fails, or if there is none.
pub fn test(args: &Args) -> Result<ExitCode> {
    setup::all()?;
    let started = Instant::now();
    let mut command = workspace::cargo();
    // The eBPF crate is for another target; its programs are tested from user space, through BPF_PROG_TEST_RUN.
    command.args(["test", "--workspace", "--exclude", "netns-ebpf", "--no-fail-fast"]);
    if !root::is_root() {
        // Only the test programs run as root, so that the target directory stays the user's.
        command.args(["--config", &runner_through_sudo()?]);
    }
    command.arg("--").args(&args.tests);
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run `{}`", command.line()))?;
    let sums = pass_on(&mut child)?;
    let status = child.wait().context("cannot wait for cargo")?;

    println!("\ntests took {:.0} s", started.elapsed().as_secs_f64());
    println!("{} passed, {} failed, {} skipped", sums.passed, sums.failed, sums.ignored);
    let ran_some = sums.passed + sums.failed > 0;
    if !ran_some {
        eprintln!("xtask: no test ran");
    }
    Ok(if status.success() && sums.failed == 0 && ran_some { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Copies cargo's standard output to ours, line by line, and adds up what it reports.
fn pass_on(cargo: &mut Child) -> Result<Sums> {
    let mut sums = Sums::default();
    let output = cargo.stdout.take().context("cargo's output is not piped")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read cargo's output")?;
        let mut out = stdout().lock();
        out.write_all(&line).and_then(|()| out.write_all(b"\n")).context("cannot write to standard output")?;
        sums.add(&String::from_utf8_lossy(&line));
    }
    Ok(sums)
}

/// Cargo configuration that runs the test programs through sudo.
fn runner_through_sudo() -> Result<String> {
    eprintln!("xtask: not root: running the tests through sudo (they make namespaces and load eBPF programs)");
    let verbose = Command::new("rustc").arg("-vV").text()?;
    let host = verbose.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    Ok(format!("target.{host}.runner = \"sudo --preserve-env\""))
}

impl Sums {
    /// Adds one line of output, if it is a `test result:` line of the test harness.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            match (words.next().and_then(|n| n.parse::<u64>().ok()), words.next()) {
                (Some(n), Some("passed")) => self.passed += n,
                (Some(n), Some("failed")) => self.failed += n,
                (Some(n), Some("ignored")) => self.ignored += n,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up_and_others_do_not_count() {
        let mut sums = Sums::default();
        for line in [
            "running 3 tests",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s",
            "test result: FAILED. 40 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.50s",
            "thread 'x' panicked: test result: 5 passed",
        ] {
            sums.add(line);
        }
        assert_eq!(sums, Sums { passed: 42, failed: 2, ignored: 1 });
    }
}
