//! How the machine holds up threads that want next to nothing: one that sleeps, one that syncs a page. What is longer than
//! usual becomes a line of the history, so that a gap can be told to be the machine's.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::history::{Machine, Op, Recorder};

const NAP: Duration = Duration::from_millis(10);
const BETWEEN_SYNCS: Duration = Duration::from_millis(100);
/// What is shorter is no news.
const NEWS_MS: u64 = 50;

/// Two threads that look until it is dropped.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Probe {
    /// `directory`: on the disk that holds the disk images.
    pub fn start(directory: &Path, recorder: &Recorder) -> Result<Probe> {
        let path = directory.join("machine");
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut probe = Probe { stop: Arc::default(), threads: Vec::new() };
        probe.spawn("naps", recorder, || {
            let began = Instant::now();
            thread::sleep(NAP);
            Machine { late_ms: ms(began.elapsed().saturating_sub(NAP)), sync_ms: 0 }
        })?;
        probe.spawn("syncs", recorder, move || {
            thread::sleep(BETWEEN_SYNCS);
            let began = Instant::now();
            // A disk that fails has better witnesses.
            let _ = file.write_all_at(&[1; 4096], 0).and_then(|()| file.sync_data());
            Machine { late_ms: 0, sync_ms: ms(began.elapsed()) }
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
                if machine.late_ms.max(machine.sync_ms) >= NEWS_MS {
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

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
