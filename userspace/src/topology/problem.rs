//! What can be wrong with input, and how it is said.

use std::fmt;
use std::ops::Deref;

use serde::Serialize;

/// A place in a file; both count from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Position {
    /// The place of byte `offset` of `text`; an offset beyond the end is the end.
    pub fn of(text: &str, offset: usize) -> Self {
        let mut end = offset.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

/// Input that is refused before anything is changed. Its parts are those of [`InputFault`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct InputError(Box<InputFault>);

/// What an [`InputError`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFault {
    /// The field: `pod[0].address[1]` for a file, the flag or argument for a verb.
    pub field: String,
    /// Its value as given; empty when the field is absent.
    pub value: String,
    /// What is wrong and what to do.
    pub problem: Problem,
    /// Where in the file, when there is one.
    pub at: Option<Position>,
}

impl InputError {
    /// An error without a place in a file.
    pub fn new(field: impl Into<String>, value: impl fmt::Display, problem: Problem) -> Self {
        Self(Box::new(InputFault { field: field.into(), value: value.to_string(), problem, at: None }))
    }

    /// The same error, at a place.
    #[must_use]
    pub fn at(mut self, at: Option<Position>) -> Self {
        self.0.at = at;
        self
    }

    /// The same error under another field name: a verb's flag instead of the file's path.
    #[must_use]
    pub fn under(mut self, field: impl Into<String>) -> Self {
        self.0.field = field.into();
        self
    }
}

impl Deref for InputError {
    type Target = InputFault;

    fn deref(&self) -> &InputFault {
        &self.0
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "line {}, column {}: ", at.line, at.column)?;
        }
        // A field may be a key as the file has it: no control character of it, or of a value, must reach a terminal.
        write!(f, "{}: ", printable(&self.field))?;
        if !self.value.is_empty() {
            write!(f, "{:?}: ", self.value)?;
        }
        f.write_str(&printable(&self.problem.to_string()))
    }
}

/// The same text with control characters as escapes.
fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_debug());
        } else {
            out.push(c);
        }
        out
    })
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each is its documentation")]
pub enum Problem {
    #[error("{0}")]
    Syntax(String),
    #[error("unknown key; expected {0}")]
    UnknownKey(String),
    #[error("missing; {0}")]
    Missing(String),
    #[error("not part of this version; remove it")]
    Unsupported,

    #[error("empty; give it a name")]
    NameEmpty,
    #[error("longer than {max} bytes ({len}); shorten it", max = super::MAX_NAME_BYTES)]
    NameTooLong { len: usize },
    #[error("a name cannot contain {0:?}; use letters, digits, `.`, `-` and `_`")]
    NameCharacter(char),
    #[error("a name starts with a letter or a digit")]
    NameStart,
    #[error("used twice (also {0}); names are unique")]
    NameTwice(String),
    #[error("already exists; choose another name, or delete it first")]
    NameTaken,
    #[error("a network namespace of this name exists and is not ours; choose another name, or `netns del` it first")]
    NamespaceTaken,

    #[error("not an IP address: {0}")]
    Address(String),
    #[error("not a subnet such as 10.244.0.0/24: {0}")]
    Subnet(String),
    #[error("has bits set beyond its prefix; write {0}")]
    SubnetHostBits(String),
    #[error("{0}: a network's prefix length is 8 to 30 for IPv4, 16 to 126 for IPv6")]
    SubnetSize(&'static str),
    #[error("not an address range pods can have ({0}); use a private range such as 10.244.0.0/24 or fd00:244::/64")]
    SubnetKind(&'static str),
    #[error("overlaps {0} of the same network; a network has one subnet per family")]
    SubnetOverlap(String),
    #[error("a second {family} subnet (after {first}); a network has at most one per family")]
    SubnetFamilyTwice { family: &'static str, first: String },
    #[error("no subnet; a network needs an IPv4 subnet, an IPv6 subnet, or one of each")]
    NoSubnet,
    #[error("overlaps the host's route {route} (dev {dev}); choose a subnet the host does not use")]
    RouteOverlap { route: String, dev: String },

    #[error("outside network {network:?} ({subnets}); choose an address in it")]
    AddressOutside { network: String, subnets: String },
    #[error("the network address of {0}; choose another address")]
    AddressIsNetwork(String),
    #[error("the broadcast address of {0}; choose another address")]
    AddressIsBroadcast(String),
    #[error("the gateway of network {0:?}; choose another address")]
    AddressIsGateway(String),
    #[error("taken by pod {0:?}; choose another address")]
    AddressTaken(String),
    #[error("an address of the host ({0}); choose another address")]
    AddressIsHosts(String),
    #[error("a second {family} address (after {first}); a pod has at most one per family")]
    AddressFamilyTwice { family: &'static str, first: String },
    #[error("no free address left in {0}; delete a pod, or use a larger subnet")]
    Exhausted(String),
    #[error("gateway {gateway} is taken by the host (dev {dev}); choose another subnet")]
    GatewayTaken { gateway: String, dev: String },

    #[error("no such network; {0}")]
    UnknownNetwork(String),
    #[error("more than one network is declared ({0}); say which")]
    NetworkAmbiguous(String),
    #[error("no such pod; `netns list` names them")]
    UnknownPod,
    #[error("another interface of the pod has that name ({0}); name one of them with `interface`")]
    InterfaceTwice(String),
    #[error("not a link-layer address of an interface; write it like 02:00:00:00:00:07")]
    Mac,
    #[error("pod {0:?} has it in this network; choose another")]
    MacTaken(String),
    #[error("write a name as `ip netns` has it, an absolute path, or a process id")]
    AdoptForm,
    #[error("no network namespace of that name; `netns list` names them")]
    AdoptMissing,
    #[error("a pod of instance {0:?} already; a namespace is one pod")]
    AdoptTaken(String),
    #[error("the namespace of a live pod cannot become another; `netns del` the pod first")]
    AdoptChanged,
    #[error("connected by hand with another network or address; `netns disconnect` it first")]
    InterfaceByHand,
    #[error("the pod has no such interface; `netns list -o json` names them")]
    UnknownInterface,
    #[error("the pod's only interface; `netns del` removes the pod")]
    LastInterface,
    #[error("the pod has several interfaces in it; name one of them: {0}")]
    InterfaceAmbiguous(String),
    #[error("{0} leads to it, and the pod has no other interface with {1}; withdraw it first")]
    InterfacePublished(String, &'static str),

    #[error(
        "not a published port: {0}; write [ADDRESS:]HOSTPORT[-END]:PODPORT[-END][/tcp|udp|sctp], IPv6 addresses in brackets"
    )]
    Publish(String),
    #[error("port {0} is out of range; ports are 1 to 65535")]
    PortRange(String),
    #[error("the range is reversed; write {end}-{start}")]
    RangeReversed { start: u16, end: u16 },
    #[error("{host} host ports but {pod} pod ports; both ranges must be equally long")]
    RangeLength { host: u32, pod: u32 },
    #[error("SCTP's checksum covers its ports, so they cannot be changed on the way; write {0}")]
    SctpPorts(String),
    #[error("published already by {by} of pod {pod:?}; a host port leads to one pod")]
    PublishedTwice { by: String, pod: String },
    #[error("a process of the host listens on {0}; stop it, or publish another port")]
    PortListened(String),
    #[error("the host has no address {0}; publish on one of its addresses, or leave the address out for all of them")]
    PublishAddress(String),
    #[error("pod {pod:?} has no {family} address to lead to; give its network an {family} subnet")]
    PublishFamily { pod: String, family: &'static str },
    #[error("not published by pod {0:?}; `netns publish list` names what is")]
    NotPublished(String),
    #[error("no pod to lead to; name at least one")]
    NoBackend,
    #[error("leads to pod {0:?} twice; give it a weight instead")]
    BackendTwice(String),
    #[error("no such pod; declare it, or name another")]
    UnknownBackend,
    #[error("other pods go on with it; leave --reset out, or `netns publish drain` it with --backend first")]
    ResetOfShared,
    #[error("not a weight; write 1 to 100")]
    Weight,
    #[error("no such affinity; write \"none\" or \"client\"")]
    Affinity,
    #[error("not a prefix such as 10.0.0.0/8 or 2001:db8::/32")]
    Prefix,
    #[error("more than {0}; the data path holds no more")]
    TooMany(u32),

    #[error(
        "no such interface; `ip link` names them, \"auto\" takes those of default routes, \"none\" goes without a LAN"
    )]
    UplinkMissing,
    #[error("an interface name is 1 to 15 bytes without `/`, `:`, `%` or white space")]
    Ifname,
    #[error("write \"auto\", \"none\", a name, or a list of names such as [\"eth0\", \"eth1\"]")]
    UplinkForm,
    #[error("shares ports with instance {0:?} on the same uplink ({1}); choose a range of its own")]
    SnatPortsTaken(String, String),
    #[error("an interface of this instance; the uplink leads to the LAN")]
    UplinkOurs,
    #[error("cannot be an uplink: {0}")]
    UplinkUnfit(&'static str),
    #[error("not an address packets can leave for the LAN with ({0}); choose another address of the host")]
    SnatAddressKind(&'static str),
    #[error("the host has no address {0}; add it to an interface of the host first (`ip addr add`)")]
    SnatAddressMissing(String),
    #[error("listed twice; an address is in a pool once")]
    SnatAddressTwice,
    #[error("more than {max} {family} addresses; a pool holds no more", max = super::MAX_SNAT_ADDRS)]
    SnatAddressTooMany { family: &'static str },
    #[error("the network has no {family} subnet; remove the address, or give the network an {family} subnet")]
    SnatAddressFamily { family: &'static str },
    #[error("pods of a network that does not masquerade keep their addresses; remove this, or `masquerade = false`")]
    SnatAddressUnused,
    #[error(
        "instance {0:?} translates to it too, with ports of the same range ({1}); choose another address, or ports of its own"
    )]
    SnatAddressShared(String, String),
    #[error("no such behaviour; write \"address-and-port-dependent\" or \"endpoint-independent\"")]
    Behaviour,
    #[error("pods of a network that does not masquerade have no mappings; remove this, or `masquerade = false`")]
    MappingUnused,
    #[error("without a mapping that is the same for everybody there is nothing to send to; set `mapping` to it too")]
    FilteringWithoutMapping,
    #[error("out of range; an MTU is 1280 to 65535 bytes")]
    Mtu,
    #[error("no such profile; write \"rfc\" or \"fast\"")]
    Profile,
    #[error("not a time: {0}; write it like 2h4m or 300s")]
    Timeout(String),
    #[error("out of range; a timer is 1s to 30d")]
    TimeoutRange,
    #[error("out of range; 1 to {max} flows of a family", max = netns_ebpf_common::abi::MAX_FLOWS)]
    Flows,
    #[error(
        "pod {pod:?} has {address}, which would be {what}; give it another address first, or choose a subnet that has it"
    )]
    SubnetLeavesOut { pod: String, address: String, what: &'static str },
    #[error("overlaps subnets of network {0:?}, which is up; the host can have routes to one of them")]
    SubnetGrowsInto(String),
    #[error("pods {0} of this network were added by hand; delete them first")]
    NetworkInUse(String),
    #[error("declares no network and no pod; --prune removes what came from files all the same")]
    DeclaresNothing,
    #[error("{0}")]
    Usage(String),
}
