//! Medians, and what they are to each other.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::super::median::median;

/// What is measured, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// `netns up` of a network without pods, programs loaded.
    FirstUp,
    /// `netns add` of a pod with two addresses and a published port.
    Add,
    /// `netns del` of it.
    Del,
    /// The same pod by six commands of `ip`.
    IpAdd,
    /// Its end by two.
    IpDel,
    /// CNI's ADD by bridge and portmap.
    CniAdd,
    /// CNI's DEL.
    CniDel,
    /// `netns up` of many pods with a port each.
    UpMany,
    /// `netns add` beside them.
    AddBesideMany,
    /// `netns del` beside them.
    DelBesideMany,
    /// `netns down` of all.
    DownMany,
    /// Until their namespaces have no name any more.
    GoneMany,
    /// `netns add` beside the pods that open the flows, before they do.
    AddIdle,
    /// `netns del`.
    DelIdle,
    /// The same with the flows and the routes.
    AddBusy,
    /// The same with the flows and the routes.
    DelBusy,
}

impl Metric {
    /// In words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::FirstUp => "first up",
            Self::Add => "add",
            Self::Del => "del",
            Self::IpAdd => "ip, six commands",
            Self::IpDel => "ip, two commands",
            Self::CniAdd => "CNI ADD",
            Self::CniDel => "CNI DEL",
            Self::UpMany => "up of many pods",
            Self::AddBesideMany => "add beside many pods",
            Self::DelBesideMany => "del beside many pods",
            Self::DownMany => "down of many pods",
            Self::GoneMany => "down of many pods, until their namespaces are gone",
            Self::AddIdle => "add, idle host",
            Self::DelIdle => "del, idle host",
            Self::AddBusy => "add, busy host",
            Self::DelBusy => "del, busy host",
        }
    }
}

/// Ratios worth naming: what is measured, and against what.
const RATIOS: [(Metric, Metric); 7] = [
    (Metric::Add, Metric::IpAdd),
    (Metric::Add, Metric::CniAdd),
    (Metric::Del, Metric::CniDel),
    (Metric::AddBesideMany, Metric::Add),
    (Metric::DelBesideMany, Metric::Del),
    (Metric::AddBusy, Metric::AddIdle),
    (Metric::DelBusy, Metric::DelIdle),
];

/// All figures.
#[derive(Debug, Default)]
pub struct Report {
    /// Flows the busy host had.
    pub flows: u64,
    figures: BTreeMap<Metric, Vec<f64>>,
}

impl Report {
    /// Adds a figure.
    pub fn add(&mut self, metric: Metric, milliseconds: f64) {
        self.figures.entry(metric).or_default().push(milliseconds);
    }

    fn median(&self, metric: Metric) -> Option<f64> {
        self.figures.get(&metric).map(|values| median(values))
    }

    fn ratios(&self) -> impl Iterator<Item = (Metric, Metric, Option<f64>)> {
        RATIOS.into_iter().map(|(a, b)| (a, b, self.median(a).zip(self.median(b)).map(|(a, b)| a / b)))
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = format!("{:<52} {:>9} {:>9} {:>9}\n", "milliseconds", "median", "least", "most");
        for (metric, values) in &self.figures {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            let _ = writeln!(out, "{:<52} {:>9.1} {least:>9.1} {most:>9.1}", metric.describe(), median(values));
        }
        out.push('\n');
        for (metric, against, ratio) in self.ratios() {
            let what = format!("{} / {}", metric.describe(), against.describe());
            match ratio {
                Some(ratio) => drop(writeln!(out, "{what:<52} {ratio:>9.2}")),
                None => drop(writeln!(out, "{what:<52} {:>9}", "missing")),
            }
        }
        let _ = writeln!(out, "\nflows of the busy host: {}", self.flows);
        out
    }

    /// For programs.
    pub fn document(&self) -> Value {
        let figures: BTreeMap<_, _> =
            self.figures.iter().map(|(m, v)| (m.describe(), json!({"median_ms": median(v), "ms": v}))).collect();
        let ratios: Vec<Value> = self
            .ratios()
            .map(|(m, a, ratio)| json!({"of": m.describe(), "against": a.describe(), "ratio": ratio}))
            .collect();
        json!({"verbs": figures, "ratios": ratios, "busy_flows": self.flows})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians_and_what_is_missing_is_said() {
        let mut report = Report::default();
        for (metric, values) in [(Metric::Add, [8.0, 10.0, 90.0]), (Metric::IpAdd, [5.0, 5.0, 4.0])] {
            values.into_iter().for_each(|v| report.add(metric, v));
        }
        let table = report.table();
        assert!(table.lines().any(|l| l.starts_with("add / ip, six commands") && l.ends_with("2.00")), "{table}");
        assert!(table.lines().any(|l| l.starts_with("add / CNI ADD") && l.ends_with("missing")), "{table}");
        assert_eq!(report.document()["ratios"][0]["ratio"], 2.0);
    }
}
