//! Bad input to everything beyond plain sends and pulls: each is refused with a reason, and nothing is stored: no message, no
//! offset, nothing that waits or is in somebody's hands.

use wire::{BatchItem, Body, LockBatchRequestBody, MessageQueue, encode_batch_item, prop, sysflag};

use super::popping::pop_header;
use super::*;
use crate::state::command::FEATURE_LEVEL;

/// A request that is good but for one field or property.
fn with(request: &RemotingCommand, key: &str, value: &str) -> RemotingCommand {
    request.clone().with_ext(key, value)
}

/// A batch to queue 0 of T.
pub(super) fn batch(items: &[(&str, &str)]) -> RemotingCommand {
    let mut body = bytes::BytesMut::new();
    for (body_of, properties) in items {
        encode_batch_item(&BatchItem { flag: 0, body: body_of.as_bytes(), properties }, &mut body).unwrap();
    }
    let mut request = RemotingCommand::request(RequestCode::SEND_BATCH_MESSAGE).with_body(body.freeze());
    send_header("T", 0, "").encode_for(RequestCode::SEND_BATCH_MESSAGE, &mut request.ext);
    request
}

/// All that the node's tables say, with the next offset of each queue.
fn standing(node: &OneNode) -> Vec<u8> {
    replica::StateMachine::encode(&*node.broker.hosted("b1").state)
}

/// A node with topic T of one queue and three messages, of which group g has been given one by a pop and has locked nothing.
async fn prepared() -> (OneNode, String) {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for body in ["a", "b", "c"] {
        node.send("T", 0, "", body).await;
    }
    let mut pop = pop_header("T", 0);
    pop.max_msg_nums = 1;
    let popped = node.ask(RequestCode::POP_MESSAGE, &pop).await;
    assert_eq!(popped.code, 0, "{:?}", popped.remark);
    let header = wire::PopMessageResponse::decode(&popped.ext).unwrap();
    let handle = wire::PopHandle {
        start_offset: 0,
        pop_time: header.pop_time,
        invisible_time: header.invisible_time,
        revive_queue: header.revive_qid,
        source: wire::PopSource::Normal,
        broker_name: "b1".into(),
        queue_id: 0,
        queue_offset: 0,
    };
    // Once what the node does by itself is done.
    let state = node.broker.hosted("b1").state.clone();
    while replica::StateMachine::level(&*state) < FEATURE_LEVEL {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (node, handle.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_a_reason_and_nothing_is_stored() {
    let (node, handle) = prepared().await;
    let mut cases: Vec<(String, RemotingCommand)> = Vec::new();
    let mut add = |what: &str, request: RemotingCommand| cases.push((what.to_owned(), request));

    // Times: of delays, timers, and what they come to.
    for (name, values) in [
        (prop::DELAY, &["x", "9223372036854775808"][..]),
        (prop::TIMER_DELAY_SEC, &["x", "-1x", "999999999", "9223372036854775807"]),
        (prop::TIMER_DELAY_MS, &["x", "259200001", "9223372036854775807"]),
        (prop::TIMER_DELIVER_MS, &["soon", "9223372036854775807", "99999999999999999999"]),
        ("TIMER_DEL_UNIQKEY", &["K"]),
    ] {
        for value in values {
            let bad = properties(&[(name, *value)]);
            add(&format!("{name} {value:?}"), send_request("T", 0, &bad, "m"));
            let whole = with(&batch(&[("a", "")]), "i", &bad);
            add(&format!("a batch with {name} {value:?}"), whole);
            add(&format!("a batch of which one has {name} {value:?}"), batch(&[("a", ""), ("b", &bad)]));
        }
    }
    for (what, bad) in [
        ("a level", properties(&[(prop::DELAY, "3")])),
        ("a time", properties(&[(prop::TIMER_DELAY_MS, "1000")])),
        ("half a transaction", properties(&[(prop::TRAN_MSG, "true")])),
    ] {
        add(&format!("a batch of which one asks for {what}"), batch(&[("a", ""), ("b", &bad)]));
    }
    add("an empty batch", batch(&[]));
    let cut = batch(&[("a", ""), ("b", "")]);
    let short = cut.body.slice(..cut.body.len() - 1);
    add("a batch that is cut", cut.with_body(short));
    add("a batch for a retry topic", with(&batch(&[("a", "")]), "b", "%RETRY%g"));
    for topic in
        [wire::topic::SCHEDULE, wire::topic::WHEEL_TIMER, wire::topic::TRANS_HALF, "%RETRY%nobody", "a b"]
    {
        add(&format!("a send to {topic}"), send_request(topic, 0, "", "m"));
    }
    for queue in ["1", "2147483647", "4294967296"] {
        add(&format!("a send to queue {queue}"), with(&send_request("T", 0, "", "m"), "e", queue));
    }
    let mut half = send_request("T", 0, &properties(&[(prop::DELAY, "3"), (prop::TRAN_MSG, "true")]), "m");
    half.ext.set("f", &sysflag::TRANSACTION_PREPARED.to_string());
    add("half a message that is delayed", half);

    // 36: what no consumer can have been given.
    let back = RemotingCommand::request(RequestCode::CONSUMER_SEND_MSG_BACK).with_header(
        &wire::ConsumerSendMsgBackRequest {
            offset: 0,
            group: "g".into(),
            delay_level: 0,
            ..Default::default()
        },
    );
    for offset in ["-1", "0", "1", "5000", "9223372036854775807"] {
        add(&format!("a message given back from {offset}"), with(&back, "offset", offset));
    }
    // 37.
    let end =
        RemotingCommand::request(RequestCode::END_TRANSACTION).with_header(&wire::EndTransactionRequest {
            producer_group: "p".into(),
            commit_or_rollback: sysflag::TRANSACTION_COMMIT,
            ..Default::default()
        });
    for offset in ["-1", "0", "9223372036854775807"] {
        add(&format!("an end of half message {offset}"), with(&end, "tranStateTableOffset", offset));
    }
    add("an end for a group that is nowhere", with(&end, "transactionId", "t1.9.4096.1.Kb9"));

    // 41, 42.
    let lock = |group: &str, topic: &str, broker: &str, queue: i32| LockBatchRequestBody {
        client_id: "c".into(),
        consumer_group: group.into(),
        mq_set: vec![MessageQueue::new(topic, broker, queue)],
        only_this_broker: false,
    };
    let locks = RemotingCommand::request(RequestCode::LOCK_BATCH_MQ);
    add("a lock of nobody", locks.clone().with_body(lock("", "T", "b1", 0).encode()));
    add("a lock of a group that does not exist", locks.clone().with_body(lock("a b", "T", "b1", 0).encode()));
    add("a lock that is no JSON", locks.clone().with_body("{\"mqSet\":[".as_bytes().to_vec()));
    add("a lock of deep JSON", locks.with_body("[".repeat(100_000).into_bytes()));

    // Pop.
    let pop = RemotingCommand::request(RequestCode::POP_MESSAGE).with_header(&pop_header("T", 0));
    for (field, values) in [
        ("topic", &["nothing", "a b", ""][..]),
        ("consumerGroup", &["a b", ""]),
        ("queueId", &["1", "2147483647", "x"]),
        ("maxMsgNums", &["33", "0", "-1", "2147483647", "x"]),
        ("invisibleTime", &["x", "-1", "259200001", "9223372036854775807"]),
    ] {
        for value in values {
            add(&format!("a pop with {field} {value:?}"), with(&pop, field, value));
        }
    }
    let bomb = format!("a = 1{}", " OR a = 1".repeat(10_000));
    let deep = format!("{}a = 1{}", "(".repeat(5000), ")".repeat(5000));
    let many: Vec<String> = (0..200).map(|n| format!("p{n} = 1")).collect();
    let expressions =
        [&bomb, &deep, &many.join(" AND "), "a = ", "a = 'x", "NOT", "a IN ()", "\u{0}\u{1}\u{2}"];
    for expression in expressions {
        let name = &expression[..expression.len().min(20)];
        let filtered = with(&with(&pop, "expType", "SQL92"), "exp", expression);
        add(&format!("a pop by {name:?}"), filtered);
        let mut pull = pull_header("T", 0, 0);
        (pull.expression_type, pull.subscription) = (Some("SQL92".into()), Some(expression.to_owned()));
        let pull = RemotingCommand::request(RequestCode::PULL_MESSAGE).with_header(&pull);
        add(&format!("a pull by {name:?}"), pull);
    }

    // Acknowledgements, with handles that nobody was given.
    let acknowledge = |code: RequestCode, handle: &str, queue: i32, offset: i64| {
        RemotingCommand::request(code).with_header(&wire::ChangeInvisibleTimeRequest {
            consumer_group: "g".into(),
            topic: "T".into(),
            queue_id: queue,
            extra_info: handle.to_owned(),
            offset,
            invisible_time: 1000,
        })
    };
    let last = handle.rsplit_once(' ').map_or("", |(start, _)| start);
    let handles = ["", " ", "x", "0 0 0", "a b c d e f g h", "0 -1 0 0 0 b1 0 0", "0 0 0 0 9 b1 0 0", last];
    for code in [RequestCode::ACK_MESSAGE, RequestCode::CHANGE_MESSAGE_INVISIBLETIME] {
        for handle in handles {
            add(&format!("{code:?} with handle {handle:?}"), acknowledge(code, handle, 0, 0));
        }
        for (queue, offset) in [(1, 0), (-1, 0), (0, -1), (0, 4), (0, i64::MAX)] {
            let what = format!("{code:?} of offset {offset} in queue {queue}");
            add(&what, acknowledge(code, &handle, queue, offset));
        }
    }
    for time in ["-1", "x", "9223372036854775807"] {
        let change = acknowledge(RequestCode::CHANGE_MESSAGE_INVISIBLETIME, &handle, 0, 0);
        add(&format!("an invisible time of {time}"), with(&change, "invisibleTime", time));
    }
    let batch_ack = RemotingCommand::request(RequestCode::BATCH_ACK_MESSAGE);
    add("a batch of acknowledgements that is none", batch_ack.clone().with_body(b"{".to_vec()));
    add("a batch of acknowledgements without a body", batch_ack);

    // 222, 314.
    let reset = RemotingCommand::request(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET).with_header(
        &wire::ResetOffsetRequest {
            topic: "T".into(),
            group: "g".into(),
            timestamp: 0,
            ..Default::default()
        },
    );
    for (field, value) in [
        ("topic", "nothing"),
        ("group", "nobody"),
        ("queueId", "1"),
        ("queueId", "2147483647"),
        ("queueId", "x"),
        ("timestamp", "x"),
        ("timestamp", "9223372036854775808"),
    ] {
        add(&format!("a reset with {field} {value}"), with(&reset, field, value));
    }
    for offset in ["-2", "5", "9223372036854775807"] {
        add(&format!("a reset to {offset}"), with(&with(&reset, "queueId", "0"), "offset", offset));
    }
    // 370.
    let recall =
        RemotingCommand::request(RequestCode::RECALL_MESSAGE).with_header(&wire::RecallMessageRequest {
            topic: "T".into(),
            recall_handle: String::new(),
            ..Default::default()
        });
    let now = i64::try_from(node.broker.hosted("b1").log_now_ms()).unwrap();
    let handle_of = |topic: &str, broker: &str, time: i64| {
        wire::RecallHandle {
            topic: topic.into(),
            broker_name: broker.into(),
            time_ms: time,
            unique_id: "K".into(),
        }
        .to_string()
    };
    let mut handles = vec![String::new(), "x".into(), "AAAA".into(), "=".into()];
    handles
        .extend([-1, 0, now - 1000, now + 999_999_999_999, i64::MAX].map(|time| handle_of("T", "b1", time)));
    handles.extend([
        handle_of("U", "b1", now + 60_000),
        handle_of("T", "b9", now + 60_000),
        handle_of("T", "b1", now + 60_000),
    ]);
    for handle in handles {
        add(&format!("a recall of {handle:?}"), with(&recall, "recallHandle", &handle));
    }
    add("a recall from a topic that does not exist", with(&recall, "topic", "nothing"));
    // 400, 401.
    for code in [RequestCode::QUERY_ASSIGNMENT, RequestCode::SET_MESSAGE_REQUEST_MODE] {
        for body in ["", "{", "\"\"", "7"] {
            let what = format!("{code:?} with {body:?}");
            add(&what, RemotingCommand::request(code).with_body(body.as_bytes().to_vec()));
        }
    }
    for body in [
        "{\"mode\":\"POP\",\"topic\":\"nothing\",\"consumerGroup\":\"g\"}",
        "{\"mode\":\"POP\",\"topic\":\"T\",\"consumerGroup\":\"a b\"}",
        "{\"mode\":\"POP\",\"topic\":\"%RETRY%g\",\"consumerGroup\":\"g\"}",
    ] {
        let request = RemotingCommand::request(RequestCode::SET_MESSAGE_REQUEST_MODE);
        add(&format!("the request mode {body}"), request.with_body(body.as_bytes().to_vec()));
    }
    // Replies. (One that cannot be handed over is stored all the same, as in RocketMQ.)
    let mut reply = RemotingCommand::request(RequestCode::SEND_REPLY_MESSAGE_V2).with_body(b"r".to_vec());
    send_header("T", 0, &properties(&[(prop::REPLY_TO_CLIENT, "nobody")]))
        .encode_for(RequestCode::SEND_REPLY_MESSAGE_V2, &mut reply.ext);
    for topic in ["a b", "", wire::topic::SCHEDULE] {
        add(&format!("a reply in topic {topic:?}"), with(&reply, "b", topic));
    }
    add("a reply of 5 MiB", reply.with_body(vec![b'r'; 5 << 20]));
    // 15.
    let commit = RemotingCommand::request(RequestCode::UPDATE_CONSUMER_OFFSET).with_header(
        &wire::UpdateConsumerOffsetRequest {
            consumer_group: "g".into(),
            topic: "T".into(),
            queue_id: 0,
            commit_offset: 1,
        },
    );
    for (field, value) in [
        ("topic", "nothing"),
        ("consumerGroup", "nobody"),
        ("queueId", "1"),
        ("queueId", "-1"),
        ("commitOffset", "-1"),
        ("commitOffset", "x"),
    ] {
        add(&format!("a commit with {field} {value}"), with(&commit, field, value));
    }

    let before = standing(&node);
    let mut wrong = Vec::new();
    for (what, request) in cases {
        let response = node.call(request).await;
        if response.code == 0 || response.remark.as_deref().unwrap_or_default().is_empty() {
            wrong.push(format!("{what}: {} {:?}", response.code, response.remark));
        }
        let is_as_before = standing(&node) == before;
        assert!(is_as_before, "{what} has changed something ({} {:?})", response.code, response.remark);
    }
    assert!(
        wrong.is_empty(),
        "{} of them were not refused with a reason:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(node.send("T", 0, "", "d").await, 3, "and everybody else goes on");
    node.stop().await;
}
