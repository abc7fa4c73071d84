//! Several instances on one host: what there is once is given out once, and nobody's going takes it from another.

mod common;

use std::fs;
use std::thread;

use common::command::Finished;
use common::{Isolated, isolated};

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// A topology with networks of its own and `pods` pods; `uplink` as in a file.
fn topology(n: u8, uplink: &str, pods: usize) -> String {
    let pods: String = (0..pods).map(|p| format!("[[pod]]\nname = \"i{n}p{p}\"\nnetwork = \"net\"\n")).collect();
    format!(
        "[host]\nuplink = \"{uplink}\"\n[[network]]\nname = \"net\"\nsubnets = [\"10.{n}.0.0/16\", \"fd00:{n}::/64\"]\n\
         masquerade = true\n{pods}"
    )
}

fn up(here: &Isolated, n: u8, uplink: &str) -> Finished {
    let file = here.file(&format!("i{n}.toml"), &topology(n, uplink, 1));
    here.netns(["--instance", &format!("i{n}"), "up", "-f", &file.display().to_string()])
}

fn reserved() -> String {
    fs::read_to_string(RESERVED).expect("the list").trim().to_owned()
}

#[test]
fn a_port_is_published_once_and_slots_do_not_collide() {
    isolated(|here| {
        for n in [0, 1] {
            up(here, n, "none").ok();
        }
        let both = |words: fn(u8, u16) -> Vec<String>, round: u16| {
            thread::scope(|scope| {
                let one = |n: u8| scope.spawn(move || here.netns(words(n, round)).status);
                [one(0), one(1)].map(|verb| verb.join().expect("a verb"))
            })
        };
        for round in 0..8 {
            let publish = |n: u8, round: u16| -> Vec<String> {
                ["--instance", &format!("i{n}"), "publish", "add", &format!("i{n}p0"), &format!("{}:80", 8000 + round)]
                    .map(str::to_owned)
                    .into()
            };
            let mut done = both(publish, round);
            done.sort_unstable();
            assert_eq!(done, [0, 2], "round {round}: one has it, the other one is refused");
            let add = |n: u8, round: u16| -> Vec<String> {
                ["--instance", &format!("i{n}"), "add", &format!("i{n}x{round}")].map(str::to_owned).into()
            };
            assert_eq!(both(add, round), [0, 0], "round {round}");
        }
    });
}

#[test]
fn instances_that_come_up_at_once_all_do() {
    isolated(|here| {
        for _ in 0..3 {
            thread::scope(|scope| {
                let ups = [0, 1, 2].map(|n| scope.spawn(move || up(here, n, "none").status));
                assert_eq!(ups.map(|up| up.join().expect("a verb")), [0; 3]);
            });
            for n in [0, 1, 2] {
                here.netns(["--instance", &format!("i{n}"), "down"]).ok();
            }
        }
    });
}

/// What two need stays reserved until the last of them goes, whoever that is; what somebody else has reserved stays in any case.
#[test]
fn ports_stay_reserved_while_one_instance_needs_them() {
    for last in [0, 1] {
        isolated(move |here| {
            here.lan();
            fs::write(RESERVED, "5000,20005").expect("reserve");
            let before = reserved();
            up(here, 0, "up0").ok();
            up(here, 1, "none").ok();
            assert_eq!(reserved(), "5000,20000-32767");
            let first = 1 - last;
            here.netns(["--instance", &format!("i{first}"), "down"]).ok();
            assert_eq!(reserved(), "5000,20000-32767", "i{last} is up");
            here.netns(["--instance", &format!("i{last}"), "status"]).ok();
            here.netns(["--instance", &format!("i{last}"), "down"]).ok();
            assert_eq!(reserved(), before);
        });
    }
}
