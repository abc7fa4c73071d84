//! The kernel side as it is: wiring, maps, namespaces and settings.

mod follow;
mod host;
mod identity;
mod many;
mod mend;
mod observe;
mod sweep;

use std::cell::RefCell;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use netns_ebpf_common::host::HostConfig;

use self::follow::with_settings;
use self::host::is_bpffs;
pub use self::identity::open_pod;
use self::identity::{attachment, is_pods, known, pod_spec};
use super::Dirs;
use super::difference::{Difference, Present, Repair};
use super::dirs::{BPFFS, STATE_ROOT, note_run_dir};
use super::platform::{Cause, HostPorts, Note, Numbered, Object, Op, Platform, PlatformError, Tried, Wreck};
use super::specs::{id16, network_spec, network_spec_of, publish_spec, publish_specs};
use crate::datapath::{Datapath, Sizes};
use crate::netns::{Netns, NetnsError, NetnsName, delete_named_if};
use crate::probe::{self, Listener};
use crate::store::{AttachmentRow, InstanceRow, PodRow, PublishRow, Row, Source, State, UplinkRow, Withdrawal};
use crate::sysctl::PortSet;
use crate::topology::HostFacts;
use crate::wiring::{Host, WiringError};

/// The kernel, seen from one host namespace.
#[derive(Debug)]
pub struct KernelPlatform {
    dirs: Dirs,
    host: Host,
    listeners: RefCell<[Option<Vec<Listener>>; 3]>,
    host_is_gone: bool,
}

impl KernelPlatform {
    /// The kernel side of the instance of these directories whose host is `netns`.
    ///
    /// # Errors
    ///
    /// No netlink socket can be opened there.
    pub fn new(dirs: &Dirs, netns: Netns) -> Result<Self, PlatformError> {
        // A data path is a directory of pins: nothing is there to be opened before the instance is up.
        let host = Host::new(dirs.name(), netns, Datapath::for_removal(dirs.pins())).tried(Op::Open, Object::Host)?;
        Ok(Self { dirs: dirs.clone(), host, listeners: RefCell::default(), host_is_gone: false })
    }

    /// The same for an instance whose host namespace is gone: what is elsewhere can be removed.
    ///
    /// # Errors
    ///
    /// No netlink socket can be opened in the calling thread's namespace, which is used for nothing else.
    pub fn without_host(dirs: &Dirs) -> Result<Self, PlatformError> {
        let here = Netns::current().tried(Op::Open, Object::Host)?;
        Ok(Self { host_is_gone: true, ..Self::new(dirs, here)? })
    }

    /// The compound steps and what is below them.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn is_loaded(&self) -> bool {
        Datapath::open(self.dirs.pins()).is_ok()
    }

    fn make_instance(&self, row: &InstanceRow, note: Note<'_>) -> Result<(), PlatformError> {
        let snat: PortSet = (row.host.snat_ports.start()..=row.host.snat_ports.end()).into();
        let reserved_ports = snat.difference(&self.read_ports()?.reserved);
        let row = InstanceRow { reserved_ports, ..row.clone() };
        // Written before they are reserved, so that a later `down` gives back exactly what was added.
        note(row.clone().into()).tried(Op::Make, Object::Ports)?;
        self.reserve_ports(&row.reserved_ports)?;
        // Pins that are there are those of an instance whose state was lost: its entries are nobody's.
        self.unload()?;
        self.load(&row)
    }

    fn load(&self, row: &InstanceRow) -> Result<(), PlatformError> {
        let _lock = self.root_lock()?;
        self.mount_bpffs()?;
        if let Some(root) = self.dirs.pins().parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(root);
            made.tried(Op::Make, Object::Datapath)?;
        }
        let datapath = Datapath::load(self.dirs.pins(), &Sizes::default()).tried(Op::Make, Object::Datapath)?;
        let features = probe::features().tried(Op::Check, Object::Host)?;
        let config = HostConfig {
            flags: if features.csum_ipv6 { HostConfig::CSUM_IPV6 } else { 0 } | self.host_takes_odd(),
            ..HostConfig::default()
        };
        let config = with_settings(config, row);
        datapath.set_host_config(&config).tried(Op::Make, Object::Datapath)?;
        if let Err(e) = self.host.wire_host_sockets() {
            tracing::warn!("processes of this host cannot reach published ports: {e}");
        }
        for UplinkRow { name, .. } in &row.uplinks {
            self.host.wire_uplink(name).tried(Op::Make, Object::Uplink(name.clone()))?;
        }
        Ok(())
    }

    fn unload(&self) -> Result<(), PlatformError> {
        let _lock = self.root_lock()?;
        if !is_bpffs(Path::new(BPFFS)) {
            // Unmounted by somebody, with everything in it: only the mark is left.
            return self.unmount_bpffs();
        }
        self.host.datapath().unload().tried(Op::Remove, Object::Datapath)?;
        if let Some(root) = self.dirs.pins().parent() {
            // Not empty: another instance is up.
            let _ = fs::remove_dir(root);
        }
        self.unmount_bpffs()
    }

    fn make_pod(&self, row: &PodRow, all: &State, note: Note<'_>) -> Result<(), PlatformError> {
        let fail = |source: Cause| {
            PlatformError::new(Op::Make, Object::Row(Row::from(row.clone()).id(), format!("{:?}", row.name)), source)
        };
        if row.source != Source::Made {
            let adopted = open_pod(&PodRow { netns: None, cookie: None, ..row.clone() }).map_err(|e| fail(e.into()))?;
            if adopted.is_same(self.host.netns()) {
                return Err(fail(Cause::Refused("that namespace is the host")));
            }
            let known = known(row, &adopted);
            if all.pods.iter().any(|p| p.id != row.id && p.netns == known.netns && p.cookie == known.cookie) {
                return Err(fail(Cause::Refused("that namespace is another pod's")));
            }
            return note(known.into()).map_err(|e| fail(e.into()));
        }
        let name = NetnsName::new(&row.name).map_err(|e| fail(NetnsError::from(e).into()))?;
        note_run_dir(Path::new(STATE_ROOT)).map_err(|e| fail(e.into()))?;
        let made = Netns::unnamed().map_err(|e| fail(e.into()))?;
        // Written before it has a name and can outlive this process: whoever undoes this knows it from any other of the name.
        note(known(row, &made).into()).map_err(|e| fail(e.into()))?;
        match made.attach(&name) {
            Ok(_) => Ok(()),
            Err(e) if e.is_exists() => Err(fail(Cause::Exists)),
            Err(e) => Err(fail(e.into())),
        }
    }

    fn wire(&self, row: &AttachmentRow, all: &State, how: Wire) -> Result<(), Cause> {
        let (netns, spec) = attachment(row, all)?;
        let network = all.network(row.network).ok_or(Cause::Refused("its network is gone"))?;
        let network = network_spec_of(row, network);
        match how {
            Wire::Change => self.host.change_pod(&network, &spec, &netns)?,
            Wire::New => self.host.wire_pod_at(&network, &spec, &netns, !all.shares_address(row))?,
            Wire::Again { anew } => self.host.mend_pod(&network, &spec, &netns, anew)?,
        }
        Ok(())
    }

    fn remove_one(&self, row: &Row, all: &State, whole: bool) -> Result<Option<String>, Cause> {
        let missing = |is_there: bool| (!is_there).then(|| Object::of(row, all).to_string());
        match row {
            Row::Instance(r) => {
                if self.is_loaded() && !self.host_is_gone {
                    for UplinkRow { ifindex, .. } in &r.uplinks {
                        self.host.unwire_uplink(*ifindex)?;
                    }
                }
                self.unload().map_err(|e| *e.source)?;
                if !self.host_is_gone {
                    self.release_ports(&r.reserved_ports).map_err(|e| *e.source)?;
                }
                Ok(None)
            }
            Row::Network(_) if self.host_is_gone => Ok(missing(false)),
            Row::Network(r) if self.is_loaded() => {
                self.host.unwire_gateway(id16(r.id))?;
                Ok(None)
            }
            Row::Network(r) => Ok(missing(self.host.delete_gateway_device(id16(r.id))?)),
            Row::Pod(r) if r.source != Source::Made => Ok(None),
            Row::Pod(r) => {
                // Without an identity it never got a name.
                let Some(id) = r.netns else { return Ok(None) };
                let name = NetnsName::new(&r.name).map_err(NetnsError::from)?;
                // A file that stands for none is what its maker left when he was killed, or who has unmounted it.
                let is_its = |netns: &Netns| netns.id() == id && is_pods(r, netns);
                let done = delete_named_if(&name, |found| found.is_none_or(is_its))?;
                Ok(missing(done || !whole))
            }
            Row::Attachment(_) if self.host_is_gone => Ok(missing(false)),
            Row::Attachment(r) => {
                self.leave_namespace(r, all);
                if self.is_loaded() && !whole {
                    self.host.unwire_pod(r.slot, r.id)?;
                    return Ok(None);
                }
                // Its flows and its entry go with the maps.
                Ok(missing(self.host.delete_cable(r.slot)?))
            }
            Row::Publish(r) => {
                match self.is_loaded().then(|| self.host.forget_publish(&publish_spec(r, all))) {
                    // It goes with the maps, of which some may have gone before.
                    Some(Err(e)) if whole => tracing::debug!("going on past: {e}"),
                    done => done.transpose().map(drop)?,
                }
                Ok(None)
            }
        }
    }

    /// Takes what is an interface's out of a namespace that stays. Best effort: it may be gone, or another by now.
    fn leave_namespace(&self, row: &AttachmentRow, all: &State) {
        let Some(pod) = all.pod_of(row.id) else { return };
        if pod.source == Source::Made && !pod.phase.is_live() {
            return;
        }
        let done = open_pod(pod).map_err(Cause::from).and_then(|netns| Ok(self.host.forget_ways(row.slot, &netns)?));
        if let Err(e) = done {
            tracing::debug!("what was put into pod {:?} is not taken out: {e}", pod.name);
        }
    }

    /// Lets go of what other rows of those that change may be about to get.
    fn leave(&self, row: &Row, all: &State) -> Result<(), Cause> {
        let Row::Attachment(r) = row else { return Ok(()) };
        match attachment(r, all) {
            Ok((_, spec)) => Ok(self.host.leave_addresses(id16(r.network), &spec)?),
            Err(_) => Ok(()),
        }
    }

    /// Brings what is live to what its row says.
    fn change(&self, row: &Row, all: &State) -> Result<(), Cause> {
        match row {
            Row::Instance(r) => Ok(self.change_instance(r).map_err(|e| *e.source)?),
            Row::Network(r) => Ok(self.host.change_gateway(&network_spec(r), &r.snat_left)?),
            Row::Attachment(r) => match self.wire(r, all, Wire::Change) {
                // Nothing is there to be changed; whoever mends it makes it as the row says then.
                Err(Cause::Netns(e))
                    if e.is_absent() || matches!(e, NetnsError::Another(_) | NetnsError::NotNetns { .. }) =>
                {
                    tracing::warn!("pod {:?} is changed when it is mended: {e}", all.pod_name(r.id));
                    Ok(())
                }
                // A pod's root may put anything in the way, and is to keep nobody else from anything.
                Err(Cause::Wiring(e @ WiringError::Taken { .. })) => {
                    tracing::warn!("pod {:?} is changed when it is mended: {e}", all.pod_name(r.id));
                    Ok(())
                }
                done => done,
            },
            Row::Pod(_) | Row::Publish(_) => self.remake(row, all, false),
        }
    }

    fn remake(&self, row: &Row, all: &State, anew: bool) -> Result<(), Cause> {
        match row {
            Row::Instance(_) | Row::Pod(_) => Ok(()),
            Row::Network(r) => Ok(self.host.mend_gateway(&network_spec(r), anew)?),
            Row::Attachment(r) => self.wire(r, all, Wire::Again { anew }),
            Row::Publish(r) => Ok(self.host.wire_publish(&publish_spec(r, all))?),
        }
    }
}

/// The slots of rows that are all interfaces of pods.
fn slots(rows: &[Row]) -> Option<Vec<u32>> {
    let slot = |row: &Row| if let Row::Attachment(a) = row { Some(a.slot) } else { None };
    rows.iter().map(slot).collect()
}

/// How an interface is wired.
#[derive(Clone, Copy)]
enum Wire {
    New,
    Change,
    Again { anew: bool },
}

impl Platform for KernelPlatform {
    fn check(&self) -> Result<(), PlatformError> {
        probe::privileges().tried(Op::Check, Object::Host)?;
        probe::features().map(|_| ()).tried(Op::Check, Object::Host)
    }

    fn host_id(&self) -> Option<String> {
        let id = self.host.netns().id();
        (!self.host_is_gone).then(|| format!("{}:{}", id.dev, id.ino))
    }

    fn leave_host(&mut self) {
        self.host_is_gone = true;
    }

    fn facts(&self, all: &State, routes: bool) -> Result<HostFacts, PlatformError> {
        self.listeners.take();
        self.read_facts(all, routes)
    }

    fn ports(&self) -> Result<HostPorts, PlatformError> {
        self.read_ports()
    }

    fn reserve(&self, ports: &PortSet) -> Result<(), PlatformError> {
        self.reserve_ports(ports)
    }

    fn release(&self, ports: &PortSet) -> Result<(), PlatformError> {
        self.release_ports(ports)
    }

    fn open(&mut self) -> Result<(), PlatformError> {
        Datapath::open(self.dirs.pins()).map(|_| ()).tried(Op::Open, Object::Datapath)
    }

    fn make(&mut self, row: &Row, all: &State, note: Note<'_>) -> Result<(), PlatformError> {
        let tried =
            |done: Result<(), Cause>| done.map_err(|source| PlatformError::new(Op::Make, Object::of(row, all), source));
        match row {
            Row::Instance(r) => self.make_instance(r, note),
            Row::Network(r) => tried(self.host.wire_gateway(&network_spec(r)).map_err(Into::into)),
            Row::Pod(r) => self.make_pod(r, all, note),
            Row::Attachment(r) => tried(self.wire(r, all, Wire::New)),
            Row::Publish(r) => {
                if r.publish.is_loopback() && !self.host.datapath().has_socket_hooks() {
                    tracing::warn!("{} is reached by nobody: it takes the socket hooks, which are off", r.publish);
                }
                tried(self.host.wire_publish(&publish_spec(r, all)).map_err(Into::into))
            }
        }
    }

    fn make_all(&mut self, rows: &[Row], all: &State, note: Note<'_>) -> Result<(), PlatformError> {
        let pods: Vec<&PodRow> = rows.iter().filter_map(|r| if let Row::Pod(p) = r { Some(p) } else { None }).collect();
        let attachments: Vec<&AttachmentRow> =
            rows.iter().filter_map(|r| if let Row::Attachment(a) = r { Some(a) } else { None }).collect();
        match rows {
            [_, _, ..] if pods.len() == rows.len() => self.make_pods(&pods, all, note),
            [_, _, ..] if attachments.len() == rows.len() => self.wire_all(&attachments, all),
            rows => rows.iter().try_for_each(|row| self.make(row, all, note)),
        }
    }

    fn update(&mut self, rows: &[Row], all: &State) -> Result<(), PlatformError> {
        let publishes = publishes(rows);
        if let Some(first) = rows.first().filter(|_| !publishes.is_empty()) {
            let done = self.host.switch_publishes(&publish_specs(&publishes, all), netns_of(all));
            return done.tried(Op::Change, of_several(first, rows, all));
        }
        for row in rows {
            self.leave(row, all).map_err(|source| PlatformError::new(Op::Change, Object::of(row, all), source))?;
        }
        for row in rows {
            self.change(row, all).map_err(|source| PlatformError::new(Op::Change, Object::of(row, all), source))?;
        }
        Ok(())
    }

    fn remove(&mut self, rows: &[Row], all: &State, whole: bool) -> Result<Vec<String>, PlatformError> {
        let publishes = publishes(rows);
        if let Some((row, first)) = rows.first().zip(publishes.first())
            && !whole
        {
            if !self.is_loaded() {
                return Ok(Vec::new());
            }
            let specs = publish_specs(&publishes, all);
            let ended = match first.withdrawal {
                Withdrawal::RunOn => Ok(()),
                Withdrawal::Reset => self.host.reset_publishes(&specs, netns_of(all)),
            };
            let done = ended.and_then(|()| self.host.unwire_publishes(&specs));
            return done.map(|_| Vec::new()).tried(Op::Remove, of_several(row, rows, all));
        }
        let mut missing = Vec::new();
        if let Some((first, slots)) = rows.first().zip(slots(rows))
            && whole
            && !self.host_is_gone
        {
            // Their flows and their entries go with the maps.
            let found = self.host.delete_cables(&slots).tried(Op::Remove, of_several(first, rows, all))?;
            let gone = rows.iter().zip(found).filter(|(_, found)| !found);
            return Ok(gone.map(|(row, _)| Object::of(row, all).to_string()).collect());
        }
        for row in rows {
            let done = self.remove_one(row, all, whole);
            let failed = |source| PlatformError::new(Op::Remove, Object::of(row, all), source);
            missing.extend(done.map_err(failed)?);
        }
        Ok(missing)
    }

    fn wreck(&self) -> Result<Wreck, PlatformError> {
        self.recognised()
    }

    fn sweep(&mut self) -> Result<Option<Vec<String>>, PlatformError> {
        self.sweep_recognised()
    }

    fn refresh(&mut self, all: &State) -> Result<Vec<Row>, PlatformError> {
        let Some(row) = &all.instance else { return Ok(Vec::new()) };
        // First: no flow takes an address any more whose flows are about to end.
        self.refresh_networks(&all.networks)?;
        let uplinks = self.refresh_host(row)?;
        if uplinks == row.uplinks { Ok(Vec::new()) } else { Ok(vec![InstanceRow { uplinks, ..row.clone() }.into()]) }
    }

    fn expire_flows(&self, limit: usize) -> Result<usize, PlatformError> {
        let datapath = self.host.datapath();
        if limit < usize::MAX {
            return datapath.expire_some_flows(limit).tried(Op::Remove, Object::Flows);
        }
        datapath.sweep_resting().tried(Op::Remove, Object::Flows)?;
        datapath.expire_flows(limit).tried(Op::Remove, Object::Flows)
    }

    fn rests(&self, number: Numbered) -> bool {
        let datapath = self.host.datapath();
        let found = match number {
            Numbered::Slot(slot) => datapath.endpoint_rests(slot),
            Numbered::Publish(id) => datapath.publish_rests(id),
        };
        // Before the data path is loaded, nothing rests.
        found.unwrap_or(false)
    }

    fn observe(&self, all: &State) -> Result<Present, PlatformError> {
        self.look(all)
    }

    fn mend(&mut self, difference: &Difference, all: &State, note: Note<'_>) -> Result<(), PlatformError> {
        let Some(row) = all.row(difference.row) else { return Ok(()) };
        match difference.trouble.repair() {
            Ok(Repair::Refresh) => Ok(()),
            Ok(repair) => self.mend_with(repair, &row, all, note),
            Err(why) => Err(PlatformError::new(Op::Mend, Object::of(&row, all), Cause::Refused(why))),
        }
    }
}

fn publishes(rows: &[Row]) -> Vec<PublishRow> {
    rows.iter().filter_map(|row| if let Row::Publish(q) = row { Some(q.clone()) } else { None }).collect()
}

/// Several rows, as a message names them.
fn of_several(first: &Row, rows: &[Row], all: &State) -> Object {
    match (Object::of(first, all), rows.len()) {
        (Object::Row(id, name), more @ 2..) => Object::Row(id, format!("{name} and {} more", more - 1)),
        (object, _) => object,
    }
}

/// Finds the namespace of the pod in a slot.
fn netns_of(all: &State) -> impl Fn(u32) -> Option<Netns> {
    move |slot| open_pod(all.pod_of(all.attachments.iter().find(|a| a.slot == slot)?.id)?).ok()
}
