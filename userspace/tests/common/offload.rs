//! Which work a device takes off the kernel's hands.

use std::ffi::c_char;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::libc;

/// `ETHTOOL_STXCSUM`: whether it computes checksums of what it sends.
const SET_TX_CHECKSUM: u32 = 0x17;
/// `SIOCETHTOOL`.
const ETHTOOL: libc::c_ulong = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ifreq` with a pointer in its union.
#[repr(C)]
struct Request {
    name: [c_char; libc::IFNAMSIZ],
    value: *mut Value,
    _rest: [u8; 16],
}

/// `ethtool -K ifname tx on` or `off`, in the calling thread's namespace.
///
/// # Panics
/// When there is no such device, or it refuses.
#[expect(unsafe_code, reason = "no safe crate in use here has this request")]
pub fn set_tx_checksum(ifname: &str, on: bool) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut value = Value { command: SET_TX_CHECKSUM, data: on.into() };
    let mut request = Request { name: [0; libc::IFNAMSIZ], value: &raw mut value, _rest: [0; 16] };
    assert!(ifname.len() < request.name.len());
    for (to, from) in request.name.iter_mut().zip(ifname.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: `request` and what it points to are as the kernel has them and outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL, &raw mut request) };
    assert_eq!(done, 0, "{ifname}: {}", io::Error::last_os_error());
}
