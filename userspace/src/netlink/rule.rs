//! Rules: which routing table is asked for what leaves with an address.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::{Family, Netlink, NetlinkError, Request, family};

/// What leaves with an address goes by a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The source address.
    pub from: IpAddr,
    /// The table.
    pub table: u32,
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        let header = &mut message.header;
        header.family = family(self.from);
        header.src_len = if self.from.is_ipv4() { 32 } else { 128 };
        header.action = RuleAction::ToTable;
        message.attributes = vec![RuleAttribute::Source(self.from), RuleAttribute::Table(self.table)];
        message
    }

    /// A rule that says nothing but this.
    fn from_message(message: &RuleMessage) -> Option<Self> {
        let (mut from, mut table) = (None, u32::from(message.header.table));
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Source(address) => from = Some(*address),
                RuleAttribute::Table(number) => table = *number,
                _ => {}
            }
        }
        let from = from.filter(|a| message.header.src_len == if a.is_ipv4() { 32 } else { 128 })?;
        (message.header.action == RuleAction::ToTable).then_some(Self { from, table })
    }
}

impl Request {
    /// Adds a rule, before those that are there.
    pub fn add_rule(rule: &Rule) -> Self {
        let what = format!("have what leaves with {} ask table {}", rule.from, rule.table);
        Self::new(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewRule(rule.message()))
    }

    /// Removes a rule that [`Self::add_rule`] added.
    pub fn delete_rule(rule: &Rule) -> Self {
        let what = format!("remove the rule that has what leaves with {} ask table {}", rule.from, rule.table);
        Self::new(what, 0, RouteNetlinkMessage::DelRule(rule.message()))
    }
}

impl Netlink {
    /// The rules by source address, of both families. A kernel without rules has none.
    pub fn rules(&self) -> Result<Vec<Rule>, NetlinkError> {
        let mut rules = Vec::new();
        for of in Family::ALL {
            let mut message = RuleMessage::default();
            message.header.family = family(of.default_net().addr());
            let wanted = message.header.family;
            match self.dump("list rules", &RouteNetlinkMessage::GetRule(message)) {
                Ok(found) => rules.extend(found.iter().filter_map(|message| match message {
                    // A kernel without the family answers for all others.
                    RouteNetlinkMessage::NewRule(m) if m.header.family == wanted => Rule::from_message(m),
                    _ => None,
                })),
                Err(e) if e.is_unsupported() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(rules)
    }
}
