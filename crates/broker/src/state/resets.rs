//! Offsets that an administrator has set (222) and that no consumer has been told of. Until the next pull or pop takes
//! one, what consumers commit for that queue counts for nothing: they do not know of it yet.

use std::collections::BTreeMap;

use super::{GroupId, TopicId, limits};

type Of = (TopicId, GroupId);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Resets {
    rows: BTreeMap<Of, BTreeMap<u32, u64>>,
    /// Derived.
    count: usize,
    /// Derived: of how many groups there are resets in a queue.
    groups: BTreeMap<(TopicId, u32), usize>,
}

/// Resets of a group in a topic; queues and offsets are columns of equal length.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResetsRecord {
    #[prost(uint32, tag = "1")]
    topic: u32,
    #[prost(uint32, tag = "2")]
    group: u32,
    #[prost(uint32, repeated, tag = "3")]
    queues: Vec<u32>,
    #[prost(uint64, repeated, tag = "4")]
    offsets: Vec<u64>,
}

impl Resets {
    /// Nearly always: asked for every commit.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn get(&self, of: Of, queue: u32) -> Option<u64> {
        self.rows.get(&of)?.get(&queue).copied()
    }

    /// Whether there is one of any group in this queue.
    pub(super) fn any_in(&self, topic: TopicId, queue: u32) -> bool {
        self.groups.contains_key(&(topic, queue))
    }

    /// Whether there is room for one more of this queue.
    pub(super) fn has_room(&self, of: Of, queue: u32) -> bool {
        self.count < limits::RESETS_MAX || self.get(of, queue).is_some()
    }

    pub(super) fn put(&mut self, of: Of, queue: u32, offset: u64) {
        if self.rows.entry(of).or_default().insert(queue, offset).is_none() {
            self.came(of.0, queue);
        }
    }

    /// A consumer was told of it; false when there is none to this offset.
    pub(super) fn take(&mut self, of: Of, queue: u32, offset: u64) -> bool {
        let Some(row) = self.rows.get_mut(&of) else { return false };
        let is_it = row.get(&queue) == Some(&offset);
        if is_it {
            row.remove(&queue);
            if row.is_empty() {
                self.rows.remove(&of);
            }
            self.went(of.0, queue);
        }
        is_it
    }

    fn came(&mut self, topic: TopicId, queue: u32) {
        self.count += 1;
        *self.groups.entry((topic, queue)).or_default() += 1;
    }

    fn went(&mut self, topic: TopicId, queue: u32) {
        self.count -= 1;
        if let Some(groups) = self.groups.get_mut(&(topic, queue)) {
            *groups -= 1;
            if *groups == 0 {
                self.groups.remove(&(topic, queue));
            }
        }
    }

    pub(super) fn end_topic(&mut self, topic: TopicId) {
        self.end(|(of, _)| *of == topic);
    }

    pub(super) fn end_group(&mut self, group: GroupId) {
        self.end(|(_, of)| *of == group);
    }

    fn end(&mut self, ends: impl Fn(&Of) -> bool) {
        let ended: Vec<Of> = self.rows.keys().filter(|of| ends(of)).copied().collect();
        for of in ended {
            for queue in self.rows.remove(&of).unwrap_or_default().into_keys() {
                self.went(of.0, queue);
            }
        }
    }

    pub(super) fn encode(&self) -> Vec<ResetsRecord> {
        let records = self.rows.iter().map(|((topic, group), row)| ResetsRecord {
            topic: topic.0,
            group: group.0,
            queues: row.keys().copied().collect(),
            offsets: row.values().copied().collect(),
        });
        records.collect()
    }

    /// `exists` knows the topics and groups.
    pub(super) fn decode(
        records: Vec<ResetsRecord>,
        exists: impl Fn(TopicId, GroupId) -> bool,
    ) -> Result<Resets, String> {
        let mut resets = Resets::default();
        for ResetsRecord { topic, group, queues, offsets } in records {
            let of = (TopicId(topic), GroupId(group));
            let count = offsets.len();
            let row: BTreeMap<u32, u64> = queues.iter().copied().zip(offsets).collect();
            let is_possible = queues.len() == count && row.len() == count && count > 0 && exists(of.0, of.1);
            for queue in row.keys() {
                resets.came(of.0, *queue);
            }
            if !is_possible || resets.rows.insert(of, row).is_some() {
                return Err(format!("resets of group {group} in topic {topic} cannot be"));
            }
        }
        Ok(resets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF: Of = (TopicId(1), GroupId(2));

    #[test]
    fn taken_once_and_only_as_it_is() {
        let mut resets = Resets::default();
        assert!(resets.is_empty());
        resets.put(OF, 3, 100);
        resets.put(OF, 3, 50);
        resets.put(OF, 4, 0);
        assert_eq!((resets.get(OF, 3), resets.get(OF, 5), resets.count), (Some(50), None, 2));
        assert!(!resets.take(OF, 3, 100), "there is a newer one");
        assert!(resets.take(OF, 3, 50) && !resets.take(OF, 3, 50));
        assert!(resets.take(OF, 4, 0));
        assert!(resets.is_empty() && resets.count == 0);
    }

    #[test]
    fn ended_with_their_topic_or_group() {
        let mut resets = Resets::default();
        for topic in 0..3 {
            for group in 0..3 {
                resets.put((TopicId(topic), GroupId(group)), 0, 1);
            }
        }
        resets.end_topic(TopicId(1));
        resets.end_group(GroupId(2));
        assert_eq!((resets.count, resets.get(OF, 0), resets.rows.len()), (4, None, 4));
    }

    #[test]
    fn known_by_queue() {
        let mut resets = Resets::default();
        let any = |resets: &Resets| {
            let queues = [(1, 0), (1, 1), (2, 0)];
            queues.map(|(topic, queue)| resets.any_in(TopicId(topic), queue))
        };
        resets.put(OF, 0, 1);
        resets.put(OF, 0, 2);
        resets.put((TopicId(1), GroupId(3)), 0, 2);
        resets.put((TopicId(1), GroupId(3)), 1, 2);
        assert_eq!(any(&resets), [true, true, false]);
        let decoded = Resets::decode(resets.encode(), |_, _| true).unwrap();
        assert_eq!((any(&decoded), &decoded.groups), ([true, true, false], &resets.groups));
        resets.take(OF, 0, 2);
        assert_eq!(any(&resets), [true, true, false], "another group's");
        resets.take((TopicId(1), GroupId(3)), 0, 2);
        assert_eq!(any(&resets), [false, true, false]);
        resets.put((TopicId(2), GroupId(3)), 0, 2);
        resets.end_topic(TopicId(1));
        assert_eq!(any(&resets), [false, false, true]);
        resets.end_group(GroupId(3));
        assert!(resets.groups.is_empty() && resets.count == 0);
    }

    #[test]
    fn bounded() {
        let mut resets = Resets::default();
        resets.put(OF, 0, 1);
        resets.count = limits::RESETS_MAX;
        assert!(resets.has_room(OF, 0) && !resets.has_room(OF, 1));
    }

    #[test]
    fn encoded() {
        let mut resets = Resets::default();
        resets.put(OF, 7, 1);
        resets.put(OF, 2, 9);
        let records = resets.encode();
        let decoded = Resets::decode(records.clone(), |topic, group| (topic, group) == OF).unwrap();
        assert_eq!((decoded.get(OF, 2), decoded.count), (Some(9), 2));
        assert_eq!(decoded.encode(), records);
        let refused = |change: fn(&mut ResetsRecord)| {
            let mut records = records.clone();
            change(&mut records[0]);
            Resets::decode(records, |topic, _| topic == TopicId(1)).is_err()
        };
        assert!(!refused(|_| {}));
        assert!(refused(|record| record.topic = 2));
        assert!(refused(|record| record.queues[0] = 7), "twice");
        assert!(refused(|record| record.offsets.truncate(1)));
        assert!(Resets::decode([records.clone(), records].concat(), |_, _| true).is_err());
    }
}
