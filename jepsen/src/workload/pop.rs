//! Pop consumers: messages are taken from a topic by many, acknowledged one by one or together, kept for longer, given back
//! sooner, or forgotten; some are never acknowledged and become dead letters.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::call::{Answered, Caller, Held};
use super::field::{Field, Whom, queue_of};
use super::produce;
use crate::cluster;
use crate::history::{Op, Popped, Process, PullStatus, Queue, Value};
use crate::outcome::Outcome;

pub(super) const TOPIC: &str = "jepsen-pop";
pub(super) const QUEUES: u32 = 4;
pub(super) const GROUP: &str = "jepsen-pop-group";
/// Attempts after the first one; then a message is a dead letter. So few that some get there in a short run.
pub(super) const RETRIES: i32 = 2;
/// Messages a second that all producers together send at most.
pub(super) const RATE: u32 = 200;

const PRODUCERS: u32 = 4;
const CONSUMERS: usize = 6;
/// For how long a message is its consumer's: long enough for most faults to be survived, short enough for some to not be.
const INVISIBLE: Duration = Duration::from_secs(5);
/// What a consumer asks for that needs longer, and one that gives back.
const LONGER: Duration = Duration::from_secs(9);
const SHORTER: Duration = Duration::from_millis(500);
/// An acknowledgement counts if it is earlier than its time by this: the broker's time may run ahead (check/pops.rs).
const AHEAD: Duration = Duration::from_secs(1);
/// Within this a message that is not done comes again.
const COMES_AGAIN: Duration = Duration::from_secs(10);
const HOLD: Duration = Duration::from_secs(1);
const AFTER_FAILURE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(200);

/// What is to become of all messages that were acknowledged to their senders.
#[derive(Debug, Default)]
struct Tally {
    sent: HashSet<Value>,
    /// Acknowledged by a consumer in time, or dead letters.
    finished: HashSet<Value>,
    /// Acknowledged then, perhaps too late or with an unknown outcome, and not seen again since.
    perhaps: HashMap<Value, Instant>,
}

impl Tally {
    fn is_settled(&self) -> bool {
        let left = |value: &Value| self.perhaps.get(value).is_none_or(|since| since.elapsed() < COMES_AGAIN);
        !self.sent.difference(&self.finished).any(left)
    }
}

/// Shared by producers and consumers.
#[derive(Clone, Debug, Default)]
pub(super) struct Pops {
    tally: Arc<Mutex<Tally>>,
}

impl Pops {
    fn with<T>(&self, look: impl FnOnce(&mut Tally) -> T) -> T {
        look(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until every message is finished; false when that does not come to pass in time.
    pub(super) async fn settle(&self) -> bool {
        let began = Instant::now();
        while !self.with(|tally| tally.is_settled()) {
            if began.elapsed() > super::CONVERGE {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }
}

/// Starts producers and consumers, and who reads the dead letters.
pub(super) fn start(field: &Field) -> Pops {
    let pops = Pops::default();
    for _ in 0..PRODUCERS {
        let pops = pops.clone();
        field.spawn(&field.writers, move |field, caller, rng| produce(field, caller, rng, pops));
    }
    for number in 0..CONSUMERS {
        let pops = pops.clone();
        field.spawn(&field.members, move |field, caller, rng| consume(field, caller, rng, pops, number));
    }
    // Each in a place of its own: one that is cut off from where the leader is sees late what came in time.
    for reader in 0..field.places() as u64 {
        let dead = pops.clone();
        field.spawn(&field.members, move |field, caller, rng| bury(field, caller, rng, dead, LIVE + reader));
    }
    pops
}

async fn produce(field: Field, caller: Caller, mut rng: StdRng, pops: Pops) {
    let mut process = field.recorder.process();
    let pace = Duration::from_secs(1) * PRODUCERS / RATE;
    while field.pause(pace.mul_f64(rng.random_range(0.5..1.5))).await {
        let queue = queue_of(TOPIC, rng.random_range(0..QUEUES));
        // Those who follow the leader all wait out their time where it stops: that is a client's, not the broker's.
        let node = field.resolve(if rng.random() { Whom::Leader } else { Whom::Anyone }, &mut rng);
        let (outcome, value) = produce::send(&field, &caller, &mut process, node, queue).await;
        if outcome == Outcome::Ok {
            pops.with(|tally| tally.sent.insert(value));
        }
    }
}

/// What a consumer makes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    Acknowledge,
    /// Nothing: it died.
    Forget,
    KeepLonger,
    GiveBack,
}

fn treatment(value: Value, rng: &mut StdRng) -> Treatment {
    // Nobody can do anything with these, however often they come.
    if value.counter() % 97 == 96 {
        return Treatment::Forget;
    }
    match rng.random_range(0..100_u32) {
        0..6 => Treatment::Forget,
        6..14 => Treatment::KeepLonger,
        14..18 => Treatment::GiveBack,
        _ => Treatment::Acknowledge,
    }
}

/// A consumer that goes on until the whole run ends it. The first one is slow: its acknowledgements come too late.
async fn consume(field: Field, caller: Caller, mut rng: StdRng, pops: Pops, number: usize) {
    let mut process = field.recorder.process();
    let whom = [Whom::Leader, Whom::Leader, Whom::Anyone, Whom::Node(1), Whom::Node(2), Whom::Node(3)];
    let whom = whom[number % whom.len()];
    let is_slow = number == 0;
    loop {
        let node = field.resolve(whom, &mut rng);
        let most = if is_slow { 2 } else { rng.random_range(1..=16) };
        let began = Instant::now();
        let Some(held) = pop(&caller, &mut process, node, most).await else {
            tokio::time::sleep(AFTER_FAILURE).await;
            continue;
        };
        pops.with(|tally| {
            for held in &held {
                tally.perhaps.remove(&held.popped.value);
            }
        });
        if is_slow && !held.is_empty() {
            tokio::time::sleep(INVISIBLE + Duration::from_millis(rng.random_range(0..600))).await;
        }
        let mut together = Vec::new();
        for held in held {
            match treatment(held.popped.value, &mut rng) {
                Treatment::Forget => {}
                Treatment::GiveBack => {
                    change(&caller, &mut process, node, held, SHORTER).await;
                }
                Treatment::KeepLonger => {
                    let began = Instant::now();
                    if let Some(held) = change(&caller, &mut process, node, held, LONGER).await {
                        let until = began + LONGER;
                        acknowledge(&caller, &mut process, node, vec![(held, until)], &pops).await;
                    }
                }
                Treatment::Acknowledge if rng.random() => together.push((held, began + INVISIBLE)),
                Treatment::Acknowledge => {
                    let until = began + INVISIBLE;
                    acknowledge(&caller, &mut process, node, vec![(held, until)], &pops).await;
                }
            }
        }
        if !together.is_empty() {
            acknowledge(&caller, &mut process, node, together, &pops).await;
        }
    }
}

async fn pop(caller: &Caller, process: &mut Process, node: u64, most: i32) -> Option<Vec<Held>> {
    let op = |messages: Vec<Popped>| Op::Pop {
        broker: cluster::GROUP.to_owned(),
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        invisible_ms: INVISIBLE.as_millis() as u64,
        messages,
    };
    process.invoke(op(Vec::new()));
    let Answered { outcome, details, result } = caller.pop(node, TOPIC, GROUP, most, INVISIBLE, HOLD).await;
    let messages = result.iter().flatten().map(|held| held.popped.clone()).collect();
    process.complete(outcome, op(messages), details);
    result
}

/// Asks for another time; the message with its new handle.
async fn change(
    caller: &Caller,
    process: &mut Process,
    node: u64,
    held: Held,
    invisible: Duration,
) -> Option<Held> {
    let Held { popped, handle } = held;
    let op = |pop_ms| Op::ChangeInvisible {
        group: GROUP.to_owned(),
        message: popped.clone(),
        invisible_ms: invisible.as_millis() as u64,
        pop_ms,
    };
    process.invoke(op(None));
    let answered = caller.change_invisible(node, TOPIC, GROUP, &handle, invisible).await;
    let pop_ms = answered.result.as_ref().and_then(|handle| u64::try_from(handle.pop_time).ok());
    process.complete(answered.outcome, op(pop_ms), answered.details);
    let handle = answered.result?;
    Some(Held { popped: Popped { pop_ms: pop_ms?, ..popped }, handle })
}

/// Acknowledges messages, each of which is this consumer's until some time.
async fn acknowledge(
    caller: &Caller,
    process: &mut Process,
    node: u64,
    held: Vec<(Held, Instant)>,
    pops: &Pops,
) {
    let (held, until): (Vec<Held>, Vec<Instant>) = held.into_iter().unzip();
    let messages: Vec<Popped> = held.iter().map(|held| held.popped.clone()).collect();
    let op = || Op::Ack { group: GROUP.to_owned(), messages: messages.clone() };
    process.invoke(op());
    let answered = caller.acknowledge(node, TOPIC, GROUP, &held).await;
    process.complete(answered.outcome, op(), answered.details);
    if answered.outcome == Outcome::Fail {
        return;
    }
    let now = Instant::now();
    pops.with(|tally| {
        for (held, until) in held.iter().zip(until) {
            let value = held.popped.value;
            if answered.outcome == Outcome::Ok && now + AHEAD < until {
                tally.finished.insert(value);
            } else {
                tally.perhaps.insert(value, now);
            }
        }
    });
}

fn dead_letters() -> Queue {
    queue_of(&wire::dlq_topic(GROUP), 0)
}

fn note(field: &Field, replica: u64, messages: Vec<crate::history::Read>) {
    if !messages.is_empty() {
        field.recorder.note(Op::DeadLetters { replica, group: GROUP.to_owned(), messages });
    }
}

/// From here on a "replica" of dead letters is a reader that asks whoever leads.
const LIVE: u64 = 100;

/// Reads dead letters as they come, through the leader.
async fn bury(field: Field, caller: Caller, mut rng: StdRng, pops: Pops, replica: u64) {
    let queue = dead_letters();
    let mut next = 0;
    loop {
        let node = field.resolve(Whom::Leader, &mut rng);
        // There is no such topic before the first one.
        match caller.pull(node, &queue, next, Some(HOLD)).await.result {
            Some(pulled) if pulled.status == PullStatus::Found => {
                next = pulled.next;
                let values = pulled.messages.iter().map(|read| read.value);
                pops.with(|tally| tally.finished.extend(values));
                note(&field, replica, pulled.messages);
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Reads the dead letters through a node, all of them.
pub(super) async fn drain(field: &Field, caller: &Caller, node: u64) {
    let queue = dead_letters();
    let mut next = 0;
    let end = loop {
        match caller.max_offset(node, &queue).await {
            Answered { result: Some(end), .. } => break end,
            // TOPIC_NOT_EXIST: there was none.
            Answered { details, .. } if details.code == Some(17) => return,
            _ => tokio::time::sleep(AFTER_FAILURE).await,
        }
    };
    while next < end {
        match caller.pull(node, &queue, next, None).await.result {
            Some(pulled) if pulled.status == PullStatus::Found => {
                next = pulled.next;
                note(field, node, pulled.messages);
            }
            _ => tokio::time::sleep(AFTER_FAILURE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_perhaps_acknowledged_is_waited_for_until_it_would_have_come_again() {
        let (one, other) = (Value::new(1, 0), Value::new(1, 1));
        let mut tally = Tally::default();
        assert!(tally.is_settled());
        tally.sent.extend([one, other]);
        tally.finished.insert(one);
        assert!(!tally.is_settled());
        let now = Instant::now();
        tally.perhaps.insert(other, now);
        assert!(!tally.is_settled());
        tally.perhaps.insert(other, now.checked_sub(COMES_AGAIN).expect("the clock has run that long"));
        assert!(tally.is_settled());
    }

    #[test]
    fn some_messages_are_never_acknowledged() {
        use rand::SeedableRng as _;
        let mut rng = StdRng::seed_from_u64(1);
        assert!((0..50).all(|_| treatment(Value::new(1, 96), &mut rng) == Treatment::Forget));
        assert!((0..50).any(|_| treatment(Value::new(1, 95), &mut rng) == Treatment::Acknowledge));
    }
}
