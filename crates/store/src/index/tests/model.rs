//! Any sequence of entries and upkeep, restart and damage: the index says what the model says.

use proptest::prelude::*;

use super::world::{Bench, Message, SMALL};
use crate::disk::Disk;

const SEGMENT: u64 = 32 << 10;

#[derive(Clone, Debug)]
enum Step {
    Messages {
        time: u64,
        messages: Vec<Message>,
        is_void: bool,
        /// Coupled with a command of so many bytes.
        command: Option<usize>,
    },
    Command {
        len: usize,
    },
    /// Spill with everything fsynced, or only a part.
    Spill(Option<usize>),
    Checkpoint(usize),
    Merge,
    Reopen,
    Crash(u64),
    Purge,
    Flip(usize, u64),
    Remove(usize),
    Rebuild,
    Check,
}

fn message() -> impl Strategy<Value = Message> {
    let topic = prop_oneof![
        4 => Just("t0".to_owned()),
        3 => (0..6_u32).prop_map(|n| format!("t{n}")),
        1 => Just("some-longer-topic".to_owned()),
        1 => (0..300_u32).prop_map(|n| format!("rare-{n}")),
    ];
    let tags = proptest::option::of((0..3_u32).prop_map(|n| format!("tag{n}")));
    let unique_id = proptest::option::weighted(0.7, (0..40_u32).prop_map(|n| format!("u{n}")));
    let keys = prop_oneof![
        Just(String::new()),
        Just("k0".to_owned()),
        Just("k0 k1  k2".to_owned()),
        Just("schlüssel k0 k0".to_owned()),
    ];
    (topic, 0..4_u32, tags, unique_id, keys, 0..200_usize).prop_map(
        |(topic, queue, tags, unique_id, keys, body_len)| Message {
            topic,
            queue,
            tags,
            unique_id,
            keys,
            body_len,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let command = proptest::option::weighted(0.3, 0..500_usize);
    let entry = (0..1500_u64, prop::collection::vec(message(), 1..12), prop::bool::weighted(0.1), command)
        .prop_map(|(time, messages, is_void, command)| Step::Messages { time, messages, is_void, command });
    prop_oneof![
        40 => entry,
        4 => (0..3000_usize).prop_map(|len| Step::Command { len }),
        8 => proptest::option::of(any::<usize>()).prop_map(Step::Spill),
        4 => any::<usize>().prop_map(Step::Checkpoint),
        6 => Just(Step::Merge),
        2 => Just(Step::Reopen),
        2 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::Purge),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(file, at)| Step::Flip(file, at)),
        1 => any::<usize>().prop_map(Step::Remove),
        2 => Just(Step::Rebuild),
        2 => Just(Step::Check),
    ]
}

fn run(steps: Vec<Step>) {
    let mut bench = Bench::new(SEGMENT, SMALL);
    let mut now = 1_700_000_000_000;
    // Whether a file may be damaged without anybody having noticed.
    let mut is_damaged = false;
    for step in steps {
        match step {
            Step::Messages { time, messages, is_void, command } => {
                now += time;
                match command {
                    None => bench.world.borrow_mut().messages(now, &messages, is_void),
                    Some(len) => bench.world.borrow_mut().coupled(now, len, &messages, is_void),
                }
                bench.catch_up();
            }
            Step::Command { len } => {
                bench.world.borrow_mut().command(now, len);
                bench.catch_up();
            }
            Step::Spill(upto) => {
                let synced = {
                    let world = bench.world.borrow();
                    let some =
                        |n: usize| world.frames.get(n % world.frames.len().max(1)).map(|frame| frame.end().0);
                    upto.map_or(Some(world.end()), some).unwrap_or_default()
                };
                bench.spill(synced).unwrap();
            }
            Step::Checkpoint(n) => bench.move_checkpoint(n),
            Step::Merge => bench.merge_all().unwrap(),
            Step::Reopen => bench.reopen().unwrap(),
            Step::Crash(seed) => {
                bench.disk.crash(seed);
                bench.reopen().unwrap();
            }
            Step::Purge => {
                // The start of the segment that holds the checkpoint: everything below was applied and snapshotted.
                let before = bench.checkpoint / SEGMENT * SEGMENT;
                bench.world.borrow_mut().purge(before);
                bench.index().purge(wire::LogPosition(before)).unwrap();
            }
            Step::Flip(file, at) => {
                let files = bench.files();
                if let Some((name, bytes)) = files.iter().nth(file % files.len().max(1)) {
                    bench.disk.flip(&bench.dir().join(name), at % bytes.len() as u64).unwrap();
                    is_damaged = true;
                }
            }
            Step::Remove(file) => {
                let files = bench.files();
                if let Some(name) = files.keys().nth(file % files.len().max(1)) {
                    bench.disk.remove(&bench.dir().join(name)).unwrap();
                    is_damaged = true;
                }
            }
            Step::Rebuild => bench.rebuild_all().unwrap(),
            Step::Check => bench.check(is_damaged || bench.index().stats().gaps > 0),
        }
    }
    bench.settle();
    let end = bench.world.borrow().end();
    bench.spill(end).unwrap();
    bench.checkpoint = end;
    bench.merge_all().unwrap();
    bench.settle();
    bench.reopen().unwrap();
    bench.settle();
    // Merged: no more files than one for each segment and for each full measure of units, and a few that still grow.
    let segments = (end / SEGMENT + 1) as usize;
    let units: usize = bench.world.borrow().queues.values().map(|queue| queue.len()).sum();
    let bound = 2 * (segments + 8) + 8 * units / SMALL.merged_units as usize;
    assert!(bench.index().stats().files <= bound, "{:?}", bench.index().stats());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_index_says_what_the_log_holds(steps in prop::collection::vec(step(), 1..120)) {
        run(steps);
    }
}
