//! Judges what was stored: each policy write that the apiserver accepted of the operator, against
//! the safety statements, by the audit log and by what the test itself put into the metrics.
//!
//! It knows nothing of the operator's code or log. What it cannot see it does not judge: the
//! effective modes of single workloads (S3 beyond our own object).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::reigns::Reigns;
use crate::{Audit, Event, OPERATOR_USER};

/// One stage of a plan as the oracle knows it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its only namespace.
    pub namespace: String,
    /// How long it is watched at the least, drain and acknowledgement included.
    pub watched: Duration,
}

/// What is known of one rollout beside the audit log.
#[derive(Clone, Debug)]
pub struct Oracle {
    rollout: String,
    stages: Vec<Stage>,
    lookback: Duration,
    soak: Duration,
    evidence_age: Duration,
    broken: Vec<Broken>,
    harmed: BTreeMap<String, Timestamp>,
}

/// A gate that the test made fail.
#[derive(Clone, Debug)]
struct Broken {
    namespace: String,
    from: Timestamp,
    to: Option<Timestamp>,
}

/// What the oracle found.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Accepted writes of policies that were judged.
    pub judged: usize,
    /// Each that was wrong, and why.
    pub wrong: Vec<String>,
    /// How often each namespace was made STRICT.
    pub strict: BTreeMap<String, usize>,
    /// From harm to the rollback's acceptance, where there was harm.
    pub rollback: Option<Duration>,
}

/// What the oracle grants: a scrape, and rounding to whole seconds.
const GRACE: Duration = Duration::from_millis(1500);
/// The faults end before this, and a rollback needs seconds.
const HARM_STANDS: Duration = Duration::from_secs(60);
const NEVER: [&str; 5] =
    ["istio-system", "kube-system", "kube-public", "kube-node-lease", "meshrollout-system"];

impl Oracle {
    /// For a rollout of these stages, whose gates look back and soak so long, and whose evidence
    /// is so old at the most when it is used.
    pub fn new(
        rollout: &str,
        stages: Vec<Stage>,
        lookback: Duration,
        soak: Duration,
        evidence_age: Duration,
    ) -> Self {
        Self {
            rollout: rollout.to_owned(),
            stages,
            lookback,
            soak,
            evidence_age,
            broken: vec![],
            harmed: BTreeMap::new(),
        }
    }

    /// From now on plaintext reaches a namespace, by the scripted metrics.
    pub fn plaintext_begins(&mut self, namespace: &str) {
        let (namespace, from) = (namespace.to_owned(), Timestamp::now());
        self.broken.push(Broken { namespace, from, to: None });
    }

    /// From now on it does not any more.
    pub fn plaintext_ends(&mut self, namespace: &str) {
        let all = self.broken.iter_mut().filter(|one| one.namespace == namespace);
        for one in all.filter(|one| one.to.is_none()) {
            one.to = Some(Timestamp::now());
        }
    }

    /// From now on clients of a namespace are refused.
    pub fn harm_begins(&mut self, namespace: &str) {
        self.harmed.insert(namespace.to_owned(), Timestamp::now());
    }

    /// Its namespaces, in the order of their stages.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(|stage| stage.namespace.as_str())
    }

    /// What of `audit` was written where none of these rollouts may write.
    pub fn strays(oracles: &[Self], audit: &Audit) -> Vec<String> {
        let writes = audit.clone().of("peerauthentications").by(OPERATOR_USER).writes().accepted();
        let inside = |event: &&Event| {
            let object = event.object();
            let known = oracles.iter().flat_map(Self::namespaces);
            known.into_iter().any(|namespace| object == format!("{namespace}/default"))
        };
        let all = writes.events();
        all.filter(|event| !inside(event)).map(|event| tell(event, "outside every plan")).collect()
    }

    /// Judges every accepted write in this rollout's namespaces, in the order of acceptance.
    ///
    /// `audit` must begin before the rollout was made.
    pub fn judge(&self, audit: &Audit) -> Judgement {
        let writes = audit.clone().of("peerauthentications");
        let reigns = Reigns::of(audit);
        let mut told = Judgement::default();
        let mut stands: BTreeMap<String, Value> = BTreeMap::new();
        // What the apiserver itself gave up on, and may have stored all the same.
        let mut perhaps: BTreeMap<String, Value> = BTreeMap::new();
        let mut strict_since: BTreeMap<String, Timestamp> = BTreeMap::new();
        let mut way_back: BTreeMap<String, Timestamp> = BTreeMap::new();
        for event in in_order(writes.events().filter(|event| event.is_write())) {
            let namespace = event.object_ref.as_ref().map_or("", |it| it.namespace.as_str());
            let Some(index) = self.stages.iter().position(|stage| stage.namespace == namespace)
            else {
                continue;
            };
            let Ok(at) = event.stage_timestamp.parse::<Timestamp>() else {
                told.wrong.push(tell(event, "at no time that can be read"));
                continue;
            };
            let namespace = namespace.to_owned();
            let ours = event.user.username == OPERATOR_USER;
            let accepted = event.is_accepted();
            if event.is_dry_run() {
                if accepted && ours && mode(event.response_object.as_ref()) == "PERMISSIVE" {
                    way_back.insert(namespace, at);
                }
                continue;
            }
            if !accepted {
                if ours && event.code() >= 500 {
                    perhaps.insert(namespace, event.request_object.clone().unwrap_or_default());
                }
                continue;
            }
            let before = met(event, stands.get(&namespace).cloned(), perhaps.remove(&namespace));
            let after = event.response_object.clone().unwrap_or_default();
            if ours {
                told.judged += 1;
                let write = Write { event, at, before: before.as_ref(), after: &after };
                let mut wrong = self.wrong(&write, &namespace, index, &strict_since);
                if !reigns.had(write.at, &after) {
                    wrong.push("S5: not by the replica whose reign it was");
                }
                if write.is_strict() {
                    *told.strict.entry(namespace.clone()).or_default() += 1;
                    let tried = way_back.get(&namespace);
                    if tried.is_none_or(|tried| seconds(at, *tried) > 10.0) {
                        wrong.push("the way back was not tried before");
                    }
                }
                if let (Some(harmed), "PERMISSIVE", "STRICT") =
                    (self.harmed.get(&namespace), mode(Some(&after)), mode(before.as_ref()))
                {
                    let stood = at.duration_since(*harmed);
                    told.rollback = stood.try_into().ok();
                    if stood > signed(HARM_STANDS) {
                        wrong.push("L2: long after the harm began");
                    }
                }
                told.wrong.extend(wrong.into_iter().map(|why| tell(event, why)));
            }
            match mode(Some(&after)) {
                "STRICT" if mode(before.as_ref()) != "STRICT" => {
                    strict_since.insert(namespace.clone(), at);
                }
                "STRICT" => {}
                _ => {
                    strict_since.remove(&namespace);
                }
            }
            match event.verb.as_str() {
                "delete" | "deletecollection" => stands.remove(&namespace),
                _ => stands.insert(namespace, after),
            };
        }
        told
    }

    fn wrong(
        &self,
        write: &Write<'_>,
        namespace: &str,
        index: usize,
        strict_since: &BTreeMap<String, Timestamp>,
    ) -> Vec<&'static str> {
        let mut wrong = vec![];
        let mut must = |holds: bool, else_wrong: &'static str| {
            if !holds {
                wrong.push(else_wrong);
            }
        };
        let (now, before) = (mode(Some(write.after)), mode(write.before));
        let asked = write.event.request_object.clone().unwrap_or_default();
        let uri = &write.event.request_uri;
        must(!NEVER.contains(&namespace), "S9: in a namespace that is never touched");
        must(write.event.verb == "patch" && uri.contains("fieldManager="), "not our own apply");
        must(!uri.contains("force=true"), "S2: forced");
        must(uri.contains("timeout="), "S1: without a deadline");
        must(write.note("rollout") == self.rollout, "S2: not in the rollout's name");
        let versioned = !asked["metadata"]["resourceVersion"].is_null();
        must(versioned, "S2: whatever version stands there");
        match write.before {
            None => must(now == "PERMISSIVE", "S1: STRICT where no pin of ours stood"),
            Some(standing) => {
                let same = note(standing, "rollout-uid") == write.note("rollout-uid");
                must(same && !write.note("rollout-uid").is_empty(), "S2: not our own object");
                let uid = !asked["metadata"]["uid"].is_null();
                must(uid, "S2: whatever object stands there");
                let changed = standing["spec"] != write.after["spec"];
                must(changed, "L3: written again what stood there");
            }
        }
        match (before, now) {
            (_, "STRICT") => {
                self.wrong_strict(write, namespace, index, strict_since, &mut must);
            }
            ("STRICT", "PERMISSIVE") => {
                must(!write.note("rolled-back-at").is_empty(), "S8: a rollback without its mark");
                let harmed = self.harmed.get(namespace).is_some_and(|since| *since <= write.at);
                must(harmed, "a rollback without harm");
            }
            (_, "PERMISSIVE") => {}
            _ => must(false, "S3: neither STRICT nor PERMISSIVE"),
        }
        wrong
    }

    fn wrong_strict(
        &self,
        write: &Write<'_>,
        namespace: &str,
        index: usize,
        strict_since: &BTreeMap<String, Timestamp>,
        must: &mut impl FnMut(bool, &'static str),
    ) {
        must(mode(write.before) == "PERMISSIVE", "S1: STRICT over something else than PERMISSIVE");
        let rolled_back = write.before.is_some_and(|it| !note(it, "rolled-back-at").is_empty());
        must(!rolled_back, "STRICT again after a rollback, and nobody asked");
        let proven = write.note("evidence-time").parse::<Timestamp>();
        must(!write.note("evidence").is_empty(), "S8: without evidence");
        must(!write.note("strict-since").is_empty(), "S8: without the time of the switch");
        let oldest = (self.evidence_age + GRACE).as_secs_f64();
        // The age at sending is bounded by the evidence's limit, the way by the write deadline.
        must(
            proven.is_ok_and(|proven| (-0.1..=oldest + 2.0).contains(&seconds(write.at, proven))),
            "S1: on evidence that is too old",
        );
        for stage in &self.stages[..index] {
            // Whole seconds are what the operator itself goes by.
            let long = strict_since.get(&stage.namespace).is_some_and(|since| {
                seconds(write.at, *since) >= stage.watched.as_secs_f64() - 1.0
            });
            must(long, "S6: before the stage before it was STRICT for its bake");
        }
        let later = self.stages[index + 1..].iter();
        let in_flight = later.into_iter().any(|stage| strict_since.contains_key(&stage.namespace));
        must(!in_flight, "S6: while a later stage is STRICT");
        // The evidence covers from the look-back before the soak to its greatest age.
        let begin = write.at - signed(self.lookback + self.soak) + signed(GRACE);
        let end = write.at - signed(self.evidence_age + GRACE);
        let broken = self.broken.iter().filter(|one| one.namespace == namespace);
        let seen = broken.into_iter().any(|one| {
            let long_enough = one.from + signed(GRACE);
            long_enough < end && one.to.is_none_or(|to| to > begin)
        });
        must(!seen, "S1: while the metrics showed plaintext");
    }
}

/// As they were stored. The log has them as they were answered, which on a busy machine can be the
/// other way round.
fn in_order<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<&'a Event> {
    let mut last = 0;
    let keyed = events.map(|event| {
        let stored = event.is_accepted() && !event.is_dry_run();
        let told = event.response_object.as_ref().filter(|_| stored).and_then(version);
        // A refusal and a deletion have none; they stay behind what they were logged behind.
        last = told.and_then(|told| told.parse().ok()).unwrap_or(last);
        (last, event)
    });
    let mut keyed: Vec<(u64, &Event)> = keyed.collect();
    keyed.sort_by_key(|(version, _)| *version);
    keyed.into_iter().map(|(_, event)| event).collect()
}

/// What a write met: what stands there, unless it asked for another version and there is a write
/// that may have been stored without an answer.
fn met(event: &Event, stood: Option<Value>, perhaps: Option<Value>) -> Option<Value> {
    let asked = event.request_object.as_ref().and_then(version);
    match (&stood, &asked) {
        (Some(it), Some(_)) if version(it) == asked => stood,
        (_, None) => stood,
        (_, Some(_)) => perhaps.or(stood),
    }
}

fn version(object: &Value) -> Option<String> {
    object["metadata"]["resourceVersion"].as_str().map(str::to_owned)
}

/// One accepted write.
struct Write<'a> {
    event: &'a Event,
    at: Timestamp,
    before: Option<&'a Value>,
    after: &'a Value,
}

impl Write<'_> {
    fn is_strict(&self) -> bool {
        mode(Some(self.after)) == "STRICT"
    }

    fn note(&self, name: &str) -> &str {
        note(self.after, name)
    }
}

fn mode(object: Option<&Value>) -> &str {
    object.and_then(|it| it["spec"]["mtls"]["mode"].as_str()).unwrap_or("none")
}

pub(crate) fn note<'a>(object: &'a Value, name: &str) -> &'a str {
    let notes = &object["metadata"]["annotations"];
    notes[format!("meshrollout.dev/{name}")].as_str().unwrap_or_default()
}

fn tell(event: &Event, why: &str) -> String {
    let mode = mode(event.response_object.as_ref());
    format!("{} {} {} {mode}: {why}", event.stage_timestamp, event.verb, event.object())
}

pub(crate) fn seconds(later: Timestamp, earlier: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64()
}

fn signed(length: Duration) -> SignedDuration {
    SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests;
