//! The rules that concern more than one value.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netns_ebpf_common::{Mac, abi};

use super::subnet::{check_subnet, overlap};
use super::{
    Adopt, Attachment, Backend, Behaviour, Declared, HostFacts, InputError, Interface, MAX_SNAT_ADDRS, Network, Pod,
    PortProbe, Problem, Publish, SharedPublish, Topology, Uplink, check_ifname, check_name, gateway, is_assignable,
    same_family,
};

/// What the instance holds beside the topology that is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Networks that are live already: what they have of the topology's is not held against the host again.
    pub networks: Vec<Network>,
    /// Pods that stay and are not part of the topology.
    pub pods: Vec<TakenPod>,
    /// Publishes that stay and are not part of the topology, with the name of their pod.
    pub publishes: Vec<(String, Publish)>,
    /// Publishes of the topology that are live already: not held against the host's sockets and addresses again.
    pub live: Vec<Publish>,
    /// Namespaces that belong to the instance.
    pub namespaces: HashSet<String>,
}

/// A live pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenPod {
    /// Name.
    pub name: String,
    /// Name of its first interface's network.
    pub network: String,
    /// The addresses of all its interfaces, each with its network.
    pub addresses: Vec<(String, IpAddr)>,
    /// How many interfaces it has.
    pub interfaces: usize,
}

/// Holds a topology against itself, the host and what the instance holds.
///
/// # Errors
///
/// The first rule that is broken; [`super::Document::locate`] adds the place.
pub fn validate(
    topology: &Topology,
    facts: &HostFacts,
    ports: &dyn PortProbe,
    taken: &Taken,
) -> Result<(), InputError> {
    resolve_uplinks(&topology.host.uplink, facts)?;
    networks(topology, facts, taken)?;
    pods(topology, facts, taken)?;
    publishes(topology, facts, ports, taken)
}

/// The interfaces to the LAN; empty for a host without one, or without a default route to find them by.
///
/// # Errors
///
/// One does not exist, is named twice, is one of this instance's own, or of a kind the data path cannot use.
pub fn resolve_uplinks<'a>(uplink: &Uplink, facts: &'a HostFacts) -> Result<Vec<&'a Interface>, InputError> {
    let whole = |problem| InputError::new("host.uplink", uplink, problem);
    let names = match uplink {
        Uplink::None => return Ok(Vec::new()),
        Uplink::Auto => &facts.default_uplinks,
        Uplink::Named(names) => names,
    };
    if names.len() > abi::MAX_UPLINKS as usize {
        return Err(whole(Problem::TooMany(abi::MAX_UPLINKS)));
    }
    let mut found = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let field = |i: usize| if names.len() > 1 { format!("host.uplink[{i}]") } else { "host.uplink".to_owned() };
        let error = |problem| InputError::new(field(i), name, problem);
        check_ifname(name).map_err(error)?;
        if let Some(first) = names[..i].iter().position(|n| n == name) {
            return Err(error(Problem::NameTwice(field(first))));
        }
        let interface = facts.interface(name).ok_or_else(|| error(Problem::UplinkMissing))?;
        if facts.ours.contains(&interface.index) || name == "lo" {
            return Err(error(Problem::UplinkOurs));
        }
        if let Some(why) = interface.unfit {
            return Err(error(Problem::UplinkUnfit(why)));
        }
        found.push(interface);
    }
    Ok(found)
}

fn networks(topology: &Topology, facts: &HostFacts, taken: &Taken) -> Result<(), InputError> {
    let mut seen = HashMap::new();
    for (i, network) in topology.networks.iter().enumerate() {
        let field = format!("network[{i}]");
        unique_name(&field, &network.name, &mut seen)?;
        let live = taken.networks.iter().find(|live| live.name == network.name);
        subnets(&field, network, facts, live)?;
        snat_addresses(&field, network, facts, live)?;
        behaviour(&field, network)?;
    }
    let all = topology.networks.iter().map(|n| n.name.as_str()).chain(taken.networks.iter().map(|n| n.name.as_str()));
    let limit = abi::MAX_NETWORKS - 1;
    if all.collect::<HashSet<_>>().len() > limit as usize {
        return Err(InputError::new("network", "", Problem::TooMany(limit)));
    }
    for is_v4 in [true, false] {
        let prefixes = topology.networks.iter().flat_map(|n| &n.no_masquerade).filter(|p| p.addr().is_ipv4() == is_v4);
        if prefixes.count() > abi::MAX_NO_MASQUERADE as usize {
            return Err(InputError::new("network.no_masquerade", "", Problem::TooMany(abi::MAX_NO_MASQUERADE)));
        }
    }
    Ok(())
}

fn subnets(field: &str, network: &Network, facts: &HostFacts, live: Option<&Network>) -> Result<(), InputError> {
    if network.subnets.is_empty() {
        return Err(InputError::new(format!("{field}.subnets"), "", Problem::NoSubnet));
    }
    for (k, subnet) in network.subnets.iter().enumerate() {
        let error = |problem| InputError::new(format!("{field}.subnets[{k}]"), subnet, problem);
        check_subnet(*subnet).map_err(error)?;
        for earlier in &network.subnets[..k] {
            if overlap(*earlier, *subnet) {
                return Err(error(Problem::SubnetOverlap(earlier.to_string())));
            }
            if earlier.addr().is_ipv4() == subnet.addr().is_ipv4() {
                let family = family(subnet.addr());
                return Err(error(Problem::SubnetFamilyTwice { family, first: earlier.to_string() }));
            }
        }
        if live.is_some_and(|live| live.subnets.contains(subnet)) {
            continue;
        }
        let foreign = |r: &&super::HostRoute| !r.ours && r.destination.prefix_len() > 0;
        if let Some(route) = facts.routes.iter().filter(foreign).find(|r| overlap(r.destination, *subnet)) {
            let dev = facts.ifname(route.ifindex).to_owned();
            return Err(error(Problem::RouteOverlap { route: route.destination.to_string(), dev }));
        }
        if let Some(holder) = facts.holder(gateway(*subnet)) {
            let gateway = gateway(*subnet).to_string();
            return Err(error(Problem::GatewayTaken { gateway, dev: holder.name.clone() }));
        }
    }
    Ok(())
}

fn snat_addresses(field: &str, network: &Network, facts: &HostFacts, live: Option<&Network>) -> Result<(), InputError> {
    for (k, address) in network.snat_address.iter().enumerate() {
        let error = |problem| InputError::new(format!("{field}.snat_address[{k}]"), address, problem);
        if !network.masquerade {
            return Err(error(Problem::SnatAddressUnused));
        }
        if let Some(kind) = unfit_source(*address) {
            return Err(error(Problem::SnatAddressKind(kind)));
        }
        let family = family(*address);
        let earlier = &network.snat_address[..k];
        if earlier.contains(address) {
            return Err(error(Problem::SnatAddressTwice));
        }
        if earlier.iter().filter(|a| a.is_ipv4() == address.is_ipv4()).count() == MAX_SNAT_ADDRS {
            return Err(error(Problem::SnatAddressTooMany { family }));
        }
        if !network.subnets.iter().any(|n| same_family(*n, *address)) {
            return Err(error(Problem::SnatAddressFamily { family }));
        }
        // A live network does without for a moment: its flows to the LAN are refused until the address is back.
        let live = live.is_some_and(|live| live.snat_address.contains(address));
        if !live && facts.holder(*address).is_none() {
            return Err(error(Problem::SnatAddressMissing(address.to_string())));
        }
    }
    Ok(())
}

fn behaviour(field: &str, network: &Network) -> Result<(), InputError> {
    let independent = |b| b == Behaviour::EndpointIndependent;
    let (mapping, filtering) = (network.mapping, network.filtering);
    if independent(mapping) && !network.masquerade {
        return Err(InputError::new(format!("{field}.mapping"), mapping, Problem::MappingUnused));
    }
    if independent(filtering) && !independent(mapping) {
        return Err(InputError::new(format!("{field}.filtering"), filtering, Problem::FilteringWithoutMapping));
    }
    Ok(())
}

/// Why nothing leaves with this address as its source, though the host may have it.
fn unfit_source(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    match address {
        a if a.is_unspecified() => Some("the unspecified address"),
        a if a.is_loopback() => Some("loopback"),
        a if a.is_multicast() => Some("multicast"),
        _ if link_local => Some("link-local"),
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => Some("IPv4-mapped"),
        _ => None,
    }
}

fn pods(topology: &Topology, facts: &HostFacts, taken: &Taken) -> Result<(), InputError> {
    let mut seen = HashMap::new();
    let mut addresses: HashMap<(&str, IpAddr), &str> = HashMap::new();
    for pod in &taken.pods {
        addresses.extend(pod.addresses.iter().map(|(network, a)| ((network.as_str(), *a), pod.name.as_str())));
    }
    let mut macs: HashMap<(&str, Mac), &str> = HashMap::new();
    for (i, pod) in topology.pods.iter().enumerate() {
        let field = format!("pod[{i}]");
        unique_name(&field, &pod.name, &mut seen)?;
        let name_error = |problem| InputError::new(format!("{field}.name"), &pod.name, problem);
        if taken.pods.iter().any(|t| t.name == pod.name) {
            return Err(name_error(Problem::NameTaken));
        }
        let is_adopted = matches!(&pod.adopt, Some(Adopt::Name(name)) if *name == pod.name);
        if facts.namespaces.contains(&pod.name) && !taken.namespaces.contains(&pod.name) && !is_adopted {
            return Err(name_error(Problem::NamespaceTaken));
        }
        adopted(i, pod, facts, taken)?;
        let mut ifnames: HashMap<String, String> = HashMap::new();
        for (k, (ifname, attachment)) in pod.interfaces().enumerate() {
            let error = |key: &str, value: &dyn std::fmt::Display, problem| {
                InputError::new(Pod::field(i, k, key), value, problem)
            };
            check_ifname(&ifname).map_err(|p| error("interface", &ifname, p))?;
            if ifname == "lo" {
                return Err(error("interface", &ifname, Problem::Ifname));
            }
            if let Some(first) = ifnames.insert(ifname.clone(), Pod::field(i, k, "")) {
                return Err(error("interface", &ifname, Problem::InterfaceTwice(first)));
            }
            let network = network_of(&Pod::field(i, k, "network"), &attachment.network, topology)?;
            for (n, address) in attachment.address.iter().enumerate() {
                let error = |problem| InputError::new(Pod::field(i, k, &format!("address[{n}]")), address, problem);
                check_address(attachment, network, n, facts).map_err(error)?;
                if let Some(other) = addresses.insert((&attachment.network, *address), &pod.name) {
                    return Err(error(Problem::AddressTaken(other.to_owned())));
                }
            }
            if let Some(mac) = attachment.mac
                && let Some(other) = macs.insert((&attachment.network, mac), &pod.name)
            {
                return Err(error("mac", &mac, Problem::MacTaken(other.to_owned())));
            }
        }
    }
    let interfaces: usize = topology.pods.iter().map(|p| p.attachments().count()).sum();
    let taken: usize = taken.pods.iter().map(|p| p.interfaces).sum();
    if interfaces + taken > abi::MAX_ENDPOINTS as usize {
        return Err(InputError::new("pod", "", Problem::TooMany(abi::MAX_ENDPOINTS)));
    }
    Ok(())
}

/// Whether there is a namespace to adopt, as far as it has a name, and no pod has it.
fn adopted(i: usize, pod: &Pod, facts: &HostFacts, taken: &Taken) -> Result<(), InputError> {
    let Some(Adopt::Name(name)) = &pod.adopt else { return Ok(()) };
    let error = |problem| InputError::new(format!("pod[{i}].adopt"), name, problem);
    if taken.namespaces.contains(name) && *name != pod.name {
        return Err(error(Problem::AdoptTaken(name.clone())));
    }
    if !facts.namespaces.contains(name) && !taken.namespaces.contains(&pod.name) {
        return Err(error(Problem::AdoptMissing));
    }
    Ok(())
}

fn network_of<'a>(field: &str, name: &str, topology: &'a Topology) -> Result<&'a Network, InputError> {
    topology.networks.iter().find(|n| n.name == name).ok_or_else(|| {
        let names: Vec<_> = topology.networks.iter().map(|n| n.name.as_str()).collect();
        let hint =
            if names.is_empty() { "declare it first".to_owned() } else { format!("declared are {}", names.join(", ")) };
        InputError::new(field, name, Problem::UnknownNetwork(hint))
    })
}

fn check_address(of: &Attachment, network: &Network, k: usize, facts: &HostFacts) -> Result<(), Problem> {
    let address = of.address[k];
    let Some(subnet) = network.subnets.iter().find(|n| same_family(**n, address)) else {
        let subnets: Vec<_> = network.subnets.iter().map(IpNet::to_string).collect();
        return Err(Problem::AddressOutside { network: network.name.clone(), subnets: subnets.join(", ") });
    };
    is_assignable(&network.name, *subnet, address)?;
    if let Some(first) = of.address[..k].iter().find(|a| a.is_ipv4() == address.is_ipv4() && **a != address) {
        return Err(Problem::AddressFamilyTwice { family: family(address), first: first.to_string() });
    }
    if let Some(holder) = facts.holder(address) {
        return Err(Problem::AddressIsHosts(holder.name.clone()));
    }
    Ok(())
}

fn publishes(topology: &Topology, facts: &HostFacts, ports: &dyn PortProbe, taken: &Taken) -> Result<(), InputError> {
    let mut seen: Vec<(String, Publish)> = taken.publishes.clone();
    let declared = topology.declared();
    for Declared { field, table, publish: SharedPublish { port: publish, backends, .. } } in &declared {
        let error = |problem| InputError::new(field, publish, problem);
        if let Some((by, other)) = seen.iter().find(|(_, p)| p.conflicts(publish)) {
            return Err(error(Problem::PublishedTwice { by: other.to_string(), pod: by.clone() }));
        }
        if backends.is_empty() || backends.len() > Backend::MAX {
            #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
            let problem = if backends.is_empty() { Problem::NoBackend } else { Problem::TooMany(Backend::MAX as u32) };
            return Err(InputError::new(format!("{table}.backends"), "", problem));
        }
        let mut first = None;
        for (k, backend) in backends.iter().enumerate() {
            let problem = |p| InputError::new(format!("{table}.backends[{k}].pod"), &backend.pod, p);
            if backends[..k].iter().any(|b| b.pod == backend.pod) {
                return Err(problem(Problem::BackendTwice(backend.pod.clone())));
            }
            let network =
                network_behind(topology, taken, &backend.pod).ok_or_else(|| problem(Problem::UnknownBackend))?;
            let families = network.families();
            check_families(publish, families, &backend.pod).map_err(error)?;
            // The ports are entered once for all pods: they must have the same families.
            let first = *first.get_or_insert(families);
            if publish.address.is_none() && families != first {
                let (family, lacks) = if families.0 == first.0 { ("IPv6", !families.1) } else { ("IPv4", !families.0) };
                let pod = if lacks { &backend.pod } else { &backends[0].pod };
                return Err(error(Problem::PublishFamily { pod: pod.clone(), family }));
            }
            if k == 0 && !taken.live.contains(publish) {
                check_host_side(publish, families, facts, ports).map_err(error)?;
            }
        }
        let names: Vec<_> = backends.iter().map(|b| b.pod.as_str()).collect();
        seen.push((names.join(","), *publish));
    }
    if seen.len() > abi::MAX_PUBLISHES as usize {
        return Err(InputError::new("publish", "", Problem::TooMany(abi::MAX_PUBLISHES)));
    }
    for reaches in [Publish::is_v4, Publish::is_v6] {
        let entries: u64 = seen.iter().filter(|(_, p)| reaches(p)).map(|(_, p)| u64::from(p.host_ports.len())).sum();
        if entries > u64::from(abi::MAX_PUBLISHED_PORTS) {
            return Err(InputError::new("publish", "", Problem::TooMany(abi::MAX_PUBLISHED_PORTS)));
        }
    }
    for is_v4 in [true, false] {
        let prefixes = declared.iter().filter_map(|d| d.publish.allow.prefixes()).flatten();
        if prefixes.filter(|p| p.addr().is_ipv4() == is_v4).count() > abi::MAX_ALLOWED_PREFIXES as usize {
            return Err(InputError::new("publish.allow", "", Problem::TooMany(abi::MAX_ALLOWED_PREFIXES)));
        }
    }
    Ok(())
}

/// The network of a pod of the topology, or of one that stays beside it.
fn network_behind<'a>(topology: &'a Topology, taken: &Taken, pod: &str) -> Option<&'a Network> {
    let declared = topology.pods.iter().find(|p| p.name == pod).map(|p| &p.first.network);
    let name = declared.or_else(|| taken.pods.iter().find(|p| p.name == pod).map(|p| &p.network))?;
    topology.networks.iter().find(|n| n.name == *name)
}

fn check_families(publish: &Publish, (v4, v6): (bool, bool), pod: &str) -> Result<(), Problem> {
    match publish.address {
        Some(address) if !(if address.is_ipv4() { v4 } else { v6 }) => {
            Err(Problem::PublishFamily { pod: pod.to_owned(), family: family(address) })
        }
        _ => Ok(()),
    }
}

/// Holds a publish against the addresses and sockets of the host.
fn check_host_side(
    publish: &Publish,
    (v4, v6): (bool, bool),
    facts: &HostFacts,
    ports: &dyn PortProbe,
) -> Result<(), Problem> {
    if let Some(address) = publish.address {
        let local = |i: &Interface| i.addresses.iter().any(|a| a.addr() == address);
        if !address.is_unspecified() && !address.is_loopback() && !facts.interfaces.iter().any(local) {
            return Err(Problem::PublishAddress(address.to_string()));
        }
    }
    for address in publish.keys().filter(|a| if a.is_ipv4() { v4 } else { v6 }) {
        if let Some(port) = publish.host_ports.iter().find(|p| ports.is_bound(publish.proto, address, *p)) {
            return Err(Problem::PortListened(format!("{} port {port}", publish.proto)));
        }
    }
    Ok(())
}

fn unique_name<'a>(field: &str, name: &'a str, seen: &mut HashMap<&'a str, String>) -> Result<(), InputError> {
    let error = |problem| InputError::new(format!("{field}.name"), name, problem);
    check_name(name).map_err(error)?;
    match seen.insert(name, field.to_owned()) {
        Some(other) => Err(error(Problem::NameTwice(other))),
        None => Ok(()),
    }
}

/// The family's name for messages.
fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
