//! What is between two phases is brought to an end: the one way forward for what changes, and the one way back.

use super::InstanceError;
use super::platform::{Platform, PlatformError};
use super::session::Session;
use crate::store::{BackendRow, Change, Phase, PublishRow, Row, Withdrawal};

impl<P: Platform> Session<'_, P> {
    /// Marks everything as going.
    pub(super) fn mark_all_deleting(&mut self) -> Result<(), InstanceError> {
        let changes: Vec<Change> = self.state.rows().map(|r| Change::Put(r.at(Phase::Deleting))).collect();
        self.write(&changes)
    }

    /// Brings what is between two phases to an end: changes are carried on, what was being made or is going is removed.
    ///
    /// Goes on past errors and returns them; rows behind them stay, for the next verb.
    pub(super) fn carry_on(&mut self) -> Result<Vec<PlatformError>, InstanceError> {
        let whole = self.state.instance.as_ref().is_some_and(|r| !r.phase.is_live());
        if whole {
            self.mark_all_deleting()?;
        }
        if self.state.rows().all(|r| r.phase() == Phase::Ready) {
            return Ok(Vec::new());
        }
        // An instance that was killed before its maps were pinned has none to open.
        if let Err(e) = self.open()
            && !whole
        {
            return Ok(vec![e]);
        }
        let mut left = Vec::new();
        // What stays leaves what goes before that goes; addresses are free for others after.
        self.update(&mut left)?;
        self.remove(whole, &mut left)?;
        self.update(&mut left)?;
        self.make_waiting(&mut left)?;
        Ok(left)
    }

    /// Makes what has waited for others to go. One that cannot be made is wanted no longer: the verb has failed.
    fn make_waiting(&mut self, left: &mut Vec<PlatformError>) -> Result<(), InstanceError> {
        let stands = |q: &PublishRow, new: &PublishRow| q.phase != Phase::Waiting && q.publish.conflicts(&new.publish);
        let free = |row: &Row| match row {
            Row::Publish(new) => !self.state.publishes.iter().any(|q| stands(q, new)),
            _ => true,
        };
        let rows: Vec<Row> = self.state.rows().filter(|r| r.phase() == Phase::Waiting && free(r)).collect();
        for row in rows {
            // A part of it may be there, of one who was killed here.
            let cleared = self.platform.remove(std::slice::from_ref(&row), &self.state, false);
            match cleared.map(|_| ()).map_err(InstanceError::from).and_then(|()| self.make(std::slice::from_ref(&row)))
            {
                Ok(()) => self.write(&[Change::Put(row.at(Phase::Ready))])?,
                Err(InstanceError::Platform(e)) => {
                    left.push(e);
                    self.write(&[Change::Put(row.at(Phase::Deleting))])?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The one way forward for what is live: the kernel is brought to what rows say that have changed.
    fn update(&mut self, left: &mut Vec<PlatformError>) -> Result<(), InstanceError> {
        let is_live = |b: &BackendRow| self.state.attachment(b.attachment).is_some_and(|a| a.phase.is_live());
        let ready = |row: &Row| match row {
            Row::Publish(q) => q.backends.iter().all(is_live),
            // The addresses are another's as long as that is there.
            Row::Attachment(a) => !self.state.shares_address(a),
            _ => true,
        };
        let rows: Vec<Row> = self.state.rows().filter(|r| r.phase() == Phase::Updating && ready(r)).collect();
        let alike = |a: &Row, b: &Row| {
            matches!((a, b), (Row::Publish(_), Row::Publish(_)) | (Row::Attachment(_), Row::Attachment(_)))
        };
        for rows in rows.chunk_by(alike) {
            match self.platform.update(rows, &self.state) {
                Ok(()) => {
                    self.write(&rows.iter().map(|r| Change::Put(r.clone().at(Phase::Ready))).collect::<Vec<_>>())?;
                }
                Err(e) => left.push(e),
            }
        }
        Ok(())
    }

    /// The one way back: rows that are not live go, and what they stand for, in the reverse order of making.
    fn remove(&mut self, whole: bool, left: &mut Vec<PlatformError>) -> Result<(), InstanceError> {
        let before = self.state.clone();
        let gone = |b: &BackendRow| before.attachment(b.attachment).is_none_or(|a| !a.phase.is_live());
        let goes = |row: &Row| match row {
            Row::Publish(q) => !q.phase.is_live() || q.backends.iter().all(gone),
            row => !row.phase().is_live(),
        };
        let mut rows: Vec<Row> = before.rows().rev().filter(goes).collect();
        // Those that end alike go together: programs are waited for once.
        rows.sort_by_key(|row| if let Row::Publish(q) = row { (0, q.withdrawal) } else { (1, Withdrawal::default()) });
        let alike = |a: &Row, b: &Row| match (a, b) {
            (Row::Publish(a), Row::Publish(b)) => a.withdrawal == b.withdrawal,
            // The kernel takes away many devices in the time of one.
            (Row::Attachment(_), Row::Attachment(_)) => whole,
            _ => false,
        };
        for rows in rows.chunk_by(alike) {
            if rows.iter().any(|row| self.state.is_needed(row.id())) {
                continue;
            }
            match self.platform.remove(rows, &before, whole) {
                Ok(missing) => {
                    self.missing.extend(missing);
                    self.opened &= !rows.iter().any(|row| matches!(row, Row::Instance(_)));
                    self.write(&rows.iter().map(|row| Change::Delete(row.id())).collect::<Vec<_>>())?;
                }
                Err(e) => left.push(e),
            }
        }
        Ok(())
    }
}
