//! What we noted on a policy when we wrote it: from annotations and to them.

use crate::api::Duration;
use crate::api::names::policy as name;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshrollout_core::explain::length;
use meshrollout_core::ident::Uid;
use meshrollout_core::mode::{Declared, Mode};
use meshrollout_core::policy::{Ours, RolledBack};
use std::collections::BTreeMap;

/// The notes on a policy, if they are ours and whole.
///
/// A note that does not parse was changed by another hand. Half of the notes would be worse than
/// none: without the mark of a rollback we would promote again. So such a policy is not ours, and
/// whoever decides treats it like any other that a person wrote.
pub fn read(meta: &ObjectMeta) -> Option<Ours> {
    let note = |name: &str| meta.annotations.as_ref()?.get(name).map(String::as_str);
    let uid = |name: &str| note(name).filter(|uid| !uid.is_empty()).map(Uid::new);
    // A time that no write of ours can have is another hand's; reckoning with it could overflow.
    let time = |name: &str| -> Option<Option<Timestamp>> {
        let time: Option<Timestamp> = note(name).map(str::parse).transpose().ok()?;
        time.is_none_or(is_plausible).then_some(time)
    };
    Some(Ours {
        rollout: note(name::ROLLOUT).unwrap_or_default().to_owned(),
        rollout_uid: uid(name::ROLLOUT_UID)?,
        namespace_uid: uid(name::NAMESPACE_UID)?,
        previous: mode(note(name::PREVIOUS_MODE)?)?,
        // Without this note it may have been another's: then it is never deleted.
        adopted: match note(name::PREVIOUS) {
            Some(name::ABSENT) => None,
            _ => {
                let from = note(name::ADOPTED_FROM).unwrap_or_default();
                Some(from.split_terminator(',').map(str::to_owned).collect())
            }
        },
        strict_since: time(name::STRICT_SINCE)?,
        bake: note(name::BAKE).map(|bake| Duration::new(bake).parse()).transpose().ok()?,
        rolled_back: match (time(name::ROLLED_BACK_AT)?, note(name::ROLLED_BACK_BECAUSE)) {
            (Some(at), because) => {
                Some(RolledBack { at, because: because.unwrap_or_default().to_owned() })
            }
            (None, Some(_)) => return None,
            (None, None) => None,
        },
    })
}

/// A time between 2000 and 2200.
pub fn is_plausible(time: Timestamp) -> bool {
    const YEAR: i64 = 31_556_952;
    (30 * YEAR..230 * YEAR).contains(&time.as_second())
}

/// The annotations that say the same; [`read`] gives it back.
///
/// A note that is not here must not stay on the object: the writer replaces all of them.
pub fn annotations(ours: &Ours) -> BTreeMap<String, String> {
    let mut notes = vec![
        (name::ROLLOUT, ours.rollout.clone()),
        (name::ROLLOUT_UID, ours.rollout_uid.to_string()),
        (name::NAMESPACE_UID, ours.namespace_uid.to_string()),
        (name::PREVIOUS_MODE, ours.previous.to_string()),
    ];
    match &ours.adopted {
        None => notes.push((name::PREVIOUS, name::ABSENT.to_owned())),
        Some(managers) => {
            notes.push((name::PREVIOUS, name::PERMISSIVE.to_owned()));
            let managers: Vec<_> = managers.iter().map(String::as_str).collect();
            notes.push((name::ADOPTED_FROM, managers.join(",")));
        }
    }
    if let Some(since) = ours.strict_since {
        notes.push((name::STRICT_SINCE, since.to_string()));
    }
    if let Some(bake) = ours.bake {
        notes.push((name::BAKE, length(bake)));
    }
    if let Some(RolledBack { at, because }) = &ours.rolled_back {
        notes.push((name::ROLLED_BACK_AT, at.to_string()));
        notes.push((name::ROLLED_BACK_BECAUSE, because.clone()));
    }
    notes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn mode(spelled: &str) -> Option<Mode> {
    match Declared::parse(Some(spelled)) {
        Declared::Mode(mode) => Some(mode),
        Declared::Unset | Declared::Unknown(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Ours {
        Ours {
            rollout: "shop".into(),
            rollout_uid: "r-1".into(),
            namespace_uid: "n-1".into(),
            previous: Mode::Permissive,
            adopted: None,
            strict_since: Some(Timestamp::new(1_790_000_000, 123_000_000).unwrap()),
            bake: Some(jiff::SignedDuration::from_secs(5400)),
            rolled_back: Some(RolledBack {
                at: Timestamp::new(1_790_000_100, 0).unwrap(),
                because: "MR0301 orders/orders".into(),
            }),
        }
    }

    fn noted(notes: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta { annotations: Some(notes), ..ObjectMeta::default() }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let never_strict = Ours {
            strict_since: None,
            bake: None,
            rolled_back: None,
            previous: Mode::Disable,
            ..ours()
        };
        let from = ["Helm".to_owned(), "kubectl".to_owned()];
        let adopted = Ours { adopted: Some(from.into()), ..ours() };
        let from_nobody = Ours { adopted: Some([].into()), ..ours() };
        for ours in [ours(), never_strict, adopted, from_nobody] {
            assert_eq!(read(&noted(annotations(&ours))), Some(ours));
        }
    }

    #[test]
    fn without_a_note_that_a_rollback_needs_it_is_not_ours() {
        for missing in
            [name::ROLLOUT_UID, name::NAMESPACE_UID, name::PREVIOUS_MODE, name::ROLLED_BACK_AT]
        {
            let mut notes = annotations(&ours());
            notes.remove(missing);
            assert_eq!(read(&noted(notes)), None, "{missing}");
        }
        assert_eq!(read(&ObjectMeta::default()), None);
    }

    #[test]
    fn what_may_have_been_anothers_is_read_as_such() {
        for said in [None, Some("null"), Some(name::PERMISSIVE)] {
            let mut notes = annotations(&ours());
            notes.remove(name::PREVIOUS);
            notes.extend(said.map(|said| (name::PREVIOUS.to_owned(), said.to_owned())));
            let read = read(&noted(notes)).expect("a rollback needs no such note");
            assert_eq!(read.adopted, Some([].into()), "{said:?}");
        }
    }

    #[test]
    fn a_note_that_does_not_parse_makes_it_not_ours() {
        for (changed, value) in [
            (name::ROLLOUT_UID, ""),
            (name::PREVIOUS_MODE, "UNSET"),
            (name::PREVIOUS_MODE, "STRICTT"),
            (name::STRICT_SINCE, "yesterday"),
            (name::BAKE, "-1s"),
            (name::BAKE, "999999h"),
            (name::ROLLED_BACK_AT, ""),
        ] {
            let mut notes = annotations(&ours());
            notes.insert(changed.into(), value.into());
            assert_eq!(read(&noted(notes)), None, "{changed}: {value}");
        }
    }
}
