//! Test runs of a packet whose bytes a device has summed up (CHECKSUM_COMPLETE): the kernel compares afterwards.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use netns::datapath::Hook;
use nix::libc;

use super::bench::{Bench, Meta};

/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE` (kernel 6.16).
const CHECKSUM_COMPLETE: u32 = 1 << 2;
/// `BPF_PROG_TEST_RUN`.
const TEST_RUN: libc::c_long = 10;

/// `union bpf_attr` as `BPF_PROG_TEST_RUN` takes it.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    program: u32,
    return_value: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
    context_in_bytes: u32,
    context_out_bytes: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    _end: u32,
}

impl Bench {
    /// Runs a hook's program over a frame with a sum from the IP header on; returns the action and the frame.
    ///
    /// # Errors
    /// `EBADMSG` when the sum is not that of the packet any more.
    #[expect(unsafe_code, reason = "the crate in use here does not give test runs this flag")]
    pub fn run_summed(&self, hook: Hook, meta: Meta, frame: &[u8]) -> io::Result<(i32, Vec<u8>)> {
        let context = meta.context();
        let mut out = vec![0; 8192];
        let mut attributes = Attributes {
            program: self.program(hook).fd().expect("loaded").as_fd().as_raw_fd().cast_unsigned(),
            data_in_bytes: frame.len() as u32,
            data_out_bytes: out.len() as u32,
            data_in: frame.as_ptr() as u64,
            data_out: out.as_mut_ptr() as u64,
            repeat: 1,
            context_in_bytes: context.len() as u32,
            context_in: context.as_ptr() as u64,
            flags: CHECKSUM_COMPLETE,
            ..Attributes::default()
        };
        let length = size_of::<Attributes>();
        // SAFETY: `attributes` is as the kernel has it, and what it points to has the lengths it says and outlives the call.
        let done = unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, &raw mut attributes, length) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        out.truncate(attributes.data_out_bytes as usize);
        Ok((attributes.return_value.cast_signed(), out))
    }
}
