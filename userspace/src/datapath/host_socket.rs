//! The socket hooks: programs on the root of the cgroup v2 hierarchy, by which the host's own processes reach published
//! ports.
//!
//! They are an addition to the data path, not a part of what it cannot do without: a kernel without cgroup BPF or a machine
//! without cgroup v2 has everything else.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map};
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, CgroupSockAddrAttachType, ProgramError};
use netns_ebpf_common::abi::map;
use netns_ebpf_common::host_socket::{HostPeer, HostPeerKey, SocketHook};
use netns_ebpf_common::plain::Plain;
use netns_ebpf_common::{Addr4, Addr6};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::load::{LINKS, PROGS, make_dir, remove};
use super::{Datapath, DatapathError, call, io_error, map_error, or_absent};

/// Mounts as the calling thread sees them.
const MOUNTS: &str = "/proc/thread-self/mounts";

/// By a socket's peer and cookie, the publish that has led it there and the address its process asked for.
pub type HostPeers = std::collections::HashMap<(SocketAddr, [u8; 8]), (u32, IpAddr)>;

impl Datapath {
    /// Attaches the socket hooks to a cgroup and all below it, for sockets of the namespace with this cookie; all of them,
    /// or none. Attached already is success.
    ///
    /// Programs of others on the same hooks are kept and run as well.
    pub fn attach_socket_hooks(&self, cgroup: &Path, netns_cookie: u64) -> Result<(), DatapathError> {
        self.array::<u64>(map::HOST_NETNS)?
            .set(0, netns_cookie, 0)
            .map_err(|e| map_error(map::HOST_NETNS, "write the host's namespace", e))?;
        let attached = SocketHook::ALL.into_iter().try_for_each(|hook| self.attach_socket_hook(hook, cgroup));
        if attached.is_err() {
            self.array::<u64>(map::HOST_NETNS)?
                .set(0, 0, 0)
                .map_err(|e| map_error(map::HOST_NETNS, "write that there is no host's namespace", e))?;
            for hook in SocketHook::ALL {
                remove(&self.socket_pin(hook))?;
            }
        }
        attached
    }

    /// The sockets of the host that these publishes have led to pods: the pod's end and the cookie of each, its publish and the
    /// address its process asked for. Sockets that have ended are among them until others take their place.
    pub fn host_peers(&self, publishes: &BTreeSet<u32>) -> Result<HostPeers, DatapathError> {
        let mut found = HostPeers::new();
        self.each_host_peer::<Addr4>(map::HOST_PEERS4, publishes, |key, peer| {
            found.insert(end(key), (peer.publish.into(), peer.addr.into()));
        })?;
        self.each_host_peer::<Addr6>(map::HOST_PEERS6, publishes, |key, peer| {
            found.insert(end(key), (peer.publish.into(), peer.addr.into()));
        })?;
        Ok(found)
    }

    /// Cuts sockets from publishes that go, whose indexes others get.
    pub fn orphan_host_peers(&self, publishes: &BTreeSet<u32>) -> Result<(), DatapathError> {
        self.orphan_host_peers_of::<Addr4>(map::HOST_PEERS4, publishes)?;
        self.orphan_host_peers_of::<Addr6>(map::HOST_PEERS6, publishes)
    }

    fn orphan_host_peers_of<A: Copy>(&self, name: &'static str, publishes: &BTreeSet<u32>) -> Result<(), DatapathError>
    where
        HostPeerKey<A>: Plain,
        HostPeer<A>: Plain,
    {
        const BPF_EXIST: u64 = 2;
        let mut theirs = Vec::new();
        self.each_host_peer::<A>(name, publishes, |key, peer| theirs.push((*key, *peer)))?;
        let fail = |e| map_error(name, "change a peer", e);
        let mut peers = HashMap::try_from(Map::LruHashMap(self.map_data(name)?)).map_err(fail)?;
        for (key, peer) in theirs {
            let alone = HostPeer { publish: HostPeer::<A>::NO_PUBLISH, ..peer };
            or_absent(name, "change a peer", peers.insert(key, alone, BPF_EXIST))?;
        }
        Ok(())
    }

    fn each_host_peer<A>(
        &self,
        name: &'static str,
        publishes: &BTreeSet<u32>,
        mut visit: impl FnMut(&HostPeerKey<A>, &HostPeer<A>),
    ) -> Result<(), DatapathError>
    where
        HostPeerKey<A>: Plain,
        HostPeer<A>: Plain,
    {
        let data = self.map_data(name)?;
        let read = call::walk(data.fd().as_fd(), 0, |keys: &[HostPeerKey<A>], peers: &[HostPeer<A>]| {
            let theirs = keys.iter().zip(peers).filter(|(_, peer)| publishes.contains(&peer.publish.into()));
            theirs.for_each(|(key, peer)| visit(key, peer));
            ControlFlow::Continue(())
        });
        read.map_err(|e| io_error(name, "list peers", e))
    }

    /// Whether the socket hooks were attached, and should be still.
    pub fn wants_socket_hooks(&self) -> Result<bool, DatapathError> {
        let cookie = self.array::<u64>(map::HOST_NETNS)?.get(&0, 0);
        cookie.map(|cookie| cookie != 0).map_err(|e| map_error(map::HOST_NETNS, "read the host's namespace", e))
    }

    /// Whether every socket hook is pinned, as it is while attached.
    pub fn has_socket_hooks(&self) -> bool {
        SocketHook::ALL.into_iter().all(|hook| self.socket_pin(hook).exists())
    }

    /// Socket hooks that are not attached, or will not be when this process ends. The kernel is asked: a pin stays when its link
    /// is detached.
    pub fn socket_hooks_off(&self, cgroup: &Path) -> Result<BTreeSet<&'static str>, DatapathError> {
        let mut off = BTreeSet::new();
        for hook in SocketHook::ALL {
            if !self.socket_pin(hook).exists() || !self.is_socket_hook_attached(hook, cgroup)? {
                off.insert(hook.as_str());
            }
        }
        Ok(off)
    }

    fn is_socket_hook_attached(&self, hook: SocketHook, cgroup: &Path) -> Result<bool, DatapathError> {
        let fail = |e| program_error(hook, e);
        let path = self.pins.join(PROGS).join(hook.as_str());
        let ours = CgroupSockAddr::from_pin(path, attach_type(hook)).and_then(|p| p.info()).map_err(fail)?.id();
        let io = |source| DatapathError::Io { what: "ask for the programs of", path: cgroup.to_owned(), source };
        let attached = call::cgroup_programs(File::open(cgroup).map_err(io)?.as_fd(), kernel_type(hook)).map_err(io)?;
        Ok(attached.contains(&ours))
    }

    fn attach_socket_hook(&self, hook: SocketHook, cgroup: &Path) -> Result<(), DatapathError> {
        let pin = self.socket_pin(hook);
        if pin.exists() {
            if self.is_socket_hook_attached(hook, cgroup)? {
                return Ok(());
            }
            // Such a link ends with its cgroup, or when somebody detaches it; the pin stays.
            remove(&pin)?;
        }
        let fail = |e| program_error(hook, e);
        let path = self.pins.join(PROGS).join(hook.as_str());
        let mut program = CgroupSockAddr::from_pin(path, attach_type(hook)).map_err(fail)?;
        let root =
            File::open(cgroup).map_err(|source| DatapathError::Io { what: "open", path: cgroup.to_owned(), source })?;
        // A link is always one of many on its hook (`BPF_F_ALLOW_MULTI`, which to ask for would be refused: kernel 5.7,
        // commit af6eea57437a); this mode is the one without flags.
        let id = program.attach(&root, CgroupAttachMode::Single).map_err(fail)?;
        let link = program.take_link(id).map_err(fail)?;
        let link = FdLink::try_from(link).map_err(|e: LinkError| DatapathError::Link {
            hook: hook.as_str(),
            ifname: cgroup.display().to_string(),
            source: Box::new(e),
        })?;
        make_dir(&self.pins.join(LINKS))?;
        link.pin(&pin).map_err(|source| DatapathError::Pin { path: pin, source })?;
        Ok(())
    }

    pub(super) fn socket_pin(&self, hook: SocketHook) -> PathBuf {
        self.pins.join(LINKS).join(format!("cgroup-{}", hook.as_str()))
    }
}

/// Where the cgroup v2 hierarchy is mounted, and not hidden by what was mounted over it later.
pub fn cgroup_root() -> Result<PathBuf, DatapathError> {
    let mounts = fs::read_to_string(MOUNTS);
    let mounts = mounts.map_err(|source| DatapathError::Io { what: "read", path: MOUNTS.into(), source })?;
    let is_there = |at: &PathBuf| statfs(at).is_ok_and(|s| s.filesystem_type() == CGROUP2_SUPER_MAGIC);
    cgroup2_mounts(&mounts).find(is_there).ok_or(DatapathError::NoCgroup)
}

/// The cgroup v2 mounts of a list as in `/proc/PID/mounts`.
fn cgroup2_mounts(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        // A blank in a path comes as \040.
        (kind == "cgroup2").then(|| PathBuf::from(at.replace("\\040", " ")))
    })
}

/// The pod's end, and whose socket it is.
fn end<A: Copy + Into<IpAddr>>(key: &HostPeerKey<A>) -> (SocketAddr, [u8; 8]) {
    (SocketAddr::new(key.addr.into(), key.port.get()), key.socket)
}

const fn attach_type(hook: SocketHook) -> CgroupSockAddrAttachType {
    use CgroupSockAddrAttachType as At;
    match hook {
        SocketHook::Connect4 => At::Connect4,
        SocketHook::Connect6 => At::Connect6,
        SocketHook::Sendmsg4 => At::UDPSendMsg4,
        SocketHook::Sendmsg6 => At::UDPSendMsg6,
        SocketHook::Recvmsg4 => At::UDPRecvMsg4,
        SocketHook::Recvmsg6 => At::UDPRecvMsg6,
        SocketHook::Getpeername4 => At::GetPeerName4,
        SocketHook::Getpeername6 => At::GetPeerName6,
        SocketHook::Bind4 => At::Bind4,
        SocketHook::Bind6 => At::Bind6,
    }
}

/// The hook's number in `enum bpf_attach_type`.
const fn kernel_type(hook: SocketHook) -> u32 {
    match hook {
        SocketHook::Bind4 => 8,
        SocketHook::Bind6 => 9,
        SocketHook::Connect4 => 10,
        SocketHook::Connect6 => 11,
        SocketHook::Sendmsg4 => 14,
        SocketHook::Sendmsg6 => 15,
        SocketHook::Recvmsg4 => 19,
        SocketHook::Recvmsg6 => 20,
        SocketHook::Getpeername4 => 29,
        SocketHook::Getpeername6 => 30,
    }
}

fn program_error(hook: SocketHook, e: ProgramError) -> DatapathError {
    DatapathError::Program { name: hook.as_str().to_owned(), source: Box::new(e) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup_v2_beside_v1() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/uni\\040fied cgroup2 rw,relatime 0 0\n\
                      x /run/cg2 cgroup2 rw,relatime 0 0\n";
        let found = |mounts| cgroup2_mounts(mounts).collect::<Vec<_>>();
        assert_eq!(found(mounts), [PathBuf::from("/sys/fs/cgroup/uni fied"), PathBuf::from("/run/cg2")]);
        assert!(found("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n").is_empty());
        assert!(found("").is_empty());
    }
}
