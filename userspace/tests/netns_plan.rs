//! `plan` says what `up` then does, `export` what there is, and `up` spares pods in which processes run.

mod common;

use std::time::Duration;

use common::pods::TOPOLOGY;
use common::wait::wait_until;
use common::{Isolated, isolated};
use serde_json::Value;

const OTHER: &str = "\n[[pod]]\nname = \"yellow\"\nnetwork = \"pods\"\naddress = [\"10.244.0.40\", \"fd00:244::40\"]\npublish = [\"8081:80/tcp\"]\n";

/// [`TOPOLOGY`] without green, with yellow, and another port of red's.
fn changed() -> String {
    let green = TOPOLOGY.find("[[pod]]\nname = \"green\"").expect("green");
    TOPOLOGY[..green].replace("8080:80/udp", "8053:53/udp") + OTHER
}

fn words(here: &Isolated, line: &str) -> common::Finished {
    here.netns(line.split_whitespace())
}

/// What a plan or an `up` tells, without the numbers `up` alone hands out.
fn told(finished: &common::Finished) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(strip),
            Value::Object(map) => {
                map.remove("id");
                map.remove("ifindex");
                map.values_mut().for_each(strip);
            }
            _ => {}
        }
    }
    let mut value: Value =
        serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {}", finished.report()));
    strip(&mut value);
    value
}

/// Plans a file, which changes nothing, then does it: both say the same, as text and as JSON; then there is nothing to do.
fn planned_then_done(here: &Isolated, file: &str) -> Value {
    let before = here.snapshot();
    let text = words(here, &format!("plan -f {file}"));
    let json = words(here, &format!("plan -f {file} -o json"));
    assert_eq!((text.status, json.status), (3, 3), "{}{}", text.report(), json.report());
    before.assert_unchanged("after plan");
    let done = words(here, &format!("up -f {file} -o json"));
    assert_eq!(told(&json), told(&done));
    assert_eq!(words(here, &format!("plan -f {file}")).ok(), "instance default: nothing to change\n");
    told(&json)
}

#[test]
fn a_plan_is_what_up_then_does() {
    isolated(|here| {
        here.lan();
        here.file("first.toml", TOPOLOGY);
        let first = planned_then_done(here, "/run/first.toml");
        assert_eq!(first["pods_added"].as_array().map(Vec::len), Some(3), "{first:#}");

        here.file("second.toml", &changed());
        let text = words(here, "plan -f /run/second.toml");
        assert_eq!(text.status, 3, "{}", text.report());
        for line in
            ["- pod      green", "+ pod      yellow  10.244.0.40,fd00:244::40  in pods", "- publish  8080:80/udp"]
        {
            assert!(text.stdout.contains(line), "{line}: {}", text.report());
        }
        planned_then_done(here, "/run/second.toml");

        here.ip("-n red link set eth0 down");
        let drifted = words(here, "plan -f /run/second.toml");
        assert_eq!(drifted.status, 3, "{}", drifted.report());
        assert!(drifted.stdout.contains("~ mended"), "{}", drifted.report());
        let again = words(here, "plan -f /run/second.toml");
        assert_eq!((again.status, again.stdout), (3, drifted.stdout), "a plan has mended something");
        words(here, "up -f /run/second.toml").ok();
        words(here, "plan -f /run/second.toml").ok();

        for (file, status, why) in [
            (TOPOLOGY.replace("10.244.0.20", "10.9.0.20"), 2, "10.9.0.20"),
            ("[host]\nuplink = \"up0\"\n".to_owned(), 2, "declares no network"),
            (String::new(), 2, "--prune"),
        ] {
            here.file("bad.toml", &file);
            let planned = words(here, "plan -f /run/bad.toml").fails(status, &[why]);
            assert_eq!(planned.stderr, words(here, "up -f /run/bad.toml").stderr);
        }
    });
}

#[test]
fn an_export_changes_nothing_and_brings_the_same_up_again() {
    isolated(|here| {
        here.lan();
        words(here, "export").fails(1, &["not up"]);
        let free = TOPOLOGY.replace("address = [\"10.244.0.20\", \"fd00:244::20\"]\n", "");
        here.up(&(free + "\n[[publish]]\nport = \"8000:80\"\nbackends = [{ pod = \"red\", weight = 3 }, { pod = \"blue\" }]\naffinity = \"client\"\n")).ok();
        words(here, "add extra --publish 8443:443").ok();
        words(here, "publish add extra 8090:80/udp --allow 192.0.2.0/24").ok();
        words(here, "publish add blue 8091:80/tcp").ok();
        let exported = words(here, "export").ok();
        let file = here.file("exported.toml", &exported).display().to_string();
        let live = words(here, "list -o json").json();
        let publishes = words(here, "publish list -o json").json();
        for verb in ["plan", "up"] {
            let nothing = words(here, &format!("{verb} -f {file}"));
            assert_eq!(nothing.status, 0, "{}{exported}", nothing.report());
            assert_eq!(nothing.stdout, "instance default: nothing to change\n");
        }
        assert_eq!((words(here, "list -o json").json(), words(here, "publish list -o json").json()), (live, publishes));

        // Declared otherwise than it is, a verb's pod is refused; left out, it stays.
        let extra = exported.find("name = \"extra\"").expect("the verb's pod");
        let (head, tail) = exported.split_at(extra);
        here.file("otherwise.toml", &format!("{head}{}", tail.replacen("10.244.0.", "10.244.0.1", 1)));
        words(here, "plan -f /run/otherwise.toml").fails(2, &["extra"]);
        words(here, "plan -f /run/topology.toml").ok();

        words(here, "down").ok();
        words(here, &format!("up -f {file}")).ok();
        let lines = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&words(here, "export").ok()), lines(&exported));
    });
}

#[test]
fn pods_in_which_processes_run_are_deleted_only_with_prune() {
    isolated(|here| {
        here.pods();
        let file = here.file("second.toml", &changed()).display().to_string();
        let _sleeper = here.netns_background(["exec", "green", "sleep", "1000"]);
        wait_until("a process in green", Duration::from_secs(10), || !words(here, "pids green").ok().is_empty());
        for verb in ["plan", "up"] {
            words(here, &format!("{verb} -f {file}")).fails(2, &["green", "--prune"]);
            let error = words(here, &format!("{verb} -f {file} -o json"));
            let error: Value = serde_json::from_str(&error.stderr).expect("JSON");
            assert_eq!(error["error"]["kind"], "occupied", "{error:#}");
        }
        words(here, "plan -f /run/topology.toml").ok();
        assert_eq!(words(here, &format!("plan --prune -f {file}")).status, 3);
        words(here, &format!("up --prune -f {file}")).ok();
        words(here, "pids green").fails(1, &["green"]);
    });
}
