//! Changes of a namespace, as they happen.

use std::fmt;

use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{MulticastGroup, new_multicast_connection};

use super::{NetlinkError, Netns};

/// That something changed; what it is now is to be read anew, because messages can be lost when many come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// The interface of this index came, went or changed.
    Link(u32),
    /// An address of the interface of this index came or went.
    Address(u32),
    /// A route came or went.
    Route,
    /// Messages may have been lost: read everything anew.
    Unknown,
}

/// The changes of one namespace's links, addresses and routes from now on.
pub struct Monitor {
    messages: futures_util::stream::BoxStream<'static, Change>,
    connection: tokio::task::JoinHandle<()>,
}

impl Monitor {
    /// In the calling thread's namespace. Call it inside a tokio runtime.
    pub fn in_current() -> Result<Self, NetlinkError> {
        let (connection, _, messages) = new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])
        .map_err(NetlinkError::Open)?;
        let messages = messages.filter_map(|(message, _)| async move {
            match message.payload {
                NetlinkPayload::InnerMessage(message) => change(&message),
                NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => Some(Change::Unknown),
                _ => None,
            }
        });
        Ok(Self { messages: messages.boxed(), connection: tokio::spawn(connection) })
    }

    /// In `netns`. Call it inside a tokio runtime.
    pub fn in_netns(netns: &Netns) -> Result<Self, NetlinkError> {
        let runtime = tokio::runtime::Handle::current();
        netns.run(|| {
            let _context = runtime.enter();
            Self::in_current()
        })?
    }

    /// Waits for the next change; `None` when the socket has ended.
    pub async fn next(&mut self) -> Option<Change> {
        self.messages.next().await
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn change(message: &RouteNetlinkMessage) -> Option<Change> {
    use RouteNetlinkMessage as M;
    match message {
        M::NewLink(m) | M::DelLink(m) => Some(Change::Link(m.header.index)),
        M::NewAddress(m) | M::DelAddress(m) => Some(Change::Address(m.header.index)),
        M::NewRoute(_) | M::DelRoute(_) => Some(Change::Route),
        _ => None,
    }
}
