//! Long polling: pulls that found nothing wait here, at the node where they arrived, for a message that they want.
//!
//! ```text
//! topic ─▶ queue ─▶ [ (pull, seen up to, until) … ]      one list per group; count bounded
//! ```
//!
//! A held pull leaves in one of three ways: a message that passes its filter was applied here (`wake`), its time is
//! over (`expired`), or the node stops (`close`). The list decides nothing about the answer: the pull is executed once
//! more, with holding disallowed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use wire::{QueueId, QueueOffset};

/// One pull that waits.
pub(crate) struct Held<P> {
    pub(crate) pull: P,
    /// Everything below was looked at and not wanted.
    pub(crate) seen: QueueOffset,
    pub(crate) until: Instant,
}

pub(crate) struct HoldList<P> {
    inner: Mutex<Inner<P>>,
    max: usize,
}

struct Inner<P> {
    topics: HashMap<Arc<str>, HashMap<QueueId, Vec<Held<P>>>>,
    count: usize,
    /// No pull's time is over before that.
    earliest: Option<Instant>,
    closed: bool,
}

/// Why a pull cannot be held; it comes back to be answered.
pub(crate) enum NotHeld<P> {
    Full(Held<P>),
    /// The node is stopping.
    Closed(Held<P>),
}

impl<P> HoldList<P> {
    pub(crate) fn new(max: usize) -> HoldList<P> {
        HoldList {
            inner: Mutex::new(Inner { topics: HashMap::new(), count: 0, earliest: None, closed: false }),
            max,
        }
    }

    pub(crate) fn hold(&self, topic: &Arc<str>, queue: QueueId, held: Held<P>) -> Result<(), NotHeld<P>> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(NotHeld::Closed(held));
        }
        if inner.count >= self.max {
            return Err(NotHeld::Full(held));
        }
        inner.count += 1;
        inner.earliest = Some(inner.earliest.map_or(held.until, |earliest| earliest.min(held.until)));
        inner.topics.entry(topic.clone()).or_default().entry(queue).or_default().push(held);
        Ok(())
    }

    /// Whether anybody waits for this queue: what `apply` asks before it makes a note.
    pub(crate) fn awaits(&self, topic: &str, queue: QueueId) -> bool {
        let inner = self.lock();
        inner.count > 0 && inner.topics.get(topic).is_some_and(|queues| queues.contains_key(&queue))
    }

    /// The queues for which somebody waits.
    pub(crate) fn queues(&self) -> Vec<(Arc<str>, QueueId)> {
        self.lock().queues()
    }

    /// How many pulls wait.
    pub(crate) fn count(&self) -> usize {
        self.lock().count
    }

    /// Takes out the pulls of a queue that `wanted` says yes to. It may raise `seen` of those that stay.
    pub(crate) fn wake(
        &self,
        topic: &str,
        queue: QueueId,
        mut wanted: impl FnMut(&mut Held<P>) -> bool,
    ) -> Vec<Held<P>> {
        self.lock().extract(topic, queue, &mut wanted)
    }

    /// Takes out the pulls whose time is over.
    pub(crate) fn expired(&self, now: Instant) -> Vec<Held<P>> {
        let mut inner = self.lock();
        if inner.earliest.is_none_or(|earliest| now < earliest) {
            return Vec::new();
        }
        let expired = inner.take(|held| held.until <= now);
        let waiting = inner.topics.values().flat_map(HashMap::values).flatten();
        inner.earliest = waiting.map(|held| held.until).min();
        expired
    }

    /// Takes everything out and takes nothing more: the node is stopping.
    pub(crate) fn close(&self) -> Vec<Held<P>> {
        let mut inner = self.lock();
        inner.closed = true;
        inner.take(|_| true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<P>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P> Inner<P> {
    fn queues(&self) -> Vec<(Arc<str>, QueueId)> {
        let all =
            self.topics.iter().flat_map(|(topic, queues)| queues.keys().map(|queue| (topic.clone(), *queue)));
        all.collect()
    }

    fn take(&mut self, mut leaves: impl FnMut(&mut Held<P>) -> bool) -> Vec<Held<P>> {
        let keys = self.queues();
        keys.iter().flat_map(|(topic, queue)| self.extract(topic, *queue, &mut leaves)).collect()
    }

    fn extract(
        &mut self,
        topic: &str,
        queue: QueueId,
        leaves: &mut impl FnMut(&mut Held<P>) -> bool,
    ) -> Vec<Held<P>> {
        let Some(queues) = self.topics.get_mut(topic) else { return Vec::new() };
        let Some(waiting) = queues.get_mut(&queue) else { return Vec::new() };
        let out: Vec<_> = waiting.extract_if(.., leaves).collect();
        self.count -= out.len();
        if waiting.is_empty() {
            queues.remove(&queue);
        }
        if queues.is_empty() {
            self.topics.remove(topic);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn held(name: &'static str, seen: u64, until: Instant) -> Held<&'static str> {
        Held { pull: name, seen: QueueOffset(seen), until }
    }

    fn names(held: &[Held<&'static str>]) -> Vec<&'static str> {
        held.iter().map(|h| h.pull).collect()
    }

    #[test]
    fn wakes_only_the_queue_and_only_who_wants() {
        let now = Instant::now();
        let list = HoldList::new(8);
        let topic: Arc<str> = "T".into();
        for (name, queue, seen) in [("a", 0, 5), ("b", 0, 7), ("c", 1, 5)] {
            assert!(list.hold(&topic, QueueId(queue), held(name, seen, now)).is_ok());
        }
        assert!(
            list.awaits("T", QueueId(0)) && !list.awaits("T", QueueId(2)) && !list.awaits("U", QueueId(0))
        );
        let woken = list.wake("T", QueueId(0), |h| h.seen < QueueOffset(6));
        assert_eq!(names(&woken), ["a"]);
        assert_eq!(list.queues().len(), 2);
        assert_eq!(names(&list.wake("T", QueueId(0), |_| true)), ["b"]);
        assert!(!list.awaits("T", QueueId(0)));
        assert_eq!(names(&list.close()), ["c"]);
        assert!(matches!(list.hold(&topic, QueueId(0), held("d", 0, now)), Err(NotHeld::Closed(_))));
    }

    #[test]
    fn a_full_list_gives_the_pull_back() {
        let now = Instant::now();
        let list = HoldList::new(1);
        let topic: Arc<str> = "T".into();
        assert!(list.hold(&topic, QueueId(0), held("a", 0, now)).is_ok());
        assert!(matches!(list.hold(&topic, QueueId(0), held("b", 0, now)), Err(NotHeld::Full(_))));
        assert_eq!(names(&list.expired(now)), ["a"]);
        assert!(list.hold(&topic, QueueId(0), held("b", 0, now + Duration::from_secs(1))).is_ok());
        assert!(list.expired(now).is_empty());
    }
}
