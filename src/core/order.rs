//! In which order namespaces should become STRICT: whoever calls before whom they call.
//!
//! A policy that says STRICT bites on servers; what breaks is their clients. A namespace that
//! nobody calls can break nobody, and once it is STRICT its own pods are known to have sidecars that
//! work. Namespaces that call each other in a circle go together.

use crate::ident::{Host, Namespace};
use crate::snapshot::Snapshot;
use crate::traffic::Observed;
use std::collections::{BTreeMap, BTreeSet};

/// How a call across namespaces is known.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum How {
    /// A client has a rule for it.
    Named,
    /// It was seen, and not in plaintext.
    Seen,
    /// It was seen in plaintext.
    Plaintext,
}

/// Who calls whom, as far as it is known: the heaviest of what is known of each.
pub type Calls = BTreeMap<(Namespace, Namespace), How>;

/// The namespaces that call namespaces: by what was measured, and by the rules that clients keep in
/// their own namespace for hosts of others.
pub fn calls(snapshot: &Snapshot) -> Calls {
    let mut calls = Calls::new();
    let mut add = |from: &Namespace, to: &Namespace, how: How| {
        if from != to {
            let known = calls.entry((from.clone(), to.clone())).or_insert(how);
            *known = how.max(*known);
        }
    };
    let telemetry = &snapshot.telemetry;
    for edge in telemetry.edges.known().into_iter().flatten() {
        let is_used = edge.requests.0.iter().any(|(_, count)| *count > 0.0);
        if let (true, Some(to)) = (is_used, &edge.destination) {
            add(&edge.source.namespace, to, How::Seen);
        }
    }
    for caller in telemetry.callers.known().into_iter().flatten() {
        if let Some(from) = &caller.source {
            let how = match caller.observed {
                Observed::Plaintext => How::Plaintext,
                Observed::MutualTls | Observed::Undetermined => How::Seen,
            };
            add(&from.namespace, &caller.destination.namespace, how);
        }
    }
    for facts in snapshot.namespaces.values() {
        for rule in snapshot.rules.of(&facts.name) {
            if let Some(to) = home(snapshot, &rule.host) {
                add(&facts.name, &to, How::Named);
            }
        }
    }
    calls
}

impl How {
    /// One lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Seen => "seen",
            Self::Plaintext => "plaintext",
        }
    }
}

/// The namespace of a Service's full name.
fn home(snapshot: &Snapshot, host: &Host) -> Option<Namespace> {
    let namespace = Namespace::new(host.as_str().split('.').nth(1)?);
    let facts = snapshot.namespace(&namespace)?;
    facts.services.iter().any(|service| service.host == *host).then_some(namespace)
}

/// `namespaces` in stages: each is called from its own stage and earlier ones only, save that those
/// in `last` come after all others.
pub fn stages(
    namespaces: &BTreeSet<Namespace>,
    calls: &BTreeSet<(Namespace, Namespace)>,
    last: &BTreeSet<Namespace>,
) -> Vec<BTreeSet<Namespace>> {
    let names: Vec<_> = namespaces.iter().filter(|name| !last.contains(*name)).collect();
    let index: BTreeMap<_, _> = names.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    let mut called = vec![vec![]; names.len()];
    for (from, to) in calls {
        if let (Some(from), Some(to)) = (index.get(from), index.get(to)) {
            called[*from].push(*to);
        }
    }
    let circles = circles(&called);
    let mut level = vec![0_usize; names.len()];
    // Callers come before whom they call.
    for circle in circles.iter().rev() {
        let highest = circle.iter().map(|at| level[*at]).max().unwrap_or_default();
        for at in circle {
            level[*at] = highest;
        }
        for (at, to) in circle.iter().flat_map(|at| called[*at].iter().map(move |to| (at, to))) {
            if !circle.contains(to) {
                level[*to] = level[*to].max(level[*at] + 1);
            }
        }
    }
    let mut stages: BTreeMap<usize, BTreeSet<Namespace>> = BTreeMap::new();
    for (at, name) in names.into_iter().enumerate() {
        stages.entry(level[at]).or_default().insert(name.clone());
    }
    let end: BTreeSet<_> = namespaces.intersection(last).cloned().collect();
    stages.into_values().chain((!end.is_empty()).then_some(end)).collect()
}

/// Sets of places that reach each other, whom they reach before themselves (Tarjan, without
/// recursion: a mesh may be a chain of thousands).
fn circles(called: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let count = called.len();
    let (mut order, mut lowest) = (vec![usize::MAX; count], vec![0; count]);
    let (mut stack, mut is_open) = (vec![], vec![false; count]);
    let (mut found, mut next) = (vec![], 0);
    for root in 0..count {
        if order[root] != usize::MAX {
            continue;
        }
        // Each place under way, with how many of its calls were looked at.
        let mut way = vec![(root, 0)];
        while let Some((at, looked)) = way.last().copied() {
            if looked == 0 {
                order[at] = next;
                lowest[at] = next;
                next += 1;
                stack.push(at);
                is_open[at] = true;
            }
            if let Some(to) = called[at].get(looked).copied() {
                if let Some(top) = way.last_mut() {
                    top.1 += 1;
                }
                if order[to] == usize::MAX {
                    way.push((to, 0));
                } else if is_open[to] {
                    lowest[at] = lowest[at].min(order[to]);
                }
                continue;
            }
            way.pop();
            if let Some((before, _)) = way.last() {
                lowest[*before] = lowest[*before].min(lowest[at]);
            }
            if lowest[at] == order[at] {
                let begin = stack.iter().rposition(|one| *one == at).unwrap_or_default();
                let circle = stack.split_off(begin);
                for one in &circle {
                    is_open[*one] = false;
                }
                found.push(circle);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn staged(names: &str, calls: &[&str], last: &str) -> Vec<String> {
        let set = |names: &str| names.split_whitespace().map(Namespace::from).collect();
        let pair = |call: &&str| call.split_once('>').map(|(a, b)| (a.into(), b.into())).unwrap();
        let calls = calls.iter().map(pair).collect();
        let words = |stage: BTreeSet<Namespace>| {
            stage.iter().map(Namespace::as_str).collect::<Vec<_>>().join(" ")
        };
        stages(&set(names), &calls, &set(last)).into_iter().map(words).collect()
    }

    #[test]
    fn whoever_calls_goes_before_whom_they_call() {
        assert_eq!(staged("c b a", &["a>b", "b>c"], ""), ["a", "b", "c"]);
        assert_eq!(staged("a b c d", &["a>b", "a>c", "b>d", "c>d", "a>d"], ""), ["a", "b c", "d"]);
        assert_eq!(staged("a b", &[], ""), ["a b"]);
        assert_eq!(staged("", &[], ""), [""; 0]);
        // Who is not among them does not matter.
        assert_eq!(staged("a b", &["a>x", "x>b"], ""), ["a b"]);
    }

    #[test]
    fn who_call_each_other_in_a_circle_go_together() {
        assert_eq!(staged("a b c d", &["a>b", "b>c", "c>b", "c>d"], ""), ["a", "b c", "d"]);
        assert_eq!(staged("a b c", &["a>b", "b>c", "c>a"], ""), ["a b c"]);
        assert_eq!(staged("a b", &["a>a", "a>b"], ""), ["a", "b"]);
    }

    #[test]
    fn some_come_last_whoever_calls_them() {
        assert_eq!(
            staged("a metrics z", &["metrics>a", "metrics>z"], "metrics"),
            ["a z", "metrics"]
        );
    }

    #[test]
    fn a_long_chain_is_no_trouble() {
        let names: Vec<_> = (0..5000).map(|at| format!("n{at:04}")).collect();
        let calls: Vec<_> =
            names.windows(2).map(|pair| format!("{}>{}", pair[0], pair[1])).collect();
        let calls: Vec<_> = calls.iter().map(String::as_str).collect();
        assert_eq!(staged(&names.join(" "), &calls, "").len(), 5000);
    }

    #[test]
    fn calls_are_what_was_measured_and_what_clients_have_rules_for() {
        let mut world = World::shop();
        world.plaintext(Some(("legacy", "batch")), "catalog");
        world.rule(
            "orders",
            "catalog.catalog.svc.cluster.local",
            crate::client_tls::TlsMode::Simple,
        );
        let (snapshot, _) = world.look();
        let calls = calls(&snapshot);
        let calls: Vec<_> =
            calls.iter().map(|((a, b), how)| format!("{a}>{b} {}", how.name())).collect();
        let expected = [
            "front>catalog seen",
            "front>orders seen",
            "legacy>catalog plaintext",
            "orders>catalog named",
        ];
        assert_eq!(calls, expected);
    }
}
