//! The agent: it says when the instance is up, mends what is changed from outside, and leaves traffic alone when it ends.

mod common;

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use common::pods::TOPOLOGY;
use common::{isolated, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);
const UNIT: &str = include_str!("../systemd/netns@.service");

#[test]
fn an_agent_mends_and_leaves_the_instance_up() {
    isolated(|here| {
        here.lan();
        let file = here.file("topology.toml", TOPOLOGY);
        let manager = UnixDatagram::bind("/run/notify").expect("the service manager's socket");
        manager.set_read_timeout(Some(SOON)).expect("a timeout");
        // As the unit has it.
        let words = UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/netns ")).expect("a command");
        let words = words.replace("/etc/netns/%i.toml", &file.display().to_string());
        let mut agent = Command::new(env!("CARGO_BIN_EXE_netns"))
            .args(words.split(' '))
            .env("NOTIFY_SOCKET", "/run/notify")
            .env("NETNS_INSTANCE", "default")
            .spawn()
            .expect("start the agent");
        let told = |what: &str| {
            let mut block = [0; 256];
            let length = manager.recv(&mut block).expect("a word of the agent's");
            let text = String::from_utf8_lossy(&block[..length]).into_owned();
            assert!(text.lines().any(|line| line == what), "{text}");
        };
        told("READY=1");
        here.netns(["exec", "red", "--", "ping", "-c", "1", "-W", "2", "10.244.0.20"]).ok();
        for damage in ["link set nn0 down", "link set nngw1 down", "-n red addr flush dev eth0"] {
            here.ip(damage);
            wait_until("the agent has mended it", SOON, || {
                here.netns(["exec", "red", "--", "ping", "-c", "1", "-W", "1", "10.244.0.20"]).status == 0
                    && here.netns(["status"]).status == 0
            });
        }
        kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM).expect("end the agent");
        told("STOPPING=1");
        assert!(agent.wait().expect("wait").success());
        here.netns(["exec", "red", "--", "ping", "-c", "1", "-W", "2", "10.244.0.20"]).ok();
        here.netns(["down"]).ok();
        here.netns(["agent"]).fails(1, &["not up"]);
    });
}
