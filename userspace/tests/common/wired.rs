//! A host to wire pods into, step by step.

use std::path::Path;

use netns::datapath::{Datapath, Sizes};
use netns::netns::{Netns, NetnsName};
use netns::wiring::{Host, NetworkSpec, PodSpec, pod_mac};

use super::{Isolated, isolated};

/// Where its programs and maps are pinned.
pub const PINS: &str = "/sys/fs/bpf/netns-ebpf/test";

/// A host with nothing in it yet, inside the test's own namespace.
pub fn on_host(body: impl FnOnce(&Isolated, &Host) + Send + 'static) {
    isolated(|here| {
        let datapath = Datapath::load(Path::new(PINS), &Sizes { flow_entries: 16_384 }).expect("load");
        let host = Host::new("test", Netns::current().expect("current"), datapath).expect("host");
        body(here, &host);
        host.datapath().unload().expect("unload");
    });
}

/// A network of both families.
pub fn network() -> NetworkSpec {
    NetworkSpec {
        id: 1,
        gateway4: Some("10.244.0.1/24".parse().expect("net")),
        gateway6: Some("fd00:244::1/64".parse().expect("net")),
        mtu_bytes: 1400,
        masquerade: true,
        snat_addresses: Vec::new(),
        endpoint_independent: false,
        open_to_all: false,
        host_access: true,
        no_masquerade: vec!["192.168.1.0/24".parse().expect("net"), "fd00:1::/32".parse().expect("net")],
    }
}

/// A pod of it.
pub fn pod(name: &str, slot: u32) -> PodSpec {
    PodSpec {
        owner: u64::from(slot) + 100,
        slot,
        netns: NetnsName::new(name).expect("name"),
        addr4: Some([10, 244, 0, 10 + slot as u8].into()),
        addr6: format!("fd00:244::{}", 10 + slot).parse().ok(),
        ifname: "eth0".to_owned(),
        mac: pod_mac("test", slot),
        rank: 0,
        has_others: false,
        is_adopted: false,
    }
}
