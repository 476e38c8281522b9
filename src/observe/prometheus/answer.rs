//! What the API says, read strictly.

use super::Error;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use std::collections::{BTreeMap, BTreeSet};

/// The values of one set of labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Series<T> {
    /// The labels, `__name__` included where the query keeps it.
    pub labels: BTreeMap<String, String>,
    /// One sample, or one for each step at which there was one.
    pub value: T,
}

/// A value and the time it is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The time evaluated.
    pub at: Timestamp,
    /// Finite.
    pub value: f64,
}

impl<T> Series<T> {
    /// The value of a label; an absent one is empty, as in PromQL.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<T> {
    status: String,
    #[serde(default)]
    warnings: Vec<String>,
    /// What VictoriaMetrics says in place of warnings.
    #[serde(default)]
    is_partial: bool,
    data: Option<Data<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<T> {
    result_type: String,
    result: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    status: String,
    error_type: String,
    error: String,
}

#[derive(Deserialize)]
struct Vector {
    metric: BTreeMap<String, String>,
    value: Option<(f64, String)>,
    histogram: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Matrix {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
    histograms: Option<IgnoredAny>,
}

/// The answer to an instant query.
pub fn vector(text: &[u8]) -> Result<Vec<Series<Sample>>, Error> {
    let series = data::<Vector>(text, "vector")?;
    let series: Result<Vec<_>, Error> = series
        .into_iter()
        .map(|entry| match (entry.value, entry.histogram) {
            (Some(point), None) => {
                Ok(Series { value: sample(&entry.metric, point)?, labels: entry.metric })
            }
            _ => Err(Error::WrongShape(format!("no single value for {}", show(&entry.metric)))),
        })
        .collect();
    distinct(series?)
}

/// The answer to a range query.
pub fn matrix(text: &[u8]) -> Result<Vec<Series<Vec<Sample>>>, Error> {
    let series = data::<Matrix>(text, "matrix")?;
    let series: Result<Vec<_>, Error> = series
        .into_iter()
        .map(|entry| {
            if entry.histograms.is_some() || entry.values.is_empty() {
                return Err(Error::WrongShape(format!("no values for {}", show(&entry.metric))));
            }
            let points: Result<Vec<_>, _> =
                entry.values.into_iter().map(|point| sample(&entry.metric, point)).collect();
            let points = points?;
            if points.windows(2).any(|pair| pair[0].at >= pair[1].at) {
                return Err(Error::Duplicate(format!("a time in {}", show(&entry.metric))));
            }
            Ok(Series { labels: entry.metric, value: points })
        })
        .collect();
    distinct(series?)
}

/// What the API itself says went wrong, if this is how it says so.
pub(super) fn failure(text: &[u8]) -> Option<Error> {
    let failure: Failure = serde_json::from_slice(text).ok()?;
    (failure.status == "error")
        .then_some(Error::ApiError { kind: failure.error_type, message: failure.error })
}

fn data<T: DeserializeOwned>(text: &[u8], expected: &str) -> Result<Vec<T>, Error> {
    // What is passed over is not looked at by the parser: half a character in it is no JSON either.
    let text = std::str::from_utf8(text).map_err(|error| Error::NotJson(error.to_string()))?;
    let failure = || failure(text.as_bytes());
    // A failure, or another type of result, has a shape of its own: look for it before saying that
    // the shape is wrong.
    let envelope: Envelope<T> =
        serde_json::from_str(text).map_err(|error| match error.classify() {
            Category::Data => failure().unwrap_or(Error::WrongShape(error.to_string())),
            Category::Io | Category::Syntax | Category::Eof => Error::NotJson(error.to_string()),
        })?;
    if envelope.status == "error" {
        return Err(failure().unwrap_or(Error::WrongShape("an error without words".into())));
    }
    if !envelope.warnings.is_empty() {
        return Err(Error::Partial(envelope.warnings));
    }
    if envelope.is_partial {
        return Err(Error::Partial(vec!["the answer is marked as partial".into()]));
    }
    let wrong = |what: &str| Err(Error::WrongShape(what.to_owned()));
    if envelope.status != "success" {
        return wrong(&format!("status {:?}", envelope.status));
    }
    match envelope.data {
        None => wrong("no data"),
        Some(data) if data.result_type != expected => {
            wrong(&format!("a {} in place of a {expected}", data.result_type))
        }
        Some(data) => Ok(data.result),
    }
}

fn sample(labels: &BTreeMap<String, String>, (at, text): (f64, String)) -> Result<Sample, Error> {
    let value = match text.parse::<f64>() {
        Ok(value) if value.is_finite() => value,
        _ => return Err(Error::NotANumber { value: text, labels: show(labels) }),
    };
    // Milliseconds are exact in a double until the year 287396; the cast saturates.
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and then is out of range")]
    let at = Timestamp::from_millisecond((at * 1000.0).round() as i64)
        .map_err(|_| Error::WrongShape(format!("{at} is no time")))?;
    Ok(Sample { at, value })
}

fn distinct<T>(series: Vec<Series<T>>) -> Result<Vec<Series<T>>, Error> {
    let mut seen = BTreeSet::new();
    match series.iter().find(|one| !seen.insert(&one.labels)) {
        Some(twice) => Err(Error::Duplicate(show(&twice.labels))),
        None => Ok(series),
    }
}

fn show(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(result: &str) -> Result<Vec<Series<Sample>>, Error> {
        let data = format!(r#"{{"resultType":"vector","result":{result}}}"#);
        vector(format!(r#"{{"status":"success","data":{data}}}"#).as_bytes())
    }

    fn range(values: &str) -> Result<Vec<Series<Vec<Sample>>>, Error> {
        let result = format!(r#"[{{"metric":{{"pod":"a"}},"values":{values}}}]"#);
        let data = format!(r#"{{"resultType":"matrix","result":{result}}}"#);
        matrix(format!(r#"{{"status":"success","data":{data}}}"#).as_bytes())
    }

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).unwrap()
    }

    #[test]
    fn reads_a_vector() {
        let answer = instant(r#"[{"metric":{"pod":"a"},"value":[1700000000.123,"42.5"]}]"#);
        assert_eq!(
            answer,
            Ok(vec![Series {
                labels: [("pod".into(), "a".into())].into(),
                value: Sample { at: at(1_700_000_000_123), value: 42.5 },
            }])
        );
    }

    #[test]
    fn nothing_found_is_an_answer() {
        assert_eq!(instant("[]"), Ok(vec![]));
    }

    #[test]
    fn infos_are_no_warnings() {
        let text = r#"{"status":"success","infos":["metric might not be a counter"],
            "data":{"resultType":"vector","result":[]}}"#;
        assert_eq!(vector(text.as_bytes()), Ok(vec![]));
    }

    #[test]
    fn reads_a_matrix_and_its_gaps() {
        let samples = range(r#"[[10,"1"],[40,"2"]]"#).unwrap().remove(0).value;
        let expected =
            [Sample { at: at(10_000), value: 1.0 }, Sample { at: at(40_000), value: 2.0 }];
        assert_eq!(samples, expected);
    }

    #[test]
    fn a_value_that_is_no_finite_number_is_refused_with_its_series() {
        for value in ["NaN", "+Inf", "-Inf", "", "1,5"] {
            let answer = instant(&format!(r#"[{{"metric":{{"pod":"a"}},"value":[1,"{value}"]}}]"#));
            let labels = r#"{pod="a"}"#.into();
            assert_eq!(answer, Err(Error::NotANumber { value: value.into(), labels }));
            let answer = range(&format!(r#"[[1,"0"],[2,"{value}"]]"#));
            assert!(matches!(answer, Err(Error::NotANumber { .. })), "{answer:?}");
        }
    }

    #[test]
    fn the_same_labels_twice_are_refused() {
        let one = r#"{"metric":{"pod":"a"},"value":[1,"1"]}"#;
        let answer = instant(&format!("[{one},{one}]"));
        assert_eq!(answer, Err(Error::Duplicate(r#"{pod="a"}"#.into())));
    }

    #[test]
    fn times_that_do_not_rise_are_refused() {
        for values in [r#"[[1,"1"],[1,"1"]]"#, r#"[[2,"1"],[1,"1"]]"#] {
            assert!(matches!(range(values), Err(Error::Duplicate(_))), "{values}");
        }
    }

    #[test]
    fn every_other_shape_is_refused() {
        for text in [
            "{}",
            "[]",
            "null",
            r#""success""#,
            r#"{"status":"success"}"#,
            r#"{"status":"error"}"#,
            r#"{"status":"pending","data":{"resultType":"vector","result":[]}}"#,
            r#"{"status":"success","data":{"resultType":"vector"}}"#,
            r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#,
            r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{}}]}}"#,
            r#"{"status":"success","data":{"resultType":"vector","result":[
                {"metric":{},"value":[1,"1"],"histogram":[1,{}]}]}}"#,
            r#"{"status":"success","data":{"resultType":"vector","result":[
                {"metric":{},"value":[1e300,"1"]}]}}"#,
        ] {
            let answer = vector(text.as_bytes());
            assert!(matches!(answer, Err(Error::WrongShape(_))), "{text}: {answer:?}");
        }
    }
}
