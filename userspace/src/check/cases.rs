//! What must hold in the sandbox, as a table.

use std::net::{IpAddr, SocketAddr};

use super::case::{Case, Family, Order, Probe, Site, Target};
use crate::sandbox::layout::{
    AMBER, BLUE, CLIENT, CORAL, FAR, GATEWAY, GREEN, HOST_LOOPBACK, HOST_SECOND, HOST_UPLINK, INDIGO, INTRANET,
    JUMBO_GATEWAY, MIRROR_GATEWAY, NO_MIRROR, NOBODY, PLUM, RED, SERVER, VIOLET,
};

/// A request that fits one packet.
const SMALL_BYTES: usize = 512;
/// A few million bytes in big writes leave the sender as GSO packets.
const BULK_BYTES: usize = 4 << 20;
/// Fills a packet of 9000 bytes but for a few.
const JUMBO_BYTES: usize = 8900;
/// Larger than any MTU but the jumbo network's: seven pieces.
const PIECES_BYTES: usize = 8000;
/// More than the uplink takes, less than the pod's own link.
const TOO_BIG_BYTES: usize = 4000;
/// The uplink's MTU.
const UPLINK_MTU_BYTES: u32 = 1500;
/// What the opener sends with, and what is left after the one hop through the host.
const SENT_HOP_LIMIT: u8 = 64;
const ONE_HOP: u8 = SENT_HOP_LIMIT - 1;

/// Every path of the sandbox, in both families.
pub fn sandbox_cases() -> Vec<Case> {
    Family::ALL.into_iter().flat_map(of_family).collect()
}

fn of_family(family: Family) -> Vec<Case> {
    let mut table = Table { family, path: "", cases: Vec::new() };
    table.pod_to_pod();
    table.pod_and_host();
    table.pod_to_lan();
    table.lan_to_published();
    table.pod_to_published();
    table.host_to_published();
    table.overlapping_networks();
    table.refused();
    table.cases
}

/// Cases of one family, as they are added.
struct Table {
    family: Family,
    path: &'static str,
    cases: Vec<Case>,
}

impl Table {
    fn pod_to_pod(&mut self) {
        self.path = "pod to pod";
        self.all(RED, BLUE, RED, ONE_HOP);
        self.add(RED, BLUE, Probe::Trace { hops: vec![self.ip(GATEWAY), self.ip(BLUE)] });
        self.path = "pod to pod, 9000";
        self.tcp(AMBER, CORAL, Target::Direct, BULK_BYTES, AMBER);
        self.udp(AMBER, CORAL, Target::Direct, JUMBO_BYTES, AMBER, ONE_HOP);
    }

    fn pod_and_host(&mut self) {
        self.path = "pod to gateway";
        self.all(RED, GATEWAY, RED, SENT_HOP_LIMIT);
        self.path = "pod to host";
        self.all(RED, HOST_UPLINK, RED, SENT_HOP_LIMIT);
        self.path = "host to pod";
        self.all(GATEWAY, RED, GATEWAY, SENT_HOP_LIMIT);
    }

    fn pod_to_lan(&mut self) {
        self.path = "pod to LAN";
        self.all(RED, SERVER, HOST_UPLINK, ONE_HOP);
        self.add(RED, SERVER, Probe::Trace { hops: vec![self.ip(GATEWAY), self.ip(SERVER)] });
        for order in [Order::Forward, Order::Reverse] {
            self.pieces(RED, SERVER, Target::Direct, HOST_UPLINK, order);
        }
        self.add(RED, SERVER, Probe::Refused { target: Target::Direct });
        self.path = "pod to far";
        self.tcp(BLUE, FAR, Target::Direct, SMALL_BYTES, HOST_UPLINK);
        self.add(BLUE, FAR, Probe::Echo { seen_as: Some(self.ip(HOST_UPLINK)) });
        self.path = "pod to LAN, no SNAT";
        self.all(RED, INTRANET, RED, ONE_HOP);
        self.path = "pod to LAN, mapped";
        self.all(PLUM, SERVER, HOST_UPLINK, ONE_HOP);
        let (also, stranger, seen_as) = (self.ip(FAR), self.ip(CLIENT), self.ip(HOST_UPLINK));
        self.add(PLUM, SERVER, Probe::Mapped { also, stranger, seen_as });
        self.path = "pod to LAN, 9000";
        let (router, mtu_bytes) = (self.ip(JUMBO_GATEWAY), UPLINK_MTU_BYTES);
        self.add(AMBER, FAR, Probe::TooBig { bytes: TOO_BIG_BYTES, router, mtu_bytes });
        self.tcp(AMBER, SERVER, Target::Direct, BULK_BYTES, HOST_UPLINK);
    }

    fn lan_to_published(&mut self) {
        self.path = "LAN to published";
        self.tcp(CLIENT, RED, self.published(HOST_UPLINK, 8080, 80), SMALL_BYTES, CLIENT);
        self.tcp(CLIENT, GREEN, self.published(HOST_UPLINK, 9001, 7001), BULK_BYTES, CLIENT);
        self.udp(CLIENT, RED, self.published(HOST_UPLINK, 8080, 80), SMALL_BYTES, CLIENT, ONE_HOP);
        self.pieces(CLIENT, GREEN, self.published(HOST_UPLINK, 9005, 7005), CLIENT, Order::Forward);
        self.pieces(CLIENT, GREEN, self.published(HOST_UPLINK, 9006, 7006), CLIENT, Order::Reverse);
        self.add(CLIENT, GREEN, Probe::Refused { target: self.published(HOST_UPLINK, 9009, 7009) });
        self.path = "LAN to range";
        self.tcp(CLIENT, GREEN, self.published(HOST_UPLINK, 9010, 7010), SMALL_BYTES, CLIENT);
        self.udp(CLIENT, GREEN, self.published(HOST_UPLINK, 9000, 7000), SMALL_BYTES, CLIENT, ONE_HOP);
        self.path = "LAN to one address";
        self.tcp(CLIENT, BLUE, self.published(HOST_UPLINK, 8443, 443), SMALL_BYTES, CLIENT);
        self.udp(CLIENT, BLUE, self.published(HOST_UPLINK, 8053, 53), SMALL_BYTES, CLIENT, ONE_HOP);
        self.path = "LAN to 2nd address";
        self.tcp(CLIENT, GREEN, self.published(HOST_SECOND, 9002, 7002), BULK_BYTES, CLIENT);
        self.udp(CLIENT, GREEN, self.published(HOST_SECOND, 9002, 7002), SMALL_BYTES, CLIENT, ONE_HOP);
        self.path = "LAN to shared";
        let (at, seen_as) = (SocketAddr::new(self.ip(HOST_UPLINK), 9200), self.ip(CLIENT));
        self.add(CLIENT, GREEN, Probe::Shared { at, pod_port: 80, with: BLUE, seen_as });
        self.path = "LAN, on the list";
        self.tcp(CLIENT, GREEN, self.published(HOST_UPLINK, 9100, 7100), SMALL_BYTES, CLIENT);
        self.path = "far to published";
        self.tcp(FAR, GREEN, self.published(HOST_UPLINK, 9003, 7003), SMALL_BYTES, FAR);
        self.udp(FAR, GREEN, self.published(HOST_UPLINK, 9003, 7003), SMALL_BYTES, FAR, ONE_HOP);
    }

    fn pod_to_published(&mut self) {
        self.path = "pod to published";
        // By the published address there and back, so the answerer sees that address (RFC 4787 REQ-9).
        self.tcp(BLUE, GREEN, self.published(HOST_UPLINK, 9004, 7004), BULK_BYTES, HOST_UPLINK);
        self.udp(BLUE, GREEN, self.published(HOST_UPLINK, 9004, 7004), SMALL_BYTES, HOST_UPLINK, ONE_HOP);
        self.tcp(GREEN, GREEN, self.published(HOST_UPLINK, 9005, 7005), SMALL_BYTES, HOST_UPLINK);
        self.tcp(VIOLET, GREEN, self.published(HOST_UPLINK, 9006, 7006), SMALL_BYTES, HOST_UPLINK);
    }

    fn host_to_published(&mut self) {
        self.path = "host to published";
        // The host is the sender, so no hop is taken off.
        self.tcp(GATEWAY, GREEN, self.published(HOST_LOOPBACK, 9007, 7007), BULK_BYTES, GATEWAY);
        self.udp(GATEWAY, GREEN, self.published(HOST_LOOPBACK, 9007, 7007), SMALL_BYTES, GATEWAY, SENT_HOP_LIMIT);
        self.tcp(HOST_UPLINK, GREEN, self.published(HOST_UPLINK, 9008, 7008), BULK_BYTES, HOST_UPLINK);
        self.udp(HOST_UPLINK, GREEN, self.published(HOST_UPLINK, 9008, 7008), SMALL_BYTES, HOST_UPLINK, SENT_HOP_LIMIT);
        let no_way = self.published(HOST_LOOPBACK, 8081, 81);
        self.add(GATEWAY, VIOLET, Probe::Closed { target: no_way });
    }

    fn overlapping_networks(&mut self) {
        self.path = "same subnets";
        self.all(VIOLET, INDIGO, VIOLET, ONE_HOP);
        self.add(VIOLET, NO_MIRROR, Probe::HostUnreachable);
        self.add(VIOLET, MIRROR_GATEWAY, Probe::Echo { seen_as: None });
        self.all(VIOLET, SERVER, HOST_UPLINK, ONE_HOP);
        self.tcp(CLIENT, VIOLET, self.published(HOST_UPLINK, 8081, 80), SMALL_BYTES, CLIENT);
    }

    fn refused(&mut self) {
        self.path = "nobody there";
        self.add(RED, NOBODY, Probe::HostUnreachable);
        self.add(GATEWAY, NOBODY, Probe::HostUnreachable);
        self.path = "not published";
        self.add(CLIENT, RED, Probe::Closed { target: Target::Direct });
        let other_address = self.published(HOST_SECOND, 8444, 444);
        self.add(CLIENT, BLUE, Probe::Closed { target: other_address });
        self.path = "not on the list";
        let listed = self.published(HOST_UPLINK, 9101, 7101);
        self.add(FAR, GREEN, Probe::Closed { target: listed });
        self.path = "host";
        self.add(GATEWAY, GATEWAY, Probe::HostState);
    }

    /// TCP, bulk TCP, UDP and ICMP echo.
    fn all(&mut self, from: Site, to: Site, seen_as: Site, hop_limit: u8) {
        self.tcp(from, to, Target::Direct, SMALL_BYTES, seen_as);
        self.tcp(from, to, Target::Direct, BULK_BYTES, seen_as);
        self.udp(from, to, Target::Direct, SMALL_BYTES, seen_as, hop_limit);
        self.add(from, to, Probe::Echo { seen_as: Some(self.ip(seen_as)) });
    }

    fn tcp(&mut self, from: Site, to: Site, target: Target, bytes: usize, seen_as: Site) {
        self.add(from, to, Probe::Tcp { bytes, target, seen_as: self.ip(seen_as) });
    }

    fn udp(&mut self, from: Site, to: Site, target: Target, bytes: usize, seen_as: Site, hop_limit: u8) {
        self.add(from, to, Probe::Udp { bytes, target, seen_as: self.ip(seen_as), hop_limit });
    }

    fn pieces(&mut self, from: Site, to: Site, target: Target, seen_as: Site, order: Order) {
        self.add(from, to, Probe::Pieces { bytes: PIECES_BYTES, target, seen_as: self.ip(seen_as), order });
    }

    fn add(&mut self, from: Site, to: Site, probe: Probe) {
        self.cases.push(Case { path: self.path, from, to, family: self.family, probe });
    }

    fn published(&self, host: Site, port: u16, pod_port: u16) -> Target {
        Target::Published { at: SocketAddr::new(self.ip(host), port), pod_port }
    }

    fn ip(&self, site: Site) -> IpAddr {
        site.ip(self.family)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_path_has_both_families() {
        let cases = sandbox_cases();
        let of = |family| cases.iter().filter(|c| c.family == family).count();
        assert_eq!(of(Family::V4), of(Family::V6));
        assert!(of(Family::V4) > 40, "{}", of(Family::V4));
    }

    /// Cases run side by side: two on one published port would answer each other's.
    #[test]
    fn no_two_cases_listen_on_one_published_port() {
        let mut taken = BTreeSet::new();
        for case in sandbox_cases() {
            let (protocol, target) = match &case.probe {
                Probe::Tcp { target, .. } | Probe::Closed { target } => ("tcp", *target),
                Probe::Udp { target, .. } | Probe::Pieces { target, .. } | Probe::Refused { target } => {
                    ("udp", *target)
                }
                _ => continue,
            };
            if let Target::Published { pod_port, .. } = target {
                assert!(taken.insert((case.to.place, case.family, protocol, pod_port)), "{case}");
            }
        }
    }
}
