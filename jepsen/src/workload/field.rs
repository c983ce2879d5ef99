//! What all tasks of a workload share: whom they may ask, at which pace, until when, and where they write it down.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::{Rng as _, random_range};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::call::{Caller, Sought};
use crate::cluster::network::address;
use crate::cluster::space::Space;
use crate::cluster::{GROUP, client_host};
use crate::history::{Queue, Recorder};

/// How much load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Messages a second, of all producers together.
    pub rate: u32,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Queues of the topic that is written at that rate.
    pub queues: u32,
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { rate: 2_000, body_bytes: 256, queues: 4, seed: 1 }
    }
}

/// Whom a task asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// The node that leads, as far as the harness has heard: what clients do that follow the route.
    Leader,
    /// Always the same: it passes on what it cannot do itself.
    Node(u64),
    /// Another one each time.
    Anyone,
}

/// Acknowledged messages of which some are kept, to be looked up later: each has the same chance.
#[derive(Debug, Default)]
pub(super) struct Sample {
    seen: u64,
    kept: Vec<Sought>,
}

const SAMPLE: usize = 200;

impl Sample {
    fn offer(&mut self, sought: impl FnOnce() -> Sought) {
        self.seen += 1;
        if self.kept.len() < SAMPLE {
            self.kept.push(sought());
        } else if let Some(place) = self.kept.get_mut(random_range(0..self.seen) as usize) {
            *place = sought();
        }
    }
}

/// Where each queue ended when nothing more was written.
type Ends = Arc<HashMap<Queue, u64>>;

pub(super) fn queue_of(topic: &str, id: u32) -> Queue {
    Queue::new(GROUP, topic, id)
}

/// Shared by all tasks; a clone is a reference.
#[derive(Clone, Debug)]
pub struct Field {
    pub(super) options: Options,
    pub(super) recorder: Recorder,
    pub(super) spaces: Vec<Arc<Space>>,
    pub(super) nodes: Arc<[SocketAddr]>,
    pub(super) nameservers: Vec<String>,
    leader: Arc<AtomicU64>,
    pace: Arc<Semaphore>,
    /// Nothing more is written once this is cancelled.
    pub(super) writing: CancellationToken,
    /// Where each queue ends, once nothing more is written: readers go on until there.
    ends: Arc<watch::Sender<Option<Ends>>>,
    /// Whatever still runs stops now.
    pub(super) all: CancellationToken,
    pub(super) writers: TaskTracker,
    pub(super) readers: TaskTracker,
    /// Consumers of groups: they stay until all is over.
    pub(super) members: TaskTracker,
    sample: Arc<Mutex<Sample>>,
    tasks: Arc<AtomicU64>,
}

/// Pace of a producer's permits: what was not used in this time is lost, so that no burst follows an outage.
const TICK: Duration = Duration::from_millis(10);
const BURST: Duration = Duration::from_millis(100);

impl Field {
    /// `leader` holds the id of the node that leads, 0 where nobody is known to.
    pub fn new(
        options: Options,
        recorder: Recorder,
        spaces: Vec<Arc<Space>>,
        nodes: Vec<SocketAddr>,
        nameservers: &[SocketAddr],
        leader: Arc<AtomicU64>,
    ) -> Field {
        let field = Field {
            options,
            recorder,
            spaces,
            nodes: nodes.into(),
            nameservers: nameservers.iter().map(SocketAddr::to_string).collect(),
            leader,
            pace: Arc::new(Semaphore::new(0)),
            writing: CancellationToken::new(),
            ends: Arc::new(watch::Sender::new(None)),
            all: CancellationToken::new(),
            writers: TaskTracker::new(),
            readers: TaskTracker::new(),
            members: TaskTracker::new(),
            sample: Arc::default(),
            tasks: Arc::default(),
        };
        field.spaces[0].handle().spawn(field.clone().keep_pace());
        field
    }

    /// Gives out permits for messages as time passes.
    async fn keep_pace(self) {
        let per_tick = f64::from(self.options.rate) * TICK.as_secs_f64();
        let most = (f64::from(self.options.rate) * BURST.as_secs_f64()).ceil() as usize;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut owed = 0.0;
        while self.writing.run_until_cancelled(ticks.tick()).await.is_some() {
            owed += per_tick;
            let room = most.max(1).saturating_sub(self.pace.available_permits());
            let permits = (owed as usize).min(room);
            self.pace.add_permits(permits);
            owed = (owed - permits as f64).min(1.0);
        }
        self.pace.close();
    }

    /// Waits for its turn to send so many messages; false once nothing is to be written any more.
    pub(super) async fn turn(&self, messages: u32) -> bool {
        match self.writing.run_until_cancelled(self.pace.acquire_many(messages)).await {
            Some(Ok(permits)) => {
                permits.forget();
                true
            }
            _ => false,
        }
    }

    /// Waits between two operations of a slow client; false once nothing is to be written any more.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        self.writing.run_until_cancelled(tokio::time::sleep(time)).await.is_some()
    }

    /// Places of clients.
    pub(super) fn places(&self) -> usize {
        self.spaces.len()
    }

    /// Runs a task in one of the places of clients, in turn, with a generator of its own.
    pub(super) fn spawn<F>(&self, among: &TaskTracker, task: impl FnOnce(Field, Caller, StdRng) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let number = self.tasks.fetch_add(1, Ordering::Relaxed);
        let place = number as usize % self.spaces.len();
        let rng = StdRng::seed_from_u64(self.options.seed.wrapping_mul(0x9E37_79B9).wrapping_add(number));
        let future = task(self.clone(), self.caller(place), rng);
        let all = self.all.clone();
        let until = async move {
            all.run_until_cancelled(future).await;
        };
        among.spawn_on(until, self.spaces[place].handle());
    }

    /// A caller for a place of clients, by its number from 0. Its connections belong to whoever first uses them, so it is
    /// to be used on that place's threads only.
    pub(super) fn caller(&self, place: usize) -> Caller {
        Caller::new(self.nodes.clone(), address(&client_host(place as u64 + 1)).into())
    }

    pub(super) fn resolve(&self, whom: Whom, rng: &mut StdRng) -> u64 {
        let anyone = |rng: &mut StdRng| rng.random_range(1..=self.nodes.len() as u64);
        match whom {
            Whom::Node(node) => node,
            Whom::Anyone => anyone(rng),
            Whom::Leader => match self.leader.load(Ordering::Relaxed) {
                0 => anyone(rng),
                node => node,
            },
        }
    }

    pub(super) fn offer(&self, sought: impl FnOnce() -> Sought) {
        self.sample.lock().unwrap_or_else(PoisonError::into_inner).offer(sought);
    }

    /// The messages that were kept to be looked up.
    pub(super) fn kept(&self) -> Vec<Sought> {
        self.sample.lock().unwrap_or_else(PoisonError::into_inner).kept.clone()
    }

    /// Tells readers where they may end.
    pub(super) fn set_ends(&self, ends: HashMap<Queue, u64>) {
        self.ends.send_replace(Some(Arc::new(ends)));
    }

    /// Whether a reader of a queue is through.
    pub(super) fn is_through(&self, queue: &Queue, next: u64) -> bool {
        let ends = self.ends.borrow().clone();
        ends.is_some_and(|ends| ends.get(queue).is_none_or(|&end| next >= end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Value;

    #[test]
    fn a_sample_is_of_all() {
        let mut sample = Sample::default();
        for counter in 0..10_000 {
            let queue = Queue::new("a", "t", 0);
            let value = Value::new(1, counter);
            sample.offer(|| Sought { queue, value, position: 0, unique_id: String::new() });
        }
        assert_eq!(sample.kept.len(), SAMPLE);
        assert!(sample.kept.iter().any(|sought| sought.value.counter() > 5_000));
    }
}
