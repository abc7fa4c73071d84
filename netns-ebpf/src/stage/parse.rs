//! Takes the packet apart.

use netns_ebpf_common::family::Family;
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::DropReason;

use crate::maps::{self, FamilyMaps};
use crate::packet::{ALL_HEADERS_BYTES, Packet};
use crate::rewrite::L3_OFF;

/// The headers of an Ethernet frame as values, in this CPU's working memory.
#[inline(always)]
pub fn run<F: FamilyMaps>(pkt: &mut Packet) -> Result<&'static mut Parsed<<F as Family>::Addr>, DropReason> {
    at::<F, L3_OFF>(pkt)
}

/// The same, with the IP header at `L3`.
#[inline(always)]
pub fn at<F: FamilyMaps, const L3: usize>(
    pkt: &mut Packet,
) -> Result<&'static mut Parsed<<F as Family>::Addr>, DropReason> {
    let p = maps::parsed::<F>()?;
    match headers::<F, L3>(pkt, p) {
        // It may only have ended before a header that lies in fragments.
        Err(DropReason::Malformed) => {
            pkt.pull(ALL_HEADERS_BYTES)?;
            headers::<F, L3>(pkt, p)?;
        }
        result => result?,
    }
    Ok(p)
}

/// Out of line: what follows is then verified once, not once for every way through the headers.
#[inline(never)]
fn headers<F: FamilyMaps, const L3: usize>(
    pkt: &Packet,
    p: &mut Parsed<<F as Family>::Addr>,
) -> Result<(), DropReason> {
    F::parse(pkt, L3, pkt.len_bytes(), p)
}
