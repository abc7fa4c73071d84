//! Loading once per instance, and unloading.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aya::programs::{Program, ProgramError};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use netns_ebpf_common::abi;
use netns_ebpf_common::counters::Hook;
use netns_ebpf_common::host_socket::SocketHook;
use netns_ebpf_common::kfunc::HOST_CONNTRACK;
use netns_ebpf_common::skb::SKB_FIELDS;

use super::link::link;
use super::{Datapath, DatapathError, map_error};
use crate::parallel::for_all;

pub(super) const MAPS: &str = "maps";
pub(super) const PROGS: &str = "progs";
pub(super) const LINKS: &str = "links";
const ABI: &str = "abi";
/// Marks that flows may be there whose address or uplink has gone.
const STALE: &str = "stale";
/// Marks that slots or indexes of publishes rest.
const RESTING: &str = "resting";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netns-ebpf.o"));

/// Capacities chosen when the programs are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Flow entries of each family the tables are made for; a flow takes two.
    pub flow_entries: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { flow_entries: abi::MAX_FLOW_ENTRIES }
    }
}

/// Before kernel 6.16 (commit d4adf1c9ee77) each CPU may keep 128 places of an LRU map for itself.
const DATAGRAMS_PER_CPU: u32 = 256;

impl Datapath {
    /// Loads programs and maps and pins them under `pins`; if that was done before, opens them.
    ///
    /// The directory is made with mode 0700, on a bpffs that is mounted already ([`super::ensure_bpffs`]). What a killed
    /// load left is removed first. On failure nothing is left.
    pub fn load(pins: &Path, sizes: &Sizes) -> Result<Self, DatapathError> {
        let this = Self { pins: pins.to_owned() };
        match this.check_abi() {
            Ok(()) => return Ok(this),
            Err(DatapathError::NotLoaded(_)) => {}
            Err(e) => return Err(e),
        }
        this.unload()?;
        this.load_and_pin(sizes).inspect_err(|_| {
            if let Err(e) = this.unload() {
                tracing::warn!("after a failed load: {e}");
            }
        })?;
        Ok(this)
    }

    /// Opens what is loaded.
    pub fn open(pins: &Path) -> Result<Self, DatapathError> {
        let this = Self { pins: pins.to_owned() };
        this.check_abi()?;
        Ok(this)
    }

    /// Opens the pins whatever their version and state, for removal only.
    pub fn for_removal(pins: &Path) -> Self {
        Self { pins: pins.to_owned() }
    }

    /// Removes links, programs and maps, and the directories up to the instance's; nothing there means done.
    pub fn unload(&self) -> Result<(), DatapathError> {
        // The marker first: from here on this is no instance any more.
        remove(&self.pins.join(ABI))?;
        remove(&self.pins.join(STALE))?;
        remove(&self.pins.join(RESTING))?;
        for dir in [LINKS, PROGS, MAPS] {
            let dir = self.pins.join(dir);
            for path in entries(&dir)? {
                remove(&path)?;
            }
            remove_dir(&dir)?;
        }
        remove_dir(&self.pins)
    }

    fn check_abi(&self) -> Result<(), DatapathError> {
        let path = self.pins.join(ABI);
        match fs::read_link(&path) {
            Ok(found) if found == Path::new(&abi::ABI_VERSION.to_string()) => Ok(()),
            Ok(found) => Err(DatapathError::AbiMismatch {
                pins: self.pins.clone(),
                found: found.display().to_string(),
                ours: abi::ABI_VERSION,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(DatapathError::NotLoaded(self.pins.clone())),
            Err(source) => Err(DatapathError::Io { what: "read", path, source }),
        }
    }

    fn load_and_pin(&self, sizes: &Sizes) -> Result<(), DatapathError> {
        for dir in [MAPS, PROGS, LINKS] {
            make_dir(&self.pins.join(dir))?;
        }
        // RLIMIT_MEMLOCK is left alone: kernels that have tcx (6.6) account BPF memory to the cgroup (since 5.11).
        let cpus =
            nr_cpus().map_err(|(what, source)| DatapathError::Io { what: "count", path: what.into(), source })?;
        let datagrams = abi::MAX_DATAGRAMS.max(DATAGRAMS_PER_CPU * cpus as u32);
        let linked = link(OBJECT)?;
        let mut ebpf = EbpfLoader::new()
            .override_global(SKB_FIELDS, &linked.skb_fields, true)
            .override_global(HOST_CONNTRACK, &linked.host_conntrack, true)
            .map_max_entries(abi::map::FLOWS4, sizes.flow_entries)
            .map_max_entries(abi::map::FLOWS6, sizes.flow_entries)
            .map_max_entries(abi::map::DATAGRAMS4, datagrams)
            .map_max_entries(abi::map::DATAGRAMS6, datagrams)
            .load(&linked.object)
            .map_err(|e| DatapathError::Load(Box::new(e)))?;
        self.load_programs(&mut ebpf)?;
        for (name, map) in ebpf.maps() {
            // Sections of constants belong to the programs, which keep them; bpffs takes no dots.
            if !name.starts_with('.') {
                let path = self.pins.join(MAPS).join(name);
                map.pin(&path).map_err(|source| DatapathError::Pin { path, source })?;
            }
        }
        self.seed()?;
        let path = self.pins.join(ABI);
        symlink(abi::ABI_VERSION.to_string(), &path).map_err(|source| DatapathError::Io { what: "mark", path, source })
    }

    /// Notes, before an address or an uplink is taken from the programs, that flows may have it: whoever is killed after it leaves
    /// the note to the next verb.
    pub(super) fn mark_stale(&self) -> Result<(), DatapathError> {
        self.mark(STALE)
    }

    /// Notes that something is about to rest.
    pub(crate) fn mark_resting(&self) -> Result<(), DatapathError> {
        self.mark(RESTING)
    }

    /// Whether that was noted; takes the note back.
    pub(super) fn take_resting(&self) -> Result<bool, DatapathError> {
        let path = self.pins.join(RESTING);
        let was = fs::symlink_metadata(&path).is_ok();
        remove(&path).map(|()| was)
    }

    fn mark(&self, name: &str) -> Result<(), DatapathError> {
        let path = self.pins.join(name);
        match symlink("flows", &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(|source| DatapathError::Io { what: "mark", path, source }),
        }
    }

    /// Whether that was noted.
    pub(super) fn is_stale(&self) -> bool {
        fs::symlink_metadata(self.pins.join(STALE)).is_ok()
    }

    /// Takes the note back.
    pub(super) fn unmark_stale(&self) -> Result<(), DatapathError> {
        remove(&self.pins.join(STALE))
    }

    /// Gives the programs' hashes a start nobody can foresee, who would make others' flows count as his.
    fn seed(&self) -> Result<(), DatapathError> {
        // The standard library's own hash keys come from the system's random numbers.
        let random = RandomState::new().hash_one(abi::map::SEED);
        let [a, b, c, d, ..] = random.to_ne_bytes();
        let set = self.array::<u32>(abi::map::SEED)?.set(0, u32::from_ne_bytes([a, b, c, d]), 0);
        set.map_err(|e| map_error(abi::map::SEED, "write it", e))
    }

    /// Loads and pins all programs, several at once: the verifier looks at each on one CPU.
    ///
    /// A kernel that refuses those of the socket hooks gets a warning and goes without.
    fn load_programs(&self, ebpf: &mut Ebpf) -> Result<(), DatapathError> {
        let hooks = Hook::ALL.map(Hook::as_str);
        let mut programs: BTreeMap<String, Mutex<&mut Program>> =
            ebpf.programs_mut().map(|(name, program)| (name.to_owned(), Mutex::new(program))).collect();
        // Those that take longest come first.
        let names = hooks.into_iter().chain([abi::program::SWEEP]).chain(SocketHook::ALL.map(SocketHook::as_str));
        let jobs = names.map(|name| programs.remove(name).map(|program| (name, program)));
        let jobs: Vec<(&'static str, Mutex<&mut Program>)> = jobs.flatten().collect();
        if let Some(name) = hooks.iter().chain(&[abi::program::SWEEP]).find(|name| jobs.iter().all(|(n, _)| n != *name))
        {
            return Err(DatapathError::NoProgram(name));
        }
        let refused = Mutex::new(None);
        for_all(&jobs, |(name, program)| {
            let mut program = program.lock().unwrap_or_else(PoisonError::into_inner);
            match (self.load_program(name, *program), SocketHook::ALL.iter().any(|hook| hook.as_str() == *name)) {
                (Err(e), true) => {
                    refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    Ok(())
                }
                (done, _) => done,
            }
        })?;
        if let Some(e) = refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
            tracing::warn!("processes of this host cannot reach published ports: {e}");
        }
        Ok(())
    }

    fn load_program(&self, name: &'static str, program: &mut Program) -> Result<(), DatapathError> {
        let fail = |e| DatapathError::Program { name: name.to_owned(), source: Box::new(e) };
        load_despite_signals(program).map_err(fail)?;
        let path = self.pins.join(PROGS).join(name);
        let pinned = match program {
            Program::SchedClassifier(program) => program.pin(&path),
            Program::CgroupSockAddr(program) => program.pin(&path),
            _ => return Err(fail(ProgramError::UnexpectedProgramType)),
        };
        pinned.map_err(|source| DatapathError::Pin { path, source })
    }
}

/// Loads a program, again when a signal to this thread cut the verifier short: it then gives up with `EAGAIN`
/// (`do_check`, kernel 4.20, commit c3494801cd17).
fn load_despite_signals(program: &mut Program) -> Result<(), ProgramError> {
    const ATTEMPTS: u32 = 10;
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        match loaded {
            Err(ProgramError::LoadError { io_error, .. })
                if left > 0 && io_error.kind() == std::io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Makes a directory and those above it, each for root only.
pub(super) fn make_dir(path: &Path) -> Result<(), DatapathError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| DatapathError::Io {
        what: "create",
        path: path.to_owned(),
        source,
    })
}

pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let fail = |source| DatapathError::Io { what: "read", path: dir.to_owned(), source };
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(fail),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(fail(e)),
    }
}

pub(super) fn remove(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DatapathError::Io { what: "remove", path: path.to_owned(), source }),
    }
}

fn remove_dir(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DatapathError::Io { what: "remove", path: path.to_owned(), source }),
    }
}
