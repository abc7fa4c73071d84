//! What is measured over each arm, and with which tool.

use std::net::Ipv4Addr;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use serde::Serialize;

use super::arms::{Arm, PUBLISHED_PORT, Route};
use super::crr;
use super::namespace::{Server, Transport};
use crate::process::Run;

const IPERF_PORT: u16 = 5201;
const SOCKPERF_PORT: u16 = 11111;

/// Seconds a tool may take beyond its measuring time.
const GRACE_SECONDS: u32 = 10;

/// Servers and clients each keep to one processor: where the scheduler puts them both on one, a request-response is
/// several times faster than where it does not, and it decides anew each time.
const SERVER_PROCESSOR: usize = 0;

/// A run of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// One TCP stream from pod to pod.
    TcpStream,
    /// UDP with 64 bytes of payload from pod to pod, as fast as one sender can.
    UdpSmall,
    /// 64 bytes there and back over one TCP connection, pod to pod.
    TcpRequestResponse,
    /// One TCP stream from a pod to the LAN.
    SnatStream,
    /// Connections from the LAN to a published port, one request each.
    ConnectRequestClose,
}

/// A figure of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Gbit/s received.
    TcpStream,
    /// Thousands of packets per second that arrived.
    UdpSmall,
    /// Half of the round trip, median.
    TcpRequestResponseP50,
    /// Half of the round trip, 99th percentile.
    TcpRequestResponseP99,
    /// Gbit/s received.
    SnatStream,
    /// Connections per second.
    ConnectRequestClose,
}

impl Workload {
    /// In the order they run.
    pub const ALL: [Self; 5] =
        [Self::TcpStream, Self::UdpSmall, Self::TcpRequestResponse, Self::SnatStream, Self::ConnectRequestClose];

    /// For error messages.
    pub fn describe(self) -> &'static str {
        match self {
            Self::TcpStream => "TCP stream",
            Self::UdpSmall => "UDP 64 B",
            Self::TcpRequestResponse => "TCP request-response",
            Self::SnatStream => "SNAT TCP stream",
            Self::ConnectRequestClose => "connect-request-close",
        }
    }

    /// Runs it once and returns its figures.
    pub fn run(self, arm: &Arm, seconds: u32, round: u32) -> Result<Vec<(Metric, f64)>> {
        match self {
            Self::TcpStream => Ok(vec![(Metric::TcpStream, stream(&arm.pods, seconds)?)]),
            Self::UdpSmall => Ok(vec![(Metric::UdpSmall, udp_small(&arm.pods, seconds)?)]),
            Self::TcpRequestResponse => {
                let (p50, p99) = request_response(&arm.pods, seconds)?;
                Ok(vec![(Metric::TcpRequestResponseP50, p50), (Metric::TcpRequestResponseP99, p99)])
            }
            Self::SnatStream => Ok(vec![(Metric::SnatStream, stream(&arm.snat, seconds)?)]),
            Self::ConnectRequestClose => {
                Ok(vec![(Metric::ConnectRequestClose, connections(&arm.published, seconds, round)?)])
            }
        }
    }
}

impl Metric {
    /// Its row's name.
    pub fn describe(self) -> &'static str {
        match self {
            Self::TcpStream => "TCP stream",
            Self::UdpSmall => "UDP 64 B",
            Self::TcpRequestResponseP50 => "TCP request-response p50",
            Self::TcpRequestResponseP99 => "TCP request-response p99",
            Self::SnatStream => "SNAT TCP stream",
            Self::ConnectRequestClose => "connect-request-close",
        }
    }

    /// Unit of its values.
    pub fn unit(self) -> &'static str {
        match self {
            Self::TcpStream | Self::SnatStream => "Gbit/s",
            Self::UdpSmall => "kpps",
            Self::TcpRequestResponseP50 | Self::TcpRequestResponseP99 => "us",
            Self::ConnectRequestClose => "conn/s",
        }
    }

    /// Whether less is better.
    pub fn is_latency(self) -> bool {
        matches!(self, Self::TcpRequestResponseP50 | Self::TcpRequestResponseP99)
    }

    /// The least ours may be of a direct veth pair; none where a veth pair does less work (no NAT), and for the tail,
    /// which is the machine's.
    pub fn floor(self) -> Option<f64> {
        match self {
            Self::TcpStream | Self::TcpRequestResponseP50 => Some(0.95),
            Self::UdpSmall => Some(0.85),
            _ => None,
        }
    }
}

/// The clients' processor.
fn client_processor() -> usize {
    available_parallelism().map_or(0, |n| n.get().min(2) - 1)
}

/// Gbit/s of one TCP stream, as the receiver counts it.
fn stream(route: &Route, seconds: u32) -> Result<f64> {
    let port = IPERF_PORT.to_string();
    let _server = route.server.serve(
        SERVER_PROCESSOR,
        Transport::Tcp,
        IPERF_PORT,
        &["iperf3", "--server", "--one-off", "--port", &port],
    )?;
    let text = route
        .client
        .bounded(seconds + GRACE_SECONDS, client_processor(), "iperf3")
        .args(["--client", &route.to.to_string(), "--port", &port, "--time", &seconds.to_string(), "--json"])
        .text()?;
    iperf_gbits(&text)
}

/// `end.sum_received.bits_per_second` of iperf3's JSON, in Gbit/s.
fn iperf_gbits(json: &str) -> Result<f64> {
    let document: serde_json::Value = serde_json::from_str(json).context("iperf3 printed no JSON")?;
    let bits = &document["end"]["sum_received"]["bits_per_second"];
    Ok(bits.as_f64().context("iperf3 names no received rate")? / 1e9)
}

/// Thousands of 64-byte datagrams per second that reached the other namespace.
fn udp_small(route: &Route, seconds: u32) -> Result<f64> {
    let server = sockperf_server(route, Transport::Udp)?;
    let before = server.udp_arrived()?;
    let text = sockperf(route, seconds, "throughput", &["--mps", "max"])?;
    let arrived = server.udp_arrived()? - before;
    Ok(arrived as f64 / sending_seconds(&text)? / 1e3)
}

/// `Total of 309655 messages sent in 2.000 sec` of sockperf's report: the process itself runs twice as long.
fn sending_seconds(text: &str) -> Result<f64> {
    let rest = text.split_once("messages sent in ").context("sockperf reports no sending time")?.1;
    let seconds = rest.split_whitespace().next().unwrap_or_default();
    seconds.parse().with_context(|| format!("sockperf's sending time is {seconds:?}"))
}

/// Median and 99th percentile, in microseconds, of half a round trip.
fn request_response(route: &Route, seconds: u32) -> Result<(f64, f64)> {
    let _server = sockperf_server(route, Transport::Tcp)?;
    let text = sockperf(route, seconds, "ping-pong", &["--tcp"])?;
    Ok((percentile(&text, "50.000")?, percentile(&text, "99.000")?))
}

fn sockperf_server(route: &Route, transport: Transport) -> Result<Server> {
    let port = SOCKPERF_PORT.to_string();
    let mut command = vec!["sockperf", "server", "-i", "0.0.0.0", "-p", &port];
    command.extend((transport == Transport::Tcp).then_some("--tcp"));
    route.server.serve(SERVER_PROCESSOR, transport, SOCKPERF_PORT, &command)
}

fn sockperf(route: &Route, seconds: u32, mode: &str, options: &[&str]) -> Result<String> {
    route
        .client
        .bounded(seconds + GRACE_SECONDS, client_processor(), "sockperf")
        .args([mode, "-i", &route.to.to_string(), "-p", &SOCKPERF_PORT.to_string()])
        .args(["--msg-size", "64", "--time", &seconds.to_string()])
        .args(options)
        .text()
}

/// `---> percentile 50.000 = 7.035` of sockperf's report.
fn percentile(text: &str, rank: &str) -> Result<f64> {
    let wanted = format!("percentile {rank} =");
    let line = text.lines().find_map(|line| line.split_once(&wanted));
    let (_, value) = line.with_context(|| format!("sockperf reports no percentile {rank}"))?;
    value.trim().parse().with_context(|| format!("sockperf's percentile {rank} is {value:?}"))
}

/// Connections per second to a published port.
fn connections(route: &Route, seconds: u32, round: u32) -> Result<f64> {
    let exe = std::env::current_exe().context("cannot find this executable")?;
    let exe = exe.to_str().with_context(|| format!("{} is not UTF-8", exe.display()))?;
    let port = PUBLISHED_PORT.to_string();
    let _server = route.server.serve(
        SERVER_PROCESSOR,
        Transport::Tcp,
        PUBLISHED_PORT,
        &[exe, "crr", "serve", "--port", &port],
    )?;
    let sources: Vec<String> = route.sources.iter().map(Ipv4Addr::to_string).collect();
    let text = route
        .client
        .bounded(seconds + GRACE_SECONDS, client_processor(), exe)
        .args(["crr", "connect", "--to", &route.at(PUBLISHED_PORT).to_string(), "--from", &sources.join(",")])
        .args(["--seconds", &seconds.to_string(), "--first-port", &crr::first_port(round).to_string()])
        .text()?;
    let tally: crr::Tally = serde_json::from_str(&text).context("the client printed no tally")?;
    Ok(tally.per_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_received_rate_is_read_from_iperf3() {
        let json = r#"{"end": {"sum_sent": {"bits_per_second": 9e9}, "sum_received": {"bits_per_second": 12.5e9}}}"#;
        assert_eq!(iperf_gbits(json).unwrap(), 12.5);
        assert!(iperf_gbits(r#"{"error": "unable to connect"}"#).is_err());
    }

    #[test]
    fn the_sending_time_is_read_from_sockperf() {
        let text = "sockperf: Test ended\nsockperf: Total of 309655 messages sent in 2.000 sec\n\n";
        assert_eq!(sending_seconds(text).unwrap(), 2.0);
        assert!(sending_seconds("sockperf: Test ended").is_err());
    }

    #[test]
    fn percentiles_are_read_from_sockperf() {
        let text = "sockperf: ---> percentile 99.000 =    8.147\nsockperf: ---> percentile 50.000 =    7.035\n";
        assert_eq!(percentile(text, "50.000").unwrap(), 7.035);
        assert_eq!(percentile(text, "99.000").unwrap(), 8.147);
        assert!(percentile(text, "99.900").is_err());
    }
}
