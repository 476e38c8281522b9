//! A rollout that is being deleted: puts back what stood before it, if it was asked to.

use super::visit::{READ_LIMIT, refused_by_ourselves};
use super::{Error, Operator, failed};
use crate::api::names::FINALIZER;
use crate::api::{MeshRollout, parse};
use crate::apply::Outcome;
use crate::istio::PeerAuthentication;
use crate::translate;
use jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use kube::runtime::controller;
use kube::{Api, ResourceExt};
use meshrollout_core::action::Action;
use meshrollout_core::finding::{Code, Finding, Subject};
use meshrollout_core::ident::Namespace;
use meshrollout_core::plan::Plan;
use meshrollout_core::restore::{Restoration, restore};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Nothing more is to be done in a namespace, or not now.
enum End {
    /// Nothing of ours stands there any more.
    Restored,
    /// Our policy stays there.
    Left(Finding),
    /// To be tried again.
    Later(Finding),
}

impl Operator {
    /// Restores every namespace of the rollout, and lets it go when nothing is left to do.
    pub(super) async fn restore(&self, rollout: &MeshRollout) -> Result<controller::Action, Error> {
        if !rollout.finalizers().iter().any(|one| one == FINALIZER) {
            // Nothing to do, S7.
            return Ok(controller::Action::await_change());
        }
        let later = controller::Action::requeue(self.config.evaluation_interval.unsigned_abs());
        let plan = parse::as_far_as_it_goes(rollout, &self.config);
        let written = match self.written_by(&plan).await {
            Ok(written) => written,
            Err(error) => {
                tracing::warn!(
                    %error, rollout = plan.name,
                    "nothing is restored before it is known where it wrote"
                );
                return Ok(later);
            }
        };
        let mut unfinished = false;
        for namespace in written {
            let end = self.restore_one(&plan, &namespace).await;
            unfinished |= matches!(end, End::Later(_));
            let left = match &end {
                End::Restored => None,
                End::Left(found) | End::Later(found) => Some(found),
            };
            self.reporter.restored(rollout, &namespace, left).await;
        }
        if unfinished {
            return Ok(later);
        }
        let taken_off = self.reporter.finalizer(rollout, false).await;
        taken_off.map_err(failed("taking the finalizer off", rollout))?;
        Ok(controller::Action::await_change())
    }

    /// Where a policy of ours stands now; the watch may not have told of all of them.
    async fn written_by(&self, plan: &Plan) -> Result<BTreeSet<Namespace>, String> {
        let policies = Api::<PeerAuthentication>::all(self.client.clone());
        let all = ListParams::default();
        let read = tokio::time::timeout(READ_LIMIT, policies.list(&all)).await;
        let read = read.map_err(|_| "the apiserver does not answer".to_owned())?;
        let policies = read.map_err(|error| error.to_string())?.items;
        let policies = policies.iter().map(translate::policy);
        let ours = policies
            .filter(|policy| policy.ours.as_ref().is_some_and(|ours| ours.rollout_uid == plan.uid));
        Ok(ours.map(|policy| policy.namespace).collect())
    }

    async fn restore_one(&self, plan: &Plan, namespace: &Namespace) -> End {
        let later = |why: String| {
            End::Later(Finding::new(Code::WriteRefused, Subject::namespace(namespace), why))
        };
        // STRICT goes first where what follows must be an explicit PERMISSIVE: two steps at most.
        for _ in 0..2 {
            let now = Timestamp::now();
            let nothing = Arc::new(self.nothing_measured(SignedDuration::ZERO));
            let read = self.objects.quorum(&self.client, namespace, now, nothing.clone()).await;
            let (snapshot, unread) = match read {
                Ok(snapshot) => (snapshot, None),
                // Stepping back needs nothing but the policy (S4).
                Err(error) => (self.objects.snapshot(now, nothing), Some(error)),
            };
            let action = match (restore(plan, &snapshot, namespace), unread) {
                (Restoration::Do(action @ Action::RollBack(_)), _) => action,
                (_, Some(error)) => {
                    return later(format!("{namespace} could not be read: {error}"));
                }
                (restoration, None) => match restoration {
                    Restoration::Nothing => return End::Restored,
                    Restoration::Leave(found) => return End::Left(found),
                    Restoration::Wait(found) => return End::Later(found),
                    Restoration::Do(action) => action,
                },
            };
            if let Some(found) = refused_by_ourselves(plan, &snapshot, &action) {
                return End::Later(found);
            }
            match self.write(plan, &action).await {
                Outcome::Done if matches!(action, Action::Restore(_)) => return End::Restored,
                Outcome::Done => {}
                outcome => {
                    return later(format!("{namespace} is not restored yet: {}", outcome.why()));
                }
            }
        }
        later(format!("{namespace} is not restored yet"))
    }
}
