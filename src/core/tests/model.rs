//! The real `decide` in a small model: two namespaces in two stages, users who pause, resume,
//! abort and retry, one trouble for each gate that comes and goes, a metrics source that fails,
//! harm during the bake, and a crash after each visit's writes. Every event costs fuel, so the
//! model is finite.

use jiff::SignedDuration;
use meshrollout_core::client_tls::TlsMode;
use meshrollout_core::decide::{State as Standing, decide};
use meshrollout_core::gate::Gate;
use meshrollout_core::ident::{Namespace, PodRef, Uid};
use meshrollout_core::invariant::violations;
use meshrollout_core::mode::Mode;
use meshrollout_core::plan::{Targets, Trigger};
use meshrollout_core::policy::{Ours, RolledBack};
use meshrollout_core::progress::{Progress, Soak};
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::snapshot::Source;
use meshrollout_core::terms::Terms;
use meshrollout_core::testing::{SHOP, World, at, seconds};
use meshrollout_core::workload::Proxy;
use stateright::{Checker, HasDiscoveries, Model, Property};

const FUEL: u8 = 2;
const VISITS: u8 = 14;
/// One visit, six visits.
const SOAK: i64 = 30;
const BAKE: i64 = 180;

/// The cluster and its users, as small as they can be.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct State {
    progress: Progress,
    policies: [Stored; 2],
    /// What would make STRICT an outage in the first, the second namespace.
    trouble: [Option<Trouble>; 2],
    /// The last visit saw no trouble: the soak of one visit can be over.
    calm: [bool; 2],
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
    Trouble(usize, Trouble),
    Mend(usize),
    ToggleSource,
    TogglePause,
    Abort,
    Retry,
    Harm(usize),
}

/// One for each gate: only that gate can see it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Trouble {
    PodWithoutSidecar,
    Plaintext,
    PodUnseen,
    RuleTurnsTlsOff,
    OlderPolicy,
    CertificateEnds,
    ControlPlaneDown,
    NothingWouldShowHarm,
}

const TROUBLES: [Trouble; Gate::ALL.len()] = [
    Trouble::PodWithoutSidecar,
    Trouble::Plaintext,
    Trouble::PodUnseen,
    Trouble::RuleTurnsTlsOff,
    Trouble::OlderPolicy,
    Trouble::CertificateEnds,
    Trouble::ControlPlaneDown,
    Trouble::NothingWouldShowHarm,
];

/// A mistake in the shell or the gates, planted to see that the properties bite.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mutant {
    None,
    /// The gate that sees it is off, or is shown another world.
    Blind(Trouble),
    UnknownReadAsNone,
    PauseIgnored,
    EverythingIsQuorum,
    HarmIgnored,
    RetriesUnasked,
    OneBigStage,
    AbortForgotten,
    SoakForged,
    BakeForged,
}

fn mutants() -> impl Iterator<Item = Mutant> {
    TROUBLES.into_iter().map(Mutant::Blind).chain([
        Mutant::UnknownReadAsNone,
        Mutant::PauseIgnored,
        Mutant::EverythingIsQuorum,
        Mutant::HarmIgnored,
        Mutant::RetriesUnasked,
        Mutant::OneBigStage,
        Mutant::AbortForgotten,
        Mutant::SoakForged,
        Mutant::BakeForged,
    ])
}

struct Rollout(Mutant);

fn time(visit: u8) -> i64 {
    i64::from(visit) * 30
}

impl Trouble {
    fn happen(self, world: &mut World, name: &str) {
        let namespace = Namespace::from(name);
        let first = PodRef { namespace: namespace.clone(), name: format!("{name}-5d8f-00000") };
        let telemetry = &mut world.telemetry;
        match self {
            Self::PodWithoutSidecar => world.edit(name, |facts| {
                let pods = facts.workloads.values_mut().flat_map(|one| one.pods.iter_mut());
                pods.take(1).for_each(|pod| pod.proxy = Proxy::None);
            }),
            Self::Plaintext => {
                let known = telemetry.callers.known().cloned().unwrap_or_default();
                world.plaintext(Some(("legacy", "batch")), name);
                if let Reading::Known(callers) = &mut world.telemetry.callers {
                    callers.extend(known);
                }
            }
            Self::PodUnseen => {
                if let Reading::Known(presence) = &mut telemetry.presence {
                    presence.remove(&first);
                }
            }
            Self::RuleTurnsTlsOff => {
                world.rule("front", &format!("{name}.{name}.svc.cluster.local"), TlsMode::Disable);
            }
            // Of the same second as ours: the name decides.
            Self::OlderPolicy => world.set_policy(name, "a-first", Mode::Permissive, None),
            Self::CertificateEnds => {
                if let Reading::Known(all) = &mut telemetry.certificates
                    && let Some(certificate) = all.get_mut(&first)
                {
                    certificate.remaining = SignedDuration::from_mins(5);
                }
            }
            Self::ControlPlaneDown => {
                if let Reading::Known(plane) = &mut telemetry.control_plane {
                    plane.instances = 0;
                }
            }
            Self::NothingWouldShowHarm => {
                if let Reading::Known(refusals) = &mut telemetry.refusals {
                    refusals.retain(|pod, _| pod.namespace != namespace);
                }
                if let Reading::Known(edges) = &mut telemetry.edges {
                    edges.retain(|edge| edge.destination.as_ref() != Some(&namespace));
                }
            }
        }
    }
}

impl State {
    fn world(&self, event: Event, mutant: Mutant) -> World {
        let mut world = World::shop();
        world.now = time(self.visits);
        world.progress = self.progress.clone();
        world.plan.paused = self.paused;
        for stage in &mut world.plan.stages {
            stage.soak = seconds(SOAK);
            stage.bake = seconds(BAKE);
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
                adopted: None,
                strict_since,
                bake: strict_since.map(|_| seconds(BAKE)),
                rolled_back,
            };
            world.set_policy(name, "default", mode, Some(ours));
            if self.harmed[index] {
                world.failures(name, 2.0);
            }
        }
        for (index, trouble) in self.trouble.iter().enumerate() {
            if let Some(trouble) = trouble
                && mutant != Mutant::Blind(*trouble)
            {
                trouble.happen(&mut world, SHOP[index]);
            }
        }
        if !self.source_up {
            let down = || Cause::SourceUnavailable("down".into());
            world.telemetry.callers = Reading::Unknown(down());
            world.telemetry.edges = Reading::Unknown(down());
        }
        world
    }

    fn strict(&self, index: usize) -> bool {
        matches!(self.policies[index], Stored::Strict { .. })
    }

    /// One visit. What is right is asked of the model's own truth, not of the gates.
    fn visit(&mut self, event: Event, mutant: Mutant) {
        let mut world = self.world(event, mutant);
        let truth = world.plan.clone();
        match mutant {
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
            Mutant::SoakForged => {
                for memory in world.progress.namespaces.values_mut() {
                    let terms = Terms::of(&world.plan, &world.plan.stages[0]);
                    memory.soak = Some(Soak { since: at(-100), last: at(world.now), terms });
                }
            }
            Mutant::BakeForged => {
                for memory in world.progress.namespaces.values_mut() {
                    if let Some(bake) = &mut memory.bake {
                        bake.complete = true;
                    }
                }
            }
            Mutant::None | Mutant::Blind(_) | Mutant::UnknownReadAsNone => {}
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
                    let baked = |since: u8| time(self.visits) - time(since) >= BAKE;
                    self.wrong = self.wrong.or(if self.trouble[index].is_some() {
                        Some("STRICT although it would be an outage")
                    } else if !self.calm[index] {
                        Some("STRICT without a whole soak")
                    } else if !self.source_up {
                        Some("STRICT while nothing can be seen")
                    } else if self.paused {
                        Some("a new step while paused")
                    } else if event == Event::VisitOnWatches {
                        Some("STRICT on stale eyes")
                    } else if rolled_back && self.retries == 0 {
                        Some("STRICT after a rollback that nobody retried")
                    } else if index == 1
                        && !matches!(self.policies[0], Stored::Strict { since } if baked(since))
                    {
                        Some("the second stage before the first was watched")
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
                && self.trouble[index] != Some(Trouble::NothingWouldShowHarm)
                && state == Some(Standing::Watching)
                && !undone(SHOP[index])
        });
        if ignored {
            self.wrong = self.wrong.or(Some("harm was seen and not undone"));
        }
        for index in 0..2 {
            self.harmed[index] &= self.strict(index);
            self.calm[index] = self.trouble[index].is_none() && self.source_up;
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
            trouble: [None; 2],
            calm: [false; 2],
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
            Event::ToggleSource,
            Event::TogglePause,
            Event::Abort,
            Event::Retry,
        ]);
        actions.extend((0..2).filter(|index| state.strict(*index)).map(Event::Harm));
        for index in 0..2 {
            match state.trouble[index] {
                Some(_) => actions.push(Event::Mend(index)),
                // The second namespace is here for the order; one kind of trouble is enough there.
                None if index == 1 => actions.push(Event::Trouble(1, Trouble::Plaintext)),
                None => actions.extend(TROUBLES.map(|trouble| Event::Trouble(0, trouble))),
            }
        }
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
            Event::Trouble(index, trouble) => state.trouble[index] = Some(trouble),
            Event::Mend(index) => state.trouble[index] = None,
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
    let all: Vec<_> = mutants().collect();
    let missed: Vec<_> = all
        .iter()
        .filter(|mutant| {
            let rollout = Rollout(**mutant).checker().threads(2);
            let checker = rollout.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
            let properties = ["nothing wrong is ever done", "an undisturbed rollout is finished"];
            properties.iter().all(|property| checker.discovery(property).is_none())
        })
        .collect();
    println!("model: {} of {} mutants caught", all.len() - missed.len(), all.len());
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
