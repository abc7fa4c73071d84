//! What the way says of itself in ICMP errors: the hops, and the MTU.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::cmsg_space;
use nix::libc;
use nix::poll::PollFlags;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};

use super::socket::{PATIENCE, datagram, pattern, wait};
use super::{Pair, ProbeError};
use crate::check::case::Family;

/// First port of the classic `traceroute`: nothing listens there, so the last hop answers port-unreachable.
const TRACE_PORT: u16 = 33_434;
/// Discard: the packet that is too big arrives nowhere.
const DISCARD_PORT: u16 = 9;

pub(super) fn trace(pair: &Pair<'_>, hops: &[IpAddr]) -> Result<(), ProbeError> {
    let family = pair.case.family;
    for (distance, expected) in (1_u8..).zip(hops) {
        let target = SocketAddr::new(pair.answerer_ip(), TRACE_PORT + u16::from(distance));
        let socket = open(pair, target)?;
        set_hop_limit(&socket, family, distance).map_err(ProbeError::socket("send to", target))?;
        socket.send(&pattern(32)).map_err(ProbeError::socket("send to", target))?;
        let error = next_error(&socket).map_err(ProbeError::socket("receive from", target))?;
        let last = usize::from(distance) == hops.len();
        let kind = if last { Kind::PortUnreachable } else { Kind::TimeExceeded };
        let why = || format!("hop limit {distance}");
        check(error, kind, *expected, None, target.ip(), why)?;
    }
    Ok(())
}

pub(super) fn too_big(pair: &Pair<'_>, bytes: usize, router: IpAddr, mtu_bytes: u32) -> Result<(), ProbeError> {
    let target = SocketAddr::new(pair.answerer_ip(), DISCARD_PORT);
    let socket = open(pair, target)?;
    // Linux sends UDP with "don't fragment" as long as it fits the MTU known so far.
    socket.send(&pattern(bytes)).map_err(ProbeError::socket("send to", target))?;
    let error = next_error(&socket).map_err(ProbeError::socket("receive from", target))?;
    check(error, Kind::TooBig, router, Some(mtu_bytes), target.ip(), || format!("{bytes} bytes"))
}

/// The ICMP errors looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    TimeExceeded,
    PortUnreachable,
    TooBig,
    Other { icmp_type: u8, code: u8 },
}

impl Kind {
    /// By type and code; families number them differently.
    fn of(origin: u8, icmp_type: u8, code: u8) -> Self {
        match (origin, icmp_type, code) {
            (libc::SO_EE_ORIGIN_ICMP, 11, 0) | (libc::SO_EE_ORIGIN_ICMP6, 3, 0) => Self::TimeExceeded,
            (libc::SO_EE_ORIGIN_ICMP, 3, 3) | (libc::SO_EE_ORIGIN_ICMP6, 1, 4) => Self::PortUnreachable,
            (libc::SO_EE_ORIGIN_ICMP, 3, 4) | (libc::SO_EE_ORIGIN_ICMP6, 2, 0) => Self::TooBig,
            _ => Self::Other { icmp_type, code },
        }
    }
}

/// An ICMP error as the kernel hands it to the socket whose packet caused it.
#[derive(Clone, Copy, Debug)]
struct IcmpError {
    kind: Kind,
    from: IpAddr,
    mtu_bytes: u32,
}

fn check(
    error: Option<IcmpError>,
    kind: Kind,
    from: IpAddr,
    mtu_bytes: Option<u32>,
    target: IpAddr,
    why: impl FnOnce() -> String,
) -> Result<(), ProbeError> {
    let Some(error) = error else {
        return Err(ProbeError::NoIcmpError { expected: from, target, why: why() });
    };
    if error.kind == kind && error.from == from && mtu_bytes.is_none_or(|mtu| mtu == error.mtu_bytes) {
        return Ok(());
    }
    let text = |kind: Kind, from: IpAddr, mtu: Option<u32>| match mtu {
        Some(mtu) => format!("{kind:?} with MTU {mtu} from {from}"),
        None => format!("{kind:?} from {from}"),
    };
    let seen = text(error.kind, error.from, mtu_bytes.map(|_| error.mtu_bytes));
    Err(ProbeError::IcmpError { seen, expected: text(kind, from, mtu_bytes) })
}

fn open(pair: &Pair<'_>, target: SocketAddr) -> Result<UdpSocket, ProbeError> {
    let from = SocketAddr::new(pair.opener_ip(), 0);
    let socket = pair.from.run(|| datagram(from))?.map_err(ProbeError::socket("send from", from))?;
    let report = match pair.case.family {
        Family::V4 => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        Family::V6 => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    };
    report.map_err(|e| ProbeError::socket("send to", target)(e.into()))?;
    socket.connect(target).map_err(ProbeError::socket("send to", target))?;
    Ok(socket)
}

fn set_hop_limit(socket: &UdpSocket, family: Family, hop_limit: u8) -> io::Result<()> {
    match family {
        Family::V4 => setsockopt(socket, sockopt::Ipv4Ttl, &i32::from(hop_limit))?,
        Family::V6 => setsockopt(socket, sockopt::Ipv6Ttl, &i32::from(hop_limit))?,
    }
    Ok(())
}

/// The next ICMP error about a packet of this socket, if one comes in time.
fn next_error(socket: &UdpSocket) -> io::Result<Option<IcmpError>> {
    let end = Instant::now() + PATIENCE;
    loop {
        // The error queue shows as POLLERR, which is reported without being asked for.
        match wait(socket, PollFlags::empty(), end.saturating_duration_since(Instant::now())) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(None),
            Err(e) => return Err(e),
        }
        let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let mut block = [0; 2048];
        let mut pieces = [IoSliceMut::new(&mut block)];
        let message = recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut pieces,
            Some(&mut control),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        )?;
        let error = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(e, Some(from)) => {
                Some((e, IpAddr::from(from.sin_addr.s_addr.to_ne_bytes())))
            }
            ControlMessageOwned::Ipv6RecvErr(e, Some(from)) => Some((e, IpAddr::from(from.sin6_addr.s6_addr))),
            _ => None,
        });
        if let Some((e, from)) = error {
            return Ok(Some(IcmpError {
                kind: Kind::of(e.ee_origin, e.ee_type, e.ee_code),
                from,
                mtu_bytes: e.ee_info,
            }));
        }
    }
}
