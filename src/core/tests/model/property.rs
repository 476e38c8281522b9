//! The properties: what always holds, and what sometimes happens.

use crate::state::{Happened, Place, State};
use crate::statement::Statement;
use crate::{END, Rollout};
use stateright::Property;

/// Each statement of the design, and what must happen at least once, or the model is too small.
pub(crate) fn all() -> Vec<Property<Rollout>> {
    use Happened as Seen;
    vec![
        always::<{ Statement::S1 as u8 }>(
            "S1 STRICT only where a whole soak, and a person if asked, has proven it",
        ),
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
        Property::sometimes("when faults have stopped all comes to rest", |_, state: &State| {
            state.mended && state.resting
        }),
        sometimes::<{ Seen::BACK_UNAIDED }>("a rollback is made without metrics, gates or status"),
        sometimes::<{ Seen::ROOT_SPARED }>("harm in a root namespace is left to a person"),
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
        sometimes::<{ Seen::AWAITS }>("a stage waits for a person"),
        sometimes::<{ Seen::APPROVED_STRICT }>("what a person approved goes STRICT"),
        sometimes::<{ Seen::APPROVAL_VOID }>("an approval counts for nothing"),
    ]
}
fn always<const STATEMENT: u8>(name: &'static str) -> Property<Rollout> {
    Property::always(name, |_, state: &State| !state.broken.has(STATEMENT))
}

fn sometimes<const WHAT: u32>(name: &'static str) -> Property<Rollout> {
    Property::sometimes(name, |_, state: &State| state.happened.has(WHAT))
}
