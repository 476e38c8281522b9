//! Work by a schedule: whom a CronJob names, and whether it was there to be seen.
//!
//! Source: `istio-semantics.md` F19.

use crate::exposure::Dialled;
use crate::finding::Subject;
use crate::ident::{Namespace, Port};
use crate::injection::Template;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A CronJob that names somebody.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Scheduled {
    /// The CronJob.
    pub job: Subject,
    /// Whom it may call.
    pub names: Names,
    /// Whom it may call before a sidecar of its own runs: by the words of its init containers.
    pub early: Names,
    /// When it last did what it would do today.
    pub ran: Ran,
    /// The longest time between two runs; `None` where it never runs, or it cannot be told when.
    pub rests: Option<SignedDuration>,
    /// What its pods are made from.
    pub template: Template,
}

/// When a CronJob last ran, as it is now.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Ran {
    /// It has never been in a cluster, or it is not said when it was changed, so that its schedule
    /// alone is known.
    Unsaid,
    /// Not since it was made or changed; what failed may have ended before it called anybody.
    Never,
    /// A run that ended well began then, as far as it is told.
    At(Timestamp),
}

impl Scheduled {
    /// What its pods send was sent within the look-back that ends `now`. A run may begin a little
    /// late, and ends after what it sent. One that has yet to begin was seen by nobody, and says
    /// that some clock is wrong.
    pub fn was_there(&self, now: Timestamp, lookback: SignedDuration) -> bool {
        let late = lookback / 24;
        let reach = lookback - late;
        match self.ran {
            Ran::At(at) => (-late..=reach).contains(&now.duration_since(at)),
            Ran::Never => false,
            Ran::Unsaid => self.rests.is_some_and(|rests| rests <= reach),
        }
    }
}

/// The Services that a text may mean, by their namespace.
///
/// Every word of a script may be one and anybody may write them, so that they are kept as text: a
/// line each, sorted, the service and, where it is said, the port.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Names(BTreeMap<Namespace, Box<str>>);

impl Names {
    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of this namespace: service and port.
    pub fn of(&self, namespace: &Namespace) -> impl Iterator<Item = (&str, Dialled)> + use<'_> {
        let all = self.0.get(namespace).into_iter().chain(self.0.get(&Namespace::new(ANY)));
        all.flat_map(|names| names.lines()).map(|line| match line.split_once(' ') {
            Some((service, port)) => {
                (service, port.parse().map_or(Dialled::Any, |port| Dialled::Number(Port(port))))
            }
            None => (line, Dialled::Any),
        })
    }
}

/// In place of a namespace that is not said.
pub const ANY: &str = "";

/// From namespace, service and port.
impl<S: AsRef<str> + Ord> FromIterator<(S, S, Option<Port>)> for Names {
    fn from_iter<I: IntoIterator<Item = (S, S, Option<Port>)>>(names: I) -> Self {
        let mut lines: BTreeMap<S, BTreeSet<(S, Option<Port>)>> = BTreeMap::new();
        for (namespace, service, port) in names {
            lines.entry(namespace).or_default().insert((service, port));
        }
        let text = |(service, port): (S, Option<Port>)| match port {
            Some(port) => format!("{} {port}\n", service.as_ref()),
            None => format!("{}\n", service.as_ref()),
        };
        let text = |(namespace, lines): (S, BTreeSet<_>)| {
            let text: String = lines.into_iter().map(text).collect();
            (Namespace::new(namespace.as_ref()), text.into_boxed_str())
        };
        Self(lines.into_iter().map(text).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_once_each_and_found_by_their_namespace() {
        let port = |number| Some(Port(number));
        let all = [("shop", "web", port(80)), ("shop", "web", None), ("shop", "web", port(80))];
        let names: Names = all.into_iter().chain([("ops", "db", None)]).collect();
        let of = |namespace: &str| {
            let all = names.of(&namespace.into()).map(|(name, port)| format!("{name}:{port}"));
            all.collect::<Vec<_>>()
        };
        assert_eq!(of("shop"), ["web:any port", "web:80"]);
        assert_eq!(of("ops"), ["db:any port"]);
        assert!(of("elsewhere").is_empty());
        assert!(!names.is_empty() && Names::default().is_empty());
    }

    #[test]
    fn a_run_counts_and_before_there_was_one_nothing_but_in_files() {
        let day = SignedDuration::from_hours(24);
        let at = |hours: i64| Timestamp::from_second(hours * 3600).unwrap();
        let was_there = |ran: Ran, rests: Option<i64>| {
            let work = Scheduled {
                job: Subject::new("CronJob", &"ops".into(), "report"),
                names: Names::default(),
                early: Names::default(),
                ran,
                rests: rests.map(SignedDuration::from_hours),
                template: Template::default(),
            };
            work.was_there(at(100), day)
        };
        assert!(was_there(Ran::At(at(77)), Some(700)));
        assert!(!was_there(Ran::At(at(76)), Some(1)));
        assert!(was_there(Ran::At(at(101)), Some(1)));
        assert!(!was_there(Ran::At(at(102)), Some(1)));
        assert!(!was_there(Ran::Never, Some(1)));
        assert!(was_there(Ran::Unsaid, Some(23)));
        assert!(!was_there(Ran::Unsaid, Some(24)));
        assert!(!was_there(Ran::Unsaid, None));
    }
}
