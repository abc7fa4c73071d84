//! Medians and ratios.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::arms::ArmKind;
use super::median::median;
use super::programs::{self, ProgramCost};
use super::workload::Metric;

/// All figures of a run.
pub struct Report {
    arms: Vec<ArmKind>,
    rounds: u32,
    seconds: u32,
    programs: Vec<ProgramCost>,
    samples: BTreeMap<Metric, BTreeMap<ArmKind, Vec<f64>>>,
}

/// The result as one JSON document.
#[derive(Debug, Serialize)]
pub struct Document {
    rounds: u32,
    seconds_per_figure: u32,
    rows: Vec<Row>,
    programs: Vec<ProgramCost>,
}

/// A metric over all arms.
#[derive(Debug, Serialize)]
pub struct Row {
    metric: Metric,
    unit: &'static str,
    /// Samples in the order they were taken.
    samples: BTreeMap<ArmKind, Vec<f64>>,
    medians: BTreeMap<ArmKind, f64>,
    /// Ours over the other, turned round for latencies: more is better.
    ours_to_veth: Option<f64>,
    ours_to_bridge: Option<f64>,
    /// The least `ours_to_veth` may be.
    floor: Option<f64>,
}

impl Report {
    /// An empty one.
    pub fn new(arms: &[ArmKind], rounds: u32, seconds: u32) -> Self {
        Self { arms: arms.to_vec(), rounds, seconds, programs: Vec::new(), samples: BTreeMap::new() }
    }

    /// Adds a figure.
    pub fn add(&mut self, metric: Metric, arm: ArmKind, value: f64) {
        self.samples.entry(metric).or_default().entry(arm).or_default().push(value);
    }

    /// Adds what the programs take by themselves.
    pub fn add_programs(&mut self, costs: Vec<ProgramCost>) {
        self.programs.extend(costs);
    }

    /// The result for machines.
    pub fn document(&self) -> Document {
        Document {
            rounds: self.rounds,
            seconds_per_figure: self.seconds,
            rows: self.rows(),
            programs: self.programs.clone(),
        }
    }

    fn rows(&self) -> Vec<Row> {
        self.samples.iter().map(|(&metric, samples)| Row::new(metric, samples)).collect()
    }

    /// The result for people.
    pub fn table(&self) -> String {
        let mut text = format!("{:<26} {:<7}", format!("median of {}", self.rounds), "unit");
        // Writing to a String cannot fail, here and below.
        for arm in &self.arms {
            let _ = write!(text, " {:>9}", arm.describe());
        }
        let _ = writeln!(text, " {:>10} {:>12} {:>6}", "ours/veth", "ours/bridge", "floor");
        for row in self.rows() {
            let _ = write!(text, "{:<26} {:<7}", row.metric.describe(), row.unit);
            for arm in &self.arms {
                let _ = write!(text, " {:>9}", row.medians.get(arm).map_or_else(|| "-".into(), |value| figure(*value)));
            }
            let ratio = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
            let (veth, bridge, floor) = (ratio(row.ours_to_veth), ratio(row.ours_to_bridge), ratio(row.floor));
            let _ = writeln!(text, " {veth:>10} {bridge:>12} {floor:>6}");
        }
        text.push_str("ratios: more is better, also for latencies (us: half a round trip)\n");
        if !self.programs.is_empty() {
            text.push_str(&programs::table(&self.programs));
        }
        text
    }

    /// A line for each metric where ours is less of a direct veth pair than it may be.
    pub fn missed_floors(&self) -> Vec<String> {
        let missed = |row: Row| {
            let (ratio, floor) = (row.ours_to_veth?, row.floor?);
            (ratio < floor)
                .then(|| format!("{}: {ratio:.3} of a direct veth pair, must be {floor}", row.metric.describe()))
        };
        self.rows().into_iter().filter_map(missed).collect()
    }
}

impl Row {
    fn new(metric: Metric, samples: &BTreeMap<ArmKind, Vec<f64>>) -> Self {
        let medians: BTreeMap<_, _> = samples.iter().map(|(&arm, values)| (arm, median(values))).collect();
        let ratio = |other: ArmKind| {
            let (ours, other) = (*medians.get(&ArmKind::Ours)?, *medians.get(&other)?);
            Some(if metric.is_latency() { other / ours } else { ours / other }).filter(|ratio| ratio.is_finite())
        };
        Self {
            metric,
            unit: metric.unit(),
            samples: samples.clone(),
            ours_to_veth: ratio(ArmKind::Veth),
            ours_to_bridge: ratio(ArmKind::Bridge),
            medians,
            floor: metric.floor(),
        }
    }
}

/// Three or more digits that matter, no more decimals than that takes.
fn figure(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(metric: Metric, veth: &[f64], ours: &[f64]) -> Report {
        let mut report = Report::new(&[ArmKind::Veth, ArmKind::Ours], 3, 2);
        veth.iter().for_each(|&value| report.add(metric, ArmKind::Veth, value));
        ours.iter().for_each(|&value| report.add(metric, ArmKind::Ours, value));
        report
    }

    #[test]
    fn more_is_better_for_rates_and_latencies_alike() {
        let stream = report(Metric::TcpStream, &[10.0, 10.0, 10.0], &[9.0, 9.6, 20.0]);
        assert_eq!(stream.rows()[0].ours_to_veth, Some(0.96));
        assert!(stream.missed_floors().is_empty());
        let latency = report(Metric::TcpRequestResponseP50, &[10.0], &[20.0]);
        assert_eq!(latency.rows()[0].ours_to_veth, Some(0.5));
        assert_eq!(latency.missed_floors().len(), 1);
    }

    #[test]
    fn without_ours_there_is_no_ratio_and_no_floor_to_miss() {
        let veth_only = report(Metric::UdpSmall, &[400.0], &[]);
        assert_eq!(veth_only.rows()[0].ours_to_veth, None);
        assert!(veth_only.missed_floors().is_empty());
        assert!(veth_only.table().contains('-'));
    }

    #[test]
    fn the_document_carries_samples_medians_and_ratios() {
        let json = serde_json::to_value(report(Metric::SnatStream, &[10.0], &[5.0]).document()).unwrap();
        assert_eq!(json["rows"][0]["metric"], "snat_stream");
        assert_eq!(json["rows"][0]["medians"]["ours"], 5.0);
        assert_eq!(json["rows"][0]["ours_to_veth"], 0.5);
    }
}
