//! Whether the machine stood still: its processors, which a host may take away, or its disk. What a test of times says of such
//! a while is said of the machine.
//!
//! A thread that asks for next to nothing gets its turn within milliseconds also where dozens want to run: half a second is no
//! load that a test has made. The disk may be busy with what tests write; those whose bounds count run alone or with one other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What counts: less than the shortest bound of a test of times.
pub(crate) const STALL_MIN: Duration = Duration::from_millis(500);
const LOOK_AT_CLOCK: Duration = Duration::from_millis(10);
const LOOK_AT_DISK: Duration = Duration::from_millis(200);

/// A while in which nothing went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stall {
    pub(crate) what: &'static str,
    pub(crate) ended: Instant,
    pub(crate) took: Duration,
}

impl std::fmt::Display for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} stood still for {:?}", self.what, self.took)
    }
}

/// Looks all the time, until it is dropped.
pub(crate) struct Stalls {
    seen: Arc<Mutex<Vec<Stall>>>,
    /// Closed, they end the threads.
    _running: Vec<Sender<()>>,
}

impl Stalls {
    /// `dir`: on the disk that is looked at.
    pub(crate) fn watch(dir: &Path) -> io::Result<Stalls> {
        // The name is nobody's: the file goes with the process.
        let path = dir.join(format!("stalls-{}", std::process::id()));
        let page = [7; 4096];
        let file = File::options().write(true).create(true).truncate(true).open(&path)?;
        file.write_all_at(&page, 0)?;
        file.sync_all()?;
        std::fs::remove_file(&path)?;
        let seen = Arc::default();
        let clock = look(&seen, "the processors", LOOK_AT_CLOCK, || ());
        let disk = look(&seen, "the disk", LOOK_AT_DISK, move || {
            // An error here is nobody's failure.
            let _ = file.write_all_at(&page, 0).and_then(|()| file.sync_data());
        });
        Ok(Stalls { seen, _running: vec![clock, disk] })
    }

    /// Looks at nothing.
    #[cfg(test)]
    pub(crate) fn none() -> Stalls {
        Stalls { seen: Arc::default(), _running: Vec::new() }
    }

    #[cfg(test)]
    pub(crate) fn note(&self, what: &'static str, took: Duration) {
        self.seen.lock().unwrap().push(Stall { what, ended: Instant::now(), took });
    }

    /// The longest that ended at or after `since`.
    pub(crate) fn longest_since(&self, since: Instant) -> Option<Stall> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|stall| stall.ended >= since).max_by_key(|stall| stall.took).copied()
    }
}

/// Starts a thread that does `step` after each pause, and notes what took too long.
fn look(
    seen: &Arc<Mutex<Vec<Stall>>>,
    what: &'static str,
    pause: Duration,
    mut step: impl FnMut() + Send + 'static,
) -> Sender<()> {
    let (running, ended): (_, Receiver<()>) = channel();
    let seen = seen.clone();
    thread::spawn(move || {
        loop {
            let before = Instant::now();
            if ended.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            step();
            let ended = Instant::now();
            let took = (ended - before).saturating_sub(pause);
            if took >= STALL_MIN {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(Stall { what, ended, took });
            }
        }
    });
    running
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_seen_with_its_end() {
        let stalls = Stalls::none();
        let start = Instant::now();
        let (begun, first) = channel();
        let _running = look(&stalls.seen, "a test", Duration::from_millis(1), move || {
            if begun.send(()).is_ok() {
                thread::sleep(STALL_MIN);
            }
        });
        first.recv().unwrap();
        drop(first);
        let stall = loop {
            if let Some(stall) = stalls.longest_since(start) {
                break stall;
            }
            thread::yield_now();
        };
        assert!(stall.took >= STALL_MIN && stall.what == "a test", "{stall:?}");
        assert_eq!(stalls.longest_since(stall.ended), Some(stall));
        assert_eq!(stalls.longest_since(stall.ended + Duration::from_nanos(1)), None);
    }
}
