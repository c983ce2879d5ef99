//! Rule 16: the first failed write or fsync ends the log for good.

use store::{Fault, FaultOp, Flusher, LogId, StoreError, TablesKind, Term, Vote};

use super::harness::{Machine, append, drafts, frame_at, ids, meta, next_index, try_open, vote};

fn fault(op: FaultOp, path: &str) -> Fault {
    Fault { op, path: path.into(), after: 0, errno: 5, for_good: false }
}

#[test]
fn rule_16_after_an_error_nothing_is_written_again() {
    for (op, path) in [
        (FaultOp::Sync, "/log/"),
        (FaultOp::Write, "/log/"),
        (FaultOp::Sync, "/vote"),
        (FaultOp::Write, "/vote"),
    ] {
        let machine = Machine::new();
        machine.append_lens(1, &[100; 3]);
        machine.flusher.turn_idle();
        machine.disk.inject(fault(op, path));
        let appended = append(&machine.log, drafts(&machine.log, 1, &[100]));
        let voted = vote(&machine.log, 9, 9);
        let later = append(&machine.log, drafts(&machine.log, 1, &[100]));
        machine.flusher.turn();
        assert_eq!(appended.get(), Some(path == "/vote"), "{op:?} {path}");
        assert_eq!((voted.get(), later.get()), (Some(false), Some(false)));
        let steps = machine.disk.steps();
        let refused = machine.log.append(drafts(&machine.log, 1, &[100]), Box::new(|_| panic!("done")));
        assert!(matches!(refused, Err(StoreError::Poisoned { .. })));
        assert_eq!(vote(&machine.log, 10, 1).get(), Some(false));
        assert!(machine.log.truncate_after(Some(LogId::new(1, 0))).is_err());
        assert!(machine.log.purge(LogId::new(1, 0)).is_err());
        assert!(machine.log.sync_all().is_err() && machine.log.reserve(1).is_err());
        machine.flusher.turn_idle();
        assert_eq!(machine.disk.steps(), steps, "not one more operation");
        assert!(ids(&machine.log).len() >= 4, "reads go on");
        assert_eq!(machine.log.vote(), None);
        for luck in 0..6 {
            let disk = machine.disk.fork();
            disk.crash(luck);
            let machine = Machine::on(disk);
            assert!(next_index(&machine.log) >= 3);
            machine.append_lens(2, &[100]);
        }
    }
}

#[test]
fn rule_16_an_error_while_rolling_fails_the_appends_that_need_the_new_segment() {
    for (op, path) in [
        (FaultOp::Sync, "/next-"),
        (FaultOp::Write, "/next-"),
        (FaultOp::SyncDir, "/log"),
        (FaultOp::Sync, "manifest.spare"),
        (FaultOp::SyncDir, "/data/g"),
    ] {
        let machine = Machine::new();
        machine.append_lens(1, &[7000]);
        // So that the open segment is known by its own name, not by that of the allocated one.
        let machine = machine.restart();
        let fits = append(&machine.log, drafts(&machine.log, 1, &[100]));
        let rolls = append(&machine.log, drafts(&machine.log, 1, &[7000]));
        machine.disk.inject(fault(op, path));
        machine.flusher.turn();
        assert_eq!((fits.get(), rolls.get()), (Some(true), Some(false)), "{op:?} {path}");
        for luck in 0..6 {
            let disk = machine.disk.fork();
            disk.crash(luck);
            assert!(next_index(&Machine::on(disk).log) >= 2);
        }
    }
}

#[test]
fn a_vote_that_cannot_be_read_is_an_error_and_not_the_vote_before() {
    let machine = Machine::new();
    for term in [5, 6] {
        machine.log.save_vote_now(Vote { term: Term(term), node: term, committed: false }).unwrap();
    }
    machine.disk.crash(0);
    let disk = machine.disk;
    for after in [0, 1] {
        disk.inject(Fault { after, ..fault(FaultOp::Read, "/vote") });
        let error = try_open(&disk, &Flusher::manual()).err().unwrap();
        assert!(matches!(error, StoreError::Io { .. }), "slot {after}: {error}");
    }
    assert_eq!(Machine::on(disk).log.vote().map(|vote| vote.term), Some(Term(6)));
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_passed_over() {
    let machine = Machine::new();
    machine.append_lens(1, &[100; 9]);
    for index in [5, 7] {
        let meta = meta(&frame_at(&machine.log, index));
        machine.log.save_tables(TablesKind::Checkpoint, &meta, &[index as u8]).unwrap();
    }
    machine.flusher.turn_idle();
    machine.disk.inject(Fault { for_good: true, ..fault(FaultOp::Read, "checkpoint-7") });
    let machine = machine.restart();
    assert_eq!(next_index(&machine.log), 9);
    let (found, tables) = machine.log.load_newest_checkpoint().unwrap().unwrap();
    assert_eq!((found.last, tables), (LogId::new(1, 5), vec![5]));
    // An error that says nothing of the bytes is no damage.
    machine.disk.heal();
    let too_many_files = Fault { errno: 24, ..fault(FaultOp::Read, "checkpoint-7") };
    machine.disk.inject(too_many_files);
    assert!(matches!(machine.log.load_newest_checkpoint(), Err(StoreError::Io { .. })));
    let (found, _) = machine.log.load_newest_checkpoint().unwrap().unwrap();
    assert_eq!(found.last, LogId::new(1, 7));
}

#[test]
fn a_read_error_is_an_error_and_harms_nothing() {
    let machine = Machine::new();
    machine.append_lens(1, &[3000; 8]);
    machine.disk.inject(fault(FaultOp::Read, "/log/"));
    let error = machine.log.read(store::LogIndex(7), store::LogIndex(8), 1).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(ids(&machine.log).len(), 8);
    machine.append_lens(1, &[10]);
}
