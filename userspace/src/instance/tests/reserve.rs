//! Published ports in the kernel's own range.

use super::model::{Fault, Model};
use super::{FILE, World, shared};
use crate::instance::{Applied, Instance, InstanceError, Unpublish};
use crate::topology::Publish;

fn ports(texts: &[&str]) -> Vec<Publish> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn publish(i: &mut Instance<Model>, texts: &[&str]) -> Result<Applied, InstanceError> {
    i.publish(&shared("red", &ports(texts)))
}

fn reserved(w: &World) -> String {
    w.kernel.reserved.borrow().to_string()
}

#[test]
fn they_are_reserved_while_somebody_publishes_them() {
    let w = World::new();
    w.up(FILE).unwrap();
    assert_eq!(reserved(&w), "20000-32767");
    w.verb(|i| publish(i, &["40000-40009:1000-1009", "40005:5/udp", "30000:1", "61000:2"])).unwrap();
    assert_eq!(reserved(&w), "20000-32767,40000-40009", "what is in neither range is nobody's to choose");
    assert_eq!(w.state().unwrap().instance.unwrap().reserved_ports.to_string(), reserved(&w));
    w.verb(|i| i.unpublish("red", &ports(&["40000-40009:1000-1009"]), Unpublish::default())).unwrap();
    assert_eq!(reserved(&w), "20000-32767,40005");
    w.verb(|i| i.unpublish("red", &ports(&["30000:1"]), Unpublish::default())).unwrap();
    assert_eq!(reserved(&w), "20000-32767,40005", "SNAT's stay");
    w.verb(|i| i.del("red")).unwrap();
    assert_eq!(reserved(&w), "20000-32767");
    w.verb(|i| i.down()).unwrap();
    w.assert_nothing_left();
}

#[test]
fn what_others_reserved_stays_theirs() {
    let w = World::new();
    w.kernel.reserved.replace("40000-40004".parse().unwrap());
    w.up(FILE).unwrap();
    w.verb(|i| publish(i, &["40003-40006:1-4"])).unwrap();
    assert_eq!(w.state().unwrap().instance.unwrap().reserved_ports.to_string(), "20000-32767,40005-40006");
    // They give it up: the next verb sees to it that the ports stay reserved.
    w.kernel.reserved.replace("20000-32767,40005-40006".parse().unwrap());
    w.verb(|i| i.refresh()).unwrap();
    assert_eq!(reserved(&w), "20000-32767,40003-40006");
    w.kernel.reserved.replace("20000-32767,40000-40006".parse().unwrap());
    w.verb(|i| i.down()).unwrap();
    assert_eq!(reserved(&w), "40000-40002");
}

#[test]
fn the_kernel_keeps_ports_to_choose_from() {
    let w = World::new();
    w.up(FILE).unwrap();
    w.verb(|i| publish(i, &["33000-60999:1000-28999"])).unwrap();
    assert_eq!(reserved(&w), "20000-32767");
    w.verb(|i| i.down()).unwrap();
    w.assert_nothing_left();
}

#[test]
fn a_kill_at_any_step_leaves_nothing_reserved_for_good() {
    for at in 0.. {
        let w = World::new();
        w.up(FILE).unwrap();
        let done = w.faulty(at, Fault::KilledAfter, |i| publish(i, &["40000:1"]));
        let killed = done.is_none();
        w.verb(|i| i.refresh()).unwrap();
        let published = w.state().unwrap().publishes.iter().any(|q| q.publish.host_ports.start() == 40_000);
        assert_eq!(reserved(&w).contains("40000"), published, "killed after step {at}");
        w.verb(|i| i.down()).unwrap();
        w.assert_nothing_left();
        if !killed {
            assert!(at > 2);
            return;
        }
    }
}
