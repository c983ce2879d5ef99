//! Messages that are delivered later: levels, timers, retries and dead letters.

use std::collections::BTreeSet;
use std::time::Instant;

use super::three::Three;
use super::*;
use crate::{PendingPage, PendingQuery};

fn levels(text: &str) -> impl Fn(&mut BrokerConfig) + use<> {
    let levels = text.parse::<crate::DelayLevels>().unwrap();
    move |config| config.groups[0].delay_levels = levels.clone()
}

/// Pulls a queue until it has `count` messages.
pub(super) async fn wait_for(
    client: &Client,
    address: &str,
    topic: &str,
    queue: i32,
    count: usize,
) -> Vec<Message> {
    let start = Instant::now();
    let mut messages: Vec<Message> = Vec::new();
    while messages.len() < count {
        assert!(start.elapsed() < SOON * 2, "{} of {count} messages in {topic}", messages.len());
        let mut header = pull_header(topic, queue, messages.len() as i64);
        header.sys_flag |= pull_flag::SUSPEND;
        header.suspend_timeout_millis = 1000;
        let request = RemotingCommand::request(RequestCode::PULL_MESSAGE).with_header(&header);
        // A node that has gone, or no leader: again.
        let Ok(response) = client.call(address, request, SOON).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if response.code == 0 {
            messages.extend(Message::decode_all(&response.body).unwrap());
        }
    }
    messages
}

pub(super) fn bodies(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

async fn pending(client: &Client, address: &str, query: &PendingQuery) -> PendingPage {
    let response = client.call(address, query.request(), SOON).await.unwrap();
    assert_eq!(response.code, 0, "{:?}", response.remark);
    wire::from_json(&response.body).unwrap()
}

/// How many messages wait.
pub(super) async fn waiting(client: &Client, address: &str) -> u64 {
    let query = PendingQuery { max: 0, ..PendingQuery::default() };
    pending(client, address, &query).await.queues.iter().map(|queue| queue.pending).sum()
}

async fn none_waits(client: &Client, address: &str) {
    let start = Instant::now();
    while waiting(client, address).await > 0 {
        assert!(start.elapsed() < SOON * 2, "{} wait", waiting(client, address).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_delays_and_then_delivers() {
    let node = OneNode::with(levels("1s 2s")).await;
    node.create_topic("T", 4).await;
    let plain = node.send("T", 3, "", "now").await;
    assert_eq!(plain, 0);
    let given = properties(&[("DELAY", "1"), ("TAGS", "t"), ("TIMER_DELAY_MS", "5")]);
    for (n, body) in ["a", "b"].into_iter().enumerate() {
        let response = node.call(send_request("T", 3, &given, body)).await;
        assert_eq!(response.code, 0, "{:?}", response.remark);
        let sent = SendMessageResponse::decode(&response.ext).unwrap();
        // The queue that was asked for, and the offset where it waits.
        assert_eq!((sent.queue_id, sent.queue_offset, sent.recall_handle), (3, n as i64, None));
    }
    // Above the highest: the highest.
    node.send("T", 3, &properties(&[("DELAY", "99")]), "c").await;
    let page = pending(&node.client, &node.address, &PendingQuery { max: 10, ..Default::default() }).await;
    let queues: Vec<_> = page.queues.iter().map(|queue| (queue.level, queue.pending)).collect();
    assert_eq!((queues, page.levels.as_str()), (vec![(Some(1), 2), (Some(2), 1)], "1s 2s"));
    assert_eq!(page.messages.len(), 3);
    assert!(page.messages.iter().all(|message| message.topic == "T" && message.queue == 3));
    let due: Vec<u64> = page.messages.iter().map(|message| message.due_ms).collect();

    let delivered = wait_for(&node.client, &node.address, "T", 3, 4).await;
    assert_eq!(bodies(&delivered), ["now", "a", "b", "c"]);
    for (message, due) in delivered[1..].iter().zip(due) {
        assert!(message.store_timestamp >= due as i64, "{} ms early", due as i64 - message.store_timestamp);
        assert_eq!((message.topic.as_str(), message.queue_id.0), ("T", 3));
        assert_eq!((message.property("REAL_TOPIC"), message.property("REAL_QID")), (Some("T"), Some("3")));
        for gone in ["DELAY", "TIMER_DELAY_MS", "TIMER_OUT_MS"] {
            assert_eq!(message.property(gone), None, "{gone}");
        }
    }
    assert_eq!(delivered[1].tags(), Some("t"));
    assert_eq!(waiting(&node.client, &node.address).await, 0);
    // Filters by tag see it as any other message.
    let header = PullMessageRequest { subscription: Some("t".into()), ..pull_header("T", 3, 0) };
    assert_eq!(node.pull(header).await.bodies(), ["a", "b"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_are_delivered_in_the_order_of_their_times() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let start = wall_ms();
    let at = |ms: i64| (start + ms).to_string();
    for (name, value, body) in [
        ("TIMER_DELIVER_MS", at(1500), "c"),
        ("TIMER_DELAY_MS", "1000".to_owned(), "b"),
        ("TIMER_DELIVER_MS", at(1501), "d"),
        ("TIMER_DELIVER_MS", at(500), "a"),
        ("TIMER_DELAY_SEC", "2".to_owned(), "e"),
        ("TIMER_DELIVER_MS", at(-5), "past"),
        ("TIMER_DELAY_MS", "-9223372036854775808".to_owned(), "long past"),
    ] {
        let given = properties(&[(name, &value), ("KEYS", body)]);
        let response = node.call(send_request("T", 0, &given, body)).await;
        assert_eq!(response.code, 0, "{:?}", response.remark);
        let sent = SendMessageResponse::decode(&response.ext).unwrap();
        assert_eq!(sent.recall_handle.is_some(), !body.contains("past"), "{body}");
    }
    let delivered = wait_for(&node.client, &node.address, "T", 0, 7).await;
    assert_eq!(bodies(&delivered), ["past", "long past", "a", "b", "c", "d", "e"]);
    for message in &delivered[2..] {
        let out: i64 = message.property("TIMER_OUT_MS").unwrap().parse().unwrap();
        assert!(message.store_timestamp >= out, "{} ms early", out - message.store_timestamp);
        assert!(message.property("TIMER_DEQUEUE_MS").is_some());
        assert_eq!((message.property("REAL_TOPIC"), message.property("REAL_QID")), (None, None));
    }
    assert_eq!(delivered[2].property("TIMER_OUT_MS"), Some(at(500).as_str()), "to the millisecond");
    assert_eq!(waiting(&node.client, &node.address).await, 0);
    node.stop().await;
}

pub(super) fn wall_ms() -> i64 {
    crate::service::wall_clock_ms() as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_delayed_is_refused_and_not_stored() {
    let node = OneNode::with(|config| config.limits.pending_timers = 1).await;
    node.create_topic("T", 1).await;
    for (pairs, want) in [
        (vec![("DELAY", "x")], 13),
        (vec![("DELAY", "99999999999")], 13),
        (vec![("TIMER_DELAY_SEC", "1.5")], 13),
        (vec![("TIMER_DELAY_SEC", "9223372036854775807")], 13),
        (vec![("TIMER_DELAY_SEC", "259201")], 13),
        (vec![("TIMER_DELIVER_MS", "tomorrow")], 13),
        (vec![("TIMER_DEL_UNIQKEY", "T_U"), ("TIMER_DELAY_SEC", "1")], 13),
    ] {
        let response = node.call(send_request("T", 0, &properties(&pairs), "x")).await;
        assert_eq!(response.code, want, "{pairs:?}: {:?}", response.remark);
    }
    assert_eq!(waiting(&node.client, &node.address).await, 0);
    // As many as the limit allows.
    let timer = properties(&[("TIMER_DELAY_SEC", "3600")]);
    assert_eq!(node.call(send_request("T", 0, &timer, "x")).await.code, 0);
    let response = node.call(send_request("T", 0, &timer, "x")).await;
    assert_eq!(response.code, 1);
    assert!(response.remark.unwrap().contains("the limit pending_timers is 1"));
    assert_eq!(node.pull_code(pull_header("T", 0, 0)).await, 19, "nothing was delivered");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_is_taken_back_once() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let send = |seconds: &'static str, unique: &'static str| {
        let given = properties(&[("TIMER_DELAY_SEC", seconds), ("UNIQ_KEY", unique)]);
        let node = &node;
        async move {
            let response = node.call(send_request("T", 0, &given, unique)).await;
            assert_eq!(response.code, 0, "{:?}", response.remark);
            SendMessageResponse::decode(&response.ext).unwrap().recall_handle.unwrap()
        }
    };
    let recall = |topic: &'static str, handle: String| {
        let node = &node;
        async move {
            let header = wire::RecallMessageRequest {
                producer_group: Some("p".into()),
                topic: topic.into(),
                recall_handle: handle,
            };
            node.ask(RequestCode::RECALL_MESSAGE, &header).await
        }
    };
    let first = send("3600", "U1").await;
    // Its producer did not hear of the first, and sent it again.
    let again = send("3600", "U1").await;
    send("1", "U2").await;
    assert_eq!(waiting(&node.client, &node.address).await, 3);
    let response = recall("T", again).await;
    assert_eq!((response.code, response.ext.get("msgId")), (0, Some("U1")), "{:?}", response.remark);
    assert_eq!(recall("T", first.clone()).await.code, 604, "it is gone");
    let handle: wire::RecallHandle = first.parse().unwrap();
    let with = |change: fn(&mut wire::RecallHandle)| {
        let mut handle = handle.clone();
        change(&mut handle);
        handle.to_string()
    };
    for (handle, why) in [
        ("%%%".to_owned(), "recall handle is invalid"),
        (String::new(), "recall handle is invalid"),
        (with(|handle| handle.topic = "U".into()), "topic not match"),
        (with(|handle| handle.broker_name = "b2".into()), "broker service not available"),
        (with(|handle| handle.time_ms = 1), "timestamp invalid"),
        (with(|handle| handle.time_ms = i64::MAX), "timestamp invalid"),
        (with(|handle| handle.unique_id = "U9".into()), "does not wait any more"),
    ] {
        let response = recall("T", handle).await;
        assert_eq!(response.code, 604);
        assert!(response.remark.clone().unwrap().contains(why), "{:?}: {why}", response.remark);
    }
    assert_eq!(recall("Nowhere", first).await.code, 17);
    let delivered = wait_for(&node.client, &node.address, "T", 0, 1).await;
    assert_eq!(bodies(&delivered), ["U2"]);
    assert_eq!(waiting(&node.client, &node.address).await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_delivered_once_whoever_leads() {
    const COUNT: usize = 300;
    let mut three = Three::start(levels("3s")).await;
    let leader = three.leader().await;
    let (client, address) = (three.client.clone(), three.addresses[&leader].clone());
    let due = wall_ms() + 3000;
    for n in 0..COUNT {
        // Some fall due while nobody leads, some before, some after.
        let time = (due + (n as i64 * 7) % 1000).to_string();
        let given = if n % 3 == 0 {
            properties(&[("DELAY", "1")])
        } else {
            properties(&[("TIMER_DELIVER_MS", &time)])
        };
        three.at(leader).send("T", 0, &given, &n.to_string()).await;
    }
    // While they are being delivered.
    let first = wait_for(&client, &address, "T", 0, 1).await;
    drop(three.brokers.remove(&leader));
    let other = three.addresses[&three.other_than(leader)].clone();
    let delivered = wait_for(&client, &other, "T", 0, COUNT).await;
    let bodies = bodies(&delivered);
    let unique: BTreeSet<&String> = bodies.iter().collect();
    assert_eq!((bodies.len(), unique.len()), (COUNT, COUNT), "each once");
    assert!(delivered[0].body == first[0].body);
    for message in &delivered {
        let out = message.property("TIMER_OUT_MS").and_then(|time| time.parse().ok()).unwrap_or(due - 3000);
        assert!(message.store_timestamp >= out, "early");
    }
    none_waits(&client, &other).await;
    // A new leader goes on with what comes then.
    let timer = properties(&[("TIMER_DELAY_MS", "50")]);
    assert_eq!(client.call(&other, send_request("T", 0, &timer, "last"), SOON).await.unwrap().code, 0);
    let delivered = wait_for(&client, &other, "T", 0, COUNT + 1).await;
    assert_eq!(delivered.len(), COUNT + 1);
    assert_eq!(&delivered[COUNT].body[..], b"last");
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_keeps_nobody_waiting() {
    let node = OneNode::with(levels("1s")).await;
    for topic in ["Gone", "T"] {
        node.create_topic(topic, 4).await;
        for (name, value) in [("DELAY", "1"), ("TIMER_DELAY_MS", "1000")] {
            node.send(topic, 3, &properties(&[(name, value)]), name).await;
        }
    }
    let delete = wire::TopicRequest { topic: "Gone".into() };
    assert_eq!(node.ask(RequestCode::DELETE_TOPIC_IN_BROKER, &delete).await.code, 0);
    let delivered = wait_for(&node.client, &node.address, "T", 3, 2).await;
    let bodies: BTreeSet<String> = bodies(&delivered).into_iter().collect();
    assert_eq!(bodies, BTreeSet::from(["DELAY".to_owned(), "TIMER_DELAY_MS".to_owned()]));
    none_waits(&node.client, &node.address).await;
    // Made again, it has nothing of before.
    node.create_topic("Gone", 4).await;
    assert_eq!(node.pull_code(pull_header("Gone", 3, 0)).await, 19);
    node.stop().await;
}

/// Puts a message where only the broker writes.
async fn plant(node: &OneNode, topic: &str, properties: &str) {
    plant_record(node, topic, properties, false).await;
}

/// The same, and where it is. A damaged one has another body than its CRC says, as if this node's disk had changed it.
pub(super) async fn plant_record(
    node: &OneNode,
    topic: &str,
    properties: &str,
    is_damaged: bool,
) -> replica::Receipt {
    let hosted = node.broker.hosted("b1");
    let here = node.address.parse().unwrap();
    let message = wire::NewMessage {
        topic,
        queue_id: wire::QueueId(0),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: here,
        store_host: here,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"planted",
        properties,
    };
    let mut records = bytes::BytesMut::new();
    wire::encode_message(&message, &mut records).unwrap();
    if is_damaged {
        let body = records.windows(message.body.len()).position(|bytes| bytes == message.body).unwrap();
        records[body] ^= 1;
    }
    let (told, outcome) = tokio::sync::oneshot::channel();
    let proposal =
        replica::MessagesProposal { topic: topic.into(), queue: wire::QueueId(0), records, count: 1 };
    let group = &hosted.serving().unwrap().group;
    group.propose_messages(proposal, Box::new(|outcome| told.send(outcome).unwrap()));
    outcome.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_message_waits_and_keeps_nobody() {
    let node = OneNode::with(levels("0s")).await;
    node.create_topic("T", 1).await;
    let place = properties(&[("REAL_TOPIC", "T"), ("REAL_QID", "0"), ("TIMER_OUT_MS", "1")]);
    for topic in [wire::topic::SCHEDULE, wire::topic::WHEEL_TIMER] {
        plant_record(&node, topic, &place, true).await;
        plant(&node, topic, &place).await;
    }
    let delivered = wait_for(&node.client, &node.address, "T", 0, 2).await;
    assert_eq!(bodies(&delivered), ["planted", "planted"]);
    // They were due before: neither dropped nor delivered with a CRC that makes them look sound.
    assert_eq!(waiting(&node.client, &node.address).await, 2);
    assert_eq!(node.pull_code(pull_header("T", 0, 2)).await, 19);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_not_given_back() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    create_group(&node, "g", 3).await;
    let damaged = plant_record(&node, "T", "", true).await;
    let (code, remark) = send_back(&node, damaged.position.to_wire(), 0, None).await;
    assert_eq!(code, 1, "{remark}");
    assert!(remark.contains("damaged"), "{remark}");
    assert_eq!(waiting(&node.client, &node.address).await, 0);
    let sound = plant_record(&node, "T", "", false).await;
    assert_eq!(send_back(&node, sound.position.to_wire(), 0, None).await.0, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_message_blocks_nothing() {
    let node = OneNode::with(levels("0s")).await;
    node.create_topic("T", 2).await;
    let cases = [
        vec![],
        vec![("REAL_TOPIC", "T")],
        vec![("REAL_TOPIC", "T"), ("REAL_QID", "x"), ("TIMER_OUT_MS", "x")],
        vec![("REAL_TOPIC", "T"), ("REAL_QID", "-1")],
        vec![("REAL_QID", "0")],
        vec![("REAL_TOPIC", "RMQ_SYS_TRANS_HALF_TOPIC"), ("REAL_QID", "0")],
        vec![("REAL_TOPIC", "rmq_sys_wheel_timer"), ("REAL_QID", "0")],
    ];
    for topic in [wire::topic::SCHEDULE, wire::topic::WHEEL_TIMER] {
        for case in &cases {
            plant(&node, topic, &properties(case)).await;
        }
        // There is no such queue any more: one that there is.
        plant(&node, topic, &properties(&[("REAL_TOPIC", "T"), ("REAL_QID", "7")])).await;
    }
    for (name, value) in [("DELAY", "1"), ("TIMER_DELAY_MS", "20")] {
        node.send("T", 1, &properties(&[(name, value)]), name).await;
    }
    let delivered = wait_for(&node.client, &node.address, "T", 1, 4).await;
    let bodies: BTreeSet<String> = bodies(&delivered).into_iter().collect();
    assert_eq!(bodies, BTreeSet::from(["DELAY", "TIMER_DELAY_MS", "planted"].map(str::to_owned)));
    none_waits(&node.client, &node.address).await;
    assert_eq!(node.pull_code(pull_header("T", 1, 4)).await, 19);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_delivered_once_while_leadership_moves() {
    const COUNT: usize = 400;
    let three = Three::start(levels("1s")).await;
    let leader = three.leader().await;
    let (client, address) = (three.client.clone(), three.addresses[&leader].clone());
    let due = wall_ms() + 2000;
    for n in 0..COUNT {
        let time = (due + (n as i64 * 13) % 2000).to_string();
        let given = properties(&[("TIMER_DELIVER_MS", &time)]);
        three.at(leader).send("T", 0, &given, &n.to_string()).await;
    }
    let mut moves = 0;
    while waiting(&client, &address).await > 0 {
        let leader = three.leader().await;
        let to = leader % 3 + 1;
        let request =
            RemotingCommand::request(RequestCode(crate::TRANSFER_LEADER)).with_ext("node", &to.to_string());
        // One that is refused, or that another one has overtaken, does no harm.
        if client.call(&three.addresses[&to], request, SOON).await.is_ok_and(|response| response.code == 0) {
            moves += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(moves > 0, "leadership moved while messages waited");
    let delivered = wait_for(&client, &address, "T", 0, COUNT).await;
    let bodies = bodies(&delivered);
    assert_eq!((bodies.len(), bodies.iter().collect::<BTreeSet<_>>().len()), (COUNT, COUNT), "each once");
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_holds_locks_does_not_retry() {
    let node = OneNode::with(levels("0s 0s 0s")).await;
    node.create_topic("T", 1).await;
    create_group(&node, "g", 16).await;
    let hosted = node.broker.hosted("b1");
    let lock = crate::state::command::Lock {
        group: hosted.state.group("g").unwrap().id.0,
        client: "c".into(),
        unlock: false,
        lease_ms: 60_000,
        topics: vec![hosted.state.topic("T").unwrap().id.0],
        queues: vec![0],
    };
    let reply = hosted.propose_here(crate::state::command::Kind::Lock(lock).into()).await.unwrap();
    assert_eq!(reply.granted, [0]);
    let given = properties(&[("DELAY", "3"), ("RETRY_TOPIC", "T")]);
    let sent = node.call(send_request(&wire::retry_topic("g"), 0, &given, "m")).await;
    assert_eq!(sent.code, 0, "{:?}", sent.remark);
    let letters = wait_for(&node.client, &node.address, &wire::dlq_topic("g"), 0, 1).await;
    assert_eq!(bodies(&letters), ["m"]);
    assert_eq!(waiting(&node.client, &node.address).await, 0);
    node.stop().await;
}

pub(super) async fn create_group(node: &OneNode, group: &str, retry_max_times: i32) {
    let config =
        wire::SubscriptionGroupConfig { retry_max_times, ..wire::SubscriptionGroupConfig::new(group) };
    let request = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP)
        .with_body(wire::Body::encode(&config));
    let response = node.call(request).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
}

pub(super) async fn send_back(
    node: &OneNode,
    position: i64,
    delay_level: i32,
    max: Option<i32>,
) -> (i32, String) {
    let header = wire::ConsumerSendMsgBackRequest {
        offset: position,
        group: "g".into(),
        delay_level,
        max_reconsume_times: max,
        ..Default::default()
    };
    let response = node.ask(RequestCode::CONSUMER_SEND_MSG_BACK, &header).await;
    (response.code, response.remark.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_comes_again_and_then_is_dead() {
    let node = OneNode::with(levels("0s 0s 0s 0s 1s")).await;
    node.create_topic("T", 1).await;
    node.send("T", 0, &properties(&[("TAGS", "t"), ("UNIQ_KEY", "U")]), "m").await;
    let original = node.pull(pull_header("T", 0, 0)).await.messages.remove(0);
    let position = original.position.to_wire();
    create_group(&node, "g", 2).await;
    for bad in [-1, i64::MAX, position + 1, position - 1] {
        let (code, remark) = send_back(&node, bad, 0, None).await;
        assert_eq!(code, 1, "{bad}");
        assert!(remark.starts_with("look message by offset failed"), "{remark}");
    }
    let (retry, dead) = (wire::retry_topic("g"), wire::dlq_topic("g"));
    let mut message = original.clone();
    for times in 1..=2 {
        let (code, remark) = send_back(&node, message.position.to_wire(), 0, None).await;
        assert_eq!(code, 0, "{remark}");
        message = wait_for(&node.client, &node.address, &retry, 0, times).await.remove(times - 1);
        assert_eq!((message.reconsume_times, &message.body[..]), (times as i32, &b"m"[..]));
        assert_eq!(message.property("RETRY_TOPIC"), Some("T"));
        assert_eq!(message.property("ORIGIN_MESSAGE_ID"), Some(original.offset_msg_id.as_str()));
        assert_eq!((message.property("UNIQ_KEY"), message.tags()), (Some("U"), Some("t")));
        assert_eq!(message.property("REAL_TOPIC"), Some(retry.as_str()));
        assert_eq!(message.born_timestamp, original.born_timestamp);
    }
    // The group's number of attempts is used up; its consumer may say another one.
    assert_eq!(send_back(&node, message.position.to_wire(), 0, Some(3)).await.0, 0);
    assert_eq!(wait_for(&node.client, &node.address, &retry, 0, 3).await[2].reconsume_times, 3);
    assert_eq!(node.pull_code(pull_header(&dead, 0, 0)).await, 17, "there is no dead letter yet");
    assert_eq!(send_back(&node, message.position.to_wire(), 0, None).await.0, 0);
    assert_eq!(send_back(&node, position, -1, None).await.0, 0, "at once, as the consumer wants it");
    let letters = wait_for(&node.client, &node.address, &dead, 0, 2).await;
    let times: Vec<i32> = letters.iter().map(|letter| letter.reconsume_times).collect();
    assert_eq!(times, [3, 1]);
    assert!(letters.iter().all(|letter| letter.property("RETRY_TOPIC") == Some("T")));
    assert_eq!(waiting(&node.client, &node.address).await, 0);
    let max = wire::GetMaxOffsetRequest { topic: dead.clone(), queue_id: 0, committed: true };
    let response = node.ask(RequestCode::GET_MAX_OFFSET, &max).await;
    assert_eq!(response.ext.get("offset"), Some("2"), "one for each");
    // A waiting message does not get out by its position.
    node.send("T", 0, &properties(&[("TIMER_DELAY_SEC", "60")]), "later").await;
    let page = pending(&node.client, &node.address, &PendingQuery { max: 1, ..Default::default() }).await;
    let id: wire::OffsetMessageId = page.messages[0].message_id.parse().unwrap();
    let (code, remark) = send_back(&node, id.position.to_wire(), 0, None).await;
    assert_eq!(code, 1, "{remark}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_given_back_before_the_first_heartbeat() {
    let node = OneNode::with(levels("0s 0s 0s")).await;
    node.create_topic("T", 1).await;
    node.send("T", 0, "", "m").await;
    let position = node.pull(pull_header("T", 0, 0)).await.messages.remove(0).position.to_wire();
    let (code, remark) = send_back(&node, position, 0, None).await;
    assert_eq!(code, 0, "{remark}");
    let retries = wait_for(&node.client, &node.address, &wire::retry_topic("g"), 0, 1).await;
    assert_eq!((retries[0].reconsume_times, bodies(&retries)), (1, vec!["m".to_owned()]));
    node.stop().await;

    let node = OneNode::with(|config| config.groups[0].auto_create_group = false.into()).await;
    assert_eq!(send_back(&node, position, 0, None).await.0, 26);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_to_a_retry_topic_counts_the_attempts() {
    let node = OneNode::with(levels("0s 0s 0s")).await;
    create_group(&node, "g", 2).await;
    let (retry, dead) = (wire::retry_topic("g"), wire::dlq_topic("g"));
    let given = properties(&[("DELAY", "3"), ("RETRY_TOPIC", "T")]);
    let send = |times: i32, max: Option<i32>, version: i32| {
        let header = SendMessageRequest {
            reconsume_times: Some(times),
            max_reconsume_times: max,
            ..send_header(&retry, 0, &given)
        };
        let mut request = RemotingCommand::request(RequestCode::SEND_MESSAGE_V2).with_body(times.to_string());
        request.version = version;
        header.encode_for(RequestCode::SEND_MESSAGE_V2, &mut request.ext);
        let node = &node;
        async move {
            let response = node.call(request).await;
            assert_eq!(response.code, 0, "{:?}", response.remark);
        }
    };
    send(2, None, 479).await;
    send(3, Some(3), 479).await;
    // A version that does not say it counts by its group.
    send(4, Some(9), 100).await;
    send(5, None, 479).await;
    let retried = wait_for(&node.client, &node.address, &retry, 0, 2).await;
    assert_eq!(bodies(&retried), ["2", "3"]);
    assert_eq!(retried.iter().map(|message| message.reconsume_times).collect::<Vec<_>>(), [2, 3]);
    let letters = wait_for(&node.client, &node.address, &dead, 0, 2).await;
    assert_eq!(bodies(&letters), ["4", "5"]);
    assert!(letters.iter().all(|letter| letter.property("DELAY") == Some("-1")));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_can_be_looked_at_by_topic_and_time() {
    let node = OneNode::start().await;
    for topic in ["A", "B"] {
        node.create_topic(topic, 1).await;
    }
    let start = wall_ms();
    for n in 0..30 {
        let time = (start + 60_000 + n * 1000).to_string();
        let topic = if n % 2 == 0 { "A" } else { "B" };
        node.send(topic, 0, &properties(&[("TIMER_DELIVER_MS", &time), ("KEYS", &n.to_string())]), "x").await;
    }
    let from = (start + 70_000) as u64;
    let query = PendingQuery {
        topic: Some("B".into()),
        from_ms: Some(from),
        until_ms: Some(from + 10_000),
        max: 2,
        after: None,
    };
    let (mut keys, mut next) = (Vec::new(), None);
    loop {
        let query = PendingQuery { after: next, ..query.clone() };
        let page = pending(&node.client, &node.address, &query).await;
        assert!(page.messages.len() <= 2);
        keys.extend(page.messages.iter().map(|message| message.keys.clone()));
        assert_eq!((page.queues[0].level, page.queues[0].pending), (None, 30));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(keys, ["11", "13", "15", "17", "19"]);
    node.stop().await;
}
