//! Which namespaces the sandbox has made besides its pods, and whether the process that made them is alive.
//!
//! A file with a lock: the lock goes with its process, however that ends; the content stays and tells the next sandbox
//! what to remove. A name is written before its namespace is made, and with the namespace's identity after, so that a
//! namespace somebody else has made under the same name since is never removed.
//!
//! Each change appends the whole list, and a line that says so: whoever is killed at it leaves the list as it was.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::SandboxError;
use crate::instance::{STATE_ROOT, leave, note_run_dir};
use crate::netns::{Netns, NetnsError, NetnsName, delete_named};

/// Beside the states of the instances.
const FILE: &str = "/run/netns-ebpf/sandbox.namespaces";

/// The line after a whole list; no namespace has this name.
const END: &str = ".";

/// The namespaces a sandbox has made besides its pods, running or not; none when there is no record to read.
pub fn recorded_names() -> Vec<String> {
    let text = fs::read_to_string(FILE).unwrap_or_default();
    last_list(&text).into_iter().map(|entry| entry.name).collect()
}

/// The locked file.
#[derive(Debug)]
pub(super) struct Record {
    file: File,
    entries: Vec<Entry>,
}

/// A namespace of ours: its name, and device and inode once it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    identity: Option<(u64, u64)>,
}

impl Record {
    /// Locks the file, making it if absent, and reads what an earlier sandbox has left.
    ///
    /// [`SandboxError::Running`] when another process holds it.
    pub(super) fn open() -> Result<Self, SandboxError> {
        let failed = |what| move |source| SandboxError::File { what, path: FILE, source };
        match DirBuilder::new().mode(0o700).create(STATE_ROOT) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(SandboxError::File { what: "create", path: STATE_ROOT, source }),
        }
        let open = || OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(FILE);
        let mut file = loop {
            let file = open().map_err(failed("open"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(SandboxError::Running),
                Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
            }
            // Its last owner may have removed it between the opening and the locking: then the lock is on a file
            // nobody else will find.
            let locked = file.metadata().map_err(failed("stat"))?.ino();
            if fs::metadata(FILE).is_ok_and(|found| found.ino() == locked) {
                break file;
            }
        };
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed("read"))?;
        Ok(Self { file, entries: last_list(&text) })
    }

    /// Whether an earlier sandbox has left something.
    pub(super) fn has_leftovers(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Makes a namespace and takes note of it.
    pub(super) fn create(&mut self, name: &NetnsName) -> Result<Netns, SandboxError> {
        self.entries.push(Entry { name: name.as_str().to_owned(), identity: None });
        self.write()?;
        note_run_dir(Path::new(STATE_ROOT))?;
        let netns = Netns::create_named(name).inspect_err(|_| {
            self.entries.pop();
        })?;
        if let Some(entry) = self.entries.last_mut() {
            entry.identity = Some((netns.id().dev, netns.id().ino));
        }
        self.write()?;
        Ok(netns)
    }

    /// Gives up without having made anything: an empty record is removed, one with leftovers stays.
    pub(super) fn close(self) {
        if !self.has_leftovers() {
            // Nothing depends on it: the next sandbox takes an empty file as it takes none.
            let _ = self.remove_all();
        }
    }

    /// Removes every namespace of the record, as far as it is still the one that was made, and then the file.
    pub(super) fn remove_all(mut self) -> Result<(), SandboxError> {
        self.remove_namespaces()?;
        match fs::remove_file(FILE) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(SandboxError::File { what: "remove", path: FILE, source }),
        }
        leave(Path::new(STATE_ROOT));
        Ok(())
    }

    /// Removes every namespace of the record and keeps the record, and with it the lock.
    ///
    /// Goes on past failures and returns the first.
    pub(super) fn remove_namespaces(&mut self) -> Result<(), SandboxError> {
        let mut first = Ok(());
        self.entries.retain(|entry| match entry.remove() {
            Ok(()) => false,
            Err(e) => {
                if first.is_ok() {
                    first = Err(e);
                }
                true
            }
        });
        first.and(self.write())
    }

    fn write(&mut self) -> Result<(), SandboxError> {
        let mut text: String = self.entries.iter().map(Entry::line).collect();
        text.extend([END, "\n"]);
        self.file.write_all(text.as_bytes()).map_err(|source| SandboxError::File { what: "write", path: FILE, source })
    }
}

/// The entries of the last list that is whole.
fn last_list(text: &str) -> Vec<Entry> {
    let (mut whole, mut list) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if line == END {
            whole = std::mem::take(&mut list);
        } else {
            list.extend(Entry::parse(line));
        }
    }
    whole
}

impl Entry {
    fn line(&self) -> String {
        match self.identity {
            Some((dev, ino)) => format!("{} {dev} {ino}\n", self.name),
            None => format!("{}\n", self.name),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?.to_owned();
        let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
        let identity = number(words.next()).zip(number(words.next()));
        Some(Self { name, identity })
    }

    fn remove(&self) -> Result<(), SandboxError> {
        let name = NetnsName::new(&self.name).map_err(NetnsError::from)?;
        let found = match Netns::open_named(&name) {
            Ok(netns) => Some((netns.id().dev, netns.id().ino)),
            Err(e) if e.is_absent() => return Ok(()),
            // A name whose namespace was never bound to it: creation was killed in between.
            Err(NetnsError::NotNetns { .. }) => None,
            Err(e) => return Err(e.into()),
        };
        if self.identity.is_some() && found.is_some() && self.identity != found {
            return Ok(());
        }
        match delete_named(&name) {
            Err(e) if !e.is_absent() => Err(e.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_its_line() {
        for identity in [None, Some((4, 4_026_532_000))] {
            let entry = Entry { name: "sandbox-lan".to_owned(), identity };
            assert_eq!(Entry::parse(entry.line().trim_end()), Some(entry));
        }
        assert_eq!(Entry::parse(""), None);
    }

    #[test]
    fn a_list_that_was_cut_short_leaves_the_one_before() {
        let entry = |name: &str, identity| Entry { name: name.to_owned(), identity };
        let text = "sandbox-host\n.\nsandbox-host 4 17\n.\nsandbox-host 4 17\nsandbox-lan\n.\n";
        let before = vec![entry("sandbox-host", Some((4, 17)))];
        let after = vec![entry("sandbox-host", Some((4, 17))), entry("sandbox-lan", None)];
        let known_at = text.find("17\n.").expect("the second list") + "17\n.".len();
        for cut in known_at..=text.len() {
            let whole = cut >= text.len() - 1;
            assert_eq!(last_list(&text[..cut]), if whole { after.clone() } else { before.clone() }, "{cut} bytes");
        }
        assert_eq!(last_list(""), vec![]);
        assert_eq!(last_list("sandbox-host\n.\n.\n"), vec![]);
    }
}
