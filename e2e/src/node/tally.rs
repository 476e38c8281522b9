//! What clients saw, request by request.

use std::collections::BTreeSet;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::{Doing, Error};

/// A client that asks all the time; every request of it is counted.
#[derive(Clone, Debug)]
pub struct Load {
    log: PathBuf,
}

/// A moment in a client's life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(usize);

/// One request and its end.
#[derive(Clone, Debug)]
struct Request {
    ended: Timestamp,
    said: String,
}

impl Load {
    pub(super) fn logged_to(log: PathBuf) -> Self {
        Self { log }
    }

    /// This moment.
    pub fn mark(&self) -> Result<Mark, Error> {
        Ok(Mark(self.requests()?.len()))
    }

    /// What it saw since then.
    pub fn since(&self, mark: Mark) -> Result<Tally, Error> {
        Ok(Tally(self.requests()?.split_off(mark.0)))
    }

    /// Those that have their end.
    fn requests(&self) -> Result<Vec<Request>, Error> {
        let reading = || format!("reading what a client saw in {}", self.log.display());
        let text = std::fs::read_to_string(&self.log).doing(reading())?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let request = |line: &str| {
            let (ended, said) = line.split_once(' ').unwrap_or((line, ""));
            let ended = ended.parse().doing(format!("{}: {line}", reading()))?;
            Ok(Request { ended, said: said.to_owned() })
        };
        // The last words of a client that gives up are no request.
        whole.lines().filter(|line| !line.starts_with("Error")).map(request).collect()
    }
}

/// What a client saw of its requests.
#[derive(Clone, Debug, Default)]
pub struct Tally(Vec<Request>);

impl Tally {
    /// All requests.
    pub fn sent(&self) -> usize {
        self.0.len()
    }

    /// Those with any other end than an answer 200.
    pub fn failed(&self) -> usize {
        self.failures().count()
    }

    /// What those that failed saw, in its words, each once.
    pub fn words(&self) -> BTreeSet<&str> {
        self.failures().map(|request| request.said.as_str()).collect()
    }

    /// When the first and the last of those that failed ended.
    pub fn failing(&self) -> Option<(Timestamp, Timestamp)> {
        Some((self.failures().next()?.ended, self.failures().next_back()?.ended))
    }

    /// How many were answered since the last that failed.
    pub fn served_since_failing(&self) -> usize {
        self.0.iter().rev().take_while(|request| request.said == OK).count()
    }

    fn failures(&self) -> impl DoubleEndedIterator<Item = &Request> {
        self.0.iter().filter(|request| request.said != OK)
    }
}

const OK: &str = "200";

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sent, {} failed", self.sent(), self.failed())?;
        for words in self.words() {
            let count = self.failures().filter(|request| request.said == words).count();
            write!(f, "; {count} x {words}")?;
        }
        Ok(())
    }
}
