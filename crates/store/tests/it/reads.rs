//! Reads from memory, from files, from maps; the sparse index (19); copies above the commit index (18).

use std::path::Path;
use std::sync::Arc;

use store::{
    CrashDisk, Disk, Flusher, Log, LogId, LogIndex, LogItem, LogPosition, Options, OsDisk, StoreError,
};

use super::harness::{
    DIR, Dice, Machine, append, content, draft, drafts, entries, frame_at, identity, ids, messages,
    next_index, options, segment_file,
};

fn indexes(machine: &Machine) -> Vec<String> {
    let names = machine.disk.list(Path::new("/data/g/log")).unwrap();
    names.into_iter().filter(|name| name.contains(".index")).collect()
}

/// A log of large segments, so that its sparse index has more than one entry.
fn large(disk: &CrashDisk, flusher: &Flusher) -> Log {
    let identity = store::Identity { segment_size: 1 << 20, ..identity() };
    Log::open_with(Arc::new(disk.clone()), Path::new("/large"), &identity, flusher, options()).unwrap()
}

fn fill(log: &Log, flusher: &Flusher, seed: u64) -> Vec<LogPosition> {
    let mut dice = Dice(seed);
    while log.segments().len() < 3 {
        let lens: Vec<usize> = (0..50).map(|_| dice.roll(6000) as usize).collect();
        append(log, drafts(log, 1, &lens));
        flusher.turn();
    }
    entries(log).iter().map(store::Frame::position).collect()
}

#[test]
fn rule_19_an_entry_is_found_whatever_became_of_the_sparse_index() {
    let disk = CrashDisk::new(1);
    let flusher = Flusher::manual();
    let positions = fill(&large(&disk, &flusher), &flusher, 1);
    let path = Path::new("/large/log/00000000000000000000.index");
    let good = content(&disk, path.to_str().unwrap());
    assert!(good.len() > 10 * 24, "one entry for each 64 KiB");
    let check = |what: &str| {
        let log = large(&disk, &flusher);
        for (index, position) in positions.iter().enumerate().step_by(7) {
            assert_eq!(log.position_of(LogIndex(index as u64)).unwrap(), *position, "{what}");
        }
        flusher.turn();
        assert_eq!(content(&disk, path.to_str().unwrap()), good, "{what}: built again");
    };
    check("whole");
    disk.remove(path).unwrap();
    check("missing");
    disk.create(path).unwrap();
    check("empty");
    for at in [3, 30, 100, 200] {
        disk.flip(path, at).unwrap();
        let log = large(&disk, &flusher);
        for (index, position) in positions.iter().enumerate() {
            assert_eq!(log.position_of(LogIndex(index as u64)).unwrap(), *position, "flipped at {at}");
        }
        drop(log);
        store::replace_file(&disk, path, &[&good]).unwrap();
    }
    let file = disk.open(path).unwrap();
    file.write_all_at(0, &vec![0xff; good.len()]).unwrap();
    check("garbage");
    disk.open(path).unwrap().set_len(good.len() as u64 - 5).unwrap();
    let log = large(&disk, &flusher);
    assert_eq!(log.position_of(LogIndex(5)).unwrap(), positions[5]);
}

/// A derived file that is missing or wrong makes no sound frame look damaged, and none is looked for from the segment's
/// beginning again and again.
#[test]
fn a_frame_is_found_whatever_became_of_the_sparse_index() {
    let disk = CrashDisk::new(1);
    let flusher = Flusher::manual();
    let positions = fill(&large(&disk, &flusher), &flusher, 1);
    let path = Path::new("/large/log/00000000000000000000.index");
    let good = content(&disk, path.to_str().unwrap());
    let check = |what: &str| {
        let log = large(&disk, &flusher);
        for (index, position) in positions.iter().enumerate().rev().step_by(7) {
            let frame = log.frame_with(*position).unwrap().expect(what);
            assert_eq!(frame.id().index, LogIndex(index as u64), "{what}");
        }
        flusher.turn();
        content(&disk, path.to_str().unwrap())
    };
    disk.remove(path).unwrap();
    assert_eq!(check("missing"), good, "built again");
    disk.create(path).unwrap();
    assert_eq!(check("empty"), good, "built again");
    // An entry names a place inside a frame: of its 24 bytes the position is the middle third.
    for entry in (0..good.len()).step_by(24) {
        disk.flip(path, entry as u64 + 15).unwrap();
        check(&format!("byte {entry}"));
        store::replace_file(&disk, path, &[&good]).unwrap();
    }
}

#[test]
fn a_start_behind_a_checkpoint_still_finds_earlier_entries() {
    let disk = CrashDisk::new(1);
    let flusher = Flusher::manual();
    let log = large(&disk, &flusher);
    append(&log, drafts(&log, 1, &[3000; 200]));
    flusher.turn();
    let positions: Vec<_> = entries(&log).iter().map(store::Frame::position).collect();
    log.save_committed(Some(LogId::new(1, 199)));
    log.save_tables(store::TablesKind::Checkpoint, &super::harness::meta(&frame_at(&log, 150)), b"t")
        .unwrap();
    flusher.turn();
    drop(log);
    for luck in 0..8 {
        let disk = disk.fork();
        disk.crash(luck);
        let log = large(&disk, &flusher);
        for (index, position) in positions.iter().enumerate() {
            assert_eq!(log.position_of(LogIndex(index as u64)).unwrap(), *position);
        }
    }
}

#[test]
fn the_index_of_a_segment_follows_its_truncation() {
    let machine = Machine::new();
    machine.append_lens(1, &[3000; 12]);
    assert_eq!(indexes(&machine).len(), 2);
    machine.log.truncate_after(Some(LogId::new(1, 4))).unwrap();
    machine.append_lens(2, &[500; 3]);
    assert_eq!(indexes(&machine), ["00000000000000000000.index"]);
    machine.append_lens(2, &[3000; 12]);
    let expect = ids(&machine.log);
    let machine = machine.crash(3);
    assert_eq!(ids(&machine.log), expect);
    for index in (0..expect.len() as u64).rev() {
        assert_eq!(frame_at(&machine.log, index).id(), LogId::new(expect[index as usize].0, index));
    }
}

#[test]
fn a_reader_walks_everything_and_goes_on_when_there_is_more() {
    for recent in [0, 20_000, usize::MAX] {
        let disk = CrashDisk::new(1);
        let flusher = Flusher::manual();
        let options = Options { recent_bytes_max: recent, ..options() };
        let log = Log::open_with(Arc::new(disk), Path::new(DIR), &identity(), &flusher, options).unwrap();
        let mut reader = log.frames_from(LogPosition(0));
        let mut seen = Vec::new();
        let mut dice = Dice(recent as u64);
        for _ in 0..40 {
            let lens: Vec<usize> = (0..dice.roll(5)).map(|_| dice.roll(5000) as usize).collect();
            append(&log, drafts(&log, 1, &lens));
            if dice.roll(3) == 0 {
                flusher.turn();
            }
            if dice.roll(3) > 0 {
                while let Some(item) = reader.next_item().unwrap() {
                    let LogItem::Frame(frame) = item else { panic!("{item:?}") };
                    seen.push(frame.bytes().clone());
                }
                assert_eq!(seen, entries(&log).iter().map(|frame| frame.bytes().clone()).collect::<Vec<_>>());
                assert_eq!(reader.position(), log.state().end);
            }
        }
        // From the middle: a frame, its end, or the start of a segment.
        let all = entries(&log);
        for frame in &all {
            let mut reader = log.frames_from(frame.position());
            assert!(
                matches!(reader.next_item().unwrap(), Some(LogItem::Frame(found)) if found.id() == frame.id())
            );
        }
        for segment in log.segments() {
            let mut reader = log.frames_from(segment.start);
            assert!(
                matches!(reader.next_item().unwrap(), Some(LogItem::Frame(found)) if found.id().index == segment.first_index)
            );
        }
    }
}

#[test]
fn a_reader_above_the_commit_index_is_told_of_a_truncation() {
    let machine = Machine::new();
    machine.append_lens(1, &[500; 10]);
    let mut reader = machine.log.frames_from(LogPosition(0));
    for _ in 0..8 {
        reader.next_item().unwrap().unwrap();
    }
    machine.log.truncate_after(Some(LogId::new(1, 4))).unwrap();
    assert!(reader.next_item().unwrap().is_none(), "the log ends before it now");
    machine.append_lens(2, &[400; 10]);
    let error = reader.next_item().unwrap_err();
    assert!(matches!(error, StoreError::Invariant(_)), "{error}");
}

#[test]
fn bytes_by_position_from_memory_files_and_both() {
    let disk = CrashDisk::new(1);
    let flusher = Flusher::manual();
    let log = Log::open_with(Arc::new(disk), Path::new(DIR), &identity(), &flusher, options()).unwrap();
    append(&log, drafts(&log, 1, &[1000; 5]));
    flusher.turn();
    append(&log, drafts(&log, 1, &[1000; 3]));
    let frames = entries(&log);
    let whole: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
    let start = frames[0].position().0;
    for (at, len) in [(0, 64), (100, 1000), (3000, 4000), (whole.len() - 10, 10), (0, whole.len()), (5400, 2)]
    {
        let bytes = log.read_bytes(LogPosition(start + at as u64), len).unwrap();
        assert_eq!(bytes, whole[at..at + len], "{at} {len}");
    }
    let end = log.state().end;
    assert!(matches!(log.read_bytes(end, 1), Err(StoreError::OutOfRange { .. })));
    assert!(matches!(log.read_bytes(LogPosition(end.0 - 5), 6), Err(StoreError::OutOfRange { .. })));
    assert!(matches!(log.read_bytes(LogPosition(1 << 50), 6), Err(StoreError::OutOfRange { .. })));
    assert!(log.read_bytes_resident(frames[7].position(), 64).unwrap().is_ok());
    assert!(
        log.read_bytes_resident(frames[0].position(), 64).is_none(),
        "this disk has no map: go to a thread that may block"
    );
}

#[test]
fn rule_9_committed_bytes_come_from_the_map_and_stay_when_the_segment_goes() {
    let dir = tempfile::tempdir().unwrap();
    let flusher = Flusher::start(1);
    let log = Log::open_with(Arc::new(OsDisk), dir.path(), &identity(), &flusher, options()).unwrap();
    append(&log, drafts(&log, 1, &[3000; 12]));
    log.sync_all().unwrap();
    let frames = entries(&log);
    let check = |index: usize, expect: bool| {
        let frame = &frames[index];
        let resident = log.read_bytes_resident(frame.position(), frame.bytes().len());
        assert_eq!(resident.is_some(), expect, "{index}");
        if let Some(bytes) = resident {
            assert_eq!(bytes.unwrap(), frame.bytes());
        }
        assert_eq!(log.read_bytes(frame.position(), frame.bytes().len()).unwrap(), frame.bytes());
    };
    // Above the commit index the bytes may change under a reader: never from the map (rule 18).
    check(2, false);
    log.save_committed(Some(LogId::new(1, 11)));
    // The pages were written a moment ago, so they are in memory.
    check(2, true);
    check(10, true);
    let held = log.read_bytes(frames[0].position(), frames[0].bytes().len()).unwrap();
    let sealed = log.segments()[0].sealed.unwrap();
    let meta = store::TablesMeta {
        last: sealed.last.unwrap(),
        end: sealed.end,
        chain: sealed.chain,
        log_time_ms: sealed.log_time_ms,
    };
    log.save_tables(store::TablesKind::Boundary, &meta, b"t").unwrap();
    log.set_current_snapshot(meta.last).unwrap();
    log.purge(meta.last).unwrap();
    log.close().unwrap();
    drop(log);
    flusher.stop();
    assert_eq!(held, frames[0].bytes());
}

/// Position and size of each record of these frames.
fn units(frames: &[store::Frame]) -> Vec<(LogPosition, u32)> {
    let mut units = Vec::new();
    for frame in frames {
        let mut at = frame.body_position();
        for record in wire::Messages::new(&frame.body()) {
            let size = record.unwrap().size() as u64;
            units.push((at, size as u32));
            at = at.plus(size);
        }
    }
    units
}

/// Every second, every third unit …: what other queues have between those of one.
fn every(n: usize, units: &[(LogPosition, u32)]) -> Vec<(LogPosition, u32)> {
    units.iter().copied().step_by(n).collect()
}

#[test]
fn many_records_are_what_each_of_them_is() {
    // Everything in memory, part of it, nothing.
    for recent in [usize::MAX, 20_000, 0] {
        let disk = CrashDisk::new(1);
        let flusher = Flusher::manual();
        let options = Options { recent_bytes_max: recent, ..options() };
        let log = Log::open_with(Arc::new(disk), Path::new(DIR), &identity(), &flusher, options).unwrap();
        let mut dice = Dice(recent as u64);
        for index in 0..60 {
            append(&log, vec![messages(1, index, 1 + dice.roll(9) as usize, 5)]);
            if index < 58 {
                flusher.turn();
            }
        }
        let all = units(&entries(&log));
        assert!(log.segments().len() > 2);
        let check = |wanted: &[(LogPosition, u32)]| {
            let each: Vec<u8> = wanted
                .iter()
                .flat_map(|(position, len)| log.read_bytes(*position, *len as usize).unwrap())
                .collect();
            let found = log.read_records(wanted).unwrap();
            assert_eq!((found.count, found.size()), (wanted.len(), each.len()));
            assert!(found.copy() == each);
            // This disk has no maps: what is not in memory is not resident.
            let is_in_memory = |unit: &&(LogPosition, u32)| log.read_bytes_resident(unit.0, 8).is_some();
            let resident = log.read_records_resident(wanted).unwrap();
            assert_eq!(resident.count, wanted.iter().take_while(is_in_memory).count());
            assert!(resident.copy() == each[..resident.size()]);
        };
        check(&[]);
        check(&all);
        for n in 2..9 {
            check(&every(n, &all));
        }
        for _ in 0..50 {
            let from = dice.roll(all.len() as u64) as usize;
            let upto = from + dice.roll((all.len() - from) as u64 + 1) as usize;
            check(&all[from..upto]);
        }
        // In no order.
        let mut mixed = all.clone();
        mixed.rotate_left(all.len() / 2);
        check(&mixed);
        mixed.reverse();
        check(&mixed);
        check(&[all[3], all[3], all[all.len() - 1], all[2]]);
    }
}

#[test]
fn records_of_one_entry_are_one_piece() {
    let disk = CrashDisk::new(1);
    let flusher = Flusher::manual();
    let options = Options { recent_bytes_max: 4000, ..options() };
    let log = Log::open_with(Arc::new(disk), Path::new(DIR), &identity(), &flusher, options).unwrap();
    for index in 0..8 {
        append(&log, vec![messages(1, index, 5, 5)]);
        flusher.turn();
    }
    let all = units(&entries(&log));
    assert!(
        log.read_bytes_resident(all[0].0, 8).is_none() && log.read_bytes_resident(all[39].0, 8).is_some()
    );
    let found = log.read_records(&all).unwrap();
    assert_eq!((found.count, found.pieces.len()), (40, 8));
    assert_eq!(log.read_records(&all[..5]).unwrap().pieces.len(), 1);
    assert_eq!(log.read_records(&all[36..39]).unwrap().pieces.len(), 1);
    assert_eq!(log.read_records(&every(2, &all[..10])).unwrap().pieces.len(), 5);
}

#[test]
fn records_that_are_not_there_are_errors() {
    let machine = Machine::new();
    machine.append(vec![messages(1, 0, 3, 5)]);
    let good = units(&entries(&machine.log));
    append(&machine.log, vec![messages(1, 1, 3, 5)]);
    let end = machine.log.state().end;
    for wrong in
        [(end, 100), (LogPosition(end.0 - 8), 100), (LogPosition(u64::MAX - 3), 100), (good[2].0, 9999)]
    {
        for wanted in [vec![wrong], vec![good[0], wrong], vec![good[0], wrong, good[1]]] {
            let error = machine.log.read_records(&wanted).unwrap_err();
            assert!(matches!(error, StoreError::OutOfRange { .. }), "{wrong:?}: {error}");
        }
        assert!(machine.log.read_bytes(wrong.0, wrong.1 as usize).is_err());
        assert!(matches!(machine.log.read_records_resident(&[wrong]), Err(StoreError::OutOfRange { .. })));
    }
    machine.flusher.turn();
    machine.disk.inject(store::Fault {
        op: store::FaultOp::Read,
        path: "/log/".into(),
        after: 0,
        errno: 5,
        for_good: false,
    });
    assert!(matches!(machine.log.read_records(&good), Err(StoreError::Io { .. })));
    assert_eq!(machine.log.read_records(&good).unwrap().count, 3);
}

#[test]
fn rule_9_many_records_come_from_the_map_as_far_as_they_are_resident_and_committed() {
    let dir = tempfile::tempdir().unwrap();
    let flusher = Flusher::start(1);
    let identity = store::Identity { segment_size: 4 << 20, ..identity() };
    let log = Log::open_with(Arc::new(OsDisk), dir.path(), &identity, &flusher, options()).unwrap();
    for index in 0..400 {
        append(&log, vec![messages(1, index, 8, 5)]);
    }
    log.sync_all().unwrap();
    let frames = entries(&log);
    let all = units(&frames);
    assert_eq!(log.read_records_resident(&all).unwrap().count, 0, "above the commit index never from a map");
    // The commit index is known of entries in memory, so the last one is.
    log.save_committed(Some(LogId::new(1, 399)));
    let file = OsDisk.open(&dir.path().join("log").join(format!("{:020}", 0))).unwrap();
    let map = file.map(identity.segment_size).unwrap().unwrap();
    // What is missing lies between two messages that are near each other, and is asked for by nobody.
    let page = rustix::param::page_size() as u64;
    let end_of_first = all[0].0.0 + u64::from(all[0].1);
    let hole = end_of_first.next_multiple_of(page)..end_of_first.next_multiple_of(page) + 2 * page;
    let behind = *all.iter().find(|(position, _)| position.0 >= hole.end).unwrap();
    file.forget(hole.start, hole.end - hole.start);
    let is_there = map.is_resident(hole.start, (hole.end - hole.start) as usize);
    let found = log.read_records_resident(&[all[0], behind]).unwrap();
    assert_eq!(found.count, 2, "around {hole:?}, which is in memory: {is_there}");
    for n in [1, 3, 7, 50] {
        // As much as possible out of memory, from the middle on. (Nothing of a file system in memory.)
        file.forget(256 << 10, 0);
        let wanted = every(n, &all);
        let resident = |wanted: &[(LogPosition, u32)]| {
            let is_resident = |unit: &&(LogPosition, u32)| map.is_resident(unit.0.0, unit.1 as usize);
            wanted.iter().take_while(is_resident).count()
        };
        let before = resident(&wanted);
        let found = log.read_records_resident(&wanted).unwrap();
        let bounds = [before, resident(&wanted)];
        assert!((bounds[0].min(bounds[1])..=bounds[0].max(bounds[1])).contains(&found.count), "{bounds:?}");
        let blocking = log.read_records(&wanted).unwrap();
        assert_eq!(blocking.count, wanted.len());
        let expect: Vec<u8> = wanted
            .iter()
            .flat_map(|(position, len)| log.read_bytes(*position, *len as usize).unwrap())
            .collect();
        assert!(blocking.copy() == expect && found.copy() == expect[..found.size()]);
    }
    // Once everything was read.
    assert_eq!(log.read_records(&all).unwrap().count, all.len());
    let found = log.read_records_resident(&all).unwrap();
    assert_eq!((found.count, found.pieces.len()), (all.len(), 400));
    let whole: Vec<u8> = frames.iter().flat_map(store::Frame::body).collect();
    assert!(found.copy() == whole);
    log.close().unwrap();
    drop(log);
    flusher.stop();
}

#[test]
fn rule_18_a_reader_never_sees_a_mixture_while_the_tail_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let flusher = Flusher::start(2);
    let log = Log::open_with(Arc::new(OsDisk), dir.path(), &identity(), &flusher, options()).unwrap();
    append(&log, drafts(&log, 1, &[500; 20]));
    log.sync_all().unwrap();
    let writer = log.clone();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_stopped = Arc::clone(&stop);
    let reader = std::thread::spawn(move || {
        let mut reads = 0;
        while !is_stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let frames = log.read(LogIndex(8), LogIndex(40), 1 << 20).unwrap();
            let mut before: Option<&store::Frame> = None;
            for frame in &frames {
                // Parsed with its checksum; and what was read together is one log.
                assert!(before.is_none_or(|before| before.chain() == frame.prev()), "{before:?} {frame:?}");
                before = Some(frame);
            }
            reads += 1;
        }
        reads
    });
    for term in 2..120 {
        let last = frame_at(&writer, 9).id();
        writer.truncate_after(Some(last)).unwrap();
        append(&writer, (10..30).map(|index| draft(term, index, 300 + (term * 37 % 500) as usize)).collect());
        if term % 3 == 0 {
            writer.sync_all().unwrap();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
    writer.check().unwrap();
    writer.close().unwrap();
    drop(writer);
    flusher.stop();
}

#[test]
fn rule_18_read_in_memory_never_touches_the_disk() {
    let disk = CrashDisk::new(1);
    let flusher = Flusher::manual();
    let options = Options { recent_bytes_max: 5000, ..options() };
    let log = Log::open_with(Arc::new(disk.clone()), Path::new(DIR), &identity(), &flusher, options).unwrap();
    append(&log, drafts(&log, 1, &[1000; 10]));
    flusher.turn();
    disk.inject(store::Fault {
        op: store::FaultOp::Read,
        path: String::new(),
        after: 0,
        errno: 5,
        for_good: true,
    });
    assert!(log.read_in_memory(LogIndex(0), LogIndex(10), 1).is_none());
    assert_eq!(log.read_in_memory(LogIndex(8), LogIndex(99), 1 << 20).unwrap().len(), 2);
    assert_eq!(log.read_in_memory(LogIndex(10), LogIndex(99), 1 << 20).unwrap().len(), 0);
    assert!(log.read(LogIndex(0), LogIndex(1), 1).is_err());
    assert_eq!(next_index(&log), 10);
    assert!(disk.list(Path::new(DIR)).is_ok());
    assert_eq!(segment_file(0), "/data/g/log/00000000000000000000");
}

/// Every byte of every frame, over segments, mixed with what is in memory only.
#[test]
fn the_frame_of_a_byte_is_found_and_checked() {
    for recent in [0, 30_000, usize::MAX] {
        let disk = CrashDisk::new(1);
        let flusher = Flusher::manual();
        let identity = store::Identity { segment_size: 1 << 20, ..identity() };
        let options = Options { recent_bytes_max: recent, ..options() };
        let log = Log::open_with(Arc::new(disk.clone()), Path::new("/large"), &identity, &flusher, options)
            .unwrap();
        let mut places = Vec::new();
        let mut dice = Dice(7);
        while log.segments().len() < 2 {
            let index = next_index(&log);
            let count = 1 + dice.roll(40) as usize;
            append(&log, vec![messages(1, index, count, 5000)]);
            // Frames without records between them, some of which have no sparse entry of their own.
            append(&log, drafts(&log, 1, &[dice.roll(90_000) as usize]));
            flusher.turn();
        }
        append(&log, vec![messages(1, next_index(&log), 3, 5000)]);
        let frames = entries(&log);
        for frame in &frames {
            for message in wire::Messages::new(&frame.records()) {
                let position = message.unwrap().position;
                places.push((position, size_at(&log, position)));
            }
            let last = LogPosition(frame.end().0 - 1);
            for position in [frame.position(), frame.records_position().min(last), last] {
                let found = log.frame_with(position).unwrap().unwrap();
                assert_eq!(found.bytes(), frame.bytes(), "{position}");
            }
        }
        assert_eq!(
            log.frame_with(LogPosition(0)).unwrap().map(|frame| frame.id()),
            None,
            "a segment's header"
        );
        assert_eq!(log.frame_with(log.state().end).unwrap().map(|frame| frame.id()), None, "beyond the end");
        assert!(places.len() > 100);
        for _ in 0..2 {
            for (place, record) in places.iter().zip(log.read_checked(&places)) {
                assert_eq!(record.unwrap(), log.read_bytes(place.0, place.1 as usize).unwrap());
            }
            // In any order.
            places.reverse();
        }
        let (first, len) = places[0];
        for wrong in
            [(LogPosition(first.0 - 4000), 8000), (first, len + (1 << 20)), (frames[1].position(), 8)]
        {
            assert!(
                matches!(&log.read_checked(&[wrong])[..], [Err(StoreError::OutOfRange { .. })]),
                "{wrong:?}"
            );
        }
    }
}

fn size_at(log: &Log, position: LogPosition) -> u32 {
    u32::from_be_bytes(log.read_bytes(position, 4).unwrap()[..].try_into().unwrap())
}
