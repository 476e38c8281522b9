//! The questions in PromQL. Each rule's source is `istio-semantics.md` E.

use super::counted::{
    ARRIVED, BUILD, CALLER, CERTIFICATE, CLIENT_SIDE, CLOSED_TOTAL, CONVERGENCE, DESTINATION, EDGE,
    FAILED, HANDSHAKES, MUTUAL_TLS, OPENED_TOTAL, RECEIVED_TOTAL, REFUSALS, REJECTS,
    REJECTS_WINDOW, REQUESTS_TOTAL, ROOT_EXPIRES_AT, ROOT_EXPIRES_IN, SENT_TOTAL, SERVER_SIDE,
    UNSIGNED,
};
use crate::translate::evidence::{BYTES, CONNECTIONS, COUNTED, FACT, PodLabels, REQUESTS};
use jiff::{SignedDuration, Timestamp};

/// What the questions have in common.
pub(super) struct Promql<'a> {
    pub(super) at: Timestamp,
    pub(super) lookback: SignedDuration,
    pub(super) scrape: SignedDuration,
    pub(super) labels: PodLabels<'a>,
}

/// What every proxy says as long as it lives.
const PROXY: &str = r#"istio_build{component="proxy"}"#;
/// How far back the value before a short window is looked for. Less, and an outage of the source
/// would make every old series look new, its whole count harm; more, and a series that was gone
/// meanwhile would be held against a value of its former life.
const MEMORY: SignedDuration = SignedDuration::from_hours(1);

impl Promql<'_> {
    pub(super) fn requests_in_plaintext(&self) -> String {
        self.requests_counted(&not_mutual(), &CALLER)
    }

    pub(super) fn tcp_in_plaintext(&self) -> String {
        self.tcp_counted(&not_mutual(), &CALLER)
    }

    pub(super) fn mutual(&self) -> String {
        let requests = self.requests_counted(&mutual(), &ARRIVED);
        format!("{requests} or {}", self.tcp_counted(&mutual(), &ARRIVED))
    }

    /// Connections that were opened and not closed, as the series have it that are there now. Where
    /// none was ever closed there is no series of those.
    pub(super) fn open(&self) -> String {
        let servers = SERVER_SIDE.join("|");
        let by = DESTINATION.join(",");
        let sum = |metric| format!(r#"sum by ({by}) ({metric}{{reporter=~"{servers}"}})"#);
        let (opened, closed) = (sum(OPENED_TOTAL), sum(CLOSED_TOTAL));
        tagged(&format!("(({opened} - {closed}) or {opened}) > 0"), COUNTED, CONNECTIONS)
    }

    fn requests_counted(&self, select: &str, by: &[&str]) -> String {
        let counted = self.counted(&format!("{REQUESTS_TOTAL}{{{select}}}"), self.lookback);
        tagged(&format!("sum by ({}) ({counted}) > 0", by.join(",")), COUNTED, REQUESTS)
    }

    /// Bytes besides connections: one that was opened before the look-back shows in nothing else.
    fn tcp_counted(&self, select: &str, by: &[&str]) -> String {
        [(OPENED_TOTAL, CONNECTIONS), (SENT_TOTAL, BYTES[0]), (RECEIVED_TOTAL, BYTES[1])]
            .map(|(metric, tag)| {
                let counted = self.counted(&format!("{metric}{{{select}}}"), self.lookback);
                tagged(&format!("sum by ({}) ({counted}) > 0", by.join(",")), COUNTED, tag)
            })
            .join(" or ")
    }

    /// How much a counter grew in a long window, per series (E7).
    ///
    /// `increase` knows resets, but not the first value of a series that was born inside the
    /// window: a caller of one call would count nothing. Such a series counts whole. `increase`
    /// begins three scrapes earlier, so that it holds the last value before the window.
    fn counted(&self, series: &str, window: SignedDuration) -> String {
        let (before, window_text) = (self.scrape * 3, range(window));
        let born = format!(
            "(last_over_time({series}[{window_text}]) unless last_over_time({series}[{}] offset {window_text}))",
            range(before)
        );
        let grown = format!("increase({series}[{}])", range(window + before));
        format!("({grown} >= {born} or {born} or {grown})")
    }

    /// Several tags or scrape jobs may speak of one pod. The largest count, never the sum: a pod
    /// that is scraped twice must not hide its gaps.
    pub(super) fn sample_counts(&self) -> String {
        format!("max by ({}) (count_over_time({PROXY}[{}]))", self.pod(), range(self.lookback))
    }

    /// PromQL gives the time of a sample for an instant only, so the first and last in a window
    /// need a subquery; functions that would say it at once are experimental. Two scrapes a step:
    /// a time is off by at most that, toward less coverage, and `coverage` tolerates three. The
    /// source holds look-back / step values per pod while it answers: 2,880 for a day at 15 s.
    pub(super) fn first_samples(&self) -> String {
        format!("min by ({}) (min_over_time({}))", self.pod(), self.sample_times())
    }

    /// Of a pod that reports now, the very last sample.
    pub(super) fn last_samples(&self) -> String {
        let (pod, begin) = (self.pod(), seconds(self.at - self.lookback));
        format!(
            "max by ({pod}) (timestamp({PROXY}) > {begin}) or max by ({pod}) (max_over_time({}))",
            self.sample_times()
        )
    }

    /// An instant looks back five minutes: what is older than the look-back is left out by time.
    fn sample_times(&self) -> String {
        let begin = seconds(self.at - self.lookback);
        format!(
            "(timestamp({PROXY}) > {begin})[{}:{}]",
            range(self.lookback),
            range(self.scrape * 2)
        )
    }

    /// The agent says what is left at its scrape; by now it is less.
    pub(super) fn certificates(&self) -> String {
        let left = format!(r#"{CERTIFICATE}{{resource_name="default"}}"#);
        let age = format!("({} - timestamp({left}))", seconds(self.at));
        format!("min by ({}) ({left} - {age})", self.pod())
    }

    /// An instance is fresh by the time of its sample: presence alone is up to five minutes old.
    pub(super) fn control_plane(&self) -> String {
        let pilot = format!(r#"{BUILD}{{component="pilot"}}"#);
        let (now, fresh) = (seconds(self.at), seconds(self.at - self.scrape * 3));
        let rejects = self.counted(REJECTS, REJECTS_WINDOW);
        let ten_minutes = range(REJECTS_WINDOW);
        // A counter that has never counted is not there.
        let unsigned = UNSIGNED
            .map(|errors| format!("(sum({}) or vector(0))", self.counted(errors, REJECTS_WINDOW)));
        [
            ("instances", format!("count(timestamp({pilot}) >= {fresh})")),
            ("rejects", format!("sum({rejects})")),
            ("unsigned", format!("({})", unsigned.join(" + "))),
            // The comparison drops what is not a number: nothing changed in this time.
            (
                "convergence",
                format!(
                    "histogram_quantile(0.99, sum by (le) (rate({CONVERGENCE}[{ten_minutes}]))) >= 0"
                ),
            ),
            (
                "root",
                format!(
                    "(min({ROOT_EXPIRES_AT}) - {now} or min({ROOT_EXPIRES_IN}))"
                ),
            ),
        ]
        .map(|(fact, query)| tagged(&query, FACT, fact))
        .join(" or ")
    }

    /// Who exports the counter at all, zero or not.
    pub(super) fn refusal_counters(&self) -> String {
        format!("group by ({}) ({REFUSALS})", self.pod())
    }

    pub(super) fn refusals(&self, window: SignedDuration) -> String {
        // Without their names they would be one series.
        let refused = [REFUSALS].into_iter().chain(HANDSHAKES);
        let refused = refused.map(|one| tagged(&self.grown(one, window), COUNTED, one));
        format!("sum by ({}) ({}) > 0", self.pod(), refused.collect::<Vec<_>>().join(" or "))
    }

    pub(super) fn requests(&self, window: SignedDuration) -> String {
        let client = format!(r#"reporter="{CLIENT_SIDE}""#);
        let requests = self.grown(&format!("{REQUESTS_TOTAL}{{{client}}}"), window);
        let opened = self.grown(&format!("{OPENED_TOTAL}{{{client}}}"), window);
        by_edge(&format!("{requests} or {opened}"))
    }

    pub(super) fn failures(&self, window: SignedDuration) -> String {
        let flags = FAILED.join("|");
        let failed = format!(r#"reporter="{CLIENT_SIDE}",response_flags=~"(.*,)?({flags})(,.*)?""#);
        let requests = self.grown(&format!("{REQUESTS_TOTAL}{{{failed}}}"), window);
        let closed = self.grown(&format!("{CLOSED_TOTAL}{{{failed}}}"), window);
        by_edge(&format!("{requests} or {closed}"))
    }

    pub(super) fn errors(&self, window: SignedDuration) -> String {
        let failed = format!(r#"reporter="{CLIENT_SIDE}",response_code=~"5..""#);
        by_edge(&self.grown(&format!("{REQUESTS_TOTAL}{{{failed}}}"), window))
    }

    /// How much a counter grew in a short window, per series: the value at its end less the value
    /// before it, exact where `increase` would guess from the two or three samples inside. What
    /// was reset or born counts whole: the first failure makes the series of failures.
    fn grown(&self, series: &str, window: SignedDuration) -> String {
        let memory = range(MEMORY.max(self.scrape * 3));
        let window = range(window);
        let now = format!("last_over_time({series}[{window}])");
        let then = format!("last_over_time({series}[{memory}] offset {window})");
        format!("({now} - {then} >= 0 or {now} < {then} or ({now} unless {then}))")
    }

    fn pod(&self) -> String {
        format!("{},{}", self.labels.namespace, self.labels.pod)
    }
}

fn not_mutual() -> String {
    let servers = SERVER_SIDE.join("|");
    format!(r#"reporter=~"{servers}",connection_security_policy!="{MUTUAL_TLS}""#)
}

fn mutual() -> String {
    let servers = SERVER_SIDE.join("|");
    format!(r#"reporter=~"{servers}",connection_security_policy="{MUTUAL_TLS}""#)
}

fn by_edge(counts: &str) -> String {
    format!("sum by ({}) ({counts}) > 0", EDGE.join(","))
}

fn tagged(query: &str, label: &str, value: &str) -> String {
    format!(r#"label_replace({query}, "{label}", "{value}", "", "")"#)
}

fn range(span: SignedDuration) -> String {
    format!("{}ms", span.as_millis())
}

fn seconds(at: Timestamp) -> String {
    let milliseconds = at.as_millisecond();
    format!("{}.{:03}", milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000))
}
