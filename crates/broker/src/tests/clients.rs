//! 34, 35, 38, 40.

use std::sync::{Arc, Mutex};

use net::{Handler, Replier};
use tokio::sync::mpsc;
use wire::{
    Body, ConsumerConnection, ConsumerData, ConsumerGroupRequest, GetConsumerListByGroupResponseBody,
    HeartbeatData, ProducerData, RequestCode, SubscriptionData, SubscriptionGroupConfig, TopicRequest,
    UnregisterClientRequest,
};

use super::*;

pub(super) fn heartbeat(client: &str, group: &str, topic: &str) -> HeartbeatData {
    HeartbeatData {
        client_id: client.into(),
        consumer_data_set: vec![ConsumerData {
            group_name: group.into(),
            subscription_data_set: vec![SubscriptionData::from_tags(topic, "*", 1).unwrap()],
            ..ConsumerData::default()
        }],
        producer_data_set: vec![ProducerData { group_name: "p".into() }],
        ..HeartbeatData::default()
    }
}

pub(super) fn request(data: &HeartbeatData) -> RemotingCommand {
    RemotingCommand::request(RequestCode::HEART_BEAT).with_body(data.encode())
}

/// A client that notes the groups of which it is told (40).
struct Notices(Mutex<mpsc::UnboundedSender<String>>);

impl Handler for Notices {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        assert_eq!(request.request_code(), RequestCode::NOTIFY_CONSUMER_IDS_CHANGED);
        let group = ConsumerGroupRequest::decode(&request.ext).unwrap().consumer_group;
        self.0.lock().unwrap().send(group).unwrap();
        replier.forget();
    }
}

async fn members(node: &OneNode, group: &str) -> Vec<String> {
    let header = ConsumerGroupRequest { consumer_group: group.into() };
    let response = node.ask(RequestCode::GET_CONSUMER_LIST_BY_GROUP, &header).await;
    if response.code == 1 {
        assert_eq!(response.remark.as_deref(), Some(format!("no consumer for this group, {group}").as_str()));
        return Vec::new();
    }
    GetConsumerListByGroupResponseBody::decode(&response.body).unwrap().consumer_id_list
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_and_are_told() {
    let node = OneNode::start().await;
    assert!(members(&node, "g").await.is_empty());
    let (sender, mut notices) = mpsc::unbounded_channel();
    let first = Client::with_handler(ClientConfig::default(), Arc::new(Notices(Mutex::new(sender))));
    let response = first.call(&node.address, request(&heartbeat("c1", "g", "T")), SOON).await.unwrap();
    assert_eq!(response.code, 0, "{:?}", response.remark);
    assert_eq!(response.ext.get("IS_SUPPORT_HEART_BEAT_V2"), Some("true"));
    assert_eq!(notices.recv().await.as_deref(), Some("g"), "of its own coming");
    // The group and its retry topic are there when the heartbeat is answered.
    let retry = TopicRequest { topic: wire::retry_topic("g") };
    assert_eq!(node.ask(RequestCode::GET_TOPIC_CONFIG, &retry).await.code, 0);

    let second = Client::new(ClientConfig::default());
    second.call(&node.address, request(&heartbeat("c2", "g", "T")), SOON).await.unwrap();
    assert_eq!(notices.recv().await.as_deref(), Some("g"));
    assert_eq!(members(&node, "g").await, ["c1", "c2"]);
    // The same again changes nothing.
    second.call(&node.address, request(&heartbeat("c2", "g", "T")), SOON).await.unwrap();
    assert!(notices.try_recv().is_err());

    // A producer group of that name is another group.
    let leave = UnregisterClientRequest {
        client_id: "c2".into(),
        producer_group: Some("g".into()),
        consumer_group: None,
    };
    assert_eq!(node.ask(RequestCode::UNREGISTER_CLIENT, &leave).await.code, 0);
    assert_eq!(members(&node, "g").await, ["c1", "c2"]);
    let leave = UnregisterClientRequest { producer_group: None, consumer_group: Some("g".into()), ..leave };
    assert_eq!(node.ask(RequestCode::UNREGISTER_CLIENT, &leave).await.code, 0);
    assert_eq!(notices.recv().await.as_deref(), Some("g"));
    assert_eq!(members(&node, "g").await, ["c1"]);

    second.call(&node.address, request(&heartbeat("c2", "g", "T")), SOON).await.unwrap();
    assert_eq!(notices.recv().await.as_deref(), Some("g"));
    second.close();
    assert_eq!(notices.recv().await.as_deref(), Some("g"), "its last connection is closed");
    assert_eq!(members(&node, "g").await, ["c1"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_come_from_heartbeats() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    node.send("T", 0, "", "m").await;
    let pull =
        || PullMessageRequest { sys_flag: 0, subscription: None, sub_version: 1, ..pull_header("T", 0, 0) };
    assert_eq!(node.pull_code(pull()).await, 24, "the group is not there");
    node.call(request(&heartbeat("c1", "g", "U"))).await;
    assert_eq!(node.pull_code(pull()).await, 24, "it subscribes to something else");
    node.call(request(&heartbeat("c1", "g", "T"))).await;
    assert_eq!(node.pull_code(pull()).await, 0);
    assert_eq!(node.pull_code(PullMessageRequest { sub_version: 2, ..pull() }).await, 25);

    let connections = node
        .ask(RequestCode::GET_CONSUMER_CONNECTION_LIST, &ConsumerGroupRequest { consumer_group: "g".into() })
        .await;
    let connections = ConsumerConnection::decode(&connections.body).unwrap();
    assert_eq!(connections.connection_set[0].client_id, "c1");
    assert!(connections.subscription_table.contains_key("T"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_of_the_second_kind_leave_subscriptions_out() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let mut full = heartbeat("c1", "g", "T");
    full.heartbeat_fingerprint = 42;
    let mut short = full.clone();
    short.without_sub = true;
    short.consumer_data_set[0].subscription_data_set.clear();
    let changed = |response: RemotingCommand| response.ext.get("IS_SUB_CHANGE").map(str::to_owned);
    assert_eq!(changed(node.call(request(&short)).await).as_deref(), Some("true"), "this node knows nothing");
    assert_eq!(changed(node.call(request(&full)).await).as_deref(), Some("false"));
    assert_eq!(changed(node.call(request(&short)).await).as_deref(), Some("false"));
    let pull =
        PullMessageRequest { sys_flag: 0, subscription: None, sub_version: 1, ..pull_header("T", 0, 0) };
    assert_eq!(node.pull_code(pull).await, 19, "the subscription is still known");
    short.heartbeat_fingerprint = 43;
    assert_eq!(changed(node.call(request(&short)).await).as_deref(), Some("true"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_has_limits() {
    let node = OneNode::start().await;
    let mut large = heartbeat("c1", "g", "T");
    large.producer_data_set = (0..2000).map(|n| ProducerData { group_name: format!("p{n}") }).collect();
    let response = node.call(request(&large)).await;
    assert_eq!(response.code, 1);
    assert_eq!(response.remark.as_deref(), Some("a client may have 1024 groups, this one has 2001"));
    assert!(members(&node, "g").await.is_empty());
    node.stop().await;
}

/// A process has several brokers, and its clients send heartbeats to each of them in turn: a group that only one of them
/// has keeps its members all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_another_broker_keeps_its_members() {
    let node = OneNode::with(|config| {
        config.groups[0].auto_create_group = false.into();
        config.groups.push(GroupConfig { name: "b2".into(), ..config.groups[0].clone() });
    })
    .await;
    let other = node.broker.addresses()["b2"].to_string();
    let create = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP)
        .with_body(SubscriptionGroupConfig::new("g").encode());
    assert_eq!(node.client.call(&other, create, SOON).await.unwrap().code, 0);
    for address in [&other, &node.address, &other, &node.address] {
        let beat = request(&heartbeat("c1", "g", "T"));
        assert_eq!(node.client.call(address, beat, SOON).await.unwrap().code, 0);
        assert_eq!(members(&node, "g").await, ["c1"]);
    }
    node.stop().await;
}

/// A node whose log is not recovered, here because the other voters of a new group are missing, takes heartbeats and
/// creates nothing.
#[tokio::test(flavor = "multi_thread")]
async fn clients_are_known_before_recovery() {
    let data = tempfile::tempdir().unwrap();
    let mut config = config(&data);
    config.groups[0].voters = vec![1, 2, 3];
    config.groups[0].auto_create_group = false.into();
    // Nobody listens there.
    config.peers = (1..=3).map(|node| (node, format!("127.0.0.1:{node}"))).collect();
    let broker = Broker::start(config).await.unwrap();
    let address = broker.addresses()["b1"].to_string();
    let client = Client::new(ClientConfig::default());
    let response = client.call(&address, request(&heartbeat("c1", "g", "T")), SOON).await.unwrap();
    assert_eq!(response.code, 0, "{:?}", response.remark);
    let header = ConsumerGroupRequest { consumer_group: "g".into() };
    let question = RemotingCommand::request(RequestCode::GET_CONSUMER_LIST_BY_GROUP).with_header(&header);
    let response = client.call(&address, question, SOON).await.unwrap();
    let members = GetConsumerListByGroupResponseBody::decode(&response.body).unwrap();
    assert_eq!(members.consumer_id_list, ["c1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_group_is_no_member() {
    let node = OneNode::with(|config| config.groups[0].auto_create_group = false.into()).await;
    assert_eq!(node.call(request(&heartbeat("c1", "g g", "T"))).await.code, 0);
    assert!(members(&node, "g g").await.is_empty());
    // That it is not to be created is another matter.
    assert_eq!(node.call(request(&heartbeat("c1", "g", "T"))).await.code, 0);
    assert_eq!(members(&node, "g").await, ["c1"]);
    let group = wire::GroupRequest { group: "g".into() };
    assert_eq!(node.ask(RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG, &group).await.code, 26);
    assert_eq!(node.call(RemotingCommand::request(RequestCode::HEART_BEAT).with_body("{")).await.code, 1);
    assert_eq!(node.call(request(&HeartbeatData::default())).await.code, 1);

    node.stop().await;
}
