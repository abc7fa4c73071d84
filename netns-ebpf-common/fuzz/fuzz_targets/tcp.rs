//! Segments of a connection and of others; the first four bytes are the opener's number.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netns_ebpf_common::invariants;

fuzz_target!(|data: &[u8]| {
    if let Some((isn, steps)) = data.split_first_chunk() {
        invariants::connection(u32::from_be_bytes(*isn), steps);
    }
});
