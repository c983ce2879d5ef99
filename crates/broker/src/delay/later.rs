//! Where a message waits that is delivered later, and what it carries meanwhile.

use std::sync::Arc;

use wire::{QueueId, ResponseCode, prop, properties_iter, properties_push, topic};

use super::When;
use crate::errors::Error;
use crate::hosted::Hosted;

/// A message that is not delivered yet: when it is, and where to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Later<'a> {
    when: When,
    topic: &'a str,
    queue: QueueId,
}

impl<'a> Later<'a> {
    /// `None` for a message that is delivered now.
    pub(crate) fn new(when: When, topic: &'a str, queue: QueueId) -> Option<Later<'a>> {
        (when != When::Now).then_some(Later { when, topic, queue })
    }

    pub(crate) fn when(&self) -> When {
        self.when
    }

    /// The topic in which it is delivered.
    pub(crate) fn topic(&self) -> &'a str {
        self.topic
    }

    /// Whether a property of the message as it was sent gives way to what is added.
    pub(crate) fn replaces(&self, name: &str) -> bool {
        match name {
            prop::REAL_TOPIC | prop::REAL_QID => true,
            prop::TIMER_OUT_MS => matches!(self.when, When::At(_)),
            prop::DELAY | prop::TIMER_DELAY_SEC | prop::TIMER_DELAY_MS | prop::TIMER_DELIVER_MS => {
                matches!(self.when, When::Level(_))
            }
            _ => false,
        }
    }

    /// Adds what says when and where it is delivered.
    pub(crate) fn add(&self, properties: &mut String) {
        match self.when {
            When::Now => {}
            When::Level(level) => properties_push(properties, prop::DELAY, &level.to_string()),
            When::At(time) => properties_push(properties, prop::TIMER_OUT_MS, &time.to_string()),
        }
        properties_push(properties, prop::REAL_TOPIC, self.topic);
        properties_push(properties, prop::REAL_QID, &self.queue.0.to_string());
    }

    /// The properties of the waiting message.
    pub(crate) fn rewrite(&self, properties: &str) -> String {
        let mut waiting = String::with_capacity(properties.len() + self.topic.len() + 64);
        for (name, value) in properties_iter(properties).filter(|(name, _)| !self.replaces(name)) {
            properties_push(&mut waiting, name, value);
        }
        self.add(&mut waiting);
        waiting
    }
}

/// The queue in which it waits.
///
/// # Errors
/// 1 when as many timer messages wait as the node's limit allows. [`Error::Void`], to be tried again, while a leader has
/// not made the queues of its levels yet.
pub(crate) fn source(hosted: &Hosted, later: &Later<'_>) -> Result<(Arc<str>, QueueId), Error> {
    let (name, queue) = match later.when {
        When::Level(level) => (topic::SCHEDULE, QueueId(level.saturating_sub(1))),
        When::Now | When::At(_) => (topic::WHEEL_TIMER, QueueId(0)),
    };
    if name == topic::WHEEL_TIMER {
        let (waiting, limit) =
            (hosted.state.pending_count(name, queue), hosted.node.config.limits.pending_timers);
        if waiting >= limit as u64 {
            let remark = format!(
                "timer message is under flow control: {waiting} wait for their time, the limit pending_timers is {limit}"
            );
            return Err(Error::refused(ResponseCode::SYSTEM_ERROR, remark));
        }
    }
    let found = hosted.state.topic(name).filter(|topic| queue.0 < topic.queue_count()).ok_or(Error::Void)?;
    Ok((found.name.clone(), queue))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(when: When, pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let later = Later::new(when, "T", QueueId(2)).unwrap();
        let properties = later.rewrite(&wire::properties_from(pairs.iter().copied()));
        let mut pairs: Vec<_> =
            properties_iter(&properties).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        pairs.sort_unstable();
        pairs
    }

    #[test]
    fn what_a_waiting_message_carries() {
        let before = [
            ("DELAY", "99"),
            ("KEYS", "k"),
            ("REAL_QID", "7"),
            ("REAL_TOPIC", "before"),
            ("TIMER_DELAY_MS", "5"),
            ("TIMER_OUT_MS", "1"),
        ];
        let text = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(
            rewritten(When::Level(18), &before),
            text(&[
                ("DELAY", "18"),
                ("KEYS", "k"),
                ("REAL_QID", "2"),
                ("REAL_TOPIC", "T"),
                ("TIMER_OUT_MS", "1")
            ])
        );
        assert_eq!(
            rewritten(When::At(9), &before[1..]),
            text(&[
                ("KEYS", "k"),
                ("REAL_QID", "2"),
                ("REAL_TOPIC", "T"),
                ("TIMER_DELAY_MS", "5"),
                ("TIMER_OUT_MS", "9")
            ])
        );
        assert!(Later::new(When::Now, "T", QueueId(0)).is_none());
    }
}
