//! What a file says of publishes: who may come in, and which pods they lead to.

use super::{GOOD, check};
use crate::topology::*;

const SHARED: &str = r#"
[[publish]]
port = "443:8443/tcp"
backends = [{ pod = "red", weight = 3 }, { pod = "blue" }]
affinity = "client"
allow = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]
"#;

#[test]
fn publishes_say_who_may_come_in_and_where_they_lead() {
    let one = "{ port = \"8080:80/tcp\", allow = [] }";
    let t = check(&format!("{}{SHARED}", GOOD.replace("\"8080:80/tcp\"", one))).unwrap();
    assert_eq!(t.pods[0].publish[0].allow, Allow::Only(vec![]), "an empty list is there, and empty");
    assert_eq!(t.pods[0].publish[1].allow, Allow::Anyone);
    let shared = &t.publishes[0];
    assert_eq!(shared.port.to_string(), "443:8443/tcp");
    assert_eq!(shared.backends, Backend::list("red:3,blue").unwrap());
    assert_eq!(
        (shared.affinity, shared.allow.to_string().as_str()),
        (Affinity::Client, "10.0.0.0/8,2001:db8::/32,192.0.2.7/32")
    );
    let fields: Vec<_> = t.declared().into_iter().map(|d| d.field).collect();
    assert_eq!(fields, ["pod[0].publish[0]", "pod[0].publish[1]", "pod[0].publish[2]", "publish[0].port"]);
    let bare = check(&format!("{GOOD}[[publish]]\nport = \"1:1\"\nbackends = [{{ pod = \"red\" }}]")).unwrap();
    assert_eq!((bare.publishes[0].affinity, &bare.publishes[0].allow), (Affinity::None, &Allow::Anyone));
}

#[test]
fn a_bad_shared_publish_is_shown_with_its_place() {
    let line = 1 + GOOD.lines().count();
    for (from, to, field, words, row) in [
        ("443:8443", "443", "publish[0].port", "not a published port", 2),
        ("port = \"443:8443/tcp\"\n", "", "publish[0].port", "missing", 1),
        ("443:8443/tcp", "8080:80", "publish[0].port", "published already by 8080:80/tcp of pod \"red\"", 2),
        ("weight = 3", "weight = 0", "publish[0].backends[0].weight", "1 to 100", 3),
        ("weight = 3", "weight = 101", "publish[0].backends[0].weight", "1 to 100", 3),
        ("\"blue\"", "\"nobody\"", "publish[0].backends[1].pod", "no such pod", 3),
        ("\"blue\"", "\"red\"", "publish[0].backends[1].pod", "twice", 3),
        ("pod = \"blue\"", "", "publish[0].backends[1].pod", "missing", 3),
        ("{ pod = \"red\", weight = 3 }, { pod = \"blue\" }", "", "publish[0].backends", "at least one", 3),
        (
            "backends = [{ pod = \"red\", weight = 3 }, { pod = \"blue\" }]\n",
            "",
            "publish[0].backends",
            "at least one",
            1,
        ),
        ("\"client\"", "\"cookie\"", "publish[0].affinity", "\"none\" or \"client\"", 4),
        ("10.0.0.0/8", "10.0.0.1/8", "publish[0].allow[0]", "write 10.0.0.0/8", 5),
        ("2001:db8::/32", "everyone", "publish[0].allow[1]", "not a prefix", 5),
        ("affinity", "afinity", "publish.afinity", "unknown key", 4),
        ("weight = 3", "wait = 3", "publish.wait", "unknown key", 3),
    ] {
        let text = SHARED.trim_start().replacen(from, to, 1);
        assert_ne!(text, SHARED.trim_start(), "{from}");
        let error = check(&format!("{}\n{text}", GOOD.trim_end())).unwrap_err();
        let error_text = error.to_string();
        assert!(error.field.ends_with(field) && error_text.contains(words), "{to}: {error_text}");
        assert_eq!(error.at.map(|at| at.line), Some(line - 1 + row), "{to}: {error_text}");
    }
    let entry = GOOD.replace("\"8080:80/tcp\"", "{ port = \"8080:80/tcp\", alow = [] }");
    assert!(check(&entry).unwrap_err().to_string().contains("unknown key; expected port, allow"));
    let entry = GOOD.replace("\"8080:80/tcp\"", "{ port = \"8080:80/tcp\", allow = [\"x\"] }");
    assert_eq!(check(&entry).unwrap_err().field, "pod[0].publish[0].allow[0]");
    let entry = GOOD.replace("\"8080:80/tcp\"", "{ allow = [] }");
    assert_eq!(check(&entry).unwrap_err().field, "pod[0].publish[0].port");
    let entry = GOOD.replace("\"8080:80/tcp\"", "80");
    assert!(
        check(&entry).unwrap_err().to_string().contains("a publish string or a table"),
        "{}",
        check(&entry).unwrap_err()
    );
}

#[test]
fn the_pods_of_a_publish_have_the_same_families() {
    let text = |port: &str| {
        format!(
            "[[network]]\nname = \"both\"\nsubnets = [\"10.8.0.0/24\", \"fd00:8::/64\"]\n[[network]]\nname = \"four\"\n\
             subnets = [\"10.9.0.0/24\"]\n[[pod]]\nname = \"a\"\nnetwork = \"both\"\n[[pod]]\nname = \"b\"\n\
             network = \"four\"\n[[publish]]\nport = \"{port}\"\nbackends = [{{ pod = \"a\" }}, {{ pod = \"b\" }}]\n"
        )
    };
    let error = check(&text("80:80")).unwrap_err();
    assert_eq!(error.problem, Problem::PublishFamily { pod: "b".into(), family: "IPv6" });
    assert_eq!(check(&text("[::]:80:80")).unwrap_err().problem, error.problem);
    check(&text("0.0.0.0:80:80")).unwrap();
}
