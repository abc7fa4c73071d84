//! What makes a host busy: many flows, many routes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::namespace::Namespace;
use super::hands::UPLINK;
use crate::process::Run;

/// Flows one pod opens: below what one account may have.
const FLOWS_PER_POD: u32 = 125_000;

/// Where their datagrams go: routed to the LAN, and there to nowhere. Each port of it has all source ports to itself.
const SINK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// Datagrams the host takes in one go: its queue of packets that come in is short (`net.core.netdev_max_backlog`).
const AT_ONCE: u32 = 256;

/// Ports used of one address of the sink.
const PORTS: u32 = 50_000;

/// The program of a pod: sends a datagram each to so many places, beginning with the place of this number.
pub fn send(first: u32, count: u32) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4000)).context("cannot open a socket")?;
    for n in first..first + count {
        let port = u16::try_from(1024 + n % PORTS).context("a port")?;
        let to = SocketAddrV4::new(Ipv4Addr::from(u32::from(SINK) + n / PORTS), port);
        // What is lost for want of room is seen by the number of flows, and sent again.
        let _lost = socket.send_to(&[0], to);
        if n % AT_ONCE == 0 {
            sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Pods that open `flows` flows.
pub fn pods(flows: u32) -> Vec<String> {
    (0..flows.div_ceil(FLOWS_PER_POD)).map(|i| format!("busy{i}")).collect()
}

/// Opens `flows` flows from [`pods`] that are there.
pub fn open_flows(exe: &Path, flows: u32) -> Result<()> {
    for (i, pod) in (0..).zip(pods(flows)) {
        let first = i * FLOWS_PER_POD;
        let count = FLOWS_PER_POD.min(flows - first);
        let exe = exe.to_string_lossy();
        let mut command = Namespace::existing(&pod).command(&exe);
        command.args(["bench-flows", &first.to_string(), &count.to_string()]).run()?;
    }
    Ok(())
}

/// Gives the host so many routes, of one address each.
pub fn add_routes(routes: u32) -> Result<()> {
    let line = |n: u32| format!("route add {}/32 dev {UPLINK}\n", Ipv4Addr::from(0xac10_0000 + n));
    let path = "/run/routes.batch";
    fs::write(path, (0..routes).map(line).collect::<String>()).context("cannot write the list of routes")?;
    Command::new("ip").args(["-batch", path]).run()
}
