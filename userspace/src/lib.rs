//! netns
pub mod check;
pub mod datapath;
pub mod netlink;
pub mod netns;
pub mod probe;
pub mod sandbox;
pub mod sysctl;
pub mod wiring;
