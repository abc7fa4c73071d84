//! What tests look at and change in the maps behind the programs' back.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use aya::Pod as Plain;
use aya::maps::{Array, HashMap, Map, MapData};
use netns_ebpf_common::abi::{self, map};
use netns_ebpf_common::account::{Destination, PodAccounts, PortSearch};
use netns_ebpf_common::area::Area;
use netns_ebpf_common::flow::{FlowEntry, FlowFlags, FlowKey, FlowTuple, Target};
use netns_ebpf_common::fragment::{Datagram, DatagramSlot, HeldKey, HeldPiece};
use netns_ebpf_common::port::{HELD_PLACES, UseIndex};
use netns_ebpf_common::shared::Shared;
use netns_ebpf_common::state::State;
use netns_ebpf_common::{Addr4, Addr6, Port};
use nix::time::{ClockId, clock_gettime};

use super::bench::{Bench, PINS};
use super::packet::Version;
use super::words::words;
use super::world::{PODS, Place, Pod};

impl Bench {
    /// Takes one entry out of a family's flow table, a reply's, and leaves its other direction.
    pub fn remove_reply_entry(&self, v: Version) {
        match v {
            Version::V4 => drop(take_entry::<Addr4>(map::FLOWS4, false)),
            Version::V6 => drop(take_entry::<Addr6>(map::FLOWS6, false)),
        }
    }

    /// Does something while an opener's entry is not there and the reply's is: another CPU has claimed the port and goes on to insert it.
    pub fn before_opener_entry(&self, v: Version, act: impl FnOnce()) {
        match v {
            Version::V4 => without_entry::<Addr4>(map::FLOWS4, true, act),
            Version::V6 => without_entry::<Addr6>(map::FLOWS6, true, act),
        }
    }

    /// Makes a family's mappings count this many flows, whatever they have.
    pub fn forge_mapped_flows(&self, v: Version, flows: u32) {
        match v {
            Version::V4 => change::<Addr4>(map::FLOWS4, is_inside, |e| e.ack = flows),
            Version::V6 => change::<Addr6>(map::FLOWS6, is_inside, |e| e.ack = flows),
        }
    }

    /// Makes the entries of a family's flow table `which` picks by what they are and lead to look as if they were last seen this much earlier.
    pub fn age(&self, v: Version, by: Duration, which: impl Fn(FlowFlags, Target) -> bool) {
        match v {
            Version::V4 => change::<Addr4>(map::FLOWS4, which, |e| e.last_seen_ns = earlier(e.last_seen_ns, by)),
            Version::V6 => change::<Addr6>(map::FLOWS6, which, |e| e.last_seen_ns = earlier(e.last_seen_ns, by)),
        }
    }

    /// Takes ports of the host's address `at` towards a UDP port of somebody, by replies' entries of a flow nobody has.
    pub fn occupy(&self, v: Version, (from, port): (Place, u16), at: IpAddr, ports: impl Iterator<Item = u16>) {
        match (v, at) {
            (Version::V4, IpAddr::V4(at)) => occupy::<Addr4>(map::FLOWS4, (from.v4.into(), port), at.into(), ports),
            (Version::V6, IpAddr::V6(at)) => occupy::<Addr6>(map::FLOWS6, (from.v6.into(), port), at.into(), ports),
            _ => panic!("{at} is of the other family"),
        }
    }

    /// Keys in the queue of a pod's account of incoming flows.
    pub fn queue_len(&self, v: Version, pod: Pod) -> u64 {
        let name = if v == Version::V4 { map::ACCOUNTS4 } else { map::ACCOUNTS6 };
        let accounts = Array::<_, PodAccounts>::try_from(Map::Array(open_map(name))).expect("accounts");
        let account = accounts.get(&pod.slot, 0).expect("an account").incoming;
        account.queued - account.taken
    }

    /// How often ports in use are counted, towards destinations and by themselves.
    pub fn ports_counted(&self) -> [u64; 2] {
        let sum = |name, len| words(name, len).into_iter().map(u64::from).sum();
        [sum(map::PORT_USE, UseIndex::CELLS), sum(map::PORTS_HELD, HELD_PLACES)]
    }

    /// The searches for a port of a family that are remembered: whose, and what of them.
    pub fn port_searches(&self, v: Version) -> Vec<(u32, PortSearch)> {
        match v {
            Version::V4 => searches::<Addr4>(map::PORT_SEARCHES4),
            Version::V6 => searches::<Addr6>(map::PORT_SEARCHES6),
        }
    }

    /// Ends the time a search in vain stands for those that follow, of all searchers.
    pub fn end_back_off(&self, v: Version) {
        self.back_off_until(v, 0);
    }

    /// Makes all searches stand until then: `CLOCK_MONOTONIC`.
    pub fn back_off_until(&self, v: Version, at_ns: u64) {
        match v {
            Version::V4 => back_off_until::<Addr4>(map::PORT_SEARCHES4, at_ns),
            Version::V6 => back_off_until::<Addr6>(map::PORT_SEARCHES6, at_ns),
        }
    }

    /// How many datagrams in pieces of a family are known.
    pub fn datagrams(&self, v: Version) -> usize {
        match v {
            Version::V4 => keys::<DatagramSlot, Datagram<Addr4>>(map::DATAGRAMS4).len(),
            Version::V6 => keys::<DatagramSlot, Datagram<Addr6>>(map::DATAGRAMS6).len(),
        }
    }

    /// How many pieces wait.
    pub fn held(&self) -> usize {
        keys::<HeldKey, HeldPiece>(map::HELD).len()
    }

    /// Forgets datagrams in pieces, and pieces that wait.
    pub(super) fn forget_datagrams(&self) {
        remove_all::<DatagramSlot, Datagram<Addr4>>(map::DATAGRAMS4);
        remove_all::<DatagramSlot, Datagram<Addr6>>(map::DATAGRAMS6);
        remove_all::<HeldKey, HeldPiece>(map::HELD);
    }

    /// The areas of the pods, and those of the LAN.
    pub(super) fn areas(&self) -> Vec<u32> {
        PODS.iter().map(|pod| pod.slot).chain((0..abi::LAN_AREAS).map(|n| abi::MAX_ENDPOINTS + n)).collect()
    }

    /// Lets areas have sent so many ICMP errors that it takes this time until the next; with none they have sent none.
    pub fn set_error_debt(&self, areas: &[u32], debt: Duration) {
        let mut map = Array::<_, Area>::try_from(Map::Array(open_map(map::AREAS))).expect("an array");
        let errors_paid_ns = if debt.is_zero() { 0 } else { now_ns() + debt.as_nanos() as u64 };
        for area in areas {
            let before = map.get(area, 0).expect("read");
            assert_eq!(before.is_entered.get(), 0, "a program has entered area {area} and not left it");
            map.set(*area, Area { errors_paid_ns: Shared::new(errors_paid_ns), ..before }, 0).expect("write");
        }
    }
}

/// A pinned map.
pub(super) fn open_map(name: &str) -> MapData {
    MapData::from_pin(Path::new(PINS).join("maps").join(name)).expect("open a map")
}

fn lru<K: Plain, V: Plain>(name: &str) -> HashMap<MapData, K, V> {
    HashMap::try_from(Map::LruHashMap(open_map(name))).expect("a hash")
}

fn now_ns() -> u64 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock")).as_nanos() as u64
}

fn occupy<A: Copy + Default>(name: &str, (src, sport): (A, u16), dst: A, ports: impl Iterator<Item = u16>)
where
    FlowKey<A>: Plain,
    FlowEntry<A>: Plain,
{
    let mut flows = HashMap::<_, FlowKey<A>, FlowEntry<A>>::try_from(Map::HashMap(open_map(name))).expect("a hash");
    let entry = FlowEntry { last_seen_ns: now_ns(), state: State::Assured as u8, ..FlowEntry::<A>::default() };
    for port in ports {
        let tuple = FlowTuple { src, dst, sport: Port::new(sport), dport: Port::new(port) };
        flows.insert(FlowKey::new(abi::ZONE_HOST, 17, tuple), entry, 0).expect("insert");
    }
}

fn searches<A>(name: &str) -> Vec<(u32, PortSearch)>
where
    Destination<A>: Plain,
{
    let all = lru::<Destination<A>, PortSearch>(name);
    all.iter().map(|s| s.map(|(to, search)| (to.searcher, search)).expect("read")).collect()
}

fn back_off_until<A>(name: &str, retry_at_ns: u64)
where
    Destination<A>: Plain,
{
    let mut all = lru::<Destination<A>, PortSearch>(name);
    for key in keys::<Destination<A>, PortSearch>(name) {
        let search = all.get(&key, 0).expect("read");
        all.insert(key, PortSearch { retry_at_ns, ..search }, 0).expect("write");
    }
}

fn keys<K: Plain, V: Plain>(name: &str) -> Vec<K> {
    lru::<K, V>(name).keys().collect::<Result<_, _>>().expect("keys")
}

/// Empties an LRU hash.
pub(super) fn remove_all<K: Plain, V: Plain>(name: &str) {
    let mut map = lru::<K, V>(name);
    for key in keys::<K, V>(name) {
        // It may have given way to another meanwhile.
        let _ = map.remove(&key);
    }
}

/// Whether it is the inside entry of a mapping.
pub fn is_inside(flags: FlowFlags, target: Target) -> bool {
    flags.has(FlowFlags::MAPPING) && target.is_uplink()
}

fn earlier(at_ns: u64, by: Duration) -> u64 {
    let by = by.as_nanos() as u64;
    assert!(at_ns > by, "the machine has not been up for that long");
    at_ns - by
}

fn change<A: Copy>(name: &str, which: impl Fn(FlowFlags, Target) -> bool, change: impl Fn(&mut FlowEntry<A>))
where
    FlowKey<A>: Plain,
    FlowEntry<A>: Plain,
{
    let mut flows = HashMap::<_, FlowKey<A>, FlowEntry<A>>::try_from(Map::HashMap(open_map(name))).expect("a hash");
    let picked: Vec<_> = flows.iter().filter_map(Result::ok).filter(|(_, e)| which(e.flags, e.target())).collect();
    assert!(!picked.is_empty(), "no such entry");
    for (key, mut entry) in picked {
        change(&mut entry);
        flows.insert(key, entry, 0).expect("change an entry");
    }
}

/// Empties a hash.
pub(super) fn empty<K: Plain, V: Plain>(name: &str) {
    let mut map = HashMap::<_, K, V>::try_from(Map::HashMap(open_map(name))).expect("a hash");
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>().expect("keys");
    keys.iter().for_each(|key| map.remove(key).expect("remove"));
}

type Flows<A> = HashMap<MapData, FlowKey<A>, FlowEntry<A>>;

fn take_entry<A: Copy>(name: &str, original: bool) -> (Flows<A>, FlowKey<A>, FlowEntry<A>)
where
    FlowKey<A>: Plain,
    FlowEntry<A>: Plain,
{
    let mut flows = Flows::<A>::try_from(Map::HashMap(open_map(name))).expect("a hash");
    let such = flows.iter().filter_map(Result::ok).find(|(_, e)| e.is_original() == original);
    let (key, entry) = such.expect("such an entry");
    flows.remove(&key).expect("remove");
    (flows, key, entry)
}

fn without_entry<A: Copy>(name: &str, original: bool, act: impl FnOnce())
where
    FlowKey<A>: Plain,
    FlowEntry<A>: Plain,
{
    let (mut flows, key, entry) = take_entry::<A>(name, original);
    act();
    flows.insert(key, entry, 0).expect("insert");
}
