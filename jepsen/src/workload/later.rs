//! Messages that are delivered later, by level and by a time of their own, and who reads them when they come.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::call::{Answered, Caller};
use super::field::{Field, Whom, queue_of};
use super::read;
use crate::history::{Delay, Op, Read, Value};
use crate::outcome::Outcome;

pub(super) const TOPIC: &str = "jepsen-later";
pub(super) const QUEUES: u32 = 2;
/// Messages a second that all producers together send at most.
pub(super) const RATE: u32 = 100;

const PRODUCERS: u32 = 6;
/// RocketMQ's first levels, which the nodes of a run have.
const LEVELS_MS: [u64; 3] = [1_000, 5_000, 10_000];
/// Of timers: among them such as are due before a fault is over.
const TIMERS_MS: std::ops::Range<u64> = 200..12_000;
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct Tally {
    acknowledged: HashSet<Value>,
    seen: HashSet<Value>,
    /// When the last one is due, those of unknown outcome with it.
    due: Option<Instant>,
}

/// Shared by producers and readers.
#[derive(Clone, Debug, Default)]
pub(super) struct Delays {
    tally: Arc<Mutex<Tally>>,
}

impl Delays {
    fn with<T>(&self, look: impl FnOnce(&mut Tally) -> T) -> T {
        look(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn saw(&self, reads: &[Read]) {
        self.with(|tally| tally.seen.extend(reads.iter().map(|read| read.value)));
    }

    /// Waits until everything is due and has been seen; false when that does not come to pass in time.
    pub(super) async fn settle(&self) -> bool {
        let began = Instant::now();
        let is_left = |tally: &mut Tally| {
            tally.due.is_some_and(|due| due > Instant::now()) || !tally.acknowledged.is_subset(&tally.seen)
        };
        while self.with(is_left) {
            if began.elapsed() > super::CONVERGE {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }
}

/// Starts producers and readers.
pub(super) fn start(field: &Field) -> Delays {
    let delays = Delays::default();
    for _ in 0..PRODUCERS {
        let delays = delays.clone();
        field.spawn(&field.writers, move |field, caller, rng| produce(field, caller, rng, delays));
    }
    let seen = delays.clone();
    read::start_assigned(field, TOPIC, QUEUES, move |reads| seen.saw(reads));
    delays
}

async fn produce(field: Field, caller: Caller, mut rng: StdRng, delays: Delays) {
    let mut process = field.recorder.process();
    let pace = Duration::from_secs(1) * PRODUCERS / RATE;
    while field.pause(pace.mul_f64(rng.random_range(0.5..1.5))).await {
        let queue = queue_of(TOPIC, rng.random_range(0..QUEUES));
        let whom = if rng.random() { Whom::Leader } else { Whom::Anyone };
        let node = field.resolve(whom, &mut rng);
        let delay = drawn(&mut rng);
        let value = process.value();
        let op = || Op::SendLater { queue: queue.clone(), value, delay };
        process.invoke(op());
        let Answered { outcome, details, .. } =
            caller.send_later(node, &queue, value, field.options.body_bytes, delay).await;
        process.complete(outcome, op(), details);
        if outcome != Outcome::Fail {
            let due = Instant::now() + Duration::from_millis(delay.ms);
            delays.with(|tally| {
                tally.due = tally.due.max(Some(due));
                if outcome == Outcome::Ok {
                    tally.acknowledged.insert(value);
                }
            });
        }
    }
}

fn drawn(rng: &mut StdRng) -> Delay {
    if rng.random() {
        return Delay { ms: rng.random_range(TIMERS_MS), level: None };
    }
    let place = rng.random_range(0..LEVELS_MS.len());
    Delay { ms: LEVELS_MS[place], level: Some(place as u32 + 1) }
}
