//! The file system the pins are in.

use std::fs::{self, File};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::DatapathError;

/// Where bpffs is by custom.
pub const BPFFS: &str = "/sys/fs/bpf";

/// What the kernel itself puts into every bpffs (CONFIG_BPF_PRELOAD).
const KERNELS_OWN: [&str; 2] = ["maps.debug", "progs.debug"];

/// Mounts bpffs at `at` unless it is there; says whether this call did.
pub fn ensure_bpffs(at: &Path) -> Result<bool, DatapathError> {
    if is_bpffs(at)? {
        return Ok(false);
    }
    // Two at once would stack two mounts, and the pins of one would be out of sight: the directory beneath is the lock.
    let dir = File::open(at).map_err(|source| DatapathError::Io { what: "open", path: at.to_owned(), source })?;
    let _lock = Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, e)| DatapathError::Io {
        what: "lock",
        path: at.to_owned(),
        source: e.into(),
    })?;
    if is_bpffs(at)? {
        return Ok(false);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpffs"), at, Some("bpf"), flags, Some("mode=700")).map_err(|e| DatapathError::Io {
        what: "mount bpffs on",
        path: at.to_owned(),
        source: e.into(),
    })?;
    Ok(true)
}

/// Unmounts bpffs at `at` if nothing is in it; says whether this call did. For what [`ensure_bpffs`] mounted.
pub fn unmount_bpffs(at: &Path) -> Result<bool, DatapathError> {
    if !is_bpffs(at)? {
        return Ok(false);
    }
    let fail = |source| DatapathError::Io { what: "read", path: at.to_owned(), source };
    for entry in fs::read_dir(at).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        if !KERNELS_OWN.iter().any(|own| name == *own) {
            return Ok(false);
        }
    }
    match umount2(at, MntFlags::empty()) {
        Ok(()) => Ok(true),
        // Somebody looks at it: it stays until they are done, as any mount would.
        Err(Errno::EBUSY) => Ok(false),
        Err(e) => Err(DatapathError::Io { what: "unmount", path: at.to_owned(), source: e.into() }),
    }
}

fn is_bpffs(at: &Path) -> Result<bool, DatapathError> {
    let found = statfs(at).map_err(|e| DatapathError::Io { what: "look at", path: at.to_owned(), source: e.into() })?;
    Ok(found.filesystem_type() == BPF_FS_MAGIC)
}
