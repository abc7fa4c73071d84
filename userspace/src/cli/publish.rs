//! `netns publish add|del|list`.

use clap::{Args, Subcommand};

use super::add::publishes;
use super::open::open;
use super::table::table;
use super::{CliError, Global, up};
use crate::instance::{InstanceError, PublishView, choose};
use crate::topology::{InputError, Problem};

/// Arguments of `publish`.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: PublishVerb,
}

/// What to do with published ports.
#[derive(Debug, Subcommand)]
pub enum PublishVerb {
    /// Publish ports of a live pod
    Add(Ports),
    /// Withdraw published ports, and end the connections that came in by them
    #[command(alias = "delete")]
    Del(Ports),
    /// List published ports
    #[command(alias = "ls")]
    List {
        /// Of this pod only
        pod: Option<String>,
    },
}

/// A pod and its ports.
#[derive(Debug, Args)]
pub struct Ports {
    /// The pod
    pub pod: String,
    /// `[ADDRESS:]HOSTPORT[-END]:PODPORT[-END][/tcp|udp]`; IPv6 addresses in brackets
    #[arg(required = true, value_name = "PORTS")]
    pub ports: Vec<String>,
}

pub(super) async fn run(global: &Global, args: &PublishArgs) -> Result<u8, CliError> {
    let dirs = choose(global.instance.as_deref())?;
    let applied = match &args.verb {
        PublishVerb::Add(asked) => {
            let ports = publishes("--publish", &asked.ports)?;
            open(dirs)?.publish(&asked.pod, &ports).await?
        }
        PublishVerb::Del(asked) => {
            let ports = publishes("--publish", &asked.ports)?;
            open(dirs)?.unpublish(&asked.pod, &ports).await?
        }
        PublishVerb::List { pod } => {
            let name = dirs.name().to_owned();
            let state = open(dirs)?.state()?.ok_or(InstanceError::NotUp(name))?;
            if let Some(pod) = pod
                && state.pod(pod).is_none()
            {
                return Err(InputError::new("POD", pod, Problem::UnknownPod).into());
            }
            let mut views = state.publish_views();
            views.retain(|v| pod.as_ref().is_none_or(|p| *p == v.pod));
            global.print(&views, |v| list_text(v))?;
            return Ok(0);
        }
    };
    global.print(&applied, up::text)?;
    Ok(0)
}

fn list_text(views: &[PublishView]) -> String {
    let rows: Vec<_> = views
        .iter()
        .map(|v| {
            [
                v.pod.clone(),
                v.proto.to_owned(),
                v.address.map_or_else(|| "any".to_owned(), |a| a.to_string()),
                v.host_ports.clone(),
                v.pod_ports.clone(),
            ]
        })
        .collect();
    if rows.is_empty() { String::new() } else { table(["POD", "PROTO", "ADDRESS", "HOST PORTS", "POD PORTS"], &rows) }
}
