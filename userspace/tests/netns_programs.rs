//! Programs people use, over the data path as it is installed: a web server and curl, iperf3, the C library's resolver and
//! dig, ping and tracepath. What they start ends with the test, and what they write is in the test's own `/run`.

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::lan::{FAR, SERVER, UPLINK};
use common::pods::{RED, TOPOLOGY};
use common::{Background, Finished, Isolated, command, isolated, wait_until};
use nix::mount::{MsFlags, mount};

const SOON: Duration = Duration::from_secs(20);

/// Somebody who runs a program.
#[derive(Clone, Copy, Debug)]
enum Place {
    Pod(&'static str),
    Lan,
    Host,
}

impl Isolated {
    /// The words that run a program at a place.
    fn line(place: Place, words: &str) -> Vec<String> {
        let before = match place {
            Place::Pod(name) => format!("{} exec {name} -- ", env!("CARGO_BIN_EXE_netns")),
            Place::Lan => "ip netns exec lan ".to_owned(),
            Place::Host => String::new(),
        };
        (before + words).split_whitespace().map(str::to_owned).collect()
    }

    /// Runs a program to its end.
    fn at(&self, place: Place, words: &str) -> Finished {
        let line = Self::line(place, words);
        command::run(&line[0], &line[1..])
    }

    /// Starts a program that goes on.
    fn begin(&self, place: Place, words: &str) -> Background {
        let line = Self::line(place, words);
        Background::start(&line[0], &line[1..])
    }
}

/// An address as it is in a URL.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Bytes of the page: 100 MB.
const PAGE_BYTES: usize = 100_000_000;

#[test]
fn curl_gets_a_hundred_megabytes_from_nginx_in_a_pod() {
    isolated(|here| {
        here.lan();
        let before = here.snapshot();
        here.up(TOPOLOGY).ok();
        fs::create_dir_all("/run/nginx/www").expect("make a directory");
        // No two blocks of it are alike, so that none can be missing, twice or elsewhere.
        let page: Vec<u8> =
            (0..PAGE_BYTES as u64 / 8).flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        fs::File::create("/run/nginx/www/page").and_then(|mut f| f.write_all(&page)).expect("write the page");
        here.file(
            "nginx/nginx.conf",
            "daemon off; master_process off; pid /run/nginx/pid; error_log stderr; events {}\n\
             http { access_log off; client_body_temp_path /run/nginx/body; proxy_temp_path /run/nginx/proxy;\n\
             fastcgi_temp_path /run/nginx/fastcgi; uwsgi_temp_path /run/nginx/uwsgi; scgi_temp_path /run/nginx/scgi;\n\
             server { listen 80; listen [::]:80; root /run/nginx/www; } }\n",
        );
        let server = here.begin(Place::Pod("red"), "nginx -e stderr -p /run/nginx -c /run/nginx/nginx.conf");
        wait_until("nginx answers", SOON, || {
            let url = format!("http://{}/nginx-there", RED.v4);
            here.at(Place::Pod("red"), &format!("curl -s --noproxy * -o /dev/null {url}")).status == 0
        });
        for (place, target) in [
            (Place::Lan, (UPLINK, 8080)),
            (Place::Pod("blue"), ([&*RED.v4.to_string(), &*RED.v6.to_string()], 80)),
            (Place::Pod("blue"), (UPLINK, 8080)),
            (Place::Pod("red"), (UPLINK, 8080)),
            (Place::Host, ([&*RED.v4.to_string(), &*RED.v6.to_string()], 80)),
            (Place::Host, (["127.0.0.1", "::1"], 8080)),
        ] {
            for address in target.0 {
                let url = format!("http://{}:{}/page", bracketed(address), target.1);
                let got = here.at(place, &format!("curl -sS --fail --noproxy * --max-time 60 -o /run/got {url}"));
                assert_eq!(got.status, 0, "{place:?}: {}\nnginx: {}", got.report(), server.stderr());
                assert!(fs::read("/run/got").expect("the page") == page, "{place:?} got another page from {url}");
            }
        }
        drop(server);
        here.netns(["down"]).ok();
        // What this test itself has written.
        fs::remove_dir_all("/run/nginx").expect("remove a directory");
        ["/run/got", "/run/topology.toml"].into_iter().for_each(|path| fs::remove_file(path).expect("remove a file"));
        before.assert_unchanged("after the web server's pods");
    });
}

#[test]
fn iperf3_moves_data_both_ways() {
    isolated(|here| {
        here.pods();
        // From a pod to the LAN, from the LAN to a published port, from pod to pod, from the host to a pod.
        let pod = [RED.v4.to_string(), RED.v6.to_string()];
        let pod = [&*pod[0], &*pod[1]];
        for (server, client, target, port, server_port) in [
            (Place::Lan, Place::Pod("red"), SERVER, 5201, 5201),
            (Place::Pod("red"), Place::Lan, UPLINK, 9000, 7000),
            (Place::Pod("red"), Place::Pod("blue"), pod, 7000, 7000),
            (Place::Pod("red"), Place::Host, pod, 7000, 7000),
        ] {
            for address in target {
                for direction in ["", "-R"] {
                    let mut listening = here.begin(server, &format!("iperf3 -s -1 --forceflush -p {server_port}"));
                    listening.wait_for_output("listening", SOON);
                    let line = format!("iperf3 -c {address} -p {port} -n 200M -J {direction}");
                    let report = here.at(client, &line).json();
                    let bytes = |which: &str| report["end"][which]["bytes"].as_u64().unwrap_or_default();
                    assert!(bytes("sum_sent") >= 200 << 20, "{client:?}: {line}: {:#}", report["end"]);
                    // The receiver's last report may come before its last bytes: as many as two sockets hold, 36 MiB at most.
                    assert!(bytes("sum_received") >= 160 << 20, "{client:?}: {line}: {:#}", report["end"]);
                    listening.finish(SOON);
                }
            }
        }
    });
}

#[test]
fn ping_and_tracepath_see_the_way_to_the_lan() {
    isolated(|here| {
        here.pods();
        let gateway = ["10.244.0.1", "fd00:244::1"];
        for (i, far) in FAR.into_iter().enumerate() {
            let family = ["-4", "-6"][i];
            let text = here.at(Place::Pod("red"), &format!("ping {family} -n -c 5 -i 0.01 -W 5 {far}")).ok();
            assert!(text.contains("5 received"), "{text}");
            // As long as a packet may be, and longer than that in pieces.
            for bytes in [1400, 4000] {
                let text =
                    here.at(Place::Pod("red"), &format!("ping {family} -n -c 2 -i 0.01 -W 5 -s {bytes} {far}")).ok();
                assert!(text.contains("2 received"), "{text}");
            }
            let text = here.at(Place::Pod("red"), &format!("tracepath {family} -n {far}")).ok();
            let hop = |n: usize, address: &str| {
                text.lines().any(|line| {
                    let mut words = line.split_whitespace();
                    words.next() == Some(&format!("{n}:")) && words.next() == Some(address)
                })
            };
            assert!(hop(1, gateway[i]) && hop(2, far), "{text}");
            assert!(text.contains("reached") && text.contains("pmtu 1500 hops 2 back 2"), "{text}");
        }
    });
}

/// How many names are asked for, of each family's server.
const NAMES: usize = 10_000;

/// A question as the server saw it.
type Asked = HashMap<(String, u16), Vec<SocketAddr>>;

const A: u16 = 1;
const AAAA: u16 = 28;

#[test]
fn names_are_resolved_without_one_time_out() {
    isolated(|here| {
        here.pods();
        // The resolver asks once and waits long: a lost packet is an error, not a delay.
        here.file("nsswitch.conf", "hosts: dns\n");
        let none = None::<&str>;
        mount(Some("/run/nsswitch.conf"), "/etc/nsswitch.conf", none, MsFlags::MS_BIND, none)
            .expect("bind nsswitch.conf");
        for server in SERVER {
            here.file("resolv.conf", &format!("nameserver {server}\noptions attempts:1 timeout:10\n"));
            mount(Some("/run/resolv.conf"), "/etc/resolv.conf", none, MsFlags::MS_BIND, none)
                .expect("bind resolv.conf");
            let address: IpAddr = server.parse().expect("an address");
            let socket = here.inside("lan", || UdpSocket::bind((address, 53)).expect("bind port 53"));
            let asked = with_server(&socket, || {
                here.inside("red", || (0..NAMES).for_each(resolve));
            });
            assert_eq!(asked.len(), 2 * NAMES, "questions");
            for i in 0..NAMES {
                let name = name(i);
                let (a, aaaa) = (&asked[&(name.clone(), A)], &asked[&(name.clone(), AAAA)]);
                assert_eq!((a.len(), aaaa.len()), (1, 1), "{name} was asked for again");
                assert_eq!(a, aaaa, "{name}: both come from one socket");
                assert_eq!(a[0].ip(), UPLINK[usize::from(address.is_ipv6())].parse::<IpAddr>().expect("an address"));
            }
            let questions: String = (0..100).map(|i| format!(" {} A {0} AAAA", name(i))).collect();
            let mut text = String::new();
            let asked = with_server(&socket, || {
                let line = format!("dig +tries=1 +time=10 +noall +answer @{server}{questions}");
                text = here.at(Place::Pod("red"), &line).ok();
            });
            assert_eq!(asked.values().map(Vec::len).sum::<usize>(), 200, "questions of dig");
            let answers = text.lines().filter(|line| !line.is_empty()).count();
            assert_eq!(answers, 200, "{text}");
        }
    });
}

fn name(i: usize) -> String {
    format!("n{i}.netns.test.")
}

/// Asks for both families' addresses of a name, as every program does.
fn resolve(i: usize) {
    let text = name(i);
    let found: Vec<IpAddr> =
        (text.as_str(), 80).to_socket_addrs().unwrap_or_else(|e| panic!("{text}: {e}")).map(|a| a.ip()).collect();
    let [v4, v6] = answers(i);
    assert!(found.contains(&v4) && found.contains(&v6), "{text}: {found:?}");
}

/// What the server says of a name.
fn answers(i: usize) -> [IpAddr; 2] {
    let [_, b, c, d] = (i as u32).to_be_bytes();
    let low = i as u16;
    [Ipv4Addr::new(10, b, c, d).into(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, low).into()]
}

/// Answers questions while the body runs, and returns them.
fn with_server(socket: &UdpSocket, body: impl FnOnce()) -> Asked {
    let over = AtomicBool::new(false);
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set a time-out");
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut asked, mut block) = (Asked::new(), [0; 1500]);
            while !over.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut block) else { continue };
                let (name, kind, answer) = answer(&block[..length]);
                socket.send_to(&answer, from).expect("answer");
                asked.entry((name, kind)).or_default().push(from);
            }
            asked
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        over.store(true, Ordering::Relaxed);
        let asked = server.join().expect("the server");
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        asked
    })
}

/// Name and type asked for, and the answer (RFC 1035 section 4).
fn answer(question: &[u8]) -> (String, u16, Vec<u8>) {
    let (mut at, mut labels) = (12, Vec::new());
    while question[at] != 0 {
        let length = usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..=at + length]).into_owned());
        at += length + 1;
    }
    let end = at + 5;
    let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
    let number = labels[0].trim_start_matches('n').parse().expect("a number in the name");
    let data = match answers(number)[usize::from(kind == AAAA)] {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    // The same question, one answer; its name is the question's, it lives a minute.
    let mut out = [&question[..2], &[0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], &question[12..end]].concat();
    out.extend([0xc0, 12]);
    out.extend(kind.to_be_bytes());
    out.extend([0, 1, 0, 0, 0, 60]);
    out.extend((data.len() as u16).to_be_bytes());
    out.extend(data);
    (labels.join(".") + ".", kind, out)
}
