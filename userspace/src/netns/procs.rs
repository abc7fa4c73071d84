//! Which processes are in a namespace, and which names a namespace has: both by its identity.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::{NetnsError, NetnsId, NetnsName, identify, list_named};

/// The processes whose main thread is in this namespace, in order of their ids.
///
/// Those the caller may not look into are left out: for root there are none.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn pids_in(namespace: NetnsId) -> Result<Vec<i32>, NetnsError> {
    let failed = |e: io::Error| NetnsError::io("read", "/proc", e);
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").map_err(failed)? {
        let Some(pid) = entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Not opened: that would keep the namespace of somebody who is just ending. Gone, a zombie, or not ours to see:
        // not in there.
        let Ok(found) = fs::metadata(format!("/proc/{pid}/ns/net")) else { continue };
        if (NetnsId { dev: found.dev(), ino: found.ino() }) == namespace {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The names that stand for this namespace, sorted; there may be several.
///
/// # Errors
///
/// The directory of names cannot be read.
pub fn names_of(namespace: NetnsId) -> Result<Vec<NetnsName>, NetnsError> {
    let names = list_named()?.into_iter();
    // One that ends meanwhile stands for nothing.
    Ok(names.filter(|name| identify(name).is_ok_and(|found| found == Some(namespace))).collect())
}
