//! The text in which a process exposes its metrics, as far as it is asked for.
//!
//! A proxy exposes tens of thousands of lines, of which some tens are evidence: a line is looked at
//! closely only when its metric is wanted. There the public crates differ from what is needed most:
//! they pass over what they cannot read, and a line left out is a caller left out. Here it is an
//! error, and the whole scrape counts for nothing.

use std::borrow::Cow;

/// One line: `name{label="value",…} value`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample<'a> {
    pub(super) name: &'a str,
    pub(super) labels: Vec<(&'a str, Cow<'a, str>)>,
    pub(super) value: f64,
    /// Name and labels as they are written: the same series has the same text in every scrape of
    /// one process.
    pub(super) series: &'a str,
}

impl Sample<'_> {
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value)
    }
}

/// A line of a wanted metric that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not in Prometheus' text format: {0}")]
pub(super) struct Malformed(String);

/// The samples of the metrics that are wanted. Comments, other metrics and times are passed over.
pub(super) fn samples<'a>(
    text: &'a str,
    wanted: impl Fn(&str) -> bool,
) -> impl Iterator<Item = Result<Sample<'a>, Malformed>> {
    text.lines().filter_map(move |line| {
        let line = line.trim();
        let name = metric(line)?;
        if !wanted(name) {
            return None;
        }
        let malformed = || Malformed(line.chars().take(200).collect());
        Some(sample(line, name.len()).ok_or_else(malformed))
    })
}

/// The metric that a line is of, if it is not a comment.
pub(super) fn metric(line: &str) -> Option<&str> {
    let end = line.find(['{', ' ', '\t']).unwrap_or(line.len());
    (!line.starts_with('#') && end > 0).then(|| &line[..end])
}

fn sample(line: &str, end: usize) -> Option<Sample<'_>> {
    let (name, mut rest) = line.split_at(end);
    let mut labels = vec![];
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, quoted) = rest.split_once('=')?;
            let (value, after) = quoted_value(quoted.trim_start())?;
            labels.push((label.trim_end(), value));
            rest = after.trim_start();
            match rest.strip_prefix(',') {
                Some(after) => rest = after,
                None if rest.starts_with('}') => {}
                None => return None,
            }
        }
    }
    let series = &line[..line.len() - rest.len()];
    let mut words = rest.split_ascii_whitespace();
    let value = words.next()?.parse().ok()?;
    // A time may follow; whoever exposes their present state gives none.
    match (words.next().map(str::parse::<i64>), words.next()) {
        (None | Some(Ok(_)), None) => Some(Sample { name, labels, value, series }),
        _ => None,
    }
}

/// What stands between the quotes, and what comes after them.
fn quoted_value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let text = text.strip_prefix('"')?;
    let end = text.find(['"', '\\'])?;
    if text[end..].starts_with('"') {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut value = text[..end].to_owned();
    let mut rest = text[end..].chars();
    while let Some(character) = rest.next() {
        match character {
            '"' => return Some((Cow::Owned(value), rest.as_str())),
            '\\' => value.push(match rest.next()? {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Sample<'_>>, Malformed> {
        samples(text, |name| name.starts_with("istio_")).collect()
    }

    #[test]
    fn what_is_wanted_is_read_and_all_else_is_passed_over() {
        let text = "# TYPE istio_requests_total counter\n\
            envoy_cluster_x{a=\"b} oh no\n\
            istio_requests_total{reporter=\"source\",response_flags=\"-\"} 17\n\
            istio_agent_up 1 1700000000000\n\
            istio_build{ tag = \"1.30\" , } 1e0\n\n";
        let samples = read(text).unwrap();
        let [requests, up, build] = &samples[..] else { panic!("{samples:#?}") };
        assert_eq!((requests.label("reporter"), requests.label("other")), ("source", ""));
        assert_eq!(
            requests.series,
            r#"istio_requests_total{reporter="source",response_flags="-"}"#
        );
        assert_eq!((up.name, up.series, up.value), ("istio_agent_up", "istio_agent_up", 1.0));
        assert_eq!((build.label("tag"), build.value), ("1.30", 1.0));
    }

    #[test]
    fn a_value_may_hold_what_stands_between_values() {
        let samples = read(r#"istio_x{a="1,b=\"2\"} 3",c="\\d\n"} 4"#).unwrap();
        assert_eq!(samples[0].label("a"), "1,b=\"2\"} 3");
        assert_eq!((samples[0].label("c"), samples[0].value), ("\\d\n", 4.0));
    }

    #[test]
    fn a_wanted_line_that_cannot_be_read_is_no_missing_line() {
        for text in [
            "istio_x{a=\"1\" 2",
            "istio_x{a=\"1\"}",
            "istio_x{a=1} 2",
            "istio_x{a=\"1\"b=\"2\"} 2",
            "istio_x{a=\"\\t\"} 2",
            "istio_x{a=\"",
            "istio_x many",
            "istio_x 1 2 3",
            "istio_x",
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.ends_with(text), "{message}");
        }
    }
}
