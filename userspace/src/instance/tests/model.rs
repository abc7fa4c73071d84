//! The kernel as a set of names, every change of which can be made to fail or to kill its caller.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::panic;
use std::rc::Rc;

use crate::instance::difference::{Difference, Present};
use crate::instance::platform::{Cause, HostPorts, Note, Object, Op, Platform, PlatformError, Wreck};
use crate::netns::NetnsId;
use crate::store::{AttachmentRow, InstanceRow, PodRow, PublishRow, Row, State, UplinkRow, Withdrawal};
use crate::sysctl::PortSet;
use crate::topology::{Allow, HostFacts, HostRoute, Interface, PortProbe, Proto};
use crate::wiring::gateway_ifindex;

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
    /// Which namespace a name stands for; one made by somebody else is not here.
    pub(super) ids: RefCell<BTreeMap<String, NetnsId>>,
    /// Slots of interfaces by network and address.
    pub(super) addresses: RefCell<BTreeMap<(u32, IpAddr), u32>>,
    pub(super) reserved: RefCell<PortSet>,
    pub(super) steps: Cell<usize>,
    pub(super) no_uplink: Cell<bool>,
    pub(super) host_id: Cell<u32>,
    /// Times the host's routes were read.
    pub(super) routes_read: Cell<usize>,
    /// What live networks were changed to.
    pub(super) settings: RefCell<BTreeMap<String, String>>,
    /// Times a publish was removed with its connections.
    pub(super) resets: Cell<usize>,
    /// Slots of the backends that take new flows, and who may come in, by index of a publish.
    pub(super) backends: RefCell<BTreeMap<u32, (Vec<u32>, Allow)>>,
    pub(super) fault: Cell<Option<(usize, Fault)>>,
    /// The step that was refused.
    pub(super) refused: RefCell<Option<String>>,
}

impl Kernel {
    fn step(&self, name: &str, effect: impl FnOnce() -> Result<(), PlatformError>) -> Result<(), PlatformError> {
        let n = self.steps.get();
        self.steps.set(n + 1);
        let fault = self.fault.get().filter(|(at, _)| *at == n).map(|(_, f)| f);
        match fault {
            Some(Fault::Refused) => {
                self.refused.replace(Some(name.to_owned()));
                return Err(PlatformError::new(
                    Op::Change,
                    Object::Uplink(name.to_owned()),
                    Cause::Refused("refused by the test"),
                ));
            }
            Some(Fault::KilledBefore) => panic::panic_any("killed"),
            _ => {}
        }
        let done = effect();
        if fault == Some(Fault::KilledAfter) {
            panic::panic_any("killed");
        }
        done
    }

    fn add(&self, name: &str) -> Result<(), PlatformError> {
        self.step(&format!("add {name}"), || {
            if self.objects.borrow_mut().insert(name.to_owned()) {
                Ok(())
            } else {
                Err(PlatformError::new(Op::Make, Object::Uplink(name.to_owned()), Cause::Exists))
            }
        })
    }

    fn remove(&self, name: &str) -> Result<(), PlatformError> {
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

impl Platform for Model {
    fn check(&self) -> Result<(), PlatformError> {
        Ok(())
    }

    fn host_id(&self) -> Option<String> {
        Some(self.0.host_id.get().to_string())
    }

    fn leave_host(&mut self) {}

    fn facts(&self, _: &State, routes: bool) -> Result<HostFacts, PlatformError> {
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
                unfit: None,
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

    fn ports(&self) -> Result<HostPorts, PlatformError> {
        Ok(HostPorts { local: set("32768-60999"), reserved: self.0.reserved.borrow().clone() })
    }

    fn reserve(&self, ports: &PortSet) -> Result<(), PlatformError> {
        self.0.step("reserve", || {
            let with = self.0.reserved.borrow().union(ports);
            self.0.reserved.replace(with);
            Ok(())
        })
    }

    fn release(&self, ports: &PortSet) -> Result<(), PlatformError> {
        self.0.step("release", || {
            let without = self.0.reserved.borrow().difference(ports);
            self.0.reserved.replace(without);
            Ok(())
        })
    }

    fn open(&mut self) -> Result<(), PlatformError> {
        let loaded = self.0.objects.borrow().contains("pins");
        if loaded {
            Ok(())
        } else {
            Err(PlatformError::new(Op::Open, Object::Datapath, Cause::Refused("nothing is loaded")))
        }
    }

    fn make(&mut self, row: &Row, all: &State, note: Note<'_>) -> Result<(), PlatformError> {
        match row {
            Row::Instance(r) => {
                let snat = set(&r.host.snat_ports.to_string());
                let reserved_ports = snat.difference(&self.0.reserved.borrow());
                note(InstanceRow { reserved_ports: reserved_ports.clone(), ..r.clone() }.into()).unwrap();
                self.reserve(&reserved_ports)?;
                self.0.add("pins")?;
                r.uplinks.iter().try_for_each(|uplink| self.0.add(&format!("uplink {}", uplink.name)))
            }
            Row::Network(r) => self.0.add(&format!("network {}", r.id)),
            Row::Pod(r) => {
                let id = NetnsId { dev: 4, ino: 1000 + r.id };
                note(PodRow { netns: Some(id), ..r.clone() }.into()).unwrap();
                self.0.step("name a namespace", || {
                    if !self.0.objects.borrow_mut().insert(format!("netns {}", r.name)) {
                        return Err(PlatformError::new(Op::Make, Object::Host, Cause::Exists));
                    }
                    self.0.ids.borrow_mut().insert(r.name.clone(), id);
                    Ok(())
                })
            }
            Row::Attachment(r) => {
                let pod = &all.pod_of(r.id).expect("a pod").name;
                for needed in [format!("network {}", r.network), format!("netns {pod}")] {
                    assert!(self.0.objects.borrow().contains(&needed), "an interface before {needed}");
                }
                self.0.add(&format!("attachment {}", r.slot))?;
                self.give_addresses(r, all);
                Ok(())
            }
            Row::Publish(r) => {
                self.0.add(&format!("publish {}", r.index))?;
                self.0.backends.borrow_mut().insert(r.index, self.leads(r, all));
                Ok(())
            }
        }
    }

    fn update(&mut self, rows: &[Row], all: &State) -> Result<(), PlatformError> {
        for row in rows {
            if let Row::Attachment(r) = row {
                self.0.addresses.borrow_mut().retain(|_, slot| *slot != r.slot);
            }
        }
        for row in rows {
            match row {
                Row::Publish(r) => {
                    let live = self.0.objects.borrow().contains(&format!("publish {}", r.index));
                    assert!(live, "a switch of what is not published");
                    let leads = self.leads(r, all);
                    self.0.step("switch", || {
                        self.0.backends.borrow_mut().insert(r.index, leads);
                        Ok(())
                    })?;
                }
                Row::Attachment(r) => {
                    self.0.step("give addresses", || Ok(()))?;
                    self.give_addresses(r, all);
                }
                Row::Network(r) => {
                    let settings = format!("{:?} {}", r.network, r.mtu_bytes);
                    self.0.step("change network", || {
                        self.0.settings.borrow_mut().insert(row.id().to_string(), settings);
                        Ok(())
                    })?;
                }
                Row::Instance(r) => {
                    let uplinks = r.uplinks.iter().map(|u| format!("uplink {}", u.name)).collect::<BTreeSet<_>>();
                    self.0.step("change instance", || {
                        let mut objects = self.0.objects.borrow_mut();
                        objects.retain(|o| !o.starts_with("uplink "));
                        objects.extend(uplinks);
                        Ok(())
                    })?;
                }
                row @ Row::Pod(_) => panic!("nothing of {} changes", row.id()),
            }
        }
        Ok(())
    }

    fn remove(&mut self, rows: &[Row], all: &State, whole: bool) -> Result<Vec<String>, PlatformError> {
        for row in rows {
            assert!(!all.rows().any(|r| r.phase().is_live() && all.is_needed(row.id()) && needs(&r, row)), "needed");
            match row {
                Row::Instance(r) => {
                    r.uplinks.iter().try_for_each(|uplink| self.0.remove(&format!("uplink {}", uplink.name)))?;
                    self.0.remove("pins")?;
                    self.release(&r.reserved_ports)?;
                }
                Row::Network(r) => self.0.remove(&format!("network {}", r.id))?,
                Row::Pod(r) => {
                    // By identity: another one of the name is somebody else's.
                    if r.netns.is_some() && self.0.ids.borrow().get(&r.name).copied() == r.netns {
                        self.0.step("remove a name", || {
                            self.0.objects.borrow_mut().remove(&format!("netns {}", r.name));
                            self.0.ids.borrow_mut().remove(&r.name);
                            Ok(())
                        })?;
                    }
                }
                Row::Attachment(r) => {
                    self.0.remove(&format!("attachment {}", r.slot))?;
                    self.0.addresses.borrow_mut().retain(|_, slot| *slot != r.slot);
                }
                Row::Publish(r) => {
                    if r.withdrawal == Withdrawal::Reset && !whole {
                        self.0.step("reset", || {
                            self.0.resets.set(self.0.resets.get() + 1);
                            Ok(())
                        })?;
                    }
                    self.0.remove(&format!("publish {}", r.index))?;
                    self.0.backends.borrow_mut().remove(&r.index);
                }
            }
        }
        Ok(Vec::new())
    }

    fn wreck(&self) -> Result<Wreck, PlatformError> {
        Ok(Wreck::default())
    }

    fn sweep(&mut self) -> Result<Option<Vec<String>>, PlatformError> {
        Ok(None)
    }

    fn refresh(&mut self, _: &State) -> Result<Vec<Row>, PlatformError> {
        self.0.step("refresh", || Ok(())).map(|()| Vec::new())
    }

    fn expire_flows(&self, _: usize) -> Result<usize, PlatformError> {
        Ok(0)
    }

    fn observe(&self, all: &State) -> Result<Present, PlatformError> {
        let there = |what: String| self.0.objects.borrow().contains(&what);
        let mut present = Present::wanted("test", all);
        present.loaded = there("pins".into());
        if let Some(found) = &mut present.default_uplinks
            && !self.0.no_uplink.get()
        {
            found.insert("eth7".into(), 7);
        }
        present.reserved = self.0.reserved.borrow().clone();
        let uplinks: Vec<(&str, u32)> = present.uplinks.values().map(|index| ("from_uplink", *index)).collect();
        present.attached.extend(uplinks);
        for row in &all.networks {
            if !there(format!("network {}", row.id)) {
                present.devices.remove(&gateway_ifindex(row.id as u16));
            }
        }
        for row in &all.pods {
            match self.0.ids.borrow().get(&row.name) {
                Some(id) if there(format!("netns {}", row.name)) => drop(present.namespaces.insert(row.id, *id)),
                _ => drop(present.namespaces.remove(&row.id)),
            }
        }
        for row in &all.attachments {
            if !there(format!("attachment {}", row.slot)) {
                present.devices.remove(&row.ifindex);
            }
        }
        Ok(present)
    }

    fn mend(&mut self, difference: &Difference, all: &State, note: Note<'_>) -> Result<(), PlatformError> {
        let row = all.row(difference.row).expect("a row");
        if let Row::Instance(r) = &row {
            let uplinks = vec![UplinkRow { name: "eth7".into(), ifindex: 7 }];
            note(InstanceRow { uplinks, ..r.clone() }.into()).unwrap();
            self.0.objects.borrow_mut().insert("uplink eth7".into());
            return Ok(());
        }
        let mut rows = vec![row.clone()];
        if let Row::Pod(pod) = &row {
            rows.extend(all.attachments_of(pod.id).cloned().map(Row::from));
        }
        for row in rows {
            if let Row::Attachment(r) = &row {
                self.0.remove(&format!("attachment {}", r.slot))?;
                self.0.addresses.borrow_mut().retain(|_, slot| *slot != r.slot);
            }
            self.make(&row, all, note)?;
        }
        Ok(())
    }
}

/// Whether a row refers to another.
fn needs(row: &Row, other: &Row) -> bool {
    match (row, other) {
        (Row::Publish(q), Row::Attachment(a)) => q.leads_to(a.id),
        (Row::Attachment(a), Row::Pod(p)) => a.pod == p.id,
        (Row::Attachment(a), Row::Network(n)) => a.network == n.id,
        _ => false,
    }
}

impl Model {
    /// An interface gets those of its addresses that no other one has.
    fn give_addresses(&self, row: &AttachmentRow, all: &State) {
        let mut addresses = self.0.addresses.borrow_mut();
        for address in row.addresses().filter(|_| !all.shares_address(row)) {
            let before = addresses.insert((row.network, address), row.slot);
            assert!(before.is_none_or(|slot| slot == row.slot), "an address twice");
        }
    }

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
