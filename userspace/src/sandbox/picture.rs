//! The sandbox drawn for a terminal, and what to type in another.

use std::env;
use std::path::Path;

use super::layout::{BLUE, FAR, HOST_UPLINK, LAN, RED};

/// Pods on the left, each on a cable of its own; the LAN on the right.
const PICTURE: &str = "
 network pods              +- sandbox-host -------+       +- sandbox-lan ---------------+
   red    10.244.0.10 ~~~~~|                      |       | router    192.0.2.1         |
   blue   10.244.0.20 ~~~~~| gateway 10.244.0.1   |       | server    192.0.2.10        |
   green  10.244.0.30 ~~~~~|                      |       | client    192.0.2.20        |
 network mirror            |              uplink0 |~~~~~~~| intranet  192.0.2.53        |
   violet 10.244.0.10 ~~~~~|            192.0.2.2 |       |   (pods keep their address) |
   indigo 10.244.0.20 ~~~~~|            192.0.2.3 |       |                             |
 network jumbo, MTU 9000   |                      |       | behind the router:          |
   amber  10.9.0.10   ~~~~~| gateway 10.9.0.1     |       | far       198.51.100.7      |
   coral  10.9.0.20   ~~~~~|                      |       |                             |
 network voice, full cone  |                      |       |                             |
   plum   10.60.0.10  ~~~~~| gateway 10.60.0.1    |       |                             |
                           +----------------------+       +-----------------------------+
 IPv6: fd00:244::/64 (pods, mirror), fd00:9::/64 (jumbo), fd00:60::/64 (voice), 2001:db8:1::/64 (LAN),
 2001:db8:ffff::7 (far);
 the last part is that of IPv4: red has fd00:244::10, the server 2001:db8:1::10.
 Published: 8080 -> red:80 and 8081 -> violet:80 and 9000-9010 -> green:7000-7010 on every address of the host,
 9200 -> blue:80 or green:80 there, 9100-9101 -> green:7100-7101 for the LAN's subnets only,
 8443-8444 -> blue:443-444 on 192.0.2.2 and 2001:db8:1::2 only.
";

/// The picture and the commands to try, for standard output.
pub fn picture() -> String {
    PICTURE.trim_start_matches('\n').to_owned() + &commands(&program())
}

/// Commands for a second terminal.
fn commands(netns: &str) -> String {
    let tries = [
        (format!("exec {} -- ping {}", RED.name, BLUE.v4), "pod to pod"),
        (format!("exec {} -- ping {}", BLUE.name, FAR.v6), "out to the LAN and beyond, translated"),
        (format!("exec {} -- nc -l -p 80", RED.name), "serve in a pod ..."),
        (format!("exec {LAN} -- nc {} 8080", HOST_UPLINK.v4), "... and reach its published port from the LAN"),
        ("--instance sandbox status".to_owned(), "networks, pods, published ports, counters"),
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
    use super::super::layout::{
        CLIENT, GATEWAY, HOST, HOST_SECOND, INTRANET, JUMBO_GATEWAY, PODS, ROUTER, SERVER, UPLINK, VOICE_GATEWAY,
    };
    use super::*;

    #[test]
    fn the_picture_shows_what_there_is() {
        let line_with = |word: &str| PICTURE.lines().find(|line| line.contains(word)).map(str::to_owned);
        let sites = [ROUTER, SERVER, CLIENT, INTRANET, FAR];
        for site in PODS.into_iter().chain(sites) {
            let line = line_with(&format!(" {} ", site.name)).expect(site.name);
            assert!(line.contains(&site.v4.to_string()), "{} in {line}", site.v4);
            // The rule by which the picture leaves IPv6 addresses out.
            let (v4, v6) = (site.v4.to_string(), site.v6.to_string());
            assert_eq!(v4.rsplit('.').next(), v6.rsplit(':').next(), "{}", site.name);
        }
        for site in [GATEWAY, JUMBO_GATEWAY, VOICE_GATEWAY, HOST_UPLINK, HOST_SECOND] {
            assert!(PICTURE.contains(&format!(" {} ", site.v4)), "{}", site.v4);
        }
        for name in [HOST, LAN, UPLINK] {
            assert!(PICTURE.contains(name), "{name}");
        }
    }

    #[test]
    fn the_picture_fits_a_terminal_and_its_right_edge_is_straight() {
        assert!(PICTURE.lines().all(|line| line.len() <= 112));
        let edges: Vec<_> = PICTURE.lines().filter(|line| line.ends_with(['|', '+'])).map(str::len).collect();
        assert_eq!(edges.len(), 13);
        assert!(edges.windows(2).all(|pair| pair[0] == pair[1]), "{edges:?}");
    }
}
