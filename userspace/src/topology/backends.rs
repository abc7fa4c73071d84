//! Which pods a published port leads to, and whom it lets in.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};

use super::{Problem, Publish, Topology};

/// A pod behind a published port: `POD[:WEIGHT]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Backend {
    /// Its name.
    pub pod: String,
    /// Its share of the new flows, in proportion to the weights of the others.
    pub weight: u32,
}

impl Backend {
    /// Largest weight; the least is 1, which is also what goes without saying.
    pub const MAX_WEIGHT: u32 = 100;
    /// Most pods of a publish.
    pub const MAX: usize = 64;

    /// The only backend of what a pod publishes itself.
    pub fn only(pod: &str) -> Self {
        Self { pod: pod.to_owned(), weight: 1 }
    }

    /// A weight as a file gives it.
    ///
    /// # Errors
    ///
    /// Out of range.
    pub fn weight(given: i64) -> Result<u32, Problem> {
        match u32::try_from(given) {
            Ok(weight) if (1..=Self::MAX_WEIGHT).contains(&weight) => Ok(weight),
            _ => Err(Problem::Weight),
        }
    }

    /// A list of them with commas between.
    ///
    /// # Errors
    ///
    /// One of them is not `POD[:WEIGHT]`.
    pub fn list(text: &str) -> Result<Vec<Self>, Problem> {
        text.split(',').map(str::parse).collect()
    }
}

impl FromStr for Backend {
    type Err = Problem;

    fn from_str(s: &str) -> Result<Self, Problem> {
        let (pod, weight) = match s.split_once(':') {
            None => (s, 1),
            Some((pod, weight)) => (pod, Self::weight(weight.parse().map_err(|_| Problem::Weight)?)?),
        };
        if pod.is_empty() { Err(Problem::NameEmpty) } else { Ok(Self { pod: pod.to_owned(), weight }) }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pod)?;
        if self.weight == 1 { Ok(()) } else { write!(f, ":{}", self.weight) }
    }
}

/// What keeps a client with one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// Nothing: each new flow goes where chance takes it.
    #[default]
    None,
    /// Its address: all flows of a client go to the same backend, as long as that is there.
    Client,
}

impl Affinity {
    /// The word in files and the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Client => "client",
        }
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Affinity {
    type Err = Problem;

    fn from_str(s: &str) -> Result<Self, Problem> {
        [Self::None, Self::Client].into_iter().find(|a| a.as_str() == s).ok_or(Problem::Affinity)
    }
}

/// Who may come in by a published port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Allow {
    /// Everybody.
    #[default]
    Anyone,
    /// Clients whose address is in one of these. None: nobody.
    Only(Vec<IpNet>),
}

impl Allow {
    /// Whether no list was given.
    pub const fn is_anyone(&self) -> bool {
        matches!(self, Self::Anyone)
    }

    /// The list, if there is one.
    pub fn prefixes(&self) -> Option<&[IpNet]> {
        match self {
            Self::Anyone => None,
            Self::Only(prefixes) => Some(prefixes),
        }
    }

    /// Whether a client of this address may come in.
    pub fn admits(&self, client: IpAddr) -> bool {
        self.prefixes().is_none_or(|list| list.iter().any(|prefix| prefix.contains(&client)))
    }

    /// A prefix of the list; an address without a length is itself.
    ///
    /// # Errors
    ///
    /// It is neither, or has bits set beyond its length.
    pub fn prefix(text: &str) -> Result<IpNet, Problem> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let prefix: IpNet = text.parse().map_err(|_| Problem::Prefix)?;
        if prefix == prefix.trunc() { Ok(prefix) } else { Err(Problem::SubnetHostBits(prefix.trunc().to_string())) }
    }

    /// From a flag that may be given several times: prefixes, or one word: `any` for everybody, `none` for nobody. The flag
    /// not given at all is `None`.
    ///
    /// # Errors
    ///
    /// What is wrong, with the value.
    pub fn from_flags(given: &[String]) -> Result<Option<Self>, (String, Problem)> {
        match given {
            [] => Ok(None),
            [word] if word == "any" => Ok(Some(Self::Anyone)),
            [word] if word == "none" => Ok(Some(Self::Only(Vec::new()))),
            list => {
                let prefix = |text: &String| Self::prefix(text).map_err(|p| (text.clone(), p));
                Ok(Some(Self::Only(list.iter().map(prefix).collect::<Result<_, _>>()?)))
            }
        }
    }

    /// Whether both let the same clients in, as far as the same prefixes say so.
    pub fn is_like(&self, other: &Self) -> bool {
        let sorted = |allow: &Self| {
            allow.prefixes().map(|list| {
                let mut list = list.to_vec();
                list.sort();
                list.dedup();
                list
            })
        };
        sorted(self) == sorted(other)
    }
}

impl Serialize for Allow {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.prefixes().serialize(s)
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("any"),
            Self::Only(list) if list.is_empty() => f.write_str("none"),
            Self::Only(list) => {
                let words: Vec<_> = list.iter().map(IpNet::to_string).collect();
                f.write_str(&words.join(","))
            }
        }
    }
}

/// An entry of `pod.publish`: a publish string, or a table with a list of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPublish {
    /// The ports.
    pub port: Publish,
    /// Who may come in.
    pub allow: Allow,
}

impl From<Publish> for PodPublish {
    fn from(port: Publish) -> Self {
        Self { port, allow: Allow::Anyone }
    }
}

impl Serialize for PodPublish {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Table<'a> {
            port: &'a Publish,
            allow: &'a Allow,
        }
        let Self { port, allow } = self;
        if allow.is_anyone() { port.serialize(s) } else { Table { port, allow }.serialize(s) }
    }
}

/// `[[publish]]`: a published port that leads to pods named in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedPublish {
    /// The ports.
    pub port: Publish,
    /// The pods.
    pub backends: Vec<Backend>,
    /// What keeps a client with one of them.
    pub affinity: Affinity,
    /// Who may come in.
    #[serde(skip_serializing_if = "Allow::is_anyone")]
    pub allow: Allow,
}

/// A publish, wherever the file has it.
#[derive(Debug, Clone)]
pub struct Declared {
    /// The field of its ports.
    pub field: String,
    /// The table it is, or is in; empty for what a pod publishes itself.
    pub table: String,
    /// What it is.
    pub publish: SharedPublish,
}

impl Topology {
    /// Every publish there is: first those of the pods, in file order.
    pub fn declared(&self) -> Vec<Declared> {
        let of_pods = self.pods.iter().enumerate().flat_map(|(i, pod)| {
            pod.publish.iter().enumerate().map(move |(k, p)| Declared {
                field: format!("pod[{i}].publish[{k}]"),
                table: String::new(),
                publish: SharedPublish {
                    port: p.port,
                    backends: vec![Backend::only(&pod.name)],
                    affinity: Affinity::None,
                    allow: p.allow.clone(),
                },
            })
        });
        let shared = self.publishes.iter().enumerate().map(|(i, publish)| {
            let table = format!("publish[{i}]");
            Declared { field: format!("{table}.port"), table, publish: publish.clone() }
        });
        of_pods.chain(shared).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_read_with_their_weights() {
        let red3 = Backend { pod: "red".into(), weight: 3 };
        assert_eq!(Backend::list("red:3,blue").unwrap(), [red3.clone(), Backend::only("blue")]);
        assert_eq!((red3.to_string(), Backend::only("blue").to_string()), ("red:3".into(), "blue".into()));
        for (text, problem) in [
            ("red:0", Problem::Weight),
            ("red:101", Problem::Weight),
            ("red:-1", Problem::Weight),
            ("red:x", Problem::Weight),
            ("red:", Problem::Weight),
            ("", Problem::NameEmpty),
            ("red,,blue", Problem::NameEmpty),
            (":3", Problem::NameEmpty),
        ] {
            assert_eq!(Backend::list(text).unwrap_err(), problem, "{text:?}");
        }
    }

    #[test]
    fn an_empty_list_is_nobody_and_no_list_is_everybody() {
        let client: IpAddr = "10.1.2.3".parse().unwrap();
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            Allow::from_flags(&words)
        };
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&["any"]).unwrap(), Some(Allow::Anyone));
        assert_eq!(of(&["none"]).unwrap(), Some(Allow::Only(vec![])));
        assert!(Allow::Anyone.admits(client) && !Allow::Only(vec![]).admits(client));
        let some = of(&["10.0.0.0/8", "2001:db8::7"]).unwrap().unwrap();
        assert!(some.admits(client) && some.admits("2001:db8::7".parse().unwrap()));
        assert!(!some.admits("11.0.0.1".parse().unwrap()) && !some.admits("2001:db8::8".parse().unwrap()));
        assert_eq!(some.to_string(), "10.0.0.0/8,2001:db8::7/128");
        assert_eq!((Allow::Anyone.to_string(), Allow::Only(vec![]).to_string()), ("any".into(), "none".into()));
        for (words, value) in [(&["any", "10.0.0.0/8"][..], "any"), (&["10.0.0.0/8", "none"], "none"), (&["x"], "x")] {
            assert_eq!(of(words).unwrap_err(), (value.to_owned(), Problem::Prefix));
        }
        assert_eq!(of(&["10.1.0.0/8"]).unwrap_err().1, Problem::SubnetHostBits("10.0.0.0/8".into()));
    }

    #[test]
    fn lists_are_alike_whatever_their_order() {
        let of = |words: &str| Allow::Only(words.split(',').map(|w| Allow::prefix(w).unwrap()).collect());
        assert!(of("10.0.0.0/8,::1").is_like(&of("::1,10.0.0.0/8,::1")));
        assert!(!of("10.0.0.0/8").is_like(&of("10.0.0.0/9")));
        assert!(!Allow::Anyone.is_like(&Allow::Only(vec![])));
    }
}
