//! What every test with a kernel in it stands on: a network and mount namespace of its own, and tools to look around.
//!
//! A test body runs inside [`isolated`]:
//!
//! ```ignore
//! #[test]
//! fn a_thing_holds() {
//!     isolated(|here| {
//!         here.ip("netns add red");
//!         here.netns(["status"]).ok();
//!     });
//! }
//! ```
//!
//! Tests run in parallel, see nothing of each other and leave nothing: all they make lives in namespaces that end with
//! their thread. A test that cannot run fails; none is skipped.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of these tools")]

pub mod command;
pub mod drift;
pub mod frame;
pub mod kernel_log;
pub mod killed;
pub mod lan;
pub mod length;
pub mod observer;
pub mod offload;
pub mod packet;
pub mod pods;
pub mod snapshot;
pub mod traffic;
pub mod tun;
pub mod wait;
pub mod who;
pub mod wired;

use std::fs;
use std::panic;
use std::path::PathBuf;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use command::{Background, Finished};
pub use kernel_log::KernelLog;
pub use snapshot::Snapshot;
pub use wait::{wait_for, wait_until};

/// Where bpffs is mounted.
pub const BPFFS: &str = "/sys/fs/bpf";

/// A test's own machine, as far as networking goes. Only made by [`isolated`] and its siblings.
pub struct Isolated {
    _private: (),
}

/// Runs a test body in its own network and mount namespace: empty tmpfs on `/run`, private bpffs, `lo` up.
///
/// # Panics
/// When the body does, and when the namespaces cannot be made.
pub fn isolated(body: impl FnOnce(&Isolated) + Send + 'static) {
    isolated_with(true, body);
}

/// As [`isolated`], but bpffs is not mounted, as on a freshly booted machine.
pub fn isolated_without_bpffs(body: impl FnOnce(&Isolated) + Send + 'static) {
    isolated_with(false, body);
}

fn isolated_with(bpffs: bool, body: impl FnOnce(&Isolated) + Send + 'static) {
    assert!(nix::unistd::geteuid().is_root(), "this test makes namespaces and needs root: run `cargo xtask test`");
    // The thread carries the test's name so that panics and captured output still say which test they are of.
    let name = thread::current().name().unwrap_or("isolated").to_owned();
    let thread = thread::Builder::new()
        .name(name)
        .spawn(move || {
            enter_new_namespaces(bpffs);
            let here = Isolated { _private: () };
            here.ip("link set lo up");
            body(&here);
        })
        .expect("start the test's thread");
    if let Err(panic) = thread.join() {
        panic::resume_unwind(panic);
    }
}

/// Namespaces and the file system context belong to a thread, so only this one moves; its children inherit both.
fn enter_new_namespaces(bpffs: bool) {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .expect("unshare the test's network and mount namespace (needs CAP_SYS_ADMIN)");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("make mounts private");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .expect("mount a tmpfs on /run");
    // What the machine itself has mounted there must neither help nor hinder the test.
    while nix::mount::umount2(BPFFS, nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    if bpffs {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700")).expect("mount bpffs");
    }
}

/// Lets this process open as many files as the system lets it (`ulimit -n` gives a shell 1024 of them, as a rule).
///
/// # Panics
/// When these are fewer than `wanted`.
pub fn open_files(wanted: u64) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("read the limit of open files");
    assert!(most >= wanted, "this test opens {wanted} files, and `ulimit -Hn` is {most}");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("raise the limit of open files");
}

impl Isolated {
    /// Runs `ip` with words split at blanks and returns what it printed.
    ///
    /// # Panics
    /// When it fails, with its message.
    pub fn ip(&self, arguments: &str) -> String {
        self.tool("ip", arguments)
    }

    /// Runs a tool with words split at blanks and returns what it printed.
    ///
    /// # Panics
    /// When it fails, with its message.
    pub fn tool(&self, program: &str, arguments: &str) -> String {
        command::run(program, arguments.split_whitespace()).ok()
    }

    /// Runs the `netns` binary under test to its end.
    pub fn netns<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        command::run(env!("CARGO_BIN_EXE_netns"), arguments)
    }

    /// Starts the `netns` binary under test; it is killed when the handle goes.
    pub fn netns_background<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Background {
        Background::start(env!("CARGO_BIN_EXE_netns"), arguments)
    }

    /// Runs a closure inside a namespace of `/run/netns`, on a thread of its own.
    ///
    /// Sockets it returns stay in that namespace.
    ///
    /// # Panics
    /// When the closure does or the namespace is absent.
    pub fn inside<T: Send>(&self, name: &str, body: impl FnOnce() -> T + Send) -> T {
        let path = PathBuf::from("/run/netns").join(name);
        let file = fs::File::open(&path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
        let label = thread::current().name().unwrap_or("inside").to_owned();
        thread::scope(|scope| {
            let run = || {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("enter namespace {name}: {e}"));
                body()
            };
            let thread = thread::Builder::new().name(label).spawn_scoped(scope, run).expect("start a thread");
            thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Writes a file below `/run` and returns its path.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = PathBuf::from("/run").join(name);
        fs::write(&path, content).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        path
    }

    /// Everything of this machine that netns promises to leave as it was.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take()
    }
}
