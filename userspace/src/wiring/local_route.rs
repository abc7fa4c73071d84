//! Waits until an IPv6 address takes packets.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::{Instant, interval};

use super::WiringError;
use crate::netns::Netns;

/// All routes of the calling thread's namespace, those of the local table included.
const ROUTES: &str = "/proc/thread-self/net/ipv6_route";

/// `RTF_LOCAL`: the route delivers to this namespace.
const LOCAL: u32 = 0x8000_0000;

/// Longest wait; the kernel takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often to look.
const LOOK: Duration = Duration::from_millis(1);

/// Waits until the kernel delivers packets to these addresses.
///
/// It lists an IPv6 address as soon as it is added, but adds the local route from a work item (`addrconf_dad_work`), also
/// when nothing is to be detected: packets that come before are lost.
pub(super) async fn wait(netns: &Netns, addrs: &[IpAddr]) -> Result<(), WiringError> {
    let wanted: Vec<Ipv6Addr> =
        addrs.iter().filter_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None }).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let end = Instant::now() + PATIENCE;
    let mut tick = interval(LOOK);
    loop {
        tick.tick().await;
        let routes = netns.run(|| fs::read_to_string(ROUTES))?.unwrap_or_default();
        if wanted.iter().all(|a| is_local(&routes, *a)) {
            return Ok(());
        }
        if Instant::now() > end {
            tracing::warn!("the kernel does not deliver packets to {wanted:?} yet");
            return Ok(());
        }
    }
}

/// Whether the list has a local route to exactly this address.
///
/// Fields of a line: destination, prefix length, source, its prefix length, next hop, metric, references, uses, flags,
/// device; numbers in hexadecimal.
fn is_local(routes: &str, addr: Ipv6Addr) -> bool {
    let wanted: String = addr.octets().iter().map(|b| format!("{b:02x}")).collect();
    routes.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        fields.next() == Some(&wanted)
            && fields.next() == Some("80")
            && fields.nth(6).and_then(|flags| u32::from_str_radix(flags, 16).ok()).is_some_and(|f| f & LOCAL != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_local_route_to_the_address_itself_counts() {
        let line = |dst: &str, len: &str, flags: &str| {
            let zero = "0".repeat(32);
            format!("{dst} {len} {zero} 00 {zero} 00000000 00000002 00000000 {flags} eth0\n")
        };
        let address = "fd000244000000000000000000000010";
        let addr = "fd00:244::10".parse().unwrap();
        assert!(is_local(&line(address, "80", "80200001"), addr));
        assert!(!is_local(&line(address, "80", "00000001"), addr));
        assert!(!is_local(&line(address, "40", "80200001"), addr));
        assert!(!is_local(&line(&address.replace("10", "11"), "80", "80200001"), addr));
        assert!(!is_local("", addr));
    }
}
