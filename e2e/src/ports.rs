use std::net::{Ipv4Addr, TcpListener};

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
    next: u16,
    end: u16,
}

impl Ports {
    pub(crate) fn reserve() -> Result<Self, Error> {
        let blocks = (END - FIRST) / BLOCK;
        // Neighbouring processes start at different blocks, so that they rarely meet.
        let start = u16::try_from(std::process::id() % u32::from(blocks)).unwrap_or(0);
        for number in 0..blocks {
            let first = FIRST + (start + number) % blocks * BLOCK;
            if let Ok(guard) = listen(first) {
                return Ok(Self { _guard: guard, next: first + 1, end: first + BLOCK });
            }
        }
        Err(Error::new(format!("no free block of ports between {FIRST} and {END}")))
    }

    pub(crate) fn take(&mut self) -> Result<u16, Error> {
        while self.next < self.end {
            let port = self.next;
            self.next += 1;
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
