//! The host around an instance: bpffs, interfaces, ports.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::super::dirs::BPFFS;
use super::super::platform::{HostPorts, Object, Op, PlatformError, Tried};
use super::super::specs::id16;
use super::KernelPlatform;
use crate::datapath::{ensure_bpffs, unmount_bpffs};
use crate::netlink::{NetlinkError, RouteKind};
use crate::netns::list_named;
use crate::probe::{self, PortProto};
use crate::store::State;
use crate::sysctl::{self, PortSet, SysctlError};
use crate::topology::{HostFacts, HostRoute, Interface, PortProbe, Proto};
use crate::wiring::{default_uplinks, gateway_ifindex, gateway_ifname, host_ifname, unfit};

/// Marks, in the state root, that bpffs was mounted by us and is to be unmounted by the last instance.
const BPFFS_MARK: &str = "bpffs-mounted";

impl KernelPlatform {
    /// Held while what all instances share is read and changed: bpffs, the list of reserved ports. What is locked is a directory only
    /// root can open.
    pub(super) fn root_lock(&self) -> Result<Option<Flock<File>>, PlatformError> {
        let Some(root) = self.dirs.state().parent() else { return Ok(None) };
        let fail = |e: io::Error| PlatformError::new(Op::Open, Object::Datapath, e);
        let dir = match File::open(root) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail(e)),
        };
        Flock::lock(dir, FlockArg::LockExclusive).map(Some).map_err(|(_, e)| fail(e.into()))
    }

    pub(super) fn mount_bpffs(&self) -> Result<(), PlatformError> {
        let at = Path::new(BPFFS);
        let fail = |e: io::Error| PlatformError::new(Op::Open, Object::Datapath, e);
        let mounted = statfs(at).map_err(|e| fail(e.into()))?.filesystem_type() == BPF_FS_MAGIC;
        if mounted {
            return Ok(());
        }
        if let Some(root) = self.dirs.state().parent() {
            // Before it is mounted: whoever is killed in between has left a mark that is right or harmless.
            fs::write(root.join(BPFFS_MARK), "").map_err(fail)?;
        }
        ensure_bpffs(at).map(|_| ()).tried(Op::Make, Object::Datapath)
    }

    pub(super) fn unmount_bpffs(&self) -> Result<(), PlatformError> {
        let Some(root) = self.dirs.state().parent() else { return Ok(()) };
        let mark = root.join(BPFFS_MARK);
        if !mark.exists() {
            return Ok(());
        }
        let at = Path::new(BPFFS);
        let unmounted = unmount_bpffs(at).tried(Op::Remove, Object::Datapath)?;
        let gone = statfs(at).is_ok_and(|s| s.filesystem_type() != BPF_FS_MAGIC);
        if unmounted || gone {
            fs::remove_file(&mark).tried(Op::Remove, Object::Datapath)?;
        } else if self.dirs.pins().parent().is_some_and(|p| !p.exists()) {
            // Somebody else pinned something meanwhile, or looks at it: it is theirs now.
            tracing::info!("{BPFFS} stays mounted: it is in use");
            let _ = fs::remove_file(&mark);
        }
        Ok(())
    }

    pub(super) fn read_facts(&self, state: &State, with_routes: bool) -> Result<HostFacts, PlatformError> {
        let fail = |e: NetlinkError| PlatformError::new(Op::Read, Object::Host, e);
        let netlink = self.host.netlink();
        let links = netlink.links().map_err(fail)?;
        let addresses = netlink.addresses(None).map_err(fail)?;
        let mut names: Vec<(u32, String)> =
            state.attachments.iter().map(|a| (a.ifindex, host_ifname(a.slot))).collect();
        names.extend(state.networks.iter().map(|n| (gateway_ifindex(id16(n.id)), gateway_ifname(id16(n.id)))));
        let ours: Vec<u32> = links
            .iter()
            .filter(|l| names.iter().any(|(index, name)| (*index, name) == (l.index, &l.name)))
            .map(|l| l.index)
            .collect();
        // The kernel answers what leads to an address, not what leads into a subnet: whoever adds one has to read them all.
        let routes = if with_routes { netlink.routes().map_err(fail)? } else { Vec::new() };
        let default_uplinks = default_uplinks(&links, &routes);
        let interfaces = links
            .into_iter()
            .map(|l| Interface {
                unfit: unfit(&l),
                index: l.index,
                name: l.name,
                mtu: l.mtu_bytes,
                addresses: addresses.iter().filter(|a| a.index == l.index).map(|a| a.net).collect(),
            })
            .collect();
        let unicast = |net: &IpNet| match net {
            IpNet::V4(n) => !n.addr().is_multicast(),
            IpNet::V6(n) => !n.addr().is_multicast() && !n.addr().is_unicast_link_local(),
        };
        let routes = routes
            .into_iter()
            .filter(|r| matches!(r.kind, RouteKind::Unicast | RouteKind::Refusing) && unicast(&r.destination))
            .map(|r| HostRoute {
                destination: r.destination,
                ifindex: r.oif.unwrap_or(0),
                ours: r.oif.is_some_and(|i| ours.contains(&i)),
            })
            .collect();
        let namespaces = list_named().tried(Op::Read, Object::Host)?;
        let namespaces = namespaces.iter().map(|n| n.as_str().to_owned()).collect();
        Ok(HostFacts { interfaces, routes, default_uplinks, namespaces, ours })
    }

    /// Whether any socket at all has the port: rules out nearly all of a range at one reading of the socket tables.
    fn has_listener(&self, proto: PortProto, port: u16) -> bool {
        let mut cache = self.listeners.borrow_mut();
        let entry = &mut cache[proto as usize];
        let found = entry.get_or_insert_with(|| {
            probe::listeners(self.host.netns(), proto).unwrap_or_else(|e| {
                tracing::warn!("cannot tell which ports are in use: {e}");
                Vec::new()
            })
        });
        found.iter().any(|l| l.addr.port() == port)
    }

    pub(super) fn read_ports(&self) -> Result<HostPorts, PlatformError> {
        let read = || Ok::<_, SysctlError>((sysctl::local_ports()?, sysctl::reserved_ports()?));
        let read = self.host.netns().run(read).tried(Op::Read, Object::Ports)?;
        let (local, reserved) = read.tried(Op::Read, Object::Ports)?;
        Ok(HostPorts { local, reserved })
    }

    pub(super) fn reserve_ports(&self, ports: &PortSet) -> Result<(), PlatformError> {
        let _lock = self.root_lock()?;
        let done = self.host.netns().run(|| sysctl::reserve_ports(ports)).tried(Op::Change, Object::Ports)?;
        done.map(|_| ()).tried(Op::Change, Object::Ports)
    }

    pub(super) fn release_ports(&self, ports: &PortSet) -> Result<(), PlatformError> {
        let _lock = self.root_lock()?;
        self.host.release_ports(ports).tried(Op::Change, Object::Ports)
    }
}

impl PortProbe for KernelPlatform {
    fn is_bound(&self, proto: Proto, address: IpAddr, port: u16) -> bool {
        let proto = match proto {
            Proto::Tcp => PortProto::Tcp,
            Proto::Udp => PortProto::Udp,
            Proto::Sctp => PortProto::Sctp,
        };
        self.has_listener(proto, port)
            && match probe::port_listener(self.host.netns(), proto, address, port) {
                Ok(found) => found.is_some(),
                Err(e) => {
                    tracing::warn!("{e}");
                    true
                }
            }
    }
}

pub(super) fn is_bpffs(at: &Path) -> bool {
    statfs(at).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC)
}
