//! Waiting for the lock of the names, which is iproute2's: anybody who may read the directory may take it, and keep it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use nix::fcntl::Flock;
use nix::sys::stat::{major, minor};

use super::NetnsError;
use crate::flock::{self, Unlocked};

/// How long this process waits; for ever if that was not said.
static PATIENCE: OnceLock<Duration> = OnceLock::new();

/// Where the kernel lists locks and who holds them.
const LOCKS: &str = "/proc/locks";

/// Says how long this process waits for others that hold the lock of the names. Said once, before any is waited for.
pub fn set_patience(patience: Duration) {
    // The second time it was said already.
    let _ = PATIENCE.set(patience);
}

/// Waits for the lock of an open directory, and says for whom.
///
/// # Errors
///
/// [`NetnsError::Busy`] when another process has held it for too long.
pub(super) fn for_lock(handle: File, dir: &Path) -> Result<Flock<File>, NetnsError> {
    let tell = |handle: &File| {
        tracing::warn!("waiting for {}, which has the lock of {}", holder(handle), dir.display());
    };
    flock::exclusive(handle, PATIENCE.get().copied(), tell).map_err(|e| match e {
        Unlocked::Busy { file, waited } => NetnsError::Busy { holder: holder(&file), waited },
        Unlocked::Failed(e) => NetnsError::io("lock", dir, e),
    })
}

/// Who holds a lock on this file, in words.
fn holder(file: &File) -> String {
    let pid = file.metadata().ok().and_then(|meta| {
        let which = format!("{:02x}:{:02x}:{}", major(meta.dev()), minor(meta.dev()), meta.ino());
        holder_in(&fs::read_to_string(LOCKS).ok()?, &which)
    });
    let Some(pid) = pid else { return "another process".to_owned() };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("process {pid} ({})", name.trim_end().escape_debug())
}

/// The process that has a file's lock, among lines as those of `/proc/locks`.
fn holder_in(locks: &str, which: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Those that wait have an arrow for their second word.
        match words.as_slice() {
            [_, "FLOCK", _, _, pid, file, ..] if *file == which => pid.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_and_not_who_waits() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:1a:99 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4711 00:1a:99 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 12 00:1a:99 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 08:02:99 0 EOF\n";
        assert_eq!(holder_in(locks, "00:1a:99"), Some(4711));
        assert_eq!(holder_in(locks, "08:02:99"), Some(13));
        assert_eq!(holder_in(locks, "00:1a:9"), None);
    }
}
