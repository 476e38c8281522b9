//! The real `decide` in a small model: two namespaces in two stages, and everything that may
//! happen to them. Every event but a visit costs fuel, so the model is finite; when the visits are
//! used up the faults stop, and the goal must be reached.
//!
//! [`state`] is what there is, [`event`] what can happen, [`visit`] what the operator does and
//! [`apiserver`] what becomes of it, [`judge`] what is right, [`property`] how that is asked, and
//! [`mutant`] what must be caught.

mod apiserver;
mod event;
mod judge;
mod mutant;
mod property;
mod state;
mod statement;
mod theme;
mod visit;
mod world;

use event::{Event, How};
use meshrollout_core::progress::Progress;
use mutant::Mutant;
use state::{BAKE, Gone, Layout, Place, SOAK, State, Wishes};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;
use theme::Theme;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FUEL: u8 = 2;
/// Visits while things happen, and visits after which the goal must be reached.
const VISITS: u8 = 10;
const END: u8 = VISITS + 14;

struct Rollout {
    mutant: Mutant,
    fuel: u8,
    theme: Theme,
}

impl Model for Rollout {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        let empty = State {
            progress: Progress::default(),
            places: [Place::default(), Place::default()],
            wishes: Wishes {
                layout: Layout::OneEach,
                soak: SOAK,
                bake: BAKE,
                observe: false,
                paused: false,
                adopt: false,
                abort: None,
                retry: None,
                rollback: None,
                asks: self.theme == Theme::Approvals,
                approved: None,
                abort_is_void: false,
                gone: Gone::No,
            },
            source_up: true,
            mesh_strict: false,
            rooted: false,
            away: false,
            soaked: SOAK,
            reign: 0,
            late: None,
            visits: 0,
            fuel: self.fuel,
            mended: false,
            resting: false,
            happened: Default::default(),
            broken: Default::default(),
        };
        let mut theirs = empty.clone();
        theirs.make(0);
        theirs.wishes.adopt = true;
        match self.theme {
            Theme::All => vec![empty, theirs],
            Theme::Words | Theme::Edits | Theme::Leaders | Theme::Approvals | Theme::Harm => {
                vec![empty]
            }
        }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Event>) {
        let over = match state.mended {
            true => state.visits >= END || (state.resting && state.is_at_its_goal()),
            false => state.wishes.gone == Gone::Kept && state.resting,
        };
        if over || !state.broken.is_empty() {
            return;
        }
        if !state.mended && state.visits >= VISITS {
            actions.push(Event::FaultsStop);
            return;
        }
        actions.push(Event::Visit(How::Plain));
        if state.late.is_some() {
            actions.push(Event::Arrive);
        }
        if state.fuel > 0 {
            actions.extend(state.events().into_iter().filter(|event| self.theme.has(*event)));
        }
    }

    fn next_state(&self, last: &State, event: Event) -> Option<State> {
        last.after(event, self.mutant)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        property::all()
    }
}

/// What an exploration has shown.
struct Shown {
    /// The properties that fail.
    failures: Vec<&'static str>,
    /// What happened at least once.
    happened: BTreeSet<&'static str>,
}

/// Explores everything, or all until a mutant is caught.
fn explored(mutant: Mutant, theme: Theme, fuel: u8) -> Shown {
    let checker = Rollout { mutant, theme, fuel }.checker().threads(2);
    let checker = match mutant {
        Mutant::None => checker,
        _ => checker.finish_when(HasDiscoveries::AnyFailures),
    };
    let checker = checker.spawn_bfs().join();
    let properties = property::all();
    if mutant == Mutant::None {
        println!(
            "model: {theme:?}: {} states, depth {}, {} properties",
            checker.unique_state_count(),
            checker.max_depth(),
            properties.len()
        );
    }
    let mut shown = Shown { failures: vec![], happened: BTreeSet::new() };
    for property in properties {
        let name = property.name;
        let Some(path) = checker.discovery(name) else { continue };
        if property.expectation.discovery_is_failure() {
            if mutant == Mutant::None {
                println!("model: {name}: not so after {:?}", path.into_actions());
            }
            shown.failures.push(name);
        } else {
            shown.happened.insert(name);
        }
    }
    shown
}

#[test]
fn the_real_decide_keeps_every_statement_in_any_reachable_state() {
    let mut happened = BTreeSet::new();
    for (theme, fuel) in [
        (Theme::All, FUEL),
        (Theme::Words, 3),
        (Theme::Edits, 3),
        (Theme::Leaders, 3),
        (Theme::Approvals, 3),
    ] {
        let shown = explored(Mutant::None, theme, fuel);
        assert_eq!(shown.failures, [""; 0], "{theme:?}");
        happened.extend(shown.happened);
    }
    let sometimes =
        property::all().into_iter().filter(|one| !one.expectation.discovery_is_failure());
    let never: Vec<_> =
        sometimes.map(|one| one.name).filter(|name| !happened.contains(name)).collect();
    assert_eq!(never, [""; 0], "the model is too small: this never happens");
}

#[test]
fn every_planted_mistake_is_caught() {
    let all: Vec<_> = Mutant::all().collect();
    let mut missed = vec![];
    for mutant in &all {
        let by = (0..=FUEL)
            .map(|fuel| explored(*mutant, mutant.theme(), fuel).failures)
            .find(|failures| !failures.is_empty());
        match by {
            Some(by) => println!("model: {mutant:?}: {}", by.join("; ")),
            None => missed.push(mutant),
        }
    }
    println!("model: {} of {} mutants caught", all.len() - missed.len(), all.len());
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
