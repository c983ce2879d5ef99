//! Which client of a group has a queue for itself (41, 42): consumers of ordered messages. A lock is a lease by log time;
//! who does not renew it loses it. Unlike RocketMQ's, locks outlive the leader that granted them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{GroupId, TopicId, limits};

/// A queue that one client has for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub client: Arc<str>,
    /// Log time, ms, from which on it is over.
    pub until_ms: u64,
}

impl Lease {
    /// Whether it holds at a log time.
    pub fn holds(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }
}

type Queue = (TopicId, u32);

/// One client's wish for queues of its group, at one log time.
pub(super) struct Claim {
    group: GroupId,
    client: Arc<str>,
    now_ms: u64,
    until_ms: u64,
    /// What was over by then has made room: nothing more is, however many queues are wished for.
    swept: bool,
}

impl Claim {
    pub(super) fn new(group: GroupId, client: Arc<str>, now_ms: u64, until_ms: u64) -> Claim {
        Claim { group, client, now_ms, until_ms, swept: false }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Locks {
    groups: BTreeMap<GroupId, BTreeMap<Queue, Lease>>,
    /// Derived.
    count: usize,
    #[cfg(test)]
    sweeps: usize,
}

/// The locks of one group, as columns of equal length.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LocksRecord {
    #[prost(uint32, tag = "1")]
    group: u32,
    /// Each once, sorted.
    #[prost(string, repeated, tag = "2")]
    clients: Vec<String>,
    #[prost(uint32, repeated, tag = "3")]
    topics: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    queues: Vec<u32>,
    /// Places in `clients`.
    #[prost(uint32, repeated, tag = "5")]
    holders: Vec<u32>,
    #[prost(uint64, repeated, tag = "6")]
    until_ms: Vec<u64>,
}

impl Locks {
    /// The last lease of a queue, over or not.
    pub(super) fn holder(&self, group: GroupId, queue: Queue) -> Option<&Lease> {
        self.groups.get(&group)?.get(&queue)
    }

    /// Whether any client of the group has a queue.
    pub(super) fn any_holds(&self, group: GroupId, now_ms: u64) -> bool {
        self.groups.get(&group).is_some_and(|locks| locks.values().any(|lease| lease.holds(now_ms)))
    }

    /// Locks or renews; false when another client has the queue, or there is no room.
    pub(super) fn lock(&mut self, claim: &mut Claim, queue: Queue) -> bool {
        let (group, now_ms) = (claim.group, claim.now_ms);
        let lease = Lease { client: Arc::clone(&claim.client), until_ms: claim.until_ms };
        let locks = self.groups.entry(group).or_default();
        if let Some(held) = locks.get_mut(&queue) {
            let is_free = held.client == lease.client || !held.holds(now_ms);
            if is_free {
                *held = lease;
            }
            return is_free;
        }
        if self.count >= limits::LOCKS_MAX && !claim.swept {
            self.sweep(now_ms);
            claim.swept = true;
        }
        let has_room = self.count < limits::LOCKS_MAX;
        if has_room {
            self.count += 1;
            self.groups.entry(group).or_default().insert(queue, lease);
        } else {
            self.forget_if_empty(group);
        }
        has_room
    }

    /// Ends a client's lock; false when it has none.
    pub(super) fn unlock(&mut self, group: GroupId, queue: Queue, client: &str) -> bool {
        let Some(locks) = self.groups.get_mut(&group) else { return false };
        let is_its_own = locks.get(&queue).is_some_and(|lease| *lease.client == *client);
        if is_its_own {
            locks.remove(&queue);
            self.count -= 1;
        }
        self.forget_if_empty(group);
        is_its_own
    }

    /// Drops a group's leases that are over.
    pub(super) fn end_expired(&mut self, group: GroupId, now_ms: u64) {
        self.retain(group, |_, lease| lease.holds(now_ms));
    }

    pub(super) fn end_group(&mut self, group: GroupId) {
        self.count -= self.groups.remove(&group).map_or(0, |locks| locks.len());
    }

    pub(super) fn end_topic(&mut self, topic: TopicId) {
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.retain(group, |(of, _), _| *of != topic);
        }
    }

    fn sweep(&mut self, now_ms: u64) {
        #[cfg(test)]
        {
            self.sweeps += 1;
        }
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.end_expired(group, now_ms);
        }
    }

    fn retain(&mut self, group: GroupId, keep: impl Fn(&Queue, &Lease) -> bool) {
        let Some(locks) = self.groups.get_mut(&group) else { return };
        let before = locks.len();
        locks.retain(|queue, lease| keep(queue, lease));
        self.count -= before - locks.len();
        self.forget_if_empty(group);
    }

    fn forget_if_empty(&mut self, group: GroupId) {
        if self.groups.get(&group).is_some_and(BTreeMap::is_empty) {
            self.groups.remove(&group);
        }
    }

    pub(super) fn encode(&self) -> Vec<LocksRecord> {
        let record = |(group, locks): (&GroupId, &BTreeMap<Queue, Lease>)| {
            let clients: BTreeSet<&str> = locks.values().map(|lease| &*lease.client).collect();
            let clients: Vec<&str> = clients.into_iter().collect();
            let place = |lease: &Lease| clients.binary_search(&&*lease.client).map_or(0, |at| at as u32);
            LocksRecord {
                group: group.0,
                clients: clients.iter().map(|client| (*client).to_owned()).collect(),
                topics: locks.keys().map(|(topic, _)| topic.0).collect(),
                queues: locks.keys().map(|(_, queue)| *queue).collect(),
                holders: locks.values().map(place).collect(),
                until_ms: locks.values().map(|lease| lease.until_ms).collect(),
            }
        };
        self.groups.iter().map(record).collect()
    }

    /// `exists` knows the groups and the topics.
    pub(super) fn decode(
        records: Vec<LocksRecord>,
        exists: impl Fn(GroupId, TopicId) -> bool,
    ) -> Result<Locks, String> {
        let mut all = Locks::default();
        for LocksRecord { group, clients, topics, queues, holders, until_ms } in records {
            let impossible = || format!("locks of group {group} cannot be");
            let count = topics.len();
            if queues.len() != count || holders.len() != count || until_ms.len() != count || count == 0 {
                return Err(impossible());
            }
            let clients: Vec<Arc<str>> = clients.into_iter().map(Arc::from).collect();
            let mut locks = BTreeMap::new();
            for (((topic, queue), holder), until_ms) in
                topics.into_iter().zip(queues).zip(holders).zip(until_ms)
            {
                let client = clients.get(holder as usize).ok_or_else(impossible)?;
                let lease = Lease { client: Arc::clone(client), until_ms };
                let is_new = locks.insert((TopicId(topic), queue), lease).is_none();
                if !is_new || !exists(GroupId(group), TopicId(topic)) {
                    return Err(impossible());
                }
            }
            all.count += count;
            if all.groups.insert(GroupId(group), locks).is_some() {
                return Err(impossible());
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GroupId = GroupId(1);
    const Q: Queue = (TopicId(2), 0);

    fn clients() -> (Arc<str>, Arc<str>) {
        ("one".into(), "two".into())
    }

    fn lock(
        locks: &mut Locks,
        group: GroupId,
        queue: Queue,
        client: &Arc<str>,
        now: u64,
        until: u64,
    ) -> bool {
        locks.lock(&mut Claim::new(group, Arc::clone(client), now, until), queue)
    }

    #[test]
    fn one_client_at_a_time_until_its_lease_is_over() {
        let (one, two) = clients();
        let mut locks = Locks::default();
        assert!(lock(&mut locks, G, Q, &one, 100, 160));
        assert!(!lock(&mut locks, G, Q, &two, 159, 300));
        assert!(locks.any_holds(G, 159) && !locks.any_holds(G, 160));
        assert!(lock(&mut locks, G, Q, &one, 150, 210), "renewed");
        assert!(!lock(&mut locks, G, Q, &two, 209, 300));
        assert!(lock(&mut locks, G, Q, &two, 210, 300), "it is over");
        assert!(!lock(&mut locks, G, Q, &one, 211, 300));
        assert!(!locks.unlock(G, Q, "one") && locks.unlock(G, Q, "two") && !locks.unlock(G, Q, "two"));
        assert!(locks.groups.is_empty() && locks.count == 0);
    }

    #[test]
    fn ended_with_what_they_are_of() {
        let (one, _) = clients();
        let mut locks = Locks::default();
        for group in [G, GroupId(2)] {
            for queue in [(TopicId(2), 0), (TopicId(3), 0), (TopicId(3), 1)] {
                lock(&mut locks, group, queue, &one, 0, 10 * u64::from(queue.1 + 1));
            }
        }
        locks.end_topic(TopicId(2));
        assert_eq!((locks.count, locks.holder(G, Q)), (4, None));
        locks.end_expired(G, 10);
        assert_eq!(locks.count, 3);
        locks.end_group(GroupId(2));
        assert_eq!(locks.count, 1);
        locks.end_topic(TopicId(3));
        assert!(locks.groups.is_empty() && locks.count == 0);
    }

    #[test]
    fn full_of_leases_that_are_over_is_not_full() {
        let (one, two) = clients();
        let mut locks = Locks::default();
        for queue in 0..limits::LOCKS_MAX as u32 {
            assert!(lock(&mut locks, G, (TopicId(1), queue), &one, 0, 100 + u64::from(queue % 2)));
        }
        let another = GroupId(2);
        assert!(!lock(&mut locks, another, Q, &two, 50, 300));
        assert!(!locks.groups.contains_key(&another), "what is refused leaves no trace");
        assert!(lock(&mut locks, another, Q, &two, 100, 300));
        assert_eq!(locks.count, limits::LOCKS_MAX / 2 + 1);
    }

    /// Each time it looks at every lease.
    #[test]
    fn room_is_made_once_however_many_queues_are_wished_for() {
        let (one, two) = clients();
        let mut locks = Locks::default();
        for queue in 0..limits::LOCKS_MAX as u32 {
            assert!(lock(&mut locks, G, (TopicId(1), queue), &one, 0, 100));
        }
        let mut early = Claim::new(GroupId(2), Arc::clone(&two), 50, 300);
        assert!((0..10_000).all(|queue| !locks.lock(&mut early, (TopicId(1), queue))));
        assert_eq!(locks.sweeps, 1);
        let mut late = Claim::new(GroupId(2), two, 100, 300);
        assert!((0..10_000).all(|queue| locks.lock(&mut late, (TopicId(1), queue))));
        assert_eq!((locks.sweeps, locks.count), (2, 10_000));
    }

    #[test]
    fn encoded() {
        let (one, two) = clients();
        let mut locks = Locks::default();
        lock(&mut locks, G, (TopicId(9), 1), &two, 0, 7);
        lock(&mut locks, G, Q, &one, 0, 8);
        lock(&mut locks, G, (TopicId(2), 1), &two, 0, 9);
        let records = locks.encode();
        assert_eq!(records[0].clients, ["one", "two"]);
        let decoded = Locks::decode(records.clone(), |group, _| group == G).unwrap();
        assert_eq!((decoded.encode(), decoded.count), (records.clone(), 3));
        assert_eq!(decoded.holder(G, Q), locks.holder(G, Q));
        let refused = |change: fn(&mut LocksRecord)| {
            let mut records = records.clone();
            change(&mut records[0]);
            Locks::decode(records, |_, topic| topic != TopicId(100)).is_err()
        };
        assert!(!refused(|_| {}));
        assert!(refused(|record| record.topics[0] = 100));
        assert!(refused(|record| record.queues[1] = 0), "twice");
        assert!(refused(|record| record.holders[0] = 2));
        assert!(refused(|record| record.until_ms.truncate(2)));
        assert!(Locks::decode([records.clone(), records].concat(), |_, _| true).is_err());
    }
}
