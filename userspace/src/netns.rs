//! Network namespaces: the only `setns` of the project.
//!
//! The kernel keeps the network namespace per thread. Work inside another namespace therefore runs on a thread of its
//! own ([`Netns::run`]), which ends with the work: no thread is ever left in the wrong place. [`Netns::enter`] is for a
//! process that moves for good, before it starts other threads.
//!
//! Named namespaces are those of `ip netns`: see [`Netns::create_named`].

mod exec;
mod mounts;
mod name;
mod named;
mod procs;
mod wait;
mod watch;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

pub use exec::{exec_in, run_in};
pub use mounts::require_lasting_names;
pub use name::{NameError, NetnsName};
pub use named::{RUN_DIR, delete_named, delete_named_if, ensure_run_dir, identify, list_named, remove_run_dir};
pub use procs::{names_of, pids_by_namespace, pids_in};
pub use wait::set_patience;
pub use watch::{NameEvent, NameWatch};

/// What can go wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A named namespace that should exist does not.
    #[error("no network namespace named {0:?}: `netns list` shows those that exist")]
    Absent(NetnsName),
    /// A named namespace that should not exist does.
    #[error("a network namespace named {0:?} exists already: choose another name, or delete it with `netns del`")]
    Exists(NetnsName),
    /// A namespace of that name is another one than was meant.
    #[error("the network namespace named {0:?} is another one, made anew by somebody: left alone")]
    Another(NetnsName),
    /// The file is something else.
    #[error("{path} is not a network namespace")]
    NotNetns {
        /// The file.
        path: PathBuf,
    },
    /// Names made here would be seen by nobody else.
    #[error(
        "the names of namespaces made here would not be seen outside and would end with this process's mounts: \
         {RUN_DIR} is cut off from the machine's here, as it is inside `ip netns exec` and `netns exec`; run it outside of \
         that, or for another network namespace by `nsenter --net={RUN_DIR}/NAME`, which leaves the mounts alone"
    )]
    NamesCutOff,
    /// Another process has the lock of the names.
    #[error("the names in {RUN_DIR} are locked by {holder}; gave up after {} s", waited.as_secs())]
    Busy {
        /// Who has it, in words.
        holder: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A process that should exist does not.
    #[error("no process {0}")]
    NoProcess(i32),
    /// A call failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The thread that was to do the work could not be started.
    #[error("cannot start a thread for work inside namespace {netns}: {source}")]
    Thread {
        /// The namespace.
        netns: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The program to run could not be started.
    #[error("cannot run {program:?} in namespace {netns}: {source}")]
    Exec {
        /// The program.
        program: String,
        /// The namespace.
        netns: NetnsName,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl NetnsError {
    fn io(what: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { what, path: path.into(), source: source.into() }
    }

    /// Whether the namespace (or process) was simply not there; deletes take that for done.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent(_) | Self::NoProcess(_))
    }

    /// Whether something of that name was there already.
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::Exists(_))
    }
}

/// `SO_NETNS_COOKIE`, which the libc crate does not have yet.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// An open network namespace: it lives at least as long as this value.
///
/// Cloning shares the descriptor.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    label: String,
    id: NetnsId,
}

/// The identity of a namespace: equal for two descriptors exactly when they are the same namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// Device of the namespace file system.
    pub dev: u64,
    /// Inode of the namespace.
    pub ino: u64,
}

impl Netns {
    /// The calling thread's namespace.
    pub fn current() -> Result<Self, NetnsError> {
        // Not /proc/self: that is the main thread's, and threads of one process can differ.
        Self::open_path(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace of a process.
    pub fn of_pid(pid: i32) -> Result<Self, NetnsError> {
        Self::open_path(Path::new(&format!("/proc/{pid}/ns/net"))).map_err(|e| match e {
            NetnsError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => NetnsError::NoProcess(pid),
            e => e,
        })
    }

    /// The namespace a file stands for: a bind mount as in [`RUN_DIR`], or a link as in `/proc/PID/ns`.
    pub fn open_path(path: &Path) -> Result<Self, NetnsError> {
        let file = File::open(path).map_err(|e| NetnsError::io("open", path, e))?;
        let is_ns = fstatfs(&file).map_err(|e| NetnsError::io("statfs", path, e))?.filesystem_type() == NSFS_MAGIC;
        if !is_ns {
            return Err(NetnsError::NotNetns { path: path.to_owned() });
        }
        let meta = file.metadata().map_err(|e| NetnsError::io("stat", path, e))?;
        let id = NetnsId { dev: meta.dev(), ino: meta.ino() };
        Ok(Self { file: Arc::new(file), label: path.display().to_string(), id })
    }

    /// The named namespace `name`.
    pub fn open_named(name: &NetnsName) -> Result<Self, NetnsError> {
        Self::open_path(&name.path()).map_err(|e| match e {
            NetnsError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                NetnsError::Absent(name.clone())
            }
            e => e,
        })
    }

    /// Makes a new namespace under `name`, as `ip netns add` does, with its loopback interface down.
    ///
    /// [`NetnsError::Exists`] when the name is taken; on any failure nothing is left.
    pub fn create_named(name: &NetnsName) -> Result<Self, NetnsError> {
        named::create(name)
    }

    /// Makes a new namespace without a name, with its loopback interface down: it ends with this value unless it is given
    /// one ([`Self::attach`]). Whoever means to recognise it later can take note of it before it can outlive him.
    pub fn unnamed() -> Result<Self, NetnsError> {
        thread::scope(|scope| {
            let work = || {
                unshare(CloneFlags::CLONE_NEWNET)
                    .map_err(|e| NetnsError::io("unshare", "/proc/thread-self/ns/net", e))?;
                Self::current()
            };
            let thread = thread::Builder::new().name("netns-create".to_owned()).spawn_scoped(scope, work);
            let thread = thread.map_err(|source| NetnsError::Thread { netns: "to be made".to_owned(), source })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Gives this namespace the name `name`, as `ip netns attach` does with a process's; it then lives until the name is
    /// deleted.
    ///
    /// `false`: it had that name already. [`NetnsError::Exists`] when the name is another's.
    pub fn attach(&self, name: &NetnsName) -> Result<bool, NetnsError> {
        match named::attach(name, self) {
            Ok(_) => Ok(true),
            Err(e) if e.is_exists() && matches!(identify(name), Ok(Some(found)) if found == self.id) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Who this is: comparable with another namespace's.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Whether both are the same namespace.
    pub fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// The namespace's cookie, by which programs in the kernel tell it (kernel 5.14, commit e8b9eab99232).
    pub fn cookie(&self) -> Result<u64, NetnsError> {
        let fail = |e| NetnsError::io("read the cookie of", &self.label, e);
        let kind = SockType::Datagram;
        // A socket for local use asks nothing of the namespace: IPv4 and IPv6 may be switched off.
        let socket = self.run(|| socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None))?.map_err(fail)?;
        netns_cookie(&socket).map_err(fail)
    }

    /// Where it was opened, for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `work` inside the namespace, on a thread of its own, and waits for it.
    ///
    /// Sockets made there stay in the namespace and may be used from anywhere. A panic of `work` goes on in the
    /// caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || {
                    self.enter()?;
                    Ok(work())
                })
                .map_err(|source| NetnsError::Thread { netns: self.label.clone(), source })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// Threads started later inherit it, threads that exist do not: call it before there are any.
    pub fn enter(&self) -> Result<(), NetnsError> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| match e {
            // The descriptor is a namespace, but of another kind.
            Errno::EINVAL => NetnsError::NotNetns { path: PathBuf::from(&self.label) },
            e => NetnsError::io("enter network namespace", &self.label, e),
        })
    }
}

/// The cookie of a socket's namespace.
#[expect(unsafe_code, reason = "no safe crate in use here has this option")]
fn netns_cookie(socket: &OwnedFd) -> nix::Result<u64> {
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the pointers are to `cookie` and to its size, which both live until the call returns.
    let done = unsafe {
        let (value, length) = ((&raw mut cookie).cast(), &raw mut length);
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, value, length)
    };
    Errno::result(done).map(|_| cookie)
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
