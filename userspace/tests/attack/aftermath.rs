//! What must be so after any attack: nothing leaked, and the kernel found nothing to complain about.

use std::path::Path;

use aya::Pod as Plain;
use aya::maps::{HashMap, Map, MapData};
use netns_ebpf_common::abi::map;
use netns_ebpf_common::fragment::{Datagram, DatagramSlot, HeldKey, HeldPiece};
use netns_ebpf_common::{Addr4, Addr6};

use super::datapath;
use crate::common::KernelLog;

/// Slots a test's pods may have.
const SLOTS: u32 = 16;

/// Begun before an attack, asked after it.
pub struct Aftermath {
    log: KernelLog,
}

impl Aftermath {
    /// Begins to look.
    pub fn new() -> Self {
        Self { log: KernelLog::new() }
    }

    /// Ends all flows and asserts that nothing is left of them, nor of pieces, and that the kernel was silent.
    #[track_caller]
    pub fn finds_nothing(self) {
        self.finds_nothing_but(0);
    }

    /// As [`Self::finds_nothing`] after an attack that sent pieces without their others: these wait for others to displace them, and
    /// no more than so many may.
    #[track_caller]
    pub fn finds_nothing_but(self, pieces: usize) {
        let d = datapath();
        d.delete_flows(|_| true).expect("delete flows");
        assert_eq!(d.flows().expect("list flows"), [], "flows and mappings");
        assert_eq!(d.flow_totals().expect("totals"), [0, 0], "flows that are counted and not there");
        for slot in 0..SLOTS {
            let counts = d.flow_counts(slot).expect("counts");
            assert_eq!(counts.map(|c| c.opened + c.incoming), [0, 0], "the accounts of slot {slot}");
        }
        let held = entries::<HeldKey, HeldPiece>(d.pins(), map::HELD);
        let known = entries::<DatagramSlot, Datagram<Addr4>>(d.pins(), map::DATAGRAMS4)
            + entries::<DatagramSlot, Datagram<Addr6>>(d.pins(), map::DATAGRAMS6);
        assert!(held <= pieces && known <= pieces, "{held} pieces wait, of {known} datagrams");
        self.log.has_no_alarms();
    }
}

fn entries<K: Plain, V: Plain>(pins: &Path, name: &str) -> usize {
    let data = MapData::from_pin(pins.join("maps").join(name)).expect("open a map");
    let map = HashMap::<_, K, V>::try_from(Map::LruHashMap(data)).expect("a hash");
    map.keys().filter_map(Result::ok).count()
}
