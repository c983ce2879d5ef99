//! Appends: who patches what (8), the order of completions and votes (2), group commit (16).

use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use store::{
    CrashDisk, Draft, Fault, FaultOp, Flusher, FrameKind, Identity, Log, LogId, LogIndex, LogPosition,
    NewEntry, OsDisk, StoreError, Term, Vote,
};

use super::harness::{
    self, Ack, Dice, Machine, append, content, coupled, draft, drafts, entries, frame_at, identity, ids,
    messages, try_open, vote,
};

#[test]
fn rule_8_append_fills_in_positions_chain_and_checksum() {
    let machine = Machine::new();
    machine.append_lens(1, &[10, 3000]);
    machine.append(vec![messages(1, 2, 3, 5000), messages(1, 3, 1, 5001)]);
    machine.append(vec![coupled(1, 4, 30, 3, 5002), coupled(1, 5, 700, 1, 5001), coupled(1, 6, 40, 0, 5002)]);
    let frames = entries(&machine.log);
    let mut chain = 0;
    for frame in &frames {
        assert_eq!(frame.prev(), chain);
        chain = frame.chain();
    }
    for frame in &frames[2..] {
        let records = frame.records();
        let first = frame.records_position();
        let mut at = first;
        for record in wire::Messages::new(&records) {
            let record = record.unwrap();
            assert_eq!(record.position, at);
            assert_eq!(record.store_timestamp as u64, frame.log_time_ms());
            // The same bytes by position: what a consumer is given.
            assert_eq!(
                machine.log.read_bytes(at, record.size()).unwrap(),
                records.slice((at.0 - first.0) as usize..)[..record.size()]
            );
            at = at.plus(record.size() as u64);
        }
        assert_eq!(at, frame.body_position().plus(frame.body().len() as u64));
    }
    let counts = frames.iter().map(|frame| wire::Messages::new(&frame.records()).count());
    assert_eq!(counts.collect::<Vec<_>>(), [0, 0, 3, 1, 3, 1, 0]);
    for (frame, len) in frames[4..].iter().zip([30, 700, 40]) {
        let id = frame.id();
        assert_eq!(frame.command().unwrap(), harness::body(id.term.0, id.index.0, len));
    }
    assert_eq!(frames[0].position(), LogPosition(4096));
    assert_eq!(frames[1].position(), frames[0].end());
}

#[test]
fn log_time_never_falls_and_store_timestamps_follow_it() {
    let machine = Machine::new();
    machine.append(vec![messages(1, 0, 1, 9000), messages(1, 1, 2, 8000)]);
    let blank = Draft::new(LogId::new(2, 2), FrameKind::Blank, 0, b"");
    machine.append(vec![NewEntry::Draft(blank)]);
    let frames = entries(&machine.log);
    assert_eq!(frames.iter().map(store::Frame::log_time_ms).collect::<Vec<_>>(), [9000, 9000, 9000]);
    let body = frames[1].body();
    for record in wire::Messages::new(&body) {
        assert_eq!(record.unwrap().store_timestamp, 9000);
    }
    assert_eq!(machine.log.state().log_time_ms, 9000);
}

#[test]
fn an_entry_that_does_not_continue_the_log_is_refused_and_changes_nothing() {
    let machine = Machine::new();
    machine.append_lens(3, &[10, 10]);
    let good = frame_at(&machine.log, 1);
    let before = machine.log.state();
    let check = |entry: NewEntry, expect: &str| {
        let error =
            machine.log.append(vec![draft(3, 2, 10), entry], Box::new(|_| panic!("done"))).unwrap_err();
        assert!(error.to_string().contains(expect), "{error} / {expect}");
        assert_eq!(machine.log.state(), before);
    };
    check(draft(3, 2, 10), "index 2 where 3 belongs");
    check(draft(3, 4, 10), "index 4 where 3 belongs");
    check(draft(2, 3, 10), "term 2 after term 3");
    check(NewEntry::Frame(good), "index 1 where 3 belongs");
    check(draft(3, 3, 20_000), "exceeds the maximum of 12288");
    let cut =
        Draft { id: LogId::new(3, 3), kind: FrameKind::Messages, log_time_ms: 1, buffer: Draft::room(0) };
    check(NewEntry::Draft(cut), "without a record");
    let mut torn = Draft::new(LogId::new(3, 3), FrameKind::Messages, 1, &[0, 0, 0, 200, 1, 2, 3]);
    check(NewEntry::Draft(torn), "a record of 200 bytes in 7 bytes");
    torn = Draft::new(LogId::new(3, 3), FrameKind::Coupled, 1, &[0, 0, 0, 1, 9, 0, 0, 0, 200, 1, 2, 3]);
    check(NewEntry::Draft(torn), "a record of 200 bytes in 7 bytes");
    torn = Draft::new(LogId::new(3, 3), FrameKind::Coupled, 1, &[0, 0, 0, 2, 9]);
    check(NewEntry::Draft(torn), "a coupled body of 5 bytes whose command ends at 6");
    torn = Draft {
        id: LogId::new(3, 3),
        kind: FrameKind::Blank,
        log_time_ms: 1,
        buffer: bytes::BytesMut::new(),
    };
    check(NewEntry::Draft(torn), "without room for its header");
    machine.append_lens(3, &[10]);
}

#[test]
fn entries_are_readable_before_they_are_durable() {
    let machine = Machine::new();
    let ack = append(&machine.log, drafts(&machine.log, 1, &[10, 5000, 9000, 9000]));
    assert_eq!(ack.get(), None);
    assert_eq!(ids(&machine.log), [(1, 0), (1, 1), (1, 2), (1, 3)]);
    assert_eq!(machine.log.state().synced, None);
    machine.flusher.turn();
    ack.ok();
    assert_eq!(machine.log.state().synced, Some(LogId::new(1, 3)));
}

#[test]
fn rule_16_one_sync_for_everything_that_is_queued() {
    let machine = Machine::new();
    machine.append_lens(1, &[10]);
    let before = machine.disk.syncs();
    let acks: Vec<Ack> = (1..50).map(|index| append(&machine.log, vec![draft(1, index, 100)])).collect();
    machine.flusher.turn();
    acks.iter().for_each(Ack::ok);
    assert_eq!(machine.disk.syncs() - before, 1, "the watermark of the round before rides along");
    machine.flusher.turn_idle();
    assert_eq!(machine.disk.syncs() - before, 2, "the watermark of an idle log");
    machine.flusher.turn_idle();
    assert_eq!(machine.disk.syncs() - before, 2, "and nothing after that");
}

#[test]
fn an_idle_log_makes_its_watermark_durable_by_itself() {
    let disk = CrashDisk::new(1);
    let flusher = Flusher::start(2);
    let log = try_open(&disk, &flusher).unwrap();
    let (sender, receiver) = mpsc::channel();
    log.append(vec![draft(1, 0, 100)], Box::new(move |outcome| sender.send(outcome).unwrap())).unwrap();
    receiver.recv().unwrap().unwrap();
    // Nothing more is asked of it.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let is_marked = || {
        let fork = disk.fork();
        fork.crash(0);
        fork.flip(Path::new(&harness::segment_file(0)), 4096 + 70).unwrap();
        matches!(try_open(&fork, &Flusher::manual()), Err(StoreError::Corrupt { .. }))
    };
    while !is_marked() {
        assert!(std::time::Instant::now() < deadline, "no watermark says that entry 0 is durable");
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    drop(log);
    flusher.stop();
}

#[test]
fn a_completion_that_panics_stops_its_log_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let flusher = Flusher::start(1);
    let open = |name: &str| {
        let identity = Identity { group: name.into(), ..identity() };
        Log::open_with(Arc::new(OsDisk), &dir.path().join(name), &identity, &flusher, harness::options())
            .unwrap()
    };
    let (bad, good) = (open("bad"), open("good"));
    bad.append(vec![draft(1, 0, 10)], Box::new(|_| panic!("a completion of the test panics, as it should")))
        .unwrap();
    let (sender, receiver) = mpsc::channel();
    good.append(vec![draft(1, 0, 10)], Box::new(move |outcome| sender.send(outcome).unwrap())).unwrap();
    receiver.recv().unwrap().unwrap();
    assert!(bad.sync_all().is_err());
    assert!(matches!(bad.append(vec![draft(1, 1, 10)], Box::new(|_| ())), Err(StoreError::Poisoned { .. })));
    good.close().unwrap();
}

#[test]
fn rule_2_a_vote_is_on_disk_only_after_every_earlier_append() {
    let machine = Machine::new();
    machine.append_lens(1, &[10]);
    let first = append(&machine.log, drafts(&machine.log, 1, &[10]));
    let voted = vote(&machine.log, 7, 2);
    let later = append(&machine.log, drafts(&machine.log, 7, &[10]));
    assert_eq!((first.get(), voted.get(), later.get()), (None, None, None));
    // The sync of the first append fails: neither it nor the vote after it may be acknowledged, or be there.
    machine.disk.inject(Fault {
        op: FaultOp::Sync,
        path: "/log/".into(),
        after: 0,
        errno: 5,
        for_good: false,
    });
    machine.flusher.turn();
    assert_eq!((first.get(), voted.get(), later.get()), (Some(false), Some(false), Some(false)));
    assert_eq!(machine.log.vote(), None);
    let machine = machine.restart();
    assert_eq!(machine.log.vote(), None, "a vote without the appends before it");
}

#[test]
fn a_vote_is_kept_in_both_slots() {
    let machine = Machine::new();
    let votes = [(1, 1), (2, 3), (5, 2)];
    for (term, node) in votes {
        vote(&machine.log, term, node);
    }
    machine.log.save_vote_now(Vote { term: Term(5), node: 2, committed: true }).unwrap();
    let expect = Some(Vote { term: Term(5), node: 2, committed: true });
    assert_eq!(machine.log.vote(), expect);
    machine.flusher.turn_idle();
    for at in [20, 4096 + 20] {
        let disk = machine.disk.fork();
        disk.flip(Path::new("/data/g/vote"), at).unwrap();
        disk.crash(0);
        assert_eq!(Machine::on(disk).log.vote(), expect, "one damaged slot loses no vote");
    }
    let disk = machine.disk.fork();
    for at in [20, 4096 + 20] {
        disk.flip(Path::new("/data/g/vote"), at).unwrap();
    }
    disk.crash(0);
    let error = try_open(&disk, &Flusher::manual()).err().unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[test]
fn what_follows_a_vote_does_not_wait_for_its_copy() {
    let copied = |machine: &Machine| {
        let slots = content(&machine.disk, "/data/g/vote");
        slots[..33] == slots[4096..4096 + 33]
    };
    let machine = Machine::new();
    machine.append_lens(1, &[10]);
    machine.flusher.turn_idle();
    // A candidate: its vote for itself, its leadership, its blank, each when the one before is durable.
    let before = machine.disk.syncs();
    for committed in [false, true] {
        machine.log.save_vote_now(Vote { term: Term(2), node: 1, committed }).unwrap();
    }
    assert_eq!(machine.disk.syncs() - before, 2, "one for each");
    let order: Arc<Mutex<Vec<u64>>> = Arc::default();
    let (disk, seen) = (machine.disk.clone(), Arc::clone(&order));
    let done = Box::new(move |_| seen.lock().unwrap().push(disk.syncs()));
    machine.log.append(drafts(&machine.log, 2, &[10]), done).unwrap();
    machine.flusher.turn();
    assert_eq!(*order.lock().unwrap(), [before + 3], "the blank is acknowledged after its own");
    assert_eq!(machine.disk.syncs() - before, 4, "and the copy follows, also when the log never rests");
    assert!(copied(&machine));
    // Nothing follows: it is copied when the log is idle, or stops.
    machine.log.save_vote_now(Vote { term: Term(3), node: 2, committed: false }).unwrap();
    assert!(!copied(&machine));
    machine.flusher.turn_idle();
    assert!(copied(&machine));
    vote(&machine.log, 4, 2);
    machine.log.close().unwrap();
    assert!(copied(&machine));
}

#[test]
fn a_torn_vote_loses_no_vote_before_it() {
    let vote_of = |term| Vote { term: Term(term), node: term, committed: false };
    for written in 0..6 {
        for luck in 0..16 {
            let machine = Machine::new();
            for term in 1..=written {
                machine.log.save_vote_now(vote_of(term)).unwrap();
                if (luck >> term) & 1 == 1 {
                    machine.flusher.turn_idle();
                }
            }
            let ack = vote(&machine.log, written + 1, written + 1);
            machine.disk.power_off_at_sync(machine.disk.syncs() + 1);
            machine.flusher.turn();
            assert_eq!(ack.get(), Some(false));
            let found = machine.crash(luck).log.vote();
            let expect = (written > 0).then(|| vote_of(written));
            assert!(found == expect || found == Some(vote_of(written + 1)), "{found:?} after {expect:?}");
        }
    }
}

#[test]
fn rule_2_completions_of_each_log_are_in_order_whatever_the_threads_do() {
    let dir = tempfile::tempdir().unwrap();
    let flusher = Flusher::start(4);
    let logs: Vec<Log> = (0..3)
        .map(|n| {
            let identity = Identity { group: format!("g{n}"), ..identity() };
            let path = dir.path().join(format!("g{n}"));
            Log::open_with(Arc::new(OsDisk), &path, &identity, &flusher, harness::options()).unwrap()
        })
        .collect();
    let order: Arc<Mutex<Vec<Vec<u64>>>> = Arc::new(Mutex::new(vec![Vec::new(); logs.len()]));
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for (n, log) in logs.iter().enumerate() {
            let (order, sender) = (Arc::clone(&order), sender.clone());
            scope.spawn(move || {
                let mut dice = Dice(n as u64);
                let mut index = 0;
                for job in 0..120 {
                    let (order, sender) = (Arc::clone(&order), sender.clone());
                    let done: store::Done = Box::new(move |outcome| {
                        outcome.unwrap();
                        order.lock().unwrap()[n].push(job);
                        sender.send(()).unwrap();
                    });
                    if dice.roll(10) == 0 {
                        log.save_vote(Vote { term: Term(job), node: 1, committed: false }, done);
                    } else {
                        let count = 1 + dice.roll(3);
                        let new = (index..index + count)
                            .map(|index| draft(1, index, dice.roll(3000) as usize))
                            .collect();
                        log.append(new, done).unwrap();
                        index += count;
                    }
                }
            });
        }
    });
    for _ in 0..3 * 120 {
        receiver.recv().unwrap();
    }
    for (n, log) in logs.iter().enumerate() {
        assert_eq!(order.lock().unwrap()[n], (0..120).collect::<Vec<u64>>());
        assert!(log.segments().len() > 2, "the test is to roll");
        log.close().unwrap();
        log.check().unwrap();
        assert!(matches!(log.append(vec![], Box::new(|_| ())), Err(StoreError::Poisoned { .. })));
    }
    let before: Vec<_> = logs.iter().map(|log| (entries(log).len(), log.vote())).collect();
    drop(logs);
    // A thread that allocates ahead keeps a log, and its lock, until it has done so.
    flusher.stop();
    let flusher = Flusher::manual();
    for (n, (count, vote)) in before.into_iter().enumerate() {
        let identity = Identity { group: format!("g{n}"), ..identity() };
        let path = dir.path().join(format!("g{n}"));
        let log = Log::open_with(Arc::new(OsDisk), &path, &identity, &flusher, harness::options()).unwrap();
        assert_eq!(entries(&log).len(), count);
        assert!(vote.is_some() && log.vote() == vote);
    }
}

#[test]
fn truncation_then_append_is_one_sequence() {
    let machine = Machine::new();
    machine.append_lens(1, &[100; 10]);
    let lost = append(&machine.log, drafts(&machine.log, 1, &[100; 5]));
    machine.log.truncate_after(Some(LogId::new(1, 7))).unwrap();
    let kept = append(&machine.log, drafts(&machine.log, 2, &[200; 2]));
    assert_eq!(ids(&machine.log)[7..], [(1, 7), (2, 8), (2, 9)]);
    assert_eq!(machine.log.state().synced, Some(LogId::new(1, 7)));
    machine.flusher.turn();
    lost.ok();
    kept.ok();
    assert_eq!(machine.log.state().synced, Some(LogId::new(2, 9)));
    machine.log.check().unwrap();
    let machine = machine.crash(0);
    assert_eq!(ids(&machine.log)[7..], [(1, 7), (2, 8), (2, 9)]);
}

#[test]
fn truncation_of_what_is_committed_or_checkpointed_is_refused() {
    let machine = Machine::new();
    machine.append_lens(1, &[10; 6]);
    machine.log.save_committed(Some(LogId::new(1, 3)));
    let error = machine.log.truncate_after(Some(LogId::new(1, 2))).unwrap_err();
    assert!(matches!(error, StoreError::Invariant(_)), "{error}");
    let error = machine.log.truncate_after(Some(LogId::new(2, 4))).unwrap_err();
    assert!(matches!(error, StoreError::Mismatch { .. }), "{error}");
    machine.log.truncate_after(Some(LogId::new(1, 3))).unwrap();
    machine.log.truncate_after(Some(LogId::new(1, 3))).unwrap();
    assert_eq!(ids(&machine.log).len(), 4);
}

#[test]
fn truncation_can_empty_the_log_and_reopen_segments() {
    let machine = Machine::new();
    machine.append_lens(1, &[7000; 5]);
    assert_eq!(machine.log.segments().len(), 5);
    machine.log.truncate_after(Some(LogId::new(1, 1))).unwrap();
    machine.flusher.turn();
    assert_eq!(machine.log.segments().len(), 2);
    assert_eq!(machine.log.segments()[1].sealed, None);
    machine.append_lens(2, &[700; 30]);
    let expect = ids(&machine.log);
    let machine = machine.crash(4);
    assert_eq!(ids(&machine.log), expect);
    machine.log.truncate_after(None).unwrap();
    machine.flusher.turn();
    assert_eq!(machine.log.segments().len(), 0);
    machine.append_lens(3, &[700; 3]);
    assert_eq!(ids(&machine.crash(5).log), [(3, 0), (3, 1), (3, 2)]);
}

#[test]
fn small_frames_in_large_buffers_do_not_pin_them() {
    let machine = Machine::on(CrashDisk::new(2));
    let mut buffer = Draft::room(1 << 20);
    buffer.extend_from_slice(b"small");
    let large =
        NewEntry::Draft(Draft { id: LogId::new(1, 0), kind: FrameKind::Command, log_time_ms: 1, buffer });
    machine.append(vec![large, draft(1, 1, 10)]);
    assert_eq!(frame_at(&machine.log, 0).body(), &b"small"[..]);
}

#[test]
fn reads_stay_within_their_bounds() {
    let machine = Machine::new();
    machine.append_lens(1, &[1000; 30]);
    let read = |from, until, max| {
        let frames = machine.log.read(LogIndex(from), LogIndex(until), max).unwrap();
        frames.iter().map(|frame| frame.id().index.0).collect::<Vec<_>>()
    };
    assert_eq!(read(3, 6, usize::MAX), [3, 4, 5]);
    assert_eq!(read(3, 30, 1), [3], "at least one");
    assert_eq!(read(3, 30, 3300), [3, 4, 5]);
    assert_eq!(read(29, 99, usize::MAX), [29]);
    assert_eq!(read(30, 99, usize::MAX), [] as [u64; 0]);
    assert_eq!(read(9, 9, usize::MAX), [] as [u64; 0]);
}
