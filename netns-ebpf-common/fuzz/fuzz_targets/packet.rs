//! Frames taken apart, as both families.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netns_ebpf_common::invariants;

fuzz_target!(|frame: &[u8]| invariants::packet(frame));
