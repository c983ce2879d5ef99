//! Rules 3 and 7: checkpoint, boundary, current snapshot; purge; nothing durable names what this disk does not hold.

use std::path::Path;

use store::{
    CrashDisk, Disk, Flusher, Log, LogId, LogIndex, LogPosition, ReceivedSnapshot, StoreError, TablesKind,
    TablesMeta,
};

use super::harness::{
    Machine, SEGMENT, append, draft, drafts, entries, frame_at, frames_as_entries, ids, meta, names,
    next_index, try_open,
};

#[test]
fn rule_3_tables_beyond_the_fsynced_log_are_refused() {
    let machine = Machine::new();
    machine.append_lens(1, &[100; 3]);
    let ack = append(&machine.log, drafts(&machine.log, 1, &[100; 2]));
    let ahead = meta(&frame_at(&machine.log, 4));
    for kind in [TablesKind::Checkpoint, TablesKind::Boundary] {
        let error = machine.log.save_tables(kind, &ahead, b"t").unwrap_err();
        assert!(
            matches!(error, StoreError::NotDurable { index: LogIndex(4), synced: Some(LogIndex(2)) }),
            "{error}"
        );
    }
    assert!(names(&machine.disk, "/data/g/tables").is_empty());
    machine.log.save_tables(TablesKind::Checkpoint, &meta(&frame_at(&machine.log, 2)), b"t").unwrap();
    machine.flusher.turn();
    ack.ok();
    machine.log.save_tables(TablesKind::Checkpoint, &ahead, b"t4").unwrap();
    assert_eq!(machine.log.load_newest_checkpoint().unwrap().unwrap(), (ahead, b"t4".to_vec()));
}

#[test]
fn rule_3_the_commit_index_on_disk_is_never_beyond_the_fsynced_log() {
    for luck in 0..12 {
        let machine = Machine::new();
        machine.append_lens(1, &[100; 3]);
        append(&machine.log, drafts(&machine.log, 1, &[100; 3]));
        // A quorum of others has it: committed here before it is fsynced here.
        machine.log.save_committed(Some(LogId::new(1, 5)));
        assert_eq!(machine.log.read_committed(), Some(LogId::new(1, 5)));
        machine.disk.power_off_at_sync(machine.disk.syncs() + 1);
        machine.flusher.turn();
        let machine = machine.crash(luck);
        // In the slots themselves: formats.md 3.
        let file = super::harness::content(&machine.disk, &super::harness::segment_file(0));
        for slot in [&file[SEGMENT as usize..], &file[SEGMENT as usize + 4096..]] {
            let number = |at: usize| u64::from_be_bytes(slot[at..at + 8].try_into().unwrap());
            assert!(number(48) <= number(24), "committed below {}, synced below {}", number(48), number(24));
        }
        assert!(machine.log.read_committed() <= machine.log.state().last);
        machine.log.check().unwrap();
    }
    // And what is durable is remembered.
    let machine = Machine::new();
    machine.append_lens(1, &[100; 3]);
    machine.log.save_committed(Some(LogId::new(1, 1)));
    machine.flusher.turn_idle();
    assert_eq!(machine.crash(0).log.read_committed(), Some(LogId::new(1, 1)));
}

#[test]
fn rule_3_tables_newer_than_the_log_are_discarded() {
    let machine = Machine::new();
    machine.append_lens(1, &[7000; 4]);
    let other = Machine::new();
    other.append_lens(1, &[7000; 9]);
    other.log.save_committed(Some(LogId::new(1, 8)));
    for index in [0, 6] {
        other.log.save_tables(TablesKind::Boundary, &meta(&frame_at(&other.log, index)), b"t").unwrap();
        let name = format!("/data/g/tables/boundary-{index}");
        let bytes = super::harness::content(&other.disk, &name);
        store::replace_file(&machine.disk, Path::new(&name), &[&bytes]).unwrap();
    }
    let machine = machine.restart();
    assert_eq!(machine.log.boundaries().unwrap(), [LogIndex(0)], "entry 6 is not in this log");
}

#[test]
fn the_two_newest_checkpoints_are_kept_and_a_damaged_one_is_passed_over() {
    let machine = Machine::new();
    machine.append_lens(1, &[100; 9]);
    for index in [1, 3, 5, 7] {
        machine
            .log
            .save_tables(TablesKind::Checkpoint, &meta(&frame_at(&machine.log, index)), &[index as u8; 100])
            .unwrap();
    }
    assert_eq!(names(&machine.disk, "/data/g/tables"), ["checkpoint-5", "checkpoint-7"]);
    machine.disk.flip(Path::new("/data/g/tables/checkpoint-7"), 90).unwrap();
    let machine = machine.crash(0);
    let (found, tables) = machine.log.load_newest_checkpoint().unwrap().unwrap();
    assert_eq!((found.last, tables), (LogId::new(1, 5), vec![5; 100]));
    assert_eq!(ids(&machine.log).len(), 9);
}

/// A log with several segments and the boundary snapshot of each sealed one.
fn with_boundaries(machine: &Machine) -> Vec<TablesMeta> {
    machine.append_lens(1, &[3000; 20]);
    let last = next_index(&machine.log) - 1;
    machine.log.save_committed(Some(LogId::new(1, last)));
    let mut metas = Vec::new();
    for sealed in machine.log.segments().iter().filter_map(|segment| segment.sealed) {
        let frame = frame_at(&machine.log, sealed.last.unwrap().index.0);
        assert!(machine.log.opens_segment(&frame_at(&machine.log, frame.id().index.0 + 1)));
        assert!(!machine.log.opens_segment(&frame));
        let meta = meta(&frame);
        machine
            .log
            .save_tables(TablesKind::Boundary, &meta, format!("at {}", frame.id().index).as_bytes())
            .unwrap();
        metas.push(meta);
    }
    assert!(metas.len() >= 4);
    metas
}

#[test]
fn rule_7_purging_to_a_boundary() {
    let machine = Machine::new();
    let metas = with_boundaries(&machine);
    let boundary = metas[1];
    let before = entries(&machine.log);
    assert!(matches!(machine.log.set_current_snapshot(LogId::new(1, 999)), Err(StoreError::Invariant(_))));
    machine.log.set_current_snapshot(boundary.last).unwrap();
    machine.log.check().unwrap();
    machine.log.purge(boundary.last).unwrap();
    machine.log.purge(boundary.last).unwrap();
    machine.log.purge(metas[0].last).unwrap();
    machine.log.check().unwrap();
    machine.flusher.turn();
    let state = machine.log.state();
    assert_eq!(state.purged, Some(boundary.last));
    assert_eq!(state.first_index, boundary.last.index.next());
    assert_eq!(state.first_position.0 % SEGMENT, 0);
    assert_eq!(ids(&machine.log).len() as u64, 19 - boundary.last.index.0);
    assert!(matches!(machine.log.read(LogIndex(0), LogIndex(1), 1), Err(StoreError::Purged { .. })));
    let old = before[0].position();
    assert!(matches!(machine.log.read_bytes(old, 8), Err(StoreError::Purged { .. })));
    assert_eq!(
        machine.log.boundaries().unwrap()[0],
        boundary.last.index,
        "older ones went with their segments"
    );
    let names = names(&machine.disk, "/data/g/log");
    assert!(
        !names
            .iter()
            .any(|name| name.starts_with("00000000000000000000") || name.starts_with("00000000000000016384"))
    );
    assert!(matches!(machine.log.set_current_snapshot(metas[0].last), Err(StoreError::Invariant(_))));
    machine.log.set_current_snapshot(boundary.last).unwrap();
    machine.log.check().unwrap();
    let machine = machine.crash(3);
    assert_eq!(machine.log.state().purged, Some(boundary.last));
    let (meta, tables) = machine.log.current_snapshot().unwrap().unwrap();
    assert_eq!((meta, tables), (boundary, format!("at {}", boundary.last.index).into_bytes()));
    assert_eq!(
        machine.log.load_newest_checkpoint().unwrap().unwrap().0,
        boundary,
        "the snapshot is a checkpoint too"
    );
    machine.log.check().unwrap();
    machine.append_lens(2, &[3000; 4]);
    machine.log.check().unwrap();
}

#[test]
fn rule_7_everything_may_be_purged() {
    let machine = Machine::new();
    machine.append_lens(1, &[100; 5]);
    machine.log.purge(LogId::new(1, 2)).unwrap();
    machine.flusher.turn();
    assert_eq!(ids(&machine.log), [(1, 3), (1, 4)]);
    assert!(
        machine.log.check().is_err(),
        "a purge without a snapshot breaks invariant 6, and check() says so"
    );
    machine.log.purge(LogId::new(1, 4)).unwrap();
    assert_eq!(machine.log.state().last, Some(LogId::new(1, 4)));
    machine.append_lens(2, &[100; 2]);
    let machine = machine.crash(1);
    assert_eq!(ids(&machine.log), [(2, 5), (2, 6)]);
    assert_eq!(machine.log.state().purged, Some(LogId::new(1, 4)));
    machine.log.truncate_after(Some(LogId::new(1, 4))).unwrap();
    machine.append_lens(3, &[7000; 2]);
    assert_eq!(ids(&machine.crash(2).log), [(3, 5), (3, 6)]);
}

#[test]
fn rule_7_purging_beyond_the_log_needs_an_installed_snapshot() {
    let machine = Machine::new();
    machine.append_lens(1, &[100; 5]);
    let error = machine.log.purge(LogId::new(1, 20)).unwrap_err();
    assert!(matches!(error, StoreError::Invariant(_)), "{error}");
    assert_eq!(ids(&machine.log).len(), 5);
    let leader = leader();
    let meta = boundary_of(&leader);
    install(&machine.log, &meta, b"theirs").unwrap();
    for wrong in [LogId::new(7, meta.last.index.0), LogId::new(1, meta.last.index.0 + 1)] {
        assert!(machine.log.purge(wrong).is_err());
    }
}

#[test]
fn a_snapshot_from_beyond_any_log_is_refused() {
    let machine = Machine::new();
    machine.append_lens(1, &[100; 5]);
    let good = boundary_of(&leader());
    for end in [u64::MAX, u64::MAX - SEGMENT, (1 << 62) + 1] {
        let error = install(&machine.log, &TablesMeta { end: LogPosition(end), ..good }, b"t").unwrap_err();
        assert!(matches!(error, StoreError::Invariant(_)), "{error}");
    }
    let last = LogId::new(5, u64::MAX);
    assert!(install(&machine.log, &TablesMeta { last, ..good }, b"t").is_err());
    assert!(machine.log.current_snapshot().unwrap().is_none());
    let machine = machine.restart();
    assert_eq!(ids(&machine.log).len(), 5);
    install(&machine.log, &good, b"t").unwrap();
}

fn receive(log: &Log, meta: &TablesMeta, tables: &[u8]) -> Result<ReceivedSnapshot, StoreError> {
    let received = log.receive_snapshot(meta, tables.len() as u64)?;
    received.fill(tables)?;
    Ok(received)
}

fn install(log: &Log, meta: &TablesMeta, tables: &[u8]) -> Result<(), StoreError> {
    log.install_snapshot(&receive(log, meta, tables)?)
}

/// log.md 10, for snapshots: what a full disk refuses has changed nothing, and what it took is installed without room.
#[test]
fn rule_10_a_snapshot_is_refused_before_it_counts() {
    let boundary = boundary_of(&leader());
    let machine = Machine::new();
    machine.append_lens(1, &[3000; 3]);
    let tables = vec![7; 50_000];
    let others = names(&machine.disk, "/data/g/tables");
    machine.disk.set_capacity(Some(0));
    let error = receive(&machine.log, &boundary, &tables).unwrap_err();
    assert!(
        matches!(&error, StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
    );
    assert_eq!(names(&machine.disk, "/data/g/tables"), others, "what was begun is given back");
    assert_eq!(machine.log.current_snapshot().unwrap(), None);
    machine.append_lens(1, &[100]);

    machine.disk.set_capacity(None);
    // One that Raft does not want leaves nothing; one that a crash interrupts is gone at the next open.
    drop(receive(&machine.log, &boundary, &tables).unwrap());
    machine.flusher.turn();
    assert_eq!(names(&machine.disk, "/data/g/tables"), others);
    std::mem::forget(receive(&machine.log, &boundary, &tables).unwrap());
    let disk = machine.disk.fork();
    disk.crash(3);
    assert_eq!(names(&Machine::on(disk).disk, "/data/g/tables"), others);
    let empty = machine.log.receive_snapshot(&boundary, 9).unwrap();
    assert!(matches!(machine.log.install_snapshot(&empty), Err(StoreError::Invariant(_))));

    // More room than needed is given back.
    let received = machine.log.receive_snapshot(&boundary, 2 * tables.len() as u64).unwrap();
    received.fill(&tables).unwrap();
    machine.disk.set_capacity(Some(0));
    machine.log.install_snapshot(&received).unwrap();
    assert_eq!(machine.log.current_snapshot().unwrap(), Some((boundary, tables)));
    machine.log.purge(boundary.last).unwrap();
    machine.flusher.turn();
    machine.log.check().unwrap();
    assert_eq!(machine.log.state().purged, Some(boundary.last));
}

/// A leader whose log is far ahead.
fn leader() -> Machine {
    let machine = Machine::on(CrashDisk::new(9));
    machine.append_lens(5, &[3000; 30]);
    machine
}

fn boundary_of(leader: &Machine) -> TablesMeta {
    let sealed = leader.log.segments().iter().filter_map(|segment| segment.sealed).nth(5).unwrap();
    meta(&frame_at(&leader.log, sealed.last.unwrap().index.0))
}

#[test]
fn rule_7_install_snapshot_never_touches_the_log_and_the_purge_after_it_restarts_it() {
    let leader = leader();
    let boundary = boundary_of(&leader);
    let machine = Machine::new();
    machine.append_lens(1, &[3000; 8]);
    machine.log.save_tables(TablesKind::Checkpoint, &meta(&frame_at(&machine.log, 6)), b"mine").unwrap();
    let before = ids(&machine.log);
    install(&machine.log, &boundary, b"theirs").unwrap();
    assert_eq!(ids(&machine.log), before);
    machine.log.check().unwrap();
    // A crash here: the snapshot is current, the log as it was, and the tables are those that the log reaches.
    let machine = machine.crash(0);
    assert_eq!(ids(&machine.log), before);
    assert_eq!(machine.log.current_snapshot().unwrap().unwrap(), (boundary, b"theirs".to_vec()));
    assert_eq!(machine.log.load_newest_checkpoint().unwrap().unwrap().1, b"mine");
    machine.log.check().unwrap();

    machine.log.purge(boundary.last).unwrap();
    assert_eq!(machine.log.state().last, Some(boundary.last));
    assert_eq!(machine.log.state().purged, Some(boundary.last));
    let rest = entries(&leader.log).split_off(boundary.last.index.0 as usize + 1);
    let ack = append(&machine.log, frames_as_entries(&rest));
    machine.flusher.turn();
    ack.ok();
    machine.log.check().unwrap();
    for segment in leader
        .log
        .segments()
        .iter()
        .filter(|segment| segment.sealed.is_some() && segment.start >= boundary.end)
    {
        let path = super::harness::segment_file(segment.start.0);
        assert!(
            super::harness::content(&leader.disk, &path) == super::harness::content(&machine.disk, &path)
        );
    }
    let machine = machine.crash(1);
    assert_eq!(entries(&machine.log).len(), rest.len());
    assert_eq!(machine.log.load_newest_checkpoint().unwrap().unwrap().1, b"theirs");
    assert_eq!(names(&machine.disk, "/data/g/tables").len(), 1, "tables of before are gone");
}

#[test]
fn rule_7_a_snapshot_that_contradicts_the_log_waits_for_the_truncation_before_it() {
    let leader = leader();
    let boundary = boundary_of(&leader);
    let base = Machine::new();
    // Beyond the boundary, with other entries.
    base.append_lens(1, &[3000; 40]);
    base.log.save_committed(Some(LogId::new(1, 5)));
    base.log.save_tables(TablesKind::Checkpoint, &meta(&frame_at(&base.log, 5)), b"mine").unwrap();
    base.flusher.turn_idle();
    base.disk.crash(0);
    for n in 1.. {
        let disk = base.disk.fork();
        disk.power_off_at_sync(base.disk.syncs() + n);
        let flusher = Flusher::manual();
        if let Ok(log) = try_open(&disk, &flusher) {
            // As openraft does: truncate to what is committed, install, purge.
            let _ = log.truncate_after(Some(LogId::new(1, 5)));
            let _ = install(&log, &boundary, b"theirs");
            let _ = log.purge(boundary.last);
            flusher.turn();
        }
        let is_over = !disk.is_off();
        for luck in 0..6 {
            let disk = disk.fork();
            disk.crash(luck);
            let machine = Machine::on(disk);
            let (found, _) = machine.log.load_newest_checkpoint().unwrap().unwrap();
            let last = machine.log.state().last.unwrap();
            if let Some((snapshot, _)) = machine.log.current_snapshot().unwrap() {
                assert_eq!(snapshot, boundary);
                assert!(
                    last.index.0 <= 5 || last == boundary.last,
                    "a snapshot at {} over {last}",
                    snapshot.last
                );
            } else {
                assert_eq!(found.last, LogId::new(1, 5));
            }
            machine.log.check().unwrap();
        }
        if is_over {
            break;
        }
    }
}

#[test]
fn rule_7_a_crash_in_the_jump_leaves_the_log_before_or_after_it() {
    let leader = leader();
    let boundary = boundary_of(&leader);
    let rest = entries(&leader.log).split_off(boundary.last.index.0 as usize + 1);
    let run = |disk: &CrashDisk| {
        let flusher = Flusher::manual();
        let Ok(log) = try_open(disk, &flusher) else { return false };
        let jump = || -> Result<(), StoreError> {
            install(&log, &boundary, b"theirs")?;
            log.purge(boundary.last)?;
            log.append(frames_as_entries(&rest), Box::new(|_| ()))
        };
        let _ = jump();
        flusher.turn();
        !disk.is_off()
    };
    let base = Machine::new();
    base.append_lens(1, &[3000; 8]);
    // Its uncommitted tail reaches beyond the place where the log goes on.
    append(&base.log, drafts(&base.log, 1, &[10_000; 9]));
    base.flusher.turn_idle();
    let before = ids(&base.log);
    assert!(
        base.log.state().end > LogPosition(boundary.end.0 + SEGMENT)
            && before.len() < boundary.last.index.0 as usize
    );
    let base = {
        base.disk.crash(0);
        base.disk
    };
    let mut n = 0;
    let mut seen = [0, 0];
    loop {
        n += 1;
        let disk = base.fork();
        disk.power_off_at_sync(base.syncs() + n);
        let is_over = run(&disk);
        for luck in 0..8 {
            let disk = disk.fork();
            disk.crash(luck);
            let log = match try_open(&disk, &Flusher::manual()) {
                Ok(log) => log,
                Err(error) => panic!("sync {n}, luck {luck}: {error}"),
            };
            let purged = log.state().purged;
            seen[usize::from(purged.is_some())] += 1;
            if purged.is_some() {
                assert_eq!(purged, Some(boundary.last));
                let found = entries(&log);
                assert_eq!(
                    found.iter().map(store::Frame::id).collect::<Vec<_>>(),
                    rest[..found.len()].iter().map(store::Frame::id).collect::<Vec<_>>()
                );
            } else {
                assert_eq!(ids(&log), before, "sync {n}, luck {luck}");
                // openraft purges again at its start.
                if log.current_snapshot().unwrap().is_some() {
                    log.purge(boundary.last).unwrap();
                    assert_eq!(log.state().last, Some(boundary.last));
                }
            }
            log.check().unwrap();
        }
        if is_over {
            break;
        }
    }
    assert!(n > 10 && seen[0] > 10 && seen[1] > 10, "{n} {seen:?}");
}

#[test]
fn rule_7_purge_is_idempotent_after_a_crash_at_any_sync() {
    let base = Machine::new();
    let metas = with_boundaries(&base);
    let all = ids(&base.log);
    base.flusher.turn_idle();
    let base = {
        base.disk.crash(0);
        base.disk
    };
    for n in 1.. {
        let disk = base.fork();
        disk.power_off_at_sync(base.syncs() + n);
        let is_over = {
            let flusher = Flusher::manual();
            if let Ok(log) = try_open(&disk, &flusher) {
                let _ = log.set_current_snapshot(metas[2].last).and_then(|()| log.purge(metas[2].last));
                flusher.turn();
            }
            !disk.is_off()
        };
        for luck in 0..8 {
            let disk = disk.fork();
            disk.crash(luck);
            let machine = Machine::on(disk);
            let first = machine.log.state().first_index.0;
            assert!(first == 0 || first == metas[2].last.index.0 + 1);
            assert_eq!(ids(&machine.log), all[first as usize..]);
            if first == 0 {
                machine.log.set_current_snapshot(metas[2].last).unwrap();
                machine.log.purge(metas[2].last).unwrap();
                machine.flusher.turn();
            }
            machine.log.check().unwrap();
            let machine = machine.crash(luck);
            assert_eq!(ids(&machine.log), all[metas[2].last.index.0 as usize + 1..]);
        }
        if is_over {
            assert!(n > 3);
            break;
        }
    }
}

#[test]
fn a_purge_then_everything_else() {
    let machine = Machine::new();
    let metas = with_boundaries(&machine);
    let last = *metas.last().unwrap();
    machine.log.set_current_snapshot(last.last).unwrap();
    machine.log.purge(last.last).unwrap();
    let ack = append(
        &machine.log,
        vec![draft(2, next_index(&machine.log), 8000), draft(2, next_index(&machine.log) + 1, 8000)],
    );
    machine.flusher.turn();
    ack.ok();
    machine.log.check().unwrap();
    let open = machine.log.segments();
    assert!(open.len() <= 3, "{open:?}");
    assert!(
        machine
            .disk
            .list(Path::new("/data/g/tables"))
            .unwrap()
            .contains(&format!("boundary-{}", last.last.index))
    );
}
