//! Publishes that are changed while they are live.

use super::model::{Fault, Model};
use super::{FILE, World, input};
use crate::instance::{Instance, InstanceError, PublishRef};
use crate::store::PublishRow;
use crate::topology::Problem;

#[test]
fn publishes_are_moved_and_drained_in_place() {
    let w = World::new();
    w.up(FILE).unwrap();
    let row = |w: &World| w.state().unwrap().publishes[0].clone();
    let before = row(&w);
    let (blue, red) = (w.state().unwrap().pod("blue").unwrap().clone(), w.state().unwrap().pod("red").unwrap().clone());
    let backend = |w: &World| w.kernel.backends.borrow().get(&before.index).copied();
    let by_spec = PublishRef::Spec(before.publish);
    let applied = w.verb(async |i| i.move_publish(&by_spec, "blue").await).unwrap();
    assert_eq!((applied.changed, applied.publishes_changed[0].pod.as_str()), (true, "blue"));
    assert_eq!(row(&w), PublishRow { pod: blue.id, ..before.clone() });
    assert_eq!(backend(&w), Some((blue.slot, false)));
    assert!(!w.verb(async |i| i.move_publish(&by_spec, "blue").await).unwrap().changed, "repeating it changes nothing");

    let by_id = [PublishRef::Id(before.id), by_spec];
    assert_eq!(w.verb(async |i| i.drain(&by_id, true).await).unwrap().publishes_changed.len(), 1);
    assert_eq!((row(&w).draining, backend(&w)), (true, Some((blue.slot, true))));
    assert!(!w.verb(async |i| i.drain(&by_id, true).await).unwrap().changed);
    // Moving ends the draining; the pod it had left may go.
    w.verb(async |i| i.move_publish(&by_id[0], "red").await).unwrap();
    assert_eq!((row(&w), backend(&w)), (before, Some((red.slot, false))));
    w.verb(async |i| i.del("blue").await).unwrap();

    let nothing = PublishRef::Id(4711);
    assert!(matches!(w.verb(async |i| i.drain(&[nothing], true).await), Err(InstanceError::NoPublish(_))));
    assert!(matches!(w.verb(async |i| i.move_publish(&nothing, "red").await), Err(InstanceError::NoPublish(_))));
    let nobody = input(w.verb(async |i| i.move_publish(&by_spec, "nobody").await).unwrap_err());
    assert_eq!(nobody, ("--to".into(), Problem::UnknownPod));
    w.verb(async |i| i.down().await).unwrap();
    w.assert_nothing_left();
}

#[test]
fn a_move_killed_or_failed_at_any_step_is_finished_by_the_next_verb() {
    for fault in [Fault::Refused, Fault::KilledBefore, Fault::KilledAfter] {
        for at in 0.. {
            let w = World::new();
            w.up(FILE).unwrap();
            let publish = w.state().unwrap().publishes[0].clone();
            let blue = w.state().unwrap().pod("blue").unwrap().clone();
            let moved = async |i: &mut Instance<Model>| i.move_publish(&PublishRef::Id(publish.id), "blue").await;
            if matches!(w.faulty(at, fault, moved), Some(Ok(_))) {
                assert!(at > 0);
                break;
            }
            w.verb(async |i| i.refresh().await).unwrap();
            assert_eq!(w.kernel.backends.borrow().get(&publish.index), Some(&(blue.slot, false)), "{fault:?} at {at}");
            assert_eq!(w.state().unwrap().publishes[0], PublishRow { pod: blue.id, ..publish });
        }
    }
}

#[test]
fn a_reset_killed_at_any_step_still_resets() {
    for at in 0.. {
        let w = World::new();
        w.up(FILE).unwrap();
        let ports = [w.state().unwrap().publishes[0].publish];
        let withdrawn = w.faulty(at, Fault::KilledBefore, async |i| i.unpublish("red", &ports, true).await);
        w.kernel.resets.set(0);
        if withdrawn.is_some() {
            assert!(at > 1);
            return;
        }
        w.verb(async |i| i.refresh().await).unwrap();
        assert_eq!(w.state().unwrap().publishes.len(), 1);
        // Killed before the RSTs or between them and the rest, they are sent by the next; after both nothing is left to do.
        assert!(at > 1 || w.kernel.resets.get() == 1, "killed before step {at}");
    }
}
