//! Rule 8 between replicas: the same index has the same bytes at the same position everywhere.

use bytes::Bytes;
use store::{Frame, LogId, NewEntry, StoreError};

use super::harness::{
    Machine, SEGMENT, append, content, coupled, drafts, entries, frames_as_entries, ids, next_index,
    segment_file,
};

/// Gives a follower what it lacks, as replication does.
fn follow(leader: &Machine, follower: &Machine) {
    let frames: Vec<Frame> = entries(&leader.log).split_off(next_index(&follower.log) as usize);
    for frame in frames {
        // Through the wire: the bytes alone.
        let received = Frame::parse(Bytes::copy_from_slice(frame.bytes())).unwrap();
        follower.append(vec![NewEntry::Frame(received)]);
    }
}

fn assert_equal(a: &Machine, b: &Machine) {
    let (left, right) = (a.log.segments(), b.log.segments());
    assert_eq!(left, right);
    for segment in left {
        let path = segment_file(segment.start.0);
        let (mut left, mut right) = (content(&a.disk, &path), content(&b.disk, &path));
        if segment.sealed.is_none() {
            // Behind the open segment are the slots of the watermark, which are this node's own; and above the end may be
            // what was truncated.
            let end = (a.log.state().end.0 - segment.start.0) as usize;
            left.truncate(end);
            right.truncate(end);
        }
        assert!(left == right, "segment {} differs", segment.start);
        assert!(segment.sealed.is_none() || left.len() as u64 == SEGMENT);
    }
}

#[test]
fn rule_8_a_replica_that_gets_frames_has_equal_segments() {
    let (leader, follower) = (Machine::new(), Machine::new());
    for round in 0..30 {
        leader.append_lens(1 + round / 10, &[10, 900 + 100 * round as usize, 33]);
        let index = next_index(&leader.log);
        leader.append(vec![coupled(1 + round / 10, index, 50, 2, 3000 + index)]);
        if round % 3 == 0 {
            follow(&leader, &follower);
        }
    }
    follow(&leader, &follower);
    assert!(leader.log.segments().len() > 4);
    assert_equal(&leader, &follower);
    let follower = follower.crash(1);
    assert_equal(&leader, &follower);
}

#[test]
fn rule_8_also_when_a_truncated_tail_lay_where_its_padding_is() {
    let (leader, follower) = (Machine::new(), Machine::new());
    leader.append_lens(1, &[3000; 2]);
    follow(&leader, &follower);
    for (term, lens) in [(2, &[700; 8][..]), (4, &[2000; 20]), (6, &[5000, 100, 100, 100])] {
        // The follower led for a moment: these never commit.
        append(&follower.log, drafts(&follower.log, term, lens));
        follower.flusher.turn();
        let last = leader.log.state().last;
        follower.log.truncate_after(last).unwrap();
        // The next frame does not fit the rest of the segment: zeros up to its end, over what was there.
        leader.append_lens(term + 1, &[11_000]);
        follow(&leader, &follower);
        assert_equal(&leader, &follower);
    }
    let follower = follower.crash(2);
    assert_equal(&leader, &follower);
    // The same after a restart in between, when nobody remembers what lay there.
    append(&follower.log, drafts(&follower.log, 8, &[700; 3]));
    follower.flusher.turn();
    let follower = follower.restart();
    follower.log.truncate_after(leader.log.state().last).unwrap();
    let follower = {
        follower.flusher.turn();
        follower.restart()
    };
    if next_index(&follower.log) > next_index(&leader.log) {
        // Nothing was written over them, so they are there again; a leader truncates them again.
        follower.log.truncate_after(leader.log.state().last).unwrap();
    }
    leader.append_lens(9, &[11_000]);
    follow(&leader, &follower);
    assert_equal(&leader, &follower);
}

#[test]
fn a_segment_that_only_a_lost_entry_opened_is_forgotten() {
    // A large entry opened a segment and was lost; the entry that comes instead fits the segment before.
    for luck in 0..20 {
        let (leader, follower) = (Machine::new(), Machine::new());
        leader.append_lens(1, &[7000]);
        follow(&leader, &follower);
        append(&follower.log, drafts(&follower.log, 2, &[9000]));
        // The power goes at the sync of the new segment's frame.
        let fork = follower.disk.fork();
        let mut syncs = 0;
        let follower = loop {
            syncs += 1;
            assert!(syncs < 40);
            let other = Machine::on({
                let disk = fork.fork();
                disk.crash(luck);
                disk
            });
            append(&other.log, drafts(&other.log, 2, &[9000]));
            other.disk.power_off_at_sync(other.disk.syncs() + syncs);
            other.flusher.turn();
            if !other.disk.is_off() {
                break other;
            }
            let other = other.crash(luck);
            if next_index(&other.log) == 2 {
                other.log.truncate_after(Some(LogId::new(1, 0))).unwrap();
            }
            assert_eq!(next_index(&other.log), 1);
            let lead = Machine::on({
                let disk = leader.disk.fork();
                disk.crash(0);
                disk
            });
            lead.append_lens(3, &[100, 100]);
            follow(&lead, &other);
            assert_equal(&lead, &other);
        };
        drop(follower);
    }
}

#[test]
fn rule_8_a_frame_for_another_place_is_refused() {
    let (leader, follower) = (Machine::new(), Machine::new());
    leader.append_lens(1, &[100; 3]);
    follower.append_lens(1, &[204; 1]);
    let frames = entries(&leader.log);
    let refused = |frame: &Frame, expect: &str| {
        let error = follower
            .log
            .append(vec![NewEntry::Frame(frame.clone())], Box::new(|_| panic!("done")))
            .unwrap_err();
        assert!(
            matches!(&error, StoreError::Mismatch { .. }) && error.to_string().contains(expect),
            "{error}"
        );
    };
    refused(&frames[0], "index 0 where 1 belongs");
    refused(&frames[2], "index 2 where 1 belongs");
    refused(&frames[1], "position");
    let other = Machine::new();
    other.append_lens(2, &[204, 204]);
    refused(&entries(&other.log)[1], "it follows the frame with chain value");
    assert_eq!(ids(&follower.log), [(1, 0)]);
    follower.log.truncate_after(None).unwrap();
    follower.append(frames_as_entries(&frames));
    assert_equal(&leader, &follower);
}
