//! From the name of an instance to the instance, seen from its host namespace.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::CliError;
use crate::instance::{Dirs, Instance, InstanceError, KernelPlatform};
use crate::netns::{Netns, NetnsError, NetnsName};
use crate::probe;
use crate::store::{Store, StoreError};
use crate::topology::{self, Document};

/// Opens an instance, up or not.
///
/// # Errors
///
/// Privileges, its store, or its host namespace.
pub fn open(dirs: Dirs) -> Result<Instance<KernelPlatform>, CliError> {
    probe::privileges()?;
    let host_netns = match dirs.open()? {
        Some(store) => store.load().map_err(InstanceError::from)?.instance.and_then(|r| r.host_netns),
        None => None,
    };
    let netns = match &host_netns {
        Some(name) => Netns::open_named(&NetnsName::new(name).map_err(NetnsError::from)?)?,
        None => Netns::current()?,
    };
    let platform = KernelPlatform::new(&dirs, netns)?;
    Ok(Instance::new(dirs, host_netns, platform))
}

/// Opens an instance to take it down: also one whose store cannot be read, which is taken to have the calling thread's namespace
/// for its host, and one whose host is gone.
pub(super) fn open_wreck(dirs: Dirs) -> Result<Instance<KernelPlatform>, CliError> {
    match open(dirs.clone()) {
        Err(CliError::Instance(InstanceError::Store(StoreError::Damaged { .. } | StoreError::Version { .. }))) => {
            let platform = KernelPlatform::new(&dirs, Netns::current()?)?;
            Ok(Instance::new(dirs, None, platform))
        }
        Err(CliError::Netns(e)) if e.is_absent() || matches!(e, NetnsError::NotNetns { .. }) => {
            let store = dirs.open()?;
            let state = store.map(|s| s.load()).transpose().map_err(InstanceError::from)?;
            let host_netns = state.and_then(|s| s.instance).and_then(|row| row.host_netns);
            let platform = KernelPlatform::without_host(&dirs)?;
            Ok(Instance::new(dirs, host_netns, platform))
        }
        done => done,
    }
}

/// Reads a topology file; `-` is standard input.
pub(super) fn read_topology(path: &Path) -> Result<Document, CliError> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let text = text.map_err(|source| CliError::Unreadable { path: path.to_owned(), source })?;
    topology::parse(&text).map_err(|error| CliError::File { path: path.to_owned(), error })
}

/// An error of a verb that was about a file names the file.
pub(super) fn in_file(path: &Path) -> impl FnOnce(InstanceError) -> CliError {
    let path: PathBuf = path.to_owned();
    move |e| match e {
        InstanceError::Input(error) => CliError::File { path, error },
        e => e.into(),
    }
}
