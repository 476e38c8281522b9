//! One visit of the operator: it looks, lets the real core decide, writes, and remembers.

use crate::event::How;
use crate::mutant::Mutant;
use crate::state::{Gone, Happened, Harm, Kind, Late, State, Watched, Wishes, Write};
use crate::statement::Statement;
use crate::world::planned;
use meshrollout_core::action::Action;
use meshrollout_core::finding::Level;
use meshrollout_core::ident::Namespace;
use meshrollout_core::invariant::violations;
use meshrollout_core::progress::Progress;
use meshrollout_core::restore::{Restoration, restore};
use meshrollout_core::testing::{SHOP, World, at};

/// What came of looking.
struct Looked {
    writes: Vec<Write>,
    progress: Progress,
    guarded: bool,
}

impl State {
    /// `false` where the visit is no different from another.
    pub(crate) fn visit(&mut self, how: How, mutant: Mutant) -> bool {
        let different = self.look(how, false, mutant)
            && (how != How::ReplyLost || self.look(How::Plain, true, mutant));
        self.visits += 1;
        self.away = false;
        different
    }

    fn look(&mut self, how: How, again: bool, mutant: Mutant) -> bool {
        let (soaked, calm) = (self.soaked, self.places.each_ref().map(|place| place.calm));
        self.time_passes(how, u8::from(!again));
        let Looked { writes, progress, guarded } = self.decided(how, mutant);
        let wrote = !writes.is_empty();
        if how.needs_a_write() && !wrote {
            return false;
        }
        let stood = self.stood();
        self.broken.unless(guarded, Statement::Guard);
        self.hear();
        self.expect(how, again, &writes);
        match how {
            How::Refused => self.happened.0 |= Happened::CONFLICT,
            How::Deposed => {
                let strict = writes.iter().position(|write| write.kind == Kind::Strict);
                let write = writes.into_iter().nth(strict.unwrap_or(0));
                self.late = write.map(|write| Late { write, outdated: false });
                self.reign += u8::from(mutant != Mutant::EpochNotRaised);
            }
            How::AmidEdit | How::AmidDelete => self.meddle(how, writes, mutant),
            How::Plain | How::Crash | How::OnWatches | How::WithoutMesh | How::ReplyLost => {
                for write in writes {
                    self.send(write, how, false, mutant);
                }
            }
        }
        match how {
            How::Crash | How::Deposed => self.forget(soaked, calm),
            _ => self.remember(progress, stood, mutant),
        }
        self.resting = how == How::Plain && !wrote && self.is_at_rest();
        true
    }

    /// Whether each policy of ours is STRICT, or was taken back; nothing where that is not seen.
    fn stood(&self) -> [Option<bool>; SHOP.len()] {
        let stood = |place: usize| {
            let here = &self.places[place];
            if self.stage(place).is_none() && !here.is_watched() {
                return Some(false);
            }
            let ours = here.policy.as_ref().filter(|held| !held.edited)?.ours.as_ref()?;
            Some(ours.strict_since.is_some() || (ours.rolled_back.is_some() && here.taken_back))
        };
        [stood(0), stood(1)]
    }

    fn remember(&mut self, progress: Progress, stood: [Option<bool>; SHOP.len()], mutant: Mutant) {
        self.progress = mutant.keeps(self, progress);
        for (place, stood) in self.places.iter_mut().zip(stood) {
            place.seen = stood.unwrap_or(place.seen);
        }
        // Blind eyes neither suspect nor acquit.
        for place in self.places.iter_mut().filter(|_| self.source_up) {
            place.suspected = place.is_strict() && place.shows() == Some(Harm::Soft);
        }
    }

    /// What breaks a soak and is not remembered is a gap, and a soak bears a short one.
    fn forget(&mut self, soaked: u8, calm: [Option<u8>; SHOP.len()]) {
        self.soaked = soaked;
        for (place, calm) in self.places.iter_mut().zip(calm) {
            place.calm = calm.or(place.calm);
        }
    }

    /// Another hand comes between the read and the write.
    fn meddle(&mut self, how: How, writes: Vec<Write>, mutant: Mutant) {
        let Some(place) = writes.first().map(|write| write.place) else { return };
        match how {
            _ if self.places[place].policy.is_none() => self.make(place),
            How::AmidEdit => self.edit(place),
            _ => self.delete(place),
        }
        for write in writes {
            let meddled = write.place == place;
            self.send(write, how, meddled, mutant);
        }
    }

    /// The write of a deposed leader arrives.
    pub(crate) fn arrive(&mut self, mutant: Mutant) {
        if let Some(Late { write, outdated }) = self.late.take() {
            self.send(write, How::Deposed, outdated, mutant);
        }
    }

    /// What the truth of soaks and bakes learns from one more visit.
    fn time_passes(&mut self, how: How, intervals: u8) {
        let (visit, source_up, away) = (self.visits, self.source_up, self.away);
        let edited = std::mem::replace(&mut self.soaked, self.wishes.soak) != self.wishes.soak;
        for index in 0..SHOP.len() {
            let planned = planned(self, index);
            let place = &mut self.places[index];
            // Whoever leaves the plan and comes back begins anew.
            place.deleted &= planned.is_some();
            let quiet = place.trouble.is_none() && source_up && how != How::WithoutMesh;
            place.calm = place.calm.filter(|_| !edited).or(Some(visit)).filter(|_| quiet);
            let ours = place.policy.as_ref().and_then(|held| held.ours.as_ref());
            if ours.is_none_or(|ours| ours.strict_since.is_none()) {
                continue;
            }
            let harmed = source_up && place.shows().is_some();
            place.watched = match place.watched {
                Watched::NotYet => Watched::For(0),
                Watched::For(time) if source_up && !harmed && !away => {
                    Watched::For(time + intervals)
                }
                other => other,
            };
            let needed = planned.unwrap_or_default().max(place.noted);
            if matches!(place.watched, Watched::For(time) if time >= needed) && !harmed {
                place.watched = Watched::Enough;
            }
            if !source_up && place.is_watched() {
                self.happened.0 |= Happened::BLIND_WATCH;
            }
        }
    }

    fn decided(&mut self, how: How, mutant: Mutant) -> Looked {
        let mut world = self.world(how, mutant.hidden());
        mutant.shows(self, how, &mut world);
        let (snapshot, decision) = world.look();
        let gone = self.wishes.gone;
        if gone == Gone::Restore || (gone == Gone::Kept && mutant == Mutant::RestoresUnasked) {
            let give = |name: &&str| match restore(&world.plan, &snapshot, &Namespace::from(*name))
            {
                Restoration::Do(action) => Some(self.reified(&action, &world)),
                Restoration::Leave(_) | Restoration::Wait(_) | Restoration::Nothing => None,
            };
            let mut writes: Vec<_> = SHOP.iter().filter_map(give).collect();
            mutant.sends(self, how, &mut writes);
            if writes.is_empty() && self.places.iter().any(|place| place.policy.is_some()) {
                self.happened.0 |= Happened::LEFT_STANDING;
            }
            return Looked { writes, progress: self.progress.clone(), guarded: true };
        }
        if gone == Gone::Kept {
            return Looked { writes: vec![], progress: self.progress.clone(), guarded: true };
        }
        let guarded = violations(&world.plan, &snapshot, &decision, at(world.now)).is_empty();
        let mut writes: Vec<_> =
            decision.actions.iter().map(|action| self.reified(action, &world)).collect();
        mutant.sends(self, how, &mut writes);
        self.notice(&decision.progress, decision.namespaces.values());
        Looked { writes, progress: decision.progress, guarded }
    }

    /// The write that an action becomes.
    fn reified(&self, action: &Action, world: &World) -> Write {
        let place = SHOP.iter().position(|name| *name == action.namespace().as_str());
        let place = place.expect("only the shop is in the plan");
        let (kind, evidence) = match action {
            Action::PinPermissive(_) => (Kind::Pin, ""),
            Action::Adopt(_) => (Kind::Adopt, ""),
            Action::EnforceStrict(clearance) => (Kind::Strict, clearance.evidence()),
            Action::RollBack(_) => (Kind::Back, ""),
            Action::Restore(restore) if restore.deletes() => (Kind::Delete, ""),
            Action::Restore(_) => (Kind::GiveBack, ""),
        };
        let mut ours = action.notes(at(world.now));
        // That a reason is there counts, not which.
        if let Some(back) = &mut ours.rolled_back {
            back.because.truncate(1);
        }
        let asked_for =
            matches!(action, Action::RollBack(back) if back.because.level == Level::Inform);
        Write {
            place,
            kind,
            mode: action.mode(),
            ours,
            evidence: evidence.chars().take(1).collect(),
            asked_for,
            stamp: self.reign,
        }
    }

    /// An abort that is heard when nothing is left to do stops nothing.
    fn hear(&mut self) {
        let known = self.progress.requests.abort.as_ref().map(|heard| heard.value.clone());
        let Wishes { abort: Some(asked), .. } = self.wishes else { return };
        if known != Some(at(asked).to_string()) {
            let idle = |place: usize| match self.stage(place) {
                Some(_) => self.is_kept(place),
                None => !self.places[place].is_watched(),
            };
            self.wishes.abort_is_void = (0..SHOP.len()).all(idle);
        }
    }

    /// Nothing is on its way: whatever is not at its goal waits for a person.
    fn is_at_rest(&self) -> bool {
        let gone = self.wishes.gone != Gone::No;
        (gone && self.is_at_its_goal())
            || (0..SHOP.len()).all(|place| {
                let here = &self.places[place];
                match self.stage(place) {
                    Some(_) => {
                        self.is_kept(place)
                            || (here.taken_back && here.policy.is_some())
                            || (here.is_pinned() && !self.is_approved(place))
                    }
                    None => !here.is_watched(),
                }
            })
    }
}
