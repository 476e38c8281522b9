//! A MeshRollout as it is stored, whether all of it can be read or not.
//!
//! The apiserver stores what its schema allows, and that is more than a program can read: a time
//! of the year 10000, or a word that a newer version knows. One such object must keep no other
//! from being looked after, and neither what it has reached itself.

use super::parse::Refusal;
use super::{Action, MeshRollout, MeshRolloutSpec};
use kube::api::ObjectMeta;
use kube::core::Resource;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// What was read of it.
#[derive(Clone, Debug)]
pub struct StoredRollout {
    /// What could be read, the rest as if it were not there. What it does is Enforce where that
    /// cannot be read: Observe would take back nothing.
    pub rollout: MeshRollout,
    /// What could not.
    pub unreadable: Option<Unreadable>,
}

/// What of a spec could not be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unreadable {
    /// The first of it, and why.
    pub refusal: Refusal,
    /// The fields of which something is missing.
    pub fields: BTreeSet<String>,
}

impl StoredRollout {
    /// All of this field of the spec was read.
    pub fn has_whole(&self, field: &str) -> bool {
        self.unreadable.as_ref().is_none_or(|what| !what.fields.contains(field))
    }
}

impl<'de> Deserialize<'de> for StoredRollout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut whole = Value::deserialize(deserializer)?;
        if let Ok(rollout) = MeshRollout::deserialize(&whole) {
            return Ok(Self { rollout, unreadable: None });
        }
        let Pieces { kept, unreadable } = Pieces::of(whole["spec"].take());
        let spec = serde_json::from_value(Value::Object(kept)).map_err(Error::custom)?;
        let metadata = serde_json::from_value(whole["metadata"].take()).map_err(Error::custom)?;
        // Where it cannot be read it is as if it were lost: the policies tell what was reached.
        let status = serde_json::from_value(whole["status"].take()).ok().flatten();
        Ok(Self { rollout: MeshRollout { metadata, spec, status }, unreadable })
    }
}

/// A spec by its fields, each of which was read by itself, and of a list each item.
struct Pieces {
    kept: Map<String, Value>,
    unreadable: Option<Unreadable>,
}

impl Pieces {
    fn of(spec: Value) -> Self {
        let kept = Map::from_iter([("stages".to_owned(), json!([]))]);
        let mut pieces = Self { kept, unreadable: None };
        let Value::Object(fields) = spec else {
            for field in ["stages", "deletionPolicy"] {
                pieces.note(field, "spec", "it is no object");
            }
            return pieces;
        };
        if !fields.contains_key("stages") {
            pieces.note("stages", "spec.stages", "it is missing");
        }
        for (field, value) in fields {
            let whole = read(&field, &value);
            let value = match (whole, value) {
                (Ok(()), value) => value,
                (Err(_), Value::Array(items)) if read(&field, &json!([])).is_ok() => {
                    pieces.items(&field, items)
                }
                (Err(why), _) => {
                    pieces.note(&field, &format!("spec.{field}"), &why);
                    match field.as_str() {
                        "action" => json!(Action::Enforce),
                        _ => continue,
                    }
                }
            };
            pieces.kept.insert(field, value);
        }
        pieces
    }

    fn items(&mut self, field: &str, items: Vec<Value>) -> Value {
        let mut kept = vec![];
        for (index, item) in items.into_iter().enumerate() {
            match read(field, &json!([item])) {
                Ok(()) => kept.push(item),
                Err(why) => self.note(field, &format!("spec.{field}[{index}]"), &why),
            }
        }
        Value::Array(kept)
    }

    fn note(&mut self, field: &str, path: &str, why: &str) {
        let problem = format!("this operator cannot read it, and takes no step: {why}");
        let refusal = Refusal::Field { field: path.to_owned(), problem };
        let first = || Unreadable { refusal, fields: BTreeSet::new() };
        self.unreadable.get_or_insert_with(first).fields.insert(field.to_owned());
    }
}

fn read(field: &str, value: &Value) -> Result<(), String> {
    let mut alone = json!({"stages": []});
    alone[field] = value.clone();
    let spec: Result<MeshRolloutSpec, _> = serde_json::from_value(alone);
    spec.map(drop).map_err(|why| why.to_string())
}

impl Resource for StoredRollout {
    type DynamicType = <MeshRollout as Resource>::DynamicType;
    type Scope = <MeshRollout as Resource>::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        MeshRollout::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        MeshRollout::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        MeshRollout::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        MeshRollout::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        self.rollout.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.rollout.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(spec: Value) -> StoredRollout {
        let object = json!({
            "apiVersion": "meshrollout.dev/v1alpha1", "kind": "MeshRollout",
            "metadata": {"name": "shop", "uid": "1"}, "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    fn answered(expires: &str) -> Value {
        json!({"code": "MR0201", "subject": {"kind": "Namespace", "name": "shop"},
            "reason": "known", "owner": "platform", "expires": expires})
    }

    #[test]
    fn what_can_be_read_is_and_the_first_field_that_cannot_is_named() {
        let stage = json!({"name": "first", "namespaces": ["shop"]});
        let stages = json!([stage, {"name": "second", "namespaces": "shop"}]);
        for (field, value, named) in [
            (
                "acknowledgements",
                json!([answered("9999-12-31T23:59:59Z")]),
                "spec.acknowledgements[0]",
            ),
            ("action", json!("Foresee"), "spec.action"),
            ("gates", json!(7), "spec.gates"),
            ("stages", stages, "spec.stages[1]"),
            ("paused", json!([true]), "spec.paused"),
        ] {
            let mut spec = json!({"action": "Enforce", "stages": [stage]});
            spec[field] = value;
            let StoredRollout { rollout, unreadable } = stored(spec);
            let Unreadable { refusal, fields } = unreadable.expect("it is told");
            assert!(fields.into_iter().eq([field]));
            let why = refusal.to_string();
            assert!(why.starts_with(&format!("{named}: this operator cannot read it")), "{why}");
            assert_eq!(rollout.spec.action, Action::Enforce);
            assert_eq!(rollout.spec.stages.len(), 1);
            assert_eq!(rollout.meta().uid.as_deref(), Some("1"));
        }
    }

    /// Of a field that is not there it is not known what it said.
    #[test]
    fn each_field_of_which_something_is_missing_is_kept_in_mind() {
        let fields = |spec: Value| {
            let read = stored(spec);
            assert_eq!(read.rollout.spec.stages, []);
            ["stages", "deletionPolicy", "action"].map(|field| read.has_whole(field))
        };
        assert_eq!(fields(json!({})), [false, true, true]);
        assert_eq!(fields(json!(7)), [false, false, true]);
        let two = json!({"stages": [7], "deletionPolicy": "Shrug", "action": "Observe"});
        assert_eq!(fields(two), [false, false, true]);
        assert_eq!(fields(json!({"stages": [], "deletionPolicy": "Keep"})), [true, true, true]);
    }

    #[test]
    fn beside_an_item_that_cannot_be_read_the_others_are() {
        let both = json!([answered("9999-12-31T23:59:59Z"), answered("2030-01-01T00:00:00Z")]);
        let read = stored(json!({"stages": [], "acknowledgements": both}));
        assert_eq!(read.rollout.spec.acknowledgements.len(), 1);
        assert_eq!(read.rollout.spec.action, Action::Observe, "it says nothing else");
        assert!(read.unreadable.is_some());
    }

    #[test]
    fn what_can_be_read_whole_is_read_as_ever() {
        let read =
            stored(json!({"stages": [], "acknowledgements": [answered("2030-01-01T00:00:00Z")]}));
        assert_eq!(read.unreadable, None);
        assert_eq!(read.rollout.spec.acknowledgements.len(), 1);
        let none = stored(json!(null));
        assert!(!none.has_whole("stages") && none.has_whole("paused"));
        assert!(none.unreadable.is_some_and(|it| it.refusal.to_string().starts_with("spec: ")));
    }
}
