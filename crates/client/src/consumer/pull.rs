//! A consumer that asks when it wants to (client/impl/consumer/DefaultMQPullConsumerImpl.java).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wire::{ConsumeFromWhere, ConsumeType, ConsumerData, MASTER_ID, MessageModel, MessageQueue, QueueOffset};

use super::fetch::{self, PullAsk, PullStatus, Pulled};
use super::filter::Filter;
use crate::client::{Client, Member, Shared};
use crate::error::ClientError;
use crate::identity;
use crate::limits;
use crate::route::Broker;

/// Which message a search by time finds when several have that time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Boundary {
    #[default]
    First,
    Last,
}

/// Reads queues that its caller names, from offsets that its caller chooses. Offsets are stored when
/// asked, under its group; no rebalance takes place.
pub struct PullConsumer {
    member: Arc<PullMember>,
    _client: Client,
}

impl fmt::Debug for PullConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullConsumer").field("group", &self.member.group).finish_non_exhaustive()
    }
}

pub(crate) struct PullMember {
    shared: Arc<Shared>,
    group: Arc<str>,
    sub_version: i64,
    /// Topics pulled so far, told in heartbeats.
    topics: Mutex<BTreeSet<String>>,
    positions: Mutex<HashMap<MessageQueue, Position>>,
}

#[derive(Clone, Copy, Debug)]
struct Position {
    next: QueueOffset,
    /// Whom to pull from.
    broker_id: i64,
}

impl PullMember {
    pub(crate) fn heartbeat(&self) -> ConsumerData {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        ConsumerData {
            consume_from_where: ConsumeFromWhere::LastOffset,
            consume_type: ConsumeType::Actively,
            group_name: self.group.to_string(),
            message_model: MessageModel::Clustering,
            subscription_data_set: topics
                .iter()
                .map(|topic| Filter::all().subscription_data(topic, self.sub_version))
                .collect(),
            unit_mode: false,
        }
    }
}

impl Client {
    /// A pull consumer whose offsets are those of `group`.
    pub async fn pull_consumer(&self, group: &str) -> Result<PullConsumer, ClientError> {
        wire::validate_group(group).map_err(|error| ClientError::Refused(error.to_string()))?;
        self.shared.check_open()?;
        let group: Arc<str> = group.into();
        let member = Arc::new(PullMember {
            shared: Arc::clone(&self.shared),
            group: Arc::clone(&group),
            sub_version: identity::now_ms() as i64,
            topics: Mutex::default(),
            positions: Mutex::default(),
        });
        self.shared.add_consumer(&group, Member::Pull(Arc::downgrade(&member)))?;
        self.shared.beat().await;
        Ok(PullConsumer { member, _client: self.clone() })
    }
}

impl PullConsumer {
    pub fn group(&self) -> &str {
        &self.member.group
    }

    /// Queues of a topic that can be read now, sorted.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, ClientError> {
        let shared = &self.member.shared;
        let topic = shared.routes.follow(&topic.into())?;
        Ok(shared.routes.for_consuming(&topic).await?.readable.clone())
    }

    /// Pulls up to `max` messages from an offset on. `hold`: how long the broker may wait for one when
    /// there is none, below 30 s.
    pub async fn pull(
        &self,
        queue: &MessageQueue,
        from: QueueOffset,
        filter: &Filter,
        max: u32,
        hold: Option<Duration>,
    ) -> Result<Pulled, ClientError> {
        if !(1..=limits::PULL_MESSAGES_MAX).contains(&max) {
            return Err(ClientError::Refused(format!(
                "a pull asks for 1 to {} messages",
                limits::PULL_MESSAGES_MAX
            )));
        }
        if hold.is_some_and(|hold| hold >= limits::PULL_TIMEOUT) {
            return Err(ClientError::refused("a pull can be held for less than 30 s"));
        }
        let broker = self.broker(queue).await?;
        let ask = PullAsk {
            group: &self.member.group,
            queue: &Arc::new(queue.clone()),
            from,
            messages_max: max,
            bytes_max: u32::MAX >> 1,
            suspend: hold,
            timeout: if hold.is_some() {
                limits::PULL_TIMEOUT
            } else {
                self.member.shared.config.call_timeout
            },
            commit: None,
            filter,
            inline_filter: true,
            sub_version: self.member.sub_version,
        };
        let broker_id = self.position_entry(queue).map_or(MASTER_ID, |position| position.broker_id);
        fetch::pull(&self.member.shared, &broker, broker_id, &ask).await
    }

    /// Pulls from the queue's position and moves it behind what came. A queue without a position
    /// begins at the group's stored offset, or else at the oldest message.
    pub async fn poll(
        &self,
        queue: &MessageQueue,
        filter: &Filter,
        max: u32,
        hold: Option<Duration>,
    ) -> Result<Pulled, ClientError> {
        let from = match self.position(queue) {
            Some(position) => position,
            None => match self.committed(queue).await? {
                Some(stored) => stored,
                None => self.min_offset(queue).await?,
            },
        };
        let pulled = self.pull(queue, from, filter, max, hold).await?;
        if pulled.status == PullStatus::OffsetIllegal {
            tracing::warn!(
                group = self.group(),
                ?queue,
                asked = from.get(),
                moved_to = pulled.next.get(),
                "offset was not legal"
            );
        }
        self.set_position(queue, Position { next: pulled.next, broker_id: pulled.suggested_broker_id })?;
        Ok(pulled)
    }

    /// Sets the position of a queue.
    pub fn seek(&self, queue: &MessageQueue, offset: QueueOffset) -> Result<(), ClientError> {
        self.set_position(queue, Position { next: offset, broker_id: MASTER_ID })
    }

    pub fn position(&self, queue: &MessageQueue) -> Option<QueueOffset> {
        self.position_entry(queue).map(|position| position.next)
    }

    /// The group's stored offset.
    pub async fn committed(&self, queue: &MessageQueue) -> Result<Option<QueueOffset>, ClientError> {
        fetch::committed(&self.member.shared, &*self.broker(queue).await?, &self.member.group, queue).await
    }

    /// Stores the group's offset: that of the next message to consume.
    pub async fn commit(&self, queue: &MessageQueue, offset: QueueOffset) -> Result<(), ClientError> {
        let broker = self.broker(queue).await?;
        fetch::commit(&self.member.shared, &broker, &self.member.group, queue, offset, true).await
    }

    /// Offset of the oldest message.
    pub async fn min_offset(&self, queue: &MessageQueue) -> Result<QueueOffset, ClientError> {
        fetch::min_offset(&self.member.shared, &*self.broker(queue).await?, queue).await
    }

    /// One above the offset of the newest message.
    pub async fn max_offset(&self, queue: &MessageQueue) -> Result<QueueOffset, ClientError> {
        fetch::max_offset(&self.member.shared, &*self.broker(queue).await?, queue).await
    }

    /// Offset of the message stored at this time, milliseconds since 1970, or the next after it.
    pub async fn search_offset(
        &self,
        queue: &MessageQueue,
        time_ms: u64,
        boundary: Boundary,
    ) -> Result<QueueOffset, ClientError> {
        let broker = self.broker(queue).await?;
        fetch::search_offset(&self.member.shared, &broker, queue, time_ms, boundary == Boundary::Last).await
    }

    /// Store time of the oldest message, milliseconds since 1970.
    pub async fn earliest_store_time_ms(&self, queue: &MessageQueue) -> Result<Option<u64>, ClientError> {
        fetch::earliest_store_time_ms(&self.member.shared, &*self.broker(queue).await?, queue).await
    }

    /// Tells the brokers that this member leaves its group. Offsets are as last committed.
    pub async fn shutdown(self) {
        let shared = &self.member.shared;
        shared.remove_consumer(&self.member.group, &Member::Pull(Arc::downgrade(&self.member)));
        shared.unregister(None, Some(&self.member.group)).await;
    }

    async fn broker(&self, queue: &MessageQueue) -> Result<Arc<Broker>, ClientError> {
        let PullMember { shared, topics, .. } = &*self.member;
        shared.check_open()?;
        let topic = shared.routes.follow(&queue.topic.as_str().into())?;
        shared.routes.for_consuming(&topic).await?;
        let is_new = topics.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.topic.clone());
        if is_new {
            shared.beat().await;
        }
        shared.routes.broker(&queue.broker_name).ok_or_else(|| ClientError::NoRoute {
            topic: queue.topic.clone(),
            why: format!("broker {} is not known", queue.broker_name),
        })
    }

    fn position_entry(&self, queue: &MessageQueue) -> Option<Position> {
        self.member.positions.lock().unwrap_or_else(PoisonError::into_inner).get(queue).copied()
    }

    fn set_position(&self, queue: &MessageQueue, position: Position) -> Result<(), ClientError> {
        let mut positions = self.member.positions.lock().unwrap_or_else(PoisonError::into_inner);
        if positions.len() >= limits::POSITIONS_MAX && !positions.contains_key(queue) {
            return Err(ClientError::Busy("queues of one pull consumer"));
        }
        positions.insert(queue.clone(), position);
        Ok(())
    }
}

impl Drop for PullConsumer {
    fn drop(&mut self) {
        self.member.shared.remove_consumer(&self.member.group, &Member::Pull(Arc::downgrade(&self.member)));
    }
}
