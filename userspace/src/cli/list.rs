//! `netns list`.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::table::{list, networks_of, table};
use super::{CliError, Global, nsid};
use crate::instance::{AttachmentView, Dirs, PodView, STATE_ROOT, is_hidden, open_pod};
use crate::netlink::Nsid;
use crate::netns::{Netns, list_named};
use crate::probe;
use crate::store::Store;
use crate::topology::Adopt;

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {}

/// A network namespace: a pod of an instance, or a bare one.
#[derive(Debug, Serialize)]
struct Entry {
    /// Name.
    name: String,
    /// Whether the namespace is there: false for a pod that lost it.
    present: bool,
    /// Whether it is a pod.
    kind: Kind,
    /// Its id in the namespace the command runs in.
    nsid: Option<Nsid>,
    /// The instance it is a pod of.
    instance: Option<String>,
    /// Whether that has its devices in the network namespace the command runs in.
    here: Option<bool>,
    /// The pod.
    #[serde(flatten)]
    pod: Option<PodFields>,
}

/// What a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Pod,
    Bare,
    /// The caller may not see which instances there are.
    Unknown,
}

#[derive(Debug, Serialize)]
struct PodFields {
    network: String,
    addresses: Vec<std::net::IpAddr>,
    slot: u32,
    /// Its interfaces, the first one first.
    attachments: Vec<AttachmentView>,
    /// Whose namespace it is, of one that was not made for it.
    adopted: Option<Adopt>,
    publish: Vec<String>,
}

pub(super) fn run(global: &Global, _: &ListArgs) -> Result<u8, CliError> {
    let names: Vec<String> = list_named()?.iter().map(|n| n.as_str().to_owned()).collect();
    let mut entries = Vec::new();
    let wanted = global.instance.as_deref();
    let current = Netns::current()?.id();
    let current = format!("{}:{}", current.dev, current.ino);
    let hidden = is_hidden(Path::new(STATE_ROOT));
    if hidden {
        if wanted.is_some() {
            probe::privileges()?;
        }
        tracing::warn!("which of these are pods cannot be seen: only root reads {STATE_ROOT}; run as root");
    }
    for instance in crate::instance::list(Path::new(STATE_ROOT)) {
        if wanted.is_some_and(|w| w != instance) {
            continue;
        }
        let state = match Dirs::new(&instance)?.open().and_then(|s| Ok(s.map(|s| s.load()).transpose()?)) {
            Ok(Some(state)) => state,
            Ok(None) => continue,
            // The namespaces are there all the same, and the other instances as well.
            Err(e) => {
                tracing::warn!("{e}");
                continue;
            }
        };
        let host = state.instance.as_ref().map(|row| (row.host_netns.clone(), row.host_id.clone()));
        let (host_netns, host_id) = host.unwrap_or_default();
        let is_here = host_id.is_empty() || host_id == current;
        if !is_here && host_netns.is_none() {
            tracing::warn!("instance {instance:?} is in network namespace {host_id}, not in this one ({current})");
        }
        for PodView { name, network, addresses, slot, attachments, adopted, publish, .. } in state.pod_views() {
            // Another namespace of that name is not the pod's.
            let present = state.pod(&name).is_some_and(|pod| open_pod(pod).is_ok());
            let pod = Some(PodFields { network, addresses, slot, attachments, adopted, publish });
            let nsid = nsid::of_name(&name);
            entries.push(Entry {
                name,
                present,
                kind: Kind::Pod,
                nsid,
                instance: Some(instance.clone()),
                here: Some(is_here),
                pod,
            });
        }
    }
    if wanted.is_none() {
        let bare: Vec<_> = names.iter().filter(|n| !entries.iter().any(|e| e.name == **n)).cloned().collect();
        let kind = if hidden { Kind::Unknown } else { Kind::Bare };
        let entry = |name: String| {
            let nsid = nsid::of_name(&name);
            Entry { name, present: true, kind, nsid, instance: None, here: None, pod: None }
        };
        entries.extend(bare.into_iter().map(entry));
    }
    global.print(&entries, |entries| {
        let rows: Vec<_> = entries
            .iter()
            .map(|e| match &e.pod {
                Some(p) => [
                    e.name.clone(),
                    match e.here {
                        Some(false) => format!("{} (elsewhere)", e.instance.as_deref().unwrap_or_default()),
                        _ => e.instance.clone().unwrap_or_default(),
                    },
                    networks_of(&p.attachments),
                    list(&p.addresses),
                    list(&p.publish),
                ],
                None => {
                    let mark = if e.kind == Kind::Unknown { "?" } else { "-" };
                    [&e.name, mark, mark, mark, mark].map(str::to_owned)
                }
            })
            .collect();
        if rows.is_empty() {
            String::new()
        } else {
            table(["NAME", "INSTANCE", "NETWORK", "ADDRESS", "PUBLISH"], &rows)
        }
    })?;
    Ok(0)
}
