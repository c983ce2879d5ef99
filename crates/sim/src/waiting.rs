//! What clients do with messages that wait: those of source queues are released, with their copies for the queues where they
//! belong, or dropped; those that were popped are acknowledged, or come again as copies in another topic. Whoever brings
//! copies has asked a node what waits before, so that two may want the same; one in two asks a node that may not know it all.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use replica::{NodeId, ProposeError, Receipt};

use crate::oracle::{Answer, Oracle, Queue};
use crate::plan::{NODES, ORDERED, ORDERLY, POPPED, POPPERS, QUEUES, RETRIES, SOURCES, TOPICS};
use crate::served::{CommandFailure, Copies, Directory, Held, NoAnswer, Served};
use crate::tables::body_of;
use crate::trace::say;
use crate::workload::{Client, leader_of};

/// Messages that are released at once, or popped.
const BATCH_MAX: u64 = 6;
/// A popped message is the consumer's for so long, ms.
const INVISIBLE_MS: (u64, u64) = (50, 3000);
const LEASE_MS: (u64, u64) = (20, 2000);

/// How a request with an answer of the tables ended.
type Ended<T> = Result<Result<T, CommandFailure>, NoAnswer>;

/// Copies that somebody tries to bring: for each queue where they go, their values.
struct Attempt(Vec<(Queue, Vec<String>)>);

impl Attempt {
    /// Copies of these values, each named by the attempt, for the queues that `place` says.
    fn new(name: &str, values: &[String], place: impl Fn(&str) -> Queue) -> Attempt {
        let mut copies: BTreeMap<Queue, Vec<String>> = BTreeMap::new();
        for value in values {
            copies.entry(place(value)).or_default().push(format!("{value}>{name}"));
        }
        Attempt(copies.into_iter().collect())
    }

    fn copies(&self) -> Vec<Copies> {
        let copies = self.0.iter().map(|((_, topic, queue), values)| Copies {
            topic: topic.clone(),
            queue: *queue,
            bodies: values.iter().map(|value| body_of(value, 20)).collect(),
        });
        copies.collect()
    }

    fn begin(&self, oracle: &Oracle) {
        for (queue, values) in &self.0 {
            oracle.send(queue, values);
        }
    }

    /// Tells the oracle how it ended; true when it took effect.
    fn end(self, oracle: &Oracle, ended: &Ended<Vec<Receipt>>) -> bool {
        match ended {
            Ok(Ok(receipts)) => {
                for ((queue, values), receipt) in self.0.into_iter().zip(receipts) {
                    let (offset, position) = (receipt.first_offset.0, receipt.position.0);
                    oracle.answered(&Answer::Acknowledged { queue, values, offset, position });
                }
                return true;
            }
            Ok(Err(error)) if error.is_definite() => self.refused(oracle),
            Err(NoAnswer::NotSent) => self.refused(oracle),
            Ok(Err(_)) | Err(NoAnswer::Unknown) => {
                self.0.iter().for_each(|(_, values)| oracle.forget(values));
            }
        }
        false
    }

    fn refused(self, oracle: &Oracle) {
        for (_, values) in self.0 {
            oracle.answered(&Answer::Refused { values });
        }
    }
}

/// Where a message that waits belongs: some queue of the others, always the same.
fn place_of(group: usize, value: &str) -> Queue {
    let hash = xxhash_rust::xxh3::xxh3_64(value.as_bytes());
    let topic = TOPICS[(hash % TOPICS.len() as u64) as usize];
    (group, topic.to_owned(), (hash / 7 % u64::from(QUEUES)) as u32)
}

impl Client {
    fn attempt(&mut self) -> String {
        self.attempts += 1;
        format!("c{}.{}", self.number, self.attempts)
    }

    /// After a request that only a leader can do.
    pub(crate) fn learn<T>(&mut self, group: usize, ended: &Ended<T>) {
        match ended {
            // Somebody was faster.
            Ok(Ok(_) | Err(CommandFailure::Proposed(ProposeError::Void))) => {}
            Ok(Err(CommandFailure::Refused(remark))) => {
                self.oracle.violated("commands", remark);
            }
            Ok(Err(error)) => self.turn_away(group, error.leader()),
            Err(_) => self.turn_away(group, None),
        }
    }

    /// Pending messages of a source queue; one time in two as they are now.
    async fn pending(&mut self, queue: &Queue) -> Vec<u64> {
        let node = self.target(queue.0);
        let (there, back) = self.ways_ms();
        let is_current = self.random.percent(50);
        let max = self.random.between(1, BATCH_MAX) as usize;
        let done = self.oracle.done(queue);
        let (topic, number) = (queue.1.clone(), queue.2);
        let request = move |served: Served| served.pending(topic, number, is_current, max).boxed();
        match self.directory.ask(node, queue.0, there, back, request).await {
            Ok(Ok(pending)) => {
                if is_current {
                    let (queue, pending) = (queue.clone(), pending.clone());
                    self.oracle.answered(&Answer::Pending { queue, done, pending });
                }
                return pending;
            }
            Ok(Err(error)) => self.turn_away(queue.0, leader_of(&error)),
            Err(_) => self.turn_away(queue.0, None),
        }
        Vec::new()
    }

    pub(crate) async fn release(&mut self) {
        let source = self.queue_of(&SOURCES);
        let offsets = self.pending(&source).await;
        if offsets.is_empty() {
            return;
        }
        let values = self.oracle.values(&source, &offsets);
        let name = self.attempt();
        let group = source.0;
        let attempt = Attempt::new(&name, &values, |value| place_of(group, value));
        let node = self.target(group);
        let (there, back) = self.ways_ms();
        attempt.begin(&self.oracle);
        let (copies, of, named) = (attempt.copies(), (source.1.clone(), source.2), offsets.clone());
        let request = move |served: Served| served.release(of, named, copies).boxed();
        let ended = self.directory.ask(node, group, there, back, request).await;
        say!("{name} releases {offsets:?} of {source:?} at n{node}: {ended:?}");
        if attempt.end(&self.oracle, &ended) {
            self.oracle.answered(&Answer::Done { queue: source, offsets });
        }
        self.learn(group, &ended);
    }

    pub(crate) async fn discard(&mut self) {
        let source = self.queue_of(&SOURCES);
        let offsets = self.pending(&source).await;
        if offsets.is_empty() {
            return;
        }
        let node = self.target(source.0);
        let (there, back) = self.ways_ms();
        let (of, named) = ((source.1.clone(), source.2), offsets.clone());
        let request = move |served: Served| served.discard(of, named).boxed();
        let ended = self.directory.ask(node, source.0, there, back, request).await;
        say!("c{} drops {offsets:?} of {source:?} at n{node}: {ended:?}", self.number);
        self.learn(source.0, &ended);
        if ended.is_ok_and(|answer| answer.is_ok()) {
            // Those that were not granted were done before.
            self.oracle.answered(&Answer::Done { queue: source, offsets });
        }
    }

    pub(crate) async fn pop(&mut self) {
        let queue = self.queue_of(&[POPPED]);
        let max = self.random.between(1, BATCH_MAX);
        let invisible_ms = self.random.between(INVISIBLE_MS.0, INVISIBLE_MS.1);
        let node = self.target(queue.0);
        let (there, back) = self.ways_ms();
        let number = queue.2;
        let request = move |served: Served| served.pop(number, max, invisible_ms).boxed();
        let ended = self.directory.ask(node, queue.0, there, back, request).await;
        self.learn(queue.0, &ended);
        let Ok(Ok(Some((offsets, pop_time_ms)))) = ended else { return };
        say!("c{} pops {offsets:?} of {queue:?} at n{node}, {pop_time_ms}", self.number);
        let held =
            offsets.iter().map(|offset| (queue.0, Held { queue: queue.2, offset: *offset, pop_time_ms }));
        self.held.extend(held);
        self.oracle.answered(&Answer::Popped { queue, offsets, pop_time_ms });
    }

    pub(crate) async fn ack(&mut self) {
        let Some((group, _)) = self.held.first() else { return };
        let group = *group;
        // Now and then what may be another one's already, or acknowledged.
        let count = self.random.between(1, BATCH_MAX) as usize;
        let mut acked: Vec<Held> = Vec::new();
        let is_once_more = self.random.percent(10);
        for (_, held) in self.held.iter().filter(|(of, _)| *of == group).take(count) {
            acked.push(*held);
        }
        if !is_once_more {
            self.held.retain(|(of, held)| *of != group || !acked.contains(held));
        }
        let node = self.target(group);
        let (there, back) = self.ways_ms();
        let named = acked.clone();
        let request = move |served: Served| served.ack(POPPED, POPPERS, named).boxed();
        let ended = self.directory.ask(node, group, there, back, request).await;
        self.learn(group, &ended);
        let Ok(Ok(granted)) = ended else { return };
        say!("c{} acknowledges {acked:?} at n{node}: {granted:?}", self.number);
        for (held, _) in acked.iter().zip(granted).filter(|(_, is_granted)| *is_granted) {
            let queue = (group, POPPED.to_owned(), held.queue);
            self.oracle.answered(&Answer::Consumed { queue, offset: held.offset });
        }
    }

    /// Its own attempt goes on, or it is another one, or one that has no name.
    pub(crate) async fn pop_in_order(&mut self) {
        let queue = self.queue_of(&[ORDERED]);
        let max = self.random.between(1, BATCH_MAX);
        let invisible_ms = self.random.between(INVISIBLE_MS.0, INVISIBLE_MS.1);
        let own = format!("c{}", self.number);
        let attempt_id = match self.random.below(4) {
            0 => String::new(),
            1 => format!("{own}.{}", self.random.next()),
            _ => own,
        };
        let node = self.target(queue.0);
        let (there, back) = self.ways_ms();
        let number = queue.2;
        let request =
            move |served: Served| served.pop_in_order(number, max, invisible_ms, attempt_id).boxed();
        let ended = self.directory.ask(node, queue.0, there, back, request).await;
        self.learn(queue.0, &ended);
        let Ok(Ok(Some((offsets, pop_time_ms)))) = ended else { return };
        say!("c{} pops {offsets:?} of {queue:?} in order at n{node}, {pop_time_ms}", self.number);
        for offset in offsets {
            self.held_in_order.push((queue.0, Held { queue: queue.2, offset, pop_time_ms }));
        }
    }

    /// Some of what it has, in any order, and some of it never.
    pub(crate) async fn ack_in_order(&mut self) {
        self.held_in_order.retain(|_| !self.random.percent(2));
        if self.held_in_order.is_empty() {
            return;
        }
        let at = self.random.below(self.held_in_order.len() as u64) as usize;
        let (group, held) = self.held_in_order.swap_remove(at);
        let mut acked = vec![held];
        let more = self.random.below(BATCH_MAX) as usize;
        let mut taken = 0;
        self.held_in_order.retain(|(of, held)| {
            let is_taken = *of == group && taken < more;
            if is_taken {
                taken += 1;
                acked.push(*held);
            }
            !is_taken
        });
        let node = self.target(group);
        let (there, back) = self.ways_ms();
        let named = acked.clone();
        let request = move |served: Served| served.ack(ORDERED, ORDERLY, named).boxed();
        let ended = self.directory.ask(node, group, there, back, request).await;
        self.learn(group, &ended);
        let Ok(Ok(granted)) = ended else { return };
        say!("c{} acknowledges {acked:?} in order at n{node}: {granted:?}", self.number);
        for (held, _) in acked.iter().zip(granted).filter(|(_, is_granted)| *is_granted) {
            let queue = (group, ORDERED.to_owned(), held.queue);
            self.oracle.answered(&Answer::ConsumedInOrder { queue, offset: held.offset });
        }
    }

    pub(crate) async fn attempt_with_pending(&mut self) {
        let source = self.queue_of(&SOURCES);
        let offsets = self.pending(&source).await;
        if offsets.is_empty() {
            return;
        }
        let node = self.target(source.0);
        let (there, back) = self.ways_ms();
        let of = (source.1.clone(), source.2);
        let request = move |served: Served| served.attempt(of, offsets).boxed();
        let ended = self.directory.ask(node, source.0, there, back, request).await;
        self.learn(source.0, &ended);
        if let Ok(Ok(offsets)) = ended {
            self.oracle.answered(&Answer::Tried { queue: source, offsets });
        }
    }

    pub(crate) async fn hold(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.random.below(self.held.len() as u64) as usize;
        let (group, held) = self.held.swap_remove(at);
        let invisible_ms = self.random.between(0, INVISIBLE_MS.1);
        let node = self.target(group);
        let (there, back) = self.ways_ms();
        let request = move |served: Served| served.hold(held, invisible_ms).boxed();
        let ended = self.directory.ask(node, group, there, back, request).await;
        self.learn(group, &ended);
        if let Ok(Ok(Some(pop_time_ms))) = ended {
            self.held.push((group, Held { pop_time_ms, ..held }));
        }
    }

    pub(crate) async fn revive(&mut self) {
        let queue = self.queue_of(&[POPPED]);
        let group = queue.0;
        let node = self.target(group);
        let (there, back) = self.ways_ms();
        let number = queue.2;
        let max = self.random.between(1, BATCH_MAX) as usize;
        let request = move |served: Served| async move { served.due(number, max) }.boxed();
        let Ok(offsets) = self.directory.ask(node, group, there, back, request).await else { return };
        if offsets.is_empty() {
            return;
        }
        let values = self.oracle.values(&queue, &offsets);
        let name = self.attempt();
        let attempt = Attempt::new(&name, &values, |_| (group, RETRIES.to_owned(), number));
        let node = self.target(group);
        let (there, back) = self.ways_ms();
        attempt.begin(&self.oracle);
        let (copies, named) = (attempt.copies(), offsets.clone());
        let request = move |served: Served| served.revive(number, named, copies).boxed();
        let ended = self.directory.ask(node, group, there, back, request).await;
        say!("{name} revives {offsets:?} of {queue:?} at n{node}: {ended:?}");
        attempt.end(&self.oracle, &ended);
        self.learn(group, &ended);
    }

    pub(crate) async fn lock(&mut self) {
        let queue = self.queue_of(&TOPICS);
        let (unlock, lease_ms) = (self.random.percent(30), self.random.between(LEASE_MS.0, LEASE_MS.1));
        let client = format!("c{}", self.number);
        let node = self.target(queue.0);
        let (there, back) = self.ways_ms();
        let (topic, number) = (queue.1.clone(), queue.2);
        let request = move |served: Served| served.lock(topic, number, client, unlock, lease_ms).boxed();
        let ended = self.directory.ask(node, queue.0, there, back, request).await;
        self.learn(queue.0, &ended);
    }
}

/// Releases what waits in a source queue until nothing does. `name` is unique in the run.
pub(crate) async fn release_all(directory: &Directory, oracle: &Oracle, source: &Queue, name: &str) {
    let group = source.0;
    let mut node = 1;
    for turn in 0.. {
        let (topic, number) = (source.1.clone(), source.2);
        let done = oracle.done(source);
        let request = move |served: Served| served.pending(topic, number, true, 50).boxed();
        let Ok(Ok(offsets)) = directory.ask(node, group, 0, Some(1), request).await else {
            node = node % NODES + 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        oracle.answered(&Answer::Pending { queue: source.clone(), done, pending: offsets.clone() });
        if offsets.is_empty() {
            return;
        }
        let values = oracle.values(source, &offsets);
        let attempt = Attempt::new(&format!("{name}.{turn}"), &values, |value| place_of(group, value));
        attempt.begin(oracle);
        let (copies, of, named) = (attempt.copies(), (source.1.clone(), source.2), offsets.clone());
        let request = move |served: Served| served.release(of, named, copies).boxed();
        let ended = directory.ask(node, group, 0, Some(1), request).await;
        if attempt.end(oracle, &ended) {
            oracle.answered(&Answer::Done { queue: source.clone(), offsets });
        } else {
            node = match &ended {
                Ok(Err(error)) => error.leader().map_or(node % NODES + 1, |NodeId(leader)| leader),
                _ => node % NODES + 1,
            };
        }
    }
}

/// Takes what is left of a queue in order, and acknowledges it, until nothing is. `attempt_id` is unique in the run.
pub(crate) async fn consume_in_order(
    directory: &Directory,
    oracle: &Oracle,
    group: usize,
    queue: u32,
    attempt_id: &str,
) {
    let mut node = 1;
    loop {
        let attempt_id = attempt_id.to_owned();
        let request = move |served: Served| {
            async move {
                let popped = served.clone().pop_in_order(queue, BATCH_MAX, INVISIBLE_MS.1, attempt_id).await;
                // One that lags knows of less.
                let is_current = served.group.read_barrier().await.is_ok();
                (popped, is_current.then(|| served.left_in_order(queue)))
            }
            .boxed()
        };
        let held: Vec<Held> = match directory.ask(node, group, 0, Some(1), request).await {
            Ok((Ok(None), Some(0))) => return,
            Ok((Ok(Some((offsets, pop_time_ms))), _)) => {
                offsets.into_iter().map(|offset| Held { queue, offset, pop_time_ms }).collect()
            }
            _ => Vec::new(),
        };
        if held.is_empty() {
            // Another consumer has a batch of it, or another node leads.
            node = node % NODES + 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let named = held.clone();
        let request = move |served: Served| served.ack(ORDERED, ORDERLY, named).boxed();
        let Ok(Ok(granted)) = directory.ask(node, group, 0, Some(1), request).await else { continue };
        for (held, _) in held.iter().zip(granted).filter(|(_, is_granted)| *is_granted) {
            let queue = (group, ORDERED.to_owned(), queue);
            oracle.answered(&Answer::ConsumedInOrder { queue, offset: held.offset });
        }
    }
}
