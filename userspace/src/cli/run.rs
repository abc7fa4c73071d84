//! `netns run`: up, counters until a signal, down.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::live::Live;
use super::open::{in_file, open, read_topology};
use super::{CliError, Format, Global, up};
use crate::instance::{Instance, KernelFabric, choose};
use crate::netlink::Monitor;
use crate::netns::require_lasting_names;

/// How often counters are redrawn.
const REDRAW: Duration = Duration::from_secs(1);
/// How often the flow table is swept.
const SWEEP: Duration = Duration::from_secs(5);
/// How long a burst of changes of the host's network is given to end before it is read anew.
const SETTLE: Duration = Duration::from_millis(100);

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A topology file to run on this host, instead of the sandbox
    #[arg(short, long, value_name = "FILE", conflicts_with = "check")]
    pub config: Option<PathBuf>,
    /// Send real traffic along every path of the sandbox, print a row for each, and end
    #[arg(long)]
    pub check: bool,
}

pub(super) async fn run(global: &Global, args: &RunArgs) -> Result<u8, CliError> {
    // Before anything is made: a signal from here on ends in `down`, not in leftovers.
    let mut signals = Signals::new().map_err(CliError::Signals)?;
    match &args.config {
        Some(path) => run_file(global, path, &mut signals).await,
        None => super::sandbox::run(global, args, &mut signals).await,
    }
}

async fn run_file(global: &Global, path: &Path, signals: &mut Signals) -> Result<u8, CliError> {
    let document = read_topology(path)?;
    require_lasting_names()?;
    let mut instance = open(choose(global.instance.as_deref())?)?;
    let was_up = instance.state()?.is_some();
    let applied = instance.up(&document).await.map_err(in_file(path))?;
    let watched = match global.print(&applied, up::text) {
        Ok(()) => watch(global, &mut instance, signals).await,
        Err(e) => Err(e),
    };
    // What was up before is somebody's: it is watched, and left as the file says.
    if !was_up {
        instance.down().await?;
    }
    watched?;
    Ok(0)
}

/// Shows counters and follows the host's addresses until a signal comes.
pub(super) async fn watch(
    global: &Global,
    instance: &mut Instance<KernelFabric>,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let mut monitor = Monitor::in_netns(instance.fabric().host().netns())?;
    let mut live = if global.output == Format::Text { Live::on_terminal() } else { None };
    let mut tick = interval(REDRAW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settled: Option<Instant> = None;
    #[cfg(feature = "trace")]
    let mut trace = instance
        .fabric()
        .host()
        .datapath()
        .trace()
        .map_err(|e| crate::instance::FabricError::step("open the programs' log", e))?;
    loop {
        #[cfg(feature = "trace")]
        trace.flush();
        tokio::select! {
            () = signals.next() => return Ok(()),
            change = monitor.next() => match change {
                // The first of a burst sets the time: a link that flaps for ever is followed all the same.
                Some(_) => settled = settled.or(Some(Instant::now() + SETTLE)),
                None => return Err(crate::netlink::NetlinkError::Open(std::io::ErrorKind::BrokenPipe.into()).into()),
            },
            () = sleep_until(settled.unwrap_or_else(Instant::now)), if settled.is_some() => {
                settled = None;
                if let Err(e) = instance.refresh().await {
                    // Removed by another process: nothing is left to watch.
                    if instance.state()?.is_none() {
                        return Ok(());
                    }
                    tracing::warn!("cannot follow the host's addresses: {e}");
                }
            },
            _ = sweep.tick() => {
                if let Err(e) = instance.expire_flows() {
                    if instance.state()?.is_none() {
                        return Ok(());
                    }
                    tracing::warn!("{e}");
                }
            },
            _ = tick.tick(), if live.is_some() || cfg!(feature = "trace") => {
                let Ok(status) = instance.counters() else {
                    if instance.state()?.is_none() {
                        return Ok(());
                    }
                    continue;
                };
                if let Some(live) = &mut live {
                    live.draw(&status);
                }
            },
        }
    }
}

/// The signals that end a run: Ctrl-C, `kill`, and the terminal's end.
#[derive(Debug)]
pub(super) struct Signals([Signal; 3]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    /// Waits for one; one that came earlier is not lost.
    pub(super) async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {},
            _ = terminate.recv() => {},
            _ = hangup.recv() => {},
        }
    }
}
