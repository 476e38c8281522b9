//! Whose clock an answer was given by, held against ours.

use http::{HeaderMap, header};
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use meshrollout_core::reading::Cause;

/// The time of an answer by the clock of whoever gave it, if it says one that can be read.
pub(super) fn date(headers: &HeaderMap) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(headers.get(header::DATE)?).ok()
}

/// What answers say about that clock minus ours.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// It is at least and at most this, by every answer together.
    bounds: Option<(SignedDuration, SignedDuration)>,
    /// Why an answer said nothing.
    silence: Option<Cause>,
}

impl Clock {
    /// `Date` is cut to the second: the server's time lay within the second that it begins,
    /// somewhere between our sending and our receiving.
    pub(super) fn hear(&mut self, sent: Timestamp, received: Timestamp, date: Option<Timestamp>) {
        let Some(date) = date else {
            let silence = || Cause::NotRead("the metrics source's clock (no Date header)".into());
            self.silence.get_or_insert_with(silence);
            return;
        };
        let least = date.duration_since(received);
        let most = date.duration_since(sent) + SignedDuration::from_secs(1);
        let (low, high) = self.bounds.unwrap_or((least, most));
        self.bounds = Some((low.max(least), high.min(most)));
    }

    /// No answer, and why.
    pub(super) fn hear_nothing(&mut self, cause: &Cause) {
        self.silence.get_or_insert_with(|| cause.clone());
    }

    /// Zero where the answers allow it, else the least that they allow.
    pub(super) fn skew(&self) -> Result<SignedDuration, Cause> {
        match (self.bounds, &self.silence) {
            (Some((low, _)), _) if low > SignedDuration::ZERO => Ok(low),
            (Some((_, high)), _) => Ok(high.min(SignedDuration::ZERO)),
            (None, Some(cause)) => Err(cause.clone()),
            (None, None) => Err(Cause::NotRead("the metrics source's clock".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn nobody_has_been_heard() {
        assert!(Clock::default().skew().is_err());
    }

    #[test]
    fn a_source_without_a_date_has_no_known_clock() {
        let mut clock = Clock::default();
        clock.hear(second(1), second(2), None);
        assert!(matches!(clock.skew(), Err(Cause::NotRead(_))));
    }

    #[test]
    fn a_clock_is_off_only_by_what_no_rounding_explains() {
        let at = |milliseconds| Timestamp::from_millisecond(milliseconds).unwrap();
        for (date, expected) in [(10, 0), (9, 0), (8, -900), (7, -1_900), (11, 800), (13, 2_800)] {
            let mut clock = Clock::default();
            clock.hear(at(9_900), at(10_200), Some(at(date * 1000)));
            assert_eq!(clock.skew().unwrap().as_millis(), expected, "{date}");
        }
    }

    #[test]
    fn what_one_answer_allows_another_may_forbid() {
        let at = |milliseconds| Timestamp::from_millisecond(milliseconds).unwrap();
        let (wide, late) = ((9_900, 10_200, 8), (20_500, 20_600, 19));
        let (ahead, further) = ((9_900, 10_200, 13), (20_500, 20_600, 23));
        for (answers, expected) in [
            ([wide, late], -900),
            ([late, wide], -900),
            ([ahead, further], 2_800),
            ([further, ahead], 2_800),
        ] {
            let mut clock = Clock::default();
            for (sent, received, date) in answers {
                clock.hear(at(sent), at(received), Some(at(date * 1000)));
            }
            assert_eq!(clock.skew().unwrap().as_millis(), expected, "{answers:?}");
        }
    }
}
