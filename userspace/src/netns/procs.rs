//! Which processes are in a namespace, and which names a namespace has: both by its identity.

use std::collections::HashMap;
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
    Ok(pids_by_namespace()?.remove(&namespace).unwrap_or_default())
}

/// The processes of every namespace, as [`pids_in`] tells those of one.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn pids_by_namespace() -> Result<HashMap<NetnsId, Vec<i32>>, NetnsError> {
    let failed = |e: io::Error| NetnsError::io("read", "/proc", e);
    let mut pids: HashMap<NetnsId, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").map_err(failed)? {
        let Some(pid) = entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Not opened: that would keep the namespace of somebody who is just ending. Gone, a zombie, or not ours to see:
        // not in there.
        let Ok(found) = fs::metadata(format!("/proc/{pid}/ns/net")) else { continue };
        pids.entry(NetnsId { dev: found.dev(), ino: found.ino() }).or_default().push(pid);
    }
    pids.values_mut().for_each(|list| list.sort_unstable());
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
