//! A topology file as it is written: which tables and keys there are.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    pub(super) host: Option<RawHost>,
    pub(super) nat: Option<RawNat>,
    #[serde(default)]
    pub(super) network: Vec<Spanned<RawNetwork>>,
    #[serde(default)]
    pub(super) pod: Vec<Spanned<RawPod>>,
    #[serde(default)]
    pub(super) publish: Vec<Spanned<RawShared>>,
    #[serde(default)]
    pub(super) link: Vec<Spanned<toml::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHost {
    pub(super) uplink: Option<Spanned<toml::Value>>,
    pub(super) snat_ports: Option<Spanned<String>>,
    pub(super) mtu: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNat {
    pub(super) profile: Option<Spanned<String>>,
    pub(super) flows: Option<Spanned<i64>>,
    pub(super) flows_per_pod: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) timeouts: RawTimeouts,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTimeouts {
    pub(super) tcp_established: Option<Spanned<String>>,
    pub(super) tcp_transitory: Option<Spanned<String>>,
    pub(super) udp: Option<Spanned<String>>,
    pub(super) icmp: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetwork {
    pub(super) name: Option<Spanned<String>>,
    pub(super) subnets: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) masquerade: Option<bool>,
    pub(super) mapping: Option<Spanned<String>>,
    pub(super) filtering: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) snat_address: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) no_masquerade: Vec<Spanned<String>>,
    pub(super) mtu: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPod {
    pub(super) name: Option<Spanned<String>>,
    pub(super) network: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) address: Vec<Spanned<String>>,
    pub(super) interface: Option<Spanned<String>>,
    pub(super) mac: Option<Spanned<String>>,
    pub(super) adopt: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) publish: Vec<Spanned<RawPodPublish>>,
    #[serde(default)]
    pub(super) attachment: Vec<Spanned<RawAttachment>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAttachment {
    pub(super) network: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) address: Vec<Spanned<String>>,
    pub(super) interface: Option<Spanned<String>>,
    pub(super) mac: Option<Spanned<String>>,
}

/// A publish string, or a table with more.
pub(super) enum RawPodPublish {
    Ports(String),
    Table(RawPublishTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPublishTable {
    pub(super) port: Option<Spanned<String>>,
    pub(super) allow: Option<Vec<Spanned<String>>>,
}

impl<'de> Deserialize<'de> for RawPodPublish {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RawPodPublish;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a publish string or a table")
            }

            fn visit_str<E>(self, text: &str) -> Result<RawPodPublish, E> {
                Ok(RawPodPublish::Ports(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawPodPublish, A::Error> {
                RawPublishTable::deserialize(MapAccessDeserializer::new(map)).map(RawPodPublish::Table)
            }
        }

        from.deserialize_any(Either)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawShared {
    pub(super) port: Option<Spanned<String>>,
    pub(super) backends: Option<Spanned<Vec<RawBackend>>>,
    pub(super) affinity: Option<Spanned<String>>,
    pub(super) allow: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackend {
    pub(super) pod: Option<Spanned<String>>,
    pub(super) weight: Option<Spanned<i64>>,
}
