//! Programs, maps and links in the kernel.
