//! Free ports on loopback.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

/// Below Linux's ephemeral range (32768 on), so that no outgoing connection takes the port of a node that is down.
const RANGE: std::ops::Range<u32> = 13_000..32_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port that nothing listens on now, and whose two lower neighbours are free too: a group listens on its port
/// and on port − 2. No port is given out twice by one process.
pub fn free() -> Result<u16> {
    let span = (RANGE.end - RANGE.start) / 4;
    // Test processes that run side by side start at different places.
    let seed = std::process::id().wrapping_mul(2_654_435_761) % span;
    for _ in 0..span {
        let slot = (seed + NEXT.fetch_add(1, Ordering::Relaxed)) % span;
        let port = (RANGE.start + slot * 4 + 3) as u16;
        if (port - 2..=port).all(is_free) {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", RANGE.start, RANGE.end)
}

/// Whether a listener could be opened on any address.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_apart() {
        let mut ports: Vec<u16> = (0..20).map(|_| free().unwrap()).collect();
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[1] - pair[0] >= 4), "{ports:?}");
        // A process that another test starts has the listener of the look before until it is another program.
        let are_free = || Ok(ports.iter().all(|&port| is_free(port) && is_free(port - 2)));
        crate::wait::until_true("ports that are free", std::time::Duration::from_secs(20), are_free).unwrap();
    }

    #[test]
    fn a_port_in_use_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
