mod publishes;
mod written;

use std::collections::HashSet;
use std::net::IpAddr;

use super::*;

const GOOD: &str = r#"
[host]
uplink = "eth7"
snat_ports = "20000-32767"

[[network]]
name = "pods"
subnets = ["10.244.0.0/24", "fd00:244::/64"]
no_masquerade = ["192.168.1.0/24"]

[[pod]]
name = "red"
network = "pods"
address = ["10.244.0.10"]
publish = ["8080:80/tcp", "127.0.0.1:5353:53/udp", "[::]:9000-9010:9000-9010/tcp"]

[[pod]]
name = "blue"
"#;

fn facts() -> HostFacts {
    let net = |s: &str| s.parse().unwrap();
    HostFacts {
        interfaces: vec![
            Interface {
                index: 1,
                name: "lo".into(),
                mtu: 65_536,
                addresses: vec![net("127.0.0.1/8"), net("::1/128")],
                unfit: None,
            },
            Interface {
                index: 7,
                name: "eth7".into(),
                mtu: 1500,
                addresses: ["192.0.2.1/24", "2001:db8::1/64"]
                    .map(net)
                    .into_iter()
                    .chain((1..=9).map(|i| net(&format!("10.77.0.{i}/32"))))
                    .collect(),
                unfit: None,
            },
        ],
        routes: vec![
            HostRoute { destination: net("0.0.0.0/0"), ifindex: 7, ours: false },
            HostRoute { destination: net("192.0.2.0/24"), ifindex: 7, ours: false },
            HostRoute { destination: net("172.16.0.0/12"), ifindex: 7, ours: false },
        ],
        default_uplinks: vec!["eth7".into()],
        namespaces: vec!["theirs".into()],
        ours: vec![],
    }
}

/// Parses and validates as `netns up` does.
fn check(text: &str) -> Result<Topology, InputError> {
    check_with(text, &facts(), &Taken::default())
}

fn check_with(text: &str, facts: &HostFacts, taken: &Taken) -> Result<Topology, InputError> {
    let listener = |proto, _: IpAddr, port| (proto, port) == (Proto::Tcp, 22);
    let document = parse(text)?;
    validate(&document.topology, facts, &listener, taken).map_err(|e| document.locate(e))?;
    Ok(document.topology)
}

#[test]
fn reads_the_documented_file() {
    let t = check(GOOD).unwrap();
    assert_eq!(t.host.uplink, Uplink::Named(vec!["eth7".into()]));
    assert_eq!(t.networks[0].subnets.len(), 2);
    assert!(t.networks[0].masquerade, "masquerade is the default");
    assert_eq!(t.pods[1].first.network, "pods", "the only network is the default");
    assert!(t.pods[1].publish.is_empty() && t.pods[1].first.address.is_empty());
    assert_eq!(t.pods[0].publish[2].port.to_string(), "[::]:9000-9010:9000-9010/tcp");
    assert!(t.pods[0].publish[1].port.is_loopback());
}

#[test]
fn an_empty_file_is_a_host_without_pods() {
    assert_eq!(check("").unwrap(), Topology::default());
}

/// Each row: a change to the good file, the field that must be named, and a word of the message.
#[test]
fn each_bad_input_names_field_value_and_place() {
    let long = "n".repeat(MAX_NAME_BYTES + 1);
    let long = format!("name = \"{long}\"");
    // Before a key of the first network.
    const NAME: &str = "name = \"pods\"";
    let snat = |addresses: &str| format!("snat_address = [{addresses}]\n{NAME}");
    let nine = (1..=9).map(|i| format!("\"10.77.0.{i}\"")).collect::<Vec<_>>().join(", ");
    let rows: &[(&str, &str, &str, &str)] = &[
        ("[host]", "[host]\ncolour = 1", "host.colour", "unknown key"),
        ("[host]", "[hots]", "hots", "unknown key"),
        ("name = \"blue\"", "name = \"blue\"\npublsih = []", "pod.publsih", "unknown key"),
        ("name = \"blue\"", "name = \"blue\"\n[[link]]\na = 1", "link", "not part of this version"),
        ("name = \"blue\"", "name = 5", "pod.name", "invalid type"),
        ("name = \"blue\"", "name = \"blue", "pod.name", ""),
        ("name = \"blue\"", "address = []", "pod[1].name", "missing"),
        ("\"10.244.0.10\"", "\"10.244.0.300\"", "pod[0].address[0]", "not an IP address"),
        ("\"10.244.0.10\"", "\"10.244.0.10/24\"", "pod[0].address[0]", "without a prefix length"),
        ("\"10.244.0.0/24\"", "\"10.244.0.0/33\"", "network[0].subnets[0]", "prefix length"),
        ("\"10.244.0.0/24\"", "\"10.244.0.0\"", "network[0].subnets[0]", "prefix length is missing"),
        ("\"10.244.0.0/24\"", "\"10.244.0.1/24\"", "network[0].subnets[0]", "write 10.244.0.0/24"),
        ("\"10.244.0.0/24\"", "\"10.244.0.0/31\"", "network[0].subnets[0]", "8 to 30"),
        ("\"10.244.0.0/24\"", "\"127.1.0.0/24\"", "network[0].subnets[0]", "loopback"),
        ("\"10.244.0.0/24\"", "\"224.1.0.0/24\"", "network[0].subnets[0]", "multicast"),
        ("\"fd00:244::/64\"", "\"fe80:244::/64\"", "network[0].subnets[1]", "bits set|link-local"),
        ("\"fd00:244::/64\"", "\"10.244.0.0/16\"", "network[0].subnets[1]", "overlaps 10.244.0.0/24"),
        ("\"fd00:244::/64\"", "\"10.245.0.0/16\"", "network[0].subnets[1]", "at most one per family"),
        ("\"10.244.0.0/24\"", "\"192.0.2.128/25\"", "network[0].subnets[0]", "route 192.0.2.0/24 (dev eth7)"),
        ("\"10.244.0.0/24\"", "\"172.17.0.0/16\"", "network[0].subnets[0]", "route 172.16.0.0/12"),
        ("\"10.244.0.0/24\"", "\"10.77.0.8/29\"", "network[0].subnets[0]", "taken by the host (dev eth7)"),
        ("\"10.244.0.0/24\", \"fd00:244::/64\"", "", "network[0].subnets", "no subnet"),
        ("\"10.244.0.10\"", "\"10.245.0.10\"", "pod[0].address[0]", "outside network"),
        ("\"10.244.0.10\"", "\"10.244.0.0\"", "pod[0].address[0]", "network address"),
        ("\"10.244.0.10\"", "\"fd00:244::\"", "pod[0].address[0]", "network address"),
        ("\"10.244.0.10\"", "\"10.244.0.255\"", "pod[0].address[0]", "broadcast"),
        ("\"10.244.0.10\"", "\"10.244.0.1\"", "pod[0].address[0]", "gateway"),
        ("\"10.244.0.10\"", "\"10.244.0.10\", \"10.244.0.11\"", "pod[0].address[1]", "at most one per family"),
        (
            "name = \"blue\"",
            "name = \"blue\"\naddress = [\"10.244.0.10\"]",
            "pod[1].address[0]",
            "taken by pod \"red\"",
        ),
        ("8080:80/tcp", "0:80/tcp", "pod[0].publish[0]", "port 0 is out of range"),
        ("8080:80/tcp", "8080:65536", "pod[0].publish[0]", "port 65536 is out of range"),
        ("8080:80/tcp", "8090-8080:80-90", "pod[0].publish[0]", "reversed; write 8080-8090"),
        ("8080:80/tcp", "8080-8081:80", "pod[0].publish[0]", "2 host ports but 1 pod ports"),
        ("8080:80/tcp", "8080:80/dccp", "pod[0].publish[0]", "neither tcp, udp nor sctp"),
        (
            "8080:80/tcp",
            "8080:80/sctp",
            "pod[0].publish[0]",
            "checksum covers its ports, so they cannot be changed on the way; write 8080:8080/sctp",
        ),
        ("8080:80/tcp", "80-82:81-83/sctp", "pod[0].publish[0]", "write 80-82:80-82/sctp"),
        ("8080:80/tcp", "8080", "pod[0].publish[0]", "not a published port"),
        ("8080:80/tcp", "::1:8080:80", "pod[0].publish[0]", "brackets"),
        ("8080:80/tcp", "9010:80", "pod[0].publish[2]", "published already by 9010:80/tcp of pod \"red\""),
        ("8080:80/tcp", "22:22", "pod[0].publish[0]", "listens on tcp port 22"),
        ("8080:80/tcp", "192.0.2.9:80:80", "pod[0].publish[0]", "no address 192.0.2.9"),
        ("name = \"blue\"", "name = \"blue\"\npublish = [\"8080:80\"]", "pod[1].publish[0]", "published already"),
        ("name = \"blue\"", "name = \"red\"", "pod[1].name", "used twice"),
        (
            "[[pod]]\nname = \"red\"",
            "[[network]]\nname = \"pods\"\nsubnets = [\"10.9.0.0/24\"]\n[[pod]]\nname = \"red\"",
            "pod[1].network",
            "more than one network",
        ),
        ("network = \"pods\"", "network = \"cods\"", "pod[0].network", "no such network; declared are pods"),
        ("name = \"blue\"", "name = \"a/b\"", "pod[1].name", "'/'"),
        ("name = \"blue\"", "name = \"..\"", "pod[1].name", "starts with a letter"),
        ("name = \"blue\"", "name = \".\"", "pod[1].name", "starts with a letter"),
        ("name = \"blue\"", "name = \"-x\"", "pod[1].name", "starts with a letter"),
        ("name = \"blue\"", "name = \"\"", "pod[1].name", "empty"),
        ("name = \"blue\"", "name = \"a\\u0000b\"", "pod[1].name", "'\\0'"),
        ("name = \"blue\"", "name = \"a\\nb\"", "pod[1].name", "'\\n'"),
        ("name = \"blue\"", "name = \"a\\u001bb\"", "pod[1].name", "cannot contain"),
        ("name = \"blue\"", "name = \"a%d\"", "pod[1].name", "'%'"),
        ("name = \"blue\"", &long, "pod[1].name", "longer than 128 bytes"),
        ("name = \"blue\"", "name = \"theirs\"", "pod[1].name", "not ours"),
        ("name = \"pods\"", "name = \"po/ds\"", "network[0].name", "'/'"),
        ("uplink = \"eth7\"", "uplink = \"eth9\"", "host.uplink", "no such interface"),
        ("uplink = \"eth7\"", "uplink = \"lo\"", "host.uplink", "leads to the LAN"),
        ("uplink = \"eth7\"", "uplink = \"sixteen-bytes-xx\"", "host.uplink", "1 to 15 bytes"),
        ("\"20000-32767\"", "\"32767-20000\"", "host.snat_ports", "reversed"),
        ("\"20000-32767\"", "\"many\"", "host.snat_ports", "write 20000-32767"),
        ("[host]", "[host]\nmtu = 100", "host.mtu", "1280 to 65535"),
        ("\"192.168.1.0/24\"", "\"192.168.1.1/24\"", "network[0].no_masquerade[0]", "write 192.168.1.0/24"),
        (NAME, &snat("\"192.0.2.300\""), "network[0].snat_address[0]", "not an IP address"),
        (NAME, &snat("\"192.0.2.1/24\""), "network[0].snat_address[0]", "without a prefix length"),
        (
            NAME,
            &snat("\"192.0.2.1\", \"192.0.2.9\""),
            "network[0].snat_address[1]",
            "the host has no address 192.0.2.9",
        ),
        (NAME, &snat("\"192.0.2.1\", \"192.0.2.1\""), "network[0].snat_address[1]", "listed twice"),
        (NAME, &snat("\"127.0.0.1\""), "network[0].snat_address[0]", "loopback"),
        (NAME, &snat("\"::1\""), "network[0].snat_address[0]", "loopback"),
        (NAME, &snat("\"fe80::1\""), "network[0].snat_address[0]", "link-local"),
        (NAME, &snat("\"::ffff:192.0.2.1\""), "network[0].snat_address[0]", "IPv4-mapped"),
        (NAME, &snat("\"0.0.0.0\""), "network[0].snat_address[0]", "unspecified"),
        (NAME, &snat("\"10.244.0.1\""), "network[0].snat_address[0]", "the host has no address"),
        (
            NAME,
            &format!("masquerade = false\n{}", snat("\"192.0.2.1\"")),
            "network[0].snat_address[0]",
            "does not masquerade",
        ),
        (NAME, "mapping = \"cone\"\nname = \"pods\"", "network[0].mapping", "no such behaviour"),
        (NAME, "filtering = \"none\"\nname = \"pods\"", "network[0].filtering", "no such behaviour"),
        (
            NAME,
            "filtering = \"endpoint-independent\"\nname = \"pods\"",
            "network[0].filtering",
            "set `mapping` to it too",
        ),
        (
            NAME,
            "masquerade = false\nmapping = \"endpoint-independent\"\nname = \"pods\"",
            "network[0].mapping",
            "does not masquerade",
        ),
        (NAME, &snat(&nine), "network[0].snat_address[8]", "more than 8 IPv4 addresses"),
    ];
    for (from, to, field, word) in rows {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        let error = check(&text).expect_err(to);
        if *field == "pod[1].network" {
            // Two networks: the pod that names none comes second.
            assert_eq!(error.field, *field);
        } else {
            assert_eq!(error.field, *field, "{to}: {error}");
        }
        assert!(word.split('|').any(|w| error.to_string().contains(w)), "{to}: {error}");
        assert!(error.at.is_some(), "{to}: no place in {error}");
    }
}

#[test]
fn the_place_is_the_values_own() {
    let error = check(&GOOD.replace("10.244.0.10", "10.244.0.1")).unwrap_err();
    assert_eq!(error.at, Some(Position { line: 14, column: 12 }));
    let error = check(&GOOD.replace("[host]", "[host]\ncolour = 1")).unwrap_err();
    assert_eq!(error.at, Some(Position { line: 3, column: 1 }));
}

#[test]
fn networks_named_twice_are_refused() {
    let text = format!("{GOOD}network = \"pods\"\n[[network]]\nname = \"pods\"\nsubnets = [\"10.9.0.0/24\"]\n");
    let error = check(&text).unwrap_err();
    assert_eq!((error.field.as_str(), &error.problem), ("network[1].name", &Problem::NameTwice("network[0]".into())));
}

#[test]
fn two_networks_may_have_the_same_subnet() {
    let text = format!("{GOOD}network = \"pods\"\n[[network]]\nname = \"other\"\nsubnets = [\"10.244.0.0/24\"]\n");
    assert_eq!(check(&text).unwrap().networks.len(), 2);
}

#[test]
fn uplinks_are_found_or_refused() {
    let mut facts = facts();
    assert_eq!(resolve_uplinks(&Uplink::Auto, &facts).unwrap()[0].index, 7);
    assert_eq!(resolve_uplinks(&Uplink::None, &facts).unwrap(), Vec::<&Interface>::new());
    let mut second = facts.interfaces.iter().find(|i| i.name == "eth7").unwrap().clone();
    (second.index, second.name) = (8, "tun0".into());
    facts.interfaces.push(second);
    facts.default_uplinks.push("tun0".into());
    let names = |facts: &HostFacts, uplink: &Uplink| {
        let found = resolve_uplinks(uplink, facts).unwrap();
        found.iter().map(|i| i.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&facts, &Uplink::Auto), ["eth7", "tun0"], "all that have a default route");
    let named = |names: &[&str]| Uplink::Named(names.iter().map(|n| (*n).to_owned()).collect());
    assert_eq!(names(&facts, &named(&["tun0", "eth7"])), ["tun0", "eth7"], "in the file's order");
    let twice = resolve_uplinks(&named(&["tun0", "eth7", "tun0"]), &facts).unwrap_err();
    assert_eq!(
        (twice.field.as_str(), &twice.problem),
        ("host.uplink[2]", &Problem::NameTwice("host.uplink[0]".into()))
    );
    facts.default_uplinks.clear();
    assert_eq!(resolve_uplinks(&Uplink::Auto, &facts), Ok(vec![]), "it may come later");
    facts.interfaces[1].unfit = Some("its frames are neither");
    let unfit = resolve_uplinks(&named(&["eth7"]), &facts).unwrap_err().problem.clone();
    assert_eq!(unfit, Problem::UplinkUnfit("its frames are neither"));
    facts.ours = vec![7];
    assert_eq!(resolve_uplinks(&named(&["eth7"]), &facts).unwrap_err().problem, Problem::UplinkOurs);
}

#[test]
fn uplinks_are_a_word_or_a_list() {
    let read = |value: &str| parse(&format!("[host]\nuplink = {value}\n")).map(|d| d.topology.host.uplink);
    let named = |names: &[&str]| Uplink::Named(names.iter().map(|n| (*n).to_owned()).collect());
    for (value, uplink) in [
        ("\"auto\"", Uplink::Auto),
        ("\"none\"", Uplink::None),
        ("[]", Uplink::None),
        ("\"eth0\"", named(&["eth0"])),
        ("[\"eth0\"]", named(&["eth0"])),
        ("[\"eth0\", \"tun0\"]", named(&["eth0", "tun0"])),
    ] {
        assert_eq!(read(value).unwrap(), uplink, "{value}");
        assert_eq!(uplink.to_string().parse(), Ok(uplink), "what the store writes is read back");
    }
    for value in ["[\"auto\"]", "[\"eth0\", \"none\"]", "7", "[7]", "true", "{ a = 1 }"] {
        let error = read(value).unwrap_err();
        assert_eq!((error.field.as_str(), error.problem.clone()), ("host.uplink", Problem::UplinkForm), "{value}");
        assert_eq!(error.at.map(|at| at.line), Some(2));
    }
}

#[test]
fn what_the_instance_holds_counts() {
    let taken = Taken {
        pods: vec![TakenPod {
            name: "old".into(),
            network: "pods".into(),
            addresses: vec![("pods".into(), "10.244.0.10".parse().unwrap())],
            interfaces: 1,
        }],
        publishes: vec![("old".into(), "7000:7000".parse().unwrap())],
        namespaces: HashSet::from(["theirs".to_owned()]),
        ..Taken::default()
    };
    let error = check_with(GOOD, &facts(), &taken).unwrap_err();
    assert_eq!(error.problem, Problem::AddressTaken("old".into()));
    let error = check_with(&GOOD.replace("8080", "7000").replace("0.10\"", "0.11\""), &facts(), &taken).unwrap_err();
    assert!(matches!(error.problem, Problem::PublishedTwice { .. }));
    let error = check_with(&GOOD.replace("blue", "old").replace("0.10\"", "0.11\""), &facts(), &taken).unwrap_err();
    assert_eq!(error.problem, Problem::NameTaken);
    check_with(&GOOD.replace("blue", "theirs").replace("0.10\"", "0.11\""), &facts(), &taken).unwrap();
}

#[test]
fn a_live_network_is_not_held_against_routes_again() {
    let live = |text: &str| Taken { networks: parse(text).unwrap().topology.networks, ..Taken::default() };
    let text = GOOD.replace("10.244.0.0/24", "192.0.2.0/24").replace("10.244.0.10", "192.0.2.10");
    check(&text).unwrap_err();
    check_with(&text, &facts(), &live(&text)).unwrap();
    // What it is to grow to is.
    let error = check_with(&text, &facts(), &live(GOOD)).unwrap_err();
    assert!(matches!(error.problem, Problem::RouteOverlap { .. }), "{error}");
}

#[test]
fn publishes_conflict_as_sockets_do() {
    let rows = [
        ("80:80", "80:81", true),
        ("80:80/tcp", "80:80/udp", false),
        ("80:80/sctp", "80:80/udp", false),
        ("80:80/sctp", "[::1]:80:80/sctp", true),
        ("192.0.2.1:80:80", "192.0.2.2:80:80", false),
        ("192.0.2.1:80:80", "80:80", true),
        ("0.0.0.0:80:80", "[::]:80:80", false),
        ("0.0.0.0:80:80", "80:80", true),
        ("[::1]:80:80", "0.0.0.0:80:80", false),
        ("80-90:80-90", "90-99:90-99", true),
        ("80-90:80-90", "91-99:91-99", false),
    ];
    for (a, b, conflict) in rows {
        let (x, y): (Publish, Publish) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!((x.conflicts(&y), y.conflicts(&x)), (conflict, conflict), "{a} {b}");
    }
}

#[test]
fn a_publish_needs_a_pod_address_of_its_family() {
    let text =
        "[[network]]\nname = \"n\"\nsubnets = [\"10.9.0.0/24\"]\n[[pod]]\nname = \"a\"\npublish = [\"[::]:80:80\"]";
    assert!(matches!(check(text).unwrap_err().problem, Problem::PublishFamily { family: "IPv6", .. }));
    check(&text.replace("[::]:", "")).unwrap();
}

#[test]
fn idle_timers_are_read_with_their_profile() {
    let nat =
        |section: &str| check(&GOOD.replacen("[[network]]", &format!("{section}\n[[network]]"), 1)).map(|t| t.nat);
    assert_eq!(nat("").unwrap(), Profile::Rfc.into());
    assert_eq!(nat("[nat]").unwrap(), Profile::Rfc.into());
    assert_eq!(nat("[nat]\nprofile = \"fast\"").unwrap(), Profile::Fast.into());
    let limits = nat("[nat]\nflows = 1048576\nflows_per_pod = 1").unwrap();
    assert_eq!((limits.flows.get(), limits.flows_per_pod.map(Flows::get)), (1_048_576, Some(1)));
    assert_eq!((Nat::default().flows.get(), Nat::default().flows_per_pod), (131_072, None));
    assert_eq!(limits.to_string(), Nat::default().to_string(), "the timers are the profile's");
    let mixed = nat("[nat]\nprofile = \"fast\"\n[nat.timeouts]\nudp = \"2m30s\"").unwrap();
    assert_eq!((mixed.timeouts.udp.get(), mixed.timeouts.icmp), (150, Profile::Fast.timeouts().icmp));
    let bare = nat("[nat.timeouts]\ntcp_established = \"3h\"").unwrap();
    assert_eq!(bare.timeouts.tcp_established.get(), 10_800);
}

#[test]
fn a_bad_idle_timer_is_shown_with_its_place() {
    let at = |section: &str| {
        let error = check(&format!("{section}\n{GOOD}")).unwrap_err();
        (error.field.clone(), error.value.clone(), error.at.map(|p| (p.line, p.column)), error.problem.clone())
    };
    let (field, value, place, problem) = at("[nat]\nprofile = \"slow\"");
    assert_eq!((field.as_str(), value.as_str(), place), ("nat.profile", "slow", Some((2, 11))));
    assert_eq!(problem, Problem::Profile);
    let (field, value, place, problem) = at("[nat.timeouts]\nudp = \"5 minutes\"");
    assert_eq!((field.as_str(), value.as_str(), place), ("nat.timeouts.udp", "5 minutes", Some((2, 7))));
    assert!(matches!(problem, Problem::Timeout(_)), "{problem}");
    let (field, _, place, problem) = at("[nat.timeouts]\nudp = \"5m\"\nicmp = \"0s\"");
    assert_eq!((field.as_str(), place, problem), ("nat.timeouts.icmp", Some((3, 8)), Problem::TimeoutRange));
    let (field, _, place, problem) = at("[nat.timeouts]\nsctp = \"5m\"");
    assert_eq!((field.as_str(), place), ("nat.timeouts.sctp", Some((2, 1))));
    assert!(matches!(problem, Problem::UnknownKey(_)), "{problem}");
    for (given, value) in [("0", "0"), ("1048577", "1048577"), ("-1", "-1")] {
        for key in ["flows", "flows_per_pod"] {
            let (field, found, place, problem) = at(&format!("[nat]\n{key} = {given}"));
            assert_eq!((field, found.as_str(), place), (format!("nat.{key}"), value, Some((2, key.len() + 4))));
            assert_eq!(problem, Problem::Flows);
        }
    }
    let (field, _, place, _) = at("[nat.timeouts]\nudp = 300");
    assert_eq!((field.as_str(), place), ("nat.timeouts.udp", Some((2, 7))));
}

#[test]
fn a_pool_has_addresses_of_the_host_and_of_the_networks_families() {
    let with = |addresses: &str, subnets: &str| {
        let text = GOOD.replacen("name = \"pods\"", &format!("name = \"pods\"\nsnat_address = [{addresses}]"), 1);
        check(&text.replacen("\"10.244.0.0/24\", \"fd00:244::/64\"", subnets, 1))
    };
    let both = "\"10.244.0.0/24\", \"fd00:244::/64\"";
    let t = with("\"10.77.0.1\", \"2001:db8::1\", \"192.0.2.1\"", both).unwrap();
    let read: Vec<IpAddr> = ["10.77.0.1", "2001:db8::1", "192.0.2.1"].map(|a| a.parse().unwrap()).to_vec();
    assert_eq!(t.networks[0].snat_address, read, "any interface's, in the file's order");
    assert!(with("", both).unwrap().networks[0].snat_address.is_empty());
    let error = with("\"2001:db8::1\"", "\"10.244.0.0/24\"").unwrap_err();
    assert_eq!(error.problem, Problem::SnatAddressFamily { family: "IPv6" });
    // A live network's address may be away for a moment.
    let text = GOOD.replacen("name = \"pods\"", "name = \"pods\"\nsnat_address = [\"192.0.2.9\"]", 1);
    let live = |text: &str| Taken { networks: parse(text).unwrap().topology.networks, ..Taken::default() };
    check_with(&text, &facts(), &live(&text)).unwrap();
    let new = check_with(&text, &facts(), &live(GOOD)).unwrap_err();
    assert_eq!(new.problem, Problem::SnatAddressMissing("192.0.2.9".into()), "one it is to get");
    assert_eq!(check(&text).unwrap_err().problem, Problem::SnatAddressMissing("192.0.2.9".into()));
}
