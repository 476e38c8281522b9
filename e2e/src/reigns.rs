//! Who led when, by what was stored of the MeshFence.

use jiff::Timestamp;
use serde_json::Value;

use crate::oracle::{note, seconds};
use crate::{Audit, Event};

/// The reigns, in the order in which they began.
pub struct Reigns(Vec<Reign>);

struct Reign {
    begin: Timestamp,
    /// Its place in the order of everything stored.
    version: Option<u64>,
    holder: String,
    epoch: i64,
}

/// An admission plugin hears of a new reign this late at the most.
const HEARD_WITHIN: f64 = 2.0;

impl Reigns {
    /// Those that `audit` shows.
    pub fn of(audit: &Audit) -> Self {
        let stored = audit.clone().of("meshfences").writes().accepted();
        let reign = |event: &Event| {
            let fence = event.response_object.as_ref()?;
            Some(Reign {
                begin: event.stage_timestamp.parse().ok()?,
                version: version(fence),
                holder: fence["spec"]["holder"].as_str()?.to_owned(),
                epoch: fence["spec"]["epoch"].as_i64()?,
            })
        };
        Self(stored.events().filter_map(reign).collect())
    }

    /// The object bears the stamp of a reign that stood at this time, or had just ended.
    pub(crate) fn had(&self, at: Timestamp, object: &Value) -> bool {
        let ends = self.0.iter().skip(1).map(|reign| Some(reign.begin)).chain([None]);
        self.0.iter().zip(ends).any(|(reign, end)| {
            reign.begin <= at
                && end.is_none_or(|end| seconds(at, end) < HEARD_WITHIN)
                && reign.stamped(object)
        })
    }

    /// Why the object was stored for a replica that led no more, by the order in which both were
    /// stored and without any grace.
    pub fn deposed(&self, object: &Value) -> Option<String> {
        let Some(stored) = version(object) else { return Some("without a version".to_owned()) };
        let earlier = self.0.iter().filter(|reign| reign.version.is_some_and(|it| it < stored));
        let reign = earlier.max_by_key(|reign| reign.version)?;
        let (holder, epoch) = (note(object, "holder"), note(object, "epoch"));
        (!reign.stamped(object)).then(|| {
            let (leader, now) = (&reign.holder, reign.epoch);
            format!("by {holder} epoch {epoch} at {stored}, when {leader} epoch {now} led")
        })
    }
}

impl Reign {
    fn stamped(&self, object: &Value) -> bool {
        note(object, "holder") == self.holder && note(object, "epoch") == self.epoch.to_string()
    }
}

fn version(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}
