//! 10, 310, 320.

use std::sync::Arc;

use bytes::BytesMut;
use wire::{
    BatchItem, Body, OffsetMessageId, RequestCode, ResponseCode, SendMessageRequest, SendMessageResponse,
    TopicConfig, TopicRequest, ViewMessageRequest, encode_batch_item, sysflag,
};

use super::*;

async fn code(node: &OneNode, header: &SendMessageRequest<'_>, body: Vec<u8>) -> (i32, String) {
    let code = RequestCode::SEND_MESSAGE_V2;
    let mut request = RemotingCommand::request(code).with_body(body);
    header.encode_for(code, &mut request.ext);
    let response = node.call(request).await;
    (response.code, response.remark.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_stored_with_what_the_broker_adds() {
    let node = OneNode::start().await;
    let given = properties(&[("KEYS", "k1 k2"), ("TAGS", "a"), ("UNIQ_KEY", "U1"), ("POP_CK", "x")]);
    let response = node.call(send_request("T", 2, &given, "hello")).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    assert_eq!(response.ext.get("MSG_REGION"), Some("DefaultRegion"));
    assert_eq!(response.ext.get("TRACE_ON"), Some("true"));
    let header = SendMessageResponse::decode(&response.ext).unwrap();
    assert_eq!((header.queue_id, header.queue_offset), (2, 0));
    assert_eq!(header.transaction_id.as_deref(), Some("U1"));

    let id: OffsetMessageId = header.msg_id.parse().unwrap();
    assert_eq!(id.host.to_string(), node.address);
    let view = ViewMessageRequest { topic: None, offset: id.position.to_wire() };
    let response = node.ask(RequestCode::VIEW_MESSAGE_BY_ID, &view).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    let message = &Message::decode_all(&response.body).unwrap()[0];
    assert_eq!((message.topic.as_str(), &message.body[..]), ("T", &b"hello"[..]));
    assert_eq!(message.born_timestamp, 1_700_000_000_000);
    assert!(message.born_host.ip().is_loopback() && message.born_host.port() > 0);
    assert_eq!(message.offset_msg_id, header.msg_id);
    let expected = [
        ("CLUSTER", "c1"),
        ("KEYS", "k1 k2"),
        ("MSG_REGION", "DefaultRegion"),
        ("TAGS", "a"),
        ("TRACE_ON", "true"),
        ("UNIQ_KEY", "U1"),
    ];
    let stored: Vec<_> = message.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(stored, expected);
    // Somewhere within it, there is no message.
    let view = ViewMessageRequest { topic: None, offset: id.position.to_wire() + 1 };
    assert_eq!(node.ask(RequestCode::VIEW_MESSAGE_BY_ID, &view).await.code, 1);
    node.stop().await;
}

/// RocketMQ's string of properties has \u{1} behind a name and \u{2} behind a value; every other byte is a value's own. What breaks
/// that form is read as a Java client reads it, so it harms the message that has it and no other.
#[tokio::test(flavor = "multi_thread")]
async fn properties_with_control_bytes_are_kept_as_they_are() {
    let node = OneNode::start().await;
    let odd = "a\u{0}b\u{3}\r\n\t\u{1b}[31m\u{7f}";
    let given = format!("odd\u{1}{odd}\u{2}TAGS\u{1}x\u{2}");
    assert_eq!(node.call(send_request("T", 0, &given, "one")).await.code, 0);
    for broken in ["\u{1}\u{1}\u{2}\u{2}\u{1}", "no value\u{2}k\u{1}v\u{1}w\u{2}KEYS\u{1}k1"] {
        assert_eq!(node.call(send_request("T", 0, broken, "broken")).await.code, 0);
    }
    assert_eq!(node.call(send_request("T", 0, "odd\u{1}even\u{2}", "last")).await.code, 0);
    let pulled = node.pull(pull_header("T", 0, 0)).await;
    let bodies: Vec<&[u8]> = pulled.messages.iter().map(|message| &message.body[..]).collect();
    assert_eq!(bodies, [&b"one"[..], b"broken", b"broken", b"last"]);
    let property = |at: usize, name: &str| pulled.messages[at].properties.get(name).map(String::as_str);
    assert_eq!((property(0, "odd"), property(0, "TAGS")), (Some(odd), Some("x")));
    assert_eq!((property(2, "k"), property(2, "KEYS")), (Some("v\u{1}w"), Some("k1")));
    assert_eq!(property(3, "odd"), Some("even"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_code_a_missing_unique_key_and_any_queue() {
    let node = OneNode::start().await;
    let mut request = RemotingCommand::request(RequestCode::SEND_MESSAGE).with_body("x");
    send_header("T", -1, "").encode_for(RequestCode::SEND_MESSAGE, &mut request.ext);
    let response = node.call(request).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    let header = SendMessageResponse::decode(&response.ext).unwrap();
    assert!((0..4).contains(&header.queue_id), "of the 4 queues that the client asked for");
    let unique = header.transaction_id.unwrap();
    let pulled = node.pull(pull_header("T", header.queue_id, 0)).await;
    assert_eq!(pulled.messages[0].properties["UNIQ_KEY"], unique);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_and_not_stored() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let good = send_header("T", 0, "");
    let tran = properties(&[("TRAN_MSG", "true"), ("DELAY", "3")]);
    let delay = properties(&[("DELAY", "soon")]);
    let timer = properties(&[("TIMER_DELAY_SEC", "300000")]);
    let long = properties(&[("p", &"x".repeat(32_760))]);
    let retry = wire::retry_topic("g");
    let too_long = "t".repeat(128);
    let mut cases = Vec::new();
    for (topic, want) in [
        ("a b", 29),
        ("", 29),
        (too_long.as_str(), 29),
        (retry.as_str(), 26),
        ("SCHEDULE_TOPIC_XXXX", 16),
        ("RMQ_SYS_TRANS_HALF_TOPIC", 16),
        ("rmq_sys_wheel_timer", 16),
    ] {
        cases.push((SendMessageRequest { topic, ..good.clone() }, 1, want));
    }
    for (properties, want) in [(&tran, 13), (&delay, 13), (&timer, 13), (&long, 13)] {
        cases.push((SendMessageRequest { properties: Some(properties), ..good.clone() }, 1, want));
    }
    cases.push((SendMessageRequest { sys_flag: sysflag::TRANSACTION_PREPARED, ..good.clone() }, 1, 13));
    cases.push((SendMessageRequest { queue_id: 2, ..good.clone() }, 1, 29));
    cases.push((SendMessageRequest { topic: "New", default_topic: "Nothing", ..good.clone() }, 1, 17));
    cases.push((SendMessageRequest { topic: "New", default_topic_queue_nums: 0, ..good.clone() }, 1, 17));
    cases.push((good.clone(), (4 << 20) + 1, 13));
    for (header, bytes, want) in cases {
        let (got, remark) = code(&node, &header, vec![b'x'; bytes]).await;
        assert_eq!(got, want, "{} {:?}: {remark}", header.topic, header.properties.map(|p| p.len()));
        assert!(!remark.is_empty());
    }
    // A header without a topic.
    let response = node.call(RemotingCommand::request(RequestCode::SEND_MESSAGE_V2)).await;
    assert_eq!(response.code, 1);
    assert_eq!(node.send("T", 0, "", "good").await, 0, "nothing of that was stored");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_by_a_first_send_only_where_allowed() {
    let node = OneNode::with(|config| config.groups[0].auto_create_topic = false.into()).await;
    let (got, remark) = code(&node, &send_header("T", 0, ""), vec![1]).await;
    assert_eq!(got, 17, "{remark}");
    assert!(remark.starts_with("topic[T] not exist"), "{remark}");
    node.stop().await;

    let node = OneNode::start().await;
    // Many senders at once: one creation, no send lost, the order of one connection kept.
    let node = Arc::new(node);
    let sends = (0..50).map(|n| {
        let node = node.clone();
        let body = n.to_string();
        tokio::spawn(async move { node.send("New", 1, "", &body).await })
    });
    let mut offsets: Vec<i64> =
        futures::future::join_all(sends).await.into_iter().map(|offset| offset.unwrap()).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (0..50).collect::<Vec<_>>());
    let response = node.ask(RequestCode::GET_TOPIC_CONFIG, &TopicRequest { topic: "New".into() }).await;
    let config = TopicConfig::decode(&response.body).unwrap();
    assert_eq!((config.read_queue_nums, config.write_queue_nums, config.perm), (4, 4, 6));
    Arc::into_inner(node).unwrap().stop().await;
}

fn batch(items: &[(&str, i32)], properties: &str) -> RemotingCommand {
    let mut body = BytesMut::new();
    for (text, flag) in items {
        encode_batch_item(&BatchItem { flag: *flag, body: text.as_bytes(), properties }, &mut body).unwrap();
    }
    let code = RequestCode::SEND_BATCH_MESSAGE;
    let mut request = RemotingCommand::request(code).with_body(body.freeze());
    SendMessageRequest { batch: Some(true), ..send_header("T", 1, "") }.encode_for(code, &mut request.ext);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_stored_whole_or_not_at_all() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let response = node.call(batch(&[("a", 1), ("b", 2), ("c", 3)], &properties(&[("TAGS", "t")]))).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    let header = SendMessageResponse::decode(&response.ext).unwrap();
    assert_eq!(header.queue_offset, 0);
    let pulled = node.pull(pull_header("T", 1, 0)).await;
    assert_eq!(pulled.bodies(), ["a", "b", "c"]);
    let ids: Vec<&str> = header.msg_id.split(',').collect();
    let stored: Vec<&str> = pulled.messages.iter().map(|message| message.offset_msg_id.as_str()).collect();
    assert_eq!(ids, stored);
    let flags: Vec<i32> = pulled.messages.iter().map(|message| message.flag).collect();
    assert_eq!(flags, [1, 2, 3]);
    assert!(pulled.messages.iter().all(|message| message.properties["TAGS"] == "t"));

    let delayed = batch(&[("a", 0)], &properties(&[("DELAY", "1")]));
    let truncated = {
        let request = batch(&[("a", 0), ("b", 0)], "");
        let body = request.body.slice(..request.body.len() - 1);
        request.with_body(body)
    };
    let empty = batch(&[], "");
    for request in [delayed, truncated, empty] {
        assert_eq!(node.call(request).await.response_code(), ResponseCode::MESSAGE_ILLEGAL);
    }
    assert_eq!(node.send("T", 1, "", "next").await, 3);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_keeps_its_order() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    for n in 0..500 {
        connection.send_oneway(send_request("T", 0, "", &n.to_string())).unwrap();
    }
    assert_eq!(node.send("T", 0, "", "last").await, 500);
    let mut offset = 0;
    let mut bodies = Vec::new();
    while bodies.len() < 500 {
        let pulled = node.pull(pull_header("T", 0, offset)).await;
        assert_eq!(pulled.code, 0);
        assert!(pulled.messages.len() <= 32);
        bodies.extend(pulled.bodies().iter().map(|body| (*body).to_owned()));
        offset = pulled.header.next_begin_offset;
    }
    assert!(bodies[..500].iter().enumerate().all(|(n, body)| *body == n.to_string()));
    node.stop().await;
}
