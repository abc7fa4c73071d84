//! Blocks of traffic control: filters that several interfaces share.
//!
//! An interface joins a block by a `clsact` queueing discipline; from then on what comes in by it is the block's to judge. A block
//! is there as long as an interface is in it.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use nix::errno::Errno;

use super::{Netlink, NetlinkError, Request};

/// `TCA_INGRESS_BLOCK` (kernel 4.16, commit d47a6b0e7c49), which the crate does not have.
const INGRESS_BLOCK: u16 = 13;
const CLSACT: &str = "clsact";
/// The first priority there is: filters of others that are added later without one come before it only if they ask for it.
pub(crate) const PRIORITY: u16 = 1;
/// `htons(ETH_P_ALL)`.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

/// A filter of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockFilter {
    /// Its priority; the lowest is asked first.
    pub priority: u16,
    /// Id of the program it runs; `None` for a filter of another kind.
    pub program: Option<u32>,
}

fn of_device(index: u32) -> TcMessage {
    let mut header = TcHeader { parent: TcHandle::CLSACT, ..TcHeader::default() };
    header.index = index.cast_signed();
    header.handle = TcHandle { major: u16::MAX, minor: 0 };
    TcMessage::from_parts(header, vec![TcAttribute::Kind(CLSACT.to_owned())])
}

fn of_block(block: u32) -> TcHeader {
    TcHeader {
        index: TcHeader::TCM_IFINDEX_MAGIC_BLOCK.cast_signed(),
        // The field means the block here.
        parent: block.into(),
        ..TcHeader::default()
    }
}

impl Request {
    /// Has a block judge what comes in by an interface. [`NetlinkError::Exists`] when it has a discipline of the kind already.
    pub fn join_block(index: u32, block: u32) -> Self {
        let mut message = of_device(index);
        message.attributes.push(TcAttribute::Other(DefaultNla::new(INGRESS_BLOCK, block.to_ne_bytes().to_vec())));
        let what = format!("have block {block} judge what comes in by interface {index}");
        Self::new(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewQueueDiscipline(message))
    }

    /// Removes the discipline by which an interface is in a block, and whatever else was on it.
    pub fn leave_block(index: u32) -> Self {
        let what = format!("take interface {index} out of its block");
        Self::new(what, 0, RouteNetlinkMessage::DelQueueDiscipline(of_device(index)))
    }

    /// Removes all filters of a block that have this priority.
    pub fn delete_block_filters(block: u32, priority: u16) -> Self {
        let mut header = of_block(block);
        header.info = u32::from(priority) << 16 | u32::from(ALL_PROTOCOLS);
        let message = TcMessage::from_parts(header, Vec::new());
        Self::new(format!("remove filters of block {block}"), 0, RouteNetlinkMessage::DelTrafficFilter(message))
    }

    /// Makes a program the first filter of a block, in the place of another program that is.
    pub fn set_block_program(block: u32, name: &str, program: BorrowedFd<'_>) -> Self {
        let mut header = of_block(block);
        header.handle = 1.into();
        header.info = u32::from(PRIORITY) << 16 | u32::from(ALL_PROTOCOLS);
        let options = [
            TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned()),
            TcFilterBpfOption::ProgName(name.to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        let attributes = vec![
            TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
            TcAttribute::Options(options.map(TcOption::Bpf).to_vec()),
        ];
        let message = TcMessage::from_parts(header, attributes);
        let what = format!("make program {name} the filter of block {block}");
        Self::new(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewTrafficFilter(message))
    }
}

impl Netlink {
    /// The interfaces that are in blocks by what comes in, each with its block.
    pub fn in_blocks(&self) -> Result<HashMap<u32, u32>, NetlinkError> {
        let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let found = self.dump("list queueing disciplines", &question)?;
        Ok(found.iter().filter_map(membership).collect())
    }

    /// The block an interface is in.
    pub fn block_of(&self, index: u32) -> Result<Option<u32>, NetlinkError> {
        // Asked for one alone, the kernel tells those who listen to changes, and not who has asked.
        Ok(self.in_blocks()?.get(&index).copied())
    }

    /// The filters of a block, first to last; none if there is no such block.
    pub fn block_filters(&self, block: u32) -> Result<Vec<BlockFilter>, NetlinkError> {
        let question = TcMessage::from_parts(of_block(block), Vec::new());
        let found = match self.dump("list filters", &RouteNetlinkMessage::GetTrafficFilter(question)) {
            Err(NetlinkError::Refused { source, .. }) if source.errno == Errno::EINVAL => return Ok(Vec::new()),
            Err(e) if e.is_absent() => return Ok(Vec::new()),
            found => found?,
        };
        Ok(found.iter().filter_map(filter).collect())
    }
}

fn membership(message: &RouteNetlinkMessage) -> Option<(u32, u32)> {
    let RouteNetlinkMessage::NewQueueDiscipline(message) = message else { return None };
    let block = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Other(nla) if nla.kind() == INGRESS_BLOCK => {
            let mut bytes = [0; 4];
            (nla.value_len() == bytes.len()).then(|| nla.emit_value(&mut bytes))?;
            Some(u32::from_ne_bytes(bytes))
        }
        _ => None,
    })?;
    Some((message.header.index.cast_unsigned(), block))
}

/// A priority and a protocol are listed also without a filter in them: these have no handle.
fn filter(message: &RouteNetlinkMessage) -> Option<BlockFilter> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = message else { return None };
    if message.header.handle == TcHandle::UNSPEC {
        return None;
    }
    let program = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
            _ => None,
        }),
        _ => None,
    });
    Some(BlockFilter { priority: (message.header.info >> 16) as u16, program })
}
