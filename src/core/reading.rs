//! Not knowing is a value. A missing metric is not zero traffic, and a watch that fell silent is
//! not a quiet cluster.

use jiff::Timestamp;
use std::fmt;

/// A fact, or the reason why we do not have it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reading<T> {
    /// The fact.
    Known(T),
    /// Why it is not known. Never passes a gate.
    Unknown(Cause),
}

/// Why a fact is not known.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Cause {
    /// The metrics source did not answer, answered late, or answered something else.
    SourceUnavailable(String),
    /// The source answered and warned that the answer is not complete.
    PartialAnswer(String),
    /// The answer contradicts itself: duplicates, not a number, negative.
    Ambiguous(String),
    /// Nobody has asked yet, or the object was never read.
    NotRead(String),
    /// The object is there and does not mean anything we understand.
    Malformed(String),
    /// The last word from this watch is older than its limit.
    StaleWatch {
        /// The kind watched.
        kind: String,
        /// When it last spoke.
        since: Option<Timestamp>,
    },
}

impl<T> Reading<T> {
    /// The fact, if there is one. The caller says what happens without it.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(fact) => Some(fact),
            Self::Unknown(_) => None,
        }
    }

    /// The reason why there is no fact.
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Known(_) => None,
            Self::Unknown(cause) => Some(cause),
        }
    }

    /// The same reading of something derived from the fact.
    pub fn map<U>(self, derive: impl FnOnce(T) -> U) -> Reading<U> {
        match self {
            Self::Known(fact) => Reading::Known(derive(fact)),
            Self::Unknown(cause) => Reading::Unknown(cause),
        }
    }

    /// A reading of a borrowed fact.
    pub fn as_ref(&self) -> Reading<&T> {
        match self {
            Self::Known(fact) => Reading::Known(fact),
            Self::Unknown(cause) => Reading::Unknown(cause.clone()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SourceUnavailable(why) => write!(f, "the metrics source did not answer: {why}"),
            Self::PartialAnswer(why) => {
                write!(f, "the metrics source warns of a partial answer: {why}")
            }
            Self::Ambiguous(why) => write!(f, "the metrics contradict themselves: {why}"),
            Self::NotRead(what) => write!(f, "{what} has not been read"),
            Self::Malformed(what) => write!(f, "{what} cannot be understood"),
            Self::StaleWatch { kind, since: Some(since) } => {
                write!(f, "the watch of {kind} has been silent since {since}")
            }
            Self::StaleWatch { kind, since: None } => {
                write!(f, "the watch of {kind} has not delivered its first list")
            }
        }
    }
}
