//! Reads what these types serialise to: the store keeps rows as JSON.

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error};

use super::{Allow, PortRange, Publish, Seconds, Uplink};

/// Types that are one word.
macro_rules! words {
    ($($t:ty),+) => {$(
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(D::Error::custom)
            }
        }
    )+};
}

words!(PortRange, Publish, Seconds);

impl<'de> Deserialize<'de> for Uplink {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            Names(Vec<String>),
        }
        Ok(match Written::deserialize(d)? {
            Written::Word(word) => Self::from_word(&word),
            Written::Names(names) => Self::from_list(names),
        })
    }
}

/// Absent is everybody, empty is nobody.
impl<'de> Deserialize<'de> for Allow {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Option::<Vec<IpNet>>::deserialize(d)?.map_or(Self::Anyone, Self::Only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Affinity, Flows, Host, Nat, Profile};

    fn there_and_back<T: serde::Serialize + for<'de> serde::Deserialize<'de> + PartialEq + std::fmt::Debug>(value: &T) {
        let text = serde_json::to_string(value).unwrap();
        assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{text}");
    }

    #[test]
    fn what_is_written_is_read() {
        for uplink in ["auto", "none", "eth0", "eth0 tun0"] {
            there_and_back(&uplink.parse::<Uplink>().unwrap());
        }
        for publish in ["8080:80/tcp", "[::1]:80-81:90-91/udp", "127.0.0.1:53:53/udp"] {
            there_and_back(&publish.parse::<Publish>().unwrap());
        }
        for allow in [Allow::Anyone, Allow::Only(vec![]), Allow::Only(vec!["10.0.0.0/8".parse().unwrap()])] {
            there_and_back(&allow);
        }
        there_and_back(&Affinity::Client);
        there_and_back(&Host { mtu: Some(9000), ..Host::default() });
        there_and_back(&Nat { flows_per_pod: Some(Flows::new(7).unwrap()), ..Profile::Fast.into() });
    }

    #[test]
    fn what_nobody_writes_is_refused_and_what_is_new_has_a_default() {
        assert!(serde_json::from_str::<Flows>("0").is_err());
        assert!(serde_json::from_str::<Seconds>("\"0s\"").is_err());
        assert!(serde_json::from_str::<PortRange>("\"9-1\"").is_err());
        assert_eq!(serde_json::from_str::<Host>("{}").unwrap(), Host::default());
        assert_eq!(serde_json::from_str::<Nat>("{}").unwrap(), Nat::default());
    }
}
