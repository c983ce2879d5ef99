//! How long an append takes until it is fsynced, and what it costs in CPU, on this machine's disk.
//!
//! ```sh
//! cargo run --release -p store --example append -- [DIRECTORY]
//! ```
//! Prints one line for each size of entry and number of appends in flight. The directory must be on the disk to be measured
//! (the default, the system's temporary directory, may be in memory); what it leaves there is removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use store::{Draft, Flusher, FrameKind, Identity, Log, LogId, LogIndex, NewEntry, OsDisk, StoreError};

/// How long each line runs.
const RUN: Duration = Duration::from_secs(2);

fn main() -> Result<(), StoreError> {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("raftmq-append-{}", std::process::id()));
    let outcome = measure(&dir);
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        eprintln!("cannot remove {}: {error}", dir.display());
    }
    outcome
}

fn measure(dir: &Path) -> Result<(), StoreError> {
    let identity =
        Identity { cluster: "bench".into(), group: "append".into(), node: 1, segment_size: 1 << 30 };
    let flusher = Flusher::start(1);
    let log = Log::open(Arc::new(OsDisk), dir, &identity, &flusher)?;
    println!(
        "{:>9} {:>9} | {:>9} {:>8} {:>8} {:>8} | {:>10} {:>8}",
        "bytes", "in flight", "appends/s", "p50 us", "p99 us", "max us", "cpu us/app", "MB/s"
    );
    for (len, in_flight) in [
        (1 << 10, 1),
        (1 << 10, 16),
        (1 << 10, 256),
        (16 << 10, 1),
        (128 << 10, 1),
        (128 << 10, 8),
        (256 << 10, 4),
    ] {
        line(&log, len, in_flight)?;
    }
    log.close()?;
    drop(log);
    flusher.stop();
    Ok(())
}

fn line(log: &Log, len: usize, in_flight: usize) -> Result<(), StoreError> {
    let body = vec![0x5a; len];
    let (sender, receiver) = mpsc::channel::<(Instant, io::Result<()>)>();
    let mut next = log.state().last.map_or(LogIndex(0), |last| last.index.next()).0;
    let mut append = || {
        let draft = Draft::new(LogId::new(1, next), FrameKind::Command, 0, &body);
        next += 1;
        let (start, sender) = (Instant::now(), sender.clone());
        log.append(
            vec![NewEntry::Draft(draft)],
            Box::new(move |outcome| {
                // Nobody listens any more at the end of a line.
                let _ = sender.send((start, outcome));
            }),
        )
    };
    let (begin, cpu) = (Instant::now(), cpu_time());
    let mut latencies: Vec<Duration> = Vec::new();
    for _ in 0..in_flight {
        append()?;
    }
    let mut running = in_flight;
    while running > 0 {
        let Ok((start, outcome)) = receiver.recv() else { break };
        outcome.map_err(|source| StoreError::Io { what: "append to", path: log.dir().to_owned(), source })?;
        latencies.push(start.elapsed());
        if begin.elapsed() < RUN {
            append()?;
        } else {
            running -= 1;
        }
    }
    let (elapsed, cpu) = (begin.elapsed(), cpu_time().saturating_sub(cpu));
    latencies.sort_unstable();
    let at = |share: f64| {
        latencies.get(((latencies.len() - 1) as f64 * share) as usize).map_or(0, Duration::as_micros)
    };
    let count = latencies.len() as f64;
    println!(
        "{len:>9} {in_flight:>9} | {:>9.0} {:>8} {:>8} {:>8} | {:>10.1} {:>8.1}",
        count / elapsed.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0),
        cpu.as_micros() as f64 / count,
        count * len as f64 / elapsed.as_secs_f64() / 1e6,
    );
    Ok(())
}

/// User and system time of this process; zero where /proc does not tell.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // Fields 14 and 15 of the file, in ticks of 10 ms.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}
