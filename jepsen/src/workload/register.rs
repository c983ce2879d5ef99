//! Registers: offsets of consumer groups, committed and asked for by several clients at a time; and topics, of which the
//! number of queues is changed and asked for. Few operations, each searched for linearizability.

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

use super::call::{Answered, Caller};
use super::field::{Field, Whom, queue_of};
use crate::cluster::GROUP;
use crate::history::{Details, Op, Process, Queue};
use crate::outcome::Outcome;

/// Registers of each kind, and clients of each register.
const REGISTERS: u32 = 4;
const CLIENTS: u32 = 4;
/// Between two operations of a client: some 5,000 operations of a register in ten minutes.
const PACE: Duration = Duration::from_millis(400);
/// A client that changes a topic waits longer: each of its values is used once, and topics are not to grow without end.
const TOPIC_PACE: Duration = Duration::from_secs(1);

/// The consumer groups that this workload needs.
pub(super) fn groups() -> Vec<String> {
    (0..REGISTERS).map(|n| format!("jepsen-register-{n}")).collect()
}

/// Starts the clients of offset registers, on queues of `topic`.
pub(super) fn start_offsets(field: &Field, topic: &str, queues: u32) {
    for (n, group) in (0..).zip(groups()) {
        for _ in 0..CLIENTS {
            let (group, queue) = (group.clone(), queue_of(topic, n % queues));
            field.spawn(&field.writers, move |field, caller, rng| offsets(field, caller, rng, group, queue));
        }
    }
}

async fn offsets(field: Field, caller: Caller, mut rng: StdRng, group: String, queue: Queue) {
    let mut process = field.recorder.process();
    while field.pause(PACE.mul_f64(rng.random_range(0.5..1.5))).await {
        let node = field.resolve(Whom::Anyone, &mut rng);
        if rng.random() {
            // Told apart by the offset: of 2⁴⁰ the same one is not drawn twice.
            let offset = rng.random_range(1..1_u64 << 40);
            let op = || Op::Commit { group: group.clone(), queue: queue.clone(), offset, oneway: false };
            process.invoke(op());
            let answered = caller.commit(node, &group, &queue, offset).await;
            process.complete(answered.outcome, op(), answered.details);
        } else {
            let op = |offset| Op::Query { group: group.clone(), queue: queue.clone(), offset };
            process.invoke(op(None));
            let Answered { outcome, details, result } = caller.query(node, &group, &queue).await;
            process.complete(outcome, op(result.flatten()), details);
        }
    }
}

/// Starts the clients of topics. Each topic's values are numbers of queues, each written once.
pub(super) fn start_topics(field: &Field) {
    for n in 0..REGISTERS {
        for client in 0..CLIENTS {
            let topic = format!("jepsen-topic-{n}");
            field.spawn(&field.writers, move |field, caller, rng| topics(field, caller, rng, topic, client));
        }
    }
}

async fn topics(field: Field, caller: Caller, mut rng: StdRng, topic: String, client: u32) {
    let mut process = field.recorder.process();
    // Clients share no number, and each uses its own but once, in an order that rises and falls.
    let mut numbers: Vec<i32> = (0..QUEUES_MAX).filter(|n| n % CLIENTS as i32 == client as i32).collect();
    rand::seq::SliceRandom::shuffle(&mut numbers[..], &mut rng);
    while field.pause(TOPIC_PACE.mul_f64(rng.random_range(0.5..1.5))).await {
        let node = field.resolve(Whom::Anyone, &mut rng);
        match rng.random_range(0..4_u32) {
            0 => {
                let Some(queues) = numbers.pop().map(|n| n + 1) else { return };
                write(&caller, &mut process, node, &topic, queues).await;
            }
            1 => {
                let answered = caller.peek_topic(node, &topic);
                read(&mut process, &topic, false, answered).await;
            }
            _ => {
                let answered = caller.read_topic(node, &topic);
                read(&mut process, &topic, true, answered).await;
            }
        }
    }
}

/// Queues of a topic never go, so that its offsets table only grows: a bound that a broker bears.
const QUEUES_MAX: i32 = 400;

async fn write(caller: &Caller, process: &mut Process, node: u64, topic: &str, queues: i32) {
    let op = || Op::TopicWrite {
        broker: GROUP.to_owned(),
        topic: topic.to_owned(),
        config: Some(queues.to_string()),
    };
    process.invoke(op());
    let answered = caller.write_topic(node, topic, queues).await;
    process.complete(answered.outcome, op(), answered.details);
}

async fn read(
    process: &mut Process,
    topic: &str,
    current: bool,
    answered: impl Future<Output = Answered<Option<usize>>>,
) {
    let op = |config: Option<String>| Op::TopicRead {
        broker: GROUP.to_owned(),
        topic: topic.to_owned(),
        current,
        config,
    };
    process.invoke(op(None));
    let Answered { outcome, details, result } = answered.await;
    process.complete(outcome, op(result.flatten().map(|queues| queues.to_string())), details);
}

/// Makes consumer groups, through one node after the other: an election may be under way. With each: attempts after the
/// first one, where they are not the broker's own.
pub(super) async fn make_groups(caller: &Caller, groups: Vec<(String, Option<i32>)>) -> anyhow::Result<()> {
    for (group, retries) in groups {
        let mut said = Details::default();
        let mut made = false;
        for attempt in 0..3 * caller.nodes() {
            let answered = caller.make_group(attempt % caller.nodes() + 1, &group, retries).await;
            made = answered.outcome == Outcome::Ok;
            if made {
                break;
            }
            said = answered.details;
        }
        anyhow::ensure!(made, "the consumer group {group} cannot be made: {said:?}");
    }
    Ok(())
}
