//! Who is connected and who consumes what: 203, 204, 300, 328, 343, 345 (protocol.md 8.2). Answered from the registry, which is
//! the same on every node.

use std::collections::{BTreeMap, BTreeSet};

use wire::{
    Body, Connection, ConsumerConnection, ConsumerGroupRequest, GroupList, GroupRequest, ProducerConnection,
    ProducerGroupRequest, ProducerInfo, ProducerTableInfo, QuerySubscriptionByConsumerRequest,
    QuerySubscriptionResponseBody, RemotingCommand, ResponseCode, SubscriptionData, TopicList, TopicRequest,
};

use crate::clients::{Client, Clients};
use crate::errors::Error;
use crate::handlers::step::success;
use crate::state::State;

/// 203.
pub(crate) fn consumer_connection(
    clients: &Clients,
    request: &RemotingCommand,
) -> Result<RemotingCommand, Error> {
    let ConsumerGroupRequest { consumer_group } = ConsumerGroupRequest::decode(&request.ext)?;
    let group = clients.consumer_group(&consumer_group).ok_or_else(|| {
        Error::refused(
            ResponseCode::CONSUMER_NOT_ONLINE,
            format!("the consumer group[{consumer_group}] not online"),
        )
    })?;
    let subscriptions = group.subscriptions.iter();
    let body = ConsumerConnection {
        connection_set: group.members.values().map(|client| connection(client)).collect(),
        consume_from_where: group.consume_from_where,
        consume_type: group.consume_type,
        message_model: group.message_model,
        subscription_table: subscriptions
            .map(|(topic, data)| (topic.clone(), SubscriptionData::clone(data)))
            .collect(),
    };
    Ok(success(request).with_body(body.encode()))
}

/// 204.
pub(crate) fn producer_connection(
    clients: &Clients,
    request: &RemotingCommand,
) -> Result<RemotingCommand, Error> {
    let ProducerGroupRequest { producer_group } = ProducerGroupRequest::decode(&request.ext)?;
    let producers = clients.producers(&producer_group);
    if producers.is_empty() {
        return Err(Error::refused(
            ResponseCode::SYSTEM_ERROR,
            format!("the producer group[{producer_group}] not exist"),
        ));
    }
    let body =
        ProducerConnection { connection_set: producers.iter().map(|client| connection(client)).collect() };
    Ok(success(request).with_body(body.encode()))
}

/// Code 328. When a client was last heard is known to the node that it talks to alone; here it is now, for the
/// registry holds nobody who has been silent for long.
pub(crate) fn all_producers(clients: &Clients, now_ms: u64, request: &RemotingCommand) -> RemotingCommand {
    let info = |client: &Client| ProducerInfo {
        client_id: client.id.clone(),
        language: client.language,
        last_update_timestamp: now_ms as i64,
        remote_ip: client.address.clone(),
        version: client.version,
    };
    let groups = clients.all_producers().into_iter();
    let data: BTreeMap<_, _> =
        groups.map(|(group, clients)| (group, clients.iter().map(|client| info(client)).collect())).collect();
    success(request).with_body(ProducerTableInfo { data }.encode())
}

/// 300: the groups that are online with a subscription to the topic, and those that have offsets in it.
pub(crate) fn consumed_by(
    state: &State,
    clients: &Clients,
    request: &RemotingCommand,
) -> Result<RemotingCommand, Error> {
    let TopicRequest { topic } = TopicRequest::decode(&request.ext)?;
    let mut groups: BTreeSet<String> =
        state.groups_of_topic(&topic).iter().map(|group| group.to_string()).collect();
    groups.extend(clients.consumer_groups().into_iter().filter(|group| {
        clients.consumer_group(group).is_some_and(|group| group.subscriptions.contains_key(&topic))
    }));
    let body = GroupList { group_list: groups.into_iter().collect() };
    Ok(success(request).with_body(body.encode()))
}

/// 343: the topics in which a group has offsets. `addr` is this broker's, as it is advertised.
pub(crate) fn topics_of(
    state: &State,
    addr: String,
    request: &RemotingCommand,
) -> Result<RemotingCommand, Error> {
    let GroupRequest { group } = GroupRequest::decode(&request.ext)?;
    let topic_list = state.topics_of_group(&group).iter().map(|topic| topic.name.to_string()).collect();
    Ok(success(request).with_body(TopicList { topic_list, broker_addr: Some(addr) }.encode()))
}

/// 345: what a group that is online subscribes to in a topic; nothing of one that is not.
pub(crate) fn subscription(clients: &Clients, request: &RemotingCommand) -> Result<RemotingCommand, Error> {
    let QuerySubscriptionByConsumerRequest { group, topic } =
        QuerySubscriptionByConsumerRequest::decode(&request.ext)?;
    let online = clients.consumer_group(&group);
    let found = online.as_ref().and_then(|online| online.subscriptions.get(topic.as_deref()?));
    let subscription_data = found.map(|data| SubscriptionData::clone(data));
    Ok(success(request).with_body(QuerySubscriptionResponseBody { group, subscription_data, topic }.encode()))
}

fn connection(client: &Client) -> Connection {
    Connection {
        client_addr: client.address.clone(),
        client_id: client.id.clone(),
        language: client.language,
        version: client.version,
    }
}
