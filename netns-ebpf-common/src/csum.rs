//! Incremental Internet checksums (RFC 1071, RFC 1624).
//!
//! A [`Sum`] is a ones'-complement difference in the kernel's sense (`__wsum`): 16-bit words read in native order from
//! network-order bytes. RFC 1071 section 2(B) shows why the byte order of the reads does not matter as long as the folded
//! result is stored the same way.

/// A running ones'-complement sum of 16-bit words, not yet folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Sum(pub u32);

#[inline(always)]
const fn add(a: u32, b: u32) -> u32 {
    let s = a as u64 + b as u64;
    (s as u32).wrapping_add((s >> 32) as u32)
}

impl Sum {
    /// Adds bytes that are now in the packet.
    #[inline(always)]
    #[expect(clippy::should_implement_trait, reason = "takes the bytes of a field, not another sum")]
    pub fn add<const N: usize>(mut self, bytes: [u8; N]) -> Self {
        let mut i = 0;
        while i + 1 < N {
            self.0 = add(self.0, u16::from_ne_bytes([bytes[i], bytes[i + 1]]) as u32);
            i += 2;
        }
        if i < N {
            self.0 = add(self.0, u16::from_ne_bytes([bytes[i], 0]) as u32);
        }
        self
    }

    /// Takes away bytes that were in the packet.
    #[inline(always)]
    #[expect(clippy::should_implement_trait, reason = "takes the bytes of a field, not another sum")]
    pub fn sub<const N: usize>(mut self, bytes: [u8; N]) -> Self {
        let mut i = 0;
        while i + 1 < N {
            self.0 = add(self.0, !u16::from_ne_bytes([bytes[i], bytes[i + 1]]) as u32);
            i += 2;
        }
        if i < N {
            self.0 = add(self.0, !u16::from_ne_bytes([bytes[i], 0]) as u32);
        }
        self
    }

    /// Adds another sum.
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// Folded to 16 bits, native order, not complemented.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let s = (self.0 & 0xffff) + (self.0 >> 16);
        let s = (s & 0xffff) + (s >> 16);
        s as u16
    }

    /// The checksum field of data with this sum.
    #[inline(always)]
    pub const fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// The word to put behind data with this sum that makes one of its words, `field`, its checksum as it is: whoever computes
    /// that and writes it there changes nothing. There is none for 0, which nobody writes.
    #[inline(always)]
    pub fn balance(self, field: [u8; 2]) -> [u8; 2] {
        self.add(field).checksum()
    }

    /// The checksum field `old` after the change this sum describes (RFC 1624 equation 3).
    #[inline(always)]
    pub const fn update(self, old: [u8; 2]) -> [u8; 2] {
        let not_old = !u16::from_ne_bytes(old);
        Sum(add(self.0, not_old as u32)).checksum()
    }
}

/// The checksum of a whole slice: for tests and for user space.
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    sum(bytes).checksum()
}

/// The sum of a whole slice.
pub fn sum(bytes: &[u8]) -> Sum {
    let mut s = Sum::default();
    let mut chunks = bytes.chunks_exact(2);
    for c in &mut chunks {
        s = s.add([c[0], c[1]]);
    }
    if let [last] = chunks.remainder() {
        s = s.add([*last]);
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// RFC 1071 section 3.
    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes).fold().to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn every_hop_limit_decrement_matches_a_full_sum() {
        for ttl in 1..=255u8 {
            for proto in [1u8, 6, 17, 255] {
                let mut header = [0x45, 0, 0, 40, 1, 2, 0x40, 0, ttl, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
                let old = checksum(&header);
                header[10..12].copy_from_slice(&old);
                let new = Sum::default().sub([ttl, proto]).add([ttl - 1, proto]).update(old);
                header[8] = ttl - 1;
                header[10..12].copy_from_slice(&new);
                assert_eq!(sum(&header).fold(), 0xffff);
            }
        }
    }

    proptest! {
        /// RFC 1624: the incremental form agrees with the sum over everything, in every position and for every value.
        #[test]
        fn incremental_equals_full(mut bytes in proptest::collection::vec(any::<u8>(), 22..120), at in 0usize..20, new: [u8; 4]) {
            let at = at & !1;
            let len = bytes.len();
            bytes.resize(len.next_multiple_of(2), 0);
            let old: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            let before = checksum(&bytes);
            let updated = Sum::default().sub(old).add(new).update(before);
            bytes[at..at + 4].copy_from_slice(&new);
            let full = checksum(&bytes);
            // 0x0000 and 0xffff are the same number; a sum of all-zero data is the only one that differs.
            let norm = |c: [u8; 2]| if c == [0xff, 0xff] { [0, 0] } else { c };
            prop_assert_eq!(norm(updated), norm(full));
        }

        /// As the kernel does for a device that cannot (`skb_checksum_help`): sums all, the field included, and writes the
        /// result there, 0 as 0xffff.
        #[test]
        fn a_balanced_checksum_is_computed_as_what_it_is(
            mut bytes in proptest::collection::vec(any::<u8>(), 2..120),
            at in 0usize..118,
            field in prop_oneof![any::<u16>(), Just(0xffff), Just(1)],
        ) {
            prop_assume!(field != 0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let at = at.min(bytes.len() - 2) & !1;
            bytes[at..at + 2].copy_from_slice(&field.to_be_bytes());
            let word = sum(&bytes).balance(field.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(word);
            let computed = match checksum(&bytes) {
                [0, 0] => [0xff, 0xff],
                other => other,
            };
            prop_assert_eq!(computed, field.to_be_bytes());
        }

        #[test]
        fn sums_do_not_depend_on_how_bytes_are_cut(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0usize..64) {
            let cut = cut.min(bytes.len()) & !1;
            let whole = sum(&bytes).fold();
            let parts = sum(&bytes[..cut]).plus(sum(&bytes[cut..])).fold();
            prop_assert_eq!(whole, parts);
            let _: Vec<u8> = bytes;
        }
    }
}
