//! What is known of one process, and of which times.

use jiff::{SignedDuration, Timestamp};
use meshrollout_core::traffic::Presence;
use std::collections::{BTreeMap, HashMap};

/// By so much a start may seem to move: uptime is told in whole seconds and renewed every five.
const ROUNDING: SignedDuration = SignedDuration::from_secs(6);

/// What is known of one process.
pub(super) struct Proxy {
    /// Since when it may have counted something.
    pub(super) since: Timestamp,
    pub(super) gone: Option<Timestamp>,
    pub(super) evicts: Option<SignedDuration>,
    /// Times of which all that it counted is known, oldest first.
    pub(super) heard: Vec<(Timestamp, Timestamp)>,
    pub(super) last: Option<Scrape>,
}

/// What it said last.
pub(super) struct Scrape {
    pub(super) at: Timestamp,
    pub(super) uptime: SignedDuration,
    /// The counters' values, by name and labels.
    pub(super) values: HashMap<u64, f64>,
    /// Connections that are open, by the namespace and workload that they lead to.
    pub(super) open: BTreeMap<[Box<str>; 2], f64>,
    pub(super) tells_refusals: bool,
    /// In seconds from then, of the certificate or of the root.
    pub(super) expires_in: Option<f64>,
}

impl Proxy {
    /// It is heard: what it had counted when it was last heard, or nothing where all that it has
    /// counted is new to us.
    pub(super) fn hear(
        &mut self,
        start: Timestamp,
        at: Timestamp,
        uptime: SignedDuration,
        scrape: SignedDuration,
    ) -> Option<HashMap<u64, f64>> {
        let before = self.last.take();
        let before = before.filter(|last| uptime >= last.uptime && start <= last.at + ROUNDING);
        let in_time = before.as_ref().is_some_and(|last| at <= last.at + scrape * 3);
        match (self.evicts, self.heard.last_mut(), &before) {
            // It forgets what no two scrapes have seen.
            (Some(soon), _, _) if soon < scrape * 2 => {}
            // Of one that forgets later, what was heard in time is known.
            (Some(_), Some((_, end)), Some(_)) if in_time => *end = at,
            (Some(_), _, _) => self.heard.push((at, at)),
            (None, Some((_, end)), Some(_)) => *end = at,
            (None, _, _) => self.heard.push((start, at)),
        }
        before.map(|last| last.values)
    }

    /// Between `begin` and now: the first and the last time of which something is known, how many
    /// samples scrapes would have had, and the latest time in between that nobody heard.
    pub(super) fn presence(
        &self,
        begin: Timestamp,
        now: Timestamp,
        scrape: SignedDuration,
    ) -> Option<Presence> {
        let end = self.gone.unwrap_or(now);
        if end <= begin {
            return None;
        }
        let tolerance = scrape * 3;
        let first = self.heard.first().map_or(self.since, |(start, _)| self.since.min(*start));
        let first = first.max(begin);
        let (mut reached, mut known, mut gap) = (first, SignedDuration::ZERO, None);
        for (from, to) in self.heard.iter().filter(|(_, to)| *to > begin) {
            if *from > reached + tolerance {
                gap = Some((reached, *from));
            }
            known += to.duration_since((*from).max(begin));
            reached = reached.max(*to);
        }
        if end > reached + tolerance {
            gap = Some((reached, end));
        }
        // Not heard yet, and not for long; it is missed when it is ready.
        if known.is_zero() && gap.is_none() {
            return None;
        }
        let samples = (known.as_secs_f64() / scrape.as_secs_f64()).floor() as u64 + 1;
        Some(Presence { first, last: reached, samples, gap })
    }
}
