//! `netns list`.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::table::{list, table};
use super::{CliError, Global};
use crate::instance::{Dirs, PodView, STATE_ROOT};
use crate::netns::list_named;
use crate::store::Store;

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
    /// The instance it is a pod of.
    instance: Option<String>,
    /// The pod.
    #[serde(flatten)]
    pod: Option<PodFields>,
}

#[derive(Debug, Serialize)]
struct PodFields {
    network: String,
    addresses: Vec<std::net::IpAddr>,
    slot: u32,
    publish: Vec<String>,
}

pub(super) fn run(global: &Global, _: &ListArgs) -> Result<u8, CliError> {
    let names: Vec<String> = list_named()?.iter().map(|n| n.as_str().to_owned()).collect();
    let mut entries = Vec::new();
    let wanted = global.instance.as_deref();
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
        for PodView { name, network, addresses, slot, publish, .. } in state.pod_views() {
            let present = names.contains(&name);
            let pod = Some(PodFields { network, addresses, slot, publish });
            entries.push(Entry { name, present, instance: Some(instance.clone()), pod });
        }
    }
    if wanted.is_none() {
        let bare: Vec<_> = names.iter().filter(|n| !entries.iter().any(|e| e.name == **n)).cloned().collect();
        entries.extend(bare.into_iter().map(|name| Entry { name, present: true, instance: None, pod: None }));
    }
    global.print(&entries, |entries| {
        let rows: Vec<_> = entries
            .iter()
            .map(|e| match &e.pod {
                Some(p) => [
                    e.name.clone(),
                    e.instance.clone().unwrap_or_default(),
                    p.network.clone(),
                    list(&p.addresses),
                    list(&p.publish),
                ],
                None => [e.name.clone(), "-".into(), "-".into(), "-".into(), "-".into()],
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
