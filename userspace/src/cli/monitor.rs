//! `netns monitor`.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::{CliError, Format, Global};
use crate::netns::{NameEvent, NameWatch};

/// Arguments of `monitor`.
#[derive(Debug, Args)]
pub struct MonitorArgs {}

/// A line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    event: &'static str,
    name: &'a str,
}

pub(super) fn run(global: &Global, _: &MonitorArgs) -> Result<u8, CliError> {
    let mut watch = NameWatch::new()?;
    loop {
        let event = watch.next_event()?;
        let line = match &event {
            NameEvent::Added(name) => Line { event: "add", name: name.as_str() },
            NameEvent::Deleted(name) => Line { event: "delete", name: name.as_str() },
        };
        let text = match global.output {
            Format::Text => format!("{} {}", line.event, line.name),
            Format::Json => serde_json::to_string(&line).map_err(io::Error::from).map_err(CliError::Output)?,
        };
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            done => done.map_err(CliError::Output)?,
        }
    }
}
