//! Takes the packet apart.

use netns_ebpf_common::family::Family;
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps};
use crate::packet::{ALL_HEADERS_BYTES, Packet};
use crate::rewrite::L3_OFF;

/// The packet's headers as values, in this CPU's working memory.
#[inline(always)]
pub fn run<F: FamilyMaps>(pkt: &mut Packet) -> Result<&'static mut Parsed<<F as Family>::Addr>, DropReason> {
    let p = maps::parsed::<F>()?;
    match headers::<F>(pkt, p) {
        // It may only have ended before a header that lies in fragments.
        Err(DropReason::Malformed) => {
            pkt.pull(ALL_HEADERS_BYTES)?;
            headers::<F>(pkt, p)?;
        }
        result => result?,
    }
    Ok(p)
}

/// Out of line: what follows is then verified once, not once for every way through the headers.
#[inline(never)]
fn headers<F: FamilyMaps>(pkt: &Packet, p: &mut Parsed<<F as Family>::Addr>) -> Result<(), DropReason> {
    F::parse(pkt, L3_OFF, pkt.len_bytes(), p)
}
