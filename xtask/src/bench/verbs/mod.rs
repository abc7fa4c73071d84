//! `cargo xtask bench verbs`: how long verbs take, against the same by hand and by CNI's plugins.
//!
//! Rounds take all of them in turns, so a slow minute of the machine hits each alike. Absolute figures belong to the machine;
//! only the ratios travel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Output;
use crate::process::Run;

mod hands;
pub mod load;
mod report;

use hands::{Cni, Netns, UPLINK};
use report::{Metric, Report};

const TOPOLOGY: &str = r#"
[host]
uplink = "up0"

[nat]
flows = 1048576

[[network]]
name = "pods"
subnets = ["10.244.0.0/16", "fd00:244::/64"]
"#;

/// The first host port of the pods of a file.
const FIRST_PORT: u32 = 10_000;

/// How long the kernel may take to end what was taken down.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often datagrams are sent until all flows are there.
const ATTEMPTS: u32 = 5;

/// Arguments of `bench verbs`.
#[derive(clap::Args, Clone)]
pub struct Args {
    /// Times each verb is measured
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Pods of the large topology
    #[arg(long, default_value_t = 1000)]
    pods: u32,
    /// Flows of the busy host
    #[arg(long, default_value_t = 500_000)]
    flows: u32,
    /// Routes of the busy host
    #[arg(long, default_value_t = 100_000)]
    routes: u32,
}

impl Args {
    /// These arguments as words of a command line.
    pub fn words(&self) -> Vec<String> {
        let Self { rounds, pods, flows, routes } = self;
        vec![
            "verbs".to_owned(),
            format!("--rounds={rounds}"),
            format!("--pods={pods}"),
            format!("--flows={flows}"),
            format!("--routes={routes}"),
        ]
    }
}

/// The measurement, in namespaces of its own.
pub fn inside(args: &Args, netns: Option<&Path>, output: Output) -> Result<ExitCode> {
    let netns = Netns(netns.context("--netns names no binary")?.to_path_buf());
    make_host()?;
    let cni = Cni::find();
    if cni.is_none() {
        eprintln!("bench: CNI's plugins are not here (Debian: containernetworking-plugins): left out");
    }
    let mut report = Report::default();
    let topology = write("/run/small.toml", TOPOLOGY)?;
    first_up(args, &netns, &topology, &mut report)?;
    lives(args, &netns, cni.as_ref(), &topology, &mut report)?;
    many(args, &netns, &mut report)?;
    busy(args, &netns, &topology, &mut report)?;
    match output {
        Output::Text => print!("{}", report.table()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report.document())?),
    }
    Ok(ExitCode::SUCCESS)
}

/// A host with a LAN.
fn make_host() -> Result<()> {
    for line in [
        "link set lo up".to_owned(),
        "netns add lan".to_owned(),
        format!("link add {UPLINK} type veth peer name eth0 netns lan"),
        format!("addr add 192.0.2.1/24 dev {UPLINK}"),
        format!("addr add 2001:db8::1/64 dev {UPLINK} nodad"),
        format!("link set {UPLINK} up"),
        "-n lan link set eth0 up".to_owned(),
        "-n lan addr add 192.0.2.2/24 dev eth0".to_owned(),
        // It takes what it is sent, and answers nothing.
        "-n lan route add blackhole 198.18.0.0/15".to_owned(),
        "route add default via 192.0.2.2".to_owned(),
    ] {
        Command::new("ip").args(line.split(' ')).run()?;
    }
    Ok(())
}

fn write(path: &str, text: &str) -> Result<PathBuf> {
    fs::write(path, text).with_context(|| format!("cannot write {path}"))?;
    Ok(path.into())
}

fn note(metric: Metric, value: f64, report: &mut Report) {
    eprintln!("bench: {}: {value:.1} ms", metric.describe());
    report.add(metric, value);
}

fn first_up(args: &Args, netns: &Netns, topology: &Path, report: &mut Report) -> Result<()> {
    for _ in 0..args.rounds.div_ceil(3) {
        note(Metric::FirstUp, up(netns, topology)?, report);
        netns.run(&["down"])?;
    }
    Ok(())
}

fn up(netns: &Netns, topology: &Path) -> Result<f64> {
    netns.run(&["up", "-f", &topology.to_string_lossy()])
}

/// One pod's life by each in turns.
fn lives(args: &Args, netns: &Netns, cni: Option<&Cni>, topology: &Path, report: &mut Report) -> Result<()> {
    up(netns, topology)?;
    for _ in 0..args.rounds {
        note(Metric::Add, netns.add()?, report);
        note(Metric::Del, netns.del()?, report);
        note(Metric::IpAdd, hands::ip_add()?, report);
        note(Metric::IpDel, hands::ip_del()?, report);
        if let Some(cni) = cni {
            note(Metric::CniAdd, cni.add()?, report);
            note(Metric::CniDel, cni.del()?, report);
        }
    }
    netns.run(&["down"]).map(drop)
}

/// Many pods in one file, and one more beside them.
fn many(args: &Args, netns: &Netns, report: &mut Report) -> Result<()> {
    let pod =
        |i: u32| format!("[[pod]]\nname = \"p{i}\"\nnetwork = \"pods\"\npublish = [\"{}:80/tcp\"]\n", FIRST_PORT + i);
    let file = format!("{TOPOLOGY}{}", (0..args.pods).map(pod).collect::<String>());
    let file = write("/run/large.toml", &file)?;
    for _ in 0..args.rounds.div_ceil(5) {
        note(Metric::UpMany, up(netns, &file)?, report);
        for _ in 0..args.rounds.div_ceil(3) {
            note(Metric::AddBesideMany, netns.add()?, report);
            note(Metric::DelBesideMany, netns.del()?, report);
        }
        let started = Instant::now();
        note(Metric::DownMany, netns.run(&["down"])?, report);
        wait_for_namespaces(started)?;
        note(Metric::GoneMany, hands::milliseconds(started), report);
    }
    Ok(())
}

/// Waits until the names of all pods are gone.
fn wait_for_namespaces(started: Instant) -> Result<()> {
    while fs::read_dir("/run/netns").context("cannot list namespaces")?.count() > 1 {
        if started.elapsed() > PATIENCE {
            bail!("namespaces of pods are there after {PATIENCE:?}");
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A pod's life on a host with many flows and routes.
fn busy(args: &Args, netns: &Netns, topology: &Path, report: &mut Report) -> Result<()> {
    up(netns, topology)?;
    for pod in load::pods(args.flows) {
        netns.run(&["add", &pod])?;
    }
    for _ in 0..args.rounds {
        note(Metric::AddIdle, netns.add()?, report);
        note(Metric::DelIdle, netns.del()?, report);
    }
    let exe = std::env::current_exe().context("cannot find this executable")?;
    for _ in 0..ATTEMPTS {
        load::open_flows(&exe, args.flows)?;
        report.flows = flows(netns)?;
        if has_enough(args, report) {
            break;
        }
    }
    load::add_routes(args.routes)?;
    for _ in 0..args.rounds {
        note(Metric::AddBusy, netns.add()?, report);
        note(Metric::DelBusy, netns.del()?, report);
    }
    report.flows = flows(netns)?;
    if !has_enough(args, report) {
        bail!("only {} of {} flows were opened", report.flows, args.flows);
    }
    netns.run(&["down"]).map(drop)
}

/// Whether nearly all flows that were asked for are there.
fn has_enough(args: &Args, report: &Report) -> bool {
    report.flows >= u64::from(args.flows) / 10 * 9
}

/// Flows there are, as the data path counts them.
fn flows(netns: &Netns) -> Result<u64> {
    let status = Command::new(&netns.0).args(["status", "-o", "json"]).text()?;
    let status: serde_json::Value = serde_json::from_str(&status).context("status printed no JSON")?;
    status["flows"]["ipv4"].as_u64().context("status names no number of flows")
}
