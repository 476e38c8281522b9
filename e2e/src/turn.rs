//! Who may start a cluster.
//!
//! Dozens of them are started by one run, and each takes a processor for some seconds. Started all
//! at once they are all late, what they are asked meanwhile is answered late, and tests fail that
//! would have passed.

use std::net::TcpListener;
use std::time::Duration;

use crate::ports::{END, listen};
use crate::{Error, until};

/// So many start at one time on this machine: one more than it has processors, since all of them
/// wait for each other for a part of it.
const TURNS: u16 = 3;
/// So long a cluster may have to wait until others have started.
const PATIENCE: Duration = Duration::from_secs(600);

/// Leave to start a cluster, until it is dropped.
pub(crate) struct Turn(#[expect(dead_code, reason = "held open")] TcpListener);

impl Turn {
    pub(crate) async fn wait() -> Result<Self, Error> {
        until("a turn to start a cluster", PATIENCE, async || Self::take()).await
    }

    /// As with a block of ports, the kernel takes it from whoever dies.
    fn take() -> Result<Self, String> {
        let free = (0..TURNS).find_map(|turn| listen(END + turn).ok());
        free.map(Self).ok_or_else(|| format!("{TURNS} others start"))
    }
}
