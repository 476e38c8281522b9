//! Follows one kind: kube's `watcher`, whose events become facts at once.

use super::Shared;
use super::kind::{Kind, place};
use super::pulse::{Pulse, listening};
use super::store::Served;
use futures::StreamExt;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// One kind's watch.
pub(super) struct Watch<K, T> {
    pub(super) kind: Kind<K, T>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) shared: Arc<Shared>,
    /// The longest silence that is not taken for a dead connection.
    pub(super) patience: Duration,
}

impl<K, T> Watch<K, T>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()> + Send + 'static,
    T: PartialEq + Send + 'static,
{
    /// Follows it for as long as it is polled.
    pub(super) async fn follow(self, client: Client) {
        if !self.kind.is_optional {
            return self.listen(client).await;
        }
        let mut changed = self.shared.changed.subscribe();
        let served = || self.shared.store().served::<K>();
        loop {
            let now = served();
            match now {
                Some(Served::Here) => {
                    self.pulse.begins();
                    tokio::select! {
                        () = self.listen(client.clone()) => {}
                        _ = changed.wait_for(|_| served() != now) => {}
                    }
                    let mut store = self.shared.store();
                    (self.kind.table)(&mut store).forget();
                    store.outdate_mesh_wide();
                    continue;
                }
                // In other versions alone: the store says so.
                Some(Served::Nowhere | Served::Otherwise) => self.pulse.rests(),
                None => {}
            }
            self.tell();
            // The sender is shared's, and lives as long as we do.
            let _ = changed.wait_for(|_| served() != now).await;
        }
    }

    async fn listen(&self, client: Client) {
        let api = Api::<K>::all(listening(client, self.pulse.clone()));
        let mut backoff = DefaultBackoff::default();
        let last_delay = Duration::from_secs(30);
        loop {
            let mut events = Box::pin(watcher(api.clone(), self.config()));
            loop {
                let next = match tokio::time::timeout(self.patience, events.next()).await {
                    Ok(Some(next)) => next,
                    // It never ends by itself.
                    Ok(None) => break,
                    // A list or a connection that hangs has no limit of its own in kube.
                    Err(_) if self.pulse.is_silent_for(self.patience) => {
                        self.pulse.is_troubled("the apiserver does not answer".into());
                        break;
                    }
                    Err(_) => continue,
                };
                let error = match next {
                    Ok(event) => {
                        self.take(event);
                        continue;
                    }
                    Err(error) => error,
                };
                let is_news = self.pulse.is_troubled(words(&error));
                if is_news && self.kind.is_optional {
                    // Nobody waits for it any longer.
                    self.tell();
                }
                let loses = loses_an_event(&error);
                if loses {
                    self.pulse.has_lost();
                }
                tokio::time::sleep(backoff.next().unwrap_or(last_delay)).await;
                if loses {
                    break;
                }
            }
        }
    }

    fn config(&self) -> watcher::Config {
        watcher::Config {
            field_selector: self.kind.fields.map(str::to_owned),
            label_selector: self.kind.labels.map(str::to_owned),
            // A list is read from the newest state: one from a lagging cache could bring back an
            // older one than we have seen.
            ..renewed(self.patience)
        }
    }

    fn take(&self, event: Event<K>) {
        // Outside the lock: reading an object takes longer than filing it.
        let (read, table) = (self.kind.read, self.kind.table);
        let filed = |object: K| (place(object.meta()), read(&object));
        let has_changed = match event {
            Event::Apply(object) => {
                let (place, fact) = filed(object);
                self.set(place, fact)
            }
            Event::Delete(object) => self.set(place(object.meta()), None),
            Event::Init => {
                table(&mut self.shared.store()).begin();
                false
            }
            Event::InitApply(object) => {
                let (place, fact) = filed(object);
                table(&mut self.shared.store()).arrive(place, fact, self.kind.share);
                false
            }
            Event::InitDone => {
                let mut store = self.shared.store();
                let touched = table(&mut store).finish();
                let is_first = !self.pulse.is_listed();
                let has_changed = is_first || !touched.is_empty();
                match self.kind.makes_namespace {
                    true => store.outdate(touched),
                    false => store.outdate_mesh_wide(),
                }
                self.pulse.is_current();
                has_changed
            }
        };
        if has_changed {
            self.tell();
        }
    }

    fn tell(&self) {
        self.shared.changed.send_modify(|count| *count += 1);
    }

    fn set(&self, place: super::table::Place, fact: Option<T>) -> bool {
        let mut store = self.shared.store();
        let namespace = place.0.clone();
        let has_changed = (self.kind.table)(&mut store).set(place, fact, self.kind.share);
        if has_changed {
            match self.kind.makes_namespace {
                true => store.outdate([namespace]),
                false => store.outdate_mesh_wide(),
            }
        }
        has_changed
    }
}

/// A watch that ends in an orderly way before it counts as dead: three such ends fit into
/// `patience`, the time after which it does.
pub(crate) fn renewed(patience: Duration) -> watcher::Config {
    let timeout = (patience / 3).as_secs().clamp(1, 290);
    // In range by the clamp.
    watcher::Config { timeout: u32::try_from(timeout).ok(), ..watcher::Config::default() }
}

/// After these, `watcher` would go on and never tell us what it could not read.
///
/// kube 5 takes a line of a watch that it cannot parse for a Status, all of whose fields are
/// optional: the error is an `Api` error that says nothing, and seldom a `SerdeError`.
fn loses_an_event(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchFailed(error) => {
            matches!(error, kube::Error::Api(_) | kube::Error::SerdeError(_))
        }
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => true,
        watcher::Error::InitialListFailed(_) | watcher::Error::WatchStartFailed(_) => false,
    }
}

fn words(error: &watcher::Error) -> String {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status,
        watcher::Error::WatchError(status) => status,
        error => return error.to_string(),
    };
    match status.code {
        // Without its definition a path leads nowhere; the answer is not even a Status.
        404 => "the apiserver does not serve this kind: is its definition installed?".to_owned(),
        0 => "an event could not be read".to_owned(),
        _ => status.message.clone(),
    }
}
