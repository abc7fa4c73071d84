//! Waiting for a lock of a file that others hold (`flock(2)`), for as long as whoever asks has patience, and not without a word.

use std::fs::File;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// How long is waited without a word: most are done sooner than anybody could read one.
const MOMENT: Duration = Duration::from_millis(300);

/// Why there is no lock.
#[derive(Debug)]
pub enum Unlocked {
    /// Others have held it for all of that time.
    Busy {
        /// The file.
        file: File,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The kernel refuses it.
    Failed(io::Error),
}

/// Takes the exclusive lock of an open file. `tell` is called when others hold it for more than a moment.
///
/// # Errors
///
/// See [`Unlocked`]; without `patience` it is waited for as long as it takes.
pub fn exclusive(file: File, patience: Option<Duration>, tell: impl FnOnce(&File)) -> Result<Flock<File>, Unlocked> {
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) => file,
        Err((_, e)) => return Err(Unlocked::Failed(e.into())),
    };
    // The kernel waits without an end. So a thread does, with the same open file; a lock it gets when nobody wants it any more is
    // given back at once.
    let mut waiting = file.try_clone().map_err(Unlocked::Failed)?;
    let (send, receive) = mpsc::channel();
    let wait = move || {
        let locked = loop {
            match Flock::lock(waiting, FlockArg::LockExclusive) {
                Err((file, Errno::EINTR)) => waiting = file,
                done => break done.map_err(|(_, e)| e),
            }
        };
        let _unwanted = send.send(locked);
    };
    thread::Builder::new().name("netns-lock".to_owned()).spawn(wait).map_err(Unlocked::Failed)?;
    let first = patience.map_or(MOMENT, |patience| patience.min(MOMENT));
    let mut got = receive.recv_timeout(first);
    if got.is_err() && first == MOMENT {
        tell(&file);
        got = match patience {
            Some(patience) => receive.recv_timeout(patience.saturating_sub(MOMENT)),
            None => receive.recv().map_err(RecvTimeoutError::from),
        };
    }
    match got {
        Ok(locked) => locked.map_err(|e| Unlocked::Failed(e.into())),
        Err(_) => Err(Unlocked::Busy { file, waited: patience.unwrap_or_default() }),
    }
}
