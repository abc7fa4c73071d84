//! Checksums the kernel changes: of transports, of a whole packet as the device took it, and sums of addresses.
#![expect(unsafe_code, reason = "helpers of the kernel")]

use core::mem;

use aya_ebpf::bindings::{BPF_F_MARK_ENFORCE, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated as helpers;
use netns_ebpf_common::csum::Sum;
use netns_ebpf_common::family::Address;
use netns_ebpf_common::flow::FlowTuple;
use netns_ebpf_common::verdict::DropReason;

use crate::packet::Packet;

/// `BPF_F_IPV6` of `bpf_l4_csum_replace`, kernel 6.16 (commit ead7f9b8de65).
const BPF_F_IPV6: u64 = 1 << 7;

/// What a checksum of 0 means.
#[derive(Clone, Copy)]
pub enum ZeroCsum {
    /// UDP: none was computed, and it stays so (RFC 768).
    IsNone,
    /// Nothing, and none is made of a change: 0xffff, its equal in ones' complement, is right whether the words covered are all
    /// zero, as an echo reply's may be, or not (RFC 1624 section 3).
    Never,
}

impl Packet {
    /// Applies a change of addresses (`pseudo`) or of other covered bytes to the transport checksum at `off`.
    ///
    /// Right for packets whose checksum is still to be computed by the device (partial), known good (complete) or plain.
    #[inline(always)]
    pub fn l4_csum_replace(
        &mut self,
        off: usize,
        diff: Sum,
        pseudo: bool,
        ipv6: bool,
        zero: ZeroCsum,
    ) -> Result<(), DropReason> {
        let mut flags = 0;
        if pseudo {
            flags |= BPF_F_PSEUDO_HDR as u64;
            if ipv6 {
                flags |= BPF_F_IPV6;
            }
        }
        flags |= match zero {
            ZeroCsum::IsNone => BPF_F_MARK_MANGLED_0,
            ZeroCsum::Never => BPF_F_MARK_MANGLED_0 | BPF_F_MARK_ENFORCE,
        } as u64;
        // SAFETY: plain numbers; the helper checks the offset itself.
        let ret = unsafe { helpers::bpf_l4_csum_replace(self.skb(), off as u32, 0, u64::from(diff.0), flags) };
        if ret == 0 { Ok(()) } else { Err(DropReason::Internal) }
    }

    /// Tells a complete checksum of a change no checksum field made good (IPv6's hop limit).
    #[inline(always)]
    pub fn csum_update(&mut self, diff: Sum) {
        // SAFETY: plain numbers. It fails for packets without a complete checksum, which need nothing.
        unsafe { helpers::bpf_csum_update(self.skb(), diff.0) };
    }
}

/// Sum of both addresses of `new`, less those of `old`.
#[inline(always)]
pub fn addrs_diff<A: Address>(old: &FlowTuple<A>, new: &FlowTuple<A>) -> Sum {
    let size_bytes = 2 * mem::size_of::<A>() as u32;
    let (old, new) = (core::ptr::from_ref(old).cast_mut().cast(), core::ptr::from_ref(new).cast_mut().cast());
    // SAFETY: the helper reads the first `size_bytes` of each tuple: its two addresses, which come first and side by side.
    Sum(unsafe { helpers::bpf_csum_diff(old, size_bytes, new, size_bytes, 0) } as u32)
}

/// Sum of an address.
#[inline(always)]
pub fn addr_sum<A: Address>(addr: &A) -> Sum {
    let addr = core::ptr::from_ref(addr).cast_mut().cast();
    // SAFETY: the helper reads the address, whose size is a multiple of 4.
    Sum(unsafe { helpers::bpf_csum_diff(core::ptr::null_mut(), 0, addr, mem::size_of::<A>() as u32, 0) } as u32)
}
