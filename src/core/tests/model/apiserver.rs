//! What the apiserver makes of a write: the fence, the precondition, and what is stored.

use crate::event::How;
use crate::mutant::Mutant;
use crate::state::{Happened, Held, Kind, State, Watched, Write};
use meshrollout_core::mode::Mode;

impl State {
    /// A write arrives. `meddled`: what stands there is not what it was decided on.
    pub(crate) fn send(&mut self, write: Write, how: How, meddled: bool, mutant: Mutant) {
        if write.stamp < self.reign && mutant != Mutant::FenceOff {
            self.happened.0 |= Happened::FENCED;
            return;
        }
        let stands = self.places[write.place].policy.is_some();
        let met = match write.kind {
            Kind::Pin => !stands,
            Kind::Adopt | Kind::Strict | Kind::Back | Kind::Delete | Kind::GiveBack => {
                stands && !meddled
            }
        };
        if !met && mutant != Mutant::PreconditionDropped {
            self.happened.0 |= Happened::CONFLICT;
            return;
        }
        self.judge(&write, how, meddled);
        self.notice_write(&write);
        self.touch(write.place);
        self.store(write);
    }

    fn store(&mut self, write: Write) {
        let (bake, inherited) = (self.wishes.bake, self.mode(write.place));
        let here = &mut self.places[write.place];
        let old = here.policy.take();
        let theirs = old.as_ref().is_some_and(|held| held.theirs);
        let before = match &old {
            Some(held) if held.ours.is_some() => held.before,
            Some(_) | None => inherited,
        };
        let held = |mode: Mode, theirs: bool| Held {
            mode,
            ours: Some(write.ours.clone()),
            theirs,
            edited: false,
            before,
        };
        here.policy = match write.kind {
            Kind::Delete => None,
            Kind::GiveBack => Some(Held { ours: None, ..held(write.mode, true) }),
            // It notes, and changes no mode.
            Kind::Adopt => Some(held(old.map_or(write.mode, |old| old.mode), theirs)),
            Kind::Pin | Kind::Strict | Kind::Back => Some(held(write.mode, theirs)),
        };
        here.harm = None;
        here.suspected = false;
        match write.kind {
            Kind::Strict => {
                here.watched = Watched::NotYet;
                here.noted = bake;
            }
            Kind::Back => here.taken_back = true,
            Kind::Pin | Kind::Adopt | Kind::Delete | Kind::GiveBack => {}
        }
    }

    /// What a write that is taken brings about.
    fn notice_write(&mut self, write: &Write) {
        let old = self.places[write.place].policy.as_ref();
        let retried = old.and_then(|held| held.ours.as_ref()?.rolled_back.as_ref()).is_some();
        let adopted = write.ours.adopted.is_some();
        self.happened.0 |= match write.kind {
            Kind::Pin => 0,
            Kind::Adopt => Happened::ADOPTED,
            Kind::Strict if retried => Happened::RETRIED,
            Kind::Strict if adopted => Happened::ADOPTED_STRICT,
            Kind::Strict if self.asks(write.place) => Happened::APPROVED_STRICT,
            Kind::Strict => 0,
            Kind::Back if write.asked_for => Happened::ASKED_BACK,
            Kind::Back => Happened::HARM_UNDONE,
            Kind::Delete => Happened::DELETED,
            Kind::GiveBack => Happened::GIVEN_BACK,
        };
    }
}
