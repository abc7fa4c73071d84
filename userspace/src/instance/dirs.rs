//! Names and directories of an instance.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::InstanceError;
use super::lock::{LOCK, Lock};
use super::wanted::is_note;
use crate::netns::{NetnsError, RUN_DIR, ensure_run_dir, remove_run_dir};
use crate::store::{SqliteStore, StoreError};
use crate::topology::{InputError, Problem, check_name};

/// Directory of all instances' state.
pub const STATE_ROOT: &str = "/run/netns-ebpf";
/// Where the BPF file system is.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Directory of all instances' pins.
pub const PIN_ROOT: &str = "/sys/fs/bpf/netns-ebpf";
/// The instance when nothing else is said.
pub const DEFAULT_INSTANCE: &str = "default";
/// The sandbox's instance.
pub const SANDBOX_INSTANCE: &str = "sandbox";
/// File below [`STATE_ROOT`] that says that one of us made [`RUN_DIR`].
const RUN_DIR_NOTE: &str = "made-run-netns";

/// Where an instance keeps what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    name: String,
    state: PathBuf,
    pins: PathBuf,
    verb: &'static str,
    patience: Option<Duration>,
}

impl Dirs {
    /// The directories of the instance of this name.
    ///
    /// # Errors
    ///
    /// The name is no name.
    pub fn new(name: &str) -> Result<Self, InputError> {
        Self::below(Path::new(STATE_ROOT), Path::new(PIN_ROOT), name)
    }

    /// The same below other roots.
    ///
    /// # Errors
    ///
    /// The name is no name.
    pub fn below(state_root: &Path, pin_root: &Path, name: &str) -> Result<Self, InputError> {
        check_name(name).map_err(|p| InputError::new("--instance", name, p))?;
        // Interface names and MACs are derived from it: as short as that needs.
        if name.len() > 64 {
            let problem = Problem::Usage("an instance's name has at most 64 bytes".to_owned());
            return Err(InputError::new("--instance", name, problem));
        }
        let (state, pins) = (state_root.join(name), pin_root.join(name));
        Ok(Self { name: name.to_owned(), state, pins, verb: "a program", patience: None })
    }

    /// The same for a verb, which others that wait for it are told, and which waits for others for at most `patience`.
    pub fn for_verb(self, verb: &'static str, patience: Option<Duration>) -> Self {
        Self { verb, patience, ..self }
    }

    /// The verb they are for.
    pub(super) const fn verb(&self) -> &'static str {
        self.verb
    }

    /// How long it waits for another one; for ever if that is not said.
    pub(super) const fn patience(&self) -> Option<Duration> {
        self.patience
    }

    /// The instance's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Directory of its state, mode 0700.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Directory of its pins, mode 0700.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// The other instances below the same roots.
    pub(super) fn others(&self) -> Result<Vec<Self>, InputError> {
        let (Some(state_root), Some(pin_root)) = (self.state.parent(), self.pins.parent()) else {
            return Ok(Vec::new());
        };
        let names = list(state_root).into_iter().filter(|n| *n != self.name);
        names.map(|n| Self::below(state_root, pin_root, &n)).collect()
    }

    /// The state file.
    pub fn database(&self) -> PathBuf {
        self.state.join("state.db")
    }

    /// Whether there is any state.
    pub fn exists(&self) -> bool {
        self.database().exists()
    }

    /// Opens the store for reading; `None` when there is none.
    ///
    /// # Errors
    ///
    /// It is damaged or another version's.
    pub fn open(&self) -> Result<Option<SqliteStore>, InstanceError> {
        self.store(SqliteStore::open_to_read)
    }

    /// Opens the store for writing; `None` when there is none. The lock must be held, or that of all instances.
    pub(super) fn open_to_write(&self, _lock: &Lock) -> Result<Option<SqliteStore>, InstanceError> {
        self.store(SqliteStore::open)
    }

    fn store(
        &self,
        open: impl Fn(&Path) -> Result<SqliteStore, StoreError>,
    ) -> Result<Option<SqliteStore>, InstanceError> {
        match open(&self.database()) {
            Ok(store) => Ok(Some(store)),
            // A `down` may remove it between a look and the opening.
            Err(_) if !self.exists() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes the state directory; the lock must be held.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub fn remove_state(&self, _lock: &Lock) -> Result<(), InstanceError> {
        let remove = |path: &Path| match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(InstanceError::Io { what: "remove", path: path.to_owned(), source })
            }
            _ => Ok(()),
        };
        // The lock goes last: whoever waits for it finds a new file or nothing, never a half-removed state.
        for name in ["state.db", "state.db-wal", "state.db-shm", "state.new", "state.new-journal", "lock"] {
            remove(&self.state.join(name))?;
        }
        match fs::remove_dir(&self.state) {
            Err(source) if source.kind() == io::ErrorKind::DirectoryNotEmpty => {
                // Somebody made a new lock meanwhile, or keeps a file of his own here.
                tracing::debug!("{} stays: {source}", self.state.display());
            }
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(InstanceError::Io { what: "remove directory", path: self.state.clone(), source });
            }
            _ => {}
        }
        if let Some(root) = self.state.parent() {
            leave(root);
        }
        Ok(())
    }
}

/// Makes the directory of named namespaces if it is not there, and takes note of that below the state directory
/// `root`: the last to [`leave`] removes it again.
///
/// # Errors
///
/// It can neither be made nor used.
pub fn note_run_dir(root: &Path) -> Result<(), NetnsError> {
    if ensure_run_dir()?
        && let Err(e) = File::create(root.join(RUN_DIR_NOTE))
    {
        tracing::debug!("{RUN_DIR} will stay: {e}");
    }
    Ok(())
}

/// Removes the state directory `root` if nothing but the note of [`note_run_dir`] and the lock of all instances is left in it, and
/// what is noted. It stays as long as instances are wanted in it.
pub fn leave(root: &Path) {
    let (note, lock) = (root.join(RUN_DIR_NOTE), root.join(LOCK));
    let is_other = |entry: fs::DirEntry| entry.path() != note && entry.path() != lock && !is_note(&entry);
    if fs::read_dir(root).is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(is_other))) {
        return;
    }
    // Whoever waits for it finds that it is gone, and begins anew.
    let _ = fs::remove_file(&lock);
    if note.exists() {
        if let Err(e) = remove_run_dir() {
            tracing::debug!("{RUN_DIR} stays: {e}");
        }
        let _ = fs::remove_file(&note);
    }
    // Not empty: another instance has come up meanwhile.
    let _ = fs::remove_dir(root);
}

/// Names of the instances that have state below `root`, sorted.
pub fn list(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|e| e.path().join("state.db").exists())
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| check_name(n).is_ok())
        .collect();
    names.sort();
    names
}

/// Whether the caller may not see which instances there are below `root`.
pub fn is_hidden(root: &Path) -> bool {
    let denied = |e: io::Error| e.kind() == io::ErrorKind::PermissionDenied;
    match fs::read_dir(root) {
        Ok(mut entries) => {
            entries.any(|e| e.is_ok_and(|e| fs::metadata(e.path().join("state.db")).err().is_some_and(denied)))
        }
        Err(e) => denied(e),
    }
}

/// Which instance a verb is about: the one asked for, else the only one that is up, else the default one. The sandbox is never
/// meant unless it is named: it may be wrecked, and is nobody's host.
///
/// # Errors
///
/// Several are up, or the name is no name.
pub fn choose(asked: Option<&str>) -> Result<Dirs, InstanceError> {
    if let Some(name) = asked {
        return Ok(Dirs::new(name)?);
    }
    let up: Vec<_> = list(Path::new(STATE_ROOT)).into_iter().filter(|name| name != SANDBOX_INSTANCE).collect();
    match up.as_slice() {
        [] => Ok(Dirs::new(DEFAULT_INSTANCE)?),
        [only] => Ok(Dirs::new(only)?),
        // The default instance is the host's own; any other beside it has to be named.
        many if many.iter().any(|n| n == DEFAULT_INSTANCE) => Ok(Dirs::new(DEFAULT_INSTANCE)?),
        _ => Err(InstanceError::Several(up)),
    }
}
