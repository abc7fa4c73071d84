//! One netlink socket: a request and its acknowledgement, one object, a table, several requests at once.
//!
//! The kernel works a request off before `send` returns, so nothing here waits for long. It belongs to the namespace it was
//! opened in, and may be used from any thread after that.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{
    DecodeError, ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator, Parseable,
};
use netlink_sys::SocketAddr;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// The kernel fills at most 32 KiB for a dump.
const BLOCK_BYTES: usize = 65_536;
/// Longer than any kernel takes to answer, shorter than a user waits.
const TIMEOUT_SECONDS: i64 = 2;
/// Requests sent at once: their acknowledgements fit the receive buffer of any host.
const MOST_AT_ONCE: usize = 64;
/// How often a table is read anew when it changed meanwhile.
const READINGS: usize = 8;

/// What the kernel said to a request that it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error.
    pub errno: Errno,
    /// Its own words (`NETLINK_EXT_ACK`), where it has some.
    pub words: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(words) = &self.words {
            write!(f, "{words}: ")?;
        }
        io::Error::from(self.errno).fmt(f)
    }
}

impl std::error::Error for Refusal {}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Sending or receiving failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The answer cannot be read.
    #[error("unreadable answer: {0}")]
    Protocol(#[from] DecodeError),
}

impl SocketError {
    /// The kernel's or the socket's error number; `None` when the answer was unreadable.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused(refusal) => Some(refusal.errno),
            Self::Io(e) => e.raw_os_error().map(Errno::from_raw),
            Self::Protocol(_) => None,
        }
    }
}

/// A socket of one netlink protocol.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    block: Vec<u8>,
}

impl Socket {
    /// A socket for the kernel, in the calling thread's namespace; `protocol` is one of `netlink_sys::protocols`.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        // A refusal does not repeat the request.
        socket.set_cap_ack(true)?;
        // A filter the kernel does not know is an error, not ignored.
        socket.set_netlink_get_strict_chk(true)?;
        // No answer is a fault, and must not stop the caller for ever.
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT_SECONDS, 0))?;
        Ok(Self { socket, sequence: 0, block: Vec::with_capacity(BLOCK_BYTES) })
    }

    /// Has a request done, and waits for its acknowledgement.
    pub fn request<M: NetlinkSerializable>(&mut self, flags: u16, message: M) -> Result<(), SocketError> {
        let done = self.batch(vec![(flags, message)])?;
        Ok(done.into_iter().collect::<Result<(), Refusal>>()?)
    }

    /// Has requests done in this order, each with its flags, and waits for all acknowledgements.
    ///
    /// One that is refused does not stop those behind it. The answers are in the requests' order.
    pub fn batch<M: NetlinkSerializable>(
        &mut self,
        requests: Vec<(u16, M)>,
    ) -> Result<Vec<Result<(), Refusal>>, SocketError> {
        let mut done = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let some = requests.by_ref().take(MOST_AT_ONCE).map(|(flags, message)| (flags | NLM_F_ACK, message));
            let (first, count) = self.send(some)?;
            let mut answers = vec![None; count];
            while answers.iter().any(Option::is_none) {
                self.receive(|header, message| {
                    let at = header.sequence_number.wrapping_sub(first) as usize;
                    let Some(answer) = answers.get_mut(at) else { return Ok(()) };
                    // Whatever else it says comes before its acknowledgement.
                    if let NetlinkPayload::Error(e) = NetlinkMessage::<Opaque>::deserialize(message)?.payload {
                        *answer = Some(refusal(header.flags, &e).map_or(Ok(()), Err));
                    }
                    Ok(())
                })?;
            }
            done.extend(answers.into_iter().flatten());
        }
        Ok(done)
    }

    /// Asks for one object.
    pub fn get<Q: NetlinkSerializable, A: NetlinkDeserializable>(&mut self, message: Q) -> Result<A, SocketError> {
        let (sequence, _) = self.send(std::iter::once((0, message)))?;
        let mut found = None;
        while found.is_none() {
            self.receive(|header, message| {
                if header.sequence_number == sequence {
                    found = Some(match NetlinkMessage::<A>::deserialize(message)?.payload {
                        NetlinkPayload::InnerMessage(answer) => Ok(answer),
                        NetlinkPayload::Error(e) => Err(refusal(header.flags, &e).map_or_else(
                            || DecodeError::from("an acknowledgement without an object").into(),
                            SocketError::from,
                        )),
                        _ => Err(DecodeError::from("neither an object nor an error").into()),
                    });
                }
                Ok(())
            })?;
        }
        found.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()))
    }

    /// Asks for a table, or for what a filter in `message` leaves of it. One that changed meanwhile is read anew.
    pub fn dump<Q: NetlinkSerializable + Clone, A: NetlinkDeserializable>(
        &mut self,
        message: &Q,
    ) -> Result<Vec<A>, SocketError> {
        let mut left = READINGS;
        loop {
            left -= 1;
            let (answers, whole) = self.dump_once(message.clone())?;
            if whole {
                return Ok(answers);
            }
            if left == 0 {
                tracing::debug!("a table changes faster than it can be read");
                return Ok(answers);
            }
        }
    }

    /// The answers, and whether they are of one moment.
    fn dump_once<Q: NetlinkSerializable, A: NetlinkDeserializable>(
        &mut self,
        message: Q,
    ) -> Result<(Vec<A>, bool), SocketError> {
        let (sequence, _) = self.send(std::iter::once((NLM_F_DUMP, message)))?;
        let (mut answers, mut whole, mut end) = (Vec::new(), true, None);
        while end.is_none() {
            self.receive(|header, message| {
                if header.sequence_number != sequence || end.is_some() {
                    return Ok(());
                }
                whole &= header.flags & NLM_F_DUMP_INTR == 0;
                match NetlinkMessage::<A>::deserialize(message).map(|m| m.payload) {
                    Ok(NetlinkPayload::InnerMessage(answer)) => answers.push(answer),
                    Ok(NetlinkPayload::Done(done)) if done.code < 0 => {
                        end = Some(Err(of_code(done.code, words(header.flags, &done.extended_ack))));
                    }
                    Ok(NetlinkPayload::Done(_)) => end = Some(Ok(())),
                    Ok(NetlinkPayload::Error(e)) => end = Some(refusal(header.flags, &e).map_or(Ok(()), Err)),
                    Ok(_) => {}
                    // Somebody's object of a kind that is not known here: no reason to see none at all.
                    Err(e) => tracing::debug!("left out of a table: {e}"),
                }
                Ok(())
            })?;
        }
        end.unwrap_or(Ok(()))?;
        Ok((answers, whole))
    }

    /// Sends requests in one message; the number of the first, the others count on, and how many there are.
    fn send<M: NetlinkSerializable>(&mut self, requests: impl Iterator<Item = (u16, M)>) -> io::Result<(u32, usize)> {
        let first = self.sequence.wrapping_add(1);
        let (mut bytes, mut count) = (Vec::new(), 0);
        for (flags, message) in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | flags;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
            message.finalize();
            let at = bytes.len();
            bytes.resize(at + message.buffer_len().next_multiple_of(4), 0);
            let end = at + message.buffer_len();
            message.serialize(&mut bytes[at..end]);
            count += 1;
        }
        self.socket.send(&bytes, 0)?;
        Ok((first, count))
    }

    /// Waits for the next messages, at least one, and gives each to `take` with its header.
    fn receive(
        &mut self,
        mut take: impl FnMut(NetlinkHeader, &[u8]) -> Result<(), SocketError>,
    ) -> Result<(), SocketError> {
        self.block.clear();
        loop {
            match self.socket.recv(&mut self.block, libc::MSG_TRUNC) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(length) if length > self.block.len() => return Err(io::Error::from(Errno::EMSGSIZE).into()),
                done => {
                    done?;
                    break;
                }
            }
        }
        each(&self.block, |header, message| take(header, message))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// Gives each message of a block to `take`, with its header.
pub(super) fn each(
    block: &[u8],
    mut take: impl FnMut(NetlinkHeader, &[u8]) -> Result<(), SocketError>,
) -> Result<(), SocketError> {
    let mut rest = block;
    while !rest.is_empty() {
        let buffer = NetlinkBuffer::new_checked(rest)?;
        let header = NetlinkHeader::parse(&buffer)?;
        let length = header.length as usize;
        let message = rest.get(..length).ok_or_else(|| DecodeError::from("a message that is cut off"))?;
        take(header, message)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// What a message of type error says; `None` if that all is well.
fn refusal(flags: u16, error: &ErrorMessage) -> Option<Refusal> {
    /// Length of the refused request's header, which is all of it that is repeated.
    const REQUEST_HEADER_BYTES: usize = 16;
    error.code?;
    let attributes = error.header.get(REQUEST_HEADER_BYTES..).unwrap_or_default();
    Some(of_code(error.raw_code(), words(flags, attributes)))
}

fn of_code(code: i32, words: Option<String>) -> Refusal {
    Refusal { errno: Errno::from_raw(code.saturating_neg()), words }
}

/// The kernel's own words, from the attributes behind an error.
fn words(flags: u16, attributes: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let mut attributes = NlasIterator::new(attributes).map_while(Result::ok);
    let text = attributes.find(|a| a.kind() == NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(text.value()).trim_end_matches('\0').to_owned();
    (!text.is_empty()).then_some(text)
}

/// A message of a protocol that no crate in use here knows: its type, and what follows its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opaque {
    /// The type.
    pub message_type: u16,
    /// The rest.
    pub body: Vec<u8>,
}

impl NetlinkSerializable for Opaque {
    fn message_type(&self) -> u16 {
        self.message_type
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Opaque {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { message_type: header.message_type, body: payload.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::{AddressAttribute, AddressMessage};
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};
    use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
    use netlink_sys::protocols::NETLINK_ROUTE;

    use super::*;

    fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        message
    }

    fn answer(requests: Vec<(u16, Message)>) -> Vec<Result<(), Refusal>> {
        Socket::open(NETLINK_ROUTE).unwrap().batch(requests).unwrap()
    }

    #[test]
    fn one_link_is_asked_for_and_not_found() {
        let mut socket = Socket::open(NETLINK_ROUTE).unwrap();
        let Message::NewLink(lo) = socket.get(Message::GetLink(link(1, Vec::new()))).unwrap() else {
            panic!("no link")
        };
        assert!(lo.attributes.contains(&LinkAttribute::IfName("lo".to_owned())));
        let absent: Result<Message, _> = socket.get(Message::GetLink(link(0x7fff_ffff, Vec::new())));
        assert_eq!(absent.unwrap_err().errno(), Some(Errno::ENODEV));
        // Refused requests leave nothing behind that the next one could take for its answer.
        let links: Vec<Message> = socket.dump(&Message::GetLink(link(0, Vec::new()))).unwrap();
        assert!(links.iter().any(|l| matches!(l, Message::NewLink(l) if l.header.index == 1)));
    }

    /// More than are sent at once, and what is right between what is wrong.
    #[test]
    fn answers_of_a_batch_are_in_its_order() {
        let wrong = |i: usize| i % 3 == 1;
        let requests = (0..3 * MOST_AT_ONCE).map(|i| {
            // A change of nothing succeeds; nobody has the other index.
            let index = if wrong(i) { 0x7fff_ffff } else { 1 };
            (0, Message::SetLink(link(index, Vec::new())))
        });
        let answers = answer(requests.collect());
        assert_eq!(answers.len(), 3 * MOST_AT_ONCE);
        for (i, answer) in answers.iter().enumerate() {
            assert_eq!(answer.as_ref().err().map(|r| r.errno), wrong(i).then_some(Errno::ENODEV), "{i}");
        }
    }

    #[test]
    fn the_kernels_own_words_are_in_the_error() {
        // The link's table has no filter by index: strict checking says so.
        let mut socket = Socket::open(NETLINK_ROUTE).unwrap();
        let refused = socket.dump::<_, Message>(&Message::GetLink(link(1, Vec::new()))).unwrap_err();
        assert_eq!(refused.errno(), Some(Errno::EINVAL));
        let text = refused.to_string();
        assert!(text.starts_with("Filter by device index not supported") && text.contains("os error 22"), "{text}");
        let mut address = AddressMessage::default();
        (address.header.family, address.header.index, address.header.prefix_len) = (AddressFamily::Inet, 1, 33);
        address.attributes.push(AddressAttribute::Local([192, 0, 2, 1].into()));
        let refused = answer(vec![(0, Message::NewAddress(address))]).remove(0).unwrap_err();
        assert_eq!((refused.errno, refused.words.as_deref()), (Errno::EINVAL, Some("ipv4: Invalid prefix length")));
    }

    #[test]
    fn broken_blocks_are_errors() {
        let count = |block: &[u8]| {
            let mut count = 0;
            each(block, |_, _| {
                count += 1;
                Ok(())
            })
            .map(|()| count)
        };
        let whole = [17, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0];
        assert_eq!(count(&[]).unwrap(), 0);
        assert_eq!(count(&[whole, whole].concat()).unwrap(), 2);
        assert_eq!(count(&whole[..17]).unwrap(), 1, "the last one needs no padding");
        for broken in [&whole[..16], &whole[..3], &[4, 0, 0, 0, 1, 0, 0, 0], &[[0; 20], whole].concat()] {
            assert!(count(broken).is_err(), "{broken:?}");
        }
    }
}
