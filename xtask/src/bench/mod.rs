//! `cargo xtask bench`: direct veth, bridge + iptables, and ours, measured in turns on this machine.
//!
//! Everything happens in namespaces of its own (network, mounts, processes), so that nothing of the machine is touched
//! and nothing is left, however it ends. Absolute figures belong to the machine; only the ratios travel.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::process::Run;
use crate::{root, setup, workspace};

mod arms;
pub mod crr;
mod frame;
mod median;
mod namespace;
pub mod programs;
mod report;
pub mod verbs;
mod workload;

use arms::{Arm, ArmKind};
use report::Report;
use workload::Workload;

/// Arguments of `bench`.
#[derive(clap::Args, Clone)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Three rounds of two seconds per figure: under three minutes
    #[arg(long)]
    quick: bool,
    /// What to measure, in this order within each round
    #[arg(long, value_delimiter = ',', default_value = "veth,bridge,ours", value_name = "ARM,...")]
    arms: Vec<ArmKind>,
    /// Form of the result
    #[arg(short = 'o', long, value_enum, default_value = "text", global = true)]
    output: Output,
    /// Measure this `netns` instead of building one
    #[arg(long, value_name = "FILE", global = true)]
    netns: Option<PathBuf>,
}

#[derive(clap::Subcommand, Clone)]
enum What {
    /// How long verbs take, against `ip` and CNI's plugins, with many pods, and on a busy host
    Verbs(verbs::Args),
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Output {
    /// A table
    Text,
    /// One JSON document
    Json,
}

/// How often and how long.
struct Effort {
    rounds: u32,
    seconds: u32,
}

impl Args {
    fn effort(&self) -> Effort {
        if self.quick { Effort { rounds: 3, seconds: 2 } } else { Effort { rounds: 7, seconds: 5 } }
    }
}

/// Builds as the user, then measures as root in namespaces of its own.
pub fn bench(args: &Args) -> Result<ExitCode> {
    setup::all()?;
    let netns = match &args.netns {
        Some(netns) => Some(netns.canonicalize().with_context(|| format!("cannot find {}", netns.display()))?),
        None if args.arms.contains(&ArmKind::Ours) => Some(workspace::build_netns()?),
        None => None,
    };
    let exe = std::env::current_exe().context("cannot find this executable")?;
    // The process namespace's end ends every process in it, whatever becomes of us.
    let status = root::command("unshare", "(it makes namespaces and loads eBPF programs)")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(exe)
        .arg("bench-inside")
        .args(args.words(netns.as_deref()))
        .exit_status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

impl Args {
    /// These arguments as words of a command line.
    fn words(&self, netns: Option<&Path>) -> Vec<String> {
        let name = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            value().map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let arms: Vec<String> = self.arms.iter().map(|arm| name(&|| arm.to_possible_value())).collect();
        let mut words = vec![
            format!("--arms={}", arms.join(",")),
            format!("--output={}", name(&|| self.output.to_possible_value())),
        ];
        words.extend(netns.map(|netns| format!("--netns={}", netns.display())));
        words.extend(self.quick.then(|| "--quick".into()));
        if let Some(What::Verbs(args)) = &self.what {
            words.extend(args.words());
        }
        words
    }
}

/// The measurement itself, inside the namespaces [`bench()`] made.
pub fn inside(args: &Args) -> Result<ExitCode> {
    make_private()?;
    if let Some(What::Verbs(verbs)) = &args.what {
        return verbs::inside(verbs, args.netns.as_deref(), args.output);
    }
    let mut arms = Vec::new();
    for &kind in &args.arms {
        eprintln!("bench: setting up {}", kind.describe());
        arms.push(Arm::set_up(kind, args.netns.as_deref())?);
    }
    let mut report = measure(&args.effort(), &args.arms, &arms)?;
    for arm in &arms {
        report.add_programs(programs::measure(arm)?);
    }
    match args.output {
        Output::Text => print!("{}", report.table()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report.document())?),
    }
    for arm in &arms {
        arm.tear_down()?;
    }
    let missed = report.missed_floors();
    for line in &missed {
        eprintln!("bench: {line}");
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Gives this process mounts of its own where programs of the machine would look or leave something.
fn make_private() -> Result<()> {
    Command::new("mount").args(["--make-rprivate", "/"]).run()?;
    Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]).run()?;
    // Over the machine's own bpffs, if it has one there: pins must not outlive us.
    Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).run()
}

/// All workloads over all arms, the arms in turns: a slow minute of the machine hits each of them alike.
fn measure(effort: &Effort, kinds: &[ArmKind], arms: &[Arm]) -> Result<Report> {
    let mut report = Report::new(kinds, effort.rounds, effort.seconds);
    for round in 0..effort.rounds {
        for workload in Workload::ALL {
            for arm in arms {
                let figures = workload
                    .run(arm, effort.seconds, round)
                    .with_context(|| format!("{} over {}", workload.describe(), arm.kind.describe()))?;
                for (metric, value) in figures {
                    eprintln!(
                        "bench: round {} of {}, {}, {}: {value:.1} {}",
                        round + 1,
                        effort.rounds,
                        metric.describe(),
                        arm.kind.describe(),
                        metric.unit()
                    );
                    report.add(metric, arm.kind, value);
                }
            }
        }
    }
    Ok(report)
}
