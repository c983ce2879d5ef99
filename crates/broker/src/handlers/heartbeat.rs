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
use crate::clients::{Client, Consumer};
use crate::errors::Error;
use crate::handlers::step::success;
use crate::hosted::Hosted;
use crate::limits::REGISTRY_FETCH;
use crate::requests::Answer;
use crate::state::rules;

/// 34.
pub(crate) fn heartbeat(hosted: &Arc<Hosted>, call: Call) {
    let data = match HeartbeatData::decode(&call.request.body) {
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
    let (missing, data) = groups(hosted, data);
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
        Err(_) => {
            let remark = format!(
                "{} clients are connected to this node; no more are taken",
                hosted.node.clients.count()
            );
            return call.refuse(ResponseCode::SYSTEM_BUSY, remark);
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
        let created = join_all(missing.into_iter().map(|group| hosted.clone().create_group(group)));
        if tokio::time::timeout(GROUP_WAIT, created).await.is_err() {
            tracing::debug!(broker = hosted.name(), "groups of a heartbeat are still being created");
        }
        call.answer(response);
    });
}

/// How long a heartbeat's answer waits for the creation of its groups. A client gives it 3 s.
const GROUP_WAIT: Duration = Duration::from_secs(1);

/// The groups of a heartbeat that are to be created; those that neither exist nor may be created are left out of it.
fn groups(hosted: &Hosted, mut data: HeartbeatData) -> (Vec<String>, HeartbeatData) {
    let mut missing = Vec::new();
    data.consumer_data_set.retain(|consumer| {
        if !hosted.state.lacks_group(&consumer.group_name) {
            return true;
        }
        // A group made by an administrator may lack its retry topic.
        let may_create = hosted.state.group(&consumer.group_name).is_some()
            || (hosted.config.auto_create_group && rules::group_name(&consumer.group_name).is_ok());
        if may_create {
            missing.push(consumer.group_name.clone());
        }
        may_create
    });
    (missing, data)
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
            let groups = header.producer_group.into_iter().chain(header.consumer_group);
            let changed = hosted.node.clients.leave(&header.client_id, groups);
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
        Ok(body) if body.subscription_data.is_tag_type() => call.succeed(),
        Ok(body) => {
            let kind = body.subscription_data.expression_type;
            call.refuse(
                ResponseCode::SYSTEM_ERROR,
                format!("The broker does not support consumer to filter message by {kind}"),
            );
        }
        Err(error) => hosted.fail(call, error.into()),
    }
}
