//! What mends a difference.

use std::cell::RefCell;
use std::collections::HashMap;

use super::super::difference::Repair;
use super::super::platform::{Cause, Note, Object, Op, PlatformError, Tried};
use super::{KernelPlatform, Wire, is_pods};
use crate::netns::{Netns, NetnsError, NetnsId, NetnsName, delete_named_if, names_of, pids_by_namespace};
use crate::store::{Change, PodRow, Row, Source, State};

impl KernelPlatform {
    pub(super) fn mend_with(
        &self,
        repair: Repair,
        row: &Row,
        all: &State,
        note: Note<'_>,
    ) -> Result<(), PlatformError> {
        let fail = |source: Cause| PlatformError::new(Op::Mend, Object::of(row, all), source);
        let anew = matches!(repair, Repair::Anew | Repair::Pod);
        match (repair, row) {
            (Repair::All, _) => {
                let Some(instance) = &all.instance else { return Ok(()) };
                self.unload()?;
                self.load(instance)?;
                for row in all.rows().filter(|r| r.phase().is_live() && !matches!(r, Row::Instance(_))) {
                    self.remake(&row, all, false).map_err(fail)?;
                }
                Ok(())
            }
            (Repair::Pins, _) if self.host.restore_pins().tried(Op::Mend, Object::Datapath)? => Ok(()),
            // What they stood for is gone as well.
            (Repair::Pins, _) => self.mend_with(Repair::All, row, all, note),
            (Repair::Name, Row::Pod(pod)) => self.name_again(pod).map_err(fail),
            (Repair::Pod, Row::Pod(pod)) if pod.source != Source::Made => {
                Err(fail(Cause::Refused("it is somebody else's; `netns del` the pod, or have it made there again")))
            }
            (Repair::Pod, Row::Pod(pod)) => {
                let of_pod: Vec<_> = all.attachments_of(pod.id).cloned().collect();
                for row in &of_pod {
                    // One whose namespace lives on without its name, by a process in it, holds the pod's addresses.
                    self.host.delete_cable(row.slot).map_err(|e| fail(e.into()))?;
                }
                leave_no_file(pod).map_err(fail)?;
                let mut made = all.clone();
                let changed = RefCell::new(None);
                self.make_pod(pod, all, &mut |row| {
                    *changed.borrow_mut() = Some(row.clone());
                    note(row)
                })?;
                made.apply(&changed.take().map(Change::Put).into_iter().collect::<Vec<_>>());
                of_pod.iter().try_for_each(|row| self.wire(row, &made, Wire::Again { anew: true })).map_err(fail)
            }
            (Repair::Uplink, Row::Instance(r)) => self.take_on_uplinks(r, note),
            (_, Row::Instance(_)) => self.host.wire_host_sockets().map_err(|e| fail(e.into())),
            (_, row) => self.remake(row, all, anew).map_err(fail),
        }
    }

    /// Gives a pod's namespace that lives on its name again.
    fn name_again(&self, pod: &PodRow) -> Result<(), Cause> {
        leave_no_file(pod)?;
        let netns = Nameless::default().find(pod)?.ok_or(Cause::Refused("its namespace has ended meanwhile"))?;
        netns.attach(&NetnsName::new(&pod.name).map_err(NetnsError::from)?)?;
        Ok(())
    }
}

/// Removes the file that is left of a pod's name when that was unmounted. One that stands for a namespace stays.
fn leave_no_file(pod: &PodRow) -> Result<(), Cause> {
    if pod.source == Source::Made {
        delete_named_if(&NetnsName::new(&pod.name).map_err(NetnsError::from)?, |found| found.is_none())?;
    }
    Ok(())
}

/// Looks for namespaces that have lost their names. The kernel tells of none that nobody is in; whoever asks for several reads the
/// list of processes once.
#[derive(Default)]
pub(super) struct Nameless(RefCell<Option<HashMap<NetnsId, Vec<i32>>>>);

impl Nameless {
    /// The namespace a pod had, as long as a process is in it or another name stands for it.
    pub(super) fn find(&self, pod: &PodRow) -> Result<Option<Netns>, NetnsError> {
        let Some(id) = pod.netns.filter(|_| pod.source == Source::Made) else { return Ok(None) };
        let mut known = self.0.borrow_mut();
        if known.is_none() {
            *known = Some(pids_by_namespace()?);
        }
        let pids = known.as_ref().and_then(|known| known.get(&id)).into_iter().flatten();
        let of_processes = pids.filter_map(|pid| Netns::of_pid(*pid).ok());
        let of_names = names_of(id)?.into_iter().filter_map(|name| Netns::open_named(&name).ok());
        // By its cookie: the number may be another's by now.
        Ok(of_processes.chain(of_names).find(|netns| is_pods(pod, netns)))
    }
}
