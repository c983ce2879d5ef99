//! Three nodes in one process: forwarding, parking, what survives the loss of a leader.

use std::time::Instant;

use wire::Body;

use super::slow_disk::SlowDisk;
use super::three::Three;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn any_node_answers_or_passes_on() {
    let three = Three::start(|_| {}).await;
    for node in 1..=3 {
        assert_eq!(three.at(node).message(&node.to_string()).await, node as i64 - 1);
    }
    for node in 1..=3 {
        let at = three.at(node);
        let (code, bodies) = at.pulled(&pull_header("T", 0, 0)).await;
        assert_eq!((code, bodies), (0, vec!["1".to_owned(), "2".into(), "3".into()]));
        // Above its own maximum, or the leader's: only the leader says that an offset moved.
        assert_eq!(at.pulled(&pull_header("T", 0, 3)).await.0, 19);
        assert_eq!(at.pulled(&pull_header("T", 0, 9)).await.0, 21);
        let max = wire::GetMaxOffsetRequest { topic: "T".into(), queue_id: 0, committed: true };
        assert_eq!(at.ask(RequestCode::GET_MAX_OFFSET, &max).await.ext.get("offset"), Some("3"));
    }
    // Held where it arrives, woken by what is applied there.
    for node in 1..=3 {
        let at = three.at(node);
        let next = at.pulled(&pull_header("T", 0, 0)).await.1.len() as i64;
        let mut header = pull_header("T", 0, next);
        header.sys_flag |= pull_flag::SUSPEND;
        header.suspend_timeout_millis = 20_000;
        let start = Instant::now();
        let (pulled, _) = tokio::join!(at.pulled(&header), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            three.at(1).message("late").await
        });
        assert_eq!(pulled, (0, vec!["late".to_owned()]));
        assert!(start.elapsed() < SOON);
    }
    three.stop().await;
}

/// The client's address, not that of the node that passes its message on.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_passed_on_was_born_at_its_client() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.7:0".parse().unwrap()).unwrap();
    let mut client =
        socket.connect(three.addresses[&three.other_than(leader)].parse().unwrap()).await.unwrap();
    let mut buffer = bytes::BytesMut::new();
    send_request("T", 0, "", "x").encode(&mut buffer);
    client.write_all(&buffer).await.unwrap();
    buffer.clear();
    let response = loop {
        if let Some(response) = wire::decode_frame(&mut buffer, 1 << 20).unwrap() {
            break response;
        }
        assert!(client.read_buf(&mut buffer).await.unwrap() > 0, "closed");
    };
    assert_eq!(response.code, 0, "{:?}", response.remark);
    let pulled = three.at(leader).ask(RequestCode::PULL_MESSAGE, &pull_header("T", 0, 0)).await;
    let messages = Message::decode_all(&pulled.body).unwrap();
    assert_eq!(messages[0].born_host, client.local_addr().unwrap());
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_may_read_where_allowed() {
    let three = Three::start(|config| config.groups[0].follower_reads = true.into()).await;
    let leader = three.leader().await;
    for n in 0..3 {
        three.at(leader).message(&n.to_string()).await;
    }
    for node in 1..=3 {
        let mut header = pull_header("T", 0, 2);
        header.sys_flag |= pull_flag::SUSPEND;
        header.suspend_timeout_millis = 5_000;
        let (code, bodies) = three.at(node).pulled(&header).await;
        assert_eq!((code, bodies), (0, vec!["2".to_owned()]), "node {node}");
        assert_eq!(three.at(node).pulled(&pull_header("T", 0, 9)).await.0, 21, "node {node}");
    }
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_meets_an_election_and_waits() {
    let mut three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    three.at(leader).message("0").await;
    drop(three.brokers.remove(&leader));
    let start = Instant::now();
    let other = three.other_than(leader);
    // What was on its way to the dead leader is of unknown outcome; what comes later waits.
    loop {
        let response = three.at(other).call(send_request("T", 0, "", "1")).await;
        match response.code {
            0 => break,
            1 => assert!(response.remark.unwrap().contains("outcome of the request is unknown")),
            other => panic!("code {other}: {:?}", response.remark),
        }
    }
    let gap = start.elapsed();
    assert!(gap < Duration::from_millis(2200), "{gap:?}");
    assert_ne!(three.leader().await, leader);
    // The old leader comes back and passes on at once.
    three.start_node(leader).await;
    let start = Instant::now();
    let last = three.at(leader).message("2").await;
    assert!(start.elapsed() < Duration::from_millis(2200));
    let (code, mut bodies) = three.at(leader).pulled(&pull_header("T", 0, 0)).await;
    assert_eq!((code, bodies.len() as i64), (0, last + 1));
    bodies.dedup();
    assert_eq!(bodies, ["0", "1", "2"]);
    three.stop().await;
}

/// A send that has left for its leader may be stored, whatever became of that leader: it is never sent to another one (log.md 12).
#[tokio::test(flavor = "multi_thread")]
async fn what_was_on_its_way_to_a_leader_that_dies_is_of_unknown_outcome_and_not_sent_again() {
    let disk = SlowDisk::default();
    let mut three = Three::on_disk(Arc::new(disk.clone()), |_| {}).await;
    let leader = three.leader().await;
    three.at(leader).message("0").await;
    // Nothing is committed any more for some seconds.
    disk.limit(100);
    let client = Client::new(ClientConfig::default());
    let address = three.addresses[&three.other_than(leader)].clone();
    let sent = tokio::spawn(async move { client.call(&address, send_request("T", 0, "", "1"), SOON).await });
    let start = Instant::now();
    while three.brokers[&leader].status()[0].pending_bytes == 0 {
        assert!(start.elapsed() < SOON && !sent.is_finished(), "the leader never had it");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(three.brokers.remove(&leader));
    disk.limit(0);
    let answer = sent.await.unwrap().unwrap();
    let remark = answer.remark.unwrap_or_default();
    assert_eq!((answer.code, remark.contains("outcome of the request is unknown")), (1, true), "{remark}");
    // The next leader may have had it from the first one, once.
    let next = three.leader().await;
    three.at(next).message("2").await;
    let (_, bodies) = three.at(next).pulled(&pull_header("T", 0, 0)).await;
    assert!(bodies == ["0", "2"] || bodies == ["0", "1", "2"], "{bodies:?}");
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_connections_are_reset_in_time() {
    let mut three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    three.at(leader).message("0").await;
    let survivor = three.other_than(leader);
    three.brokers.retain(|node, _| *node == survivor);
    // The old leader's term is over for this node when nobody answers; a send then waits and is given up.
    tokio::time::sleep(Duration::from_millis(800)).await;
    let start = Instant::now();
    let address = &three.addresses[&survivor];
    let result = three.client.call(address, send_request("T", 0, "", "x"), SOON).await;
    let waited = start.elapsed();
    assert!(result.is_err(), "{result:?}");
    assert!((Duration::from_secs(2)..Duration::from_millis(2800)).contains(&waited), "{waited:?}");
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_the_same_everywhere() {
    let three = Three::start(|_| {}).await;
    let clients: Vec<_> = (0..3).map(|_| Client::new(ClientConfig::default())).collect();
    for (n, (client, address)) in clients.iter().zip(three.addresses.values()).enumerate() {
        let data = wire::HeartbeatData {
            client_id: format!("c{n}"),
            consumer_data_set: vec![wire::ConsumerData { group_name: "g".into(), ..Default::default() }],
            ..Default::default()
        };
        let request = RemotingCommand::request(RequestCode::HEART_BEAT).with_body(wire::Body::encode(&data));
        assert_eq!(client.call(address, request, SOON).await.unwrap().code, 0);
    }
    let members = |address: String| {
        let client = &clients[0];
        async move {
            let header = wire::ConsumerGroupRequest { consumer_group: "g".into() };
            let request =
                RemotingCommand::request(RequestCode::GET_CONSUMER_LIST_BY_GROUP).with_header(&header);
            let response = client.call(&address, request, SOON).await.unwrap();
            let body = <wire::GetConsumerListByGroupResponseBody as wire::Body>::decode(&response.body);
            body.map(|body| body.consumer_id_list).unwrap_or_default()
        }
    };
    let wait_for = |want: Vec<&'static str>| {
        let (members, addresses) = (&members, &three.addresses);
        async move {
            let start = Instant::now();
            for address in addresses.values() {
                while members(address.clone()).await != want {
                    assert!(start.elapsed() < SOON, "{:?}", members(address.clone()).await);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    };
    wait_for(vec!["c0", "c1", "c2"]).await;
    clients[2].close();
    wait_for(vec!["c0", "c1"]).await;
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preferred_leader_comes_back() {
    let mut three = Three::start(|config| config.groups[0].preferred_leader = Some(2)).await;
    let by = Instant::now() + Duration::from_secs(20);
    while three.leader().await != 2 {
        assert!(Instant::now() < by, "node 2 never led");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    three.at(1).message("0").await;
    let broker = three.brokers.remove(&2).unwrap();
    broker.shutdown(Drain::Now).await;
    assert_ne!(three.leader().await, 2);
    three.start_node(2).await;
    let start = Instant::now();
    while three.leader().await != 2 {
        assert!(start.elapsed() < Duration::from_secs(20), "leadership did not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(start.elapsed() >= Duration::from_secs(4), "not before it had been caught up for a while");
    assert_eq!(three.at(3).message("1").await, 1);
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_stop_loses_nobody() {
    let mut three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    three.at(leader).message("0").await;
    let other = three.other_than(leader);
    let stopping = tokio::spawn(three.brokers.remove(&leader).unwrap().shutdown(Drain::Now));
    let mut offset = 0;
    // Sends go on through the hand-over, each answered with success.
    while !stopping.is_finished() {
        offset = three.at(other).message("x").await;
    }
    stopping.await.unwrap();
    assert_eq!(three.at(other).message("x").await, offset + 1);
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_when_asked() {
    let three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    let to = if leader == 1 { 2 } else { 1 };
    three.level().await;
    // Asked at a follower, which passes it on.
    let request =
        RemotingCommand::request(RequestCode(crate::TRANSFER_LEADER)).with_ext("node", &to.to_string());
    let response = three.at(to).call(request).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    assert_eq!(three.leader().await, to);
    let request = RemotingCommand::request(RequestCode(crate::GROUP_STATUS));
    let response = three.at(to).call(request).await;
    let report: crate::GroupReport = wire::from_json(&response.body).unwrap();
    assert_eq!((report.leader, report.state.as_str(), report.voters.len()), (to, "leader", 3));
    assert_eq!(report.durability, "quorum-fsync");
    three.stop().await;
}

/// Whether a node has given messages of T to a group, by its own counters (315).
async fn gave_out(at: At<'_>, group: &str) -> bool {
    let header = wire::ViewBrokerStatsDataRequest {
        stats_name: "GROUP_GET_NUMS".into(),
        stats_key: format!("T@{group}"),
    };
    at.ask(RequestCode::VIEW_BROKER_STATS_DATA, &header).await.code == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_reads_only_what_has_more_behind_it() {
    let three = Three::start(|config| config.groups[0].follower_reads = true.into()).await;
    let leader = three.leader().await;
    for n in 0..3 {
        three.at(leader).message(&n.to_string()).await;
    }
    let follower = three.other_than(leader);
    let start = Instant::now();
    while three.brokers[&follower].status()[0].applied_index
        < three.brokers[&leader].status()[0].applied_index
    {
        assert!(start.elapsed() < SOON, "the follower does not follow");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pull = |group: &str, offset, subscription: &str| PullMessageRequest {
        consumer_group: group.into(),
        max_msg_nums: 1,
        subscription: Some(subscription.into()),
        ..pull_header("T", 0, offset)
    };
    // The follower itself, for there is more behind it; at the end of what is applied there the leader, for it may have
    // more and names the maximum.
    assert_eq!(three.at(follower).pulled(&pull("within", 0, "*")).await, (0, vec!["0".to_owned()]));
    assert_eq!(three.at(follower).pulled(&pull("end", 2, "*")).await, (0, vec!["2".to_owned()]));
    assert_eq!(three.at(follower).pulled(&pull("end", 0, "z")).await, (20, vec![]));
    assert_eq!(three.at(follower).pulled(&pull("end", 3, "*")).await, (19, vec![]));
    for (group, by_follower) in [("within", true), ("end", false)] {
        assert_eq!(gave_out(three.at(follower), group).await, by_follower, "{group}");
        assert_eq!(gave_out(three.at(leader), group).await, !by_follower, "{group}");
    }
    // What the tables of a follower do not have is the leader's to refuse.
    let unknown = PullMessageRequest { topic: "U".into(), ..pull("end", 0, "*") };
    assert_eq!(three.at(follower).pulled(&unknown).await.0, 17);
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_while_commits_keep_coming() {
    let three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    three.at(leader).message("0").await;
    let connection = three.client.connection(&three.addresses[&leader], SOON).await.unwrap();
    let committing = tokio::spawn(async move {
        for offset in 0.. {
            let header = wire::UpdateConsumerOffsetRequest {
                consumer_group: "TOOLS_CONSUMER".into(),
                topic: "T".into(),
                queue_id: (offset % 4) as i32,
                commit_offset: offset,
            };
            let request = RemotingCommand::request(RequestCode::UPDATE_CONSUMER_OFFSET).with_header(&header);
            connection.send_oneway(request).unwrap();
            // An answer, so that the broker is not flooded.
            let ping = RemotingCommand::request(RequestCode::GET_BROKER_CONFIG);
            connection.request(ping, SOON).await.unwrap();
        }
    });
    let to = if leader == 1 { 2 } else { 1 };
    let request =
        RemotingCommand::request(RequestCode(crate::TRANSFER_LEADER)).with_ext("node", &to.to_string());
    let response = three.at(leader).call(request).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    assert_eq!(three.leader().await, to);
    assert!(!committing.is_finished(), "they went on all the time");
    committing.abort();
    three.stop().await;
}

/// What a follower has not applied yet it does not say is missing, and no maximum of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_lags_does_not_refuse_for_the_leader() {
    let three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    let follower = three.other_than(leader);
    let ask = async |node: u64, request: RemotingCommand| {
        let response = three.at(node).call(request).await;
        assert_eq!(response.code, 0, "{} at node {node}: {:?}", response.code, response.remark);
        response
    };
    three.at(leader).message("0").await;
    // It lags a little behind every one of these.
    for n in 1..=50i64 {
        let name = format!("N{n}");
        let properties = super::properties(&[("KEYS", name.as_str())]);
        ask(leader, send_request("T", 0, &properties, "m")).await;
        let units = wire::QueryConsumeQueueRequest {
            topic: Some("T".into()),
            queue_id: 0,
            index: n,
            count: 1,
            consumer_group: None,
        };
        let request = RemotingCommand::request(RequestCode::QUERY_CONSUME_QUEUE).with_header(&units);
        let response = ask(follower, request).await;
        let units = wire::QueryConsumeQueueResponseBody::decode(&response.body).unwrap();
        assert_eq!((units.max_queue_index, units.queue_data.len()), (n + 1, 1));

        let name = format!("M{n}");
        let properties = super::properties(&[("KEYS", name.as_str())]);
        ask(leader, send_request("U", 0, &properties, "m")).await;
        let key = wire::QueryMessageRequest {
            topic: "U".into(),
            key: name.clone(),
            max_num: 1,
            begin_timestamp: 0,
            end_timestamp: i64::MAX,
        };
        let request = RemotingCommand::request(RequestCode::QUERY_MESSAGE).with_header(&key);
        assert_eq!(Message::decode_all(&ask(follower, request).await.body).unwrap().len(), 1);

        let topic = wire::CreateTopicRequest {
            topic: name.clone(),
            read_queue_nums: 1,
            write_queue_nums: 1,
            perm: 6,
            ..Default::default()
        };
        let request = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_TOPIC).with_header(&topic);
        ask(leader, request).await;
        let topic = wire::TopicRequest { topic: name.clone() };
        ask(follower, RemotingCommand::request(RequestCode::GET_TOPIC_CONFIG).with_header(&topic)).await;

        let config = wire::SubscriptionGroupConfig::new(&name);
        let request = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP);
        ask(leader, request.with_body(config.encode())).await;
        let group = wire::GroupRequest { group: name };
        let request = RemotingCommand::request(RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG);
        ask(follower, request.with_header(&group)).await;
    }
    let missing = wire::TopicRequest { topic: "none".into() };
    let request = RemotingCommand::request(RequestCode::GET_TOPIC_CONFIG).with_header(&missing);
    assert_eq!(three.at(follower).call(request).await.code, 17);
    let missing = wire::QueryMessageRequest {
        topic: "U".into(),
        key: "none".into(),
        max_num: 1,
        begin_timestamp: 0,
        end_timestamp: i64::MAX,
    };
    let request = RemotingCommand::request(RequestCode::QUERY_MESSAGE).with_header(&missing);
    assert_eq!(three.at(follower).call(request).await.code, 22);
    three.stop().await;
}
