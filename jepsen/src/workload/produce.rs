//! Producers: one message at a time, many at a time, batches.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::call::{Caller, Sought};
use super::field::{Field, Whom, queue_of};
use crate::history::{Op, Process, Queue, Value};
use crate::outcome::Outcome;

/// Sends that an asynchronous producer keeps under way. Each is a logical client of its own, on one connection.
const WINDOW: usize = 16;
/// A refusal comes at once: a producer that sees one waits as a client's retry does.
const AFTER_REFUSAL: Duration = Duration::from_millis(25);

/// How producers of a workload are made up: their number and whom they send to.
const SYNC: [Whom; 8] = [
    Whom::Leader,
    Whom::Leader,
    Whom::Leader,
    Whom::Anyone,
    Whom::Anyone,
    Whom::Node(1),
    Whom::Node(2),
    Whom::Node(3),
];
const ASYNC: [Whom; 2] = [Whom::Leader, Whom::Anyone];
const BATCHES: [Whom; 2] = [Whom::Leader, Whom::Anyone];

/// Starts all producers of a topic.
pub(super) fn start(field: &Field, topic: &str) {
    for whom in SYNC {
        let topic = topic.to_owned();
        field.spawn(&field.writers, move |field, caller, rng| single(field, caller, rng, topic, whom));
    }
    for whom in ASYNC {
        let topic = topic.to_owned();
        field.spawn(&field.writers, move |field, caller, rng| window(field, caller, rng, topic, whom));
    }
    for whom in BATCHES {
        let topic = topic.to_owned();
        field.spawn(&field.writers, move |field, caller, rng| batches(field, caller, rng, topic, whom));
    }
}

/// The node that `whom` is for a cluster of so many nodes.
fn within(whom: Whom, nodes: u64) -> Whom {
    match whom {
        Whom::Node(node) if node > nodes => Whom::Anyone,
        whom => whom,
    }
}

async fn single(field: Field, caller: Caller, mut rng: StdRng, topic: String, whom: Whom) {
    let whom = within(whom, caller.nodes());
    let mut process = field.recorder.process();
    while field.turn(1).await {
        let queue = queue_of(&topic, rng.random_range(0..field.options.queues));
        let node = field.resolve(whom, &mut rng);
        let (outcome, _) = send(&field, &caller, &mut process, node, queue).await;
        if outcome == Outcome::Fail && !field.pause(AFTER_REFUSAL).await {
            return;
        }
    }
}

async fn window(field: Field, caller: Caller, mut rng: StdRng, topic: String, whom: Whom) {
    let slots = (0..WINDOW).map(|_| {
        let own = StdRng::from_rng(&mut rng);
        single(field.clone(), caller.clone(), own, topic.clone(), whom)
    });
    futures::future::join_all(slots.collect::<Vec<_>>()).await;
}

async fn batches(field: Field, caller: Caller, mut rng: StdRng, topic: String, whom: Whom) {
    let mut process = field.recorder.process();
    loop {
        let count = rng.random_range(2..=8);
        if !field.turn(count).await {
            return;
        }
        let queue = queue_of(&topic, rng.random_range(0..field.options.queues));
        let node = field.resolve(whom, &mut rng);
        let values: Vec<_> = (0..count).map(|_| process.value()).collect();
        let op =
            |offset, position| Op::Batch { queue: queue.clone(), values: values.clone(), offset, position };
        process.invoke(op(None, None));
        let answered = caller.send_batch(node, &queue, &values, field.options.body_bytes).await;
        let placed = answered.result;
        let op = op(placed.map(|placed| placed.offset), placed.map(|placed| placed.position));
        process.complete(answered.outcome, op, answered.details);
        if answered.outcome == Outcome::Fail && !field.pause(AFTER_REFUSAL).await {
            return;
        }
    }
}

/// One message, written down before and after. What came of it, and its value.
pub(super) async fn send(
    field: &Field,
    caller: &Caller,
    process: &mut Process,
    node: u64,
    queue: Queue,
) -> (Outcome, Value) {
    let value = process.value();
    let op = |offset, position| Op::Send { queue: queue.clone(), value, offset, position };
    process.invoke(op(None, None));
    let (answered, unique_id) = caller.send(node, &queue, value, field.options.body_bytes).await;
    let placed = answered.result;
    let completed = op(placed.map(|placed| placed.offset), placed.map(|placed| placed.position));
    process.complete(answered.outcome, completed, answered.details);
    if let Some(placed) = placed {
        field.offer(|| Sought { queue: queue.clone(), value, position: placed.position, unique_id });
    }
    (answered.outcome, value)
}
