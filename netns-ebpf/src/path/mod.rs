//! One hook per file, read from top to bottom.

pub mod from_host;
pub mod from_pod;
pub mod from_uplink;
pub mod host_socket;
pub mod sweep;

use netns_ebpf_common::verdict::{DropReason, Next, Verdict};

/// Runs a step that is kept out of line and gives its outcome the form such a step returns.
///
/// Out of line are the steps that are rare, or that would not fit together in one frame: the kernel allows 512 bytes of stack
/// over a whole chain of calls.
#[inline(always)]
pub fn out_of_line(step: impl FnOnce() -> Result<Verdict, DropReason>) -> Verdict {
    step().unwrap_or_else(Verdict::drop)
}

/// The same for a step that may not be the last one.
#[inline(always)]
pub fn may_go_on(step: impl FnOnce() -> Result<Next, DropReason>) -> Next {
    step().unwrap_or_else(Next::drop)
}
