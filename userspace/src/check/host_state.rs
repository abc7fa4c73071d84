//! What must be so on the host while everything works: no forwarding by the kernel, no bridge, no firewall rule.

use std::fs;
use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use crate::netlink::{Netlink, NetlinkError, Opaque, Socket, SocketError};
use crate::netns::{Netns, NetnsError};

/// What is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum HostStateError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Something cannot be looked at.
    #[error("cannot read {what}: {source}")]
    Read {
        /// What.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The links cannot be looked at.
    #[error(transparent)]
    Links(#[from] NetlinkError),
    /// The nftables tables cannot be looked at.
    #[error("cannot read the nftables tables: {0}")]
    Unknown(#[source] SocketError),
    /// The kernel forwards between interfaces.
    #[error("{path} is {value}, not 0: the kernel forwards by itself")]
    Forwarding {
        /// The sysctl's file.
        path: &'static str,
        /// Its value.
        value: String,
    },
    /// There is a bridge device.
    #[error("there is a bridge device: {0}")]
    Bridge(String),
    /// There are nftables tables.
    #[error("there are {0} nftables tables")]
    NfTables(usize),
    /// There are iptables tables.
    #[error("{path} lists iptables tables: {tables}")]
    IpTables {
        /// The file that lists them.
        path: &'static str,
        /// Their names.
        tables: String,
    },
}

const FORWARDING: [&str; 2] = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];

/// Files of the legacy iptables; absent where the kernel does not have it.
const IPTABLES: [&str; 2] = ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];

/// Checks that a namespace neither forwards nor bridges nor filters.
pub fn host_state(host: &Netns) -> Result<(), HostStateError> {
    host.run(|| {
        forwarding()?;
        bridges()?;
        nf_tables()?;
        iptables()
    })?
}

fn forwarding() -> Result<(), HostStateError> {
    for path in FORWARDING {
        let value = fs::read_to_string(path).map_err(|source| HostStateError::Read { what: path, source })?;
        if value.trim() != "0" {
            return Err(HostStateError::Forwarding { path, value: value.trim().to_owned() });
        }
    }
    Ok(())
}

fn bridges() -> Result<(), HostStateError> {
    let links = Netlink::in_current()?.links()?;
    let bridge = links.into_iter().find(|link| link.kind.as_deref() == Some("bridge"));
    bridge.map_or(Ok(()), |link| Err(HostStateError::Bridge(link.name)))
}

/// iptables-nft keeps its rules in nftables tables as well.
fn nf_tables() -> Result<(), HostStateError> {
    /// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE`.
    const GET_TABLE: u16 = 10 << 8 | 1;
    // `struct nfgenmsg`: any family, version 0, no resource.
    let any_family = Opaque { message_type: GET_TABLE, body: vec![0; 4] };
    let open = Socket::open(NETLINK_NETFILTER).map_err(SocketError::from);
    match open.and_then(|mut socket| socket.dump::<_, Opaque>(&any_family)) {
        Ok(tables) if tables.is_empty() => Ok(()),
        Ok(tables) => Err(HostStateError::NfTables(tables.len())),
        // A kernel without nfnetlink or nf_tables has no rules.
        Err(e) if matches!(e.errno(), Some(Errno::EPROTONOSUPPORT | Errno::EINVAL | Errno::EOPNOTSUPP)) => Ok(()),
        Err(e) => Err(HostStateError::Unknown(e)),
    }
}

fn iptables() -> Result<(), HostStateError> {
    for path in IPTABLES {
        match fs::read_to_string(path) {
            Ok(tables) if !tables.trim().is_empty() => {
                return Err(HostStateError::IpTables { path, tables: tables.trim().replace('\n', ", ") });
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(HostStateError::Read { what: path, source }),
        }
    }
    Ok(())
}
