//! What is held to be true of any text that comes from outside. Nothing here may panic.

use jiff::{SignedDuration, Timestamp};
use meshrollout::files::Input;
use meshrollout::observe::prometheus::{Series, matrix, vector};
use meshrollout::translate::evidence::{self, PodLabels, Row};
use meshrollout_core::preflight::{Preflight, STATIC};
use meshrollout_core::testing::World;
use std::collections::BTreeSet;

/// A file: read, judged, and every call of it followed.
pub fn files(text: &str) -> Preflight {
    let mut input = Input::default();
    input.read_text("any", text);
    let snapshot = input.snapshot(Timestamp::UNIX_EPOCH);
    let mut plan = World::shop().plan;
    plan.waivers = input.waivers.clone();
    Preflight::run(&plan, &snapshot, &STATIC, Some("traffic is not seen"), |_| true)
}

/// The answer to a query: whatever is taken for one holds numbers, about each series once, and can
/// be made evidence of.
pub fn answers(text: &[u8]) {
    if let Ok(series) = vector(text) {
        let rows = series.into_iter().map(|one| row(one, |sample| vec![(sample.at, sample.value)]));
        evidence_of(rows.collect());
    }
    if let Ok(series) = matrix(text) {
        let all = |samples: Vec<_>| {
            samples
                .into_iter()
                .map(|sample: meshrollout::observe::prometheus::Sample| (sample.at, sample.value))
                .collect()
        };
        evidence_of(series.into_iter().map(|one| row(one, all)).collect());
    }
}

fn row<T>(series: Series<T>, points: impl Fn(T) -> Vec<(Timestamp, f64)>) -> Row {
    Row { labels: series.labels, points: points(series.value) }
}

fn evidence_of(rows: Vec<Row>) {
    let labels: BTreeSet<_> = rows.iter().map(|row| &row.labels).collect();
    assert_eq!(labels.len(), rows.len(), "a series that comes twice was taken");
    assert!(rows.iter().flat_map(|row| &row.points).all(|(_, value)| value.is_finite()));
    let pods = PodLabels { namespace: "namespace", pod: "pod" };
    let ends: Vec<_> = rows.iter().flat_map(|row| &row.points).map(|(at, _)| *at).take(8).collect();
    // What is no evidence is an error; that is as good.
    let _ = evidence::callers(&rows);
    let _ = evidence::by_destination(&rows);
    let _ = evidence::presence(pods, &rows, &rows, &rows);
    let _ = evidence::certificates(pods, SignedDuration::from_hours(24), &rows);
    let _ = evidence::control_plane(&rows);
    let _ = evidence::refusals(pods, &ends, &rows, &rows);
    let _ = evidence::edges(&ends, &rows, &rows, &rows);
}
