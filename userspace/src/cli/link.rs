//! `netns link`.

use std::net::IpAddr;

use clap::Args;
use ipnet::IpNet;
use serde::Serialize;

use super::name::namespace_name;
use super::owner::open_namespace;
use super::table::list;
use super::{CliError, Global};
use crate::instance::{Object, Op, PlatformError};
use crate::netns::{Netns, NetnsName};
use crate::probe;
use crate::topology::{InputError, Problem, check_ifname};
use crate::wiring::{Cable, CableEnd, WiringError};

/// The host: the network namespace the command runs in.
const HOST: &str = "host";
/// The same, where a namespace is named like that.
const HERE: &str = ".";

/// Arguments of `link`.
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// Name of a pod or network namespace; host, or . for the namespace this command runs in
    pub a: String,
    /// Name of the other one
    pub b: String,
    /// Names of the interfaces in A and in B [default: veth- and the name of the other end]
    #[arg(long, num_args = 2, value_names = ["IN_A", "IN_B"])]
    pub ifname: Vec<String>,
    /// Addresses in A and in B, with prefix lengths; several with commas between, - for none
    #[arg(long, num_args = 2, value_names = ["IN_A", "IN_B"])]
    pub address: Vec<String>,
    /// MTU of a new cable in bytes
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=65_535), value_name = "BYTES")]
    pub mtu: u32,
    /// Remove the cable
    #[arg(long, conflicts_with_all = ["address", "mtu"])]
    pub delete: bool,
}

#[derive(Debug, Serialize)]
struct Linked {
    changed: bool,
    #[serde(skip)]
    delete: bool,
    a: End,
    b: End,
}

#[derive(Debug, Serialize)]
struct End {
    /// The namespace; `None`: the host.
    namespace: Option<String>,
    ifname: String,
    addresses: Vec<IpNet>,
}

pub(super) fn run(global: &Global, args: &LinkArgs) -> Result<u8, CliError> {
    probe::privileges()?;
    let (a, b) = (place("A", &args.a)?, place("B", &args.b)?);
    let ifnames = ifnames(&args.ifname, [&a, &b])?;
    let addresses = addresses(&args.address)?;
    let (a_netns, b_netns) = (open(a.as_ref())?, open(b.as_ref())?);
    if a_netns.is_same(&b_netns) {
        let why = "the same network namespace as the other end; a cable has two".to_owned();
        return Err(InputError::new("B", &args.b, Problem::Usage(why)).into());
    }
    let [a_ifname, b_ifname] = ifnames;
    let [a_addresses, b_addresses] = addresses;
    let end = |netns, name: &Option<NetnsName>, ifname: &String, addresses: &Vec<IpNet>| CableEnd {
        netns,
        namespace: name.as_ref().map_or_else(|| "the host".to_owned(), NetnsName::to_string),
        ifname: ifname.clone(),
        addresses: addresses.clone(),
    };
    let cable = Cable::new([end(a_netns, &a, &a_ifname, &a_addresses), end(b_netns, &b, &b_ifname, &b_addresses)]);
    let changed = if args.delete { cable.remove() } else { cable.lay(args.mtu) };
    let end = |name: Option<NetnsName>, ifname, addresses| End {
        namespace: name.map(|name| name.to_string()),
        ifname,
        addresses,
    };
    let linked = Linked {
        changed: changed.map_err(|e| failed(args, e))?,
        delete: args.delete,
        a: end(a, a_ifname, a_addresses),
        b: end(b, b_ifname, b_addresses),
    };
    global.print(&linked, text)?;
    Ok(0)
}

fn failed(args: &LinkArgs, error: WiringError) -> CliError {
    match error {
        WiringError::NameTaken { ref ifname, .. } => {
            InputError::new("--ifname", ifname, Problem::Usage(error.to_string())).into()
        }
        error => PlatformError::new(Op::Make, Object::Cable(format!("{:?} and {:?}", args.a, args.b)), error).into(),
    }
}

fn text(linked: &Linked) -> String {
    let end = |end: &End| {
        let mut words = vec![end.namespace.as_deref().unwrap_or(HOST), &end.ifname];
        let addresses = list(&end.addresses);
        if !end.addresses.is_empty() {
            words.push(&addresses);
        }
        words.join(" ")
    };
    let cable = format!("{} ~~ {}", end(&linked.a), end(&linked.b));
    match (linked.changed, linked.delete) {
        (true, false) => format!("+ link     {cable}"),
        (true, true) => format!("- link     {cable}"),
        (false, false) => format!("link {cable}: nothing to change"),
        (false, true) => format!("link {cable}: was not there"),
    }
}

/// Where an end is to be; `None`: the host.
fn place(field: &str, given: &str) -> Result<Option<NetnsName>, CliError> {
    if given == HERE {
        return Ok(None);
    }
    let name = namespace_name(given)?;
    if given != HOST {
        return Ok(Some(name));
    }
    if name.path().exists() {
        let why = "a network namespace is named like that; write . for the one this command runs in".to_owned();
        return Err(InputError::new(field, given, Problem::Usage(why)).into());
    }
    Ok(None)
}

fn open(name: Option<&NetnsName>) -> Result<Netns, CliError> {
    match name {
        Some(name) => open_namespace(name),
        None => Ok(Netns::current()?),
    }
}

/// By default an end is named after the other one: a namespace may have many cables, each to another place.
fn ifnames(given: &[String], places: [&Option<NetnsName>; 2]) -> Result<[String; 2], InputError> {
    let name = |place: &Option<NetnsName>| place.as_ref().map_or_else(|| HOST.to_owned(), NetnsName::to_string);
    let names = match given {
        [] => [1, 0].map(|other| format!("veth-{}", name(places[other]))),
        [a, b] => [a.clone(), b.clone()],
        more => return Err(twice("--ifname", &more[2])),
    };
    for name in &names {
        check_ifname(name).map_err(|problem| InputError::new("--ifname", name, problem))?;
    }
    Ok(names)
}

fn addresses(given: &[String]) -> Result<[Vec<IpNet>; 2], InputError> {
    let read = |list: &String| list.split(',').filter(|_| list != "-").map(address).collect::<Result<Vec<_>, _>>();
    match given {
        [] => Ok([Vec::new(), Vec::new()]),
        [a, b] => Ok([read(a)?, read(b)?]),
        more => Err(twice("--address", &more[2])),
    }
}

fn twice(field: &str, value: &str) -> InputError {
    InputError::new(field, value, Problem::Usage("given twice; commas go between several of one end".to_owned()))
}

fn address(text: &str) -> Result<IpNet, InputError> {
    let refused = |why: &str| InputError::new("--address", text, Problem::Address(why.to_owned()));
    let net: IpNet = text.parse().map_err(|_| refused("write 10.0.1.1/24 or fd00:1::1/64, with a prefix length"))?;
    let unusable = match net.addr() {
        IpAddr::V4(a) => a.is_unspecified() || a.is_multicast() || a.is_loopback() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_unspecified() || a.is_multicast() || a.is_loopback() || a.to_ipv4_mapped().is_some(),
    };
    if unusable { Err(refused("no interface can have it")) } else { Ok(net) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_named_after_each_other() {
        let place = |name: &str| Some(NetnsName::new(name).unwrap());
        let names = |a, b| ifnames(&[], [&a, &b]);
        assert_eq!(names(place("red"), place("blue")), Ok(["veth-blue".to_owned(), "veth-red".to_owned()]));
        assert_eq!(names(None, place("blue")), Ok(["veth-blue".to_owned(), "veth-host".to_owned()]));
        assert!(names(None, place("a-long-name")).is_err_and(|e| e.problem == Problem::Ifname));
        assert!(names(None, place("%d")).is_err_and(|e| e.problem == Problem::Ifname));
    }

    #[test]
    fn addresses_are_lists_for_two_ends() {
        let words = |words: [&str; 2]| addresses(&words.map(str::to_owned));
        let [a, b] = words(["10.0.1.1/24,fd00:1::1/64", "-"]).unwrap();
        assert_eq!((list(&a), b), ("10.0.1.1/24,fd00:1::1/64".to_owned(), Vec::new()));
        for bad in ["", "10.0.1.1", "10.0.1.1/33", "224.0.0.1/4", "::1/128", "10.0.1.1/24,", "0.0.0.0/0"] {
            assert!(words(["-", bad]).is_err_and(|e| e.field == "--address"), "{bad}");
        }
    }
}
