//! What became of the cases, as a table and as JSON.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::case::Case;
use super::probe::ProbeError;

/// One case's outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The path, e.g. `pod to pod`.
    pub path: &'static str,
    /// Who opened, with its address.
    pub from: String,
    /// Who answered, with the address used.
    pub to: String,
    /// The protocol.
    pub protocol: &'static str,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Whether it held.
    pub ok: bool,
    /// Why it did not.
    pub reason: Option<String>,
    /// Time it took, in milliseconds.
    pub ms: f64,
}

impl Row {
    /// Runs a case's traffic and writes down what came of it.
    pub(super) fn of(case: &Case, probe: impl FnOnce() -> Result<(), ProbeError>) -> Self {
        let started = Instant::now();
        let outcome = probe();
        let elapsed = started.elapsed();
        Self {
            path: case.path,
            from: case.from_text(),
            to: case.to_text(),
            protocol: case.probe.protocol(),
            family: case.family.as_str(),
            ok: outcome.is_ok(),
            reason: outcome.err().map(|e| e.to_string()),
            ms: milliseconds(elapsed),
        }
    }
}

/// All rows of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether every row held. A check without rows has shown nothing and is not ok.
    pub ok: bool,
    /// Rows that held.
    pub passed: usize,
    /// Rows that did not.
    pub failed: usize,
    /// Time of the whole check, in milliseconds; rows run side by side.
    pub ms: f64,
    /// The rows, in the order of the cases.
    pub rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(rows: Vec<Row>, elapsed: Duration) -> Self {
        let passed = rows.iter().filter(|row| row.ok).count();
        let failed = rows.len() - passed;
        Self { ok: failed == 0 && passed > 0, passed, failed, ms: milliseconds(elapsed), rows }
    }
}

/// Three decimals are a microsecond; more is noise.
fn milliseconds(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |title: &str, text: fn(&Row) -> &str| {
            self.rows.iter().map(|row| text(row).len()).chain([title.len()]).max().unwrap_or(0)
        };
        let path = width("PATH", |row| row.path);
        let from = width("FROM", |row| &row.from);
        let to = width("TO", |row| &row.to);
        let protocol = width("PROTOCOL", |row| row.protocol);
        writeln!(
            f,
            "{:path$}  {:from$}  {:to$}  {:protocol$}  {:6}  {:>9}  RESULT",
            "PATH", "FROM", "TO", "PROTOCOL", "FAMILY", "MS"
        )?;
        for row in &self.rows {
            let result = row.reason.as_deref().unwrap_or("ok");
            let failed = if row.ok { "" } else { "FAILED: " };
            writeln!(
                f,
                "{:path$}  {:from$}  {:to$}  {:protocol$}  {:6}  {:9.3}  {failed}{result}",
                row.path, row.from, row.to, row.protocol, row.family, row.ms
            )?;
        }
        let seconds = self.ms / 1e3;
        if self.ok {
            write!(f, "all {} paths ok, in {seconds:.1} s", self.passed)
        } else {
            write!(f, "{} of {} paths FAILED, in {seconds:.1} s", self.failed, self.rows.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_without_rows_is_not_ok() {
        assert!(!Report::new(Vec::new(), Duration::ZERO).ok);
    }
}
