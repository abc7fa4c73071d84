//! The order in which a source port is searched.

/// Port number `i` of a search through the range `min..=max` for a flow whose own port is `own`.
///
/// Ports with the parity of `own` come first (RFC 4787 REQ-4), then the others, each from a place `start` gives: every port
/// of the range once, for `i` below its length. `None` beyond that, or for a range without ports.
#[inline(always)]
pub const fn candidate(min: u16, max: u16, own: u16, start: u32, i: u32) -> Option<u16> {
    if max < min {
        return None;
    }
    let span = (max - min) as u32 + 1;
    let odd_one_out = (min ^ own) & 1;
    // From a first port with the parity of `min`, every second one.
    let (even, odd) = (span.div_ceil(2), span / 2);
    let (same, other) = if odd_one_out == 0 { (even, odd) } else { (odd, even) };
    let (parity, nth, count) = if i < same { (odd_one_out, i, same) } else { (odd_one_out ^ 1, i - same, other) };
    if nth >= count {
        return None;
    }
    match start.wrapping_add(nth).checked_rem(count) {
        Some(at) => Some((min as u32 + parity as u32 + 2 * at) as u16),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn all(min: u16, max: u16, own: u16, start: u32) -> Vec<u16> {
        (0..).map_while(|i| candidate(min, max, own, start, i)).collect()
    }

    #[test]
    fn small_ranges() {
        assert_eq!(all(20, 25, 4, 0), [20, 22, 24, 21, 23, 25]);
        assert_eq!(all(20, 25, 5, 0), [21, 23, 25, 20, 22, 24]);
        assert_eq!(all(21, 25, 4, 1), [24, 22, 23, 25, 21]);
        assert_eq!(all(21, 21, 4, 7), [21]);
        assert_eq!(all(21, 21, 5, 7), [21]);
        assert_eq!(all(0, u16::MAX, 5, u32::MAX).len(), 65_536);
        assert_eq!(all(5, 4, 5, 0), []);
    }

    proptest! {
        #[test]
        fn every_port_is_tried_once_and_those_of_the_same_parity_first(
            min in 1_u16.., len in 0_u16..300, own: u16, start in 0_u32..0x1_0000,
        ) {
            let max = min.saturating_add(len);
            let tried = all(min, max, own, start);
            prop_assert_eq!(tried.iter().copied().collect::<BTreeSet<_>>(), (min..=max).collect::<BTreeSet<_>>());
            prop_assert_eq!(tried.len(), usize::from(max - min) + 1);
            let first_other = tried.iter().position(|p| (p ^ own) & 1 == 1).unwrap_or(tried.len());
            prop_assert!(tried[first_other..].iter().all(|p| (p ^ own) & 1 == 1));
        }
    }
}
