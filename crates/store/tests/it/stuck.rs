//! Rules 9 and 16: a flush that does not complete is seen, on all logs of the disk, and nothing else passes for one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use store::{CrashDisk, Flusher, Identity, Log, StoreError};

use super::harness::{Hook, HookedDisk, append, drafts, identity, options, segment_file, try_open, vote};

/// Long enough that only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Syncs of one group's log and vote that wait for the test, once it has closed the gate.
struct Gate {
    is_closed: Arc<AtomicBool>,
    arrived: mpsc::Receiver<()>,
    pass: mpsc::Sender<()>,
}

impl Gate {
    fn of(part: &'static str) -> (Self, Hook) {
        let is_closed = Arc::new(AtomicBool::new(false));
        let (arrive, arrived) = mpsc::channel();
        let (pass, passes) = mpsc::channel();
        let (closed, passes) = (Arc::clone(&is_closed), Mutex::new(passes));
        let before_sync = move |path: &Path| {
            if closed.load(Ordering::SeqCst) && path.to_str().unwrap().contains(part) {
                arrive.send(()).unwrap();
                let _ = passes.lock().unwrap().recv_timeout(PATIENCE);
            }
        };
        (Self { is_closed, arrived, pass }, Arc::new(before_sync))
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    /// Waits until a sync is under way.
    fn arrived(&self) {
        self.arrived.recv_timeout(PATIENCE).unwrap();
    }

    fn pass(&self) {
        self.pass.send(()).unwrap();
    }
}

fn open(disk: &Arc<HookedDisk>, dir: &str, flusher: &Flusher) -> Log {
    let identity = Identity { segment_size: 1 << 20, ..identity() };
    let log = Log::open_with(Arc::clone(disk) as _, Path::new(dir), &identity, flusher, options()).unwrap();
    append(&log, drafts(&log, 1, &[10]));
    log.sync_all().unwrap();
    // Nothing is left to do once the next two segments are there too; to allocate one is a sync as well.
    wait_until("the spare segment is allocated", || log.free_room() == (1 << 20) - 4096);
    log
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn rule_9_work_that_waits_its_turn_is_no_stuck_flush() {
    let (gate, before_sync) = Gate::of("/slow/");
    let disk = Arc::new(HookedDisk { disk: CrashDisk::new(1), before_sync });
    let flusher = Flusher::start(1);
    let log = open(&disk, "/slow", &flusher);
    gate.close();
    let first = append(&log, drafts(&log, 1, &[10]));
    gate.arrived();
    let since = log.oldest_pending_flush().unwrap();
    // These wait for the whole of the first round, and then for each other.
    let second = append(&log, drafts(&log, 1, &[10]));
    let voted = vote(&log, 7, 1);
    let third = append(&log, drafts(&log, 1, &[10]));
    for what in ["the next round", "the vote in it", "what follows the vote", "the watermark of the idle log"]
    {
        let released = Instant::now();
        gate.pass();
        gate.arrived();
        let now = log.oldest_pending_flush().unwrap();
        assert!(now >= released && now > since, "{what}: counted from before the last sync completed");
        assert!(flusher.stuck_for().unwrap() <= released.elapsed(), "{what}");
        if what == "the vote in it" {
            assert_eq!((first.get(), second.get(), voted.get()), (Some(true), Some(true), None));
        }
    }
    assert_eq!(third.get(), Some(true));
    gate.is_closed.store(false, Ordering::SeqCst);
    gate.pass();
    wait_until("the flush is over", || log.oldest_pending_flush().is_none() && flusher.stuck_for().is_none());
    drop(log);
    flusher.stop();
}

#[test]
fn rule_16_a_stuck_flush_is_seen_by_all_logs_of_the_disk() {
    let (gate, before_sync) = Gate::of("/stuck/");
    let disk = Arc::new(HookedDisk { disk: CrashDisk::new(1), before_sync });
    let flusher = Flusher::start(2);
    let (stuck, other) = (open(&disk, "/stuck", &flusher), open(&disk, "/other", &flusher));
    wait_until("both are at rest", || flusher.stuck_for().is_none());
    gate.close();
    append(&stuck, drafts(&stuck, 1, &[10]));
    gate.arrived();
    let since = stuck.oldest_pending_flush().unwrap();
    for _ in 0..3 {
        append(&other, drafts(&other, 1, &[10]));
        other.sync_all().unwrap();
        assert_eq!(other.oldest_pending_flush(), Some(since), "its own flushes complete, but the disk hangs");
    }
    assert!(flusher.stuck_for().unwrap() <= since.elapsed());
    gate.is_closed.store(false, Ordering::SeqCst);
    gate.pass();
    stuck.sync_all().unwrap();
    wait_until("the disk answers again", || other.oldest_pending_flush().is_none());
    drop((stuck, other));
    flusher.stop();
}

#[test]
fn an_idle_log_is_marked_beside_one_that_never_rests() {
    // Each sync of the busy log finds more to do when it returns.
    let busy: Arc<Mutex<Option<Log>>> = Arc::default();
    let before_sync = {
        let busy = Arc::clone(&busy);
        move |path: &Path| {
            let busy = busy.lock().unwrap();
            if let Some(log) = busy.as_ref().filter(|_| path.starts_with("/busy/log")) {
                std::thread::sleep(Duration::from_millis(1));
                append(log, drafts(log, 1, &[10]));
            }
        }
    };
    let disk = Arc::new(HookedDisk { disk: CrashDisk::new(1), before_sync: Arc::new(before_sync) });
    let flusher = Flusher::start(1);
    let log = open(&disk, "/busy", &flusher);
    let quiet =
        Log::open_with(Arc::clone(&disk) as _, Path::new("/data/g"), &identity(), &flusher, options())
            .unwrap();
    *busy.lock().unwrap() = Some(log.clone());
    append(&log, drafts(&log, 1, &[10]));
    let ack = append(&quiet, drafts(&quiet, 1, &[100]));
    wait_until("the one worker serves both", || ack.get().is_some());
    // Nothing more is asked of it. Its watermark is there once damage is no torn tail any more.
    wait_until("the timer of the idle log is kept waiting", || {
        let fork = disk.disk.fork();
        fork.crash(0);
        fork.flip(Path::new(&segment_file(0)), 4096 + 70).unwrap();
        matches!(try_open(&fork, &Flusher::manual()), Err(StoreError::Corrupt { .. }))
    });
    *busy.lock().unwrap() = None;
    log.close().unwrap();
    drop((log, quiet));
    flusher.stop();
}
