//! Readers, one that adds and one that keeps the files, all at once, on a real disk: what was added is never missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use wire::{LogPosition, QueueId, QueueOffset};

use super::damage::fill;
use super::world::{SMALL, World, go_on};
use crate::disk::OsDisk;
use crate::index::sizes::Sizes;
use crate::index::{IndexedLog, QueueIndex, Unit};

#[test]
fn what_was_added_is_never_missing() {
    let mut world = World::new(64 << 10);
    fill(&mut world, 900);
    let (frames, voids, segment_size) = (world.frames.clone(), world.voids.clone(), world.segment_size);
    let units: Vec<Unit> = world.queues[&("t0".into(), 0)].values().copied().collect();
    let dir = tempfile::tempdir().unwrap();
    let log = IndexedLog { start: LogPosition(0), checkpoint: LogPosition(0), segment_size, indexes: 1 };
    let none = |_| -> Result<_, _> { Ok(Box::new(std::iter::empty()) as _) };
    // Everything may wait: nothing is given up, so nothing may ever be missing.
    let sizes = Sizes { parts_waiting: usize::MAX, ..SMALL };
    let index = QueueIndex::open_with(Arc::new(OsDisk), dir.path(), &log, &none, &|_| false, sizes).unwrap();
    let added = AtomicUsize::new(0);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (index, added, is_done) = (&index, &added, &is_done);
        let spill = scope.spawn(move || {
            loop {
                let last = is_done.load(Ordering::Acquire);
                index.spill(index.built()).unwrap();
                if last {
                    return;
                }
            }
        });
        let merge = scope.spawn(move || {
            while !is_done.load(Ordering::Acquire) {
                while index.merge_step(index.built(), &mut go_on).unwrap() {}
            }
        });
        for reader in 0..2_usize {
            let units = &units;
            scope.spawn(move || {
                let mut random = 88172645463325252_usize.wrapping_add(reader);
                while !is_done.load(Ordering::Acquire) {
                    let len = added.load(Ordering::Acquire);
                    if len == 0 {
                        continue;
                    }
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let from = random % len;
                    let found = index.units("t0", QueueId(0), QueueOffset(from as u64), 20).unwrap();
                    let least = (len - from).min(20);
                    assert!(found.len() >= least, "{} of {least} units from {from}", found.len());
                    assert_eq!(found, units[from..from + found.len()]);
                    let bounds = index.bounds("t0", QueueId(0)).unwrap().unwrap();
                    assert!(bounds.0.0 == 0 && bounds.1.0 >= len as u64, "{bounds:?}");
                    assert!(!index.find_key("t0", "k0", 0, u64::MAX, 3).unwrap().is_empty());
                }
            });
        }
        for frame in &frames {
            if voids.contains(&frame.id().index.0) {
                index.skip(frame);
            } else {
                index.add(frame);
            }
            let end = frame.end();
            let here = units.partition_point(|unit| unit.position < end);
            added.store(here, Ordering::Release);
        }
        is_done.store(true, Ordering::Release);
        spill.join().unwrap();
        merge.join().unwrap();
    });
    assert_eq!(index.stats().memory_units, 0);
    assert_eq!(index.units("t0", QueueId(0), QueueOffset(0), usize::MAX).unwrap(), units);
}
