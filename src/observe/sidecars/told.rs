//! What one process tells in one scrape, and whether it can be used.

use super::exposition::{Malformed, Sample};
use crate::observe::evidence::counted::{
    BUILD, CERTIFICATE, CLOSED_TOTAL, CONVERGENCE, DESTINATION, HANDSHAKES, OPENED_TOTAL,
    RECEIVED_TOTAL, REFUSALS, REJECTS, REQUESTS_TOTAL, ROOT_EXPIRES_AT, ROOT_EXPIRES_IN,
    SENT_TOTAL, SERVER_SIDE, UNSIGNED,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// Seconds since a proxy's process began, rounded down.
const UPTIME: &str = "envoy_server_uptime";
/// When a control plane's process began.
const BEGUN_AT: &str = "process_start_time_seconds";
/// A value longer than this is not Istio's. The agent exposes the application's metrics, too.
const LONGEST_VALUE: usize = 1024;

/// A scrape that counts for nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Unusable {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{0} is missing: since when it counts is not known")]
    NoStart(&'static str),
    #[error("{0} is no count")]
    NoCount(String),
    #[error("a label of {0} is longer than {LONGEST_VALUE} bytes")]
    TooLong(String),
}

/// Whose text it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Whose {
    Proxy,
    ControlPlane,
}

/// The metrics that are looked at.
pub(super) fn is_wanted(metric: &str, whose: Whose) -> bool {
    match whose {
        Whose::Proxy => {
            [
                UPTIME,
                REQUESTS_TOTAL,
                OPENED_TOTAL,
                CLOSED_TOTAL,
                SENT_TOTAL,
                RECEIVED_TOTAL,
                REFUSALS,
                CERTIFICATE,
            ]
            .contains(&metric)
                || HANDSHAKES.contains(&metric)
        }
        Whose::ControlPlane => {
            [BEGUN_AT, BUILD, REJECTS, CONVERGENCE, ROOT_EXPIRES_AT, ROOT_EXPIRES_IN]
                .contains(&metric)
                || UNSIGNED.contains(&metric)
        }
    }
}

pub(super) fn check(samples: &[Sample<'_>]) -> Result<(), Unusable> {
    for sample in samples {
        let of = || sample.series.chars().take(200).collect::<String>();
        if sample.labels.iter().any(|(_, value)| value.len() > LONGEST_VALUE) {
            return Err(Unusable::TooLong(of()));
        }
        let is_left = [CERTIFICATE, ROOT_EXPIRES_IN].contains(&sample.name);
        if !sample.value.is_finite() || (sample.value < 0.0 && !is_left) {
            return Err(Unusable::NoCount(format!("{} {}", of(), sample.value)));
        }
    }
    Ok(())
}

pub(super) fn uptime(
    samples: &[Sample<'_>],
    whose: Whose,
    at: Timestamp,
) -> Result<SignedDuration, Unusable> {
    let name = match whose {
        Whose::Proxy => UPTIME,
        Whose::ControlPlane => BEGUN_AT,
    };
    let told = samples.iter().find(|sample| sample.name == name).map(|sample| sample.value);
    let told = told.map(|told| match whose {
        Whose::Proxy => told,
        Whose::ControlPlane => (seconds(at) - told).max(0.0),
    });
    let span = told.and_then(|told| SignedDuration::try_from_secs_f64(told).ok());
    span.filter(|span| at.checked_sub(*span).is_ok()).ok_or(Unusable::NoStart(name))
}

/// The earliest end of what must not end: the workload's own certificate, or the root.
pub(super) fn expires_in(samples: &[Sample<'_>], at: Timestamp) -> Option<f64> {
    let left = samples.iter().filter_map(|sample| match sample.name {
        CERTIFICATE if sample.label("resource_name") == "default" => Some(sample.value),
        ROOT_EXPIRES_AT => Some(sample.value - seconds(at)),
        _ => None,
    });
    let in_seconds = || {
        let told = samples.iter().filter(|sample| sample.name == ROOT_EXPIRES_IN);
        told.map(|sample| sample.value).reduce(f64::min)
    };
    left.reduce(f64::min).or_else(in_seconds)
}

/// Connections that were opened and not closed, by the namespace and workload that they lead to.
pub(super) fn open(samples: &[Sample<'_>]) -> BTreeMap<[Box<str>; 2], f64> {
    let mut open: BTreeMap<[Box<str>; 2], f64> = BTreeMap::new();
    for sample in samples.iter().filter(|one| SERVER_SIDE.contains(&one.label("reporter"))) {
        let count = match sample.name {
            OPENED_TOTAL => sample.value,
            CLOSED_TOTAL => -sample.value,
            _ => continue,
        };
        *open.entry(DESTINATION.map(|name| sample.label(name).into())).or_default() += count;
    }
    open
}

pub(super) fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}
