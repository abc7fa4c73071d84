//! What is compared: three ways to connect two pods, and a pod and a LAN.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use super::frame::Mac;
use super::namespace::Namespace;
use crate::process::Run;

/// Addresses are the same in every arm: each has namespaces of its own.
pub const RED: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 10);
/// See [`RED`].
pub const BLUE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 20);
/// See [`RED`].
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// See [`RED`].
pub const HOST_ON_LAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// See [`RED`].
pub const LAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Addresses a client on the LAN opens connections from: with one, its ports would run out within a round.
const SOURCES: u8 = 4;

/// The port published on the host, and the pod's own.
pub const PUBLISHED_PORT: u16 = 8080;

/// The host's interface to the LAN.
pub const UPLINK: &str = "uplink0";

/// The instance of `netns` under test.
pub const INSTANCE: &str = "bench";

/// The topology of ours.
const TOPOLOGY: &str = r#"
[host]
uplink = "uplink0"

[[network]]
name = "pods"
subnets = ["10.244.0.0/24"]
masquerade = true

[[pod]]
name = "red"
network = "pods"
address = ["10.244.0.10"]

[[pod]]
name = "blue"
network = "pods"
address = ["10.244.0.20"]
publish = ["8080:8080/tcp"]
"#;

/// A way to connect pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ArmKind {
    /// One cable between the two: what is physically possible
    Veth,
    /// A bridge, bridge-nf, MASQUERADE and DNAT, as people type it
    Bridge,
    /// netns
    Ours,
}

/// An arm that is set up.
pub struct Arm {
    /// Which.
    pub kind: ArmKind,
    /// Pod to pod.
    pub pods: Route,
    /// Pod to a machine on the LAN, with the host's address on the way out. Over `veth` the plain cable.
    pub snat: Route,
    /// Machine on the LAN to a published port. Over `veth` the plain cable.
    pub published: Route,
    /// Ours only: the host namespace.
    pub host: Option<Namespace>,
    /// Ours only: how to take it down.
    netns: Option<PathBuf>,
}

/// Where a client is, where its server is, and how the client reaches it.
#[derive(Clone, Debug)]
pub struct Route {
    /// The client's namespace.
    pub client: Namespace,
    /// The client's addresses.
    pub sources: Vec<Ipv4Addr>,
    /// The server's namespace.
    pub server: Namespace,
    /// The address the client connects to.
    pub to: Ipv4Addr,
}

impl ArmKind {
    /// Its name in tables.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Bridge => "bridge",
            Self::Ours => "ours",
        }
    }
}

impl Arm {
    /// Makes its namespaces and connects them.
    pub fn set_up(kind: ArmKind, netns: Option<&Path>) -> Result<Self> {
        match kind {
            ArmKind::Veth => veth(),
            ArmKind::Bridge => bridge(),
            ArmKind::Ours => ours(netns.context("--netns names no binary")?),
        }
        .with_context(|| format!("cannot set up {}", kind.describe()))
    }

    /// Ends what outlives the processes of this arm; the namespaces go with ours.
    pub fn tear_down(&self) -> Result<()> {
        let (Some(netns), Some(host)) = (&self.netns, &self.host) else { return Ok(()) };
        netns_command(host, netns, &["down"])
    }
}

impl Route {
    fn new(client: &Namespace, sources: Vec<Ipv4Addr>, server: &Namespace, to: Ipv4Addr) -> Self {
        Self { client: client.clone(), sources, server: server.clone(), to }
    }

    /// The address of a port of the server, as the client reaches it.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.to), port)
    }
}

/// `count` addresses from `first` on.
fn addresses(first: Ipv4Addr, count: u8) -> Vec<Ipv4Addr> {
    let first = u32::from(first);
    (0..u32::from(count)).map(|i| Ipv4Addr::from(first + i)).collect()
}

/// Gives an interface several addresses of a /24.
fn add_addresses(namespace: &Namespace, ifname: &str, addresses: &[Ipv4Addr]) -> Result<()> {
    addresses.iter().try_for_each(|address| namespace.ip(&format!("addr add {address}/24 dev {ifname}")))
}

fn veth() -> Result<Arm> {
    let (red, blue) = (Namespace::create("veth-red")?, Namespace::create("veth-blue")?);
    red.cable("eth0", &blue, "eth0")?;
    let sources = addresses(RED, SOURCES);
    add_addresses(&red, "eth0", &sources)?;
    add_addresses(&blue, "eth0", &[BLUE])?;
    let path = Route::new(&red, sources, &blue, BLUE);
    Ok(Arm { kind: ArmKind::Veth, pods: path.clone(), snat: path.clone(), published: path, netns: None, host: None })
}

/// A host namespace with an uplink, and a machine on the LAN.
fn host_and_lan(arm: &str) -> Result<(Namespace, Namespace)> {
    let (host, lan) = (Namespace::create(&format!("{arm}-host"))?, Namespace::create(&format!("{arm}-lan"))?);
    host.cable(UPLINK, &lan, "eth0")?;
    add_addresses(&host, UPLINK, &[HOST_ON_LAN])?;
    add_addresses(&lan, "eth0", &addresses(LAN, SOURCES))?;
    Ok((host, lan))
}

fn paths(kind: ArmKind, red: &Namespace, blue: &Namespace, lan: &Namespace) -> Arm {
    Arm {
        kind,
        pods: Route::new(red, vec![RED], blue, BLUE),
        snat: Route::new(red, vec![RED], lan, LAN),
        published: Route::new(lan, addresses(LAN, SOURCES), blue, HOST_ON_LAN),
        netns: None,
        host: None,
    }
}

fn bridge() -> Result<Arm> {
    let (host, lan) = host_and_lan("bridge")?;
    let (red, blue) = (Namespace::create("bridge-red")?, Namespace::create("bridge-blue")?);
    host.ip("link add br0 type bridge")?;
    host.ip(&format!("addr add {GATEWAY}/24 dev br0"))?;
    host.ip("link set br0 up")?;
    for (pod, port, address) in [(&red, "veth-red", RED), (&blue, "veth-blue", BLUE)] {
        host.cable(port, pod, "eth0")?;
        host.ip(&format!("link set {port} master br0"))?;
        add_addresses(pod, "eth0", &[address])?;
        pod.ip(&format!("route add default via {GATEWAY}"))?;
    }
    host.sysctl("net/ipv4/ip_forward", "1")?;
    host.sysctl("net/bridge/bridge-nf-call-iptables", "1").context("bridge-nf (module br_netfilter)")?;
    host.iptables("-t nat -A POSTROUTING -s 10.244.0.0/24 ! -o br0 -j MASQUERADE")?;
    host.iptables(&format!(
        "-t nat -A PREROUTING -p tcp -d {HOST_ON_LAN} --dport {PUBLISHED_PORT} -j DNAT --to-destination {BLUE}:{PUBLISHED_PORT}"
    ))?;
    host.iptables("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")?;
    host.iptables("-A FORWARD -i br0 -j ACCEPT")?;
    host.iptables("-A FORWARD -o br0 -j ACCEPT")?;
    Ok(paths(ArmKind::Bridge, &red, &blue, &lan))
}

fn ours(netns: &Path) -> Result<Arm> {
    let (host, lan) = host_and_lan("ours")?;
    // /run is a tmpfs of ours.
    let topology = Path::new("/run/bench.toml");
    fs::write(topology, TOPOLOGY).with_context(|| format!("cannot write {}", topology.display()))?;
    netns_command(&host, netns, &["up", "-f", "/run/bench.toml"])?;
    let (red, blue) = (Namespace::existing("red"), Namespace::existing("blue"));
    let arm = paths(ArmKind::Ours, &red, &blue, &lan);
    Ok(Arm { netns: Some(netns.to_path_buf()), host: Some(host), ..arm })
}

/// The link-layer address of the machine on the LAN of ours.
pub fn lan_mac() -> Result<Mac> {
    let links = Namespace::existing("ours-lan").links()?;
    links.iter().find(|link| link.name == "eth0").map(|link| link.mac).context("the LAN's machine has no eth0")
}

/// Runs a verb of `netns` in the host namespace; what it prints is not part of the benchmark's result.
fn netns_command(host: &Namespace, netns: &Path, verb: &[&str]) -> Result<()> {
    let netns = netns.to_str().with_context(|| format!("{} is not UTF-8", netns.display()))?;
    host.command(netns).args(["--instance", INSTANCE]).args(verb).text().map(|_| ())
}
