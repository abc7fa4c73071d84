//! `netns down`.

use clap::Args;

use super::open::open;
use super::{CliError, Global};
use crate::instance::choose;

/// Arguments of `down`.
#[derive(Debug, Args)]
pub struct DownArgs {}

pub(super) async fn run(global: &Global, _: &DownArgs) -> Result<u8, CliError> {
    let mut instance = open(choose(global.instance.as_deref())?)?;
    let applied = instance.down().await?;
    global.print(&applied, |a| {
        if a.changed {
            let (pods, networks) = (a.pods_removed.len(), a.networks_removed.len());
            format!("instance {}: down ({pods} pods, {networks} networks removed)", a.instance)
        } else {
            format!("instance {}: was not up", a.instance)
        }
    })?;
    Ok(0)
}
