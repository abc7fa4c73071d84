//! Interfaces of pods, and whose namespaces those are.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use netns_ebpf_common::Mac;
use serde::{Serialize, Serializer};

use super::{Pod, Problem, check_name};

/// An interface of a pod: in the `[[pod]]` itself its first one, a `[[pod.attachment]]` each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// Its network.
    pub network: String,
    /// At most one per family; a family that is not here is allocated.
    pub address: Vec<IpAddr>,
    /// Name in the pod; `None`: `eth` with its place among the pod's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Link-layer address; `None`: one that follows from its place in the data path.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "mac_words")]
    pub mac: Option<Mac>,
}

#[expect(clippy::ref_option, reason = "the form serde calls it in")]
fn mac_words<S: Serializer>(mac: &Option<Mac>, s: S) -> Result<S::Ok, S::Error> {
    mac.map(|mac| mac.to_string()).serialize(s)
}

impl Attachment {
    /// Reads a link-layer address that an interface can have.
    ///
    /// # Errors
    ///
    /// It is none, or a group's.
    pub fn mac(text: &str) -> Result<Mac, Problem> {
        let mac = text.parse::<Mac>().map_err(|_| Problem::Mac)?;
        if mac.is_multicast() || mac == Mac([0; 6]) { Err(Problem::Mac) } else { Ok(mac) }
    }

    /// The name that goes without saying of a pod's interface number `k`.
    pub fn default_ifname(k: usize) -> String {
        format!("eth{k}")
    }
}

impl Pod {
    /// Its interfaces, the first one first.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// The same, each with its name in the pod.
    pub fn interfaces(&self) -> impl Iterator<Item = (String, &Attachment)> {
        self.attachments().enumerate().map(|(k, a)| {
            let name = a.interface.clone().unwrap_or_else(|| Attachment::default_ifname(k));
            (name, a)
        })
    }

    /// The field of interface `k` of pod `i`, in the file's words; of an empty key, its table.
    pub fn field(i: usize, k: usize, key: &str) -> String {
        let table = if k == 0 { format!("pod[{i}]") } else { format!("pod[{i}].attachment[{}]", k - 1) };
        if key.is_empty() { table } else { format!("{table}.{key}") }
    }
}

/// A namespace of somebody else's that becomes a pod: it is not made with that, and not deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopt {
    /// The one of this name, as `ip netns` makes them.
    Name(String),
    /// What a file stands for, such as `/proc/PID/ns/net`.
    Path(PathBuf),
    /// A process's.
    Pid(i32),
}

impl FromStr for Adopt {
    type Err = Problem;

    fn from_str(s: &str) -> Result<Self, Problem> {
        if s.starts_with('/') {
            return Ok(Self::Path(s.into()));
        }
        match s.parse::<i32>() {
            Ok(pid) if pid > 0 => Ok(Self::Pid(pid)),
            Ok(_) => Err(Problem::AdoptForm),
            Err(_) if check_name(s).is_ok() => Ok(Self::Name(s.to_owned())),
            Err(_) => Err(Problem::AdoptForm),
        }
    }
}

impl fmt::Display for Adopt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => path.display().fmt(f),
            Self::Pid(pid) => pid.fmt(f),
        }
    }
}

impl Serialize for Adopt {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_adopted_is_a_name_a_path_or_a_process() {
        for (text, adopt) in [
            ("red", Adopt::Name("red".into())),
            ("/proc/1/ns/net", Adopt::Path("/proc/1/ns/net".into())),
            ("4711", Adopt::Pid(4711)),
        ] {
            assert_eq!(text.parse::<Adopt>().unwrap(), adopt);
            assert_eq!(adopt.to_string(), text);
        }
        for text in ["", "0", "-1", "../x", "a b", "a/b"] {
            assert_eq!(text.parse::<Adopt>().unwrap_err(), Problem::AdoptForm, "{text:?}");
        }
    }

    #[test]
    fn an_interface_has_an_address_of_its_own() {
        assert_eq!(Attachment::mac("02:00:00:00:00:07").unwrap().to_string(), "02:00:00:00:00:07");
        for text in
            ["", "02:00:00:00:00", "03:00:00:00:00:07", "00:00:00:00:00:00", "02:00:00:00:00:g7", "020000000007"]
        {
            assert_eq!(Attachment::mac(text).unwrap_err(), Problem::Mac, "{text:?}");
        }
    }
}
