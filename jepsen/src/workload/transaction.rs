//! Transactions: halves that are committed, rolled back or left open, and producers that are asked what became of them.
//!
//! What becomes of a transaction follows from its value alone, so that any producer of the group can answer for any other.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use net::Replier;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::Instant;
use wire::{CheckTransactionStateRequest, RemotingCommand, RequestCode, StoredMessage};

use super::call::{Answered, Caller, HalfSent};
use super::field::{Field, Whom, queue_of};
use super::read;
use crate::history::{Ending, Op, Process, Queue, Value};
use crate::outcome::Outcome;

pub(super) const TOPIC: &str = "jepsen-transaction";
pub(super) const QUEUES: u32 = 2;
/// Of producers.
const GROUP: &str = "jepsen-transactions";
/// Transactions a second that all producers together begin at most.
pub(super) const RATE: u32 = 60;

const PRODUCERS: u32 = 3;
/// Between two heartbeats of a producer: brokers ask only whom they know, and a node that comes back knows nobody.
const HEARTBEAT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(200);

/// What a producer does with a transaction, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Ended by itself.
    Ended(Ending),
    /// Left open until it is asked.
    Open(Ending),
    /// Left open, and the first question is not answered.
    Forgotten(Ending),
    /// Ended, and then, by a mistake, the other way round.
    Contradicted(Ending),
}

fn fate(value: Value) -> Fate {
    use Ending::{Commit, Rollback};
    match value.counter() % 20 {
        0..10 => Fate::Ended(Commit),
        10..14 => Fate::Ended(Rollback),
        14..16 => Fate::Open(Commit),
        16..18 => Fate::Open(Rollback),
        18 => Fate::Forgotten(Commit),
        _ => Fate::Contradicted(if value.process().is_multiple_of(2) { Commit } else { Rollback }),
    }
}

impl Fate {
    fn ending(self) -> Ending {
        match self {
            Fate::Ended(ending)
            | Fate::Open(ending)
            | Fate::Forgotten(ending)
            | Fate::Contradicted(ending) => ending,
        }
    }
}

/// A transaction that has not ended as far as anybody knows.
#[derive(Clone, Debug)]
struct Open {
    queue: Queue,
    half: HalfSent,
    /// An end of unknown outcome was sent then: it may be over, and nobody asks any more.
    unknown_since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Tally {
    open: HashMap<Value, Open>,
    closed: HashSet<Value>,
    /// About which somebody was asked.
    asked: HashSet<Value>,
}

/// Shared by all producers.
#[derive(Clone, Debug, Default)]
pub(super) struct Transactions {
    tally: Arc<Mutex<Tally>>,
}

impl Transactions {
    fn with<T>(&self, look: impl FnOnce(&mut Tally) -> T) -> T {
        look(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn opened(&self, value: Value, queue: &Queue, half: &HalfSent) {
        self.with(|tally| {
            // A question may have been answered before the acknowledgement came.
            if !tally.closed.contains(&value) {
                let open = Open { queue: queue.clone(), half: half.clone(), unknown_since: None };
                tally.open.insert(value, open);
            }
        });
    }

    fn ended(&self, value: Value, outcome: Outcome, over: bool) {
        self.with(|tally| {
            if outcome == Outcome::Ok || over {
                tally.open.remove(&value);
                tally.closed.insert(value);
            } else if outcome == Outcome::Info
                && let Some(open) = tally.open.get_mut(&value)
            {
                open.unknown_since = Some(Instant::now());
            }
        });
    }

    /// Those whose end may have been taken, though nobody was told.
    fn unknown(&self) -> Vec<(Value, Open)> {
        let old = |open: &Open| open.unknown_since.is_some_and(|since| since.elapsed() > HEARTBEAT);
        self.with(|tally| {
            let open = tally.open.iter().filter(|(_, open)| old(open));
            open.map(|(value, open)| (*value, open.clone())).collect()
        })
    }

    /// Waits until every transaction is over: by an answer to a question, where its producer left it open. False when that
    /// does not come to pass in time.
    pub(super) async fn settle(&self, field: &Field, caller: &Caller) -> bool {
        let began = Instant::now();
        let mut process = field.recorder.process();
        let mut node = 1;
        while self.with(|tally| !tally.open.is_empty()) {
            if began.elapsed() > super::CONVERGE {
                return false;
            }
            for (value, Open { queue, half, .. }) in self.unknown() {
                node = node % caller.nodes() + 1;
                let how = fate(value).ending();
                self.end(caller, &mut process, node, &queue, value, &half, how).await;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    #[allow(clippy::too_many_arguments, reason = "who ends what, where and how")]
    async fn end(
        &self,
        caller: &Caller,
        process: &mut Process,
        node: u64,
        queue: &Queue,
        value: Value,
        half: &HalfSent,
        how: Ending,
    ) {
        let checked = half.from_check;
        let op = |over| Op::EndTransaction { queue: queue.clone(), value, how, checked, over };
        process.invoke(op(false));
        let (answered, over) = caller.end_transaction(node, queue, GROUP, half, how).await;
        process.complete(answered.outcome, op(over), answered.details);
        self.ended(value, answered.outcome, over);
    }
}

/// Starts producers and readers.
pub(super) fn start(field: &Field) -> Transactions {
    let transactions = Transactions::default();
    // Places take turns: those who are asked first, so that they are in all places, and a cut leaves some with the majority.
    for number in 0..PRODUCERS {
        let (questions, asked) = mpsc::unbounded_channel();
        let handler = Arc::new(move |request: RemotingCommand, replier: Replier| {
            if request.request_code() == RequestCode::CHECK_TRANSACTION_STATE {
                // Who has ended answers nothing any more.
                let _ = questions.send(request);
            }
            replier.forget();
        });
        let own = transactions.clone();
        field.spawn(&field.members, move |field, caller, _rng| {
            // One client: it is known to the brokers by its heartbeats, and asked on their connections.
            let caller = caller.answering(handler);
            async move {
                let announcing = announce(&caller, number);
                let answering = answer(&field, &caller, asked, &own);
                tokio::join!(announcing, answering);
            }
        });
    }
    for _ in 0..PRODUCERS {
        let own = transactions.clone();
        field.spawn(&field.writers, move |field, caller, rng| produce(field, caller, rng, own));
    }
    read::start_assigned(field, TOPIC, QUEUES, |_| {});
    transactions
}

async fn announce(caller: &Caller, number: u32) {
    let client = format!("jepsen@{number}");
    let mut ticks = tokio::time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let nodes = (1..=caller.nodes()).map(|node| caller.announce_producer(node, &client, GROUP));
        futures::future::join_all(nodes.collect::<Vec<_>>()).await;
    }
}

async fn produce(field: Field, caller: Caller, mut rng: StdRng, transactions: Transactions) {
    let mut process = field.recorder.process();
    let pace = Duration::from_secs(1) * PRODUCERS / RATE;
    while field.pause(pace.mul_f64(rng.random_range(0.5..1.5))).await {
        let queue = queue_of(TOPIC, rng.random_range(0..QUEUES));
        let node = field.resolve(if rng.random() { Whom::Leader } else { Whom::Anyone }, &mut rng);
        let value = process.value();
        let op = |half: Option<&HalfSent>| Op::SendHalf {
            queue: queue.clone(),
            value,
            half: half.map(|half| (half.offset as u64, half.position as u64)),
        };
        process.invoke(op(None));
        let Answered { outcome, details, result } =
            caller.send_half(node, &queue, value, field.options.body_bytes, GROUP).await;
        process.complete(outcome, op(result.as_ref()), details);
        let Some(half) = result else { continue };
        transactions.opened(value, &queue, &half);
        let fate = fate(value);
        let (Fate::Ended(how) | Fate::Contradicted(how)) = fate else { continue };
        let node = field.resolve(Whom::Leader, &mut rng);
        transactions.end(&caller, &mut process, node, &queue, value, &half, how).await;
        if fate == Fate::Contradicted(how) && transactions.with(|tally| tally.closed.contains(&value)) {
            let other = if how == Ending::Commit { Ending::Rollback } else { Ending::Commit };
            transactions.end(&caller, &mut process, node, &queue, value, &half, other).await;
        }
    }
}

/// A question of a broker's.
struct Question {
    queue: Queue,
    value: Value,
    half: HalfSent,
}

fn read_question(request: &RemotingCommand) -> Option<Question> {
    let header = CheckTransactionStateRequest::decode(&request.ext).ok()?;
    let shown = StoredMessage::parse(&request.body).ok()?;
    let queue = queue_of(shown.topic, shown.queue_id.get());
    let half = HalfSent {
        offset: header.tran_state_table_offset,
        position: header.commit_log_offset,
        transaction_id: header.transaction_id?,
        from_check: true,
    };
    Some(Question { value: super::value_of(&queue, &shown), queue, half })
}

/// Answers what is asked, as it comes.
async fn answer(
    field: &Field,
    caller: &Caller,
    mut questions: mpsc::UnboundedReceiver<RemotingCommand>,
    transactions: &Transactions,
) {
    let mut under_way = FuturesUnordered::new();
    let mut node = 1;
    loop {
        let request = tokio::select! {
            Some(()) = under_way.next(), if !under_way.is_empty() => continue,
            Some(request) = questions.recv() => request,
            else => return,
        };
        let Some(Question { queue, value, half }) = read_question(&request) else {
            // A stranger is one that nobody sent.
            let (queue, value) = (queue_of(TOPIC, 0), Value::foreign(&request.body));
            field.recorder.note(Op::CheckTransaction { queue, value });
            continue;
        };
        field.recorder.note(Op::CheckTransaction { queue: queue.clone(), value });
        let is_first = transactions.with(|tally| tally.asked.insert(value));
        let fate = fate(value);
        if matches!(fate, Fate::Forgotten(_)) && is_first {
            continue;
        }
        node = node % caller.nodes() + 1;
        let mut process = field.recorder.process();
        under_way.push(async move {
            transactions.end(caller, &mut process, node, &queue, value, &half, fate.ending()).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fate_is_met_by_both_ends() {
        let fates: Vec<Fate> = (0..40).map(|n| fate(Value::new(n / 20, n % 20))).collect();
        let has = |wanted: Fate| fates.contains(&wanted);
        for ending in [Ending::Commit, Ending::Rollback] {
            assert!(has(Fate::Ended(ending)) && has(Fate::Open(ending)) && has(Fate::Contradicted(ending)));
        }
        assert!(has(Fate::Forgotten(Ending::Commit)));
    }

    #[test]
    fn a_transaction_that_was_over_before_its_acknowledgement_is_not_open() {
        let (transactions, value) = (Transactions::default(), Value::new(1, 0));
        let half = HalfSent { offset: 1, position: 2, transaction_id: "u".into(), from_check: false };
        transactions.ended(value, Outcome::Ok, false);
        transactions.opened(value, &queue_of(TOPIC, 0), &half);
        assert!(transactions.with(|tally| tally.open.is_empty()));
        let other = Value::new(1, 1);
        transactions.opened(other, &queue_of(TOPIC, 0), &half);
        transactions.ended(other, Outcome::Fail, false);
        transactions.ended(other, Outcome::Info, false);
        assert!(transactions.with(|tally| tally.open[&other].unknown_since.is_some()));
        transactions.ended(other, Outcome::Fail, true);
        assert!(transactions.with(|tally| tally.open.is_empty()));
    }
}
