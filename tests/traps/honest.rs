//! Answers that are honest in an unusual way.

use super::answers::{Change, around, date, head, now, pieces, results, say, text, value};
use axum::body::Body;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// As others say what is complete.
pub(crate) fn honest() -> Vec<(&'static str, Change)> {
    vec![
        ("as it is", text(Body::from)),
        (
            "on many lines",
            Arc::new(|_, honest| say(serde_json::to_string_pretty(&honest).unwrap())),
        ),
        ("between blanks", text(|text| format!("\n  {text}\n\n").into())),
        ("in the other order", results(|_, series| series.reverse())),
        ("with remarks", around(|all| all["infos"] = json!(["metric might not be a counter"]))),
        ("with an empty list of warnings", around(|all| all["warnings"] = json!([]))),
        ("with the mark that it is whole", around(|all| all["isPartial"] = json!(false))),
        ("with statistics", around(|all| all["data"]["stats"] = json!({"seriesFetched": "9"}))),
        ("with something new", around(|all| all["traceID"] = json!({"a": [1]}))),
        ("with more of somebody else", value(json!("7"))),
        ("with values in exponents", value(json!("1.5e+02"))),
        (
            "with times in fractions",
            results(|_, series| {
                for one in series {
                    if let Some(point) = one.get_mut("value") {
                        point[0] = json!(now() as f64 + 0.25);
                    }
                }
            }),
        ),
        (
            "with further labels",
            results(|_, series| {
                series.iter_mut().for_each(|one| one["metric"]["zone"] = json!("zürich \u{1f5fa}"));
            }),
        ),
        (
            "with the metric's name",
            results(|_, series| {
                series.iter_mut().for_each(|one| one["metric"]["__name__"] = json!("istio_build"));
            }),
        ),
        ("as plain text", head("content-type", || "text/plain".into())),
        ("with the connection closed", head("connection", || "close".into())),
        ("by a clock a second behind", head("date", || date(-1))),
        ("in many pieces", text(|text| pieces(&text, 40, Duration::ZERO))),
        ("slowly, but in time", text(|text| pieces(&text, 4, Duration::from_millis(25)))),
        (
            "among a megabyte of somebody else's",
            results(|asked, series| {
                for index in 0..2000 {
                    let mut one = asked.somebody(&json!("1"));
                    for name in ["pod", "source_workload"] {
                        one["metric"][name] = json!(format!("other-{index}"));
                    }
                    series.push(one);
                }
            }),
        ),
    ]
}
