//! Which consumers were told of a reset (222) that is pending: by 21 with its offset, or by 14. One that asks at that very
//! offset may be there for another reason, with messages in hand that it has not consumed: it goes on only once it was told.
//!
//! Of the leader, and volatile: after a change of leaders a consumer is told once more. Consumers are told apart by their
//! connections: one whose answer was lost with its connection comes over another one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use wire::{QueueId, QueueOffset};

use crate::hosted::lock;
use crate::limits::{TOLD_CONSUMERS_MAX, TOLD_QUEUES_MAX};

/// See the module.
#[derive(Default)]
pub(crate) struct Told {
    queues: Mutex<HashMap<At, Consumers>>,
}

/// Topic, group, queue.
type At = (Arc<str>, Arc<str>, QueueId);

struct Consumers {
    /// Of the reset.
    offset: QueueOffset,
    told: Vec<SocketAddr>,
}

impl Told {
    /// Notes that a consumer is told of a reset.
    pub(crate) fn note(
        &self,
        topic: &str,
        group: &str,
        queue: QueueId,
        offset: QueueOffset,
        who: SocketAddr,
    ) {
        let mut queues = lock(&self.queues);
        let at = (Arc::from(topic), Arc::from(group), queue);
        if queues.len() >= TOLD_QUEUES_MAX && !queues.contains_key(&at) {
            return;
        }
        let consumers = queues.entry(at).or_insert(Consumers { offset, told: Vec::new() });
        if consumers.offset != offset {
            *consumers = Consumers { offset, told: Vec::new() };
        }
        if !consumers.told.contains(&who) && consumers.told.len() < TOLD_CONSUMERS_MAX {
            consumers.told.push(who);
        }
    }

    /// Whether a consumer was told; also where there is no room to remember that, so that each gets on in the end.
    pub(crate) fn knows(
        &self,
        topic: &str,
        group: &str,
        queue: QueueId,
        offset: QueueOffset,
        who: SocketAddr,
    ) -> bool {
        let queues = lock(&self.queues);
        let at = (Arc::from(topic), Arc::from(group), queue);
        match queues.get(&at) {
            Some(consumers) if consumers.offset == offset => {
                consumers.told.contains(&who) || consumers.told.len() >= TOLD_CONSUMERS_MAX
            }
            Some(_) => false,
            None => queues.len() >= TOLD_QUEUES_MAX,
        }
    }

    /// A consumer has gone on: there is nothing to tell any more.
    pub(crate) fn forget(&self, topic: &str, group: &str, queue: QueueId) {
        lock(&self.queues).remove(&(Arc::from(topic), Arc::from(group), queue));
    }

    /// Forgets what is about resets that are not pending any more.
    pub(crate) fn sweep(&self, pending: impl Fn(&str, &str, QueueId) -> Option<QueueOffset>) {
        let all: Vec<(At, QueueOffset)> =
            lock(&self.queues).iter().map(|(at, consumers)| (at.clone(), consumers.offset)).collect();
        // The tables are asked without the lock.
        for (at, offset) in all {
            if pending(&at.0, &at.1, at.2) == Some(offset) {
                continue;
            }
            let mut queues = lock(&self.queues);
            if queues.get(&at).is_some_and(|consumers| consumers.offset == offset) {
                queues.remove(&at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: QueueId = QueueId(1);

    fn consumer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn each_consumer_of_each_reset() {
        let told = Told::default();
        let knows = |offset, port| told.knows("T", "g", Q, QueueOffset(offset), consumer(port));
        let note = |offset, port| told.note("T", "g", Q, QueueOffset(offset), consumer(port));
        assert!(!knows(7, 1));
        note(7, 1);
        assert!(knows(7, 1) && !knows(7, 2) && !knows(8, 1));
        assert!(!told.knows("T", "g", QueueId(2), QueueOffset(7), consumer(1)));
        note(8, 2);
        assert!(knows(8, 2) && !knows(8, 1) && !knows(7, 1), "there is a newer one");
        told.sweep(|topic, group, queue| ((topic, group, queue) == ("T", "g", Q)).then_some(QueueOffset(8)));
        assert!(knows(8, 2));
        told.sweep(|_, _, _| Some(QueueOffset(9)));
        assert!(!knows(8, 2));
        note(8, 2);
        told.forget("T", "g", Q);
        assert!(!knows(8, 2) && lock(&told.queues).is_empty());
    }

    #[test]
    fn bounded_and_then_everybody_goes_on() {
        let told = Told::default();
        let many = TOLD_CONSUMERS_MAX as u16;
        for port in 0..=many {
            assert!(!told.knows("T", "g", Q, QueueOffset(7), consumer(port)) || port == many);
            told.note("T", "g", Q, QueueOffset(7), consumer(port));
        }
        assert!(told.knows("T", "g", Q, QueueOffset(7), consumer(many)));
        for queue in 0..TOLD_QUEUES_MAX as u32 {
            told.note("U", "g", QueueId(queue), QueueOffset(7), consumer(1));
        }
        assert_eq!(lock(&told.queues).len(), TOLD_QUEUES_MAX);
        assert!(told.knows("V", "g", Q, QueueOffset(7), consumer(1)));
    }
}
