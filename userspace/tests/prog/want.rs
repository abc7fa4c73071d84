//! What a run must give: the action, every byte, every counter, every flow entry.

use std::collections::BTreeMap;

use netns::datapath::{FlowRecord, Hook};
use netns_ebpf_common::counters::{EndpointCounters, PublishCounters};
use netns_ebpf_common::shared::Shared;
use netns_ebpf_common::verdict::{DropReason, Kind};

use super::bench::{Bench, Meta, Notes};
use super::flows::{self, Pair};
use super::packet::Packet;
use super::world::{MARK_HAIRPIN, PODS, PUBLISHES, Pod, gateway_ifindex};

/// What a run must give. Whatever is not said must not change.
#[derive(Clone, Debug)]
pub struct Want {
    kind: Kind,
    reason: Option<DropReason>,
    frame: Option<Vec<u8>>,
    rx: Option<Pod>,
    rx_dropped: Option<Pod>,
    /// Publish, whether a new flow counts.
    publish: Option<(u32, bool)>,
    flows: Option<Vec<FlowRecord>>,
    mark: u32,
}

impl Want {
    fn new(kind: Kind, frame: Option<Vec<u8>>) -> Self {
        Self { kind, reason: None, frame, rx: None, rx_dropped: None, publish: None, flows: None, mark: 0 }
    }

    /// Up the stack, untouched.
    pub fn pass(as_it_was: &Packet) -> Self {
        Self::new(Kind::Pass, Some(as_it_was.bytes()))
    }

    /// As [`Self::pass`], for a frame that is bytes.
    pub fn pass_bytes(as_it_was: &[u8]) -> Self {
        Self::new(Kind::Pass, Some(as_it_was.to_vec()))
    }

    /// Into a pod.
    pub fn peer(to: Pod, frame: &Packet) -> Self {
        Self { rx: Some(to), ..Self::new(Kind::Peer, Some(frame.bytes())) }
    }

    /// Out of an uplink.
    pub fn neigh(frame: &Packet) -> Self {
        Self::new(Kind::Neigh, Some(frame.bytes()))
    }

    /// Put aside until the first piece of its datagram comes, or, with those that were, sent in once more.
    pub fn held() -> Self {
        Self::new(Kind::Held, None)
    }

    /// Up to the host's sockets, untouched.
    pub fn host(as_it_was: &Packet) -> Self {
        Self::new(Kind::Host, Some(as_it_was.bytes()))
    }

    /// An answer to the sender.
    pub fn out(frame: Vec<u8>) -> Self {
        Self::new(Kind::Out, Some(frame))
    }

    /// The host's packet, to a pod.
    pub fn out_to(to: Pod, frame: &Packet) -> Self {
        Self { rx: Some(to), ..Self::new(Kind::Out, Some(frame.bytes())) }
    }

    /// Dropped; nobody sees what the frame looks like then.
    pub fn drop(reason: DropReason) -> Self {
        Self { reason: Some(reason), ..Self::new(Kind::Drop, None) }
    }

    /// Dropped, with an error to the sending pod.
    pub fn reject_to(pod: Pod, reason: DropReason, error: &Packet) -> Self {
        Self { reason: Some(reason), rx: Some(pod), ..Self::new(Kind::Reject, Some(error.bytes())) }
    }

    /// Dropped, with an error to a sender on the LAN.
    pub fn reject(reason: DropReason, error: &Packet) -> Self {
        Self { reason: Some(reason), ..Self::new(Kind::Reject, Some(error.bytes())) }
    }

    /// Dropped, with an error up into the host.
    pub fn reject_host(reason: DropReason, error: &Packet) -> Self {
        Self { reason: Some(reason), ..Self::new(Kind::RejectHost, Some(error.bytes())) }
    }

    /// Counts as a packet that did not reach this pod.
    pub fn rx_dropped(self, pod: Pod) -> Self {
        Self { rx_dropped: Some(pod), ..self }
    }

    /// Counts as a client's packet of a publish.
    pub fn publish(self, id: u32) -> Self {
        Self { publish: Some((id, false)), ..self }
    }

    /// Counts as the first packet of a publish's new flow.
    pub fn publish_opens(self, id: u32) -> Self {
        Self { publish: Some((id, true)), ..self }
    }

    /// Counts as a new flow of a publish, but as none of its packets from the LAN.
    pub fn hairpin_opens(self, id: u32) -> Self {
        Self { publish: Some((id, true)), ..self }
    }

    /// Marked as a pod's packet that comes back in by the uplink.
    pub fn marked(self) -> Self {
        Self { mark: MARK_HAIRPIN, ..self }
    }

    /// The flow table holds exactly these afterwards. Without it, the table must not change.
    pub fn flows<'a>(self, pairs: impl IntoIterator<Item = &'a Pair>) -> Self {
        Self { flows: Some(flows::sorted(pairs.into_iter().flat_map(Pair::records).collect())), ..self }
    }

    /// The action the kernel is given.
    fn action(&self) -> i32 {
        match self.kind {
            Kind::Pass => -1,
            Kind::Drop | Kind::Held => 2,
            _ => 7,
        }
    }
}

/// Every counter there is, by name; zeros are left out.
pub fn counters(bench: &Bench) -> BTreeMap<String, u64> {
    let d = bench.datapath();
    let mut all = BTreeMap::new();
    for v in d.verdicts().expect("verdicts") {
        all.insert(format!("verdict {} {}", v.hook.as_str(), v.kind.as_str()), v.packets);
    }
    for drop in d.drops().expect("drops") {
        all.insert(format!("drop {}", drop.reason.as_str()), drop.packets);
    }
    for pod in PODS {
        let c = d.endpoint_counters(pod.slot).expect("endpoint counters");
        add_endpoint(&mut all, pod.slot, &c);
    }
    for id in PUBLISHES {
        let c = d.publish_counters(id).expect("publish counters");
        add_publish(&mut all, id, &c);
    }
    all
}

fn add_endpoint(to: &mut BTreeMap<String, u64>, slot: u32, c: &EndpointCounters) {
    for (name, n) in [
        ("tx packets", c.tx_packets),
        ("tx bytes", c.tx_bytes),
        ("tx dropped", c.tx_dropped),
        ("rx packets", c.rx_packets),
        ("rx bytes", c.rx_bytes),
        ("rx dropped", c.rx_dropped),
        ("refused flow-limit", c.refused_limit),
        ("refused flow-table-full", c.refused_table),
        ("refused ports-exhausted", c.refused_ports),
    ] {
        *to.entry(format!("slot {slot} {name}")).or_default() += n;
    }
}

fn add_publish(to: &mut BTreeMap<String, u64>, id: u32, c: &PublishCounters) {
    for (name, n) in [("flows", c.flows.get()), ("packets", c.packets), ("bytes", c.bytes)] {
        *to.entry(format!("publish {id} {name}")).or_default() += n;
    }
}

/// How much each counter grew, zeros left out.
pub fn growth(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    after
        .iter()
        .map(|(name, n)| (name.clone(), n - before.get(name).copied().unwrap_or(0)))
        .filter(|(_, n)| *n != 0)
        .collect()
}

impl Bench {
    /// A pod sends a frame.
    #[track_caller]
    pub fn pod_sends(&self, pod: Pod, sent: &Packet, want: &Want) -> Vec<u8> {
        self.pod_sends_bytes(pod, &sent.bytes(), want)
    }

    /// A pod sends a frame that is bytes.
    #[track_caller]
    pub fn pod_sends_bytes(&self, pod: Pod, sent: &[u8], want: &Want) -> Vec<u8> {
        let meta = Meta { ifindex: pod.ifindex(), ..Meta::default() };
        self.expect(Hook::FromPod, meta, sent, want)
    }

    /// A frame comes in by the uplink.
    #[track_caller]
    pub fn lan_sends(&self, sent: &Packet, want: &Want) -> Vec<u8> {
        self.lan_sends_bytes(&sent.bytes(), want)
    }

    /// A frame that is bytes comes in by the uplink.
    #[track_caller]
    pub fn lan_sends_bytes(&self, sent: &[u8], want: &Want) -> Vec<u8> {
        let meta = Meta { ifindex: self.uplink, ingress_ifindex: self.uplink, ..Meta::default() };
        self.expect(Hook::FromUplink, meta, sent, want)
    }

    /// What a pod sent comes back in by the uplink.
    #[track_caller]
    pub fn comes_back_in(&self, sent: &Packet, want: &Want) -> Vec<u8> {
        let notes = Notes { mark: MARK_HAIRPIN, ..Notes::default() };
        let meta = Meta { ifindex: self.uplink, ingress_ifindex: self.uplink, notes, ..Meta::default() };
        self.expect(Hook::FromUplink, meta, &sent.bytes(), want)
    }

    /// The host sends a frame to a network.
    #[track_caller]
    pub fn host_sends(&self, network: u16, sent: &Packet, want: &Want) -> Vec<u8> {
        let meta = Meta { ifindex: gateway_ifindex(network), ..Meta::default() };
        self.expect(Hook::FromHost, meta, &sent.bytes(), want)
    }

    /// Runs a hook and compares all there is to compare; returns the frame that came out.
    #[track_caller]
    pub fn expect(&self, hook: Hook, meta: Meta, sent: &[u8], want: &Want) -> Vec<u8> {
        let (counters_before, flows_before) = (counters(self), flows::table(self.datapath()));
        let out = self.run(hook, meta, sent);
        let grown = growth(&counters_before, &counters(self));

        let mut expected = BTreeMap::new();
        expected.insert(format!("verdict {} {}", hook.as_str(), want.kind.as_str()), 1);
        if let Some(reason) = want.reason {
            expected.insert(format!("drop {}", reason.as_str()), 1);
        }
        let mut endpoints: BTreeMap<u32, EndpointCounters> = BTreeMap::new();
        let slot = meta.ifindex.wrapping_sub(0x0100_0000);
        if hook == Hook::FromPod && (slot as usize) < PODS.len() && want.kind != Kind::Held {
            let c = endpoints.entry(slot).or_default();
            c.tx_packets += 1;
            c.tx_bytes += sent.len() as u64;
            c.tx_dropped += u64::from(want.kind.is_drop());
        }
        if let Some(pod) = want.rx {
            let c = endpoints.entry(pod.slot).or_default();
            c.rx_packets += 1;
            c.rx_bytes += out.frame.len() as u64;
        }
        if let Some(pod) = want.rx_dropped {
            endpoints.entry(pod.slot).or_default().rx_dropped += 1;
        }
        // A refused flow is one of the pod that sent, or of the pod it was to be opened to.
        let refused = if hook == Hook::FromPod { Some(slot) } else { want.rx_dropped.map(|p| p.slot) };
        if let Some(c) = refused.map(|slot| endpoints.entry(slot).or_default()) {
            match want.reason {
                Some(DropReason::FlowLimit) => c.refused_limit += 1,
                Some(DropReason::FlowTableFull) => c.refused_table += 1,
                Some(DropReason::PortsExhausted) => c.refused_ports += 1,
                _ => {}
            }
        }
        for (slot, c) in &endpoints {
            add_endpoint(&mut expected, *slot, c);
        }
        if let Some((id, opens)) = want.publish {
            let packets = u64::from(hook == Hook::FromUplink);
            let bytes = packets * sent.len() as u64;
            let c = PublishCounters { flows: Shared::new(opens.into()), packets, bytes };
            add_publish(&mut expected, id, &c);
        }
        expected.retain(|_, n| *n != 0);

        assert_eq!(grown, expected, "the counters that grew are not those that must (left: found)");
        assert_eq!(out.action, want.action(), "the action");
        if let Some(frame) = &want.frame {
            assert_same_bytes(&out.frame, frame);
            assert_eq!(out.notes.mark, want.mark, "the mark");
        }
        let wanted = want.flows.clone().unwrap_or(flows_before);
        let found = flows::table(self.datapath());
        assert_eq!(found, wanted, "the flow table (left: found)");
        self.assert_accounts();
        out.frame
    }
}

impl Bench {
    /// Every pod's accounts, and the table's, are what the table holds.
    #[track_caller]
    pub fn assert_accounts(&self) {
        let table = flows::table(self.datapath());
        let opened: Vec<_> = table.iter().filter(|r| r.original).collect();
        let of = |v4: bool, slot: Option<u32>| {
            let counted = |r: &&&FlowRecord| r.src.is_ipv4() == v4 && (slot.is_none() || r.owner_slot == slot);
            opened.iter().filter(counted).count() as u64
        };
        assert_eq!(self.datapath().flow_totals().expect("totals"), [of(true, None), of(false, None)], "all flows");
        for pod in PODS {
            let counts = self.datapath().flow_counts(pod.slot).expect("counts").map(|c| c.opened + c.incoming);
            assert_eq!(counts, [true, false].map(|v4| of(v4, Some(pod.slot))), "the accounts of slot {}", pod.slot);
        }
    }
}

/// Shows where two frames differ, by rows.
#[track_caller]
fn assert_same_bytes(found: &[u8], wanted: &[u8]) {
    if found == wanted {
        return;
    }
    let mut text = format!("the frame ({} bytes) is not what it must be ({} bytes):\n", found.len(), wanted.len());
    for at in (0..found.len().max(wanted.len())).step_by(16) {
        let row = |b: &[u8]| {
            let row = b.get(at..).unwrap_or(&[]);
            row.iter().take(16).map(|b| format!("{b:02x} ")).collect::<String>()
        };
        let (f, w) = (row(found), row(wanted));
        let mark = if f == w { ' ' } else { '!' };
        text.push_str(&format!("{mark} {at:4} found  {f}\n"));
        if f != w {
            text.push_str(&format!("!      wanted {w}\n"));
        }
    }
    panic!("{text}");
}
