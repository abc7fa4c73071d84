//! Elements of maps in place: the one file where what other CPUs may change meanwhile is loaded, stored and changed.
//!
//! A [`Place`] comes from a look-up of this run, so its memory is there until the run ends: an element that is removed is freed after a
//! grace period. Another element may get the memory at once, which is why what is read of one may be another's: the types of `maps`
//! say each what that costs.

use core::arch::asm;
use core::ptr::NonNull;

use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use netns_ebpf_common::plain::Plain;
use netns_ebpf_common::shared::Shared;

/// An element of a map, or a part of one.
pub struct Place<T>(NonNull<T>);

impl<T> Clone for Place<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Place<T> {}

impl<T> PartialEq for Place<T> {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// A map whose elements can be used in place.
pub trait Places<K, V> {
    /// Where the element of a key is.
    fn place(&self, key: K) -> Option<Place<V>>;
}

macro_rules! places {
    ($map:ty, $key:ty $(, $param:ident)?) => {
        impl<$($param,)? V> Places<$key, V> for $map {
            #[inline(always)]
            fn place(&self, key: $key) -> Option<Place<V>> {
                self.get_ptr_mut(key).and_then(NonNull::new).map(Place)
            }
        }
    };
}
places!(Array<V>, u32);
places!(PerCpuArray<V>, u32);
places!(HashMap<K, V>, &K, K);
places!(LruHashMap<K, V>, &K, K);

/// A field of the element at a place.
macro_rules! field {
    ($place:expr, $field:ident) => {{
        let place = $place;
        // SAFETY: the place is that of a whole element, so the field is inside of what the look-up gave.
        unsafe { place.part(|whole| &raw mut (*whole).$field) }
    }};
}
pub(super) use field;

impl<T> Place<T> {
    /// A part of the element.
    ///
    /// # Safety
    ///
    /// `part` gives a pointer into what it gets, aligned as an `F` is.
    #[inline(always)]
    pub(super) unsafe fn part<F>(self, part: impl FnOnce(*mut T) -> *mut F) -> Place<F> {
        // SAFETY: a pointer into an element is not null.
        Place(unsafe { NonNull::new_unchecked(part(self.0.as_ptr())) })
    }
}

impl<T: Plain> Place<T> {
    /// What is there, of what nobody changes while the element is in the map.
    #[inline(always)]
    pub fn get(self) -> T {
        // SAFETY: memory of a map that outlives the run, aligned as the element is; any bytes are a value.
        unsafe { self.0.as_ptr().read() }
    }
}

impl<T, const N: usize> Place<[T; N]> {
    /// An element of an array, counted around it.
    #[inline(always)]
    pub fn at(self, index: usize) -> Place<T> {
        const { assert!(N.is_power_of_two()) }
        // SAFETY: the index is below the length; the mask shows it to the verifier.
        unsafe { self.part(|array| array.cast::<T>().add(index & (N - 1))) }
    }
}

impl<T: Plain> Place<Shared<T>> {
    const WHOLE: () = assert!(size_of::<T>() <= 8 && size_of::<T>() == align_of::<T>());

    /// The word as it is at this moment.
    #[inline(always)]
    pub fn load(self) -> T {
        const { Self::WHOLE }
        // SAFETY: memory of a map that outlives the run, any bytes are a value. An aligned word is read at once; volatile, so that it
        // is read each time that it is asked for, and then only.
        unsafe { self.0.as_ptr().read_volatile() }.get()
    }

    /// Puts a word there, whatever others have done meanwhile.
    #[inline(always)]
    pub fn store(self, word: T) {
        const { Self::WHOLE }
        // SAFETY: as in `load`, and every element of a map may be written.
        unsafe { self.0.as_ptr().write_volatile(Shared::new(word)) };
    }
}

/// Operations no other CPU sees half of (kernel 5.12, commits 5ca419f2864a and 981f94c3e921). Each returns what the word was. They are
/// written as instructions, as core has none for targets without compare-and-swap of every width.
macro_rules! atomic {
    ($(#[$on:meta])* $word:ty, $register:ident: $($(#[$what:meta])* $name:ident $instruction:literal)+) => {
        $(#[$on])*
        impl Place<Shared<$word>> {$(
            $(#[$what])*
            #[inline(always)]
            pub fn $name(self, operand: $word) -> $word {
                let mut value = operand;
                // SAFETY: the instruction changes this word of a map, aligned as its type is, and `value`.
                unsafe {
                    asm!($instruction, value = inout($register) value, word = in(reg) self.0.as_ptr(), options(nostack));
                }
                value
            }
        )+}
    };
}

atomic!(u64, reg:
    /// Adds to it, modulo 2^64.
    fetch_add "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})"
    /// Sets bits of it.
    fetch_or "{value} = atomic_fetch_or((u64 *)({word} + 0), {value})"
    /// Keeps those bits of it only.
    fetch_and "{value} = atomic_fetch_and((u64 *)({word} + 0), {value})"
    /// Replaces it.
    swap "{value} = xchg_64({word} + 0, {value})"
);
atomic!(#[expect(dead_code, reason = "for flow entries")] u32, wreg:
    /// Adds to it, modulo 2^32.
    fetch_add "{value} = atomic_fetch_add((u32 *)({word} + 0), {value})"
    /// Sets bits of it.
    fetch_or "{value} = atomic_fetch_or((u32 *)({word} + 0), {value})"
    /// Keeps those bits of it only.
    fetch_and "{value} = atomic_fetch_and((u32 *)({word} + 0), {value})"
    /// Replaces it.
    swap "{value} = xchg32_32({word} + 0, {value})"
);
