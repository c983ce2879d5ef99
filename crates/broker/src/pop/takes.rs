//! One pop at a time takes messages of a queue for a group: two that read the same messages would have one of them
//! refused by the tables. Of this node, which leads; the tables judge all the same.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use wire::QueueId;

use crate::hosted::{Hosted, lock};
use crate::state::{Group, GroupId, Topic, TopicId};

/// The queue of a group.
pub(crate) type TakeKey = (TopicId, GroupId, QueueId);

#[derive(Default)]
pub(crate) struct Takes(Mutex<HashSet<TakeKey>>);

impl Takes {
    /// False: somebody else takes from it.
    fn begin(&self, key: TakeKey) -> bool {
        lock(&self.0).insert(key)
    }

    fn end(&self, key: TakeKey) {
        lock(&self.0).remove(&key);
    }

    pub(crate) fn is_busy(&self, key: TakeKey) -> bool {
        lock(&self.0).contains(&key)
    }
}

/// A queue that nobody else takes from until this is dropped. Whoever met it meanwhile went away: so when it is dropped,
/// however that comes, somebody who waits is called if the queue has more, unless it is `quiet`.
pub(super) struct Turn<'a> {
    /// The tables would not give what is there. Whoever waits looks again after a while: it may be that they give it to nobody.
    pub(super) quiet: bool,
    hosted: &'a Hosted,
    topic: Arc<Topic>,
    group: Arc<Group>,
    queue: QueueId,
}

impl<'a> Turn<'a> {
    /// `None`: somebody else takes from it.
    pub(super) fn take(
        hosted: &'a Hosted,
        topic: &Arc<Topic>,
        group: &Arc<Group>,
        queue: QueueId,
    ) -> Option<Turn<'a>> {
        let turn = || Turn { quiet: false, hosted, topic: topic.clone(), group: group.clone(), queue };
        hosted.pop.takes.begin((topic.id, group.id, queue)).then(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Turn { quiet, hosted, topic, group, queue } = self;
        hosted.pop.takes.end((topic.id, group.id, *queue));
        if std::thread::panicking() {
            // The tables may be what panicked; a second panic would end the process.
            return hosted.pop.note(&topic.name, *queue);
        }
        let Some(range) = hosted.state.queue(&topic.name, *queue) else { return };
        let cursor = hosted.state.offset(&topic.name, &group.name, *queue);
        if !*quiet && cursor.is_none_or(|cursor| cursor < range.next) {
            hosted.pop.note(&topic.name, *queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let takes = Takes::default();
        let key = |queue| (TopicId(1), GroupId(2), QueueId(queue));
        assert!(takes.begin(key(0)));
        assert!(!takes.begin(key(0)) && takes.is_busy(key(0)));
        assert!(takes.begin(key(1)));
        takes.end(key(0));
        assert!(!takes.is_busy(key(0)) && takes.is_busy(key(1)) && takes.begin(key(0)));
    }
}
