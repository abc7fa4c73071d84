//! `netns export`.

use super::open::open;
use super::{CliError, Global};
use crate::instance::InstanceError;

/// The topology of the live instance: a file as text, the same keys as JSON.
pub(super) fn run(global: &Global) -> Result<u8, CliError> {
    let instance = open(global.dirs("export")?)?;
    let state = instance.state()?.ok_or_else(|| InstanceError::NotUp(instance.dirs().name().to_owned()))?;
    let topology = state.topology(instance.dirs().name());
    let text = toml::to_string(&topology).map_err(|e| CliError::Output(std::io::Error::other(e)))?;
    global.print(&topology, |_| text)?;
    Ok(0)
}
