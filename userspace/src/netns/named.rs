//! The names: files in a shared mount, made and removed as iproute2's `ipnetns.c` does, under the same lock.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use super::{Netns, NetnsError, NetnsId, NetnsName, wait};

/// Where the names are.
pub const RUN_DIR: &str = "/run/netns";

/// An empty file that is younger may be about to be bound.
const BEING_MADE: Duration = Duration::from_secs(1);

/// Makes a namespace and binds it to its name, in that order: a name never stands for a namespace that is half there.
pub(super) fn create(name: &NetnsName) -> Result<Netns, NetnsError> {
    bind(name, bind_new)
}

/// Gives a namespace that is there a name.
pub(super) fn attach(name: &NetnsName, netns: &Netns) -> Result<Netns, NetnsError> {
    bind(name, |path| {
        // By the descriptor: the process it was opened of may be another by now.
        let source = format!("/proc/thread-self/fd/{}", netns.as_raw_fd());
        mount(Some(source.as_str()), path, Some("none"), MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| NetnsError::io("bind namespace to", path, e))
    })
}

/// Makes the file of a name and has `bind` bind a namespace to it; on any failure nothing is left.
fn bind(name: &NetnsName, bind: impl FnOnce(&Path) -> Result<(), NetnsError>) -> Result<Netns, NetnsError> {
    // Held to the end, so that nobody removes the directory while it gets its first name.
    let _lock = lock_run_dir()?.0;
    let path = name.path();
    match open(&path, OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(_) => {}
        Err(Errno::EEXIST) if is_left_over(name)? => {}
        Err(Errno::EEXIST) => return Err(NetnsError::Exists(name.clone())),
        Err(e) => return Err(NetnsError::io("create", &path, e)),
    }
    bind(&path).and_then(|()| Netns::open_named(name)).inspect_err(|_| {
        // The first error is the one to report; what is left after a failed removal is what `del` removes.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&path);
    })
}

/// Whether a name stands for nothing, because whoever made its file was killed: an empty one, and nobody binds anything to it.
/// iproute2 does so at once, but without the lock: it is given the time.
fn is_left_over(name: &NetnsName) -> Result<bool, NetnsError> {
    let path = name.path();
    let mounts = Path::new("/proc/thread-self/mountinfo");
    let mounted = File::open(mounts).map_err(|e| NetnsError::io("open", mounts, e))?;
    loop {
        let found = fs::symlink_metadata(&path).map_err(|e| NetnsError::io("stat", &path, e))?;
        if identify(name)?.is_some() || !found.is_file() || found.len() > 0 {
            return Ok(false);
        }
        let age = found.modified().ok().and_then(|then| then.elapsed().ok()).unwrap_or(BEING_MADE);
        let Some(rest) = BEING_MADE.checked_sub(age).filter(|rest| !rest.is_zero()) else { return Ok(true) };
        // Whoever binds something to it changes the mounts (proc_pid_mountinfo(5), "poll").
        let timeout = PollTimeout::try_from(rest).unwrap_or(PollTimeout::ZERO);
        let mut changed = [PollFd::new(mounted.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut changed, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(NetnsError::io("wait for", mounts, e)),
        }
    }
}

/// Unshares a network namespace on a thread of its own and binds it to `path`.
fn bind_new(path: &Path) -> Result<(), NetnsError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns-create".to_owned())
            .spawn_scoped(scope, || {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetnsError::io("unshare network for", path, e))?;
                mount(Some("/proc/thread-self/ns/net"), path, Some("none"), MsFlags::MS_BIND, None::<&str>)
                    .map_err(|e| NetnsError::io("bind new namespace to", path, e))
            })
            .map_err(|source| NetnsError::Thread { netns: path.display().to_string(), source })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes [`RUN_DIR`] if it is not there; says whether this call did.
///
/// [`Netns::create_named`] does so too: this is for callers that mean to remove it again.
pub fn ensure_run_dir() -> Result<bool, NetnsError> {
    Ok(lock_run_dir()?.1)
}

/// Removes [`RUN_DIR`] if no name is in it; says whether this call did. For those that made it ([`ensure_run_dir`]).
pub fn remove_run_dir() -> Result<bool, NetnsError> {
    let dir = Path::new(RUN_DIR);
    let handle = match File::open(dir) {
        Ok(handle) => handle,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(NetnsError::io("open", dir, e)),
    };
    let Some(_lock) = lock(handle, dir)? else { return Ok(false) };
    let mut entries = fs::read_dir(dir).map_err(|e| NetnsError::io("read", dir, e))?;
    if entries.next().is_some() {
        return Ok(false);
    }
    match umount2(dir, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(e) => return Err(NetnsError::io("unmount", dir, e)),
    }
    match fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        // `ip netns` was quicker with a name of its own.
        Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) => Ok(false),
        Err(e) => Err(NetnsError::io("remove", dir, e)),
    }
}

/// Makes [`RUN_DIR`] a shared mount, so that a name removed in one mount namespace goes away in all of them and the
/// namespace can end. Two at once would stack mounts: hence the lock, which is iproute2's as well. Says whether the
/// directory had to be made.
fn lock_run_dir() -> Result<(Flock<File>, bool), NetnsError> {
    let dir = Path::new(RUN_DIR);
    loop {
        let made = match DirBuilder::new().mode(0o755).create(dir) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(NetnsError::io("create", dir, e)),
        };
        let handle = match File::open(dir) {
            Ok(handle) => handle,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(NetnsError::io("open", dir, e)),
        };
        if let Some(lock) = lock(handle, dir)? {
            share_run_dir(dir)?;
            return Ok((lock, made));
        }
    }
}

/// Waits for the lock of an open directory; `None` when the directory was removed meanwhile ([`remove_run_dir`]).
fn lock(handle: File, dir: &Path) -> Result<Option<Flock<File>>, NetnsError> {
    let lock = wait::for_lock(handle, dir)?;
    let links = lock.metadata().map_err(|e| NetnsError::io("stat", dir, e))?.nlink();
    Ok((links != 0).then_some(lock))
}

fn share_run_dir(dir: &Path) -> Result<(), NetnsError> {
    let share = || mount(Some(""), dir, Some("none"), MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Ok(()) => return Ok(()),
        // Not a mount point yet.
        Err(Errno::EINVAL) => {}
        Err(e) => return Err(NetnsError::io("share mount", dir, e)),
    }
    mount(Some(dir), dir, Some("none"), MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| NetnsError::io("bind mount", dir, e))?;
    share().map_err(|e| NetnsError::io("share mount", dir, e))
}

/// Removes a name. The namespace itself ends with its last process, socket or other name.
///
/// [`NetnsError::Absent`] when there is no such name.
pub fn delete_named(name: &NetnsName) -> Result<(), NetnsError> {
    let path = name.path();
    match umount2(&path, MntFlags::MNT_DETACH) {
        // Not a mount point: left by a creation that was killed, or already unmounted elsewhere.
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(Errno::ENOENT) => return Err(NetnsError::Absent(name.clone())),
        Err(e) => return Err(NetnsError::io("unmount", &path, e)),
    }
    match fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(NetnsError::io("remove", &path, e)),
    }
}

/// Removes a name if it stands for this namespace, or with `None` for none; says whether it did.
///
/// For those that have looked before: somebody else may have given the name to another namespace since.
pub fn delete_named_if(name: &NetnsName, is_it: impl FnOnce(Option<&Netns>) -> bool) -> Result<bool, NetnsError> {
    let dir = Path::new(RUN_DIR);
    if !name.path().exists() {
        // One that somebody gives it from now on is not the one that was meant.
        return Ok(false);
    }
    let handle = match File::open(dir) {
        Ok(handle) => handle,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(NetnsError::io("open", dir, e)),
    };
    let Some(_lock) = lock(handle, dir)? else { return Ok(false) };
    let found = match Netns::open_named(name) {
        Ok(netns) => Some(netns),
        Err(NetnsError::NotNetns { .. }) => None,
        Err(e) if e.is_absent() => return Ok(false),
        Err(e) => return Err(e),
    };
    if is_it(found.as_ref()) { delete_named(name).map(|()| true) } else { Ok(false) }
}

/// The namespace a name stands for; `None` for a file that is none, as a killed creation leaves it.
pub fn identify(name: &NetnsName) -> Result<Option<NetnsId>, NetnsError> {
    match Netns::open_named(name) {
        Ok(netns) => Ok(Some(netns.id())),
        Err(NetnsError::NotNetns { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The names there are, sorted. Files whose names are none of ours to print (see [`NetnsName`]) are left out.
pub fn list_named() -> Result<Vec<NetnsName>, NetnsError> {
    let dir = Path::new(RUN_DIR);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(NetnsError::io("read", dir, e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| NetnsError::io("read", dir, e))?;
        if let Some(name) = entry.file_name().to_str().and_then(|n| NetnsName::new(n).ok()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
