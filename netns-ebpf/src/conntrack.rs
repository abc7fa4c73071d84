//! The kernel's own connection tracking, where it is built in: other NATs of the host keep their ports there.
#![expect(unsafe_code, reason = "calls of functions of the kernel")]

use core::arch::asm;
use core::mem;

use aya_ebpf::bindings::__sk_buff;
use netns_ebpf_common::family::Address;
use netns_ebpf_common::flow::FlowTuple;
use netns_ebpf_common::kfunc;

/// Set when the object is loaded, then constant: whether the calls below are linked. If not, the verifier leaves them out.
// SAFETY: nothing else of the object is named like this.
#[unsafe(no_mangle)]
static HOST_CONNTRACK: u8 = 0;

/// The kernel's `struct bpf_ct_opts` as of 5.18, its first [`OPTIONS_BYTES`]; later ones have grown and take this one too.
///
/// Aligned for the stores the compiler makes of it, which the verifier holds to their width.
#[repr(C, align(8))]
struct Options {
    netns_id: i32,
    error: i32,
    proto: u8,
    dir: u8,
    reserved: [u8; 2],
}

const OPTIONS_BYTES: usize = mem::offset_of!(Options, reserved) + 2;

/// Whether a packet with this tuple would be the reply of a connection the kernel tracks, of TCP or UDP.
///
/// Of a connection that began with such a packet nothing is said: anybody makes the kernel track those by sending them.
#[inline(always)]
pub fn has_reply<A: Address>(context: *mut __sk_buff, proto: u8, tuple: &FlowTuple<A>) -> bool {
    const CURRENT_NETNS: i32 = -1;
    const DIR_REPLY: u8 = 1;
    // The kernel's `bpf_sock_tuple`, as for `Packet::host_socket`.
    const { assert!(mem::size_of::<FlowTuple<A>>() == 8 * A::WORDS + 4) };
    const { assert!(OPTIONS_BYTES == 12) };
    // SAFETY: a constant of the object. Its value is read, not the one it was compiled with.
    if unsafe { (&raw const HOST_CONNTRACK).read_volatile() } == 0 {
        return false;
    }
    let mut options = Options { netns_id: CURRENT_NETNS, error: 0, proto, dir: 0, reserved: [0; 2] };
    let found: u64;
    // SAFETY: context, tuple and options are of the sizes given and outlive the call, which writes to the options only. No function
    // touches other registers than these.
    unsafe {
        asm!(
            "call {lookup}",
            lookup = const kfunc::SKB_CT_LOOKUP.placeholder,
            inlateout("r1") context => _,
            inlateout("r2") core::ptr::from_ref(tuple) => _,
            inlateout("r3") mem::size_of::<FlowTuple<A>>() => _,
            inlateout("r4") &raw mut options => _,
            inlateout("r5") OPTIONS_BYTES => _,
            lateout("r0") found,
            options(nostack),
        );
    }
    if found == 0 {
        return false;
    }
    // SAFETY: what was found is given back once and not looked into.
    unsafe {
        asm!(
            "call {release}",
            release = const kfunc::CT_RELEASE.placeholder,
            inlateout("r1") found => _,
            lateout("r0") _,
            lateout("r2") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nostack),
        );
    }
    options.dir == DIR_REPLY
}
