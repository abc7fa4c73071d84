//! The sandbox drawn for a terminal, and what to type in another.

use std::env;
use std::path::Path;

use super::layout::{
    AMBER, BLUE, CLIENT, CORAL, FAR, GATEWAY, GREEN, HOST, HOST_UPLINK, INDIGO, INTRANET, LAN, RED, ROUTER, SERVER,
    UPLINK, VIOLET,
};
use crate::check::Site;

/// The picture and the commands to try, for standard output.
pub fn picture() -> String {
    let pod = |site: Site| format!("[{}] {} {}", site.name, site.v4, site.v6);
    let lan = |site: Site| format!("{} {} {}", site.name, site.v4, site.v6);
    let pods = [
        ("pods   10.244.0.0/24 fd00:244::/64", [RED, BLUE, GREEN].as_slice()),
        ("mirror, the same subnets once more", &[VIOLET, INDIGO]),
        ("jumbo  10.9.0.0/24 fd00:9::/64, MTU 9000", &[AMBER, CORAL]),
    ];
    let mut left = Vec::new();
    for (network, members) in pods {
        left.push(network.to_owned());
        left.extend(members.iter().map(|site| format!("  {} ~~~~", pod(*site))));
    }
    let middle = [
        format!("host ({HOST})"),
        format!("gateway {}", GATEWAY.v4),
        format!("        {}", GATEWAY.v6),
        String::new(),
        format!("{UPLINK} {}", HOST_UPLINK.v4),
        format!("        {}", HOST_UPLINK.v6),
    ];
    let right = [
        format!("LAN ({LAN})"),
        lan(ROUTER),
        lan(SERVER),
        lan(CLIENT),
        lan(INTRANET) + " (no SNAT)",
        format!("behind the router: {}", lan(FAR)),
    ];
    let width = |lines: &[String]| lines.iter().map(String::len).max().unwrap_or(0);
    let (left_width, middle_width) = (width(&left), width(&middle));
    let mut text = String::new();
    for row in 0..left.len().max(middle.len()).max(right.len()) {
        let cell = |lines: &[String]| lines.get(row).cloned().unwrap_or_default();
        let cable = if row == 4 { "~~~~" } else { "    " };
        let line = format!("{:left_width$} | {:middle_width$} |{cable}| {}", cell(&left), cell(&middle), cell(&right));
        text += line.trim_end();
        text.push('\n');
    }
    text + &commands(&program())
}

/// Commands for a second terminal.
fn commands(netns: &str) -> String {
    let tries = [
        (format!("exec {} -- ping {}", RED.name, BLUE.v4), "pod to pod"),
        (format!("exec {} -- ping {}", BLUE.name, FAR.v6), "out to the LAN and beyond, translated"),
        (format!("exec {} -- nc -l -p 80", RED.name), "serve in a pod ..."),
        (format!("exec {LAN} -- nc {} 8080", HOST_UPLINK.v4), "... and reach its published port from the LAN"),
        ("status".to_owned(), "networks, pods, published ports, counters"),
    ];
    let width = tries.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    let lines: String =
        tries.iter().map(|(command, what)| format!("  {netns} {command:width$}   # {what}\n")).collect();
    format!("\nTry in another terminal:\n{lines}")
}

/// `netns` where the shell finds this binary by that name, else its full path.
fn program() -> String {
    let Ok(own) = env::current_exe() else { return "netns".to_owned() };
    let found = env::var_os("PATH").is_some_and(|path| {
        let first = env::split_paths(&path).map(|dir| dir.join("netns")).find(|file| file.is_file());
        first.is_some_and(|file| same_file(&file, &own))
    });
    if found { "netns".to_owned() } else { own.display().to_string() }
}

fn same_file(a: &Path, b: &Path) -> bool {
    a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_names_every_pod_and_fits_a_terminal() {
        let text = picture();
        for site in super::super::layout::PODS {
            assert!(text.contains(&format!("[{}] {}", site.name, site.v4)), "{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 132), "{text}");
    }
}
