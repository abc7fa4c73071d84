//! Whether names made here are seen outside, and outlive the process that makes them.
//!
//! A name is a mount. `ip netns exec` and `netns exec` give their program mounts of its own that hear of those outside and
//! tell nobody of theirs: a name made in there is a file without a namespace for everybody else, and its namespace ends
//! with the program.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{NetnsError, RUN_DIR};

/// Refuses to go on where names made by the calling thread would be of no use to others.
///
/// A mount namespace with a `/run` of its own, a container's for example, is a world of its own and all right.
///
/// # Errors
///
/// [`NetnsError::NamesCutOff`], or `/proc` cannot be read.
pub fn require_lasting_names() -> Result<(), NetnsError> {
    let own = "/proc/thread-self/mountinfo";
    let own = fs::read_to_string(own).map_err(|e| NetnsError::io("read", own, e))?;
    // Whoever may not look at the first process may not make namespaces, either.
    let first = match fs::read_to_string("/proc/1/mountinfo") {
        Ok(text) if !is_same("/proc/thread-self/ns/mnt", "/proc/1/ns/mnt") => Some(text),
        _ => None,
    };
    if is_cut_off(&own, first.as_deref().filter(|_| is_same_directory())) {
        return Err(NetnsError::NamesCutOff);
    }
    Ok(())
}

/// Judges two `mountinfo` files: the caller's, and that of the first process if it has other mounts and the same directory.
fn is_cut_off(own: &str, first: Option<&str>) -> bool {
    let Some(own) = peers(own) else { return false };
    // It hears of others' mounts and tells nobody of its own.
    own.master || first.and_then(peers).is_some_and(|first| own.shared.is_none() || own.shared != first.shared)
}

/// Whom a mount shares its events with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Peers<'a> {
    shared: Option<&'a str>,
    master: bool,
}

/// Those of the mount that names are, or will be, made on: the uppermost one that covers [`RUN_DIR`].
fn peers(mountinfo: &str) -> Option<Peers<'_>> {
    let covers = |line: &&str| line.split(' ').nth(4).is_some_and(|point| Path::new(RUN_DIR).starts_with(point));
    let depth = |line: &&str| line.split(' ').nth(4).map_or(0, |point| Path::new(point).components().count());
    // Of several on one point the last is uppermost, which is the one `max_by_key` returns.
    let line = mountinfo.lines().filter(covers).max_by_key(depth)?;
    let mut peers = Peers::default();
    for field in line.split(' ').skip(6).take_while(|field| *field != "-") {
        match field.split_once(':') {
            Some(("shared", group)) => peers.shared = Some(group),
            Some(("master", _)) => peers.master = true,
            _ => {}
        }
    }
    Some(peers)
}

/// Whether the first process sees the same directory, or, before there is one, the same directory above.
fn is_same_directory() -> bool {
    Path::new(RUN_DIR).ancestors().find(|path| path.exists()).is_some_and(|path| {
        let there: PathBuf = Path::new("/proc/1/root").join(path.strip_prefix("/").unwrap_or(path));
        is_same(path, there)
    })
}

fn is_same(a: impl AsRef<Path>, b: impl AsRef<Path>) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw\n";

    fn with(line: &str) -> String {
        format!("{ROOT}{line}\n")
    }

    #[test]
    fn names_in_mounts_that_only_listen_are_cut_off() {
        // As behind `ip netns exec`: before and after the directory was made a mount, and after it was shared once more.
        for line in [
            "30 22 0:25 / /run rw master:5 - tmpfs tmpfs rw",
            "31 30 0:25 /netns /run/netns rw master:7 - tmpfs tmpfs rw",
            "31 30 0:25 /netns /run/netns rw shared:9 master:7 - tmpfs tmpfs rw",
        ] {
            assert!(is_cut_off(&with(line), None), "{line}");
        }
    }

    #[test]
    fn the_same_directory_by_other_peers_is_cut_off() {
        let first = with("31 30 0:25 /netns /run/netns rw shared:7 - tmpfs tmpfs rw");
        for (line, cut_off) in [
            ("31 30 0:25 /netns /run/netns rw shared:7 - tmpfs tmpfs rw", false),
            ("31 30 0:25 /netns /run/netns rw shared:8 - tmpfs tmpfs rw", true),
            ("31 30 0:25 /netns /run/netns rw - tmpfs tmpfs rw", true),
        ] {
            assert_eq!(is_cut_off(&with(line), Some(&first)), cut_off, "{line}");
            assert!(!is_cut_off(&with(line), None), "a directory of its own: {line}");
        }
    }

    #[test]
    fn the_uppermost_mount_counts() {
        let text = with(
            "30 22 0:25 / /run rw master:5 - tmpfs tmpfs rw\n\
             31 30 0:25 /netns /run/netns rw master:7 - tmpfs tmpfs rw\n\
             33 31 0:25 /netns /run/netns rw shared:8 - tmpfs tmpfs rw\n\
             34 22 0:27 / /run/netns-ebpf rw master:3 - tmpfs tmpfs rw",
        );
        assert_eq!(peers(&text), Some(Peers { shared: Some("8"), master: false }));
        assert_eq!(peers(""), None);
    }
}
