//! The one place that promises the kernel a type is plain bytes.

/// Asserts the layout of a map type at compile time and, for user space, implements `aya::Pod`.
///
/// Each use names the size and the alignment, so a change of layout is a change of this line and thereby of
/// [`crate::abi::ABI_VERSION`].
macro_rules! pod {
    ($t:ty: size $size:expr, align $align:expr) => {
        const _: () = assert!(core::mem::size_of::<$t>() == $size, "size of a shared type changed");
        const _: () = assert!(core::mem::align_of::<$t>() == $align, "alignment of a shared type changed");
        #[cfg(feature = "user")]
        #[expect(unsafe_code, reason = "aya asks for a promise about the layout")]
        // SAFETY: the type is `repr(C)`, `Copy` and made of integers and byte arrays only; its size, asserted
        // above, is the sum of its fields' sizes (padding is spelled out as `_pad` fields), so every byte of it
        // is initialised and every bit pattern the kernel hands back is a value.
        unsafe impl aya::Pod for $t {}
    };
}

pub(crate) use pod;
