//! How the machine holds up threads: one of the harness that sleeps, one that syncs a page, and those of the nodes, of which
//! the kernel says how long they waited for a processor. What is longer than usual becomes a line of the history, so that a
//! gap can be told to be the machine's.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::history::{Machine, Op, Recorder};

const NAP: Duration = Duration::from_millis(10);
const TENTH: Duration = Duration::from_millis(100);
/// What is shorter is no news.
pub(super) const NEWS_MS: u64 = 50;
/// All the time one of a node's threads waited.
const QUEUED_NEWS_MS: u64 = 100;

/// Threads that look until it is dropped.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Probe {
    /// `directory`: on the disk that holds the disk images.
    pub fn start(directory: &Path, pids: Vec<Arc<AtomicU32>>, recorder: &Recorder) -> Result<Probe> {
        let path = directory.join("machine");
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut probe = Probe { stop: Arc::default(), threads: Vec::new() };
        probe.spawn("naps", recorder, || {
            let began = Instant::now();
            thread::sleep(NAP);
            Machine { late_ms: ms(began.elapsed().saturating_sub(NAP)), ..Machine::default() }
        })?;
        probe.spawn("syncs", recorder, move || {
            thread::sleep(TENTH);
            let began = Instant::now();
            // A disk that fails has better witnesses.
            let _ = file.write_all_at(&[1; 4096], 0).and_then(|()| file.sync_data());
            Machine { sync_ms: ms(began.elapsed()), ..Machine::default() }
        })?;
        let mut waits = Waits::default();
        probe.spawn("waits", recorder, move || {
            thread::sleep(TENTH);
            let longest = pids.iter().map(|pid| waits.since_last(pid.load(Ordering::Relaxed))).max();
            Machine { queued_ms: longest.unwrap_or(0), ..Machine::default() }
        })?;
        Ok(probe)
    }

    fn spawn(
        &mut self,
        name: &str,
        recorder: &Recorder,
        mut look: impl FnMut() -> Machine + Send + 'static,
    ) -> Result<()> {
        let (stop, recorder) = (self.stop.clone(), recorder.clone());
        let looking = move || {
            while !stop.load(Ordering::Relaxed) {
                let machine = look();
                if machine.late_ms.max(machine.sync_ms) >= NEWS_MS || machine.queued_ms >= QUEUED_NEWS_MS {
                    recorder.note(Op::Machine(machine));
                }
            }
        };
        self.threads.push(thread::Builder::new().name(name.to_owned()).spawn(looking)?);
        Ok(())
    }
}

impl Drop for Probe {
    /// No line is written once this returns.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has written its last line too.
            let _ = thread.join();
        }
    }
}

/// How long threads have waited for a processor, by thread id, in nanoseconds, at the last look.
#[derive(Default)]
struct Waits(HashMap<u32, u64>);

impl Waits {
    /// How long a process's threads have waited together since the last look; 0 where nobody knows.
    fn since_last(&mut self, pid: u32) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut sum = 0;
        for task in tasks {
            let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Time on a processor, time in the queue for one, turns.
            let said = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let Some(waited) = said.split(' ').nth(1).and_then(|ns| ns.parse::<u64>().ok()) else { continue };
            if let Some(before) = self.0.insert(id, waited) {
                sum += waited.saturating_sub(before);
            }
        }
        sum / 1_000_000
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_never_waited_since_the_last_look_waited_for_nothing() {
        let mut waits = Waits::default();
        // The first look has nothing to compare with; the second is a moment later.
        assert_eq!(waits.since_last(std::process::id()), 0);
        assert!(!waits.0.is_empty() && waits.since_last(0) == 0);
    }
}
