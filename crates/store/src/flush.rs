//! One flusher per disk: threads that write and fsync what the logs queued, and do their housekeeping (log.md 16).
//!
//! ```text
//! Log::append ─▶ lane of the log (FIFO) ─▶ ready list ─▶ a worker takes the lane and everything queued in it:
//!                                                        pwritev … fdatasync … completions, in order
//! ```
//! A lane is with one worker at a time, so its jobs complete in order; up to [`FLUSH_THREADS_MAX`] lanes are synced at
//! once and share the device's flush. Workers sleep unless there is work: an append wakes one only when its lane is idle.
//! A flush that does not complete is a hung disk, and concerns all logs of the flusher: [`Flusher::stuck_for`].

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::limits::{ALLOCATE_RETRY, FLUSH_THREADS_MAX};
use crate::log::Inner;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle of the flusher of one disk; clones share it. When the last one is gone (each log holds one) its threads end.
#[derive(Clone)]
pub struct Flusher(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    /// Lock order: after the lane of a log, before `flushing` of one; never held during I/O.
    ready: Mutex<Ready>,
    work: Condvar,
    chores: Mutex<Chores>,
    chore: Condvar,
    is_manual: bool,
}

#[derive(Default)]
struct Ready {
    lanes: VecDeque<Arc<Inner>>,
    /// Lanes that are with a worker.
    served: Vec<Arc<Inner>>,
    /// When to look again at a log that may have gone idle; ascending, at most one per log.
    timers: VecDeque<(Instant, Weak<Inner>)>,
    /// One waiting worker, at most, waits for the first timer; the others for work only.
    has_timekeeper: bool,
    idle_workers: usize,
    is_stopping: bool,
}

impl Ready {
    fn is_timer_due(&self, now: Instant) -> bool {
        self.timers.front().is_some_and(|(when, _)| *when <= now)
    }
}

/// Work that no acknowledgement waits for.
pub(crate) enum Chore {
    /// Allocate segments ahead.
    Prepare(Weak<Inner>),
    /// Write the sparse index of a segment that was sealed, or of the open one.
    WriteSparse(Weak<Inner>, Arc<crate::segment::SegmentFile>),
    /// Remove files that the manifest no longer names.
    Remove(Weak<Inner>, Vec<std::path::PathBuf>),
}

#[derive(Default)]
struct Chores {
    queue: VecDeque<Chore>,
    /// Logs whose allocation met a full disk, and when to try again.
    retries: Vec<(Instant, Weak<Inner>)>,
    is_stopping: bool,
}

impl Flusher {
    /// Starts `threads` workers (1 to [`FLUSH_THREADS_MAX`]) and one thread for housekeeping.
    ///
    /// # Panics
    /// When the operating system refuses a thread.
    pub fn start(threads: usize) -> Self {
        let flusher = Self::with(false);
        let shared = &flusher.0.shared;
        let mut handles = Vec::new();
        for n in 0..threads.clamp(1, FLUSH_THREADS_MAX) {
            let shared = Arc::clone(shared);
            handles.push(spawn(format!("flush-{n}"), move || shared.work()));
        }
        let chores = Arc::clone(shared);
        handles.push(spawn("store-chores".to_owned(), move || chores.keep_house()));
        *lock(&flusher.0.threads) = handles;
        flusher
    }

    /// A flusher without threads: nothing happens until [`Flusher::turn`]. For simulations and tests, whose order of
    /// events is then a function of their input.
    pub fn manual() -> Self {
        Self::with(true)
    }

    fn with(is_manual: bool) -> Self {
        let shared = Arc::new(Shared {
            ready: Mutex::default(),
            work: Condvar::new(),
            chores: Mutex::default(),
            chore: Condvar::new(),
            is_manual,
        });
        Self(Arc::new(Handle { shared, threads: Mutex::default() }))
    }

    /// Does everything that is queued, on this thread; true when there was something. Only for a manual flusher.
    pub fn turn(&self) -> bool {
        debug_assert!(self.0.shared.is_manual, "turn() of a flusher with threads");
        let mut worked = false;
        loop {
            let lane = lock(&self.0.shared.ready).lanes.pop_front();
            let chore = lock(&self.0.shared.chores).queue.pop_front();
            if lane.is_none() && chore.is_none() {
                return worked;
            }
            worked = true;
            if let Some(lane) = lane {
                self.0.shared.serve(&lane);
            }
            if let Some(chore) = chore {
                Shared::run(chore);
            }
        }
    }

    /// As if [`crate::limits::WATERMARK_IDLE`] and [`ALLOCATE_RETRY`] had passed, then [`Flusher::turn`]. Only for a
    /// manual flusher.
    pub fn turn_idle(&self) -> bool {
        self.turn();
        let timers = std::mem::take(&mut lock(&self.0.shared.ready).timers);
        for log in timers.into_iter().filter_map(|(_, log)| log.upgrade()) {
            log.on_idle(None);
        }
        let retries = std::mem::take(&mut lock(&self.0.shared.chores).retries);
        for (_, log) in retries {
            self.add_chore(Chore::Prepare(log));
        }
        self.turn()
    }

    /// [`Flusher::turn`], and before it whatever is due by the clock. Only for a manual flusher: for a simulation, whose clock
    /// is its own.
    pub fn turn_by_clock(&self) -> bool {
        let now = Instant::now();
        let due = {
            let mut ready = lock(&self.0.shared.ready);
            let due = ready.timers.partition_point(|(when, _)| *when <= now);
            ready.timers.drain(..due).collect::<Vec<_>>()
        };
        for log in due.into_iter().filter_map(|(_, log)| log.upgrade()) {
            log.on_idle(Some(now));
        }
        let retries = {
            let mut chores = lock(&self.0.shared.chores);
            let (due, later): (Vec<_>, Vec<_>) =
                std::mem::take(&mut chores.retries).into_iter().partition(|(when, _)| *when <= now);
            chores.retries = later;
            due
        };
        for (_, log) in retries {
            self.add_chore(Chore::Prepare(log));
        }
        self.turn()
    }

    /// Whether [`Flusher::turn_by_clock`] would find something to do.
    pub fn is_due(&self) -> bool {
        let now = Instant::now();
        {
            let ready = lock(&self.0.shared.ready);
            if !ready.lanes.is_empty() || ready.is_timer_due(now) {
                return true;
            }
        }
        let chores = lock(&self.0.shared.chores);
        !chores.queue.is_empty() || chores.retries.iter().any(|(when, _)| *when <= now)
    }

    /// Ends the threads after everything that is queued is done, and waits for them. Logs that are still open fail
    /// later appends only by never completing them: close them first.
    pub fn stop(self) {
        self.0.shared.stop();
        for thread in std::mem::take(&mut *lock(&self.0.threads)) {
            // A worker that panicked has said so already.
            let _ = thread.join();
        }
    }

    /// How long the disk has owed an answer: the age of the flush that has been under way longest, of whichever log on this
    /// disk; `None` when none is. Work that waits for its turn does not count, nor do syncs that have completed, so a slow
    /// disk stays at the time of one sync, and only one that hangs grows (log.md 16).
    pub fn stuck_for(&self) -> Option<Duration> {
        self.oldest_flush().map(|since| since.elapsed())
    }

    pub(crate) fn oldest_flush(&self) -> Option<Instant> {
        let ready = lock(&self.0.shared.ready);
        ready.served.iter().filter_map(|lane| *lock(&lane.flushing)).min()
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.0.shared.is_manual
    }

    /// Puts a lane on the ready list. The caller has marked it as scheduled, so that it is there once at most.
    pub(crate) fn schedule(&self, lane: Arc<Inner>) {
        let mut ready = lock(&self.0.shared.ready);
        ready.lanes.push_back(lane);
        if ready.idle_workers > 0 {
            self.0.shared.work.notify_one();
        }
    }

    /// Looks at a log again at `when` (never before an earlier timer).
    pub(crate) fn set_timer(&self, when: Instant, log: Weak<Inner>) {
        let mut ready = lock(&self.0.shared.ready);
        let at = ready.timers.partition_point(|(other, _)| *other <= when);
        ready.timers.insert(at, (when, log));
        if !ready.has_timekeeper && ready.idle_workers > 0 {
            self.0.shared.work.notify_one();
        }
    }

    pub(crate) fn add_chore(&self, chore: Chore) {
        lock(&self.0.shared.chores).queue.push_back(chore);
        self.0.shared.chore.notify_one();
    }

    pub(crate) fn retry_prepare(&self, log: Weak<Inner>) {
        let mut chores = lock(&self.0.shared.chores);
        chores.retries.retain(|(_, other)| !other.ptr_eq(&log));
        chores.retries.push((Instant::now() + ALLOCATE_RETRY, log));
        self.0.shared.chore.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// One round; true when more has arrived meanwhile. A completion that panics stops its log, not the flusher.
fn is_more(lane: &Inner) -> bool {
    catch_unwind(AssertUnwindSafe(|| lane.round())).unwrap_or_else(|_| {
        lane.abandon("a completion panicked");
        false
    })
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    #[allow(clippy::expect_used, reason = "documented panic: without its threads there is no flusher")]
    std::thread::Builder::new().name(name).spawn(body).expect("a thread")
}

impl Shared {
    fn stop(&self) {
        lock(&self.ready).is_stopping = true;
        self.work.notify_all();
        lock(&self.chores).is_stopping = true;
        self.chore.notify_all();
    }

    /// A worker's life.
    fn work(&self) {
        let mut ready = lock(&self.ready);
        loop {
            let now = Instant::now();
            // Before the lanes: one that always has more would keep the watermarks of the others waiting.
            if ready.is_timer_due(now) && !ready.is_stopping {
                let due = ready.timers.pop_front();
                drop(ready);
                if let Some(log) = due.and_then(|(_, log)| log.upgrade()) {
                    log.on_idle(Some(now));
                }
                ready = lock(&self.ready);
                continue;
            }
            if let Some(lane) = ready.lanes.pop_front() {
                drop(ready);
                self.serve(&lane);
                // The log may end here, and with it the last handle of this flusher: no lock is held.
                drop(lane);
                ready = lock(&self.ready);
                continue;
            }
            if ready.is_stopping {
                return;
            }
            ready.idle_workers += 1;
            let first = ready.timers.front().map(|(when, _)| *when).filter(|_| !ready.has_timekeeper);
            if let Some(first) = first {
                ready.has_timekeeper = true;
                let wait = first.saturating_duration_since(now);
                ready = self.work.wait_timeout(ready, wait).unwrap_or_else(PoisonError::into_inner).0;
                ready.has_timekeeper = false;
            } else {
                ready = self.work.wait(ready).unwrap_or_else(PoisonError::into_inner);
            }
            ready.idle_workers -= 1;
        }
    }

    /// Rounds of a lane, until nothing is left or others want the worker: then it goes back to the end of the list.
    fn serve(&self, lane: &Arc<Inner>) {
        lock(&self.ready).served.push(Arc::clone(lane));
        loop {
            let is_more = is_more(lane);
            let mut ready = lock(&self.ready);
            // A manual flusher has no clock.
            let is_timer_due = || !self.is_manual && ready.is_timer_due(Instant::now());
            if is_more && ready.lanes.is_empty() && !is_timer_due() {
                continue;
            }
            ready.served.retain(|served| !Arc::ptr_eq(served, lane));
            if is_more {
                ready.lanes.push_back(Arc::clone(lane));
                if ready.idle_workers > 0 {
                    self.work.notify_one();
                }
            }
            return;
        }
    }

    fn keep_house(&self) {
        let mut chores = lock(&self.chores);
        loop {
            let now = Instant::now();
            if let Some(at) = chores.retries.iter().position(|(when, _)| *when <= now) {
                let (_, log) = chores.retries.swap_remove(at);
                chores.queue.push_back(Chore::Prepare(log));
            }
            if let Some(chore) = chores.queue.pop_front() {
                drop(chores);
                Self::run(chore);
                chores = lock(&self.chores);
                continue;
            }
            if chores.is_stopping {
                return;
            }
            chores = match chores.retries.iter().map(|(when, _)| *when).min() {
                Some(when) => {
                    let wait = when.saturating_duration_since(now);
                    self.chore.wait_timeout(chores, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.chore.wait(chores).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn run(chore: Chore) {
        match chore {
            Chore::Prepare(log) => {
                if let Some(log) = log.upgrade() {
                    log.prepare();
                }
            }
            Chore::WriteSparse(log, segment) => {
                if let Some(log) = log.upgrade() {
                    log.write_sparse(&segment);
                }
            }
            Chore::Remove(log, files) => {
                if let Some(log) = log.upgrade() {
                    log.remove_files(&files);
                }
            }
        }
    }
}
