//! Power loss at every sync and at every step of random workloads, against a model: what was acknowledged is there, in
//! order, and nothing is there that was never written.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use store::{CrashDisk, Flusher, Log, LogId, LogIndex, SealedInfo, TablesKind, Vote};

use super::harness::{self, Dice, coupled, draft, entries, frame_at, meta, next_index, try_open};

/// What the log is to be after each operation, in the order of the calls.
struct Model {
    /// All entries ever, the purged ones too.
    states: Vec<Vec<Bytes>>,
    /// The index of the first retained entry after each operation.
    firsts: Vec<u64>,
    /// The last vote that was asked for, after each operation.
    votes: Vec<Option<Vote>>,
    /// The newest operation that was acknowledged: everything up to it is durable.
    acked: Arc<AtomicUsize>,
    /// Index of the newest checkpoint that was saved.
    checkpoint: Option<u64>,
    committed: u64,
}

impl Model {
    fn new() -> Self {
        Self {
            states: vec![Vec::new()],
            firsts: vec![0],
            votes: vec![None],
            acked: Arc::default(),
            checkpoint: None,
            committed: 0,
        }
    }

    fn now(&self) -> usize {
        self.states.len() - 1
    }

    /// The operation that is about to be called, as the log will be after it.
    fn step(&mut self, change: impl FnOnce(&mut Vec<Bytes>, &mut u64, &mut Option<Vote>)) -> usize {
        let (mut state, mut first, mut vote) =
            (self.states[self.now()].clone(), self.firsts[self.now()], self.votes[self.now()]);
        change(&mut state, &mut first, &mut vote);
        self.states.push(state);
        self.firsts.push(first);
        self.votes.push(vote);
        self.now()
    }

    fn done(&self, op: usize) -> store::Done {
        let acked = Arc::clone(&self.acked);
        Box::new(move |outcome| {
            if outcome.is_ok() {
                let before = acked.swap(op, Ordering::SeqCst);
                assert!(before < op, "operation {op} is completed after operation {before} (log.md 2)");
            }
        })
    }

    fn check(&self, log: &Log, what: &str) {
        let acked = self.acked.load(Ordering::SeqCst);
        let found_vote = log.vote();
        // A durable vote says that everything before it is durable (log.md 2).
        assert!(
            self.votes[acked..].contains(&found_vote),
            "{what}: the vote is {found_vote:?}, acknowledged was {:?}",
            self.votes[acked]
        );
        let vote_op = (0..self.votes.len()).find(|at| self.votes[*at] == found_vote).unwrap();
        let floor = acked.max(vote_op);
        let state = log.state();
        let first = state.first_index.0;
        assert!(
            self.firsts[floor..].contains(&first),
            "{what}: the log starts at {first}, not one of {:?}",
            &self.firsts[floor..]
        );
        let found: Vec<Bytes> = entries(log).iter().map(|frame| frame.bytes().clone()).collect();
        let len = first as usize + found.len();
        let least = self.states[floor..].iter().map(Vec::len).min().unwrap();
        assert!(len >= least, "{what}: {len} entries, but {least} were acknowledged and never truncated");
        let is_prefix = |state: &&Vec<Bytes>| state.len() >= len && state[first as usize..len] == found[..];
        if self.states[floor..].iter().find(is_prefix).is_none() {
            let show = |frames: &[Bytes]| {
                frames
                    .iter()
                    .map(|bytes| format!("{:?}", store::Frame::parse(bytes.clone()).unwrap().id()))
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            for (at, state) in self.states.iter().enumerate() {
                eprintln!("{at}: {}", show(state));
            }
            eprintln!("found: {}", show(&found));
            panic!(
                "{what}: entries {first}..{len} are in no state since operation {floor} of {}",
                self.now()
            );
        }
        let loaded = log.load_newest_checkpoint().unwrap();
        if let Some(saved) = self.checkpoint {
            let (meta, tables) =
                loaded.clone().unwrap_or_else(|| panic!("{what}: the checkpoint at {saved} is gone"));
            assert!(
                meta.last.index.0 >= saved,
                "{what}: the newest checkpoint is {}, not {saved}",
                meta.last
            );
            assert_eq!(tables, format!("tables at {}", meta.last.index).into_bytes());
        }
        if let Some((meta, _)) = loaded {
            assert!(Some(meta.last) <= state.last, "{what}: log.md 3");
        }
        assert!(log.read_committed() <= state.last, "{what}: {state:?}");
        assert!(
            state.committed.is_none_or(|id| id.index.0 < self.committed),
            "{what}: committed {} {state:?}",
            self.committed
        );
        log.check().unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

/// One step of a workload. `false`: the disk said no.
fn act(log: &Log, flusher: &Flusher, model: &mut Model, dice: &mut Dice, term: &mut u64) -> bool {
    let next = next_index(log);
    match dice.roll(20) {
        0..=7 => {
            let mut new = Vec::new();
            for index in next..next + 1 + dice.roll(4) {
                let len = if dice.roll(6) == 0 { 3000 + dice.roll(6000) } else { dice.roll(900) };
                new.push(match index % 3 {
                    0 => coupled(*term, index, len as usize, index as usize % 2, 1000 + index),
                    _ => draft(*term, index, len as usize),
                });
            }
            let count = new.len();
            // The frames are known once they are appended.
            let op = model.step(|_, _, _| ());
            if log.append(new, model.done(op)).is_err() {
                return false;
            }
            let frames = log.read_in_memory(LogIndex(next), LogIndex(u64::MAX), usize::MAX).unwrap();
            assert_eq!(frames.len(), count);
            model.states[op].extend(frames.iter().map(|frame| frame.bytes().clone()));
            true
        }
        8 | 9 => {
            let keep = model.committed.max(log.state().first_index.0);
            let to = keep + dice.roll((next - keep) + 1);
            let last = to.checked_sub(1).and_then(|index| {
                let purged = log.state().purged.filter(|purged| purged.index.0 == index);
                purged.or_else(|| {
                    log.read(LogIndex(index), LogIndex(index + 1), 1).ok()?.first().map(store::Frame::id)
                })
            });
            if last.is_none() && to > 0 {
                return false;
            }
            *term += 1;
            if to < next {
                model.step(|state, _, _| state.truncate(to as usize));
            }
            log.truncate_after(last).is_ok()
        }
        10 => {
            *term += 1;
            let vote = Vote { term: store::Term(*term), node: dice.roll(3), committed: dice.roll(2) == 0 };
            let op = model.step(|_, _, now| *now = Some(vote));
            log.save_vote(vote, model.done(op));
            true
        }
        11 => {
            if next > model.committed {
                model.committed += dice.roll(next - model.committed + 1);
            }
            let last = model.committed.checked_sub(1);
            let id = last.and_then(|index| {
                log.read(LogIndex(index), LogIndex(index + 1), 1).ok()?.first().map(store::Frame::id)
            });
            if id.is_some() {
                log.save_committed(id);
            }
            true
        }
        12 | 13 => {
            let state = log.state();
            let upto = state.synced.map_or(0, |id| id.index.0 + 1).min(model.committed);
            if upto <= state.first_index.0.max(model.checkpoint.unwrap_or(0)) {
                return true;
            }
            let Ok(frames) = log.read(LogIndex(upto - 1), LogIndex(upto), 1) else { return false };
            let meta = meta(&frames[0]);
            let saved =
                log.save_tables(TablesKind::Checkpoint, &meta, format!("tables at {}", upto - 1).as_bytes());
            if saved.is_ok() {
                model.checkpoint = Some(upto - 1);
            }
            saved.is_ok()
        }
        14 => purge(log, model, dice),
        15 => {
            let op = model.step(|_, _, _| ());
            log.sync(model.done(op));
            true
        }
        16 => {
            flusher.turn_idle();
            true
        }
        _ => {
            flusher.turn();
            true
        }
    }
}

/// Retention: the tables at a boundary become the current snapshot, then the log is purged to it (log.md 7).
fn purge(log: &Log, model: &mut Model, dice: &mut Dice) -> bool {
    let state = log.state();
    let boundaries: Vec<SealedInfo> = log
        .segments()
        .iter()
        .filter_map(|segment| segment.sealed)
        .filter(|sealed| {
            sealed.last.is_some_and(|last| last.index.0 + 1 < model.committed && Some(last) <= state.synced)
        })
        .filter(|sealed| Some(sealed.last.unwrap()) > state.purged)
        .collect();
    if boundaries.is_empty() {
        return true;
    }
    let sealed = boundaries[dice.roll(boundaries.len() as u64) as usize];
    let last = sealed.last.unwrap();
    let meta =
        store::TablesMeta { last, end: sealed.end, chain: sealed.chain, log_time_ms: sealed.log_time_ms };
    let tables = format!("tables at {}", last.index).into_bytes();
    if log.save_tables(TablesKind::Boundary, &meta, &tables).is_err()
        || log.set_current_snapshot(last).is_err()
    {
        return false;
    }
    model.step(|_, first, _| *first = last.index.0 + 1);
    log.purge(last).is_ok()
}

/// Runs a workload until the power goes.
fn run(disk: &CrashDisk, seed: u64, steps: usize) -> Model {
    let flusher = Flusher::manual();
    let mut model = Model::new();
    let mut dice = Dice(seed);
    let mut term = 1;
    let Ok(log) = try_open(disk, &flusher) else { return model };
    for _ in 0..steps {
        if !act(&log, &flusher, &mut model, &mut dice, &mut term) || disk.is_off() {
            break;
        }
    }
    flusher.turn();
    if !disk.is_off() {
        log.check().unwrap();
    }
    model
}

/// Opens what a crash left, perhaps with another crash in the middle of that, checks it, and goes on.
fn recover(disk: &CrashDisk, model: &Model, luck: u64, what: &str) {
    let flusher = Flusher::manual();
    disk.crash(luck);
    if luck.is_multiple_of(3) {
        disk.power_off_at_sync(disk.syncs() + 1 + luck % 7);
        drop(try_open(disk, &flusher));
        disk.crash(luck + 1);
    }
    let log = match try_open(disk, &flusher) {
        Ok(log) => log,
        Err(error) => panic!("{what}: {error}"),
    };
    model.check(&log, what);
    let before: Vec<Bytes> = entries(&log).iter().map(|frame| frame.bytes().clone()).collect();
    drop(log);
    // What was found is durable: it is found again after another crash, and the log goes on from there.
    disk.crash(luck + 2);
    let log = try_open(disk, &flusher).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    let again: Vec<Bytes> = entries(&log).iter().map(|frame| frame.bytes().clone()).collect();
    assert_eq!(before, again, "{what}: the second start finds another log than the first");
    let next = next_index(&log);
    log.append(
        (next..next + 5).map(|index| draft(1 << 40, index, 4000)).collect(),
        Box::new(|outcome| outcome.unwrap()),
    )
    .unwrap();
    flusher.turn();
    drop(log);
    disk.crash(luck + 3);
    let log = try_open(disk, &flusher).unwrap_or_else(|error| panic!("{what}, gone on: {error}"));
    assert_eq!(next_index(&log), next + 5, "{what}: the log went on and lost it");
}

#[test]
fn a_crash_at_every_sync_loses_nothing_acknowledged_and_invents_nothing() {
    let covered = Rc::new(Cell::new(0));
    for seed in 0..6 {
        let disk = CrashDisk::new(seed);
        run(&disk, seed, 90);
        let syncs = disk.syncs();
        for n in 1..=syncs {
            let disk = CrashDisk::new(seed);
            disk.power_off_at_sync(n);
            let model = run(&disk, seed, 90);
            assert!(disk.is_off());
            recover(&disk, &model, seed * 1000 + n, &format!("seed {seed}, sync {n}"));
            covered.set(covered.get() + 1);
        }
    }
    assert!(covered.get() > 500, "only {} crashes", covered.get());
}

#[test]
fn a_crash_between_any_two_operations_of_the_disk() {
    for seed in 100..112 {
        let disk = CrashDisk::new(seed);
        run(&disk, seed, 60);
        let steps = disk.steps();
        let mut n = 1 + seed % 3;
        while n <= steps {
            let disk = CrashDisk::new(seed);
            disk.power_off_at_step(n);
            let model = run(&disk, seed, 60);
            recover(&disk, &model, seed * 7919 + n * 13, &format!("seed {seed}, step {n}"));
            n += 3;
        }
    }
}

#[test]
fn the_same_crash_with_many_outcomes() {
    for seed in 200..230 {
        let disk = CrashDisk::new(seed);
        let model = run(&disk, seed, 40 + seed as usize % 50);
        for luck in 0..12 {
            recover(&disk.fork(), &model, luck, &format!("seed {seed}, luck {luck}"));
        }
    }
}

#[test]
fn workloads_roll_truncate_and_purge() {
    // The tests above are worth something only while their workloads do everything.
    let (mut rolls, mut purges, mut truncations, mut votes) = (0, 0, 0, 0);
    for seed in 0..6 {
        let disk = CrashDisk::new(seed);
        let model = run(&disk, seed, 90);
        truncations += model.states.windows(2).filter(|pair| pair[1].len() < pair[0].len()).count();
        purges += model.firsts.windows(2).filter(|pair| pair[1] > pair[0]).count();
        votes += model.votes.windows(2).filter(|pair| pair[1] != pair[0]).count();
        let names = harness::names(&disk, "/data/g/log");
        rolls += names.iter().filter(|name| name.contains(".index")).count();
    }
    assert!(
        rolls >= 6 && purges >= 2 && truncations >= 15 && votes >= 10,
        "{rolls} {purges} {truncations} {votes}"
    );
}

#[test]
fn the_log_of_a_workload_is_readable_while_it_is_written() {
    let disk = CrashDisk::new(3);
    let flusher = Flusher::manual();
    let log = try_open(&disk, &flusher).unwrap();
    for index in 0..60 {
        log.append(vec![draft(1, index, 700)], Box::new(|outcome| outcome.unwrap())).unwrap();
        if index % 7 == 0 {
            flusher.turn();
        }
        assert_eq!(entries(&log).len() as u64, index + 1);
        assert_eq!(frame_at(&log, index / 2).id(), LogId::new(1, index / 2));
    }
}
