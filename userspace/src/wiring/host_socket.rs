//! The host's own way to published ports.

use std::net::{IpAddr, SocketAddr};

use super::{Host, WiringError};
use crate::datapath::cgroup_root;
use crate::netlink::abort_sockets;

impl Host {
    /// Lets processes of the host reach published ports by the host's own and loopback addresses, and keeps them from binding
    /// these ports. May be repeated. Undone with the pins ([`crate::datapath::Datapath::unload`]).
    pub fn wire_host_sockets(&self) -> Result<(), WiringError> {
        let cookie = self.netns.cookie()?;
        Ok(self.datapath.attach_socket_hooks(&cgroup_root()?, cookie)?)
    }

    /// Ends the host's own connected sockets of a protocol that a publish has led to a pod's end, unless `keeps` says by that
    /// end and the address their process asked for that they may stay: they know nothing of the publish, and would go on to
    /// that pod for ever.
    ///
    /// Their programs' next call fails with `ECONNABORTED`; when they connect again they get to where the port leads now.
    pub(super) fn end_host_sockets(
        &self,
        publish: u32,
        proto: u8,
        keeps: impl Fn(SocketAddr, IpAddr) -> bool + Sync,
    ) -> Result<(), WiringError> {
        let peers = self.datapath.host_peers(publish)?;
        if peers.is_empty() {
            return Ok(());
        }
        let picked = |end, cookie| peers.get(&(end, cookie)).is_some_and(|asked| !keeps(end, *asked));
        // A kernel without CONFIG_INET_DIAG_DESTROY, for one. To stop here would leave the change half-done.
        if let Err(e) = abort_sockets(&self.netns, proto, picked) {
            tracing::warn!("{e}: sockets of this host stay connected to the pod they have");
        }
        Ok(())
    }
}
