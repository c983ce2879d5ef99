//! The index beside a real log: what it names is what the log holds, after each restart.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use wire::{LogPosition, NewMessage, QueueId, QueueOffset, StoredMessage};

use super::world::go_on;
use crate::disk::{CrashDisk, Disk};
use crate::flush::Flusher;
use crate::frame::{Draft, FrameKind};
use crate::ids::{LogId, LogIndex};
use crate::index::sizes::Sizes;
use crate::index::{IndexError, IndexedLog, QueueIndex, frames_of};
use crate::log::{Identity, Log, NewEntry, Options};

const SEGMENT: u64 = 64 << 10;

fn open(disk: &CrashDisk, flusher: &Flusher) -> Log {
    let identity = Identity { cluster: "c".into(), group: "g".into(), node: 1, segment_size: SEGMENT };
    let options = Options { recent_bytes_max: 4096, small_segments: true, ..Options::default() };
    Log::open_with(Arc::new(disk.clone()), Path::new("/g"), &identity, flusher, options).unwrap()
}

fn append(log: &Log, index: u64, offset: u64) {
    let host = "127.0.0.1:10911".parse().unwrap();
    // Every third entry has a command beside its messages.
    let (kind, mut buffer) = match index % 3 {
        0 => (FrameKind::Coupled, Draft::coupled_room(&vec![7; index as usize], 0)),
        _ => (FrameKind::Messages, Draft::room(0)),
    };
    for at in 0..4 {
        let start = buffer.len();
        let (key, text) = (format!("UNIQ_KEY\u{1}u{index}-{at}\u{2}"), vec![b'x'; 300]);
        let message = NewMessage {
            topic: "orders",
            queue_id: QueueId(0),
            flag: 0,
            sys_flag: 0,
            born_timestamp: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: &text,
            properties: &key,
        };
        wire::encode_message(&message, &mut buffer).unwrap();
        wire::patch_queue_offset(&mut buffer[start..], QueueOffset(offset + at)).unwrap();
    }
    let draft = Draft { id: LogId::new(1, index), kind, log_time_ms: 1_000_000 + index, buffer };
    log.append(vec![NewEntry::Draft(draft)], Box::new(|_| ())).unwrap();
}

/// Every unit leads to the message with its offset and size, and every unique id to its message.
fn check(log: &Log, index: &QueueIndex, count: u64) {
    let units = index.units("orders", QueueId(0), QueueOffset(0), usize::MAX).unwrap();
    assert_eq!(units.len() as u64, count);
    for (offset, unit) in (0..).zip(&units) {
        let bytes: Bytes = log.read_bytes(unit.position, unit.size as usize).unwrap();
        let message = StoredMessage::parse(&bytes).unwrap();
        assert_eq!((message.queue_offset, message.position), (QueueOffset(offset), unit.position));
        if offset % 37 == 0 {
            let found = index.find_key("orders", message.unique_id().unwrap(), 0, u64::MAX, 10).unwrap();
            assert_eq!(found, [unit.position]);
        }
    }
}

#[test]
fn units_lead_to_messages_of_the_log_after_each_restart() {
    let disk = CrashDisk::new(1);
    disk.create_dir(Path::new("/g")).unwrap();
    let mut checkpoint = LogPosition(0);
    let mut count = 0;
    for life in 0..6_u64 {
        let flusher = Flusher::start(1);
        let log = open(&disk, &flusher);
        let frames = frames_of(&log);
        let indexed =
            IndexedLog { start: log.state().first_position, checkpoint, segment_size: SEGMENT, indexes: 1 };
        let index =
            QueueIndex::open(Arc::clone(log.disk()), log.dir(), &indexed, &frames, &|_| false).unwrap();
        for frame in frames(checkpoint).unwrap() {
            index.add(&frame.unwrap());
        }
        check(&log, &index, count);
        for entry in 0..30 {
            append(&log, life * 30 + entry, count);
            count += 4;
        }
        log.sync_all().unwrap();
        let synced = log.state().synced_end;
        for frame in frames(index.built()).unwrap() {
            index.add(&frame.unwrap());
        }
        check(&log, &index, count);
        if life != 3 {
            index.spill(synced).unwrap();
        }
        checkpoint = if life % 2 == 0 { synced } else { checkpoint };
        while index.merge_step(checkpoint, &mut go_on).unwrap() {}
        check(&log, &index, count);
        log.close().unwrap();
        drop((log, frames));
        // Its threads may hold the log, and so its lock, a moment longer.
        flusher.stop();
    }
    // All of the index lost, and too much to read it at once: built again beside the running log.
    for name in disk.list(Path::new("/g/queues")).unwrap() {
        disk.remove(&Path::new("/g/queues").join(name)).unwrap();
    }
    let flusher = Flusher::start(1);
    let log = open(&disk, &flusher);
    let end = log.state().end;
    assert!(end.0 > 3 * SEGMENT);
    let index = {
        let indexed =
            IndexedLog { start: LogPosition(0), checkpoint: end, segment_size: SEGMENT, indexes: 1 };
        let sizes = Sizes { tail_log_bytes: 1, ..Default::default() };
        QueueIndex::open_with(
            Arc::new(disk.clone()),
            log.dir(),
            &indexed,
            &frames_of(&log),
            &|_| false,
            sizes,
        )
        .unwrap()
    };
    let early = index.units("orders", QueueId(0), QueueOffset(0), 1);
    assert!(matches!(early, Err(IndexError::Rebuilding { .. })));
    let is_void = |_: LogIndex| false;
    while index.rebuild_step(end, &frames_of(&log), &is_void, &mut go_on).unwrap() {}
    check(&log, &index, count);
    log.close().unwrap();
    flusher.stop();
}
