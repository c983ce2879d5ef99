//! Feature levels (log.md 15): what a node of an older release would not know is refused, until every node knows it.

use std::time::Instant;

use replica::StateMachine as _;
use wire::{Body, LockBatchRequestBody, MessageQueue, prop};

use super::popping::pop_header;
use super::three::Three;
use super::transactions::half_request;
use super::*;
use crate::state::command::FEATURE_LEVEL;

/// Nothing that needs level 2, asked of any node.
fn new_requests() -> Vec<RemotingCommand> {
    let delayed = |name| send_request("T", 0, &properties(&[(name, "1")]), "later");
    let lock = LockBatchRequestBody {
        client_id: "c".into(),
        consumer_group: "g".into(),
        mq_set: vec![MessageQueue::new("T", "b1", 0)],
        only_this_broker: false,
    };
    vec![
        delayed(prop::DELAY),
        delayed(prop::TIMER_DELAY_MS),
        half_request("T", 0, "K", &[]),
        RemotingCommand::request(RequestCode::LOCK_BATCH_MQ).with_body(lock.encode()),
        RemotingCommand::request(RequestCode::POP_MESSAGE).with_header(&pop_header("T", 0)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_node_would_not_know_waits_for_it() {
    let mut three =
        Three::start(|config| config.groups[0].feature_level = u32::from(config.node != 3) + 1).await;
    let client = Client::new(ClientConfig::default());
    let addresses: Vec<String> = three.addresses.values().cloned().collect();
    let ask =
        async |address: &str, request: RemotingCommand| client.call(address, request, SOON).await.unwrap();
    assert_eq!(ask(&addresses[0], send_request("T", 0, "", "plain")).await.code, 0);
    let group = wire::SubscriptionGroupConfig::new("g");
    let group =
        RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).with_body(group.encode());
    assert_eq!(ask(&addresses[0], group).await.code, 0);
    for address in &addresses {
        for request in new_requests() {
            let code = request.code;
            let response = ask(address, request).await;
            let remark = response.remark.unwrap_or_default();
            assert_eq!((response.code, remark.contains("node 3 has not")), (14, true), "{code}: {remark}");
        }
    }
    // As before there were such entries: by telling consumers, of which there are none.
    let reset = wire::ResetOffsetRequest { topic: "T".into(), group: "g".into(), ..Default::default() };
    let commit = wire::UpdateConsumerOffsetRequest {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: 0,
        commit_offset: 1,
    };
    for queue in 0..4 {
        let commit =
            wire::UpdateConsumerOffsetRequest { queue_id: queue, commit_offset: 0, ..commit.clone() };
        let request = RemotingCommand::request(RequestCode::UPDATE_CONSUMER_OFFSET).with_header(&commit);
        assert_eq!(ask(&addresses[0], request).await.code, 0);
    }
    let reset = RemotingCommand::request(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET).with_header(&reset);
    assert_eq!(ask(&addresses[0], reset.clone()).await.code, 206);
    let state = |three: &Three, node: u64| three.brokers[&node].hosted("b1").state.clone();
    for node in 1..=3 {
        let start = Instant::now();
        while state(&three, node).totals().messages < 1 {
            assert!(start.elapsed() < SOON);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let state = state(&three, node);
        assert_eq!(
            (state.level(), state.totals().messages),
            (1, 1),
            "nothing of it was stored on node {node}"
        );
    }

    // Node 3 gets the new release too.
    three.restart(3, |config| config.groups[0].feature_level = FEATURE_LEVEL).await;
    let start = Instant::now();
    while (1..=3).any(|node| state(&three, node).level() < FEATURE_LEVEL) {
        assert!(start.elapsed() < SOON, "the level was not raised");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for request in new_requests() {
        let code = request.code;
        let response = ask(&addresses[0], request).await;
        assert_eq!(response.code, 0, "{code}: {:?}", response.remark);
    }
    assert_eq!(ask(&addresses[0], reset).await.code, 0);
    three.stop().await;
}

/// A node that was lost before it had the new release holds the others back only until an operator says that it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_raises_a_group_that_lost_a_node() {
    let mut three =
        Three::start(|config| config.groups[0].feature_level = u32::from(config.node != 3) + 1).await;
    three.client.call(&three.addresses[&1], send_request("T", 0, "", "plain"), SOON).await.unwrap();
    let raise = |without: &str| {
        RemotingCommand::request(RequestCode(crate::RAISE_LEVEL)).with_ext("without", without)
    };
    let refused = async |three: &Three, without: &str| {
        let response = three.at(1).call(raise(without)).await;
        assert_ne!(response.code, 0, "without {without}");
        response.remark.unwrap_or_default()
    };
    for (without, why) in [
        ("", "is no list of nodes"),
        ("3,x", "is no list of nodes"),
        ("7", "node 7 is not a member"),
        ("3", "node 3 answers"),
    ] {
        let remark = refused(&three, without).await;
        assert!(remark.contains(why), "{without}: {remark}");
    }
    three.brokers.remove(&3).unwrap().shutdown(Drain::Now).await;
    let delayed = || send_request("T", 0, &properties(&[(prop::TIMER_DELAY_MS, "1")]), "later");
    let remark = three.at(1).call(delayed()).await.remark.unwrap_or_default();
    assert!(remark.contains("node 3 has not"), "{remark}");
    let start = Instant::now();
    let response = loop {
        let response = three.at(2).call(raise("3")).await;
        if response.code == 0 {
            break response;
        }
        // It has answered a moment ago, or was the leader.
        assert!(start.elapsed() < SOON * 2, "{:?}", response.remark);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(response.ext.get("level"), Some(FEATURE_LEVEL.to_string().as_str()));
    let response = three.at(1).call(delayed()).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    assert_eq!(three.at(1).call(raise("3")).await.code, 0, "once more changes nothing");
    three.stop().await;
}

/// A group that was raised stays so: a node that is down, or that holds back at its next start, changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_raised_group_needs_no_further_word() {
    let mut three = Three::start(|_| {}).await;
    let raised = |three: &Three| {
        three.brokers.values().all(|broker| broker.hosted("b1").state.level() == FEATURE_LEVEL)
    };
    let start = Instant::now();
    while !raised(&three) {
        assert!(start.elapsed() < SOON, "nobody used anything new, and it is raised all the same");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let leader = three.leader().await;
    drop(three.brokers.remove(&leader));
    let other = three.addresses.iter().find(|(node, _)| **node != leader).unwrap().1.clone();
    let client = Client::new(ClientConfig::default());
    let delayed = || send_request("T", 0, &properties(&[(prop::TIMER_DELAY_MS, "1")]), "later");
    let start = Instant::now();
    loop {
        let response = client.call(&other, delayed(), SOON).await;
        match response.map(|response| (response.code, response.remark)) {
            Ok((0, _)) => break,
            // It met the election, or went down with the leader.
            Ok((1 | 14, Some(remark))) if !remark.contains("feature level") => {}
            Err(_) => {}
            Ok(refused) => panic!("{refused:?}"),
        }
        assert!(start.elapsed() < SOON * 2);
    }
    three.stop().await;
}
