//! What an instance has left whose rows are lost, on the way of one of the same name.

use super::InstanceError;
use super::platform::{Platform, Wreck};
use super::session::Session;
use crate::netns::pids_by_namespace;

impl<P: Platform> Session<'_, P> {
    /// Removes what an instance of this name, whose rows are lost, has left: before one comes up again. With `prune` also pods
    /// in which processes run.
    pub(super) fn clear_away(&mut self, prune: bool) -> Result<(), InstanceError> {
        let Wreck { pods, .. } = self.platform.wreck()?;
        if !prune {
            let processes = if pods.is_empty() { Default::default() } else { pids_by_namespace()? };
            let occupied = pods.iter().filter(|(_, id)| processes.contains_key(id)).map(|(name, _)| name.to_string());
            let occupied: Vec<String> = occupied.collect();
            if !occupied.is_empty() {
                return Err(InstanceError::Occupied(occupied));
            }
        }
        if let Some(removed) = self.platform.sweep()? {
            let what = if removed.is_empty() { String::new() } else { format!(", pods {}", removed.join(", ")) };
            tracing::warn!("removed what an instance of this name had left{what}: its state was lost");
        }
        Ok(())
    }
}
