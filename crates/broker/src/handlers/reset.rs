//! Moving consumer groups: 222 sets where a group goes on, 314 copies a group's offsets, 223 asks consumers where they
//! stand, 308 says how far all groups are (RocketMQ's AdminBrokerProcessor and Broker2Client).
//!
//! A reset is in the log, and stays *pending* until a consumer pulls at the offset that it names (see pull.rs): until then
//! every pull is answered with 21 and that offset, and commits count for nothing. So it reaches consumers that run, those
//! that start later, and those to which an answer got lost. With `server_side_reset` off it is as it was in RocketMQ 4:
//! consumers that run are told (220), and the broker keeps nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures::future::{FutureExt, join_all};
use replica::COUPLED_LEVEL;
use wire::{
    Body, CloneGroupOffsetRequest, GetConsumerStatusBody, GetConsumerStatusRequest, Language, MessageQueue,
    QueryCorrectionOffsetBody, QueryCorrectionOffsetRequest, QueueId, QueueOffset, QueueTable,
    RemotingCommand, RequestCode, ResetOffsetBody, ResetOffsetRequest, ResponseCode,
};

use crate::call::Call;
use crate::clients::Client;
use crate::errors::Error;
use crate::handlers::offset::{self, no_queue, scanning, search_time, store_time};
use crate::handlers::step::success;
use crate::hosted::{Hosted, Serving};
use crate::limits::CLIENT_CALL;
use crate::requests::Answer;
use crate::state::command::{Kind, ResetOffsets};
use crate::state::{CommitKey, NoCommitKey, Topic};

/// 222.
pub(crate) fn reset<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = ResetOffsetRequest::decode(&call.request.ext)?;
        // Also while a node of an older release would not know such an entry.
        let is_kept =
            hosted.config.server_side_reset && hosted.served_here()?.group.check_level(COUPLED_LEVEL).is_ok();
        if !is_kept {
            // Nothing is proposed, which would say so: a node that was deposed must not send consumers back.
            hosted.barrier(call).await?;
        }
        let Some(topic) = hosted.state.topic(&header.topic) else {
            let remark = format!("Topic {} does not exist", header.topic);
            return Err(Error::refused(ResponseCode::TOPIC_NOT_EXIST, remark));
        };
        if !is_kept {
            return tell_consumers(hosted, call, header, topic).await;
        }
        let Some(group) = hosted.state.group(&header.group) else {
            let remark = format!("Group {} does not exist", header.group);
            return Err(Error::refused(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
        };
        let offsets = match u32::try_from(header.queue_id) {
            Ok(queue) => {
                vec![(QueueId(queue), one_queue(hosted, call, &header, &topic, QueueId(queue)).await?)]
            }
            Err(_) => at_time(hosted, call, &topic, topic.config.read_queues, header.timestamp).await?,
        };
        let command = Kind::ResetOffsets(ResetOffsets {
            topic: topic.id.0,
            group: group.id.0,
            queues: offsets.iter().map(|(queue, _)| queue.0).collect(),
            offsets: offsets.iter().map(|(_, offset)| offset.0).collect(),
        });
        let key = CommitKey { topic: topic.id, group: group.id, queues: topic.queue_count() };
        let queues = offsets.iter().map(|(queue, _)| *queue);
        let reply = offset::propose_over_commits(hosted, command.into(), key, queues).await?;
        if reply.code != 0 {
            return Err(Error::refused(ResponseCode(reply.code), reply.remark));
        }
        let done = reply.granted.iter().filter_map(|place| offsets.get(*place as usize).copied());
        let body = ResetOffsetBody { offset_table: table(hosted, &topic, done) };
        tracing::info!(
            broker = hosted.name(),
            topic = header.topic,
            group = header.group,
            ?offsets,
            "offsets reset"
        );
        Ok(success(&call.request).with_body(body.encode()))
    }
    .boxed()
}

fn table(
    hosted: &Hosted,
    topic: &Topic,
    offsets: impl Iterator<Item = (QueueId, QueueOffset)>,
) -> QueueTable<i64> {
    let queue = |queue: QueueId| MessageQueue::new(&topic.name, hosted.name(), queue.to_wire());
    offsets.map(|(id, offset)| (queue(id), offset.to_wire())).collect()
}

/// Where a group goes on in one queue: at the offset that is named, or at a time.
async fn one_queue(
    hosted: &Arc<Hosted>,
    call: &Call,
    header: &ResetOffsetRequest,
    topic: &Arc<Topic>,
    queue: QueueId,
) -> Result<QueueOffset, Error> {
    // Nobody pulls from what is only written to, and the reset would be pending for ever.
    let count = topic.config.read_queues;
    let range = hosted.state.queue(&topic.name, queue).filter(|_| queue.0 < count);
    let range = range.ok_or_else(|| no_queue(&topic.name, header.queue_id, count))?;
    match header.offset.filter(|offset| *offset != -1) {
        Some(offset) => {
            let (min, max) = (range.min.to_wire(), range.next.to_wire());
            if !(min..=max.saturating_add(1)).contains(&offset) {
                let remark = format!("Target offset {offset} not in consume queue range [{min}-{max}]");
                return Err(Error::refused(ResponseCode::SYSTEM_ERROR, remark));
            }
            Ok(QueueOffset(offset as u64))
        }
        None => {
            let (name, timestamp) = (topic.name.clone(), header.timestamp);
            scanning(hosted, call.deadline, move |hosted, serving| {
                offset_at(hosted, serving, &name, queue, timestamp)
            })
            .await
        }
    }
}

/// The offsets of a topic's first queues at a time.
async fn at_time(
    hosted: &Arc<Hosted>,
    call: &Call,
    topic: &Topic,
    queues: u32,
    timestamp: i64,
) -> Result<Vec<(QueueId, QueueOffset)>, Error> {
    let (name, deadline) = (topic.name.clone(), call.deadline);
    scanning(hosted, deadline, move |hosted, serving| {
        let offset = |queue| {
            if Instant::now() > deadline {
                let remark = format!("looking for the offsets of {queues} queues takes too long");
                return Err(Error::Overloaded(remark));
            }
            Ok((QueueId(queue), offset_at(hosted, serving, &name, QueueId(queue), timestamp)?))
        };
        (0..queues).map(offset).collect()
    })
    .await
}

/// The first message that was stored at this time or later; a negative time is the end of the queue.
fn offset_at(
    hosted: &Hosted,
    serving: &Serving,
    topic: &str,
    queue: QueueId,
    timestamp: i64,
) -> Result<QueueOffset, Error> {
    let range = hosted.state.queue(topic, queue).ok_or_else(|| no_queue(topic, queue.to_wire(), 0))?;
    if timestamp < 0 {
        return Ok(range.next);
    }
    search_time(range, timestamp, false, |offset| store_time(serving, topic, queue, offset))
}

/// 222 as in RocketMQ 4: consumers that run move themselves.
async fn tell_consumers(
    hosted: &Arc<Hosted>,
    call: &Call,
    header: ResetOffsetRequest,
    topic: Arc<Topic>,
) -> Result<RemotingCommand, Error> {
    offset::flush_commits(hosted).await;
    let mut offsets = at_time(hosted, call, &topic, topic.config.write_queues, header.timestamp).await?;
    for (queue, offset) in &mut offsets {
        let Some(stored) = hosted.state.offset(&topic.name, &header.group, *queue) else {
            let remark = format!("THe consumer group <{}> not exist", header.group);
            return Err(Error::refused(ResponseCode::SYSTEM_ERROR, remark));
        };
        // Forward only where that is asked for.
        if !header.is_force {
            *offset = stored.min(*offset);
        }
    }
    let Some(group) = hosted.node.clients.consumer_group(&header.group) else {
        let remark = format!(
            "Consumer not online, so can not reset offset, Group: {} Topic: {} Timestamp: {}",
            header.group, header.topic, header.timestamp
        );
        return Err(Error::refused(ResponseCode::CONSUMER_NOT_ONLINE, remark));
    };
    let body = ResetOffsetBody { offset_table: table(hosted, &topic, offsets.into_iter()) };
    let request = |client: &Client| {
        // C++ clients cannot read a map of queues; their tools say by their language that they mean one.
        let is_cpp = [client.language, call.request.language].contains(&Language::Cpp);
        let body = if is_cpp { body.encode_list() } else { body.encode() };
        RemotingCommand::request(RequestCode::RESET_CONSUMER_CLIENT_OFFSET)
            .with_header(&ResetOffsetRequest {
                group: header.group.clone(),
                topic: header.topic.clone(),
                timestamp: header.timestamp,
                ..ResetOffsetRequest::default()
            })
            .with_body(body)
            .oneway()
    };
    let told = group.members.values().map(|client| async {
        if let Err(error) = hosted.node.tell_client(&client.id, request(client)).await {
            tracing::warn!(broker = hosted.name(), client = client.id, %error, "a consumer was not told of a reset");
        }
    });
    join_all(told).await;
    Ok(success(&call.request).with_body(body.encode()))
}

/// 314. A group that does not exist yet is created, as its first consumer would.
pub(crate) fn clone<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = CloneGroupOffsetRequest::decode(&call.request.ext)?;
        let (from, to) = (&header.src_group, &header.dest_group);
        let named = header.topic.as_deref().filter(|topic| !topic.trim().is_empty());
        let topics: Vec<Arc<str>> = match named {
            Some(topic) => vec![Arc::from(topic)],
            None => hosted.state.topics_of_group(from).iter().map(|topic| topic.name.clone()).collect(),
        };
        if hosted.state.lacks_group(to) && hosted.settings.auto_create_group() {
            hosted.clone().create_group(to.clone()).await;
        }
        offset::flush_commits(hosted).await;
        let subscribed = hosted.node.clients.consumer_group(from).filter(|_| !header.offline);
        for topic in topics {
            if Instant::now() >= call.deadline {
                let remark = format!("the time is over before {topic}: ask for one topic after the other");
                return Err(Error::refused(ResponseCode::SYSTEM_BUSY, remark));
            }
            let is_left_out = subscribed.as_ref().is_some_and(|group| {
                !group.subscriptions.is_empty() && !group.subscriptions.contains_key(&*topic)
            });
            let offsets = hosted.state.offsets(&topic, from);
            if is_left_out || offsets.is_empty() {
                continue;
            }
            match hosted.state.commit_key(&topic, to) {
                Ok(key) => set(hosted, key, offsets).await?,
                // Deleted meanwhile.
                Err(NoCommitKey::NoTopic) => {}
                Err(NoCommitKey::NoGroup) => {
                    let remark = format!("Group {to} does not exist");
                    return Err(Error::refused(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
                }
            }
        }
        Ok(success(&call.request))
    }
    .boxed()
}

/// Stores offsets of a group whatever waits. Where the group was reset and has not gone on, a commit would count for
/// nothing: there the reset becomes one to the new offset.
async fn set(hosted: &Hosted, key: CommitKey, offsets: BTreeMap<QueueId, QueueOffset>) -> Result<(), Error> {
    let (reset, others): (Vec<_>, Vec<_>) =
        offsets.into_iter().partition(|(queue, _)| hosted.state.ignores_commits(key, *queue));
    if !others.is_empty() {
        offset::commit_all(hosted, key, others).await?;
    }
    if reset.is_empty() {
        return Ok(());
    }
    let command = Kind::ResetOffsets(ResetOffsets {
        topic: key.topic.0,
        group: key.group.0,
        queues: reset.iter().map(|(queue, _)| queue.0).collect(),
        offsets: reset.iter().map(|(_, offset)| offset.0).collect(),
    });
    let queues = reset.iter().map(|(queue, _)| *queue);
    let reply = offset::propose_over_commits(hosted, command.into(), key, queues).await?;
    if reply.code == 0 { Ok(()) } else { Err(Error::refused(ResponseCode(reply.code), reply.remark)) }
}

/// 223: every consumer of a group, or the one named, says where it stands in a topic (221).
pub(crate) fn status<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = GetConsumerStatusRequest::decode(&call.request.ext)?;
        let Some(group) = hosted.node.clients.consumer_group(&header.group) else {
            let remark = format!("No Any Consumer online in the consumer group: [{}]", header.group);
            return Err(Error::refused(ResponseCode::SYSTEM_ERROR, remark));
        };
        let wanted = header.client_addr.as_deref().filter(|client| !client.trim().is_empty());
        let members = group.members.keys().filter(|id| wanted.is_none_or(|wanted| wanted == id.as_str()));
        let request = RemotingCommand::request(RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT).with_header(
            &GetConsumerStatusRequest {
                topic: header.topic.clone(),
                group: header.group.clone(),
                client_addr: None,
            },
        );
        let asked = members.map(|id| {
            let request = request.clone();
            async move {
                let answer = hosted.node.ask_client(id, request, CLIENT_CALL).await.ok()?;
                let body = GetConsumerStatusBody::decode(&answer.body).ok().filter(|_| answer.code == 0)?;
                Some((id.clone(), body.message_queue_table))
            }
        });
        // As RocketMQ: of those who do not answer nothing is said.
        let answers = join_all(asked).await.into_iter().flatten();
        let body = GetConsumerStatusBody { consumer_table: answers.collect(), ..Default::default() };
        Ok(success(&call.request).with_body(body.encode()))
    }
    .boxed()
}

/// 308: of each queue the least offset of all groups, without those named; `i64::MAX` where the group that is compared is
/// behind it. (RocketMQ also deletes the offsets of the groups named.)
pub(crate) fn correction<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = QueryCorrectionOffsetRequest::decode(&call.request.ext)?;
        let left_out: HashSet<&str> =
            header.filter_groups.iter().flat_map(|names| names.split(',')).collect();
        let mut least: BTreeMap<i32, i64> = BTreeMap::new();
        for group in hosted.state.groups_of_topic(&header.topic) {
            if left_out.contains(&*group) {
                continue;
            }
            for (queue, offset) in hosted.state.offsets(&header.topic, &group) {
                let min = hosted.state.queue(&header.topic, queue).map_or(QueueOffset(0), |range| range.min);
                if offset >= min {
                    let known = least.entry(queue.to_wire()).or_insert(i64::MAX);
                    *known = offset.to_wire().min(*known);
                }
            }
        }
        for (queue, offset) in hosted.state.offsets(&header.topic, &header.compare_group) {
            if let Some(known) = least.get_mut(&queue.to_wire())
                && *known > offset.to_wire()
            {
                *known = i64::MAX;
            }
        }
        let body = QueryCorrectionOffsetBody { correction_offsets: least };
        Ok(success(&call.request).with_body(body.encode()))
    }
    .boxed()
}
