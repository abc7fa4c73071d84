//! The host's own way to published ports.

use super::{Host, WiringError};
use crate::datapath::cgroup_root;

impl Host {
    /// Lets processes of the host reach published ports by the host's own and loopback addresses, and keeps them from binding
    /// these ports. May be repeated. Undone with the pins ([`crate::datapath::Datapath::unload`]).
    pub fn wire_host_sockets(&self) -> Result<(), WiringError> {
        let cookie = self.netns.cookie()?;
        Ok(self.datapath.attach_socket_hooks(&cgroup_root()?, cookie)?)
    }
}
