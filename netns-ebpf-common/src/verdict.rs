//! Every way out of a program, and every reason to drop.

/// What becomes of a packet. `main.rs` of the eBPF crate alone turns it into an action of the kernel.
///
/// A plain struct, every byte of it defined, rather than an enum with payloads: programs return it from functions that are
/// not inlined, and the verifier refuses to read what an enum leaves undefined.
#[must_use]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    ifindex: u32,
    kind: Kind,
    reason: u8,
    _pad: [u8; 2],
}

/// What a step says that may be the last one: the packet's way ends here with a verdict, or goes on.
///
/// Plain bytes as [`Verdict`] is, for the same reason; to go on is no verdict, and cannot be taken for one.
#[must_use]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    ifindex: u32,
    /// Kind and reason, or [`Self::GOES_ON`].
    what: u32,
}

impl Next {
    const GOES_ON: u32 = u32::MAX;

    /// The next step follows.
    pub const GO_ON: Self = Self { ifindex: 0, what: Self::GOES_ON };

    /// The way ends here.
    #[inline(always)]
    pub const fn end(v: Verdict) -> Self {
        Self { ifindex: v.ifindex, what: v.kind as u32 | (v.reason as u32) << 8 }
    }

    /// The packet is dropped here.
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self::end(Verdict::drop(reason))
    }

    /// The verdict, if the way ends here.
    #[inline(always)]
    pub const fn ended(self) -> Option<Verdict> {
        if self.what == Self::GOES_ON {
            return None;
        }
        let [kind, reason, ..] = self.what.to_le_bytes();
        Some(Verdict { ifindex: self.ifindex, kind: Kind::from_u8(kind), reason, _pad: [0; 2] })
    }
}

/// What is done; also the columns of the verdict counters.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not ours: up the stack, untouched.
    Pass = 0,
    /// Into the pod behind a host veth, without a detour through the host's ingress queue.
    Peer = 1,
    /// Out of a device towards the next hop the kernel's routes name.
    Neigh = 2,
    /// Into the host by the ingress of a device: a gateway device's leads to its own sockets, an uplink's is the way of what turns back.
    Host = 3,
    /// Out of a device as it is: an answer to its sender, or the host's packet to a pod.
    Out = 4,
    /// Dropped and counted.
    Drop = 5,
    /// Dropped and counted; in its place an ICMP error goes back to the sender, out of a device.
    Reject = 6,
    /// Dropped and counted; in its place an ICMP error goes into the host by the ingress of a device, as in [`Self::Host`].
    RejectHost = 7,
    /// Put aside: a piece of a datagram that will come by once more, behind the first one.
    Held = 8,
}

impl Kind {
    /// All of them, in column order.
    pub const ALL: [Self; 9] = [
        Self::Pass,
        Self::Peer,
        Self::Neigh,
        Self::Host,
        Self::Out,
        Self::Drop,
        Self::Reject,
        Self::RejectHost,
        Self::Held,
    ];

    /// From its number; another one is a drop.
    #[inline(always)]
    const fn from_u8(v: u8) -> Self {
        match v {
            0 => Self::Pass,
            1 => Self::Peer,
            2 => Self::Neigh,
            3 => Self::Host,
            4 => Self::Out,
            6 => Self::Reject,
            7 => Self::RejectHost,
            8 => Self::Held,
            _ => Self::Drop,
        }
    }

    /// The word for it in JSON and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Peer => "peer",
            Self::Neigh => "neigh",
            Self::Host => "host",
            Self::Out => "out",
            Self::Drop => "drop",
            Self::Reject => "reject",
            Self::RejectHost => "reject-host",
            Self::Held => "held",
        }
    }

    /// Whether the packet itself ends here; each such verdict counts under a reason as well.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        matches!(self, Self::Drop | Self::Reject | Self::RejectHost)
    }
}

impl Verdict {
    /// Up the stack.
    pub const PASS: Self = Self::to(Kind::Pass, 0);

    /// Put aside.
    pub const HELD: Self = Self::to(Kind::Held, 0);

    #[inline(always)]
    const fn to(kind: Kind, ifindex: u32) -> Self {
        Self { ifindex, kind, reason: 0, _pad: [0; 2] }
    }

    /// Into the pod behind this host veth.
    #[inline(always)]
    pub const fn peer(ifindex: u32) -> Self {
        Self::to(Kind::Peer, ifindex)
    }

    /// Out of this device towards the next hop.
    #[inline(always)]
    pub const fn neigh(ifindex: u32) -> Self {
        Self::to(Kind::Neigh, ifindex)
    }

    /// Into the host by the ingress of this device: to its sockets by a gateway device, or back in by an uplink.
    #[inline(always)]
    pub const fn host(ifindex: u32) -> Self {
        Self::to(Kind::Host, ifindex)
    }

    /// Out of this device as it is.
    #[inline(always)]
    pub const fn out(ifindex: u32) -> Self {
        Self::to(Kind::Out, ifindex)
    }

    /// Dropped.
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self { ifindex: 0, kind: Kind::Drop, reason: reason as u8, _pad: [0; 2] }
    }

    /// Dropped, an error goes out of this device.
    #[inline(always)]
    pub const fn reject(reason: DropReason, ifindex: u32) -> Self {
        Self { ifindex, kind: Kind::Reject, reason: reason as u8, _pad: [0; 2] }
    }

    /// Dropped, an error goes up into the host by this gateway device.
    #[inline(always)]
    pub const fn reject_host(reason: DropReason, ifindex: u32) -> Self {
        Self { ifindex, kind: Kind::RejectHost, reason: reason as u8, _pad: [0; 2] }
    }

    /// What is done.
    #[inline(always)]
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// The device, for kinds that have one.
    #[inline(always)]
    pub const fn ifindex(self) -> u32 {
        self.ifindex
    }

    /// Number of the [`DropReason`]; 0 if it is no drop.
    #[inline(always)]
    pub const fn reason(self) -> u8 {
        self.reason
    }
}

impl From<DropReason> for Verdict {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::drop(reason)
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
    /// The packet's source address is not one of the pod's; its link-local one is for neighbour discovery only.
    SourceAddress = 4, "source-address";
    /// ARP for an address that is not the sender's, a gratuitous announcement, or an ARP nobody of the network answers.
    ArpSpoof = 5, "arp-spoof";
    /// A neighbour solicitation or advertisement that claims an address that is not the sender's.
    NdpSpoof = 6, "ndp-spoof";
    /// ARP or neighbour discovery for an address outside the network's subnet.
    UnknownNeighbour = 7, "unknown-neighbour";
    /// A router advertisement or redirect from a pod.
    RouterAdvertisement = 8, "router-advertisement";
    /// A router solicitation, or duplicate-address detection: nothing here answers it, and nothing needs to.
    NeighbourNoise = 9, "neighbour-noise";
    /// Multicast or broadcast from a pod, listener reports of its kernel included: networks have no flooding.
    Multicast = 10, "multicast";
    /// An address no packet may carry here: loopback, unspecified, or from the LAN one of the link's own, or where `rp_filter` is 1 one that is routed elsewhere.
    Martian = 11, "martian";
    /// The host veth or gateway device belongs to no live endpoint or network: run `netns status`.
    NoEndpoint = 12, "no-endpoint";
    /// No pod of the network has this address, or nobody of the LAN; the sender got host-unreachable.
    UnknownAddress = 13, "unknown-address";
    /// The hop limit ran out; the sender got time-exceeded.
    HopLimit = 14, "hop-limit";
    /// Larger than the way out takes; the sender got frag-needed or packet-too-big.
    TooBig = 15, "too-big";
    /// The host's routes lead nowhere, or out of an interface that is no uplink; the sender got net-unreachable.
    NoRoute = 16, "no-route";
    /// The network's pods do not reach the host: its subnet belongs to another network too.
    NoHostAccess = 17, "no-host-access";
    /// The uplink has no address of this family to translate to, or the host has none of the network's `snat_address`.
    NoUplinkAddress = 18, "no-uplink-address";
    /// Every SNAT port towards this destination is in use; the sender got administratively-prohibited.
    PortsExhausted = 19, "ports-exhausted";
    /// The flow table has no room for a new flow.
    FlowTableFull = 20, "flow-table-full";
    /// A packet in the middle of a TCP connection nobody knows: its flow ended or was never opened here.
    NoFlow = 21, "no-flow";
    /// An IP protocol that cannot be translated.
    UnknownProtocol = 22, "unknown-protocol";
    /// A fragment whose first fragment has not been seen, and that cannot wait for it: it is larger than 9216 bytes, or memory is short.
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
    /// The publish's `allow` list does not have the client's address.
    NotAllowed = 32, "not-allowed";
    /// The pod has all the flows it may have (`netns status` counts them); if it opened the flow it got administratively-prohibited.
    FlowLimit = 33, "flow-limit";
    /// A fragment that overlaps another of its datagram or repeats it; after an overlap the whole datagram is dropped.
    FragmentOverlap = 34, "fragment-overlap";
    /// To the port of a pod's endpoint-independent mapping, from somebody the pod has not sent to, which the network's `filtering` forbids.
    Filtered = 35, "filtered";
    /// A pod left a checksum to the device that is not the transport's own: the device would write it over something else, the source port for one.
    ChecksumOffload = 36, "checksum-offload";
    /// A TCP segment of a flow, or that would open one, with flags no end sends together, such as SYN and FIN.
    TcpFlags = 37, "tcp-flags";
}

/// Elements of the drop counters.
pub const DROP_COUNTERS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_ends_says_with_what_and_one_that_goes_on_says_nothing() {
        assert_eq!(Next::GO_ON.ended(), None);
        for verdict in [
            Verdict::PASS,
            Verdict::HELD,
            Verdict::peer(7),
            Verdict::neigh(u32::MAX),
            Verdict::host(1),
            Verdict::out(0),
            Verdict::drop(DropReason::TcpFlags),
            Verdict::reject(DropReason::HopLimit, 9),
            Verdict::reject_host(DropReason::TooBig, 9),
        ] {
            assert_eq!(Next::end(verdict).ended(), Some(verdict));
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::from_u8(kind as u8), kind);
        }
    }

    #[test]
    fn reasons_are_numbered_in_order_and_fit_the_counters() {
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i + 1, "{r:?}");
            assert!((*r as u32) < DROP_COUNTERS);
            assert!(!r.explain().is_empty());
        }
    }
}
