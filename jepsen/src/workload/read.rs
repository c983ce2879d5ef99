//! Readers: through the leader and through every node, from the first offset to the last without a gap; bounds of queues;
//! and the small queues on which everything that is done is searched for linearizability.

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

use super::call::{Answered, Caller, Pulled};
use super::field::{Field, Whom, queue_of};
use super::produce;
use crate::history::{Op, Process, PullStatus, Queue, Read};

/// How long a pull may be held: long enough that pulls are held, and not so long that they wait out a fault.
const HOLD: Duration = Duration::from_secs(1);
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// Between two questions about the bounds of queues, of one client.
const BOUNDS: Duration = Duration::from_millis(50);
/// Between two operations of one client on the small queues: 10,000 operations in ten minutes with four clients.
const SMALL: Duration = Duration::from_millis(250);
const SMALL_CLIENTS: u32 = 4;

/// Starts the readers of a topic, and who asks for the bounds of its queues.
pub(super) fn start(field: &Field, topic: &str) {
    start_assigned(field, topic, field.options.queues, |_| {});
    let topic = topic.to_owned();
    field.spawn(&field.writers, move |field, caller, rng| bounds(field, caller, rng, topic));
}

/// Starts the readers of so many queues of a topic: of each one that follows the leader and one at each node. `seen` is
/// told what any of them gets.
pub(super) fn start_assigned(
    field: &Field,
    topic: &str,
    queues: u32,
    seen: impl Fn(&[Read]) + Clone + Send + Sync + 'static,
) {
    let nodes = field.nodes.len() as u64;
    let whom = || std::iter::once(Whom::Leader).chain((1..=nodes).map(Whom::Node));
    for id in 0..queues {
        for (number, whom) in whom().enumerate() {
            let (queue, seen) = (queue_of(topic, id), seen.clone());
            // Half of them ask again and again, half have the broker hold their pulls.
            let hold = number.is_multiple_of(2).then_some(HOLD);
            field.spawn(&field.readers, move |field, caller, rng| {
                assigned(field, caller, rng, queue, whom, hold, seen)
            });
        }
    }
}

/// Starts the clients of the small queues.
pub(super) fn start_small(field: &Field, topic: &str, queues: u32) {
    for _ in 0..queues * SMALL_CLIENTS {
        let topic = topic.to_owned();
        field.spawn(&field.writers, move |field, caller, rng| small(field, caller, rng, topic, queues));
    }
}

/// Pulls, and writes it down.
async fn pull(
    caller: &Caller,
    process: &mut Process,
    node: u64,
    queue: &Queue,
    from: u64,
    is_assigned: bool,
    hold: Option<Duration>,
) -> Option<Pulled> {
    let op = |pulled: Option<&Pulled>| Op::Pull {
        queue: queue.clone(),
        from,
        assigned: is_assigned,
        status: pulled.map(|pulled| pulled.status),
        messages: pulled.map_or_else(Vec::new, |pulled| pulled.messages.clone()),
        next: pulled.map(|pulled| pulled.next),
        min: pulled.map(|pulled| pulled.min),
        max: pulled.map(|pulled| pulled.max),
    };
    process.invoke(op(None));
    let Answered { outcome, details, result } = caller.pull(node, queue, from, hold).await;
    process.complete(outcome, op(result.as_ref()), details);
    result
}

/// Reads a queue from its first offset on, until it is told where the queue ends and has come there.
async fn assigned(
    field: Field,
    caller: Caller,
    mut rng: StdRng,
    queue: Queue,
    whom: Whom,
    hold: Option<Duration>,
    seen: impl Fn(&[Read]) + Send,
) {
    let mut process = field.recorder.process();
    let mut next = 0;
    while !field.is_through(&queue, next) {
        let node = field.resolve(whom, &mut rng);
        let pulled = pull(&caller, &mut process, node, &queue, next, true, hold).await;
        let waits = match &pulled {
            None => true,
            // What a consumer would follow; the checkers know whether it was right.
            Some(pulled) => {
                next = pulled.next;
                seen(&pulled.messages);
                let is_empty = pulled.status == PullStatus::NothingNew;
                (hold.is_none() && is_empty) || pulled.status == PullStatus::Moved
            }
        };
        if waits {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

async fn max_offset(caller: &Caller, process: &mut Process, node: u64, queue: &Queue) -> Option<u64> {
    process.invoke(Op::MaxOffset { queue: queue.clone(), offset: None });
    let Answered { outcome, details, result } = caller.max_offset(node, queue).await;
    process.complete(outcome, Op::MaxOffset { queue: queue.clone(), offset: result }, details);
    result
}

async fn min_offset(caller: &Caller, process: &mut Process, node: u64, queue: &Queue) -> Option<u64> {
    process.invoke(Op::MinOffset { queue: queue.clone(), offset: None });
    let Answered { outcome, details, result } = caller.min_offset(node, queue).await;
    process.complete(outcome, Op::MinOffset { queue: queue.clone(), offset: result }, details);
    result
}

/// Asks for the bounds of queues, at any node: each has the leader answer.
async fn bounds(field: Field, caller: Caller, mut rng: StdRng, topic: String) {
    let mut process = field.recorder.process();
    while field.pause(BOUNDS).await {
        let queue = queue_of(&topic, rng.random_range(0..field.options.queues));
        let node = field.resolve(Whom::Anyone, &mut rng);
        if rng.random_ratio(4, 5) {
            max_offset(&caller, &mut process, node, &queue).await;
        } else {
            min_offset(&caller, &mut process, node, &queue).await;
        }
    }
}

/// Sends, asks for the end, and reads near the end.
async fn small(field: Field, caller: Caller, mut rng: StdRng, topic: String, queues: u32) {
    let mut process = field.recorder.process();
    let mut ends = vec![0_u64; queues as usize];
    while field.pause(SMALL.mul_f64(rng.random_range(0.5..1.5))).await {
        let id = rng.random_range(0..queues);
        let queue = queue_of(&topic, id);
        let node = field.resolve(Whom::Anyone, &mut rng);
        let end = &mut ends[id as usize];
        match rng.random_range(0..4_u32) {
            0 | 1 => {
                produce::send(&field, &caller, &mut process, node, queue).await;
            }
            2 => *end = max_offset(&caller, &mut process, node, &queue).await.unwrap_or(*end),
            _ => {
                let from = rng.random_range(end.saturating_sub(16)..=*end);
                if let Some(pulled) = pull(&caller, &mut process, node, &queue, from, false, None).await {
                    *end = pulled.max.max(*end);
                }
            }
        }
    }
}

/// Asks the leader where a queue ends, again and again until it says.
pub(super) async fn end_of(field: &Field, caller: &Caller, queue: &Queue) -> u64 {
    let mut process = field.recorder.process();
    let mut node = 1;
    loop {
        if let Some(end) = max_offset(caller, &mut process, node, queue).await {
            return end;
        }
        node = node % caller.nodes() + 1;
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}
