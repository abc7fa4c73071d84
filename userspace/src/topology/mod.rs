//! What a user asks for: the topology file, its parts, and every rule they must obey.
//!
//! Nothing here touches the kernel. [`parse()`] turns text into a [`Topology`]; [`validate()`] holds it against what the host
//! has ([`HostFacts`]) and against what the instance already holds, before anything is changed. Every refusal is an
//! [`InputError`]: the field, its value, where it is in the file, and what to do.
//!
//! ```toml
//! [host]
//! uplink = "auto"                  # the default routes' interfaces; a name or a list of them; or "none"
//! snat_ports = "20000-32767"
//! mtu = 1500                       # default: the uplink's
//! [nat]
//! profile = "rfc"                  # timers as the RFCs ask, or "fast"
//! flows = 131072                   # of each family
//! [nat.timeouts]                   # each replaces the profile's
//! tcp_established = "2h4m"
//! tcp_transitory = "4m"
//! udp = "5m"
//! icmp = "60s"
//! [[network]]
//! name = "pods"
//! subnets = ["10.244.0.0/24", "fd00:244::/64"]   # at most one per family; gateway: first address
//! masquerade = true
//! mapping = "endpoint-independent"    # default: address-and-port-dependent
//! filtering = "endpoint-independent"  # the same
//! snat_address = ["203.0.113.7"]   # addresses of the host; default: the uplink's
//! no_masquerade = ["192.168.1.0/24"]
//! [[pod]]
//! name = "red"
//! network = "pods"                 # may be left out when there is one network
//! address = ["10.244.0.10"]        # what is not given is allocated
//! publish = ["8080:80/tcp", "127.0.0.1:5353:53/udp", { port = "[::]:9000-9010:9000-9010/tcp", allow = ["fd00::/8"] }]
//! [[publish]]
//! port = "443:8443/tcp"
//! backends = [{ pod = "red", weight = 3 }, { pod = "blue" }]
//! affinity = "client"              # a client's flows go to one pod
//! allow = ["10.0.0.0/8"]           # no key: everybody; an empty list: nobody
//! ```
//!
//! An empty list never means "all": no `no_masquerade` means every destination on the LAN is masqueraded, no `publish`
//! means nothing is reachable from the LAN, an empty `allow` lets nobody in.

mod attachment;
mod backends;
mod change;
mod facts;
mod model;
mod name;
mod nat;
mod parse;
mod problem;
mod publish;
mod raw;
mod subnet;
mod validate;
mod written;

pub use netns_ebpf_common::network::MAX_SNAT_ADDRS;

pub use attachment::{Adopt, Attachment};
pub use backends::{Affinity, Allow, Backend, Declared, PodPublish, SharedPublish};
pub use change::{Effect, KEYS};
pub use facts::{HostFacts, HostRoute, Interface, PortProbe};
pub use model::{Behaviour, Host, Network, Pod, Topology, Uplink};
pub use name::{MAX_NAME_BYTES, check_ifname, check_name};
pub use nat::{Flows, Nat, Profile, Seconds, Timeouts};
pub use parse::{Document, parse};
pub use problem::{InputError, InputFault, Position, Problem};
pub use publish::{PortRange, Proto, Publish};
pub use subnet::{gateway, is_assignable, last_host, same_family};
pub use validate::{Taken, TakenPod, resolve_uplinks, validate};

#[cfg(test)]
mod tests;
