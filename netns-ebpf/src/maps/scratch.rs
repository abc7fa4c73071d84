//! Working memory of a run, one element per CPU.
//!
//! Too big for the stack together with what a hook holds already. A run never nests in another on one CPU at the hooks used
//! (softirq, or process context with bottom halves off), so one element per CPU is enough.

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use netns_ebpf_common::account::Destination;
use netns_ebpf_common::flow::{FlowEntry, FlowKey};
use netns_ebpf_common::fragment::{Datagram, DatagramSlot};
use netns_ebpf_common::parse::Parsed;
use netns_ebpf_common::verdict::DropReason;
use netns_ebpf_common::{Addr4, Addr6};

use super::FamilyMaps;
use crate::stage::flow::Plan;
use crate::stage::port::Search;
use crate::stage::related::Quoted;

#[map]
pub(super) static SCRATCH4: PerCpuArray<Scratch<Addr4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(super) static SCRATCH6: PerCpuArray<Scratch<Addr6>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static FIB_PARAMS: PerCpuArray<bpf_fib_lookup> = PerCpuArray::with_max_entries(1, 0);
#[map]
static QUOTE: PerCpuArray<[u8; QUOTE_BYTES]> = PerCpuArray::with_max_entries(1, 0);

/// Most bytes of a packet quoted in an ICMP error: with headers below 576, what every host takes (RFC 1812 section 4.3.2.3).
pub const QUOTE_BYTES: usize = 512;

/// Working memory of a run.
#[repr(C)]
pub struct Scratch<A> {
    /// The packet taken apart.
    pub(super) parsed: Parsed<A>,
    /// The packet an ICMP error quotes.
    pub(super) quoted: Quoted<A>,
    /// A flow being opened.
    pub(super) opening: OpeningFlow<A>,
    /// A mapping being made for it.
    pub(super) opening_mapping: OpeningFlow<A>,
    /// Key of the other direction of a flow at hand.
    pub(super) peer_key: FlowKey<A>,
    /// Key of a mapping at hand.
    pub(super) mapping_key: FlowKey<A>,
    /// Key of a flow that may have to go.
    pub(super) candidate: FlowKey<A>,
    /// A datagram in pieces as it is put into the table: nothing of it has come.
    pub(super) datagram: Datagram<A>,
    /// The place of the datagram of the piece at hand.
    pub(super) datagram_slot: DatagramSlot,
}

/// A flow being opened: both entries, and room for the key of whatever stands in its way.
#[repr(C)]
pub struct OpeningFlow<A> {
    /// What it shall be.
    pub plan: Plan,
    /// The opener's direction.
    pub key: FlowKey<A>,
    /// Its entry.
    pub entry: FlowEntry<A>,
    /// The other direction.
    pub peer_key: FlowKey<A>,
    /// Its entry.
    pub peer_entry: FlowEntry<A>,
    /// Where it is to go, or where one went that ended; [`OpeningFlow::set_destination`].
    pub destination: Destination<A>,
    /// The search for its source port.
    pub search: Search,
}

impl<A: Copy> OpeningFlow<A> {
    /// Notes where the opener's packets are to go. Short-lived: a flow that ends on the way puts its own there.
    #[inline(always)]
    pub fn set_destination(&mut self) -> &Destination<A> {
        self.destination.addr = self.entry.to.dst;
        self.destination.network = self.plan.zone;
        self.destination.port = self.entry.to.dport;
        self.destination.proto = self.key.proto;
        self.destination._pad = [0; 3];
        &self.destination
    }
}

/// This CPU's working memory.
#[inline(always)]
pub(super) fn scratch<F: FamilyMaps>() -> Result<*mut Scratch<F::Addr>, DropReason> {
    F::scratch_map().get_ptr_mut(0).ok_or(DropReason::Internal)
}

/// Where the packet is taken apart; each hook asks once per run.
#[inline(always)]
pub fn parsed<F: FamilyMaps>() -> Result<&'static mut Parsed<F::Addr>, DropReason> {
    // SAFETY: per-CPU, and a run never nests in another on one CPU (see the module); this is the one reference to the
    // field, as the hooks ask once per run.
    Ok(unsafe { &mut (*scratch::<F>()?).parsed })
}

/// Where the quoted packet is taken apart; asked for once per run.
#[inline(always)]
pub fn quoted<F: FamilyMaps>() -> Result<&'static mut Quoted<F::Addr>, DropReason> {
    // SAFETY: as in `parsed`.
    Ok(unsafe { &mut (*scratch::<F>()?).quoted })
}

/// Where a flow's entries are put together. Short-lived: the port search's callback asks for it again.
#[inline(always)]
pub fn opening_flow<F: FamilyMaps>() -> Result<&'static mut OpeningFlow<F::Addr>, DropReason> {
    // SAFETY: per-CPU, no nesting. `port::claim` and its callback take turns, neither holds a value across the other's run.
    Ok(unsafe { &mut (*scratch::<F>()?).opening })
}

/// Where a mapping's entries are put together, as in [`opening_flow`].
#[inline(always)]
pub fn opening_mapping<F: FamilyMaps>() -> Result<&'static mut OpeningFlow<F::Addr>, DropReason> {
    // SAFETY: as in `opening_flow`.
    Ok(unsafe { &mut (*scratch::<F>()?).opening_mapping })
}

/// Where the key of a mapping is put together. Short-lived: each look-up asks for it again.
#[inline(always)]
pub(super) fn mapping_key<F: FamilyMaps>() -> Option<&'static mut FlowKey<F::Addr>> {
    // SAFETY: per-CPU, no nesting; the functions of `flow` that ask for it do not keep it.
    scratch::<F>().ok().map(|scratch| unsafe { &mut (*scratch).mapping_key })
}

/// Where the key of a flow that may have to go is read to. Short-lived: each step of a search asks for it again.
#[inline(always)]
pub fn candidate<F: FamilyMaps>() -> Result<&'static mut FlowKey<F::Addr>, DropReason> {
    // SAFETY: per-CPU, no nesting; the steps that use it come one after the other.
    Ok(unsafe { &mut (*scratch::<F>()?).candidate })
}

/// Working memory for a question to the kernel's routes; asked for once per run.
#[inline(always)]
pub fn fib_params() -> Option<&'static mut bpf_fib_lookup> {
    // SAFETY: per-CPU, no nesting, one reference per run; every bit pattern is a value.
    FIB_PARAMS.get_ptr_mut(0).map(|params| unsafe { &mut *params })
}

/// Working memory for the bytes an ICMP error quotes.
#[inline(always)]
pub fn quote_scratch() -> Result<*mut [u8; QUOTE_BYTES], DropReason> {
    QUOTE.get_ptr_mut(0).ok_or(DropReason::Internal)
}
