//! Which namespace is a pod's.

use std::io;

use super::super::platform::Cause;
use crate::netns::{Netns, NetnsError, NetnsName};
use crate::store::{AttachmentRow, PodRow, Source, State};
use crate::wiring::PodSpec;

/// What the wiring is to know of an attachment.
pub(super) fn pod_spec(row: &AttachmentRow, pod: &PodRow, all: &State) -> Result<PodSpec, Cause> {
    Ok(PodSpec {
        owner: row.id,
        slot: row.slot,
        netns: NetnsName::new(&pod.name).map_err(NetnsError::from)?,
        addr4: row.addr4,
        addr6: row.addr6,
        ifname: row.ifname.clone(),
        mac: row.mac,
        rank: row.rank,
        has_others: all.has_others(row),
        is_adopted: pod.source != Source::Made,
    })
}

/// Opens a pod's namespace, if it is the pod's: one of its name that is another is not.
///
/// # Errors
///
/// It is gone, or [`NetnsError::Another`].
pub fn open_pod(pod: &PodRow) -> Result<Netns, NetnsError> {
    let name = NetnsName::new(&pod.name)?;
    let netns = match &pod.source {
        Source::Made | Source::Named => Netns::open_named(&name)?,
        Source::Path(path) => Netns::open_path(path).map_err(|e| match e {
            NetnsError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                NetnsError::Absent(name.clone())
            }
            e => e,
        })?,
        Source::Pid(pid) => Netns::of_pid(*pid)?,
    };
    if is_pods(pod, &netns) { Ok(netns) } else { Err(NetnsError::Another(name)) }
}

/// Whether a namespace is the one the pod was given, as far as that was recorded.
pub fn is_pods(pod: &PodRow, netns: &Netns) -> bool {
    pod.netns.is_none_or(|id| id == netns.id()) && pod.cookie.is_none_or(|cookie| netns.cookie().ok() == Some(cookie))
}

/// The namespace of an attachment's pod, which must be the pod's own, and what the wiring is to know.
pub(super) fn attachment(row: &AttachmentRow, all: &State) -> Result<(Netns, PodSpec), Cause> {
    let pod = all.pod_of(row.id).ok_or(Cause::Refused("its pod is gone"))?;
    Ok((open_pod(pod)?, pod_spec(row, pod, all)?))
}

/// The row with what a namespace is known by.
pub(super) fn known(row: &PodRow, netns: &Netns) -> PodRow {
    PodRow { netns: Some(netns.id()), cookie: netns.cookie().ok(), ..row.clone() }
}
