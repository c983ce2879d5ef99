//! 222, 220, 223, 221, 314, 308.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use net::{Handler, Replier};
use tokio::sync::mpsc;
use wire::{
    Body, CloneGroupOffsetRequest, GetConsumerStatusBody, GetConsumerStatusRequest, Language, MessageQueue,
    QueryCorrectionOffsetBody, QueryCorrectionOffsetRequest, ResetOffsetBody, ResetOffsetRequest,
    SearchOffsetRequest,
};

use super::clients::{heartbeat, request};
use super::offsets::{commit_two_way, stored};
use super::three::Three;
use super::*;

fn reset_header(timestamp: i64) -> ResetOffsetRequest {
    ResetOffsetRequest {
        group: "g".into(),
        topic: "T".into(),
        queue_id: -1,
        offset: None,
        timestamp,
        is_force: true,
    }
}

fn to_offset(queue: i32, offset: i64) -> ResetOffsetRequest {
    ResetOffsetRequest { queue_id: queue, offset: Some(offset), ..reset_header(0) }
}

/// Offsets by queue, from the body of an answer.
fn table(body: &Bytes) -> BTreeMap<i32, i64> {
    let text = String::from_utf8(body.to_vec()).unwrap();
    // Java reads nothing but raw objects as keys.
    assert!(text.starts_with("{\"offsetTable\":{{\"brokerName\":\"b1\",\"queueId\":"), "{text}");
    let body = ResetOffsetBody::decode(body).unwrap();
    body.offset_table.iter().map(|(queue, offset)| (queue.queue_id, *offset)).collect()
}

impl OneNode {
    async fn reset(&self, header: ResetOffsetRequest) -> BTreeMap<i32, i64> {
        let response = self.ask(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET, &header).await;
        assert_eq!(response.code, 0, "{:?}", response.remark);
        table(&response.body)
    }

    /// A topic T of two queues with ten messages in queue 0, and a group g.
    async fn with_messages(change: impl FnOnce(&mut BrokerConfig)) -> OneNode {
        let node = OneNode::with(change).await;
        node.create_topic("T", 2).await;
        node.call(request(&heartbeat("c1", "g", "T"))).await;
        for n in 0..10 {
            node.send("T", 0, "", &n.to_string()).await;
        }
        node
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_are_kept_until_a_consumer_goes_on_there() {
    let node = OneNode::with_messages(|_| {}).await;
    commit_two_way(&node, "g", 0, 9).await;
    assert_eq!(node.reset(to_offset(0, 4)).await, BTreeMap::from([(0, 4)]));
    assert_eq!(stored(&node, "g", "T", 0).await, Some(4), "who starts now begins there");
    // A consumer that does not know of it.
    commit_two_way(&node, "g", 0, 9).await;
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    let mut carries = pull_header("T", 0, 9);
    carries.sys_flag |= pull_flag::COMMIT_OFFSET;
    carries.commit_offset = 9;
    let pulled = node.pull(carries).await;
    assert_eq!((pulled.code, pulled.header.next_begin_offset), (21, 4));
    assert_eq!((pulled.header.min_offset, pulled.header.max_offset), (0, 10));
    assert_eq!(stored(&node, "g", "T", 0).await, Some(4));
    // The answer may have got lost: it is told again, whatever it asks for.
    for offset in [9, 10, 0] {
        let pulled = node.pull(pull_header("T", 0, offset)).await;
        assert_eq!((pulled.code, pulled.header.next_begin_offset), (21, 4), "at {offset}");
    }
    // Other groups and other queues are not concerned.
    let other = PullMessageRequest { consumer_group: "TOOLS_CONSUMER".into(), ..pull_header("T", 0, 9) };
    assert_eq!(node.pull_code(other).await, 0);
    assert_eq!(node.pull_code(pull_header("T", 1, 0)).await, 19);

    let pulled = node.pull(pull_header("T", 0, 4)).await;
    assert_eq!((pulled.code, pulled.bodies()), (0, vec!["4", "5", "6", "7", "8", "9"]));
    let pulled = node.pull(pull_header("T", 0, 9)).await;
    assert_eq!((pulled.code, pulled.bodies()), (0, vec!["9"]), "it has gone on");
    let commit = wire::UpdateConsumerOffsetRequest {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: 0,
        commit_offset: 7,
    };
    let commit = RemotingCommand::request(RequestCode::UPDATE_CONSUMER_OFFSET).with_header(&commit);
    connection.send_oneway(commit).unwrap();
    assert_eq!(stored(&node, "g", "T", 0).await, Some(7), "and its commits count");
    node.stop().await;
}

/// A commit that nobody waits for may lie in the broker for a second: one that is older than the reset counts for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_before_a_reset_does_not_come_after_it() {
    let node = OneNode::with_messages(|_| {}).await;
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    for round in 0..3 {
        // The first leaves at once; those that follow wait.
        for offset in [8, 9, 10] {
            let commit = wire::UpdateConsumerOffsetRequest {
                consumer_group: "g".into(),
                topic: "T".into(),
                queue_id: 0,
                commit_offset: offset,
            };
            let commit = RemotingCommand::request(RequestCode::UPDATE_CONSUMER_OFFSET).with_header(&commit);
            connection.send_oneway(commit).unwrap();
        }
        let reset = RemotingCommand::request(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET)
            .with_header(&to_offset(0, round));
        assert_eq!(connection.request(reset, SOON).await.unwrap().code, 0);
        assert_eq!(node.pull(pull_header("T", 0, round)).await.code, 21);
        assert_eq!(node.pull(pull_header("T", 0, round)).await.code, 0);
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(stored(&node, "g", "T", 0).await, Some(round));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_by_time_and_what_is_refused() {
    let node = OneNode::with_messages(|_| {}).await;
    let messages = node.pull(pull_header("T", 0, 0)).await.messages;
    let seventh = messages[7].store_timestamp;
    let search =
        SearchOffsetRequest { topic: "T".into(), queue_id: 0, timestamp: seventh, boundary_type: None };
    let response = node.ask(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, &search).await;
    let found = wire::OffsetResponse::decode(&response.ext).unwrap().offset;
    for (timestamp, first) in [(seventh, found), (0, 0), (i64::MAX, 10), (-1, 10), (-2, 10)] {
        assert_eq!(
            node.reset(reset_header(timestamp)).await,
            BTreeMap::from([(0, first), (1, 0)]),
            "{timestamp}"
        );
        assert_eq!(stored(&node, "g", "T", 0).await, Some(first));
    }
    let one = ResetOffsetRequest { queue_id: 0, ..reset_header(-1) };
    assert_eq!(node.reset(one).await, BTreeMap::from([(0, 10)]));
    assert_eq!(node.reset(to_offset(0, 0)).await, BTreeMap::from([(0, 0)]));
    assert_eq!(node.reset(to_offset(0, -1)).await, BTreeMap::from([(0, 0)]), "-1 is no offset: by time");
    assert_eq!(node.reset(to_offset(0, 11)).await, BTreeMap::from([(0, 11)]), "as in RocketMQ");
    assert_eq!(stored(&node, "g", "T", 0).await, Some(11));
    assert_eq!(node.pull(pull_header("T", 0, 11)).await.header.next_begin_offset, 10);
    // Two queues to read, and two more that are only written to.
    let partly = wire::CreateTopicRequest {
        topic: "W".into(),
        read_queue_nums: 2,
        write_queue_nums: 4,
        perm: 6,
        ..Default::default()
    };
    assert_eq!(node.ask(RequestCode::UPDATE_AND_CREATE_TOPIC, &partly).await.code, 0);
    for (header, code) in [
        (to_offset(0, 12), 1),
        (to_offset(0, -5), 1),
        (to_offset(2, 0), 29),
        (ResetOffsetRequest { topic: "W".into(), ..to_offset(1, 0) }, 0),
        (ResetOffsetRequest { topic: "W".into(), ..to_offset(2, 0) }, 29),
        (ResetOffsetRequest { topic: "U".into(), ..reset_header(0) }, 17),
        (ResetOffsetRequest { group: "nobody".into(), ..reset_header(0) }, 26),
    ] {
        let response = node.ask(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET, &header).await;
        assert_eq!(response.code, code, "{header:?}: {:?}", response.remark);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_pull_hears_of_a_reset() {
    let node = OneNode::with_messages(|_| {}).await;
    let mut header = pull_header("T", 0, 10);
    header.sys_flag |= pull_flag::SUSPEND;
    header.suspend_timeout_millis = 60_000;
    let start = Instant::now();
    let reset = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.reset(to_offset(0, 2)).await
    };
    let (pulled, _) = tokio::join!(node.pull(header), reset);
    assert_eq!((pulled.code, pulled.header.next_begin_offset), (21, 2));
    assert!(start.elapsed() < SOON);
    node.stop().await;
}

/// A consumer that has pulled everything and consumed half of it stands where its group is reset to.
#[tokio::test(flavor = "multi_thread")]
async fn who_stands_at_the_offset_of_a_reset_is_told_too() {
    let node = OneNode::with_messages(|_| {}).await;
    commit_two_way(&node, "g", 0, 5).await;
    let mut held = pull_header("T", 0, 10);
    held.sys_flag |= pull_flag::SUSPEND;
    held.suspend_timeout_millis = 60_000;
    let start = Instant::now();
    let reset = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.reset(to_offset(0, 10)).await
    };
    let (pulled, _) = tokio::join!(node.pull(held), reset);
    assert_eq!((pulled.code, pulled.header.next_begin_offset), (21, 10));
    assert!(start.elapsed() < SOON);
    commit_two_way(&node, "g", 0, 6).await;
    // Another one's question tells nobody but the one that asks.
    let other = Client::new(ClientConfig::default());
    let pull = RemotingCommand::request(RequestCode::PULL_MESSAGE).with_header(&pull_header("T", 0, 10));
    assert_eq!(other.call(&node.address, pull, SOON).await.unwrap().code, 21);
    commit_two_way(&node, "g", 0, 6).await;
    assert_eq!(stored(&node, "g", "T", 0).await, Some(10), "of what it had before");
    assert_eq!(node.pull_code(pull_header("T", 0, 10)).await, 19, "it was told, and goes on");
    commit_two_way(&node, "g", 0, 9).await;
    assert_eq!(stored(&node, "g", "T", 0).await, Some(9), "now its commits count");

    // Who has asked where to begin knows.
    node.reset(to_offset(0, 3)).await;
    assert_eq!(stored(&node, "g", "T", 0).await, Some(3));
    assert_eq!(node.pull_code(pull_header("T", 0, 3)).await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_outlive_the_leader() {
    let mut three = Three::start(|config| config.groups[0].follower_reads = true.into()).await;
    assert_eq!(three.at(1).call(request(&heartbeat("c1", "g", "T"))).await.code, 0);
    for n in 0..10 {
        three.at(1).message(&n.to_string()).await;
    }
    let reset =
        RemotingCommand::request(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET).with_header(&to_offset(0, 3));
    let response = three.at(1).call(reset).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    let leader = three.leader().await;
    drop(three.brokers.remove(&leader).unwrap());
    // A follower may read, and answers for what it has applied.
    three.level().await;
    let pull = |offset| {
        RemotingCommand::request(RequestCode::PULL_MESSAGE).with_header(&pull_header("T", 0, offset))
    };
    // Through any node, though a follower may read.
    for node in three.brokers.keys() {
        let response = three.at(*node).call(pull(1)).await;
        let header = PullMessageResponse::decode(&response.ext).unwrap();
        assert_eq!((response.code, header.next_begin_offset), (21, 3));
    }
    assert_eq!(three.at(three.other_than(leader)).call(pull(3)).await.code, 0);
    for node in three.brokers.keys() {
        assert_eq!(three.at(*node).call(pull(1)).await.code, 0);
    }
    three.stop().await;
}

/// A consumer that answers 221 and notes what it is told by 220.
struct Consumer {
    told: Mutex<mpsc::UnboundedSender<RemotingCommand>>,
    stands: i64,
}

impl Handler for Consumer {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        match request.request_code() {
            RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT => {
                let header = GetConsumerStatusRequest::decode(&request.ext).unwrap();
                assert_eq!((header.topic.as_str(), header.group.as_str()), ("T", "g"));
                let queue = MessageQueue::new("T", "b1", 0);
                let body = GetConsumerStatusBody {
                    message_queue_table: [(queue, self.stands)].into_iter().collect(),
                    ..GetConsumerStatusBody::default()
                };
                let response = RemotingCommand::response_to(&request, wire::ResponseCode::SUCCESS);
                replier.send(response.with_body(body.encode()));
            }
            RequestCode::RESET_CONSUMER_CLIENT_OFFSET => {
                assert!(request.is_oneway());
                self.told.lock().unwrap().send(request).unwrap();
                replier.forget();
            }
            _ => replier.forget(),
        }
    }
}

fn consumer(stands: i64) -> (Client, mpsc::UnboundedReceiver<RemotingCommand>) {
    let (told, requests) = mpsc::unbounded_channel();
    let consumer = Consumer { told: Mutex::new(told), stands };
    (Client::with_handler(ClientConfig::default(), Arc::new(consumer)), requests)
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_say_where_they_stand() {
    let three = Three::start(|_| {}).await;
    let asker = Client::new(ClientConfig::default());
    let addresses: Vec<&String> = three.addresses.values().collect();
    // Each at another node.
    let consumers = [consumer(7), consumer(8)];
    for (n, (client, _)) in consumers.iter().enumerate() {
        let beat = request(&heartbeat(&format!("c{n}"), "g", "T"));
        assert_eq!(client.call(addresses[n], beat, SOON).await.unwrap().code, 0);
    }
    let ask = |client: Option<&str>| {
        let header = GetConsumerStatusRequest {
            topic: "T".into(),
            group: "g".into(),
            client_addr: client.map(str::to_owned),
        };
        RemotingCommand::request(RequestCode::INVOKE_BROKER_TO_GET_CONSUMER_STATUS).with_header(&header)
    };
    let stands = |response: &RemotingCommand| -> BTreeMap<String, i64> {
        assert_eq!(response.code, 0, "{:?}", response.remark);
        let body = GetConsumerStatusBody::decode(&response.body).unwrap();
        let one = |table: &wire::QueueTable<i64>| *table.values().next().unwrap();
        body.consumer_table.iter().map(|(client, table)| (client.clone(), one(table))).collect()
    };
    let both = BTreeMap::from([("c0".to_owned(), 7), ("c1".to_owned(), 8)]);
    for address in &addresses {
        let start = Instant::now();
        loop {
            let response = asker.call(address, ask(None), SOON).await.unwrap();
            if response.code == 0 && stands(&response) == both {
                break;
            }
            assert!(start.elapsed() < SOON, "{response:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let response = asker.call(address, ask(Some("c1")), SOON).await.unwrap();
        assert_eq!(stands(&response), BTreeMap::from([("c1".to_owned(), 8)]));
    }
    let nobody = GetConsumerStatusRequest { topic: "T".into(), group: "x".into(), client_addr: None };
    let nobody =
        RemotingCommand::request(RequestCode::INVOKE_BROKER_TO_GET_CONSUMER_STATUS).with_header(&nobody);
    let response = asker.call(addresses[0], nobody, SOON).await.unwrap();
    let remark = "No Any Consumer online in the consumer group: [x]";
    assert_eq!((response.code, response.remark.as_deref()), (1, Some(remark)));
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_server_side_reset_consumers_are_told() {
    let node = OneNode::with_messages(|config| config.groups[0].server_side_reset = false).await;
    let reset = |header: ResetOffsetRequest| {
        node.call(RemotingCommand::request(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET).with_header(&header))
    };
    let unknown = ResetOffsetRequest { topic: "U".into(), ..reset_header(0) };
    assert_eq!(reset(unknown).await.code, 17);
    assert_eq!(reset(reset_header(0)).await.code, 1, "it has no offsets");
    for queue in [0, 1] {
        commit_two_way(&node, "g", queue, 5).await;
    }
    let (java, mut java_told) = consumer(0);
    let (cpp, mut cpp_told) = consumer(0);
    // Who called itself c1 until now has its connection for as long as the node's own client lives.
    let beat = |name: &str| request(&heartbeat(name, "g", "T"));
    assert_eq!(java.call(&node.address, beat("java"), SOON).await.unwrap().code, 0);
    let mut from_cpp = beat("cpp");
    from_cpp.language = Language::Cpp;
    assert_eq!(cpp.call(&node.address, from_cpp, SOON).await.unwrap().code, 0);

    for (timestamp, force, want) in [(-1, true, [10, 0]), (-1, false, [5, 0]), (0, false, [0, 0])] {
        let response = reset(ResetOffsetRequest { is_force: force, ..reset_header(timestamp) }).await;
        assert_eq!(response.code, 0, "{:?}", response.remark);
        let want = BTreeMap::from([(0, want[0]), (1, want[1])]);
        assert_eq!(table(&response.body), want);
        let told = java_told.recv().await.unwrap();
        let header = ResetOffsetRequest::decode(&told.ext).unwrap();
        assert_eq!((header.group.as_str(), header.topic.as_str(), header.timestamp), ("g", "T", timestamp));
        assert_eq!(table(&told.body), want);
        let told = cpp_told.recv().await.unwrap();
        assert!(
            told.body.starts_with(b"{\"offsetTable\":[{\"brokerName\":\"b1\",\"offset\":"),
            "{:?}",
            told.body
        );
    }
    assert_eq!(stored(&node, "g", "T", 0).await, Some(5), "the broker itself keeps nothing of it");
    assert_eq!(node.pull_code(pull_header("T", 0, 9)).await, 0);
    node.stop().await;
    let node = OneNode::with_messages(|config| config.groups[0].server_side_reset = false).await;
    commit_two_way(&node, "TOOLS_CONSUMER", 0, 1).await;
    commit_two_way(&node, "TOOLS_CONSUMER", 1, 1).await;
    let offline = ResetOffsetRequest { group: "TOOLS_CONSUMER".into(), ..reset_header(0) };
    let response = node.ask(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET, &offline).await;
    let remark = "Consumer not online, so can not reset offset, Group: TOOLS_CONSUMER Topic: T Timestamp: 0";
    assert_eq!((response.code, response.remark.as_deref()), (206, Some(remark)));
    node.stop().await;
}

/// With `server_side_reset` off nothing is proposed, which would show whether the node leads.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_are_told_by_nobody_but_a_leader() {
    let mut three = Three::start(|config| config.groups[0].server_side_reset = false).await;
    let leader = three.leader().await;
    let calls = || {
        let reset = RemotingCommand::request(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET)
            .with_header(&reset_header(0));
        three.client.call(&three.addresses[&leader], reset, SOON)
    };
    three.at(leader).message("m").await;
    assert_eq!(calls().await.unwrap().code, 1, "the group has no offsets");
    three.brokers.retain(|node, _| *node == leader);
    let answer = calls().await;
    assert!(answer.is_err(), "without a majority: {answer:?}");
    three.stop().await;
}

/// As the last thing that an administrator has said of them.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_cloned_over_a_reset_that_is_pending() {
    let node = OneNode::with_messages(|_| {}).await;
    node.call(request(&heartbeat("c2", "g2", "T"))).await;
    commit_two_way(&node, "g", 0, 6).await;
    commit_two_way(&node, "g", 1, 0).await;
    let of_g2 = |header| ResetOffsetRequest { group: "g2".into(), ..header };
    node.reset(of_g2(to_offset(0, 2))).await;
    let clone = CloneGroupOffsetRequest {
        src_group: "g".into(),
        dest_group: "g2".into(),
        topic: Some("T".into()),
        offline: true,
    };
    assert_eq!(node.ask(RequestCode::CLONE_GROUP_OFFSET, &clone).await.code, 0);
    assert_eq!(stored(&node, "g2", "T", 0).await, Some(6));
    assert_eq!(stored(&node, "g2", "T", 1).await, Some(0));
    let pull = |offset| PullMessageRequest { consumer_group: "g2".into(), ..pull_header("T", 0, offset) };
    let pulled = node.pull(pull(9)).await;
    assert_eq!((pulled.code, pulled.header.next_begin_offset), (21, 6), "its consumers hear of it");
    assert_eq!(node.pull_code(pull(6)).await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_gets_the_offsets_of_another() {
    let node = OneNode::with_messages(|_| {}).await;
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    for (queue, offset) in [(0, 6), (1, 0)] {
        let commit = wire::UpdateConsumerOffsetRequest {
            consumer_group: "g".into(),
            topic: "T".into(),
            queue_id: queue,
            commit_offset: offset,
        };
        let commit = RemotingCommand::request(RequestCode::UPDATE_CONSUMER_OFFSET).with_header(&commit);
        connection.send_oneway(commit).unwrap();
    }
    let clone = |to: &str, topic: Option<&str>, offline| {
        let header = CloneGroupOffsetRequest {
            src_group: "g".into(),
            dest_group: to.into(),
            topic: topic.map(str::to_owned),
            offline,
        };
        RemotingCommand::request(RequestCode::CLONE_GROUP_OFFSET).with_header(&header)
    };
    // Over the same connection: what was committed before belongs to it.
    let response = connection.request(clone("g2", Some("T"), true), SOON).await.unwrap();
    assert_eq!(response.code, 0, "{:?}", response.remark);
    assert_eq!(stored(&node, "g2", "T", 0).await, Some(6));
    assert_eq!(stored(&node, "g2", "T", 1).await, Some(0));
    assert_eq!(node.call(clone("g3", None, true)).await.code, 0, "all topics");
    assert_eq!(stored(&node, "g3", "T", 0).await, Some(6));
    assert_eq!(node.call(clone("g4", Some("U"), true)).await.code, 0, "nothing to copy");
    // What the group does not subscribe to is left out, unless its consumers do not count.
    node.create_topic("U", 1).await;
    let commit = wire::UpdateConsumerOffsetRequest {
        consumer_group: "g".into(),
        topic: "U".into(),
        queue_id: 0,
        commit_offset: 0,
    };
    assert_eq!(node.ask(RequestCode::UPDATE_CONSUMER_OFFSET, &commit).await.code, 0);
    assert_eq!(node.call(clone("g4", Some("U"), false)).await.code, 0);
    assert_eq!(stored(&node, "g4", "U", 0).await, None);
    assert_eq!(node.call(clone("g4", Some("U"), true)).await.code, 0);
    assert_eq!(stored(&node, "g4", "U", 0).await, Some(0));

    commit_two_way(&node, "g2", 0, 3).await;
    let correction = |filter: Option<&str>, compare: &str| QueryCorrectionOffsetRequest {
        filter_groups: filter.map(str::to_owned),
        compare_group: compare.into(),
        topic: "T".into(),
    };
    for (header, first) in [
        (correction(None, "g2"), 3),
        (correction(None, "g"), 3),
        (correction(Some("g2,g3"), "g"), 6),
        (correction(Some("g2,g3"), "g2"), i64::MAX),
    ] {
        let response = node.ask(RequestCode::QUERY_CORRECTION_OFFSET, &header).await;
        let body = QueryCorrectionOffsetBody::decode(&response.body).unwrap();
        assert_eq!(body.correction_offsets, BTreeMap::from([(0, first), (1, 0)]), "{header:?}");
    }
    assert_eq!(stored(&node, "g2", "T", 0).await, Some(3), "a question changes nothing");
    node.stop().await;
}
