//! Programs of others on the hooks netns uses.

mod common;

use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use common::pods::{RED, TOPOLOGY, client, server, uplink};
use common::traffic::{direct, published};
use common::{Isolated, isolated};
use netns::datapath::{Datapath, Hook, Sizes};
use netns_ebpf_common::verdict::Kind;

/// A program of somebody else: `from_uplink` of another object, to whose empty maps nothing is a pod's. It lets every packet
/// go on and counts it.
struct Foreign {
    datapath: Datapath,
    id: u32,
    _link: FdLink,
}

impl Foreign {
    fn attach(name: &str, ifname: &str, order: LinkOrder) -> Self {
        let pins = Path::new(common::BPFFS).join(name);
        let datapath = Datapath::load(&pins, &Sizes { flow_entries: 16 }).expect("load");
        let program = pins.join("progs").join(Hook::FromUplink.as_str());
        let mut program = SchedClassifier::from_pin(program).expect("open");
        let options = TcAttachOptions::TcxOrder(order);
        let link = program.attach_with_options(ifname, TcAttachType::Ingress, options).expect("attach");
        let link = FdLink::try_from(program.take_link(link).expect("take")).expect("a link of its own");
        Self { datapath, id: program.info().expect("info").id(), _link: link }
    }

    /// Packets it has seen; all of them went on.
    fn seen(&self) -> u64 {
        let counts = self.datapath.verdicts().expect("read");
        let of = |pass: bool| counts.iter().filter(|c| (c.kind == Kind::Pass) == pass).map(|c| c.packets).sum::<u64>();
        assert_eq!(of(false), 0, "{counts:?}");
        of(true)
    }
}

/// The programs on the uplink, in order.
fn on_uplink() -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx("up0", TcAttachType::Ingress).expect("query");
    programs.iter().map(aya::programs::ProgramInfo::id).collect()
}

fn ours(here: &Isolated) -> u32 {
    let text = here.tool("bpftool", "-j prog show pinned /sys/fs/bpf/netns-ebpf/default/progs/from_uplink");
    let program: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    program["id"].as_u64().and_then(|id| id.try_into().ok()).expect("an id")
}

#[test]
fn foreign_programs_stay_and_run_beside_ours() {
    isolated(|here| {
        here.lan();
        let there_first = Foreign::attach("earlier", "up0", LinkOrder::first());
        here.up(TOPOLOGY).ok();
        assert_eq!(on_uplink(), [ours(here), there_first.id], "ours comes first");
        let later = Foreign::attach("later", "up0", LinkOrder::first());
        let order = [later.id, ours(here), there_first.id];
        assert_eq!(on_uplink(), order);

        let (before, after) = (later.seen(), there_first.seen());
        let mut cases = direct(RED, server(), uplink(), 63);
        cases.extend(published(client(), RED, uplink(), 9000, 7000, client()));
        here.flows(&cases);
        assert!(later.seen() > before, "what stands before ours sees the packets of pods");
        let passed = there_first.seen();
        here.flows(&direct(uplink(), server(), uplink(), 64));
        assert!(there_first.seen() > passed.max(after), "what stands behind ours sees what is the host's");

        // Whatever a verb does to the uplink, it does to its own program.
        here.netns(["add", "violet"]).ok();
        here.up(TOPOLOGY).ok();
        assert_eq!(on_uplink(), order);
        here.tool("nft", "add table inet other");
        here.tool("nft", "flush ruleset");
        assert_eq!(on_uplink(), order);
        here.flows(&published(client(), RED, uplink(), 9001, 7001, client()));
        here.netns(["down"]).ok();
        assert_eq!(on_uplink(), [later.id, there_first.id]);
        here.flows(&direct(uplink(), server(), uplink(), 64));
    });
}
