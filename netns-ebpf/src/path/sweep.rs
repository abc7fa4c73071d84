//! No hook: user space runs it over keys of the flow table, so that flows end by the same hand as everywhere, and are judged by
//! what they are at that moment.

use core::marker::PhantomData;

use netns_ebpf_common::family::{V4, V6};
use netns_ebpf_common::flow::FlowKey;
use netns_ebpf_common::hdr::eth::ETH_LEN;
use netns_ebpf_common::plain::Plain;
use netns_ebpf_common::sweep::{SWEEP_KEYS_BYTES, SweepHeader, SweepMode};

use crate::maps::{self, AccountRef, FamilyMaps, FlowRef};
use crate::packet::{Packet, Steps, now_ns};
use crate::stage::flow;
use crate::stage::opening::admission;

/// Where the keys begin.
const KEYS_OFF: usize = ETH_LEN + size_of::<SweepHeader>();

/// Runs over a batch of keys; returns how many entries of the table went or were changed.
#[inline(always)]
pub fn run(pkt: &Packet) -> u32 {
    let mut header = SweepHeader::default();
    if !pkt.load(ETH_LEN, &mut header) {
        return 0;
    }
    match header.family {
        4 => batch::<V4>(pkt, header),
        6 => batch::<V6>(pkt, header),
        _ => 0,
    }
}

/// One key after the other.
struct Batch<F> {
    header: SweepHeader,
    off: usize,
    done: u32,
    family: PhantomData<F>,
}

#[inline(always)]
fn batch<F: FamilyMaps>(pkt: &Packet, header: SweepHeader) -> u32
where
    FlowKey<F::Addr>: Plain,
{
    let mut batch = Batch::<F> { header, off: KEYS_OFF, done: 0, family: PhantomData };
    pkt.repeat(header.keys.min((SWEEP_KEYS_BYTES / size_of::<FlowKey<F::Addr>>()) as u32), &mut batch);
    batch.done
}

impl<F: FamilyMaps> Steps for Batch<F>
where
    FlowKey<F::Addr>: Plain,
{
    #[inline(always)]
    fn step(&mut self, pkt: &Packet) -> bool {
        let Ok(o) = maps::opening::<F>() else { return true };
        let key = &mut o.candidate;
        if !pkt.load(self.off, key) {
            return true;
        }
        self.off += size_of::<FlowKey<F::Addr>>();
        let Some(flow) = FlowRef::<F>::find(key) else { return false };
        if self.header.mode == SweepMode::Disown as u32 {
            if flow.publish() == self.header.publish {
                flow.disown();
                self.done += 1;
            }
        } else if self.header.mode == SweepMode::Any as u32
            || self.header.mode == SweepMode::Expired as u32 && flow::is_over(flow, key.proto, now_ns())
        {
            let account = flow.is_original().then(|| flow.account());
            self.done += flow.remove_both(key);
            if let Some(account) = account
                && let Ok(account) = AccountRef::find::<F>(account)
            {
                let _shrunk = admission::tidy_swept::<F>(pkt, account, o);
            }
        }
        false
    }
}
