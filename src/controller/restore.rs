//! A rollout that is being deleted: puts back what stood before it, if it was asked to.

use super::visit::refused_by_ourselves;
use super::{Error, Operator, failed};
use crate::api::names::FINALIZER;
use crate::api::{MeshRollout, parse};
use crate::apply::Outcome;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::runtime::controller;
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
        let Some(plan) = parse::as_far_as_it_goes(rollout, &self.config) else {
            tracing::error!(
                rollout = rollout.name_any(),
                "its spec cannot be read, so nothing is restored; take the finalizer off to let it go"
            );
            return Ok(later);
        };
        let mut unfinished = false;
        for namespace in self.written_by(&plan) {
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

    fn written_by(&self, plan: &Plan) -> BTreeSet<Namespace> {
        let nothing = Arc::new(self.nothing_measured(SignedDuration::ZERO));
        let snapshot = self.objects.snapshot(Timestamp::now(), nothing);
        let policies = snapshot.policies.all();
        let ours = policies
            .filter(|policy| policy.ours.as_ref().is_some_and(|ours| ours.rollout_uid == plan.uid));
        ours.map(|policy| policy.namespace.clone()).collect()
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
