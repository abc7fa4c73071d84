//! Publishes that are changed while they are live.

use super::model::{Fault, Model};
use super::{FILE, World, input, shared};
use crate::instance::{Instance, InstanceError, PublishChange, PublishRef, Unpublish};
use crate::store::{BackendRow, Phase, PublishRow};
use crate::topology::{Affinity, Allow, Backend, Problem};

/// Slots of the backends of a publish that take new flows.
fn open(w: &World, index: u32) -> Option<Vec<u32>> {
    w.kernel.backends.borrow().get(&index).map(|(slots, _)| slots.clone())
}

fn one(attachment: u64) -> BackendRow {
    BackendRow { attachment, weight: 1, draining: false }
}

#[test]
fn publishes_are_moved_and_drained_in_place() {
    let w = World::new();
    w.up(FILE).unwrap();
    let row = |w: &World| w.state().unwrap().publishes[0].clone();
    let before = row(&w);
    let [blue, red] = ["blue", "red"].map(|name| w.first(name));
    let backend = |w: &World| open(w, before.index);
    let to = |pods: &str| Backend::list(pods).unwrap();
    let by_spec = PublishRef::Spec(before.publish);
    let applied = w.verb(|i| i.move_publish(&by_spec, &to("blue"))).unwrap();
    assert_eq!((applied.changed, applied.publishes_changed[0].pod.as_str()), (true, "blue"));
    assert_eq!(row(&w), PublishRow { backends: vec![one(blue.id)], ..before.clone() });
    assert_eq!(backend(&w), Some(vec![blue.slot]));
    assert!(!w.verb(|i| i.move_publish(&by_spec, &to("blue"))).unwrap().changed, "repeating it changes nothing");

    let by_id = [PublishRef::Id(before.id), by_spec];
    assert_eq!(w.verb(|i| i.drain(&by_id, true, None)).unwrap().publishes_changed.len(), 1);
    assert_eq!((row(&w).draining, backend(&w)), (true, Some(vec![])));
    assert!(!w.verb(|i| i.drain(&by_id, true, None)).unwrap().changed);
    // Moving ends the draining; the pod it had left may go.
    w.verb(|i| i.move_publish(&by_id[0], &to("red"))).unwrap();
    assert_eq!((row(&w), backend(&w)), (before, Some(vec![red.slot])));
    w.verb(|i| i.del("blue")).unwrap();

    let nothing = PublishRef::Id(4711);
    assert!(matches!(w.verb(|i| i.drain(&[nothing], true, None)), Err(InstanceError::NoPublish(_))));
    assert!(matches!(w.verb(|i| i.move_publish(&nothing, &to("red"))), Err(InstanceError::NoPublish(_))));
    let nobody = input(w.verb(|i| i.move_publish(&by_spec, &to("nobody"))).unwrap_err());
    assert_eq!(nobody, ("--to".into(), Problem::UnknownPod));
    w.verb(|i| i.down()).unwrap();
    w.assert_nothing_left();
}

#[test]
fn a_move_killed_or_failed_at_any_step_is_finished_by_the_next_verb() {
    for fault in [Fault::Refused, Fault::KilledBefore, Fault::KilledAfter] {
        for at in 0.. {
            let w = World::new();
            w.up(FILE).unwrap();
            let publish = w.state().unwrap().publishes[0].clone();
            let blue = w.first("blue");
            let moved = |i: &mut Instance<Model>| i.move_publish(&PublishRef::Id(publish.id), &[Backend::only("blue")]);
            if matches!(w.faulty(at, fault, moved), Some(Ok(_))) {
                assert!(at > 0);
                break;
            }
            w.verb(|i| i.refresh()).unwrap();
            assert_eq!(open(&w, publish.index), Some(vec![blue.slot]), "{fault:?} at {at}");
            assert_eq!(w.state().unwrap().publishes[0], PublishRow { backends: vec![one(blue.id)], ..publish });
        }
    }
}

#[test]
fn a_reset_killed_at_any_step_still_resets() {
    for at in 0.. {
        let w = World::new();
        w.up(FILE).unwrap();
        let ports = [w.state().unwrap().publishes[0].publish];
        let withdrawn = w.faulty(at, Fault::KilledBefore, |i| {
            i.unpublish("red", &ports, Unpublish { reset: true, ..Unpublish::default() })
        });
        w.kernel.resets.set(0);
        if withdrawn.is_some() {
            assert!(at > 1);
            return;
        }
        w.verb(|i| i.refresh()).unwrap();
        assert_eq!(w.state().unwrap().publishes.len(), 1);
        // Killed before the RSTs or between them and the rest, they are sent by the next; after both nothing is left to do.
        assert!(at > 1 || w.kernel.resets.get() == 1, "killed before step {at}");
    }
}

/// [`FILE`] with a publish of two pods, and one of red's for some.
fn shared_file() -> String {
    let some = "{ port = \"8080:80/tcp\", allow = [\"10.0.0.0/8\"] }";
    let file = FILE.replace("\"8080:80/tcp\"", some);
    format!(
        "{file}\n[[publish]]\nport = \"443:8443\"\nbackends = [{{ pod = \"red\", weight = 3 }}, {{ pod = \"blue\" }}]\n\
         affinity = \"client\"\nallow = []\n"
    )
}

#[test]
fn a_shared_publish_is_made_and_changed_in_place_by_its_file() {
    let w = World::new();
    let applied = w.up(&shared_file()).unwrap();
    let words: Vec<_> =
        applied.publishes_added.iter().map(|p| format!("{} {} {}", p.publish, p.pod, p.allow)).collect();
    assert_eq!(
        words,
        ["8080:80/tcp red 10.0.0.0/8", "5000-5003:5000-5003/udp red any", "443:8443/tcp red:3,blue none"]
    );
    let slot = |name: &str| w.first(name).slot;
    let row = |w: &World| w.state().unwrap().publishes[2].clone();
    let before = row(&w);
    assert_eq!((before.affinity, &before.allow), (Affinity::Client, &Allow::Only(vec![])));
    assert_eq!(open(&w, before.index), Some(vec![slot("red"), slot("blue")]));
    assert!(!w.up(&shared_file()).unwrap().changed);

    // Weights, clients, pods: in place, under the same id and index.
    for (from, to, changed) in [
        ("weight = 3", "weight = 4", "443:8443/tcp red:4,blue none"),
        ("allow = []", "allow = [\"::/0\"]", "443:8443/tcp red:3,blue ::/0"),
        ("affinity = \"client\"", "affinity = \"none\"", "443:8443/tcp red:3,blue none"),
        (", { pod = \"blue\" }", "", "443:8443/tcp red none"),
        ("10.0.0.0/8", "10.0.0.0/9", "8080:80/tcp red 10.0.0.0/9"),
    ] {
        let text = shared_file().replace(from, to);
        let applied = w.up(&text).unwrap();
        let words: Vec<_> =
            applied.publishes_changed.iter().map(|p| format!("{} {} {}", p.publish, p.pod, p.allow)).collect();
        assert_eq!(words, [changed], "{from} to {to}");
        assert!(applied.publishes_added.is_empty() && applied.publishes_removed.is_empty());
        assert!(!w.up(&text).unwrap().changed);
        w.up(&shared_file()).unwrap();
        assert_eq!(row(&w), before, "{from} to {to} and back");
    }
    // From one of the pod's own to a shared one.
    let text = format!("{FILE}\n[[publish]]\nport = \"9000:90\"\nbackends = [{{ pod = \"blue\" }}]\n");
    let applied = w.up(&text).unwrap();
    assert_eq!(applied.publishes_removed[0].publish, "443:8443/tcp");
    assert_eq!(
        (applied.publishes_added[0].pod.as_str(), applied.publishes_changed[0].allow.is_anyone()),
        ("blue", true)
    );
    w.verb(|i| i.down()).unwrap();
    w.assert_nothing_left();
}

#[test]
fn a_pod_that_goes_leaves_its_share_to_the_others() {
    let w = World::new();
    w.up(&shared_file()).unwrap();
    let index = w.state().unwrap().publishes[2].index;
    let slot = |name: &str| w.first(name).slot;
    let applied = w.verb(|i| i.del("red")).unwrap();
    let removed: Vec<_> = applied.publishes_removed.iter().map(|p| p.publish.as_str()).collect();
    assert_eq!(removed, ["8080:80/tcp", "5000-5003:5000-5003/udp"]);
    assert_eq!((applied.publishes_changed.len(), applied.publishes_changed[0].pod.as_str()), (1, "blue"));
    assert_eq!(open(&w, index), Some(vec![slot("blue")]));
    let applied = w.verb(|i| i.del("blue")).unwrap();
    assert_eq!(applied.publishes_removed[0].publish, "443:8443/tcp", "the last one takes it away");
    assert!(w.state().unwrap().publishes.is_empty() && open(&w, index).is_none());
}

#[test]
fn one_backend_is_drained_and_withdrawn() {
    let w = World::new();
    w.up(FILE).unwrap();
    let ports = ["443:8443".parse().unwrap()];
    assert!(w.verb(|i| i.publish(&shared("red:3,blue", &ports))).unwrap().changed);
    assert!(!w.verb(|i| i.publish(&shared("blue,red:3", &ports))).unwrap().changed, "in whatever order");
    let other = input(w.verb(|i| i.publish(&shared("red,blue", &ports))).unwrap_err());
    assert!(matches!(other.1, Problem::PublishedTwice { .. }), "{other:?}");
    let twice = input(w.verb(|i| i.publish(&shared("red,red", &["1:1".parse().unwrap()]))).unwrap_err());
    assert_eq!(twice, ("POD".into(), Problem::BackendTwice("red".into())));
    let row = |w: &World| w.state().unwrap().publishes[2].clone();
    let (index, by) = (row(&w).index, [PublishRef::Spec(ports[0])]);
    let [red, blue] = ["red", "blue"].map(|name| w.first(name).slot);

    let drain = |w: &World, undo: bool, pod| w.verb(|i| i.drain(&by, !undo, pod));
    assert!(drain(&w, false, Some("red")).unwrap().changed);
    assert!(!drain(&w, false, Some("red")).unwrap().changed);
    assert_eq!((open(&w, index), row(&w).draining), (Some(vec![blue]), false));
    drain(&w, false, Some("blue")).unwrap();
    assert_eq!(open(&w, index), Some(vec![]));
    drain(&w, true, Some("red")).unwrap();
    assert_eq!(open(&w, index), Some(vec![red]));
    drain(&w, false, None).unwrap();
    assert_eq!(open(&w, index), Some(vec![]));
    drain(&w, true, None).unwrap();
    assert_eq!(open(&w, index), Some(vec![red, blue]), "all of it, and all its pods");
    assert!(matches!(drain(&w, false, Some("nobody")), Err(InstanceError::NoPod(_))));
    let not_its = [PublishRef::Spec("8080:80/tcp".parse().unwrap())];
    let error = w.verb(|i| i.drain(&not_its, true, Some("blue"))).unwrap_err();
    assert!(matches!(error, InstanceError::NotPublished { .. }), "{error}");

    let reset =
        input(w.verb(|i| i.unpublish("red", &ports, Unpublish { reset: true, ..Unpublish::default() })).unwrap_err());
    assert_eq!(reset, ("--reset".into(), Problem::ResetOfShared));
    let applied = w.verb(|i| i.unpublish("red", &ports, Unpublish::default())).unwrap();
    assert_eq!((applied.publishes_changed[0].pod.as_str(), applied.publishes_removed.len()), ("blue", 0));
    assert_eq!(open(&w, index), Some(vec![blue]));
    w.verb(|i| i.unpublish("blue", &ports, Unpublish { reset: true, ..Unpublish::default() })).unwrap();
    assert_eq!((open(&w, index), w.kernel.resets.get()), (None, 1));
}

#[test]
fn who_may_come_in_is_set_live() {
    let w = World::new();
    w.up(FILE).unwrap();
    let row = |w: &World| w.state().unwrap().publishes[0].clone();
    let by = [PublishRef::Id(row(&w).id)];
    let set = |allow: Option<Allow>, affinity| {
        let change = PublishChange { allow, affinity };
        w.verb(|i| i.set_publish(&by, &change)).unwrap().changed
    };
    let list = |words: &str| Allow::Only(words.split_whitespace().map(|p| Allow::prefix(p).unwrap()).collect());
    for (allow, changes) in [
        (list("10.0.0.0/8 ::1"), true),
        (list("::1 10.0.0.0/8"), false),
        (list(""), true),
        (Allow::Anyone, true),
        (Allow::Anyone, false),
    ] {
        assert_eq!(set(Some(allow.clone()), None), changes, "{allow}");
        assert!(row(&w).allow.is_like(&allow));
        assert!(w.kernel.backends.borrow()[&row(&w).index].1.is_like(&allow));
    }
    assert!(set(None, Some(Affinity::Client)) && !set(None, Some(Affinity::Client)));
    assert_eq!((row(&w).affinity, row(&w).phase), (Affinity::Client, Phase::Ready));
}

#[test]
fn a_change_by_a_file_killed_or_failed_at_any_step_is_carried_on() {
    let changed = shared_file()
        .replace("weight = 3", "weight = 9")
        .replace("{ pod = \"blue\" }", "{ pod = \"green\" }")
        .replace("allow = []", "allow = [\"::/0\"]")
        .replace("\"blue\"", "\"green\"");
    let document = crate::topology::parse(&changed).unwrap();
    for fault in [Fault::Refused, Fault::KilledBefore, Fault::KilledAfter] {
        for at in 0.. {
            let w = World::new();
            w.up(&shared_file()).unwrap();
            let done = w.faulty(at, fault, |i| i.up(&document));
            if matches!(done, Some(Ok(_))) {
                assert!(at > 4);
                break;
            }
            w.verb(|i| i.up(&document)).unwrap();
            let state = w.state().unwrap();
            let row = state.publishes.iter().find(|q| q.publish.to_string() == "443:8443/tcp").unwrap();
            let slots = [w.first("red").slot, w.first("green").slot];
            let leads = w.kernel.backends.borrow()[&row.index].clone();
            assert_eq!(leads, (slots.to_vec(), row.allow.clone()), "{fault:?} at {at}");
            assert_eq!((row.backends[0].weight, row.allow.to_string()), (9, "::/0".into()));
            w.verb(|i| i.down()).unwrap();
            w.assert_nothing_left();
        }
    }
}
