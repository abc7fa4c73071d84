//! What `run` and `agent` do until a signal comes.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::live::Live;
use super::{CliError, Format, Global};
use crate::instance::{Instance, KernelPlatform};
use crate::netlink::Monitor;

/// How often counters are redrawn.
const REDRAW: Duration = Duration::from_secs(1);
/// How often the flow table is swept.
const SWEEP: Duration = Duration::from_secs(5);
/// How often it is looked whether all is as it should be: not all that can be changed is told by the host's network.
const LOOK: Duration = Duration::from_secs(1);
/// A look takes no more than one part in so many of the time.
const RARELY: u32 = 50;
/// How long a burst of changes of the host's network is given to end before it is read anew.
const SETTLE: Duration = Duration::from_millis(100);

/// The counters, where somebody sees them.
pub(super) fn live(global: &Global) -> Option<Live> {
    if global.output == Format::Text { Live::on_terminal() } else { None }
}

/// Follows the host, mends what is not as it should be, sweeps flows and shows counters, until a signal comes.
pub(super) fn watch(
    instance: &mut Instance<KernelPlatform>,
    signals: &mut Signals,
    mut live: Option<Live>,
) -> Result<(), CliError> {
    let mut monitor = Monitor::in_netns(instance.platform().host().netns())?;
    let mut sweep = Instant::now();
    let mut look = sweep + LOOK;
    let mut redraw = live.is_some().then_some(sweep);
    let mut settled: Option<Instant> = None;
    #[cfg(feature = "trace")]
    let mut trace = instance
        .platform()
        .host()
        .datapath()
        .trace()
        .tried(crate::instance::Op::Open, crate::instance::Object::Datapath)?;
    #[cfg(feature = "trace")]
    redraw.get_or_insert(sweep);
    loop {
        #[cfg(feature = "trace")]
        trace.flush();
        let due = [Some(sweep), Some(look), redraw, settled].into_iter().flatten().min();
        let (told, changed) = wait(signals, &monitor, due.unwrap_or(sweep)).map_err(CliError::Wait)?;
        if told {
            return Ok(());
        }
        if changed && !monitor.read()?.is_empty() {
            // The first of a burst sets the time: a link that flaps for ever is followed all the same.
            settled = settled.or(Some(Instant::now() + SETTLE));
        }
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(Some(look)) {
            let began = Instant::now();
            // What cannot be mended is told by `status`; what cannot be read, by the next refresh.
            let found = instance.differences().unwrap_or_default();
            if found.iter().any(|difference| difference.trouble.repair().is_ok()) {
                settled = Some(now);
            }
            look = Instant::now() + LOOK.max(began.elapsed() * RARELY);
        }
        if is_due(settled) {
            settled = None;
            if let Err(e) = instance.refresh() {
                // Removed by another process: nothing is left to watch.
                if instance.state()?.is_none() {
                    return Ok(());
                }
                tracing::warn!("cannot follow the host's addresses: {e}");
            }
        }
        if is_due(Some(sweep)) {
            if let Err(e) = instance.expire_flows() {
                if instance.state()?.is_none() {
                    return Ok(());
                }
                tracing::warn!("{e}");
            }
            sweep = Instant::now() + SWEEP;
        }
        if is_due(redraw) {
            match instance.counters() {
                Ok(status) => {
                    if let Some(live) = &mut live {
                        live.draw(&status);
                    }
                }
                Err(_) if instance.state()?.is_none() => return Ok(()),
                Err(_) => {}
            }
            redraw = Some(Instant::now() + REDRAW);
        }
    }
}

/// Waits until then, or for a signal or a change of the host's network: says whether there are these two.
fn wait(signals: &Signals, monitor: &Monitor, until: Instant) -> io::Result<(bool, bool)> {
    let mut fds = [signals.0.as_fd(), monitor.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    // Not a moment too early, or it would be asked again and again until then.
    let left = until.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
    match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(e.into()),
    }
    // An overrun of the monitor comes as an error, which is its to read.
    let [told, changed] = fds.map(|fd| fd.any().unwrap_or(true));
    Ok((told, changed))
}

/// The signals that end a run: Ctrl-C, `kill`, and the terminal's end. From here on they do nothing else; one that comes
/// before anybody waits for it is not lost.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        // Threads that are started later inherit it.
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }
}
