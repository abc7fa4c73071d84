//! What goes goes last, what is somebody else's stays, and what was lost is made again.

use super::model::{Fault, Model};
use super::{FILE, World};
use crate::instance::{Cause, Instance, InstanceError, Op, PlatformError};
use crate::netns::NetnsId;
use crate::store::Phase;
use crate::topology::parse;

/// [`FILE`] with blue gone, and another pod with its address and its port.
fn renamed() -> (String, String) {
    let blue = FILE.replace(
        "name = \"blue\"\nnetwork = \"pods\"",
        "name = \"blue\"\nnetwork = \"pods\"\naddress = [\"10.244.0.20\", \"fd00:244::20\"]\npublish = [\"7000:70\"]",
    );
    let azul = blue.replace("\"blue\"", "\"azul\"");
    assert!(azul != blue);
    (blue, azul)
}

#[test]
fn an_up_that_fails_has_deleted_nothing() {
    let (blue, azul) = renamed();
    let document = parse(&azul).unwrap();
    let mut refused = 0;
    for at in 0.. {
        let w = World::new();
        w.up(&blue).unwrap();
        let (kernel, rows) = (w.kernel.seen(), w.state());
        let done = w.faulty(at, Fault::Refused, |i| i.up(&document)).unwrap();
        let removing = w
            .kernel
            .refused
            .take()
            .is_some_and(|step| step.starts_with("remove") || step.starts_with("give") || step == "switch");
        match done {
            Ok(_) => break,
            // From the first removal on, what is to go goes: it is carried on at once.
            Err(e) if removing => assert!(!matches!(e, InstanceError::Input(_)), "{e}"),
            Err(_) if w.state().unwrap().pod("azul").is_none() => {
                refused += 1;
                assert_eq!(w.kernel.seen(), kernel, "step {at}");
                assert_eq!(w.state().unwrap().attachments, rows.unwrap().attachments, "step {at}");
            }
            Err(_) => {}
        }
        w.up(&azul).unwrap();
        let state = w.state().unwrap();
        assert!(state.pod("blue").is_none() && state.rows().all(|r| r.phase() == Phase::Ready));
        w.verb(|i| i.down()).unwrap();
        w.assert_nothing_left();
    }
    assert_eq!(refused, 3, "namespace, interface, host");
}

#[test]
fn an_address_and_a_port_pass_from_a_pod_that_goes_to_one_that_comes() {
    let (blue, azul) = renamed();
    for fault in [None, Some(Fault::KilledBefore), Some(Fault::KilledAfter)] {
        for at in 0.. {
            let w = World::new();
            w.up(&blue).unwrap();
            let document = parse(&azul).unwrap();
            let killed = fault.is_some_and(|fault| w.faulty(at, fault, |i| i.up(&document)).is_none());
            w.up(&azul).unwrap();
            let row = w.first("azul");
            for address in row.addresses() {
                let slot = w.kernel.addresses.borrow().get(&(row.network, address)).copied();
                assert_eq!(slot, Some(row.slot), "{fault:?} at {at}");
            }
            let state = w.state().unwrap();
            let publish = state.publishes.iter().find(|q| q.publish.to_string() == "7000:70/tcp").unwrap();
            assert_eq!(w.kernel.backends.borrow()[&publish.index].0, [row.slot]);
            w.verb(|i| i.down()).unwrap();
            w.assert_nothing_left();
            if !killed {
                break;
            }
        }
    }
}

#[test]
fn ports_that_overlap_those_that_go_are_published_whoever_is_killed() {
    let wider = FILE.replace("5000-5003:5000-5003/udp", "5000-5007:5000-5007/udp");
    let ports =
        |w: &World| -> Vec<String> { w.state().unwrap().publishes.iter().map(|q| q.publish.to_string()).collect() };
    let document = parse(&wider).unwrap();
    for fault in [Fault::KilledBefore, Fault::KilledAfter] {
        for at in 0.. {
            let w = World::new();
            w.up(FILE).unwrap();
            let old = ports(&w);
            let killed = w.faulty(at, fault, |i| i.up(&document)).is_none();
            w.verb(|i| i.repair(None)).unwrap();
            let state = w.state().unwrap();
            assert!(state.rows().all(|r| r.phase() == Phase::Ready), "{fault:?} at {at}");
            let new = ["8080:80/tcp", "5000-5007:5000-5007/udp"];
            assert!(ports(&w) == old || ports(&w) == new, "{fault:?} at {at}: {:?}", ports(&w));
            assert_eq!(w.kernel.backends.borrow().len(), 2, "{fault:?} at {at}");
            w.verb(|i| i.down()).unwrap();
            w.assert_nothing_left();
            if !killed {
                break;
            }
        }
    }
}

#[test]
fn down_needs_neither_the_data_path_nor_an_earlier_undo() {
    let w = World::new();
    w.up(FILE).unwrap();
    w.kernel.objects.borrow_mut().remove("pins");
    // A verb that cannot work leaves nothing half-done.
    let rows = w.state();
    let error = w.verb(|i| i.del("red")).unwrap_err();
    assert!(matches!(&error, InstanceError::Platform(PlatformError { op: Op::Open, .. })), "{error}");
    assert_eq!((w.state(), error.exit_status()), (rows, 1));
    assert!(w.verb(|i| i.down()).unwrap().changed);
    w.assert_nothing_left();
    // With rows that a killed verb left, as well.
    for at in 0.. {
        let w = World::new();
        w.up(FILE).unwrap();
        let killed = w.faulty(at, Fault::KilledBefore, |i| i.del("red")).is_none();
        w.kernel.objects.borrow_mut().remove("pins");
        w.verb(|i| i.down()).unwrap();
        w.assert_nothing_left();
        if !killed {
            break;
        }
    }
}

#[test]
fn a_namespace_of_a_pods_name_that_is_another_stays() {
    let w = World::new();
    w.up(FILE).unwrap();
    let theirs = NetnsId { dev: 4, ino: 7 };
    w.kernel.ids.borrow_mut().insert("red".into(), theirs);
    for verb in ["repair", "up", "del", "down"] {
        match verb {
            "repair" => {
                let repaired = w.verb(|i| i.repair(None)).unwrap();
                assert_eq!((repaired.mended.len(), repaired.not_mended.len()), (0, 1), "{repaired:?}");
            }
            "up" => drop(w.up(FILE).unwrap()),
            "del" => drop(w.verb(|i| i.del("red")).unwrap()),
            _ => drop(w.verb(|i| i.down()).unwrap()),
        }
        assert_eq!(w.kernel.ids.borrow().get("red"), Some(&theirs), "{verb}");
        assert!(w.kernel.seen().contains("netns red"), "{verb}");
    }
}

#[test]
fn what_was_lost_is_named_and_made_again() {
    for mend in [
        |i: &mut Instance<Model>| i.repair(None).map(|r| r.changed),
        |i: &mut Instance<Model>| i.up(&parse(FILE).unwrap()).map(|a| a.changed),
    ] {
        for lost in ["network 1", "netns red", "attachment 0"] {
            let w = World::new();
            w.up(FILE).unwrap();
            let kernel = w.kernel.seen();
            assert!(w.verb(|i| i.differences()).unwrap().is_empty());
            w.kernel.objects.borrow_mut().remove(lost);
            assert_eq!(w.verb(|i| i.differences()).unwrap().len(), 1, "{lost}");
            assert!(w.verb(mend).unwrap(), "{lost}");
            assert_eq!(w.kernel.seen(), kernel, "{lost}");
            assert!(w.verb(|i| i.differences()).unwrap().is_empty(), "{lost}");
            assert!(!w.verb(mend).unwrap(), "{lost}");
        }
    }
}

#[test]
fn an_instance_of_another_host_namespace_is_refused_and_left_alone() {
    let w = World::new();
    w.up(FILE).unwrap();
    let before = (w.kernel.seen(), w.state());
    w.kernel.host_id.set(9);
    for error in [
        w.verb(|i| i.down()).unwrap_err(),
        w.verb(|i| i.del("red")).unwrap_err(),
        w.verb(|i| i.refresh()).unwrap_err(),
        w.up(FILE).unwrap_err(),
    ] {
        assert!(matches!(error, InstanceError::Elsewhere { .. }), "{error}");
        assert_eq!((error.exit_status(), error.kind()), (2, "elsewhere"));
    }
    w.kernel.host_id.set(0);
    assert_eq!((w.kernel.seen(), w.state()), before);
}

#[test]
fn errors_keep_their_type_and_say_what_to_do() {
    let w = World::new();
    w.kernel.objects.borrow_mut().insert("pins".into());
    match w.up(FILE).unwrap_err() {
        InstanceError::Platform(e) if matches!(*e.source, Cause::Exists) => {
            assert_eq!((e.kind(), e.hint().is_some()), ("exists", true));
        }
        other => panic!("{other}"),
    }
    let absent = w.verb(|i| i.del("nobody")).unwrap_err();
    assert_eq!((absent.kind(), absent.hint().is_some()), ("not-up", true));
}
