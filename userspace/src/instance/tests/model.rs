//! The kernel as a set of names, every change of which can be made to fail or to kill its caller.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::panic;
use std::rc::Rc;

use crate::instance::{Ending, Fabric, FabricError};
use crate::netns::NetnsId;
use crate::store::{AttachmentRow, InstanceRow, NetworkRow, PodRow, PublishRow, State, UplinkRow};
use crate::sysctl::PortSet;
use crate::topology::{Allow, HostFacts, HostRoute, Interface, PortProbe, Proto};

/// What becomes of the step that is counted down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It fails, without an effect.
    Refused,
    /// The process is killed before it.
    KilledBefore,
    /// The process is killed after it.
    KilledAfter,
}

/// The kernel as a set of names of what is in it.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) objects: RefCell<BTreeSet<String>>,
    pub(super) reserved: RefCell<PortSet>,
    pub(super) steps: Cell<usize>,
    pub(super) no_uplink: Cell<bool>,
    pub(super) host_id: Cell<u32>,
    /// Times the host's routes were read.
    pub(super) routes_read: Cell<usize>,
    /// Times a publish was removed with its connections.
    pub(super) resets: Cell<usize>,
    /// Slots of the backends that take new flows, and who may come in, by index of a publish.
    pub(super) backends: RefCell<BTreeMap<u32, (Vec<u32>, Allow)>>,
    pub(super) fault: Cell<Option<(usize, Fault)>>,
}

impl Kernel {
    fn step(&self, name: &str, effect: impl FnOnce() -> Result<(), FabricError>) -> Result<(), FabricError> {
        let n = self.steps.get();
        self.steps.set(n + 1);
        let fault = self.fault.get().filter(|(at, _)| *at == n).map(|(_, f)| f);
        match fault {
            Some(Fault::Refused) => return Err(FabricError::step(name, "refused by the test")),
            Some(Fault::KilledBefore) => panic::panic_any("killed"),
            _ => {}
        }
        let done = effect();
        if fault == Some(Fault::KilledAfter) {
            panic::panic_any("killed");
        }
        done
    }

    fn add(&self, name: &str) -> Result<(), FabricError> {
        self.step(&format!("add {name}"), || {
            if self.objects.borrow_mut().insert(name.to_owned()) {
                Ok(())
            } else {
                Err(FabricError::Exists(name.to_owned()))
            }
        })
    }

    fn remove(&self, name: &str) -> Result<(), FabricError> {
        self.step(&format!("remove {name}"), || {
            self.objects.borrow_mut().remove(name);
            Ok(())
        })
    }

    pub(super) fn seen(&self) -> BTreeSet<String> {
        let reserved =
            self.reserved.borrow().ranges().map(|r| format!("{}-{}", r.start(), r.end())).collect::<Vec<_>>();
        self.objects.borrow().iter().cloned().chain(reserved).collect()
    }
}

/// A namespace somebody makes after the facts were read.
pub(super) const UNSEEN: &str = "late";

#[derive(Debug, Clone)]
pub(super) struct Model(pub(super) Rc<Kernel>);

impl PortProbe for Model {
    fn is_bound(&self, _: Proto, _: IpAddr, port: u16) -> bool {
        port == 22
    }
}

fn set(ports: &str) -> PortSet {
    ports.parse().expect("ports")
}

impl Fabric for Model {
    fn check(&self) -> Result<(), FabricError> {
        Ok(())
    }

    fn host_id(&self) -> String {
        self.0.host_id.get().to_string()
    }

    fn facts(&self, _: &State, routes: bool) -> Result<HostFacts, FabricError> {
        self.0.routes_read.update(|n| n + usize::from(routes));
        let net = |s: &str| s.parse().unwrap();
        let seen = |o: &String| o.strip_prefix("netns ").filter(|n| *n != UNSEEN).map(str::to_owned);
        let namespaces: Vec<String> = self.0.objects.borrow().iter().filter_map(seen).collect();
        Ok(HostFacts {
            interfaces: vec![Interface {
                index: 7,
                name: "eth7".into(),
                mtu: 1400,
                addresses: vec![net("192.0.2.1/24")],
            }],
            routes: [("0.0.0.0/0", 7), ("172.16.0.0/12", 7)]
                .into_iter()
                .filter(|_| routes)
                .map(|(to, ifindex)| HostRoute { destination: net(to), ifindex, ours: false })
                .collect(),
            default_uplinks: if self.0.no_uplink.get() || !routes { vec![] } else { vec!["eth7".into()] },
            namespaces,
            ours: vec![],
        })
    }

    fn local_ports(&self) -> Result<String, FabricError> {
        Ok("32768-60999".to_owned())
    }

    fn unreserved(&self, ports: &str) -> Result<String, FabricError> {
        Ok(set(ports).difference(&self.0.reserved.borrow()).to_string())
    }

    fn reserve(&self, ports: &str) -> Result<(), FabricError> {
        self.0.step("reserve", || {
            let with = self.0.reserved.borrow().union(&set(ports));
            self.0.reserved.replace(with);
            Ok(())
        })
    }

    fn release(&self, ports: &str) -> Result<(), FabricError> {
        self.0.step("release", || {
            let without = self.0.reserved.borrow().difference(&set(ports));
            self.0.reserved.replace(without);
            Ok(())
        })
    }

    fn load(&mut self, _: &InstanceRow) -> Result<(), FabricError> {
        self.0.add("pins")
    }

    fn open(&mut self) -> Result<(), FabricError> {
        let loaded = self.0.objects.borrow().contains("pins");
        if loaded { Ok(()) } else { Err(FabricError::step("open", "nothing is loaded")) }
    }

    fn unload(&mut self) -> Result<(), FabricError> {
        self.0.remove("pins")
    }

    fn add_uplinks(&mut self, row: &InstanceRow) -> Result<(), FabricError> {
        row.uplinks.iter().try_for_each(|uplink| self.0.add(&format!("uplink {}", uplink.name)))
    }

    fn remove_uplinks(&mut self, row: &InstanceRow) -> Result<(), FabricError> {
        row.uplinks.iter().try_for_each(|uplink| self.0.remove(&format!("uplink {}", uplink.name)))
    }

    fn refresh(&mut self, row: &InstanceRow) -> Result<Vec<UplinkRow>, FabricError> {
        self.0.step("refresh", || Ok(())).map(|()| row.uplinks.clone())
    }

    fn refresh_networks(&mut self, _: &[NetworkRow]) -> Result<(), FabricError> {
        self.0.step("refresh networks", || Ok(()))
    }

    fn expire_flows(&self, _: usize) -> Result<usize, FabricError> {
        Ok(0)
    }

    fn add_network(&mut self, row: &NetworkRow) -> Result<(), FabricError> {
        self.0.add(&format!("network {}", row.id))
    }

    fn remove_network(&mut self, row: &NetworkRow) -> Result<(), FabricError> {
        self.0.remove(&format!("network {}", row.id))
    }

    fn add_netns(&mut self, pod: &PodRow) -> Result<NetnsId, FabricError> {
        self.0.add(&format!("netns {}", pod.name))?;
        Ok(NetnsId { dev: 4, ino: 1000 + pod.id })
    }

    fn remove_netns(&mut self, pod: &PodRow) -> Result<(), FabricError> {
        self.0.remove(&format!("netns {}", pod.name))
    }

    fn add_attachment(&mut self, row: &AttachmentRow, all: &State) -> Result<(), FabricError> {
        let pod = &all.pod_of(row.id).expect("a pod").name;
        for needed in [format!("network {}", row.network), format!("netns {pod}")] {
            assert!(self.0.objects.borrow().contains(&needed), "an interface before {needed}");
        }
        self.0.add(&format!("attachment {}", row.slot))
    }

    fn remove_attachment(&mut self, row: &AttachmentRow, _: &State) -> Result<(), FabricError> {
        self.0.remove(&format!("attachment {}", row.slot))
    }

    fn add_publish(&mut self, row: &PublishRow, all: &State) -> Result<(), FabricError> {
        self.0.add(&format!("publish {}", row.index))?;
        self.0.backends.borrow_mut().insert(row.index, self.leads(row, all));
        Ok(())
    }

    fn switch_publishes(&mut self, rows: &[PublishRow], all: &State) -> Result<(), FabricError> {
        for row in rows {
            let live = self.0.objects.borrow().contains(&format!("publish {}", row.index));
            assert!(live, "a switch of what is not published");
            let leads = self.leads(row, all);
            self.0.step("switch", || {
                self.0.backends.borrow_mut().insert(row.index, leads);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn remove_publishes(&mut self, rows: &[PublishRow], ending: Ending, _: &State) -> Result<(), FabricError> {
        for row in rows {
            if ending == Ending::Reset {
                self.0.step("reset", || {
                    self.0.resets.set(self.0.resets.get() + 1);
                    Ok(())
                })?;
            }
            self.0.remove(&format!("publish {}", row.index))?;
            self.0.backends.borrow_mut().remove(&row.index);
        }
        Ok(())
    }
}

impl Model {
    /// Where a publish leads, all of whose pods must be there.
    fn leads(&self, row: &PublishRow, all: &State) -> (Vec<u32>, Allow) {
        let slot = |id| all.attachment(id).expect("an attachment").slot;
        for backend in &row.backends {
            let there = self.0.objects.borrow().contains(&format!("attachment {}", slot(backend.attachment)));
            assert!(there, "a publish before its pod, or after it");
        }
        let open = row.backends.iter().filter(|b| !b.draining && !row.draining);
        (open.map(|b| slot(b.attachment)).collect(), row.allow.clone())
    }
}
