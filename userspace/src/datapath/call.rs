//! Calls of the kernel no crate in use here makes: reading a map in bulk, waiting for programs.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use aya::Pod;
use nix::libc;

/// Elements read by one call, unless a bucket of the map holds more.
const BATCH: usize = 4096;

/// `union bpf_attr` of the calls on a batch of elements.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// Makes a call of `bpf(2)`.
///
/// # Safety
///
/// `attr` is what `command` takes, and what it points to is as large as the map's keys and values ask.
#[expect(unsafe_code, reason = "see the module")]
unsafe fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<()> {
    // SAFETY: the pointer and the size describe `attr`; the rest is the caller's promise.
    match unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn fd(map: BorrowedFd<'_>) -> u32 {
    map.as_raw_fd().cast_unsigned()
}

/// The bytes of values as a map holds them.
#[expect(unsafe_code, reason = "see the module")]
pub(super) fn bytes<T: Pod>(values: &[T]) -> &[u8] {
    // SAFETY: the types of `netns_ebpf_common` that are `Pod` have no padding (`pod!` asserts their sizes), so all of their bytes
    // are initialised.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Visits the elements of a hash (Linux 5.6), some thousands at a time and without a lock: one that comes or goes meanwhile
/// may be seen or not, every other is seen once. `visit` may end the walk.
///
/// `K` and `V` must be the map's, as those of the typed maps of `netns_ebpf_common` are.
#[expect(unsafe_code, reason = "see the module")]
pub(super) fn walk<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    mut visit: impl FnMut(&[K], &[V]) -> ControlFlow<()>,
) -> io::Result<()> {
    let (mut keys, mut values) = (Vec::<K>::with_capacity(BATCH), Vec::<V>::with_capacity(BATCH));
    // The kernel's place in the map: the number of a bucket.
    let mut place: Option<u32> = None;
    loop {
        let room = keys.capacity().min(values.capacity());
        let (from, mut next) = (place.unwrap_or_default(), 0_u32);
        let mut attr = BatchAttr {
            in_batch: place.map_or(0, |_| (&raw const from) as u64),
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(room).unwrap_or(u32::MAX),
            map_fd: fd(map),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: `keys` and `values` have room for `count` elements of the map's own types, and the kernel writes no
        // more; `from` and `next` are the 32 bits a hash's place has. All outlive the call.
        let done = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let last = match done {
            Ok(()) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                // One bucket holds more than there is room for; nothing was read.
                (keys, values) = (Vec::with_capacity(2 * room), Vec::with_capacity(2 * room));
                continue;
            }
            Err(e) => return Err(e),
        };
        let found = (attr.count as usize).min(room);
        // SAFETY: the kernel has written the first `count` elements of both, and any bits are a value of a `Pod`.
        unsafe {
            keys.set_len(found);
            values.set_len(found);
        }
        if visit(&keys, &values).is_break() || last {
            return Ok(());
        }
        keys.clear();
        values.clear();
        place = Some(next);
    }
}

/// Returns when every run of a program that had begun before the call has ended: from then on all of them see what was
/// written to a map before it.
#[expect(unsafe_code, reason = "see the module")]
pub(super) fn wait_for_programs() {
    // SAFETY: plain numbers; the call changes no memory.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    // It waits for an RCU grace period, and a program runs inside one. Kernels without it, or with CPUs that are left
    // alone (nohz_full), refuse: a run takes microseconds, so this is as good.
    if done != 0 {
        thread::sleep(Duration::from_millis(20));
    }
}
