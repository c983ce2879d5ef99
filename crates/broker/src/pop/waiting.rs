//! Pops and notifications that found nothing wait here, at the node where they arrived.
//!
//! ```text
//! topic ─▶ group ─▶ queue asked for (-1: any) ─▶ [ number … ]      in the order of their coming
//! retry topic of the group ─▶ (topic, group)
//! ```
//! A message goes to one consumer of a group, so that for a new message one of them leaves, and takes what is there; if
//! it leaves something, it has the next one called. The list decides nothing about the answer.
//!
//! `apply` asks the list about every queue that it has brought messages to: its lock is held for look-ups only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use wire::QueueId;

use crate::hosted::lock;

/// The queue of those that take any.
const ANY: i32 = -1;

/// One that waits.
pub(crate) struct Waiting<P> {
    pub(crate) what: P,
    pub(crate) place: Place,
    /// When it is answered, whatever has come.
    pub(crate) until: Instant,
    /// When it is to be tried again although nothing has come: a batch in order becomes visible then.
    pub(crate) again_at: Option<Instant>,
}

/// What it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) topic: Arc<str>,
    pub(crate) group: Arc<str>,
    /// The topic of messages that were not acknowledged in time.
    pub(crate) retry_topic: Arc<str>,
    pub(crate) queue: Option<QueueId>,
}

impl<P> Waiting<P> {
    /// When something is to be done about it although nothing has come.
    fn due_at(&self) -> Instant {
        self.again_at.map_or(self.until, |again| again.min(self.until))
    }
}

impl Place {
    fn pair(&self) -> Pair {
        (self.topic.clone(), self.group.clone())
    }

    fn queue_key(&self) -> i32 {
        self.queue.map_or(ANY, QueueId::to_wire)
    }
}

pub(crate) struct WaitList<P> {
    inner: Mutex<Inner<P>>,
    /// How many wait. Changed under the lock, and before whoever waits looks at the tables once more: `apply`, which
    /// asks after it has changed them, finds it here, or it finds the message there.
    count: AtomicUsize,
    max: usize,
    queue_max: usize,
}

struct Inner<P> {
    waiting: BTreeMap<u64, Waiting<P>>,
    topics: HashMap<Arc<str>, HashMap<Arc<str>, Queues>>,
    /// The (topic, group) of each retry topic: names that differ may make the same one.
    retries: HashMap<Arc<str>, BTreeSet<Pair>>,
    /// The number of the next one.
    next: u64,
    /// When something is to be done about whom.
    due: BTreeSet<(Instant, u64)>,
    closed: bool,
}

/// A topic and a group.
type Pair = (Arc<str>, Arc<str>);

/// Numbers of those that wait for one group in one topic, by the queue that they asked for.
type Queues = BTreeMap<i32, BTreeSet<u64>>;

/// Why one cannot wait; it comes back to be answered.
pub(crate) enum NotWaiting<P> {
    Full(P),
    /// The node is stopping.
    Closed(P),
}

/// One that may want a message.
pub(crate) struct Candidate<W> {
    pub(crate) number: u64,
    pub(crate) group: Arc<str>,
    queue: i32,
    pub(crate) wish: W,
}

impl<P> WaitList<P> {
    /// `max` in all, `queue_max` of one group for one queue.
    pub(crate) fn new(max: usize, queue_max: usize) -> WaitList<P> {
        let inner = Inner {
            waiting: BTreeMap::new(),
            topics: HashMap::new(),
            retries: HashMap::new(),
            next: 0,
            due: BTreeSet::new(),
            closed: false,
        };
        WaitList { inner: Mutex::new(inner), count: AtomicUsize::new(0), max, queue_max }
    }

    pub(crate) fn wait(&self, waiting: Waiting<P>) -> Result<(), NotWaiting<P>> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(NotWaiting::Closed(waiting.what));
        }
        let place = waiting.place.clone();
        if self.count() >= self.max || inner.queue_len(&place) >= self.queue_max {
            return Err(NotWaiting::Full(waiting.what));
        }
        self.count.fetch_add(1, Ordering::Release);
        let number = inner.next;
        inner.next += 1;
        inner.due.insert((waiting.due_at(), number));
        inner.waiting.insert(number, waiting);
        let key = place.queue_key();
        let pair = place.pair();
        let Place { topic, group, retry_topic, .. } = place;
        inner.retries.entry(retry_topic).or_default().insert(pair);
        let queues = inner.topics.entry(topic).or_default().entry(group).or_default();
        queues.entry(key).or_default().insert(number);
        Ok(())
    }

    /// Whether anybody waits for messages of this topic, be it a retry topic: what `apply` asks before it makes a note.
    pub(crate) fn awaits(&self, topic: &str) -> bool {
        if self.count() == 0 {
            return false;
        }
        let inner = lock(&self.inner);
        inner.topics.contains_key(topic) || inner.retries.contains_key(topic)
    }

    /// The topics for which somebody waits.
    pub(crate) fn topics(&self) -> Vec<Arc<str>> {
        lock(&self.inner).topics.keys().cloned().collect()
    }

    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// How many consumers of a group wait for this queue; `None`: those that take any.
    pub(crate) fn count_of(&self, topic: &str, group: &str, queue: Option<QueueId>) -> usize {
        let inner = lock(&self.inner);
        let queues = inner.topics.get(topic).and_then(|groups| groups.get(group));
        let key = queue.map_or(ANY, QueueId::to_wire);
        queues.and_then(|queues| queues.get(&key)).map_or(0, BTreeSet::len)
    }

    /// Those that may want a message of this queue, with what `wish` says of them: of each group, and of those that
    /// take any queue and those that take this one, the first `most`.
    pub(crate) fn candidates<W>(
        &self,
        topic: &str,
        queue: QueueId,
        most: usize,
        wish: impl Fn(&P) -> W,
    ) -> Vec<Candidate<W>> {
        let inner = lock(&self.inner);
        let mut found = Vec::new();
        let mut add = |group: &Arc<str>, queues: &Queues, fits: &dyn Fn(i32) -> bool| {
            for (key, numbers) in queues.iter().filter(|(key, _)| fits(**key)) {
                let first = numbers.iter().take(most);
                found.extend(first.filter_map(|number| {
                    let wish = wish(&inner.waiting.get(number)?.what);
                    Some(Candidate { number: *number, group: group.clone(), queue: *key, wish })
                }));
            }
        };
        if let Some(pairs) = inner.retries.get(topic) {
            // What comes back from others belongs to whoever waits in their topic.
            for (topic, group) in pairs {
                let queues = inner.topics.get(topic).and_then(|groups| groups.get(group));
                if let Some(queues) = queues {
                    add(group, queues, &|_| true);
                }
            }
        } else {
            for (group, queues) in inner.topics.get(topic).into_iter().flatten() {
                add(group, queues, &|key| key == ANY || key == queue.to_wire());
            }
        }
        found
    }

    /// Takes out of each group, and of those that take any queue and those that take one, the first of the candidates
    /// that `wants` says yes to. It is asked without the lock. Those on the way of whom `is_gone` says that nobody is there
    /// any more come out too, and another one with them.
    pub(crate) fn call<W>(
        &self,
        candidates: Vec<Candidate<W>>,
        is_gone: impl Fn(&P) -> bool,
        mut wants: impl FnMut(&Arc<str>, W) -> bool,
    ) -> Vec<Waiting<P>> {
        let mut called = Vec::new();
        let mut served: Option<(Arc<str>, i32)> = None;
        for Candidate { number, group, queue, wish } in candidates {
            if served.as_ref().is_some_and(|(has, key)| *has == group && *key == queue)
                || !wants(&group, wish)
            {
                continue;
            }
            // It may have left meanwhile.
            if let Some(waiting) = self.take_one(number) {
                if !is_gone(&waiting.what) {
                    served = Some((group, queue));
                }
                called.push(waiting);
            }
        }
        called
    }

    /// Takes one out, if it is still there.
    pub(crate) fn take_one(&self, number: u64) -> Option<Waiting<P>> {
        self.take(&mut lock(&self.inner), number)
    }

    /// Takes out those whose time has come, and says which: it is over (true), or they are to be tried again.
    pub(crate) fn due(&self, now: Instant) -> Vec<(Waiting<P>, bool)> {
        let mut inner = lock(&self.inner);
        let numbers: Vec<u64> =
            inner.due.iter().take_while(|(at, _)| *at <= now).map(|(_, number)| *number).collect();
        let due: Vec<_> = numbers.into_iter().filter_map(|number| self.take(&mut inner, number)).collect();
        drop(inner);
        due.into_iter()
            .map(|waiting| {
                let is_over = waiting.until <= now;
                (waiting, is_over)
            })
            .collect()
    }

    /// Takes everything out and takes nothing more: the node is stopping.
    pub(crate) fn close(&self) -> Vec<Waiting<P>> {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        let numbers: Vec<u64> = inner.waiting.keys().copied().collect();
        numbers.into_iter().filter_map(|number| self.take(&mut inner, number)).collect()
    }

    fn take(&self, inner: &mut MutexGuard<'_, Inner<P>>, number: u64) -> Option<Waiting<P>> {
        let waiting = inner.waiting.remove(&number)?;
        self.count.fetch_sub(1, Ordering::Release);
        inner.due.remove(&(waiting.due_at(), number));
        let Place { topic, group, retry_topic, .. } = &waiting.place;
        let key = waiting.place.queue_key();
        let groups = inner.topics.get_mut(topic)?;
        let queues = groups.get_mut(group)?;
        let numbers = queues.get_mut(&key)?;
        numbers.remove(&number);
        if numbers.is_empty() {
            queues.remove(&key);
        }
        if queues.is_empty() {
            groups.remove(group);
            if groups.is_empty() {
                inner.topics.remove(topic);
            }
            if let Some(pairs) = inner.retries.get_mut(retry_topic) {
                pairs.remove(&waiting.place.pair());
                if pairs.is_empty() {
                    inner.retries.remove(retry_topic);
                }
            }
        }
        Some(waiting)
    }
}

impl<P> Inner<P> {
    fn queue_len(&self, place: &Place) -> usize {
        let queues = self.topics.get(&place.topic).and_then(|groups| groups.get(&place.group));
        queues.and_then(|queues| queues.get(&place.queue_key())).map_or(0, BTreeSet::len)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn waiting(name: &'static str, group: &str, queue: Option<u32>, until: Instant) -> Waiting<&'static str> {
        let place = Place {
            topic: "T".into(),
            group: group.into(),
            retry_topic: format!("%RETRY%{group}_T").into(),
            queue: queue.map(QueueId),
        };
        Waiting { what: name, place, until, again_at: None }
    }

    fn list() -> WaitList<&'static str> {
        WaitList::new(8, 3)
    }

    fn call(list: &WaitList<&'static str>, topic: &str, queue: u32, wanted: &[&str]) -> Vec<&'static str> {
        let candidates = list.candidates(topic, QueueId(queue), 32, |name| *name);
        let called = list.call(candidates, |name| name.ends_with('!'), |_, name| wanted.contains(&name));
        let mut names: Vec<_> = called.iter().map(|waiting| waiting.what).collect();
        names.sort_unstable();
        names
    }

    const ALL: &[&str] = &["a", "b", "c", "d", "e"];

    #[test]
    fn one_of_each_group_is_called_and_who_came_first() {
        let now = Instant::now();
        let list = list();
        assert!(!list.awaits("T"));
        for (name, group, queue) in
            [("a", "g", None), ("b", "g", None), ("c", "g", Some(1)), ("d", "h", None), ("e", "h", Some(2))]
        {
            assert!(list.wait(waiting(name, group, queue, now)).is_ok());
        }
        assert!(list.awaits("T") && list.awaits("%RETRY%g_T") && !list.awaits("U"));
        assert_eq!(list.count_of("T", "g", None), 2);
        assert_eq!(
            (list.count_of("T", "g", Some(QueueId(1))), list.count_of("T", "g", Some(QueueId(2)))),
            (1, 0)
        );
        assert_eq!(call(&list, "T", 0, &["b"]), ["b"], "who does not want it is passed over");
        assert!(list.wait(waiting("b", "g", None, now)).is_ok());
        assert_eq!(call(&list, "T", 1, ALL), ["a", "c", "d"]);
        assert_eq!(call(&list, "T", 1, ALL), ["b"]);
        assert!(!list.awaits("%RETRY%g_T"), "nobody of g waits any more");
        assert_eq!(call(&list, "T", 1, ALL), [""; 0]);
        assert_eq!(list.count(), 1);
        assert_eq!(list.close().iter().map(|waiting| waiting.what).collect::<Vec<_>>(), ["e"]);
        assert!(matches!(list.wait(waiting("a", "g", None, now)), Err(NotWaiting::Closed("a"))));
    }

    #[test]
    fn what_comes_back_goes_to_whoever_waits_in_the_topic() {
        let now = Instant::now();
        let list = list();
        for (name, group, queue) in [("a", "g", Some(7)), ("d", "h", None)] {
            assert!(list.wait(waiting(name, group, queue, now)).is_ok());
        }
        assert_eq!(call(&list, "T", 0, &["a"]), [""; 0]);
        assert_eq!(call(&list, "%RETRY%g_T", 0, ALL), ["a"]);
        assert_eq!(call(&list, "%RETRY%h_T", 0, ALL), ["d"]);
        assert_eq!(list.count(), 0);
    }

    #[test]
    fn those_of_one_queue_are_bounded_and_all_of_them() {
        let now = Instant::now();
        let list = list();
        for _ in 0..3 {
            assert!(list.wait(waiting("a", "g", None, now)).is_ok());
        }
        assert!(matches!(list.wait(waiting("a", "g", None, now)), Err(NotWaiting::Full("a"))));
        for queue in 0..5 {
            assert!(list.wait(waiting("b", "g", Some(queue), now)).is_ok());
        }
        assert!(matches!(list.wait(waiting("d", "h", None, now)), Err(NotWaiting::Full("d"))));
        assert_eq!(call(&list, "T", 0, ALL), ["a", "b"]);
        assert!(list.wait(waiting("d", "h", None, now)).is_ok());
    }

    #[test]
    fn some_are_tried_again_before_their_time_is_over() {
        let now = Instant::now();
        let list = list();
        let later = |seconds| now + Duration::from_secs(seconds);
        assert!(list.wait(waiting("a", "g", None, later(9))).is_ok());
        let again = Waiting { again_at: Some(later(2)), ..waiting("b", "g", None, later(9)) };
        assert!(list.wait(again).is_ok());
        assert!(list.wait(waiting("c", "g", None, later(5))).is_ok());
        let due = |seconds| {
            let due = list.due(later(seconds));
            due.into_iter().map(|(waiting, is_over)| (waiting.what, is_over)).collect::<Vec<_>>()
        };
        assert_eq!(due(1), []);
        assert_eq!(due(3), [("b", false)]);
        assert_eq!(due(3), []);
        assert_eq!(due(9), [("c", true), ("a", true)]);
        assert_eq!(due(9), []);
    }
    #[test]
    fn who_is_gone_takes_nothing_from_those_behind() {
        let now = Instant::now();
        let list = list();
        for name in ["a!", "b!", "c"] {
            assert!(list.wait(waiting(name, "g", None, now)).is_ok());
        }
        assert_eq!(call(&list, "T", 0, &["a!", "b!", "c"]), ["a!", "b!", "c"]);
        assert_eq!(list.count(), 0);
        assert!(lock(&list.inner).due.is_empty());
    }

    #[test]
    fn a_retry_topic_may_be_that_of_several() {
        let now = Instant::now();
        let list = list();
        for (name, topic, group) in [("a", "b_c", "a"), ("b", "c", "a_b")] {
            let place = Place {
                topic: topic.into(),
                group: group.into(),
                retry_topic: "%RETRY%a_b_c".into(),
                queue: None,
            };
            assert!(list.wait(Waiting { place, ..waiting(name, group, None, now) }).is_ok());
        }
        assert_eq!(call(&list, "%RETRY%a_b_c", 0, &["b"]), ["b"]);
        assert!(list.awaits("%RETRY%a_b_c"));
        assert_eq!(call(&list, "%RETRY%a_b_c", 0, ALL), ["a"]);
        assert!(!list.awaits("%RETRY%a_b_c"));
    }
}
