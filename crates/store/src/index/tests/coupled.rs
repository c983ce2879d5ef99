//! Messages that are in the log together with a command.

use wire::{LogPosition, QueueId, QueueOffset};

use super::damage::SEGMENT;
use super::world::{Bench, Message, SMALL};

/// Two queues, and keys.
fn messages(unique_id: &str) -> [Message; 3] {
    let first = Message {
        tags: Some("tag".into()),
        unique_id: Some(unique_id.into()),
        keys: "k0 k1".into(),
        ..Message::plain("t0", 0)
    };
    [first, Message::plain("t0", 1), Message::plain("t0", 0)]
}

#[test]
fn a_coupled_entry_is_indexed_as_one_of_messages_and_a_void_one_is_not() {
    let mut bench = Bench::new(SEGMENT, SMALL);
    {
        let mut world = bench.world.borrow_mut();
        world.coupled(1_000, 33, &messages("u1"), false);
        world.coupled(2_000, 10, &messages("u2"), true);
        world.coupled(3_000, 0, &messages("u3"), false);
        world.messages(4_000, &messages("u4"), false);
        world.coupled(5_000, 7, &[], false);
    }
    bench.catch_up();
    let frames = bench.world.borrow().frames.clone();
    let check = |bench: &Bench| {
        bench.check(false);
        let index = bench.index();
        // Two of each of the three that count, and where they lie: behind the command.
        let units = index.units("t0", QueueId(0), QueueOffset(0), 100).unwrap();
        assert_eq!(units.len(), 6);
        let first = |at: usize| frames[at].records_position();
        assert_eq!((units[0].position, units[2].position), (first(0), first(2)));
        assert_eq!(first(0), LogPosition(frames[0].position().0 + 64 + 4 + 33));
        assert_eq!(units[4].position, first(3));
        assert_eq!(index.bounds("t0", QueueId(1)).unwrap(), Some((QueueOffset(0), QueueOffset(3))));
        let found = |key: &str| index.find_key("t0", key, 0, u64::MAX, 100).unwrap();
        assert_eq!(found("k1"), [first(3), first(2), first(0)]);
        assert_eq!((found("u1"), found("u2"), found("u3")), (vec![first(0)], vec![], vec![first(2)]));
    };
    check(&bench);
    bench.spill(bench.world.borrow().end()).unwrap();
    check(&bench);
    // From the files, and then built again from the log.
    bench.checkpoint = bench.world.borrow().end();
    bench.reopen().unwrap();
    check(&bench);
    let files = bench.files();
    assert!(!files.is_empty());
    for name in files.keys() {
        crate::disk::Disk::remove(&bench.disk, &bench.dir().join(name)).unwrap();
    }
    bench.reopen().unwrap();
    bench.rebuild_all().unwrap();
    check(&bench);
}
