//! Long polling: pulls that found nothing wait here, at the node where they arrived, for a message that they want.
//!
//! ```text
//! topic ─▶ queue ─▶ [ number: (pull, seen up to, until) … ]      one list per group; count bounded
//! ```
//!
//! A held pull leaves in one of three ways: a message that passes its filter was applied here (`wake`), its time is
//! over (`expired`), or the node stops (`close`). The list decides nothing about the answer: the pull is executed once
//! more, with holding disallowed.
//!
//! `apply` asks the list about every queue that it has brought messages to, so its lock is held for look-ups only: what
//! a pull wants is judged without it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    /// How many wait. Changed under the lock, and before whoever holds a pull looks at the tables once more: `apply`,
    /// which asks after it has changed them, finds the pull here, or the pull finds the message there.
    count: AtomicUsize,
    max: usize,
}

struct Inner<P> {
    topics: HashMap<Arc<str>, Queues<P>>,
    /// The number of the next pull.
    next: u64,
    /// No pull's time is over before that.
    earliest: Option<Instant>,
    closed: bool,
}

/// The pulls of a topic, by queue, in the order of their numbers.
type Queues<P> = HashMap<QueueId, Vec<Numbered<P>>>;

struct Numbered<P> {
    number: u64,
    held: Held<P>,
}

/// Why a pull cannot be held; it comes back to be answered.
pub(crate) enum NotHeld<P> {
    Full(Held<P>),
    /// The node is stopping.
    Closed(Held<P>),
}

impl<P> HoldList<P> {
    pub(crate) fn new(max: usize) -> HoldList<P> {
        let inner = Inner { topics: HashMap::new(), next: 0, earliest: None, closed: false };
        HoldList { inner: Mutex::new(inner), count: AtomicUsize::new(0), max }
    }

    pub(crate) fn hold(&self, topic: &Arc<str>, queue: QueueId, held: Held<P>) -> Result<(), NotHeld<P>> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(NotHeld::Closed(held));
        }
        if self.count() >= self.max {
            return Err(NotHeld::Full(held));
        }
        self.count.fetch_add(1, Ordering::Release);
        inner.earliest = Some(inner.earliest.map_or(held.until, |earliest| earliest.min(held.until)));
        let number = inner.next;
        inner.next += 1;
        let queues = inner.topics.entry(topic.clone()).or_default();
        queues.entry(queue).or_default().push(Numbered { number, held });
        Ok(())
    }

    /// Whether anybody waits for this queue: what `apply` asks before it makes a note.
    pub(crate) fn awaits(&self, topic: &str, queue: QueueId) -> bool {
        self.count() > 0 && self.lock().topics.get(topic).is_some_and(|queues| queues.contains_key(&queue))
    }

    /// The queues for which somebody waits.
    pub(crate) fn queues(&self) -> Vec<(Arc<str>, QueueId)> {
        self.lock().queues()
    }

    /// How many pulls wait.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Takes out the pulls of a queue for which `is_wanted` says yes to what `wish` says of them; it is asked without the
    /// lock.
    pub(crate) fn pick<W>(
        &self,
        topic: &str,
        queue: QueueId,
        wish: impl Fn(&P) -> W,
        mut is_wanted: impl FnMut(W) -> bool,
    ) -> Vec<Held<P>> {
        let judge = |_, wish| is_wanted(wish);
        self.judge(topic, queue, None, wish, judge)
    }

    /// Takes out the pulls of a queue for which there is something below `next`. Of each that has not seen that far
    /// `is_wanted` is asked, without the lock: it gets what the pull has seen and what `wish` says of it. Those for which
    /// it says no have then seen everything below `next`.
    pub(crate) fn wake<W>(
        &self,
        topic: &str,
        queue: QueueId,
        next: QueueOffset,
        wish: impl Fn(&P) -> W,
        is_wanted: impl FnMut(QueueOffset, W) -> bool,
    ) -> Vec<Held<P>> {
        self.judge(topic, queue, Some(next), wish, is_wanted)
    }

    fn judge<W>(
        &self,
        topic: &str,
        queue: QueueId,
        next: Option<QueueOffset>,
        wish: impl Fn(&P) -> W,
        mut is_wanted: impl FnMut(QueueOffset, W) -> bool,
    ) -> Vec<Held<P>> {
        let candidates: Vec<(u64, QueueOffset, W)> = {
            let inner = self.lock();
            let waiting = inner.topics.get(topic).and_then(|queues| queues.get(&queue));
            let behind =
                waiting.into_iter().flatten().filter(|waits| next.is_none_or(|next| waits.held.seen < next));
            behind.map(|waits| (waits.number, waits.held.seen, wish(&waits.held.pull))).collect()
        };
        let verdicts: Vec<(u64, bool)> =
            candidates.into_iter().map(|(number, seen, wish)| (number, is_wanted(seen, wish))).collect();
        if verdicts.is_empty() {
            return Vec::new();
        }
        let mut inner = self.lock();
        self.take_of(&mut inner, topic, queue, &mut |waits: &mut Numbered<P>| {
            match verdicts.binary_search_by_key(&waits.number, |(number, _)| *number) {
                Ok(at) if verdicts[at].1 => true,
                Ok(_) => {
                    waits.held.seen = waits.held.seen.max(next.unwrap_or(waits.held.seen));
                    false
                }
                // It came meanwhile, and whoever held it looks after it.
                Err(_) => false,
            }
        })
    }

    /// Takes out the pulls whose time is over.
    pub(crate) fn expired(&self, now: Instant) -> Vec<Held<P>> {
        let mut inner = self.lock();
        if inner.earliest.is_none_or(|earliest| now < earliest) {
            return Vec::new();
        }
        let expired = self.take(&mut inner, |waits| waits.held.until <= now);
        let waiting = inner.topics.values().flat_map(HashMap::values).flatten();
        let earliest = waiting.map(|waits| waits.held.until).min();
        inner.earliest = earliest;
        expired
    }

    /// Takes everything out and takes nothing more: the node is stopping.
    pub(crate) fn close(&self) -> Vec<Held<P>> {
        let mut inner = self.lock();
        inner.closed = true;
        self.take(&mut inner, |_| true)
    }

    fn take(&self, inner: &mut Inner<P>, mut leaves: impl FnMut(&mut Numbered<P>) -> bool) -> Vec<Held<P>> {
        let keys = inner.queues();
        keys.iter().flat_map(|(topic, queue)| self.take_of(inner, topic, *queue, &mut leaves)).collect()
    }

    fn take_of(
        &self,
        inner: &mut Inner<P>,
        topic: &str,
        queue: QueueId,
        leaves: &mut impl FnMut(&mut Numbered<P>) -> bool,
    ) -> Vec<Held<P>> {
        let Some(queues) = inner.topics.get_mut(topic) else { return Vec::new() };
        let Some(waiting) = queues.get_mut(&queue) else { return Vec::new() };
        let out: Vec<_> = waiting.extract_if(.., leaves).map(|waits| waits.held).collect();
        if waiting.is_empty() {
            queues.remove(&queue);
        }
        if queues.is_empty() {
            inner.topics.remove(topic);
        }
        self.count.fetch_sub(out.len(), Ordering::Release);
        out
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

    /// Wakes the pulls of T/0 of these names.
    fn wake(list: &HoldList<&'static str>, next: u64, wanted: &[&str]) -> Vec<&'static str> {
        let woken =
            list.wake("T", QueueId(0), QueueOffset(next), |name| *name, |_, name| wanted.contains(&name));
        names(&woken)
    }

    #[test]
    fn wakes_only_the_queue_and_only_who_wants() {
        let now = Instant::now();
        let list = HoldList::new(8);
        let topic: Arc<str> = "T".into();
        assert!(!list.awaits("T", QueueId(0)));
        for (name, queue, seen) in [("a", 0, 5), ("b", 0, 7), ("c", 1, 5)] {
            assert!(list.hold(&topic, QueueId(queue), held(name, seen, now)).is_ok());
        }
        assert!(
            list.awaits("T", QueueId(0)) && !list.awaits("T", QueueId(2)) && !list.awaits("U", QueueId(0))
        );
        assert!(wake(&list, 5, &["a", "b", "c"]).is_empty(), "they have seen everything below 5");
        assert_eq!(wake(&list, 6, &["a", "b", "c"]), ["a"]);
        assert_eq!((list.queues().len(), list.count()), (2, 2));
        assert!(wake(&list, 9, &[]).is_empty());
        assert!(wake(&list, 9, &["b"]).is_empty(), "it was found not to want what is below 9");
        assert_eq!(wake(&list, 10, &["b"]), ["b"]);
        assert!(!list.awaits("T", QueueId(0)));
        assert_eq!(names(&list.close()), ["c"]);
        assert_eq!(list.count(), 0);
        assert!(matches!(list.hold(&topic, QueueId(0), held("d", 0, now)), Err(NotHeld::Closed(_))));
    }

    #[test]
    fn others_use_the_list_while_one_judges() {
        let now = Instant::now();
        let list = HoldList::new(8);
        let topic: Arc<str> = "T".into();
        for (name, until) in [("a", now), ("b", now + Duration::from_secs(9)), ("c", now)] {
            assert!(list.hold(&topic, QueueId(0), held(name, 0, until)).is_ok());
        }
        let mut expired = Vec::new();
        let woken = list.wake(
            "T",
            QueueId(0),
            QueueOffset(1),
            |name| *name,
            |seen, name| {
                assert_eq!(seen, QueueOffset(0));
                if name == "a" {
                    // `apply` asks, another pull comes, and the time of some is over.
                    assert!(list.awaits("T", QueueId(0)));
                    assert!(list.hold(&topic, QueueId(0), held("d", 0, now)).is_ok());
                    expired = list.expired(now);
                }
                true
            },
        );
        assert_eq!(names(&expired), ["a", "c", "d"]);
        assert_eq!(names(&woken), ["b"], "each leaves once");
        assert_eq!(list.count(), 0);
    }

    #[test]
    fn who_comes_while_one_judges_has_seen_nothing_of_it() {
        let now = Instant::now();
        let list = HoldList::new(8);
        let topic: Arc<str> = "T".into();
        assert!(list.hold(&topic, QueueId(0), held("a", 0, now)).is_ok());
        let judge = |_, _| {
            assert!(list.hold(&topic, QueueId(0), held("b", 0, now)).is_ok());
            false
        };
        assert!(list.wake("T", QueueId(0), QueueOffset(1), |name| *name, judge).is_empty());
        assert_eq!(wake(&list, 1, &["a", "b"]), ["b"]);
    }

    #[test]
    fn picks_who_is_wanted_whatever_it_has_seen() {
        let now = Instant::now();
        let list = HoldList::new(8);
        let topic: Arc<str> = "T".into();
        for (name, queue, seen) in [("a", 0, 5), ("b", 0, u64::MAX), ("b", 1, 5)] {
            assert!(list.hold(&topic, QueueId(queue), held(name, seen, now)).is_ok());
        }
        let picked = list.pick("T", QueueId(0), |name| *name, |name| name == "b");
        assert_eq!((names(&picked), list.count()), (vec!["b"], 2));
        assert_eq!(wake(&list, 6, &["a"]), ["a"], "it has seen no more than before");
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
