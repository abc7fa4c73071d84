//! A copy of a state file whose log of changes was left by a killed writer, where nothing can be written beside it: to read such a
//! log, SQLite makes a file.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;

/// Directories that are there to be written to, the one in memory first.
const PLACES: [&str; 3] = ["/dev/shm", "/tmp", "/var/tmp"];

/// How often it is begun anew because somebody writes meanwhile.
const ATTEMPTS: usize = 8;

/// A directory of its own with the copy; removed with this.
#[derive(Debug)]
pub(super) struct Copy(TempDir);

impl Copy {
    /// Copies a file and its log into the first place that takes them.
    ///
    /// # Errors
    ///
    /// The last place's.
    pub(super) fn of(path: &Path, log: &Path) -> io::Result<Self> {
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for place in PLACES {
            let copied = tempfile::Builder::new().prefix("netns-").tempdir_in(place).and_then(|dir| {
                let copy = Self(dir);
                copy.fill(path, log).map(|()| copy)
            });
            match copied {
                Ok(copy) => return Ok(copy),
                Err(e) => failed = e,
            }
        }
        Err(failed)
    }

    /// The copy.
    pub(super) fn file(&self) -> PathBuf {
        self.0.path().join("state.db")
    }

    fn fill(&self, path: &Path, log: &Path) -> io::Result<()> {
        let seen = || Ok::<_, io::Error>([as_of(&fs::metadata(path)?)?, as_of(&fs::metadata(log)?)?]);
        for _ in 0..ATTEMPTS {
            let before = seen()?;
            fs::copy(path, self.file())?;
            fs::copy(log, self.0.path().join("state.db-wal"))?;
            if seen()? == before {
                return Ok(());
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

fn as_of(meta: &Metadata) -> io::Result<(u64, SystemTime)> {
    Ok((meta.len(), meta.modified()?))
}
