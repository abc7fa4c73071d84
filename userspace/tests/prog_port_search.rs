//! Searches for a port in ranges of thousands: how many ports one packet tries, and when the last free one is found.

mod common;
#[macro_use]
mod prog;

use std::net::IpAddr;

use netns_ebpf_common::port::{MOST_TRIED, Range};
use prog::bench::with_table;
use prog::flows::opens;
use prog::*;

/// Entries of the tables: more than there are ports.
const ENTRIES: u32 = 131_072;

/// Runs a body for each family.
fn both(body: impl Fn(&Bench, Version) + Send + Sync) {
    with_table(ENTRIES, |b| {
        for v in [V4, V6] {
            b.reset();
            b.configure(|c| c.flows = ENTRIES / 2);
            body(b, v);
        }
    });
}

/// A port out of the range: one is searched for.
const OWN: u16 = 1000;

/// Where red's next search for a port begins, and how many have been in vain.
fn next_search(b: &Bench, v: Version) -> (u32, u32) {
    let all = b.port_searches(v);
    let [(searcher, search)] = all.as_slice() else { panic!("one search is remembered: {all:?}") };
    assert_eq!(*searcher, RED.slot);
    (search.cursors, search.vain)
}

/// The places one before these, in a range with as many even as odd ports.
fn one_back(range: Range, cursors: u32) -> u32 {
    let of_parity = range.count() / 2;
    let back = |place: u32| (place + of_parity - 1) % of_parity;
    back(cursors & 0xffff) | back(cursors >> 16) << 16
}

/// Searches, one after the other, until there is a port.
fn search(b: &Bench, v: Version) -> (u32, (IpAddr, u16)) {
    for n in 1.. {
        b.end_back_off(v);
        if let Some(at) = opens(b, v, RED, SERVER, udp(OWN, 53)) {
            return (n, at);
        }
        assert!(n < 1000, "no port in {n} searches");
    }
    unreachable!("a number comes after each")
}

fn free(b: &Bench, at: (IpAddr, u16)) {
    let is_it = |r: &netns::datapath::FlowRecord| (r.dst, r.dport) == at && !r.original;
    assert_eq!(b.datapath().delete_flows(is_it).expect("delete"), 1);
}

/// Which port is free when a search begins at a place, and by which search it is found.
type Row<'a> = (&'a dyn Fn(u32) -> Option<u16>, u32);

#[test]
fn the_last_free_port_of_thousands_is_found_in_the_stated_number_of_searches() {
    both(|b, v| {
        let range = Range { min: *SNAT.start(), max: *SNAT.end() };
        let host = HOST.ip(v);
        b.occupy(v, (SERVER, 53), host, SNAT);
        assert_eq!(opens(b, v, RED, SERVER, udp(OWN, 53)), None);
        let half = MOST_TRIED / 2;
        // The first and the last one a search tries of each parity that is not at random, the first one behind those, and the one before.
        let behind = |cursors: u32, i: u32| range.candidate(OWN, range.advanced(OWN, cursors, MOST_TRIED), 0, i);
        let before = |cursors: u32, i: u32| range.candidate(OWN, one_back(range, cursors), 0, i);
        let rows: [Row<'_>; 8] = [
            (&|c| range.candidate(OWN, c, 0, 0), 1),
            (&|c| range.candidate(OWN, c, 0, half - 2), 1),
            (&|c| range.candidate(OWN, c, 0, half), 1),
            (&|c| range.candidate(OWN, c, 0, 2 * half - 2), 1),
            (&|c| behind(c, 0), 2),
            (&|c| behind(c, half), 2),
            (&|c| before(c, 0), range.searches()),
            (&|c| before(c, half), range.searches()),
        ];
        for (row, (port, searches)) in rows.into_iter().enumerate() {
            let port = port(next_search(b, v).0).expect("a candidate");
            free(b, (host, port));
            let (n, found) = search(b, v);
            // One at random may have been it.
            assert!(found == (host, port) && n <= searches, "row {row}: {found:?} after {n} of {searches}");
            b.datapath().delete_flows(|r| r.sport == OWN && r.original).expect("delete");
            b.occupy(v, (SERVER, 53), host, [port].into_iter());
        }
        // Where there is none, each packet goes on by as many.
        let (mut cursors, vain) = next_search(b, v);
        for n in 1..4 {
            cursors = range.advanced(OWN, cursors, MOST_TRIED);
            b.end_back_off(v);
            assert_eq!(opens(b, v, RED, SERVER, udp(OWN, 53)), None);
            assert_eq!(next_search(b, v), (cursors, vain.wrapping_add(n)));
        }
    });
}

#[test]
fn the_last_free_port_of_a_pool_is_found_in_the_stated_number_of_searches() {
    both(|b, v| {
        let range = Range { min: 20_000, max: 20_999 };
        b.configure(|c| {
            c.flows = ENTRIES / 2;
            (c.snat_port_min, c.snat_port_max) = (range.min, range.max);
        });
        let pool: Vec<IpAddr> = match v {
            V4 => ["203.0.113.7", "203.0.113.8", "203.0.113.9"],
            V6 => ["2001:db8:7::7", "2001:db8:7::8", "2001:db8:7::9"],
        }
        .map(|a| a.parse().expect("an address"))
        .to_vec();
        b.set_snat_pool(1, &pool, &pool);
        pool.iter().for_each(|at| b.occupy(v, (SERVER, 53), *at, range.min..=range.max));
        assert_eq!(opens(b, v, RED, SERVER, udp(OWN, 53)), None);
        let most = range.searches() * pool.len() as u32;
        let mut longest = 0;
        for at in &pool {
            for back in [0, 1] {
                let next = next_search(b, v).0;
                let cursors = if back == 0 { next } else { one_back(range, next) };
                let port = range.candidate(OWN, cursors, 0, 0).expect("a candidate");
                free(b, (*at, port));
                let (searches, found) = search(b, v);
                assert_eq!(found, (*at, port));
                assert!(searches <= most, "{searches} of {most}");
                longest = longest.max(searches);
                b.datapath().delete_flows(|r| r.sport == OWN && r.original).expect("delete");
                b.occupy(v, (SERVER, 53), *at, [port].into_iter());
            }
        }
        assert!(longest > most - pool.len() as u32, "the one before is the last: {longest} of {most}");
    });
}

#[test]
fn ports_in_use_in_a_row_shut_nobody_out() {
    both(|b, v| {
        // 8000 of 12,768.
        b.occupy(v, (SERVER, 53), HOST.ip(v), 20_000..28_000);
        for sport in 20_000..21_000 {
            assert!(opens(b, v, RED, SERVER, udp(sport, 53)).is_some(), "{sport}");
        }
    });
}
