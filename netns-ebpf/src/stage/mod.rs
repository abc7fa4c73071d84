//! The steps of the packet's way, one file each; the hooks in [`crate::path`] put them in order.

pub mod arp_reply;
pub mod deliver;
pub mod echo_reply;
pub mod flow;
pub mod fragment;
pub mod icmp_error;
pub mod mapping;
pub mod ndp_reply;
pub mod neighbour;
pub mod opening;
pub mod parse;
pub mod publish;
pub mod related;
pub mod route;
pub mod source_check;
