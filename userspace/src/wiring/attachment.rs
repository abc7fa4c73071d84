//! How the programs get at the packets of an interface.
//!
//! A tcx link of its own for each interface cannot be taken off by accident; but the kernel waits for all its CPUs with each,
//! under the lock of all links (14 ms on two CPUs, whatever else happens at the same time). Gateway devices and uplinks, of
//! which there are few, have one. Pods share one filter on a block of traffic control, which an interface joins in a fraction of
//! a millisecond, and which is replaced for all of them at once. Whoever takes an interface out of it is noticed, and what the
//! pod sends meanwhile ends at the interface.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use netns_ebpf_common::counters::Hook;

use super::names::device_group;
use super::{Host, WiringError};
use crate::datapath::DatapathError;
use crate::netlink::{BLOCK_PRIORITY, BlockFilter, Link, Request};

/// How a hook's program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attachment {
    /// By a link of its own, pinned, first in the interface's chain.
    Tcx,
    /// By the instance's block.
    Block,
}

impl Attachment {
    const fn of(hook: Hook) -> Self {
        match hook {
            Hook::FromPod => Self::Block,
            Hook::FromHost | Hook::FromUplink | Hook::FromUplinkL3 => Self::Tcx,
        }
    }
}

impl Host {
    /// Attaches a hook's program to an interface. Attached already is success.
    pub(super) fn attach(&self, hook: Hook, ifname: &str, index: u32) -> Result<(), WiringError> {
        match Attachment::of(hook) {
            Attachment::Tcx => Ok(self.netns.run(|| self.datapath.attach(hook, ifname, index))??),
            Attachment::Block => {
                self.join_block(index)?;
                self.sync_block(hook)
            }
        }
    }

    /// Detaches a hook's program from the interface of this index, which may be gone; not attached means done.
    pub(super) fn detach(&self, hook: Hook, index: u32) -> Result<(), WiringError> {
        match Attachment::of(hook) {
            Attachment::Tcx => Ok(self.datapath.detach(hook, index)?),
            Attachment::Block if self.netlink.block_of(index)? == Some(self.block()) => {
                Ok(self.netlink.request(Request::leave_block(index).or_absent())?)
            }
            Attachment::Block => Ok(()),
        }
    }

    /// To which of these interfaces a hook's program is attached, by index.
    pub fn attached_to(&self, hook: Hook, links: &[Link]) -> Result<BTreeSet<u32>, WiringError> {
        match Attachment::of(hook) {
            Attachment::Tcx => {
                let interfaces = links.iter().map(|l| (l.index, l.name.as_str()));
                Ok(self.netns.run(|| self.datapath.attached_to(hook, interfaces))??.into_iter().collect())
            }
            Attachment::Block if !self.block_is_ours(hook)? => Ok(BTreeSet::new()),
            Attachment::Block => {
                let (members, ours) = (self.netlink.in_blocks()?, self.block());
                let joined = |link: &&Link| members.get(&link.index) == Some(&ours);
                Ok(links.iter().filter(joined).map(|link| link.index).collect())
            }
        }
    }

    /// Whether a hook's program is attached to the interface.
    pub fn is_attached(&self, hook: Hook, index: u32) -> Result<bool, WiringError> {
        let link = self.netlink.link_by_index(index)?;
        Ok(link.is_some() && self.attached_to(hook, link.as_slice())?.contains(&index))
    }

    /// Pins again what lives on where it is attached ([`Datapath::restore_pins`]).
    ///
    /// [`Datapath::restore_pins`]: crate::datapath::Datapath::restore_pins
    pub fn restore_pins(&self) -> Result<bool, WiringError> {
        let first = self.netlink.block_filters(self.block())?.into_iter().min_by_key(|filter| filter.priority);
        let by_block = first.and_then(|filter| filter.program).map(|id| (Hook::FromPod, id));
        Ok(self.datapath.restore_pins(by_block.as_slice())?)
    }

    /// The instance's block: known by its number, as its devices are by their group.
    pub(super) fn block(&self) -> u32 {
        device_group(&self.instance)
    }

    /// Has the instance's block judge what comes in by an interface.
    fn join_block(&self, index: u32) -> Result<(), WiringError> {
        let join = || Request::join_block(index, self.block());
        match self.netlink.request(join()) {
            Err(e) if e.is_exists() => {}
            done => return Ok(done?),
        }
        if self.netlink.block_of(index)? == Some(self.block()) {
            return Ok(());
        }
        // Somebody took the interface out and put something else there: it is ours, and so is what judges it.
        Ok(self.netlink.request_all(vec![Request::leave_block(index).or_absent(), join()])?)
    }

    /// Makes a hook's program the filter of the block, which an interface has joined. All that are in it have it from then on.
    pub(super) fn sync_block(&self, hook: Hook) -> Result<(), WiringError> {
        let filters = self.netlink.block_filters(self.block())?;
        let ours = self.datapath.program_id(hook)?;
        if is_first(ours, &filters) {
            return Ok(());
        }
        let mut changes = Vec::new();
        if filters.iter().any(|filter| filter.priority == BLOCK_PRIORITY && filter.program.is_none()) {
            // Of another kind, which cannot be replaced.
            changes.push(Request::delete_block_filters(self.block(), BLOCK_PRIORITY).or_absent());
        }
        let program = self.datapath.program(hook)?;
        let fd =
            program.fd().map_err(|e| DatapathError::Program { name: hook.as_str().to_owned(), source: Box::new(e) })?;
        changes.push(Request::set_block_program(self.block(), hook.as_str(), fd.as_fd()));
        Ok(self.netlink.request_all(changes)?)
    }

    /// Whether the first filter of the block is the hook's program.
    fn block_is_ours(&self, hook: Hook) -> Result<bool, WiringError> {
        Ok(is_first(self.datapath.program_id(hook)?, &self.netlink.block_filters(self.block())?))
    }
}

/// Whether the program of this id is asked before all others.
fn is_first(program: u32, filters: &[BlockFilter]) -> bool {
    filters.iter().min_by_key(|filter| filter.priority).is_some_and(|first| first.program == Some(program))
}
