//! Whose a namespace is: no verb for bare ones touches what an instance needs.

use std::path::Path;

use super::CliError;
use crate::instance::{Dirs, InstanceError, STATE_ROOT, list, open_pod};
use crate::netns::{Netns, NetnsError, NetnsId, NetnsName, identify};
use crate::probe::{self, ProbeError};
use crate::sandbox;
use crate::store::{PodRow, Source, Store};

/// What instances need.
#[derive(Debug, Default)]
pub(super) struct Owners {
    claims: Vec<Claim>,
}

/// That an instance needs a namespace.
#[derive(Debug)]
pub(super) struct Claim {
    name: String,
    pub(super) instance: String,
    pub(super) role: Role,
    /// Which namespace it is; `None`: not known, or none yet.
    netns: Option<NetnsId>,
    /// The pod, if its namespace does not go by its name.
    adopted: Option<PodRow>,
}

/// What for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Pod,
    Host,
}

impl Role {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Host => "host",
        }
    }
}

impl Owners {
    /// As the instances' states say now.
    ///
    /// # Errors
    ///
    /// One of the states cannot be read: what it needs is not known then.
    pub(super) fn read() -> Result<Self, CliError> {
        let mut owners = Self::default();
        for instance in list(Path::new(STATE_ROOT)) {
            let Some(store) = Dirs::new(&instance)?.open()? else { continue };
            let state = store.load().map_err(InstanceError::from)?;
            let claim =
                |name: String, role, netns| Claim { name, instance: instance.clone(), role, netns, adopted: None };
            owners.claims.extend(state.pods.iter().map(|pod| {
                let adopted = matches!(pod.source, Source::Path(_) | Source::Pid(_)).then(|| pod.clone());
                Claim { adopted, ..claim(pod.name.clone(), Role::Pod, pod.netns) }
            }));
            let host = state.instance.and_then(|row| row.host_netns);
            owners.claims.extend(host.map(|host| claim(host, Role::Host, None)));
        }
        Ok(owners)
    }

    /// The same, with the namespaces a sandbox has made besides, or left when it was killed.
    pub(super) fn with_sandbox(mut self) -> Self {
        for name in sandbox::recorded_names() {
            if self.of(&name).is_none() {
                let instance = sandbox::layout::INSTANCE.to_owned();
                self.claims.push(Claim { name, instance, role: Role::Host, netns: None, adopted: None });
            }
        }
        self
    }

    /// Who needs the namespace of this name.
    pub(super) fn of(&self, name: &str) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.name == name)
    }

    /// Which pod a namespace is, whatever its name.
    pub(super) fn of_namespace(&self, id: Option<NetnsId>) -> Option<&Claim> {
        let id = id?;
        self.claims.iter().find(|claim| claim.role == Role::Pod && claim.netns == Some(id))
    }

    /// Refuses to take for a pod's what has its name and is another namespace.
    pub(super) fn require_own(&self, name: &NetnsName) -> Result<(), CliError> {
        let own = self.of(name.as_str()).filter(|claim| claim.role == Role::Pod).and_then(|claim| claim.netns);
        match (own, identify(name)) {
            (Some(own), Ok(Some(found))) if own != found => Err(NetnsError::Another(name.clone()).into()),
            _ => Ok(()),
        }
    }

    /// Refuses a name somebody needs.
    pub(super) fn require_free(&self, name: &str) -> Result<(), CliError> {
        let id = || NetnsName::new(name).ok().and_then(|name| identify(&name).ok().flatten());
        let Some(claim) = self.of(name).or_else(|| self.of_namespace(id())) else { return Ok(()) };
        let hint = match claim.role {
            Role::Pod => "name it with --instance",
            Role::Host => "it is its host; `netns down` ends the instance",
        };
        Err(CliError::Belongs { name: name.to_owned(), instance: claim.instance.clone(), hint })
    }
}

/// Opens a namespace by name; one that is not there is told from a pod that has lost its own.
pub(super) fn open_namespace(name: &NetnsName) -> Result<Netns, CliError> {
    let owners = Owners::read().unwrap_or_default();
    let adopted = owners.of(name.as_str()).and_then(|claim| claim.adopted.as_ref());
    adopted.map_or_else(|| Netns::open_named(name), open_pod).map_err(|e| of_namespace(name, e))
}

/// An error about a namespace in the words of the verbs.
pub(super) fn of_namespace(name: &NetnsName, error: NetnsError) -> CliError {
    if !error.is_absent() {
        return denied(error);
    }
    // Best effort: the answer is no in any case.
    let owners = Owners::read().unwrap_or_default();
    match owners.of(name.as_str()) {
        Some(claim) if claim.role == Role::Pod => {
            CliError::PodWithoutNamespace { name: name.to_string(), instance: claim.instance.clone() }
        }
        _ => CliError::NoNamespace(name.to_string()),
    }
}

/// What the kernel denies to somebody without privileges is said to be that.
pub(super) fn denied(error: NetnsError) -> CliError {
    match (&error, probe::privileges()) {
        (NetnsError::Io { source, .. }, Err(missing @ ProbeError::Privilege { .. }))
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            missing.into()
        }
        _ => error.into(),
    }
}
