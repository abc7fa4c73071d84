//! Which address a pod gets. Pure: what was handed out is the caller's to remember.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::topology::{gateway, last_host};

/// The next free address of a subnet after `last`, the one handed out before.
///
/// Walks forward and wraps, so that a freed address is not given to the next pod while neighbours and flows may still
/// remember its former owner. Skips the network address, the gateway, IPv4's broadcast address and whatever `is_taken`.
/// `None`: every address is taken.
pub fn next_free(subnet: IpNet, last: Option<IpAddr>, is_taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let first = bits(gateway(subnet)).checked_add(1)?;
    let end = bits(last_host(subnet));
    let start = match last {
        Some(last) if subnet.contains(&last) => bits(last).saturating_add(1).max(first),
        _ => first,
    };
    // Ends after at most one more step than there are taken addresses.
    (start..=end).chain(first..start.min(end.saturating_add(1))).map(|b| address(subnet, b)).find(|a| !is_taken(*a))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn address(subnet: IpNet, bits: u128) -> IpAddr {
    match subnet {
        #[expect(clippy::cast_possible_truncation, reason = "an IPv4 address was widened by bits()")]
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn starts_after_the_gateway_and_skips_what_is_taken() {
        assert_eq!(next_free(net("10.0.0.0/24"), None, |_| false), Some(ip("10.0.0.2")));
        assert_eq!(next_free(net("10.0.0.0/24"), None, |a| a == ip("10.0.0.2")), Some(ip("10.0.0.3")));
        assert_eq!(next_free(net("fd00::/64"), None, |_| false), Some(ip("fd00::2")));
    }

    #[test]
    fn walks_forward_and_wraps() {
        let subnet = net("10.0.0.0/29");
        assert_eq!(next_free(subnet, Some(ip("10.0.0.4")), |_| false), Some(ip("10.0.0.5")));
        assert_eq!(next_free(subnet, Some(ip("10.0.0.6")), |_| false), Some(ip("10.0.0.2")));
        assert_eq!(next_free(subnet, Some(ip("10.0.0.5")), |a| a == ip("10.0.0.6")), Some(ip("10.0.0.2")));
        let top = net("fd00::fff0/124");
        assert_eq!(next_free(top, Some(ip("fd00::ffff")), |_| false), Some(ip("fd00::fff2")));
    }

    #[test]
    fn ends_when_all_are_taken() {
        assert_eq!(next_free(net("10.0.0.0/24"), Some(ip("10.0.0.7")), |_| true), None);
        assert_eq!(next_free(net("10.0.0.0/30"), None, |a| a == ip("10.0.0.2")), None);
        let all = net("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124");
        assert_eq!(next_free(all, Some(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), |_| true), None);
    }

    proptest! {
        #[test]
        fn hands_out_every_address_once(prefix in 24u8..=30, seed in any::<u32>()) {
            let subnet = IpNet::new(Ipv4Addr::from(seed).into(), prefix).unwrap().trunc();
            let mut taken = HashSet::new();
            let mut last = None;
            while let Some(a) = next_free(subnet, last, |a| taken.contains(&a)) {
                prop_assert!(crate::topology::is_assignable("n", subnet, a).is_ok());
                prop_assert!(taken.insert(a));
                last = Some(a);
            }
            prop_assert_eq!(taken.len(), (1usize << (32 - prefix)) - 3);
        }
    }
}
