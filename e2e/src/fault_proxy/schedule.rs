//! Which request meets which fault: a pure function of a seed.
//!
//! Requests come in no certain order, so a fault does not depend on the order: it depends on the
//! seed, on what is asked for, and on how often that was asked before. Each request is spared from
//! some repetition on, so faults always end.

use std::time::Duration;

use super::class::Class;

/// What happens to one request. Every one of them happens in real clusters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It takes this long to arrive.
    Delay(Duration),
    /// It takes this long to arrive, whether anybody waits for it or not.
    Late(Duration),
    /// It is answered so, and never arrives.
    Refuse(u16),
    /// The connection ends before it arrives.
    Cut,
    /// It is carried out, and a gateway says 504.
    Timeout,
    /// It is carried out, and the connection ends before the answer.
    ReplyLost,
    /// It is carried out, and there is no answer for this long; then the connection ends.
    ReplyLate(Duration),
    /// Half of the answer comes, then the connection ends.
    Torn,
    /// A watch is told that its version is too old.
    Gone,
    /// A watch ends after this long.
    Ends(Duration),
    /// A watch says after this long, in its stream, that its version is too old.
    Expires(Duration),
    /// A watch's events come this much later.
    HeldBack(Duration),
}

impl Fault {
    /// One word for the count.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delay(_) => "delayed",
            Self::Late(_) => "arrived late",
            Self::Refuse(409) => "409",
            Self::Refuse(429) => "429",
            Self::Refuse(500) => "500",
            Self::Refuse(_) => "503",
            Self::Cut => "cut",
            Self::Timeout => "504 after commit",
            Self::ReplyLost => "reply lost",
            Self::ReplyLate(_) => "reply hung",
            Self::Torn => "list torn",
            Self::Gone | Self::Expires(_) => "watch expired",
            Self::Ends(_) => "watch closed",
            Self::HeldBack(_) => "watch held back",
        }
    }
}

/// How the metrics source fails for a second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MetricsFault {
    /// Every answer takes this long.
    Delay(Duration),
    /// 503.
    Refuse,
    /// No answer within any patience.
    Hang,
    /// The connection ends without one.
    Cut,
}

/// The faults of one seed.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    seed: Option<u64>,
}

/// For so long the metrics source may fail.
const METRICS_FAIL_FOR: Duration = Duration::from_secs(40);

impl Schedule {
    /// No fault at all.
    pub const QUIET: Self = Self { seed: None };

    /// The faults of this seed.
    pub fn of(seed: u64) -> Self {
        Self { seed: Some(seed) }
    }

    /// What happens to the request for `key`, the `nth` (from 0) of its kind.
    pub fn fault(&self, class: Class, key: &str, nth: u32) -> Option<Fault> {
        // (percent that meet a fault, spared from this repetition on)
        let (percent, spared) = match class {
            Class::Policy => (55, 5),
            // The fence is tried before each step forward, the way back before the last.
            Class::DryRun => (30, 4),
            Class::Report => (25, 8),
            Class::Event => (30, 6),
            Class::Lease => (15, 10),
            Class::Get => (15, 6),
            Class::List => (30, 2),
            Class::Watch => (45, 3),
            Class::Other => (0, 0),
        };
        let mut draw = Draw::of(self.seed?, key, u64::from(nth));
        if nth >= spared || draw.below(100) >= percent {
            return None;
        }
        let short = Duration::from_millis(100 + draw.below(900));
        let long = Duration::from_millis(1000 + draw.below(4000));
        Some(match class {
            Class::Policy | Class::DryRun => match draw.below(10) {
                0 if draw.below(2) == 0 => Fault::Late(long * 2),
                0 => Fault::Delay(short),
                1 => Fault::Refuse(409),
                2 => Fault::Refuse(429),
                3 => Fault::Refuse(500),
                4 => Fault::Refuse(503),
                5 => Fault::Cut,
                6 => Fault::Timeout,
                7 | 8 => Fault::ReplyLost,
                _ => Fault::ReplyLate(long),
            },
            // Nobody else writes these, so nobody conflicts.
            Class::Report | Class::Event | Class::Lease => match draw.below(8) {
                0 => Fault::Delay(short),
                1 => Fault::Refuse(429),
                2 => Fault::Refuse(500),
                3 => Fault::Refuse(503),
                4 => Fault::Cut,
                5 => Fault::Timeout,
                6 => Fault::ReplyLost,
                _ => Fault::ReplyLate(short * 2),
            },
            Class::Get | Class::List | Class::Other => match draw.below(7) {
                0 => Fault::Delay(short),
                1 => Fault::Refuse(429),
                2 => Fault::Refuse(500),
                3 => Fault::Refuse(503),
                4 => Fault::Cut,
                5 => Fault::ReplyLate(short * 2),
                _ => Fault::Torn,
            },
            Class::Watch => match draw.below(7) {
                0 => Fault::Delay(short),
                1 => Fault::Gone,
                2 => Fault::Ends(long),
                3 => Fault::Expires(long),
                4 => Fault::Refuse(429),
                _ => Fault::HeldBack(long),
            },
        })
    }

    /// How the metrics source fails this long after the beginning.
    pub fn metrics_fault(&self, elapsed: Duration) -> Option<MetricsFault> {
        let mut draw = Draw::of(self.seed?, "metrics", elapsed.as_secs());
        if elapsed > METRICS_FAIL_FOR || draw.below(100) >= 15 {
            return None;
        }
        Some(match draw.below(4) {
            0 => MetricsFault::Delay(Duration::from_millis(200 + draw.below(1500))),
            1 => MetricsFault::Refuse,
            2 => MetricsFault::Hang,
            _ => MetricsFault::Cut,
        })
    }
}

/// Numbers that follow from where they began (SplitMix64).
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// Begins at a seed, what is drawn for, and its number.
    pub fn of(seed: u64, what: &str, number: u64) -> Self {
        // FNV-1a
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let bytes = seed.to_le_bytes().into_iter().chain(number.to_le_bytes()).chain(what.bytes());
        Self(bytes.fold(0xcbf2_9ce4_8422_2325, mix))
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const CLASSES: [Class; 8] = [
        Class::Policy,
        Class::DryRun,
        Class::Report,
        Class::Event,
        Class::Lease,
        Class::Get,
        Class::List,
        Class::Watch,
    ];

    #[test]
    fn a_schedule_follows_from_its_seed_and_every_fault_occurs() {
        let mut names = BTreeSet::new();
        for seed in 0..60 {
            for class in CLASSES {
                for nth in 0..12 {
                    let fault = Schedule::of(seed).fault(class, "x", nth);
                    assert_eq!(fault, Schedule::of(seed).fault(class, "x", nth));
                    names.extend(fault.map(Fault::name));
                }
            }
        }
        assert_eq!(names.len(), 14, "{names:?}");
        let of = |seed| (0..9).map(|n| Schedule::of(seed).fault(Class::Lease, "x", n)).collect();
        let (one, other): (Vec<_>, Vec<_>) = (of(1), of(2));
        assert_ne!(one, other);
    }

    #[test]
    fn faults_end() {
        for seed in 0..60 {
            for class in CLASSES {
                assert_eq!(Schedule::of(seed).fault(class, "x", 10), None);
            }
            assert_eq!(Schedule::of(seed).metrics_fault(Duration::from_secs(41)), None);
        }
        assert_eq!(Schedule::QUIET.fault(Class::Policy, "x", 0), None);
    }
}
