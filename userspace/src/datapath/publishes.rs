//! Published ports.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use aya::Pod;
use ipnet::IpNet;
use netns_ebpf_common::abi::map;
use netns_ebpf_common::counters::PublishCounters;
use netns_ebpf_common::publish::{Backends, Publish, PublishKey, PublishedPort};
use netns_ebpf_common::{Addr4, Addr6, Port};

use super::{Datapath, DatapathError, errno, map_error, or_absent};

/// The host ports of a declaration and the pod's ports they lead to, one to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishPorts {
    /// Host address; unspecified is any of its family, `None` any of both.
    pub addr: Option<IpAddr>,
    /// IP protocol number (`netns_ebpf_common::proto`).
    pub proto: u8,
    /// First host port.
    pub host_first: u16,
    /// First port of the pod.
    pub pod_first: u16,
    /// How many; neither range leaves the port space.
    pub count: u16,
}

impl PublishPorts {
    fn addr4(&self) -> Option<Addr4> {
        match self.addr {
            None => Some(Addr4::UNSPECIFIED),
            Some(IpAddr::V4(a)) => Some(a.into()),
            Some(IpAddr::V6(_)) => None,
        }
    }

    fn addr6(&self) -> Option<Addr6> {
        match self.addr {
            None => Some(Addr6::UNSPECIFIED),
            Some(IpAddr::V6(a)) => Some(a.into()),
            Some(IpAddr::V4(_)) => None,
        }
    }

    fn entries<A: Copy>(&self, addr: A, publish: u32) -> impl Iterator<Item = (PublishKey<A>, PublishedPort)> {
        let Self { proto, host_first, pod_first, count, .. } = *self;
        (0..count).map(move |i| {
            let key = PublishKey { addr, port: Port::new(host_first.saturating_add(i)), proto, _pad: 0 };
            (key, PublishedPort { publish, pod_port: Port::new(pod_first.saturating_add(i)), _pad: 0 })
        })
    }
}

impl Datapath {
    /// The declaration of this index; `None` when it is free.
    pub fn publish(&self, id: u32) -> Result<Option<Publish>, DatapathError> {
        let found = self.array::<Publish>(map::PUBLISHES)?.get(&id, 0);
        let found = found.map_err(|e| map_error(map::PUBLISHES, format!("read publish {id}"), e))?;
        Ok((found.owner != 0).then_some(found))
    }

    /// Declares a publish, then its ports. Repeating it, or changing the declaration, is fine.
    ///
    /// A port that leads to another live declaration is refused, and nothing is left of this one.
    /// `publish.owner` must not be 0, which marks a free index.
    pub fn put_publish(&self, id: u32, publish: &Publish, ports: &PublishPorts) -> Result<(), DatapathError> {
        let before = self.publish(id)?;
        match before {
            Some(b) if b.owner != publish.owner => return Err(not_ours(id, b.owner, publish)),
            Some(_) => {}
            None => self.clear_per_cpu::<PublishCounters>(map::PUBLISH_STATS, id)?,
        }
        self.set_publish(id, publish)?;
        let done = self
            .add_ports(map::PUBLISHED4, id, ports.addr4(), ports)
            .and_then(|()| self.add_ports(map::PUBLISHED6, id, ports.addr6(), ports));
        if done.is_err()
            && before.is_none()
            && let Err(e) = self.remove_publish(id, publish.owner, ports)
        {
            tracing::warn!("after a failed publish: {e}");
        }
        done
    }

    /// Changes a live declaration's backend or flags; its ports all follow.
    pub fn switch_publish(&self, id: u32, publish: &Publish) -> Result<(), DatapathError> {
        match self.publish(id)?.map_or(0, |live| live.owner) {
            owner if owner == publish.owner => self.set_publish(id, publish),
            owner => Err(not_ours(id, owner, publish)),
        }
    }

    /// Writes a declaration, whosever it was.
    pub fn set_publish(&self, id: u32, publish: &Publish) -> Result<(), DatapathError> {
        self.array::<Publish>(map::PUBLISHES)?
            .set(id, publish, 0)
            .map_err(|e| map_error(map::PUBLISHES, format!("write publish {id}"), e))
    }

    /// Sets the backends of a publish that has several, or removes them.
    pub fn set_backends(&self, id: u32, backends: Option<&Backends>) -> Result<(), DatapathError> {
        let mut map = self.hash::<u32, Backends>(map::BACKENDS)?;
        match backends {
            Some(backends) => map
                .insert(id, backends, 0)
                .map_err(|e| map_error(map::BACKENDS, format!("write the backends of publish {id}"), e)),
            None => or_absent(map::BACKENDS, format!("remove the backends of publish {id}"), map.remove(&id)),
        }
    }

    /// Adds prefixes clients of a restricted publish may come from.
    pub fn add_allowed(&self, id: u32, prefixes: &[IpNet]) -> Result<(), DatapathError> {
        self.add_prefixes([map::ALLOW4, map::ALLOW6], id, prefixes)
    }

    /// Makes the prefixes clients of a restricted publish may come from exactly these. An empty list means nobody. Takes
    /// time in proportion to the prefixes of all publishes.
    pub fn sync_allowed(&self, id: u32, prefixes: &[IpNet]) -> Result<(), DatapathError> {
        self.sync_prefixes([map::ALLOW4, map::ALLOW6], id, prefixes)
    }

    /// Takes a declaration's ports and what says where they lead. It stays itself, for the flows that have its index, until
    /// it is [freed](Self::free_publish).
    ///
    /// `false`: the index is another owner's. What a killed maker left at a free index goes all the same.
    pub fn withdraw_publish(&self, id: u32, owner: u64, ports: &PublishPorts) -> Result<bool, DatapathError> {
        let found = self.publish(id)?;
        if found.is_some_and(|found| found.owner != owner) {
            return Ok(false);
        }
        if let Some(found) = found {
            self.withdraw_ports(id, ports)?;
            self.set_publish(id, &Publish { flags: found.flags & !Publish::ACTIVE, ..found })?;
        }
        self.set_backends(id, None)?;
        if found.is_none_or(|found| found.flags & Publish::RESTRICTED != 0) {
            self.sync_allowed(id, &[])?;
        }
        Ok(true)
    }

    /// Gives the index of a withdrawn declaration to whoever comes next; no flow has it any more.
    pub fn free_publish(&self, id: u32) -> Result<(), DatapathError> {
        self.set_publish(id, &Publish::default())
    }

    /// Lets the index of a withdrawn declaration [rest](Publish::RESTING) until its flows are swept.
    pub fn rest_publish(&self, id: u32) -> Result<(), DatapathError> {
        match self.publish(id)? {
            Some(found) => {
                self.set_publish(id, &Publish { flags: Publish::RESTING, ..found })?;
                self.mark_resting()
            }
            None => Ok(()),
        }
    }

    /// Whether an index rests.
    pub fn publish_rests(&self, id: u32) -> Result<bool, DatapathError> {
        Ok(self.publish(id)?.is_some_and(|found| found.is_resting()))
    }

    /// The indexes that rest, each with its former owner.
    pub(super) fn resting_publishes(&self) -> Result<impl Iterator<Item = (u32, u64)>, DatapathError> {
        let all = self.array::<Publish>(map::PUBLISHES)?.iter().collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|e| map_error(map::PUBLISHES, "list publishes", e))?;
        Ok((0..).zip(all).filter(|(_, p)| p.is_resting()).map(|(id, p)| (id, p.owner)))
    }

    /// Ends the rest of an index, if it is still this owner's.
    pub(super) fn wake_publish(&self, id: u32, owner: u64) -> Result<(), DatapathError> {
        match self.publish(id)? {
            Some(found) if found.is_resting() && found.owner == owner => self.free_publish(id),
            _ => Ok(()),
        }
    }

    /// Removes a declaration no flow has: its ports, and the declaration. `false`: the index is another owner's.
    pub fn remove_publish(&self, id: u32, owner: u64, ports: &PublishPorts) -> Result<bool, DatapathError> {
        let ours = self.withdraw_publish(id, owner, ports)?;
        if ours {
            self.free_publish(id)?;
        }
        Ok(ours)
    }

    /// Removes the ports that lead to a declaration.
    pub fn withdraw_ports(&self, id: u32, ports: &PublishPorts) -> Result<(), DatapathError> {
        self.remove_ports(map::PUBLISHED4, id, ports.addr4(), ports)?;
        self.remove_ports(map::PUBLISHED6, id, ports.addr6(), ports)
    }

    /// The host's ports that are published, in order.
    pub fn published_ports(&self) -> Result<BTreeSet<u16>, DatapathError> {
        let mut ports = self.published_ports_of::<Addr4>(map::PUBLISHED4)?;
        ports.append(&mut self.published_ports_of::<Addr6>(map::PUBLISHED6)?);
        Ok(ports)
    }

    fn published_ports_of<A>(&self, name: &'static str) -> Result<BTreeSet<u16>, DatapathError>
    where
        PublishKey<A>: Pod,
    {
        let keys = self.hash::<PublishKey<A>, PublishedPort>(name)?;
        let ports = keys.keys().map(|key| key.map(|key| key.port.get())).collect::<Result<_, _>>();
        ports.map_err(|e| map_error(name, "list published ports", e))
    }

    fn add_ports<A>(
        &self,
        name: &'static str,
        id: u32,
        addr: Option<A>,
        ports: &PublishPorts,
    ) -> Result<(), DatapathError>
    where
        A: Copy + Into<IpAddr>,
        PublishKey<A>: Pod,
    {
        const BPF_NOEXIST: u64 = 1;
        let Some(addr) = addr else { return Ok(()) };
        let mut published = self.hash::<PublishKey<A>, PublishedPort>(name)?;
        for (key, value) in ports.entries(addr, id) {
            let what = || format!("publish {}", Shown(&key));
            match published.insert(key, value, BPF_NOEXIST) {
                Ok(()) => continue,
                Err(e) if errno(&e) == Some(nix::libc::EEXIST) => {}
                Err(e) => return Err(map_error(name, what(), e)),
            }
            let found = published.get(&key, 0).map_err(|e| map_error(name, what(), e))?;
            // An entry whose declaration is gone was left by a removal that was killed; it leads nowhere.
            if found.publish != id && self.publish(found.publish)?.is_some() {
                return Err(DatapathError::Published { port: Shown(&key).to_string(), publish: found.publish });
            }
            published.insert(key, value, 0).map_err(|e| map_error(name, what(), e))?;
        }
        Ok(())
    }

    fn remove_ports<A>(
        &self,
        name: &'static str,
        id: u32,
        addr: Option<A>,
        ports: &PublishPorts,
    ) -> Result<(), DatapathError>
    where
        A: Copy + Into<IpAddr>,
        PublishKey<A>: Pod,
    {
        let Some(addr) = addr else { return Ok(()) };
        let mut published = self.hash::<PublishKey<A>, PublishedPort>(name)?;
        for (key, _) in ports.entries(addr, id) {
            match published.get(&key, 0) {
                Ok(found) if found.publish == id => {
                    or_absent(name, format!("remove {}", Shown(&key)), published.remove(&key))?;
                }
                Ok(_) => {}
                Err(e) => or_absent(name, format!("find {}", Shown(&key)), Err(e))?,
            }
        }
        Ok(())
    }
}

fn not_ours(id: u32, found: u64, publish: &Publish) -> DatapathError {
    DatapathError::Owner { what: format!("publish {id}"), found, ours: publish.owner }
}

/// A key as people write it.
struct Shown<'a, A>(&'a PublishKey<A>);

impl<A: Copy + Into<IpAddr>> fmt::Display for Shown<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(key) = self;
        write!(f, "{}/{}", SocketAddr::new(key.addr.into(), key.port.get()), key.proto)
    }
}
