//! `netns set` and `netns list-id`: the numbers this network namespace has for others.

use std::collections::HashMap;

use clap::Args;
use serde::Serialize;

use super::name::namespace_name;
use super::owner::open_namespace;
use super::{CliError, Global};
use crate::netlink::{Nsid, NsidEntry};
use crate::netns::{Netns, list_named};
use crate::probe;
use crate::topology::{InputError, Problem};

/// Arguments of `set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Name of the pod or network namespace
    pub name: String,
    /// The id it is to have in the network namespace this command runs in: a number from 0, or auto for the next free one
    #[arg(value_name = "NSID|auto", allow_negative_numbers = true)]
    pub nsid: String,
}

/// Arguments of `list-id`.
#[derive(Debug, Args)]
pub struct ListIdArgs {
    /// `target-nsid N`: ids as the namespace with id N has them; `nsid N`: of the namespace with id N alone
    #[arg(value_name = "target-nsid N | nsid N", allow_negative_numbers = true)]
    pub words: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Assigned {
    changed: bool,
    namespace: String,
    nsid: Option<Nsid>,
}

/// Named as in `ip -j netns list-id`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    nsid: Option<Nsid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_nsid: Option<Nsid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip)]
    has_current: bool,
}

pub(super) fn set(global: &Global, args: &SetArgs) -> Result<u8, CliError> {
    probe::privileges()?;
    let wanted = if args.nsid == "auto" { None } else { Some(number("NSID", &args.nsid)?) };
    let netns = open_namespace(&namespace_name(&args.name)?)?;
    let before = NsidEntry::of(&netns)?;
    let refused = |why: String| InputError::new("NSID", &args.nsid, Problem::Usage(why));
    match before {
        Some(has) if wanted.is_some_and(|wanted| wanted != has) => {
            return Err(refused(format!("{:?} has id {has} already, and keeps it until it ends", args.name)).into());
        }
        Some(_) => {}
        None => NsidEntry::assign(&netns, wanted).map_err(|e| match (e.is_exists(), wanted) {
            (true, Some(_)) => refused("another namespace has this id; choose another, or auto".to_owned()).into(),
            _ => CliError::from(e),
        })?,
    }
    let nsid = NsidEntry::of(&netns)?;
    let assigned = Assigned { changed: before.is_none(), namespace: args.name.clone(), nsid };
    global.print(&assigned, |a| {
        let id = a.nsid.map_or_else(|| "-".to_owned(), |id| id.to_string());
        if a.changed {
            format!("= network namespace {}  id {id}", a.namespace)
        } else {
            format!("network namespace {}: nothing to change", a.namespace)
        }
    })?;
    Ok(0)
}

pub(super) fn list(global: &Global, args: &ListIdArgs) -> Result<u8, CliError> {
    let (mut target, mut only) = (None, None);
    for pair in args.words.chunks(2) {
        let word = &pair[0];
        let place = match word.as_str() {
            "target-nsid" => &mut target,
            "nsid" => &mut only,
            _ => return Err(refused(word, "not known; write `target-nsid N` or `nsid N`").into()),
        };
        let value = pair.get(1).ok_or_else(|| refused(word, "needs a number behind it"))?;
        if place.replace(number(word, value)?).is_some() {
            return Err(refused(word, "given twice").into());
        }
    }
    let entries = match only {
        Some(nsid) => vec![NsidEntry::one(nsid, target)?],
        None => NsidEntry::all(target)?,
    };
    let names = names_by_id()?;
    let rows: Vec<Row> = entries.iter().map(|entry| Row::new(entry, &names)).collect();
    global.print(&rows, |rows| rows.iter().map(Row::text).collect())?;
    Ok(0)
}

impl Row {
    fn new(entry: &NsidEntry, names: &HashMap<Nsid, String>) -> Self {
        // Names are known by the numbers they have here.
        let here = entry.current.unwrap_or(entry.nsid);
        Self {
            nsid: entry.nsid,
            current_nsid: entry.current.flatten(),
            name: here.and_then(|id| names.get(&id).cloned()),
            has_current: entry.current.is_some(),
        }
    }

    /// A line as `ip netns list-id` has it.
    fn text(&self) -> String {
        let id = |id: Option<Nsid>| id.map_or_else(|| "unassigned".to_owned(), |id| id.to_string());
        let mut line = format!("nsid {} ", id(self.nsid));
        if self.has_current {
            line.push_str(&format!("current-nsid {} ", id(self.current_nsid)));
        }
        if let Some(name) = &self.name {
            line.push_str(&format!("(iproute2 netns name: {name})"));
        }
        line + "\n"
    }
}

/// The number a name's namespace has here; `None` if it has none, or there is no telling.
pub(super) fn of_name(name: &str) -> Option<Nsid> {
    let netns = Netns::open_named(&name.try_into().ok()?).ok()?;
    NsidEntry::of(&netns).ok().flatten()
}

fn names_by_id() -> Result<HashMap<Nsid, String>, CliError> {
    let names = list_named()?.into_iter().rev();
    // Of several names the first one counts.
    Ok(names.filter_map(|name| Some((of_name(name.as_str())?, name.to_string()))).collect())
}

fn refused(word: &str, why: &str) -> InputError {
    InputError::new("list-id", word, Problem::Usage(why.to_owned()))
}

fn number(field: &str, text: &str) -> Result<Nsid, InputError> {
    let number = text.parse::<Nsid>().ok().filter(|number| *number >= 0);
    number.ok_or_else(|| InputError::new(field, text, Problem::Usage(format!("not a number from 0 to {}", Nsid::MAX))))
}
