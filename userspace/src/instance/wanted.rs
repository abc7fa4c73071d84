//! That an instance was to come up: whoever asks for a pod meanwhile must not get a namespace without a network.
//!
//! A note beside the instances' directories, from the beginning of an `up` until it has succeeded or `down` is called. What
//! was killed or refused leaves it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{Dirs, leave};
use crate::topology::check_name;

/// In front of the instance's name; no instance's begins like this.
const NOTE: &str = ".wanted-";

impl Dirs {
    fn note(&self) -> Option<(PathBuf, PathBuf)> {
        let root = self.state().parent()?.to_owned();
        let note = root.join(format!("{NOTE}{}", self.name()));
        Some((root, note))
    }

    /// Notes that it is wanted, if it is not there already. Best effort: whoever cannot write here cannot bring it up either.
    pub fn want(&self) {
        let Some((root, note)) = self.note().filter(|_| !self.exists()) else { return };
        let made = match DirBuilder::new().mode(0o700).create(&root) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => File::create(&note).map(drop),
        };
        if let Err(e) = made {
            tracing::debug!("{}: {e}", note.display());
        }
    }

    /// Takes the note off: it is up, or is not wanted any more.
    pub fn unwant(&self) {
        let Some((root, note)) = self.note() else { return };
        if fs::remove_file(note).is_ok() {
            leave(&root);
        }
    }
}

/// Whether a file of the state directory is such a note.
pub(super) fn is_note(entry: &fs::DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(NOTE.as_bytes())
}

/// Names of the instances below `root` that were to come up and did not, sorted.
pub fn wanted(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let names = entries.flatten().filter_map(|e| e.file_name().to_str()?.strip_prefix(NOTE).map(str::to_owned));
    let mut names: Vec<_> = names.filter(|name| check_name(name).is_ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_stays_until_the_instance_is_up_or_unwanted() {
        let root = tempfile::tempdir().unwrap();
        let (state, pins) = (root.path().join("run"), root.path().join("pins"));
        let dirs = |name| Dirs::below(&state, &pins, name).unwrap();
        assert!(wanted(&state).is_empty());
        for name in ["b", "a", "a"] {
            dirs(name).want();
        }
        assert_eq!(wanted(&state), ["a", "b"]);
        assert!(super::super::list(&state).is_empty(), "no instance");
        dirs("a").unwant();
        dirs("c").unwant();
        assert_eq!(wanted(&state), ["b"]);
        dirs("b").unwant();
        assert!(!state.exists(), "nothing is left");
        // One that is up needs none.
        fs::create_dir_all(state.join("a")).unwrap();
        fs::write(state.join("a/state.db"), "").unwrap();
        dirs("a").want();
        assert!(wanted(&state).is_empty());
    }
}
