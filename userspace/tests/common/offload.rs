//! Checksums left to a device: whether it computes them, and frames whose sender says which.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `struct virtio_net_hdr`, as a packet socket with `PACKET_VNET_HDR` takes it before a frame.
pub const HEADER_BYTES: usize = 10;

/// The header of a frame whose checksum is left to the device: it sums from `start` on and writes the result `offset` bytes
/// behind that.
pub fn partial(start: usize, offset: usize) -> [u8; HEADER_BYTES] {
    const NEEDS_CSUM: u8 = 1;
    let ([a, b], [c, d]) = ((start as u16).to_ne_bytes(), (offset as u16).to_ne_bytes());
    [NEEDS_CSUM, 0, 0, 0, 0, 0, a, b, c, d]
}

/// Has a device of the calling thread's namespace compute transport checksums when it sends, or the kernel before it does.
#[expect(unsafe_code, reason = "no crate in use here speaks ethtool")]
pub fn set_tx_checksums(ifname: &str, on: bool) {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    #[repr(C)]
    struct Value {
        cmd: u32,
        data: u32,
    }
    let name = CString::new(ifname).expect("an interface name");
    let mut value = Value { cmd: ETHTOOL_STXCSUM, data: on.into() };
    // SAFETY: all zeros is an `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).expect("a socket to ask by");
    // SAFETY: the request names an interface and points to what the command takes; both outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    assert_eq!(done, 0, "checksums of {ifname}: {}", io::Error::last_os_error());
}
