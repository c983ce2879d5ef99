//! 14, 15, 29 to 32, and queries by key.

use std::time::Instant;

use wire::{
    GetEarliestMsgStoretimeResponse, GetMaxOffsetRequest, GetMinOffsetRequest, OffsetResponse,
    QueryConsumerOffsetRequest, QueryMessageRequest, RequestCode, SearchOffsetRequest,
    UpdateConsumerOffsetRequest,
};

use super::*;
use crate::state::command::{Kind, ResetOffsets, TakeResets};

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

fn commit_request(group: &str, queue: i32, offset: i64) -> RemotingCommand {
    RemotingCommand::request(RequestCode::UPDATE_CONSUMER_OFFSET).with_header(&commit(group, queue, offset))
}

/// Stored when this returns.
pub(super) async fn commit_two_way(node: &OneNode, group: &str, queue: i32, offset: i64) {
    assert_eq!(node.call(commit_request(group, queue, offset)).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_offsets() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let group = "TOOLS_CONSUMER";
    assert_eq!(stored(&node, group, "T", 0).await, None);
    // Two-way: stored when it is answered.
    commit_two_way(&node, group, 0, 7).await;
    assert_eq!(stored(&node, group, "T", 0).await, Some(7));
    // One-way: a query sees it at once, merged or not.
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    for offset in [8, 9] {
        connection.send_oneway(commit_request(group, 0, offset)).unwrap();
    }
    assert_eq!(stored(&node, group, "T", 0).await, Some(9));
    // Back, when a client says so.
    commit_two_way(&node, group, 0, 3).await;
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

/// Commits come all the time in a busy cluster: what waits for those that are there must not wait for all that follow.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_however_many_commits_follow() {
    let node = OneNode::start().await;
    node.create_topic("T", 8).await;
    let group = "TOOLS_CONSUMER";
    let committers: Vec<_> = (0..4)
        .map(|n| {
            let address = node.address.clone();
            tokio::spawn(async move {
                let client = Client::new(ClientConfig::default());
                let connection = client.connection(&address, SOON).await.unwrap();
                for round in 0.. {
                    for queue in [2 * n, 2 * n + 1] {
                        connection.send_oneway(commit_request(group, queue, round)).unwrap();
                    }
                    // An answer, so that the broker is not flooded.
                    let ping = RemotingCommand::request(RequestCode::GET_BROKER_CONFIG);
                    connection.request(ping, SOON).await.unwrap();
                }
            })
        })
        .collect();
    let start = Instant::now();
    for queue in 0..8 {
        while stored(&node, group, "T", queue).await.is_none() {
            assert!(start.elapsed() < SOON, "nobody commits");
        }
    }
    for _ in 0..20 {
        let start = Instant::now();
        assert!(stored(&node, group, "T", 0).await.is_some());
        assert!(start.elapsed() < SOON / 2);
    }
    for committer in &committers {
        assert!(!committer.is_finished(), "they went on all the time");
        committer.abort();
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_one_queue_leaves_the_commits_of_others_waiting() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let group = "TOOLS_CONSUMER";
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    let entries = || node.broker.status()[0].last_index;
    for round in 1..20 {
        // After this one, whenever it leaves, the next has to wait for a second.
        let start = Instant::now();
        connection.send_oneway(commit_request(group, 0, 2 * round)).unwrap();
        assert_eq!(stored(&node, group, "T", 0).await, Some(2 * round));
        connection.send_oneway(commit_request(group, 0, 2 * round + 1)).unwrap();
        let before = entries();
        assert_eq!(stored(&node, group, "T", 1).await, None);
        let after = entries();
        let in_time = start.elapsed() < Duration::from_millis(900);
        assert_eq!(stored(&node, group, "T", 0).await, Some(2 * round + 1));
        if in_time {
            assert_eq!(before, after, "nothing of queue 1 waited");
            assert!(entries() > after, "but of queue 0");
            return node.stop().await;
        }
    }
    panic!("the machine is too slow");
}

/// A consumer that stops commits one-way, and its operator looks at once.
#[tokio::test(flavor = "multi_thread")]
async fn consume_stats_have_what_waits_to_be_merged() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let group = "TOOLS_CONSUMER";
    for _ in 0..20 {
        node.send("T", 0, "", "m").await;
    }
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    for offset in 1..=20 {
        connection.send_oneway(commit_request(group, 0, offset)).unwrap();
        let header = wire::GetConsumeStatsRequest { consumer_group: group.into(), ..Default::default() };
        let response = node.ask(RequestCode::GET_CONSUME_STATS, &header).await;
        let stats = <wire::ConsumeStats as wire::Body>::decode(&response.body).unwrap();
        let offsets: Vec<i64> = stats.offset_table.values().map(|row| row.consumer_offset).collect();
        assert_eq!(offsets, [offset]);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_one_connection_keep_their_order() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let group = "TOOLS_CONSUMER";
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    for round in 0..300 {
        let (two_way, one_way) = (1_000 - round, 2_000 + round);
        // Sent in this order: the first poll sends the request.
        let (answer, ()) = tokio::join!(
            biased;
            connection.request(commit_request(group, 0, two_way), SOON),
            async { connection.send_oneway(commit_request(group, 0, one_way)).unwrap() },
        );
        assert_eq!(answer.unwrap().code, 0);
        assert_eq!(
            stored(&node, group, "T", 0).await,
            Some(one_way),
            "the last one, though nobody waits for it"
        );
        connection.send_oneway(commit_request(group, 0, one_way + 1)).unwrap();
        commit_two_way(&node, group, 0, two_way).await;
        assert_eq!(stored(&node, group, "T", 0).await, Some(two_way), "the last one, acknowledged");
    }
    node.stop().await;
}

/// A merged batch leaves at once after a quiet second: what is committed two-way at that moment must stand behind it.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_commit_is_not_overtaken_by_an_older_one() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let group = "TOOLS_CONSUMER";
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    for round in 0..3 {
        connection.send_oneway(commit_request(group, 0, 100 + round)).unwrap();
        commit_two_way(&node, group, 0, round).await;
        // Long enough for whatever still waits, and for a quiet second.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert_eq!(stored(&node, group, "T", 0).await, Some(round));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_ignored_while_a_reset_waits_for_its_consumer() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let group = "TOOLS_CONSUMER";
    commit_two_way(&node, group, 0, 7).await;
    let hosted = node.broker.hosted("b1");
    let key = hosted.state.commit_key("T", group).unwrap();
    let (topic, of) = (key.topic.0, key.group.0);
    let reset = ResetOffsets { topic, group: of, queues: vec![0], offsets: vec![3] };
    assert_eq!(hosted.propose_here(Kind::ResetOffsets(reset).into()).await.unwrap().granted, [0]);
    // Answered with success, one-way and two-way.
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    connection.send_oneway(commit_request(group, 0, 8)).unwrap();
    commit_two_way(&node, group, 0, 9).await;
    commit_two_way(&node, group, 1, 1).await;
    assert_eq!(stored(&node, group, "T", 0).await, Some(3));
    assert_eq!(stored(&node, group, "T", 1).await, Some(1), "of other queues they count");
    let take = TakeResets { topics: vec![topic], groups: vec![of], queues: vec![0], offsets: vec![3] };
    assert_eq!(hosted.propose_here(Kind::TakeResets(take).into()).await.unwrap().granted, [0]);
    commit_two_way(&node, group, 0, 4).await;
    assert_eq!(stored(&node, group, "T", 0).await, Some(4));
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
    // Not what a group has committed there, however young the queue.
    commit_two_way(&node, "TOOLS_CONSUMER", 0, 1).await;
    assert_eq!(stored(&node, "TOOLS_CONSUMER", "T", 0).await, Some(1));
    node.stop().await;

    let node = OneNode::with(|config| config.groups[0].in_memory_percent = 0).await;
    node.create_topic("T", 1).await;
    node.send("T", 0, "", "m").await;
    let header = QueryConsumerOffsetRequest {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: 0,
        set_zero_if_not_found: None,
    };
    let old = node.ask(RequestCode::QUERY_CONSUMER_OFFSET, &header).await;
    assert_eq!(old.code, 22, "an old queue: the client begins where its ConsumeFromWhere says");
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
        (times[0] - 1, Some("LOWER"), 0),
        (times[0] - 1, Some("UPPER"), 0),
        (i64::MIN, None, 0),
        (-1, Some("UPPER"), 0),
        (i64::MAX, None, 4),
        (i64::MAX, Some("UPPER"), 3),
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
    for (topic, queue, code) in [("T", 1, 0), ("T", 2, 29), ("T", -1, 29), ("U", 0, 17)] {
        let header = SearchOffsetRequest {
            topic: topic.into(),
            queue_id: queue,
            timestamp: times[0],
            boundary_type: None,
        };
        let response = node.ask(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, &header).await;
        assert_eq!(response.code, code, "{topic} {queue}");
        if code == 0 {
            assert_eq!(offset(&response), 0, "an empty queue");
        }
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
