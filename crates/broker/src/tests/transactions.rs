//! Half messages, 37 and 39, on one node and on three.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use net::{Handler, Replier};
use tokio::sync::mpsc;
use wire::{
    Body, CheckTransactionStateRequest, EndTransactionRequest, HeartbeatData, Language, OffsetMessageId,
    ProducerData, prop, properties_get, sysflag, topic as system,
};

use super::clocks::HOUR_MS;
use super::delaying::plant_record;
use super::three::Three;
use super::*;
use crate::transactions::token::Token;

pub(super) const COMMIT: i32 = sysflag::TRANSACTION_COMMIT;
const ROLLBACK: i32 = sysflag::TRANSACTION_ROLLBACK;

/// A half message as its sender knows it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Half {
    offset: i64,
    position: i64,
    transaction_id: String,
}

fn half_properties(key: &str, more: &[(&str, &str)]) -> String {
    let own = [(prop::TRAN_MSG, "true"), (prop::PGROUP, "p"), (prop::UNIQ_KEY, key), (prop::TAGS, "t")];
    properties(&[&own[..], more].concat())
}

pub(super) fn half_request(topic: &str, queue: i32, key: &str, more: &[(&str, &str)]) -> RemotingCommand {
    let properties = half_properties(key, more);
    let mut header = send_header(topic, queue, &properties);
    header.sys_flag = sysflag::TRANSACTION_PREPARED;
    let mut request =
        RemotingCommand::request(RequestCode::SEND_MESSAGE_V2).with_body(key.as_bytes().to_vec());
    header.encode_for(RequestCode::SEND_MESSAGE_V2, &mut request.ext);
    request
}

pub(super) async fn send_half(client: &Client, address: &str, request: RemotingCommand) -> Half {
    let response = client.call(address, request, SOON).await.unwrap();
    assert_eq!(response.code, 0, "{:?}", response.remark);
    let sent = SendMessageResponse::decode(&response.ext).unwrap();
    let id: OffsetMessageId = sent.msg_id.parse().unwrap();
    Half {
        offset: sent.queue_offset,
        position: id.position.to_wire(),
        transaction_id: sent.transaction_id.unwrap(),
    }
}

pub(super) fn end_header(half: &Half, how: i32) -> EndTransactionRequest {
    EndTransactionRequest {
        topic: Some("T".into()),
        producer_group: "p".into(),
        tran_state_table_offset: half.offset,
        commit_log_offset: half.position,
        commit_or_rollback: how,
        from_transaction_check: false,
        msg_id: half.transaction_id.clone(),
        transaction_id: Some(half.transaction_id.clone()),
    }
}

fn end_request(header: &EndTransactionRequest) -> RemotingCommand {
    RemotingCommand::request(RequestCode::END_TRANSACTION).with_header(header)
}

/// Ends a transaction, asking for an answer, which no stock client does: its code and remark.
pub(super) async fn end(client: &Client, address: &str, header: &EndTransactionRequest) -> (i32, String) {
    let response = client.call(address, end_request(header), SOON).await.unwrap();
    (response.code, response.remark.unwrap_or_default())
}

/// Messages of queue 0 of a topic, as the node at `address` gives them out.
async fn stored(client: &Client, address: &str, topic: &str) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        let header = pull_header(topic, 0, all.len() as i64);
        let request = RemotingCommand::request(RequestCode::PULL_MESSAGE).with_header(&header);
        let response = client.call(address, request, SOON).await.unwrap();
        match response.code {
            0 => all.extend(Message::decode_all(&response.body).unwrap()),
            17 | 19 => return all,
            other => panic!("code {other}: {:?}", response.remark),
        }
    }
}

async fn keys(client: &Client, address: &str, topic: &str) -> Vec<String> {
    let key = |message: Message| String::from_utf8(message.body.to_vec()).unwrap();
    stored(client, address, topic).await.into_iter().map(key).collect()
}

/// A producer that notes what it is asked (39).
struct Asked(Mutex<mpsc::UnboundedSender<RemotingCommand>>);

impl Handler for Asked {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        assert_eq!(request.request_code(), RequestCode::CHECK_TRANSACTION_STATE);
        assert!(request.is_oneway());
        // A test that is over does not listen any more.
        let _ = self.0.lock().unwrap().send(request);
        replier.forget();
    }
}

async fn producer(
    address: &str,
    id: &str,
    group: &str,
) -> (Client, mpsc::UnboundedReceiver<RemotingCommand>) {
    producer_of(Language::Java, address, id, group).await
}

async fn producer_of(
    language: Language,
    address: &str,
    id: &str,
    group: &str,
) -> (Client, mpsc::UnboundedReceiver<RemotingCommand>) {
    let (sender, asked) = mpsc::unbounded_channel();
    let client = Client::with_handler(ClientConfig::default(), Arc::new(Asked(Mutex::new(sender))));
    let data = HeartbeatData {
        client_id: id.into(),
        producer_data_set: vec![ProducerData { group_name: group.into() }],
        ..HeartbeatData::default()
    };
    let mut request = RemotingCommand::request(RequestCode::HEART_BEAT).with_body(data.encode());
    request.language = language;
    assert_eq!(client.call(address, request, SOON).await.unwrap().code, 0);
    (client, asked)
}

/// A 39, and the message that it shows.
struct Check {
    header: CheckTransactionStateRequest,
    message: Message,
}

async fn asked(checks: &mut mpsc::UnboundedReceiver<RemotingCommand>) -> Check {
    let request = tokio::time::timeout(SOON, checks.recv()).await.expect("asked in time").unwrap();
    let header = CheckTransactionStateRequest::decode(&request.ext).unwrap();
    let message = Message::decode_all(&request.body).unwrap().remove(0);
    Check { header, message }
}

/// The 37 by which a stock client answers a 39.
fn answer(check: &Check, how: i32) -> EndTransactionRequest {
    EndTransactionRequest {
        topic: check.header.topic.clone(),
        producer_group: "p".into(),
        tran_state_table_offset: check.header.tran_state_table_offset,
        commit_log_offset: check.header.commit_log_offset,
        commit_or_rollback: how,
        from_transaction_check: true,
        msg_id: check.header.msg_id.clone().unwrap(),
        transaction_id: check.header.transaction_id.clone(),
    }
}

/// Checks soon and often, so that tests need not wait.
fn quick(config: &mut BrokerConfig) {
    for group in &mut config.groups {
        group.transaction_timeout_ms = 100;
        group.transaction_check_interval_ms = 200;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_message_is_seen_when_it_is_committed_and_never_when_rolled_back() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let (client, address) = (&node.client, node.address.as_str());
    let first = send_half(client, address, half_request("T", 0, "K1", &[])).await;
    let second = send_half(client, address, half_request("T", 0, "K2", &[])).await;
    assert_eq!((first.offset, second.offset), (0, 1));
    assert_eq!(first.transaction_id, "K1");
    assert!(stored(client, address, "T").await.is_empty());
    let halves = stored(client, address, system::TRANS_HALF).await;
    let get = |name: &str| halves[0].properties.get(name).map(String::as_str);
    assert_eq!((get(prop::REAL_TOPIC), get(prop::REAL_QID)), (Some("T"), Some("0")));
    assert_eq!((get(prop::TRANSACTION_ID), get(prop::PGROUP)), (Some("K1"), Some("p")));
    assert_eq!(halves[0].sys_flag & sysflag::TRANSACTION, 0);

    assert_eq!(end(client, address, &end_header(&first, ROLLBACK)).await.0, 0);
    assert_eq!(end(client, address, &end_header(&second, COMMIT)).await.0, 0);
    let messages = stored(client, address, "T").await;
    assert_eq!(messages.len(), 1);
    let message = &messages[0];
    assert_eq!((&message.body[..], message.queue_offset.to_wire()), (&b"K2"[..], 0));
    assert_eq!(message.sys_flag & sysflag::TRANSACTION, COMMIT);
    assert_eq!(message.prepared_transaction_offset, second.position);
    let get = |name: &str| message.properties.get(name).map(String::as_str);
    assert_eq!([prop::REAL_TOPIC, prop::REAL_QID, prop::TRAN_MSG].map(get), [None; 3]);
    assert_eq!((get(prop::TAGS), get(prop::TRANSACTION_ID)), (Some("t"), Some("K2")));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_wrong_late_or_repeated_does_nothing() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let (client, address) = (&node.client, node.address.as_str());
    let one = send_half(client, address, half_request("T", 0, "K1", &[])).await;
    let other = send_half(client, address, half_request("T", 0, "K2", &[])).await;
    let good = end_header(&one, COMMIT);
    for (header, want) in [
        (EndTransactionRequest { producer_group: "q".into(), ..good.clone() }, "producer group"),
        (EndTransactionRequest { commit_log_offset: other.position, ..good.clone() }, "commit log offset"),
        (
            EndTransactionRequest { tran_state_table_offset: other.offset, ..good.clone() },
            "commit log offset",
        ),
        (EndTransactionRequest { tran_state_table_offset: 77, ..good.clone() }, "Find prepared"),
        (EndTransactionRequest { tran_state_table_offset: -1, ..good.clone() }, "state table offset"),
        (
            EndTransactionRequest {
                transaction_id: Some(format!("t1.1.{}.2.K2b1", other.position)),
                ..good.clone()
            },
            "names another message",
        ),
        (
            EndTransactionRequest { transaction_id: Some("K2".into()), ..good.clone() },
            "names another message",
        ),
    ] {
        let (code, remark) = end(client, address, &header).await;
        assert_eq!(code, 1, "{header:?}: {remark}");
        assert!(remark.contains(want), "{header:?}: {remark}");
    }
    // One who does not name it at all ends it by its place.
    let nameless = send_half(client, address, half_request("T", 0, "K3", &[])).await;
    let header =
        EndTransactionRequest { transaction_id: Some(String::new()), ..end_header(&nameless, ROLLBACK) };
    assert_eq!(end(client, address, &header).await.0, 0);
    // Nobody knows: nothing happens, and nothing is refused.
    assert_eq!(end(client, address, &end_header(&one, 0)).await.0, 0);
    assert!(stored(client, address, "T").await.is_empty());

    assert_eq!(end(client, address, &good).await.0, 0);
    for how in [COMMIT, ROLLBACK, COMMIT] {
        let (code, remark) = end(client, address, &end_header(&one, how)).await;
        assert_eq!(code, 1);
        assert!(remark.contains("is over"), "{remark}");
    }
    assert_eq!(end(client, address, &end_header(&other, ROLLBACK)).await.0, 0);
    assert_eq!(end(client, address, &end_header(&other, COMMIT)).await.0, 1);
    assert_eq!(keys(client, address, "T").await, ["K1"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_says_so_cannot_be_ended_late() {
    let node = OneNode::with(quick).await;
    let (client, address) = (&node.client, node.address.as_str());
    let property = [(prop::CHECK_IMMUNITY_TIME_IN_SECONDS, "0")];
    let half = send_half(client, address, half_request("T", 0, "K1", &property)).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let (code, remark) = end(client, address, &end_header(&half, COMMIT)).await;
    assert_eq!(code, 604, "{remark}");
    let checked = EndTransactionRequest { from_transaction_check: true, ..end_header(&half, COMMIT) };
    assert_eq!(end(client, address, &checked).await.0, 0);
    assert_eq!(keys(client, address, "T").await, ["K1"]);
    node.stop().await;
}

/// Ends that arrive together go into few entries, and one that is over already does not take the others with it.
#[tokio::test(flavor = "multi_thread")]
async fn many_ends_at_once_each_have_their_own_fate() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let (client, address) = (&node.client, node.address.as_str());
    let sends = (0..200).map(|n| send_half(client, address, half_request("T", 0, &format!("K{n:03}"), &[])));
    let mut halves = futures::future::join_all(sends).await;
    halves.sort_by_key(|half| half.offset);
    let before = node.broker.status()[0].last_index;
    // Every third is rolled back; each is ended twice, at once.
    let how = |n: usize| if n.is_multiple_of(3) { ROLLBACK } else { COMMIT };
    let ends = halves.iter().enumerate().flat_map(|(n, half)| {
        let header = end_header(half, how(n));
        [header.clone(), header].map(|header| async move { (n, end(client, address, &header).await) })
    });
    let mut done = vec![0; halves.len()];
    for (n, (code, remark)) in futures::future::join_all(ends).await {
        if code == 0 {
            done[n] += 1;
        } else {
            assert!(remark.contains("is over"), "{n}: {code} {remark}");
        }
    }
    assert!(done.iter().all(|times| *times == 1), "{done:?}");
    let entries = node.broker.status()[0].last_index - before;
    assert!(entries < 200, "{entries} entries for 200 transactions");
    let mut got = keys(client, address, "T").await;
    got.sort_unstable();
    let mut want: Vec<String> =
        (0..halves.len()).filter(|n| how(*n) == COMMIT).map(|n| halves[n].transaction_id.clone()).collect();
    want.sort_unstable();
    assert_eq!(got, want);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_gone_is_made_again_where_that_is_allowed() {
    for allowed in [true, false] {
        let node = OneNode::with(|config| config.groups[0].auto_create_topic = allowed.into()).await;
        node.create_topic("T", 4).await;
        let (client, address) = (&node.client, node.address.as_str());
        let half = send_half(client, address, half_request("T", 3, "K1", &[])).await;
        let delete = wire::TopicRequest { topic: "T".into() };
        assert_eq!(node.ask(RequestCode::DELETE_TOPIC_IN_BROKER, &delete).await.code, 0);
        let (code, remark) = end(client, address, &end_header(&half, COMMIT)).await;
        if allowed {
            assert_eq!(code, 0, "{remark}");
            let message = node.pull(pull_header("T", 3, 0)).await;
            assert_eq!(message.bodies(), ["K1"]);
        } else {
            assert_eq!(code, 17, "{remark}");
            node.create_topic("T", 1).await;
            // It is pending still. There is one queue now.
            assert_eq!(end(client, address, &end_header(&half, COMMIT)).await.0, 0);
            assert_eq!(keys(client, address, "T").await, ["K1"]);
        }
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_are_asked_until_one_knows() {
    let node = OneNode::with(quick).await;
    let (client, address) = (&node.client, node.address.as_str());
    let (_producer, mut checks) = producer(address, "c1", "p").await;
    let half = send_half(client, address, half_request("T", 0, "K1", &[])).await;
    for times in 1..=3 {
        let check = asked(&mut checks).await;
        assert_eq!(check.message.topic, "T");
        assert_eq!(&check.message.body[..], b"K1");
        let get = |name: &str| check.message.properties.get(name).map(String::as_str);
        assert_eq!(get(prop::TRANSACTION_CHECK_TIMES), Some(times.to_string().as_str()));
        assert_eq!(check.message.queue_offset.to_wire(), half.offset);
        assert_eq!(
            (check.header.tran_state_table_offset, check.header.commit_log_offset),
            (half.offset, half.position)
        );
        assert_eq!(check.header.msg_id.as_deref(), Some("K1"));
        assert_eq!(check.header.broker_name.as_deref(), Some("b1"));
        let how = if times == 3 { COMMIT } else { 0 };
        let response = end(client, address, &answer(&check, how)).await;
        assert_eq!(response.0, 0, "{}", response.1);
    }
    assert_eq!(keys(client, address, "T").await, ["K1"]);
    // It is over: nobody is asked of it any more.
    let again = tokio::time::timeout(Duration::from_millis(600), checks.recv()).await;
    assert!(again.is_err(), "{again:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_which_nobody_knows_is_put_aside() {
    let node = OneNode::with(|config| {
        quick(config);
        config.groups[0].transaction_checks_max = 2;
    })
    .await;
    let (client, address) = (&node.client, node.address.as_str());
    let (_producer, mut checks) = producer(address, "c1", "p").await;
    let half = send_half(client, address, half_request("T", 0, "K1", &[])).await;
    // Of this group no producer is connected: that counts as well.
    let mut alone = half_request("T", 0, "K2", &[]);
    let properties = half_properties("K2", &[(prop::PGROUP, "gone")]);
    alone.ext.set("i", &properties);
    send_half(client, address, alone).await;
    let (first, second) = (asked(&mut checks).await, asked(&mut checks).await);
    assert_eq!(first.header, second.header);
    let start = Instant::now();
    let aside = loop {
        let aside = stored(client, address, system::TRANS_CHECK_MAX_TIME).await;
        if aside.len() == 2 {
            break aside;
        }
        assert!(start.elapsed() < SOON, "{} put aside", aside.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let get = |name: &str| aside[0].properties.get(name).map(String::as_str);
    assert_eq!((get(prop::REAL_TOPIC), get(prop::TRANSACTION_CHECK_TIMES)), (Some("T"), Some("2")));
    assert!(checks.try_recv().is_err(), "two checks were allowed");
    let (code, remark) = end(client, address, &end_header(&half, COMMIT)).await;
    assert_eq!(code, 1, "{remark}");
    assert!(stored(client, address, "T").await.is_empty());

    // An administrator has them asked once more, each attempt counted anew.
    let resume = async |id: String| {
        let header = wire::ResumeCheckHalfMessageRequest { topic: None, msg_id: Some(id) };
        let response = node.ask(RequestCode::RESUME_CHECK_HALF_MESSAGE, &header).await;
        (response.code, response.remark.unwrap_or_default())
    };
    let host = node.address.parse().unwrap();
    let id = |position| OffsetMessageId { host, position }.to_string();
    assert_eq!(resume(id(aside[0].position)).await.0, 0);
    let check = asked(&mut checks).await;
    assert_eq!((&check.message.body[..], check.message.topic.as_str()), (&b"K1"[..], "T"));
    assert_eq!(check.message.property(prop::TRANSACTION_CHECK_TIMES), Some("1"));
    assert_eq!(end(client, address, &answer(&check, COMMIT)).await.0, 0);
    assert_eq!(keys(client, address, "T").await, ["K1"]);
    let plain = node.pull(pull_header("T", 0, 0)).await.messages[0].position;
    let before = node.broker.hosted("b1").state.totals();
    for id in [
        "x".to_owned(),
        String::new(),
        id(plain),
        id(wire::LogPosition(half.position as u64)),
        id(wire::LogPosition(7)),
    ] {
        let (code, remark) = resume(id.clone()).await;
        assert_eq!((code, remark.contains("not put back")), (1, true), "{id}: {remark}");
    }
    assert_eq!(node.broker.hosted("b1").state.totals(), before, "nothing was stored");
    node.stop().await;
}

/// Half at a follower, producer at another node, its answer at any node; then the leader dies in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_survive_their_leader() {
    let mut three = Three::start(|config| {
        quick(config);
        config.groups[0].transaction_checks_max = 1000;
    })
    .await;
    let client = Client::new(ClientConfig::default());
    let leader = three.leader().await;
    let others: Vec<u64> = three.addresses.keys().copied().filter(|node| *node != leader).collect();
    let at = |node: u64| three.addresses[&node].clone();
    let (by_one, by_other) = (at(others[0]), at(others[1]));
    let (_producer, mut checks) = producer(&by_other, "c1", "p").await;
    let pending = send_half(&client, &by_one, half_request("T", 0, "K1", &[])).await;
    let committed = send_half(&client, &by_one, half_request("T", 0, "K2", &[])).await;
    let (code, remark) = end(&client, &by_other, &end_header(&committed, COMMIT)).await;
    assert_eq!(code, 0, "{remark}");
    let times =
        |check: &Check| -> u32 { check.message.properties[prop::TRANSACTION_CHECK_TIMES].parse().unwrap() };
    let before = loop {
        let check = asked(&mut checks).await;
        assert_eq!(check.header.commit_log_offset, pending.position);
        if times(&check) >= 2 {
            break times(&check);
        }
    };
    // Its own one-way answer, through the node that carried the check.
    drop(three.brokers.remove(&leader));
    let new = three.leader().await;
    assert_ne!(new, leader);
    while checks.try_recv().is_ok() {}
    let check = asked(&mut checks).await;
    assert!(times(&check) > before, "the count goes on: {} after {before}", times(&check));
    client.call(&by_other, end_request(&answer(&check, COMMIT)), SOON).await.unwrap();
    let start = Instant::now();
    loop {
        let got = keys(&client, &by_one, "T").await;
        if got.len() == 2 {
            assert_eq!(got, ["K2", "K1"]);
            break;
        }
        assert!(start.elapsed() < SOON, "{got:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for half in [&pending, &committed] {
        let (code, remark) = end(&client, &by_one, &end_header(half, COMMIT)).await;
        assert_eq!(code, 1, "{remark}");
    }
    assert_eq!(keys(&client, &by_other, "T").await.len(), 2);
    three.stop().await;
}

/// Commits go on while the leader is killed; each message is there once, or its transaction is pending and can be ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_among_commits_repeats_and_loses_none() {
    let mut three = Three::start(|_| {}).await;
    let client = Client::new(ClientConfig::default());
    let leader = three.leader().await;
    let survivor = three.other_than(leader);
    let (first, address) = (three.addresses[&leader].clone(), three.addresses[&survivor].clone());
    let sends = (0..300).map(|n| send_half(&client, &first, half_request("T", 0, &format!("K{n:03}"), &[])));
    let halves = futures::future::join_all(sends).await;
    let dying = async {
        let ends = halves.iter().map(|half| {
            let (client, address) = (&client, &address);
            async move { client.call(address, end_request(&end_header(half, COMMIT)), SOON).await }
        });
        futures::future::join_all(ends).await
    };
    let killing = async {
        tokio::task::yield_now().await;
        three.brokers.remove(&leader)
    };
    let (_, killed) = tokio::join!(dying, killing);
    drop(killed);
    three.leader().await;
    // Whatever was answered: a second end of each does what is missing, and no more.
    for half in &halves {
        let start = Instant::now();
        loop {
            match client.call(&address, end_request(&end_header(half, COMMIT)), SOON).await {
                Ok(response) if response.code == 0 => break,
                Ok(response) if response.remark.as_deref().unwrap_or("").contains("is over") => break,
                other => assert!(start.elapsed() < SOON, "{other:?}"),
            }
        }
    }
    let mut got = keys(&client, &address, "T").await;
    got.sort_unstable();
    assert_eq!(got, (0..300).map(|n| format!("K{n:03}")).collect::<Vec<_>>());
    three.stop().await;
}

/// Two groups on three nodes: an end that meets the other group's listener finds its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_finds_its_group() {
    let second = |config: &mut BrokerConfig| {
        quick(config);
        let mut group = config.groups[0].clone();
        group.name = "b2".into();
        group.listen.set_port(tests::ports::free().unwrap());
        config.groups.push(group);
    };
    let three = Three::start(second).await;
    let client = Client::new(ClientConfig::default());
    // The producer is connected to a listener of b2 on node 3; the half message goes to b1.
    let other_group: Vec<String> =
        three.brokers.values().map(|broker| broker.addresses()["b2"].to_string()).collect();
    let (producer, mut checks) = producer(&other_group[2], "c1", "p").await;
    send_half(&client, &three.addresses[&1], half_request("T", 0, "K1", &[])).await;
    let check = asked(&mut checks).await;
    // As 4.9 does: no broker name, one-way, to where the check came from.
    let request = end_request(&answer(&check, COMMIT)).oneway();
    producer.send_oneway(&other_group[2], request, SOON).await.unwrap();
    let start = Instant::now();
    while keys(&client, &three.addresses[&1], "T").await.is_empty() {
        assert!(start.elapsed() < SOON, "the end did not find its group");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // As Go does, which is shown another id with the message than it is told.
    drop((producer, checks));
    let (producer, mut checks) = producer_of(Language::Go, &other_group[2], "c2", "p").await;
    let resent = half_request("T", 0, "K2", &[(prop::TRANSACTION_ID, "K0")]);
    send_half(&client, &three.addresses[&1], resent).await;
    let check = asked(&mut checks).await;
    let transaction_id = Some(check.message.properties[prop::TRANSACTION_ID].clone());
    let request = end_request(&EndTransactionRequest { transaction_id, ..answer(&check, COMMIT) }).oneway();
    producer.send_oneway(&other_group[2], request, SOON).await.unwrap();
    while keys(&client, &three.addresses[&1], "T").await != ["K1", "K2"] {
        assert!(start.elapsed() < SOON * 2, "the end of a Go client did not find its group");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(stored(&client, &other_group[0], "T").await.is_empty());
    three.stop().await;
}

/// A node that does not have the group at all passes an end on, or says that it cannot.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_meets_a_node_without_its_group_is_passed_on() {
    let three = Three::start(|config| {
        quick(config);
        let group = &mut config.groups[0];
        if config.node == 3 {
            (group.name, group.voters) = ("b2".into(), vec![3]);
        } else {
            group.voters = vec![1, 2];
        }
    })
    .await;
    let (here, elsewhere) = (three.addresses[&1].as_str(), three.addresses[&3].as_str());
    let client = Client::new(ClientConfig::default());
    let (producer, mut checks) = producer(elsewhere, "c1", "p").await;
    send_half(&client, here, half_request("T", 0, "K1", &[])).await;
    let check = asked(&mut checks).await;
    // To where the check came from, one-way, as stock clients do.
    producer.send_oneway(elsewhere, end_request(&answer(&check, COMMIT)).oneway(), SOON).await.unwrap();
    let start = Instant::now();
    while keys(&client, here, "T").await.is_empty() {
        assert!(start.elapsed() < SOON, "the end did not find its group");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let again = end(&producer, elsewhere, &answer(&check, ROLLBACK)).await;
    assert_eq!((again.0, again.1.contains("is over")), (1, true), "{again:?}");

    // The node that the token names is gone, or was never there: whoever else has the group.
    send_half(&client, here, half_request("T", 0, "K2", &[])).await;
    let check = asked(&mut checks).await;
    let named = |node: u64, group: &str| {
        let text = check.header.transaction_id.clone().unwrap();
        let token = Token::parse(&text).unwrap();
        let token = Token { node: replica::NodeId(node), group, ..token }.to_string();
        EndTransactionRequest { transaction_id: Some(token), ..answer(&check, COMMIT) }
    };
    let (code, remark) = end(&producer, elsewhere, &named(1, "b9")).await;
    assert_eq!((code, remark.contains("group b9")), (14, true), "{remark}");
    assert_eq!(keys(&client, here, "T").await, ["K1"], "refused, and not done");
    let (code, remark) = end(&producer, elsewhere, &named(9, "b1")).await;
    assert_eq!(code, 0, "{remark}");
    assert_eq!(keys(&client, here, "T").await, ["K1", "K2"]);
    assert!(stored(&client, elsewhere, "T").await.is_empty());
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_half_is_refused() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for (request, want) in [
        (half_request("T", 0, "K", &[(prop::DELAY, "3")]), 13),
        (half_request("T", 0, "K", &[(prop::DELAY, "x")]), 13),
        (half_request("T", 0, "K", &[(prop::TIMER_DELAY_SEC, "3")]), 13),
        (half_request("T", 0, "K", &[(prop::TIMER_DELIVER_MS, "1")]), 13),
        (half_request("T", 9, "K", &[]), 29),
        (half_request(system::TRANS_HALF, 0, "K", &[]), 16),
    ] {
        let response = node.call(request).await;
        assert_eq!(response.code, want, "{:?}", response.remark);
    }
    let halves = stored(&node.client, &node.address, system::TRANS_HALF).await;
    assert!(halves.is_empty());
    assert_eq!(properties_get(&half_properties("K", &[]), prop::PGROUP), Some("p"));
    // What asks for no delay is no reason.
    for harmless in [(prop::DELAY, "0"), (prop::TIMER_OUT_MS, "1"), ("TIMER_MINE", "x")] {
        let half =
            send_half(&node.client, &node.address, half_request("T", 0, harmless.0, &[harmless])).await;
        assert_eq!(end(&node.client, &node.address, &end_header(&half, COMMIT)).await.0, 0);
    }
    assert_eq!(stored(&node.client, &node.address, "T").await.len(), 3);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_half_message_stays_and_keeps_nobody() {
    let node = OneNode::with(quick).await;
    let (client, address) = (&node.client, node.address.as_str());
    node.create_topic("T", 1).await;
    let (_producer, mut checks) = producer(address, "c", "p").await;
    let place = half_properties("K0", &[(prop::REAL_TOPIC, "T"), (prop::REAL_QID, "0")]);
    let planted = plant_record(&node, wire::topic::TRANS_HALF, &place, true).await;
    let sound = send_half(client, address, half_request("T", 0, "K1", &[])).await;
    // The older one would be asked for first.
    let check = asked(&mut checks).await;
    assert_eq!(check.header.tran_state_table_offset, sound.offset);
    let damaged = Half {
        offset: planted.first_offset.to_wire(),
        position: planted.position.to_wire(),
        transaction_id: String::new(),
    };
    let (code, remark) = end(client, address, &end_header(&damaged, COMMIT)).await;
    assert_eq!(code, 1, "{remark}");
    assert!(remark.contains("damaged"), "{remark}");
    assert_eq!(end(client, address, &answer(&check, COMMIT)).await.0, 0);
    assert_eq!(keys(client, address, "T").await, ["K1"]);
    let state = &node.broker.hosted("b1").state;
    assert!(!state.is_done(wire::topic::TRANS_HALF, wire::QueueId(0), planted.first_offset), "it is kept");
    node.stop().await;
}

/// The leader's own clock counts for nothing where the group's is another.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_gives_nobody_up() {
    let clock = replica::WallClock::default();
    clock.set_ahead_ms(-HOUR_MS);
    let node = OneNode::with(|config| {
        config.wall_clock = clock.clone();
        config.groups[0].transaction_timeout_ms = 60_000;
    })
    .await;
    let (client, address) = (&node.client, node.address.as_str());
    let (_producer, mut checks) = producer(address, "c", "p").await;
    let asks = [(prop::CHECK_IMMUNITY_TIME_IN_SECONDS, "60")];
    let first = send_half(client, address, half_request("T", 0, "K1", &asks)).await;
    send_half(client, address, half_request("T", 0, "K2", &[])).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(checks.try_recv().is_err(), "asked before its time");
    let (code, remark) = end(client, address, &end_header(&first, COMMIT)).await;
    assert_eq!(code, 0, "{remark}");
    // The group's time leaps, and nothing is stored that would tell of it.
    clock.set_ahead_ms(61_000 - HOUR_MS);
    assert_eq!(&asked(&mut checks).await.message.body[..], b"K2");
    node.stop().await;
}
