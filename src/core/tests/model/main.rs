//! The real `decide` in a small model: two namespaces in two stages, and everything that may
//! happen to them. Every event but a visit costs fuel, so the model is finite; when the visits are
//! used up the faults stop, and the goal must be reached.
//!
//! [`state`] is what there is, [`event`] what can happen, [`visit`] what the operator does,
//! [`judge`] what is right, and [`mutant`] what must be caught.

mod apiserver;
mod event;
mod judge;
mod mutant;
mod state;
mod statement;
mod visit;
mod world;

use event::{Event, How};
use meshrollout_core::progress::Progress;
use mutant::Mutant;
use state::{BAKE, Gone, Happened, Harm, Layout, Place, SOAK, State, Trouble, Wishes};
use statement::Statement;
use stateright::{Checker, HasDiscoveries, Model, Property};

const FUEL: u8 = 2;
/// Visits while things happen, and visits after which the goal must be reached.
const VISITS: u8 = 10;
const END: u8 = VISITS + 14;

struct Rollout {
    mutant: Mutant,
    fuel: u8,
    theme: Theme,
}

/// Which events are tried: few of them can be tried deeper.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Theme {
    All,
    /// What people ask, and what hands and harm come between.
    Words,
    Edits,
    Leaders,
}

impl Theme {
    fn has(self, event: Event) -> bool {
        match self {
            Self::All => true,
            Self::Words => matches!(
                event,
                Event::Abort
                    | Event::Retry
                    | Event::Rollback
                    | Event::TogglePause
                    | Event::ToggleSource
                    | Event::Harm(..)
                    | Event::Delete(_)
                    | Event::Visit(How::Crash | How::Refused)
            ),
            Self::Edits => matches!(
                event,
                Event::Layout(_)
                    | Event::Soak(_)
                    | Event::Bake(_)
                    | Event::Recreate(_)
                    | Event::Delete(_)
                    | Event::Away
                    | Event::Abort
                    | Event::Visit(How::Crash)
            ),
            Self::Leaders => matches!(
                event,
                Event::Visit(How::Deposed | How::Crash | How::ReplyLost | How::AmidEdit)
                    | Event::Trouble(_, Trouble::Plaintext)
                    | Event::Mend(_)
                    | Event::Harm(0, Harm::Hard)
                    | Event::Rollback
                    | Event::Retry
                    | Event::ToggleSource
            ),
        }
    }
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
            happened: Happened::default(),
            broken: Default::default(),
        };
        let mut theirs = empty.clone();
        theirs.make(0);
        theirs.wishes.adopt = true;
        theirs.fuel = self.fuel.min(1);
        vec![empty, theirs]
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
        use Happened as Seen;
        vec![
            always::<{ Statement::S1 as u8 }>("S1 STRICT only where a whole soak has proven it"),
            always::<{ Statement::S2 as u8 }>("S2 nothing is written but what is ours or adopted"),
            always::<{ Statement::S3 as u8 }>("S3 nothing is made weaker than before us"),
            always::<{ Statement::S4 as u8 }>("S4 stepping back needs nothing but the policy"),
            always::<{ Statement::S5 as u8 }>("S5 a deposed leader's write is refused"),
            always::<{ Statement::S6 as u8 }>("S6 one stage in flight"),
            always::<{ Statement::S7 as u8 }>("S7 a deleted rollout only gives back, if asked"),
            always::<{ Statement::S8 as u8 }>("S8 the evidence of each write can be read back"),
            always::<{ Statement::S9 as u8 }>("S9 nothing is written in a root namespace"),
            Property::always("L1 when faults stop the goal is reached", |_, state: &State| {
                let over = state.mended && state.visits >= END;
                !over || state.is_at_its_goal()
            }),
            always::<{ Statement::L2 as u8 }>("L2 harm that is seen is undone"),
            always::<{ Statement::L3 as u8 }>("L3 when all is at rest nothing is written"),
            always::<{ Statement::Word as u8 }>("what a person asked is done"),
            always::<{ Statement::Guard as u8 }>("the guard before each write has nothing to do"),
            Property::sometimes("all is STRICT", |_, state: &State| {
                state.places.iter().all(Place::is_strict)
            }),
            sometimes::<{ Seen::HARM_UNDONE }>("harm is undone"),
            sometimes::<{ Seen::ASKED_BACK }>("what a person asked back is taken back"),
            sometimes::<{ Seen::RETRIED }>("a retry succeeds"),
            sometimes::<{ Seen::ADOPTED }>("a policy is adopted"),
            sometimes::<{ Seen::ADOPTED_STRICT }>("an adopted policy goes STRICT"),
            sometimes::<{ Seen::DELETED }>("a restore deletes what we made"),
            sometimes::<{ Seen::GIVEN_BACK }>("a restore gives back what was adopted"),
            sometimes::<{ Seen::LEFT_STANDING }>("a restore leaves what protects from STRICT"),
            sometimes::<{ Seen::FENCED }>("the fence refuses a write"),
            sometimes::<{ Seen::CONFLICT }>("a precondition refuses a write"),
            sometimes::<{ Seen::SOAKS_ANEW }>("an edit restarts a soak"),
            sometimes::<{ Seen::FOUND_STRICT }>("a namespace is STRICT without us"),
            sometimes::<{ Seen::LEFT_WATCHED }>("one that left the plan is watched"),
            sometimes::<{ Seen::BLIND_WATCH }>("a bake goes on blind"),
        ]
    }
}

fn always<const STATEMENT: u8>(name: &'static str) -> Property<Rollout> {
    Property::always(name, |_, state: &State| !state.broken.has(STATEMENT))
}

fn sometimes<const WHAT: u16>(name: &'static str) -> Property<Rollout> {
    Property::sometimes(name, |_, state: &State| state.happened.has(WHAT))
}

/// Explores everything, and yields the names of the properties that do not hold.
fn broken(rollout: impl Fn() -> Rollout) -> Vec<&'static str> {
    let checker = rollout().checker().threads(2);
    let checker = match rollout().mutant {
        Mutant::None => checker,
        _ => checker.finish_when(HasDiscoveries::AnyFailures),
    };
    let checker = checker.spawn_bfs().join();
    let Rollout { mutant, fuel, theme } = rollout();
    if mutant == Mutant::None {
        let states = checker.unique_state_count();
        let (depth, properties) = (checker.max_depth(), rollout().properties().len());
        println!(
            "model: {theme:?} {fuel}: {states} states, depth {depth}, {properties} properties"
        );
    }
    let properties = rollout().properties().into_iter();
    let of_interest =
        properties.filter(|it| theme == Theme::All || it.expectation.discovery_is_failure());
    let broken = of_interest.filter(|it| {
        let found = checker.discovery(it.name);
        if let (Mutant::None, true, Some(path)) =
            (mutant, it.expectation.discovery_is_failure(), &found)
        {
            println!("model: {} is broken:\n{path}", it.name);
            for (s, a) in path.clone().into_vec() {
                let held = |p: &Place| {
                    p.policy.as_ref().map_or("-".to_string(), |h| {
                        format!(
                            "{}{}{}",
                            h.mode,
                            if h.ours.as_ref().is_some_and(|o| o.rolled_back.is_some()) {
                                "(back)"
                            } else {
                                ""
                            },
                            if h.edited { "!" } else { "" }
                        )
                    })
                };
                println!(
                    "  v{} {} {:?} | {} {:?} calm {:?} tb {} | req {:?} | {:?}",
                    s.visits,
                    held(&s.places[0]),
                    s.places[0].watched,
                    held(&s.places[1]),
                    s.places[1].watched,
                    s.places.iter().map(|p| p.calm).collect::<Vec<_>>(),
                    s.places[0].taken_back,
                    s.progress.requests.retry.as_ref().map(|h| &h.at),
                    a
                );
            }
        }
        found.is_some() == it.expectation.discovery_is_failure()
    });
    of_broken(broken)
}

fn of_broken(it: impl Iterator<Item = Property<Rollout>>) -> Vec<&'static str> {
    it.map(|it| it.name).collect()
}

#[test]
fn the_real_decide_keeps_every_statement_in_any_reachable_state() {
    let all = [(Theme::All, FUEL), (Theme::Words, 3), (Theme::Edits, 3), (Theme::Leaders, 3)];
    for (theme, fuel) in all {
        let broken = broken(|| Rollout { mutant: Mutant::None, fuel, theme });
        assert!(broken.is_empty(), "{broken:?}");
    }
}

#[test]
fn every_planted_mistake_is_caught() {
    let caught = |mutant| {
        let mut fuels = 0..=FUEL;
        let broken = fuels.find_map(|fuel| {
            let names = broken(|| Rollout { mutant, fuel, theme: Theme::All });
            (!names.is_empty()).then(|| names.join("; "))
        });
        broken.inspect(|by| println!("model: {mutant:?}: {by}"))
    };
    let all: Vec<_> = Mutant::all().collect();
    let missed: Vec<_> = all.iter().filter(|mutant| caught(**mutant).is_none()).collect();
    println!("model: {} of {} mutants caught", all.len() - missed.len(), all.len());
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
