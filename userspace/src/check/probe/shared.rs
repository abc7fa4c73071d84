//! One port, several pods.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use nix::poll::PollFlags;

use super::socket::{Listener, PATIENCE, accept, connect, listen, wait_for_any};
use super::{Pair, ProbeError, check_seen};
use crate::check::case::Site;
use crate::netns::Netns;

/// Connections tried: that chance gives all of them to one of two pods happens once in 2^63 times.
const CONNECTIONS: u32 = 64;

/// Connects until each of two pods has seen a connection.
pub(super) fn connect_to_all(
    pair: &Pair<'_>,
    (other, other_netns): (Site, &Netns),
    at: SocketAddr,
    pod_port: u16,
    seen_as: IpAddr,
) -> Result<(), ProbeError> {
    let serve = |site: Site, netns: &Netns| {
        let listen_at = SocketAddr::new(site.ip(pair.case.family), pod_port);
        let listener = netns.run(|| listen(listen_at))?.map_err(ProbeError::socket("listen at", listen_at))?;
        Ok::<_, ProbeError>(Pod { site, listener, reached: false })
    };
    let mut pods = [serve(pair.case.to, pair.to)?, serve(other, other_netns)?];
    let from = SocketAddr::new(pair.opener_ip(), 0);
    for _ in 0..CONNECTIONS {
        let connected = pair.from.run(|| connect(from, at, PATIENCE))?;
        let _open = connected.map_err(ProbeError::socket("connect to", at))?;
        accept_at_one(&mut pods, from, seen_as)?;
        if pods.iter().all(|pod| pod.reached) {
            return Ok(());
        }
    }
    let missing = pods.iter().find(|pod| !pod.reached).map_or("nobody", |pod| pod.site.name);
    Err(ProbeError::NotShared { at, connections: CONNECTIONS, missing })
}

/// A pod behind the port.
struct Pod {
    site: Site,
    listener: Listener,
    reached: bool,
}

/// Accepts the connection that has just been made, wherever it arrives.
fn accept_at_one(pods: &mut [Pod; 2], from: SocketAddr, seen_as: IpAddr) -> Result<(), ProbeError> {
    let failed = || ProbeError::socket("be connected to by", from);
    let sockets = pods.each_ref().map(|pod| pod.listener.as_fd());
    let pod = &mut pods[wait_for_any(sockets, PollFlags::POLLIN, PATIENCE).map_err(failed())?];
    let (_, peer) = accept(&pod.listener, PATIENCE).map_err(failed())?;
    pod.reached = true;
    check_seen(pod.site.name, peer, seen_as)
}
