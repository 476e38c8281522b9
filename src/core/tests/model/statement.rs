//! The safety statements by name, and which of them a state has broken.

/// A statement of the design, each a property of the model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Statement {
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
    S7,
    S8,
    S9,
    L2,
    L3,
    /// What a person asked is done: pause, observe, stop, no retry unasked.
    Word,
    /// The invariants that are asked before each write have nothing to refuse.
    Guard,
}

/// A set of statements.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Broken(u16);

impl Broken {
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn has(self, statement: u8) -> bool {
        self.0 & (1 << statement) != 0
    }

    /// The statement is broken unless it holds.
    pub(crate) fn unless(&mut self, holds: bool, statement: Statement) {
        if !holds {
            self.0 |= 1 << statement as u8;
        }
    }
}
