//! Who does it: netns, `ip`, or CNI's plugins.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::process::Run;

/// The host's interface to the LAN.
pub const UPLINK: &str = "up0";

/// Where distributions put CNI's plugins.
const CNI: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// The namespace whose life is measured.
const POD: &str = "measured";

/// The binary under test.
pub struct Netns(pub PathBuf);

impl Netns {
    /// Runs a verb; how long it took, in milliseconds.
    pub fn run(&self, args: &[&str]) -> Result<f64> {
        timed(Command::new(&self.0).args(args))
    }

    /// Adds the pod that is measured, with two addresses and a published port.
    pub fn add(&self) -> Result<f64> {
        self.run(&["add", POD, "--publish", "8080:80/tcp"])
    }

    /// Deletes it.
    pub fn del(&self) -> Result<f64> {
        self.run(&["del", POD])
    }
}

/// The same pod by six commands of `ip`, without a published port, NAT or a program.
pub fn ip_add() -> Result<f64> {
    let commands = [
        format!("netns add {POD}"),
        format!("link add veth-{POD} type veth peer name eth0 netns {POD}"),
        format!("link set veth-{POD} up"),
        format!("-n {POD} link set eth0 up"),
        format!("-n {POD} addr add 10.9.0.2/24 dev eth0"),
        format!("-n {POD} addr add fd00:9::2/64 dev eth0 nodad"),
    ];
    commands.iter().map(|line| timed(Command::new("ip").args(line.split(' ')))).sum()
}

/// And its end.
pub fn ip_del() -> Result<f64> {
    let commands = [format!("link del veth-{POD}"), format!("netns del {POD}")];
    commands.iter().map(|line| timed(Command::new("ip").args(line.split(' ')))).sum()
}

/// CNI's plugins `bridge` and `portmap`, run as a container runtime runs them.
pub struct Cni(PathBuf);

impl Cni {
    /// The plugins of this machine, if it has them.
    pub fn find() -> Option<Self> {
        let has_both =
            |dir: &&&str| ["bridge", "portmap", "host-local"].iter().all(|p| Path::new(dir).join(p).exists());
        CNI.iter().find(has_both).map(|dir| Self(dir.into()))
    }

    /// Adds a namespace's interface, with two addresses and a published port. The namespace is made outside of what is measured.
    pub fn add(&self) -> Result<f64> {
        Command::new("ip").args(["netns", "add", POD]).run()?;
        let (bridge, result) = self.plugin("ADD", "bridge", bridge())?;
        let (portmap, _) = self.plugin("ADD", "portmap", portmap(Some(&result)))?;
        Ok(bridge + portmap)
    }

    /// Removes it; the namespace goes outside of what is measured.
    pub fn del(&self) -> Result<f64> {
        let (portmap, _) = self.plugin("DEL", "portmap", portmap(None))?;
        let (bridge, _) = self.plugin("DEL", "bridge", bridge())?;
        Command::new("ip").args(["netns", "del", POD]).run()?;
        Ok(bridge + portmap)
    }

    fn plugin(&self, verb: &str, plugin: &str, mut config: Value) -> Result<(f64, Value)> {
        config["cniVersion"] = json!("0.4.0");
        config["name"] = json!("bench");
        let mut command = Command::new(self.0.join(plugin));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", POD)
            .env("CNI_NETNS", format!("/run/netns/{POD}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.0);
        let started = Instant::now();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot run `{}`", command.line()))?;
        if let Some(mut stdin) = child.stdin.take() {
            serde_json::to_writer(&mut stdin, &config).context("cannot hand the plugin its configuration")?;
        }
        let output = child.wait_with_output().with_context(|| format!("cannot wait for `{}`", command.line()))?;
        let took = milliseconds(started);
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("{verb} of `{}`: {}: {text}", command.line(), output.status);
        }
        Ok((took, if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text)? }))
    }
}

fn bridge() -> Value {
    let ranges = json!([[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges, "dataDir": "/run/cni-bench"});
    json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipam": ipam})
}

fn portmap(previous: Option<&Value>) -> Value {
    let ports = json!([{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]);
    let mut config = json!({"type": "portmap", "runtimeConfig": {"portMappings": ports}});
    if let Some(previous) = previous {
        config["prevResult"] = previous.clone();
    }
    config
}

fn timed(command: &mut Command) -> Result<f64> {
    let started = Instant::now();
    command.text()?;
    Ok(milliseconds(started))
}

/// Since then.
pub fn milliseconds(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}
