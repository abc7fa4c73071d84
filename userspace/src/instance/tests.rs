mod change;
mod live;
mod model;
mod publishes;
mod reserve;

use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;

use self::model::{Fault, Kernel, Model, UNSEEN};
use super::*;
use crate::store::{AttachmentRow, Origin};
use crate::topology::{Affinity, Allow, Backend, Problem, Publish, SharedPublish, parse};

const FILE: &str = r#"
[[network]]
name = "pods"
subnets = ["10.244.0.0/24", "fd00:244::/64"]
[[network]]
name = "twin"
subnets = ["10.244.0.0/16"]
[[pod]]
name = "red"
network = "pods"
address = ["10.244.0.10"]
publish = ["8080:80/tcp", "5000-5003:5000-5003/udp"]
[[pod]]
name = "blue"
network = "pods"
"#;

/// A world for one test: directories, a kernel, and a way to meet both as a new process each time.
struct World {
    root: tempfile::TempDir,
    kernel: Rc<Kernel>,
}

impl World {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), kernel: Rc::default() }
    }

    fn process(&self) -> Instance<Model> {
        let dirs = Dirs::below(&self.root.path().join("run"), &self.root.path().join("pins"), "test").unwrap();
        Instance::new(dirs, None, Model(Rc::clone(&self.kernel)))
    }

    /// Runs a verb as a process of its own.
    fn verb<T>(&self, verb: impl FnOnce(&mut Instance<Model>) -> Result<T, InstanceError>) -> Result<T, InstanceError> {
        verb(&mut self.process())
    }

    /// Runs a verb with a fault at step `at`; `None` when it was killed.
    fn faulty<T>(
        &self,
        at: usize,
        fault: Fault,
        verb: impl FnOnce(&mut Instance<Model>) -> Result<T, InstanceError>,
    ) -> Option<Result<T, InstanceError>> {
        self.kernel.steps.set(0);
        self.kernel.fault.set(Some((at, fault)));
        let done = panic::catch_unwind(AssertUnwindSafe(|| self.verb(verb)));
        self.kernel.fault.set(None);
        match done {
            Ok(done) => Some(done),
            Err(e) if e.downcast_ref::<&str>() == Some(&"killed") => None,
            Err(e) => panic::resume_unwind(e),
        }
    }

    fn up(&self, text: &str) -> Result<Applied, InstanceError> {
        let document = parse(text).unwrap();
        self.verb(|i| i.up(&document))
    }

    fn state(&self) -> Option<State> {
        self.process().state().unwrap()
    }

    /// The first interface of a pod.
    fn first(&self, pod: &str) -> AttachmentRow {
        let state = self.state().unwrap();
        let id = state.pod(pod).unwrap().id;
        state.attachments_of(id).next().unwrap().clone()
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.kernel.seen(), BTreeSet::new());
        assert!(!self.root.path().join("run").exists(), "a directory is left");
    }
}

/// Ports that lead to these pods, for everybody.
fn shared(pods: &str, ports: &[Publish]) -> Vec<SharedPublish> {
    let backends = Backend::list(pods).unwrap();
    let publish = |port: &Publish| SharedPublish {
        port: *port,
        backends: backends.clone(),
        affinity: Affinity::None,
        allow: Allow::Anyone,
    };
    ports.iter().map(publish).collect()
}

fn input(error: InstanceError) -> (String, Problem) {
    match error {
        InstanceError::Input(e) => (e.field.clone(), e.problem.clone()),
        e => panic!("{e}"),
    }
}

#[test]
fn up_and_down() {
    let w = World::new();
    let applied = w.up(FILE).unwrap();
    assert_eq!(applied.networks_added, ["pods", "twin"]);
    assert_eq!(applied.pods_added.len(), 2);
    assert_eq!(applied.publishes_added.len(), 2);
    let state = w.state().unwrap();
    assert_eq!(w.first("red").addr4, Some("10.244.0.10".parse().unwrap()));
    assert_eq!(w.first("red").addr6, Some("fd00:244::2".parse().unwrap()), "what is not given is allocated");
    assert_eq!(w.first("blue").addr4, Some("10.244.0.2".parse().unwrap()));
    assert!(state.pods.iter().all(|p| p.netns.is_some()), "which namespace it is is recorded");
    assert_eq!(state.networks[0].mtu_bytes, 1400, "the uplink's");
    assert!(state.networks[0].host_access && !state.networks[1].host_access, "the later twin has no host access");
    assert!(w.kernel.seen().contains("20000-32767"));
    let again = w.up(FILE).unwrap();
    assert!(!again.changed, "{again:?}");
    assert_eq!(w.state().unwrap(), state);
    assert!(w.verb(|i| i.down()).unwrap().changed);
    w.assert_nothing_left();
    assert!(!w.verb(|i| i.down()).unwrap().changed, "down with nothing up is no error");
    w.assert_nothing_left();
}

/// There may be many: they are read by verbs that add a subnet, which is held against them, and by no other.
#[test]
fn only_who_adds_a_subnet_reads_the_hosts_routes() {
    let w = World::new();
    let read = || w.kernel.routes_read.take();
    w.up(FILE).unwrap();
    assert_eq!(read(), 1);
    w.up(FILE).unwrap();
    w.up(&FILE.replace("\"blue\"", "\"green\"")).unwrap();
    let request = PodRequest { name: "mine".into(), networks: vec!["pods".into()], ..PodRequest::default() };
    w.verb(|i| i.add(&request)).unwrap();
    w.verb(|i| i.publish(&shared("red", &["7000:7000".parse().unwrap()]))).unwrap();
    w.verb(|i| i.refresh()).unwrap();
    w.verb(|i| i.del("mine")).unwrap();
    assert_eq!(read(), 0);
    let more = |subnet: &str| format!("{FILE}[[network]]\nname = \"more\"\nsubnets = [\"{subnet}\"]\n");
    let (_, problem) = input(w.up(&more("172.16.1.0/24")).unwrap_err());
    assert!(matches!(problem, Problem::RouteOverlap { .. }), "{problem}");
    w.up(&more("10.250.0.0/24")).unwrap();
    assert_eq!(read(), 2);
}

#[test]
fn a_refused_file_changes_nothing() {
    let w = World::new();
    let (field, problem) = input(w.up(&FILE.replace("8080:80", "22:22")).unwrap_err());
    assert_eq!(field, "pod[0].publish[0]");
    assert!(matches!(problem, Problem::PortListened(_)));
    w.assert_nothing_left();
    w.up(FILE).unwrap();
    let before = (w.kernel.seen(), w.state());
    w.up(&FILE.replace("8080:80", "22:22")).unwrap_err();
    assert_eq!((w.kernel.seen(), w.state()), before);
}

#[test]
fn a_changed_file_adds_and_removes() {
    let w = World::new();
    w.up(FILE).unwrap();
    w.verb(|i| {
        let request = PodRequest { name: "mine".into(), networks: vec!["pods".into()], ..PodRequest::default() };
        i.add(&request)
    })
    .unwrap();
    w.verb(|i| i.publish(&shared("red", &["7000:7000".parse().unwrap()]))).unwrap();
    let changed = FILE
        .replace("\"blue\"", "\"green\"\npublish = [\"8080:80\"]")
        .replace("\"8080:80/tcp\", ", "\"8081:80/tcp\", ");
    let applied = w.up(&changed).unwrap();
    assert_eq!(applied.pods_removed, ["blue"]);
    assert_eq!(applied.pods_added[0].name, "green");
    let words =
        |views: &[PublishView]| -> Vec<String> { views.iter().map(|p| format!("{} {}", p.pod, p.publish)).collect() };
    assert_eq!(words(&applied.publishes_removed), Vec::<String>::new());
    assert_eq!(words(&applied.publishes_changed), ["green 8080:80/tcp"], "from red, in place");
    assert_eq!(words(&applied.publishes_added), ["red 8081:80/tcp"]);
    let state = w.state().unwrap();
    assert!(state.pod("mine").is_some_and(|p| p.origin == Origin::Verb), "what a verb added stays");
    assert!(state.publishes.iter().any(|q| q.publish.to_string() == "7000:7000/tcp"));
    assert_ne!(w.first("green").addr4, Some("10.244.0.2".parse().unwrap()), "a freed address is not given out at once");
    w.verb(|i| i.down()).unwrap();
    w.assert_nothing_left();
}

#[test]
fn verbs_on_pods_and_ports() {
    let w = World::new();
    let request = |name: &str| PodRequest { name: name.into(), networks: vec!["pods".into()], ..PodRequest::default() };
    let absent = w.verb(|i| i.add(&request("a"))).unwrap_err();
    assert!(matches!(absent, InstanceError::NotUp(_)));
    w.assert_nothing_left();
    w.up(FILE).unwrap();
    let live = (w.kernel.seen(), w.state().unwrap().pods.len());
    w.verb(|i| i.add(&request("a"))).unwrap();
    let twice = input(w.verb(|i| i.add(&request("a"))).unwrap_err());
    assert_eq!(twice, ("NAME".into(), Problem::NameTaken));
    let taken = PodRequest { addresses: vec!["10.244.0.10".parse().unwrap()], ..request("b") };
    let taken = input(w.verb(|i| i.add(&taken)).unwrap_err());
    assert_eq!(taken, ("--address".into(), Problem::AddressTaken("red".into())));
    let ambiguous = input(w.verb(|i| i.add(&PodRequest { networks: vec![], ..request("b") })).unwrap_err());
    assert_eq!(ambiguous.0, "--network");

    let ports = ["9000:90".parse().unwrap(), "[::1]:9001:91/udp".parse().unwrap()];
    assert!(w.verb(|i| i.publish(&shared("a", &ports))).unwrap().changed);
    assert!(!w.verb(|i| i.publish(&shared("a", &ports))).unwrap().changed, "repeating it changes nothing");
    let (field, problem) = input(w.verb(|i| i.publish(&shared("red", &ports[..1]))).unwrap_err());
    assert_eq!(field, "PORTS");
    assert!(matches!(problem, Problem::PublishedTwice { .. }));
    assert_eq!(input(w.verb(|i| i.publish(&shared("nobody", &ports))).unwrap_err()).1, Problem::UnknownPod);
    w.verb(|i| i.unpublish("a", &ports[..1], Unpublish::default())).unwrap();
    let gone = w.verb(|i| i.unpublish("a", &ports, Unpublish::default())).unwrap_err();
    assert!(matches!(gone, InstanceError::NotPublished { .. }));
    assert_eq!(w.state().unwrap().publishes.len(), 3, "nothing was withdrawn by the refused one");
    let if_exists = Unpublish { if_exists: true, ..Unpublish::default() };
    assert!(w.verb(|i| i.unpublish("a", &ports, if_exists)).unwrap().changed, "what is there goes");
    assert!(!w.verb(|i| i.unpublish("a", &ports, if_exists)).unwrap().changed);
    assert!(!w.verb(|i| i.unpublish("nobody", &ports, if_exists)).unwrap().changed);

    w.verb(|i| i.del("a")).unwrap();
    assert!(matches!(w.verb(|i| i.del("a")).unwrap_err(), InstanceError::NoPod(_)));
    assert_eq!((w.kernel.seen(), w.state().unwrap().pods.len()), live);
}

#[test]
fn a_namespace_that_appears_meanwhile_is_left_alone() {
    let w = World::new();
    w.up(FILE).unwrap();
    let theirs = format!("netns {UNSEEN}");
    w.kernel.objects.borrow_mut().insert(theirs.clone());
    let before = (w.kernel.seen(), w.state().unwrap().pods);
    let request = PodRequest { name: UNSEEN.into(), networks: vec!["pods".into()], ..PodRequest::default() };
    let error = w.verb(|i| i.add(&request)).unwrap_err();
    assert!(matches!(&error, InstanceError::Platform(e) if matches!(*e.source, Cause::Exists)), "{error}");
    assert_eq!((w.kernel.seen(), w.state().unwrap().pods), before);
    assert!(w.kernel.seen().contains(&theirs));
}

#[test]
fn a_failure_at_any_step_of_up_undoes_everything() {
    let document = parse(FILE).unwrap();
    for at in 0.. {
        let w = World::new();
        match w.faulty(at, Fault::Refused, |i| i.up(&document)).unwrap() {
            Ok(_) => {
                assert!(at > 8, "the fault came too late to matter: {at}");
                return;
            }
            Err(e) => assert!(e.to_string().contains("refused by the test"), "{e}"),
        }
        w.assert_nothing_left();
        w.up(FILE).unwrap();
        w.verb(|i| i.down()).unwrap();
        w.assert_nothing_left();
    }
}

#[test]
fn a_failure_at_any_step_of_a_verb_leaves_what_was_live() {
    let request = PodRequest {
        name: "new".into(),
        networks: vec!["pods".into()],
        publishes: vec!["9000:90".parse().unwrap()],
        ..PodRequest::default()
    };
    for at in 0.. {
        let w = World::new();
        w.up(FILE).unwrap();
        let kernel = w.kernel.seen();
        let rows = w.state().unwrap();
        if w.faulty(at, Fault::Refused, |i| i.add(&request)).unwrap().is_ok() {
            assert!(at > 2);
            return;
        }
        assert_eq!(w.kernel.seen(), kernel, "step {at}");
        assert_eq!(w.state().unwrap().pods, rows.pods);
        w.verb(|i| i.add(&request)).unwrap();
    }
}

#[test]
fn a_verb_killed_at_any_step_is_undone_by_the_next() {
    let document = parse(FILE).unwrap();
    for fault in [Fault::KilledBefore, Fault::KilledAfter] {
        for at in 0.. {
            let w = World::new();
            if w.faulty(at, fault, |i| i.up(&document)).is_some() {
                assert!(at > 8);
                break;
            }
            // Either next verb will do.
            if at % 2 == 0 {
                w.up(FILE).unwrap();
                assert_eq!(w.state().unwrap().pods.len(), 2);
            }
            w.verb(|i| i.down()).unwrap();
            w.assert_nothing_left();
        }
    }
}

#[test]
fn a_down_killed_at_any_step_is_finished_by_the_next() {
    for fault in [Fault::KilledBefore, Fault::KilledAfter, Fault::Refused] {
        for at in 0.. {
            let w = World::new();
            w.up(FILE).unwrap();
            if let Some(Ok(_)) = w.faulty(at, fault, |i| i.down()) {
                assert!(at > 8);
                w.assert_nothing_left();
                break;
            }
            w.verb(|i| i.down()).unwrap();
            w.assert_nothing_left();
        }
    }
}

#[test]
fn a_del_killed_at_any_step_is_finished_by_the_next() {
    for fault in [Fault::KilledBefore, Fault::KilledAfter] {
        for at in 0.. {
            let w = World::new();
            w.up(FILE).unwrap();
            if w.faulty(at, fault, |i| i.del("red")).is_some() {
                assert!(at > 3);
                break;
            }
            w.verb(|i| i.refresh()).unwrap();
            let seen = w.kernel.seen();
            assert!(!seen.contains("netns red") && seen.contains("netns blue"), "{seen:?}");
            assert!(w.state().unwrap().pod("red").is_none());
            w.up(FILE).unwrap();
            assert!(w.kernel.seen().contains("netns red"));
        }
    }
}

#[test]
fn sixteen_at_once_take_turns() {
    let root = tempfile::tempdir().unwrap();
    let run = |i: usize| {
        let dirs = Dirs::below(&root.path().join("run"), &root.path().join("pins"), "test").unwrap();
        // Each has a kernel of its own here: what is tried is the lock and the store.
        let model = Model(Rc::new(Kernel::default()));
        model.0.objects.borrow_mut().insert("pins".into());
        model.0.objects.borrow_mut().insert("network 1".into());
        let mut instance = Instance::new(dirs, None, model);
        let request = PodRequest { name: format!("pod{i}"), networks: vec!["pods".into()], ..PodRequest::default() };
        instance.add(&request).unwrap();
    };
    let dirs = Dirs::below(&root.path().join("run"), &root.path().join("pins"), "test").unwrap();
    let mut first = Instance::new(dirs, None, Model(Rc::default()));
    first.up(&parse(FILE).unwrap()).unwrap();
    std::thread::scope(|scope| {
        for i in 0..16 {
            scope.spawn(move || run(i));
        }
    });
    let state = first.state().unwrap().unwrap();
    assert_eq!(state.pods.len(), 18);
    let addresses: BTreeSet<_> = state.attachments.iter().map(|a| a.addr4).collect();
    let slots: BTreeSet<_> = state.attachments.iter().map(|a| a.slot).collect();
    assert_eq!((addresses.len(), slots.len()), (18, 18));
}

#[test]
fn another_host_namespace_is_another_place() {
    let w = World::new();
    w.up(FILE).unwrap();
    let mut elsewhere = w.process();
    elsewhere.host_netns = Some("other".into());
    let error = elsewhere.down().unwrap_err();
    assert!(matches!(error, InstanceError::Elsewhere { .. }), "{error}");
    assert_eq!(error.exit_status(), 2);
}

#[test]
fn instances_on_one_host_share_no_ports() {
    let w = World::new();
    w.up(FILE).unwrap();
    let there = std::cell::Cell::new(0);
    let other = |text: &str| {
        let dirs = Dirs::below(&w.root.path().join("run"), &w.root.path().join("pins"), "other").unwrap();
        let model = Model(Rc::default());
        model.0.host_id.set(there.get());
        let mut instance = Instance::new(dirs, None, model);
        instance.up(&parse(text).unwrap()).map(|_| instance)
    };
    let text = "[[network]]\nname = \"n\"\nsubnets = [\"10.9.0.0/24\"]\n[[pod]]\nname = \"p\"\npublish = [\"8080:80\"]";
    let apart = format!("[host]\nsnat_ports = \"40000-41000\"\n{text}");
    let (field, problem) = input(other(&apart).unwrap_err());
    assert_eq!(field, "pod[0].publish[0]");
    assert!(problem.to_string().contains("red of instance test"), "{problem}");
    let (field, problem) = input(other(&text.replace("8080", "8090")).unwrap_err());
    assert_eq!(field, "host.snat_ports");
    assert!(matches!(problem, Problem::SnatPortsTaken(..)));
    // Not on the uplink, but with its address.
    let pool =
        text.replace("8080", "8090").replace("[\"10.9.0.0/24\"]", "[\"10.9.0.0/24\"]\nsnat_address = [\"192.0.2.1\"]");
    let (field, problem) = input(other(&format!("[host]\nuplink = \"none\"\n{pool}")).unwrap_err());
    assert_eq!(field, "network[0].snat_address[0]");
    assert!(matches!(problem, Problem::SnatAddressShared(..)), "{problem}");
    let mut instance = other(&format!("[host]\nsnat_ports = \"40000-41000\"\n{pool}")).unwrap();
    instance.down().unwrap();
    let mut instance = other(&apart.replace("8080", "8090")).unwrap();
    instance.down().unwrap();
    // In another namespace there are other ports.
    there.set(1);
    let mut instance = other(text).unwrap();
    instance.down().unwrap();
    w.verb(|i| i.down()).unwrap();
    w.assert_nothing_left();
}

#[test]
fn a_live_instance_bears_the_absence_of_its_uplink() {
    let w = World::new();
    w.up(FILE).unwrap();
    w.kernel.no_uplink.set(true);
    assert!(!w.up(FILE).unwrap().changed);
}

#[test]
fn idle_timers_change_while_the_instance_is_up() {
    let w = World::new();
    w.up(FILE).unwrap();
    assert_eq!(w.state().unwrap().instance.unwrap().nat, crate::topology::Profile::Rfc.into());
    let fast = format!("[nat]\nprofile = \"fast\"\n{FILE}");
    let applied = w.up(&fast).unwrap();
    assert_eq!((applied.changed, applied.nat_changed), (true, Some(crate::topology::Profile::Fast.into())));
    assert_eq!(w.state().unwrap().instance.unwrap().nat, crate::topology::Profile::Fast.into());
    assert!(!w.up(&fast).unwrap().changed);
}
