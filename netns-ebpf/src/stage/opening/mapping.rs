//! The endpoint-independent mapping of a flow's source: found, or made.

use netns_ebpf_common::family::{Address, Family};
use netns_ebpf_common::flow::FlowFlags;
use netns_ebpf_common::mapping;
use netns_ebpf_common::opening::{Opening, Ports};
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::DropReason;

use super::claim;
use crate::maps::{self, FamilyMaps, FlowRef, InsertError};
use crate::packet::now_ns;
use crate::stage::mapping::is_expired;

/// Looks for the mapping, whose address and port the flow gets; `false` if one is to be made.
///
/// The flow stays as it was planned where the uplink of its route has another address than the mapping, which is live as well:
/// nothing but the way out decides which of the two is right.
#[inline(never)]
pub fn find_own<F: FamilyMaps>(p: &Parsed<<F as Family>::Addr>, o: &mut Opening<<F as Family>::Addr>) -> bool {
    mapping::set_inside_key(&mut o.mapping.key, o.plan.zone, p.proto, &p.tuple);
    let Some(inside) = FlowRef::<F>::find(&o.mapping.key) else { return false };
    let addr = inside.to().src;
    let live = !is_expired(inside, p.proto, now_ns()) && maps::is_host_addr::<F>(addr);
    if live && (addr == o.flow.entry.to.src || matches!(o.plan.ports, Ports::Pool)) {
        adopt::<F>(inside, o);
        return true;
    }
    if live {
        o.plan.flags = o.plan.flags.without(FlowFlags::MAPPED);
        return true;
    }
    inside.remove_both(&o.mapping.key);
    false
}

/// Takes the mapping's address and port for the flow.
#[inline(always)]
fn adopt<F: FamilyMaps>(inside: FlowRef<F>, o: &mut Opening<<F as Family>::Addr>) {
    o.flow.entry.to.src.set(&inside.to().src);
    o.flow.entry.to.sport = inside.to().sport;
    o.plan.ports = Ports::Mapped;
}

/// Fills both entries of a new one, but for the port; [`find_own`] has put its key together.
#[inline(never)]
pub fn begin<F: FamilyMaps>(p: &Parsed<<F as Family>::Addr>, o: &mut Opening<<F as Family>::Addr>) {
    let now = now_ns();
    o.begin(p.proto, &p.tuple, now);
    o.begin_mapping(p.proto, &p.tuple, now);
}

/// Inserts its inside entry, when the outside one has claimed the port, and gives the flow what it has.
#[inline(never)]
pub fn finish<F: FamilyMaps>(o: &mut Opening<<F as Family>::Addr>) -> Result<(), DropReason> {
    o.finish_mapping();
    match FlowRef::<F>::insert(&o.mapping.key, &o.mapping.entry) {
        Ok(()) => {
            if o.mapping.entry.flags.has(FlowFlags::PORT_COUNTED) {
                claim::count::<F>(o, true);
            }
        }
        // Another CPU made it meanwhile: that one is the pod's.
        Err(InsertError::Exists) => {
            FlowRef::<F>::remove(&o.mapping.peer_key);
        }
        Err(InsertError::Full) => {
            FlowRef::<F>::remove(&o.mapping.peer_key);
            return Err(DropReason::FlowTableFull);
        }
    }
    let inside = FlowRef::<F>::find(&o.mapping.key).ok_or(DropReason::FlowTableFull)?;
    adopt::<F>(inside, o);
    Ok(())
}
