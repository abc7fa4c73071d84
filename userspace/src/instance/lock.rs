//! The lock of an instance: one verb at a time changes it, and the others know which.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use nix::fcntl::Flock;

use super::{Dirs, InstanceError};
use crate::flock::{self, Unlocked};

/// Name of a lock's file in its directory.
pub(super) const LOCK: &str = "lock";

/// The lock of an instance, held until dropped. The kernel drops it with its holder, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Dirs {
    /// Waits for the lock every mutating verb holds, making the directory if `create`; says for whom it waits.
    ///
    /// `None` when there is no directory.
    ///
    /// # Errors
    ///
    /// The directory or the lock cannot be made; [`InstanceError::Busy`] when another verb has held it for too long.
    pub fn lock(&self, create: bool) -> Result<Option<Lock>, InstanceError> {
        self.acquire(self.state(), create)
    }

    /// Waits for the lock over what instances share of a host, and hand out: slots, indices, ports, prefixes. Taken after the
    /// instance's own, and held as long.
    ///
    /// # Errors
    ///
    /// As [`Self::lock`].
    pub(super) fn lock_shared(&self) -> Result<Option<Lock>, InstanceError> {
        match self.state().parent() {
            Some(root) => self.acquire(root, false),
            None => Ok(None),
        }
    }

    fn acquire(&self, dir: &Path, create: bool) -> Result<Option<Lock>, InstanceError> {
        let path = dir.join(LOCK);
        let deadline = self.patience().map(|patience| Instant::now() + patience);
        let mut has_told = false;
        loop {
            let Some(file) = open(dir, &path, create)? else { return Ok(None) };
            let patience = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let tell = |file: &File| {
                if !has_told {
                    tracing::warn!("waiting for {}", holder(file));
                }
                has_told = true;
            };
            match flock::exclusive(file, patience, tell) {
                // A `down` we waited for has removed the file: the next one is another file.
                Ok(lock) if is_same_file(&lock, &path) => return Ok(Some(self.sign(lock))),
                Ok(_) => {}
                Err(Unlocked::Busy { file, .. }) => return Err(self.busy(&file)),
                Err(Unlocked::Failed(e)) => return Err(failed("lock", &path)(e)),
            }
        }
    }

    /// Writes down who has it, for those who wait. On a full file system they are not told.
    fn sign(&self, mut lock: Flock<File>) -> Lock {
        let text = format!("{} {} {}\n", std::process::id(), self.verb(), self.name());
        let signed = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(text.as_bytes()));
        if let Err(e) = signed {
            tracing::debug!("cannot sign the lock: {e}");
        }
        Lock { _file: lock }
    }

    fn busy(&self, file: &File) -> InstanceError {
        let waited = self.patience().unwrap_or_default();
        InstanceError::Busy { instance: self.name().to_owned(), holder: holder(file), waited }
    }
}

/// Opens the file of a lock, which only root can.
fn open(dir: &Path, path: &Path, create: bool) -> Result<Option<File>, InstanceError> {
    loop {
        if create {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(dir).map_err(failed("create directory", dir))?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        match file {
            Ok(file) => return Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound && create => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            // Who waits is not told who has it; it is a lock all the same.
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => match File::open(path) {
                Ok(file) => return Ok(Some(file)),
                Err(_) => return Err(failed("open", path)(e)),
            },
            Err(e) => return Err(failed("open", path)(e)),
        }
    }
}

/// Who has a lock, as it has written down.
fn holder(file: &File) -> String {
    let mut text = String::new();
    let mut file = file;
    let read = file.rewind().and_then(|()| file.take(256).read_to_string(&mut text));
    let words: Vec<&str> = text.split_whitespace().collect();
    match (read, words.as_slice()) {
        (Ok(_), [pid, verb, instance]) if pid.parse::<u32>().is_ok() => {
            let [verb, instance] = [verb, instance].map(|word| word.escape_debug());
            format!("`netns {verb}` (process {pid}), which changes instance \"{instance}\"")
        }
        _ => "another verb".to_owned(),
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstanceError {
    let path = path.to_owned();
    move |source| InstanceError::Io { what, path, source }
}

fn is_same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
