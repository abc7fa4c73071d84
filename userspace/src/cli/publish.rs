//! `netns publish add|move|drain|del|list`.

use clap::{ArgGroup, Args, Subcommand};

use super::open::open;
use super::table::table;
use super::{CliError, Global, up};
use crate::instance::{InstanceError, PublishChange, PublishRef, PublishView, Unpublish};
use crate::topology::{Allow, Backend, InputError, Problem, Publish, SharedPublish};

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
    /// Publish ports of live pods
    ///
    /// New connections are spread over several pods in proportion to their weights, 1 to 100.
    Add {
        /// Which.
        #[command(flatten)]
        ports: Ports,
        /// Who may come in, and what keeps a client with one pod.
        #[command(flatten)]
        clients: Clients,
    },
    /// Change who may come in, or what keeps a client with one pod
    ///
    /// Flows of clients that may not come in any more end, TCP connections with a RST. What a topology file declares is
    /// changed back by `netns up` with that file.
    #[command(group = ArgGroup::new("change").required(true).multiple(true).args(["allow", "affinity"]))]
    Set {
        /// Publishes: ids in `publish list`, or ports as they were published
        #[arg(required = true, value_name = "ID|PORTS")]
        publishes: Vec<String>,
        /// What.
        #[command(flatten)]
        clients: Clients,
    },
    /// Send new connections to other pods, in one step; established TCP connections stay with the old ones
    ///
    /// The next datagram of every UDP client goes to one of the new pods. A publish that was draining takes connections
    /// again. One that a topology file declares is sent back by `netns up` with that file.
    Move {
        /// The publish: its id in `publish list`, or its ports as they were published
        #[arg(value_name = "ID|PORTS")]
        publish: String,
        /// The pods it shall lead to, instead of those it has
        #[arg(long, value_name = "POD[:WEIGHT],...")]
        to: String,
    },
    /// Take no new connections and no datagrams; established TCP connections go on
    Drain {
        /// Publishes: ids in `publish list`, or ports as they were published
        #[arg(required = true, value_name = "ID|PORTS")]
        publishes: Vec<String>,
        /// Only one of their pods: the others get what is new, and all it has goes on
        #[arg(long, value_name = "POD")]
        backend: Option<String>,
        /// Take new connections again
        #[arg(long)]
        undo: bool,
    },
    /// Withdraw published ports of a pod; established TCP connections run on unless --reset is given
    ///
    /// A publish with other pods goes on with those.
    #[command(alias = "delete")]
    Del {
        /// The pod
        pod: String,
        /// Ports as they were published
        #[arg(required = true, value_name = "PORTS")]
        ports: Vec<String>,
        /// End established TCP connections with a RST
        #[arg(long)]
        reset: bool,
        /// That the pod or one of the ports is not there is all right
        #[arg(long)]
        if_exists: bool,
    },
    /// List published ports
    #[command(alias = "ls")]
    List {
        /// Of this pod only
        pod: Option<String>,
    },
}

/// Pods and their ports.
#[derive(Debug, Args)]
pub struct Ports {
    /// The pods, with commas between
    #[arg(value_name = "POD[:WEIGHT],...")]
    pub pods: String,
    /// `[ADDRESS:]HOSTPORT[-END]:PODPORT[-END][/tcp|udp|sctp]`; IPv6 addresses in brackets
    #[arg(required = true, value_name = "PORTS")]
    pub ports: Vec<String>,
}

/// Who may come in, and where they go.
#[derive(Debug, Args)]
pub struct Clients {
    /// A prefix clients may come from, instead of any; may be given several times. "none" lets nobody in
    #[arg(long, value_name = "CIDR|any|none")]
    pub allow: Vec<String>,
    /// "client" sends all connections of a client to the same pod; "none" spreads them, as for a publish that says nothing
    #[arg(long, value_name = "none|client")]
    pub affinity: Option<String>,
}

impl Clients {
    fn change(&self) -> Result<PublishChange, InputError> {
        let allow = Allow::from_flags(&self.allow).map_err(|(value, p)| InputError::new("--allow", value, p))?;
        let affinity = |text: &String| text.parse().map_err(|p| InputError::new("--affinity", text, p));
        Ok(PublishChange { allow, affinity: self.affinity.as_ref().map(affinity).transpose()? })
    }
}

pub(super) fn run(global: &Global, args: &PublishArgs) -> Result<u8, CliError> {
    let dirs = global.dirs("publish")?;
    let applied = match &args.verb {
        PublishVerb::Add { ports: asked, clients } => {
            let backends = backends("POD", &asked.pods)?;
            let PublishChange { allow, affinity } = clients.change()?;
            let publish = |port| SharedPublish {
                port,
                backends: backends.clone(),
                affinity: affinity.unwrap_or_default(),
                allow: allow.clone().unwrap_or_default(),
            };
            let publishes: Vec<_> = publishes("PORTS", &asked.ports)?.into_iter().map(publish).collect();
            open(dirs)?.publish(&publishes)?
        }
        PublishVerb::Set { publishes, clients } => {
            let change = clients.change()?;
            open(dirs)?.set_publish(&references(publishes)?, &change)?
        }
        PublishVerb::Move { publish, to } => {
            let (publish, to) = (reference(publish)?, backends("--to", to)?);
            open(dirs)?.move_publish(&publish, &to)?
        }
        PublishVerb::Drain { publishes, backend, undo } => {
            open(dirs)?.drain(&references(publishes)?, !undo, backend.as_deref())?
        }
        PublishVerb::Del { pod, ports, reset, if_exists } => {
            let ports = publishes("PORTS", ports)?;
            open(dirs)?.unpublish(pod, &ports, Unpublish { reset: *reset, if_exists: *if_exists })?
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
            views.retain(|v| pod.as_ref().is_none_or(|p| v.backends.iter().any(|b| b.backend.pod == *p)));
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

fn references(texts: &[String]) -> Result<Vec<PublishRef>, InputError> {
    texts.iter().map(|t| reference(t)).collect()
}

fn backends(field: &str, text: &str) -> Result<Vec<Backend>, InputError> {
    Backend::list(text).map_err(|p| InputError::new(field, text, p))
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
                v.allow.to_string(),
                v.affinity.to_string(),
                state(v),
            ]
        })
        .collect();
    let head = ["ID", "POD", "PROTO", "ADDRESS", "HOST PORTS", "POD PORTS", "ALLOW", "AFFINITY", "STATE"];
    if rows.is_empty() { String::new() } else { table(head, &rows) }
}

fn state(view: &PublishView) -> String {
    let draining: Vec<_> = view.backends.iter().filter(|b| b.draining).map(|b| b.backend.pod.as_str()).collect();
    match (view.draining, draining.as_slice()) {
        (true, _) => "draining".to_owned(),
        (false, []) => "open".to_owned(),
        (false, pods) => format!("draining at {}", pods.join(",")),
    }
}

/// Reads publish strings given under `field`.
pub(super) fn publishes(field: &str, texts: &[String]) -> Result<Vec<Publish>, InputError> {
    texts.iter().map(|t| t.parse().map_err(|p| InputError::new(field, t, p))).collect()
}
