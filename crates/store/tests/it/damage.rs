//! Rule 5: a torn tail is cut, damage is not, and no stale frame comes back.

use std::path::Path;
use std::sync::Arc;

use store::{
    CrashDisk, Disk, Fault, FaultOp, Flusher, Log, LogId, LogIndex, LogPosition, NewEntry, Options,
    StoreError,
};

use super::harness::{
    DIR, Dice, Machine, SEGMENT, append, content, coupled, draft, drafts, entries, frame_at,
    frames_as_entries, identity, ids, messages, meta, next_index, options, place_of, segment_file, try_open,
    vote,
};

fn refuses(disk: &CrashDisk) -> StoreError {
    match try_open(disk, &Flusher::manual()) {
        Err(error) => error,
        Ok(log) => panic!("opened, with {:?}", log.state()),
    }
}

/// Flips a bit within the frame of an entry and starts again.
fn flip(machine: &Machine, index: u64) -> (CrashDisk, LogPosition, String) {
    let position = frame_at(&machine.log, index).position();
    let (file, offset) = place_of(position);
    let disk = machine.disk.fork();
    disk.flip(Path::new(&file), offset + 70).unwrap();
    disk.crash(0);
    (disk, position, file)
}

#[test]
fn rule_5_damage_below_the_watermark_is_an_error_that_names_it_and_cuts_nothing() {
    let machine = Machine::new();
    machine.append_lens(1, &[100; 10]);
    machine.flusher.turn_idle();
    for index in 0..10 {
        let (disk, position, file) = flip(&machine, index);
        let before = content(&disk, &file);
        match refuses(&disk) {
            StoreError::Corrupt { file: named, position: at, index: which, .. } => {
                assert_eq!((named.to_str().unwrap(), at, which), (file.as_str(), position, LogIndex(index)));
            }
            other => panic!("{other}"),
        }
        assert_eq!(content(&disk, &file), before, "nothing was cut");
    }
}

#[test]
fn rule_5_the_last_acknowledged_batch_is_below_the_watermark_once_the_next_is_durable() {
    let machine = Machine::new();
    machine.append_lens(1, &[100]);
    machine.append_lens(1, &[100]);
    machine.append_lens(1, &[100]);
    // No idle time: the watermark of the second round went out with the third.
    for index in 0..2 {
        let (disk, ..) = flip(&machine, index);
        assert!(matches!(refuses(&disk), StoreError::Corrupt { .. }));
    }
    // Damage to the very last batch can pass for a tear; that is the promise's limit.
    let (disk, ..) = flip(&machine, 2);
    assert_eq!(ids(&Machine::on(disk).log), [(1, 0), (1, 1)]);
}

#[test]
fn rule_5_a_torn_tail_is_cut_and_what_is_whole_before_it_is_kept() {
    let mut kept = std::collections::BTreeSet::new();
    for luck in 0..60 {
        let machine = Machine::new();
        machine.append_lens(1, &[100; 3]);
        append(&machine.log, drafts(&machine.log, 1, &[1000; 4]));
        // The frames are written, then the power goes before their sync.
        machine.disk.power_off_at_sync(machine.disk.syncs() + 1);
        machine.flusher.turn();
        let machine = machine.crash(luck);
        let count = next_index(&machine.log);
        assert!((3..=7).contains(&count));
        kept.insert(count);
        machine.log.check().unwrap();
        // The log goes on over what was cut.
        machine.append_lens(2, &[500; 2]);
        let machine = machine.crash(luck);
        assert_eq!(next_index(&machine.log), count + 2);
    }
    assert!(kept.len() > 2, "some tails are torn in the middle: {kept:?}");
}

#[test]
fn rule_5_damage_to_the_watermark_itself_costs_no_data() {
    let machine = Machine::new();
    machine.append_lens(1, &[100; 4]);
    machine.append_lens(1, &[100; 4]);
    let disk = machine.disk.fork();
    for slot in [0, 4096] {
        disk.flip(Path::new(&segment_file(0)), 16384 + slot + 16).unwrap();
    }
    disk.crash(0);
    assert_eq!(ids(&Machine::on(disk).log).len(), 8);
}

#[test]
fn rule_5_a_checkpoint_is_a_watermark_too() {
    let machine = Machine::new();
    machine.append_lens(1, &[100; 4]);
    machine.log.save_committed(Some(LogId::new(1, 3)));
    let last = frame_at(&machine.log, 3);
    machine.log.save_tables(store::TablesKind::Checkpoint, &meta(&last), b"t").unwrap();
    // No watermark says so, but the tables name entry 3: it was fsynced.
    let (disk, position, _) = flip(&machine, 3);
    for slot in [0, 4096] {
        disk.flip(Path::new(&segment_file(0)), 16384 + slot + 16).unwrap();
    }
    let error = refuses(&disk);
    assert!(matches!(error, StoreError::Corrupt { position: at, .. } if at == position), "{error}");
    // A log that ends before its checkpoint is damaged, never taken for shorter.
    let disk = CrashDisk::new(1);
    let machine = Machine::on(disk);
    machine.append_lens(1, &[100; 10]);
    let real = frame_at(&machine.log, 9);
    machine.log.save_tables(store::TablesKind::Checkpoint, &meta(&real), b"t").unwrap();
    let bytes = content(&machine.disk, "/data/g/tables/checkpoint-9");
    let other = Machine::new();
    other.append_lens(1, &[100; 4]);
    other.flusher.turn_idle();
    store::replace_file(&other.disk, Path::new("/data/g/tables/checkpoint-9"), &[&bytes]).unwrap();
    other.disk.crash(0);
    assert!(matches!(refuses(&other.disk), StoreError::Corrupt { index: LogIndex(4), .. }));
}

#[test]
fn rule_5_a_truncated_frame_never_comes_back() {
    // The case of log.md 5 (2): a follower holds uncommitted (5,100) (5,101); a leader of term 6 has (4,100) of the same
    // length there.
    let others = |term: u64| {
        let machine = Machine::new();
        machine.append_lens(3, &[100; 100]);
        machine.append_lens(term, &[100, 100]);
        machine
    };
    let (fourth, fifth) = (others(4), others(5));
    for luck in 0..20 {
        let machine = Machine::new();
        machine.append(frames_as_entries(&entries(&fifth.log)));
        machine.flusher.turn_idle();
        assert_eq!(ids(&machine.log)[100..], [(5, 100), (5, 101)]);
        machine.log.truncate_after(Some(LogId::new(3, 99))).unwrap();
        machine.append(vec![NewEntry::Frame(frame_at(&fourth.log, 100))]);
        // (5,101) is still behind it, whole, with index + 1 and a higher term.
        let stale = frame_at(&fifth.log, 101);
        let (file, offset) = place_of(stale.position());
        let bytes = content(&machine.disk, &file);
        assert_eq!(bytes[offset as usize..][..stale.bytes().len()], stale.bytes()[..]);
        let machine = machine.crash(luck);
        assert_eq!(ids(&machine.log)[100..], [(4, 100)], "the log (4,100) (5,101) existed on no leader");
        let machine = machine.restart();
        assert_eq!(ids(&machine.log)[100..], [(4, 100)]);
    }
}

/// Small writes bring zeros with them up to the next multiple of `zeros_ahead`; never beyond the segment, and never over
/// anything that counts.
#[test]
fn zeros_go_ahead_of_small_writes() {
    let with_zeros = || Options { zeros_ahead: 1024, ..options() };
    let open = |disk: &CrashDisk, flusher: &Flusher| {
        Log::open_with(Arc::new(disk.clone()), Path::new(DIR), &identity(), flusher, with_zeros()).unwrap()
    };
    for syncs in 1..40 {
        for luck in 0..5 {
            let (disk, flusher) = (CrashDisk::new(luck), Flusher::manual());
            let log = open(&disk, &flusher);
            let machine = Machine { disk, flusher, log };
            machine.append_lens(1, &[200, 300]);
            let end = machine.log.state().end.0;
            let bytes = content(&machine.disk, &segment_file(0));
            let filled = end.next_multiple_of(1024) as usize;
            assert!(bytes[end as usize..filled].iter().all(|&byte| byte == 0));
            // Up to the end of the segment and into the next, with a crash at each sync.
            machine.disk.power_off_at_sync(machine.disk.syncs() + syncs);
            let mut acknowledged = machine.log.state().synced;
            for n in 0..40 {
                append(&machine.log, drafts(&machine.log, 1, &[400 + n]));
                machine.flusher.turn();
                if machine.disk.is_off() {
                    break;
                }
                acknowledged = machine.log.state().synced;
            }
            assert!(machine.disk.is_off(), "sync {syncs} has come");
            let Machine { disk, flusher, log } = machine;
            drop((log, flusher));
            disk.crash(luck);
            let flusher = Flusher::manual();
            let log = open(&disk, &flusher);
            let index = |id: Option<LogId>| id.map(|id| id.index);
            assert!(index(log.state().last) >= index(acknowledged), "{acknowledged:?} was acknowledged");
            // It goes on where it ended.
            let machine = Machine { disk, flusher, log };
            machine.append_lens(2, &[100]);
            assert_eq!(machine.log.state().last.unwrap().term.0, 2);
        }
    }
}

#[test]
fn rule_5_the_watermark_is_lowered_before_anything_is_overwritten() {
    let machine = Machine::new();
    machine.append_lens(1, &[100; 10]);
    machine.flusher.turn_idle();
    machine.log.truncate_after(Some(LogId::new(1, 4))).unwrap();
    append(&machine.log, vec![draft(2, 5, 100)]);
    // The first sync is that of the lowered watermark, the second that of the new frame: torn, it is no damage.
    machine.disk.power_off_at_sync(machine.disk.syncs() + 2);
    machine.flusher.turn();
    assert!(machine.disk.is_off());
    for luck in 0..30 {
        let disk = machine.disk.fork();
        disk.crash(luck);
        let found = ids(&Machine::on(disk).log);
        assert!(found.len() >= 5 && found[..5] == [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)], "{found:?}");
    }
}

#[test]
fn rule_5_a_segment_that_is_open_again_has_a_watermark_of_its_own() {
    let machine = Machine::new();
    machine.append_lens(1, &[7000, 2000]);
    // The first watermark of the second segment says where the first one ends, and that is where the log is cut.
    machine.append_lens(1, &[7000]);
    assert_eq!(machine.log.segments().len(), 2);
    machine.log.truncate_after(Some(LogId::new(1, 1))).unwrap();
    machine.flusher.turn();
    assert_eq!(machine.log.segments().len(), 1);
    for index in 0..2 {
        let (disk, ..) = flip(&machine, index);
        let error = refuses(&disk);
        assert!(matches!(error, StoreError::Corrupt { index: at, .. } if at.0 == index), "{error}");
    }
}

#[test]
fn rule_5_slots_that_come_back_behind_a_sealed_segment_do_not_count() {
    let mut came_back = 0;
    for luck in 0..24 {
        let machine = Machine::new();
        // Many slots, so that the last one has a high sequence.
        for _ in 0..6 {
            machine.append_lens(1, &[1000]);
            machine.flusher.turn_idle();
        }
        // The process dies when the next segment is part of the log and the slots behind the old one are cut off, but
        // before anything is written to the new one. (Header, watermark, frames.)
        let after = 2;
        machine.disk.inject(Fault {
            op: FaultOp::Write,
            path: "/next-".into(),
            after,
            errno: 5,
            for_good: false,
        });
        append(&machine.log, drafts(&machine.log, 1, &[8000]));
        machine.flusher.turn();
        let machine = machine.restart();
        // The page cache is still there: a few entries more, all of them synced and marked.
        machine.append_lens(2, &[8000]);
        machine.append_lens(2, &[100]);
        machine.flusher.turn_idle();
        assert_eq!(machine.log.segments().len(), 2);
        let (file, offset) = place_of(frame_at(&machine.log, 7).position());
        // And now the power fails, which may undo the cut: it was never synced.
        machine.disk.crash(luck);
        came_back += usize::from(content(&machine.disk, &segment_file(0)).len() > SEGMENT as usize);
        machine.disk.flip(Path::new(&file), offset + 70).unwrap();
        let error = refuses(&machine.disk);
        assert!(matches!(error, StoreError::Corrupt { index: LogIndex(7), .. }), "luck {luck}: {error}");
    }
    assert!(came_back > 3, "{came_back}");
}

#[test]
fn rule_5_segments_after_a_truncation_are_gone_before_the_next_append() {
    let machine = Machine::new();
    machine.append_lens(1, &[7000; 4]);
    machine.log.truncate_after(Some(LogId::new(1, 0))).unwrap();
    let ack = append(&machine.log, vec![draft(2, 1, 100)]);
    machine.flusher.turn();
    ack.ok();
    machine.disk.crash(0);
    let names = machine.disk.list(Path::new("/data/g/log")).unwrap();
    let segments: Vec<_> = names.iter().filter(|name| name.len() == 20).collect();
    assert_eq!(segments, ["00000000000000000000"]);
    assert_eq!(ids(&Machine::on(machine.disk).log), [(1, 0), (2, 1)]);
}

#[test]
fn rule_5_what_is_kept_above_the_watermark_is_written_again() {
    // The sync fails; the page cache still shows the frames, and a later sync would succeed without writing them.
    let machine = Machine::new();
    machine.append_lens(1, &[100; 3]);
    machine.flusher.turn_idle();
    let ack = append(&machine.log, drafts(&machine.log, 1, &[2000, 2000]));
    machine.disk.inject(store::Fault {
        op: store::FaultOp::Sync,
        path: "/log/".into(),
        after: 0,
        errno: 5,
        for_good: false,
    });
    machine.flusher.turn();
    assert_eq!(ack.get(), Some(false));
    let machine = machine.restart();
    assert_eq!(next_index(&machine.log), 5, "read back from the page cache");
    for luck in 0..8 {
        let disk = machine.disk.fork();
        disk.crash(luck * 4);
        assert_eq!(next_index(&Machine::on(disk).log), 5, "what recovery reported must be durable");
    }
}

#[test]
fn damage_in_a_sealed_segment_is_found_by_whoever_reads_it() {
    let machine = Machine::new();
    machine.append_lens(1, &[3000; 20]);
    let (disk, position, file) = flip(&machine, 3);
    let machine = Machine::on(disk);
    let corrupt = |error: StoreError| match error {
        StoreError::Corrupt { file: named, position: at, index, .. } => {
            assert_eq!((named.to_str().unwrap(), at, index), (file.as_str(), position, LogIndex(3)));
        }
        other => panic!("{other}"),
    };
    corrupt(machine.log.read(LogIndex(3), LogIndex(4), 1).unwrap_err());
    assert_eq!(frame_at(&machine.log, 9).id(), LogId::new(1, 9), "others are not harmed");
    let mut reader = machine.log.frames_from(LogPosition(0));
    for _ in 0..3 {
        reader.next_item().unwrap().unwrap();
    }
    corrupt(reader.next_item().unwrap_err());
}

#[test]
fn a_damaged_manifest_or_header_is_refused() {
    let machine = Machine::new();
    machine.append_lens(1, &[3000; 8]);
    machine.flusher.turn_idle();
    let open = machine.log.segments().last().unwrap().start;
    for (file, offset) in [("/data/g/manifest".to_owned(), 30), (segment_file(open.0), 60)] {
        let disk = machine.disk.fork();
        disk.flip(Path::new(&file), offset).unwrap();
        disk.crash(0);
        assert!(
            matches!(refuses(&disk), StoreError::Corrupt { file: named, .. } if named == Path::new(&file))
        );
    }
}

#[test]
fn any_damaged_byte_is_an_error_or_harmless_and_never_a_panic() {
    let machine = Machine::new();
    machine.append_lens(1, &[300, 3000, 2000, 10, 5000, 4000, 700, 9000, 20]);
    machine.append(vec![coupled(1, 9, 200, 2, 2000), messages(1, 10, 2, 2000), coupled(1, 11, 20, 0, 2001)]);
    machine.log.save_committed(Some(LogId::new(1, 9)));
    vote(&machine.log, 4, 2);
    for index in [2, 4, 9] {
        let frame = frame_at(&machine.log, index);
        machine.log.save_tables(store::TablesKind::Checkpoint, &meta(&frame), b"tables").unwrap();
    }
    machine.flusher.turn_idle();
    let expect = entries(&machine.log);
    let disk = machine.disk.clone();
    drop(machine);
    let mut files = Vec::new();
    for dir in ["/data/g", "/data/g/log", "/data/g/tables"] {
        for name in disk.list(Path::new(dir)).unwrap() {
            let path = format!("{dir}/{name}");
            let len = disk.open(Path::new(&path)).and_then(|file| file.len()).unwrap_or(0);
            // No bytes of these mean anything.
            if !name.starts_with("next-") && name != "manifest.spare" && len > 0 {
                files.push(path);
            }
        }
    }
    assert!(files.len() >= 10, "{files:?}");
    let mut dice = Dice(5);
    let (mut opened, mut refused) = (0, 0);
    for round in 0..1500 {
        let disk = disk.fork();
        let path = &files[dice.roll(files.len() as u64) as usize];
        let len = disk.open(Path::new(path)).unwrap().len().unwrap();
        let what = if round % 5 == 0 {
            let short = dice.roll(len);
            disk.open(Path::new(path)).unwrap().set_len(short).unwrap();
            format!("{path} cut to {short}")
        } else {
            let is_near = round % 2 == 0 || path.ends_with("manifest");
            let at = dice.roll(len.min(if is_near { 200 } else { u64::MAX }));
            disk.flip(Path::new(path), at).unwrap();
            format!("{path} flipped at {at}")
        };
        let log = match try_open(&disk, &Flusher::manual()) {
            Ok(log) => log,
            Err(StoreError::Corrupt { .. } | StoreError::Incomplete { .. }) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("{what}: {error}"),
        };
        opened += 1;
        assert_eq!(log.state().last, expect.last().map(store::Frame::id), "{what}");
        assert_eq!(log.vote().map(|vote| vote.term.0), Some(4), "{what}");
        for frame in &expect {
            match log.read(frame.id().index, frame.id().index.next(), 1) {
                Ok(found) => assert_eq!(found[0].bytes(), frame.bytes(), "{what}"),
                Err(StoreError::Corrupt { index, .. }) => assert!(index <= frame.id().index, "{what}"),
                Err(error) => panic!("{what}: {error}"),
            }
        }
        let mut reader = log.frames_from(LogPosition(0));
        for frame in &expect {
            match reader.next_item() {
                Ok(Some(store::LogItem::Frame(found))) => assert_eq!(found.bytes(), frame.bytes(), "{what}"),
                Ok(other) => panic!("{what}: {other:?}"),
                Err(error) => {
                    assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {error}");
                    break;
                }
            }
        }
        if let Some((_, tables)) = log.load_newest_checkpoint().unwrap() {
            assert_eq!(tables, b"tables", "{what}");
        }
    }
    // A manifest may be cut behind its content.
    assert!(opened > 300 && refused > 250, "{opened} {refused}");
}

#[test]
fn an_old_manifest_is_noticed() {
    // A manifest that does not know the newest segments: what was synced there would be lost without a word.
    let machine = Machine::new();
    machine.append_lens(1, &[100]);
    let old = content(&machine.disk, "/data/g/manifest");
    machine.append_lens(1, &[7000; 3]);
    machine.flusher.turn_idle();
    store::replace_file(&machine.disk, Path::new("/data/g/manifest"), &[&old]).unwrap();
    machine.disk.crash(0);
    let error = refuses(&machine.disk);
    assert!(error.to_string().contains("not the newest manifest"), "{error}");
}

/// A stored message's own CRC covers its body; that of the frame the rest of it.
#[test]
fn a_damaged_record_is_not_given_out_as_sound_and_hurts_no_other() {
    let machine = Machine::new();
    for index in 0..6 {
        machine.append(vec![messages(1, index, 2, 5000)]);
    }
    machine.flusher.turn_idle();
    let places: Vec<(LogPosition, u32)> = entries(&machine.log)
        .iter()
        .flat_map(|frame| {
            let records = frame.records();
            let len = u32::from_be_bytes(records[..4].try_into().unwrap());
            let rest = records.len() as u32 - len;
            [(frame.records_position(), len), (frame.records_position().plus(len.into()), rest)]
        })
        .collect();
    let read =
        |log: &Log| log.read_checked(&places).into_iter().map(|record| record.is_ok()).collect::<Vec<_>>();
    assert_eq!(read(&machine.log), [true; 12]);
    // In the properties of the fifth record: both messages of its entry count as damaged.
    let (position, len) = places[4];
    let record = machine.log.read_bytes(position, len as usize).unwrap();
    let key = record.windows(2).position(|bytes| bytes == b"k1").unwrap() as u64;
    let (file, offset) = place_of(position);
    machine.disk.flip(Path::new(&file), offset + key).unwrap();
    assert_eq!(read(&machine.log), (0..12).map(|n| n != 4 && n != 5).collect::<Vec<_>>());
    let error = machine.log.frame_with(position).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    // As far as its own CRC tells it is sound.
    let record = machine.log.read_bytes(position, len as usize).unwrap();
    wire::StoredMessage::parse(&record).unwrap().verify().unwrap();
    machine.disk.flip(Path::new(&file), offset + key).unwrap();
    assert_eq!(read(&machine.log), [true; 12]);
    // In the length of an entry: what lies behind is not found by it, and is not taken for sound.
    let (file, offset) = place_of(frame_at(&machine.log, 3).position());
    machine.disk.flip(Path::new(&file), offset + 10).unwrap();
    let read = read(&machine.log);
    assert_eq!(read[..6], [true; 6]);
    assert_eq!(read[6..8], [false; 2]);
}
