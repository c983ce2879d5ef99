//! Rule 19: whose directory it is, and that it is whole.

use std::path::Path;
use std::sync::Arc;

use store::{CrashDisk, Disk, Flusher, Identity, Log, Options, StoreError};

use super::harness::{DIR, Machine, SEGMENT, identity, ids, options, try_open, vote};

#[test]
fn rule_19_any_other_identity_is_refused() {
    let machine = Machine::new();
    machine.append_lens(1, &[10]);
    let (disk, flusher) = (machine.disk.clone(), machine.flusher.clone());
    drop(machine);
    let check = |change: &dyn Fn(&mut Identity), part: &str| {
        let mut other = identity();
        change(&mut other);
        match Log::open_with(Arc::new(disk.clone()), Path::new(DIR), &other, &flusher, options()) {
            Err(StoreError::Identity { what, .. }) => assert_eq!(what, part),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("opened with another {part}"),
        }
    };
    check(&|other| other.cluster.push('x'), "cluster");
    check(&|other| other.group.push('x'), "group");
    check(&|other| other.node += 1, "node");
    check(&|other| other.segment_size *= 2, "segment size");
    assert_eq!(ids(&try_open(&disk, &flusher).unwrap()), [(1, 0)]);
}

#[test]
fn rule_19_a_directory_that_lost_a_part_is_refused() {
    let machine = Machine::new();
    machine.append_lens(1, &[7000; 3]);
    vote(&machine.log, 3, 1);
    machine.flusher.turn_idle();
    let check = |remove: &[&str], missing: &str| {
        let disk = machine.disk.fork();
        disk.crash(0);
        for name in remove {
            disk.remove(&Path::new(DIR).join(name)).unwrap();
        }
        match try_open(&disk, &Flusher::manual()) {
            Err(StoreError::Incomplete { missing: found, .. }) => assert!(found.contains(missing), "{found}"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("opened without {missing}"),
        }
    };
    check(&["vote"], "vote is gone");
    check(&["log/00000000000000000000"], "segment 00000000000000000000 is gone");
    check(&["log/00000000000000032768"], "segment 00000000000000032768 is gone");
    check(&["manifest"], "the manifest is gone");
    let segments = ["log/00000000000000000000", "log/00000000000000016384", "log/00000000000000032768"];
    check(&[&segments[..], &["manifest"]].concat(), "there is a vote");
}

#[test]
fn the_lock_keeps_a_second_process_out() {
    let machine = Machine::new();
    match try_open(&machine.disk, &machine.flusher) {
        Err(StoreError::Locked { .. }) => {}
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened twice"),
    }
    machine.restart();
    let dir = tempfile::tempdir().unwrap();
    let open =
        || Log::open_with(Arc::new(store::OsDisk), dir.path(), &identity(), &Flusher::manual(), options());
    let log = open().unwrap();
    assert!(matches!(open(), Err(StoreError::Locked { .. })));
    drop(log);
    open().unwrap();
}

#[test]
fn an_incarnation_is_new_with_each_directory_and_lasts() {
    let machine = Machine::new();
    let first = machine.log.incarnation().to_owned();
    assert_eq!(first.len(), 32);
    machine.log.set_formed([(1, first.clone()), (2, "other".into())].into()).unwrap();
    let machine = machine.crash(0);
    assert_eq!(machine.log.incarnation(), first);
    assert_eq!(machine.log.formed().unwrap()[&2], "other");
    assert_ne!(Machine::on(CrashDisk::new(2)).log.incarnation(), first);
}

#[test]
fn real_segments_are_at_least_sixteen_mebibytes() {
    let disk = Arc::new(CrashDisk::new(1));
    let open = |segment_size, options| {
        let identity = Identity { segment_size, ..identity() };
        Log::open_with(disk.clone(), Path::new("/other"), &identity, &Flusher::manual(), options)
    };
    for size in [0, SEGMENT, (16 << 20) + 1, (16 << 20) - 4096, 1 << 40] {
        assert!(matches!(open(size, Options::default()), Err(StoreError::Invariant(_))), "{size}");
    }
    assert!(matches!(open(4096, options()), Err(StoreError::Invariant(_))));
    open(16 << 20, Options::default()).unwrap();
}

#[test]
fn directories_that_were_made_above_a_new_one_are_durable() {
    let dir = Path::new("/a/b/c/d/group");
    let open = |disk: &CrashDisk| {
        Log::open_with(Arc::new(disk.clone()), dir, &identity(), &Flusher::manual(), options())
    };
    let made = CrashDisk::new(1);
    drop(open(&made).unwrap());
    // Also when the process was killed between making and syncing them.
    let killed = CrashDisk::new(1);
    killed.create_dir(dir).unwrap();
    drop(open(&killed).unwrap());
    for disk in [made, killed] {
        for luck in 0..16 {
            let disk = disk.fork();
            disk.crash(luck);
            assert!(disk.list(&dir.join("log")).is_ok(), "luck {luck}: the group is gone");
        }
    }
}

#[test]
fn a_crash_while_a_directory_is_made_leaves_one_that_can_be_made() {
    let disk = CrashDisk::new(1);
    drop(Machine::on(disk.clone()));
    for n in 1..=disk.syncs() {
        for luck in 0..6 {
            let disk = CrashDisk::new(1);
            disk.power_off_at_sync(n);
            assert!(try_open(&disk, &Flusher::manual()).is_err() || n > 8);
            disk.crash(luck);
            let machine = Machine::on(disk);
            machine.append_lens(1, &[10]);
            assert_eq!(ids(&machine.crash(luck).log), [(1, 0)]);
        }
    }
}
