//! Operations on a word of a map element that no other CPU sees half of (kernel 5.12, commits 5ca419f2864a and 981f94c3e921).
//!
//! Written as instructions, as core has none of them for targets without compare-and-swap of every width.

use core::arch::asm;

/// Adds to a word; returns what it was.
///
/// # Safety
///
/// `word` is 8-aligned and lies in a map element that a look-up of this run has given.
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, n: u64) -> u64 {
    let mut value = n;
    // SAFETY: the caller's promise; the instruction reads and writes this word and `value`.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})",
            value = inout(reg) value,
            word = in(reg) word,
            options(nostack),
        );
    }
    value
}

/// Adds to a word of half the width, modulo 2^32.
///
/// # Safety
///
/// `word` is 4-aligned and lies in a map element that a look-up of this run has given.
#[inline(always)]
pub unsafe fn add32(word: *mut u32, n: u32) {
    // SAFETY: as in `fetch_add`.
    unsafe {
        asm!("lock *(u32 *)({word} + 0) += {n}", word = in(reg) word, n = in(wreg) n, options(nostack));
    }
}

/// Sets bits of a word; returns what it was.
///
/// # Safety
///
/// As for [`fetch_add`].
#[inline(always)]
pub unsafe fn fetch_or(word: *mut u64, bits: u64) -> u64 {
    let mut value = bits;
    // SAFETY: as in `fetch_add`.
    unsafe {
        asm!(
            "{value} = atomic_fetch_or((u64 *)({word} + 0), {value})",
            value = inout(reg) value,
            word = in(reg) word,
            options(nostack),
        );
    }
    value
}

/// Keeps those bits of a word only; returns what it was.
///
/// # Safety
///
/// As for [`fetch_add`].
#[inline(always)]
pub unsafe fn fetch_and(word: *mut u64, bits: u64) -> u64 {
    let mut value = bits;
    // SAFETY: as in `fetch_add`.
    unsafe {
        asm!(
            "{value} = atomic_fetch_and((u64 *)({word} + 0), {value})",
            value = inout(reg) value,
            word = in(reg) word,
            options(nostack),
        );
    }
    value
}

/// Replaces a word; returns what it was.
///
/// # Safety
///
/// As for [`fetch_add`].
#[inline(always)]
pub unsafe fn swap(word: *mut u64, new: u64) -> u64 {
    let mut value = new;
    // SAFETY: as in `fetch_add`.
    unsafe {
        asm!(
            "{value} = xchg_64({word} + 0, {value})",
            value = inout(reg) value,
            word = in(reg) word,
            options(nostack),
        );
    }
    value
}
