//! Running a program inside a named namespace, with the view of the system that belongs to it.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{Netns, NetnsError, NetnsName};

/// Replaces this process by `argv`, inside a namespace that goes by the name `name`; returns only on failure.
///
/// As with `ip netns exec`: the program sees the namespace's `/sys`, and each file of `/etc/netns/NAME` in the place of
/// its namesake in `/etc`. What is mounted below `/sys` (cgroups, bpffs) stays in view. Exit status and signals are the
/// program's own, as it is this process.
pub fn exec_in(netns: &Netns, name: &NetnsName, argv: &[OsString]) -> Result<Infallible, NetnsError> {
    let fail = |program: &OsStr, source: io::Error| NetnsError::Exec {
        program: program.to_string_lossy().into_owned(),
        netns: name.clone(),
        source,
    };
    let Some((program, args)) = argv.split_first() else {
        return Err(fail(OsStr::new(""), io::ErrorKind::InvalidInput.into()));
    };
    netns.enter()?;
    enter_view_of(name)?;
    // The standard library's exec gives SIGPIPE back its default, which it had taken away.
    Err(fail(program, Command::new(program).args(args).exec()))
}

/// Runs `argv` inside a namespace that goes by the name `name` and waits for its end; returns how it ended and what it wrote to `stdout`, if that
/// is a pipe.
///
/// It has the view of [`exec_in`]; the caller's own stays as it is.
pub fn run_in(
    netns: &Netns,
    name: &NetnsName,
    argv: &[OsString],
    stdout: Stdio,
) -> Result<(ExitStatus, Vec<u8>), NetnsError> {
    let fail = |source: io::Error| NetnsError::Exec {
        program: argv.first().map_or_else(String::new, |program| program.to_string_lossy().into_owned()),
        netns: name.clone(),
        source,
    };
    let (program, args) = argv.split_first().ok_or_else(|| fail(io::ErrorKind::InvalidInput.into()))?;
    // The child has the namespaces of the thread that starts it.
    netns.run(|| {
        enter_view_of(name)?;
        let child = Command::new(program).args(args).stdout(stdout).spawn();
        let ended = child.and_then(Child::wait_with_output).map_err(fail)?;
        Ok((ended.status, ended.stdout))
    })?
}

/// Gives the calling thread mounts of its own, in which `/sys` and `/etc` are the namespace's.
fn enter_view_of(name: &NetnsName) -> Result<(), NetnsError> {
    let root = Path::new("/");
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| NetnsError::io("unshare mounts of", root, e))?;
    // Slave, not private: what is unmounted outside must go away in here too, or this process would pin it.
    mount(Some(""), root, Some("none"), MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| NetnsError::io("make slave mount", root, e))?;
    mount_sys(name)?;
    bind_etc(name);
    Ok(())
}

/// Covers `/sys` with the instance of this namespace and puts back what was mounted below it.
///
/// The old instance stays beneath: once detached, its mounts could no longer be bound anywhere.
fn mount_sys(name: &NetnsName) -> Result<(), NetnsError> {
    let sys = Path::new("/sys");
    let mountinfo = fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(|e| NetnsError::io("read", "/proc/thread-self/mountinfo", e))?;
    let kept: Vec<(PathBuf, File)> = mounts_below(&mountinfo, sys)
        .into_iter()
        .filter_map(|path| {
            let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path).ok()?;
            Some((path, file))
        })
        .collect();
    let sysfs = |flags| mount(Some(name.as_str()), sys, Some("sysfs"), flags, None::<&str>);
    match sysfs(MsFlags::empty()) {
        // A read-only instance cannot be covered by a writable one.
        Err(Errno::EPERM) => sysfs(MsFlags::MS_RDONLY),
        done => done,
    }
    .map_err(|e| NetnsError::io("mount sysfs on", sys, e))?;
    for (path, file) in &kept {
        let source = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
        if let Err(e) =
            mount(Some(source.as_str()), path, Some("none"), MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        {
            tracing::warn!("cannot keep {} in view: {e}", path.display());
        }
    }
    Ok(())
}

/// The mount points below `top` that are below no other one, from the text of a `mountinfo` file.
fn mounts_below(mountinfo: &str, top: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|p| p.starts_with(top) && p != top)
        .collect();
    found.sort();
    found.dedup();
    let mut tops: Vec<PathBuf> = Vec::new();
    for path in found {
        if !tops.iter().any(|t| path.starts_with(t)) {
            tops.push(path);
        }
    }
    tops
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(field: &str) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| b == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        if let Some(escaped) = code.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            out.push(escaped);
            rest = &tail[3..];
        } else {
            out.push(b);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// Binds each file of the namespace's own configuration over its namesake; one that fails is reported and left.
fn bind_etc(name: &NetnsName) {
    let Ok(entries) = fs::read_dir(Path::new("/etc/netns").join(name.as_str())) else { return };
    for entry in entries.flatten() {
        let target = Path::new("/etc").join(entry.file_name());
        if let Err(e) = mount(Some(&entry.path()), &target, Some("none"), MsFlags::MS_BIND, None::<&str>) {
            tracing::warn!("cannot bind {} over {}: {e}", entry.path().display(), target.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_topmost_mounts_are_kept() {
        let text = "22 1 0:20 / /sys rw shared:7 - sysfs sysfs rw\n\
                    30 22 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                    31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                    32 22 0:28 / /sys/fs/b\\040f rw - bpf bpf rw\n\
                    33 1 0:29 / /system rw - tmpfs tmpfs rw\n";
        assert_eq!(
            mounts_below(text, Path::new("/sys")),
            [PathBuf::from("/sys/fs/b f"), PathBuf::from("/sys/fs/cgroup")]
        );
    }
}
