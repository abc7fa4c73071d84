//! Frames as they are on an interface: sent and received by packet sockets.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{LinkAddr, recvfrom};
use std::os::fd::AsFd;

/// A packet socket bound to one interface of the namespace it was opened in; sees every frame, both ways.
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Opens it on an interface of the calling thread's namespace.
    ///
    /// # Panics
    /// When there is no such interface.
    pub fn open(ifname: &str) -> Self {
        Self { socket: bound_to(ifname, (libc::ETH_P_ALL as u16).to_be()) }
    }

    /// From here on each frame has a header of [`super::offload`] before it, both ways.
    #[expect(unsafe_code, reason = "as in `open`")]
    pub fn with_offload_headers(self) -> Self {
        const PACKET_VNET_HDR: libc::c_int = 15;
        let on: libc::c_int = 1;
        let length = size_of_val(&on) as libc::socklen_t;
        // SAFETY: pointer and length describe `on`, which lives until the call returns.
        let set = unsafe {
            libc::setsockopt(self.socket.as_raw_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, (&raw const on).cast(), length)
        };
        assert_eq!(set, 0, "offload headers: {}", io::Error::last_os_error());
        self
    }

    /// Sends one frame, link-layer header first.
    pub fn send(&self, frame: &[u8]) {
        let sent = nix::unistd::write(&self.socket, frame).expect("send a frame");
        assert_eq!(sent, frame.len());
    }

    /// As [`Self::find`], with what the kernel takes the frame for: `PACKET_HOST`, `PACKET_OTHERHOST`, ...
    pub fn find_kind(&self, timeout: Duration, mut wanted: impl FnMut(&[u8]) -> bool) -> Option<(Vec<u8>, u8)> {
        let mut kind = 0;
        let receive = |block: &mut [u8]| {
            let (n, from) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), block).expect("receive a frame");
            (n, from.expect("a packet socket says where a frame is from").pkttype())
        };
        let frame = self.find_by(timeout, receive, |frame, of| {
            kind = of;
            wanted(frame)
        })?;
        Some((frame, kind))
    }

    /// The first frame that `wanted` likes among those that have come and those that come within `timeout`.
    pub fn find(&self, timeout: Duration, mut wanted: impl FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        let receive = |block: &mut [u8]| (nix::unistd::read(&self.socket, block).expect("receive a frame"), ());
        self.find_by(timeout, receive, |frame, ()| wanted(frame))
    }

    fn find_by<T>(
        &self,
        timeout: Duration,
        receive: impl Fn(&mut [u8]) -> (usize, T),
        mut wanted: impl FnMut(&[u8], T) -> bool,
    ) -> Option<Vec<u8>> {
        let end = Instant::now() + timeout;
        let mut block = vec![0; 65_700];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut wish = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if poll(&mut wish, wait).expect("poll a packet socket") == 0 {
                return None;
            }
            let (n, of) = receive(&mut block);
            if wanted(&block[..n], of) {
                return Some(block[..n].to_vec());
            }
        }
    }
}

/// A packet socket of an interface that gets frames of this protocol, in network order; 0: none.
///
/// # Panics
/// When there is no such interface.
#[expect(unsafe_code, reason = "no safe crate in use here binds a packet socket to an interface")]
pub fn bound_to(ifname: &str, protocol: u16) -> OwnedFd {
    let name = CString::new(ifname).expect("an interface name");
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(ifindex, 0, "no interface {ifname}: {}", io::Error::last_os_error());
    // SAFETY: plain arguments; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol)) };
    assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
    // SAFETY: `fd` was just made and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer and length describe `address`, a complete `sockaddr_ll` that lives until the call returns.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(bound, 0, "bind a packet socket to {ifname}: {}", io::Error::last_os_error());
    socket
}
