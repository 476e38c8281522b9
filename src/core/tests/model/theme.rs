//! Which events are tried together: few of them can be tried deeper.

use crate::event::{Event, How};
use crate::state::{Harm, Trouble};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Theme {
    /// Everything.
    All,
    /// What people ask, and what hands and harm come between.
    Words,
    /// What is asked for, changed in mid-run.
    Edits,
    /// Writes that come late, twice or not at all.
    Leaders,
    /// A stage for which a person is asked.
    Approvals,
    /// Harm, and what hides it or stands in the way back. All of it is in [`Theme::All`], to the same
    /// depth: here mistakes are looked for that are far from the beginning.
    Harm,
}

impl Theme {
    /// Whether it tries this event.
    pub(crate) fn has(self, event: Event) -> bool {
        match self {
            Self::All => true,
            Self::Words => matches!(
                event,
                Event::Abort
                    | Event::Retry
                    | Event::Rollback
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
                    | Event::Visit(How::Crash)
            ),
            Self::Approvals => matches!(
                event,
                Event::Approve(_)
                    | Event::Withdraw
                    | Event::Layout(_)
                    | Event::Soak(_)
                    | Event::Bake(_)
                    | Event::Trouble(_, Trouble::Plaintext)
                    | Event::Mend(_)
                    | Event::Harm(0, Harm::Hard)
                    | Event::Visit(How::Crash | How::OnWatches | How::ReplyLost)
            ),
            Self::Harm => matches!(
                event,
                Event::Harm(..)
                    | Event::ToggleSource
                    | Event::Bake(_)
                    | Event::Layout(_)
                    | Event::TogglePause
                    | Event::Away
                    | Event::Visit(How::WithoutMesh)
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
