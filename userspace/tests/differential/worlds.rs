//! The two worlds: the same pods, host and LAN, once with our programs, once with nft's masquerade and dnat.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use netns::datapath::{Datapath, FlowRecord};
use netns_ebpf_common::state::State;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use std::os::fd::AsRawFd;

use super::End;
use crate::common::Isolated;
use crate::common::frame::Tap;
use crate::common::lan::{CLIENT, FAR, SERVER, UPLINK};
use crate::prog::Version;

/// Ours. The reference is built to the same addresses below.
const TOPOLOGY: &str = r#"
[host]
uplink = "up0"
snat_ports = "20000-32767"

[[network]]
name = "pods"
subnets = ["10.244.0.0/24", "fd00:244::/64"]
mtu = 1500
mapping = "MAPPING"

[[pod]]
name = "red"
address = ["10.244.0.10", "fd00:244::10"]
publish = ["8080:80/tcp", "8081:80/tcp", "5353:53/udp", "5354:53/udp", "9000-9010:7000-7010/tcp"]

[[pod]]
name = "blue"
address = ["10.244.0.20", "fd00:244::20"]
"#;

/// MTU of the uplink; the pods' is 1500.
pub const UPLINK_MTU: usize = 1400;

/// How long the host may take for an answer that takes it microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// An address of both families.
pub fn ip(of: [&str; 2], v: Version) -> IpAddr {
    of[usize::from(v == Version::V6)].parse().expect("an address")
}

/// The pods' addresses.
pub const RED: [&str; 2] = ["10.244.0.10", "fd00:244::10"];
/// See [`RED`].
pub const BLUE: [&str; 2] = ["10.244.0.20", "fd00:244::20"];
/// An address of the network nobody has.
pub const NOBODY: [&str; 2] = ["10.244.0.99", "fd00:244::99"];
/// The pods' gateway.
pub const GATEWAY: [&str; 2] = ["10.244.0.1", "fd00:244::1"];
/// The host.
pub const HOST: [&str; 2] = UPLINK;
/// Machines of the LAN, the last ones behind its router.
pub const LAN: [[&str; 2]; 3] = [CLIENT, FAR, ["198.51.100.8", "2001:db8:ffff::8"]];
/// A machine behind the router that no pod talks to.
pub const OUTSIDER: [&str; 2] = ["198.51.100.99", "2001:db8:ffff::99"];
/// The LAN's router.
pub const ROUTER: [&str; 2] = SERVER;

/// Published by red: protocol, host's port, pod's port.
pub const PUBLISHED: [(u8, u16, u16); 6] =
    [(6, 8080, 80), (6, 8081, 80), (17, 5353, 53), (17, 5354, 53), (6, 9000, 7000), (6, 9010, 7010)];

/// A wire's end: where frames go in and come out.
struct Wire {
    tap: Tap,
    own: [u8; 6],
    gateway: [u8; 6],
}

/// One of the two.
pub struct World {
    /// For messages.
    pub name: &'static str,
    wires: [Wire; 3],
}

/// Frames that came out at an end.
pub type Seen = Vec<(End, Vec<u8>)>;

impl World {
    /// Puts IP packets on a wire and returns what comes out, IP header first.
    pub fn send(&self, at: End, packets: &[Vec<u8>]) -> Result<Seen, String> {
        let wire = &self.wires[at as usize];
        for packet in packets {
            let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
            wire.tap.send(&[&wire.gateway[..], &wire.own, &ethertype, packet].concat());
        }
        let mut seen = Vec::new();
        // Everything here happens on one CPU, in the order of its queue. A packet that goes up the host's stack and is
        // answered passes the queue twice more, so the host answers three times before we look.
        for _ in 0..3 {
            self.round_trip(&mut seen);
        }
        for end in [End::Red, End::Blue] {
            self.wires[end as usize].tap.find(Duration::ZERO, |frame| {
                seen.push((end, frame.to_vec()));
                false
            });
        }
        let mut packets = Vec::new();
        for (end, frame) in seen {
            if !is_noise(&frame) {
                if frame[..6] != self.wires[end as usize].own {
                    return Err(format!("a frame at {end:?} is for another machine: {frame:02x?}"));
                }
                packets.push((end, frame[14..].to_vec()));
            }
        }
        Ok(packets)
    }

    /// Lets the host answer an ARP request from the LAN; what else comes meanwhile is kept.
    fn round_trip(&self, seen: &mut Seen) {
        let lan = &self.wires[End::Lan as usize];
        let (IpAddr::V4(host), sender) = (ip(HOST, Version::V4), [0; 4]) else { panic!("IPv4") };
        let header = [0, 1, 8, 0, 6, 4, 0, 1];
        let request = [&[0xff; 6][..], &lan.own, &[8, 6], &header, &lan.own, &sender, &[0; 6], &host.octets()].concat();
        lan.tap.send(&request);
        let answered = lan.tap.find(PATIENCE, |frame| {
            let answer = frame[12..14] == [8, 6] && frame[20..22] == [0, 2];
            if !answer {
                seen.push((End::Lan, frame.to_vec()));
            }
            answer
        });
        assert!(answered.is_some(), "{}: the host does not answer", self.name);
    }
}

/// What a kernel sends of itself.
fn is_noise(frame: &[u8]) -> bool {
    let multicast = frame[0] & 1 != 0;
    let discovery =
        frame.len() > 54 && frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && (133..=137).contains(&frame[54]);
    multicast || discovery || !matches!(frame[12..14], [8, 0] | [0x86, 0xdd])
}

/// Both worlds.
pub struct Worlds {
    /// Ours, then the reference.
    pub worlds: [World; 2],
    datapath: Datapath,
    conntrack: Conntrack,
}

impl Worlds {
    /// Makes both; the pods' network has this mapping.
    pub fn new(here: &Isolated, mapping: &str) -> Self {
        here.lan();
        here.ip("link set up0 mtu 1400");
        here.ip("-n lan link set lan0 mtu 1400");
        here.up(&TOPOLOGY.replace("MAPPING", mapping)).ok();
        let ours = World {
            name: "netns",
            wires: [
                ("red", "eth0", gateway_mac()),
                ("blue", "eth0", gateway_mac()),
                ("lan", "lan0", here.own_mac("up0")),
            ]
            .map(|(namespace, device, gateway)| wire(here, namespace, device, gateway)),
        };
        neighbours(here, "", "up0", &here.mac("lan", "lan0"));
        let sysctl = |line: &str| here.tool("sysctl", &format!("-qw {line}"));
        sysctl(QUIET);
        let datapath = Datapath::open(Path::new("/sys/fs/bpf/netns-ebpf/default")).expect("open the data path");

        reference(here);
        let reference = World {
            name: "nf_nat",
            wires: [("refred", "eth0", "vred"), ("refblue", "eth0", "vblue"), ("reflan", "lan0", "up0")]
                .map(|(namespace, device, host)| wire(here, namespace, device, here.mac("refhost", host))),
        };
        let conntrack = here.inside("refhost", Conntrack::open);
        Self { worlds: [ours, reference], datapath, conntrack }
    }

    /// How our flow between these stands.
    pub fn state(&self, proto: u8, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Option<State> {
        let flows = self.datapath.flows().expect("list flows");
        let is_it =
            |f: &&FlowRecord| f.original && f.proto == proto && ((f.src, f.sport), (f.dst, f.dport)) == (src, dst);
        flows.iter().find(is_it).map(|f| f.state)
    }

    /// Both forget every flow.
    pub fn forget(&self) {
        self.datapath.delete_flows(|_| true).expect("delete flows");
        self.conntrack.flush();
    }
}

/// Errors are limited in number otherwise, which would make the two differ by chance.
const QUIET: &str = "net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=1000000 net.ipv4.icmp_msgs_burst=1000000 \
                     net.ipv6.icmp.ratelimit=0 net.ipv6.auto_flowlabels=0";

fn gateway_mac() -> [u8; 6] {
    netns::wiring::gateway_mac("default", 1).0
}

/// Opens a wire's end and makes its namespace deaf: what it receives is for the packet socket only.
fn wire(here: &Isolated, namespace: &str, device: &str, gateway: [u8; 6]) -> Wire {
    let rules = here.file(
        "deaf.nft",
        &format!(
            "table netdev deaf {{ chain in {{ type filter hook ingress device {device} priority 0; policy drop; }}; }}\n"
        ),
    );
    here.ip(&format!("netns exec {namespace} nft -f {}", rules.display()));
    Wire { tap: here.inside(namespace, || Tap::open(device)), own: here.mac(namespace, device), gateway }
}

/// The LAN's machines, which are deaf, as the host's neighbours.
fn neighbours(here: &Isolated, host: &str, device: &str, mac: &[u8; 6]) {
    let mac = mac.map(|b| format!("{b:02x}")).join(":");
    for address in LAN[0].iter().chain(&ROUTER) {
        here.ip(&format!("{host} neigh replace {address} lladdr {mac} dev {device} nud permanent"));
    }
}

/// The reference: a router with nft. It is set to be as liberal as it can be, so that what remains different is worth a look.
fn reference(here: &Isolated) {
    for name in ["refhost", "refred", "refblue", "reflan"] {
        here.ip(&format!("netns add {name}"));
    }
    let sysctl = |line: &str| here.ip(&format!("netns exec refhost sysctl -qw {line}"));
    sysctl("net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
    for (host, namespace, device) in
        [("vred", "refred", "eth0"), ("vblue", "refblue", "eth0"), ("up0", "reflan", "lan0")]
    {
        here.ip(&format!("-n refhost link add {host} type veth peer name {device} netns {namespace}"));
        here.ip(&format!("-n {namespace} link set {device} up"));
        here.ip(&format!("-n refhost link set {host} up"));
    }
    here.ip("-n refhost link set lo up");
    here.ip("-n refhost link set up0 mtu 1400");
    here.ip("-n reflan link set lan0 mtu 1400");
    for (i, length) in [(0, "24"), (1, "64 nodad")] {
        here.ip(&format!("-n refhost addr add {}/{length} dev up0", HOST[i]));
        let whole = ["32", "128 nodad"][i];
        here.ip(&format!("-n refhost addr add {}/{whole} dev lo", GATEWAY[i]));
        let subnet = ["10.244.0.0/24", "fd00:244::/64"][i];
        here.ip(&format!("-n refhost route add unreachable {subnet}"));
        here.ip(&format!("-n refhost route add default via {}", ROUTER[i]));
        for (pod, device, namespace) in [(RED, "vred", "refred"), (BLUE, "vblue", "refblue")] {
            let mac = here.mac(namespace, "eth0").map(|b| format!("{b:02x}")).join(":");
            here.ip(&format!("-n refhost route add {} dev {device} src {}", pod[i], GATEWAY[i]));
            here.ip(&format!("-n refhost neigh replace {} lladdr {mac} dev {device} nud permanent", pod[i]));
        }
    }
    neighbours(here, "-n refhost", "up0", &here.mac("reflan", "lan0"));
    sysctl(QUIET);
    sysctl("net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0");
    sysctl("net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0");
    for device in ["vred", "vblue", "up0"] {
        sysctl(&format!("net.ipv4.conf.{device}.send_redirects=0 net.ipv4.conf.{device}.rp_filter=0"));
    }
    let rules = here.file("reference.nft", &rules());
    here.ip(&format!("netns exec refhost nft -f {}", rules.display()));
    // The rules make the kernel track, and only then are these there.
    let conntrack = [
        // Segments outside the window pass, and no flow begins in its middle.
        "tcp_be_liberal=1",
        "tcp_ignore_invalid_rst=1",
        "tcp_loose=0",
        // No flow ends while a test runs.
        "tcp_timeout_close=600",
        "tcp_timeout_time_wait=600",
        "tcp_timeout_last_ack=600",
        "tcp_timeout_syn_sent=600",
        "tcp_timeout_syn_recv=600",
        "udp_timeout=600",
        "icmp_timeout=600",
        "icmpv6_timeout=600",
    ];
    for line in conntrack {
        sysctl(&format!("net.netfilter.nf_conntrack_{line}"));
    }
}

/// What our topology says, in nft's words.
fn rules() -> String {
    let mut dnat = String::new();
    for (i, family) in ["ip", "ip6"].into_iter().enumerate() {
        for (proto, host_port, pod_port) in PUBLISHED {
            let proto = if proto == 6 { "tcp" } else { "udp" };
            let pod = if i == 0 { RED[0].to_owned() } else { format!("[{}]", RED[1]) };
            dnat +=
                &format!("{family} daddr {} {proto} dport {host_port} dnat {family} to {pod}:{pod_port};\n", HOST[i]);
        }
    }
    let [host4, host6] = HOST;
    let transports = "meta l4proto { tcp, udp, icmp, ipv6-icmp }";
    format!(
        r#"
table inet reference {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        {dnat}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        iifname {{ vred, vblue }} oifname up0 {transports} masquerade to :20000-32767
        ip saddr 10.244.0.0/24 ct status dnat {transports} snat ip to {host4}:20000-32767
        ip6 saddr fd00:244::/64 ct status dnat {transports} snat ip6 to [{host6}]:20000-32767
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        iifname {{ vred, vblue }} oifname {{ vred, vblue }} accept
        ct state invalid drop
        ct state established,related accept
        iifname up0 ct status dnat accept
        iifname {{ vred, vblue }} oifname up0 accept
    }}
}}
"#
    )
}

/// The reference's connection tracking, by netlink.
struct Conntrack(std::os::fd::OwnedFd);

impl Conntrack {
    fn open() -> Self {
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter);
        Self(socket.expect("a netfilter netlink socket"))
    }

    /// Deletes every entry, and waits until that is done.
    fn flush(&self) {
        // struct nlmsghdr: length, IPCTNL_MSG_CT_DELETE of ctnetlink, NLM_F_REQUEST | NLM_F_ACK, sequence, sender; then
        // struct nfgenmsg of AF_UNSPEC.
        let mut message = 20_u32.to_ne_bytes().to_vec();
        message.extend(0x0102_u16.to_ne_bytes());
        message.extend(5_u16.to_ne_bytes());
        message.extend([0; 12]);
        sendto(self.0.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).expect("ask for a flush");
        let mut answer = [0; 256];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("the answer");
        assert!(length >= 20 && answer[16..20] == [0; 4], "conntrack was not flushed: {:?}", &answer[..length]);
    }
}
