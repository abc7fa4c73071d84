//! The figures, their file, and what counts as too much.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// No program may make the verifier process more: a quarter of what it accepts, so that a newer or older kernel's
/// verifier, which may need more for the same program, still has room.
const MAX_VERIFIED_INSNS: u32 = 250_000;

/// The kernel's own limit, over a whole call chain.
pub const MAX_STACK_BYTES: u32 = 512;

/// Growth over the baseline that needs somebody's word, in percent.
const MAX_GROWTH_PERCENT: u64 = 10;

/// What the programs of an object cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The kernel that counted, as `major.minor`: another one's verifier counts differently.
    pub kernel: String,
    /// By program name.
    pub programs: BTreeMap<String, Cost>,
}

/// What one program costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Instructions the verifier processed, over all paths.
    pub verified_insns: u32,
    /// Size of the program as the kernel keeps it, before the JIT.
    pub xlated_bytes: u32,
    /// Stack of the deepest call chain, as the kernel adds it up.
    pub stack_bytes: u32,
}

impl Report {
    /// An empty report of the running kernel.
    pub fn of_this_kernel() -> Self {
        let release = nix::sys::utsname::uname().map(|uts| uts.release().to_string_lossy().into_owned());
        Self { kernel: major_minor(&release.unwrap_or_default()), programs: BTreeMap::new() }
    }

    /// Reads the baseline file.
    pub fn from_json(text: &str) -> Result<Self> {
        Ok(serde_json::from_str(text)?)
    }

    /// The baseline file's text.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What is wrong with these figures; empty if nothing is.
    pub fn complaints(&self, baseline: &Self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (name, cost) in &self.programs {
            if cost.verified_insns > MAX_VERIFIED_INSNS {
                complaints.push(format!(
                    "{name}: {} instructions verified, {MAX_VERIFIED_INSNS} is the limit",
                    cost.verified_insns
                ));
            }
            if cost.stack_bytes > MAX_STACK_BYTES {
                complaints.push(format!("{name}: {} bytes of stack, {MAX_STACK_BYTES} is the limit", cost.stack_bytes));
            }
            let Some(before) = baseline.programs.get(name) else {
                complaints.push(format!("{name}: not in the baseline"));
                continue;
            };
            let figures = [
                ("instructions verified", before.verified_insns, cost.verified_insns, self.kernel == baseline.kernel),
                ("bytes translated", before.xlated_bytes, cost.xlated_bytes, self.kernel == baseline.kernel),
                ("bytes of stack", before.stack_bytes, cost.stack_bytes, true),
            ];
            for (what, before, now, comparable) in figures {
                if comparable && grew(before, now) {
                    complaints.push(format!("{name}: {now} {what}, {before} in the baseline"));
                }
            }
        }
        for name in baseline.programs.keys().filter(|name| !self.programs.contains_key(*name)) {
            complaints.push(format!("{name}: in the baseline, not in the object"));
        }
        complaints
    }

    /// The table for people, with the change against a baseline if there is one.
    pub fn table(&self, baseline: Option<&Self>) -> String {
        let mut text =
            format!("{:<20} {:>18} {:>18} {:>16}\n", "program", "insns verified", "xlated bytes", "stack bytes");
        for (name, cost) in &self.programs {
            let before = baseline.and_then(|baseline| baseline.programs.get(name));
            let cell = |now: u32, before: Option<u32>| match before.filter(|&before| before != now && before != 0) {
                Some(before) => format!("{now} ({:+.1} %)", (f64::from(now) / f64::from(before) - 1.0) * 100.0),
                None => now.to_string(),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{name:<20} {:>18} {:>18} {:>16}",
                cell(cost.verified_insns, before.map(|b| b.verified_insns)),
                cell(cost.xlated_bytes, before.map(|b| b.xlated_bytes)),
                cell(cost.stack_bytes, before.map(|b| b.stack_bytes)),
            );
        }
        if let Some(baseline) = baseline.filter(|baseline| baseline.kernel != self.kernel) {
            let _ = writeln!(
                text,
                "the baseline is of kernel {}, this is {}: growth of instructions and sizes is not judged",
                baseline.kernel, self.kernel
            );
        }
        text
    }
}

/// Whether `now` is more than the allowed growth above `before`.
fn grew(before: u32, now: u32) -> bool {
    u64::from(now) * 100 > u64::from(before) * (100 + MAX_GROWTH_PERCENT)
}

/// `6.18` of `6.18.44-something`.
fn major_minor(release: &str) -> String {
    release.split(['.', '-']).take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kernel: &str, programs: &[(&str, u32, u32)]) -> Report {
        let cost = |&(name, verified_insns, stack_bytes): &(&str, u32, u32)| {
            (name.to_owned(), Cost { verified_insns, xlated_bytes: 800, stack_bytes })
        };
        Report { kernel: kernel.into(), programs: programs.iter().map(cost).collect() }
    }

    #[test]
    fn ten_percent_is_allowed_and_more_is_not() {
        let baseline = report("6.18", &[("from_pod", 1000, 200)]);
        assert!(report("6.18", &[("from_pod", 1100, 220)]).complaints(&baseline).is_empty());
        assert_eq!(report("6.18", &[("from_pod", 1101, 200)]).complaints(&baseline).len(), 1);
        assert_eq!(report("6.18", &[("from_pod", 1000, 221)]).complaints(&baseline).len(), 1);
        assert!(report("6.18", &[("from_pod", 10, 8)]).complaints(&baseline).is_empty());
    }

    #[test]
    fn another_kernels_instructions_are_not_compared_but_limits_and_stack_are() {
        let baseline = report("6.12", &[("from_pod", 1000, 200)]);
        assert!(report("6.18", &[("from_pod", 5000, 200)]).complaints(&baseline).is_empty());
        assert_eq!(report("6.18", &[("from_pod", 250_001, 200)]).complaints(&baseline).len(), 1);
        assert_eq!(report("6.18", &[("from_pod", 1000, 400)]).complaints(&baseline).len(), 1);
    }

    #[test]
    fn a_program_that_came_or_went_needs_a_new_baseline() {
        let complaints = report("6.18", &[("new", 1, 1)]).complaints(&report("6.18", &[("old", 1, 1)]));
        assert!(complaints.iter().any(|c| c.starts_with("new:")) && complaints.iter().any(|c| c.starts_with("old:")));
    }

    #[test]
    fn the_file_reads_back_and_the_table_shows_the_change() {
        let now = report("6.18", &[("from_pod", 1500, 200)]);
        assert_eq!(Report::from_json(&now.to_json().unwrap()).unwrap(), now);
        let table = now.table(Some(&report("6.18", &[("from_pod", 1000, 200)])));
        assert!(table.contains("1500 (+50.0 %)"), "{table}");
    }

    #[test]
    fn the_kernel_is_its_first_two_numbers() {
        assert_eq!(major_minor("6.18.44-cloud-amd64"), "6.18");
        assert_eq!(major_minor("7.0-rc1"), "7.0");
    }
}
