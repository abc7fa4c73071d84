//! The socket of a cgroup hook and the address at hand there: all accesses to the hook's context are made here.
#![expect(unsafe_code, reason = "the hook's context and kernel helpers")]

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::SockAddrContext;
use netns_ebpf_common::family::{Family, V4, V6};
use netns_ebpf_common::{Addr4, Addr6, Port};

use crate::maps::FamilyMaps;

/// The third word of an IPv4-mapped address (RFC 4291 section 2.5.5.2); the two before it are zero.
const MAPPED: [u8; 4] = [0, 0, 0xff, 0xff];

/// A process's socket, and the address it gave or is about to be given.
pub struct Socket {
    ctx: SockAddrContext,
}

impl Socket {
    /// The socket of this run.
    #[inline(always)]
    pub fn new(ctx: SockAddrContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn ptr(&self) -> *mut bpf_sock_addr {
        self.ctx.sock_addr
    }

    /// Cookie of the socket's network namespace (kernel 5.7, commit f318903c0bf4).
    #[inline(always)]
    pub fn netns(&self) -> u64 {
        // SAFETY: the context is valid for the whole run.
        unsafe { helpers::bpf_get_netns_cookie(self.ptr().cast()) }
    }

    /// The socket's cookie.
    #[inline(always)]
    pub fn cookie(&self) -> [u8; 8] {
        // SAFETY: as in `netns`.
        unsafe { helpers::bpf_get_socket_cookie(self.ptr().cast()) }.to_ne_bytes()
    }

    /// IP protocol number.
    #[inline(always)]
    pub fn proto(&self) -> u32 {
        // SAFETY: as in `netns`; the verifier turns the load into one of the kernel's field. Volatile, here and below, so
        // that the compiler merges no two of them into one the verifier does not know.
        unsafe { addr_of!((*self.ptr()).protocol).read_volatile() }
    }

    /// The port.
    #[inline(always)]
    pub fn port(&self) -> Port {
        // SAFETY: as in `proto`. The field holds the port in network order in its first two bytes.
        let [a, b, ..] = unsafe { addr_of!((*self.ptr()).user_port).read_volatile() }.to_ne_bytes();
        Port([a, b])
    }

    /// Replaces the port.
    #[inline(always)]
    pub fn set_port(&self, port: Port) {
        let [a, b] = port.0;
        // SAFETY: as in `proto`; the hooks this is used at may write the field.
        unsafe { addr_of_mut!((*self.ptr()).user_port).write_volatile(u32::from_ne_bytes([a, b, 0, 0])) };
    }

    /// Whether the IPv6 address is an IPv4 one in disguise: a socket of both families talks to IPv4.
    #[inline(always)]
    pub fn is_mapped(&self) -> bool {
        self.word6(0) == [0; 4] && self.word6(1) == [0; 4] && self.word6(2) == MAPPED
    }

    /// Sets what the process gets as the error, with which the hook's "no" is not just "not permitted" (kernel 5.18,
    /// commit b44123b4a3dc).
    #[inline(always)]
    pub fn set_error(&self, errno: i32) {
        // SAFETY: a plain number.
        unsafe { helpers::bpf_set_retval(-errno) };
    }

    #[inline(always)]
    fn word6(&self, i: usize) -> [u8; 4] {
        // SAFETY: as in `proto`; every caller passes a constant below 4.
        unsafe { addr_of!((*self.ptr()).user_ip6[i]).read_volatile() }.to_ne_bytes()
    }

    #[inline(always)]
    fn set_word6(&self, i: usize, word: [u8; 4]) {
        // SAFETY: as in `word6` and `set_port`.
        unsafe { addr_of_mut!((*self.ptr()).user_ip6[i]).write_volatile(u32::from_ne_bytes(word)) };
    }
}

/// How an address of a family lies in the context.
pub trait Form {
    /// The family.
    type Family: FamilyMaps;
    /// Whether a socket bound to the unspecified address may take IPv4 as well.
    const DUAL: bool;

    /// The address.
    fn addr(socket: &Socket) -> <Self::Family as Family>::Addr;

    /// Replaces it.
    fn set_addr(socket: &Socket, addr: <Self::Family as Family>::Addr);
}

/// IPv4.
pub struct Inet4;

/// IPv4 at an IPv6 socket.
pub struct Mapped4;

/// IPv6.
pub struct Inet6;

impl Form for Inet4 {
    type Family = V4;
    const DUAL: bool = false;

    #[inline(always)]
    fn addr(socket: &Socket) -> Addr4 {
        // SAFETY: as in `Socket::proto`.
        Addr4(unsafe { addr_of!((*socket.ptr()).user_ip4).read_volatile() }.to_ne_bytes())
    }

    #[inline(always)]
    fn set_addr(socket: &Socket, addr: Addr4) {
        // SAFETY: as in `Socket::set_port`.
        unsafe { addr_of_mut!((*socket.ptr()).user_ip4).write_volatile(u32::from_ne_bytes(addr.0)) };
    }
}

impl Form for Mapped4 {
    type Family = V4;
    const DUAL: bool = false;

    #[inline(always)]
    fn addr(socket: &Socket) -> Addr4 {
        Addr4(socket.word6(3))
    }

    #[inline(always)]
    fn set_addr(socket: &Socket, addr: Addr4) {
        socket.set_word6(3, addr.0);
    }
}

impl Form for Inet6 {
    type Family = V6;
    const DUAL: bool = true;

    #[inline(always)]
    fn addr(socket: &Socket) -> Addr6 {
        let words = [socket.word6(0), socket.word6(1), socket.word6(2), socket.word6(3)];
        // SAFETY: both are 16 bytes of which every pattern is a value. By words, not by bytes: out of bytes the compiler makes
        // accesses to the stack at odd places, which the verifier refuses.
        Addr6(unsafe { core::mem::transmute::<[[u8; 4]; 4], [u8; 16]>(words) })
    }

    #[inline(always)]
    fn set_addr(socket: &Socket, addr: Addr6) {
        let a = addr.0;
        socket.set_word6(0, [a[0], a[1], a[2], a[3]]);
        socket.set_word6(1, [a[4], a[5], a[6], a[7]]);
        socket.set_word6(2, [a[8], a[9], a[10], a[11]]);
        socket.set_word6(3, [a[12], a[13], a[14], a[15]]);
    }
}
