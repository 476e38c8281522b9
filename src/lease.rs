//! Which replica acts: a Lease in the operator's own namespace.
//!
//! The Lease makes two writers unlikely, not impossible: a replica that was held up may wake with a
//! write in hand. So before each write the MeshFence and the Lease are read again, a write is sent
//! only while the last renewal is younger than the renew deadline, and it carries the stamp of this
//! reign, without which the apiserver refuses it.

use crate::apply::Leave;
use crate::config::Config;
use crate::fence::{Fence, Stamp};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The name of the Lease.
pub const LEASE_NAME: &str = "meshrollout";

/// That this replica leads, for as long as it does.
#[derive(Clone)]
pub struct Leadership {
    candidate: Option<Arc<Candidate>>,
    fence: Arc<Fence>,
    renewed: Arc<Mutex<Option<Instant>>>,
    deadline: Option<Duration>,
    lost: CancellationToken,
}

/// A replica that wants to lead.
pub struct Candidate {
    leases: Api<Lease>,
    fence: Arc<Fence>,
    identity: String,
    duration: Duration,
    deadline: Duration,
    retry: Duration,
}

/// Why an attempt failed.
enum Missed {
    /// Another holds it.
    Held,
    /// The apiserver refused.
    Failed(kube::Error),
    /// Somebody changed it between reading and writing.
    Raced,
    /// No answer in time.
    Late,
}

impl Candidate {
    /// A candidate of this name. `client` must not retry by itself.
    pub fn new(client: Client, config: &Config, identity: String, fence: Arc<Fence>) -> Self {
        Self {
            fence,
            leases: Api::namespaced(client, &config.operator_namespace),
            identity,
            duration: config.lease_duration.unsigned_abs(),
            deadline: config.renew_deadline.unsigned_abs(),
            retry: config.retry_period.unsigned_abs(),
        }
    }

    /// Waits until this replica leads, and goes on renewing in the background.
    pub async fn lead(self) -> Leadership {
        // What we saw of another's Lease, and when by our own clock: clocks of replicas differ.
        let mut seen: Option<(String, Instant)> = None;
        let mut failing = false;
        loop {
            let begin = Instant::now();
            let attempt = tokio::time::timeout(self.deadline, self.try_to_take(&mut seen)).await;
            match attempt.unwrap_or(Err(Missed::Late)) {
                Ok(()) => {
                    tracing::info!(identity = %self.identity, "leading");
                    return self.keep(begin);
                }
                Err(Missed::Held | Missed::Raced) => failing = false,
                Err(Missed::Late) => {
                    tracing::warn!(lease = LEASE_NAME, "no answer about the Lease");
                }
                Err(Missed::Failed(error)) => {
                    if !failing {
                        tracing::warn!(%error, lease = LEASE_NAME, "cannot get the Lease");
                    }
                    failing = true;
                }
            }
            tokio::time::sleep(self.retry).await;
        }
    }

    fn keep(self, begin: Instant) -> Leadership {
        let candidate = Arc::new(self);
        let leadership = Leadership {
            candidate: Some(Arc::clone(&candidate)),
            fence: Arc::clone(&candidate.fence),
            renewed: Arc::new(Mutex::new(Some(begin))),
            deadline: Some(candidate.deadline),
            lost: CancellationToken::new(),
        };
        let kept = leadership.clone();
        tokio::spawn(async move {
            while kept.holds() {
                tokio::time::sleep(candidate.retry).await;
                // Handed back meanwhile.
                if !kept.holds() {
                    break;
                }
                let begin = Instant::now();
                let mut seen = None;
                let renewal = candidate.try_to_take(&mut seen);
                let renewed = tokio::time::timeout(candidate.deadline, renewal).await;
                match renewed.unwrap_or(Err(Missed::Late)) {
                    Ok(()) => kept.renewed_at(begin),
                    Err(Missed::Held) => {
                        tracing::error!(lease = LEASE_NAME, "another replica took the Lease");
                        break;
                    }
                    // By whom, the next look tells: an annotation is no other leader.
                    Err(Missed::Raced) => {
                        tracing::warn!(lease = LEASE_NAME, "the Lease was changed while renewing");
                    }
                    Err(Missed::Failed(error)) => {
                        tracing::warn!(%error, lease = LEASE_NAME, "cannot renew the Lease");
                    }
                    Err(Missed::Late) => {
                        tracing::warn!(lease = LEASE_NAME, "no answer while renewing");
                    }
                }
            }
            kept.give_up();
        });
        leadership
    }

    /// Takes the Lease, or renews it. `seen` is what was seen of another's before.
    async fn try_to_take(&self, seen: &mut Option<(String, Instant)>) -> Result<(), Missed> {
        let Some(lease) = self.leases.get_opt(LEASE_NAME).await.map_err(Missed::Failed)? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(LEASE_NAME.into()), ..ObjectMeta::default() },
                spec: Some(self.spec(None)),
            };
            let created = self.leases.create(&PostParams::default(), &lease).await;
            return created.map(drop).map_err(missed);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let unchanged = seen.as_ref().filter(|(known, _)| *known == version);
            let since = unchanged.map_or_else(Instant::now, |(_, since)| *since);
            *seen = Some((version, since));
            let theirs = spec.lease_duration_seconds.and_then(|it| u64::try_from(it).ok());
            let patience = Duration::from_secs(theirs.unwrap_or(0)).max(self.duration);
            if since.elapsed() < patience {
                return Err(Missed::Held);
            }
        }
        // The version read makes it ours or fails: two cannot take it at once.
        let lease = Lease { spec: Some(self.spec(Some(&spec))), ..lease };
        let replaced = self.leases.replace(LEASE_NAME, &PostParams::default(), &lease).await;
        replaced.map(drop).map_err(missed)
    }

    /// The Lease names this replica.
    async fn is_holder(&self) -> Result<bool, kube::Error> {
        let lease = self.leases.get_opt(LEASE_NAME).await?;
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        Ok(holder.as_deref() == Some(&self.identity))
    }

    async fn hand_back(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.leases.get_opt(LEASE_NAME).await? else { return Ok(()) };
        let Some(spec) = &mut lease.spec else { return Ok(()) };
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = None;
        self.leases.replace(LEASE_NAME, &PostParams::default(), &lease).await.map(drop)
    }

    fn spec(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let holder = old.and_then(|old| old.holder_identity.clone());
        let ours = holder.as_deref() == Some(&self.identity);
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: old
                .filter(|_| ours)
                .and_then(|old| old.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions + i32::from(old.is_some() && !ours)),
            ..LeaseSpec::default()
        }
    }
}

fn missed(error: kube::Error) -> Missed {
    match &error {
        kube::Error::Api(status) if status.code == 409 => Missed::Raced,
        _ => Missed::Failed(error),
    }
}

impl Leadership {
    /// For a single replica that needs no Lease.
    pub fn alone(fence: Arc<Fence>) -> Self {
        Self {
            candidate: None,
            fence,
            renewed: Arc::new(Mutex::new(Some(Instant::now()))),
            deadline: None,
            lost: CancellationToken::new(),
        }
    }

    /// This replica leads now: it may send a write.
    pub fn holds(&self) -> bool {
        let renewed = *self.lock();
        renewed.is_some_and(|at| self.deadline.is_none_or(|deadline| at.elapsed() < deadline))
    }

    /// The stamp of this reign as it stood last, for what is only tried.
    pub fn stamp(&self) -> Option<Stamp> {
        self.fence.stamp()
    }

    /// A STRICT that got no answer ends this reign; see [`Fence::spend`].
    pub fn spend_reign(&self) {
        self.fence.spend();
    }

    /// Begins the reign that a spent one asks for, within `limit`; tried again until it stands.
    pub async fn begin_anew(&self, limit: Duration) {
        if self.fence.is_spent()
            && let Leave::Unsure(_, why) = self.confirm(limit).await
        {
            tracing::warn!(why, "no new reign yet: what is on its way may still arrive");
        }
    }

    /// Asks the apiserver, within `limit`, whether this replica may send a write now. A reign that
    /// has not begun, or whose fence was deleted or changed by another hand, begins anew.
    pub async fn confirm(&self, limit: Duration) -> Leave {
        let asked = tokio::time::timeout(limit, self.ask()).await;
        let asked = asked.unwrap_or_else(|_| Err("the apiserver gave no answer in time".into()));
        // Asked last of all: the answer may have come to a replica that was stopped meanwhile.
        if !self.holds() {
            return Leave::Denied("another replica leads");
        }
        match asked {
            Ok(Some(stamp)) => Leave::Granted(stamp),
            Ok(None) => {
                self.give_up();
                Leave::Denied("another replica leads")
            }
            Err(why) => Leave::Unsure(self.stamp(), why),
        }
    }

    async fn ask(&self) -> Result<Option<Stamp>, String> {
        let failed = |what: &str| {
            let what = format!("{what} failed");
            move |error: kube::Error| format!("{what}: {error}")
        };
        // The fence before the Lease: a reign is begun only over a fence that was read before the
        // Lease still named us, so that it cannot undo the reign of a later leader.
        let fence = self.fence.read().await.map_err(failed("reading the MeshFence"))?;
        if let Some(candidate) = &self.candidate
            && !candidate.is_holder().await.map_err(failed("reading the Lease"))?
        {
            return Ok(None);
        }
        match self.fence.is_ours(fence.as_ref()) {
            Some(stamp) => Ok(Some(stamp)),
            None => self.fence.take(fence).await.map(Some).map_err(failed("taking the MeshFence")),
        }
    }

    /// Returns when it does not lead any more.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Hands the Lease back in an orderly shutdown, so that another need not wait for its end.
    pub async fn release(&self) {
        let held = self.holds();
        self.give_up();
        let Some(candidate) = self.candidate.as_ref().filter(|_| held) else { return };
        match tokio::time::timeout(candidate.retry, candidate.hand_back()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, lease = LEASE_NAME, "not handed back: another waits for its end");
            }
            Err(_) => tracing::warn!(lease = LEASE_NAME, "no answer while handing back"),
        }
    }

    fn renewed_at(&self, begin: Instant) {
        let mut renewed = self.lock();
        if renewed.is_some() {
            *renewed = Some(begin);
        }
    }

    /// Once given up, a renewal that was under way changes nothing.
    fn give_up(&self) {
        *self.lock() = None;
        self.lost.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
