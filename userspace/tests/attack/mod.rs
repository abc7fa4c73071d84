//! The attack suite's own part: who attacks, with what, against which live connections, and what must be so afterwards.
//!
//! A test here says what an attacker does with real packets in a real instance, and that it costs nobody else anything. The
//! short form runs with every run of the suite; `NETNS_ATTACK=long` makes each as long as a night's. What is random is repeated by
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

pub use aftermath::Aftermath;
pub use attacker::Attacker;
pub use live::Live;

/// Port of the LAN's servers.
pub const SERVICE: u16 = 7000;

/// TCP flags that `prog::flag` has no name for.
pub const PSH: u8 = 8;

/// Whether the run is the long one.
pub fn is_long() -> bool {
    match std::env::var("NETNS_ATTACK") {
        Err(_) => false,
        Ok(word) => {
            assert_eq!(word, "long", "NETNS_ATTACK: not a length of the run");
            true
        }
    }
}

/// The size of something in the short form, or in the long one.
pub fn sized<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// The instance's data path.
pub fn datapath() -> Datapath {
    Datapath::open(Path::new("/sys/fs/bpf/netns-ebpf/default")).expect("open the data path")
}

/// Its flow entries.
pub fn flows() -> Vec<FlowRecord> {
    datapath().flows().expect("list flows")
}

/// Marsaglia's xorshift: numbers nobody has to guess, only to repeat.
pub struct Random(u64);

impl Random {
    /// Begins with the seed the run was given, or with the time of day; prints it.
    pub fn new() -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos() as u64;
        let seed = std::env::var("NETNS_ATTACK_SEED").map_or_else(|_| now(), |n| n.parse().expect("a seed"));
        println!("NETNS_ATTACK_SEED={seed}");
        Self(seed | 1)
    }

    /// The next 32 bits.
    pub fn word(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32
    }

    /// One of `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.word() as usize % n
    }

    /// A port no test uses.
    pub fn port(&mut self) -> u16 {
        1024 + (self.word() % 60_000) as u16
    }
}

/// An address nobody has, of those behind the default route: the n-th of 4 million.
pub fn nobody(family: Family, n: u32) -> IpAddr {
    let n = n & 0x003f_ffff;
    match family {
        Family::V4 => Ipv4Addr::from(0x6440_0000 | n).into(),
        Family::V6 => Ipv6Addr::from(0x2001_0db8_0bad_0000_0000_0000_0000_0000 | u128::from(n)).into(),
    }
}
