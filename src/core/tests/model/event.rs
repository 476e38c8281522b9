//! What can happen, and what it changes besides what the operator does.

use crate::mutant::Mutant;
use crate::state::{
    Approved, BAKE, GAP, Gone, Harm, Held, INTERVAL, Layout, Place, SOAK, State, Trouble,
};
use meshrollout_core::mode::Mode;
use meshrollout_core::testing::at;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Event {
    Visit(How),
    /// The write of a deposed leader reaches the apiserver.
    Arrive,
    /// Nothing was visited for longer than a soak may pause.
    Away,
    Trouble(usize, Trouble),
    Mend(usize),
    ToggleSource,
    Harm(usize, Harm),
    /// Somebody makes the whole mesh STRICT.
    MeshStrict,
    /// The first namespace becomes a root of the mesh.
    Root,
    /// Another hand gives the policy the other mode, makes one, deletes it.
    Edit(usize),
    Make(usize),
    Delete(usize),
    /// The namespace is deleted and made again; a backup may bring its policy back.
    Recreate(usize),
    FromBackup(usize),
    Layout(Layout),
    Soak(u8),
    Bake(u8),
    ToggleObserve,
    TogglePause,
    Abort,
    Retry,
    Rollback,
    /// A person approves the plan as it stands, for one stage, or takes the approval back.
    Approve(usize),
    Withdraw,
    /// The rollout is deleted.
    Remove(Gone),
    /// Whatever is wrong is put right, and a retry asked for; from now on nothing but visits.
    FaultsStop,
}

/// How a visit goes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum How {
    Plain,
    /// The writes were made, then the process died: nothing was remembered.
    Crash,
    /// Decided on what the watches say, not on a quorum read.
    OnWatches,
    /// The mesh's configuration could not be read.
    WithoutMesh,
    /// Written, but nobody hears so: it looks again at once.
    ReplyLost,
    /// The apiserver refuses every write.
    Refused,
    /// Another hand comes between the read and the write.
    AmidEdit,
    AmidDelete,
    /// Another leads before the write is sent; it finds the status of the visit before.
    Deposed,
}

impl How {
    /// Without a write it is no different from another visit.
    pub(crate) fn needs_a_write(self) -> bool {
        match self {
            Self::ReplyLost | Self::Refused | Self::AmidEdit | Self::AmidDelete | Self::Deposed => {
                true
            }
            Self::Plain | Self::Crash | Self::OnWatches | Self::WithoutMesh => false,
        }
    }
}

impl State {
    /// The events that can happen now and cost fuel.
    pub(crate) fn events(&self) -> Vec<Event> {
        use Event::{Bake, Delete, Edit, Layout as Arrange, Make, Remove, Soak, Visit};
        let mut all: Vec<_> = [
            How::Crash,
            How::OnWatches,
            How::WithoutMesh,
            How::ReplyLost,
            How::Refused,
            How::AmidEdit,
            How::AmidDelete,
        ]
        .map(Visit)
        .into();
        if self.late.is_none() {
            all.push(Visit(How::Deposed));
        }
        for (index, place) in self.places.iter().enumerate() {
            if place.policy.is_some() {
                all.extend([Edit(index), Delete(index)]);
                if index == 0 {
                    all.extend([Event::Recreate(index), Event::FromBackup(index)]);
                }
            } else if index == 0 {
                all.push(Make(index));
            }
            if place.is_strict() && place.harm.is_none() && self.wishes.gone == Gone::No {
                all.extend([Harm::Hard, Harm::Soft].map(|harm| Event::Harm(index, harm)));
            }
        }
        if !self.mesh_strict {
            all.push(Event::MeshStrict);
        }
        if !self.rooted {
            all.push(Event::Root);
        }
        if self.wishes.gone != Gone::No {
            return all;
        }
        for (index, place) in self.places.iter().enumerate() {
            match place.trouble {
                Some(_) => all.push(Event::Mend(index)),
                // The second namespace is here for the order; one kind of trouble is enough there.
                None if index == 1 => all.push(Event::Trouble(1, Trouble::Plaintext)),
                None => all.extend(Trouble::ALL.map(|trouble| Event::Trouble(0, trouble))),
            }
        }
        all.extend([
            Event::Away,
            Event::ToggleSource,
            Event::ToggleObserve,
            Event::TogglePause,
            Event::Abort,
            Event::Retry,
            Event::Rollback,
            Remove(Gone::Kept),
            Remove(Gone::Restore),
        ]);
        if self.wishes.asks {
            all.extend((0..=self.wishes.layout.last()).map(Event::Approve));
        }
        if self.wishes.approved.is_some_and(|one| !one.withdrawn) {
            all.push(Event::Withdraw);
        }
        match self.wishes.layout {
            Layout::OneEach => {
                all.extend([Layout::Swapped, Layout::Merged, Layout::Left].map(Arrange));
            }
            Layout::Swapped | Layout::Merged | Layout::Left => all.push(Arrange(Layout::OneEach)),
        }
        match self.wishes.soak {
            SOAK => all.extend([Soak(0), Soak(SOAK + 1)]),
            _ => all.push(Soak(SOAK)),
        }
        match self.wishes.bake {
            BAKE => all.extend([Bake(0), Bake(BAKE + 1)]),
            _ => all.push(Bake(BAKE)),
        }
        all
    }

    /// What comes of `event`; `None` where it would be no different from another.
    pub(crate) fn after(&self, event: Event, mutant: Mutant) -> Option<Self> {
        let mut state = self.clone();
        state.happened = Default::default();
        if event != Event::Visit(How::Plain) {
            state.resting = false;
        }
        match event {
            Event::Visit(How::Plain) | Event::Arrive | Event::FaultsStop => {}
            _ => state.fuel -= 1,
        }
        let words = state.words();
        let asked = Some(state.now() - INTERVAL + 2 * i64::from(6 - state.fuel));
        let wishes = &mut state.wishes;
        match event {
            Event::Visit(how) => return state.visit(how, mutant).then_some(state),
            Event::Arrive => state.arrive(mutant),
            Event::Away => {
                state.visits += GAP;
                state.away = true;
                state.places.iter_mut().for_each(|place| place.calm = None);
            }
            Event::Trouble(place, trouble) => state.places[place].trouble = Some(trouble),
            Event::Mend(place) => state.places[place].trouble = None,
            Event::ToggleSource => state.source_up = !state.source_up,
            Event::Harm(place, harm) => state.places[place].harm = Some(harm),
            Event::MeshStrict => state.mesh_strict = true,
            Event::Root => state.rooted = true,
            Event::Edit(place) => state.edit(place),
            Event::Delete(place) => state.delete(place),
            Event::Make(place) => state.make(place),
            Event::Recreate(place) => state.recreate(place, false),
            Event::FromBackup(place) => state.recreate(place, true),
            Event::Layout(layout) => wishes.layout = layout,
            Event::Soak(soak) => wishes.soak = soak,
            Event::Bake(bake) => wishes.bake = bake,
            Event::ToggleObserve => wishes.observe = !wishes.observe,
            Event::TogglePause => wishes.paused = !wishes.paused,
            Event::Abort => {
                wishes.abort = asked;
                wishes.abort_is_void = false;
            }
            Event::Retry => state.retry(asked),
            Event::Rollback => wishes.rollback = asked,
            Event::Approve(stage) => {
                wishes.approved = Some(Approved { stage, words, withdrawn: false });
            }
            Event::Withdraw => {
                wishes.approved.iter_mut().for_each(|one| one.withdrawn = true);
            }
            Event::Remove(gone) => wishes.gone = gone,
            Event::FaultsStop => state.mend(),
        }
        Some(state)
    }

    /// Another hand gives the policy the other mode.
    pub(crate) fn edit(&mut self, place: usize) {
        self.touch(place);
        let uid = self.uid(place);
        if let Some(held) = &mut self.places[place].policy {
            held.mode = match held.mode {
                Mode::Strict => Mode::Permissive,
                Mode::Permissive | Mode::Disable => Mode::Strict,
            };
            let known = held.ours.as_ref().is_some_and(|ours| ours.namespace_uid == uid);
            held.edited = held.ours.is_some() && !(held.edited && known);
        }
    }

    /// Another hand deletes the policy. What nobody had seen STRICT is no more than a pin, and a
    /// retry that comes to the ears with it may be meant for it.
    pub(crate) fn delete(&mut self, place: usize) {
        self.touch(place);
        let heard = self.progress.requests.retry.as_ref().map(|heard| heard.value.clone());
        let retried = heard != self.wishes.retry.map(|asked| at(asked).to_string());
        let here = &mut self.places[place];
        let ours = here.policy.take().and_then(|held| held.ours);
        here.harm = None;
        // A mark that goes before anybody has noted it is gone for everybody.
        here.taken_back &= here.seen;
        here.deleted |= here.seen
            && !retried
            && ours.is_some_and(|ours| ours.strict_since.is_some() || ours.rolled_back.is_some());
    }

    /// Another hand makes a policy.
    pub(crate) fn make(&mut self, place: usize) {
        self.touch(place);
        let before = self.mode(place);
        self.places[place].policy =
            Some(Held { mode: Mode::Permissive, ours: None, theirs: true, edited: false, before });
    }

    /// Whatever a backup brings back is not ours any more, whatever is noted on it.
    fn recreate(&mut self, place: usize, from_backup: bool) {
        self.touch(place);
        let here = &mut self.places[place];
        let (age, trouble) = (here.age + 1, here.trouble);
        let policy = here.policy.take().filter(|_| from_backup);
        let policy = policy.map(|held| Held { edited: held.ours.is_some(), ..held });
        *here = Place { age, trouble, policy, ..Place::default() };
    }

    /// What stands there is not what was read before.
    pub(crate) fn touch(&mut self, place: usize) {
        if let Some(late) = &mut self.late {
            late.outdated |= late.write.place == place;
        }
    }

    fn retry(&mut self, asked: Option<i64>) {
        self.wishes.retry = asked;
        for place in &mut self.places {
            if place.taken_back {
                place.taken_back = false;
                place.calm = None;
            }
            place.deleted = false;
            place.seen &= place.is_strict();
        }
    }

    /// What is left are the people's stages and what the operator did to the cluster.
    fn mend(&mut self) {
        let changed = |place: &Place| place.policy.as_ref().is_none_or(|held| held.edited);
        let waits = |place: &Place| place.taken_back || place.deleted || changed(place);
        let waits = self.visits > 0 && (self.is_stopped() || self.places.iter().any(waits));
        self.mended = true;
        self.fuel = 0;
        self.source_up = true;
        self.rooted = false;
        self.late = None;
        for place in &mut self.places {
            place.trouble = None;
            place.harm = None;
            let adopt = self.wishes.adopt;
            place.policy = place.policy.take().filter(|held| {
                !held.edited && (held.ours.is_some() || (adopt && held.mode == Mode::Permissive))
            });
        }
        let wishes = &mut self.wishes;
        wishes.paused = false;
        wishes.observe = false;
        wishes.soak = SOAK;
        wishes.bake = BAKE;
        let (stage, words) = (wishes.layout.last(), self.words());
        if self.wishes.asks {
            self.wishes.approved = Some(Approved { stage, words, withdrawn: false });
        }
        if waits {
            self.retry(Some(self.now() - 1));
        }
    }
}
