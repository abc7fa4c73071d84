//! The run: rounds of sessions, each step put into both worlds, each outcome compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::canon::{self, Canonical};
use super::known::Known;
use super::pieces;
use super::session::{Session, Step};
use super::tcp::Side;
use super::worlds::{Seen, Worlds};
use super::{End, Numbers};

/// Sessions that go on at one time, and in a round.
const AT_ONCE: usize = 12;
const A_ROUND: usize = 48;
/// Steps after which both worlds forget.
const STEPS_A_ROUND: usize = 600;
/// Ports the worlds may choose.
const RANGE: std::ops::RangeInclusive<u16> = 20_000..=32_767;
/// Those of them that mappings get: the lower three quarters.
const MAPPINGS: std::ops::RangeInclusive<u16> = 20_000..=29_575;

/// The mapping of the pods' network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// A port for a destination, as the kernel's NAT has it.
    Dependent,
    /// A port for all destinations.
    Independent,
}

/// What a run has seen.
#[derive(Debug, Default)]
pub struct Report {
    /// Steps.
    pub steps: usize,
    /// Packets that came out, in either world.
    pub packets: usize,
    /// Sessions.
    pub sessions: usize,
    /// How often a known difference occurred.
    pub known: BTreeMap<Known, usize>,
    /// How often a TCP flow of ours stood where its ends did, by state.
    pub states: BTreeMap<u8, usize>,
}

/// Runs so many steps; `Err` tells the first difference nobody knows of.
pub fn run(worlds: &Worlds, mapping: Mapping, seed: u64, steps: usize) -> Result<Report, String> {
    let mut report = Report::default();
    // A round is its seed's alone, so that one that fails can be run by itself.
    let (mut round, mut seeds) = (seed, Numbers::new(seed));
    while report.steps < steps {
        worlds.forget();
        let length = STEPS_A_ROUND.min(steps - report.steps);
        one_round(worlds, mapping, round, length, &mut report).map_err(|why| {
            format!("after {} steps, in a round that NETNS_DIFF_SEED={round} repeats: {why}", report.steps)
        })?;
        round = seeds.any();
    }
    Ok(report)
}

fn one_round(worlds: &Worlds, mapping: Mapping, seed: u64, steps: usize, report: &mut Report) -> Result<(), String> {
    let mut numbers = Numbers::new(seed);
    let mut sessions: Vec<Session> = Vec::new();
    let mut identities = BTreeSet::new();
    let mut histories: Vec<Vec<String>> = Vec::new();
    let (mut done, mut idle) = (0, 0);
    while done < steps {
        if sessions.len() < A_ROUND && (sessions.len() < AT_ONCE || numbers.percent(8)) {
            let session = Session::new(&mut numbers, sessions.len());
            if !identities.insert(session.identity()) {
                continue;
            }
            sessions.push(session);
            histories.push(Vec::new());
            report.sessions += 1;
        }
        let oldest = sessions.len().saturating_sub(AT_ONCE);
        let index = oldest + numbers.below(sessions.len() - oldest);
        let Some(step) = sessions[index].step(&mut numbers) else {
            idle += 1;
            if idle > 1000 {
                break;
            }
            continue;
        };
        idle = 0;
        done += 1;
        report.steps += 1;
        histories[index].push(step.what.clone());
        let outcome = one_step(worlds, mapping, &mut sessions, index, &step, report);
        if let Err(why) = outcome.and_then(|()| in_state(worlds, &sessions[index], report)) {
            let mut text = format!("{why}\nsession {}", sessions[index].name);
            for line in &histories[index] {
                let _ = write!(text, "\n  {line}");
            }
            let _ = write!(text, "\nput in at {:?}:", step.at);
            for (world, packets) in worlds.worlds.iter().zip(&step.packets) {
                for packet in packets {
                    let _ = write!(text, "\n  {:7} {}", world.name, hex(packet));
                }
            }
            return Err(text);
        }
    }
    Ok(())
}

fn one_step(
    worlds: &Worlds,
    mapping: Mapping,
    sessions: &mut [Session],
    index: usize,
    step: &Step,
    report: &mut Report,
) -> Result<(), String> {
    let mut outcomes = Vec::new();
    for (i, world) in worlds.worlds.iter().enumerate() {
        let name = world.name;
        let seen = world.send(step.at, &step.packets[i]).map_err(|why| format!("{name}: {why}"))?;
        report.packets += seen.len();
        let whole = in_order(&seen).map_err(|why| format!("{name}: {why}"))?;
        learn(sessions, index, i, (mapping, step), &whole).map_err(|why| format!("{name}: {why}"))?;
        let alias = sessions[index].alias(i);
        let mut canonicals = whole
            .iter()
            .map(|(end, in_pieces, packet)| canon::canonical(*end, *in_pieces, packet, alias, &step.tags))
            .collect::<Result<Vec<Canonical>, String>>()
            .map_err(|why| format!("{name}: {why}"))?;
        canonicals.sort();
        outcomes.push(canonicals);
    }
    let [ours, reference] = outcomes.as_slice() else { return Err("two worlds".to_owned()) };
    if ours == reference {
        return Ok(());
    }
    if let Some(may) = step.may
        && (may != Known::Filtered || mapping == Mapping::Independent)
    {
        let forwarded = forwarded(&sessions[index], step)?;
        if may.explains(ours, reference, step.at, forwarded.as_ref()) {
            *report.known.entry(may).or_default() += 1;
            return Ok(());
        }
    }
    let mut text = String::from("the two differ");
    for (name, outcome) in ["netns", "nf_nat"].into_iter().zip([ours, reference]) {
        let _ = write!(text, "\n{name}: {} packets", outcome.len());
        for c in outcome {
            let origin = if c.originated { "made by the host" } else { "passed on" };
            let _ = write!(text, "\n  at {:?}, {origin}, in pieces: {}: {}", c.end, c.in_pieces, hex(&c.bytes));
        }
    }
    Err(text)
}

/// Sees that our flow stands where both of its ends do.
fn in_state(worlds: &Worlds, session: &Session, report: &mut Report) -> Result<(), String> {
    let Some(wanted) = session.state() else { return Ok(()) };
    *report.states.entry(wanted as u8).or_default() += 1;
    match worlds.state(session.proto, session.opener, session.target) {
        Some(state) if state == wanted => Ok(()),
        state => Err(format!("the flow's state is {state:?}, and not {wanted:?}")),
    }
}

/// Whole packets, end by end.
fn in_order(seen: &Seen) -> Result<Vec<(End, bool, Vec<u8>)>, String> {
    let mut all = Vec::new();
    for end in End::ALL {
        let here: Vec<_> = seen.iter().filter(|(e, _)| *e == end).map(|(_, packet)| packet.clone()).collect();
        all.extend(pieces::whole(end, &here)?);
    }
    Ok(all)
}

/// Sees which port a world has chosen, and that it could.
fn learn(
    sessions: &mut [Session],
    index: usize,
    world: usize,
    (mapping, step): (Mapping, &Step),
    whole: &[(End, bool, Vec<u8>)],
) -> Result<(), String> {
    let (Some(side), Some(answerer)) = (step.side, sessions[index].answerer) else { return Ok(()) };
    let session = &sessions[index];
    let end = if side == Side::Opener { answerer.end } else { session.from };
    let passed = whole.iter().find(|(e, _, packet)| *e == end && canon::is_passed(packet, &step.tags));
    let Some((_, in_pieces, packet)) = passed else { return Ok(()) };
    if !in_pieces && step.may.is_none() {
        sessions[index].last[usize::from(side == Side::Answerer)][world] = Some(packet.clone());
    }
    if side == Side::Answerer {
        return Ok(());
    }
    let session = &sessions[index];
    let port = canon::source_port(packet)?;
    let (proto, own) = (session.proto, session.opener.1);
    match session.wire[world] {
        Some(known) if known == port => return Ok(()),
        Some(known) if !canon::is_syn(packet) => return Err(format!("the port was {known} and is {port} now")),
        _ => {}
    }
    let clash = sessions.iter().enumerate().find(|(i, other)| {
        *i != index
            && other.proto == proto
            && other.wire[world] == Some(port)
            && other.answerer.is_some_and(|o| {
                (o.end, o.addr, o.port, o.sees) == (answerer.end, answerer.addr, answerer.port, answerer.sees)
            })
    });
    match clash {
        // The reference takes a port from a connection that is closing when another wants it, and so ends the first.
        Some((other, _)) if world == 1 && proto == 6 => sessions[other].over = true,
        Some((_, other)) => return Err(format!("the port {port} is another session's: {}", other.name)),
        None => {}
    }
    let session = &sessions[index];
    let masqueraded = session.is_masqueraded();
    let mapped = world == 0 && mapping == Mapping::Independent && answerer.end == End::Lan;
    let range = if mapped { MAPPINGS } else { RANGE };
    // TCP keeps a port that is none of the range where it is nobody's, or has the odd one behind it; the reference cannot be told to.
    let keeps_own = range.contains(&own) || world == 0 && proto == 6 && !mapped && own >= 1024;
    let own = if keeps_own && masqueraded && !range.contains(&own) { own | 1 } else { own };
    if masqueraded && !range.contains(&port) && !(keeps_own && port == own) {
        return Err(format!("the port {port} is not one of the range"));
    }
    let wanted = sessions.iter().enumerate().any(|(i, other)| {
        i != index
            && other.proto == proto
            && other.wire[world] == Some(own)
            && (mapping == Mapping::Independent
                || other.answerer.is_some_and(|o| (o.addr, o.port) == (answerer.addr, answerer.port)))
    });
    let free = !wanted && (!masqueraded || keeps_own);
    // The reference tracks what outsiders send to the host too, and takes their ports for taken.
    if world == 0 && free && port != own && session.wire[world].is_none() {
        return Err(format!("the port {own} was free, and it got {port}"));
    }
    if world == 0 && mapping == Mapping::Independent && answerer.end == End::Lan {
        let other = sessions.iter().find(|other| {
            (other.proto, other.opener) == (proto, session.opener)
                && other.answerer.is_some_and(|o| o.end == End::Lan)
                && other.wire[0].is_some_and(|wire| wire != port)
        });
        if let Some(other) = other {
            return Err(format!("the port is {port}, and was {:?} for {}", other.wire[0], other.name));
        }
    }
    sessions[index].wire[world] = Some(port);
    Ok(())
}

/// The packet of a step as it must come out translated.
fn forwarded(session: &Session, step: &Step) -> Result<Option<Canonical>, String> {
    let (Some(packet), Some(side), Some(answerer)) = (&step.forwarded, step.side, session.answerer) else {
        return Ok(None);
    };
    let mut bytes = packet.ip_bytes();
    canon::set_tag(&mut bytes, packet.id);
    let end = if side == Side::Opener { answerer.end } else { session.from };
    canon::canonical(end, false, &bytes, None, &step.tags).map(Some)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
