//! Senders' areas: what packets claim of memory and work before they belong to a flow is counted against who sends them.
//!
//! Each pod has an area of its own, and the LAN a few by source address. An area has its own places for fragments and its own
//! rations of ICMP errors and of what the host is shown, so a flood costs nobody but its sender.

use crate::abi;
use crate::family::{Address, addr_hash};
use crate::plain;
use crate::shared::Shared;

/// ICMP errors of an area that may follow each other at once, after a while without any.
pub const ERROR_BURST: u64 = 1_000;

/// Time that pays for another one: 1000 per second.
pub const ERROR_INTERVAL_NS: u64 = 1_000_000;

/// The area of a machine on the LAN; that of a pod is its slot.
#[inline(always)]
pub fn lan_area<A: Address>(src: &A) -> u32 {
    abi::MAX_ENDPOINTS + (addr_hash(src) & (abi::LAN_AREAS - 1))
}

/// What the programs know of an area.
///
/// Of two CPUs that pay for an error at once one may do so for both.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Area {
    /// Pieces that have been given a place to wait, since ever: the next one's place, modulo [`abi::HELD_PER_AREA`].
    pub held_so_far: Shared<u64>,
    /// 1 while a CPU puts a datagram there, else 0.
    pub is_entered: Shared<u64>,
    /// Until when the errors sent so far take time to be paid for, `CLOCK_MONOTONIC`; 0 before the first.
    pub errors_paid_ns: Shared<u64>,
    /// The same of a pod's echo replies the host was shown.
    pub copies_paid_ns: Shared<u64>,
}

/// When the errors sent so far and another one are paid for; `None` if it has to wait (RFC 4443 section 2.4 (f), RFC 1812
/// section 4.3.2.8).
#[inline(always)]
pub const fn pay_error(paid_ns: u64, now_ns: u64) -> Option<u64> {
    let saved_since_ns = now_ns.saturating_sub(ERROR_BURST * ERROR_INTERVAL_NS);
    let from_ns = if paid_ns > saved_since_ns { paid_ns } else { saved_since_ns };
    let paid_ns = from_ns + ERROR_INTERVAL_NS;
    if paid_ns > now_ns { None } else { Some(paid_ns) }
}

plain!(Area { held_so_far, is_entered, errors_paid_ns, copies_paid_ns }: size 32, align 8);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many of a row of attempts are granted.
    fn granted(paid_ns: &mut u64, at_ns: impl IntoIterator<Item = u64>) -> u64 {
        let mut granted = 0;
        for now_ns in at_ns {
            if let Some(paid) = pay_error(*paid_ns, now_ns) {
                (*paid_ns, granted) = (paid, granted + 1);
            }
        }
        granted
    }

    #[test]
    fn a_burst_passes_and_then_as_many_as_time_pays_for() {
        let second = ERROR_BURST * ERROR_INTERVAL_NS;
        let mut paid_ns = 0;
        assert_eq!(granted(&mut paid_ns, (0..5_000).map(|_| 7 * second)), ERROR_BURST);
        assert_eq!(granted(&mut paid_ns, [7 * second + ERROR_INTERVAL_NS - 1]), 0);
        assert_eq!(granted(&mut paid_ns, (0..10_000).map(|i| 7 * second + i * ERROR_INTERVAL_NS / 10)), 999);
        assert_eq!(granted(&mut paid_ns, (0..5_000).map(|_| 100 * second)), ERROR_BURST, "saved up once, not more");
    }

    proptest! {
        #[test]
        fn never_more_than_a_burst_and_what_time_pays_for(
            start_ns in (1u64 << 31)..1u64 << 60,
            steps_ns in prop::collection::vec(0u64..3_000_000, 1..3000),
        ) {
            let mut now_ns = start_ns;
            let times = steps_ns.iter().map(|step| { now_ns += step; now_ns });
            let granted = granted(&mut 0, times.collect::<std::vec::Vec<_>>());
            let paid_for = ERROR_BURST + (now_ns - start_ns) / ERROR_INTERVAL_NS;
            prop_assert!(granted <= paid_for);
            prop_assert!(granted + 1 >= paid_for.min(steps_ns.len() as u64).min(ERROR_BURST));
        }
    }
}
