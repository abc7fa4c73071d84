//! Every map of the object, private, behind typed functions.
#![expect(unsafe_code, reason = "map values are reached by pointers the verifier has checked")]

mod account;
mod area;
mod atomic;
mod counters;
mod datagram;
mod flow;
mod place;
mod port;
mod scratch;

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use core::ffi::c_void;
use netns_ebpf_common::abi::{self, IFINDEX_ENDPOINT, IFINDEX_GATEWAY};
use netns_ebpf_common::endpoint::{Endpoint, EndpointKey};
use netns_ebpf_common::family::{Family, V4, V6};
use netns_ebpf_common::flow::{FlowEntry, FlowKey};
use netns_ebpf_common::fragment::{Datagram, DatagramSlot};
use netns_ebpf_common::host::{HostConfig, Uplink};
use netns_ebpf_common::host_socket::{HostPeer, HostPeerKey};
use netns_ebpf_common::network::{Network, SnatPool};
use netns_ebpf_common::parse::Parse;
use netns_ebpf_common::prefix::PrefixKey;
use netns_ebpf_common::publish::{Backends, Publish, PublishKey, PublishedPort};
use netns_ebpf_common::state::TimeoutClass;
use netns_ebpf_common::verdict::DropReason;
use netns_ebpf_common::{Addr4, Addr6};

pub use self::account::{
    AccountMaps, AccountRef, Taken, enter, fill_ring, leave, next_ring_place, pop_opened, ring_back_off,
    ring_backs_off, ring_is_crowded, total_flows,
};
pub use self::area::{AreaRef, area};
pub use self::counters::{count_drop, count_flow, count_published, count_verdict, with_endpoint_stats};
pub use self::datagram::{DatagramRef, datagram_slot, held, held_scratch, hold, release};
pub use self::flow::{FlowRef, InsertError, enter_mapping, mapping_at, mapping_of};
pub use self::port::{PortMaps, begin_search, count_exhausted, count_port, end_search, is_held, ports_in_use, seed};
pub use self::scratch::{QUOTE_BYTES, Scratch, fib_params, opening, parsed, quote_scratch, quoted};
use self::scratch::{SCRATCH4, SCRATCH6, inside_key, outside_key, scratch};

#[map]
static HOST_CONFIG: Array<HostConfig> = Array::with_max_entries(1, 0);
#[map]
static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(abi::MAX_ENDPOINTS, 0);
#[map]
static ENDPOINT_ADDR4: HashMap<EndpointKey<Addr4>, u32> = HashMap::with_max_entries(2 * abi::MAX_ENDPOINTS, 0);
#[map]
static ENDPOINT_ADDR6: HashMap<EndpointKey<Addr6>, u32> = HashMap::with_max_entries(2 * abi::MAX_ENDPOINTS, 0);
#[map]
static NETWORKS: Array<Network> = Array::with_max_entries(abi::MAX_NETWORKS, 0);
#[map]
static UPLINKS: HashMap<u32, Uplink> = HashMap::with_max_entries(abi::MAX_UPLINKS, 0);
#[map]
static HOST_ADDRS4: HashMap<Addr4, u32> = HashMap::with_max_entries(abi::MAX_HOST_ADDRS, 0);
#[map]
static HOST_ADDRS6: HashMap<Addr6, u32> = HashMap::with_max_entries(abi::MAX_HOST_ADDRS, 0);
#[map]
static NO_MASQ4: LpmTrie<PrefixKey<Addr4>, u32> = LpmTrie::with_max_entries(abi::MAX_NO_MASQUERADE, BPF_F_NO_PREALLOC);
#[map]
static NO_MASQ6: LpmTrie<PrefixKey<Addr6>, u32> = LpmTrie::with_max_entries(abi::MAX_NO_MASQUERADE, BPF_F_NO_PREALLOC);
#[map]
static SNAT_POOLS4: HashMap<u32, SnatPool<Addr4>> = HashMap::with_max_entries(abi::MAX_NETWORKS, 0);
#[map]
static SNAT_POOLS6: HashMap<u32, SnatPool<Addr6>> = HashMap::with_max_entries(abi::MAX_NETWORKS, 0);
#[map]
static PUBLISHED4: HashMap<PublishKey<Addr4>, PublishedPort> =
    HashMap::with_max_entries(abi::MAX_PUBLISHED_PORTS, BPF_F_NO_PREALLOC);
#[map]
static PUBLISHED6: HashMap<PublishKey<Addr6>, PublishedPort> =
    HashMap::with_max_entries(abi::MAX_PUBLISHED_PORTS, BPF_F_NO_PREALLOC);
#[map]
static PUBLISHES: Array<Publish> = Array::with_max_entries(abi::MAX_PUBLISHES, 0);
#[map]
static BACKENDS: HashMap<u32, Backends> = HashMap::with_max_entries(abi::MAX_PUBLISHES, BPF_F_NO_PREALLOC);
#[map]
static ALLOW4: LpmTrie<PrefixKey<Addr4>, u32> = LpmTrie::with_max_entries(abi::MAX_ALLOWED_PREFIXES, BPF_F_NO_PREALLOC);
#[map]
static ALLOW6: LpmTrie<PrefixKey<Addr6>, u32> = LpmTrie::with_max_entries(abi::MAX_ALLOWED_PREFIXES, BPF_F_NO_PREALLOC);
#[map]
static FLOWS4: HashMap<FlowKey<Addr4>, FlowEntry<Addr4>> =
    HashMap::with_max_entries(abi::MAX_FLOW_ENTRIES, BPF_F_NO_PREALLOC);
#[map]
static FLOWS6: HashMap<FlowKey<Addr6>, FlowEntry<Addr6>> =
    HashMap::with_max_entries(abi::MAX_FLOW_ENTRIES, BPF_F_NO_PREALLOC);
#[map]
static DATAGRAMS4: LruHashMap<DatagramSlot, Datagram<Addr4>> = LruHashMap::with_max_entries(abi::MAX_DATAGRAMS, 0);
#[map]
static DATAGRAMS6: LruHashMap<DatagramSlot, Datagram<Addr6>> = LruHashMap::with_max_entries(abi::MAX_DATAGRAMS, 0);
#[map]
static HOST_NETNS: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static HOST_PEERS4: LruHashMap<HostPeerKey<Addr4>, HostPeer<Addr4>> =
    LruHashMap::with_max_entries(abi::MAX_HOST_PEERS, 0);
#[map]
static HOST_PEERS6: LruHashMap<HostPeerKey<Addr6>, HostPeer<Addr6>> =
    LruHashMap::with_max_entries(abi::MAX_HOST_PEERS, 0);

/// The maps of a family.
pub trait FamilyMaps: Parse + AccountMaps + PortMaps {
    fn addrs() -> &'static HashMap<EndpointKey<Self::Addr>, u32>;
    fn host_addrs() -> &'static HashMap<Self::Addr, u32>;
    fn no_masquerade() -> &'static LpmTrie<PrefixKey<Self::Addr>, u32>;
    fn snat_pools() -> &'static HashMap<u32, SnatPool<Self::Addr>>;
    fn published() -> &'static HashMap<PublishKey<Self::Addr>, PublishedPort>;
    fn flows() -> &'static HashMap<FlowKey<Self::Addr>, FlowEntry<Self::Addr>>;
    fn datagrams() -> &'static LruHashMap<DatagramSlot, Datagram<Self::Addr>>;
    fn scratch_map() -> &'static PerCpuArray<Scratch<Self::Addr>>;
    fn host_peers() -> &'static LruHashMap<HostPeerKey<Self::Addr>, HostPeer<Self::Addr>>;
    fn allowed() -> &'static LpmTrie<PrefixKey<Self::Addr>, u32>;
}

/// Which static is which of a family's maps: by name, as two maps of one type could change places unseen.
macro_rules! family_maps {
    ($family:ty { $($name:ident: $map:ty = $static:ident,)+ }) => {
        impl FamilyMaps for $family {
            $(
                #[inline(always)]
                fn $name() -> &'static $map {
                    &$static
                }
            )+
        }
    };
}
family_maps!(V4 {
    addrs: HashMap<EndpointKey<Addr4>, u32> = ENDPOINT_ADDR4,
    host_addrs: HashMap<Addr4, u32> = HOST_ADDRS4,
    no_masquerade: LpmTrie<PrefixKey<Addr4>, u32> = NO_MASQ4,
    snat_pools: HashMap<u32, SnatPool<Addr4>> = SNAT_POOLS4,
    published: HashMap<PublishKey<Addr4>, PublishedPort> = PUBLISHED4,
    flows: HashMap<FlowKey<Addr4>, FlowEntry<Addr4>> = FLOWS4,
    datagrams: LruHashMap<DatagramSlot, Datagram<Addr4>> = DATAGRAMS4,
    scratch_map: PerCpuArray<Scratch<Addr4>> = SCRATCH4,
    host_peers: LruHashMap<HostPeerKey<Addr4>, HostPeer<Addr4>> = HOST_PEERS4,
    allowed: LpmTrie<PrefixKey<Addr4>, u32> = ALLOW4,
});
family_maps!(V6 {
    addrs: HashMap<EndpointKey<Addr6>, u32> = ENDPOINT_ADDR6,
    host_addrs: HashMap<Addr6, u32> = HOST_ADDRS6,
    no_masquerade: LpmTrie<PrefixKey<Addr6>, u32> = NO_MASQ6,
    snat_pools: HashMap<u32, SnatPool<Addr6>> = SNAT_POOLS6,
    published: HashMap<PublishKey<Addr6>, PublishedPort> = PUBLISHED6,
    flows: HashMap<FlowKey<Addr6>, FlowEntry<Addr6>> = FLOWS6,
    datagrams: LruHashMap<DatagramSlot, Datagram<Addr6>> = DATAGRAMS6,
    scratch_map: PerCpuArray<Scratch<Addr6>> = SCRATCH6,
    host_peers: LruHashMap<HostPeerKey<Addr6>, HostPeer<Addr6>> = HOST_PEERS6,
    allowed: LpmTrie<PrefixKey<Addr6>, u32> = ALLOW6,
});

/// The host-wide settings.
#[inline(always)]
pub fn host_config() -> Result<&'static HostConfig, DropReason> {
    HOST_CONFIG.get(0).ok_or(DropReason::Internal)
}

/// The live endpoint in a slot.
#[inline(always)]
pub fn endpoint(slot: u32) -> Option<&'static Endpoint> {
    ENDPOINTS.get(slot).filter(|e| e.flags & Endpoint::UP != 0)
}

/// Whether the pod that had a slot is gone.
#[inline(always)]
pub fn rests(slot: u32) -> bool {
    ENDPOINTS.get(slot).is_some_and(Endpoint::is_resting)
}

/// The slot and endpoint whose host veth is `ifindex`.
#[inline(always)]
pub fn endpoint_by_ifindex(ifindex: u32) -> Option<(u32, &'static Endpoint)> {
    let slot = ifindex.wrapping_sub(IFINDEX_ENDPOINT);
    endpoint(slot).map(|e| (slot, e))
}

/// The slot that has `addr` in a network.
#[inline(always)]
pub fn slot_by_addr<F: FamilyMaps>(network: u32, addr: F::Addr) -> Option<u32> {
    // SAFETY: a `u32` value is read once; a concurrent replacement gives the old or the new one.
    unsafe { F::addrs().get(EndpointKey { network, addr }) }.copied()
}

/// A network by its id.
#[inline(always)]
pub fn network(id: u32) -> Option<&'static Network> {
    NETWORKS.get(id).filter(|n| n.gateway_ifindex != 0)
}

/// The network whose gateway device is `ifindex`, and its id.
#[inline(always)]
pub fn network_by_gateway(ifindex: u32) -> Option<(u32, &'static Network)> {
    let id = ifindex.wrapping_sub(IFINDEX_GATEWAY);
    network(id).map(|n| (id, n))
}

/// The uplink behind an ifindex.
#[inline(always)]
pub fn uplink(ifindex: u32) -> Option<&'static Uplink> {
    // SAFETY: an element is replaced as a whole by user space and freed only after a grace period.
    unsafe { UPLINKS.get(ifindex) }
}

/// Whether `addr` is one of the host's.
#[inline(always)]
pub fn is_host_addr<F: FamilyMaps>(addr: F::Addr) -> bool {
    // SAFETY: only the presence is used.
    unsafe { F::host_addrs().get(addr) }.is_some()
}

/// Calls `step` with each address of the host until it says that it is done (kernel 5.13, commit 69c087ba6225).
#[inline(always)]
pub fn each_host_addr<F: FamilyMaps, S: AddrSteps<F>>(steps: &mut S) {
    let map: *const HashMap<F::Addr, u32> = F::host_addrs();
    // SAFETY: `addr_step::<F, S>` is a function of this object with the callback's signature, `steps` outlives the call.
    unsafe {
        helpers::bpf_for_each_map_elem(
            map.cast_mut().cast(),
            addr_step::<F, S> as *mut c_void,
            core::ptr::from_mut(steps).cast(),
            0,
        );
    }
}

/// Steps over addresses.
pub trait AddrSteps<F: Family> {
    /// Takes one; `true` when it is the last.
    fn step(&mut self, addr: F::Addr) -> bool;
}

/// One step, called by the kernel.
extern "C" fn addr_step<F: Family, S: AddrSteps<F>>(
    _: *mut c_void,
    addr: *const F::Addr,
    _: *const u32,
    steps: *mut S,
) -> i64 {
    // SAFETY: the kernel passes a key of the map and what `each_host_addr` gave it, which nothing else uses meanwhile.
    unsafe { (*steps).step(*addr) }.into()
}

/// Whether packets of a network to `addr` keep their source.
#[inline(always)]
pub fn is_no_masquerade<F: FamilyMaps>(network: u32, addr: F::Addr) -> bool {
    F::no_masquerade().get(prefix_key(network, addr)).is_some()
}

/// Whether a client's address is in the list of a publish.
#[inline(always)]
pub fn is_allowed<F: FamilyMaps>(publish: u32, addr: F::Addr) -> bool {
    F::allowed().get(prefix_key(publish, addr)).is_some()
}

#[inline(always)]
fn prefix_key<A>(id: u32, addr: A) -> Key<PrefixKey<A>> {
    Key::new(PrefixKey::<A>::FULL_BITS, PrefixKey { id_be: id.to_be_bytes(), addr })
}

/// The addresses a network's pods leave with; `None`: the uplink's.
#[inline(always)]
pub fn snat_pool<F: FamilyMaps>(network: u32) -> Option<&'static SnatPool<F::Addr>> {
    // SAFETY: as in `uplink`.
    unsafe { F::snat_pools().get(network) }
}

/// The entry for a host port at exactly this address (unspecified: any).
#[inline(always)]
pub fn published<F: FamilyMaps>(key: &PublishKey<F::Addr>) -> Option<PublishedPort> {
    // SAFETY: elements are replaced as a whole and freed only after a grace period.
    unsafe { F::published().get(key) }.copied()
}

/// A publish declaration.
#[inline(always)]
pub fn publish(id: u32) -> Option<&'static Publish> {
    PUBLISHES.get(id)
}

/// The backend a hash picks among those of a publish that has several.
#[inline(always)]
pub fn backend_slot(publish: u32, hash: u32) -> Option<u32> {
    // SAFETY: an element is replaced as a whole and freed only after a grace period.
    unsafe { BACKENDS.get(publish) }.map(|backends| backends.slot(hash))
}

/// Whether some network has endpoint-independent mapping.
#[inline(always)]
pub fn has_mappings() -> bool {
    HOST_CONFIG.get(0).is_some_and(|config| config.flags & HostConfig::MAPPINGS != 0)
}

/// The idle time after which an entry of this class counts as absent.
#[inline(always)]
pub fn timeout_ns(class: TimeoutClass) -> u64 {
    match HOST_CONFIG.get(0) {
        // The mask shows the verifier that it is one of the four.
        Some(config) => config.timeout_ns[class as usize & 3],
        None => 0,
    }
}

/// Cookie of the namespace whose sockets are the host's.
#[inline(always)]
pub fn host_netns() -> Option<u64> {
    HOST_NETNS.get(0).copied().filter(|cookie| *cookie != 0)
}

/// What a process of the host asked for when it got this peer.
#[inline(always)]
pub fn host_peer<F: FamilyMaps>(key: &HostPeerKey<F::Addr>) -> Option<HostPeer<F::Addr>> {
    // SAFETY: copied at once; an element reused meanwhile shows another socket's peer for one datagram.
    unsafe { F::host_peers().get(key) }.copied()
}

/// Remembers it.
#[inline(always)]
pub fn remember_host_peer<F: FamilyMaps>(key: &HostPeerKey<F::Addr>, peer: &HostPeer<F::Addr>) {
    // Without it the connection works as well; the process sees the pod's own address as its peer.
    let _short_of_memory = F::host_peers().insert(key, peer, 0);
}
