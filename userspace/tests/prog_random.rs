//! Frames at random through every program: whatever comes in, the books are kept and nothing ill-formed goes out.
//!
//! `NETNS_RANDOM_RUNS` is the length of the run, `NETNS_RANDOM_SEED` repeats one; a failure prints the seed that begins with
//! the batch it was found in, and the frame.

mod common;
#[macro_use]
mod prog;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::ops::AddAssign;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aya::TestRun;
use aya::programs::{SchedClassifier, TestRunOptions};
use common::KernelLog;
use netns::datapath::{FlowRecord, Hook};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::state::State;
use prog::bench::Output;
use prog::dissect::{Dissected, dissect, dissect_l3};
use prog::random::{Maker, Numbers, QUIET, Sending};
use prog::want::{counters, growth};
use prog::*;

/// Frames of each family between two looks at the books.
const BATCH: u64 = 5000;
/// Actions of the kernel: go on, drop, redirect.
const ACTIONS: [i32; 3] = [-1, 2, 7];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

#[test]
fn random_frames_keep_the_books() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let seed = number("NETNS_RANDOM_SEED").unwrap_or(now.as_nanos() as u64);
    let runs = number("NETNS_RANDOM_RUNS").unwrap_or(1_000_000);
    println!("NETNS_RANDOM_SEED={seed} NETNS_RANDOM_RUNS={runs}");
    bench(|b| {
        let (log, started, mut all) = (KernelLog::new(), Instant::now(), BTreeMap::new());
        for batch in 0..runs.div_ceil(2 * BATCH) {
            let seed = seed.wrapping_add(batch);
            let grown = run_batch(b, seed);
            for (name, n) in grown {
                *all.entry(name).or_insert(0) += n;
            }
        }
        let took = started.elapsed();
        println!("{all:#?}\n{runs} runs in {took:.1?}: {:.0} in a second", runs as f64 / took.as_secs_f64());
        log.has_no_alarms();
    });
}

/// What a family's part of a batch came to.
#[derive(Default)]
struct Tally {
    /// Runs by hook and action.
    actions: BTreeMap<(&'static str, i32), u64>,
    /// Frames pods sent.
    from_pods: u64,
    /// Flows its frames may have opened.
    may_be: BTreeSet<Tuple>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        for (key, n) in other.actions {
            *self.actions.entry(key).or_default() += n;
        }
        self.from_pods += other.from_pods;
        self.may_be.extend(other.may_be);
    }
}

/// Zone, protocol, source and destination of a flow's opener.
type Tuple = (u16, u8, (IpAddr, u16), (IpAddr, u16));

/// Says with which seed a run begins with this batch, if it fails.
struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("in the batch a run with NETNS_RANDOM_SEED={} begins with", self.0);
        }
    }
}

/// Runs a batch over a bench that is as new, looks at the books, and says which counters grew by how much.
fn run_batch(b: &Bench, seed: u64) -> BTreeMap<String, u64> {
    let mut numbers = Numbers::new(seed);
    let _told = TellSeed(seed);
    b.reset();
    let patient = vary(b, &mut numbers);
    let quiet = if patient { vec![Quiet::new(b, V4), Quiet::new(b, V6)] } else { Vec::new() };
    let (before, seeds) = (counters(b), [numbers.word(), numbers.word()]);
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let part = |v: Version, at: usize| {
            let maker = Maker::new(seeds[at].into(), v, [b.uplink, b.bare]);
            move || run_family(b, maker).unwrap_or_else(|why| panic!("{v:?}: {why}"))
        };
        let parts = [(V4, 0), (V6, 1)].map(|(v, at)| scope.spawn(part(v, at)));
        for part in parts {
            tally += part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let grown = growth(&before, &counters(b));
    assert_counters(&tally, &grown);
    b.assert_accounts();
    assert_flows(b, &tally, &quiet);
    quiet.iter().for_each(|q| q.still_works(b));
    // What a sweep finds is over, and the books are right behind it, too.
    b.datapath().expire_flows(usize::MAX).expect("sweep");
    b.assert_accounts();
    grown
}

/// Settings differ from batch to batch; whether flows that are not used stay for its length.
fn vary(b: &Bench, numbers: &mut Numbers) -> bool {
    let (flows, mtu) = (numbers.pick(&[FLOWS, FLOWS, 16]), numbers.pick(&[UPLINK_MTU, UPLINK_MTU, 1280]));
    let patient = !numbers.one_in(4);
    b.configure(|c| {
        c.flows = flows;
        if !patient {
            c.timeout_ns = [1_000_000; 4];
        }
    });
    b.set_uplink_mtu(mtu);
    let flags =
        numbers.pick(&[0, 0, Network::ENDPOINT_INDEPENDENT, Network::ENDPOINT_INDEPENDENT | Network::OPEN_TO_ALL]);
    b.configure_network(1, |n| n.flags |= flags);
    patient
}

/// A pod's connection that is open all the time, at ports no frame is made for.
struct Quiet {
    v: Version,
}

impl Quiet {
    fn new(b: &Bench, v: Version) -> Self {
        let quiet = Self { v };
        quiet.sent(b, flag::SYN);
        quiet.answered(b, flag::SYN | flag::ACK);
        quiet.sent(b, flag::ACK);
        quiet.still_works(b);
        quiet
    }

    fn sent(&self, b: &Bench, flags: u8) {
        let packet = from_pod(YELLOW, SERVER.ip(self.v), tcp(QUIET, QUIET, flags));
        let out = b.run(Hook::FromPod, Meta { ifindex: YELLOW.ifindex(), ..Meta::default() }, &packet.bytes());
        assert_eq!((out.action, &out.frame), (7, &packet.sent_on().bytes()), "the quiet connection");
    }

    fn answered(&self, b: &Bench, flags: u8) {
        let packet = from_lan(SERVER.ip(self.v), YELLOW.ip(self.v), tcp(QUIET, QUIET, flags));
        let meta = Meta { ifindex: b.uplink, ingress_ifindex: b.uplink, ..Meta::default() };
        let out = b.run(Hook::FromUplink, meta, &packet.bytes());
        assert_eq!((out.action, &out.frame), (7, &packet.delivered(YELLOW).bytes()), "the quiet connection");
    }

    fn still_works(&self, b: &Bench) {
        self.answered(b, flag::ACK);
        self.sent(b, flag::ACK);
        let mut state = None;
        let find = |r: FlowRecord| {
            if r.original && r.sport == QUIET && r.dport == QUIET && r.src == YELLOW.ip(self.v) {
                state = Some(r.state);
            }
        };
        b.datapath().visit_flows(find).expect("flows");
        assert_eq!(state, Some(State::Assured), "the quiet connection");
    }
}

fn run_family(b: &Bench, mut maker: Maker) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let sweep = SchedClassifier::from_pin("/sys/fs/bpf/prog/progs/sweep").expect("open");
    for run in 0..BATCH {
        let s = maker.sending();
        if run % 64 == 0 {
            run_sweep(&sweep, &s.frame)?;
        }
        // Frames without a whole IP header are not taken by every kernel.
        let Ok(out) = b.try_run(s.hook, s.meta, &s.frame) else { continue };
        *tally.actions.entry((s.hook.as_str(), out.action)).or_default() += 1;
        tally.from_pods += u64::from(s.hook == Hook::FromPod && sender(&s).is_some());
        let describe = |why: &str| describe(why, run, &s, &out);
        let came = if s.hook == Hook::FromUplinkL3 { dissect_l3(&s.frame) } else { dissect(&s.frame) };
        match out.action {
            -1 if out.frame != s.frame => return Err(describe("what goes up the stack is not as it was")),
            -1 | 2 => {}
            7 => {
                check_sent_on(&s, came.as_ref().ok(), &out).map_err(describe)?;
                maker.learn(&out);
            }
            _ => return Err(describe(&format!("not one of the actions {ACTIONS:?}"))),
        }
        tally.may_be.extend(came.ok().and_then(|d| opens(&s, &d)));
    }
    Ok(tally)
}

fn describe(why: &str, run: u64, s: &Sending, out: &Output) -> String {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, b| {
            let _ = write!(text, "{b:02x}");
            text
        })
    };
    let action = out.action;
    format!(
        "{why}\nrun {run}: {} {:?}\n{}\ncame to {action}\n{}",
        s.hook.as_str(),
        s.meta,
        hex(&s.frame),
        hex(&out.frame)
    )
}

/// The pod on whose device a frame came.
fn sender(s: &Sending) -> Option<Pod> {
    PODS.into_iter().find(|p| s.hook == Hook::FromPod && p.ifindex() == s.meta.ifindex)
}

/// The program that ends flows reads any bytes, and ends at most two entries a key.
fn run_sweep(program: &SchedClassifier, frame: &[u8]) -> Result<(), String> {
    let mut packet = frame.to_vec();
    let n = packet.len() as u8;
    if packet.len() >= 30 && !n.is_multiple_of(4) {
        // A right header, for once: mode, family, how many keys.
        packet[14..26].copy_from_slice(&[n % 5, 0, 0, 0, 4 + n % 3, 0, 0, 0, n, 0, 0, 0]);
    }
    let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() };
    let Ok(done) = program.test_run(options) else { return Ok(()) };
    let most = packet.len() as u32 / 16 * 2;
    if done.return_value > most {
        return Err(format!("sweep of {packet:02x?} says {}", done.return_value));
    }
    Ok(())
}

/// What is sent on is well-formed, and its checksums are no worse than before.
fn check_sent_on(s: &Sending, came: Option<&Dissected>, out: &Output) -> Result<(), &'static str> {
    let (was, is) = (&s.frame, &out.frame);
    if is.get(12..14) == Some(&[8, 6]) {
        let is_reply = s.hook == Hook::FromPod && is.len() >= 42 && is[20..22] == [0, 2];
        return if is_reply { Ok(()) } else { Err("no answer to ARP") };
    }
    let came = came.ok_or("ill-formed, and sent on")?;
    let d = dissect(is)?;
    if d.version() != came.version() {
        return Err("the family has changed");
    }
    let is_own = is_own_answer(came, was, &d, is);
    // An echo reply is the request, a little changed.
    let is_new = is_own && !matches!(d.icmp_type(is), Some(0 | 129));
    if (came.has_right_header_checksum(was) || is_new) && !d.has_right_header_checksum(is) {
        return Err("IPv4's header checksum");
    }
    let was_right = came.has_right_transport_checksum(was) == Some(true);
    if (was_right || is_new) && d.has_right_transport_checksum(is) == Some(false) {
        return Err("the transport's checksum");
    }
    if is_own {
        return if d.hop_limit >= 64 || !is_new { Ok(()) } else { Err("the hop limit of an answer") };
    }
    if let Some(pod) = sender(s)
        && (was[6..12] != pod.mac || came.src != pod.ip(came.version()))
    {
        return Err("a pod's frame in another's name");
    }
    if (d.proto, d.end - d.l4_at, d.piece_at) != (came.proto, came.end - came.l4_at, came.piece_at) {
        return Err("another packet than came");
    }
    // The host's stack counts for itself; what the host has sent counts nowhere.
    let (is_untouched, is_next) = (d.hop_limit == came.hop_limit, d.hop_limit.checked_add(1) == Some(came.hop_limit));
    if !is_next && !(is_untouched && (is == was || s.hook == Hook::FromHost)) {
        return Err("the hop limit");
    }
    Ok(())
}

/// Whether what goes out is an answer in the packet's place, and not the packet.
fn is_own_answer(came: &Dissected, was: &[u8], d: &Dissected, is: &[u8]) -> bool {
    if d.is_error(is) {
        return !came.is_error(was);
    }
    match (came.icmp_type(was), d.icmp_type(is)) {
        (Some(asked), Some(answered)) => (asked, answered) != (asked, asked),
        _ => false,
    }
}

/// The flow a frame may open, if nothing about it forbids one.
fn opens(s: &Sending, d: &Dissected) -> Option<Tuple> {
    let v = d.version();
    let zone = match s.hook {
        Hook::FromPod => {
            let pod = sender(s).filter(|p| s.frame[6..12] == p.mac && d.src == p.ip(v))?;
            pod.network
        }
        Hook::FromUplink if s.meta.notes.mark != 0 => 0,
        Hook::FromUplink | Hook::FromUplinkL3 => {
            let own = [HOST, HOST2, GATEWAY, GATEWAY2, LOOPBACK, NOBODY_AT_ALL, NOBODY, NOWHERE];
            let pods = PODS.map(|p| p.at);
            let others = d.src.is_multicast() || d.src == IpAddr::from([255; 4]);
            if others || own.iter().chain(&pods).any(|p| p.ip(v) == d.src) {
                return None;
            }
            0
        }
        Hook::FromHost => return None,
    };
    let (sport, dport) = d.opens(&s.frame)?;
    Some((zone, d.proto, (d.src, sport), (d.dst, dport)))
}

/// In = out + drops, of every hook and every pod.
fn assert_counters(tally: &Tally, grown: &BTreeMap<String, u64>) {
    let of = |name: String| grown.get(&name).copied().unwrap_or(0);
    let total = |starts: &str, ends: &str| {
        let rows = grown.iter().filter(|(name, _)| name.starts_with(starts) && name.ends_with(ends));
        rows.map(|(_, n)| n).sum::<u64>()
    };
    for hook in Hook::ALL.map(Hook::as_str) {
        let kind = |kind: &str| of(format!("verdict {hook} {kind}"));
        let found = [-1, 2, 7].map(|action| tally.actions.get(&(hook, action)).copied().unwrap_or(0));
        let all: u64 = netns_ebpf_common::verdict::Kind::ALL.iter().map(|k| kind(k.as_str())).sum();
        let shot = kind("drop") + kind("held");
        assert_eq!(found, [kind("pass"), shot, all - kind("pass") - shot], "{hook}: {grown:#?}");
    }
    let rejected = total("verdict ", " reject") + total("verdict ", " reject-host");
    assert_eq!(total("drop ", ""), total("verdict ", " drop") + rejected, "each drop has a reason: {grown:#?}");
    assert_eq!(of("drop internal".into()), 0, "{grown:#?}");
    let held = of("verdict from_pod held".into());
    assert_eq!(total("slot ", " tx packets") + held, tally.from_pods, "what pods sent: {grown:#?}");
    let delivered =
        total("verdict ", " peer") + of("verdict from_host out".into()) + of("verdict from_pod reject".into());
    assert_eq!(total("slot ", " rx packets"), delivered, "what pods got: {grown:#?}");
}

/// Every flow was opened by a frame that may have opened it.
fn assert_flows(b: &Bench, tally: &Tally, quiet: &[Quiet]) {
    let table = prog::flows::table(b.datapath());
    for r in table.iter().filter(|r| r.original && r.mapping.is_none()) {
        let is_quiet = r.sport == QUIET && quiet.iter().any(|q| YELLOW.ip(q.v) == r.src);
        let tuple = (r.zone, r.proto, (r.src, r.sport), (r.dst, r.dport));
        assert!(is_quiet || tally.may_be.contains(&tuple), "no frame may have opened {r:?}");
    }
}
