//! Functions of the kernel that programs call by their number in its type information, which each kernel has its own of.
//!
//! The object calls them by placeholders, as helpers nobody has; user space puts the numbers in before it loads the object.

/// `bpf_cast_to_kern_ctx` (kernel 6.2, commit fd264ca02094): the structure behind a program's context. Costs nothing: the
/// verifier makes a move of it.
pub const CAST_TO_KERN_CTX: Kfunc = Kfunc { name: "bpf_cast_to_kern_ctx", placeholder: 0x6b66_0001 };

/// `bpf_skb_ct_lookup` (kernel 5.18, commit b4c2b9593a1c): what connection tracking knows of a tuple.
pub const SKB_CT_LOOKUP: Kfunc = Kfunc { name: "bpf_skb_ct_lookup", placeholder: 0x6b66_0002 };

/// `bpf_ct_release`: gives back what the look-up has found.
pub const CT_RELEASE: Kfunc = Kfunc { name: "bpf_ct_release", placeholder: 0x6b66_0003 };

/// The constant of the object, a byte, that says whether [`SKB_CT_LOOKUP`] and [`CT_RELEASE`] are linked.
pub const HOST_CONNTRACK: &str = "HOST_CONNTRACK";

/// A function of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kfunc {
    /// Its name.
    pub name: &'static str,
    /// What the object's calls have for a number.
    pub placeholder: u32,
}

/// Bytes of an instruction.
const INSN_BYTES: usize = 8;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL` as the source register, the upper half of the second byte.
const KFUNC_CALL: u8 = 2 << 4;

impl Kfunc {
    /// Makes every call by the placeholder in an object's code one of the kernel's function `number`; returns how many.
    ///
    /// Sections of code are aligned to instructions, and nothing else of an object looks like such a call.
    pub fn link(self, object: &mut [u8], number: u32) -> usize {
        let [a, b, c, d] = self.placeholder.to_ne_bytes();
        let call = [CALL, 0, 0, 0, a, b, c, d];
        let mut calls = 0;
        for insn in object.chunks_exact_mut(INSN_BYTES).filter(|insn| **insn == call) {
            insn[1] = KFUNC_CALL;
            insn[4..].copy_from_slice(&number.to_ne_bytes());
            calls += 1;
        }
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_by_the_placeholder_get_the_number() {
        let [a, b, c, d] = CAST_TO_KERN_CTX.placeholder.to_ne_bytes();
        let (call, helper) = ([0x85, 0, 0, 0, a, b, c, d], [0x85, 0, 0, 0, 1, 0, 0, 0]);
        let immediate = [0xb7, 1, 0, 0, a, b, c, d];
        let mut object = [helper, call, immediate, call].concat();
        // Not at an instruction's place.
        object.extend_from_slice(&[[0; 4].as_slice(), &call, &[0; 4]].concat());
        let before = object.clone();
        assert_eq!(CAST_TO_KERN_CTX.link(&mut object, 0x0102_0304), 2);
        let [e, f, g, h] = 0x0102_0304_u32.to_ne_bytes();
        let linked = [0x85, 0x20, 0, 0, e, f, g, h];
        assert_eq!(object[..32], [helper, linked, immediate, linked].concat());
        assert_eq!(object[32..], before[32..]);
        assert_eq!(CAST_TO_KERN_CTX.link(&mut object, 7), 0);
    }
}
