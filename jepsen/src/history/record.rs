//! Writing a history from many tasks.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Event, Kind, Op, Value};
use crate::outcome::Outcome;

/// What may wait for the disk that the history is on. Beyond it events are dropped, and [`Recorder::finish`] says so: a
/// history must not slow its clients down, nor be thought whole.
const UNWRITTEN_BYTES_MAX: usize = 256 << 20;
const WRITE_AT_BYTES: usize = 1 << 20;
const WRITE_EVERY: Duration = Duration::from_millis(100);

/// Now, in nanoseconds of CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What is known of how a request ended, besides its outcome and results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub node: Option<u64>,
    pub term: Option<u64>,
    pub attempts: Option<u32>,
    pub code: Option<i32>,
    pub error: Option<String>,
}

/// Writes one history. A clone is a reference. Recording takes a lock for a microsecond and never waits for the disk,
/// so that it may be called from async tasks.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    unwritten: Mutex<Unwritten>,
    wake: Condvar,
    processes: AtomicU32,
    writer: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

#[derive(Default)]
struct Unwritten {
    lines: Vec<u8>,
    written: Written,
    last_ns: u64,
    closed: bool,
    /// Why the history is not whole.
    broken: Option<String>,
}

/// How much a history is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub events: u64,
    pub bytes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Makes the file, or empties it.
    pub fn create(path: &Path) -> io::Result<Recorder> {
        let file = File::create(path)?;
        let shared = Arc::new(Shared {
            unwritten: Mutex::default(),
            wake: Condvar::new(),
            // process 0 is the run itself
            processes: AtomicU32::new(1),
            writer: Mutex::new(None),
        });
        let for_writer = Arc::clone(&shared);
        let writer = thread::Builder::new().name("history".into()).spawn(move || for_writer.write(file))?;
        *lock(&shared.writer) = Some(writer);
        Ok(Recorder { shared })
    }

    /// A logical client that nobody was before.
    pub fn process(&self) -> Process {
        Process { recorder: self.clone(), id: self.fresh(), counter: 0 }
    }

    fn fresh(&self) -> u32 {
        self.shared.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// A line without an invocation: what a nemesis did, a sample, a mark. Returns its time.
    pub fn note(&self, op: Op) -> u64 {
        self.record(0, Kind::Ok, op, Details::default())
    }

    /// One line, stamped now. Returns its time.
    pub fn record(&self, process: u32, kind: Kind, op: Op, details: Details) -> u64 {
        let Details { node, term, attempts, code, error } = details;
        let mut unwritten = lock(&self.shared.unwritten);
        // Under the lock, so that times never fall along the file.
        let t_ns = now_ns().max(unwritten.last_ns);
        unwritten.last_ns = t_ns;
        let event = Event { t_ns, process, kind, op, node, term, attempts, code, error };
        if unwritten.closed || unwritten.lines.len() > UNWRITTEN_BYTES_MAX {
            let why = if unwritten.closed { "an event came after the end" } else { "the disk was too slow" };
            unwritten.broken.get_or_insert_with(|| why.to_owned());
            return t_ns;
        }
        let before = unwritten.lines.len();
        if let Err(error) = serde_json::to_writer(&mut unwritten.lines, &event) {
            unwritten.lines.truncate(before);
            unwritten.broken.get_or_insert_with(|| error.to_string());
            return t_ns;
        }
        unwritten.lines.push(b'\n');
        unwritten.written.events += 1;
        unwritten.written.bytes += (unwritten.lines.len() - before) as u64;
        if unwritten.lines.len() > WRITE_AT_BYTES {
            self.shared.wake.notify_one();
        }
        t_ns
    }

    /// Writes what is left and closes the file. An error says that the history is not whole; such a run does not count.
    pub fn finish(&self) -> io::Result<Written> {
        lock(&self.shared.unwritten).closed = true;
        self.shared.wake.notify_one();
        if let Some(writer) = lock(&self.shared.writer).take() {
            writer.join().map_err(|_| io::Error::other("the writer of the history panicked"))??;
        }
        let unwritten = lock(&self.shared.unwritten);
        match &unwritten.broken {
            Some(why) => Err(io::Error::other(format!("the history is not whole: {why}"))),
            None => Ok(unwritten.written),
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("written", &lock(&self.shared.unwritten).written).finish()
    }
}

impl Shared {
    fn write(&self, mut file: File) -> io::Result<()> {
        let mut lines = Vec::new();
        loop {
            let mut unwritten = lock(&self.unwritten);
            if unwritten.lines.len() <= WRITE_AT_BYTES && !unwritten.closed {
                let waited = self.wake.wait_timeout(unwritten, WRITE_EVERY);
                unwritten = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            let closed = unwritten.closed;
            std::mem::swap(&mut lines, &mut unwritten.lines);
            drop(unwritten);
            if let Err(error) = file.write_all(&lines) {
                lock(&self.unwritten).broken.get_or_insert_with(|| error.to_string());
                return Err(error);
            }
            lines.clear();
            if closed {
                return Ok(());
            }
        }
    }
}

/// A logical client: one operation at a time, and another number after one of unknown outcome. A task that keeps
/// several operations in flight has a `Process` for each.
#[derive(Debug)]
pub struct Process {
    recorder: Recorder,
    id: u32,
    counter: u32,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The next value to send. Each one taken must be invoked, in this order.
    pub fn value(&mut self) -> Value {
        let value = Value::new(self.id, self.counter);
        self.counter += 1;
        value
    }

    /// Before the request is written.
    pub fn invoke(&self, op: Op) -> u64 {
        self.recorder.record(self.id, Kind::Invoke, op, Details::default())
    }

    /// After the answer, or once nobody waits for it any more. `op` is that of the invocation with its results.
    pub fn complete(&mut self, outcome: Outcome, op: Op, details: Details) -> u64 {
        let t_ns = self.recorder.record(self.id, outcome.into(), op, details);
        if outcome == Outcome::Info {
            self.id = self.recorder.fresh();
            self.counter = 0;
        }
        t_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Phase, Queue, Reader};

    fn send(value: Value, offset: Option<u64>) -> Op {
        Op::Send { queue: Queue::new("broker-a", "t", 3), value, offset, position: None }
    }

    #[test]
    fn what_is_recorded_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).unwrap();
        recorder.note(Op::Phase(Phase::Load));
        let mut process = recorder.process();
        let (first, value) = (process.id(), process.value());
        process.invoke(send(value, None));
        process.complete(Outcome::Ok, send(value, Some(0)), Details { node: Some(1), ..Details::default() });
        let value = process.value();
        assert_eq!(value, Value::new(first, 1));
        process.invoke(send(value, None));
        process.complete(Outcome::Info, send(value, None), Details::default());
        assert_ne!(process.id(), first, "a process of unknown state is not used again");
        assert_eq!(process.value(), Value::new(process.id(), 0));
        assert_eq!(recorder.finish().unwrap().events, 5);
        let events: Vec<Event> = Reader::open(&[&path]).unwrap().map(Result::unwrap).collect();
        let kinds: Vec<Kind> = events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [Kind::Ok, Kind::Invoke, Kind::Ok, Kind::Invoke, Kind::Info]);
        assert_eq!(events[2].node, Some(1));
        assert!(events.is_sorted_by_key(|event| event.t_ns));
        // what comes too late is no secret
        recorder.note(Op::Phase(Phase::End));
        assert!(recorder.finish().is_err());
    }

    #[test]
    fn many_threads_record_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut process = recorder.process();
                    for offset in 0..500 {
                        let value = process.value();
                        process.invoke(send(value, None));
                        process.complete(Outcome::Ok, send(value, Some(offset)), Details::default());
                    }
                });
            }
        });
        assert_eq!(recorder.finish().unwrap().events, 4000);
        assert_eq!(Reader::open(&[path]).unwrap().map(Result::unwrap).count(), 4000);
    }
}
