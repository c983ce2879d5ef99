//! Clients: 34 heartbeat (V1, and V2 with fingerprints), 35 leaving, 38 who is in a group, 46 checking a subscription
//! (protocol.md 3.3, 3.4).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{FutureExt, join_all};
use wire::{
    Body, CheckClientRequestBody, ConsumerData, ConsumerGroupRequest, GetConsumerListByGroupResponseBody,
    HeartbeatData, RemotingCommand, ResponseCode, UnregisterClientRequest, ext_key,
};

use crate::call::Call;
use crate::clients::{Client, Consumer, Excess, Role};
use crate::errors::Error;
use crate::handlers::pull;
use crate::handlers::step::success;
use crate::hosted::Hosted;
use crate::limits::{PARK_RETRY, REGISTRY_FETCH};
use crate::requests::Answer;
use crate::state::rules;

/// A heartbeat (34). Who is a member does not depend on what this broker's tables say: clients belong to the process,
/// another of its brokers may have the group, and before recovery the tables say nothing.
pub(crate) fn heartbeat(hosted: &Arc<Hosted>, call: Call) {
    let mut data = match HeartbeatData::decode(&call.request.body) {
        Ok(data) => data,
        Err(error) => return hosted.fail(call, error.into()),
    };
    if data.client_id.is_empty() {
        return call.refuse(ResponseCode::SYSTEM_ERROR, "the heartbeat names no client");
    }
    // Heartbeats are never passed on, so there is a connection.
    let Some(connection) = call.connection().cloned() else {
        return call.refuse(ResponseCode::SYSTEM_ERROR, "a heartbeat comes over a connection");
    };
    // As RocketMQ: what cannot be a group has no members.
    data.consumer_data_set.retain(|consumer| rules::group_name(&consumer.group_name).is_ok());
    let missing = missing(hosted, &data);
    let fingerprint = data.heartbeat_fingerprint;
    let without_subscriptions = fingerprint != 0 && data.without_sub;
    let client = client(&call.request, call.from.address, data);
    hosted.node.remember(&connection);
    let heard = hosted.node.clients.heard(
        connection.id(),
        client,
        fingerprint,
        without_subscriptions,
        Instant::now(),
    );
    let heard = match heard {
        Ok(heard) => heard,
        Err(excess) => {
            let code = match excess {
                Excess::Clients { .. } => ResponseCode::SYSTEM_BUSY,
                Excess::Client { .. } | Excess::Registry { .. } => ResponseCode::SYSTEM_ERROR,
            };
            return call.refuse(code, excess.to_string());
        }
    };
    if connection.is_over() {
        // It ended while this was worked out, and will not be taken off again.
        hosted.node.forget(connection.id());
    }
    hosted.node.clients_changed(heard.changed);
    let resend = fingerprint == 0 || heard.needs_subscriptions;
    let response = success(&call.request)
        .with_ext(ext_key::IS_SUPPORT_HEART_BEAT_V2, "true")
        .with_ext(ext_key::IS_SUB_CHANGE, if resend { "true" } else { "false" });
    if missing.is_empty() {
        return call.answer(response);
    }
    // The client's next requests name the group; its retry topic is what tools find it by.
    let hosted = hosted.clone();
    tokio::spawn(async move {
        let created = async {
            tables_are_level(&hosted).await;
            // Tasks of their own: they go on when the answer does not wait any longer.
            join_all(missing.into_iter().map(|group| tokio::spawn(hosted.clone().create_group(group)))).await
        };
        if tokio::time::timeout(GROUP_WAIT, created).await.is_err() {
            tracing::debug!(broker = hosted.name(), "groups of a heartbeat are not there yet");
        }
        call.answer(response);
    });
}

/// How long a heartbeat's answer waits for the creation of its groups. A client gives it 3 s.
const GROUP_WAIT: Duration = Duration::from_secs(1);

/// The groups of a heartbeat that this broker lacks and may create. None before its log is recovered: the next heartbeat
/// comes in 30 s, and those to other nodes create them as well.
fn missing(hosted: &Hosted, data: &HeartbeatData) -> Vec<String> {
    if hosted.serving().is_none() {
        return Vec::new();
    }
    let may_create = |group: &str| {
        // A group made by an administrator may lack its retry topic.
        hosted.settings.auto_create_group() || hosted.state.group(group).is_some()
    };
    let groups = data.consumer_data_set.iter().map(|consumer| &consumer.group_name);
    groups.filter(|group| hosted.state.lacks_group(group) && may_create(group)).cloned().collect()
}

/// Returns when the tables have what this node knew to be committed: on a node that has just started, most groups would
/// otherwise seem to be missing, and the creation of each is waited for by everything that is proposed after it.
async fn tables_are_level(hosted: &Hosted) {
    let Some(serving) = hosted.serving() else { return };
    let index = |id: Option<store::LogId>| id.map_or(0, |id| id.index.0);
    let mut wanted = None;
    loop {
        let status = serving.group.status();
        // Without a leader this node does not know what is committed.
        if status.leader.is_some() {
            let committed = *wanted.get_or_insert(index(status.committed));
            if index(status.applied) >= committed {
                return;
            }
        }
        tokio::time::sleep(PARK_RETRY).await;
    }
}

fn client(request: &RemotingCommand, address: SocketAddr, data: HeartbeatData) -> Client {
    let consumer = |data: ConsumerData| {
        let subscriptions = data.subscription_data_set.into_iter().map(|s| (s.topic.clone(), s));
        let consumer = Consumer {
            consume_type: data.consume_type,
            message_model: data.message_model,
            consume_from_where: data.consume_from_where,
            subscriptions: subscriptions.collect(),
        };
        (data.group_name, consumer)
    };
    Client {
        id: data.client_id,
        address: address.to_string(),
        language: request.language,
        version: request.version,
        producers: data.producer_data_set.into_iter().map(|data| data.group_name).collect::<BTreeSet<_>>(),
        consumers: data.consumer_data_set.into_iter().map(consumer).collect::<BTreeMap<_, _>>(),
    }
}

/// 35.
pub(crate) fn unregister(hosted: &Arc<Hosted>, call: Call) {
    match UnregisterClientRequest::decode(&call.request.ext) {
        Ok(header) => {
            let producer = header.producer_group.map(|group| (Role::Producer, group));
            let consumer = header.consumer_group.map(|group| (Role::Consumer, group));
            let groups = producer.into_iter().chain(consumer);
            let connection = call.connection().map(|connection| connection.id());
            let changed = hosted.node.clients.leave(&header.client_id, connection, groups);
            hosted.node.clients_changed(changed);
            call.succeed();
        }
        Err(error) => hosted.fail(call, error.into()),
    }
}

/// 38. A node that has just started waits for what the others know: a wrong list would move queues.
pub(crate) fn members<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = ConsumerGroupRequest::decode(&call.request.ext)?;
        let mut ready = hosted.node.registry_ready.subscribe();
        let _ = tokio::time::timeout(REGISTRY_FETCH, ready.wait_for(|ready| *ready)).await;
        let members = hosted.node.clients.consumer_group(&header.consumer_group);
        let Some(group) = members else {
            let remark = format!("no consumer for this group, {}", header.consumer_group);
            return Err(Error::refused(ResponseCode::SYSTEM_ERROR, remark));
        };
        let body =
            GetConsumerListByGroupResponseBody { consumer_id_list: group.members.keys().cloned().collect() };
        Ok(success(&call.request).with_body(body.encode()))
    }
    .boxed()
}

/// 46. Clients send it for subscriptions that are not by tag.
pub(crate) fn check(hosted: &Arc<Hosted>, call: Call) {
    match CheckClientRequestBody::decode(&call.request.body) {
        Ok(body) => match pull::check_subscription(hosted, &body.subscription_data) {
            Ok(()) => call.succeed(),
            Err(error) => hosted.fail(call, error),
        },
        Err(error) => hosted.fail(call, error.into()),
    }
}
