//! Network namespaces of the benchmark, and programs inside them.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::frame::Mac;
use crate::process::Run;

/// How long a server may take to listen.
const LISTEN_PATIENCE: Duration = Duration::from_secs(10);

/// What a server listens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A listening TCP socket.
    Tcp,
    /// A bound UDP socket.
    Udp,
}

/// An interface, as `ip -json link` tells of it.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its link-layer address.
    pub mac: Mac,
    /// The index of its other end, where it has one in another namespace.
    pub peer: Option<u32>,
}

/// A named network namespace.
#[derive(Clone, Debug)]
pub struct Namespace(String);

impl Namespace {
    /// One that exists already.
    pub fn existing(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Makes one, with its loopback up.
    pub fn create(name: &str) -> Result<Self> {
        Command::new("ip").args(["netns", "add", name]).run()?;
        let namespace = Self(name.to_owned());
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// A command inside it. Only the network is changed: `ip netns exec` would hide the bpffs behind a new /sys.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.0)).arg("--").arg(program);
        command
    }

    /// A command inside it that is ended if it runs too long, on one processor.
    pub fn bounded(&self, seconds: u32, processor: usize, program: &str) -> Command {
        let mut command = self.command("timeout");
        command.args(["--signal=KILL", &seconds.to_string(), "taskset", "--cpu-list", &processor.to_string(), program]);
        command
    }

    /// `ip ARGS` inside it.
    pub fn ip(&self, args: &str) -> Result<()> {
        self.command("ip").args(args.split_whitespace()).run()
    }

    /// Its interfaces.
    pub fn links(&self) -> Result<Vec<Link>> {
        parse_links(&self.command("ip").args(["-json", "link"]).text()?)
    }

    /// The interfaces of the namespace this process is in.
    pub fn links_here() -> Result<Vec<Link>> {
        parse_links(&Command::new("ip").args(["-json", "link"]).text()?)
    }

    /// `iptables ARGS` inside it.
    pub fn iptables(&self, args: &str) -> Result<()> {
        self.command("iptables").args(args.split_whitespace()).run()
    }

    /// Writes one of its settings under /proc/sys, as `sysctl -w` does.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let script = format!("printf %s {value} > /proc/sys/{path}");
        self.command("sh").args(["-c", &script]).run()
    }

    /// Starts a server on one processor and waits until it listens.
    pub fn serve(&self, processor: usize, transport: Transport, port: u16, command: &[&str]) -> Result<Server> {
        let mut line = self.command("taskset");
        line.args(["--cpu-list", &processor.to_string()]).args(command);
        let child = line
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run `{}`", line.line()))?;
        let mut server = Server { child };
        server.wait_until_listening(transport, port).with_context(|| format!("`{}`", line.line()))?;
        Ok(server)
    }

    /// Two ends of a new cable, one in each namespace, up.
    pub fn cable(&self, ifname: &str, other: &Self, other_ifname: &str) -> Result<()> {
        let (a, b) = (&self.0, &other.0);
        let args = format!("link add {ifname} netns {a} type veth peer name {other_ifname} netns {b}");
        Command::new("ip").args(args.split_whitespace()).run()?;
        self.ip(&format!("link set {ifname} up"))?;
        other.ip(&format!("link set {other_ifname} up"))
    }
}

/// A running server, ended when dropped.
pub struct Server {
    child: Child,
}

impl Server {
    fn wait_until_listening(&mut self, transport: Transport, port: u16) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < LISTEN_PATIENCE {
            if let Some(status) = self.child.try_wait().context("cannot wait for the server")? {
                bail!("ended before it listened: {status}");
            }
            // All the programs in between replace themselves, so the child is the server, in its own namespace.
            let mut sockets = transport.tables().into_iter().map(|file| self.proc_net(file).unwrap_or_default());
            if sockets.any(|table| listens(&table, transport, port)) {
                return Ok(());
            }
            sleep(Duration::from_millis(10));
        }
        bail!("does not listen on port {port}");
    }

    /// UDP datagrams that reached the server's namespace, whether or not a socket had room for them.
    pub fn udp_arrived(&self) -> Result<u64> {
        let text = self.proc_net("snmp")?;
        udp_arrived(&text).context("no UDP counters in /proc/net/snmp")
    }

    fn proc_net(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/net/{file}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing else to do about either failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The output of `ip -json link`; interfaces without an Ethernet address are left out.
fn parse_links(json: &str) -> Result<Vec<Link>> {
    let links: Vec<serde_json::Value> = serde_json::from_str(json).context("ip printed no JSON")?;
    let number = |value: &serde_json::Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let link = |link: &serde_json::Value| {
        Some(Link {
            name: link["ifname"].as_str()?.to_owned(),
            index: number(&link["ifindex"])?,
            mac: parse_mac(link["address"].as_str()?)?,
            peer: number(&link["link_index"]),
        })
    };
    Ok(links.iter().filter_map(link).collect())
}

fn parse_mac(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

impl Transport {
    /// Its tables in /proc/net.
    fn tables(self) -> [&'static str; 2] {
        match self {
            Self::Tcp => ["tcp", "tcp6"],
            Self::Udp => ["udp", "udp6"],
        }
    }

    /// The state of a server's socket in them.
    fn state(self) -> &'static str {
        match self {
            Self::Tcp => "0A",
            Self::Udp => "07",
        }
    }
}

/// Whether a table of /proc/net has a server on the port.
fn listens(table: &str, transport: Transport, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&suffix)) && words.nth(1) == Some(transport.state())
    })
}

/// Datagrams received and datagrams that found a full socket, of /proc/net/snmp.
fn udp_arrived(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |wanted: &str| {
        let at = names.split(' ').position(|name| name == wanted)?;
        values.split(' ').nth(at)?.parse::<u64>().ok()
    };
    Some(value("InDatagrams")? + value("RcvbufErrors")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue\n   \
                     0: 00000000:1451 00000000:0000 0A 00000000:00000000\n   \
                     1: 0100007F:1F90 00000000:0000 01 00000000:00000000\n";
        assert!(listens(table, Transport::Tcp, 5201));
        assert!(!listens(table, Transport::Tcp, 8080), "established, not listening");
        assert!(!listens(table, Transport::Tcp, 81));
    }

    #[test]
    fn links_are_read_with_their_peers() {
        let json = r#"[{"ifindex":1,"ifname":"lo","address":"00:00:00:00:00:00"},
            {"ifindex":2,"link_index":16777217,"ifname":"eth0","address":"02:00:00:00:00:0a","link_netnsid":0}]"#;
        let links = parse_links(json).unwrap();
        assert_eq!((links[1].name.as_str(), links[1].peer, links[1].mac[5]), ("eth0", Some(0x0100_0001), 10));
        assert_eq!(links[0].peer, None);
    }

    #[test]
    fn arrived_datagrams_include_those_a_full_socket_lost() {
        let snmp = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 10 1 5 3 4\n";
        assert_eq!(udp_arrived(snmp), Some(14));
        assert_eq!(udp_arrived("Udp: InDatagrams\n"), None);
    }
}
