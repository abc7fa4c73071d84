//! A pod host without a bridge and without iptables: the library behind the `netns` command.

pub mod check;
pub mod cli;
pub mod datapath;
mod flock;
pub mod instance;
pub mod ipam;
pub mod netlink;
pub mod netns;
mod parallel;
pub mod probe;
pub mod sandbox;
pub mod store;
pub mod sysctl;
pub mod topology;
pub mod wiring;
