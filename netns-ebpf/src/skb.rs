//! What the kernel keeps of a packet beside what it shows programs: read from its own structure, at offsets user space has found
//! in the kernel's type information.
#![expect(unsafe_code, reason = "a call of a function of the kernel, and reads of its structure")]

use core::arch::asm;

use aya_ebpf::bindings::__sk_buff;
use netns_ebpf_common::kfunc;
use netns_ebpf_common::skb::{PartialCsum, SkbFields};

/// Set when the object is loaded, then constant.
// SAFETY: nothing else of the object is named like this.
#[unsafe(no_mangle)]
static SKB_FIELDS: SkbFields = SkbFields {
    head_off: 0,
    data_off: 0,
    csum_start_off: 0,
    csum_offset_off: 0,
    ip_summed_off: 0,
    ip_summed_mask: 0,
    partial: 0,
};

/// A field of the constant as the object was loaded with it, not as it was compiled.
macro_rules! loaded {
    ($field:ident) => {
        (&raw const SKB_FIELDS.$field).read_volatile()
    };
}

/// The checksum that is left to the device which sends the packet, if one is.
#[inline(always)]
pub fn partial_csum(context: *mut __sk_buff) -> Option<PartialCsum> {
    // SAFETY: `context` is that of this run, so it is the kernel's `struct sk_buff`, and the offsets are those of its fields of
    // these sizes. The verifier holds both against the kernel's own type, and refuses the program if they are not. The constant is
    // aligned and never written to.
    unsafe {
        let skb = kernel_skb(context);
        if skb.add(loaded!(ip_summed_off).into()).read_volatile() & loaded!(ip_summed_mask) != loaded!(partial) {
            return None;
        }
        let head = skb.add(loaded!(head_off).into()).cast::<u64>().read_volatile();
        let data = skb.add(loaded!(data_off).into()).cast::<u64>().read_volatile();
        let start = skb.add(loaded!(csum_start_off).into()).cast::<u16>().read_volatile();
        let csum_off = skb.add(loaded!(csum_offset_off).into()).cast::<u16>().read_volatile();
        Some(PartialCsum { start_off: u64::from(start).wrapping_sub(data.wrapping_sub(head)), csum_off })
    }
}

/// The structure behind a context: at run time they are one, but only this lets the verifier know.
///
/// # Safety
///
/// `context` is that of this run.
#[inline(always)]
unsafe fn kernel_skb(context: *mut __sk_buff) -> *const u8 {
    let skb;
    // SAFETY: the kernel's function takes the context and returns it; no function touches other registers than these.
    unsafe {
        asm!(
            "call {cast}",
            cast = const kfunc::CAST_TO_KERN_CTX.placeholder,
            inlateout("r1") context => _,
            lateout("r0") skb,
            lateout("r2") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(pure, readonly, nostack),
        );
    }
    skb
}
