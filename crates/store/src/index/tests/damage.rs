//! Files that are lost or wrong are built again, byte for byte.

use std::sync::Arc;

use wire::{LogPosition, QueueId, QueueOffset};

use super::world::{Bench, Message, SMALL, World, go_on};
use crate::disk::{CrashDisk, Disk, DiskFile, Fault, FaultOp};
use crate::index::codec::{Kind, LogRange};
use crate::index::key_file::KeyFile;
use crate::index::pages::{self, ReadError};
use crate::index::queue_file::QueueFile;
use crate::index::sizes::Sizes;
use crate::index::{IndexError, QueueIndex};
use crate::{LogId, TablesMeta};

pub(super) const SEGMENT: u64 = 32 << 10;

/// Entries that fill a few segments: busy queues, rare ones, keys, void entries, commands, both coupled.
pub(super) fn fill(world: &mut World, entries: usize) {
    for n in 0..entries {
        let now = 1_700_000_000_000 + n as u64 * 300;
        let messages: Vec<Message> = (0..=n % 7)
            .map(|at| Message {
                tags: Some(format!("tag{}", n % 3)),
                unique_id: Some(format!("u{}", n % 50)),
                keys: if at == 0 { "k0 k1".into() } else { String::new() },
                body_len: n * 37 % 150,
                ..Message::plain(["t0", "t1", "some-longer-topic"][(n + at) % 3], (at % 3) as u32)
            })
            .chain((n % 10 == 0).then(|| Message::plain(&format!("rare-{}", n % 70), 0)))
            .collect();
        let is_void = n % 13 == 5;
        if n % 4 == 1 {
            world.coupled(now, n * 13 % 200, &messages, is_void);
        } else {
            world.messages(now, &messages, is_void);
        }
        if n % 9 == 0 {
            world.command(now, n * 11 % 400);
        }
    }
}

/// An index whose files are merged as far as they can be, with the checkpoint at the end of the log.
fn filled(merged: bool) -> Bench {
    let mut bench = Bench::new(SEGMENT, SMALL);
    for _ in 0..8 {
        fill(&mut bench.world.borrow_mut(), 25);
        bench.catch_up();
        let end = bench.world.borrow().end();
        bench.spill(end).unwrap();
    }
    bench.checkpoint = bench.world.borrow().end();
    // What was added faster than it was spilled has been given up.
    bench.rebuild_all().unwrap();
    if merged {
        bench.merge_all().unwrap();
    }
    bench.check(false);
    assert_eq!(bench.index().stats().lost_files, 0);
    bench
}

#[test]
fn a_lost_file_is_built_again_byte_for_byte() {
    for merged in [false, true] {
        let mut bench = filled(merged);
        let before = bench.files();
        assert!(before.len() > 6, "{}", before.len());
        for name in before.keys() {
            bench.disk.remove(&bench.dir().join(name)).unwrap();
            bench.reopen().unwrap();
            if name.contains("queue") {
                bench.check(true);
            }
            bench.rebuild_all().unwrap();
            // The newest is read while the index is opened, and stays in memory.
            bench.spill(bench.checkpoint).unwrap();
            // A merged file is built in pieces, which are merged again.
            if merged {
                bench.merge_all().unwrap();
            }
            assert_eq!(bench.files().keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{name}");
            assert!(bench.files() == before, "{name} came back otherwise than it was");
        }
        bench.check(false);
    }
}

#[test]
fn all_files_lost_while_stopped() {
    let mut bench = filled(true);
    let before = bench.files();
    for name in before.keys() {
        bench.disk.remove(&bench.dir().join(name)).unwrap();
    }
    bench.sizes.tail_log_bytes = 1;
    bench.reopen().unwrap();
    let stats = bench.index().stats();
    assert_eq!((stats.files, stats.memory_units), (0, 0), "too much to read while opening: {stats:?}");
    let unknown = bench.index().units("t0", QueueId(0), QueueOffset(0), 1);
    assert!(matches!(unknown, Err(IndexError::Rebuilding { .. })), "never \"no message\"");
    let unknown = bench.index().find_key("t0", "k0", 0, u64::MAX, 1);
    assert!(matches!(unknown, Err(IndexError::Rebuilding { .. })));
    assert!(matches!(bench.index().bounds("t0", QueueId(0)), Err(IndexError::Rebuilding { .. })));
    // The newest come back first.
    let newest = *bench.world.borrow().queues[&("t0".into(), 0)].last_key_value().unwrap().0;
    while bench.index().unit("t0", QueueId(0), QueueOffset(newest)).is_err() {
        assert!(bench.rebuild_step().unwrap());
    }
    assert!(bench.index().unit("t0", QueueId(0), QueueOffset(0)).is_err());
    bench.settle();
    bench.merge_all().unwrap();
    bench.settle();
    assert!(bench.files() == before);
}

#[test]
fn every_flipped_bit_that_is_read_is_noticed_and_mended() {
    let bench = filled(true);
    let before = bench.files();
    let mut lost = 0;
    for (number, (name, bytes)) in before.iter().enumerate() {
        for at in [number, 4000, bytes.len() / 2, bytes.len() - 1 - number] {
            let path = bench.dir().join(name);
            bench.disk.flip(&path, at as u64).unwrap();
            bench.settle();
            bench.merge_all().unwrap();
            if bench.index().stats().lost_files == lost {
                // Nobody asked for what is there (the end of a file, say); a merge would.
                let file = bench.disk.open(&path).unwrap();
                assert!(is_damaged(&file, name), "{name} at {at}");
                bench.disk.flip(&path, at as u64).unwrap();
            }
            lost = bench.index().stats().lost_files;
            assert!(bench.files() == before, "{name} at {at}");
        }
    }
    assert!(lost > before.len() as u64, "{:?}", bench.index().stats());
}

/// Reads a file from front to back.
fn is_damaged(file: &Arc<dyn DiskFile>, name: &str) -> bool {
    let (kind, range) = LogRange::parse_file_name(name).unwrap();
    matches!(use_file(file, kind, range), Err(ReadError::Damaged(_)))
}

#[test]
fn a_file_that_goes_while_in_use_is_built_again() {
    let bench = filled(true);
    let before = bench.files();
    for name in before.keys() {
        bench.disk.remove(&bench.dir().join(name)).unwrap();
    }
    // Descriptors of removed files may go on for a while.
    for _ in 0..3 {
        bench.settle();
        bench.merge_all().unwrap();
    }
    assert!(bench.index().stats().lost_files > 0);
}

#[test]
fn an_unreadable_sector_is_damage_and_a_shortage_of_descriptors_is_not() {
    let bench = filled(true);
    let read = |op, errno| Fault { op, path: ".queue".into(), after: 0, errno, for_good: false };
    bench.disk.inject(read(FaultOp::Read, 24));
    let error = bench.index().units("t0", QueueId(0), QueueOffset(0), 1);
    assert!(matches!(error, Err(IndexError::Store(_))), "{error:?}");
    assert_eq!(bench.index().stats().lost_files, 0);
    bench.disk.inject(read(FaultOp::Read, 5));
    // The look-up may do without the file that is lost.
    let _ = bench.index().units("t0", QueueId(0), QueueOffset(0), 1);
    assert_eq!(bench.index().stats().lost_files, 1);
    assert_eq!(bench.index().stats().gaps, 1);
    bench.settle();
}

#[test]
fn a_full_disk_stops_upkeep_and_nothing_else() {
    let mut bench = Bench::new(SEGMENT, SMALL);
    fill(&mut bench.world.borrow_mut(), 20);
    bench.catch_up();
    let end = bench.world.borrow().end();
    bench.disk.set_capacity(Some(10_000));
    assert!(bench.spill(end).is_err());
    bench.check(true);
    fill(&mut bench.world.borrow_mut(), 60);
    bench.catch_up();
    let stats = bench.index().stats();
    // Parts that cannot be written are given up in time, not kept.
    assert!(stats.memory_units <= (SMALL.parts_waiting + 1) * (SMALL.part_units + 20), "{stats:?}");
    assert!(stats.gaps > 0, "{stats:?}");
    assert!(bench.spill(bench.world.borrow().end()).is_err());
    bench.check(true);
    bench.disk.set_capacity(None);
    bench.spill(bench.world.borrow().end()).unwrap();
    bench.settle();
    bench.checkpoint = bench.world.borrow().end();
    bench.reopen().unwrap();
    bench.settle();
    assert!(
        bench.files().keys().all(|name| LogRange::parse_file_name(name).is_some()),
        "no half-written files"
    );
}

#[test]
fn a_failed_merge_or_rebuild_leaves_everything_as_it_was() {
    for (op, errno) in [(FaultOp::Write, 28), (FaultOp::Sync, 5), (FaultOp::SyncDir, 5), (FaultOp::Write, 5)]
    {
        for after in 0..3 {
            let bench = filled(false);
            bench.disk.inject(Fault { op, path: "queues".into(), after, errno, for_good: false });
            let failed = bench.merge_all().is_err();
            bench.check(false);
            bench.merge_all().unwrap();
            bench.settle();
            assert!(failed, "{op:?} {errno} after {after}");
            assert!(bench.files().keys().all(|name| LogRange::parse_file_name(name).is_some()));
        }
    }
}

#[test]
fn upkeep_stops_when_told_and_goes_on_later() {
    let bench = filled(false);
    let before = bench.files();
    let stop = &mut |_| std::ops::ControlFlow::Break(());
    // Too little is written to ask: the pace is asked once for each megabyte.
    let more = bench.index().merge_step(LogPosition(bench.checkpoint), stop).unwrap();
    assert!(more);
    bench.settle();
    assert!(before != bench.files());
}

#[test]
fn nothing_beyond_the_checkpoint_is_merged_and_nothing_beyond_the_fsynced_position_is_written() {
    let mut bench = Bench::new(SEGMENT, Sizes { parts_waiting: 100, ..SMALL });
    fill(&mut bench.world.borrow_mut(), 60);
    bench.catch_up();
    assert!(!bench.index().spill_due(LogPosition(0)));
    bench.spill(0).unwrap();
    assert_eq!(bench.files().len(), 0);
    let ends: Vec<u64> = bench.world.borrow().frames.iter().map(|frame| frame.end().0).collect();
    let synced = ends[ends.len() * 2 / 3];
    bench.spill(synced).unwrap();
    let ranges = |bench: &Bench| -> Vec<LogRange> {
        bench.files().keys().map(|name| LogRange::parse_file_name(name).unwrap().1).collect()
    };
    assert!(!ranges(&bench).is_empty() && ranges(&bench).iter().all(|range| range.to <= synced));
    bench.settle();
    let before = bench.files();
    bench.merge_all().unwrap();
    assert!(bench.files() == before, "the checkpoint is at 0");
    bench.checkpoint = ends[ends.len() / 3];
    bench.merge_all().unwrap();
    for range in ranges(&bench) {
        let was_there = before.keys().any(|name| LogRange::parse_file_name(name).unwrap().1 == range);
        assert!(was_there || range.to <= bench.checkpoint, "{range}");
    }
    bench.settle();
    // A restart with that checkpoint finds at most what lies below it.
    bench.reopen().unwrap();
    assert!(ranges(&bench).iter().all(|range| range.to <= bench.checkpoint));
    bench.check(false);
}

#[test]
fn an_entry_that_was_left_out_is_fetched_from_the_log() {
    let bench = Bench::new(SEGMENT, SMALL);
    fill(&mut bench.world.borrow_mut(), 10);
    {
        let world = bench.world.borrow();
        for frame in world.frames.iter().filter(|frame| frame.id().index.0 != 4) {
            if world.voids.contains(&frame.id().index.0) {
                bench.index().skip(frame);
            } else {
                bench.index().add(frame);
            }
        }
    }
    assert!(bench.index().stats().gaps > 0);
    bench.settle();
}

#[test]
fn a_snapshot_beyond_what_is_built_starts_the_index_anew() {
    starts_anew(|index, resume| index.purge(LogPosition(resume)).unwrap());
    // The files go with the next upkeep.
    starts_anew(|index, resume| {
        let (last, end) = (LogId::new(1, 9), LogPosition(resume - 8));
        index.start_behind(&TablesMeta { last, end, chain: 1, log_time_ms: 1 }).unwrap();
    });
}

fn starts_anew(start: impl FnOnce(&QueueIndex, u64)) {
    let mut bench = filled(true);
    let mut ahead = bench.world.borrow().clone();
    fill(&mut ahead, 300);
    let resume = (bench.world.borrow().end() / SEGMENT + 3) * SEGMENT;
    assert!(ahead.end() > resume);
    ahead.purge(resume);
    *bench.world.borrow_mut() = ahead;
    start(bench.index(), resume);
    let stats = bench.index().stats();
    assert_eq!((stats.files, stats.gaps, stats.memory_units, stats.built), (0, 0, 0, LogPosition(resume)));
    bench.catch_up();
    bench.check(true);
    bench.spill(bench.world.borrow().end()).unwrap();
    bench.settle();
    bench.checkpoint = bench.world.borrow().end();
    bench.reopen().unwrap();
    bench.settle();
}

#[test]
fn a_log_that_starts_far_from_zero() {
    let start = 3 << 30;
    let mut world = World::new(SEGMENT);
    fill(&mut world, 10);
    // The same entries, placed above a foreign segment.
    let mut bench = Bench::new(SEGMENT, SMALL);
    bench.world.borrow_mut().start_at(start, 1_000_001);
    bench.reopen().unwrap();
    fill(&mut bench.world.borrow_mut(), 60);
    bench.catch_up();
    assert_eq!(bench.world.borrow().frames[0].position().0, start + 4096);
    bench.check(true);
    let end = bench.world.borrow().end();
    bench.spill(end).unwrap();
    bench.checkpoint = end;
    bench.settle();
    bench.merge_all().unwrap();
    bench.reopen().unwrap();
    bench.settle();
    assert_eq!(bench.index().stats().gaps, 0);
}

/// Pages whose checksum is right although their content is not: what no disk does, and yet no panic.
#[test]
fn lying_files_are_errors_and_never_panics() {
    let bench = filled(true);
    let open = |bytes: &[u8]| {
        let file: Arc<dyn DiskFile> = CrashDisk::new(0).create("/file".as_ref()).unwrap();
        file.write_all_at(0, bytes).unwrap();
        file
    };
    for (name, good) in bench.files().iter().take(2) {
        let (kind, range) = LogRange::parse_file_name(name).unwrap();
        use_file(&open(good), kind, range).unwrap();
        let mut refused = 0;
        let places: Vec<usize> = (0..112).chain((112..good.len()).step_by(7)).collect();
        for at in places {
            for lie in [0, 0xff, 0x7f, 1] {
                let mut bad = good.clone();
                let end = (at + 8).min(bad.len());
                bad[at..end].fill(lie);
                reseal(&mut bad, kind, range);
                refused += usize::from(use_file(&open(&bad), kind, range).is_err());
            }
        }
        assert!(refused > 50, "{refused}");
        for len in (0..good.len()).step_by(61) {
            let mut short = good[..len].to_vec();
            assert!(use_file(&open(&short), kind, range).is_err());
            reseal(&mut short, kind, range);
            assert!(use_file(&open(&short), kind, range).is_err());
        }
    }
}

fn reseal(bytes: &mut [u8], kind: Kind, range: LogRange) {
    let seed = pages::file_seed(kind, range);
    for (number, page) in bytes.chunks_mut(4096).enumerate() {
        let Some(content_len) = page.len().checked_sub(4) else { continue };
        let (content, crc) = page.split_at_mut(content_len);
        let sum = crc32c::crc32c_append(crc32c::crc32c_append(seed, &(number as u64).to_be_bytes()), content);
        crc.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Everything that reads a file.
fn use_file(file: &Arc<dyn DiskFile>, kind: Kind, range: LogRange) -> Result<(), ReadError> {
    match kind {
        Kind::Queue => {
            let queues = QueueFile::new(QueueFile::check(&**file, range)?, Arc::clone(file), true)?;
            for (topic, queue) in [("t0", 0), ("t1", 2), ("rare-10", 0), ("none", 1)] {
                for extent in queues.extents(topic, queue)? {
                    queues.units(extent, 0, 1000)?;
                }
            }
            let mut cursor = queues.cursor()?;
            while let Some(entry) = cursor.entry() {
                let count = entry.count.min(1000) as usize;
                cursor.take_units(count)?;
                cursor.advance()?;
            }
        }
        Kind::Keys => {
            let header = KeyFile::check(&**file, range)?;
            let keys = KeyFile::new(header, Arc::clone(file));
            for hash in [0, 1, 77, u32::MAX, super::model_hash("t0#k0")] {
                keys.find(hash, 0, u64::MAX, 100, &mut Vec::new())?;
            }
            let mut cursor = keys.cursor();
            while cursor.next()?.is_some() {}
        }
    }
    Ok(())
}

#[test]
fn offsets_that_jump_or_come_twice_are_neither_lost_nor_mixed_up() {
    let bench = Bench::new(SEGMENT, SMALL);
    {
        let mut world = bench.world.borrow_mut();
        for round in 0..6 {
            world.messages(1000 + round, &[Message::plain("t0", 0), Message::plain("t0", 0)], false);
            world.jump("t0", 0, 5);
        }
    }
    bench.catch_up();
    bench.check(false);
    bench.spill(bench.world.borrow().end()).unwrap();
    bench.check(false);
    // The same entry once more, as if apply had not judged it.
    let index: &QueueIndex = bench.index();
    let units = index.stats().memory_units;
    assert_eq!(units, 0);
    let mut again = bench.world.borrow_mut();
    again.messages(2000, &[Message::plain("t0", 0)], false);
    again.jump_back("t0", 0, 1);
    again.messages(2000, &[Message::plain("t0", 0)], true);
    for frame in &again.frames {
        index.add(frame);
    }
    assert_eq!(index.stats().memory_units, 1, "the second one is not indexed");
    let mut pace = go_on;
    index.merge_step(LogPosition(u64::MAX), &mut pace).unwrap();
}
