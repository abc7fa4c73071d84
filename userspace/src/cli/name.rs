//! Names of network namespaces, as verbs are given them.

use super::CliError;
use crate::instance::InstanceError;
use crate::netns::{NetnsError, NetnsName, require_lasting_names};
use crate::topology::{InputError, Problem};

/// A name as `ip netns` takes it.
pub(super) fn namespace_name(name: &str) -> Result<NetnsName, InstanceError> {
    NetnsName::new(name).map_err(|e| InputError::new("NAME", name, Problem::Usage(e.to_string())).into())
}

/// A name that is another's is refused input.
pub(super) fn taken(name: &str, error: NetnsError) -> CliError {
    if error.is_exists() { InputError::new("NAME", name, Problem::NameTaken).into() } else { error.into() }
}

/// Bare namespaces may be made anywhere, as by `ip netns`: whoever does it for the program's life alone is served.
pub(super) fn warn_if_cut_off() -> Result<(), CliError> {
    match require_lasting_names() {
        Err(e @ NetnsError::NamesCutOff) => tracing::warn!("{e}"),
        done => done?,
    }
    Ok(())
}
