//! The command line: one verb a file.

mod add;
mod agent;
mod attach;
mod connect;
mod del;
mod down;
mod error;
mod exec;
mod export;
mod link;
mod list;
mod live;
mod monitor;
mod name;
mod nsid;
mod open;
mod owner;
mod pids;
mod publish;
mod repair;
mod run;
mod sandbox;
mod status;
mod table;
mod up;
mod warnings;
mod watch;

use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::instance::{Dirs, choose};
use crate::netns::set_patience;

pub use error::CliError;
pub use open::open;
pub use warnings::Warnings;

/// Exit statuses, for `--help`.
const EXIT_STATUSES: &str = "\
Exit status:
  0  done
  1  failed; what had been done by then was undone, or the message says what is left
  2  refused before anything was changed: bad input or usage, not enough privilege, or a kernel feature is missing
  3  status, repair: something is not as it should be; plan: `up` would change something
  exec: the program's own; 126 when it cannot be started, 127 when it is not found

With -o json a verb prints one JSON document on standard output. An error is one on standard error:
  {\"error\": {\"message\": ..., \"kind\": ..., \"hint\": ..., \"field\": ..., \"value\": ..., \"file\": ..., \"line\": ..., \"column\": ...}}
where all but message and kind may be null. `monitor` prints a document a line.";

/// A pod host without a bridge and without iptables.
#[derive(Debug, Parser)]
#[command(name = "netns", version, after_help = EXIT_STATUSES, infer_subcommands = false)]
pub struct Cli {
    /// Options of all verbs.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of all verbs.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The instance [default: the only one that is up, else "default"]
    #[arg(long, global = true, env = "NETNS_INSTANCE", value_name = "NAME")]
    pub instance: Option<String>,
    /// Give up after so many seconds if another verb is changing the instance, or another process has the lock of the names
    /// [default: wait until it is done]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub wait: Option<u32>,
    /// Output format
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub output: Format,
}

/// How results and errors are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring a topology up, show its counters, and remove it on Ctrl-C: the sandbox, or a file's on this host
    Run(run::RunArgs),
    /// Follow an instance that is up: mend what is changed from outside, sweep flows; it stays up when this ends
    Agent(agent::AgentArgs),
    /// Make the instance what a topology file says; traffic flows on after this command ends
    Up(up::UpArgs),
    /// Print what `up` would do, and change nothing
    Plan(up::UpArgs),
    /// Print the live instance as a topology file
    Export,
    /// Remove every trace of the instance
    Down(down::DownArgs),
    /// Make what somebody changed, deleted or detached what it should be: of one pod, or of all of the instance
    Repair(repair::RepairArgs),
    /// Show networks, pods, published ports and counters, and what is not as it should be
    Status(status::StatusArgs),
    /// Add a pod; without an instance that is up, a bare network namespace as `ip netns add` does
    Add(add::AddArgs),
    /// Delete a pod, or a bare network namespace
    #[command(alias = "delete")]
    Del(del::DelArgs),
    /// Give a pod a further interface, in a network
    Connect(connect::ConnectArgs),
    /// Take an interface from a pod
    Disconnect(connect::DisconnectArgs),
    /// List pods and network namespaces
    #[command(aliases = ["ls", "show"])]
    List(list::ListArgs),
    /// Run a program inside a pod or network namespace, or in each
    Exec(exec::ExecArgs),
    /// List the processes in a pod or network namespace
    Pids(pids::PidsArgs),
    /// Name the network namespace of a process
    Identify(pids::IdentifyArgs),
    /// Give the network namespace of a process a name
    Attach(attach::AttachArgs),
    /// Print names of network namespaces as they come and go
    Monitor(monitor::MonitorArgs),
    /// Give a network namespace an id in the one this command runs in
    Set(nsid::SetArgs),
    /// List ids of network namespaces
    ListId(nsid::ListIdArgs),
    /// Connect two network namespaces by a cable of their own, without the data path
    Link(link::LinkArgs),
    /// Publish ports of pods on the host
    Publish(publish::PublishArgs),
}

impl Cli {
    /// Runs the verb; returns the exit status.
    ///
    /// # Errors
    ///
    /// Why it failed; [`CliError::exit_status`] is the status then.
    pub fn run(self) -> Result<u8, CliError> {
        let global = &self.global;
        if let Some(patience) = global.patience() {
            set_patience(patience);
        }
        match self.verb {
            Verb::Run(args) => run::run(global, &args),
            Verb::Agent(args) => agent::run(global, &args),
            Verb::Up(args) => up::run(global, &args),
            Verb::Plan(args) => up::plan(global, &args),
            Verb::Export => export::run(global),
            Verb::Down(args) => down::run(global, &args),
            Verb::Repair(args) => repair::run(global, &args),
            Verb::Status(args) => status::run(global, &args),
            Verb::Add(args) => add::run(global, &args),
            Verb::Del(args) => del::run(global, &args),
            Verb::Connect(args) => connect::connect(global, &args),
            Verb::Disconnect(args) => connect::disconnect(global, &args),
            Verb::List(args) => list::run(global, &args),
            Verb::Exec(args) => exec::run(global, &args),
            Verb::Pids(args) => pids::pids(global, &args),
            Verb::Identify(args) => pids::identify(global, &args),
            Verb::Attach(args) => attach::run(global, &args),
            Verb::Monitor(args) => monitor::run(global, &args),
            Verb::Set(args) => nsid::set(global, &args),
            Verb::ListId(args) => nsid::list(global, &args),
            Verb::Link(args) => link::run(global, &args),
            Verb::Publish(args) => publish::run(global, &args),
        }
    }
}

impl Global {
    /// Where the instance is that a verb is about.
    fn dirs(&self, verb: &'static str) -> Result<Dirs, CliError> {
        Ok(choose(self.instance.as_deref())?.for_verb(verb, self.patience()))
    }

    /// How long a verb waits for others.
    fn patience(&self) -> Option<Duration> {
        self.wait.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Prints a result: as JSON, or as the text `text` makes of it.
    fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        let mut out = match self.output {
            Format::Json => serde_json::to_string_pretty(value).map_err(io::Error::from).map_err(CliError::Output)?,
            Format::Text => text(value),
        };
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        match io::stdout().write_all(out.as_bytes()) {
            // The reader has seen enough: `netns list | head -1`.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => done.map_err(CliError::Output),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exec_takes_the_rest_with_and_without_dashes() {
        for line in [["netns", "exec", "red", "ls", "-l"].as_slice(), &["netns", "exec", "red", "--", "ls", "-l"]] {
            let cli = Cli::try_parse_from(line).unwrap();
            let Verb::Exec(args) = cli.verb else { panic!("{line:?}") };
            assert_eq!((args.name.as_deref(), args.command), (Some("red".as_ref()), vec!["ls".into(), "-l".into()]));
        }
        let cli = Cli::try_parse_from(["netns", "exec", "--all", "--", "ls", "-l", "--all"]).unwrap();
        let Verb::Exec(args) = cli.verb else { panic!("no exec") };
        assert!(args.all);
        assert_eq!((args.name.as_deref(), args.command), (Some("ls".as_ref()), vec!["-l".into(), "--all".into()]));
        for short in [["netns", "exec"].as_slice(), &["netns", "exec", "red"], &["netns", "exec", "--all"]] {
            assert!(Cli::try_parse_from(short).is_err(), "{short:?}");
        }
    }

    #[test]
    fn format_and_instance_may_follow_the_verb() {
        let cli = Cli::try_parse_from(["netns", "status", "-o", "json", "--instance", "x"]).unwrap();
        assert_eq!((cli.global.output, cli.global.instance.as_deref()), (Format::Json, Some("x")));
    }
}
