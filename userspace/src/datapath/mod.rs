//! The programs, maps and links in the kernel, behind their pins.
//!
//! All state is in bpffs: a [`Datapath`] is a directory of pins and nothing else, so any process can open it, and what
//! it has done stays when it ends. Callers hold the instance's lock while they change anything.
//!
//! ```text
//! <pins>/abi            symbolic link naming the ABI version: there when loading was completed
//! <pins>/maps/<MAP>     names from `netns_ebpf_common::abi::map`
//! <pins>/progs/<name>   names from `netns_ebpf_common::abi::program`
//! <pins>/links/<name>-<ifindex>
//! <pins>/links/cgroup-<name>
//! ```

mod accounts;
mod attach;
mod bpffs;
mod call;
mod counters;
mod endpoints;
mod flows;
mod host;
mod host_socket;
mod link;
mod load;
mod pins;
mod prefixes;
mod publishes;
mod snat;
mod sweep;
#[cfg(feature = "trace")]
mod trace;

use std::io;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray};

pub use accounts::{ExhaustedPorts, FlowCount};
pub use bpffs::{BPFFS, ensure_bpffs, unmount_bpffs};
pub use counters::{DropCount, VerdictCount};
pub use flows::FlowRecord;
pub use host_socket::{HostPeers, cgroup_root};
pub use load::Sizes;
use netns_ebpf_common::btf::KERNEL_TYPES;
pub use netns_ebpf_common::counters::Hook;
pub use publishes::PublishPorts;

/// What can go wrong in the kernel's part.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The programs have no log.
    #[cfg(feature = "trace")]
    #[error("cannot read the programs' log: {0}")]
    Trace(#[from] aya_log::Error),
    /// Nothing is loaded there.
    #[error("programs or maps are missing under {}: `netns up` makes them, `netns repair` what was lost of them", .0.display())]
    NotLoaded(PathBuf),
    /// Another version of netns loaded what is there.
    #[error(
        "the programs under {} have ABI version {found}, this netns has {ours}: run `netns down` with the version that \
         loaded them",
        pins.display()
    )]
    AbiMismatch {
        /// The pins.
        pins: PathBuf,
        /// Their version.
        found: String,
        /// This binary's.
        ours: u32,
    },
    /// The kernel refused the object.
    #[error("cannot load the programs: {0}")]
    Load(#[source] Box<aya::EbpfError>),
    /// The kernel refused a program (the verifier's words are in the source).
    #[error("program {name}: {source}")]
    Program {
        /// Its name.
        name: String,
        /// The reason.
        source: Box<aya::programs::ProgramError>,
    },
    /// The object in this binary lacks a program: a build that went wrong.
    #[error("the embedded object has no program {0}")]
    NoProgram(&'static str),
    /// The kernel's type information lacks what the programs read by it.
    #[error("the kernel's type information ({KERNEL_TYPES}) has not {what}")]
    KernelTypes {
        /// What is missing.
        what: &'static str,
    },
    /// A pin could not be made.
    #[error("cannot pin {}: {source}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// The reason.
        source: aya::pin::PinError,
    },
    /// A link could not be used.
    #[error("program {hook} on {ifname}: {source}")]
    Link {
        /// The hook's program.
        hook: &'static str,
        /// The interface.
        ifname: String,
        /// The reason.
        source: Box<aya::programs::links::LinkError>,
    },
    /// The machine has no cgroup v2 hierarchy in sight.
    #[error("no cgroup v2 hierarchy is mounted (`mount -t cgroup2 cgroup2 DIRECTORY`)")]
    NoCgroup,
    /// A map could not be read or written.
    #[error("{what} (map {map}): {source}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// What was tried.
        what: String,
        /// The reason.
        source: Box<MapError>,
    },
    /// A map has no room.
    #[error("{what}: map {map} is full")]
    Full {
        /// The map's name.
        map: &'static str,
        /// What was tried.
        what: String,
    },
    /// An index is taken by another owner.
    #[error("{what} belongs to another owner ({found}, not {ours})")]
    Owner {
        /// The object.
        what: String,
        /// Whose it is.
        found: u64,
        /// Who asked.
        ours: u64,
    },
    /// A host port leads elsewhere already.
    #[error("host port {port} is published already (publish {publish})")]
    Published {
        /// Address, port and protocol.
        port: String,
        /// The other declaration's index.
        publish: u32,
    },
    /// A file could not be used.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The action, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl DatapathError {
    /// Whether nothing is loaded (any more); removals take that for done.
    pub fn is_not_loaded(&self) -> bool {
        matches!(self, Self::NotLoaded(_))
    }
}

/// The data path of one instance. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Datapath {
    pins: PathBuf,
}

impl Datapath {
    /// The directory of the pins.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    fn map_data(&self, name: &'static str) -> Result<MapData, DatapathError> {
        MapData::from_pin(self.pins.join(load::MAPS).join(name)).map_err(|e| match errno(&e) {
            Some(nix::libc::ENOENT) => DatapathError::NotLoaded(self.pins.clone()),
            _ => map_error(name, "open it", e),
        })
    }

    fn hash<K: Pod, V: Pod>(&self, name: &'static str) -> Result<HashMap<MapData, K, V>, DatapathError> {
        HashMap::try_from(Map::HashMap(self.map_data(name)?)).map_err(|e| map_error(name, "open it as a hash", e))
    }

    fn array<V: Pod>(&self, name: &'static str) -> Result<Array<MapData, V>, DatapathError> {
        Array::try_from(Map::Array(self.map_data(name)?)).map_err(|e| map_error(name, "open it as an array", e))
    }

    fn per_cpu<V: Pod>(&self, name: &'static str) -> Result<PerCpuArray<MapData, V>, DatapathError> {
        PerCpuArray::try_from(Map::PerCpuArray(self.map_data(name)?))
            .map_err(|e| map_error(name, "open it as a per-CPU array", e))
    }

    fn trie<K: Pod, V: Pod>(&self, name: &'static str) -> Result<LpmTrie<MapData, K, V>, DatapathError> {
        LpmTrie::try_from(Map::LpmTrie(self.map_data(name)?)).map_err(|e| map_error(name, "open it as a trie", e))
    }
}

fn map_error(map: &'static str, what: impl Into<String>, source: MapError) -> DatapathError {
    let what = what.into();
    match errno(&source) {
        Some(nix::libc::E2BIG | nix::libc::ENOSPC) => DatapathError::Full { map, what },
        _ => DatapathError::Map { map, what, source: Box::new(source) },
    }
}

/// The same, of a call aya does not make.
fn io_error(map: &'static str, what: impl Into<String>, source: io::Error) -> DatapathError {
    map_error(map, what, MapError::IoError(source))
}

/// The kernel's error number behind a map's error.
fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        MapError::IoError(e) => e.raw_os_error(),
        MapError::KeyNotFound | MapError::ElementNotFound => Some(nix::libc::ENOENT),
        _ => None,
    }
}

/// "No such key" is success.
fn or_absent(map: &'static str, what: impl Into<String>, done: Result<(), MapError>) -> Result<(), DatapathError> {
    match done {
        Ok(()) => Ok(()),
        Err(e) if errno(&e) == Some(nix::libc::ENOENT) => Ok(()),
        Err(e) => Err(map_error(map, what, e)),
    }
}
