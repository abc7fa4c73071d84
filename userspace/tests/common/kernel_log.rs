//! What the kernel says of itself meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

/// Words of a kernel that has found a fault of its own.
const ALARMS: [&str; 8] =
    ["BUG", "WARNING", "Oops", "Call Trace", "soft lockup", "self-detected stall", "hw csum failure", "suspicious RCU"];

/// The kernel's log from a point on.
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// Begins to look, where the log may be read.
    pub fn new() -> Self {
        let log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        Self(log.and_then(|mut log| log.seek(SeekFrom::End(0)).map(|_| log)).ok())
    }

    /// Asserts that the kernel has named no fault since.
    #[track_caller]
    pub fn has_no_alarms(mut self) {
        let (mut lines, mut block) = (Vec::new(), [0; 8192]);
        // Each read is one record; the last one fails for want of more.
        while let Some(Ok(n @ 1..)) = self.0.as_mut().map(|log| log.read(&mut block)) {
            let line = String::from_utf8_lossy(&block[..n]).into_owned();
            if ALARMS.iter().any(|word| line.contains(word)) {
                lines.push(line);
            }
        }
        assert!(lines.is_empty(), "the kernel says:\n{}", lines.join("\n"));
    }
}
