//! Published ports.

use crate::pod::pod;
use crate::{Addr4, Addr6, Port};

/// Key of the published ports of one family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct PublishKey<A> {
    /// Host address; unspecified is the entry for any address of the host.
    pub addr: A,
    /// Host port.
    pub port: Port,
    /// IP protocol number.
    pub proto: u8,
    /// Padding, zero.
    pub _pad: u8,
}

/// Where one host port leads: a declaration, and the pod's port for this host port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PublishedPort {
    /// Index in the publishes.
    pub publish: u32,
    /// The pod's port.
    pub pod_port: Port,
    /// Padding, zero.
    pub _pad: u16,
}

/// A declaration: all of its ports move, drain and end together by one write here.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Publish {
    /// Endpoint slot of the backend.
    pub slot: u32,
    /// Bits of [`Publish::ACTIVE`] and the like.
    pub flags: u32,
    /// The store's id of the publish.
    pub owner: u64,
}

impl Publish {
    /// New flows are accepted. Without it existing flows go on and new ones are refused (drain).
    pub const ACTIVE: u32 = 1;
    /// Reachable from the host itself only (published on a loopback address).
    pub const LOOPBACK: u32 = 1 << 1;
}

pod!(PublishKey<Addr4>: size 8, align 4);
pod!(PublishKey<Addr6>: size 20, align 4);
pod!(PublishedPort: size 8, align 4);
pod!(Publish: size 16, align 8);
