//! netns
pub mod datapath;
pub mod netlink;
pub mod netns;
pub mod probe;
pub mod sysctl;
pub mod wiring;
