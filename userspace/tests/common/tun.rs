//! Devices without a link layer, whose other end is this test: packets are bare IP, as those of VPNs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// `struct ifreq`, as far as the call looks.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    _rest: [u8; 22],
}

/// Makes a tun device in the calling thread's namespace; it goes with the file.
///
/// # Panics
/// When the kernel has none to give.
#[expect(unsafe_code, reason = "no safe crate in use here makes a tun device")]
fn open(name: &str) -> File {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").expect("open tun");
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags, _rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: `request` has the size and layout of `struct ifreq` and outlives the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(done, 0, "make {name}: {}", io::Error::last_os_error());
    file
}

/// Two tun devices in two namespaces and what carries packets between them; both go with it.
pub struct Tunnel {
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    inject: Arc<File>,
    stop: Arc<AtomicBool>,
    pump: Option<thread::JoinHandle<()>>,
}

impl Tunnel {
    /// A tunnel between the device `here` of the calling thread's namespace and `there` of `far`.
    pub fn new(host: &super::Isolated, here: &str, far: &str, there: &str) -> Self {
        let (near, far) = (Arc::new(open(here)), host.inside(far, || open(there)));
        let (seen, stop) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::<AtomicBool>::default());
        let (inject, log, end) = (Arc::clone(&near), Arc::clone(&seen), Arc::clone(&stop));
        let pump = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let mut both = [&*near, &far].map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN));
                poll(&mut both, PollTimeout::from(50_u8)).expect("poll");
                carry(&near, &far, |packet| log.lock().expect("no reader panicked").push(packet.to_vec()));
                carry(&far, &near, |_| {});
            }
        });
        Self { seen, inject, stop, pump: Some(pump) }
    }

    /// The packets that left by the near device so far.
    pub fn left(&self) -> Vec<Vec<u8>> {
        self.seen.lock().expect("no reader panicked").clone()
    }

    /// Lets a packet come in by the near device.
    pub fn comes_in(&self, packet: &[u8]) {
        (&*self.inject).write_all(packet).expect("inject a packet");
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take() {
            let _ = pump.join();
        }
    }
}

/// Moves what is there from one to the other; what cannot go is lost, as on any line.
fn carry(mut from: &File, mut to: &File, mut seen: impl FnMut(&[u8])) {
    let mut packet = vec![0; 65_700];
    while let Ok(length @ 1..) = from.read(&mut packet) {
        seen(&packet[..length]);
        let _ = to.write(&packet[..length]);
    }
}
