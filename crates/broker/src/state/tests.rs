//! What entries do to the tables.

mod progress;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use prost::Message as _;
use replica::{Outcome, StateMachine};
use store::{Frame, FrameKind, LogId, LogIndex, TablesMeta};
use wire::{LogPosition, QueueId, QueueOffset};

use super::command::{
    Attribute, Command, CommitOffsets, DeleteGroup, DeleteTopic, Kind, Reply, TopicConfig, UpdateTopic,
};
use super::testing::Frames;
use super::*;

struct Bench {
    state: State,
    frames: Frames,
}

impl Bench {
    fn new() -> Bench {
        Bench { state: State::new(), frames: Frames::new() }
    }

    fn run(&mut self, command: impl Into<Command>) -> Reply {
        let frame = self.frames.command(&command.into());
        match self.state.apply(&frame) {
            Outcome::Command(bytes) => Reply::decode(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, messages: &[(&str, u32, u64)]) -> Outcome {
        let frame = self.frames.messages(messages);
        self.state.apply(&frame)
    }

    /// One line of a script: `what => outcome`.
    fn line(&mut self, line: &str) {
        let (what, want) = line.split_once("=>").unwrap_or_else(|| panic!("no outcome in {line:?}"));
        let want = want.trim();
        let words: Vec<&str> = what.split_whitespace().collect();
        let number = |i: usize| words[i].parse::<u64>().unwrap();
        let got = match words[0] {
            "create" => told(&self.run(Command::create_topic(topic(words[1], number(2) as u32)))),
            "update" => told(&self.run(update(words[1], number(2) as u32, &words[3..]))),
            "delete" => told(&self.run(Kind::DeleteTopic(DeleteTopic { name: words[1].into() }))),
            "group" => told(&self.run(Command::create_group(rules::default_group(words[1])))),
            "set-group" => {
                let mut config = rules::default_group(words[1]);
                config.retry_max_times = number(2) as i32;
                told(&self.run(Kind::UpdateGroup(config)))
            }
            "delete-group" => {
                let clean_offsets = words.get(2) == Some(&"clean");
                told(&self.run(Kind::DeleteGroup(DeleteGroup { name: words[1].into(), clean_offsets })))
            }
            "send" => {
                let messages: Vec<_> = words[1..].iter().map(|word| place(word)).collect();
                match self.send(&messages) {
                    Outcome::Messages => "ok".into(),
                    Outcome::Void => "void".into(),
                    Outcome::Command(_) | Outcome::Coupled(_) => panic!("a command?"),
                }
            }
            "commit" => {
                let (name, queue, offset) = place(words[2]);
                match self.state.commit_key(name, words[1]) {
                    Ok(key) => {
                        told(&self.run(
                            CommitBatch::single(key, QueueId(queue), QueueOffset(offset)).into_command(),
                        ))
                    }
                    Err(error) => format!("{error:?}"),
                }
            }
            "queue" => {
                let (name, queue, _) = place(words[1]);
                match self.state.queue(name, QueueId(queue)) {
                    Some(range) => format!("{}..{}", range.min, range.next),
                    None => "none".into(),
                }
            }
            "offset" => {
                let (name, queue, _) = place(words[2]);
                match self.state.offset(name, words[1], QueueId(queue)) {
                    Some(offset) => offset.to_string(),
                    None => "none".into(),
                }
            }
            "topics" => {
                let names: Vec<_> = self.state.topics().iter().map(|topic| topic.name.to_string()).collect();
                names.join(" ")
            }
            "groups-of" => self.state.groups_of_topic(words[1]).join(" "),
            "topics-of" => {
                let topics = self.state.topics_of_group(words[1]);
                topics.iter().map(|topic| topic.name.to_string()).collect::<Vec<_>>().join(" ")
            }
            "attributes" => {
                let topic = self.state.topic(words[1]).unwrap();
                let pairs = topic.config.attributes.iter().map(|a| format!("{}={}", a.key, a.value));
                pairs.collect::<Vec<_>>().join(" ")
            }
            "versions" => {
                format!("{} {}", self.state.topics_version().counter, self.state.groups_version().counter)
            }
            other => panic!("unknown word {other}"),
        };
        assert_eq!(got, want, "{line}");
    }
}

/// Runs a script line by line on one state, and afterwards checks that its tables survive being encoded.
fn check(script: &str) -> Bench {
    let mut bench = Bench::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        bench.line(line);
    }
    let bytes = bench.state.encode();
    assert_eq!(restored(&bytes, bench.frames.log_time_ms).encode(), bytes);
    bench
}

fn told(reply: &Reply) -> String {
    match (reply.code, reply.changed) {
        (0, true) => "changed".into(),
        (0, false) => "same".into(),
        (code, _) => code.to_string(),
    }
}

/// "T/1@5", "T/1" or "T".
fn place(text: &str) -> (&str, u32, u64) {
    let (rest, offset) = text.split_once('@').unwrap_or((text, "0"));
    let (name, queue) = rest.split_once('/').unwrap_or((rest, "0"));
    (name, queue.parse().unwrap(), offset.parse().unwrap())
}

fn topic(name: &str, queues: u32) -> TopicConfig {
    TopicConfig {
        name: name.into(),
        read_queues: queues,
        write_queues: queues,
        perm: 6,
        ..TopicConfig::default()
    }
}

/// Attributes as "k=v" to set, "k" to remove.
fn update(name: &str, queues: u32, attributes: &[&str]) -> Command {
    let mut config = topic(name, queues);
    let mut unset = Vec::new();
    for attribute in attributes {
        match attribute.split_once('=') {
            Some((key, value)) => config.attributes.push(Attribute { key: key.into(), value: value.into() }),
            None => unset.push((*attribute).to_owned()),
        }
    }
    Kind::UpdateTopic(UpdateTopic { config, unset }).into()
}

fn meta(index: u64, log_time_ms: u64) -> TablesMeta {
    TablesMeta { last: LogId::new(1, index), end: LogPosition(0), chain: 0, log_time_ms }
}

fn restored(bytes: &[u8], log_time_ms: u64) -> State {
    let state = State::new();
    state.restore(bytes, &meta(0, log_time_ms)).unwrap();
    state
}

#[test]
fn messages_count_when_they_follow() {
    let bench = check(
        "create T 2 => changed
         create U 1 => changed
         send T/0@0 T/0@1 T/1@0 => ok
         send T/1@1 U/0@0 T/0@2 T/1@2 => ok
         queue T/0 => 0..3
         queue T/1 => 0..3
         queue U/0 => 0..1
         queue U/1 => none
         queue V/0 => none",
    );
    let totals = bench.state.totals();
    assert_eq!((totals.messages, totals.void_entries), (7, 0));
    let range = bench.state.queue("T", QueueId(1)).unwrap();
    assert_eq!(range.last_store_ms, bench.frames.log_time_ms, "of the last message");
    assert_eq!(bench.state.queues("T").unwrap().len(), 2);
    assert_eq!(bench.state.next_offset("T", QueueId(0)), Some(QueueOffset(3)));
    assert_eq!(bench.state.next_offset("T", QueueId(2)), None);
}

#[test]
fn an_entry_is_void_as_a_whole() {
    for bad in ["T/0@2", "T/0@0", "T/2@0", "V/0@0", "U/0@0 U/0@0", "U/0@0 U/0@2", "U/0@0 T/1@1"] {
        let bench = check(&format!(
            "create T 2 => changed
             create U 1 => changed
             send T/0@0 => ok
             send {bad} => void
             queue T/0 => 0..1
             queue T/1 => 0..0
             queue U/0 => 0..0
             send U/0@0 {bad} => void
             send T/0@1 U/0@0 => ok
             queue T/0 => 0..2"
        ));
        assert_eq!(bench.state.totals().void_entries, 2, "{bad}");
        assert!(bench.state.is_void(LogIndex(3)) && bench.state.is_void(LogIndex(4)));
        assert!(!bench.state.is_void(LogIndex(2)) && !bench.state.is_void(LogIndex(5)));
        assert_eq!(bench.state.totals().messages, 3);
    }
}

#[test]
fn a_void_entry_leaves_no_trace_in_the_queues() {
    let mut with = Bench::new();
    let mut without = Bench::new();
    for bench in [&mut with, &mut without] {
        bench.run(Command::create_topic(topic("T", 1)));
        bench.send(&[("T", 0, 0)]);
    }
    assert_eq!(with.send(&[("T", 0, 1), ("T", 0, 5)]), Outcome::Void);
    assert_eq!(with.state.queues("T"), without.state.queues("T"));
}

#[test]
fn bytes_that_are_no_messages_are_void() {
    let mut bench = Bench::new();
    bench.run(Command::create_topic(topic("T", 1)));
    let good = super::testing::record("T", 0, 0, 1, b"x");
    let mut torn = good.to_vec();
    torn.extend_from_slice(&good[..20]);
    for body in [&b"nonsense"[..], &torn] {
        let frame = bench.frames.frame(FrameKind::Messages, body);
        assert_eq!(bench.state.apply(&frame), Outcome::Void);
    }
    assert_eq!(bench.send(&[("T", 0, 0)]), Outcome::Messages);
}

#[test]
fn topics_are_created_changed_and_deleted() {
    check(
        "create T 2 => changed
         create T 8 => same
         queue T/2 => none
         update T 4 => changed
         update T 4 => same
         queue T/3 => 0..0
         send T/3@0 T/3@1 => ok
         update T 1 => changed
         queue T/3 => none
         send T/3@2 => void
         update T 4 => changed
         queue T/3 => 0..2
         send T/3@2 => ok
         update A 1 => changed
         topics => A T
         delete A => changed
         delete A => same
         topics => T
         update X 65537 => 29
         topics => T
         versions => 6 0",
    );
}

#[test]
fn a_topic_that_is_made_again_goes_on_counting() {
    let bench = check(
        "create T 3 => changed
         group g => changed
         send T/0@0 T/0@1 T/1@0 => ok
         commit g T/0@2 => changed
         delete T => changed
         send T/0@2 => void
         offset g T/0 => none
         commit g T/0@1 => NoTopic
         create T 1 => changed
         queue T/0 => 2..2
         queue T/1 => none
         offset g T/0 => none
         send T/0@0 => void
         send T/0@2 => ok
         queue T/0 => 2..3
         update T 4 => changed
         queue T/1 => 1..1
         queue T/2 => 0..0
         delete T => changed
         create T 2 => changed
         queue T/0 => 3..3
         queue T/1 => 1..1",
    );
    let id = bench.state.topic("T").unwrap().id;
    assert!(id.0 >= 3, "a new number each time: {id:?}");
}

#[test]
fn commits_in_flight_miss_a_topic_that_was_made_again() {
    let mut bench = Bench::new();
    for line in ["create T 1 => changed", "group g => changed"] {
        bench.line(line);
    }
    let key = bench.state.commit_key("T", "g").unwrap();
    bench.line("delete T => changed");
    bench.line("create T 1 => changed");
    let reply = bench.run(CommitBatch::single(key, QueueId(0), QueueOffset(7)).into_command());
    assert_eq!((reply.code, reply.changed), (17, false));
    bench.line("offset g T/0 => none");
}

#[test]
fn attributes_are_merged() {
    check(
        "update T 1 message.type=FIFO reserve.time=5 => changed
         attributes T => message.type=FIFO reserve.time=5
         update T 1 => same
         update T 1 message.type=FIFO => same
         update T 1 message.type=NORMAL reserve.time => changed
         attributes T => message.type=NORMAL
         update T 1 gone => same",
    );
}

#[test]
fn groups_and_their_retry_topics() {
    let bench = check(
        "group g => changed
         group g => same
         topics => %RETRY%g
         versions => 1 1
         set-group g 16 => same
         set-group g 3 => changed
         set-group h 3 => changed
         topics => %RETRY%g
         group h => changed
         topics => %RETRY%g %RETRY%h
         versions => 2 3
         delete-group g => changed
         delete-group g => same
         topics => %RETRY%g %RETRY%h
         delete-group none => same",
    );
    let retry = bench.state.topic("%RETRY%h").unwrap();
    assert_eq!((retry.config.read_queues, retry.config.perm), (1, 6));
    assert_eq!(bench.state.group("h").unwrap().config.retry_max_times, 3, "a heartbeat changes no group");
    assert!(bench.state.group("g").is_none());
    assert_eq!(bench.state.groups().len(), 1);
    assert!(bench.state.lacks_group("g") && !bench.state.lacks_group("h"));
    let bench = check("set-group k 3 => changed");
    assert!(bench.state.lacks_group("k"), "its retry topic is missing");
}

#[test]
fn consumer_offsets() {
    check(
        "create T 2 => changed
         create U 1 => changed
         group g => changed
         group h => changed
         commit g T/1@5 => changed
         commit g T/1@5 => same
         commit g T/1@3 => changed
         commit g U/0@9 => changed
         commit h T/0@1 => changed
         commit g T/2@1 => 17
         commit nobody T/0@1 => NoGroup
         commit g V/0@1 => NoTopic
         offset g T/1 => 3
         offset g T/0 => none
         offset g T/9 => none
         offset h T/0 => 1
         groups-of T => g h
         groups-of U => g
         topics-of g => T U
         delete-group g => changed
         commit g T/1@8 => NoGroup
         offset g T/1 => 3
         groups-of T => g h
         group g => changed
         offset g T/1 => 3
         delete-group g clean => changed
         offset g T/1 => none
         groups-of T => h
         topics-of g =>
         delete-group g clean => same
         delete T => changed
         topics-of h =>",
    );
}

#[test]
fn a_deleted_group_is_forgotten_with_its_last_offsets() {
    let bench = check(
        "create T 1 => changed
         group g => changed
         commit g T/0@5 => changed
         delete-group g => changed
         delete T => changed",
    );
    assert!(bench.state.read().groups.id("g").is_none());
    let bench = check(
        "group g => changed
         delete-group g => changed",
    );
    assert_eq!(bench.state.read().groups.len(), 0);
}

#[test]
fn a_batch_of_offsets_takes_what_it_can() {
    let mut bench = Bench::new();
    bench.line("create T 4 => changed");
    bench.line("group g => changed");
    let key = bench.state.commit_key("T", "g").unwrap();
    assert_eq!(key.queues, 4);
    let mut merger = CommitMerger::new();
    for queue in [0, 1, 7] {
        merger.add(key, QueueId(queue), QueueOffset(10 + u64::from(queue)), None, 0);
    }
    let reply = bench.run(merger.take(0).unwrap().into_command());
    assert_eq!((reply.code, reply.changed), (0, true));
    let offsets = bench.state.offsets("T", "g");
    assert_eq!(offsets, [(QueueId(0), QueueOffset(10)), (QueueId(1), QueueOffset(11))].into());
    assert_eq!(bench.state.offset_of(key, QueueId(1)), Some(QueueOffset(11)));
}

#[test]
fn bootstrap_happens_once() {
    let mut options = BootstrapOptions {
        cluster: "c1".into(),
        broker: "b1".into(),
        default_topic_queues: 8,
        auto_create_topic: false,
    };
    let mut bench = Bench::new();
    let command = bench.state.bootstrap(&options).unwrap();
    assert!(command.is_barrier());
    let twice = command.clone();
    assert_eq!(told(&bench.run(command)), "changed");
    let encoded = bench.state.encode();
    assert_eq!(told(&bench.run(twice)), "same", "two leaders may propose it");
    assert_eq!(bench.state.encode(), encoded);
    assert_eq!(bench.state.bootstrap(&options), None);
    assert!(bench.state.topic("TBW102").is_none());
    options.auto_create_topic = true;
    let more = bench.state.bootstrap(&options).unwrap();
    assert_eq!(told(&bench.run(more)), "changed");
    let numbers = |name: &str| {
        let config = &bench.state.topic(name).unwrap_or_else(|| panic!("{name} is missing")).config;
        (config.read_queues, config.write_queues, config.perm)
    };
    for (name, want) in [
        ("TBW102", (8, 8, 7)),
        ("SELF_TEST_TOPIC", (1, 1, 6)),
        ("BenchmarkTest", (1024, 1024, 6)),
        ("c1", (16, 16, 7)),
        ("b1", (1, 1, 7)),
        ("OFFSET_MOVED_EVENT", (1, 1, 6)),
        ("SCHEDULE_TOPIC_XXXX", (18, 18, 6)),
        ("c1_REPLY_TOPIC", (1, 1, 6)),
        ("rmq_sys_REVIVE_LOG_c1", (8, 8, 6)),
        ("rmq_sys_SYNC_BROKER_MEMBER_b1", (1, 1, 1)),
        ("RMQ_SYS_TRANS_HALF_TOPIC", (1, 1, 6)),
        ("RMQ_SYS_TRANS_OP_HALF_TOPIC", (1, 1, 6)),
        ("rmq_sys_wheel_timer", (1, 1, 6)),
    ] {
        assert_eq!(numbers(name), want, "{name}");
    }
    let names = Names { cluster: "c1".into(), broker: "b1".into() };
    for topic in bench.state.topics() {
        assert!(names.is_system_topic(&topic.name), "{} could be deleted", topic.name);
    }
    assert_eq!(bench.state.groups().len(), rules::SYSTEM_GROUPS.len());
}

#[test]
fn what_a_batch_brought() {
    let seen: Arc<Mutex<Vec<(LogPosition, Advance)>>> = Arc::default();
    let mut bench = Bench::new();
    let batches = seen.clone();
    bench.state.set_hooks(Hooks {
        on_applied: Box::new(move |end, advance| batches.lock().unwrap().push((end, advance.clone()))),
    });
    bench.line("create T 2 => changed");
    bench.line("create U 1 => changed");
    bench.line("send T/1@0 T/0@0 T/1@1 => ok");
    bench.line("send T/1@1 => void");
    bench.line("send T/1@2 U/0@0 => ok");
    bench.line("delete U => changed");
    bench.state.after_apply(LogPosition(9));
    bench.line("group g => changed");
    bench.state.after_apply(LogPosition(10));
    bench.line("commit g T/0@1 => changed");
    bench.state.after_apply(LogPosition(11));
    let advance =
        |queue, next| QueueAdvance { topic: "T".into(), queue: QueueId(queue), next: QueueOffset(next) };
    let seen = seen.lock().unwrap();
    assert_eq!(
        seen[0],
        (
            LogPosition(9),
            Advance {
                queues: vec![advance(1, 3), advance(0, 1)],
                topics_changed: true,
                ..Advance::default()
            }
        )
    );
    assert_eq!(
        seen[1].1,
        Advance { topics_changed: true, groups_changed: true, ..Advance::default() },
        "the retry topic too"
    );
    assert_eq!(seen[2].1, Advance::default());
}

#[test]
fn versions_carry_log_time() {
    let mut bench = Bench::new();
    bench.line("create T 1 => changed");
    let version = bench.state.topics_version();
    assert_eq!((version.counter, version.timestamp_ms), (1, bench.frames.log_time_ms));
    bench.line("create T 1 => same");
    assert_eq!(bench.state.topics_version(), version);
    assert_eq!(bench.state.log_time_ms(), bench.frames.log_time_ms);
    let wire = version.to_wire(7);
    assert_eq!((wire.counter, wire.state_version), (1, 7));
}

#[test]
#[should_panic(expected = "unknown kind")]
fn an_unknown_command_stops_the_replica() {
    let mut bench = Bench::new();
    // Field 31, a message.
    let frame = bench.frames.frame(FrameKind::Command, &[0x08, 1, 0xFA, 1, 0]);
    bench.state.apply(&frame);
}

#[test]
#[should_panic(expected = "feature level")]
fn a_command_of_a_later_level_stops_the_replica() {
    let mut bench = Bench::new();
    bench.run(Command { level: command::FEATURE_LEVEL + 1, ..Command::create_topic(topic("T", 1)) });
}

#[test]
#[should_panic(expected = "columns of different length")]
fn an_entry_of_offsets_that_contradicts_itself_stops_the_replica() {
    let mut bench = Bench::new();
    bench.run(Kind::CommitOffsets(CommitOffsets { topics: vec![0], ..CommitOffsets::default() }));
}

#[test]
fn damaged_tables_are_refused() {
    let mut bench = Bench::new();
    bench.line("create T 2 => changed");
    bench.line("group g => changed");
    bench.line("commit g T/0@1 => changed");
    let bytes = bench.state.encode();
    let state = State::new();
    assert!(state.restore(&bytes[..bytes.len() - 3], &meta(9, 0)).is_err());
    assert!(state.restore(b"\xff\xff", &meta(9, 0)).is_err());
    // Level 9.
    assert!(state.restore(&[0x08, 9], &meta(9, 0)).unwrap_err().contains("level"));
    state.restore(&bytes, &meta(2, bench.frames.log_time_ms)).unwrap();
    assert_eq!(state.encode(), bytes);
}

#[test]
fn the_form_of_commands_is_fixed() {
    let command = update("T", 2, &["message.type=FIFO", "reserve.time"]);
    assert_eq!(
        hex(&command),
        "0801222f0a1f0a0154100218022006\
         42140a0c6d6573736167652e7479706512044649464f\
         120c726573657276652e74696d65"
    );
    let commit = CommitBatch::single(
        CommitKey { topic: TopicId(300), group: GroupId(2), queues: 4 },
        QueueId(3),
        QueueOffset(1_000_000),
    );
    assert_eq!(hex(&commit.into_command()), "08014a0f0a02ac021201021a01032203c0843d");
}

fn hex(command: &Command) -> String {
    command.to_bytes().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// What `apply` must not know of (log.md 15).
#[test]
fn apply_knows_no_clock_no_chance_no_float_and_no_map_order() {
    let sources = [
        ("tables.rs", include_str!("tables.rs")),
        ("snapshot.rs", include_str!("snapshot.rs")),
        ("command.rs", include_str!("command.rs")),
        ("slab.rs", include_str!("slab.rs")),
        ("progress.rs", include_str!("progress.rs")),
        ("done.rs", include_str!("done.rs")),
        ("attempts.rs", include_str!("attempts.rs")),
        ("locks.rs", include_str!("locks.rs")),
        ("resets.rs", include_str!("resets.rs")),
        ("modes.rs", include_str!("modes.rs")),
        ("pop.rs", include_str!("pop.rs")),
    ];
    let banned =
        ["HashMap", "HashSet", "Instant", "SystemTime", "rand::", "f32", "f64", "std::fs", "std::env"];
    for (file, text) in sources {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (at, line) in code.enumerate() {
            for word in banned.iter().filter(|word| line.contains(*word)) {
                // The one hash map, which is never iterated over.
                let allowed = file == "slab.rs" && *word == "HashMap";
                assert!(!allowed || !line.contains("iter"), "{file}: {line}");
                assert!(allowed, "{file}, line {at} of code, names {word}: {line}");
            }
        }
    }
    assert!(!include_str!("slab.rs").contains("by_name.iter"));
}

/// What a random log is made of.
#[derive(Clone, Debug)]
enum Op {
    Topic {
        name: u8,
        queues: u32,
        attribute: bool,
    },
    DeleteTopic {
        name: u8,
    },
    Group {
        name: u8,
    },
    SetGroup {
        name: u8,
        retries: i32,
    },
    DeleteGroup {
        name: u8,
        clean: bool,
    },
    /// (topic, queue, distance from the right offset)
    Send(Vec<(u8, u32, u64)>),
    Commit(Vec<(u8, u8, u32, u64)>),
    Progress(progress::Op),
    EndOfBatch,
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0..4u8;
    // Mostly right, sometimes off by a little.
    let miss = prop_oneof![12 => Just(0u64), 1 => 1..3u64];
    prop_oneof![
        3 => (name.clone(), 1..5u32, any::<bool>())
            .prop_map(|(name, queues, attribute)| Op::Topic { name, queues, attribute }),
        1 => name.clone().prop_map(|name| Op::DeleteTopic { name }),
        2 => name.clone().prop_map(|name| Op::Group { name }),
        1 => (name.clone(), 0..9i32).prop_map(|(name, retries)| Op::SetGroup { name, retries }),
        1 => (name.clone(), any::<bool>()).prop_map(|(name, clean)| Op::DeleteGroup { name, clean }),
        6 => prop::collection::vec((name.clone(), 0..5u32, miss), 0..6).prop_map(Op::Send),
        4 => prop::collection::vec((0..6u8, 0..5u8, 0..6u32, 0..100u64), 0..6).prop_map(Op::Commit),
        14 => progress::op().prop_map(Op::Progress),
        2 => Just(Op::EndOfBatch),
    ]
}

/// The frame of an operation, in a state; `None`: the end of a batch.
fn frame_of(op: &Op, state: &State, frames: &mut Frames) -> Option<Frame> {
    let topic_name = |n: u8| format!("topic-{n}");
    let group_name = |n: u8| format!("group-{n}");
    let command = match op {
        Op::Topic { name, queues, attribute } => update(
            &topic_name(*name),
            *queues,
            if *attribute { &["message.type=FIFO"] } else { &["message.type"] },
        ),
        Op::DeleteTopic { name } => Kind::DeleteTopic(DeleteTopic { name: topic_name(*name) }).into(),
        Op::Group { name } => Command::create_group(rules::default_group(&group_name(*name))),
        Op::SetGroup { name, retries } => {
            let mut config = rules::default_group(&group_name(*name));
            config.retry_max_times = *retries;
            Kind::UpdateGroup(config).into()
        }
        Op::DeleteGroup { name, clean } => {
            Kind::DeleteGroup(DeleteGroup { name: group_name(*name), clean_offsets: *clean }).into()
        }
        Op::Send(messages) => {
            let mut sent: BTreeMap<(u8, u32), u64> = BTreeMap::new();
            let names: Vec<String> = messages.iter().map(|(name, ..)| topic_name(*name)).collect();
            let messages: Vec<_> = messages
                .iter()
                .zip(&names)
                .map(|((n, queue, miss), name)| {
                    let count = sent.entry((*n, *queue)).or_default();
                    let next = state.queue(name, QueueId(*queue)).map_or(0, |range| range.next.0);
                    *count += 1;
                    (name.as_str(), *queue, next + *count - 1 + miss)
                })
                .collect();
            return Some(frames.messages(&messages));
        }
        Op::Commit(rows) => {
            let mut batch = CommitOffsets::default();
            for (topic, group, queue, offset) in rows {
                batch.topics.push(u32::from(*topic));
                batch.groups.push(u32::from(*group));
                batch.queues.push(*queue);
                batch.offsets.push(*offset);
            }
            Kind::CommitOffsets(batch).into()
        }
        Op::Progress(op) => return Some(progress::frame_of(op, state, frames)),
        Op::EndOfBatch => return None,
    };
    Some(frames.command(&command))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Replicas that apply the same log are equal to the byte, one that started from a snapshot in its middle too.
    #[test]
    fn equal_logs_give_equal_tables(ops in prop::collection::vec(op(), 1..150), cut in 0..150usize) {
        let one = State::new();
        let two = State::new();
        let mut late: Option<State> = None;
        let mut frames = Frames::new();
        for (i, op) in ops.iter().enumerate() {
            let Some(frame) = frame_of(op, &one, &mut frames) else {
                one.after_apply(LogPosition(0));
                continue;
            };
            let outcome = one.apply(&frame);
            prop_assert_eq!(&two.apply(&frame), &outcome);
            if let Some(late) = &late {
                prop_assert_eq!(&late.apply(&frame), &outcome);
            }
            if i == cut % ops.len() {
                let state = State::new();
                state.restore(&one.encode(), &meta(frame.id().index.0, frame.log_time_ms())).unwrap();
                late = Some(state);
            }
        }
        one.read().progress.pops.check();
        let bytes = one.encode();
        prop_assert_eq!(&two.encode(), &bytes);
        if let Some(late) = late {
            prop_assert_eq!(late.encode(), bytes);
        }
    }

    #[test]
    fn no_bytes_make_restore_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = State::new().restore(&bytes, &meta(0, 0));
    }
}
