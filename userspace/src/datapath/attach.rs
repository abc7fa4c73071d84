//! Links between programs and interfaces. Pinned, they hold until the pin is removed or the interface goes.

use std::path::PathBuf;

use aya::programs::links::{FdLink, LinkError};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use netns_ebpf_common::counters::Hook;

use super::load::{LINKS, PROGS, make_dir, remove};
use super::{Datapath, DatapathError};

/// The side of the interface a hook is on.
fn attach_type(hook: Hook) -> TcAttachType {
    match hook {
        Hook::FromPod | Hook::FromUplink | Hook::FromUplinkL3 => TcAttachType::Ingress,
        Hook::FromHost => TcAttachType::Egress,
    }
}

impl Datapath {
    /// Attaches a hook's program to an interface of the calling thread's namespace, first in order: a program of
    /// somebody else that ends the chain must not swallow our replies.
    ///
    /// Attached already is success; a pin left by an interface that is gone is replaced.
    pub fn attach(&self, hook: Hook, ifname: &str, ifindex: u32) -> Result<(), DatapathError> {
        let fail = |e: ProgramError| DatapathError::Program {
            name: format!("{} on {ifname}", hook.as_str()),
            source: Box::new(e),
        };
        let pin = self.link_pin(hook, ifindex);
        let mut program = SchedClassifier::from_pin(self.pins.join(PROGS).join(hook.as_str())).map_err(fail)?;
        if pin.exists() {
            let ours = program.info().map_err(fail)?.id();
            let (_, attached) = SchedClassifier::query_tcx(ifname, attach_type(hook)).map_err(fail)?;
            if attached.iter().any(|p| p.id() == ours) {
                return Ok(());
            }
            remove(&pin)?;
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(ifname, attach_type(hook), options).map_err(fail)?;
        let link = program.take_link(id).map_err(fail)?;
        let link = FdLink::try_from(link).map_err(|e: LinkError| DatapathError::Link {
            hook: hook.as_str(),
            ifname: ifname.to_owned(),
            source: Box::new(e),
        })?;
        make_dir(&self.pins.join(LINKS))?;
        link.pin(&pin).map_err(|source| DatapathError::Pin { path: pin, source })?;
        Ok(())
    }

    /// Detaches a hook's program from the interface of this index, which may be gone; not attached means done.
    pub fn detach(&self, hook: Hook, ifindex: u32) -> Result<(), DatapathError> {
        remove(&self.link_pin(hook, ifindex))
    }

    /// A hook's program.
    pub(crate) fn program(&self, hook: Hook) -> Result<SchedClassifier, DatapathError> {
        SchedClassifier::from_pin(self.pins.join(PROGS).join(hook.as_str())).map_err(|e| match e {
            ProgramError::SyscallError(e) if e.io_error.kind() == std::io::ErrorKind::NotFound => {
                DatapathError::NotLoaded(self.pins.clone())
            }
            e => DatapathError::Program { name: hook.as_str().to_owned(), source: Box::new(e) },
        })
    }

    /// The kernel's id of a hook's program.
    pub(crate) fn program_id(&self, hook: Hook) -> Result<u32, DatapathError> {
        let info = self.program(hook)?.info();
        let fail = |e| DatapathError::Program { name: hook.as_str().to_owned(), source: Box::new(e) };
        info.map(|info| info.id()).map_err(fail)
    }

    /// To which of these interfaces of the calling thread's namespace a hook's program is attached, by index. The kernel is asked:
    /// a pin stays when its link is detached.
    pub fn attached_to<'a>(
        &self,
        hook: Hook,
        interfaces: impl IntoIterator<Item = (u32, &'a str)>,
    ) -> Result<Vec<u32>, DatapathError> {
        let fail = |e: ProgramError| DatapathError::Program { name: hook.as_str().to_owned(), source: Box::new(e) };
        let program = SchedClassifier::from_pin(self.pins.join(PROGS).join(hook.as_str())).map_err(fail)?;
        let ours = program.info().map_err(fail)?.id();
        let mut found = Vec::new();
        for (index, name) in interfaces {
            // One that is gone meanwhile has nothing attached.
            let Ok((_, attached)) = SchedClassifier::query_tcx(name, attach_type(hook)) else { continue };
            if self.link_pin(hook, index).exists() && attached.iter().any(|p| p.id() == ours) {
                found.push(index);
            }
        }
        Ok(found)
    }

    fn link_pin(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.pins.join(LINKS).join(format!("{}-{ifindex}", hook.as_str()))
    }
}
