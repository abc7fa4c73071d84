//! Errors of the command line, in words and as JSON.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use crate::instance::{InstanceError, PlatformError};
use crate::netlink::NetlinkError;
use crate::netns::NetnsError;
use crate::probe::ProbeError;
use crate::sandbox::SandboxError;
use crate::topology::InputError;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A topology file is wrong.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: InputError,
    },
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The instance.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The host's network cannot be watched.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Privileges or kernel.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// Neither a pod nor a namespace.
    #[error("no pod or network namespace named {0:?}; `netns list` names them")]
    NoNamespace(String),
    /// A pod that has lost its namespace.
    #[error(
        "pod {name:?} of instance {instance:?} has lost its network namespace: `netns del` removes what is left of it"
    )]
    PodWithoutNamespace {
        /// The pod.
        name: String,
        /// Its instance.
        instance: String,
    },
    /// A namespace that others need.
    #[error("network namespace {name:?} belongs to instance {instance:?}: {hint}")]
    Belongs {
        /// The namespace.
        name: String,
        /// The instance.
        instance: String,
        /// What to do.
        hint: &'static str,
    },
    /// There should be an instance to add a pod to.
    #[error("instance {0:?} was to be up and is not: its last `netns up` failed or was cut off")]
    Wanted(String),
    /// Signals cannot be watched.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
    /// Waiting for signals and changes failed.
    #[error("cannot wait for changes of the host's network: {0}")]
    Wait(#[source] io::Error),
    /// Standard output is broken.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
}

impl From<InputError> for CliError {
    fn from(error: InputError) -> Self {
        Self::Instance(error.into())
    }
}

impl From<PlatformError> for CliError {
    fn from(error: PlatformError) -> Self {
        Self::Instance(error.into())
    }
}

#[derive(Serialize)]
struct Document<'a> {
    error: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    message: String,
    kind: &'a str,
    hint: Option<&'a str>,
    field: Option<&'a str>,
    value: Option<&'a str>,
    file: Option<String>,
    line: Option<usize>,
    column: Option<usize>,
}

impl CliError {
    /// The process's exit status.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::File { .. } | Self::Unreadable { .. } | Self::Belongs { .. } => 2,
            Self::Probe(ProbeError::Privilege { .. } | ProbeError::Feature { .. }) => 2,
            Self::Netns(NetnsError::NamesCutOff) => 2,
            Self::Instance(e) => e.exit_status(),
            Self::Sandbox(e) => e.exit_status(),
            Self::Netns(NetnsError::Exec { source, .. }) if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Netns(NetnsError::Exec { .. }) => 126,
            _ => 1,
        }
    }

    /// What kind of failure it is, for programs.
    fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Unreadable { .. } => "input",
            Self::Instance(e) => e.kind(),
            Self::Sandbox(SandboxError::Instance(e)) => e.kind(),
            Self::Probe(ProbeError::Privilege { .. } | ProbeError::Feature { .. }) => "unsupported",
            Self::Belongs { .. } => "belongs",
            Self::Wanted(_) => "not-up",
            Self::Netns(NetnsError::Another(_)) => "another",
            Self::Netns(NetnsError::Busy { .. }) => "busy",
            Self::Netns(e) if e.is_exists() => "exists",
            Self::Netns(e) if e.is_absent() => "absent",
            Self::NoNamespace(_) | Self::PodWithoutNamespace { .. } => "absent",
            _ => "failed",
        }
    }

    /// What to do about it, where the message does not say so itself.
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Instance(e) => e.hint(),
            Self::Sandbox(SandboxError::Instance(e)) => e.hint(),
            Self::PodWithoutNamespace { .. } => Some("`netns repair` makes it anew"),
            Self::Wanted(_) => Some(
                "bring it up; or `netns down` if it is not wanted, or `netns add --bare` for a namespace without a network",
            ),
            _ => None,
        }
    }

    /// The error as one JSON document.
    pub fn to_json(&self) -> String {
        let (file, input) = match self {
            Self::File { path, error } => (Some(path.display().to_string()), Some(error)),
            Self::Unreadable { path, .. } => (Some(path.display().to_string()), None),
            Self::Instance(InstanceError::Input(error)) => (None, Some(error)),
            _ => (None, None),
        };
        let message = input.map_or_else(|| self.to_string(), |e| e.problem.to_string());
        let at = input.and_then(|e| e.at);
        let error = Fields {
            message,
            kind: self.kind(),
            hint: self.hint(),
            field: input.map(|e| e.field.as_str()),
            value: input.map(|e| e.value.as_str()),
            file,
            line: at.map(|p| p.line),
            column: at.map(|p| p.column),
        };
        json(&Document { error })
    }

    /// The same for a command line that could not be read.
    pub fn usage_json(message: &str) -> String {
        let message = message.trim().to_owned();
        json(&Document {
            error: Fields {
                message,
                kind: "usage",
                hint: Some("`netns --help` and `netns VERB --help` say what there is"),
                field: None,
                value: None,
                file: None,
                line: None,
                column: None,
            },
        })
    }
}

fn json(document: &Document<'_>) -> String {
    // Strings and numbers only: there is nothing in it that could fail.
    serde_json::to_string(document).unwrap_or_default()
}
