//! Which host ports are listened on.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};

use super::ProbeError;
use crate::netns::Netns;

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortProto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A socket of the host that takes what comes to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// What it is bound to. `::` may take IPv4 as well: [`port_listener`] finds out.
    pub addr: SocketAddr,
    /// Its inode, as in `/proc/PID/fd`.
    pub inode: u64,
}

impl PortProto {
    /// Files below `/proc/net`.
    const fn files(self) -> &'static [&'static str] {
        match self {
            Self::Tcp => &["tcp", "tcp6"],
            Self::Udp => &["udp", "udp6"],
            Self::Sctp => &["sctp/eps"],
        }
    }

    /// The listeners a line of such a file tells of.
    fn listeners(self, line: &str) -> Vec<Listener> {
        match self {
            Self::Tcp => parse_line(line, "0A").into_iter().collect(),
            // CLOSE, which means not connected.
            Self::Udp => parse_line(line, "07").into_iter().collect(),
            Self::Sctp => parse_endpoint(line).unwrap_or_default(),
        }
    }
}

/// The TCP listeners, unconnected UDP sockets or SCTP endpoints of a namespace. Connections, TIME_WAIT included, are none.
pub fn listeners(netns: &Netns, proto: PortProto) -> Result<Vec<Listener>, ProbeError> {
    netns.run(|| {
        let mut found = Vec::new();
        for file in proto.files() {
            // Not /proc/net: that is the namespace of the main thread.
            let path = PathBuf::from("/proc/thread-self/net").join(file);
            match fs::read_to_string(&path) {
                Ok(text) => found.extend(text.lines().skip(1).flat_map(|line| proto.listeners(line))),
                // IPv6 is switched off, or the kernel has no SCTP.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(ProbeError::Read { path, source }),
            }
        }
        Ok(found)
    })?
}

/// The listener of a namespace that publishing `addr:port` would take packets from.
///
/// An unspecified `addr` stands for all addresses of its family, loopback ones included: the host's own processes would be
/// led past the listener to the pod. To ask for both families, ask twice.
pub fn port_listener(netns: &Netns, proto: PortProto, addr: IpAddr, port: u16) -> Result<Option<Listener>, ProbeError> {
    for listener in listeners(netns, proto)?.into_iter().filter(|l| l.addr.port() == port) {
        let bound = listener.addr.ip();
        let meets = if bound.is_ipv4() != addr.is_ipv4() {
            // A wildcard IPv6 socket takes IPv4 too unless it says IPV6_V6ONLY, which only trying tells.
            addr.is_ipv4() && bound.is_unspecified() && netns.run(|| is_bound(proto, SocketAddr::new(addr, port)))??
        } else {
            addr.is_unspecified() || bound == addr || bound.is_unspecified()
        };
        if meets {
            return Ok(Some(listener));
        }
    }
    Ok(None)
}

/// Whether an address cannot be bound because another socket has it.
fn is_bound(proto: PortProto, addr: SocketAddr) -> Result<bool, ProbeError> {
    let fail = |e: Errno| ProbeError::Socket { port: addr.port(), source: e.into() };
    let (kind, family) = match (proto, addr) {
        (PortProto::Tcp, SocketAddr::V4(_)) => (SockType::Stream, AddressFamily::Inet),
        (PortProto::Tcp, SocketAddr::V6(_)) => (SockType::Stream, AddressFamily::Inet6),
        (PortProto::Udp, SocketAddr::V4(_)) => (SockType::Datagram, AddressFamily::Inet),
        (PortProto::Udp, SocketAddr::V6(_)) => (SockType::Datagram, AddressFamily::Inet6),
        // Nothing to try it with that would not need the module. A socket of both families is the rule.
        (PortProto::Sctp, _) => return Ok(true),
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).map_err(fail)?;
    if proto == PortProto::Tcp {
        // Connections in TIME_WAIT are no listeners. For UDP it would hide a socket that has it set as well.
        setsockopt(&fd, sockopt::ReuseAddr, &true).map_err(fail)?;
    }
    match bind(fd.as_raw_fd(), &SockaddrStorage::from(addr)) {
        Ok(()) => Ok(false),
        Err(Errno::EADDRINUSE) => Ok(true),
        // Not an address of this host: nobody can listen on it.
        Err(Errno::EADDRNOTAVAIL) => Ok(false),
        Err(e) => Err(fail(e)),
    }
}

/// A line of `/proc/net/{tcp,udp}{,6}`: `sl local remote state tx:rx tr:when retrnsmt uid timeout inode ...`.
fn parse_line(line: &str, open_state: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    if *state != open_state {
        return None;
    }
    let (addr, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Listener { addr: SocketAddr::new(parse_addr(addr)?, port), inode: inode.parse().ok()? })
}

/// A line of `/proc/net/sctp/eps`: `endpoint socket style state hash port uid inode address...`, a listener for each address
/// (`sctp_eps_seq_show` of `net/sctp/proc.c`). That a socket is bound is enough: its port cannot be had by another.
fn parse_endpoint(line: &str) -> Option<Vec<Listener>> {
    let mut fields = line.split_whitespace().skip(5);
    let port: u16 = fields.next()?.parse().ok().filter(|port| *port != 0)?;
    let inode = fields.nth(1)?.parse().ok()?;
    let addresses = fields.filter_map(|text| text.parse::<IpAddr>().ok()).map(|a| a.to_canonical());
    Some(addresses.map(|addr| Listener { addr: SocketAddr::new(addr, port), inode }).collect())
}

/// An address as `/proc` prints it: 32-bit words of network order, each shown as a number of this machine.
fn parse_addr(hex: &str) -> Option<IpAddr> {
    let word = |i: usize| {
        let digits = hex.get(8 * i..8 * i + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(i)?);
            }
            // An IPv6 socket bound to an IPv4 address is an IPv4 listener.
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_net() {
        let tcp = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 x";
        let found = PortProto::Tcp.listeners(tcp).pop();
        assert_eq!(found.map(|l| (l.addr.to_string(), l.inode)), Some(("127.0.0.1:8080".to_owned(), 4242)));
        let time_wait = tcp.replace(" 0A ", " 06 ");
        assert_eq!(PortProto::Tcp.listeners(&time_wait), []);
        let udp6 =
            "  11: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 7 2";
        assert_eq!(PortProto::Udp.listeners(udp6).pop().map(|l| l.addr.to_string()), Some("[::1]:53".to_owned()));
        assert_eq!(PortProto::Udp.listeners(""), []);
    }

    /// Printed as `%8pK %8pK %-3d %-3d %-4d %-5d %5u %5lu `, then `%pI4 ` or `%pI6 ` for each address.
    #[test]
    fn endpoints_of_sctp() {
        let read = |line: &str| -> Vec<(String, u64)> {
            PortProto::Sctp.listeners(line).into_iter().map(|l| (l.addr.to_string(), l.inode)).collect()
        };
        let two = "00000000 00000000 2   10  29   2905      0 14411 192.0.2.1 10.0.0.1 ";
        assert_eq!(read(two), [("192.0.2.1:2905".to_owned(), 14411), ("10.0.0.1:2905".to_owned(), 14411)]);
        let any = "00000000 00000000 2   10  29   36412     0 7 0000:0000:0000:0000:0000:0000:0000:0000 ";
        assert_eq!(read(any), [("[::]:36412".to_owned(), 7)]);
        for none in ["", "00000000 00000000 2 10 29 0 0 7 0.0.0.0 ", "00000000 00000000 2 10 29 x 0 7 0.0.0.0 "] {
            assert_eq!(read(none), []);
        }
    }
}
