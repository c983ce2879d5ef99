//! Commands 10 to 19, alone and with messages.

use super::super::command::{
    Attempt, FEATURE_LEVEL, Lock, PopAck, PopBatch, PopChange, PopRevive, PopTake, RaiseLevel, Release,
    ResetOffsets, SetRequestMode, Source, TakePart, TakeResets, released,
};
use super::*;

const Q0: QueueId = QueueId(0);

impl Bench {
    fn id(&self, topic: &str) -> u32 {
        self.state.topic(topic).unwrap().id.0
    }

    fn group_id(&self, group: &str) -> u32 {
        self.state.group(group).unwrap().id.0
    }

    fn release(&self, topic: &str, offsets: &[u64]) -> Kind {
        let source = Source { topic: self.id(topic), queue: 0, offsets: offsets.to_vec() };
        Kind::Release(Release { sources: vec![source], how: released::DELIVERED })
    }

    /// `None`: it was void.
    fn coupled(&mut self, command: Kind, messages: &[(&str, u32, u64)]) -> Option<Reply> {
        let frame = self.frames.coupled(&command.into(), messages);
        match self.state.apply(&frame) {
            Outcome::Coupled(bytes) => Some(Reply::decode(bytes).unwrap()),
            Outcome::Void => None,
            other => panic!("{other:?}"),
        }
    }

    fn pending(&self, topic: &str) -> Vec<u64> {
        let pending = self.state.pending(topic, Q0, QueueOffset(0), 1000);
        assert_eq!(pending.len() as u64, self.state.pending_count(topic, Q0));
        pending.into_iter().map(|offset| offset.0).collect()
    }

    fn pop(&mut self, cursor: Option<u64>, next: u64, offsets: &[u64]) -> Reply {
        let part = TakePart { topic: self.id("T"), queue: 0, cursor, next, offsets: offsets.to_vec() };
        let take = PopTake {
            group: self.group_id("g"),
            parts: vec![part],
            invisible_ms: 60,
            order: false,
            attempt_id: String::new(),
        };
        self.run(Kind::PopTake(take))
    }

    fn pop_in_order(&mut self, cursor: Option<u64>, offsets: &[u64], attempt_id: &str) -> Reply {
        let next = offsets.last().unwrap() + 1;
        let part = TakePart { topic: self.id("T"), queue: 0, cursor, next, offsets: offsets.to_vec() };
        let take = PopTake {
            group: self.group_id("g"),
            parts: vec![part],
            invisible_ms: 60,
            order: true,
            attempt_id: attempt_id.into(),
        };
        self.run(Kind::PopTake(take))
    }

    fn ack(&mut self, offset: u64, pop_time_ms: u64) -> Reply {
        let ack = PopAck {
            topics: vec![self.id("T")],
            groups: vec![self.group_id("g")],
            queues: vec![0],
            offsets: vec![offset],
            pop_times_ms: vec![pop_time_ms],
        };
        self.run(Kind::PopAck(ack))
    }

    fn revive(&self, offsets: &[u64]) -> Kind {
        let (topic, group) = (self.id("T"), self.group_id("g"));
        Kind::PopRevive(PopRevive {
            batches: vec![PopBatch { topic, group, queue: 0, offsets: offsets.to_vec() }],
        })
    }

    fn lock(&mut self, client: &str, unlock: bool, queues: &[u32]) -> Vec<u32> {
        let lock = Lock {
            group: self.group_id("g"),
            client: client.into(),
            unlock,
            lease_ms: 60,
            topics: vec![self.id("T"); queues.len()],
            queues: queues.to_vec(),
        };
        self.run(Kind::Lock(lock)).granted
    }

    fn reset(&mut self, queues: &[u32], offsets: &[u64]) -> Reply {
        let (topic, group) = (self.id("T"), self.group_id("g"));
        self.run(Kind::ResetOffsets(ResetOffsets {
            topic,
            group,
            queues: queues.to_vec(),
            offsets: offsets.to_vec(),
        }))
    }

    fn take_reset(&mut self, queue: u32, offset: u64) -> Reply {
        let (topics, groups) = (vec![self.id("T")], vec![self.group_id("g")]);
        self.run(Kind::TakeResets(TakeResets { topics, groups, queues: vec![queue], offsets: vec![offset] }))
    }

    fn attempt(&mut self, topic: &str, offsets: &[u64]) -> Vec<u32> {
        let source = Source { topic: self.id(topic), queue: 0, offsets: offsets.to_vec() };
        self.run(Kind::Attempt(Attempt { source })).granted
    }

    fn mode(&mut self, topic: &str, group: &str, pop: bool) -> Reply {
        let (topic, group) = (topic.into(), group.into());
        self.run(Kind::RequestMode(SetRequestMode { topic, group, pop, pop_share_queues: 4 }))
    }
}

/// `S`, a source with messages 0 to 3, and `T`, an empty topic of 2 queues; group `g`.
fn sources() -> Bench {
    check(
        "create S 1 => changed
         create T 2 => changed
         group g => changed
         send S/0@0 S/0@1 S/0@2 S/0@3 => ok",
    )
}

/// `T` with messages 0 to 9 in its first queue, and group `g`, which has committed 2.
fn consumed() -> Bench {
    let mut bench = check(
        "create T 2 => changed
         group g => changed
         commit g T/0@2 => changed",
    );
    let messages: Vec<_> = (0..10).map(|offset| ("T", 0, offset)).collect();
    assert_eq!(bench.send(&messages), Outcome::Messages);
    bench
}

#[test]
fn a_release_and_its_messages_take_effect_together() {
    let mut bench = sources();
    assert_eq!(bench.pending("S"), [0, 1, 2, 3]);
    let reply = bench.coupled(bench.release("S", &[0, 2]), &[("T", 0, 0), ("T", 1, 0)]).unwrap();
    assert_eq!((reply.code, reply.changed, &reply.granted[..]), (0, true, &[0, 1][..]));
    assert_eq!(reply.time_ms, bench.frames.log_time_ms);
    assert_eq!(bench.pending("S"), [1, 3]);
    bench.line("queue T/0 => 0..1");
    bench.line("queue T/1 => 0..1");
    assert_eq!(bench.state.pending_base("S", Q0), Some(QueueOffset(1)));
    let is_done = |bench: &Bench, offset| bench.state.is_done("S", Q0, QueueOffset(offset));
    assert_eq!((0..5).filter(|offset| is_done(&bench, *offset)).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(bench.state.pending("S", Q0, QueueOffset(2), 9), [QueueOffset(3)]);
    assert_eq!(bench.state.pending("S", Q0, QueueOffset(0), 1), [QueueOffset(1)]);
    // What it brings may lie in the source itself, and be pending.
    bench.coupled(bench.release("S", &[1]), &[("S", 0, 4)]).unwrap();
    assert_eq!(bench.pending("S"), [3, 4]);
    assert_eq!(bench.state.pending_base("S", Q0), Some(QueueOffset(3)));
    let totals = bench.state.totals();
    assert_eq!((totals.messages, totals.void_entries), (7, 0));
    // Queues of which nothing is done, and none.
    assert_eq!(bench.pending("T"), [0]);
    assert_eq!(bench.state.pending_base("T", QueueId(1)), Some(QueueOffset(0)));
    assert_eq!((bench.state.pending_base("T", QueueId(2)), bench.state.pending_base("V", Q0)), (None, None));
    assert!(!bench.state.is_done("V", Q0, QueueOffset(0)) && bench.pending("V").is_empty());
}

#[test]
fn a_coupled_entry_is_void_as_a_whole() {
    type Case = fn(&Bench) -> (Kind, Vec<(&'static str, u32, u64)>);
    fn two(bench: &Bench, first: &[u64], second: &[u64]) -> Kind {
        let source = |offsets: &[u64]| Source { topic: bench.id("S"), queue: 0, offsets: offsets.to_vec() };
        Kind::Release(Release { sources: vec![source(first), source(second)], how: 0 })
    }
    fn of(topic: u32, queue: u32) -> Kind {
        Kind::Release(Release { sources: vec![Source { topic, queue, offsets: vec![2] }], how: 0 })
    }
    let cases: [(&str, Case); 14] = [
        ("done already", |b| (b.release("S", &[0, 1]), vec![("T", 0, 0)])),
        ("not stored", |b| (b.release("S", &[1, 4]), vec![("T", 0, 0)])),
        ("stored by this entry", |b| (b.release("S", &[4]), vec![("S", 0, 4)])),
        ("not ascending", |b| (b.release("S", &[2, 1]), vec![("T", 0, 0)])),
        ("named twice", |b| (b.release("S", &[1, 1]), vec![("T", 0, 0)])),
        ("a source named twice", |b| (two(b, &[1], &[1]), vec![("T", 0, 0)])),
        ("no such topic", |_| (of(77, 0), vec![("T", 0, 0)])),
        ("no such queue", |b| (of(b.id("S"), 1), vec![("T", 0, 0)])),
        ("a message that does not follow", |b| (b.release("S", &[1]), vec![("T", 0, 0), ("T", 0, 2)])),
        ("a message without a topic", |b| (b.release("S", &[1]), vec![("T", 0, 0), ("V", 0, 0)])),
        ("a command that is not made for it", |b| {
            let source = Source { topic: b.id("S"), queue: 0, offsets: vec![1] };
            (Kind::Attempt(Attempt { source }), vec![("T", 0, 0)])
        }),
        ("nothing in flight", |b| (b.revive(&[0]), vec![("T", 0, 0)])),
        ("a topic", |_| (Kind::CreateTopic(topic("X", 1)), vec![("T", 0, 0)])),
        ("done already, and nothing comes instead", |b| (b.release("S", &[0]), vec![])),
    ];
    for (what, case) in cases {
        let (mut with, mut without) = (sources(), sources());
        for bench in [&mut with, &mut without] {
            bench.attempt("S", &[1]);
            bench.coupled(bench.release("S", &[0]), &[]).unwrap();
            bench.state.after_apply(LogPosition(0));
        }
        let (command, messages) = case(&with);
        assert_eq!(with.coupled(command, &messages), None, "{what}");
        let index = with.state.read().applied.unwrap();
        assert!(with.state.is_void(index), "{what}");
        assert_eq!(with.state.totals().void_entries, 1, "{what}");
        // But for that it leaves no trace.
        {
            let mut tables = with.state.write();
            assert_eq!(tables.take_fresh(), Advance::default(), "{what}");
            tables.voids.clear();
            tables.totals.void_entries = 0;
        }
        assert_eq!(with.state.encode(), without.state.encode(), "{what}");
        with.coupled(with.release("S", &[1]), &[("T", 0, 0)]).unwrap();
        assert_eq!(with.pending("S"), [2, 3], "{what}");
    }
}

#[test]
fn a_release_alone_passes_over_what_is_done() {
    let mut bench = sources();
    let reply = bench.run(bench.release("S", &[3, 1, 1, 9]));
    assert_eq!((reply.code, &reply.granted[..]), (0, &[0, 1][..]));
    let encoded = bench.state.encode();
    let reply = bench.run(bench.release("S", &[1, 3]));
    assert_eq!((reply.code, reply.changed, &reply.granted[..]), (0, false, &[][..]));
    assert_eq!(bench.state.encode(), encoded);
    // `granted` counts through all sources.
    let sources = [(99, vec![0]), (bench.id("S"), vec![1, 2])]
        .map(|(topic, offsets)| Source { topic, queue: 0, offsets })
        .to_vec();
    let reply = bench.run(Kind::Release(Release { sources, how: released::CANCELLED }));
    assert_eq!(reply.granted, [2]);
    assert_eq!(bench.pending("S"), [0]);
    assert!(!bench.run(bench.release("T", &[0])).changed);
    assert!(!bench.state.read().progress.done.contains_key(&(TopicId(bench.id("T")), 0)));
}

#[test]
fn attempts_of_what_is_pending() {
    let mut bench = sources();
    bench.run(bench.release("S", &[0]));
    assert_eq!(bench.attempt("S", &[0, 1, 2, 4]), [1, 2]);
    assert_eq!(bench.attempt("S", &[2]), [0]);
    let last = bench.frames.log_time_ms;
    let of = |bench: &Bench, offset| bench.state.attempts("S", Q0, QueueOffset(offset));
    assert_eq!([0, 1, 2, 3].map(|offset| of(&bench, offset)), [(0, 0), (1, last - 1), (2, last), (0, 0)]);
    bench.coupled(bench.release("S", &[2]), &[("T", 0, 0)]).unwrap();
    assert_eq!(of(&bench, 2), (0, 0), "what is done has none");
    bench.line("delete S => changed");
    bench.line("create S 1 => changed");
    assert_eq!(of(&bench, 1), (0, 0));
}

#[test]
fn a_source_that_is_deleted_while_something_is_pending() {
    let mut bench = sources();
    bench.run(bench.release("S", &[1]));
    let in_flight = bench.release("S", &[2]);
    bench.line("delete S => changed");
    assert_eq!(bench.coupled(in_flight.clone(), &[("T", 0, 0)]), None);
    assert_eq!(bench.state.pending_base("S", Q0), None);
    bench.line("create S 1 => changed");
    assert_eq!(bench.coupled(in_flight, &[("T", 0, 0)]), None, "another topic of the same name");
    assert_eq!(bench.state.pending_base("S", Q0), Some(QueueOffset(4)));
    assert!(bench.pending("S").is_empty() && bench.state.is_done("S", Q0, QueueOffset(2)));
    bench.line("send S/0@4 S/0@5 => ok");
    assert_eq!(bench.pending("S"), [4, 5]);
    assert_eq!(bench.coupled(bench.release("S", &[3]), &[]), None, "it is gone");
    bench.coupled(bench.release("S", &[5]), &[("T", 0, 0)]).unwrap();
    assert_eq!(bench.pending("S"), [4]);
}

#[test]
fn locks_are_leases_by_log_time() {
    let mut bench = sources();
    assert_eq!(bench.lock("one", false, &[0, 1, 2]), [0, 1], "there is no queue 2");
    let until_ms = bench.frames.log_time_ms + 60;
    let holder = bench.state.lock_holder("g", "T", Q0).unwrap();
    assert_eq!((&*holder.client, holder.until_ms), ("one", until_ms));
    assert!(holder.holds(until_ms - 1) && !holder.holds(until_ms));
    assert!(bench.state.holds_locks("g", until_ms - 1) && !bench.state.holds_locks("g", until_ms));
    assert_eq!(bench.lock("two", false, &[0]), [] as [u32; 0]);
    assert_eq!(bench.lock("two", true, &[0]), [] as [u32; 0], "only its own");
    assert_eq!(bench.lock("one", true, &[1]), [0]);
    assert_eq!(bench.lock("two", false, &[1]), [0]);
    // The next entry comes at the very end of the lease.
    bench.frames.log_time_ms = until_ms - 1;
    assert_eq!(bench.lock("two", false, &[0]), [0]);
    assert_eq!(bench.lock("one", false, &[0]), [] as [u32; 0]);
    let reply = bench.run(Kind::Lock(Lock { group: 0, client: String::new(), ..Lock::default() }));
    assert_eq!(reply.code, 29);
    bench.line("delete-group g => changed");
    assert_eq!(bench.state.lock_holder("g", "T", Q0), None);
    bench.line("group g => changed");
    assert!(!bench.state.holds_locks("g", 0));
    assert_eq!(bench.lock("one", false, &[0]), [0]);
    bench.line("delete T => changed");
    assert!(!bench.state.holds_locks("g", 0));
}

#[test]
fn a_reset_counts_until_it_is_taken() {
    let mut bench = consumed();
    let reply = bench.reset(&[0, 1, 5], &[7, 0, 0]);
    assert_eq!((reply.code, &reply.granted[..]), (0, &[0, 1][..]));
    let pending = |bench: &Bench| bench.state.pending_reset("T", "g", Q0);
    assert_eq!(pending(&bench), Some(QueueOffset(7)));
    bench.line("offset g T/0 => 7");
    // Its consumer does not know yet.
    let key = bench.state.commit_key("T", "g").unwrap();
    assert!(bench.state.ignores_commits(key, Q0) && !bench.state.ignores_commits(key, QueueId(7)));
    bench.line("commit g T/0@3 => same");
    bench.line("offset g T/0 => 7");
    bench.reset(&[0], &[5]);
    assert_eq!(bench.take_reset(0, 7).granted, [] as [u32; 0], "that one is not the last");
    assert_eq!(bench.take_reset(0, 5).granted, [0]);
    assert_eq!(bench.take_reset(0, 5).granted, [] as [u32; 0]);
    assert_eq!(pending(&bench), None);
    bench.line("commit g T/0@6 => changed");
    bench.line("commit g T/1@3 => same");
    assert_eq!(bench.take_reset(1, 0).granted, [0]);
    assert_eq!(bench.reset(&[9], &[0]).code, 17);
    bench.reset(&[0], &[1]);
    bench.line("delete-group g => changed");
    bench.line("group g => changed");
    assert_eq!(pending(&bench), None);
    bench.line("commit g T/0@6 => changed");
    bench.reset(&[0], &[1]);
    bench.line("delete T => changed");
    assert!(bench.state.read().progress.resets.is_empty());
}

#[test]
fn request_modes_are_of_names() {
    let mut bench = Bench::new();
    assert_eq!(bench.state.request_mode("T", "g"), None);
    assert!(bench.mode("T", "g", true).changed && !bench.mode("T", "g", true).changed);
    assert_eq!(
        bench.state.request_mode("T", "g"),
        Some(RequestMode { pop: true, pop_share_queues: 4 }),
        "neither is there"
    );
    bench.mode("T", "h", false);
    let all = bench.state.request_modes();
    assert_eq!(
        all.iter().map(|(topic, group, _)| (&**topic, &**group)).collect::<Vec<_>>(),
        [("T", "g"), ("T", "h")]
    );
    assert_eq!(bench.mode("", "g", true).code, 29);
    assert_eq!(bench.mode("T", &"g".repeat(256), true).code, 29);
    for line in ["create T 1 => changed", "delete T => changed", "group g => changed"] {
        bench.line(line);
    }
    assert!(bench.state.request_mode("T", "g").is_some());
    bench.line("delete-group g => changed");
    assert!(bench.state.request_mode("T", "g").is_none() && bench.state.request_mode("T", "h").is_some());
}

#[test]
fn messages_go_to_one_pop_consumer_at_a_time() {
    let mut bench = consumed();
    let taken = bench.pop(Some(2), 6, &[2, 3, 5]);
    assert_eq!((taken.code, &taken.granted[..]), (0, &[0][..]));
    bench.line("offset g T/0 => 6");
    let refused = |reply: Reply| (reply.code, reply.granted.len(), reply.changed) == (0, 0, false);
    assert!(refused(bench.pop(Some(2), 6, &[2])), "the offset is another one");
    assert!(refused(bench.pop(None, 6, &[2])));
    for (next, offsets) in [(8, &[8][..]), (8, &[5]), (8, &[7, 6]), (8, &[7, 7]), (11, &[7]), (5, &[])] {
        assert!(refused(bench.pop(Some(6), next, offsets)), "{next} {offsets:?}");
    }
    let in_flight = |bench: &Bench, offset| bench.state.pop_in_flight("T", "g", Q0, QueueOffset(offset));
    let message = in_flight(&bench, 3).unwrap();
    assert_eq!((message.pop_time_ms, message.visible_at_ms), (taken.time_ms, taken.time_ms + 60));
    assert_eq!((in_flight(&bench, 4), bench.state.pop_in_flight_count("T", "g", Q0)), (None, 3));
    assert_eq!(bench.ack(3, taken.time_ms + 1).granted, [] as [u32; 0], "another handle");
    assert_eq!(bench.ack(3, taken.time_ms).granted, [0]);
    let stale = bench.ack(3, taken.time_ms);
    assert_eq!((stale.code, stale.changed), (0, false));
    let change = PopChange {
        topics: vec![bench.id("T")],
        groups: vec![bench.group_id("g")],
        queues: vec![0],
        offsets: vec![2],
        pop_times_ms: vec![taken.time_ms],
        invisible_ms: vec![500],
    };
    let changed = bench.run(Kind::PopChange(change.clone()));
    assert_eq!(changed.granted, [0]);
    assert_eq!(bench.run(Kind::PopChange(change)).granted, [] as [u32; 0], "the old handle");
    let message = in_flight(&bench, 2).unwrap();
    assert_eq!((message.pop_time_ms, message.visible_at_ms), (changed.time_ms, changed.time_ms + 500));
    assert_eq!(bench.state.pop_next_due_ms(None), Some(taken.time_ms + 60));
    // A queue without an offset.
    let mut other = consumed();
    other.line("group h => changed");
    let part =
        |queue, cursor, next| TakePart { topic: other.id("T"), queue, cursor, next, offsets: Vec::new() };
    // Each part is judged by itself.
    let parts = vec![
        part(0, Some(1), 1),
        part(0, None, 1),
        part(9, None, 0),
        TakePart { topic: 99, ..part(0, None, 0) },
    ];
    let take = PopTake { group: other.group_id("h"), parts, ..PopTake::default() };
    assert_eq!(other.run(Kind::PopTake(take.clone())).granted, [1]);
    other.line("offset h T/0 => 1");
    assert!(refused(other.run(Kind::PopTake(PopTake { group: 99, ..take.clone() }))));
    let attempt_id = "a".repeat(256);
    assert_eq!(other.run(Kind::PopTake(PopTake { attempt_id, ..take })).code, 29);
    // An offset beyond the end is brought back.
    other.line("commit h T/0@99 => changed");
    let part = TakePart { topic: other.id("T"), queue: 0, cursor: Some(99), next: 9, offsets: Vec::new() };
    let back = |next| PopTake {
        group: other.state.group("h").unwrap().id.0,
        parts: vec![TakePart { next, ..part.clone() }],
        ..PopTake::default()
    };
    let end = other.state.queue("T", Q0).unwrap().next.0;
    let (early, right) = (back(end - 1), back(end));
    assert!(refused(other.run(Kind::PopTake(early))));
    assert_eq!(other.run(Kind::PopTake(right)).granted, [0]);
    assert_eq!(other.state.offset("T", "h", Q0), Some(QueueOffset(end)));
}

#[test]
fn what_nobody_acknowledges_is_revived_with_its_copy() {
    let mut bench = consumed();
    let taken = bench.pop(Some(2), 5, &[2, 3, 4]);
    bench.ack(3, taken.time_ms);
    let retry = ("%RETRY%g", 0, 0);
    assert!(bench.coupled(bench.revive(&[2]), &[retry]).is_none(), "it is not due");
    assert!(bench.state.pop_due(taken.time_ms + 59, None, 9).is_empty());
    let due = bench.state.pop_due(taken.time_ms + 60, None, 9);
    assert_eq!(due.iter().map(|due| due.offset.0).collect::<Vec<_>>(), [2, 4]);
    assert_eq!((&*due[0].topic, &*due[0].group, due[0].queue), ("T", "g", Q0));
    assert_eq!((due[0].topic_id.0, due[0].group_id.0), (bench.id("T"), bench.group_id("g")));
    assert_eq!(bench.state.pop_due(u64::MAX, None, 1).len(), 1);
    let behind = bench.state.pop_due(u64::MAX, Some(due[0].place()), 9);
    assert_eq!(behind, due[1..]);
    assert_eq!(bench.state.pop_next_due_ms(Some(due[0].place())), Some(taken.time_ms + 60));
    assert_eq!(bench.state.pop_next_due_ms(Some(due[1].place())), None);
    bench.frames.log_time_ms = taken.time_ms + 60;
    for offsets in [&[3][..], &[2, 3], &[4, 2], &[2, 2]] {
        assert!(bench.coupled(bench.revive(offsets), &[retry]).is_none(), "{offsets:?}");
    }
    assert!(bench.coupled(bench.revive(&[2]), &[("%RETRY%g", 0, 1)]).is_none());
    assert_eq!(bench.coupled(bench.revive(&[2]), &[retry]).unwrap().granted, [0]);
    assert!(bench.coupled(bench.revive(&[2]), &[("%RETRY%g", 0, 1)]).is_none(), "once only");
    assert_eq!(bench.ack(2, taken.time_ms).granted, [] as [u32; 0], "too late");
    // Alone: what is gone from the log has no copy.
    assert_eq!(bench.run(bench.revive(&[2, 4])).granted, [1]);
    assert_eq!((bench.state.pop_next_due_ms(None), bench.state.pop_in_flight_total("T", "g")), (None, 0));
    bench.line("offset g T/0 => 5");
}

#[test]
fn what_is_in_flight_of_a_queue_that_was_hidden_is_there() {
    let mut bench = check(
        "create T 2 => changed
         group g => changed
         send T/0@0 T/1@0 => ok",
    );
    let take = PopTake {
        group: bench.group_id("g"),
        parts: vec![TakePart { topic: bench.id("T"), queue: 1, cursor: None, next: 1, offsets: vec![0] }],
        invisible_ms: 60,
        order: false,
        attempt_id: String::new(),
    };
    assert_eq!(bench.run(Kind::PopTake(take)).granted, [0]);
    bench.line("update T 1 => changed");
    let due = bench.state.pop_due(u64::MAX, None, 9).remove(0);
    assert_eq!(bench.state.queue("T", due.queue), None);
    assert_eq!(bench.state.pop_range(&due).map(|range| range.next), Some(QueueOffset(1)));
    bench.line("delete T => changed");
    assert_eq!(bench.state.pop_range(&due), None);
}

#[test]
fn orderly_consumers_move_the_offset_by_what_they_acknowledge() {
    let mut bench = consumed();
    let taken = bench.pop_in_order(Some(2), &[3, 4, 6], "a");
    bench.line("offset g T/0 => 3");
    assert!(bench.pop_in_order(Some(3), &[3], "b").granted.is_empty(), "blocked");
    let batch = bench.state.pop_ordered("T", "g", Q0).unwrap();
    assert_eq!(batch.end, QueueOffset(7));
    assert_eq!(batch.blocked_until_ms("b", taken.time_ms), Some(taken.time_ms + 60));
    bench.ack(4, taken.time_ms);
    bench.line("offset g T/0 => 3");
    bench.ack(3, taken.time_ms);
    bench.line("offset g T/0 => 6");
    bench.frames.log_time_ms = taken.time_ms + 60;
    let again = bench.pop_in_order(Some(6), &[6, 8], "b");
    assert_eq!(bench.state.pop_in_flight("T", "g", Q0, QueueOffset(6)).unwrap().attempts, 1);
    bench.ack(6, again.time_ms);
    bench.ack(8, again.time_ms);
    bench.line("offset g T/0 => 9");
    assert_eq!(bench.state.pop_ordered("T", "g", Q0), None);
    // A reset ends the batch, and is taken by the next pop.
    let last = bench.pop_in_order(Some(9), &[9], "c");
    bench.reset(&[0], &[1]);
    assert_eq!(bench.state.pop_ordered("T", "g", Q0), None);
    bench.ack(9, last.time_ms);
    bench.line("offset g T/0 => 1");
    assert_eq!(bench.pop(Some(1), 2, &[1]).code, 0);
    assert_eq!(bench.state.pending_reset("T", "g", Q0), None);
    bench.line("commit g T/0@4 => changed");
}

#[test]
fn pops_end_with_their_topic_or_group() {
    for line in ["delete T => changed", "delete-group g => changed"] {
        let mut bench = consumed();
        bench.pop(Some(2), 5, &[2, 3]);
        let revive = bench.revive(&[2]);
        bench.line(line);
        assert_eq!(bench.state.pop_next_due_ms(None), None);
        assert!(bench.state.pop_due(u64::MAX, None, 9).is_empty());
        bench.frames.log_time_ms += 1000;
        assert_eq!(bench.coupled(revive, &[("%RETRY%g", 0, 0)]), None);
    }
}

#[test]
fn a_topic_takes_its_pop_retry_topics_with_it() {
    let mut bench = check(
        "create T 1 => changed
         create U_T 1 => changed
         group g => changed
         group h => changed
         group h_T => changed
         create %RETRY%g_T 1 => changed
         create %RETRY%g_U_T 1 => changed
         commit g T/0@0 => changed
         commit h T/0@0 => changed",
    );
    assert!(bench.state.topic("%RETRY%h_T").is_some());
    bench.line("delete T => changed");
    assert!(bench.state.topic("%RETRY%g_T").is_none());
    assert!(bench.state.topic("%RETRY%g_U_T").is_some() && bench.state.topic("%RETRY%g").is_some());
    assert!(bench.state.topic("%RETRY%h_T").is_some(), "it is the retry topic of a group");
}

#[test]
fn an_acknowledgement_does_not_undo_an_offset_that_was_set_back() {
    let mut bench = consumed();
    let taken = bench.pop_in_order(Some(2), &[2, 3], "a");
    bench.line("commit g T/0@1 => changed");
    assert_eq!(bench.ack(2, taken.time_ms).granted, [0]);
    bench.line("offset g T/0 => 1");
}

#[test]
fn an_earlier_revival_is_told() {
    let mut bench = consumed();
    bench.pop(Some(2), 3, &[2]);
    assert!(bench.state.write().take_fresh().pops_sooner);
    bench.pop(Some(3), 4, &[3]);
    assert!(!bench.state.write().take_fresh().pops_sooner);
}

/// Something in every table.
fn filled() -> Bench {
    let mut bench = consumed();
    bench.line("create S 2 => changed");
    bench.send(&[("S", 0, 0), ("S", 0, 1), ("S", 0, 2), ("S", 1, 0)]);
    bench.coupled(bench.release("S", &[1]), &[("T", 1, 0)]).unwrap();
    bench.coupled(bench.release("S", &[1]), &[("T", 1, 1)]);
    bench.attempt("S", &[0, 2]);
    bench.lock("one", false, &[0, 1]);
    bench.pop(Some(2), 6, &[2, 4]);
    bench.pop_in_order(Some(6), &[7, 8], "a");
    bench.reset(&[1], &[3]);
    bench.mode("T", "g", true);
    bench
}

#[test]
fn snapshots_hold_every_table() {
    let bench = filled();
    let bytes = bench.state.encode();
    let copy = restored(&bytes, bench.frames.log_time_ms);
    assert_eq!(copy.encode(), bytes);
    let mut copy = Bench { state: copy, frames: bench.frames };
    assert_eq!(copy.pending("S"), [0, 2]);
    assert_eq!(copy.state.attempts("S", Q0, QueueOffset(2)).0, 1);
    assert_eq!(&*copy.state.lock_holder("g", "T", Q0).unwrap().client, "one");
    assert_eq!(copy.state.pending_reset("T", "g", QueueId(1)), Some(QueueOffset(3)));
    assert!(copy.state.request_mode("T", "g").unwrap().pop);
    assert_eq!(copy.state.pop_in_flight_count("T", "g", Q0), 4);
    assert!(copy.state.pop_ordered("T", "g", Q0).is_some());
    copy.frames.log_time_ms += 100;
    copy.coupled(copy.revive(&[2, 4]), &[("%RETRY%g", 0, 0)]).unwrap();
    // Cut anywhere, it is refused or is another one; it never panics.
    for cut in 0..bytes.len() {
        let state = State::new();
        if state.restore(&bytes[..cut], &meta(0, 0)).is_ok() {
            assert_ne!(state.encode(), bytes);
        }
    }
}

#[test]
fn tables_say_the_level_that_the_group_has_reached() {
    let mut bench = check("create T 1 => changed\ngroup g => changed\ncommit g T/0@1 => changed");
    let bytes = bench.state.encode();
    assert_eq!(bytes[..2], [0x08, 1], "a build of level 1 reads them: no entry needed more");
    let state = restored(&bytes, bench.frames.log_time_ms);
    assert_eq!((state.offset("T", "g", Q0), state.level()), (Some(QueueOffset(1)), 1));
    assert_eq!(state.encode(), bytes);
    bench.run(Kind::RaiseLevel(RaiseLevel { level: FEATURE_LEVEL }));
    let mut raised = bench.state.encode();
    assert_eq!(raised[..2], [0x08, 2]);
    assert_eq!(raised[2..], bytes[2..], "it changes nothing else");
    assert_eq!(restored(&raised, bench.frames.log_time_ms).level(), 2);
    bench.run(Command::create_topic(topic("T", 1)));
    assert_eq!(bench.state.level(), 2, "it never falls");
    raised[1] = FEATURE_LEVEL as u8 + 1;
    assert!(State::new().restore(&raised, &meta(0, 0)).unwrap_err().contains("feature level"));
}

#[test]
fn the_form_of_these_commands_is_fixed() {
    let source = Source { topic: 1, queue: 0, offsets: vec![5, 300] };
    let release = Kind::Release(Release { sources: vec![source], how: released::CANCELLED });
    assert_eq!(hex(&release.into()), "0802520b0a0708011a0305ac021001");
    let part = TakePart { topic: 1, queue: 3, cursor: Some(0), next: 9, offsets: vec![7, 8] };
    let take =
        PopTake { group: 2, parts: vec![part], invisible_ms: 300, order: true, attempt_id: "a".into() };
    assert_eq!(
        hex(&Kind::PopTake(take).into()),
        "08026218\
        0802120c08011003180020092a020708\
        18ac0220012a0161"
    );
}

#[test]
#[should_panic(expected = "columns of different length")]
fn acknowledgements_that_contradict_themselves_stop_the_replica() {
    let mut bench = Bench::new();
    bench.run(Kind::PopAck(PopAck { topics: vec![0], ..PopAck::default() }));
}

/// What a random log is made of, besides. Numbers are mostly of something that is there.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Release { topic: u8, picks: Vec<usize>, to: Option<(u8, u64)> },
    Attempt { topic: u8, picks: Vec<usize> },
    Pop { topic: u8, group: u8, count: u64, invisible_ms: u64, order: bool, attempt_id: bool },
    Ack { picks: Vec<usize>, miss: u64 },
    AckOrdered { topic: u8, group: u8, pick: usize },
    Change { pick: usize, invisible_ms: u64 },
    Revive { count: usize, coupled: bool, ahead_ms: u64 },
    Lock { group: u8, client: u8, unlock: bool, places: Vec<(u8, u32)> },
    Reset { topic: u8, group: u8, rows: Vec<(u32, u64)> },
    TakeReset { topic: u8, group: u8, queue: u32 },
    Mode { topic: u8, group: u8, pop: bool },
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let name = || 0..4u8;
    let picks = || prop::collection::vec(0..6usize, 0..4);
    prop_oneof![
        4 => (name(), picks(), prop::option::of((name(), prop_oneof![6 => Just(0u64), 1 => Just(1)])))
            .prop_map(|(topic, picks, to)| Op::Release { topic, picks, to }),
        2 => (name(), picks()).prop_map(|(topic, picks)| Op::Attempt { topic, picks }),
        6 => (name(), name(), 0..4u64, 0..20u64, any::<bool>(), any::<bool>()).prop_map(
            |(topic, group, count, invisible_ms, order, attempt_id)| Op::Pop {
                topic, group, count, invisible_ms, order, attempt_id
            }
        ),
        2 => (picks(), prop_oneof![6 => Just(0u64), 1 => Just(1)])
            .prop_map(|(picks, miss)| Op::Ack { picks, miss }),
        2 => (name(), name(), 0..3usize).prop_map(|(topic, group, pick)| Op::AckOrdered { topic, group, pick }),
        2 => (0..6usize, 0..20u64).prop_map(|(pick, invisible_ms)| Op::Change { pick, invisible_ms }),
        3 => (0..4usize, any::<bool>(), 0..3u64)
            .prop_map(|(count, coupled, ahead_ms)| Op::Revive { count, coupled, ahead_ms }),
        3 => (name(), 0..3u8, prop::bool::weighted(0.3), prop::collection::vec((name(), 0..3u32), 0..4))
            .prop_map(|(group, client, unlock, places)| Op::Lock { group, client, unlock, places }),
        2 => (name(), name(), prop::collection::vec((0..3u32, 0..9u64), 0..3))
            .prop_map(|(topic, group, rows)| Op::Reset { topic, group, rows }),
        2 => (name(), name(), 0..3u32).prop_map(|(topic, group, queue)| Op::TakeReset { topic, group, queue }),
        1 => (name(), name(), any::<bool>()).prop_map(|(topic, group, pop)| Op::Mode { topic, group, pop }),
    ]
}

/// The frame of an operation, in a state.
pub(super) fn frame_of(op: &Op, state: &State, frames: &mut Frames) -> Frame {
    let name = |n: u8| format!("topic-{n}");
    let group_name = |n: u8| format!("group-{n}");
    let id = |n: u8| state.topic(&name(n)).map_or(u32::from(n), |topic| topic.id.0);
    let group_id = |n: u8| state.group(&group_name(n)).map_or(u32::from(n), |group| group.id.0);
    let picked = |topic: u8, picks: &[usize]| {
        let pending = state.pending(&name(topic), Q0, QueueOffset(0), 6);
        let offsets = picks.iter().map(|at| pending.get(*at).map_or(*at as u64, |offset| offset.0));
        Source { topic: id(topic), queue: 0, offsets: offsets.collect() }
    };
    let next = |topic: &str| state.queue(topic, Q0).map_or(0, |range| range.next.0);
    let in_flight = state.pop_due(u64::MAX, None, 6);
    let kind = match op {
        Op::Release { topic, picks, to } => {
            let sources = vec![picked(*topic, picks)];
            let release = Command::from(Kind::Release(Release { sources, how: 0 }));
            let Some((to, miss)) = to else { return frames.command(&release) };
            let to = name(*to);
            return frames.coupled(&release, &[(&to, 0, next(&to) + miss)]);
        }
        Op::Attempt { topic, picks } => Kind::Attempt(Attempt { source: picked(*topic, picks) }),
        Op::Pop { topic, group, count, invisible_ms, order, attempt_id } => {
            let cursor = state.offset(&name(*topic), &group_name(*group), Q0);
            let from = cursor.map_or(0, |cursor| cursor.0);
            let end = (from + count).min(next(&name(*topic)));
            let part = TakePart {
                topic: id(*topic),
                queue: 0,
                cursor: cursor.map(|cursor| cursor.0),
                next: end,
                offsets: (from..end).filter(|offset| offset % 4 != 1).collect(),
            };
            Kind::PopTake(PopTake {
                group: group_id(*group),
                parts: vec![part],
                invisible_ms: *invisible_ms,
                order: *order,
                attempt_id: if *attempt_id { "a".into() } else { String::new() },
            })
        }
        Op::Ack { picks, miss } => {
            let mut ack = PopAck::default();
            for due in picks.iter().filter_map(|at| in_flight.get(*at)) {
                ack.topics.push(due.topic_id.0);
                ack.groups.push(due.group_id.0);
                ack.queues.push(due.queue.0);
                ack.offsets.push(due.offset.0);
                ack.pop_times_ms.push(due.message.pop_time_ms + miss);
            }
            Kind::PopAck(ack)
        }
        Op::AckOrdered { topic, group, pick } => {
            let batch = state.pop_ordered(&name(*topic), &group_name(*group), Q0).unwrap_or_default();
            let message = batch.messages.iter().nth(*pick);
            Kind::PopAck(PopAck {
                topics: vec![id(*topic)],
                groups: vec![group_id(*group)],
                queues: vec![0],
                offsets: vec![message.map_or(0, |(offset, _)| offset.0)],
                pop_times_ms: vec![message.map_or(0, |(_, message)| message.pop_time_ms)],
            })
        }
        Op::Change { pick, invisible_ms } => {
            let mut change = PopChange::default();
            if let Some(due) = in_flight.get(*pick) {
                change.topics.push(due.topic_id.0);
                change.groups.push(due.group_id.0);
                change.queues.push(due.queue.0);
                change.offsets.push(due.offset.0);
                change.pop_times_ms.push(due.message.pop_time_ms);
                change.invisible_ms.push(*invisible_ms);
            }
            Kind::PopChange(change)
        }
        Op::Revive { count, coupled, ahead_ms } => {
            let due = state.pop_due(frames.log_time_ms + ahead_ms, None, *count);
            let batches = due.iter().map(|due| PopBatch {
                topic: due.topic_id.0,
                group: due.group_id.0,
                queue: due.queue.0,
                offsets: vec![due.offset.0],
            });
            let revive = Command::from(Kind::PopRevive(PopRevive { batches: batches.collect() }));
            if !coupled {
                return frames.command(&revive);
            }
            let retry = "%RETRY%group-0";
            return frames.coupled(&revive, &[(retry, 0, next(retry))]);
        }
        Op::Lock { group, client, unlock, places } => Kind::Lock(Lock {
            group: group_id(*group),
            client: format!("client-{client}"),
            unlock: *unlock,
            lease_ms: 12,
            topics: places.iter().map(|(topic, _)| id(*topic)).collect(),
            queues: places.iter().map(|(_, queue)| *queue).collect(),
        }),
        Op::Reset { topic, group, rows } => Kind::ResetOffsets(ResetOffsets {
            topic: id(*topic),
            group: group_id(*group),
            queues: rows.iter().map(|(queue, _)| *queue).collect(),
            offsets: rows.iter().map(|(_, offset)| *offset).collect(),
        }),
        Op::TakeReset { topic, group, queue } => {
            let pending = state.pending_reset(&name(*topic), &group_name(*group), QueueId(*queue));
            Kind::TakeResets(TakeResets {
                topics: vec![id(*topic)],
                groups: vec![group_id(*group)],
                queues: vec![*queue],
                offsets: vec![pending.map_or(0, |offset| offset.0)],
            })
        }
        Op::Mode { topic, group, pop } => Kind::RequestMode(SetRequestMode {
            topic: name(*topic),
            group: group_name(*group),
            pop: *pop,
            pop_share_queues: 1,
        }),
    };
    frames.command(&kind.into())
}
