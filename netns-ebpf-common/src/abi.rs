//! Names, numbers and capacities both sides of the kernel line agree on.

/// Raised whenever a map's key or value layout or a program's meaning changes; the pins carry it.
pub const ABI_VERSION: u32 = 6;

/// The zone of the host's own side in flow keys; network ids start at 1.
pub const ZONE_HOST: u16 = 0;

/// Network ids are below this; 0 is [`ZONE_HOST`].
pub const MAX_NETWORKS: u32 = 256;

/// Endpoint slots of one instance: the most pods it can hold.
pub const MAX_ENDPOINTS: u32 = 8192;

/// The interface index of the host end of the veth of slot `s` is `IFINDEX_ENDPOINT + s`.
///
/// The index is chosen at creation, so the program finds the endpoint by subtraction and an array access instead of
/// a hash look-up.
pub const IFINDEX_ENDPOINT: u32 = 0x0100_0000;

/// The interface index of the gateway device of network `n` is `IFINDEX_GATEWAY + n`.
pub const IFINDEX_GATEWAY: u32 = 0x0200_0000;

/// Host addresses (of either family) the data path can know.
pub const MAX_HOST_ADDRS: u32 = 16_384;

/// Uplinks of one instance.
pub const MAX_UPLINKS: u32 = 64;

/// Port entries of one family: a range of n ports takes n.
pub const MAX_PUBLISHED_PORTS: u32 = 65_536;

/// Publish declarations (a range is one).
pub const MAX_PUBLISHES: u32 = 16_384;

/// Prefixes of one family that publishes let in, over all publishes.
pub const MAX_ALLOWED_PREFIXES: u32 = 16_384;

/// Most flows of one family: what the tables are made for. How many of them are used is a setting.
pub const MAX_FLOWS: u32 = 1_048_576;

/// Entries of the flow table of one family; each flow takes two. They cost memory when they are used.
pub const MAX_FLOW_ENTRIES: u32 = 2 * MAX_FLOWS;

/// Flows that are remembered by age, over all pods of one family; a power of two.
pub const OPENED_RING: u32 = 131_072;

/// Keys in a part of an account's queue; a power of two.
pub const QUEUE_PART: usize = 16;

/// Parts of accounts' queues of one family. More than there can be: an account's queue is at most about three times its flows (see
/// [`crate::account::is_crowded`]), and each of a pod's two has begun a part or two.
pub const MAX_QUEUE_PARTS: u32 = 4 * MAX_FLOWS / QUEUE_PART as u32 + 16 * MAX_ENDPOINTS;

/// Searches for ports of one family that are remembered; the least recently used one gives way.
pub const MAX_PORT_SEARCHES: u32 = 16_384;

/// Datagrams in pieces of one family, of all areas; the least recently used one gives way. On a machine with more than 16 CPUs
/// there are more: the kernel keeps places free for each.
pub const MAX_DATAGRAMS: u32 = 4096;

/// Datagrams in pieces of one pod, of one family.
pub const DATAGRAMS_PER_POD: u32 = 256;

/// Areas for machines on the LAN, by source address.
pub const LAN_AREAS: u32 = 4;

/// Datagrams in pieces of one such area, of one family.
pub const DATAGRAMS_PER_LAN_AREA: u32 = 512;

/// Places for pieces that wait for their first, of all areas; the oldest one gives way. The kernel keeps up to half of them free.
pub const MAX_HELD: u32 = 1024;

/// Pieces of one area that wait.
pub const HELD_PER_AREA: u32 = 64;

/// Peers of the host's sockets of one family whose published address is remembered; the least recently used one gives
/// way, and from then on its socket sees the pod's own address as its peer.
pub const MAX_HOST_PEERS: u32 = 16_384;

/// `no_masquerade` prefixes of one family, over all networks.
pub const MAX_NO_MASQUERADE: u32 = 1024;

/// Program names, as functions in the object and as pin names.
pub mod program {
    /// TC ingress on the host end of a pod's veth.
    pub const FROM_POD: &str = "from_pod";
    /// TC egress on a gateway device.
    pub const FROM_HOST: &str = "from_host";
    /// TC ingress on an uplink.
    pub const FROM_UPLINK: &str = "from_uplink";
    /// TC ingress on an uplink without a link layer.
    pub const FROM_UPLINK_L3: &str = "from_uplink_l3";
    /// Run by user space over keys of the flow table: see [`crate::sweep::SweepHeader`].
    pub const SWEEP: &str = "sweep";
    /// Cgroup hook: [`crate::host_socket::SocketHook::Connect4`]; the rest likewise.
    pub const CONNECT4: &str = "connect4";
    /// See [`CONNECT4`].
    pub const CONNECT6: &str = "connect6";
    /// See [`CONNECT4`].
    pub const SENDMSG4: &str = "sendmsg4";
    /// See [`CONNECT4`].
    pub const SENDMSG6: &str = "sendmsg6";
    /// See [`CONNECT4`].
    pub const RECVMSG4: &str = "recvmsg4";
    /// See [`CONNECT4`].
    pub const RECVMSG6: &str = "recvmsg6";
    /// See [`CONNECT4`].
    pub const GETPEERNAME4: &str = "getpeername4";
    /// See [`CONNECT4`].
    pub const GETPEERNAME6: &str = "getpeername6";
    /// See [`CONNECT4`].
    pub const BIND4: &str = "bind4";
    /// See [`CONNECT4`].
    pub const BIND6: &str = "bind6";
}

/// Map names, as statics in the object and as pin names (at most 15 bytes).
pub mod map {
    /// Array, one element: [`crate::host::HostConfig`].
    pub const HOST_CONFIG: &str = "HOST_CONFIG";
    /// Array by slot: [`crate::endpoint::Endpoint`].
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Hash: [`crate::endpoint::EndpointKey`]`<Addr4>` to slot (`u32`).
    pub const ENDPOINT_ADDR4: &str = "ENDPOINT_ADDR4";
    /// Hash: [`crate::endpoint::EndpointKey`]`<Addr6>` to slot (`u32`).
    pub const ENDPOINT_ADDR6: &str = "ENDPOINT_ADDR6";
    /// Array by network id: [`crate::network::Network`].
    pub const NETWORKS: &str = "NETWORKS";
    /// Hash: uplink ifindex (`u32`) to [`crate::host::Uplink`].
    pub const UPLINKS: &str = "UPLINKS";
    /// Hash: [`crate::Addr4`] to ifindex (`u32`): every address of the host.
    pub const HOST_ADDRS4: &str = "HOST_ADDRS4";
    /// Hash: [`crate::Addr6`] to ifindex (`u32`).
    pub const HOST_ADDRS6: &str = "HOST_ADDRS6";
    /// LPM trie: [`crate::prefix::PrefixKey`]`<Addr4>` of a network id and a destination prefix to `u32` (1).
    pub const NO_MASQ4: &str = "NO_MASQ4";
    /// LPM trie, IPv6.
    pub const NO_MASQ6: &str = "NO_MASQ6";
    /// Hash: network id (`u32`) to [`crate::network::SnatPool`]`<Addr4>`; absent: the uplink's address.
    pub const SNAT_POOLS4: &str = "SNAT_POOLS4";
    /// Hash, IPv6.
    pub const SNAT_POOLS6: &str = "SNAT_POOLS6";
    /// Hash: [`crate::publish::PublishKey`]`<Addr4>` to [`crate::publish::PublishedPort`].
    pub const PUBLISHED4: &str = "PUBLISHED4";
    /// Hash, IPv6.
    pub const PUBLISHED6: &str = "PUBLISHED6";
    /// Array by publish id: [`crate::publish::Publish`].
    pub const PUBLISHES: &str = "PUBLISHES";
    /// Hash by publish id: [`crate::publish::Backends`], for those that have several.
    pub const BACKENDS: &str = "BACKENDS";
    /// LPM trie: [`crate::prefix::PrefixKey`]`<Addr4>` of a publish id and a client's prefix to `u32` (1).
    pub const ALLOW4: &str = "ALLOW4";
    /// LPM trie, IPv6.
    pub const ALLOW6: &str = "ALLOW6";
    /// Hash: [`crate::flow::FlowKey`]`<Addr4>` to [`crate::flow::FlowEntry`]`<Addr4>`.
    pub const FLOWS4: &str = "FLOWS4";
    /// Hash, IPv6.
    pub const FLOWS6: &str = "FLOWS6";
    /// Array by slot: [`crate::account::PodAccounts`] of IPv4.
    pub const ACCOUNTS4: &str = "ACCOUNTS4";
    /// Array by slot, IPv6.
    pub const ACCOUNTS6: &str = "ACCOUNTS6";
    /// Hash: [`crate::account::QueueKey`] to [`crate::account::QueuePart`]`<Addr4>`.
    pub const QUEUES4: &str = "QUEUES4";
    /// Hash, IPv6.
    pub const QUEUES6: &str = "QUEUES6";
    /// Array by [`crate::port::UseIndex`]: flows and mappings (`u32`) whose port is counted there.
    pub const PORT_USE: &str = "PORT_USE";
    /// Array by port and protocol ([`crate::port::held_index`]): flows and mappings (`u32`) that have a port of the SNAT range.
    pub const PORTS_HELD: &str = "PORTS_HELD";
    /// Array, one element: [`crate::account::Admission`] of IPv4.
    pub const ADMISSION4: &str = "ADMISSION4";
    /// Array, IPv6.
    pub const ADMISSION6: &str = "ADMISSION6";
    /// Array used as a ring: [`crate::flow::FlowKey`]`<Addr4>` of the opener's entries of flows, by age.
    pub const OPENED4: &str = "OPENED4";
    /// Array, IPv6.
    pub const OPENED6: &str = "OPENED6";
    /// Array, one element: a random `u32`, given once, that hashes start from whose result nobody is to foresee.
    pub const SEED: &str = "SEED";
    /// LRU hash: [`crate::account::Destination`]`<Addr4>` to [`crate::account::PortSearch`].
    pub const PORT_SEARCHES4: &str = "PORT_SEARCHES4";
    /// LRU hash, IPv6.
    pub const PORT_SEARCHES6: &str = "PORT_SEARCHES6";
    /// LRU hash: [`crate::fragment::DatagramSlot`] to [`crate::fragment::Datagram`]`<Addr4>`.
    pub const DATAGRAMS4: &str = "DATAGRAMS4";
    /// LRU hash, IPv6.
    pub const DATAGRAMS6: &str = "DATAGRAMS6";
    /// LRU hash: [`crate::fragment::HeldKey`] to [`crate::fragment::HeldPiece`].
    pub const HELD: &str = "HELD";
    /// Array by area: [`crate::area::Area`].
    pub const AREAS: &str = "AREAS";
    /// Array, one element: cookie (`u64`) of the network namespace whose sockets the socket hooks serve; 0: none.
    pub const HOST_NETNS: &str = "HOST_NETNS";
    /// LRU hash: [`crate::host_socket::HostPeerKey`]`<Addr4>` to [`crate::host_socket::HostPeer`]`<Addr4>`.
    pub const HOST_PEERS4: &str = "HOST_PEERS4";
    /// LRU hash, IPv6.
    pub const HOST_PEERS6: &str = "HOST_PEERS6";
    /// Per-CPU array by slot: [`crate::counters::EndpointCounters`].
    pub const ENDPOINT_STATS: &str = "ENDPOINT_STATS";
    /// Per-CPU array by [`crate::counters::verdict_index`]: `u64` packets.
    pub const VERDICTS: &str = "VERDICTS";
    /// Per-CPU array by [`crate::verdict::DropReason`]: `u64` packets.
    pub const DROPS: &str = "DROPS";
    /// Per-CPU array by publish id: [`crate::counters::PublishCounters`].
    pub const PUBLISH_STATS: &str = "PUBLISH_STATS";
}
