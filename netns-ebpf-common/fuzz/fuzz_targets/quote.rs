//! Packets quoted by ICMP errors, as both families; the first two bytes are where the quote begins.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netns_ebpf_common::invariants;

fuzz_target!(|data: &[u8]| {
    if let Some((at, frame)) = data.split_first_chunk() {
        invariants::quote(frame, u16::from_be_bytes(*at).into());
    }
});
