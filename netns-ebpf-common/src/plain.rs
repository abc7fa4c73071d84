//! Plain bytes: types that may lie in a map, in a packet, or in whatever else two programs share.

/// A type whose values are their bytes: none of them is padding, and any bytes are a value.
///
/// [`plain!`](crate::plain!) implements it, with a proof.
///
/// # Safety
///
/// There is no padding, and every bit pattern is a value. The alignment does not matter: whoever reads a packet reads unaligned.
#[expect(unsafe_code, reason = "the promise is what lets values be read from the memory of maps and packets")]
pub unsafe trait Plain: MapType {}

/// What the maps of this side take: in user space `aya::Pod`.
#[cfg(feature = "user")]
pub use aya::Pod as MapType;

/// What the maps of this side take.
#[cfg(not(feature = "user"))]
pub trait MapType: Copy + 'static {}

#[cfg(not(feature = "user"))]
impl<T: Copy + 'static> MapType for T {}

macro_rules! integers {
    ($($t:ty),+) => {$(
        #[expect(unsafe_code, reason = "a promise about the layout")]
        // SAFETY: an integer has no padding, and any bits are one.
        unsafe impl Plain for $t {}
    )+};
}
integers!(u8, u16, u32, u64);

#[expect(unsafe_code, reason = "a promise about the layout")]
// SAFETY: an array is its elements, side by side.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// The bytes of values, one after the other.
#[expect(unsafe_code, reason = "this is what the promise is for")]
pub const fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: the slice's own memory and size; a plain type has no padding, so all of it is initialised.
    unsafe { core::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Implements [`Plain`], and for user space `aya::Pod`, if the fields named are all there are, each is plain,
/// and each begins where the one before ends. Size and alignment are named besides, so that a change of layout is a change of this
/// line and thereby of [`ABI_VERSION`](crate::abi::ABI_VERSION).
///
/// Both compilers prove it, that of the programs and that of user space. The derives of `zerocopy` and `bytemuck` do not take generic
/// types, as those with an address are: `plain!(Key<Addr4 | Addr6> { id, addr }: size 8 | 20, align 4)`.
///
/// ```
/// #[repr(C)]
/// #[derive(Clone, Copy)]
/// struct Whole { n: u64, of: u32, _pad: u32 }
/// netns_ebpf_common::plain!(Whole { n, of, _pad }: size 16, align 8);
/// ```
///
/// A hole at the end, before a field, a field left out, one that is not plain:
///
/// ```compile_fail
/// #[repr(C)]
/// #[derive(Clone, Copy)]
/// struct Whole { n: u64, of: u32 }
/// netns_ebpf_common::plain!(Whole { n, of }: size 16, align 8);
/// ```
/// ```compile_fail
/// #[repr(C)]
/// #[derive(Clone, Copy)]
/// struct Whole { of: u32, n: u64 }
/// netns_ebpf_common::plain!(Whole { of, n }: size 16, align 8);
/// ```
/// ```compile_fail
/// #[repr(C)]
/// #[derive(Clone, Copy)]
/// struct Whole { n: u64, of: u32, _pad: u32 }
/// netns_ebpf_common::plain!(Whole { n, of }: size 16, align 8);
/// ```
/// ```compile_fail
/// #[repr(C)]
/// #[derive(Clone, Copy)]
/// struct Whole { n: u64, of: u32, _pad: char }
/// netns_ebpf_common::plain!(Whole { n, of, _pad }: size 16, align 8);
/// ```
#[macro_export]
macro_rules! plain {
    ($name:ident<$($param:ty)|+> $fields:tt: size $($size:tt)|+, align $align:tt) => {
        $($crate::plain!(@proven $name, $name<$param>, $fields, $size, $align);)+
    };
    ($name:ident $fields:tt: size $size:tt, align $align:tt) => {
        $crate::plain!(@proven $name, $name, $fields, $size, $align);
    };
    (@proven $name:ident, $t:ty, { $($field:tt),+ }, $size:tt, $align:tt) => {
        const _: fn(&$t) = |whole| {
            let $name { $($field: _),+ } = whole;
        };
        const _: () = {
            let end = 0;
            $(
                assert!(
                    ::core::mem::offset_of!($t, $field) == end,
                    concat!("hole before ", stringify!($field), " of ", stringify!($t)),
                );
                let end = end + $crate::plain::size_of_field::<$t, _>(|whole| &whole.$field);
            )+
            assert!(::core::mem::size_of::<$t>() == end, concat!("hole at the end of ", stringify!($t)));
            assert!(end == $size, concat!("size of ", stringify!($t), " has changed"));
            assert!(::core::mem::align_of::<$t>() == $align, concat!("alignment of ", stringify!($t), " has changed"));
        };
        #[expect(unsafe_code, reason = "a promise about the layout")]
        // SAFETY: all fields are plain and they fill the type, as has just been shown.
        unsafe impl $crate::plain::Plain for $t {}
        $crate::aya_pod!($t);
    };
}

/// Size of the field a function gives.
#[doc(hidden)]
pub const fn size_of_field<T, F: Plain>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

#[cfg(feature = "user")]
#[doc(hidden)]
#[macro_export]
macro_rules! aya_pod {
    ($t:ty) => {
        #[expect(unsafe_code, reason = "aya asks for the same promise under a name of its own")]
        // SAFETY: the type is `Plain`.
        unsafe impl $crate::plain::MapType for $t {}
    };
}

#[cfg(not(feature = "user"))]
#[doc(hidden)]
#[macro_export]
macro_rules! aya_pod {
    ($t:ty) => {};
}
