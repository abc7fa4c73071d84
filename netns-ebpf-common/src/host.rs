//! What the data path knows of the host.

use crate::plain;
use crate::{Addr4, Addr6};

/// Host-wide settings; one element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HostConfig {
    /// First port SNAT may hand out.
    pub snat_port_min: u16,
    /// Last port SNAT may hand out; not below [`Self::snat_port_min`].
    pub snat_port_max: u16,
    /// Bits of [`HostConfig::CSUM_IPV6`] and the like.
    pub flags: u32,
    /// Idle time after which an entry counts as absent, by [`crate::state::TimeoutClass`].
    pub timeout_ns: [u64; 4],
    /// Flows of each family the tables hold.
    pub flows: u32,
    /// Most flows of an account (see [`crate::account::may_open`]); 0: none but the fair share.
    pub flows_per_pod: u32,
}

impl HostConfig {
    /// The kernel knows `BPF_F_IPV6` of `bpf_l4_csum_replace` (6.16), needed for packets that arrive with a complete
    /// checksum.
    pub const CSUM_IPV6: u32 = 1;
    /// Some network has endpoint-independent mapping: mappings are looked for.
    pub const MAPPINGS: u32 = 1 << 1;
    /// The kernel gives odd ports to those who connect and have none: those with the parity of the first of
    /// `net.ipv4.ip_local_port_range`, and the others only when these are used up (`__inet_hash_connect`, kernel 4.2, commit
    /// 07f4c90062f8).
    pub const HOST_TAKES_ODD: u32 = 1 << 2;
}

/// An interface to the LAN.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Uplink {
    /// Source address of masqueraded IPv4; unspecified: none.
    pub addr4: Addr4,
    /// Source address of masqueraded IPv6; unspecified: none.
    pub addr6: Addr6,
    /// MTU of the device.
    pub mtu_bytes: u32,
    /// [`Self::STRICT_SOURCE`].
    pub flags: u32,
}

impl Uplink {
    /// IPv4 comes in by it only from where the host's routes lead out by it: `rp_filter` is 1, for it or for all.
    pub const STRICT_SOURCE: u32 = 1;
}

plain!(HostConfig { snat_port_min, snat_port_max, flags, timeout_ns, flows, flows_per_pod }: size 48, align 8);
plain!(Uplink { addr4, addr6, mtu_bytes, flags }: size 28, align 4);
