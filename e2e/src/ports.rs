use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::Error;

// Below the range from which Linux picks ports for outgoing connections (32768 and up), so that
// a port found free is not taken by somebody's connection before its program listens.
const FIRST: u16 = 20_000;
const END: u16 = 32_000;
const BLOCK: u16 = 40;
/// A block of neighbouring ports for one cluster.
///
/// The first port of the block is held open for as long as the block is in use: that keeps other
/// harnesses off it, and the kernel frees it when the holder dies in whatever way.
pub(crate) struct Ports {
    _guard: TcpListener,
    first: u16,
    next: u16,
    end: u16,
}

impl Ports {
    pub(crate) fn reserve() -> Result<Self, Error> {
        let blocks = (END - FIRST) / BLOCK;
        // Neighbouring processes start at different blocks, so that they rarely meet; what a cluster
        // of ours named by its block may go a moment after the cluster itself.
        static LATER: AtomicU16 = AtomicU16::new(0);
        let start = u16::try_from(std::process::id() % u32::from(blocks)).unwrap_or(0)
            + LATER.fetch_add(1, Ordering::Relaxed) % blocks;
        for number in 0..blocks {
            let first = FIRST + (start + number) % blocks * BLOCK;
            if let Ok(guard) = listen(first) {
                let (first, end) = (first + 1, first + BLOCK);
                return Ok(Self { _guard: guard, first, next: first, end });
            }
        }
        Err(Error::new(format!("no free block of ports between {FIRST} and {END}")))
    }

    /// The number of the block, which nobody else on this machine has at this time.
    pub(crate) fn number(&self) -> u16 {
        (self.first - FIRST) / BLOCK
    }

    pub(crate) fn take(&mut self) -> Result<u16, Error> {
        // Round and round: what an operator of a while ago listened on is free again.
        for _ in self.first..self.end {
            let port = self.next;
            self.next = if port + 1 < self.end { port + 1 } else { self.first };
            if listen(port).is_ok() {
                return Ok(port);
            }
        }
        Err(Error::new("the block of ports is used up"))
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_reservations_never_share_a_port() {
        let (mut one, mut other) = (Ports::reserve().unwrap(), Ports::reserve().unwrap());
        let take = |ports: &mut Ports| (0..10).map(|_| ports.take().unwrap()).collect::<Vec<_>>();
        let (one, other) = (take(&mut one), take(&mut other));
        assert!(one.iter().all(|port| !other.contains(port)));
    }
}
