//! The rows that the memory amounts to, as a Prometheus would answer.

use super::super::growth::{Growth, Key, NAMESPACE, POD, Question as Asks};
use super::super::told::seconds;
use super::process::{Proxy, Scrape};
use super::{Asked, Memory};
use crate::observe::evidence::counted::{DESTINATION, REJECTS_WINDOW};
use crate::observe::evidence::{self, Answers, Question};
use crate::translate::evidence::{CONNECTIONS, COUNTED, FACT, Row};
use jiff::{SignedDuration, Timestamp};
use meshrollout_core::ident::{PodRef, Uid};
use meshrollout_core::reading::Cause;
use meshrollout_core::traffic::Presence;
use std::collections::BTreeMap;

impl Memory {
    /// The same answers as a Prometheus would give that had scraped as often.
    pub(in crate::observe) fn answers(
        &mut self,
        asker: &str,
        question: &Question,
        now: Timestamp,
        certificate_lifetime: SignedDuration,
    ) -> Answers {
        let width = question.harm_window.max(self.scrape);
        let ends = evidence::window_ends(now, width, question.since);
        let windows = ends.first().map_or(now, |end| *end - width);
        let asked = Asked { at: now, lookback: question.lookback, windows };
        self.asked.insert(asker.to_owned(), asked);
        let begin = now - question.lookback;

        let since = |asks| {
            self.complete_since(begin)?;
            Ok(self.rows(asks, |key, growth| {
                let count = match asks {
                    Asks::Mutual => growth.wholly_since(begin),
                    _ => growth.since(begin),
                };
                (count > 0.0).then(|| key.row(vec![(now, count)]))
            }))
        };
        let in_windows = |asks| {
            self.complete_since(windows)?;
            Ok(self.rows(asks, |key, growth| {
                let points = growth.in_windows(&ends, width);
                (!points.is_empty()).then(|| key.row(points))
            }))
        };
        let present = self.presence(begin, now);
        let row = |value: fn(&Presence) -> f64| {
            let rows = present.iter().map(|(pod, known)| pod_row(pod, now, value(known)));
            self.complete(rows.collect())
        };
        Answers {
            plaintext: since(Asks::Plaintext),
            mutual: since(Asks::Mutual),
            open: self.complete(self.open(now)),
            counts: row(|known| known.samples as f64),
            firsts: row(|known| seconds(known.first)),
            lasts: row(|known| seconds(known.last)),
            gaps: present
                .iter()
                .filter_map(|(pod, known)| Some((pod.clone(), known.gap?)))
                .collect(),
            certificates: self.complete(self.certificates(now)),
            control_plane: self.complete(self.control_plane(now)),
            exporters: self.complete(self.exporters(now)),
            refusals: in_windows(Asks::Refusals),
            requests: in_windows(Asks::Requests),
            failures: in_windows(Asks::Failures),
            errors: in_windows(Asks::Errors),
            // The times are our own.
            skew: Ok(SignedDuration::ZERO),
            at: now,
            scrape_interval: self.scrape,
            certificate_lifetime,
            ends,
        }
    }

    fn complete<T>(&self, answer: T) -> Result<T, Cause> {
        match self.whole_round {
            true => Ok(answer),
            false => Err(Cause::NotRead(
                "the sidecars' metrics: the first round of scrapes is under way".into(),
            )),
        }
    }

    fn complete_since(&self, time: Timestamp) -> Result<(), Cause> {
        match self.lost {
            Some(lost) if lost > time => Err(Cause::SourceUnavailable(format!(
                "the memory for the sidecars' counters is full ({} points): name a metrics source",
                self.most_points
            ))),
            Some(_) | None => self.complete(()),
        }
    }

    fn rows(&self, asks: Asks, row: impl Fn(&Key, &Growth) -> Option<Row>) -> Vec<Row> {
        let of_question = self.grown.iter().filter(|(key, _)| key.question == asks);
        of_question.filter_map(|(key, growth)| row(key, growth)).collect()
    }

    /// When each pod was heard; pods of one name, one after the other, as one.
    fn presence(&self, begin: Timestamp, now: Timestamp) -> BTreeMap<PodRef, Presence> {
        let mut present: BTreeMap<PodRef, Presence> = BTreeMap::new();
        for ((pod, _), process) in &self.proxies {
            let Some(mut known) = process.presence(begin, now, self.scrape) else { continue };
            // What is forgotten is not known any more.
            if let Some(kept) = self.kept_since.filter(|kept| *kept > known.first) {
                known.gap = known.gap.max(Some((known.first, kept)));
            }
            let both = |other: &mut Presence| {
                other.first = other.first.min(known.first);
                other.last = other.last.max(known.last);
                other.samples += known.samples;
                other.gap = other.gap.max(known.gap);
            };
            present.entry(pod.clone()).and_modify(both).or_insert(known);
        }
        present
    }

    /// Processes that were heard a moment ago.
    fn fresh<'a>(
        &self,
        processes: &'a BTreeMap<(PodRef, Uid), Proxy>,
        now: Timestamp,
    ) -> impl Iterator<Item = (&'a PodRef, &'a Scrape)> {
        let since = now - self.scrape * 3;
        processes.iter().filter_map(move |((pod, _), process)| {
            let last = process.last.as_ref().filter(|_| process.gone.is_none())?;
            (last.at >= since).then_some((pod, last))
        })
    }

    fn certificates(&self, now: Timestamp) -> Vec<Row> {
        let left = self.fresh(&self.proxies, now).filter_map(|(pod, last)| {
            Some(pod_row(pod, now, last.expires_in? - seconds(now) + seconds(last.at)))
        });
        left.collect()
    }

    fn open(&self, now: Timestamp) -> Vec<Row> {
        let mut open: BTreeMap<&[Box<str>; 2], f64> = BTreeMap::new();
        for (at, count) in self.fresh(&self.proxies, now).flat_map(|(_, last)| &last.open) {
            *open.entry(at).or_default() += count;
        }
        let row = |(at, count): (&[Box<str>; 2], f64)| {
            let labels = DESTINATION.iter().zip(at).map(|(name, value)| (*name, &**value));
            let labels = labels.chain([(COUNTED, CONNECTIONS)]);
            let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
            Row { labels: labels.collect(), points: vec![(now, count)] }
        };
        open.into_iter().filter(|(_, count)| *count > 0.0).map(row).collect()
    }

    fn exporters(&self, now: Timestamp) -> Vec<Row> {
        let telling = self.fresh(&self.proxies, now).filter(|(_, last)| last.tells_refusals);
        telling.map(|(pod, _)| pod_row(pod, now, 1.0)).collect()
    }

    fn control_plane(&self, now: Timestamp) -> Vec<Row> {
        let fact = |name: &str, value: f64| Row {
            labels: BTreeMap::from([(FACT.to_owned(), name.to_owned())]),
            points: vec![(now, value)],
        };
        let fresh: Vec<_> = self.fresh(&self.control_planes, now).map(|(_, last)| last).collect();
        let root = fresh
            .iter()
            .filter_map(|last| Some(last.expires_in? - seconds(now) + seconds(last.at)))
            .reduce(f64::min);
        let begin = now - REJECTS_WINDOW;
        let grown = |asks| self.grown.iter().filter(move |(key, _)| key.question == asks);
        let sum = |asks| grown(asks).map(|(_, growth)| growth.since(begin)).fold(0.0, |a, b| a + b);
        let buckets = grown(Asks::Convergence)
            .filter_map(|(key, growth)| Some((key.label("le").parse().ok()?, growth.since(begin))));
        [
            Some(("instances", fresh.len() as f64)),
            Some(("rejects", sum(Asks::Rejects))),
            Some(("unsigned", sum(Asks::Unsigned))),
            quantile(0.99, buckets.collect()).map(|quantile| ("convergence", quantile)),
            root.map(|root| ("root", root)),
        ]
        .into_iter()
        .flatten()
        .map(|(name, value)| fact(name, value))
        .collect()
    }
}

/// As Prometheus' `histogram_quantile` has it, of buckets that count up to their bound.
fn quantile(quantile: f64, mut buckets: Vec<(f64, f64)>) -> Option<f64> {
    buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let all = buckets.last().filter(|(bound, count)| bound.is_infinite() && *count > 0.0)?.1;
    let rank = quantile * all;
    let place = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (low, below) =
        place.checked_sub(1).map_or((0.0, 0.0), |before| (buckets[before].0, buckets[before].1));
    let (high, up_to) = buckets[place];
    if high.is_infinite() {
        return Some(low);
    }
    Some(low + (high - low) * (rank - below) / (up_to - below))
}

fn pod_row(pod: &PodRef, at: Timestamp, value: f64) -> Row {
    let labels = [(NAMESPACE, pod.namespace.as_str()), (POD, pod.name.as_str())];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Row { labels: BTreeMap::from(labels), points: vec![(at, value)] }
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let infinite = f64::INFINITY;
        assert_eq!(quantile(0.5, vec![(1.0, 2.0), (2.0, 4.0), (infinite, 4.0)]), Some(1.0));
        assert_eq!(quantile(0.99, vec![(infinite, 10.0), (1.0, 0.0)]), Some(1.0));
        assert_eq!(quantile(0.99, vec![(1.0, 0.0), (infinite, 0.0)]), None);
        assert_eq!(quantile(0.99, vec![]), None);
    }
}
