//! `netns run` without a file: the sandbox.

use super::watch::{Signals, live, watch};
use super::{CliError, Format, Global};
use crate::instance::{Dirs, InstanceError, KernelPlatform, Object, Op, Tried};
use crate::netns::{Netns, require_lasting_names};
use crate::probe;
use crate::sandbox::{self, Sandbox, layout};

pub(super) fn run(global: &Global, check: bool, signals: &mut Signals) -> Result<u8, CliError> {
    probe::privileges()?;
    require_lasting_names()?;
    // The sandbox has an instance of its own, whatever is asked for: it must not touch another one.
    let dirs = Dirs::new(layout::INSTANCE)?;
    let fabric = || {
        let here = Netns::current().tried(Op::Open, Object::Host)?;
        KernelPlatform::new(&dirs, here).map_err(InstanceError::from)
    };
    let mut sandbox = Sandbox::up(fabric)?;
    if check {
        // Signals are kept meanwhile: the check ends within seconds, and `down` follows in any case.
        let report = std::thread::spawn(sandbox::check).join();
        sandbox.down()?;
        let report = report.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        global.print(&report, ToString::to_string)?;
        return Ok(if report.ok { 0 } else { 1 });
    }
    let shown = match global.output {
        Format::Json => global.print(sandbox.applied(), |_| String::new()),
        Format::Text => global.print(&(), |()| sandbox::picture()),
    };
    let watched = match shown {
        Ok(()) => watch(sandbox.instance_mut(), signals, live(global)),
        Err(e) => Err(e),
    };
    sandbox.down()?;
    watched?;
    Ok(0)
}
