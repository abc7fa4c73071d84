//! The kernel side as it is: wiring, maps, namespaces and settings.

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use ipnet::IpNet;
use netns_ebpf_common::host::HostConfig;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::dirs::{BPFFS, STATE_ROOT, note_run_dir};
use super::specs::{id16, netns_name, network_spec, publish_spec, publish_specs};
use super::{Dirs, Ending, Fabric, FabricError};
use crate::datapath::{Datapath, Sizes, ensure_bpffs, unmount_bpffs};
use crate::netlink::RouteKind;
use crate::netns::NetnsId;
use crate::netns::{Netns, delete_named, list_named};
use crate::probe::{self, Listener, PortProto};
use crate::store::{AttachmentRow, InstanceRow, NetworkRow, PodRow, PublishRow, State, UplinkRow};
use crate::sysctl::{self, PortSet};
use crate::topology::{Behaviour, Flows, HostFacts, HostRoute, Interface, Nat, PortProbe, Proto};
use crate::wiring::{Host, PodSpec, default_uplinks, gateway_ifindex, gateway_ifname, gateway_mac, host_ifname};

/// Marks, in the state root, that bpffs was mounted by us and is to be unmounted by the last instance.
const BPFFS_MARK: &str = "bpffs-mounted";

/// The kernel, seen from one host namespace.
#[derive(Debug)]
pub struct KernelFabric {
    dirs: Dirs,
    host: Host,
    listeners: RefCell<[Option<Vec<Listener>>; 3]>,
}

impl KernelFabric {
    /// Whether the kernel gives odd ports to those of the host who ask for none, as a setting of the data path.
    fn host_takes_odd(&self) -> u32 {
        let ports = self.host.netns().run(sysctl::local_ports).ok().and_then(Result::ok);
        let first = ports.and_then(|ports| ports.ranges().next().map(|range| *range.start()));
        if first.is_some_and(|port| port & 1 == 1) { HostConfig::HOST_TAKES_ODD } else { 0 }
    }

    /// The kernel side of the instance of these directories whose host is `netns`.
    ///
    /// # Errors
    ///
    /// No netlink socket can be opened there.
    pub fn new(dirs: &Dirs, netns: Netns) -> Result<Self, FabricError> {
        // A data path is a directory of pins: nothing is there to be opened before the instance is up.
        let host = Host::new(dirs.name(), netns, Datapath::for_removal(dirs.pins()))
            .map_err(|e| FabricError::step("open the host's namespace", e))?;
        Ok(Self { dirs: dirs.clone(), host, listeners: RefCell::default() })
    }

    /// The compound steps and what is below them.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    fn is_loaded(&self) -> bool {
        Datapath::open(self.dirs.pins()).is_ok()
    }

    /// Held while what all instances share is read and changed: bpffs, the list of reserved ports. What is locked is a directory only
    /// root can open.
    fn root_lock(&self) -> Result<Option<Flock<File>>, FabricError> {
        let Some(root) = self.dirs.state().parent() else { return Ok(None) };
        let fail = |e: io::Error| FabricError::step(format!("lock {}", root.display()), e);
        let dir = match File::open(root) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail(e)),
        };
        Flock::lock(dir, FlockArg::LockExclusive).map(Some).map_err(|(_, e)| fail(e.into()))
    }

    fn mount_bpffs(&self) -> Result<(), FabricError> {
        let at = Path::new(BPFFS);
        let fail = |e: io::Error| FabricError::step(format!("look at {BPFFS}"), e);
        let mounted = statfs(at).map_err(|e| fail(e.into()))?.filesystem_type() == BPF_FS_MAGIC;
        if mounted {
            return Ok(());
        }
        if let Some(root) = self.dirs.state().parent() {
            // Before it is mounted: whoever is killed in between has left a mark that is right or harmless.
            fs::write(root.join(BPFFS_MARK), "").map_err(fail)?;
        }
        ensure_bpffs(at).map(|_| ()).map_err(|e| FabricError::step("mount bpffs", e))
    }

    fn unmount_bpffs(&self) -> Result<(), FabricError> {
        let Some(root) = self.dirs.state().parent() else { return Ok(()) };
        let mark = root.join(BPFFS_MARK);
        if !mark.exists() {
            return Ok(());
        }
        let at = Path::new(BPFFS);
        let unmounted = unmount_bpffs(at).map_err(|e| FabricError::step("unmount bpffs", e))?;
        let gone = statfs(at).is_ok_and(|s| s.filesystem_type() != BPF_FS_MAGIC);
        if unmounted || gone {
            fs::remove_file(&mark).map_err(|e| FabricError::step(format!("remove {}", mark.display()), e))?;
        } else if self.dirs.pins().parent().is_some_and(|p| !p.exists()) {
            // Somebody else pinned something meanwhile, or looks at it: it is theirs now.
            tracing::info!("{BPFFS} stays mounted: it is in use");
            let _ = fs::remove_file(&mark);
        }
        Ok(())
    }

    fn read_facts(&self, state: &State, with_routes: bool) -> Result<HostFacts, FabricError> {
        let fail = |e| FabricError::step("read the host's network", e);
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
        let namespaces = list_named().map_err(|e| FabricError::step("list network namespaces", e))?;
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

    /// Gives the data path the timers and limits of the row.
    fn sync_nat(&self, instance: &InstanceRow) -> Result<(), FabricError> {
        let fail = |e| FabricError::step("write the settings", e);
        let found = self.host.datapath().host_config().map_err(fail)?;
        let wanted = with_nat(found, &instance.nat);
        if wanted == found {
            return Ok(());
        }
        self.host.datapath().set_host_config(&wanted).map_err(fail)
    }

    /// Brings what the programs know of an uplink up to date; its index, the former one while it is away.
    fn refresh_uplink(&self, uplink: &UplinkRow) -> Result<u32, FabricError> {
        let UplinkRow { name, ifindex } = uplink;
        let forget = |e| FabricError::step(format!("forget the former uplink {name:?}"), e);
        let present = self.host.netlink().link_by_name(name);
        if present.map_err(|e| FabricError::step(format!("find uplink {name:?}"), e))?.is_none() {
            tracing::warn!("uplink {name:?} is gone: no pod reaches the LAN by it until it is back");
            self.host.unwire_uplink(*ifindex).map_err(forget)?;
            return Ok(*ifindex);
        }
        let state = self.host.wire_uplink(name);
        let state = state.map_err(|e| FabricError::step(format!("attach to uplink {name:?}"), e))?;
        if state.ifindex != *ifindex {
            self.host.unwire_uplink(*ifindex).map_err(forget)?;
        }
        Ok(state.ifindex)
    }

    /// Deletes a device of ours without the data path's help, for when its pins are lost.
    fn delete_device(&self, index: u32, name: &str, mac: netns_ebpf_common::Mac) -> Result<(), FabricError> {
        let fail = |e| FabricError::step(format!("delete interface {name:?}"), e);
        let link = self.host.netlink().link_by_index(index).map_err(fail)?;
        if link.is_some_and(|l| l.name == name && l.mac == Some(mac)) {
            self.host.netlink().delete_link(index, name).map_err(fail)?;
        }
        Ok(())
    }
}

impl PortProbe for KernelFabric {
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

impl Fabric for KernelFabric {
    fn check(&self) -> Result<(), FabricError> {
        let unsupported = |e: probe::ProbeError| FabricError::Unsupported(e.to_string());
        probe::privileges().map_err(unsupported)?;
        probe::features().map(|_| ()).map_err(unsupported)
    }

    fn host_id(&self) -> String {
        let id = self.host.netns().id();
        format!("{}:{}", id.dev, id.ino)
    }

    fn facts(&self, state: &State, routes: bool) -> Result<HostFacts, FabricError> {
        self.listeners.take();
        self.read_facts(state, routes)
    }

    fn local_ports(&self) -> Result<String, FabricError> {
        let read = self.host.netns().run(sysctl::local_ports);
        let read = read.map_err(|e| FabricError::step("enter the host's namespace", e))?;
        Ok(read.map_err(|e| FabricError::step("read the kernel's range of ports", e))?.to_string())
    }

    fn unreserved(&self, ports: &str) -> Result<String, FabricError> {
        let wanted = port_set(ports)?;
        let before = self
            .host
            .netns()
            .run(sysctl::reserved_ports)
            .map_err(|e| FabricError::step("enter the host's namespace", e))?
            .map_err(|e| FabricError::step("read the reserved ports", e))?;
        Ok(wanted.difference(&before).to_string())
    }

    fn reserve(&self, ports: &str) -> Result<(), FabricError> {
        let ports = port_set(ports)?;
        let _lock = self.root_lock()?;
        let done = self.host.netns().run(|| sysctl::reserve_ports(&ports));
        done.map_err(|e| FabricError::step("enter the host's namespace", e))?
            .map(|_| ())
            .map_err(|e| FabricError::step("reserve ports", e))
    }

    fn release(&self, ports: &str) -> Result<(), FabricError> {
        let _lock = self.root_lock()?;
        self.host.release_ports(&port_set(ports)?).map_err(|e| FabricError::step("give reserved ports back", e))
    }

    fn load(&mut self, instance: &InstanceRow) -> Result<(), FabricError> {
        let _lock = self.root_lock()?;
        self.mount_bpffs()?;
        if let Some(root) = self.dirs.pins().parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(root)
                .map_err(|e| FabricError::step(format!("create {}", root.display()), e))?;
        }
        let datapath = Datapath::load(self.dirs.pins(), &Sizes::default())
            .map_err(|e| FabricError::step("load the programs", e))?;
        let features = probe::features().map_err(|e| FabricError::Unsupported(e.to_string()))?;
        let config = HostConfig {
            snat_port_min: instance.host.snat_ports.start(),
            snat_port_max: instance.host.snat_ports.end(),
            flags: if features.csum_ipv6 { HostConfig::CSUM_IPV6 } else { 0 } | self.host_takes_odd(),
            ..HostConfig::default()
        };
        let config = with_nat(config, &instance.nat);
        datapath.set_host_config(&config).map_err(|e| FabricError::step("write the settings", e))?;
        if let Err(e) = self.host.wire_host_sockets() {
            tracing::warn!("processes of this host cannot reach published ports: {e}");
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), FabricError> {
        Datapath::open(self.dirs.pins())
            .map(|_| ())
            .map_err(|e| FabricError::step("open the data path (`netns down` and `netns up` make it anew)", e))
    }

    fn unload(&mut self) -> Result<(), FabricError> {
        let _lock = self.root_lock()?;
        if !is_bpffs(Path::new(BPFFS)) {
            // Unmounted by somebody, with everything in it: only the mark is left.
            return self.unmount_bpffs();
        }
        self.host.datapath().unload().map_err(|e| FabricError::step("remove the pins", e))?;
        if let Some(root) = self.dirs.pins().parent() {
            // Not empty: another instance is up.
            let _ = fs::remove_dir(root);
        }
        self.unmount_bpffs()
    }

    fn add_uplinks(&mut self, instance: &InstanceRow) -> Result<(), FabricError> {
        for UplinkRow { name, .. } in &instance.uplinks {
            let done = self.host.wire_uplink(name);
            done.map_err(|e| FabricError::step(format!("attach to uplink {name:?}"), e))?;
        }
        Ok(())
    }

    fn remove_uplinks(&mut self, instance: &InstanceRow) -> Result<(), FabricError> {
        if !self.is_loaded() {
            return Ok(());
        }
        for UplinkRow { name, ifindex } in &instance.uplinks {
            let done = self.host.unwire_uplink(*ifindex);
            done.map_err(|e| FabricError::step(format!("detach from uplink {name:?}"), e))?;
        }
        Ok(())
    }

    fn refresh(&mut self, instance: &InstanceRow) -> Result<Vec<UplinkRow>, FabricError> {
        self.sync_nat(instance)?;
        let stale = |e| FabricError::step("end flows of former addresses", e);
        let before = self.host.datapath().uplinks().map_err(stale)?;
        let went = self.host.sync_host_addresses();
        let went = went.map_err(|e| FabricError::step("read the host's addresses", e))?;
        let mut uplinks = instance.uplinks.clone();
        for uplink in &mut uplinks {
            uplink.ifindex = self.refresh_uplink(uplink)?;
        }
        // A program that runs now may still make a flow of what was before.
        if went || self.host.datapath().uplinks().map_err(stale)? != before {
            self.host.datapath().wait_for_programs().map_err(stale)?;
        }
        let ended = self.host.datapath().end_stale_flows().map_err(stale)?;
        if ended > 0 {
            tracing::debug!("ended {ended} flow entries of former addresses");
        }
        let rerouted = self.host.end_rerouted_flows();
        rerouted.map_err(|e| FabricError::step("end flows of former routes", e))?;
        Ok(uplinks)
    }

    fn refresh_networks(&mut self, networks: &[NetworkRow]) -> Result<(), FabricError> {
        let some = networks.iter().any(|n| n.network.mapping == Behaviour::EndpointIndependent);
        self.host.datapath().set_mappings(some).map_err(|e| FabricError::step("write the settings", e))?;
        let pools: Vec<_> = networks.iter().map(|n| (id16(n.id), n.network.snat_address.as_slice())).collect();
        let done = self.host.sync_snat_pools(&pools);
        done.map_err(|e| FabricError::step("read the host's SNAT addresses", e))?;
        let ids: Vec<_> = networks.iter().map(|n| id16(n.id)).collect();
        self.host.keep_forwarding(&ids).map_err(|e| FabricError::step("switch gateway devices to forwarding", e))
    }

    fn expire_flows(&self, limit: usize) -> Result<usize, FabricError> {
        self.host.datapath().expire_flows(limit).map_err(|e| FabricError::step("sweep the flow table", e))
    }

    fn add_network(&mut self, network: &NetworkRow) -> Result<(), FabricError> {
        let done = self.host.wire_gateway(&network_spec(network));
        done.map_err(|e| FabricError::step(format!("make network {:?}", network.network.name), e))
    }

    fn remove_network(&mut self, network: &NetworkRow) -> Result<(), FabricError> {
        let id = id16(network.id);
        if !self.is_loaded() {
            let mac = gateway_mac(self.dirs.name(), id);
            return self.delete_device(gateway_ifindex(id), &gateway_ifname(id), mac);
        }
        let done = self.host.unwire_gateway(id);
        done.map_err(|e| FabricError::step(format!("remove network {:?}", network.network.name), e))
    }

    fn add_netns(&mut self, pod: &PodRow) -> Result<NetnsId, FabricError> {
        let failed = |e| FabricError::step("make the directory of network namespaces", e);
        note_run_dir(Path::new(STATE_ROOT)).map_err(failed)?;
        match Netns::create_named(&netns_name(pod)?) {
            Ok(made) => Ok(made.id()),
            Err(e) if e.is_exists() => Err(FabricError::Exists(format!("network namespace {:?}", pod.name))),
            Err(e) => Err(FabricError::step(format!("make network namespace {:?}", pod.name), e)),
        }
    }

    fn remove_netns(&mut self, pod: &PodRow) -> Result<(), FabricError> {
        match delete_named(&netns_name(pod)?) {
            Err(e) if !e.is_absent() => Err(FabricError::step(format!("delete network namespace {:?}", pod.name), e)),
            _ => Ok(()),
        }
    }

    fn add_attachment(&mut self, row: &AttachmentRow, all: &State) -> Result<(), FabricError> {
        let (Some(pod), Some(network)) = (all.pod_of(row.id), all.network(row.network)) else { return Ok(()) };
        let spec =
            PodSpec { owner: row.id, slot: row.slot, netns: netns_name(pod)?, addr4: row.addr4, addr6: row.addr6 };
        let done = self.host.wire_pod(&network_spec(network), &spec);
        done.map_err(|e| FabricError::step(format!("connect pod {:?}", pod.name), e))
    }

    fn remove_attachment(&mut self, row: &AttachmentRow, all: &State) -> Result<(), FabricError> {
        if !self.is_loaded() {
            let mac = gateway_mac(self.dirs.name(), id16(row.network));
            return self.delete_device(row.ifindex, &host_ifname(row.slot), mac);
        }
        let done = self.host.unwire_pod(row.slot, row.id);
        done.map(|_| ()).map_err(|e| FabricError::step(format!("disconnect pod {:?}", all.pod_name(row.id)), e))
    }

    fn add_publish(&mut self, publish: &PublishRow, all: &State) -> Result<(), FabricError> {
        if publish.publish.is_loopback() && !self.host.datapath().has_socket_hooks() {
            tracing::warn!("{} is reached by nobody: it takes the socket hooks, which are off", publish.publish);
        }
        let done = self.host.wire_publish(&publish_spec(publish, all));
        done.map_err(|e| FabricError::step(format!("publish {}", publish.publish), e))
    }

    fn switch_publishes(&mut self, publishes: &[PublishRow], all: &State) -> Result<(), FabricError> {
        let done = self.host.switch_publishes(&publish_specs(publishes, all), netns_of(all));
        done.map_err(|e| FabricError::step(format!("switch {}", listed(publishes)), e))
    }

    fn remove_publishes(&mut self, publishes: &[PublishRow], ending: Ending, all: &State) -> Result<(), FabricError> {
        if !self.is_loaded() {
            return Ok(());
        }
        let specs = publish_specs(publishes, all);
        let done = match ending {
            Ending::RunOn => self.host.unwire_publishes(&specs).map(drop),
            Ending::Reset => {
                let reset = self.host.reset_publishes(&specs, netns_of(all));
                reset.and_then(|()| self.host.unwire_publishes(&specs).map(drop))
            }
            Ending::WithMaps => specs.iter().try_for_each(|spec| self.host.forget_publish(spec)),
        };
        done.map_err(|e| FabricError::step(format!("withdraw {}", listed(publishes)), e))
    }
}

/// Publishes, as a message names them.
fn listed(publishes: &[PublishRow]) -> String {
    /// More than these are counted.
    const NAMED: usize = 3;
    let mut words: Vec<_> = publishes.iter().take(NAMED).map(|row| row.publish.to_string()).collect();
    if publishes.len() > NAMED {
        words.push(format!("{} more", publishes.len() - NAMED));
    }
    words.join(", ")
}

/// Settings with those of `[nat]`.
fn with_nat(config: HostConfig, nat: &Nat) -> HostConfig {
    HostConfig {
        timeout_ns: nat.timeouts.by_class(),
        flows: nat.flows.get(),
        flows_per_pod: nat.flows_per_pod.map_or(0, Flows::get),
        ..config
    }
}

/// Finds the namespace of the pod in a slot.
fn netns_of(all: &State) -> impl Fn(u32) -> Option<Netns> {
    move |slot| {
        let pod = all.pod_of(all.attachments.iter().find(|a| a.slot == slot)?.id)?;
        Netns::open_named(&netns_name(pod).ok()?).ok()
    }
}

fn is_bpffs(at: &Path) -> bool {
    statfs(at).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC)
}

fn port_set(ports: &str) -> Result<PortSet, FabricError> {
    ports.parse().map_err(|e| FabricError::step(format!("read ports {ports:?}"), e))
}
