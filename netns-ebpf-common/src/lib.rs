//! Types and rules shared by the eBPF programs and the user-space side of netns.
//!
//! Everything here is `no_std`, needs no kernel and is tested on the host.
//!
//! # Byte order
//!
//! A wire value is a byte array in network order ([`Addr4`], [`Addr6`], [`Mac`], [`Port`]); a bare integer in any
//! struct of this crate is in host order and never a copy of packet bytes.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | pod | a network namespace with one veth pair into the host |
//! | endpoint | a pod as the data path sees it: one slot of [`endpoint::Endpoint`] |
//! | network | pods that share subnets and a gateway; its id is part of every key |
//! | zone | where a flow's tuple was seen: a network id, or [`abi::ZONE_HOST`] for the host and its uplinks |
//! | `from_pod` | TC ingress on the host end of a pod's veth |
//! | `from_host` | TC egress on a network's gateway device |
//! | `from_uplink` | TC ingress on an uplink |
//! | publish | a port-forward: host address and port to pod address and port |
//!
//! # Units
//!
//! Suffixes carry them: `_ns` nanoseconds of `CLOCK_MONOTONIC`, `_bytes`, `_off` bytes from the start of the frame.
#![no_std]

#[cfg(any(test, feature = "user", feature = "invariants"))]
extern crate std;

pub mod abi;
pub mod account;
pub mod addr;
pub mod area;
#[cfg(any(test, feature = "user"))]
pub mod btf;
pub mod counters;
pub mod csum;
pub mod endpoint;
pub mod family;
pub mod flow;
pub mod fragment;
pub mod hdr;
pub mod host;
pub mod host_socket;
#[cfg(any(test, feature = "invariants"))]
pub mod invariants;
pub mod kfunc;
pub mod mapping;
#[doc = include_str!("../docs/nat-rfcs.md")]
pub mod nat_rfcs {}
pub mod network;
pub mod opening;
pub mod parse;
pub mod plain;
pub mod port;
pub mod prefix;
pub mod proto;
pub mod publish;
pub mod shared;
pub mod skb;
pub mod standing;
pub mod state;
pub mod sweep;
pub mod tcp;
pub mod verdict;

pub use addr::{Addr4, Addr6, Mac, Port};
