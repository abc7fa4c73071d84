//! Many frames at once.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;

use crate::common::frame::bound_to;

/// Frames of one system call.
const BATCH: usize = 64;

/// A packet socket that sends only: nothing that is on the interface waits in it.
pub struct Spray {
    socket: OwnedFd,
}

impl Spray {
    /// Opens it on an interface of the calling thread's namespace.
    ///
    /// # Panics
    /// When there is no such interface.
    pub fn open(ifname: &str) -> Self {
        Self { socket: bound_to(ifname, 0) }
    }

    /// Sends all frames; the kernel's programs have run over each when it returns, as far as a device has no queue.
    pub fn send<F: AsRef<[u8]>>(&self, frames: &[F]) {
        for batch in frames.chunks(BATCH) {
            let mut sent = 0;
            while sent < batch.len() {
                sent += self.send_some(&batch[sent..]);
            }
        }
    }

    /// Sends frames over and over for a time: how many there were a second.
    pub fn rate<F: AsRef<[u8]>>(&self, frames: &[F], time: Duration) -> f64 {
        let (started, mut sent) = (Instant::now(), 0_usize);
        'all: loop {
            for batch in frames.chunks(BATCH) {
                sent += self.send_some(batch);
                if started.elapsed() >= time {
                    break 'all;
                }
            }
        }
        sent as f64 / started.elapsed().as_secs_f64()
    }

    #[expect(unsafe_code, reason = "the crate in use here has no safe sendmmsg without another feature")]
    fn send_some<F: AsRef<[u8]>>(&self, frames: &[F]) -> usize {
        let mut pieces: Vec<libc::iovec> = frames
            .iter()
            .map(|frame| libc::iovec {
                iov_base: frame.as_ref().as_ptr().cast_mut().cast(),
                iov_len: frame.as_ref().len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = pieces
            .iter_mut()
            .map(|piece| {
                // SAFETY: a message header of zeros is one without address, data and control data.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = piece;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        // SAFETY: every header points to one element of `pieces`, which points to a frame; all three outlive the call, which
        // reads the frames and writes nothing but the headers' lengths.
        let n = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0) };
        match usize::try_from(n) {
            Ok(n) => n,
            // A device that is full for now: what an attacker loses there he loses.
            Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS) => 1,
            Err(_) => panic!("send frames: {}", io::Error::last_os_error()),
        }
    }
}
