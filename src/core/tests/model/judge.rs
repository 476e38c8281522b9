//! What is right, by the model's own truth.

use crate::event::How;
use crate::state::{Gone, Happened, Harm, Kind, State, Write};
use crate::statement::Statement;
use meshrollout_core::decide::{self, Standing};
use meshrollout_core::mode::Mode;
use meshrollout_core::progress::Progress;
use meshrollout_core::testing::{SHOP, at};

impl State {
    /// Of a write that the apiserver is about to take.
    pub(crate) fn judge(&mut self, write: &Write, how: How, meddled: bool) {
        let late = write.stamp < self.reign || how == How::Deposed;
        let mut broken = self.broken;
        broken.unless(self.is_proven(write, how, late), Statement::S1);
        broken.unless(self.is_ours(write, meddled), Statement::S2);
        broken.unless(self.weakens_nothing(write), Statement::S3);
        broken.unless(!late, Statement::S5);
        broken.unless(self.goes_alone(write), Statement::S6);
        broken.unless(self.may_touch_after_deletion(write), Statement::S7);
        broken.unless(self.can_be_read_back(write), Statement::S8);
        broken.unless(self.spares_the_roots(write, how), Statement::S9);
        broken.unless(!self.resting && self.changes_something(write), Statement::L3);
        broken.unless(self.is_wanted(write), Statement::Word);
        self.broken = broken;
    }

    /// S1. STRICT would be no outage, has been none for a whole soak, and that was really seen; and
    /// where a person is to be asked, one has approved.
    fn is_proven(&self, write: &Write, how: How, late: bool) -> bool {
        let here = &self.places[write.place];
        let soaked = here.calm.is_some_and(|calm| self.visits - calm >= self.wishes.soak);
        write.kind != Kind::Strict
            || (here.trouble.is_none()
                && self.source_up
                && soaked
                && self.is_approved(write.place)
                && how != How::OnWatches
                && how != How::WithoutMesh
                && !late)
    }

    /// S2. Ours as we left it, or theirs as we may adopt it, or an empty place that nobody emptied.
    fn is_ours(&self, write: &Write, meddled: bool) -> bool {
        let here = &self.places[write.place];
        let ours = here.policy.as_ref().is_some_and(|held| held.ours.is_some() && !held.edited);
        let adoptable = here.policy.as_ref().is_some_and(|held| {
            held.theirs && held.ours.is_none() && held.mode == Mode::Permissive
        });
        match write.kind {
            Kind::Pin => here.policy.is_none() && !here.deleted,
            Kind::Adopt => self.wishes.adopt && adoptable && !meddled,
            Kind::Strict | Kind::Back | Kind::Delete | Kind::GiveBack => ours && !meddled,
        }
    }

    /// S3. Never DISABLE, and never weaker than before us.
    fn weakens_nothing(&self, write: &Write) -> bool {
        let held = self.places[write.place].policy.as_ref();
        let before =
            held.filter(|held| held.ours.is_some()).map_or(self.mode(write.place), |it| it.before);
        write.kind == Kind::Delete || (write.mode != Mode::Disable && write.mode >= before)
    }

    /// S6. No other stage is on its way, and none before it is undone.
    fn goes_alone(&self, write: &Write) -> bool {
        let other = 1 - write.place;
        let (here, there) = (self.stage(write.place), self.stage(other));
        let before = there.is_some() && there < here;
        let in_the_way = self.places[other].is_watched() || (before && !self.is_done(other));
        write.kind != Kind::Strict || here == there || !in_the_way
    }

    /// S7. Of a rollout that is gone only `Restore` writes, and puts back what was before it.
    fn may_touch_after_deletion(&self, write: &Write) -> bool {
        let theirs = self.places[write.place].policy.as_ref().is_some_and(|held| held.theirs);
        let then = self.inherited(write.place);
        match (self.wishes.gone, write.kind) {
            (Gone::No, Kind::Delete | Kind::GiveBack) | (Gone::Kept, _) => false,
            (Gone::No, Kind::Pin | Kind::Adopt | Kind::Strict | Kind::Back) => true,
            (Gone::Restore, Kind::Pin | Kind::Adopt | Kind::Strict) => false,
            (Gone::Restore, Kind::Delete) => !theirs && then == Mode::Permissive,
            (Gone::Restore, Kind::GiveBack) => theirs && write.mode == Mode::Permissive,
            (Gone::Restore, Kind::Back) => write.mode == Mode::Permissive,
        }
    }

    /// S8. Why, when and by whom is noted on what is written.
    fn can_be_read_back(&self, write: &Write) -> bool {
        let now = at(self.now());
        let ours = &write.ours;
        let signed = !ours.rollout_uid.as_str().is_empty();
        match write.kind {
            Kind::Pin | Kind::Adopt => signed,
            Kind::Strict => {
                signed
                    && !write.evidence.is_empty()
                    && ours.strict_since.is_some_and(|it| it <= now)
            }
            Kind::Back => {
                let back = ours.rolled_back.as_ref();
                signed && back.is_some_and(|back| !back.because.is_empty())
            }
            Kind::Delete | Kind::GiveBack => true,
        }
    }

    /// S9. A rollback where the roots could not be read is an outage undone; all else waits.
    fn spares_the_roots(&self, write: &Write, how: How) -> bool {
        let root = self.rooted && write.place == 0;
        match how {
            How::WithoutMesh => write.kind == Kind::Back,
            _ => !root,
        }
    }

    /// L3. No write says what stands there already.
    fn changes_something(&self, write: &Write) -> bool {
        let held = self.places[write.place].policy.as_ref();
        let ours = held.and_then(|held| held.ours.as_ref());
        match write.kind {
            Kind::Pin | Kind::Adopt => ours.is_none(),
            Kind::Strict => ours.is_none_or(|ours| ours.strict_since.is_none()),
            Kind::Back => ours.is_none_or(|ours| ours.strict_since.is_some()),
            Kind::Delete | Kind::GiveBack => held.is_some(),
        }
    }

    /// What a person asked is done.
    fn is_wanted(&self, write: &Write) -> bool {
        let here = &self.places[write.place];
        let in_plan = self.stage(write.place).is_some();
        let active = !self.wishes.observe;
        match write.kind {
            Kind::Pin | Kind::Adopt => {
                active && !self.wishes.paused && in_plan && !self.is_stopped()
            }
            Kind::Strict => {
                let free = !self.wishes.paused && !self.is_stopped() && !here.taken_back;
                active && free && in_plan
            }
            // What was reached is kept, unless somebody asked.
            Kind::Back if self.wishes.gone == Gone::No => {
                let mine = self.stage(write.place);
                let stage_undone =
                    (0..SHOP.len()).any(|it| self.stage(it) == mine && !self.is_kept(it));
                let asked = self.is_stopped() && (self.all_must_go_back() || stage_undone);
                active && (!self.is_kept(write.place) || asked)
            }
            Kind::Back | Kind::Delete | Kind::GiveBack => true,
        }
    }

    /// It was watched for long enough, and that is remembered.
    pub(crate) fn is_kept(&self, place: usize) -> bool {
        self.is_done(place) && !self.is_forgotten(place)
    }

    /// It is STRICT and done, and the memory of that was lost.
    fn is_forgotten(&self, place: usize) -> bool {
        let memory = self.progress.namespaces.get(&SHOP[place].into());
        let complete = memory.and_then(|it| it.bake).is_some_and(|bake| bake.complete);
        self.is_done(place) && self.places[place].is_strict() && !complete
    }

    /// S4, L2: what must be taken back in this visit is, and then nothing goes forward. It counts
    /// that it was tried.
    pub(crate) fn expect(&mut self, how: How, again: bool, writes: &[Write]) {
        let any = |kinds: &[Kind]| writes.iter().any(|write| kinds.contains(&write.kind));
        let both = any(&[Kind::Back]) && any(&[Kind::Pin, Kind::Adopt, Kind::Strict]);
        self.broken.unless(!both, Statement::Word);
        let may_not = self.wishes.observe || self.wishes.gone != Gone::No;
        for place in (0..SHOP.len()).filter(|place| self.places[*place].is_strict()) {
            let here = &self.places[place];
            let is_root = self.rooted && place == 0 && how != How::WithoutMesh;
            let memory = self.progress.namespaces.get(&SHOP[place].into());
            let strays = here.is_watched() && memory.is_some();
            if is_root && here.shows().is_some() {
                self.happened.0 |= Happened::ROOT_SPARED;
            }
            if may_not || is_root || (self.stage(place).is_none() && !strays) {
                continue;
            }
            if self.stage(place).is_none() {
                self.happened.0 |= Happened::LEFT_WATCHED;
            }
            let tried = writes.iter().any(|it| it.place == place && it.kind == Kind::Back);
            let seen = here.shows().filter(|_| self.source_up && here.is_watched());
            let harmed = match seen {
                Some(Harm::Hard) => true,
                Some(Harm::Soft) => here.suspected && !again,
                None => false,
            };
            let unaided = !self.source_up
                || here.trouble.is_some()
                || how == How::WithoutMesh
                || memory.is_none_or(|memory| memory.bake.is_none());
            let asked = self.all_must_go_back() || self.is_aborted_now(place);
            if unaided && tried {
                self.happened.0 |= Happened::BACK_UNAIDED;
            }
            let of_asking = if unaided { Statement::S4 } else { Statement::Word };
            self.broken.unless(tried || !harmed, Statement::L2);
            self.broken.unless(tried || !asked, of_asking);
        }
    }

    /// An abort is heard in this visit, and this is what it stops.
    fn is_aborted_now(&self, place: usize) -> bool {
        let known = self.progress.requests.abort.as_ref().map(|heard| &heard.value);
        let asked = self.wishes.abort.map(|asked| at(asked).to_string());
        let other = 1 - place;
        let later = self.places[other].is_watched() && self.stage(other) > self.stage(place);
        self.is_stopped()
            && !self.all_must_go_back()
            && asked.as_ref().is_some_and(|asked| known != Some(asked))
            && self.places[place].is_watched()
            && !later
            && !self.is_forgotten(other)
    }

    /// What a look finds that is worth to be seen at least once.
    pub(crate) fn notice<'a>(
        &mut self,
        progress: &Progress,
        standings: impl Iterator<Item = &'a Standing>,
    ) {
        let soaks_anew = progress.namespaces.iter().any(|(name, memory)| {
            let old = self.progress.namespaces.get(name).and_then(|memory| memory.soak);
            let new = memory.soak;
            old.zip(new).is_some_and(|(old, new)| old.terms != new.terms)
        });
        if soaks_anew {
            self.happened.0 |= Happened::SOAKS_ANEW;
        }
        for standing in standings {
            self.happened.0 |= match standing.state {
                decide::State::Exempt => Happened::FOUND_STRICT,
                decide::State::AwaitingApproval if self.wishes.approved.is_some() => {
                    Happened::APPROVAL_VOID
                }
                decide::State::AwaitingApproval => Happened::AWAITS,
                _ => 0,
            };
        }
    }
}
