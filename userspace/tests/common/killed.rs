//! Programs that are killed at a step of our choice: a system call by which they change something outside themselves.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::command::Finished;
use super::wait::wait_for;

/// Commands of `bpf(2)` that change what others see: `BPF_MAP_UPDATE_ELEM`, `BPF_MAP_DELETE_ELEM`, `BPF_OBJ_PIN`, attaching and
/// detaching, running, batches and links.
const BPF_CHANGES: [u64; 13] = [2, 3, 6, 8, 9, 10, 21, 25, 26, 27, 28, 29, 34];

/// What came of a run.
pub struct Traced {
    /// Steps it made, the one it was killed at not among them.
    pub steps: usize,
    /// How it ended.
    pub finished: Finished,
}

/// Runs a program to its end, or to its n-th step, counted from 0, where it is killed before it has made that.
///
/// # Panics
/// When it cannot be started or traced.
#[expect(clippy::zombie_processes, reason = "it is waited for by `waitpid`, as its threads are")]
pub fn killed_at(program: &str, arguments: &[&str], step: Option<usize>) -> Traced {
    let mut child = Command::new("sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh", program])
        .args(arguments)
        .env_remove("NETNS_INSTANCE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {program}: {e}"));
    let leader = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let stopped = wait_for(Duration::from_secs(20), || {
        let stat = fs::read_to_string(format!("/proc/{leader}/stat")).expect("the child's state");
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')).then_some(())
    });
    stopped.expect("the shell has not stopped itself");
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::seize(leader, options | Options::PTRACE_O_TRACEEXEC).expect("trace the child");
    kill(leader, Signal::SIGCONT).expect("continue the child");
    let (mut steps, mut status) = (0, None);
    // A thread's calls stop twice; those of the shell are not the program's.
    let (mut runs, mut doomed) = (false, false);
    let mut within: HashMap<Pid, bool> = HashMap::new();
    while status.is_none() {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let (pid, signal) = match waitpid(Pid::from_raw(-1), Some(flags)).expect("wait for the child") {
            WaitStatus::Exited(pid, code) => {
                status = (pid == leader).then_some(code);
                continue;
            }
            WaitStatus::Signaled(pid, signal, _) => {
                status = (pid == leader).then_some(128 + signal as i32);
                continue;
            }
            WaitStatus::PtraceSyscall(pid) => {
                let enters = within.entry(pid).or_default();
                *enters = !*enters;
                if *enters && runs && !doomed && changes_something(pid) {
                    doomed = step == Some(steps);
                    steps += usize::from(!doomed);
                    if doomed {
                        kill(leader, Signal::SIGKILL).expect("kill the child");
                    }
                }
                (pid, None)
            }
            WaitStatus::PtraceEvent(pid, _, event) => {
                runs |= event == libc::PTRACE_EVENT_EXEC;
                (pid, None)
            }
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            _ => continue,
        };
        // One that was killed meanwhile is not there to go on.
        let _gone = ptrace::syscall(pid, signal);
    }
    let read = |mut from: Box<dyn Read>| {
        let mut text = String::new();
        from.read_to_string(&mut text).expect("what it wrote");
        text
    };
    let finished = Finished {
        line: format!("{} killed at {step:?} of {steps}", arguments.join(" ")),
        status: status.expect("it has ended"),
        stdout: read(Box::new(child.stdout.take().expect("piped"))),
        stderr: read(Box::new(child.stderr.take().expect("piped"))),
    };
    Traced { steps, finished }
}

/// Whether the call a stopped thread enters changes anything another process could see.
fn changes_something(thread: Pid) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/{thread}/syscall")) else { return false };
    let mut words = text.split_ascii_whitespace();
    let Some(Ok(number)) = words.next().map(str::parse::<i64>) else { return false };
    let arguments: Vec<u64> =
        words.filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()).collect();
    match number {
        libc::SYS_bpf => arguments.first().is_some_and(|command| BPF_CHANGES.contains(command)),
        libc::SYS_openat => arguments.get(2).is_some_and(|flags| flags & libc::O_CREAT as u64 != 0),
        libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_mount
        | libc::SYS_umount2
        | libc::SYS_unshare
        | libc::SYS_write
        | libc::SYS_pwrite64
        | libc::SYS_ftruncate
        | libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_unlinkat
        | libc::SYS_mkdirat
        | libc::SYS_symlinkat
        | libc::SYS_linkat => true,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename
        | libc::SYS_unlink
        | libc::SYS_mkdir
        | libc::SYS_rmdir
        | libc::SYS_symlink
        | libc::SYS_link => true,
        _ => false,
    }
}
