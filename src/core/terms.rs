//! What a proof and an approval count under: canonical texts of what was asked, and their hashes.
//!
//! `paused`, `action`, `rollback` and requests act at once and are in neither text. Whatever is in
//! [`Terms`] was proven under these very words or was not proven: an edit of them, tighter or
//! looser, restarts the soak. That is how a looser gate waits for a step boundary.
//!
//! The texts are part of what is stored. Change their form only as one changes a format: every
//! soak under way begins again, and every approval is void.

use crate::ident::{Operator, Requirement};
use crate::plan::{OnIdle, Plan, Settings, Stage, Strictness, Targets};
use jiff::SignedDuration;
use sha2::{Digest, Sha256};
use std::fmt;

/// What the soak of one namespace counts under: the gates, what is waived, and the soak of its
/// stage.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Terms([u8; 20]);

impl Terms {
    /// The terms of a namespace in `stage`.
    pub fn of(plan: &Plan, stage: &Stage) -> Self {
        let gates = source(plan) + &gates(&plan.gates);
        let waived = plan.waivers.canonical();
        Self(hash(&format!("{gates}{waived}{}", length("soak", stage.soak))))
    }

    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
        let mut terms = [0; 20];
        if pairs.len() != terms.len() {
            return None;
        }
        for (byte, [high, low]) in terms.iter_mut().zip(pairs) {
            let [high, low] = [high, low].map(|digit| char::from(*digit).to_digit(16));
            *byte = u8::try_from(high? * 16 + low?).ok()?;
        }
        Some(Self(terms))
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// The hash of everything that may not change without proving, or approving, anew.
pub(crate) fn plan_hash(plan: &Plan) -> String {
    digits(&canonical(plan))
}

/// Stages, gates and what somebody answers for, a line each. Equal plans have equal texts, in
/// whatever order a selector or a list of names was written.
pub fn canonical(plan: &Plan) -> String {
    let stages: String = plan.stages.iter().map(stage).collect();
    stages + &source(plan) + &gates(&plan.gates) + &plan.waivers.canonical()
}

/// Who is asked: what one source has proven another has not.
fn source(plan: &Plan) -> String {
    plan.source
        .as_ref()
        .map_or_else(String::new, |name| format!("metricsSource {}\n", quoted(name)))
}

// Taken apart field by field, so that a new one cannot be forgotten.

fn stage(stage: &Stage) -> String {
    let Stage { name, targets, soak, bake, max_concurrent, needs_approval } = stage;
    let targets = match targets {
        Targets::Named(names) => {
            let names: Vec<_> = names.iter().map(|name| quoted(name.as_str())).collect();
            format!("namespaces {}\n", names.join(" "))
        }
        Targets::Selected(selector) => {
            let mut all: Vec<_> = selector.requirements().iter().map(requirement).collect();
            all.sort();
            all.dedup();
            all.concat()
        }
    };
    // Only where it is asked for, so that no other plan has another hash than before there were any.
    let approval = if *needs_approval { "approval Required\n" } else { "" };
    format!(
        "stage {}\n{targets}{}{}maxConcurrent {max_concurrent}\n{approval}",
        quoted(name),
        length("soak", *soak),
        length("bake", *bake),
    )
}

fn requirement(requirement: &Requirement) -> String {
    let Requirement { key, operator } = requirement;
    let (word, values) = match operator {
        Operator::In(values) => ("In", values.as_slice()),
        Operator::NotIn(values) => ("NotIn", values.as_slice()),
        Operator::Exists => ("Exists", &[][..]),
        Operator::DoesNotExist => ("DoesNotExist", &[][..]),
        Operator::Unknown(word) => (word.as_str(), &[][..]),
    };
    let mut values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
    values.sort();
    values.dedup();
    format!("selector {} {} {}\n", quoted(key), quoted(word), values.join(" "))
}

fn gates(gates: &Settings) -> String {
    let Settings {
        injection,
        plaintext,
        destination_rules,
        lookback,
        on_idle,
        min_remaining_percent,
    } = gates;
    let level = |gate: &str, strictness: &Strictness| {
        let word = match strictness {
            Strictness::Enforce => "Enforce",
            Strictness::Warn => "Warn",
        };
        format!("{gate} {word}\n")
    };
    let on_idle = match on_idle {
        OnIdle::Hold => "Hold",
        OnIdle::Allow => "Allow",
    };
    [
        level("injection", injection),
        level("plaintext", plaintext),
        level("destinationRules", destination_rules),
        length("lookback", *lookback),
        format!("onIdle {on_idle}\nminRemainingRatio {min_remaining_percent}\n"),
    ]
    .concat()
}

fn length(what: &str, length: SignedDuration) -> String {
    format!("{what} {}s\n", length.as_secs())
}

/// No name can pretend to be the end of its line.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.escape_default())
}

/// Forty hexadecimal digits that stand for a text: the first 160 bits of its SHA-256. Nobody finds
/// two texts with the same ones, so that what was approved, or proven, is the one that is meant.
pub fn digits(text: &str) -> String {
    hex(&hash(text))
}

fn hash(text: &str) -> [u8; 20] {
    let mut hash = [0; 20];
    hash.copy_from_slice(&Sha256::digest(text)[..20]);
    hash
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::Selector;
    use crate::testing::{World, seconds};

    #[test]
    fn the_text_of_a_plan_is_what_is_written_here() {
        let mut plan = World::shop().plan;
        let within = |values: &[&str]| Requirement {
            key: "tier".into(),
            operator: Operator::In(values.iter().map(|&value| value.into()).collect()),
        };
        let exists = Requirement { key: "a\nb".into(), operator: Operator::Exists };
        plan.stages[1].targets =
            Targets::Selected(Selector::new(vec![within(&["core", "back"]), exists.clone()]));
        let text = "stage \"catalog\"\nnamespaces \"catalog\"\nsoak 60s\nbake 60s\n\
                    maxConcurrent 1\nstage \"orders\"\nselector \"a\\nb\" \"Exists\" \n\
                    selector \"tier\" \"In\" \"back\" \"core\"\nsoak 60s\nbake 60s\n\
                    maxConcurrent 1\ninjection Enforce\nplaintext Enforce\n\
                    destinationRules Enforce\nlookback 3600s\nonIdle Hold\nminRemainingRatio 25\n";
        assert_eq!(canonical(&plan), text);
        let mut shuffled = plan.clone();
        shuffled.stages[1].targets =
            Targets::Selected(Selector::new(vec![exists, within(&["back", "core", "back"])]));
        assert_eq!(plan.hash(), shuffled.hash());
    }

    #[test]
    fn a_hash_is_the_beginning_of_what_sha256sum_prints() {
        assert_eq!(digits("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a3");
    }

    #[test]
    fn what_acts_at_once_is_in_no_hash() {
        let world = World::shop();
        let mut edited = world.plan.clone();
        edited.paused = true;
        edited.action = crate::plan::Mission::Observe;
        edited.rollback = crate::plan::Trigger::Manual;
        edited.asked.retry = Some("now".into());
        assert_eq!(world.plan.hash(), edited.hash());
        edited.stages[0].bake = seconds(1);
        assert_ne!(world.plan.hash(), edited.hash());
        let terms = |plan: &Plan| Terms::of(plan, &plan.stages[0]);
        assert_eq!(terms(&world.plan), terms(&edited), "a bake is no term of the soak");
        edited.stages[0].soak = seconds(1);
        assert_ne!(terms(&world.plan), terms(&edited));
    }

    #[test]
    fn terms_are_read_back_and_nothing_else_is() {
        let plan = World::shop().plan;
        let terms = Terms::of(&plan, &plan.stages[0]);
        assert_eq!(Terms::parse(&terms.to_string()), Some(terms));
        let zeros = "0".repeat(39);
        for other in ["", "0", "soak 60s", &*zeros, &format!("{zeros}00"), &format!("{zeros}g")] {
            assert_eq!(Terms::parse(other), None, "{other}");
        }
        assert_eq!(Terms::parse(&format!("+{zeros}")), None);
    }
}
