//! Programs, run to their end or in the background.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::wait_for;

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub line: String,
    /// Exit status; 128 + signal when a signal ended it.
    pub status: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Asserts success and returns standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{}", self.report());
        self.stdout
    }

    /// Asserts this exit status and that standard error holds each of the words.
    #[track_caller]
    pub fn fails(self, status: i32, words: &[&str]) -> Self {
        assert_eq!(self.status, status, "{}", self.report());
        for word in words {
            assert!(self.stderr.contains(word), "standard error lacks {word:?}: {}", self.report());
        }
        self
    }

    /// Standard output of a success as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let line = self.line.clone();
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: not one JSON document ({e}):\n{text}"))
    }

    /// All of it, for a failure message.
    pub fn report(&self) -> String {
        let mut text = String::new();
        let _ = write!(text, "`{}` ended with status {}", self.line, self.status);
        let _ = write!(text, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        text
    }
}

fn line(program: &str, command: &Command) -> String {
    let short = program.rsplit('/').next().unwrap_or(program);
    command.get_args().fold(short.to_owned(), |line, word| line + " " + &word.to_string_lossy())
}

fn command<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).env_remove("NETNS_INSTANCE").env_remove("RUST_LOG");
    command
}

fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs a program to its end.
///
/// # Panics
/// When it cannot be started.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Finished {
    let mut command = command(program, arguments);
    let line = line(program, &command);
    let output = command.output().unwrap_or_else(|e| panic!("cannot start `{line}`: {e}"));
    Finished {
        line,
        status: code(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running program; killed when dropped.
pub struct Background {
    line: String,
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Background {
    /// Starts a program and collects what it writes.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Self {
        let mut command = command(program, arguments);
        let line = line(program, &command);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start `{line}`: {e}"));
        let stdout = Arc::default();
        let stderr = Arc::default();
        let readers = vec![
            collect(child.stdout.take().expect("piped"), &stdout),
            collect(child.stderr.take().expect("piped"), &stderr),
        ];
        Self { line, child, stdout, stderr, readers }
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.lock().expect("no reader panicked").clone()
    }

    /// Waits until standard output holds `text`.
    ///
    /// # Panics
    /// When it does not come, or the program ends before.
    #[track_caller]
    pub fn wait_for_output(&mut self, text: &str, timeout: Duration) {
        let shown = wait_for(timeout, || {
            let found = self.stdout().contains(text);
            let ended = self.child.try_wait().expect("wait for a child").is_some();
            (found || ended).then_some(found || self.stdout().contains(text))
        });
        assert_eq!(shown, Some(true), "`{}` did not print {text:?}:\n{}\n{}", self.line, self.stdout(), self.stderr());
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("no reader panicked").clone()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // A child that has ended meanwhile and is not waited for still has its id, so this cannot hit another process.
        kill(Pid::from_raw(self.pid()), signal).expect("signal a child");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended in time.
    #[track_caller]
    pub fn finish(mut self, timeout: Duration) -> Finished {
        let status = wait_for(timeout, || self.child.try_wait().expect("wait for a child"));
        let Some(status) = status else {
            panic!("`{}` has not ended after {timeout:?}:\n{}\n{}", self.line, self.stdout(), self.stderr())
        };
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader panicked");
        }
        let (stdout, stderr) = (self.stdout(), self.stderr());
        Finished { line: self.line.clone(), status: code(status), stdout, stderr }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static, into: &Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    let into = Arc::clone(into);
    thread::spawn(move || {
        let mut block = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut block) {
            into.lock().expect("no reader panicked").push_str(&String::from_utf8_lossy(&block[..n]));
        }
    })
}
