//! Published ports.

use crate::plain;
use crate::{Addr4, Addr6, Port};

/// Key of the published ports of one family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct PublishKey<A> {
    /// Host address; unspecified is the entry for any address of the host.
    pub addr: A,
    /// Host port.
    pub port: Port,
    /// IP protocol number.
    pub proto: u8,
    /// Padding, zero.
    pub _pad: u8,
}

/// Where one host port leads: a declaration, and the pod's port for this host port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PublishedPort {
    /// Index in the publishes.
    pub publish: u32,
    /// The pod's port.
    pub pod_port: Port,
    /// Padding, zero.
    pub _pad: u16,
}

/// A declaration: all of its ports move, drain and end together by one write here.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Publish {
    /// Endpoint slot of the backend; of [`Publish::SEVERAL`] the one that is taken if their table is not there.
    pub slot: u32,
    /// Bits of [`Publish::ACTIVE`] and the like.
    pub flags: u32,
    /// The store's id of the publish.
    pub owner: u64,
}

impl Publish {
    /// New flows are accepted. Without it existing flows go on and new ones are refused (drain).
    pub const ACTIVE: u32 = 1;
    /// Reachable from the host itself only (published on a loopback address).
    pub const LOOPBACK: u32 = 1 << 1;
    /// Only clients in a prefix of its list may come in; without a prefix nobody.
    pub const RESTRICTED: u32 = 1 << 2;
    /// There are several backends: [`Backends`] has them.
    pub const SEVERAL: u32 = 1 << 3;
    /// The client's address alone says which backend a new flow goes to.
    pub const STICKY: u32 = 1 << 4;
    /// The publish is gone; flows may be left that have its index. Nobody else gets it until they are swept: connections go on,
    /// other flows count as absent.
    pub const RESTING: u32 = 1 << 5;

    /// Whether it is one that is gone.
    #[inline(always)]
    pub const fn is_resting(&self) -> bool {
        self.flags & Self::RESTING != 0
    }
}

/// Buckets a publish's new flows fall into.
pub const BUCKETS: usize = 256;

/// The backends of a publish that has several. Replaced as a whole, so that no flow sees half of a change.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backends {
    /// Endpoint slot by bucket.
    pub slots: [u16; BUCKETS],
}

impl Backends {
    /// The backend of a hash all of whose bits are mixed.
    #[inline(always)]
    pub const fn slot(&self, hash: u32) -> u32 {
        self.slots[hash as usize & (BUCKETS - 1)] as u32
    }
}

plain!(PublishKey<Addr4 | Addr6> { addr, port, proto, _pad }: size 8 | 20, align 4);
plain!(PublishedPort { publish, pod_port, _pad }: size 8, align 4);
plain!(Publish { slot, flags, owner }: size 16, align 8);
plain!(Backends { slots }: size 512, align 2);
const _: () = assert!(crate::abi::MAX_ENDPOINTS <= u16::MAX as u32 && BUCKETS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::addr_hash;

    /// Neighbouring addresses, as a LAN has them, fall into buckets as evenly as random ones would.
    #[test]
    fn clients_spread_over_the_buckets() {
        const CLIENTS: u32 = 65_536;
        let v4 = |n: u32| addr_hash(&Addr4((0x0a00_0000 + n).to_be_bytes()));
        let v6 = |n: u32| {
            let mut addr = [0; 16];
            addr[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
            addr[12..].copy_from_slice(&n.to_be_bytes());
            addr_hash(&Addr6(addr))
        };
        for (family, hashes) in [("IPv4", (0..CLIENTS).map(v4).collect()), ("IPv6", (0..CLIENTS).map(v6).collect())] {
            let hashes: std::vec::Vec<u32> = hashes;
            let mut counts = [0u32; BUCKETS];
            for hash in hashes {
                counts[hash as usize % BUCKETS] += 1;
            }
            // Binomial with mean 256 and standard deviation 16: five of them in either direction.
            for (bucket, count) in counts.into_iter().enumerate() {
                assert!((176..=336).contains(&count), "{family}: bucket {bucket} got {count}");
            }
        }
    }
}
