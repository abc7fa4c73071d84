//! `netns run --check`: real traffic along every path, one row each.
//!
//! A [`Case`] says who talks to whom, how, and what the other side must see; [`run`] sends the traffic from sockets
//! inside the namespaces ([`Places`]) and says for each case whether it held. Nothing here knows how packets are
//! forwarded: the same cases pass on plain veth cables and routers, which is how they are tested themselves.

mod case;
mod cases;
mod host_state;
mod places;
mod probe;
mod report;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

pub use case::{Case, Family, Order, Probe, Site, Target};
pub use cases::sandbox_cases;
pub use host_state::{HostStateError, host_state};
pub use places::Places;
pub use probe::ProbeError;
pub use report::{Report, Row};

/// Cases under way at once. They wait more than they work, so more than there are CPUs.
const WORKERS: usize = 24;

/// Runs the cases, several at once, and reports them in their order.
///
/// Takes as long as the slowest case, plus the bulk transfers; a failing case ends within a few seconds.
pub fn run(places: &Places, cases: &[Case]) -> Report {
    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::with_capacity(cases.len()));
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(cases.len()) {
            scope.spawn(|| {
                while let Some((index, case)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(index).map(|case| (index, case))
                } {
                    let row = Row::of(case, || probe::probe(places, case));
                    rows.lock().unwrap_or_else(PoisonError::into_inner).push((index, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|(index, _)| *index);
    Report::new(rows.into_iter().map(|(_, row)| row).collect(), started.elapsed())
}
