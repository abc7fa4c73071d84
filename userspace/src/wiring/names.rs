//! Names, indices and addresses of the devices we make, all derived: what a killed process left can be told from its
//! slot alone.

use netns_ebpf_common::{Mac, abi};

/// Name of the host end of the veth of a slot. As unique as the index, of which one namespace has one.
pub fn host_ifname(slot: u32) -> String {
    format!("nn{slot}")
}

/// Name of the gateway device of a network.
pub fn gateway_ifname(network: u16) -> String {
    format!("nngw{network}")
}

/// Name of the other end of the gateway device, which is there for carrier only.
pub fn gateway_peer_ifname(network: u16) -> String {
    format!("nngw{network}p")
}

/// Index of the host end of the veth of a slot.
pub fn endpoint_ifindex(slot: u32) -> u32 {
    abi::IFINDEX_ENDPOINT + slot
}

/// Index of the gateway device of a network.
pub fn gateway_ifindex(network: u16) -> u32 {
    abi::IFINDEX_GATEWAY + u32::from(network)
}

/// MAC of the pod's end of the veth of a slot.
pub fn pod_mac(instance: &str, slot: u32) -> Mac {
    mac(0x02, instance, slot)
}

/// MAC of a network's gateway: the one neighbour its pods see.
///
/// The host ends of their veths have it as well. With another, what a pod sends would be for somebody else
/// (`PACKET_OTHERHOST`) there, and until kernel 6.15 a redirect into another pod left it so: that pod's stack dropped it unseen.
/// Nothing takes two of them for one: they have no addresses, answer no ARP, and their index and name tell slots apart.
pub fn gateway_mac(instance: &str, network: u16) -> Mac {
    mac(0x0a, instance, u32::from(network))
}

/// What the groups of all instances' devices have in common.
pub(super) const IS_ANY_INSTANCES: u32 = 0x4e00_0000;

/// The group an instance's devices on the host are made in: who has changed the MAC of one has not made it another's. Numbers an
/// administrator would choose are lower.
pub(crate) fn device_group(instance: &str) -> u32 {
    let [_, a, b, c, ..] = mac(0x0a, instance, 0).0;
    IS_ANY_INSTANCES | u32::from_be_bytes([0, a, b, c])
}

/// Whether a MAC is that of a network of the instance, whichever.
pub(crate) fn is_gateway_mac(instance: &str, mac: Mac) -> bool {
    let [.., high, low] = mac.0;
    mac == gateway_mac(instance, u16::from_be_bytes([high, low]))
}

/// MAC of the other end of the gateway device.
pub fn gateway_peer_mac(instance: &str, network: u16) -> Mac {
    mac(0x0e, instance, u32::from(network))
}

/// A locally administered unicast address: the role, 24 bits of the instance, 16 bits of number.
///
/// These never leave the host, so it is enough that they differ within an instance and tell instances apart.
fn mac(role: u8, instance: &str, number: u32) -> Mac {
    let [.., a, b, c] = hash(instance).to_be_bytes();
    let [.., d, e] = number.to_be_bytes();
    Mac([role, a, b, c, d, e])
}

/// MAC of one end of the cable that `seed` names; the two differ.
pub(super) fn cable_mac(seed: &str, second: bool) -> Mac {
    let [.., a, b, c, d, e] = hash(seed).to_be_bytes();
    Mac([0x06, a, b, c, d, e & !1 | u8::from(second)])
}

fn hash(text: &str) -> u64 {
    // FNV-1a: stable for all time, unlike the standard library's hasher.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    hash ^ (hash >> 24) ^ (hash >> 48)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    // Slots fit the bits a MAC has for them.
    const _: () = assert!(abi::MAX_ENDPOINTS <= 1 << 16);

    #[test]
    fn macs_differ_and_are_local_unicast() {
        let mut seen = HashSet::new();
        for instance in ["default", "sandbox", "a", "b"] {
            for n in 0..abi::MAX_ENDPOINTS {
                let network = u16::try_from(n).expect("fits");
                for mac in [pod_mac(instance, n), gateway_mac(instance, network)] {
                    assert!(!mac.is_multicast() && mac.0[0] & 2 == 2);
                    assert!(seen.insert(mac), "{mac}");
                }
            }
        }
    }

    #[test]
    fn a_gateways_mac_is_known_for_its_instances() {
        for network in [0, 1, 255, 256, u16::MAX] {
            assert!(is_gateway_mac("default", gateway_mac("default", network)));
            assert!(!is_gateway_mac("sandbox", gateway_mac("default", network)));
            assert!(!is_gateway_mac("default", gateway_peer_mac("default", network)));
            assert!(!is_gateway_mac("default", pod_mac("default", network.into())));
        }
    }

    #[test]
    fn names_fit_the_kernel() {
        assert!(host_ifname(abi::MAX_ENDPOINTS).len() <= 15);
        assert!(gateway_peer_ifname(u16::MAX).len() <= 15);
        assert!(endpoint_ifindex(abi::MAX_ENDPOINTS) < abi::IFINDEX_GATEWAY);
    }
}
