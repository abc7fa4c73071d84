//! Nanoseconds per packet of each program, by BPF_PROG_TEST_RUN over the instance the benchmark set up.
//!
//! A run changes its packet (hop limit, addresses), so the kernel's own repetition would measure something else from
//! its second turn on. Each run here is a system call with a fresh packet, and the figure is the median: it holds
//! caches cooled by the system call and the kernel's reading of the clock, which the last row shows by themselves.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::TestRun;
use aya::programs::SchedClassifier;
use aya::programs::TestRunOptions;
use serde::{Deserialize, Serialize};

use super::arms::{self, Arm, BLUE, HOST_ON_LAN, INSTANCE, LAN, PUBLISHED_PORT, RED};
use super::frame::{self, Ends, Mac};
use super::median::median;
use super::namespace::{Link, Namespace};
use crate::process::Run;

/// Runs per figure.
const RUNS: usize = 20_000;

/// A port of the SNAT range.
const KEPT_PORT: u16 = 20_500;

/// Where the programs of an instance are pinned.
const PINS: &str = "/sys/fs/bpf/netns-ebpf";

/// `TC_ACT_REDIRECT`: the packet was sent on its way.
const REDIRECT: u32 = 7;

/// `TCX_NEXT` and `TC_ACT_OK`: the packet goes up the stack.
const UP_THE_STACK: [u32; 2] = [u32::MAX, 0];

/// Gateway devices have the network's id in their index, after this.
const IFINDEX_GATEWAY: u32 = 0x0200_0000;

/// Size of the kernel's `struct __sk_buff`, and offsets of what is set in it.
const SK_BUFF_BYTES: usize = 192;
const SK_BUFF_INGRESS_IFINDEX: usize = 36;
const SK_BUFF_IFINDEX: usize = 40;

/// One program over one kind of packet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProgramCost {
    /// The program.
    pub program: String,
    /// What it was given.
    pub packet: String,
    /// Median of single runs.
    pub nanoseconds: f64,
}

/// A program and a frame seen on the interface of this index.
#[derive(Clone)]
struct Seen {
    program: &'static str,
    ifindex: u32,
    frame: Vec<u8>,
}

/// What is measured.
struct Case {
    packet: &'static str,
    /// What comes before, once.
    before: Vec<Seen>,
    seen: Seen,
    /// Return values that show the program did what the row says.
    wanted: &'static [u32],
}

/// Measures from inside the host namespace of ours, where the interfaces the packets come from are.
pub fn measure(arm: &Arm) -> Result<Vec<ProgramCost>> {
    let Some(host) = &arm.host else { return Ok(Vec::new()) };
    let exe = std::env::current_exe().context("cannot find this executable")?;
    let exe = exe.to_str().with_context(|| format!("{} is not UTF-8", exe.display()))?;
    let text = host.command(exe).arg("bench-programs").text()?;
    serde_json::from_str(&text).context("the programs' figures are not JSON")
}

/// The hidden subcommand behind [`measure`]: prints the figures as JSON.
pub fn print() -> Result<()> {
    let costs = cases()?.iter().map(Case::measure).collect::<Result<Vec<_>>>()?;
    println!("{}", serde_json::to_string(&costs)?);
    Ok(())
}

/// What is measured, over the interfaces that are there.
fn cases() -> Result<Vec<Case>> {
    let here = Namespace::links_here()?;
    let gateway = here.iter().find(|link| link.index > IFINDEX_GATEWAY && link.index >> 24 == IFINDEX_GATEWAY >> 24);
    let gateway = gateway.context("no gateway device in the host namespace")?;
    let uplink = here.iter().find(|link| link.name == arms::UPLINK).context("no uplink in the host namespace")?;
    let red = pod_link("red")?;
    let blue = pod_link("blue")?;
    let lan = arms::lan_mac()?;
    let by_pod = |pod: &Link, frame| -> Result<Seen> {
        Ok(Seen { program: "from_pod", ifindex: pod.peer.context("a pod's eth0 has no peer")?, frame })
    };
    let by_uplink = |frame| Seen { program: "from_uplink", ifindex: uplink.index, frame };
    let red_sends =
        |from: u16, to: Ipv4Addr, port| by_pod(&red, frame::udp(&ends(red.mac, gateway.mac, (RED, from), (to, port))));
    // A port of the SNAT range is kept, so the answer's is known.
    let question = red_sends(KEPT_PORT, LAN, 5000)?;
    let answer = by_uplink(frame::udp(&ends(lan, uplink.mac, (LAN, 5000), (HOST_ON_LAN, KEPT_PORT))));
    let client_sends = |port, seq, ack, flags| {
        let ends = ends(lan, uplink.mac, (LAN, port), (HOST_ON_LAN, PUBLISHED_PORT));
        by_uplink(frame::tcp(&ends, seq, ack, flags))
    };
    let server_sends = |seq, ack, flags| {
        let ends = ends(blue.mac, gateway.mac, (BLUE, PUBLISHED_PORT), (LAN, 4001));
        by_pod(&blue, frame::tcp(&ends, seq, ack, flags))
    };
    let handshake = vec![
        client_sends(4001, 1, 0, frame::SYN),
        server_sends(100, 2, frame::SYN | frame::ACK)?,
        client_sends(4001, 2, 101, frame::ACK),
        server_sends(101, 2, frame::ACK)?,
    ];
    let from_host = Seen {
        program: "from_host",
        ifindex: gateway.index,
        frame: frame::udp(&ends(gateway.mac, [0; 6], (arms::GATEWAY, 4000), (BLUE, 5000))),
    };
    let asked = vec![question.clone(), answer];
    Ok(vec![
        Case::new("pod to pod", Vec::new(), red_sends(4000, BLUE, 5000)?, &[REDIRECT]),
        Case::new("pod to LAN, SNAT", asked, question, &[REDIRECT]),
        Case::new("the same, never answered", Vec::new(), red_sends(4000, LAN, 5000)?, &[REDIRECT]),
        Case::new("host to pod", Vec::new(), from_host, &[REDIRECT]),
        Case::new("LAN to published port", handshake, client_sends(4001, 2, 101, frame::ACK), &[REDIRECT]),
        Case::new("its SYN, again", Vec::new(), client_sends(4000, 1, 0, frame::SYN), &[REDIRECT]),
        Case::new("not for us", Vec::new(), by_uplink(frame::foreign(lan)), &UP_THE_STACK),
    ])
}

fn ends(src_mac: Mac, dst_mac: Mac, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Ends {
    Ends { src_mac, dst_mac, src, dst }
}

fn pod_link(pod: &str) -> Result<Link> {
    let links = Namespace::existing(pod).links()?;
    links.into_iter().find(|link| link.name == "eth0").with_context(|| format!("{pod} has no eth0"))
}

impl Case {
    fn new(packet: &'static str, before: Vec<Seen>, seen: Seen, wanted: &'static [u32]) -> Self {
        Self { packet, before, seen, wanted }
    }

    fn measure(&self) -> Result<ProgramCost> {
        for seen in &self.before {
            seen.run(1)?;
        }
        let mut samples = Vec::with_capacity(RUNS);
        for (action, nanoseconds) in self.seen.run(RUNS)? {
            if !self.wanted.contains(&action) {
                bail!("{}, {}: returned {action}, not {:?}", self.seen.program, self.packet, self.wanted);
            }
            samples.push(nanoseconds);
        }
        let (program, packet) = (self.seen.program.to_owned(), self.packet.to_owned());
        Ok(ProgramCost { program, packet, nanoseconds: median(&samples) })
    }
}

impl Seen {
    /// Runs the program over the frame so many times; what it returned each time, and how long it took.
    fn run(&self, times: usize) -> Result<Vec<(u32, f64)>> {
        let pin = Path::new(PINS).join(INSTANCE).join("progs").join(self.program);
        let program =
            SchedClassifier::from_pin(&pin).with_context(|| format!("cannot open the program {}", pin.display()))?;
        // The host's own packets came in by no interface.
        let ingress_ifindex = if self.program == "from_host" { 0 } else { self.ifindex };
        let context = sk_buff(self.ifindex, ingress_ifindex);
        let one = |_| {
            let options =
                TestRunOptions { data_in: Some(&self.frame), ctx_in: Some(&context), ..TestRunOptions::default() };
            let result = program.test_run(options).with_context(|| format!("{} cannot be run", self.program))?;
            Ok((result.return_value, result.duration.as_nanos() as f64))
        };
        (0..times).map(one).collect()
    }
}

/// The context of a packet seen on an interface that came in by `ingress_ifindex`.
fn sk_buff(ifindex: u32, ingress_ifindex: u32) -> [u8; SK_BUFF_BYTES] {
    let mut context = [0; SK_BUFF_BYTES];
    for (offset, value) in [(SK_BUFF_INGRESS_IFINDEX, ingress_ifindex), (SK_BUFF_IFINDEX, ifindex)] {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}

/// The rows for people.
pub fn table(costs: &[ProgramCost]) -> String {
    let mut text = format!("\n{:<14} {:<24} {:>14}\n", "program", "packet", "ns per packet");
    for cost in costs {
        text.push_str(&format!("{:<14} {:<24} {:>14.0}\n", cost.program, cost.packet, cost.nanoseconds));
    }
    text.push_str("median of single runs; each holds the kernel's reading of the clock as well\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_names_the_interface() {
        let context = sk_buff(0x0100_0007, 0);
        assert_eq!(context[40..44], 0x0100_0007u32.to_ne_bytes());
        assert_eq!(context.iter().filter(|byte| **byte != 0).count(), 2);
    }

    #[test]
    fn the_table_has_a_row_per_case() {
        let cost = ProgramCost { program: "from_pod".into(), packet: "pod to pod".into(), nanoseconds: 412.0 };
        assert_eq!(table(&[cost.clone(), cost]).matches("from_pod").count(), 2);
    }
}
