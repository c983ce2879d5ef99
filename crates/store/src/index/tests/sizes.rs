//! Bounds: memory, files of many queues, descriptors.

use std::ops::ControlFlow;
use std::sync::Arc;

use wire::{QueueId, QueueOffset};

use super::damage::fill;
use super::world::{Bench, Message, SMALL};
use crate::index::sizes::Sizes;

#[test]
fn memory_is_bounded_whatever_is_added() {
    // Keys and queues cost too, and are bounded by the same measure.
    let mut bench = Bench::new(1 << 30, Sizes { merge_fan: 2, ..Sizes::default() });
    let mut most = 0;
    for n in 0..335_u64 {
        let messages: Vec<Message> = (0..800_u64)
            .map(|at| Message {
                unique_id: Some(format!("7F0000010000{:020}", n * 800 + at)),
                keys: if at % 4 == 0 { format!("order-{at} user-{n}") } else { String::new() },
                body_len: 0,
                ..Message::plain("t0", (at % 64) as u32)
            })
            .collect();
        {
            let mut world = bench.world.borrow_mut();
            world.messages(n, &messages, false);
            bench.index().add(world.frames.last().unwrap());
            // The test need not hold what it has added.
            world.frames.clear();
            world.queues.clear();
            world.keys.clear();
        }
        let stats = bench.index().stats();
        assert!(stats.memory_units <= Sizes::default().part_units + 800, "{stats:?}");
        most = most.max(stats.memory_bytes);
        let end = stats.built;
        if bench.index().spill_due(end) {
            bench.index().spill(end).unwrap();
        }
    }
    assert!(most <= 16 << 20, "{most} bytes");
    // Two pairs of some megabytes, whose merge is asked to stop, and then goes on from the start.
    let end = bench.index().built();
    bench.index().spill(end).unwrap();
    assert_eq!(bench.index().stats().files, 4);
    let before: Vec<String> = bench.files().into_keys().collect();
    let mut asked = 0;
    let mut stop_later = |bytes: u64| {
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        asked += 1;
        if asked == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert!(bench.index().merge_step(end, &mut stop_later).unwrap());
    assert_eq!(asked, 3);
    assert!(bench.files().keys().eq(before.iter()), "no trace");
    bench.checkpoint = end.0;
    bench.merge_all().unwrap();
    let stats = bench.index().stats();
    assert_eq!((stats.files, stats.lost_files), (2, 0));
    let all = bench.index().units("t0", QueueId(3), QueueOffset(0), 10_000).unwrap();
    assert_eq!(all.len(), 335 * 13);
    assert!(all.is_sorted_by_key(|unit| unit.position));
    let key = format!("7F0000010000{:020}", 199 * 800 + 7);
    assert_eq!(bench.index().find_key("t0", &key, 0, u64::MAX, 10).unwrap().len(), 1);
}

#[test]
fn fifty_thousand_small_queues() {
    let bench = Bench::new(1 << 30, Sizes::default());
    let (topics, queues, messages) = (12_500_u32, 4_u32, 3_usize);
    for round in 0..messages as u64 {
        for chunk in 0..25 {
            let batch: Vec<Message> = (chunk * 500..(chunk + 1) * 500)
                .flat_map(|topic| {
                    (0..queues).map(move |queue| Message::plain(&format!("small-topic-{topic}"), queue))
                })
                .map(|message| Message { body_len: 0, ..message })
                .collect();
            bench.world.borrow_mut().messages(round, &batch, false);
            bench.index().add(bench.world.borrow().frames.last().unwrap());
        }
    }
    let end = bench.index().built();
    let stats = bench.index().stats();
    assert!(stats.memory_bytes <= 16 << 20, "{stats:?}");
    bench.index().spill(end).unwrap();
    let (files, len) = (bench.files(), |kind: &str| {
        bench
            .files()
            .iter()
            .filter(|(name, _)| name.ends_with(kind))
            .map(|(_, bytes)| bytes.len())
            .sum::<usize>()
    });
    assert_eq!(files.len(), 2, "no file of its own for a queue");
    let count = (topics * queues) as usize;
    // A unit is 20 bytes; a queue is 26, its topic and a share of the bucket table; checksums one in a thousand.
    let bound = (count * messages * 20 + count * (26 + 20 + 2)) * 1002 / 1000 + 3 * 4096;
    assert!(len(".queue") <= bound, "{} bytes for {count} queues, bound {bound}", len(".queue"));
    assert!(len(".keys") <= 2 * 4096, "no keys, no key file to speak of: {}", len(".keys"));
    let world = bench.world.borrow();
    for ((topic, queue), units) in world.queues.iter().step_by(997) {
        let found = bench.index().units(topic, QueueId(*queue), QueueOffset(0), 10).unwrap();
        assert_eq!(found, units.values().copied().collect::<Vec<_>>());
    }
    assert_eq!(bench.index().stats().descriptors, 1);
}

#[test]
fn descriptors_are_bounded_and_shared() {
    let bench = Bench::new(32 << 10, SMALL);
    for _ in 0..12 {
        fill(&mut bench.world.borrow_mut(), 14);
        bench.catch_up();
        bench.spill(bench.world.borrow().end()).unwrap();
    }
    assert!(bench.index().stats().files > 4 * SMALL.descriptors);
    bench.check(false);
    assert_eq!(bench.index().stats().descriptors, SMALL.descriptors);
    let files = &bench.index().0.files;
    let state = bench.index().0.state();
    let run = state.queue_shelf.files().next().unwrap();
    let (a, b) = (files.open(run).unwrap(), files.open(run).unwrap());
    assert!(Arc::ptr_eq(&a, &b));
}

#[test]
fn a_slow_group_that_spills_often_keeps_few_files() {
    let mut bench = Bench::new(1 << 20, Sizes { merged_units: 4 << 20, merge_fan: 8, ..SMALL });
    for n in 0..600 {
        bench.world.borrow_mut().messages(n, &[Message::plain("t0", 0)], false);
        bench.catch_up();
        bench.checkpoint = bench.world.borrow().end();
        bench.spill(bench.checkpoint).unwrap();
        bench.merge_all().unwrap();
        assert!(bench.index().stats().files <= 2 * 8, "{:?}", bench.index().stats());
    }
    bench.check(false);
    bench.reopen().unwrap();
    bench.check(false);
}
