//! Which backend gets which bucket of a publish: in proportion to the weights, and so that a change of one backend moves few
//! buckets of the others. Pure.

use netns_ebpf_common::publish::BUCKETS;

/// A backend that takes new flows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share<'a> {
    /// Its name: the same pod gets the same buckets wherever and whenever they are handed out.
    pub(super) name: &'a str,
    /// In proportion to the others'; not 0.
    pub(super) weight: u32,
}

/// The index of the backend each bucket goes to. There is at least one backend, and no more than buckets.
///
/// Weighted rendezvous hashing (Thaler and Ravishankar 1998; scores by Schindelhauer and Schomaker 2005): a
/// bucket goes to the backend with the best score for it. Left at that, shares would be as uneven as chance has it; so the
/// best scores of all are honoured first, until each backend has its share.
pub(super) fn assign(backends: &[Share<'_>]) -> [usize; BUCKETS] {
    let mut left = quotas(backends);
    let mut scores: Vec<(f64, usize, usize)> = Vec::with_capacity(backends.len() * BUCKETS);
    for (i, backend) in backends.iter().enumerate() {
        let name = backend.name.bytes().fold(FNV_OFFSET, |h, b| (h ^ u64::from(b)).wrapping_mul(FNV_PRIME));
        for bucket in 0..BUCKETS {
            // Of 53 bits, so that it is exact, and never 0.
            let chance = ((mix(name ^ (bucket as u64) << 32) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            scores.push((-chance.ln() / f64::from(backend.weight), bucket, i));
        }
    }
    scores.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let mut owner = [None; BUCKETS];
    for (_, bucket, i) in scores {
        if left[i] > 0 && owner[bucket].is_none() {
            owner[bucket] = Some(i);
            left[i] -= 1;
        }
    }
    owner.map(|o| o.unwrap_or(0))
}

/// How many buckets each backend gets: what its weight says, rounded, and at least one.
fn quotas(backends: &[Share<'_>]) -> Vec<usize> {
    let mut quotas = vec![1; backends.len()];
    // The next one goes to whoever is owed most for its weight (Sainte-Laguë's method).
    for _ in backends.len()..BUCKETS {
        let owed = |i: &usize| f64::from(backends[*i].weight) / (quotas[*i] as f64 + 0.5);
        let most = (0..backends.len()).max_by(|a, b| owed(a).total_cmp(&owed(b)).then(b.cmp(a)));
        if let Some(most) = most {
            quotas[most] += 1;
        }
    }
    quotas
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x100_0000_01b3;

/// The finalizer of SplitMix64.
const fn mix(mut n: u64) -> u64 {
    n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(backends: &[(String, u32)]) -> Vec<Share<'_>> {
        backends.iter().map(|(name, weight)| Share { name, weight: *weight }).collect()
    }

    fn counts(of: &[(String, u32)]) -> Vec<usize> {
        let owner = assign(&shares(of));
        (0..of.len()).map(|i| owner.iter().filter(|o| **o == i).count()).collect()
    }

    fn named(weights: &[u32]) -> Vec<(String, u32)> {
        weights.iter().enumerate().map(|(i, w)| (format!("pod{i}"), *w)).collect()
    }

    #[test]
    fn shares_follow_the_weights() {
        for (weights, want) in [
            (&[1][..], &[256][..]),
            (&[7, 7], &[128, 128]),
            (&[3, 1], &[192, 64]),
            (&[1, 1, 2], &[64, 64, 128]),
            (&[100, 1], &[253, 3]),
            (&[1; 64], &[4; 64]),
        ] {
            assert_eq!(counts(&named(weights)), want, "{weights:?}");
        }
        let uneven = counts(&named(&[[100].as_slice(), &[1; 63]].concat()));
        assert!(uneven[0] >= 150 && uneven[1..].iter().all(|n| *n >= 1), "{uneven:?}");
    }

    #[test]
    fn order_and_time_do_not_matter() {
        let (a, b) = (named(&[3, 1, 2]), named(&[3, 1, 2]).into_iter().rev().collect::<Vec<_>>());
        let name = |of: &[(String, u32)]| assign(&shares(of)).map(|i| of[i].0.clone());
        assert_eq!(name(&a), name(&b));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_backend_gets_its_share(weights in proptest::collection::vec(1u32..=100, 1..64)) {
            let of = named(&weights);
            let counts = counts(&of);
            prop_assert_eq!(counts.iter().sum::<usize>(), BUCKETS);
            let total: u32 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let exact = f64::from(*weight) / f64::from(total) * BUCKETS as f64;
                prop_assert!(*count >= 1 && (*count as f64) < exact + 2.0, "{count} for {exact}");
            }
        }

        /// A backend less moves its own buckets, which must move, and few others.
        #[test]
        fn a_change_moves_few_buckets(weights in proptest::collection::vec(1u32..=5, 2..12), gone in 0usize..12) {
            let of = named(&weights);
            let gone = gone % of.len();
            let mut fewer = of.clone();
            fewer.remove(gone);
            let (before, after) = (assign(&shares(&of)), assign(&shares(&fewer)));
            let own = before.iter().filter(|i| **i == gone).count();
            let moved = (0..BUCKETS).filter(|b| of[before[*b]].0 != fewer[after[*b]].0).count();
            prop_assert!(moved >= own);
            prop_assert!(moved <= own + BUCKETS / 5, "{moved} of {BUCKETS} moved, {own} had to");
        }
    }
}
