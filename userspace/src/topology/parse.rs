//! From text to a [`Topology`], remembering where everything was.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use toml::Spanned;

use super::raw::{RawAttachment, RawFile, RawHost, RawNat, RawNetwork, RawPod, RawPodPublish, RawShared};
use super::{
    Adopt, Affinity, Allow, Attachment, Backend, Behaviour, Flows, Host, InputError, Nat, Network, Pod, PodPublish,
    PortRange, Position, Problem, Profile, Publish, Seconds, SharedPublish, Topology, Uplink,
};

/// A parsed file: what it says, and where.
#[derive(Debug, Clone, Default)]
pub struct Document {
    /// What it says.
    pub topology: Topology,
    positions: HashMap<String, Position>,
}

impl Document {
    /// Whether there is not one table or field in it: an empty file, or none of what somebody meant to hand over.
    pub fn declares_nothing(&self) -> bool {
        self.positions.is_empty()
    }

    /// Adds the place in the file to an error that names a field of it.
    pub fn locate(&self, error: InputError) -> InputError {
        if error.at.is_some() {
            return error;
        }
        // A missing field has no place of its own: its table has.
        let mut path = error.field.as_str();
        loop {
            if let Some(at) = self.positions.get(path) {
                return error.clone().at(Some(*at));
            }
            let Some(end) = path.rfind(['.', '[']) else { return error };
            path = &path[..end];
        }
    }
}

impl From<Topology> for Document {
    fn from(topology: Topology) -> Self {
        Self { topology, positions: HashMap::new() }
    }
}

/// Reads a topology file.
///
/// Only what concerns a value alone is checked here; [`super::validate()`] does the rest.
///
/// # Errors
///
/// The first thing wrong, with its line and column.
pub fn parse(text: &str) -> Result<Document, InputError> {
    let raw: RawFile = toml::from_str(text).map_err(|e| syntax(text, &e))?;
    let mut read = Reader { text, positions: HashMap::new() };
    if let Some(link) = raw.link.first() {
        read.mark("link", link.span());
        return Err(read.error("link", "", Problem::Unsupported));
    }
    let host = match raw.host {
        Some(host) => read.host(host)?,
        None => Host::default(),
    };
    let nat = read.nat(raw.nat)?;
    let networks =
        raw.network.into_iter().enumerate().map(|(i, n)| read.network(i, n)).collect::<Result<Vec<_>, _>>()?;
    let pods =
        raw.pod.into_iter().enumerate().map(|(i, p)| read.pod(i, p, &networks)).collect::<Result<Vec<_>, _>>()?;
    let publishes =
        raw.publish.into_iter().enumerate().map(|(i, p)| read.shared(i, p)).collect::<Result<Vec<_>, _>>()?;
    Ok(Document { topology: Topology { host, nat, networks, pods, publishes }, positions: read.positions })
}

struct Reader<'a> {
    text: &'a str,
    positions: HashMap<String, Position>,
}

impl Reader<'_> {
    fn mark(&mut self, field: &str, span: Range<usize>) {
        self.positions.insert(field.to_owned(), Position::of(self.text, span.start));
    }

    fn error(&self, field: &str, value: &str, problem: Problem) -> InputError {
        InputError::new(field, value, problem).at(self.positions.get(field).copied())
    }

    /// Takes a value out of its span, remembering the place.
    fn text(&mut self, field: &str, value: Spanned<String>) -> String {
        self.mark(field, value.span());
        value.into_inner()
    }

    /// Reads each string of a list.
    fn list<T>(
        &mut self,
        field: &str,
        values: Vec<Spanned<String>>,
        read: impl Fn(&str) -> Result<T, Problem>,
    ) -> Result<Vec<T>, InputError> {
        let mut out = Vec::with_capacity(values.len());
        for (i, value) in values.into_iter().enumerate() {
            let field = format!("{field}[{i}]");
            let value = self.text(&field, value);
            out.push(read(&value).map_err(|p| self.error(&field, &value, p))?);
        }
        Ok(out)
    }

    fn required(&mut self, field: &str, table: &str, value: Option<Spanned<String>>) -> Result<String, InputError> {
        match value {
            Some(value) => Ok(self.text(field, value)),
            None => Err(InputError::new(field, "", Problem::Missing("add it".to_owned()))
                .at(self.positions.get(table).copied())),
        }
    }

    fn mtu(&mut self, field: &str, value: Option<Spanned<i64>>) -> Result<Option<u32>, InputError> {
        let Some(value) = value else { return Ok(None) };
        self.mark(field, value.span());
        let given = value.into_inner();
        match u32::try_from(given) {
            Ok(mtu) if (1280..=65_535).contains(&mtu) => Ok(Some(mtu)),
            _ => Err(self.error(field, &given.to_string(), Problem::Mtu)),
        }
    }

    fn behaviour(&mut self, field: &str, value: Option<Spanned<String>>) -> Result<Behaviour, InputError> {
        let Some(value) = value else { return Ok(Behaviour::default()) };
        let value = self.text(field, value);
        value.parse().map_err(|p| self.error(field, &value, p))
    }

    fn host(&mut self, raw: RawHost) -> Result<Host, InputError> {
        let mut host = Host::default();
        if let Some(uplink) = raw.uplink {
            self.mark("host.uplink", uplink.span());
            host.uplink = self.uplink(uplink.into_inner())?;
        }
        if let Some(ports) = raw.snat_ports {
            let ports = self.text("host.snat_ports", ports);
            host.snat_ports =
                ports.parse::<PortRange>().map_err(|p| self.error("host.snat_ports", &ports, range_words(p)))?;
        }
        host.mtu = self.mtu("host.mtu", raw.mtu)?;
        Ok(host)
    }

    fn uplink(&self, value: toml::Value) -> Result<Uplink, InputError> {
        use toml::Value;
        let error = |value: &Value| self.error("host.uplink", &value.to_string(), Problem::UplinkForm);
        match value {
            Value::String(word) => Ok(Uplink::from_word(&word)),
            Value::Array(list) => {
                // The words are no names: a list of them would be read as something else by whoever knows the words.
                let name = |value: Value| match value {
                    Value::String(name) if name != "auto" && name != "none" => Ok(name),
                    other => Err(error(&other)),
                };
                Ok(Uplink::from_list(list.into_iter().map(name).collect::<Result<_, _>>()?))
            }
            other => Err(error(&other)),
        }
    }

    fn nat(&mut self, raw: Option<RawNat>) -> Result<Nat, InputError> {
        let Some(raw) = raw else { return Ok(Nat::default()) };
        let profile = match raw.profile {
            Some(profile) => {
                let profile = self.text("nat.profile", profile);
                profile.parse::<Profile>().map_err(|p| self.error("nat.profile", &profile, p))?
            }
            None => Profile::default(),
        };
        let mut nat = Nat::from(profile);
        if let Some(flows) = self.flows("nat.flows", raw.flows)? {
            nat.flows = flows;
        }
        nat.flows_per_pod = self.flows("nat.flows_per_pod", raw.flows_per_pod)?;
        let (given, timers) = (raw.timeouts, &mut nat.timeouts);
        for (key, value, timer) in [
            ("tcp_established", given.tcp_established, &mut timers.tcp_established),
            ("tcp_transitory", given.tcp_transitory, &mut timers.tcp_transitory),
            ("udp", given.udp, &mut timers.udp),
            ("icmp", given.icmp, &mut timers.icmp),
        ] {
            let Some(value) = value else { continue };
            let field = format!("nat.timeouts.{key}");
            let value = self.text(&field, value);
            *timer = value.parse::<Seconds>().map_err(|p| self.error(&field, &value, p))?;
        }
        Ok(nat)
    }

    fn flows(&mut self, field: &str, raw: Option<Spanned<i64>>) -> Result<Option<Flows>, InputError> {
        let Some(raw) = raw else { return Ok(None) };
        self.mark(field, raw.span());
        let given = raw.into_inner();
        let flows = u32::try_from(given).map_err(|_| Problem::Flows).and_then(Flows::new);
        flows.map(Some).map_err(|p| self.error(field, &given.to_string(), p))
    }

    fn network(&mut self, i: usize, raw: Spanned<RawNetwork>) -> Result<Network, InputError> {
        let table = format!("network[{i}]");
        self.mark(&table, raw.span());
        let raw = raw.into_inner();
        let name = self.required(&format!("{table}.name"), &table, raw.name)?;
        let field = format!("{table}.subnets");
        let subnets = match raw.subnets {
            Some(list) => {
                self.mark(&field, list.span());
                self.list(&field, list.into_inner(), subnet)?
            }
            None => return Err(InputError::new(field, "", Problem::NoSubnet).at(self.positions.get(&table).copied())),
        };
        let no_masquerade = self.list(&format!("{table}.no_masquerade"), raw.no_masquerade, |s| {
            let prefix = subnet(s)?;
            if prefix == prefix.trunc() { Ok(prefix) } else { Err(Problem::SubnetHostBits(prefix.trunc().to_string())) }
        })?;
        let snat_address = self.list(&format!("{table}.snat_address"), raw.snat_address, address)?;
        let mtu = self.mtu(&format!("{table}.mtu"), raw.mtu)?;
        let masquerade = raw.masquerade.unwrap_or(true);
        let mapping = self.behaviour(&format!("{table}.mapping"), raw.mapping)?;
        let filtering = self.behaviour(&format!("{table}.filtering"), raw.filtering)?;
        Ok(Network { name, subnets, masquerade, snat_address, mapping, filtering, no_masquerade, mtu })
    }

    fn pod(&mut self, i: usize, raw: Spanned<RawPod>, networks: &[Network]) -> Result<Pod, InputError> {
        let table = format!("pod[{i}]");
        self.mark(&table, raw.span());
        let RawPod { name, network, address, interface, mac, adopt, publish: ports, attachment } = raw.into_inner();
        let name = self.required(&format!("{table}.name"), &table, name)?;
        let adopt = match adopt {
            Some(adopt) => {
                let field = format!("{table}.adopt");
                let adopt = self.text(&field, adopt);
                Some(adopt.parse::<Adopt>().map_err(|p| self.error(&field, &adopt, p))?)
            }
            None => None,
        };
        let first = self.attachment(&table, RawAttachment { network, address, interface, mac }, networks)?;
        let mut publish = Vec::with_capacity(ports.len());
        for (k, entry) in ports.into_iter().enumerate() {
            publish.push(self.pod_publish(&format!("{table}.publish[{k}]"), entry)?);
        }
        let mut more = Vec::with_capacity(attachment.len());
        for (k, raw) in attachment.into_iter().enumerate() {
            let table = Pod::field(i, k + 1, "");
            self.mark(&table, raw.span());
            more.push(self.attachment(&table, raw.into_inner(), networks)?);
        }
        Ok(Pod { name, adopt, first, publish, more })
    }

    fn attachment(&mut self, table: &str, raw: RawAttachment, networks: &[Network]) -> Result<Attachment, InputError> {
        let field = format!("{table}.network");
        let network = match (raw.network, networks) {
            (Some(network), _) => self.text(&field, network),
            (None, [only]) => only.name.clone(),
            (None, []) => {
                let problem = Problem::UnknownNetwork("declare a [[network]]".to_owned());
                return Err(InputError::new(field, "", problem).at(self.positions.get(table).copied()));
            }
            (None, many) => {
                let names: Vec<_> = many.iter().map(|n| n.name.as_str()).collect();
                let problem = Problem::NetworkAmbiguous(names.join(", "));
                return Err(InputError::new(field, "", problem).at(self.positions.get(table).copied()));
            }
        };
        let address = self.list(&format!("{table}.address"), raw.address, address)?;
        let interface = raw.interface.map(|name| self.text(&format!("{table}.interface"), name));
        let mac = match raw.mac {
            Some(mac) => {
                let field = format!("{table}.mac");
                let mac = self.text(&field, mac);
                Some(Attachment::mac(&mac).map_err(|p| self.error(&field, &mac, p))?)
            }
            None => None,
        };
        Ok(Attachment { network, address, interface, mac })
    }

    fn pod_publish(&mut self, field: &str, raw: Spanned<RawPodPublish>) -> Result<PodPublish, InputError> {
        self.mark(field, raw.span());
        match raw.into_inner() {
            RawPodPublish::Ports(ports) => {
                ports.parse::<Publish>().map(PodPublish::from).map_err(|p| self.error(field, &ports, p))
            }
            RawPodPublish::Table(raw) => {
                Ok(PodPublish { port: self.ports(field, raw.port)?, allow: self.allow(field, raw.allow)? })
            }
        }
    }

    fn ports(&mut self, table: &str, port: Option<Spanned<String>>) -> Result<Publish, InputError> {
        let field = format!("{table}.port");
        let text = self.required(&field, table, port)?;
        text.parse().map_err(|p| self.error(&field, &text, p))
    }

    fn allow(&mut self, table: &str, allow: Option<Vec<Spanned<String>>>) -> Result<Allow, InputError> {
        match allow {
            Some(list) => Ok(Allow::Only(self.list(&format!("{table}.allow"), list, Allow::prefix)?)),
            None => Ok(Allow::Anyone),
        }
    }

    fn shared(&mut self, i: usize, raw: Spanned<RawShared>) -> Result<SharedPublish, InputError> {
        let table = format!("publish[{i}]");
        self.mark(&table, raw.span());
        let raw = raw.into_inner();
        let port = self.ports(&table, raw.port)?;
        let field = format!("{table}.backends");
        let Some(list) = raw.backends else { return Err(self.error(&table, "", Problem::NoBackend).under(field)) };
        self.mark(&field, list.span());
        let mut backends = Vec::new();
        for (k, backend) in list.into_inner().into_iter().enumerate() {
            let field = format!("{field}[{k}]");
            let pod = self.required(&format!("{field}.pod"), &format!("{table}.backends"), backend.pod)?;
            let weight = match backend.weight {
                Some(weight) => {
                    let field = format!("{field}.weight");
                    self.mark(&field, weight.span());
                    let given = weight.into_inner();
                    Backend::weight(given).map_err(|p| self.error(&field, &given.to_string(), p))?
                }
                None => 1,
            };
            backends.push(Backend { pod, weight });
        }
        let affinity = match raw.affinity {
            Some(affinity) => {
                let field = format!("{table}.affinity");
                let affinity = self.text(&field, affinity);
                affinity.parse().map_err(|p| self.error(&field, &affinity, p))?
            }
            None => Affinity::None,
        };
        Ok(SharedPublish { port, backends, affinity, allow: self.allow(&table, raw.allow)? })
    }
}

fn address(s: &str) -> Result<IpAddr, Problem> {
    s.parse::<IpAddr>().map_err(|_| {
        Problem::Address(if s.contains('/') {
            "write it without a prefix length".to_owned()
        } else {
            "write 10.244.0.10 or fd00:244::10".to_owned()
        })
    })
}

fn subnet(s: &str) -> Result<IpNet, Problem> {
    s.parse::<IpNet>().map_err(|_| {
        Problem::Subnet(match s.split_once('/') {
            None => "the prefix length is missing".to_owned(),
            Some((a, _)) if a.parse::<IpAddr>().is_err() => format!("{a:?} is not an IP address"),
            Some((_, len)) => format!("{len:?} is not a prefix length"),
        })
    })
}

/// A port range outside a publish string is not described as one.
fn range_words(problem: Problem) -> Problem {
    match problem {
        Problem::Publish(why) => Problem::Syntax(format!("not a range of ports ({why}); write 20000-32767")),
        p => p,
    }
}

/// An error of the TOML reader in our words, naming the field as well as the text allows.
fn syntax(text: &str, error: &toml::de::Error) -> InputError {
    let span = error.span().unwrap_or(0..0);
    let at = Some(Position::of(text, span.start));
    let message = error.message();
    let given = text.get(span.clone()).unwrap_or_default();
    let section = text.get(..span.start).unwrap_or_default().lines().rev().find_map(|l| {
        let l = l.trim();
        l.starts_with('[').then(|| l.trim_matches(['[', ']', ' ']).to_owned()).filter(|s| !s.contains('"'))
    });
    let within = |key: &str| match &section {
        Some(section) if !section.is_empty() && section != key => format!("{section}.{key}"),
        _ => key.to_owned(),
    };
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let key = rest.split('`').next().unwrap_or(given);
        let expected = rest.split_once("expected ").map_or("none", |(_, e)| e).replace('`', "").replace(" or ", ", ");
        let expected = expected.strip_prefix("one of ").unwrap_or(&expected).to_owned();
        return InputError::new(within(key), "", Problem::UnknownKey(expected)).at(at);
    }
    let line_start = text.get(..span.start).and_then(|t| t.rfind('\n')).map_or(0, |i| i + 1);
    let line = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
    let field = match line.split_once('=') {
        Some((key, _)) if !key.trim().is_empty() => within(key.trim()),
        _ => section.unwrap_or_else(|| "file".to_owned()),
    };
    let value = given.lines().next().unwrap_or_default();
    InputError::new(field, value, Problem::Syntax(message.replace('\n', ", "))).at(at)
}
