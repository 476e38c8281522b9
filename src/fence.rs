//! Which replica's writes the apiserver accepts: a MeshFence beside the Lease (S5).
//!
//! The Lease tells the replicas who leads. It cannot stop a write that a deposed leader has already
//! sent, or sends when it wakes. So whoever wins the Lease writes its name and a new epoch into the
//! MeshFence, stamps both on every policy it writes, and an admission policy refuses every stamp
//! but that one. The parameter is a kind of our own because the apiserver's informer for built-in
//! kinds freezes when the policy is deleted and made again; see the decision record 9.

use crate::api::names::policy as note;
use crate::api::{MeshFence, MeshFenceSpec};
use crate::istio::PeerAuthentication;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The name of the one MeshFence, in the operator's own namespace.
pub const FENCE_NAME: &str = "meshrollout";

/// The admission policy that reads it. Its refusals name it.
pub const FENCE_POLICY: &str = "meshrollout-fence";

/// An epoch beyond this on a policy was not counted up to, but forged.
const IMPLAUSIBLE: i64 = 1 << 52;
/// Nor was one beyond this on the fence, where one may have been counted on from a forged one.
const IMPOSSIBLE: i64 = 1 << 53;

/// What every policy write carries: whose reign it belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// The replica, as the Lease names it.
    pub holder: String,
    /// The number of its reign.
    pub epoch: i64,
}

impl Stamp {
    /// The stamp on an object, if there is one.
    pub fn read(notes: &BTreeMap<String, String>) -> Option<Self> {
        let holder = notes.get(note::HOLDER)?.clone();
        let epoch = notes.get(note::EPOCH)?.parse().ok()?;
        (0..IMPLAUSIBLE).contains(&epoch).then_some(Self { holder, epoch })
    }

    /// A stamp of no reign: the first one is 1.
    pub fn of_nobody() -> Self {
        Self { holder: "nobody".to_owned(), epoch: 0 }
    }

    fn of(fence: &MeshFence) -> Self {
        Self { holder: fence.spec.holder.clone(), epoch: fence.spec.epoch }
    }
}

/// The MeshFence as one replica sees and takes it.
pub struct Fence {
    fences: Api<MeshFence>,
    policies: Api<PartialObjectMeta<PeerAuthentication>>,
    holder: String,
    reign: Mutex<Reign>,
}

/// This replica's own reign.
#[derive(Default)]
struct Reign {
    /// As it was last seen to stand.
    stamp: Option<Stamp>,
    /// Another must begin before the next step.
    is_spent: bool,
}

impl Fence {
    /// The fence in `namespace`, for a replica of this name.
    pub fn new(client: Client, namespace: &str, holder: String) -> Self {
        Self {
            fences: Api::namespaced(client.clone(), namespace),
            policies: Api::all(client),
            holder,
            reign: Mutex::default(),
        }
    }

    /// The stamp of this replica's reign, as it was last seen to stand.
    pub fn stamp(&self) -> Option<Stamp> {
        self.reign().stamp.clone()
    }

    /// From now on only a new reign goes forward. A STRICT that got no answer may be on its way
    /// yet, and arrive long after its evidence: the apiserver is to refuse it then.
    pub fn spend(&self) {
        self.reign().is_spent = true;
    }

    /// A new reign has to begin, and has not.
    pub fn is_spent(&self) -> bool {
        self.reign().is_spent
    }

    /// The fence as it stands.
    pub async fn read(&self) -> Result<Option<MeshFence>, kube::Error> {
        self.fences.get_opt(FENCE_NAME).await
    }

    /// The stamp, if `seen` names this replica's own reign.
    pub fn is_ours(&self, seen: Option<&MeshFence>) -> Option<Stamp> {
        let reign = self.reign();
        let stands = |ours: &&Stamp| seen.map(Stamp::of).as_ref() == Some(*ours);
        reign.stamp.as_ref().filter(|_| !reign.is_spent).filter(stands).cloned()
    }

    /// Begins a new reign. Only whoever has seen the Lease name it *after* `seen` was read may do
    /// this: then a replica that was held up in between meets another version and fails.
    pub async fn take(&self, seen: Option<MeshFence>) -> Result<Stamp, kube::Error> {
        // Whoever deleted the fence must not make us fall behind what was written before.
        let policies = self.policies.list_metadata(&ListParams::default()).await?;
        let stood = policies.iter().filter_map(|policy| Stamp::read(policy.annotations()));
        let known = seen.as_ref().map(Stamp::of).into_iter().chain(self.stamp());
        let epoch = epoch_after(stood.chain(known));
        let spec = MeshFenceSpec { holder: self.holder.clone(), epoch };
        match seen {
            None => {
                let metadata =
                    ObjectMeta { name: Some(FENCE_NAME.into()), ..ObjectMeta::default() };
                self.fences.create(&PostParams::default(), &MeshFence { metadata, spec }).await?;
            }
            Some(seen) => {
                let fence = MeshFence { spec, ..seen };
                self.fences.replace(FENCE_NAME, &PostParams::default(), &fence).await?;
            }
        }
        let stamp = Stamp { holder: self.holder.clone(), epoch };
        tracing::info!(epoch, holder = self.holder, "a new reign");
        *self.reign() = Reign { stamp: Some(stamp.clone()), is_spent: false };
        Ok(stamp)
    }

    fn reign(&self) -> MutexGuard<'_, Reign> {
        self.reign.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one that none of these reigns had. What cannot be counted up to is another hand's, and has
/// no next.
fn epoch_after(reigns: impl Iterator<Item = Stamp>) -> i64 {
    let epochs = reigns.map(|stamp| stamp.epoch).filter(|epoch| *epoch < IMPOSSIBLE);
    epochs.max().unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reign_comes_after_all_that_can_have_been() {
        let after = |epochs: &[i64]| {
            epoch_after(epochs.iter().map(|epoch| Stamp { holder: "a".into(), epoch: *epoch }))
        };
        assert_eq!([after(&[]), after(&[3, 7, 5]), after(&[7, i64::MAX])], [1, 8, 8]);
        // Whatever a policy was made to say, there is a next, and one after that.
        let forged = after(&[IMPLAUSIBLE - 1]);
        assert_eq!((forged, after(&[forged])), (IMPLAUSIBLE, IMPLAUSIBLE + 1));
    }

    #[test]
    fn a_stamp_is_whole_or_none() {
        let notes = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let whole = notes(&[(note::HOLDER, "a"), (note::EPOCH, "7")]);
        assert_eq!(Stamp::read(&whole), Some(Stamp { holder: "a".into(), epoch: 7 }));
        let forged = notes(&[(note::HOLDER, "a"), (note::EPOCH, "9223372036854775807")]);
        for notes in [notes(&[(note::HOLDER, "a")]), notes(&[(note::EPOCH, "7")]), forged] {
            assert_eq!(Stamp::read(&notes), None);
        }
    }
}
