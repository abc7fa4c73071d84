//! `netns publish add|move|drain|del|list`.

use clap::{Args, Subcommand};

use super::add::publishes;
use super::open::open;
use super::table::table;
use super::{CliError, Global, up};
use crate::instance::{InstanceError, PublishRef, PublishView, choose};
use crate::topology::{InputError, Problem, Publish};

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
    /// Send new connections to another pod, in one step; established TCP connections stay with the old one
    ///
    /// The next datagram of every UDP client goes to the new pod. A publish that was draining takes connections again.
    /// One that a topology file declares is sent back by `netns up` with that file.
    Move {
        /// The publish: its id in `publish list`, or its ports as they were published
        #[arg(value_name = "ID|PORTS")]
        publish: String,
        /// The pod it shall lead to
        #[arg(long, value_name = "POD")]
        to: String,
    },
    /// Take no new connections and no datagrams; established TCP connections go on
    Drain {
        /// Publishes: ids in `publish list`, or ports as they were published
        #[arg(required = true, value_name = "ID|PORTS")]
        publishes: Vec<String>,
        /// Take new connections again
        #[arg(long)]
        undo: bool,
    },
    /// Withdraw published ports; established TCP connections run on unless --reset is given
    #[command(alias = "delete")]
    Del {
        /// Which.
        #[command(flatten)]
        ports: Ports,
        /// End established TCP connections with a RST
        #[arg(long)]
        reset: bool,
    },
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
        PublishVerb::Move { publish, to } => {
            let publish = reference(publish)?;
            open(dirs)?.move_publish(&publish, to).await?
        }
        PublishVerb::Drain { publishes, undo } => {
            let publishes = publishes.iter().map(|p| reference(p)).collect::<Result<Vec<_>, _>>()?;
            open(dirs)?.drain(&publishes, !undo).await?
        }
        PublishVerb::Del { ports: asked, reset } => {
            let ports = publishes("--publish", &asked.ports)?;
            open(dirs)?.unpublish(&asked.pod, &ports, *reset).await?
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

/// A number is an id; everything else is what was published.
fn reference(text: &str) -> Result<PublishRef, InputError> {
    if let Ok(id) = text.parse() {
        return Ok(PublishRef::Id(id));
    }
    text.parse::<Publish>().map(PublishRef::Spec).map_err(|p| InputError::new("ID|PORTS", text, p))
}

fn list_text(views: &[PublishView]) -> String {
    let rows: Vec<_> = views
        .iter()
        .map(|v| {
            [
                v.id.to_string(),
                v.pod.clone(),
                v.proto.to_owned(),
                v.address.map_or_else(|| "any".to_owned(), |a| a.to_string()),
                v.host_ports.clone(),
                v.pod_ports.clone(),
                if v.draining { "draining" } else { "open" }.to_owned(),
            ]
        })
        .collect();
    let head = ["ID", "POD", "PROTO", "ADDRESS", "HOST PORTS", "POD PORTS", "STATE"];
    if rows.is_empty() { String::new() } else { table(head, &rows) }
}
