//! What a RocketMQ broker creates at its first start (protocol.md 4.8): proposed by the first leader, and by a later
//! one if something of it is missing. The entry carries the configurations, so `apply` knows no list.

use wire::{perm, topic as system};

use super::command::{Bootstrap, Command, GroupConfig, Kind, TopicConfig};
use super::rules;

/// The settings of a broker that decide which system topics it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapOptions {
    pub cluster: String,
    pub broker: String,
    /// Queues of TBW102, and so the most that an auto-created topic gets.
    pub default_topic_queues: u32,
    /// Whether TBW102 is made.
    pub auto_create_topic: bool,
}

/// Queues of SCHEDULE_TOPIC_XXXX: one for each of the 18 delay levels.
const SCHEDULE_QUEUES: u32 = 18;
/// Queues of BenchmarkTest and of the cluster's topic, as RocketMQ makes them.
const BENCHMARK_QUEUES: u32 = 1024;
const CLUSTER_QUEUES: u32 = 16;
const REVIVE_QUEUES: u32 = 8;

/// The whole list; the tables decide what of it is new.
pub(super) fn everything(options: &BootstrapOptions) -> Bootstrap {
    const RW: i32 = perm::READ_WRITE;
    const INHERIT: i32 = perm::INHERIT;
    let BootstrapOptions { cluster, broker, default_topic_queues, auto_create_topic } = options;
    let mut topics = vec![
        topic(system::SELF_TEST, 1, RW),
        topic(system::BENCHMARK, BENCHMARK_QUEUES, RW),
        topic(cluster, CLUSTER_QUEUES, RW | INHERIT),
        topic(broker, 1, RW | INHERIT),
        topic(system::OFFSET_MOVED_EVENT, 1, RW),
        topic(system::SCHEDULE, SCHEDULE_QUEUES, RW),
        topic(&wire::reply_topic(cluster), 1, RW),
        topic(&rules::revive_topic(cluster), REVIVE_QUEUES, RW),
        topic(&rules::sync_member_topic(broker), 1, INHERIT),
        topic(system::TRANS_HALF, 1, RW),
        topic(system::TRANS_OP_HALF, 1, RW),
        topic(system::WHEEL_TIMER, 1, RW),
        // Not left to the first trace: Go clients look for its route and drop their traces where there is none.
        topic(system::TRACE, 1, RW),
    ];
    if *auto_create_topic {
        topics.push(topic(system::AUTO_CREATE, *default_topic_queues, RW | INHERIT));
    }
    Bootstrap { topics, groups: rules::SYSTEM_GROUPS.iter().map(|name| rules::default_group(name)).collect() }
}

fn topic(name: &str, queues: u32, perm: i32) -> TopicConfig {
    TopicConfig {
        name: name.into(),
        read_queues: queues,
        write_queues: queues,
        perm,
        ..TopicConfig::default()
    }
}

/// The command for what of it `is_missing`.
pub(super) fn command(
    options: &BootstrapOptions,
    topic_is_missing: impl Fn(&str) -> bool,
    group_is_missing: impl Fn(&str) -> bool,
) -> Option<Command> {
    let mut all = everything(options);
    all.topics.retain(|topic: &TopicConfig| topic_is_missing(&topic.name));
    all.groups.retain(|group: &GroupConfig| group_is_missing(&group.name));
    (!all.topics.is_empty() || !all.groups.is_empty()).then(|| Kind::Bootstrap(all).into())
}
