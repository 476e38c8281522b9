//! Durations as users write them: `30m`, `1h30m`, `45s`.

use jiff::SignedDuration;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::{Display, Formatter, Result as FmtResult};
use std::time::Duration as StdDuration;

/// What the schema accepts. Together with a length of at least 2 no part is missing.
const PATTERN: &str = "^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$";

/// Hours, minutes and seconds, in this order, each at most once: `30m`, `1h30m`, `45s`.
///
/// Kept as written; [`Duration::parse`] gives the length. A value that is not a duration can only
/// stand in an object stored before the schema refused it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(transparent)]
#[schemars(transparent)]
pub struct Duration(
    #[schemars(
        length(min = 2, max = 18),
        regex(pattern = PATTERN)
    )]
    String,
);

/// Not a duration.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("\"{0}\" is not a duration: write hours, minutes and seconds, as in 30m or 1h30m")]
pub struct DurationError(String);

impl Duration {
    /// `text` as it is; not yet checked.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// How long that is.
    pub fn parse(&self) -> Result<SignedDuration, DurationError> {
        let refuse = || DurationError(self.0.clone());
        let mut rest = self.0.as_str();
        let mut seconds = 0;
        for (unit, scale) in [('h', 3600), ('m', 60), ('s', 1)] {
            let Some((digits, tail)) = rest.split_once(unit) else { continue };
            if !(1..=5).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(refuse());
            }
            seconds += digits.parse::<i64>().map_err(|_| refuse())? * scale;
            rest = tail;
        }
        if !rest.is_empty() || self.0.is_empty() {
            return Err(refuse());
        }
        Ok(SignedDuration::from_secs(seconds))
    }

    /// The same for timers of the runtime.
    pub fn parse_std(&self) -> Result<StdDuration, DurationError> {
        self.parse().map(SignedDuration::unsigned_abs)
    }
}

/// The rule that a duration is at most `limit`.
pub(super) fn at_most(limit: &str) -> Rule {
    bound(&format!("<= duration('{limit}')")).message(format!("must be at most {limit}").as_str())
}

/// The rule that a duration is more than nothing, because of `reason`.
pub(super) fn positive(reason: &str) -> Rule {
    bound("> duration('0s')").message(format!("must be more than 0s: {reason}").as_str())
}

/// What is no duration at all is refused by the pattern and must not also fail the rule.
fn bound(comparison: &str) -> Rule {
    Rule::new(format!("self == '' || !self.matches('{PATTERN}') || duration(self) {comparison}"))
}

impl Display for Duration {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hours_minutes_and_seconds_in_order() {
        for (text, seconds) in [("30m", 1800), ("1h30m", 5400), ("0s", 0), ("1h0m7s", 3607)] {
            assert_eq!(Duration::new(text).parse(), Ok(SignedDuration::from_secs(seconds)));
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "30", "-5m", "1.5h", "1d", "5m1h", "1h1h", "h", " 5m", "100000s", "5 m"] {
            assert_eq!(Duration::new(text).parse(), Err(DurationError(text.into())), "{text:?}");
        }
    }
}
