//! Working memory of a run, one element per CPU.
//!
//! Too big for the stack together with what a hook holds already. A run never nests in another on one CPU at the hooks used
//! (softirq, or process context with bottom halves off), so one element per CPU is enough.

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use netns_ebpf_common::account::QueuePart;
use netns_ebpf_common::flow::FlowKey;
use netns_ebpf_common::fragment::{Datagram, DatagramSlot};
use netns_ebpf_common::opening::Opening;
use netns_ebpf_common::parse::{Parsed, Quoted};
use netns_ebpf_common::verdict::DropReason;
use netns_ebpf_common::{Addr4, Addr6};

use super::FamilyMaps;
use super::port::NotedPort;

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
    pub(super) opening: Opening<A>,
    /// Key of the other direction of a flow at hand.
    pub(super) peer_key: FlowKey<A>,
    /// Key of the inside entry of a mapping at hand. Its destination is never written.
    pub(super) inside_key: FlowKey<A>,
    /// Key of the outside entry of one. Its source is never written.
    pub(super) outside_key: FlowKey<A>,
    /// The port of an entry that ends.
    pub(super) port: NotedPort,
    /// A part of an account's queue with nothing in it. Never written.
    pub(super) empty_part: QueuePart<A>,
    /// A datagram in pieces as it is put into the table: nothing of it has come.
    pub(super) datagram: Datagram<A>,
    /// The place of the datagram of the piece at hand.
    pub(super) datagram_slot: DatagramSlot,
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

/// Where a flow is put together; each run asks once and hands it on.
#[inline(always)]
pub fn opening<F: FamilyMaps>() -> Result<&'static mut Opening<F::Addr>, DropReason> {
    // SAFETY: as in `parsed`.
    Ok(unsafe { &mut (*scratch::<F>()?).opening })
}

/// Where the key of a mapping's inside entry is put together. Short-lived: each look-up asks for it again.
#[inline(always)]
pub(super) fn inside_key<F: FamilyMaps>() -> Option<&'static mut FlowKey<F::Addr>> {
    // SAFETY: per-CPU, no nesting; the functions of `flow` that ask for it do not keep it.
    scratch::<F>().ok().map(|scratch| unsafe { &mut (*scratch).inside_key })
}

/// The same of its outside entry.
#[inline(always)]
pub(super) fn outside_key<F: FamilyMaps>() -> Option<&'static mut FlowKey<F::Addr>> {
    // SAFETY: as in `inside_key`.
    scratch::<F>().ok().map(|scratch| unsafe { &mut (*scratch).outside_key })
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
