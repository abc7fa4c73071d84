//! One hook per file, read from top to bottom.

pub mod from_host;
pub mod from_pod;
pub mod from_uplink;
