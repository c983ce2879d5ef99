//! 14, 15, 29 to 32, and queries by key.

use wire::{
    GetEarliestMsgStoretimeResponse, GetMaxOffsetRequest, GetMinOffsetRequest, OffsetResponse,
    QueryConsumerOffsetRequest, QueryMessageRequest, RequestCode, SearchOffsetRequest,
    UpdateConsumerOffsetRequest,
};

use super::*;

fn offset(response: &RemotingCommand) -> i64 {
    assert_eq!(response.code, 0, "{:?}", response.remark);
    OffsetResponse::decode(&response.ext).unwrap().offset
}

pub(super) async fn stored(node: &OneNode, group: &str, topic: &str, queue: i32) -> Option<i64> {
    let header = QueryConsumerOffsetRequest {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: queue,
        set_zero_if_not_found: Some(false),
    };
    let response = node.ask(RequestCode::QUERY_CONSUMER_OFFSET, &header).await;
    (response.code != 22).then(|| offset(&response))
}

fn commit(group: &str, queue: i32, offset: i64) -> UpdateConsumerOffsetRequest {
    UpdateConsumerOffsetRequest {
        consumer_group: group.into(),
        topic: "T".into(),
        queue_id: queue,
        commit_offset: offset,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_offsets() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let group = "TOOLS_CONSUMER";
    assert_eq!(stored(&node, group, "T", 0).await, None);
    // Two-way: stored when it is answered.
    assert_eq!(node.ask(RequestCode::UPDATE_CONSUMER_OFFSET, &commit(group, 0, 7)).await.code, 0);
    assert_eq!(stored(&node, group, "T", 0).await, Some(7));
    // One-way: a query sees it at once, merged or not.
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    for offset in [8, 9] {
        let request = RemotingCommand::request(RequestCode::UPDATE_CONSUMER_OFFSET)
            .with_header(&commit(group, 0, offset));
        connection.send_oneway(request).unwrap();
    }
    assert_eq!(stored(&node, group, "T", 0).await, Some(9));
    // Back, when a client says so.
    assert_eq!(node.ask(RequestCode::UPDATE_CONSUMER_OFFSET, &commit(group, 0, 3)).await.code, 0);
    assert_eq!(stored(&node, group, "T", 0).await, Some(3));
    for (header, want) in [
        (commit("nobody", 0, 1), 26),
        (UpdateConsumerOffsetRequest { topic: "U".into(), ..commit(group, 0, 1) }, 17),
        (commit(group, 2, 1), 29),
        (commit(group, -1, 1), 29),
        (commit(group, 0, -1), 29),
    ] {
        assert_eq!(node.ask(RequestCode::UPDATE_CONSUMER_OFFSET, &header).await.code, want, "{header:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_young_queue_answers_zero() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    node.send("T", 0, "", "m").await;
    let ask = |queue, set_zero| {
        let header = QueryConsumerOffsetRequest {
            consumer_group: "g".into(),
            topic: "T".into(),
            queue_id: queue,
            set_zero_if_not_found: set_zero,
        };
        let node = &node;
        async move { node.ask(RequestCode::QUERY_CONSUMER_OFFSET, &header).await }
    };
    assert_eq!(offset(&ask(0, None).await), 0);
    assert_eq!(offset(&ask(0, Some(true)).await), 0);
    assert_eq!(ask(0, Some(false)).await.code, 22);
    assert_eq!(ask(1, None).await.code, 22, "an empty queue: the client takes its maximum, which is 0");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_offsets_and_times() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let mut times = Vec::new();
    for n in 0..4 {
        node.send("T", 0, "", &n.to_string()).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for message in node.pull(pull_header("T", 0, 0)).await.messages {
        times.push(message.store_timestamp);
    }
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
    let at = |topic: &str, queue| (topic.to_owned(), queue);
    for ((topic, queue), max, code) in
        [(at("T", 0), 4, 0), (at("T", 1), 0, 0), (at("T", 9), 0, 29), (at("U", 0), 0, 17)]
    {
        let header = GetMaxOffsetRequest { topic: topic.clone(), queue_id: queue, committed: true };
        let response = node.ask(RequestCode::GET_MAX_OFFSET, &header).await;
        assert_eq!(response.code, code);
        if code == 0 {
            assert_eq!(offset(&response), max);
            let header = GetMinOffsetRequest { topic, queue_id: queue };
            assert_eq!(offset(&node.ask(RequestCode::GET_MIN_OFFSET, &header).await), 0);
        }
    }
    for (queue, want) in [(0, times[0]), (1, -1)] {
        let header = GetMinOffsetRequest { topic: "T".into(), queue_id: queue };
        let response = node.ask(RequestCode::GET_EARLIEST_MSG_STORETIME, &header).await;
        assert_eq!(GetEarliestMsgStoretimeResponse::decode(&response.ext).unwrap().timestamp, want);
    }
    for (timestamp, boundary, want) in [
        (0, None, 0),
        (times[2], None, 2),
        (times[2], Some("UPPER"), 2),
        (times[3] + 1, None, 4),
        (times[3] + 1, Some("upper"), 3),
        (times[1] + 1, Some("LOWER"), 2),
        (times[1] + 1, Some("UPPER"), 1),
    ] {
        let header = SearchOffsetRequest {
            topic: "T".into(),
            queue_id: 0,
            timestamp,
            boundary_type: boundary.map(str::to_owned),
        };
        let found = offset(&node.ask(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, &header).await);
        assert_eq!(found, want, "{timestamp} {boundary:?} in {times:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_found_by_key_and_unique_id() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for n in 0..3 {
        let given = properties(&[("KEYS", "order-1 other"), ("UNIQ_KEY", &format!("U{n}"))]);
        node.send("T", 0, &given, &n.to_string()).await;
    }
    let query = |topic: &str, key: &str| QueryMessageRequest {
        topic: topic.into(),
        key: key.into(),
        max_num: 2,
        begin_timestamp: 0,
        end_timestamp: i64::MAX,
    };
    let found = |response: &RemotingCommand| -> Vec<String> {
        let messages = Message::decode_all(&response.body).unwrap();
        messages.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
    };
    let response = node.ask(RequestCode::QUERY_MESSAGE, &query("T", "order-1")).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    assert_eq!(found(&response), ["2", "1"], "newest first, no more than wanted");
    let request = RemotingCommand::request(RequestCode::QUERY_MESSAGE)
        .with_header(&query("T", "U1"))
        .with_ext("_UNIQUE_KEY_QUERY", "true");
    assert_eq!(found(&node.call(request).await), ["1"]);
    for (topic, key) in [("T", "order"), ("T", "U9"), ("U", "order-1")] {
        assert_eq!(node.ask(RequestCode::QUERY_MESSAGE, &query(topic, key)).await.code, 22, "{topic} {key}");
    }
    let early = QueryMessageRequest { end_timestamp: 1_000, ..query("T", "order-1") };
    assert_eq!(node.ask(RequestCode::QUERY_MESSAGE, &early).await.code, 22);
    node.stop().await;
}
