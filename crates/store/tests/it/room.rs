//! Rule 10: space is reserved before it is needed; a full disk refuses reservations and never fails an append.

use std::io;

use store::{CrashDisk, StoreError};

use super::harness::{Machine, SEGMENT, append, draft, drafts, frame_at, ids, meta, next_index};

const FILE: u64 = SEGMENT + 8192;
/// The manifest and its spare.
const MANIFESTS: u64 = 2 * (16 << 10);

/// A disk with room for `segments` segments and the small files.
fn small_disk(segments: u64) -> CrashDisk {
    let disk = CrashDisk::new(1);
    disk.set_capacity(Some(segments * FILE + 12_000 + MANIFESTS));
    disk
}

/// Found by a real disk that was filled to the last byte: the log stopped when it went on into its next segment.
#[test]
fn rule_10_the_next_segment_is_opened_without_a_byte_to_spare() {
    let machine = Machine::new();
    machine.append_lens(1, &[100]);
    machine.disk.set_capacity(Some(0));
    assert_eq!(machine.log.disk_free().unwrap(), 0);
    let mut taken = 0;
    while let Ok(room) = machine.log.reserve(1064) {
        let ack = append(&machine.log, drafts(&machine.log, 1, &[1000]));
        machine.flusher.turn();
        ack.ok();
        drop(room);
        taken += 1;
    }
    let end = machine.log.state().end.0;
    assert!(end > SEGMENT && taken > 20, "it went on into the next segment: {taken} messages, up to {end}");
    // The spare takes what a group needs, and a restart finds everything.
    let room = machine.log.reserve_small(164).unwrap();
    let ack = append(&machine.log, drafts(&machine.log, 1, &[100]));
    machine.flusher.turn();
    ack.ok();
    drop(room);
    let last = machine.log.state().last;
    assert_eq!(machine.restart().log.state().last, last);
}

#[test]
fn rule_10_a_full_disk_refuses_reservations_and_keeps_a_spare() {
    let machine = Machine::on(small_disk(3));
    let mut appended = 0;
    let refused = loop {
        match machine.log.reserve(2100) {
            Ok(reservation) => {
                let ack = append(&machine.log, drafts(&machine.log, 1, &[2000]));
                drop(reservation);
                machine.flusher.turn();
                ack.ok();
                appended += 1;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::NoRoom { wanted: 2100 }), "{refused}");
    assert!(machine.log.is_disk_full());
    assert!((10..=12).contains(&appended), "two segments are filled, the third is the spare: {appended}");
    // Blank, membership and retention entries still find room, and reads go on.
    let ack = append(&machine.log, drafts(&machine.log, 2, &[100, 2000, 2000]));
    machine.flusher.turn();
    ack.ok();
    assert_eq!(ids(&machine.log).len(), appended + 3);
    // When even the spare is used up the append is refused whole, and nothing is poisoned.
    let mut refused = None;
    for _ in 0..20 {
        let before = next_index(&machine.log);
        match machine.log.append(drafts(&machine.log, 2, &[2000, 2000]), Box::new(|outcome| outcome.unwrap()))
        {
            Ok(()) => assert!(machine.flusher.turn()),
            Err(error) => {
                assert_eq!(next_index(&machine.log), before);
                refused = Some(error);
                break;
            }
        }
    }
    assert!(matches!(refused, Some(StoreError::NoRoom { .. })), "{refused:?}");
    machine.log.save_vote_now(store::Vote { term: store::Term(3), node: 1, committed: false }).unwrap();
    // Room again: the log goes on by itself.
    machine.disk.set_capacity(None);
    machine.flusher.turn_idle();
    assert!(!machine.log.is_disk_full());
    let reservation = machine.log.reserve(5000).unwrap();
    machine.append_lens(3, &[2000, 2000]);
    drop(reservation);
    let expect = next_index(&machine.log);
    assert_eq!(next_index(&machine.crash(0).log), expect);
}

#[test]
fn rule_10_a_blank_finds_room_where_messages_do_not() {
    let machine = Machine::on(small_disk(3));
    let entry = |log: &store::Log, kind, body: &[u8]| {
        let id = store::LogId::new(1, next_index(log));
        store::NewEntry::Draft(store::Draft::new(id, kind, 0, body))
    };
    let blank = |log: &store::Log| vec![entry(log, store::FrameKind::Blank, b"")];
    while let Ok(reservation) = machine.log.reserve(3064) {
        machine.append(vec![entry(&machine.log, store::FrameKind::Command, &[7; 3000])]);
        drop(reservation);
    }
    while let Ok(reservation) = machine.log.reserve(72) {
        machine.append(vec![entry(&machine.log, store::FrameKind::Command, &[7; 8])]);
        drop(reservation);
    }
    // The open segment is exhausted.
    assert!(machine.log.is_disk_full() && machine.log.free_room() < 72);
    assert!(matches!(machine.log.reserve(72), Err(StoreError::NoRoom { wanted: 72 })));
    let segments = machine.log.segments().len();
    let first = machine.log.reserve_small(72).unwrap();
    machine.append(blank(&machine.log));
    machine.append(blank(&machine.log));
    drop(first);
    assert_eq!(machine.log.segments().len(), segments + 1);
    // The spare is in use, so messages may follow; but its end is kept.
    while let Ok(reservation) = machine.log.reserve(2064) {
        machine.append(vec![entry(&machine.log, store::FrameKind::Command, &[7; 2000])]);
        drop(reservation);
    }
    while let Ok(reservation) = machine.log.reserve(72) {
        machine.append(vec![entry(&machine.log, store::FrameKind::Command, &[7; 8])]);
        drop(reservation);
    }
    assert!(machine.log.free_room() < 72 && machine.log.is_disk_full());
    let mut elections = 0;
    while let Ok(reservation) = machine.log.reserve_small(64) {
        machine.append(blank(&machine.log));
        drop(reservation);
        elections += 1;
        assert!(machine.log.reserve(64).is_err(), "nothing of it is for messages");
    }
    // A sixteenth of the segment.
    assert!((SEGMENT / 16 / 64..SEGMENT / 16 / 64 + 2).contains(&elections), "{elections}");
    assert_eq!(machine.log.segments().len(), segments + 1);
    let expect = next_index(&machine.log);
    assert_eq!(next_index(&machine.crash(0).log), expect);
}

/// Found by a test in which one of three disks had a segment fewer ahead when all became full: the other two committed what it
/// could not store, and when one of them went nobody could lead.
#[test]
fn rule_10_a_follower_stores_what_its_leader_has_where_new_messages_find_no_room() {
    let machine = Machine::on(small_disk(3));
    while let Ok(reservation) = machine.log.reserve(2064) {
        machine.append_lens(1, &[2000]);
        drop(reservation);
    }
    assert!(machine.log.is_disk_full());
    let segments = machine.log.segments().len();
    let mut bytes = 0;
    while let Ok(reservation) = machine.log.reserve_behind(2064) {
        machine.append_lens(1, &[2000]);
        drop(reservation);
        bytes += 2064;
    }
    assert_eq!(machine.log.segments().len(), segments + 1, "the spare is in use, and no other");
    assert!(bytes + 2064 > SEGMENT - 4096 - SEGMENT / 16, "{bytes}");
    // What is kept is for the group.
    assert!(machine.log.reserve(72).is_err() || machine.log.free_room() < 2064);
    let blanks: Vec<_> = std::iter::from_fn(|| machine.log.reserve_small(64).ok()).collect();
    assert!(blanks.len() as u64 >= SEGMENT / 16 / 64, "{}", blanks.len());
    drop(blanks);
    let expect = next_index(&machine.log);
    assert_eq!(next_index(&machine.crash(0).log), expect);
}

#[test]
fn rule_10_what_is_too_large_for_the_spare_is_reserved_as_messages_are() {
    let disk = CrashDisk::new(1);
    let identity = store::Identity { segment_size: 1 << 20, ..super::harness::identity() };
    disk.set_capacity(Some(2 * ((1 << 20) + 8192) + 12_000 + MANIFESTS));
    let flusher = store::Flusher::manual();
    let dir = std::path::Path::new("/large");
    let options = super::harness::options();
    let log = store::Log::open_with(std::sync::Arc::new(disk), dir, &identity, &flusher, options).unwrap();
    // No segment is open yet: one of the two will be, the other is the spare.
    assert_eq!(log.free_room(), (1 << 20) - 4096);
    append(&log, drafts(&log, 1, &[1_000_000]));
    flusher.turn();
    assert!(log.free_room() < 64 << 10 && log.is_disk_full());
    assert!(log.reserve((64 << 10) + 1).is_err());
    assert!(log.reserve_small((64 << 10) + 1).is_err());
    let most: Vec<_> = std::iter::from_fn(|| log.reserve_small(64 << 10).ok()).collect();
    assert_eq!(most.len(), 15, "small ones add up like others, and fit the spare together");
    assert!(log.reserve(1).is_err());
    drop(most);
    assert!(log.reserve(1).is_ok());
}

#[test]
fn rule_10_purging_makes_room_again() {
    let machine = Machine::on(small_disk(4));
    while machine.log.reserve(3100).is_ok() {
        machine.append_lens(1, &[3000]);
    }
    let last = next_index(&machine.log) - 1;
    machine.log.save_committed(Some(frame_at(&machine.log, last).id()));
    let sealed = machine.log.segments()[0].sealed.unwrap();
    let boundary = frame_at(&machine.log, sealed.last.unwrap().index.0);
    machine.log.save_tables(store::TablesKind::Boundary, &meta(&boundary), b"t").unwrap();
    machine.log.set_current_snapshot(boundary.id()).unwrap();
    machine.log.purge(boundary.id()).unwrap();
    machine.flusher.turn();
    assert!(machine.log.reserve(3100).is_ok(), "{}", machine.log.free_room());
}

#[test]
fn reservations_add_up_and_are_given_back() {
    let machine = Machine::new();
    let free = machine.log.free_room();
    assert!(free > 1000);
    let first = machine.log.reserve(free - 100).unwrap();
    assert_eq!(machine.log.free_room(), 100);
    assert!(machine.log.reserve(101).is_err());
    let second = machine.log.reserve(100).unwrap();
    drop(first);
    assert_eq!(machine.log.free_room(), free - 100);
    drop(second);
    assert_eq!(machine.log.free_room(), free);
    assert!(machine.log.reserve(u64::MAX).is_err());
}

#[test]
fn what_is_reserved_fits_whatever_the_lengths_of_the_frames() {
    let mut dice = super::harness::Dice(9);
    for _ in 0..60 {
        let machine = Machine::on(small_disk(3));
        loop {
            let lens: Vec<usize> = (0..=dice.roll(6)).map(|_| dice.roll(3000) as usize).collect();
            let next = next_index(&machine.log);
            let new: Vec<_> = lens.iter().zip(next..).map(|(len, index)| draft(1, index, *len)).collect();
            let bytes = new.iter().map(|entry| match entry {
                store::NewEntry::Draft(draft) => (draft.buffer.len() as u64).next_multiple_of(8),
                store::NewEntry::Frame(frame) => frame.len(),
            });
            let Ok(reservation) = machine.log.reserve(bytes.sum()) else { break };
            let before = machine.log.segments().len();
            let ack = append(&machine.log, new);
            drop(reservation);
            machine.flusher.turn();
            ack.ok();
            assert!(machine.log.segments().len() <= before + 1);
        }
        // The spare is still there.
        append(&machine.log, drafts(&machine.log, 2, &[8000]));
        machine.flusher.turn();
        assert!(machine.log.segments().len() <= 3);
    }
}

#[test]
fn allocated_segments_are_used_again_after_a_restart() {
    let machine = Machine::new();
    machine.append_lens(1, &[100]);
    let before = machine.log.disk_free().unwrap();
    let mut machine = machine;
    for luck in 0..4 {
        machine = machine.crash(luck);
        assert_eq!(machine.log.disk_free().unwrap(), before);
    }
    machine.append_lens(1, &[7000; 3]);
    assert_eq!(next_index(&machine.crash(7).log), 4);
}

#[test]
fn a_disk_that_is_full_from_the_start_still_opens_what_it_holds() {
    let machine = Machine::new();
    machine.append_lens(1, &[3000; 3]);
    machine.disk.set_capacity(Some(0));
    let machine = machine.restart();
    assert_eq!(next_index(&machine.log), 3);
    let full = io::Error::from(StoreError::NoRoom { wanted: 1 });
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
}
