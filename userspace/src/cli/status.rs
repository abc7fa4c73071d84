//! `netns status`.

use std::net::SocketAddr;

use clap::Args;
use netns_ebpf_common::proto;

use super::open::open;
use super::repair::DIFFERENT;
use super::table::{bytes, list, networks_of, table};
use super::{CliError, Global};
use crate::instance::{NetworkStatus, PodRefusals, Status, UplinkStatus};
use crate::topology::Behaviour;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {}

pub(super) fn run(global: &Global, _: &StatusArgs) -> Result<u8, CliError> {
    let status = open(global.dirs("status")?)?.status()?;
    global.print(&status, |s| {
        let mut out = head(s);
        let sections =
            [differences(s), networks(s), pods(s), publishes(s), verdicts(s), drops(s), refused(s), exhausted(s)];
        for section in sections.iter().filter(|t| !t.is_empty()) {
            out.push('\n');
            out.push_str(section);
        }
        out
    })?;
    Ok(if status.differences.is_empty() { 0 } else { DIFFERENT })
}

fn head(s: &Status) -> String {
    let host = s.host_netns.as_deref().map_or_else(|| "this host".to_owned(), |n| format!("namespace {n}"));
    let uplink = |u: &UplinkStatus| match u.attached {
        true => format!("{} ({}, MTU {})", u.name, list(&u.addresses), u.mtu),
        false => format!("{} (away)", u.name),
    };
    let mut uplinks: Vec<_> = s.uplinks.iter().map(uplink).collect();
    if uplinks.is_empty() {
        uplinks.push("none".to_owned());
    }
    let uplinks = uplinks.join("\nuplink      ");
    let sockets = if s.host_sockets { "reach published ports" } else { "do not reach published ports" };
    format!(
        "instance    {}
host        {host}
uplink      {uplinks}
SNAT ports  {}
idle flows  {}
flows       {}
processes   {sockets}
",
        s.instance,
        s.snat_ports,
        s.nat,
        s.nat.limits()
    )
}

/// What is not as it should be.
fn differences(s: &Status) -> String {
    let rows: Vec<_> = s
        .differences
        .iter()
        .map(|d| {
            let mends = d.reason.map_or_else(|| "`netns repair`".to_owned(), ToOwned::to_owned);
            [d.object.clone(), d.message.clone(), mends]
        })
        .collect();
    section(["NOT AS IT SHOULD BE", "WHAT", "MENDED BY"], &rows)
}

fn networks(s: &Status) -> String {
    let rows: Vec<_> = s
        .networks
        .iter()
        .map(|n| {
            let (n, masquerade) = (&n.network, masquerade(n));
            [
                n.name.clone(),
                list(&n.subnets),
                list(&n.gateways),
                n.mtu.to_string(),
                masquerade,
                if n.host_access { "yes" } else { "no" }.to_owned(),
                n.pods.to_string(),
            ]
        })
        .collect();
    section(["NETWORK", "SUBNETS", "GATEWAYS", "MTU", "MASQUERADE", "HOST", "PODS"], &rows)
}

/// Whether a network masquerades, with which addresses, and where it does not.
fn masquerade(n: &NetworkStatus) -> String {
    let live = &n.snat_address_live;
    let n = &n.network;
    let named = |a| if live.contains(a) { a.to_string() } else { format!("{a} (away)") };
    let addresses: Vec<_> = n.snat_address.iter().map(named).collect();
    if !n.masquerade {
        return "no".to_owned();
    }
    let mut words = Vec::new();
    if !addresses.is_empty() {
        words.push(format!("as {}", list(&addresses)));
    }
    if !n.no_masquerade.is_empty() {
        words.push(format!("not to {}", list(&n.no_masquerade)));
    }
    match (n.mapping, n.filtering) {
        (_, Behaviour::EndpointIndependent) => words.push("endpoint-independent, open to all".to_owned()),
        (Behaviour::EndpointIndependent, _) => words.push("endpoint-independent".to_owned()),
        _ => {}
    }
    if words.is_empty() { "yes".to_owned() } else { words.join("; ") }
}

/// The pods and their counters.
pub(super) fn pods(s: &Status) -> String {
    let rows: Vec<_> = s
        .pods
        .iter()
        .map(|p| {
            let c = &p.counters;
            [
                p.pod.name.clone(),
                networks_of(&p.pod.attachments),
                list(&p.pod.addresses),
                c.tx_packets.to_string(),
                bytes(c.tx_bytes),
                c.rx_packets.to_string(),
                bytes(c.rx_bytes),
                (c.tx_dropped + c.rx_dropped).to_string(),
                p.flows.total().to_string(),
            ]
        })
        .collect();
    section(["POD", "NETWORK", "ADDRESS", "SENT", "BYTES", "RECEIVED", "BYTES", "DROPPED", "FLOWS"], &rows)
}

/// The published ports and their counters.
pub(super) fn publishes(s: &Status) -> String {
    let rows: Vec<_> = s
        .publishes
        .iter()
        .map(|p| {
            [
                p.publish.publish.clone(),
                if p.publish.draining { format!("{} (draining)", p.publish.pod) } else { p.publish.pod.clone() },
                p.flows.to_string(),
                p.packets.to_string(),
                bytes(p.bytes),
            ]
        })
        .collect();
    section(["PUBLISH", "POD", "FLOWS", "PACKETS", "BYTES"], &rows)
}

fn verdicts(s: &Status) -> String {
    let rows: Vec<_> = s
        .verdicts
        .iter()
        .map(|v| {
            let counts = [v.pass, v.peer, v.neigh, v.host, v.out, v.drop, v.held].map(|n| n.to_string());
            let [pass, peer, neigh, host, out, drop, held] = counts;
            [v.hook.to_owned(), pass, peer, neigh, host, out, drop, held]
        })
        .collect();
    section(["HOOK", "PASS", "PEER", "NEIGH", "HOST", "OUT", "DROP", "HELD"], &rows)
}

/// Drops by reason; empty when there were none.
pub(super) fn drops(s: &Status) -> String {
    let rows: Vec<_> =
        s.drops.iter().map(|d| [d.reason.to_owned(), d.packets.to_string(), d.explain.to_owned()]).collect();
    section(["DROPPED", "PACKETS", "MEANING"], &rows)
}

/// New flows that were refused, by pod; empty when there were none.
fn refused(s: &Status) -> String {
    let rows: Vec<_> = s
        .pods
        .iter()
        .filter(|p| p.refused != PodRefusals::default())
        .map(|p| {
            let PodRefusals { flow_limit, flow_table_full, ports_exhausted } = p.refused;
            let [limit, table, ports] = [flow_limit, flow_table_full, ports_exhausted].map(|n| n.to_string());
            [p.pod.name.clone(), limit, table, ports]
        })
        .collect();
    section(["REFUSED", "FLOW-LIMIT", "FLOW-TABLE-FULL", "PORTS-EXHAUSTED"], &rows)
}

/// Where ports were wanting, and who has them.
fn exhausted(s: &Status) -> String {
    let rows: Vec<_> = s
        .exhausted
        .iter()
        .map(|e| {
            let proto = match e.proto {
                proto::TCP => "tcp".to_owned(),
                proto::UDP => "udp".to_owned(),
                proto::ICMP | proto::ICMPV6 => "icmp".to_owned(),
                other => other.to_string(),
            };
            let talkers: Vec<_> = e.talkers.iter().map(|t| format!("{} {}", t.pod, t.flows)).collect();
            [
                format!("{}/{proto}", SocketAddr::new(e.address, e.port)),
                e.network.clone(),
                e.refused.to_string(),
                list(&talkers),
            ]
        })
        .collect();
    section(["NO PORT LEFT TO", "NETWORK", "REFUSED", "WHO HAS THEM"], &rows)
}

fn section<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    if rows.is_empty() { String::new() } else { table(head, rows) }
}
