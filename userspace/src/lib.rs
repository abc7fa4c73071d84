//! A pod host without a bridge and without iptables: the library behind the `netns` command.

pub mod ipam;
pub mod topology;
