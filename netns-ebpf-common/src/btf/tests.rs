use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// Type information under construction.
#[derive(Default)]
struct Build {
    types: Vec<u32>,
    strings: Vec<u8>,
    count: u32,
}

impl Build {
    fn new() -> Self {
        Self { strings: [0].into(), ..Self::default() }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// Returns the number of the type.
    fn add(&mut self, name: &str, info: u32, body: &[u32]) -> u32 {
        let name = self.string(name);
        self.types.extend_from_slice(&[name, info, 0]);
        self.types.extend_from_slice(body);
        self.count += 1;
        self.count
    }

    /// A structure or union whose members' offsets carry widths.
    fn compound(&mut self, kind: u32, name: &str, members: &[(&str, u32, u32)]) -> u32 {
        let body: Vec<u32> = members.iter().flat_map(|(name, of, off)| [self.string(name), *of, *off]).collect();
        self.add(name, 1 << 31 | kind << 24 | members.len() as u32, &body)
    }

    fn bytes(&self) -> Vec<u8> {
        let types: Vec<u8> = self.types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&[1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, self.strings.len() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        [bytes, types, self.strings.clone()].concat()
    }
}

/// A structure as the kernel's `sk_buff` is: the member that is looked for lies in a structure in a union, both without a name.
fn example() -> Vec<u8> {
    let mut b = Build::new();
    let int = b.add("unsigned char", kind::INT << 24, &[8]);
    b.add("list", kind::ARRAY << 24, &[int, int, 4]);
    b.add("colour", kind::ENUM << 24 | 2, &[0; 4]);
    let inner = b.compound(kind::STRUCT, "", &[("pad", int, 0), ("summed", int, 2 << 24 | 13)]);
    let named = b.compound(kind::STRUCT, "headers", &[("hidden", int, 0)]);
    let union = b.compound(kind::UNION, "", &[("", inner, 0), ("headers", named, 0)]);
    b.add("packet_ends", kind::FUNC << 24, &[]);
    b.compound(kind::UNION, "packet", &[("wrong", int, 0)]);
    b.compound(kind::STRUCT, "packet", &[("next", int, 0), ("", union, 64), ("head", int, 128)]);
    b.add("packet", kind::FUNC << 24, &[]);
    b.bytes()
}

#[test]
fn members_are_found_where_they_lie() {
    let bytes = example();
    let btf = Btf::parse(&bytes).expect("BTF");
    assert_eq!(btf.member("packet", "head"), Some(Member { bit_off: 128, bits: 0 }));
    assert_eq!(btf.member("packet", "summed"), Some(Member { bit_off: 64 + 13, bits: 2 }));
    // Of a member with a name, not of the structure.
    assert_eq!(btf.member("packet", "hidden"), None);
    // The union of the same name, and a name that is the beginning of another.
    assert_eq!(btf.member("packet", "wrong"), None);
    assert_eq!(btf.member("pack", "head"), None);
}

#[test]
fn functions_have_numbers_from_1() {
    let bytes = example();
    let btf = Btf::parse(&bytes).expect("BTF");
    assert_eq!(btf.function("packet_ends"), Some(7));
    assert_eq!(btf.function("packet"), Some(10));
    assert_eq!(btf.function("packet_end"), None);
    assert_eq!(btf.function(""), None);
}

#[test]
fn a_kind_nobody_knows_is_refused() {
    let mut b = Build::new();
    b.add("new", (kind::LAST + 1) << 24, &[]);
    assert!(Btf::parse(&b.bytes()).is_none());
}

proptest! {
    #[test]
    fn garbage_is_no_panic(mut bytes in Just(example()), at in 0..200_usize, with in any::<[u8; 4]>(), cut in 0..400_usize) {
        let at = at.min(bytes.len() - 4);
        bytes[at..at + 4].copy_from_slice(&with);
        bytes.truncate(cut.max(8));
        if let Some(btf) = Btf::parse(&bytes) {
            let _ = (btf.member("packet", "summed"), btf.function("packet"));
        }
    }
}
