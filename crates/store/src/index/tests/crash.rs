//! The power goes at every sync and at every change of the disk, during spill, merge, rebuild and open.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::damage::{SEGMENT, fill};
use super::world::{Bench, SMALL};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::index::sizes::Sizes;

/// A life of an index: returns early when the power goes. `is_whole` says whether nothing is missing.
fn live(bench: &mut Bench, is_whole: &Cell<bool>) -> Result<(), StoreError> {
    for round in 0..4 {
        fill(&mut bench.world.borrow_mut(), 14);
        bench.catch_up();
        let end = bench.world.borrow().end();
        bench.spill(end)?;
        // The checkpoint lags behind what is fsynced, as it does in a node.
        let frames = bench.world.borrow().frames.len();
        bench.move_checkpoint(frames * (round + 1) / 6);
        bench.merge_all()?;
        if round == 2 {
            let lost = bench.files().into_keys().nth(2);
            is_whole.set(false);
            bench
                .disk
                .remove(&bench.dir().join(lost.unwrap()))
                .map_err(|error| StoreError::io("", "".as_ref(), error))?;
            bench.reopen()?;
            bench.rebuild_all()?;
            is_whole.set(true);
        }
    }
    bench.checkpoint = bench.world.borrow().end();
    bench.reopen()?;
    bench.merge_all()
}

fn crash_at(set: impl Fn(&Bench), seed: u64) -> bool {
    // Nothing is given up for want of memory, so nothing durable is ever missing.
    let mut bench = Bench::new(SEGMENT, Sizes { parts_waiting: 100, ..SMALL });
    set(&bench);
    // `files` of the harness unwraps, so a power cut may also show as a panic.
    let is_whole = Cell::new(true);
    let lived = catch_unwind(AssertUnwindSafe(|| live(&mut bench, &is_whole)));
    let was_off = bench.disk.is_off();
    assert!(
        was_off || matches!(lived, Ok(Ok(()))),
        "{:?}",
        lived.map(|result| result.map_err(|e| e.to_string()))
    );
    bench.disk.crash(seed);
    bench.reopen().unwrap();
    bench.check(true);
    if is_whole.get() {
        // What was durable is used, not built again.
        let stats = bench.index().stats();
        assert_eq!((stats.gaps, stats.lost_files), (0, 0), "{stats:?}");
        bench.check(false);
    }
    bench.rebuild_all().unwrap();
    bench.spill(bench.world.borrow().end()).unwrap();
    bench.checkpoint = bench.world.borrow().end();
    bench.merge_all().unwrap();
    // And once more at an unlucky moment for the names.
    bench.disk.crash(seed + 1);
    bench.reopen().unwrap();
    bench.settle();
    was_off
}

#[test]
fn the_power_goes_at_any_sync() {
    let mut n = 3;
    while crash_at(|bench| bench.disk.power_off_at_sync(bench.disk.syncs() + n), n) {
        n += 1;
    }
    assert!(n > 30, "{n} syncs");
}

#[test]
fn the_power_goes_at_any_change() {
    let mut n = 1;
    while crash_at(|bench| bench.disk.power_off_at_step(bench.disk.steps() + n), n * 7) {
        n += 5;
    }
    assert!(n > 100, "{n} changes");
}
