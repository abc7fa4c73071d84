//! Bad input is refused before anything is changed: exit status 2, the field, the value, and where it is in the file.

mod common;

use std::net::{TcpListener, UdpSocket};

use common::pods::TOPOLOGY;
use common::{Isolated, isolated};

/// A change to [`TOPOLOGY`] and what the refusal must say of it.
struct Bad {
    what: &'static str,
    replace: (&'static str, &'static str),
    /// The field, and further words of the message.
    says: &'static [&'static str],
}

const fn bad(what: &'static str, old: &'static str, new: &'static str, says: &'static [&'static str]) -> Bad {
    Bad { what, replace: (old, new), says }
}

const RED_ADDRESS: &str = r#"address = ["10.244.0.10", "fd00:244::10"]"#;
const BLUE_ADDRESS: &str = r#"address = ["10.244.0.20", "fd00:244::20"]"#;
const SUBNETS: &str = r#"subnets = ["10.244.0.0/24", "fd00:244::/64"]"#;
const PUBLISH: &str = r#""8080:80/tcp", "8080:80/udp", "9000-9010:7000-7010/tcp""#;
const BLUE: &str = r#"name = "blue""#;

const FILES: &[Bad] = &[
    bad("an unknown key", "masquerade = true", "masqerade = true", &["masqerade", "unknown key"]),
    bad(
        "a key that means to write to the terminal",
        "[host]",
        "\"\\u001b]0;pwn\\u0007\" = 1\n[host]",
        &[r"\u{1b}]0;pwn\u{7}", "unknown key"],
    ),
    bad("an unknown table", "[host]", "[hots]\n[host]", &["hots", "unknown key"]),
    bad("no TOML", "[host]", "[host", &["line 2"]),
    bad("another type", "masquerade = true", "masquerade = 1", &["masquerade"]),
    bad("no address", BLUE_ADDRESS, r#"address = ["10.244.0.300"]"#, &["pod[1].address[0]", "10.244.0.300"]),
    bad("no subnet", SUBNETS, r#"subnets = ["10.244.0.0/33"]"#, &["network[0].subnets[0]", "10.244.0.0/33"]),
    bad("an empty network", SUBNETS, "subnets = []", &["network[0].subnets"]),
    bad("overlapping subnets", SUBNETS, r#"subnets = ["10.244.0.0/24", "10.244.0.0/16"]"#, &["subnets[1]", "overlap"]),
    bad("a subnet the host routes", SUBNETS, r#"subnets = ["10.99.1.0/24"]"#, &["subnets[0]", "10.99.0.0/16", "up0"]),
    bad("an address outside", BLUE_ADDRESS, r#"address = ["10.245.0.20"]"#, &["pod[1].address[0]", "outside"]),
    bad("an address twice", BLUE_ADDRESS, RED_ADDRESS, &["pod[1].address[0]", "10.244.0.10", "red"]),
    bad("the gateway", BLUE_ADDRESS, r#"address = ["fd00:244::1"]"#, &["pod[1].address[0]", "gateway"]),
    bad("the subnet's first", BLUE_ADDRESS, r#"address = ["10.244.0.0"]"#, &["pod[1].address[0]", "10.244.0.0"]),
    bad("the broadcast", BLUE_ADDRESS, r#"address = ["10.244.0.255"]"#, &["pod[1].address[0]", "broadcast"]),
    bad("a port twice", PUBLISH, r#""8080:80", "8080:81""#, &["pod[0].publish[1]", "published already"]),
    bad("a port in a range", PUBLISH, r#""9000-9010:1-11", "9010:80""#, &["pod[0].publish[1]", "published already"]),
    bad("a port of the host's (TCP)", PUBLISH, r#""7777:80/tcp""#, &["pod[0].publish[0]", "7777", "listens"]),
    bad("a port of the host's (UDP)", PUBLISH, r#""7778:80/udp""#, &["pod[0].publish[0]", "7778", "listens"]),
    bad("port 0", PUBLISH, r#""0:80""#, &["pod[0].publish[0]", "0:80"]),
    bad("pod port 0", PUBLISH, r#""80:0""#, &["pod[0].publish[0]", "80:0"]),
    bad("port 65536", PUBLISH, r#""65536:80""#, &["pod[0].publish[0]", "65536"]),
    bad("a reversed range", PUBLISH, r#""9010-9000:1-11""#, &["pod[0].publish[0]", "reversed"]),
    bad("unequal ranges", PUBLISH, r#""9000-9010:1-5""#, &["pod[0].publish[0]", "equally long"]),
    bad("another protocol", PUBLISH, r#""80:80/dccp""#, &["pod[0].publish[0]", "dccp"]),
    bad("an address the host has not", PUBLISH, r#""203.0.113.9:80:80""#, &["pod[0].publish[0]", "203.0.113.9"]),
    bad("a pod twice", BLUE, r#"name = "red""#, &["pod[1].name", "red"]),
    bad(
        "a network twice",
        "[[pod]]\nname = \"red\"",
        "[[network]]\nname = \"pods\"\nsubnets = [\"10.9.0.0/24\"]\n[[pod]]\nname = \"red\"",
        &["network[1].name", "pods"],
    ),
    bad(
        "an unknown network",
        "network = \"pods\"\naddress = [\"10.244.0.20\"",
        "network = \"nets\"\naddress = [\"10.244.0.20\"",
        &["pod[1].network", "nets"],
    ),
    bad("a slash", BLUE, r#"name = "a/b""#, &["pod[1].name", "a/b"]),
    bad("dot-dot", BLUE, r#"name = "..""#, &["pod[1].name", ".."]),
    bad("a NUL", BLUE, r#"name = "a\u0000b""#, &["pod[1].name"]),
    bad("a newline", BLUE, r#"name = "a\nb""#, &["pod[1].name", r"a\nb"]),
    bad("an empty name", BLUE, r#"name = """#, &["pod[1].name", "empty"]),
    bad("an option for a name", BLUE, r#"name = "-rf""#, &["pod[1].name", "-rf"]),
    bad("a missing uplink", "uplink = \"up0\"", "uplink = \"up9\"", &["host.uplink", "up9"]),
    bad("a foreign namespace", BLUE, r#"name = "theirs""#, &["pod[1].name", "theirs"]),
    bad("an MTU too small", "masquerade = true", "masquerade = true\nmtu = 100", &["mtu", "100"]),
    bad("reversed SNAT ports", "[host]", "[host]\nsnat_ports = \"32767-20000\"", &["host.snat_ports", "reversed"]),
];

/// A host with all that the cases above collide with.
fn host(here: &Isolated) -> (TcpListener, UdpSocket) {
    here.lan();
    here.ip("netns add theirs");
    here.ip("route add 10.99.0.0/16 via 192.0.2.1 dev up0");
    (TcpListener::bind("0.0.0.0:7777").expect("listen"), UdpSocket::bind("[::]:7778").expect("bind"))
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    isolated(|here| {
        let _listeners = host(here);
        let file = here.file("topology.toml", "");
        let before = here.snapshot();
        for case in FILES {
            let (old, new) = case.replace;
            assert!(TOPOLOGY.contains(old), "{}: {old:?} is not in the topology", case.what);
            std::fs::write(&file, TOPOLOGY.replacen(old, new, 1)).expect("write the file");
            let refused = here.netns(["up", "-f", &file.display().to_string()]);
            println!("{}: {}", case.what, refused.stderr.trim());
            let refused = refused.fails(2, case.says);
            assert!(!refused.stderr.trim_end().contains(char::is_control), "{}: {:?}", case.what, refused.stderr);
            assert!(refused.stderr.contains("line "), "{}: no place in the file: {}", case.what, refused.report());
            before.assert_unchanged(case.what);
        }
        // What all of them were made from is fine.
        std::fs::write(&file, TOPOLOGY).expect("write the file");
        here.netns(["up", "-f", &file.display().to_string()]).ok();
    });
}

#[test]
fn over_long_names_are_refused() {
    isolated(|here| {
        here.lan();
        let long = "x".repeat(300);
        let file = here.file("topology.toml", &TOPOLOGY.replace(r#""blue""#, &format!("{long:?}")));
        let before = here.snapshot();
        here.netns(["up", "-f", &file.display().to_string()]).fails(2, &["pod[1].name", "longer"]);
        here.netns(["add", &long]).fails(2, &["NAME", "300 bytes"]);
        before.assert_unchanged("after over-long names");
    });
}

#[test]
fn bad_arguments_of_verbs_change_nothing() {
    isolated(|here| {
        let _listeners = host(here);
        here.up(TOPOLOGY).ok();
        let before = here.snapshot();
        let cases: &[(&[&str], &[&str])] = &[
            (&["add", "a/b"], &["a/b"]),
            (&["add", ".."], &[".."]),
            (&["add", ""], &["empty"]),
            (&["add", "red"], &["red"]),
            (&["add", "theirs"], &["theirs"]),
            (&["add", "new", "--network", "nets"], &["nets"]),
            (&["add", "new", "--address", "10.245.0.1"], &["10.245.0.1", "outside"]),
            (&["add", "new", "--address", "10.244.0.10"], &["10.244.0.10", "red"]),
            (&["add", "new", "--address", "10.244.0.1"], &["10.244.0.1", "gateway"]),
            (&["add", "new", "--address", "10.244.0"], &["10.244.0"]),
            (&["add", "new", "--publish", "8080:80"], &["8080:80", "published already"]),
            (&["publish", "add", "blue", "8080:80"], &["8080:80", "published already"]),
            (&["publish", "add", "blue", "7777:80"], &["7777", "listens"]),
            (&["publish", "add", "blue", "0:80"], &["0:80"]),
            (&["publish", "add", "blue", "9010-9000:1-11"], &["reversed"]),
            (&["up", "-f", "/run/absent.toml"], &["/run/absent.toml"]),
            (&["--instance", "a/b", "status"], &["a/b"]),
            (&["frobnicate"], &["frobnicate"]),
            (&["up"], &["--file"]),
        ];
        for (arguments, says) in cases {
            here.netns(*arguments).fails(2, says);
            before.assert_unchanged(&format!("after {arguments:?}"));
        }
    });
}

#[test]
fn a_refusal_is_json_when_asked_for() {
    isolated(|here| {
        here.lan();
        let file = here.file("topology.toml", &TOPOLOGY.replace("10.244.0.20", "10.245.0.20"));
        let refused = here.netns(["-o", "json", "up", "-f", &file.display().to_string()]).fails(2, &[]);
        let text = if refused.stdout.trim().is_empty() { &refused.stderr } else { &refused.stdout };
        let json: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let error = &json["error"];
        assert_eq!(error["field"], "pod[1].address[0]", "{json:#}");
        assert_eq!(error["value"], "10.245.0.20", "{json:#}");
        let line = TOPOLOGY[..TOPOLOGY.find("10.244.0.20").expect("blue's address")].lines().count();
        assert_eq!(error["line"], line, "{json:#}");
    });
}

#[test]
fn without_privileges_nothing_is_tried() {
    isolated(|here| {
        here.lan();
        let file = here.file("topology.toml", TOPOLOGY);
        let before = here.snapshot();
        // The bounding set is what even root cannot exceed.
        let netns = env!("CARGO_BIN_EXE_netns");
        let without = format!("--bounding-set=-net_admin,-sys_admin,-bpf {netns} up -f {}", file.display());
        common::command::run("setpriv", without.split(' ')).fails(2, &["CAP_NET_ADMIN"]);
        before.assert_unchanged("after a refusal for want of privileges");
    });
}
