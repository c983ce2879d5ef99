//! How groups are to get the messages of topics (401): by pull, each queue for one consumer, or by pop. Kept by name, as
//! RocketMQ does: a mode may be set before the topic or the group is there, and outlives the topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::limits;

/// How a group gets a topic's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestMode {
    /// Pop; else pull.
    pub pop: bool,
    /// Queues that a pop client shares with others; 0: all of them.
    pub pop_share_queues: i32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Modes {
    /// By group, then topic.
    groups: BTreeMap<Arc<str>, BTreeMap<Arc<str>, RequestMode>>,
    /// Derived.
    count: usize,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ModeRecord {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(string, tag = "2")]
    topic: String,
    #[prost(bool, tag = "3")]
    pop: bool,
    #[prost(int32, tag = "4")]
    pop_share_queues: i32,
}

impl Modes {
    pub(super) fn get(&self, topic: &str, group: &str) -> Option<RequestMode> {
        self.groups.get(group)?.get(topic).copied()
    }

    /// All of them as (topic, group, mode), by group, then topic.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, RequestMode)> {
        self.groups
            .iter()
            .flat_map(|(group, topics)| topics.iter().map(move |(topic, mode)| (topic, group, *mode)))
    }

    /// Whether there is room for this one.
    pub(super) fn has_room(&self, topic: &str, group: &str) -> bool {
        self.count < limits::REQUEST_MODES_MAX || self.get(topic, group).is_some()
    }

    /// Whether it changed.
    pub(super) fn put(&mut self, topic: &str, group: &str, mode: RequestMode) -> bool {
        let topics = match self.groups.get_mut(group) {
            Some(topics) => topics,
            None => self.groups.entry(group.into()).or_default(),
        };
        let before = topics.insert(topic.into(), mode);
        self.count += usize::from(before.is_none());
        before != Some(mode)
    }

    pub(super) fn end_group(&mut self, group: &str) {
        self.count -= self.groups.remove(group).map_or(0, |topics| topics.len());
    }

    pub(super) fn encode(&self) -> Vec<ModeRecord> {
        let records = self.iter().map(|(topic, group, mode)| ModeRecord {
            group: group.to_string(),
            topic: topic.to_string(),
            pop: mode.pop,
            pop_share_queues: mode.pop_share_queues,
        });
        records.collect()
    }

    pub(super) fn decode(records: Vec<ModeRecord>) -> Result<Modes, String> {
        let mut modes = Modes::default();
        for ModeRecord { group, topic, pop, pop_share_queues } in records {
            if modes.get(&topic, &group).is_some() {
                return Err(format!("two request modes of group {group} in topic {topic}"));
            }
            modes.put(&topic, &group, RequestMode { pop, pop_share_queues });
        }
        Ok(modes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POP: RequestMode = RequestMode { pop: true, pop_share_queues: 3 };
    const PULL: RequestMode = RequestMode { pop: false, pop_share_queues: 0 };

    #[test]
    fn set_changed_and_ended() {
        let mut modes = Modes::default();
        assert!(modes.put("T", "g", POP) && !modes.put("T", "g", POP) && modes.put("T", "g", PULL));
        assert!(modes.put("U", "g", POP) && modes.put("T", "h", POP));
        assert_eq!((modes.get("T", "g"), modes.get("g", "T"), modes.count), (Some(PULL), None, 3));
        let records = modes.encode();
        let decoded = Modes::decode(records.clone()).unwrap();
        assert_eq!((decoded.encode(), decoded.count), (records.clone(), 3));
        assert!(Modes::decode([records.clone(), records].concat()).is_err());
        modes.end_group("g");
        assert_eq!((modes.get("T", "g"), modes.get("T", "h"), modes.count), (None, Some(POP), 1));
        modes.count = limits::REQUEST_MODES_MAX;
        assert!(modes.has_room("T", "h") && !modes.has_room("T", "g"));
    }
}
