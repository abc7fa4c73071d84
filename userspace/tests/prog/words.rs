//! Arrays of numbers, read at once: one by one, hundreds of thousands take longer than a test.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use super::state::open_map;

/// `union bpf_attr` as `BPF_MAP_LOOKUP_BATCH` (kernel 5.6) takes it.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    from: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// `BPF_MAP_LOOKUP_BATCH`.
const LOOKUP_BATCH: libc::c_long = 24;

/// The first `len` numbers of a pinned array.
#[expect(unsafe_code, reason = "the crate in use here does not make this call")]
pub fn words(name: &str, len: u32) -> Vec<u32> {
    let map = open_map(name);
    let (mut keys, mut values, mut next) = (vec![0_u32; len as usize], vec![0_u32; len as usize], 0_u32);
    let mut attributes = Attributes {
        next: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: len,
        map: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        ..Attributes::default()
    };
    // SAFETY: keys and values of an array of numbers are 32 bits each, both have room for `count`, and all outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut attributes, size_of::<Attributes>()) };
    let error = io::Error::last_os_error();
    assert!(done == 0 || error.raw_os_error() == Some(libc::ENOENT), "read {name}: {error}");
    assert_eq!(attributes.count, len, "{name} is shorter");
    values
}
