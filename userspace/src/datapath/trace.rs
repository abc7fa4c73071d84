//! What a debugging build's programs log (feature `trace`).

use aya::programs::SchedClassifier;
use aya_log::EbpfLogger;
use log::Log;
use netns_ebpf_common::counters::Hook;

use super::load::PROGS;
use super::{Datapath, DatapathError};

/// Reads the programs' log. All of them write to one ring buffer.
#[expect(missing_debug_implementations, reason = "the logger inside has none")]
pub struct Trace(EbpfLogger<&'static dyn Log>);

impl Datapath {
    /// Opens the log of the loaded programs.
    pub fn trace(&self) -> Result<Trace, DatapathError> {
        let name = Hook::FromPod.as_str();
        let fail = |source| DatapathError::Program { name: name.to_owned(), source: Box::new(source) };
        let program = SchedClassifier::from_pin(self.pins.join(PROGS).join(name)).map_err(fail)?;
        let id = program.info().map_err(fail)?.id();
        Ok(Trace(EbpfLogger::init_from_id(id)?))
    }
}

impl Trace {
    /// Hands what has come since the last call to the process's log, at level `info`.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}
