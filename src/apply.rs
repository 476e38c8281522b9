//! The one writer of policies: it performs what was decided, once, within its deadline, and says
//! how that ended.
//!
//! Every write is a server-side apply of our own fields by our own manager that meets exactly the
//! object and version it was decided on (or nothing, for a pin). Two are forced: STRICT on a policy
//! that was adopted, and a person's own step back. The client has no retries: a write that was held
//! up is not sent again when nobody asks for it any more.

use crate::api::names::{FIELD_MANAGER, POLICY_NAME};
use crate::fence::{FENCE_POLICY, Stamp};
use crate::istio::PeerAuthentication;
use crate::manifest;
use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, Request};
use kube::client::ClientBuilder;
use kube::{Client, Config, Resource};
use meshrollout_core::action::{Action, Restore};
use meshrollout_core::finding::{Code, Finding, Level, Subject};
use meshrollout_core::ident::Namespace;
use serde_json::Value;

/// Writes policies.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    deadline: SignedDuration,
    tries_fence: bool,
    is_a_persons: bool,
}

/// How a write ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Stored.
    Done,
    /// Not sent: the evidence had grown too old, or we do not lead any more.
    NotSent(&'static str),
    /// Not sent, or refused: the MeshFence does not name this reign, or cannot be read.
    Fenced(String),
    /// Not sent: a stamp of no reign, tried first, was not refused. A deposed replica's write would
    /// be stored as well.
    NoFence,
    /// Not stored: the object is not the one it was decided on. Look again.
    Conflict(String),
    /// Not sent: the restoring write, tried first, would be refused.
    NoWayBack(String),
    /// Not sent: what is tried first got no answer.
    Untried(String),
    /// Not stored: the apiserver or an admission plugin refused it.
    Refused(String),
    /// No answer within the deadline: stored or not, the next look shows it.
    Unanswered(String),
}

/// Whether a write may be sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Leave {
    /// It may, with this stamp.
    Granted(Stamp),
    /// It may not: another leads.
    Denied(&'static str),
    /// It could not be asked. Stepping back does not wait for that (S4): it goes with the stamp
    /// that stood last, and the apiserver judges.
    Unsure(Option<Stamp>, String),
}

impl Leave {
    /// What `action` is to carry, or why it is not sent.
    fn stamp(self, action: &Action) -> Result<Option<Stamp>, Outcome> {
        match (self, action) {
            (Self::Granted(stamp), _) => Ok(Some(stamp)),
            (Self::Denied(why), _) => Err(Outcome::NotSent(why)),
            (Self::Unsure(stamp, _), Action::RollBack(_)) => Ok(stamp),
            (
                Self::Unsure(_, why),
                Action::PinPermissive(_)
                | Action::Adopt(_)
                | Action::EnforceStrict(_)
                | Action::Restore(_),
            ) => Err(Outcome::Fenced(why)),
        }
    }
}

impl Writer {
    /// A writer on connections of its own, without kube's retries.
    pub fn new(config: &Config, deadline: SignedDuration) -> Result<Self, kube::Error> {
        let mut config = config.clone();
        config.default_retry = false;
        config.connect_timeout = Some(deadline.unsigned_abs());
        let client = ClientBuilder::try_from(config)?.build();
        Ok(Self::on(client, deadline))
    }

    /// A writer on this client, which must send each request once.
    pub fn on(client: Client, deadline: SignedDuration) -> Self {
        Self { client, deadline, tries_fence: true, is_a_persons: false }
    }

    /// For a person who steps back: who says the same STRICT beside us by now does not keep it.
    pub fn of_a_person(self) -> Self {
        Self { is_a_persons: true, ..self }
    }

    /// For a cluster whose administrator has left the fence out.
    pub fn without_fence(self) -> Self {
        Self { tries_fence: false, ..self }
    }

    /// Performs `action`. `leave` is asked before anything is sent and again, as the age of the
    /// evidence is, just before the write itself.
    pub async fn perform(&self, action: &Action, leave: impl AsyncFn() -> Leave) -> Outcome {
        match self.try_to_perform(action, leave).await {
            Ok(()) => Outcome::Done,
            Err(outcome) => outcome,
        }
    }

    async fn try_to_perform(
        &self,
        action: &Action,
        leave: impl AsyncFn() -> Leave,
    ) -> Result<(), Outcome> {
        if action.goes_forward() {
            // Asked before the trials too: whoever deleted the MeshFence is answered by a new reign.
            let stamp = leave().await.stamp(action)?;
            if let Action::EnforceStrict(clearance) = action {
                let tried = self.only_try(&clearance.way_back(), stamp.as_ref()).await;
                tried.map_err(|outcome| match outcome {
                    Outcome::Refused(why) => Outcome::NoWayBack(why),
                    other => other,
                })?;
            }
            if self.tries_fence {
                self.try_the_fence(action).await?;
            }
        }
        let stamp = leave().await.stamp(action)?;
        let now = Timestamp::now();
        if let Action::EnforceStrict(clearance) = action
            && !clearance.is_current(now)
        {
            return Err(Outcome::NotSent("the evidence has grown too old"));
        }
        if let Action::Restore(restore) = action
            && restore.deletes()
        {
            return self.delete(restore).await;
        }
        let object = manifest::policy(action, stamp.as_ref(), now);
        let steps_back = matches!(action, Action::RollBack(_));
        let forces = action.takes_over() || (self.is_a_persons && steps_back);
        let how = if forces { Try::Forced } else { Try::Plain };
        self.apply(action.namespace(), &object, how).await
    }

    /// Tries `action` with a stamp of no reign, which must be refused: an apiserver lets every stamp
    /// pass while it does not know the fence's kind (up to half a minute after the first install, or
    /// after its own start), and for good when the admission policy is gone.
    async fn try_the_fence(&self, action: &Action) -> Result<(), Outcome> {
        let harmless = match action {
            Action::EnforceStrict(clearance) => &clearance.way_back(),
            other => other,
        };
        match self.only_try(harmless, Some(&Stamp::of_nobody())).await {
            Ok(()) => Err(Outcome::NoFence),
            Err(Outcome::Fenced(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// How `action` would end now, with this stamp. A dry run: one that gets no answer is
    /// [`Outcome::Untried`], for it cannot be stored later.
    pub async fn only_try(&self, action: &Action, stamp: Option<&Stamp>) -> Result<(), Outcome> {
        let object = manifest::policy(action, stamp, Timestamp::now());
        self.apply(action.namespace(), &object, Try::Dry).await.map_err(|outcome| match outcome {
            Outcome::Unanswered(why) => Outcome::Untried(why),
            other => other,
        })
    }

    async fn apply(&self, namespace: &Namespace, object: &Value, how: Try) -> Result<(), Outcome> {
        let params = PatchParams {
            dry_run: how == Try::Dry,
            force: how == Try::Forced,
            ..PatchParams::apply(FIELD_MANAGER).validation_strict()
        };
        let request = requests(namespace).patch(POLICY_NAME, &params, &Patch::Apply(object));
        self.send(request.map_err(|error| Outcome::Refused(error.to_string()))?).await
    }

    async fn delete(&self, restore: &Restore) -> Result<(), Outcome> {
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(restore.policy_uid.to_string()),
            resource_version: Some(restore.resource_version.clone()),
        });
        let request = requests(&restore.namespace).delete(POLICY_NAME, &params);
        self.send(request.map_err(|error| Outcome::Refused(error.to_string()))?).await
    }

    async fn send(&self, mut request: http::Request<Vec<u8>>) -> Result<(), Outcome> {
        // The apiserver gives up when we do, counted from the request's arrival. What is held up on
        // its way can arrive later; see `Fence::spend`.
        let limit = self.deadline.as_secs().max(1);
        let sign = if request.uri().query().is_some_and(|it| !it.is_empty()) { '&' } else { '?' };
        let uri =
            format!("{}{sign}timeout={limit}s", request.uri().to_string().trim_end_matches('?'));
        *request.uri_mut() =
            uri.parse().map_err(|_| Outcome::Refused(format!("no address: {uri}")))?;
        let sent = self.client.request::<Value>(request);
        match tokio::time::timeout(self.deadline.unsigned_abs(), sent).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) => Err(refusal(&status)),
            Ok(Err(error)) => Err(Outcome::Unanswered(error.to_string())),
            Err(_) => Err(Outcome::Unanswered(format!("no answer within {limit} s"))),
        }
    }
}

/// How an apply is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Try {
    /// Only tried: nothing is stored.
    Dry,
    /// Another manager's field is a refusal.
    Plain,
    /// Takes `spec.mtls` over: STRICT on a policy that was adopted, PERMISSIVE that a person asks
    /// for, and nothing else.
    Forced,
}

fn requests(namespace: &Namespace) -> Request {
    Request::new(PeerAuthentication::url_path(&(), Some(namespace.as_str())))
}

/// What to do when going back from STRICT would be refused.
pub fn open_the_way_back(namespace: &Namespace) -> String {
    format!(
        "let the operator's account apply PERMISSIVE to peerauthentication/{POLICY_NAME} in {namespace}"
    )
}

fn refusal(status: &kube::core::Status) -> Outcome {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let owned = causes.into_iter().any(|cause| cause.reason == "FieldManagerConflict");
    match status.code {
        409 if owned => Outcome::Refused(status.message.clone()),
        409 => Outcome::Conflict(status.message.clone()),
        403 | 422 if status.message.contains(FENCE_POLICY) => {
            Outcome::Fenced(status.message.clone())
        }
        // Overloaded, starting or stopping: whether it was stored is not said.
        429 | 500..=599 => Outcome::Unanswered(status.message.clone()),
        _ => Outcome::Refused(status.message.clone()),
    }
}

/// An admission webhook that does not answer has the apiserver refuse with status 500.
const NO_WEBHOOK: &str = "failed calling webhook";

impl Outcome {
    /// It may be on its way yet, and be stored when nobody asks for it any more.
    pub fn may_arrive_late(&self) -> bool {
        matches!(self, Self::Unanswered(why) if !why.contains(NO_WEBHOOK))
    }

    /// One word from a closed set, for metrics labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotSent(_) => "not_sent",
            Self::Fenced(_) => "fenced",
            Self::NoFence => "no_fence",
            Self::Conflict(_) => "conflict",
            Self::NoWayBack(_) => "no_way_back",
            Self::Untried(_) => "untried",
            Self::Refused(_) => "refused",
            Self::Unanswered(_) => "unanswered",
        }
    }

    /// Why it was not stored; empty when it was.
    pub fn why(&self) -> &str {
        match self {
            Self::Done => "",
            Self::NotSent(why) => why,
            Self::NoFence => {
                "the apiserver would have taken the write of a replica that does not lead"
            }
            Self::Conflict(why)
            | Self::Fenced(why)
            | Self::NoWayBack(why)
            | Self::Untried(why)
            | Self::Refused(why)
            | Self::Unanswered(why) => why,
        }
    }

    /// What a person must know of it; nothing when the next look settles it.
    pub fn finding(&self, action: &Action) -> Option<Finding> {
        let namespace = action.namespace();
        let subject = Subject::new("PeerAuthentication", namespace, POLICY_NAME);
        let mode = action.mode();
        match self {
            Self::Done | Self::NotSent(_) | Self::Conflict(_) => None,
            Self::NoWayBack(why) => Some(
                Finding::new(
                    Code::RollbackWouldBeRefused,
                    subject,
                    format!("{namespace} stays PERMISSIVE, since going back from STRICT would be refused: {why}"),
                )
                .remedy(open_the_way_back(namespace)),
            ),
            Self::Fenced(why) => Some(
                Finding::new(
                    Code::WriteRefused,
                    subject,
                    format!("{mode} was not written in {namespace}: the fence between replicas does not let this one through: {why}"),
                )
                .at(Level::Hold)
                .remedy(format!(
                    "kubectl get meshfences,leases -A --field-selector metadata.name=meshrollout; are the CRD meshfences and the rights on it installed? by hand: kubectl meshrollout rollback {} -n {namespace}",
                    action.notes(Timestamp::UNIX_EPOCH).rollout
                )),
            ),
            Self::NoFence => Some(
                Finding::new(
                    Code::WriteRefused,
                    subject,
                    format!("{mode} was not written in {namespace}: the fence between replicas is not in force: {}", self.why()),
                )
                .at(Level::Hold)
                .remedy(format!(
                    "an apiserver that has just started, or a first install, needs half a minute to know it; later: kubectl get validatingadmissionpolicies,validatingadmissionpolicybindings {FENCE_POLICY} -o yaml: are both there, and do they name the operator's own account and namespace? to do without: fence.enabled=false"
                )),
            ),
            Self::Untried(why) => Some(
                Finding::new(
                    Code::WriteRefused,
                    subject,
                    format!("{mode} was not written in {namespace}: what is tried first got no answer: {why}"),
                )
                .remedy("see whether the apiserver, and the webhooks that look at PeerAuthentications (istiod's own), answer"),
            ),
            Self::Refused(why) | Self::Unanswered(why) => Some(
                Finding::new(
                    Code::WriteRefused,
                    subject,
                    format!("{mode} could not be written in {namespace}: {why}"),
                )
                .remedy(match action {
                    // By hand it would meet the same.
                    Action::RollBack(_) if why.contains(NO_WEBHOOK) => {
                        "bring back what that webhook calls (Istio's own: kubectl rollout restart deployment istiod -n istio-system) or delete the webhook; it is tried again all the time".into()
                    }
                    Action::RollBack(_) => {
                        format!("kubectl meshrollout rollback {} -n {namespace}", action.notes(Timestamp::UNIX_EPOCH).rollout)
                    }
                    Action::PinPermissive(_)
                    | Action::Adopt(_)
                    | Action::EnforceStrict(_)
                    | Action::Restore(_) => {
                        "see what refuses it: admission policies, quotas, the operator's rights".into()
                    }
                }),
            ),
        }
    }
}
