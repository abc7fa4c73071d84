//! Every way out of a program, and every reason to drop.

/// What becomes of a packet. `main.rs` of the eBPF crate alone turns it into an action.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: up the stack, untouched.
    Pass,
    /// Into the pod behind this host veth (ifindex), without its ingress queue's detour through the host stack.
    Peer(u32),
    /// Out of this device (ifindex) towards the next hop the kernel's routes name.
    Neigh(u32),
    /// To the host's own sockets, by the ingress of this gateway device (ifindex).
    Host(u32),
    /// Out of this device (ifindex) as it is: an answer to its sender, or the host's packet to a pod.
    Out(u32),
    /// Dropped and counted.
    Drop(DropReason),
    /// Dropped and counted; in its place an ICMP error goes back to the sender, out of this device (ifindex).
    Reject(DropReason, u32),
    /// Dropped and counted; in its place an ICMP error goes up into the host by the ingress of this device (ifindex).
    RejectHost(DropReason, u32),
}

/// A verdict without its target: the columns of the verdict counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Verdict::Pass`].
    Pass = 0,
    /// [`Verdict::Peer`].
    Peer = 1,
    /// [`Verdict::Neigh`].
    Neigh = 2,
    /// [`Verdict::Host`].
    Host = 3,
    /// [`Verdict::Out`].
    Out = 4,
    /// [`Verdict::Drop`], [`Verdict::Reject`] and [`Verdict::RejectHost`].
    Drop = 5,
}

impl Kind {
    /// All of them, in column order.
    pub const ALL: [Self; 6] = [Self::Pass, Self::Peer, Self::Neigh, Self::Host, Self::Out, Self::Drop];

    /// The word for it in JSON and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Peer => "peer",
            Self::Neigh => "neigh",
            Self::Host => "host",
            Self::Out => "out",
            Self::Drop => "drop",
        }
    }
}

impl Verdict {
    /// The column this verdict counts in.
    #[inline(always)]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Pass => Kind::Pass,
            Self::Peer(_) => Kind::Peer,
            Self::Neigh(_) => Kind::Neigh,
            Self::Host(_) => Kind::Host,
            Self::Out(_) => Kind::Out,
            Self::Drop(_) | Self::Reject(..) | Self::RejectHost(..) => Kind::Drop,
        }
    }
}

impl From<DropReason> for Verdict {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// Declares the reasons once: number, name, words and what an operator should look at.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $word:literal;)+) => {
        /// Why a packet was dropped. Numbers are part of the interface: append only, never reuse.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl DropReason {
            /// All reasons, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name in counters, JSON and documentation.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// What it means and what to look at.
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends inside a header, or a header's length field lies.
    Malformed = 1, "malformed";
    /// Neither ARP, IPv4 nor IPv6 (a VLAN tag from a pod, for one).
    UnknownEtherType = 2, "unknown-ethertype";
    /// The frame's source MAC is not the pod's.
    SourceMac = 3, "source-mac";
    /// The packet's source address is not one of the pod's.
    SourceAddress = 4, "source-address";
    /// ARP for an address that is not the sender's, a gratuitous announcement, or an ARP nobody of the network answers.
    ArpSpoof = 5, "arp-spoof";
    /// A neighbour solicitation or advertisement that claims an address that is not the sender's.
    NdpSpoof = 6, "ndp-spoof";
    /// ARP or neighbour discovery for an address nobody has: the asker's own kernel reports host-unreachable.
    UnknownNeighbour = 7, "unknown-neighbour";
    /// A router advertisement or redirect from a pod.
    RouterAdvertisement = 8, "router-advertisement";
    /// A router solicitation, or duplicate-address detection: nothing here answers it, and nothing needs to.
    NeighbourNoise = 9, "neighbour-noise";
    /// Multicast or broadcast from a pod: networks have no flooding.
    Multicast = 10, "multicast";
    /// An address no packet may carry here: loopback, unspecified, or the link's own addresses from the LAN.
    Martian = 11, "martian";
    /// The host veth or gateway device belongs to no live endpoint or network: run `netns status`.
    NoEndpoint = 12, "no-endpoint";
    /// No pod of the network has this address; the sender got host-unreachable.
    UnknownAddress = 13, "unknown-address";
    /// The hop limit ran out; the sender got time-exceeded.
    HopLimit = 14, "hop-limit";
    /// Larger than the way out takes; the sender got frag-needed or packet-too-big.
    TooBig = 15, "too-big";
    /// The host's routes lead nowhere, or out of an interface that is no uplink; the sender got net-unreachable.
    NoRoute = 16, "no-route";
    /// The network's pods do not reach the host: its subnet belongs to another network too.
    NoHostAccess = 17, "no-host-access";
    /// The uplink has no address of this family to translate to.
    NoUplinkAddress = 18, "no-uplink-address";
    /// Every SNAT port towards this destination is in use; the sender got administratively-prohibited.
    PortsExhausted = 19, "ports-exhausted";
    /// The flow table has no room for a new flow.
    FlowTableFull = 20, "flow-table-full";
    /// A packet in the middle of a TCP connection nobody knows: its flow ended or was never opened here.
    NoFlow = 21, "no-flow";
    /// An IP protocol that cannot be translated.
    UnknownProtocol = 22, "unknown-protocol";
    /// A fragment whose first fragment has not been seen.
    Fragment = 23, "fragment";
    /// IPv6 extension headers beyond what is parsed, or of a kind that is refused.
    ExtensionHeader = 24, "extension-header";
    /// From the LAN straight to a pod's address: pods are reached by published ports only.
    NotPublished = 25, "not-published";
    /// Reached a gateway device from another interface than the host itself.
    NotFromHost = 26, "not-from-host";
    /// The publish takes no new flows (draining).
    Draining = 27, "draining";
    /// The pod behind a flow or publish is gone.
    BackendGone = 28, "backend-gone";
    /// An ICMP error that quotes no flow we know.
    IcmpUnrelated = 29, "icmp-unrelated";
    /// A kernel helper refused an edit: a bug, or memory pressure. Please report it with `netns status -o json`.
    Internal = 30, "internal";
    /// IPv4 options that route (source routing): refused.
    SourceRoute = 31, "source-route";
}

/// Elements of the drop counters.
pub const DROP_COUNTERS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_and_fit_the_counters() {
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i + 1, "{r:?}");
            assert!((*r as u32) < DROP_COUNTERS);
            assert!(!r.explain().is_empty());
        }
    }
}
