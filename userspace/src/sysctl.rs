//! `/proc/sys/net` of the calling thread's network namespace, and the host's list of reserved ports.
//!
//! The files below `/proc/sys/net` are those of the namespace of whoever opens them: for another namespace, call these
//! functions inside [`crate::netns::Netns::run`].

use std::fmt;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The key of the list of ports the kernel gives to nobody who does not ask for them by number.
pub const RESERVED_PORTS: &str = "ipv4/ip_local_reserved_ports";

/// What can go wrong with a setting.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The kernel has no such setting (here: no such interface, or a family that is switched off).
    #[error("no kernel setting {}", .0.display())]
    Absent(PathBuf),
    /// It could not be read or written.
    #[error("cannot {verb} kernel setting {}{}: {source}", path.display(), value.as_ref().map(|v| format!(" as {v:?}")).unwrap_or_default())]
    Io {
        /// "read", "write" or "lock".
        verb: &'static str,
        /// Its file.
        path: PathBuf,
        /// What was to be written.
        value: Option<String>,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A key that would leave `/proc/sys/net`, or a list that is none.
    #[error("{0:?} is not a valid {1}")]
    Invalid(String, &'static str),
}

impl SysctlError {
    /// Whether the setting (or its interface) does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent(_))
    }
}

/// The file of a key: path components separated by `/`, as interface names may contain dots.
fn path(key: &str) -> Result<PathBuf, SysctlError> {
    if key.is_empty() || key.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(SysctlError::Invalid(key.to_owned(), "kernel setting"));
    }
    Ok(PathBuf::from("/proc/sys/net").join(key))
}

fn error(verb: &'static str, path: PathBuf, value: Option<&str>, source: io::Error) -> SysctlError {
    if source.kind() == io::ErrorKind::NotFound {
        SysctlError::Absent(path)
    } else {
        SysctlError::Io { verb, path, value: value.map(str::to_owned), source }
    }
}

/// Reads a setting, without the line's end. The key is relative to `/proc/sys/net`: `ipv4/conf/eth0/forwarding`.
pub fn read(key: &str) -> Result<String, SysctlError> {
    let path = path(key)?;
    let text = fs::read_to_string(&path).map_err(|e| error("read", path, None, e))?;
    Ok(text.trim_end().to_owned())
}

/// Writes a setting, unless it has this value already.
pub fn write(key: &str, value: &str) -> Result<(), SysctlError> {
    if read(key)? == value {
        return Ok(());
    }
    let path = path(key)?;
    fs::write(&path, value).map_err(|e| error("write", path, Some(value), e))
}

/// A set of ports as the kernel prints it: sorted ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// Whether the port is in it.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(a, b)| (*a..=*b).contains(&port))
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> + '_ {
        self.0.iter().map(|(a, b)| *a..=*b)
    }

    /// The ports of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all: Vec<(u16, u16)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(all.len());
        for (a, b) in all {
            match merged.last_mut() {
                Some(last) if u32::from(a) <= u32::from(last.1) + 1 => last.1 = last.1.max(b),
                _ => merged.push((a, b)),
            }
        }
        Self(merged)
    }

    /// How many ports are in it.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(a, b)| usize::from(*b) - usize::from(*a) + 1).sum()
    }

    /// The ports of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.difference(&self.difference(other))
    }

    /// The ports of this one that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = self.0.clone();
        for &(from, to) in &other.0 {
            left = left
                .into_iter()
                .flat_map(|(a, b)| {
                    let below = (a < from).then(|| (a, b.min(from.saturating_sub(1))));
                    let above = (b > to).then(|| (a.max(to.saturating_add(1)), b));
                    [below, above]
                })
                .flatten()
                .collect();
        }
        Self(left)
    }
}

impl From<RangeInclusive<u16>> for PortSet {
    fn from(range: RangeInclusive<u16>) -> Self {
        if range.is_empty() { Self::default() } else { Self(vec![(*range.start(), *range.end())]) }
    }
}

impl FromStr for PortSet {
    type Err = SysctlError;

    fn from_str(text: &str) -> Result<Self, SysctlError> {
        let invalid = || SysctlError::Invalid(text.to_owned(), "list of ports");
        let mut set = Self::default();
        for part in text.trim().split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (a, b) = part.split_once('-').unwrap_or((part, part));
            let (a, b): (u16, u16) = (a.parse().map_err(|_| invalid())?, b.parse().map_err(|_| invalid())?);
            if a > b {
                return Err(invalid());
            }
            set = set.union(&(a..=b).into());
        }
        Ok(set)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (a, b)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if a == b { write!(f, "{comma}{a}")? } else { write!(f, "{comma}{a}-{b}")? }
        }
        Ok(())
    }
}

impl Serialize for PortSet {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortSet {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// Reads the ports the kernel gives to sockets that ask for any.
pub fn local_ports() -> Result<PortSet, SysctlError> {
    let text = read("ipv4/ip_local_port_range")?;
    text.split_whitespace().collect::<Vec<_>>().join("-").parse()
}

/// Reads the ports that are reserved now.
pub fn reserved_ports() -> Result<PortSet, SysctlError> {
    read(RESERVED_PORTS)?.parse()
}

/// Reserves `ports`; returns those that were not reserved before and are therefore to be given back.
///
/// The list is read and written: the caller keeps others of us out. No lock on the file would, as anybody may take that, and keep it.
pub fn reserve_ports(ports: &PortSet) -> Result<PortSet, SysctlError> {
    let before = reserved_ports()?;
    let added = ports.difference(&before);
    if !added.is_empty() {
        write(RESERVED_PORTS, &before.union(&added).to_string())?;
    }
    Ok(added)
}

/// Gives back what [`reserve_ports`] added; ports that are not reserved are no matter. The caller keeps others of us out.
pub fn release_ports(added: &PortSet) -> Result<(), SysctlError> {
    let before = reserved_ports()?;
    let left = before.difference(added);
    if left == before {
        return Ok(());
    }
    // An empty write is no write at all; a lone newline empties the list.
    let text = if left.is_empty() { "\n".to_owned() } else { left.to_string() };
    write(RESERVED_PORTS, &text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_set() -> impl Strategy<Value = PortSet> {
        prop::collection::vec((any::<u16>(), 0u16..3000), 0..6).prop_map(|ranges| {
            ranges.into_iter().fold(PortSet::default(), |set, (a, n)| set.union(&(a..=a.saturating_add(n)).into()))
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(set in any_set()) {
            prop_assert_eq!(set.to_string().parse::<PortSet>().ok(), Some(set));
        }

        #[test]
        fn adding_and_removing_restores(before in any_set(), range in any_set()) {
            let added = range.difference(&before);
            prop_assert_eq!(before.union(&added).difference(&added), before);
        }

        #[test]
        fn sets_behave_as_sets(a in any_set(), b in any_set(), port in any::<u16>()) {
            prop_assert_eq!(a.union(&b).contains(port), a.contains(port) || b.contains(port));
            prop_assert_eq!(a.difference(&b).contains(port), a.contains(port) && !b.contains(port));
            prop_assert_eq!(a.intersection(&b).contains(port), a.contains(port) && b.contains(port));
            prop_assert_eq!(a.union(&b).len(), a.len() + b.difference(&a).len());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = text.parse::<PortSet>();
        }
    }

    #[test]
    fn the_edges_of_the_port_space() {
        let all: PortSet = (0..=u16::MAX).into();
        assert!(all.difference(&all).is_empty());
        assert_eq!(all.difference(&(0..=0).into()).to_string(), "1-65535");
        assert_eq!(all.difference(&(65535..=65535).into()).to_string(), "0-65534");
        assert_eq!("1-3,4,9".parse::<PortSet>().map(|s| s.to_string()).ok(), Some("1-4,9".to_owned()));
        assert!("3-1".parse::<PortSet>().is_err());
    }

    #[test]
    fn keys_stay_below_proc_sys_net() {
        for bad in ["", "../kernel/hostname", "ipv4//x", "/etc/passwd", "ipv4/conf/../../../kernel/x"] {
            assert!(matches!(read(bad), Err(SysctlError::Invalid(..))), "{bad:?}");
        }
    }
}
