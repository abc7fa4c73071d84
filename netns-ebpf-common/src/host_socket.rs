//! Sockets of the host that reach published ports: the hooks, and what is remembered of a socket's peers.

use crate::abi::{MAX_PUBLISHES, program};
use crate::plain;
use crate::{Addr4, Addr6, Port};

/// The socket hooks, each a program of its own on the root of the cgroup v2 hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketHook {
    /// `connect` of an IPv4 socket.
    Connect4,
    /// `connect` of an IPv6 socket.
    Connect6,
    /// A datagram with a destination of its own, to IPv4.
    Sendmsg4,
    /// The same, to IPv6.
    Sendmsg6,
    /// The sender's address of a datagram that came to an IPv4 socket.
    Recvmsg4,
    /// The same, to an IPv6 socket.
    Recvmsg6,
    /// `getpeername` of an IPv4 socket.
    Getpeername4,
    /// `getpeername` of an IPv6 socket.
    Getpeername6,
    /// `bind` of an IPv4 socket.
    Bind4,
    /// `bind` of an IPv6 socket.
    Bind6,
}

impl SocketHook {
    /// All of them. The answering side comes first: attached in this order, no socket is led to a pod whose datagrams
    /// would then come back from an address it never sent to.
    pub const ALL: [Self; 10] = [
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Bind4,
        Self::Bind6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// The program's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect4 => program::CONNECT4,
            Self::Connect6 => program::CONNECT6,
            Self::Sendmsg4 => program::SENDMSG4,
            Self::Sendmsg6 => program::SENDMSG6,
            Self::Recvmsg4 => program::RECVMSG4,
            Self::Recvmsg6 => program::RECVMSG6,
            Self::Getpeername4 => program::GETPEERNAME4,
            Self::Getpeername6 => program::GETPEERNAME6,
            Self::Bind4 => program::BIND4,
            Self::Bind6 => program::BIND6,
        }
    }
}

/// A socket and the peer the kernel sees: a pod's address and port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HostPeerKey<A> {
    /// The socket's cookie as the kernel's bytes: never given to another socket.
    pub socket: [u8; 8],
    /// The pod's address.
    pub addr: A,
    /// The pod's port.
    pub port: Port,
    /// Padding, zero.
    pub _pad: u16,
}

/// The peer the process asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HostPeer<A> {
    /// Address.
    pub addr: A,
    /// Port.
    pub port: Port,
    /// Index of the publish that led to the pod, or [`HostPeer::NO_PUBLISH`].
    pub publish: u16,
}

impl<A> HostPeer<A> {
    /// The publish is gone.
    pub const NO_PUBLISH: u16 = u16::MAX;
}

const _: () = assert!(MAX_PUBLISHES <= HostPeer::<Addr4>::NO_PUBLISH as u32);

plain!(HostPeerKey<Addr4 | Addr6> { socket, addr, port, _pad }: size 16 | 28, align 4);
plain!(HostPeer<Addr4 | Addr6> { addr, port, publish }: size 8 | 20, align 4);
