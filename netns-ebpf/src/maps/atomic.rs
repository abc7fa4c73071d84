//! Operations on a word of a map element that no other CPU sees half of (kernel 5.12, commits 5ca419f2864a and 981f94c3e921).
//!
//! Written as instructions, as core has none of them for targets without compare-and-swap of every width.

use core::arch::asm;

macro_rules! fetch {
    ($(#[$what:meta])* $name:ident, $instruction:literal) => {
        $(#[$what])*
        /// Returns what it was.
        ///
        /// # Safety
        ///
        /// `word` is 8-aligned and lies in a map element that a look-up of this run has given.
        #[inline(always)]
        pub unsafe fn $name(word: *mut u64, operand: u64) -> u64 {
            let mut value = operand;
            // SAFETY: the caller's promise; the instruction reads and writes this word and `value`.
            unsafe { asm!($instruction, value = inout(reg) value, word = in(reg) word, options(nostack)) };
            value
        }
    };
}

fetch!(
    /// Adds to a word, modulo 2^64.
    fetch_add,
    "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})"
);
fetch!(
    /// Sets bits of a word.
    fetch_or,
    "{value} = atomic_fetch_or((u64 *)({word} + 0), {value})"
);
fetch!(
    /// Keeps those bits of a word only.
    fetch_and,
    "{value} = atomic_fetch_and((u64 *)({word} + 0), {value})"
);
/// Stores `new` in a word if it is `old`; says whether it was.
///
/// # Safety
///
/// As of the others.
#[inline(always)]
pub unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> bool {
    let mut found = old;
    // SAFETY: the caller's promise; the instruction reads and writes this word and r0.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inout("r0") found,
            options(nostack)
        );
    }
    found == old
}

/// Adds to a word of half the width, modulo 2^32.
///
/// # Safety
///
/// `word` is 4-aligned and lies in a map element that a look-up of this run has given.
#[inline(always)]
pub unsafe fn add32(word: *mut u32, n: u32) {
    // SAFETY: the caller's promise; the instruction reads and writes this word.
    unsafe {
        asm!("lock *(u32 *)({word} + 0) += {n}", word = in(reg) word, n = in(wreg) n, options(nostack));
    }
}
