//! Pins that somebody removed, and what they stood for.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use aya::maps::{MapData, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, loaded_programs};
use netns_ebpf_common::abi;
use netns_ebpf_common::counters::Hook;
use netns_ebpf_common::host_socket::SocketHook;

use super::load::{LINKS, MAPS, PROGS, entries, make_dir};
use super::{Datapath, DatapathError, call};

impl Datapath {
    /// Pins of programs and of the maps those use that are not there, as paths below the instance's.
    pub fn pins_gone(&self) -> Result<BTreeSet<String>, DatapathError> {
        let mut gone: BTreeSet<String> = BTreeSet::new();
        for name in self.program_names() {
            if !self.pins.join(PROGS).join(name).exists() {
                gone.insert(format!("{PROGS}/{name}"));
            }
        }
        // Whether there should be programs that use it is written there.
        let known = std::iter::once(abi::map::HOST_NETNS.to_owned());
        for name in known.chain(self.maps_of_programs(self.pinned_programs())?.into_keys()) {
            if !self.pins.join(MAPS).join(&name).exists() {
                gone.insert(format!("{MAPS}/{name}"));
            }
        }
        Ok(gone)
    }

    /// Pins what lives on by others again: programs by where they are attached, maps by the programs. Says whether that was all.
    ///
    /// `elsewhere` are ids of programs that are attached by something else than a pinned link, each with the hook it should be of.
    pub fn restore_pins(&self, elsewhere: &[(Hook, u32)]) -> Result<bool, DatapathError> {
        for directory in [PROGS, MAPS, LINKS] {
            make_dir(&self.pins.join(directory))?;
        }
        let mut attached = self.attached_programs()?;
        for (hook, id) in elsewhere {
            // Another's has another name.
            let info = program(*id).filter(|info| info.name_as_str() == Some(hook.as_str()));
            attached.extend(info.map(|info| (hook.as_str(), info)));
        }
        for (name, info) in &attached {
            let pin = self.pins.join(PROGS).join(name);
            if !pin.exists() {
                let fd =
                    info.fd().map_err(|e| DatapathError::Program { name: (*name).to_owned(), source: Box::new(e) })?;
                let pinned = call::pin(fd.as_fd(), &pin);
                pinned.map_err(|source| DatapathError::Io { what: "pin a program as", path: pin, source })?;
            }
        }
        let programs = self.pinned_programs().into_iter().chain(attached.into_values()).collect();
        for (name, id) in self.maps_of_programs(programs)? {
            let pin = self.pins.join(MAPS).join(&name);
            if pin.exists() {
                continue;
            }
            let Ok(map) = MapData::from_id(id) else { continue };
            map.pin(&pin).map_err(|source| DatapathError::Pin { path: pin, source })?;
        }
        Ok(self.pins_gone()?.is_empty())
    }

    /// Programs that should be pinned.
    fn program_names(&self) -> impl Iterator<Item = &'static str> {
        // A kernel that refused the socket hooks has none of them.
        let sockets = SocketHook::ALL.map(SocketHook::as_str);
        let has_some = SocketHook::ALL.into_iter().any(|hook| self.socket_pin(hook).exists())
            || sockets.iter().any(|name| self.pins.join(PROGS).join(name).exists())
            || self.wants_socket_hooks().unwrap_or(false);
        let sockets = sockets.into_iter().filter(move |_| has_some);
        Hook::ALL.map(Hook::as_str).into_iter().chain([abi::program::SWEEP]).chain(sockets)
    }

    fn pinned_programs(&self) -> Vec<ProgramInfo> {
        self.program_names().filter_map(|name| ProgramInfo::from_pin(self.pins.join(PROGS).join(name)).ok()).collect()
    }

    /// What is attached, by the name of the program: links live on without the program's pin.
    fn attached_programs(&self) -> Result<BTreeMap<&'static str, ProgramInfo>, DatapathError> {
        let mut found = BTreeMap::new();
        for pin in entries(&self.pins.join(LINKS))? {
            let Some(file) = pin.file_name().and_then(|name| name.to_str()) else { continue };
            let is_of = |name: &&str| {
                file.strip_prefix("cgroup-").unwrap_or_else(|| file.rsplit_once('-').map_or(file, |(name, _)| name))
                    == *name
            };
            let Some(name) = self.program_names().find(is_of).filter(|name| !found.contains_key(name)) else {
                continue;
            };
            // A link whose device is gone has nothing to tell.
            let Some(info) = PinnedLink::from_pin(&pin).ok().and_then(|link| program_of(&link.into())) else {
                continue;
            };
            found.insert(name, info);
        }
        Ok(found)
    }

    /// Maps that programs use, by name, with their ids. Sections of constants belong to the programs, and are left out.
    fn maps_of_programs(&self, programs: Vec<ProgramInfo>) -> Result<BTreeMap<String, u32>, DatapathError> {
        let mut ids = BTreeSet::new();
        for program in programs {
            let fail = |e| DatapathError::Program { name: "of the data path".to_owned(), source: Box::new(e) };
            ids.extend(program.map_ids().map_err(fail)?.into_iter().flatten());
        }
        let named = ids.into_iter().filter_map(|id| Some((MapInfo::from_id(id).ok()?.name_as_str()?.to_owned(), id)));
        Ok(named.filter(|(name, _)| !name.contains('.')).collect())
    }
}

fn program_of(link: &FdLink) -> Option<ProgramInfo> {
    program(link.info().ok()?.program_id())
}

fn program(id: u32) -> Option<ProgramInfo> {
    loaded_programs().find_map(|info| info.ok().filter(|info| info.id() == id))
}
