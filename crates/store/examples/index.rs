//! What the queue index costs: adding, writing, merging and reading, on this machine's disk.
//!
//! ```sh
//! cargo run --release -p store --example index -- [DIRECTORY]
//! ```
//! Prints ns per message or lookup, for few and for many queues. Frames hold 250 messages of about 300 bytes with a
//! unique id each; what is left in the directory (default: the system's temporary directory) is removed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use store::index::{IndexError, IndexedLog, QueueIndex, frames_of};
use store::{Draft, Flusher, Frame, FrameKind, Identity, Log, LogId, NewEntry, OsDisk, StoreError};
use wire::{LogPosition, NewMessage, QueueId, QueueOffset};

const FRAMES: u64 = 4000;
const BATCH: u64 = 250;
const SEGMENT: u64 = 1 << 30;

fn main() -> Result<(), IndexError> {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("raftmq-index-{}", std::process::id()));
    let outcome =
        [8, 1000, 50_000].into_iter().try_for_each(|queues| measure(&dir.join(queues.to_string()), queues));
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        eprintln!("cannot remove {}: {error}", dir.display());
    }
    outcome
}

fn measure(dir: &Path, queues: u64) -> Result<(), IndexError> {
    let frames = frames(dir, queues)?;
    let messages = FRAMES * BATCH;
    let each = |since: Instant, count: u64| since.elapsed().as_nanos() / u128::from(count);
    let log =
        IndexedLog { start: LogPosition(0), checkpoint: LogPosition(0), segment_size: SEGMENT, indexes: 1 };
    let none = |_| -> Result<_, StoreError> { Ok(Box::new(std::iter::empty()) as _) };
    let index = QueueIndex::open(Arc::new(OsDisk), dir, &log, &none, &|_| false)?;
    let (mut adding, mut spilling, mut memory) = (0, 0, 0);
    for frame in &frames {
        let start = Instant::now();
        index.add(frame);
        adding += start.elapsed().as_nanos();
        if index.spill_due(frame.end()) {
            memory = memory.max(index.stats().memory_bytes);
            let start = Instant::now();
            index.spill(frame.end())?;
            spilling += start.elapsed().as_nanos();
        }
    }
    println!("{queues} queues, {messages} messages");
    println!(
        "  add          {:>7} ns/message, at most {} KiB in memory",
        adding / u128::from(messages),
        memory >> 10
    );
    println!("  spill        {:>7} ns/message", spilling / u128::from(messages));
    index.spill(index.built())?;
    let before = index.stats().files;
    let start = Instant::now();
    // All of it is merged when the segment is complete, which a frame of the next one would tell.
    while index.merge_step(index.built(), &mut |_| ControlFlow::Continue(()))? {}
    println!(
        "  merge        {:>7} ns/message, {before} files to {}",
        each(start, messages),
        index.stats().files
    );
    let per_queue = messages / queues;
    let lookups = 20_000;
    let start = Instant::now();
    for n in 0..lookups {
        let queue = n * 7919 % queues;
        let found = index.units(&topic(queue), id(queue), QueueOffset(n * 31 % per_queue), 32)?;
        assert!(!found.is_empty());
    }
    println!("  units (32)   {:>7} ns/lookup from files", each(start, lookups));
    let start = Instant::now();
    for n in 0..lookups {
        let (message, queue) = (n * 997 % messages, n * 997 % messages % queues);
        assert_eq!(index.find_key(&topic(queue), &unique_id(message), 0, u64::MAX, 1)?.len(), 1);
    }
    println!("  find_key     {:>7} ns/lookup from files", each(start, lookups));
    Ok(())
}

fn topic(queue: u64) -> String {
    format!("topic-{:05}", queue / 4)
}

fn id(queue: u64) -> QueueId {
    QueueId((queue % 4) as u32)
}

fn unique_id(message: u64) -> String {
    format!("7F00000100002A9F{message:016X}")
}

/// The entries of a log, made by appending to one.
fn frames(dir: &Path, queues: u64) -> Result<Vec<Frame>, StoreError> {
    let identity =
        Identity { cluster: "bench".into(), group: "index".into(), node: 1, segment_size: SEGMENT };
    let flusher = Flusher::start(1);
    let log = Log::open(Arc::new(OsDisk), dir, &identity, &flusher)?;
    let host = ([127, 0, 0, 1], 10911).into();
    let body = [b'x'; 100];
    for index in 0..FRAMES {
        let mut buffer = Draft::room(BATCH as usize * 320);
        for message in index * BATCH..(index + 1) * BATCH {
            let queue = message % queues;
            let (topic, start) = (topic(queue), buffer.len());
            let properties = format!(
                "TAGS\u{1}tag{}\u{2}WAIT\u{1}true\u{2}UNIQ_KEY\u{1}{}\u{2}CLUSTER\u{1}bench\u{2}MSG_REGION\u{1}DefaultRegion\u{2}TRACE_ON\u{1}true\u{2}",
                message % 3,
                unique_id(message)
            );
            let message_bytes = NewMessage {
                topic: &topic,
                queue_id: id(queue),
                flag: 0,
                sys_flag: 0,
                born_timestamp: 0,
                born_host: host,
                store_host: host,
                reconsume_times: 0,
                prepared_transaction_offset: 0,
                body: &body,
                properties: &properties,
            };
            let mut record = BytesMut::new();
            let patched = wire::encode_message(&message_bytes, &mut record).is_ok()
                && wire::patch_queue_offset(&mut record, QueueOffset(message / queues)).is_ok();
            assert!(patched, "a message of the bench");
            buffer.extend_from_slice(&record);
            debug_assert!(buffer.len() > start);
        }
        let draft = Draft {
            id: LogId::new(1, index),
            kind: FrameKind::Messages,
            log_time_ms: 1_700_000_000_000 + index,
            buffer,
        };
        log.append(vec![NewEntry::Draft(draft)], Box::new(|_| ()))?;
    }
    log.sync_all()?;
    let frames = frames_of(&log)(LogPosition(0))?.collect();
    log.close()?;
    drop(log);
    flusher.stop();
    frames
}
