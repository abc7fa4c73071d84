//! Cgroup hooks on sockets: the host's own processes and its published ports.
//!
//! A process of the host that aims at a published port, by a loopback address or any other of the host, is led to the
//! pod before the kernel chooses a route: its packets are those of the host to a pod, nothing with a loopback address
//! ever leaves `lo`, and nothing is translated per packet. The process sees the address it asked for as its peer.
//!
//! These run in the context of processes, where softirqs come in between: no per-CPU memory but a counter, which one
//! instruction adds to.
//!
//! What was bound to a loopback address by its process cannot be led away: the kernel finds no route from there to a pod, and
//! the call fails with EINVAL. `bpf_bind` refuses a socket that has a port, and translating packets on `lo` would need
//! `route_localnet`: an answer put in there has lost its route, and is a martian without. What is connected is not seen here
//! any more; user space ends it when the publish changes.
//!
//! A cgroup hook sees every process of the machine; whose socket is the host's is told by its network namespace.

use netns_ebpf_common::family::{Address, Family, Scope, V4, is_loopback, mix};
use netns_ebpf_common::host_socket::{HostPeer, HostPeerKey};
use netns_ebpf_common::network::Network;
use netns_ebpf_common::proto;
use netns_ebpf_common::publish::{Publish, PublishKey};
use netns_ebpf_common::{Addr4, Port};

use crate::maps::{self, AddrSteps, FamilyMaps};
use crate::socket::{Form, Socket};
use crate::stage::publish;

/// Keeps a key or value on an 8-byte boundary of the stack: the compiler copies addresses by 8 bytes wherever they lie, and the
/// verifier refuses that elsewhere.
#[repr(C, align(8))]
struct Aligned<T>(T);

/// The system call goes on.
const GO_ON: i32 = 1;
/// It fails.
const FAIL: i32 = 0;

/// Why a system call fails, as the kernel's error number.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Refusal {
    /// EPERM.
    NotAllowed = 1,
    /// EADDRINUSE.
    Taken = 98,
    /// ECONNREFUSED.
    Draining = 111,
    /// EHOSTUNREACH.
    Unreachable = 113,
}

/// `connect`, and datagrams with a destination of their own.
#[inline(always)]
pub fn aim<S: Form>(socket: &Socket) -> i32 {
    answer(socket, to_published::<S>(socket))
}

/// `bind`: a published port is taken, though no process holds a socket for it, and so is one of the SNAT range that pods use.
#[inline(always)]
pub fn bind<S: Form>(socket: &Socket) -> i32 {
    answer(socket, may_bind::<S>(socket))
}

/// `recvmsg` and `getpeername`: the peer is what the process asked for. These cannot fail.
#[inline(always)]
pub fn name_peer<S: Form>(socket: &Socket) -> i32 {
    if proto_of_host(socket).is_some() {
        let key = Aligned(HostPeerKey { socket: socket.cookie(), addr: S::addr(socket), port: socket.port(), _pad: 0 });
        if let Some(peer) = maps::host_peer::<S::Family>(&key.0) {
            S::set_addr(socket, peer.addr);
            socket.set_port(peer.port);
        }
    }
    GO_ON
}

#[inline(always)]
fn answer(socket: &Socket, outcome: Result<(), Refusal>) -> i32 {
    match outcome {
        Ok(()) => GO_ON,
        Err(refusal) => {
            socket.set_error(refusal as i32);
            FAIL
        }
    }
}

/// The socket's protocol, if it is a socket of the host and a protocol ports are published for.
#[inline(always)]
fn proto_of_host(socket: &Socket) -> Option<u8> {
    let proto = match socket.proto() {
        p if p == proto::TCP as u32 => proto::TCP,
        p if p == proto::UDP as u32 => proto::UDP,
        _ => return None,
    };
    (maps::host_netns()? == socket.netns()).then_some(proto)
}

#[inline(always)]
fn to_published<S: Form>(socket: &Socket) -> Result<(), Refusal> {
    // 1. The socket is the host's.
    let Some(proto) = proto_of_host(socket) else { return Ok(()) };

    // 2. It aims at an address of the host. A forward never catches traffic to somebody else's.
    let mut asked = Aligned(HostPeer { addr: S::addr(socket), port: socket.port(), publish: 0 });
    if asked.0.addr.is_unspecified() {
        // To the kernel, too, that is the loopback address, also when it says who the peer is.
        asked.0.addr = S::Family::LOOPBACK;
    }
    let addr = asked.0.addr;
    if !is_loopback(&addr) && !maps::is_host_addr::<S::Family>(addr) {
        return Ok(());
    }

    // 3. A port is published there. What a killed removal left leads nowhere.
    let mut key = Aligned(PublishKey { addr, port: asked.0.port, proto, _pad: 0 });
    let found = publish::at::<S::Family>(&mut key.0);
    let Some(found) = found.filter(|found| found.publish.owner != 0) else { return Ok(()) };

    // 4. The publish's list has the client. The kernel would give the process the address it aims at for its own.
    if !found.admits::<S::Family>(&asked.0.addr) {
        return Err(Refusal::NotAllowed);
    }

    // 5. The host has a way to the pod. Without one the packets would reach the pod of another network that has the same
    // address.
    // An unconnected socket asks for each of its datagrams, and shall stay with one pod.
    let [a, b, c, d, ..] = socket.cookie();
    let slot = found.slot::<S::Family>(&asked.0.addr, || mix(u32::from_ne_bytes([a, b, c, d])));
    let endpoint = maps::endpoint(slot).ok_or(Refusal::Unreachable)?;
    let network = maps::network(endpoint.network).ok_or(Refusal::Unreachable)?;
    let addr = *<S::Family as Family>::endpoint_addr(endpoint);
    if addr.is_unspecified() || network.flags & Network::HOST_ACCESS == 0 {
        return Err(Refusal::Unreachable);
    }

    // 6. The peer is remembered. The hooks that name it ask for that; while the publish drains, only who is known may go on.
    let key = Aligned(HostPeerKey { socket: socket.cookie(), addr, port: found.port.pod_port, _pad: 0 });
    let known = maps::host_peer::<S::Family>(&key.0);
    if known.is_none() && found.publish.flags & Publish::ACTIVE == 0 {
        return Err(Refusal::Draining);
    }
    if known.is_none() {
        maps::count_flow(found.id);
    }
    asked.0.publish = found.id as u16;
    if known != Some(asked.0) {
        maps::remember_host_peer::<S::Family>(&key.0, &asked.0);
    }

    // 7. The destination becomes the pod's.
    S::set_addr(socket, addr);
    socket.set_port(found.port.pod_port);
    Ok(())
}

#[inline(always)]
fn may_bind<S: Form>(socket: &Socket) -> Result<(), Refusal> {
    let Some(proto) = proto_of_host(socket) else { return Ok(()) };
    let port = socket.port();
    if port == Port([0; 2]) {
        return Ok(());
    }
    // The answers to a pod that has the port would be taken for the process's, or the other way round: it takes another one, as
    // whoever asks for a random one does. A socket that has it before is asked when a pod wants it. TCP's are told apart by their
    // peer, and what pods leave with is never a loopback address.
    let addr = Aligned(S::addr(socket));
    if proto == proto::UDP && !is_loopback(&addr.0) && maps::is_held(proto, port) {
        return Err(Refusal::Taken);
    }
    let mut key = Aligned(PublishKey { addr: S::addr(socket), port, proto, _pad: 0 });
    let mut any4 = Aligned(PublishKey { addr: Addr4::UNSPECIFIED, port, proto, _pad: 0 });
    // Whether it will take IPv6 only cannot be seen here; who wants that on a port published for IPv4 binds an address.
    let takes_ipv4 = S::DUAL && key.0.addr.is_unspecified();
    if is_taken::<S::Family>(&mut key.0) || takes_ipv4 && is_taken::<V4>(&mut any4.0) {
        return Err(Refusal::Taken);
    }
    Ok(())
}

/// Whether a publish has this port at this address, or at one of those the unspecified address stands for.
///
/// Out of line, so that the key stays whole in memory.
#[inline(never)]
fn is_taken<F: FamilyMaps>(key: &mut PublishKey<<F as Family>::Addr>) -> bool {
    if key.addr.is_unspecified() {
        if publish::at::<F>(key).is_some() {
            return true;
        }
        maps::each_host_addr::<F, _>(key);
        return !key.addr.is_unspecified();
    }
    match F::scope(&key.addr) {
        Scope::Unicast | Scope::Martian => publish::at::<F>(key).is_some(),
        // No publish is reached by these.
        Scope::Multicast | Scope::LinkLocal => false,
    }
}

/// The search for a publish at any one address of the host: it stops with that address, or ends with the unspecified one.
impl<F: FamilyMaps> AddrSteps<F> for PublishKey<<F as Family>::Addr> {
    #[inline(always)]
    fn step(&mut self, addr: <F as Family>::Addr) -> bool {
        self.addr = addr;
        let found = maps::published::<F>(self).is_some();
        if !found {
            self.addr = Default::default();
        }
        found
    }
}
