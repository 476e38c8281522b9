//! The real `decide` in a small model: two namespaces in two stages, users who pause, resume,
//! abort and retry, clients that start and stop sending plaintext, a metrics source that comes and
//! goes, harm during the bake, and a crash after each visit's writes. Every event costs fuel, so
//! the model is finite.

use meshrollout_core::decide::{State as Standing, decide};
use meshrollout_core::ident::{Namespace, Uid};
use meshrollout_core::invariant::violations;
use meshrollout_core::mode::Mode;
use meshrollout_core::plan::{Targets, Trigger};
use meshrollout_core::policy::{Ours, RolledBack};
use meshrollout_core::progress::Progress;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::snapshot::Source;
use meshrollout_core::testing::{SHOP, World, at, seconds};
use stateright::{Checker, Model, Property};

const FUEL: u8 = 2;
const VISITS: u8 = 14;

/// The cluster and its users, as small as they can be.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct State {
    progress: Progress,
    policies: [Stored; 2],
    /// Somebody sends plaintext to the first, the second namespace.
    plaintext: [bool; 2],
    source_up: bool,
    paused: bool,
    retries: u8,
    aborts: u8,
    /// A client fails since a switch.
    harmed: [bool; 2],
    visits: u8,
    fuel: u8,
    wrong: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Stored {
    Nothing,
    Permissive,
    Strict { since: u8 },
    RolledBack { at: u8 },
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Event {
    Visit,
    /// The writes were made, then the process died: nothing was remembered.
    VisitAndCrash,
    /// Decided on what the watches say, not on a quorum read.
    VisitOnWatches,
    TogglePlaintext(usize),
    ToggleSource,
    TogglePause,
    Abort,
    Retry,
    Harm(usize),
}

/// A mistake in the shell or the gates, planted to see that the properties bite.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mutant {
    None,
    PlaintextGateOff,
    UnknownReadAsNone,
    PauseIgnored,
    EverythingIsQuorum,
    HarmIgnored,
    RetriesUnasked,
    OneBigStage,
    AbortForgotten,
}

const MUTANTS: [Mutant; 8] = [
    Mutant::PlaintextGateOff,
    Mutant::UnknownReadAsNone,
    Mutant::PauseIgnored,
    Mutant::EverythingIsQuorum,
    Mutant::HarmIgnored,
    Mutant::RetriesUnasked,
    Mutant::OneBigStage,
    Mutant::AbortForgotten,
];

struct Rollout(Mutant);

fn time(visit: u8) -> i64 {
    i64::from(visit) * 30
}

impl State {
    fn world(&self, event: Event) -> World {
        let mut world = World::shop();
        world.now = time(self.visits);
        world.progress = self.progress.clone();
        world.plan.paused = self.paused;
        for stage in &mut world.plan.stages {
            stage.soak = seconds(30);
            stage.bake = seconds(30);
        }
        let asked = |times: u8| (times > 0).then(|| times.to_string());
        world.plan.asked.retry = asked(self.retries);
        world.plan.asked.abort = asked(self.aborts);
        if event == Event::VisitOnWatches {
            world.snapshot.source = Source::Watches;
        }
        for (index, name) in SHOP.iter().enumerate() {
            let (mode, strict_since, rolled_back) = match self.policies[index] {
                Stored::Nothing => continue,
                Stored::Permissive => (Mode::Permissive, None, None),
                Stored::Strict { since } => (Mode::Strict, Some(at(time(since))), None),
                Stored::RolledBack { at: visit } => {
                    let back = RolledBack { at: at(time(visit)), because: String::new() };
                    (Mode::Permissive, None, Some(back))
                }
            };
            let ours = Ours {
                rollout: world.plan.name.clone(),
                rollout_uid: world.plan.uid.clone(),
                namespace_uid: Uid::new(*name),
                previous: Mode::Permissive,
                strict_since,
                rolled_back,
            };
            world.set_policy(name, "default", mode, Some(ours));
            if self.harmed[index] {
                world.failures(name, 2.0);
            }
        }
        if !self.source_up {
            let down = || Cause::SourceUnavailable("down".into());
            world.telemetry.callers = Reading::Unknown(down());
            world.telemetry.edges = Reading::Unknown(down());
        } else if let Some(index) = self.plaintext.iter().position(|sends| *sends) {
            world.plaintext(Some(("legacy", "batch")), SHOP[index]);
            if self.plaintext[1 - index]
                && let Reading::Known(callers) = &mut world.telemetry.callers
            {
                let mut other = callers[0].clone();
                other.destination.namespace = SHOP[1 - index].into();
                other.destination.workload = SHOP[1 - index].into();
                callers.push(other);
            }
        }
        world
    }

    fn strict(&self, index: usize) -> bool {
        matches!(self.policies[index], Stored::Strict { .. })
    }

    /// One visit. What is right is asked of the model's own truth, not of the gates.
    fn visit(&mut self, event: Event, mutant: Mutant) {
        let mut world = self.world(event);
        let truth = world.plan.clone();
        match mutant {
            Mutant::PlaintextGateOff if self.source_up => {
                world.telemetry.callers = Reading::Known(vec![]);
            }
            Mutant::UnknownReadAsNone if !self.source_up => {
                world.telemetry = World::shop().telemetry;
            }
            Mutant::PauseIgnored => world.plan.paused = false,
            Mutant::EverythingIsQuorum => world.snapshot.source = Source::Quorum,
            Mutant::HarmIgnored => world.plan.rollback = Trigger::Manual,
            Mutant::RetriesUnasked => world.plan.asked.retry = Some(self.visits.to_string()),
            Mutant::AbortForgotten => world.plan.asked.abort = None,
            Mutant::OneBigStage => {
                let names = SHOP.map(Namespace::from);
                world.plan.stages.truncate(1);
                world.plan.stages[0].targets = Targets::Named(names.into());
            }
            Mutant::None | Mutant::PlaintextGateOff | Mutant::UnknownReadAsNone => {}
        }
        let (snapshot, _) = world.look();
        let now = at(world.now);
        let decision = decide(&world.plan, &world.progress, &snapshot, now);
        if !violations(&truth, &snapshot, &decision, now).is_empty() {
            self.wrong = Some("an invariant is broken");
        }
        for action in &decision.actions {
            let index = SHOP.iter().position(|name| *name == action.namespace().as_str());
            let index = index.expect("only the shop is in the plan");
            let rolled_back =
                self.policies.iter().any(|one| matches!(one, Stored::RolledBack { .. }));
            self.policies[index] = match action.mode() {
                Mode::Permissive if self.strict(index) => Stored::RolledBack { at: self.visits },
                Mode::Permissive | Mode::Disable => Stored::Permissive,
                Mode::Strict => {
                    self.wrong = self.wrong.or(if self.plaintext[index] {
                        Some("STRICT over a client that sends plaintext")
                    } else if !self.source_up {
                        Some("STRICT while nothing can be seen")
                    } else if self.paused {
                        Some("a new step while paused")
                    } else if event == Event::VisitOnWatches {
                        Some("STRICT on stale eyes")
                    } else if rolled_back && self.retries == 0 {
                        Some("STRICT after a rollback that nobody retried")
                    } else if index == 1 && !self.strict(0) {
                        Some("the second stage before the first")
                    } else {
                        None
                    });
                    self.harmed[index] = false;
                    Stored::Strict { since: self.visits }
                }
            };
        }
        // An abort is heard at the first visit after it, and undoes what is then in flight.
        let in_flight = self.strict(0)
            && !self.strict(1)
            && decision.namespaces.values().any(|one| one.state == Standing::Watching);
        let unheard = self.aborts > 0
            && self.retries == 0
            && self.progress.requests.abort.is_none()
            && event != Event::VisitAndCrash;
        if unheard && in_flight && decision.actions.is_empty() {
            self.wrong = self.wrong.or(Some("an abort was not heard"));
        }
        // Harm is undone at once while watching; Enforced is guarded, never weakened by itself.
        let undone =
            |name: &str| decision.actions.iter().any(|action| action.namespace().as_str() == name);
        let ignored = (0..2).any(|index| {
            let state = decision.namespaces.get(&SHOP[index].into()).map(|one| one.state);
            self.harmed[index]
                && self.source_up
                && state == Some(Standing::Watching)
                && !undone(SHOP[index])
        });
        if ignored {
            self.wrong = self.wrong.or(Some("harm was seen and not undone"));
        }
        for index in 0..2 {
            self.harmed[index] &= self.strict(index);
        }
        if event != Event::VisitAndCrash {
            self.progress = decision.progress;
        }
        self.visits += 1;
    }
}

impl Model for Rollout {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            progress: Progress::default(),
            policies: [Stored::Nothing; 2],
            plaintext: [false; 2],
            source_up: true,
            paused: false,
            retries: 0,
            aborts: 0,
            harmed: [false; 2],
            visits: 0,
            fuel: FUEL,
            wrong: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Event>) {
        if state.wrong.is_some() || state.visits >= VISITS {
            return;
        }
        actions.push(Event::Visit);
        if state.fuel == 0 {
            return;
        }
        actions.extend([
            Event::VisitAndCrash,
            Event::VisitOnWatches,
            Event::TogglePlaintext(0),
            Event::TogglePlaintext(1),
            Event::ToggleSource,
            Event::TogglePause,
            Event::Abort,
            Event::Retry,
        ]);
        actions.extend((0..2).filter(|index| state.strict(*index)).map(Event::Harm));
    }

    fn next_state(&self, last: &State, event: Event) -> Option<State> {
        let mut state = last.clone();
        if event != Event::Visit {
            state.fuel -= 1;
        }
        match event {
            Event::Visit | Event::VisitAndCrash | Event::VisitOnWatches => {
                state.visit(event, self.0);
            }
            Event::TogglePlaintext(index) => state.plaintext[index] = !state.plaintext[index],
            Event::ToggleSource => state.source_up = !state.source_up,
            Event::TogglePause => state.paused = !state.paused,
            Event::Abort => state.aborts += 1,
            Event::Retry => state.retries += 1,
            Event::Harm(index) => state.harmed[index] = true,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing wrong is ever done", |_, state: &State| {
                state.wrong.is_none()
            }),
            // L1: without faults the goal is reached.
            Property::always("an undisturbed rollout is finished", |_, state: &State| {
                let undisturbed = state.fuel == FUEL && state.visits >= VISITS;
                !undisturbed || (state.strict(0) && state.strict(1))
            }),
            Property::sometimes("all is STRICT", |_, s: &State| s.strict(0) && s.strict(1)),
            Property::sometimes("harm is rolled back", |_, state: &State| {
                state.aborts == 0
                    && state.policies.iter().any(|one| matches!(one, Stored::RolledBack { .. }))
            }),
            Property::sometimes("a retry after a rollback succeeds", |_, state: &State| {
                state.retries > 0 && state.aborts > 0 && state.strict(0)
            }),
        ]
    }
}

#[test]
fn the_real_decide_does_nothing_wrong_in_any_reachable_state() {
    let checker = Rollout(Mutant::None).checker().threads(2).spawn_bfs().join();
    println!(
        "model: {} states, depth {}, {} properties",
        checker.unique_state_count(),
        checker.max_depth(),
        Rollout(Mutant::None).properties().len()
    );
    checker.assert_properties();
}

#[test]
fn every_planted_mistake_is_caught() {
    let mut caught = 0;
    for mutant in MUTANTS {
        let checker = Rollout(mutant).checker().threads(2).spawn_bfs().join();
        let found = ["nothing wrong is ever done", "an undisturbed rollout is finished"]
            .iter()
            .any(|property| checker.discovery(property).is_some());
        assert!(found, "{mutant:?} was not caught");
        caught += 1;
    }
    println!("model: {caught} of {} mutants caught", MUTANTS.len());
}
