//! Many pods at once.

use std::path::Path;

use super::super::dirs::{STATE_ROOT, note_run_dir};
use super::super::platform::{Cause, Note, Object, Op, PlatformError, Tried};
use super::super::specs::network_spec_of;
use super::{KernelPlatform, attachment, known};
use crate::netns::{Netns, NetnsError, NetnsName};
use crate::parallel::for_all;
use crate::store::{AttachmentRow, PodRow, Row, Source, State};

/// Namespaces that are open at once: a shell gives its programs 1024 open files.
const MOST_OPEN: usize = 64;

impl KernelPlatform {
    /// Makes the namespaces of pods, each of which is written down before it has its name.
    pub(super) fn make_pods(&self, rows: &[&PodRow], all: &State, note: Note<'_>) -> Result<(), PlatformError> {
        for rows in rows.chunks(MOST_OPEN) {
            note_run_dir(Path::new(STATE_ROOT)).tried(Op::Make, Object::Host)?;
            let new: Vec<&PodRow> = rows.iter().copied().filter(|row| row.source == Source::Made).collect();
            let made = for_all(&new, |row| Netns::unnamed().map_err(|e| failed(row, e)))?;
            for (row, netns) in new.iter().zip(&made) {
                note(known(row, netns).into()).map_err(|e| failed(row, e))?;
            }
            let named: Vec<_> = new.into_iter().zip(made).collect();
            for (row, netns) in &named {
                let name = NetnsName::new(&row.name).map_err(|e| failed(row, NetnsError::from(e)))?;
                match netns.attach(&name) {
                    Ok(_) => {}
                    Err(e) if e.is_exists() => return Err(failed(row, Cause::Exists)),
                    Err(e) => return Err(failed(row, e)),
                }
            }
            for row in rows.iter().filter(|row| row.source != Source::Made) {
                self.make_pod(row, all, note)?;
            }
        }
        Ok(())
    }

    /// Connects pods to their networks.
    pub(super) fn wire_all(&self, rows: &[&AttachmentRow], all: &State) -> Result<(), PlatformError> {
        let host = &self.host;
        let wire = |row: &&AttachmentRow| -> Result<(), Cause> {
            let (netns, spec) = attachment(row, all)?;
            let network = all.network(row.network).ok_or(Cause::Refused("its network is gone"))?;
            Ok(host.wire_pod_at(&network_spec_of(row, network), &spec, &netns, !all.shares_address(row))?)
        };
        let tried = |row: &&AttachmentRow| {
            wire(row).map_err(|e| PlatformError::new(Op::Make, Object::of(&Row::from((*row).clone()), all), e))
        };
        for_all(rows, tried).map(drop)
    }
}

fn failed(row: &PodRow, source: impl Into<Cause>) -> PlatformError {
    let row = Row::from(row.clone());
    PlatformError::new(Op::Make, Object::of(&row, &State::default()), source)
}
