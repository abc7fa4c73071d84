//! The same random sessions through our programs and through the kernel's NAT: what comes out must be the same.
//!
//! `NETNS_DIFF_STEPS` is the length of the run, `NETNS_DIFF_SEED` repeats one; a failure prints the seed, the session's
//! history and the packets.

mod common;
mod differential;
#[macro_use]
mod prog;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use common::{Isolated, isolated};
use differential::known::{Known, TABLE};
use differential::run::Mapping;
use differential::worlds::Worlds;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Steps of a run nobody has asked for.
const STEPS: usize = 6000;

/// From so many steps on, a known difference that has not been seen is a row that lies.
const ENOUGH: usize = 20_000;

#[test]
fn random_sessions_come_out_as_they_do_of_the_kernels_nat() {
    isolated(|here| compare(here, Mapping::Dependent));
}

#[test]
fn random_sessions_by_endpoint_independent_mappings_do_as_well() {
    isolated(|here| compare(here, Mapping::Independent));
}

fn compare(here: &Isolated, mapping: Mapping) {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}: {text:?} is no number")))
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let seed = number("NETNS_DIFF_SEED").unwrap_or(now.as_nanos() as u64);
    let steps = number("NETNS_DIFF_STEPS").map_or(STEPS, |n| n as usize);
    println!("NETNS_DIFF_SEED={seed} NETNS_DIFF_STEPS={steps}");
    stay_on_one_cpu();
    let name = if mapping == Mapping::Independent { "endpoint-independent" } else { "address-and-port-dependent" };
    let worlds = Worlds::new(here, name);
    let started = Instant::now();
    let report = differential::run::run(&worlds, mapping, seed, steps).unwrap_or_else(|why| panic!("{why}"));
    println!("{report:#?}\nin {:?}", started.elapsed());
    assert!(report.packets > steps, "hardly anything came out: {report:?}");
    for (known, reason) in TABLE {
        let possible = known != Known::Filtered || mapping == Mapping::Independent;
        let seen = report.known.contains_key(&known);
        assert!(seen || !possible || steps < ENOUGH, "{known:?} has not been seen in {steps} steps: {reason}");
    }
}

/// Packets of this thread then pass all their hops in the order of one CPU's queue.
fn stay_on_one_cpu() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs of this thread");
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false)).expect("a CPU");
    let mut one = CpuSet::new();
    one.set(first).expect("a CPU's number");
    sched_setaffinity(Pid::from_raw(0), &one).expect("stay on one CPU");
}
