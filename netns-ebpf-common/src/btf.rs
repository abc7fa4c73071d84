//! Reads the kernel's type information, BTF: where the fields of its structures lie, which number a function has.
//!
//! For user space only: the programs get what it finds as constants.

use std::vec::Vec;

/// Where a kernel built with them (`CONFIG_DEBUG_INFO_BTF`) shows its types.
pub const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;

/// Kinds of types that are looked for or looked into; the others matter by their length only.
mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const ENUM64: u32 = 19;
    /// The last one known, by which an unknown one is told.
    pub const LAST: u32 = ENUM64;
}

/// Bytes before what is particular to a kind: name, kind and count, size or type.
const HEAD_BYTES: usize = 12;
/// Name, type, offset.
const MEMBER_BYTES: usize = 12;
/// Anonymous members are followed this deep: in the kernel's own it is less.
const MAX_DEPTH: u32 = 8;

/// Type information as the kernel shows it in [`KERNEL_TYPES`].
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins; number 0 is `void` and has no place.
    places: Vec<u32>,
}

/// Where a member lies in its structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Offset in bits; on a big-endian machine a bit field counts from the most significant end.
    pub bit_off: u32,
    /// Width of a bit field; 0 for one that is none.
    pub bits: u32,
}

#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    info: u32,
    body: &'a [u8],
}

impl Type<'_> {
    const fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    const fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Whether offsets of members carry the width of bit fields.
    const fn has_widths(self) -> bool {
        self.info >> 31 != 0
    }
}

impl<'a> Btf<'a> {
    /// Takes it apart; `None` if it is none of this machine's byte order, or of kinds nobody knew when this was written.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        let header_len = word(bytes, 4)? as usize;
        if magic != MAGIC {
            return None;
        }
        let section = |at: usize| {
            let off = header_len.checked_add(word(bytes, at)? as usize)?;
            bytes.get(off..off.checked_add(word(bytes, at + 4)? as usize)?)
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut this = Self { types, strings, places: Vec::new() };
        let mut at = 0;
        while at < types.len() {
            this.places.push(u32::try_from(at).ok()?);
            at += HEAD_BYTES + body_bytes(word(types, at + 4)?)?;
        }
        (at == types.len()).then_some(this)
    }

    /// The number of a function.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.find(kind::FUNC, name)
    }

    /// A member of a structure, wherever it stands among the anonymous ones in it.
    pub fn member(&self, structure: &str, name: &str) -> Option<Member> {
        self.member_of(self.find(kind::STRUCT, structure)?, name, 0)
    }

    fn find(&self, kind: u32, name: &str) -> Option<u32> {
        let numbers = 1..=u32::try_from(self.places.len()).ok()?;
        numbers.into_iter().find(|number| {
            self.get(*number).is_some_and(|found| found.kind() == kind && self.is_named(found.name, name))
        })
    }

    fn member_of(&self, number: u32, name: &str, depth: u32) -> Option<Member> {
        let outer = self.get(number).filter(|t| matches!(t.kind(), kind::STRUCT | kind::UNION))?;
        if depth > MAX_DEPTH {
            return None;
        }
        outer.body.chunks_exact(MEMBER_BYTES).take(outer.count()).find_map(|member| {
            let (called, of, off) = (word(member, 0)?, word(member, 4)?, word(member, 8)?);
            let (bit_off, bits) = if outer.has_widths() { (off & 0xff_ffff, off >> 24) } else { (off, 0) };
            if called == 0 {
                let inner = self.member_of(of, name, depth + 1)?;
                return Some(Member { bit_off: bit_off.checked_add(inner.bit_off)?, ..inner });
            }
            self.is_named(called, name).then_some(Member { bit_off, bits })
        })
    }

    fn get(&self, number: u32) -> Option<Type<'a>> {
        let at = *self.places.get((number as usize).checked_sub(1)?)? as usize;
        let info = word(self.types, at + 4)?;
        let body = self.types.get(at + HEAD_BYTES..at + HEAD_BYTES + body_bytes(info)?)?;
        Some(Type { name: word(self.types, at)?, info, body })
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let rest = self.strings.get(name as usize..).and_then(|s| s.strip_prefix(wanted.as_bytes()));
        matches!(rest, Some([0, ..]))
    }
}

/// Length of what follows the head of a type.
const fn body_bytes(info: u32) -> Option<usize> {
    let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
    Some(match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
        kind::ENUM | kind::FUNC_PROTO => 8 * count,
        _ if kind > kind::LAST => return None,
        _ => 0,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
