//! The packet and every kernel helper that touches it: all packet pointers of the programs are made here.
#![expect(unsafe_code, reason = "packet memory and kernel helpers")]

use core::mem;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM, BPF_TCP_CLOSE, BPF_TCP_ESTABLISHED, BPF_TCP_LISTEN,
    BPF_TCP_TIME_WAIT, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_fib_lookup, bpf_sock_tuple,
};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::TcContext;
use netns_ebpf_common::csum::Sum;
use netns_ebpf_common::family::Address;
use netns_ebpf_common::flow::FlowTuple;
use netns_ebpf_common::hdr::{Frame, Walk};
use netns_ebpf_common::plain::Plain;
use netns_ebpf_common::skb::PartialCsum;
use netns_ebpf_common::verdict::DropReason;
#[cfg(feature = "trace")]
use netns_ebpf_common::{counters::Hook, verdict::Verdict};

use crate::{conntrack, skb};

/// Ethernet, IPv6 and TCP without options: what nearly every packet is judged by.
pub const USUAL_HEADERS_BYTES: usize = 74;

/// With extension headers or the packet an ICMP error quotes; the rest of a packet may stay in fragments.
pub const ALL_HEADERS_BYTES: usize = 256;

/// Mark of a pod's packet that comes back in by the uplink. It is taken off when it has.
pub const MARK_HAIRPIN: u32 = 0x6e6e_6801;

/// Mark of a copy that is the host's, whatever flow it belongs to.
pub const MARK_HOSTS: u32 = 0x6e6e_6802;

/// A packet at a TC hook.
///
/// Headers are read and written by value at offsets checked against the packet's end at each use, so no pointer
/// outlives a helper that moves packet memory.
pub struct Packet {
    ctx: TcContext,
}

impl Frame for Packet {
    #[inline(always)]
    fn read<T: Plain>(&self, off: usize) -> Option<T> {
        let at = self.ctx.data() + off;
        if at + mem::size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        // SAFETY: the bytes from `at` to `at + size_of::<T>()` end before `data_end`, as just checked, and `T: Plain` takes
        // any bytes at any alignment. The verifier refuses the program if the check does not cover the access.
        Some(unsafe { (at as *const T).read_unaligned() })
    }

    #[inline(always)]
    fn copy<T: Plain>(&self, off: usize) -> Option<T> {
        let mut to = mem::MaybeUninit::<T>::uninit();
        let size_bytes = mem::size_of::<T>() as u32;
        // SAFETY: `to` has room for a `T`, and the helper checks the offset itself.
        let ret =
            unsafe { helpers::bpf_skb_load_bytes(self.skb().cast(), off as u32, to.as_mut_ptr().cast(), size_bytes) };
        // SAFETY: then the helper has written all of it, and any bytes are a `T`.
        if ret == 0 { Some(unsafe { to.assume_init() }) } else { None }
    }

    #[inline(always)]
    fn walk<W: Walk>(&self, n: u32, walk: &mut W) {
        self.repeat(n, &mut WalkSteps(walk));
    }
}

/// Steps that need the packet itself, such as the search for a port.
pub trait Steps {
    /// Takes one step; `true` when there is none left.
    fn step(&mut self, pkt: &Packet) -> bool;
}

/// A walk over the packet's bytes as steps.
struct WalkSteps<'a, W>(&'a mut W);

impl<W: Walk> Steps for WalkSteps<'_, W> {
    #[inline(always)]
    fn step(&mut self, pkt: &Packet) -> bool {
        self.0.step(pkt)
    }
}

/// What a step gets from the kernel.
#[repr(C)]
struct StepContext<S> {
    skb: *mut __sk_buff,
    steps: *mut S,
}

/// One step, called by the kernel.
extern "C" fn step<S: Steps>(_: u32, context: *mut StepContext<S>) -> i64 {
    // SAFETY: `Packet::repeat` passes a context on its stack whose pointers are good for the whole call, and nothing else uses
    // the steps meanwhile.
    let (pkt, steps) = unsafe { (Packet::new(TcContext::new((*context).skb)), &mut *(*context).steps) };
    // The verifier takes 0 and 1 only, and does not know that a `bool` from memory is one of them.
    (usize::from(steps.step(&pkt)) & opaque(1)) as i64
}

impl Packet {
    /// The packet of this run.
    #[inline(always)]
    pub fn new(ctx: TcContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    pub fn skb(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    /// Length from the link layer on, fragments included.
    #[inline(always)]
    pub fn len_bytes(&self) -> usize {
        self.ctx.len() as usize
    }

    /// Index of the device the program runs on.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the whole run; the verifier turns the load into one of the kernel's field.
        unsafe { (*self.skb()).ifindex }
    }

    /// Index of the device the packet came in by; 0 if this host made it.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).ingress_ifindex }
    }

    /// Whether the frame carries a VLAN tag: the kernel takes it out of the frame before a program sees that.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).vlan_present != 0 }
    }

    /// Whether the frame was addressed to this machine alone: not to all, and not to another station, as one is that turned back and has
    /// the MACs of a pod's cable.
    #[inline(always)]
    pub fn is_to_this_host(&self) -> bool {
        const PACKET_HOST: u32 = 0;
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).pkt_type == PACKET_HOST }
    }

    /// Makes it one for whoever receives it: a pod's stack would drop it unseen. From 6.15 on the redirect to a pod does this by
    /// itself (commit c4327229948879).
    #[inline(always)]
    pub fn adopt(&mut self) -> Result<(), DropReason> {
        const PACKET_HOST: u32 = 0;
        // SAFETY: plain numbers.
        let ret = unsafe { helpers::bpf_skb_change_type(self.skb(), PACKET_HOST) };
        if ret == 0 { Ok(()) } else { Err(DropReason::Internal) }
    }

    /// Whether the packet was marked so on its way here, by a program of ours: nothing from a wire has a mark, and what a pod
    /// has put on is taken off.
    #[inline(always)]
    pub fn has_mark(&self, mark: u32) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).mark == mark }
    }

    /// Marks the packet; 0 for none.
    #[inline(always)]
    pub fn set_mark(&mut self, mark: u32) {
        // SAFETY: as in `ifindex`, for a store.
        unsafe { (*self.skb()).mark = mark };
    }

    /// Takes off what the host has noted on the packet: mark and priority are its own business, and the redirect into a pod carries
    /// the mark along.
    #[inline(always)]
    pub fn clear_notes(&mut self) {
        // SAFETY: as in `ifindex`; both fields may be written by a classifier.
        unsafe {
            (*self.skb()).mark = 0;
            (*self.skb()).priority = 0;
        }
    }

    /// The EtherType the device's driver gave the packet, whether the frame has one or not.
    #[inline(always)]
    pub fn ethertype(&self) -> u16 {
        // SAFETY: as in `ifindex`. The field holds it in network order in its first two bytes.
        let [a, b, ..] = unsafe { (*self.skb()).protocol }.to_ne_bytes();
        u16::from_be_bytes([a, b])
    }

    /// Payload bytes of each segment of a GSO packet; 0 if it is none.
    #[inline(always)]
    pub fn gso_size_bytes(&self) -> usize {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).gso_size as usize }
    }

    /// The checksum that is left to the device which sends the packet, if one is.
    #[inline(always)]
    pub fn partial_csum(&self) -> Option<PartialCsum> {
        skb::partial_csum(self.skb())
    }

    /// Logs what became of the packet.
    #[cfg(feature = "trace")]
    #[inline(always)]
    pub fn log(&self, hook: Hook, verdict: Verdict) {
        aya_log_ebpf::info!(
            &self.ctx,
            "{} on {}: {} bytes, {} {}, reason {}",
            hook.as_str(),
            self.ifindex(),
            self.len_bytes(),
            verdict.kind().as_str(),
            verdict.ifindex(),
            verdict.reason()
        );
    }

    /// Makes sure the packet's first `want_bytes`, or all of it, lie in the linear part, where they can be read and written.
    ///
    /// What is already there costs nothing: a pull copies, and may have to allocate, for every big TCP packet.
    #[inline(always)]
    pub fn pull(&mut self, want_bytes: usize) -> Result<(), DropReason> {
        let linear = self.ctx.data_end() - self.ctx.data();
        let want = self.len_bytes().min(want_bytes);
        if linear >= want {
            return Ok(());
        }
        self.ctx.pull_data(want as u32).map_err(|_| DropReason::Internal)
    }

    /// Copies a value at an offset, which may vary, to a place in a map or on the stack; `false` when the packet ends before.
    #[inline(always)]
    pub fn load<T: Plain>(&self, off: usize, to: &mut T) -> bool {
        let to: *mut T = to;
        // SAFETY: `to` has room for a `T`, any bytes are one, and the helper checks the offset itself.
        unsafe {
            helpers::bpf_skb_load_bytes(self.skb().cast(), off as u32, to.cast(), mem::size_of::<T>() as u32) == 0
        }
    }

    /// Writes a value at an offset of the linear part.
    #[inline(always)]
    pub fn write<T: Plain>(&mut self, off: usize, value: T) -> Result<(), DropReason> {
        let at = self.ctx.data() + off;
        if at + mem::size_of::<T>() > self.ctx.data_end() {
            return Err(DropReason::Malformed);
        }
        // SAFETY: as in `read`; the kernel makes the header writable before the program runs (tc's unclone prologue).
        unsafe { (at as *mut T).write_unaligned(value) };
        Ok(())
    }

    /// Writes a value at an offset that may vary, anywhere in the packet.
    #[inline(always)]
    pub fn store<T: Plain>(&mut self, off: usize, value: &T) -> Result<(), DropReason> {
        let value = core::ptr::from_ref(value).cast_mut().cast();
        // SAFETY: `value` is a `T`, of which all bytes are defined, and the helper checks the offset itself.
        let ret = unsafe { helpers::bpf_skb_store_bytes(self.skb(), off as u32, value, mem::size_of::<T>() as u32, 0) };
        if ret == 0 { Ok(()) } else { Err(DropReason::Internal) }
    }

    /// Cuts the packet to `len_bytes`, or fills it up with zeros.
    #[inline(always)]
    pub fn resize(&mut self, len_bytes: usize) -> Result<(), DropReason> {
        // SAFETY: plain numbers; later accesses are checked against the new end.
        let ret = unsafe { helpers::bpf_skb_change_tail(self.skb(), len_bytes as u32, 0) };
        if ret == 0 { Ok(()) } else { Err(DropReason::Internal) }
    }

    /// Makes room for a link-layer header, of zeros, before the IP header of a packet that has none (kernel 4.10, commit
    /// 3a0af8fd61f9). The stack takes it for a packet of a device with such headers then.
    #[inline(always)]
    pub fn grow_l2(&mut self, room_bytes: usize) -> Result<(), DropReason> {
        // SAFETY: plain numbers; later accesses are checked against the new bounds.
        let ret = unsafe { helpers::bpf_skb_change_head(self.skb(), room_bytes as u32, 0) };
        if ret == 0 { Ok(()) } else { Err(DropReason::Internal) }
    }

    /// Makes room between link layer and IP header.
    #[inline(always)]
    pub fn grow_l3(&mut self, room_bytes: usize) -> Result<(), DropReason> {
        // SAFETY: plain numbers; later accesses are checked against the new bounds.
        let ret = unsafe { helpers::bpf_skb_adjust_room(self.skb(), room_bytes as i32, BPF_ADJ_ROOM_MAC, 0) };
        if ret == 0 { Ok(()) } else { Err(DropReason::Internal) }
    }

    /// Sum of the `len_bytes` (at most `N`, a multiple of 4) at `off`, copied through `scratch`.
    #[inline(always)]
    pub fn sum_at<const N: usize>(
        &self,
        off: usize,
        len_bytes: usize,
        scratch: *mut [u8; N],
    ) -> Result<Sum, DropReason> {
        let len_bytes = opaque(len_bytes);
        if len_bytes == 0 || len_bytes > N {
            return Err(DropReason::Internal);
        }
        // SAFETY: `scratch` is a map value of N bytes and `len_bytes` is within it, as just checked.
        let ret =
            unsafe { helpers::bpf_skb_load_bytes(self.skb().cast(), off as u32, scratch.cast(), len_bytes as u32) };
        if ret != 0 {
            return Err(DropReason::Internal);
        }
        // SAFETY: the helper reads the `len_bytes` just written.
        let sum = unsafe { helpers::bpf_csum_diff(core::ptr::null_mut(), 0, scratch.cast(), len_bytes as u32, 0) };
        if sum < 0 { Err(DropReason::Internal) } else { Ok(Sum(sum as u32)) }
    }

    /// Copies the packet's first `len_bytes` (at most `N`) to a map value.
    #[inline(always)]
    pub fn copy_to<const N: usize>(&self, len_bytes: usize, to: &mut [u8; N]) -> Result<(), DropReason> {
        let len_bytes = opaque(len_bytes);
        if len_bytes == 0 || len_bytes > N {
            return Err(DropReason::Internal);
        }
        let to = core::ptr::from_mut(to).cast();
        // SAFETY: `to` has N bytes and `len_bytes` is within them, as just checked.
        let ret = unsafe { helpers::bpf_skb_load_bytes(self.skb().cast(), 0, to, len_bytes as u32) };
        if ret == 0 { Ok(()) } else { Err(DropReason::Internal) }
    }

    /// Makes the packet the frame of `len_bytes` (at most `N`) in a map value. Its metadata stay: device, mark, timestamp.
    #[inline(always)]
    pub fn copy_from<const N: usize>(&self, len_bytes: usize, from: &[u8; N]) -> Result<(), DropReason> {
        let len_bytes = opaque(len_bytes);
        if len_bytes == 0 || len_bytes > N {
            return Err(DropReason::Internal);
        }
        let from = core::ptr::from_ref(from).cast_mut().cast();
        // SAFETY: plain numbers, and `from` has N bytes of which `len_bytes` are read. The kernel uncopies and linearises the
        // packet; a complete checksum is kept right or given up.
        let ret = unsafe {
            if helpers::bpf_skb_change_tail(self.skb(), len_bytes as u32, 0) != 0 {
                return Err(DropReason::Internal);
            }
            helpers::bpf_skb_store_bytes(self.skb(), 0, from, len_bytes as u32, BPF_F_RECOMPUTE_CSUM.into())
        };
        if ret == 0 { Ok(()) } else { Err(DropReason::Internal) }
    }

    /// Sends a copy of the packet into a device's ingress: it is queued, and comes through the hooks there after this run.
    #[inline(always)]
    pub fn clone_to_ingress(&self, ifindex: u32) -> Result<(), DropReason> {
        // SAFETY: plain numbers.
        let ret = unsafe { helpers::bpf_clone_redirect(self.skb(), ifindex, BPF_F_INGRESS.into()) };
        if ret == 0 { Ok(()) } else { Err(DropReason::Internal) }
    }

    /// Takes steps until one says it is the last, at most `n` (kernel 5.17, commit e6f2dd0f8067).
    ///
    /// The verifier looks at the step once, however large `n` is.
    #[inline(always)]
    pub fn repeat<S: Steps>(&self, n: u32, steps: &mut S) {
        let mut context = StepContext { skb: self.skb(), steps: core::ptr::from_mut(steps) };
        // SAFETY: `step::<S>` is a function of this object with the callback's signature, `context` outlives the call.
        unsafe {
            helpers::bpf_loop(n, step::<S> as *mut core::ffi::c_void, core::ptr::from_mut(&mut context).cast(), 0);
        }
    }

    /// Asks the kernel's routes; returns the helper's code and leaves the answer in `params`.
    #[inline(always)]
    pub fn fib_lookup(&self, params: &mut bpf_fib_lookup, flags: u32) -> i64 {
        let size = mem::size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: `params` is a valid, initialised structure of the size given.
        unsafe { helpers::bpf_fib_lookup(self.ctx.as_ptr(), params, size, flags) }
    }

    /// Whether a socket of the host would take a packet with this tuple.
    #[inline(always)]
    pub fn host_socket<A: Address>(&self, tcp: bool, tuple: &FlowTuple<A>) -> bool {
        let (tuple, size_bytes) = sock_tuple(tuple);
        // SAFETY: `tuple` holds `size_bytes` and is only read; a socket found is released at once and not looked into.
        unsafe {
            let sk = if tcp {
                helpers::bpf_skc_lookup_tcp(self.ctx.as_ptr(), tuple, size_bytes, CURRENT_NETNS, 0)
            } else {
                helpers::bpf_sk_lookup_udp(self.ctx.as_ptr(), tuple, size_bytes, CURRENT_NETNS, 0)
            };
            if sk.is_null() {
                return false;
            }
            helpers::bpf_sk_release(sk.cast());
        }
        true
    }

    /// Whether a socket of the host is connected to the packet's source, or has asked it for a connection; one that has ended and waits
    /// for stragglers is none.
    #[inline(always)]
    pub fn host_is_connected<A: Address>(&self, tcp: bool, tuple: &FlowTuple<A>) -> bool {
        if tcp { self.tcp_is_connected(tuple) } else { self.udp_is_connected(tuple) }
    }

    /// Each by itself, as the kernel has one instruction read one kind of socket only.
    #[inline(never)]
    fn tcp_is_connected<A: Address>(&self, tuple: &FlowTuple<A>) -> bool {
        let (tuple, size_bytes) = sock_tuple(tuple);
        // SAFETY: `tuple` holds `size_bytes` and is only read; of a socket that is found one word is read before it is released.
        let state = unsafe {
            let sk = helpers::bpf_skc_lookup_tcp(self.ctx.as_ptr(), tuple, size_bytes, CURRENT_NETNS, 0);
            if sk.is_null() {
                return false;
            }
            let state = (&raw const (*sk).state).read_volatile();
            helpers::bpf_sk_release(sk.cast());
            state
        };
        !matches!(state, BPF_TCP_LISTEN | BPF_TCP_TIME_WAIT | BPF_TCP_CLOSE)
    }

    #[inline(never)]
    fn udp_is_connected<A: Address>(&self, tuple: &FlowTuple<A>) -> bool {
        let (tuple, size_bytes) = sock_tuple(tuple);
        // SAFETY: as for TCP.
        let state = unsafe {
            let sk = helpers::bpf_sk_lookup_udp(self.ctx.as_ptr(), tuple, size_bytes, CURRENT_NETNS, 0);
            if sk.is_null() {
                return false;
            }
            let state = (&raw const (*sk).state).read_volatile();
            helpers::bpf_sk_release(sk.cast());
            state
        };
        // It is as good as established when it is connected, and closed when not.
        state == BPF_TCP_ESTABLISHED
    }

    /// Whether a packet with this tuple would be the reply of a connection of TCP or UDP the host's connection tracking knows: of the
    /// host itself, or of another NAT. `false` where the kernel has none, or has it as a module.
    #[inline(always)]
    pub fn host_conntrack<A: Address>(&self, proto: u8, tuple: &FlowTuple<A>) -> bool {
        conntrack::has_reply(self.skb(), proto, tuple)
    }
}

/// The caller's network namespace, for look-ups of sockets.
const CURRENT_NETNS: u64 = u64::MAX;

/// The kernel's `bpf_sock_tuple` and its size: both addresses, both ports, in network order. So is ours.
#[inline(always)]
fn sock_tuple<A: Address>(tuple: &FlowTuple<A>) -> (*mut bpf_sock_tuple, u32) {
    const { assert!(mem::size_of::<FlowTuple<A>>() == 8 * A::WORDS + 4) };
    (core::ptr::from_ref(tuple).cast_mut().cast(), mem::size_of::<FlowTuple<A>>() as u32)
}

/// Hides from the compiler what it knows of `n`, so that a bounds check that follows is not optimised away: the verifier has not
/// followed the reasoning that made it superfluous.
#[inline(always)]
fn opaque(n: usize) -> usize {
    // SAFETY: reads a live local of the same type.
    unsafe { core::ptr::read_volatile(&n) }
}

/// The time flows are stamped with, `CLOCK_MONOTONIC` at the resolution of a tick: cheaper than the exact clock. It is even: the last
/// bit of a stamp is free for a note.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { helpers::bpf_ktime_get_coarse_ns() & !1 }
}

/// A random number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { helpers::bpf_get_prandom_u32() }
}

/// Into the other end of the veth pair `ifindex` belongs to (kernel 5.10).
#[inline(always)]
pub fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: plain numbers; the kernel checks the device when it carries the redirect out.
    unsafe { helpers::bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Out of `ifindex`, next hop and link-layer header from the kernel's routes and neighbours (kernel 5.10).
#[inline(always)]
pub fn redirect_neigh(ifindex: u32) -> i32 {
    // SAFETY: no parameters given (null, length 0) is the form that makes the kernel look the next hop up.
    unsafe { helpers::bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Out of `ifindex`, or with `BPF_F_INGRESS` into it.
#[inline(always)]
pub fn redirect(ifindex: u32, flags: u64) -> i32 {
    // SAFETY: plain numbers.
    unsafe { helpers::bpf_redirect(ifindex, flags) as i32 }
}
