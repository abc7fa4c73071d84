//! The attack suite's own part: who attacks, with what, against which live connections, and what must be so afterwards.
//!
//! A test here says what an attacker does with real packets in a real instance, and that it costs nobody else anything. The
//! short form runs with every run of the suite; `NETNS_TESTS=long` makes each as long as a night's. What is random is repeated by
//! `NETNS_ATTACK_SEED`, which a test prints.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of these tools")]

pub mod aftermath;
pub mod attacker;
pub mod blind;
pub mod honest;
pub mod live;
pub mod spray;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use netns::check::Family;
use netns::datapath::{Datapath, FlowRecord};

use crate::prog::random::Numbers;

pub use crate::common::length::sized;
pub use aftermath::Aftermath;
pub use attacker::Attacker;
pub use live::Live;

/// Port of the LAN's servers.
pub const SERVICE: u16 = 7000;

/// TCP flags that `prog::flag` has no name for.
pub const PSH: u8 = 8;

/// The instance's data path.
pub fn datapath() -> Datapath {
    Datapath::open(Path::new("/sys/fs/bpf/netns-ebpf/default")).expect("open the data path")
}

/// Its flow entries.
pub fn flows() -> Vec<FlowRecord> {
    datapath().flows().expect("list flows")
}

/// Numbers at random, from the seed the run was given or from the time of day; prints it.
pub fn random() -> Numbers {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos() as u64;
    let seed = std::env::var("NETNS_ATTACK_SEED").map_or_else(|_| now(), |n| n.parse().expect("a seed"));
    println!("NETNS_ATTACK_SEED={seed}");
    Numbers::new(seed)
}

/// How fast a flood of the dearest packets goes, as a part of the same flood of ordinary ones.
pub fn relative_rate<F: AsRef<[u8]>>(by: &Attacker, family: Family, dear: &[F], ordinary: &[F]) -> f64 {
    let (dear, ordinary) = by.rates(dear, ordinary);
    println!("{family:?}: {dear:.0} packets/s of the dearest, {ordinary:.0} of ordinary ones: {:.3}", dear / ordinary);
    dear / ordinary
}

/// An address nobody has, of those behind the default route: the n-th of 4 million.
pub fn nobody(family: Family, n: u32) -> IpAddr {
    let n = n & 0x003f_ffff;
    match family {
        Family::V4 => Ipv4Addr::from(0x6440_0000 | n).into(),
        Family::V6 => Ipv6Addr::from(0x2001_0db8_0bad_0000_0000_0000_0000_0000 | u128::from(n)).into(),
    }
}
