//! 18, 25, 26, 225, 303, 309, 321, refused codes, and the story of a message.

use std::sync::Arc;

use net::{Handler, Replier};
use wire::{
    Body, ConsumeMessageDirectlyRequest, ConsumeMessageDirectlyResult, ConsumerData,
    CreateTopicListRequestBody, HeartbeatData, QueryConsumeQueueRequest, QueryConsumeQueueResponseBody,
    ResponseCode, SubscriptionData, SubscriptionGroupConfig, SubscriptionGroupList, TopicConfig,
    TopicRequest, UpdateConsumerOffsetRequest, java_properties, to_json,
};

use super::popping::pop_header;
use super::replying::reply_request;
use super::transactions::{COMMIT, end, end_header, half_request, send_half};
use super::*;
use crate::{MESSAGE_STORY, MessageStory};

impl OneNode {
    async fn update_config(&self, text: &str) -> (i32, String) {
        let request = RemotingCommand::request(RequestCode::UPDATE_BROKER_CONFIG).with_body(text.to_owned());
        let response = self.call(request).await;
        (response.code, response.remark.unwrap_or_default())
    }

    async fn config(&self) -> BTreeMap<String, String> {
        let response = self.call(RemotingCommand::request(RequestCode::GET_BROKER_CONFIG)).await;
        assert!(response.ext.get("version").is_some());
        java_properties::read(std::str::from_utf8(&response.body).unwrap()).into_iter().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_while_the_node_runs() {
    let node = OneNode::start().await;
    assert_eq!(node.send("T", 0, "", "a").await, 0);
    let before = node.config().await;
    let text = "brokerPermission=2\nautoCreateTopicEnable=false\nautoCreateSubscriptionGroup=false";
    let (code, remark) = node.update_config(text).await;
    assert_eq!(code, 0, "{remark}");
    assert!(
        remark.contains("brokerPermission=2") && remark.contains("autoCreateTopicEnable=false"),
        "{remark}"
    );
    let after = node.config().await;
    assert_eq!((before["brokerPermission"].as_str(), after["brokerPermission"].as_str()), ("6", "2"));
    assert_eq!(after["rejectTransactionMessage"], "false");
    // What it says is what it does.
    assert_eq!(node.pull_code(pull_header("T", 0, 0)).await, 16);
    assert_eq!(node.call(send_request("U", 0, "", "b")).await.code, 17);
    let pop = pop_header("T", 0);
    assert_eq!(node.ask(RequestCode::POP_MESSAGE, &pop).await.code, 16);
    let reply = || reply_request(RequestCode::SEND_REPLY_MESSAGE_V2, "V", "nobody", "r");
    assert_eq!(node.call(reply()).await.code, 17);
    // Tools may send everything back that they were told.
    let everything = java_properties::write(after.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    assert_eq!(node.update_config(&everything).await.0, 0);
    for (text, code) in [("brokerPermission=9", 29), ("brokerName=x\nbrokerPermission=6", 16), ("a=b", 16)] {
        let (got, remark) = node.update_config(text).await;
        assert_eq!(got, code, "{remark}");
        assert_eq!(node.config().await, after, "nothing is changed");
    }
    assert_eq!(node.update_config("brokerPermission=6\nautoCreateTopicEnable=true").await.0, 0);
    assert_eq!(node.ask(RequestCode::POP_MESSAGE, &pop).await.code, 26);
    assert_eq!(node.update_config("autoCreateSubscriptionGroup=true").await.0, 0);
    assert_eq!(node.ask(RequestCode::POP_MESSAGE, &pop).await.code, 0);
    assert_eq!(node.pull_code(pull_header("T", 0, 0)).await, 0);
    assert_eq!(node.send("U", 0, "", "b").await, 0);
    assert_eq!(node.call(reply()).await.code, 1, "there is nobody");
    node.stop().await;
}

/// A transaction makes its topic as a first send does.
#[tokio::test(flavor = "multi_thread")]
async fn topics_of_transactions_are_not_made_where_that_is_switched_off() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let half = send_half(&node.client, &node.address, half_request("T", 0, "K1", &[])).await;
    let delete = TopicRequest { topic: "T".into() };
    assert_eq!(node.ask(RequestCode::DELETE_TOPIC_IN_BROKER, &delete).await.code, 0);
    for (allowed, want) in [(false, 17), (true, 0)] {
        assert_eq!(node.update_config(&format!("autoCreateTopicEnable={allowed}")).await.0, 0);
        let (code, remark) = end(&node.client, &node.address, &end_header(&half, COMMIT)).await;
        assert_eq!(code, want, "{remark}");
    }
    node.stop().await;
}

/// TBW102 is made when first sends may create topics, also where that begins at run time.
#[tokio::test(flavor = "multi_thread")]
async fn creation_by_first_sends_can_be_switched_on() {
    let node = OneNode::with(|config| config.groups[0].auto_create_topic = false.into()).await;
    assert_eq!(node.call(send_request("T", 0, "", "a")).await.code, 17);
    assert_eq!(node.update_config("autoCreateTopicEnable=true").await.0, 0);
    assert_eq!(node.send("T", 0, "", "a").await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_topics_and_groups() {
    let node = OneNode::start().await;
    let topics = CreateTopicListRequestBody {
        topic_config_list: ["A", "B"].map(|name| TopicConfig::new(name, 3, 6)).into(),
    };
    let request = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_TOPIC_LIST);
    assert_eq!(node.call(request.with_body(topics.encode())).await.code, 0);
    for topic in ["A", "B"] {
        let response = node.ask(RequestCode::GET_TOPIC_CONFIG, &TopicRequest { topic: topic.into() }).await;
        assert_eq!(TopicConfig::decode(&response.body).unwrap().read_queue_nums, 3);
    }
    let groups =
        SubscriptionGroupList { group_config_list: ["g1", "g2"].map(SubscriptionGroupConfig::new).into() };
    let request = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST);
    assert_eq!(node.call(request.with_body(groups.encode())).await.code, 0);
    let group = wire::GroupRequest { group: "g2".into() };
    assert_eq!(node.ask(RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG, &group).await.code, 0);
    // A list that was cut off is sent again: what is there is not proposed again, except for the last.
    let last = || node.broker.status()[0].last_index;
    let before = last();
    for (code, body) in [
        (RequestCode::UPDATE_AND_CREATE_TOPIC_LIST, topics.encode()),
        (RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, groups.encode()),
    ] {
        assert_eq!(node.call(RemotingCommand::request(code).with_body(body)).await.code, 0);
    }
    assert_eq!(last() - before, 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_says_why() {
    let node = OneNode::start().await;
    for (code, why) in [
        (RequestCode::AUTH_LIST_USER, "there are no users"),
        (RequestCode::CONTROLLER_ELECT_MASTER, "raftmq admin group transfer"),
        (RequestCode::DELETE_EXPIRED_COMMITLOG, "not shortened on request"),
    ] {
        let response = node.call(RemotingCommand::request(code)).await;
        let remark = response.remark.unwrap_or_default();
        assert_eq!(response.code, 3, "{remark}");
        assert!(remark.contains("not supported") && remark.contains(why), "{remark}");
    }
    node.stop().await;
}

/// A consumer that consumes what it is handed.
struct Consumer;

impl Handler for Consumer {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        if request.request_code() != RequestCode::CONSUME_MESSAGE_DIRECTLY {
            return replier.forget();
        }
        let messages = Message::decode_all(&request.body).unwrap();
        let remark = format!(
            "{}@{}",
            String::from_utf8_lossy(&messages[0].body),
            request.ext.get("brokerName").unwrap_or_default()
        );
        let result = ConsumeMessageDirectlyResult {
            consume_result: "CR_SUCCESS".into(),
            remark: Some(remark),
            ..ConsumeMessageDirectlyResult::default()
        };
        let response = RemotingCommand::response_to(&request, ResponseCode::SUCCESS);
        replier.send(response.with_body(result.encode()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_handed_one_message() {
    let node = OneNode::start().await;
    let response = node.call(send_request("T", 0, "", "once more")).await;
    let id = SendMessageResponse::decode(&response.ext).unwrap().msg_id;
    let consumer = Client::with_handler(ClientConfig::default(), Arc::new(Consumer));
    let beat = HeartbeatData {
        client_id: "c1".into(),
        consumer_data_set: vec![ConsumerData {
            group_name: "g".into(),
            subscription_data_set: vec![SubscriptionData::from_tags("T", "*", 1).unwrap()],
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    };
    let beat = RemotingCommand::request(RequestCode::HEART_BEAT).with_body(beat.encode());
    assert_eq!(consumer.call(&node.address, beat, SOON).await.unwrap().code, 0);
    let ask = |client: &str, id: &str| {
        let header = ConsumeMessageDirectlyRequest {
            consumer_group: "g".into(),
            client_id: Some(client.into()),
            msg_id: Some(id.into()),
            topic: Some("T".into()),
            ..ConsumeMessageDirectlyRequest::default()
        };
        RemotingCommand::request(RequestCode::CONSUME_MESSAGE_DIRECTLY).with_header(&header)
    };
    let response = node.call(ask("c1", &id)).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    let result = ConsumeMessageDirectlyResult::decode(&response.body).unwrap();
    assert_eq!(result.remark.as_deref(), Some("once more@b1"));
    let absent = node.call(ask("c2", &id)).await;
    assert_eq!(absent.remark.as_deref(), Some("The Consumer <g> <c2> not online"));
    assert_eq!(node.call(ask("c1", "7F")).await.code, 29);
    let nowhere = id.replace(&id[16..], "0000000000FFFFFF");
    assert_eq!(node.call(ask("c1", &nowhere)).await.code, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_queue() {
    let node = OneNode::start().await;
    for (tag, body) in [("red", "1"), ("blue", "22"), ("", "333")] {
        let properties = if tag.is_empty() { String::new() } else { properties(&[("TAGS", tag)]) };
        node.send("T", 0, &properties, body).await;
    }
    let ask = async |index: i64, count: i32, group: Option<&str>| {
        let header = QueryConsumeQueueRequest {
            topic: Some("T".into()),
            queue_id: 0,
            index,
            count,
            consumer_group: group.map(str::to_owned),
        };
        node.ask(RequestCode::QUERY_CONSUME_QUEUE, &header).await
    };
    let body = QueryConsumeQueueResponseBody::decode(&ask(1, 10, Some("g")).await.body).unwrap();
    assert_eq!((body.min_queue_index, body.max_queue_index, body.queue_data.len()), (0, 3, 2));
    assert_eq!(body.filter_data.as_deref(), Some("g@T is not online!"));
    assert_eq!(body.queue_data[0].tags_code, wire::tags_code("blue"));
    assert!(body.queue_data[0].physic_offset < body.queue_data[1].physic_offset);
    for (index, count, len) in [(0, 1, 1), (3, 5, 0), (99, 5, 0), (-1, 2, 2), (0, -1, 0)] {
        let body = QueryConsumeQueueResponseBody::decode(&ask(index, count, None).await.body).unwrap();
        assert_eq!(body.queue_data.len(), len, "{index} {count}");
    }
    let header =
        QueryConsumeQueueRequest { topic: Some("none".into()), ..QueryConsumeQueueRequest::default() };
    assert_eq!(node.ask(RequestCode::QUERY_CONSUME_QUEUE, &header).await.code, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_a_message() {
    let node = OneNode::start().await;
    let group = SubscriptionGroupConfig::new("g");
    let request = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP);
    assert_eq!(node.call(request.with_body(to_json(&group))).await.code, 0);
    let tagged = properties(&[("UNIQ_KEY", "7F0000010001AABB"), ("KEYS", "order-17 x")]);
    node.send("T", 0, "", "before").await;
    let response = node.call(send_request("T", 0, &tagged, "it")).await;
    let id = SendMessageResponse::decode(&response.ext).unwrap().msg_id;
    // Another topic with the same key.
    node.send("U", 0, &tagged, "again").await;
    let commit = UpdateConsumerOffsetRequest {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: 0,
        commit_offset: 2,
    };
    assert_eq!(node.ask(RequestCode::UPDATE_CONSUMER_OFFSET, &commit).await.code, 0);
    let ask = async |key: &str, topic: Option<&str>| {
        let mut request = RemotingCommand::request(RequestCode(MESSAGE_STORY)).with_ext("key", key);
        if let Some(topic) = topic {
            request = request.with_ext("topic", topic);
        }
        let response = node.call(request).await;
        assert_eq!(response.code, 0, "{:?}", response.remark);
        serde_json::from_slice::<MessageStory>(&response.body).unwrap()
    };
    let story = ask("order-17", None).await;
    assert_eq!((story.group.as_str(), story.node, story.is_cut), ("b1", 1, false));
    let places: Vec<_> = story.copies.iter().map(|c| (c.topic.as_str(), c.queue, c.offset)).collect();
    assert_eq!(places, [("T", 0, 1), ("U", 0, 0)]);
    let first = &story.copies[0];
    assert_eq!(first.offset_message_id, id);
    assert!(first.term > 0 && first.index > 0 && story.copies[1].index > first.index);
    assert_eq!(first.readers.len(), 1);
    assert!(first.readers[0].has_passed && first.readers[0].group == "g" && first.readers[0].offset == 2);
    assert!(story.copies[1].readers.is_empty());
    // By each of its ids, and in one topic.
    assert_eq!(ask("7F0000010001AABB", None).await.copies, story.copies);
    assert_eq!(ask(&id, None).await.copies, story.copies);
    assert_eq!(ask("x", Some("U")).await.copies, story.copies[1..]);
    assert!(ask("order-18", None).await.copies.is_empty());
    let nothing = RemotingCommand::request(RequestCode(MESSAGE_STORY));
    assert_eq!(node.call(nothing).await.code, 29);
    node.stop().await;
}
