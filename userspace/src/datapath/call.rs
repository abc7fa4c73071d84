//! Calls of the kernel no crate in use here makes: reading a map in bulk, pinning what is known by its id, waiting for programs.

use std::ffi::CString;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use netns_ebpf_common::plain::Plain;
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

/// Makes a call of `bpf(2)`; returns what it does.
///
/// # Safety
///
/// `attr` is what `command` takes, and what it points to is as large as the map's keys and values ask.
#[expect(unsafe_code, reason = "see the module")]
unsafe fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: the pointer and the size describe `attr`; the rest is the caller's promise.
    match unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) } {
        -1 => Err(io::Error::last_os_error()),
        done => Ok(done),
    }
}

fn fd(map: BorrowedFd<'_>) -> u32 {
    map.as_raw_fd().cast_unsigned()
}

/// Visits the elements of a hash (Linux 5.6) from one of its buckets on, 0 for all, some thousands at a time and without a lock:
/// one that comes or goes meanwhile may be seen or not, every other is seen once. `visit` may end the walk.
///
/// `K` and `V` must be the map's, as those of the typed maps of `netns_ebpf_common` are.
#[expect(unsafe_code, reason = "see the module")]
pub(super) fn walk<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    bucket: u32,
    mut visit: impl FnMut(&[K], &[V]) -> ControlFlow<()>,
) -> io::Result<()> {
    let (mut keys, mut values) = (Vec::<K>::with_capacity(BATCH), Vec::<V>::with_capacity(BATCH));
    // The kernel's place in the map: the number of a bucket.
    let mut place: Option<u32> = (bucket != 0).then_some(bucket);
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
            Ok(_) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                // One bucket holds more than there is room for; nothing was read.
                (keys, values) = (Vec::with_capacity(2 * room), Vec::with_capacity(2 * room));
                continue;
            }
            Err(e) => return Err(e),
        };
        let found = (attr.count as usize).min(room);
        // SAFETY: the kernel has written the first `count` elements of both, and any bits are a value of a `Plain` type.
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

/// `union bpf_attr` of `BPF_PROG_QUERY`, as far as it goes for cgroups.
#[repr(C)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _pad: u32,
}

const BPF_PROG_QUERY: libc::c_int = 16;

/// The kernel lets a cgroup have no more programs of one kind (`BPF_CGROUP_MAX_PROGS`).
const MOST_PROGRAMS: usize = 64;

/// Ids of the programs that are attached to a cgroup at the hook of this number of `enum bpf_attach_type`.
#[expect(unsafe_code, reason = "see the module")]
pub(super) fn cgroup_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MOST_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: fd(cgroup),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: (&raw mut ids) as u64,
        prog_cnt: MOST_PROGRAMS as u32,
        _pad: 0,
    };
    // SAFETY: `ids` has room for `prog_cnt` numbers of 32 bits, the kernel writes no more, and it outlives the call.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    Ok(ids.into_iter().take(attr.prog_cnt as usize).collect())
}

/// `union bpf_attr` of `BPF_OBJ_PIN`.
#[repr(C)]
struct PinAttr {
    path: u64,
    bpf_fd: u32,
    file_flags: u32,
}

const BPF_OBJ_PIN: libc::c_int = 6;

/// Pins a program or map.
#[expect(unsafe_code, reason = "see the module")]
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PinAttr { path: path.as_ptr() as u64, bpf_fd: fd(object), file_flags: 0 };
    // SAFETY: `path` is a string that ends with NUL, outlives the call, and is only read.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// `union bpf_attr` of `BPF_MAP_CREATE`.
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// An array of one element, of numbers or, with `inner`, of maps like that one.
#[expect(unsafe_code, reason = "see the module")]
fn array(inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr {
        map_type: if inner.is_some() { BPF_MAP_TYPE_ARRAY_OF_MAPS } else { BPF_MAP_TYPE_ARRAY },
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<u32>() as u32,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd: inner.map_or(0, fd),
    };
    // SAFETY: the command takes these numbers and points nowhere; what it returns is a descriptor of ours alone.
    unsafe {
        let made = bpf(BPF_MAP_CREATE, &mut attr)?;
        Ok(OwnedFd::from_raw_fd(made as RawFd))
    }
}

/// `union bpf_attr` of `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct UpdateAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;

/// Returns when every run of a program that had begun before the call has ended: from then on all of them see what was
/// written to a map before it.
///
/// The kernel promises that of a write to a map of maps (4.18, commit 1ae80cf31938), so one is made for it.
#[expect(unsafe_code, reason = "see the module")]
pub(super) fn wait_for_programs() -> io::Result<()> {
    let inner = array(None)?;
    let outer = array(Some(inner.as_fd()))?;
    let (key, value) = (0_u32, fd(inner.as_fd()));
    let mut attr = UpdateAttr {
        map_fd: fd(outer.as_fd()),
        _pad: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: key and value are of the sizes `outer` was made with, and outlive the call, which reads them.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr)? };
    Ok(())
}
