//! Names of namespaces: files in one directory, so nothing that could leave it or upset a listing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A name that is safe as a file name in [`super::RUN_DIR`].
///
/// What `ip netns` accepts, less control characters: not empty, at most 255 bytes, no `/`, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsName(String);

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Longer than a file name may be.
    #[error("the name {name:?} is {len} bytes long; at most 255 are allowed")]
    TooLong {
        /// The name.
        name: String,
        /// Its length in bytes.
        len: usize,
    },
    /// The directory itself or the one above.
    #[error("the name {0:?} means a directory; choose another")]
    Dots(String),
    /// A character that may not be in a name.
    #[error("the name {name:?} contains {character:?}, which is not allowed in a name")]
    Character {
        /// The name.
        name: String,
        /// The character.
        character: char,
    },
}

impl NetnsName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > 255 {
            return Err(NameError::TooLong { name: name.to_owned(), len: name.len() });
        }
        if name == "." || name == ".." {
            return Err(NameError::Dots(name.to_owned()));
        }
        // NUL and newline are control characters.
        if let Some(character) = name.chars().find(|c| *c == '/' || c.is_control()) {
            return Err(NameError::Character { name: name.to_owned(), character });
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new(super::RUN_DIR).join(&self.0)
    }
}

impl FromStr for NetnsName {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        Self::new(s)
    }
}

impl TryFrom<&str> for NetnsName {
    type Error = NameError;

    fn try_from(s: &str) -> Result<Self, NameError> {
        Self::new(s)
    }
}

impl AsRef<str> for NetnsName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bad_names_are_refused() {
        for bad in ["", ".", "..", "a/b", "/", "a\0b", "a\nb", "a\u{1b}[2J", "a\u{7f}", "a\u{85}"] {
            assert!(NetnsName::new(bad).is_err(), "{bad:?}");
        }
        assert!(NetnsName::new(&"x".repeat(256)).is_err());
    }

    #[test]
    fn names_of_ip_netns_are_accepted() {
        for good in ["red", "a b", "-x", "...", "%d", "netz-ü", &"x".repeat(255)] {
            assert_eq!(NetnsName::new(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_one_path_component(s in ".{0,300}") {
            if let Ok(name) = NetnsName::new(&s) {
                let path = name.path();
                prop_assert_eq!(path.parent(), Some(Path::new(super::super::RUN_DIR)));
                prop_assert_eq!(path.file_name().and_then(|f| f.to_str()), Some(s.as_str()));
            }
        }
    }
}
