//! The namespace, devices and maps the programs run over, made once per test binary; put in order before each test.

use std::fs::File;
use std::net::IpAddr;
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use aya::maps::{Array, Map};
use aya::programs::{SchedClassifier, TestRunOptions};
use aya::{Pod as Plain, TestRun};
use netns::datapath::{Datapath, Hook, PublishPorts, Sizes};
use netns::netns::Netns;
use netns::wiring::{Host, NetworkSpec};
use netns_ebpf_common::abi::map;
use netns_ebpf_common::account::{Admission, Destination, PodAccounts, PortSearch, QueueKey, QueuePart};
use netns_ebpf_common::endpoint::Endpoint;
use netns_ebpf_common::host::{HostConfig, Uplink};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::publish::Publish;
use netns_ebpf_common::{Addr4, Addr6, Mac};
use nix::sched::{CloneFlags, setns, unshare};
use nix::time::{ClockId, clock_gettime};

use super::state::{empty, open_map, remove_all};
use super::world::*;
use crate::common::{Isolated, isolated};

/// Name of the instance; MACs are derived from it.
pub const INSTANCE: &str = "prog";
pub(super) const PINS: &str = "/sys/fs/bpf/prog";
/// Larger than any frame BPF_PROG_TEST_RUN takes, with room for what an ICMP error adds.
const OUTPUT_BYTES: usize = 8192;
/// Size of the kernel's `struct __sk_buff`, and where in it is what a test sets.
const SK_BUFF_BYTES: usize = 192;
const MARK: usize = 8;
const PRIORITY: usize = 32;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const GSO_SIZE: usize = 176;

/// What a frame comes with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meta {
    /// Index of the device the program runs on.
    pub ifindex: u32,
    /// Index of the device the packet came in by; 0 if this host made it.
    pub ingress_ifindex: u32,
    /// Payload bytes of a segment of a GSO packet, or 0.
    pub gso_size: u32,
    /// What the host has noted on it.
    pub notes: Notes,
}

impl Meta {
    /// As the kernel's `struct __sk_buff`.
    pub(super) fn context(&self) -> [u8; SK_BUFF_BYTES] {
        let mut context = [0; SK_BUFF_BYTES];
        for (at, value) in [
            (MARK, self.notes.mark),
            (PRIORITY, self.notes.priority),
            (INGRESS_IFINDEX, self.ingress_ifindex),
            (IFINDEX, self.ifindex),
            (GSO_SIZE, self.gso_size),
        ] {
            context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        context
    }
}

/// What a host notes on a packet for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Mark.
    pub mark: u32,
    /// Priority.
    pub priority: u32,
}

/// What a program made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The action.
    pub action: i32,
    /// The frame.
    pub frame: Vec<u8>,
    /// What is noted on it.
    pub notes: Notes,
}

/// The loaded programs and their maps.
pub struct Bench {
    datapath: Datapath,
    programs: [SchedClassifier; 4],
    /// Index of the uplink.
    pub uplink: u32,
    /// Index of the uplink without addresses.
    pub bare: u32,
}

/// Where the one bench of this binary is.
struct Place {
    network: File,
    mounts: File,
    bench: Mutex<Bench>,
}

static PLACE: OnceLock<Place> = OnceLock::new();
/// Entries its flow tables are made for.
static TABLE_ENTRIES: AtomicU32 = AtomicU32::new(FLOW_ENTRIES);

/// As [`bench`], over larger flow tables; a test binary asks for one size only.
pub fn with_table(entries: u32, body: impl FnOnce(&Bench) + Send) {
    TABLE_ENTRIES.store(entries, Ordering::Relaxed);
    bench(body);
}

/// Runs a test body over the bench, which no other test uses meanwhile and which is as new.
///
/// # Panics
/// When the body does, and when the bench cannot be made.
pub fn bench(body: impl FnOnce(&Bench) + Send) {
    let place = PLACE.get_or_init(make);
    // The thread carries the test's name, so that panics and captured output still say which test they are of.
    let name = thread::current().name().unwrap_or("prog").to_owned();
    let run = || {
        unshare(CloneFlags::CLONE_FS).expect("unshare the thread's directories");
        setns(&place.mounts, CloneFlags::CLONE_NEWNS).expect("enter the mount namespace");
        setns(&place.network, CloneFlags::CLONE_NEWNET).expect("enter the network namespace");
        let bench: MutexGuard<'_, Bench> = place.bench.lock().unwrap_or_else(PoisonError::into_inner);
        bench.reset();
        body(&bench);
        bench.assert_nothing_left();
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, run).expect("start the test's thread");
        thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
    });
}

/// Makes the bench in a namespace that lives as long as this process has it open.
fn make() -> Place {
    let (send, receive) = mpsc::channel();
    isolated(move |here| {
        let bench = Mutex::new(Bench::new(here));
        let open = |what| File::open(format!("/proc/thread-self/ns/{what}")).expect("open a namespace");
        send.send(Place { network: open("net"), mounts: open("mnt"), bench }).expect("hand the bench over");
    });
    receive.recv().expect("the bench")
}

impl Bench {
    fn new(here: &Isolated) -> Self {
        let datapath = Datapath::load(Path::new(PINS), &Sizes { flow_entries: TABLE_ENTRIES.load(Ordering::Relaxed) })
            .expect("load");
        here.tool("sysctl", "-qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0");
        for (name, mtu) in [("up0", UPLINK_MTU), ("bare0", UPLINK_MTU), ("side0", 1500)] {
            here.ip(&format!("link add {name} mtu {mtu} type veth peer name {name}p mtu {mtu}"));
            here.ip(&format!("link set {name} address {}", Mac(UPLINK_MAC)));
            here.ip(&format!("link set {name}p up"));
            here.ip(&format!("link set {name} up"));
        }
        for pod in PODS {
            let Pod { slot, .. } = pod;
            here.ip(&format!("link add nn{slot} index {} type veth peer name pod{slot}", pod.ifindex()));
            here.ip(&format!("link set nn{slot} up"));
        }
        for place in [HOST, HOST2] {
            here.ip(&format!("addr add {}/24 dev up0", place.v4));
            here.ip(&format!("addr add {}/64 dev up0 nodad", place.v6));
        }
        here.ip("route add default via 192.0.2.254");
        here.ip("-6 route add default via 2001:db8:1::fe");
        for (place, via) in [(BARE_SIDE, "dev bare0"), (SIDE, "dev side0")] {
            here.ip(&format!("route add {}/32 {via}", place.v4));
            here.ip(&format!("-6 route add {}/128 {via}", place.v6));
        }
        here.ip(&format!("route add unreachable {}/32", NOWHERE.v4));
        here.ip(&format!("-6 route add unreachable {}/128", NOWHERE.v6));
        let host = Host::new(INSTANCE, Netns::current().expect("current"), datapath.clone()).expect("host");
        for network in networks() {
            host.wire_gateway(&network).expect("gateway");
            // Only the frames of the tests run through the programs, not those the kernel sends of itself.
            datapath.detach(Hook::FromHost, gateway_ifindex(network.id)).expect("detach");
        }
        let index = |name| {
            let line = here.ip(&format!("-o link show {name}"));
            line.split(':').next().and_then(|n| n.trim().parse().ok()).expect("an index")
        };
        let (uplink, bare) = (index("up0"), index("bare0"));
        let programs = Hook::ALL.map(|hook| {
            SchedClassifier::from_pin(Path::new(PINS).join("progs").join(hook.as_str())).expect("open a program")
        });
        Self { datapath, programs, uplink, bare }
    }

    /// Programs and maps.
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// Fills every map as `world` says, and empties the flow table.
    pub fn reset(&self) {
        let d = &self.datapath;
        d.set_host_config(&host_config()).expect("config");
        self.assert_nothing_left();
        self.forget_datagrams();
        self.set_error_debt(&self.areas(), Duration::ZERO);
        for name in [map::ADMISSION4, map::ADMISSION6] {
            let data = Map::Array(open_map(name));
            let mut admission = Array::<_, Admission>::try_from(data).expect("an array");
            admission.set(0, Admission::default(), 0).expect("write");
        }
        for name in [map::ACCOUNTS4, map::ACCOUNTS6] {
            let data = Map::Array(open_map(name));
            let mut accounts = Array::<_, PodAccounts>::try_from(data).expect("an array");
            for pod in PODS {
                accounts.set(pod.slot, PodAccounts::default(), 0).expect("write");
            }
        }
        empty::<QueueKey, QueuePart<Addr4>>(map::QUEUES4);
        empty::<QueueKey, QueuePart<Addr6>>(map::QUEUES6);
        remove_all::<Destination<Addr4>, PortSearch>(map::PORT_SEARCHES4);
        remove_all::<Destination<Addr6>, PortSearch>(map::PORT_SEARCHES6);
        for spec in networks() {
            d.put_network(spec.id, &network(&spec)).expect("network");
            d.put_snat_pools(spec.id, &[], |_| false).expect("SNAT addresses");
            d.sync_no_masquerade(spec.id, &spec.no_masquerade).expect("no_masquerade");
        }
        for pod in PODS {
            d.put_endpoint(pod.slot, &endpoint(pod)).expect("endpoint");
        }
        d.put_uplink(self.uplink, &uplink(Some(HOST))).expect("uplink");
        d.put_uplink(self.bare, &uplink(None)).expect("uplink");
        let addresses = [HOST, HOST2, GATEWAY, GATEWAY2, LOOPBACK];
        let addresses: Vec<(IpAddr, u32)> =
            addresses.iter().flat_map(|p| [(p.v4.into(), self.uplink), (p.v6.into(), self.uplink)]).collect();
        d.sync_host_addresses(&addresses).expect("host addresses");
        for (id, publish, ports) in publishes() {
            d.set_backends(id, None).expect("backends");
            d.sync_allowed(id, &[]).expect("prefixes");
            for ports in ports {
                d.put_publish(id, &publish, &ports).expect("publish");
            }
        }
    }

    /// Deletes all flows: nothing is counted then.
    fn assert_nothing_left(&self) {
        self.datapath.delete_flows(|_| true).expect("delete flows");
        assert_eq!(self.datapath.flow_totals().expect("totals"), [0, 0], "flows that are counted and not there");
        assert_eq!(self.ports_counted(), [0, 0], "ports that are counted and not in use");
    }

    /// Runs a hook's program over a frame.
    ///
    /// # Panics
    /// When the kernel does not take the frame.
    pub fn run(&self, hook: Hook, meta: Meta, frame: &[u8]) -> Output {
        self.try_run(hook, meta, frame).unwrap_or_else(|e| panic!("run {}: {e}", hook.as_str()))
    }

    /// As [`Self::run`]; an error where the kernel does not take the frame (it looks at the IP header's presence).
    pub fn try_run(&self, hook: Hook, meta: Meta, frame: &[u8]) -> Result<Output, aya::programs::ProgramError> {
        let context = meta.context();
        let mut context_out = [0; SK_BUFF_BYTES];
        let mut out = vec![0; OUTPUT_BYTES];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        };
        let done = self.programs[hook as usize].test_run(options)?;
        out.truncate(done.data_size_out as usize);
        let word = |at: usize| u32::from_ne_bytes(context_out[at..at + 4].try_into().expect("four bytes"));
        let notes = Notes { mark: word(MARK), priority: word(PRIORITY) };
        Ok(Output { action: done.return_value.cast_signed(), frame: out, notes })
    }

    /// The program of a hook.
    pub(super) fn program(&self, hook: Hook) -> &SchedClassifier {
        &self.programs[hook as usize]
    }

    /// Changes the host's settings.
    pub fn configure(&self, change: impl FnOnce(&mut HostConfig)) {
        let mut config = host_config();
        change(&mut config);
        self.datapath.set_host_config(&config).expect("config");
    }

    /// Changes a network's flags.
    pub fn configure_network(&self, id: u16, change: impl FnOnce(&mut Network)) {
        let mut network = self.datapath.network(id).expect("read").expect("a network");
        change(&mut network);
        self.datapath.put_network(id, &network).expect("network");
    }

    /// Gives a network these SNAT addresses, of which the host has the `live` ones.
    pub fn set_snat_pool(&self, id: u16, addresses: &[IpAddr], live: &[IpAddr]) {
        self.datapath.put_snat_pools(id, addresses, |a| live.contains(&a)).expect("SNAT addresses");
        assert_eq!(self.datapath.snat_addresses(id).expect("read"), live);
    }

    /// Gives an uplink this place's addresses.
    pub fn set_uplink_address(&self, index: u32, place: super::world::Place) {
        self.datapath.put_uplink(index, &uplink(Some(place))).expect("uplink");
    }

    /// Sets the uplink's MTU.
    pub fn set_uplink_mtu(&self, mtu_bytes: u32) {
        self.datapath.put_uplink(self.uplink, &Uplink { mtu_bytes, ..uplink(Some(HOST)) }).expect("uplink");
    }

    /// Changes a publish's declaration.
    pub fn configure_publish(&self, id: u32, change: impl FnOnce(&mut Publish)) {
        let mut publish = self.datapath.publish(id).expect("read").expect("a publish");
        change(&mut publish);
        self.datapath.set_publish(id, &publish).expect("publish");
    }

    /// Takes a pod away.
    pub fn remove(&self, pod: Pod) {
        assert!(self.datapath.remove_endpoint(pod.slot, owner(pod)).expect("remove"));
    }

    /// Lets the clock flows are stamped with move on.
    pub fn tick(&self) {
        let coarse = || clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("the clock");
        let before = coarse();
        while coarse() == before {
            thread::yield_now();
        }
    }

    /// Lets at least this much time go by on the clock flows are stamped with, which moves by ticks.
    pub fn wait(&self, time: Duration) {
        thread::sleep(time + Duration::from_millis(12));
    }
}

/// What the tests start from.
pub fn host_config() -> HostConfig {
    const SECOND: u64 = 1_000_000_000;
    HostConfig {
        snat_port_min: *SNAT.start(),
        snat_port_max: *SNAT.end(),
        flags: HostConfig::CSUM_IPV6,
        timeout_ns: [240 * SECOND, 7440 * SECOND, 300 * SECOND, 60 * SECOND],
        flows: FLOWS,
        flows_per_pod: 0,
    }
}

fn uplink(at: Option<super::world::Place>) -> Uplink {
    Uplink {
        addr4: at.map(|p| p.v4.into()).unwrap_or_default(),
        addr6: at.map(|p| p.v6.into()).unwrap_or_default(),
        mtu_bytes: UPLINK_MTU,
        flags: 0,
    }
}

fn owner(pod: Pod) -> u64 {
    u64::from(pod.slot) + 100
}

fn endpoint(pod: Pod) -> Endpoint {
    Endpoint {
        ifindex: pod.ifindex(),
        network: pod.network.into(),
        addr4: pod.at.v4.into(),
        addr6: pod.at.v6.into(),
        mac: Mac(pod.mac),
        flags: Endpoint::UP,
        mtu_bytes: if pod == GREEN { GREEN_MTU } else { POD_MTU },
        owner: owner(pod),
    }
}

fn networks() -> [NetworkSpec; 3] {
    let spec = |id, four: &str, six: &str, masquerade, host_access| NetworkSpec {
        id,
        gateway4: Some(four.parse().expect("net")),
        gateway6: Some(six.parse().expect("net")),
        mtu_bytes: POD_MTU,
        masquerade,
        snat_addresses: Vec::new(),
        endpoint_independent: false,
        open_to_all: false,
        host_access,
        no_masquerade: Vec::new(),
    };
    let kept = vec!["192.168.77.0/24".parse().expect("net"), "2001:db8:77::/64".parse().expect("net")];
    [
        NetworkSpec { no_masquerade: kept, ..spec(1, "10.244.0.1/24", "fd00:244::1/64", true, true) },
        spec(2, "10.245.0.1/24", "fd00:245::1/64", false, true),
        spec(3, "10.244.0.1/24", "fd00:244::1/64", true, false),
    ]
}

fn network(spec: &NetworkSpec) -> Network {
    let (four, six) = (spec.gateway4.expect("IPv4"), spec.gateway6.expect("IPv6"));
    Network {
        gateway_ifindex: gateway_ifindex(spec.id),
        flags: if spec.masquerade { Network::MASQUERADE } else { 0 }
            | if spec.host_access { Network::HOST_ACCESS } else { 0 },
        gateway4: four.addr().into(),
        mask4: four.netmask().into(),
        gateway6: six.addr().into(),
        mask6: six.netmask().into(),
        mac: Mac(gateway_mac(spec.id)),
        _pad: 0,
        mtu_bytes: spec.mtu_bytes,
    }
}

fn publishes() -> Vec<(u32, Publish, Vec<PublishPorts>)> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let to = |pod: Pod, flags, id: u32| Publish { slot: pod.slot, flags, owner: u64::from(id) + 1000 };
    let ports = |addr, proto, host_first, pod_first, count| PublishPorts { addr, proto, host_first, pod_first, count };
    let active = Publish::ACTIVE;
    vec![
        (
            WEB,
            to(BLUE, active, WEB),
            vec![ports(Some(HOST.v4.into()), TCP, 8080, 80, 1), ports(Some(HOST.v6.into()), TCP, 8080, 80, 1)],
        ),
        (DNS, to(BLUE, active, DNS), vec![ports(None, UDP, 5353, 53, 1)]),
        (RANGE, to(BLUE, active, RANGE), vec![ports(None, TCP, 9000, 7000, 4)]),
        (
            LOCAL,
            to(BLUE, active | Publish::LOOPBACK, LOCAL),
            vec![
                ports(Some(LOOPBACK.v4.into()), TCP, 6000, 6000, 1),
                ports(Some(LOOPBACK.v6.into()), TCP, 6000, 6000, 1),
                ports(None, TCP, 6001, 6000, 1),
            ],
        ),
        (SMALL, to(GREEN, active, SMALL), vec![ports(None, TCP, 8443, 443, 1)]),
        (ABROAD, to(YELLOW, active, ABROAD), vec![ports(None, TCP, 8081, 80, 1)]),
    ]
}
