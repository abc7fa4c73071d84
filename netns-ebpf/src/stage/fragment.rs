//! Gives later fragments the ports of their first one.

use netns_ebpf_common::family::Family;
use netns_ebpf_common::fragment::{FRAGMENT_TIMEOUT_NS, FragmentKey, FragmentPorts};
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps};
use crate::packet::now_ns;

/// Remembers the first fragment of a datagram, fills the ports of the others in.
///
/// No decision on ports is ever taken from a later fragment's own bytes.
#[inline(never)]
pub fn track<F: FamilyMaps>(zone: u16, p: &mut Parsed<<F as Family>::Addr>) -> Result<(), DropReason> {
    let Some(fragment) = p.fragment else { return Ok(()) };
    let key = FragmentKey { src: p.tuple.src, dst: p.tuple.dst, id: fragment.id, zone, proto: p.proto, _pad: 0 };
    let now = now_ns();
    if fragment.offset_bytes == 0 {
        let ports = FragmentPorts { seen_ns: now, sport: p.tuple.sport, dport: p.tuple.dport, _pad: 0 };
        return maps::remember_fragment::<F>(&key, &ports);
    }
    let ports = maps::fragment::<F>(&key).ok_or(DropReason::Fragment)?;
    if now.wrapping_sub(ports.seen_ns) > FRAGMENT_TIMEOUT_NS {
        return Err(DropReason::Fragment);
    }
    p.tuple.sport = ports.sport;
    p.tuple.dport = ports.dport;
    Ok(())
}
