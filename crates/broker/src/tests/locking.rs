//! 41 and 42.

use std::collections::BTreeSet;

use wire::{Body, LockBatchRequestBody, LockBatchResponseBody, MessageQueue};

use super::clients::{heartbeat, request};
use super::three::Three;
use super::*;

fn body(client: &str, group: &str, queues: &[i32]) -> LockBatchRequestBody {
    LockBatchRequestBody {
        client_id: client.into(),
        consumer_group: group.into(),
        mq_set: queues.iter().map(|queue| MessageQueue::new("T", "b1", *queue)).collect(),
        only_this_broker: false,
    }
}

fn lock_request(client: &str, queues: &[i32]) -> RemotingCommand {
    RemotingCommand::request(RequestCode::LOCK_BATCH_MQ).with_body(body(client, "g", queues).encode())
}

fn unlock_request(client: &str, queues: &[i32]) -> RemotingCommand {
    RemotingCommand::request(RequestCode::UNLOCK_BATCH_MQ).with_body(body(client, "g", queues).encode())
}

fn locked(response: &RemotingCommand) -> BTreeSet<i32> {
    assert_eq!(response.code, 0, "{:?}", response.remark);
    let body = LockBatchResponseBody::decode(&response.body).unwrap();
    body.lock_ok_mq_set
        .iter()
        .map(|queue| {
            assert_eq!((queue.topic.as_str(), queue.broker_name.as_str()), ("T", "b1"));
            queue.queue_id
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_has_one_consumer() {
    let node = OneNode::start().await;
    node.create_topic("T", 4).await;
    assert_eq!(node.call(lock_request("c1", &[0])).await.code, 26, "no such group");
    node.call(request(&heartbeat("c1", "g", "T"))).await;
    assert_eq!(locked(&node.call(lock_request("c1", &[0, 1, 9, -1])).await), BTreeSet::from([0, 1]));
    assert_eq!(locked(&node.call(lock_request("c2", &[0, 1, 2])).await), BTreeSet::from([2]));
    let mut elsewhere = body("c1", "g", &[]);
    elsewhere.mq_set.push(MessageQueue::new("U", "b1", 0));
    let elsewhere = RemotingCommand::request(RequestCode::LOCK_BATCH_MQ).with_body(elsewhere.encode());
    assert_eq!(locked(&node.call(elsewhere).await), BTreeSet::new(), "no such topic");

    assert_eq!(node.call(unlock_request("c2", &[0, 2])).await.code, 0);
    assert_eq!(locked(&node.call(lock_request("c3", &[0, 1, 2])).await), BTreeSet::from([2]), "only its own");
    assert_eq!(node.call(unlock_request("c1", &[0, 9])).await.code, 0);
    assert_eq!(locked(&node.call(lock_request("c3", &[0, 1])).await), BTreeSet::from([0]));
    // Leaving, or a closed connection, unlocks nothing: the client does so itself, or its lease ends.
    let leave = wire::UnregisterClientRequest {
        client_id: "c1".into(),
        producer_group: None,
        consumer_group: Some("g".into()),
    };
    assert_eq!(node.ask(RequestCode::UNREGISTER_CLIENT, &leave).await.code, 0);
    assert_eq!(locked(&node.call(lock_request("c3", &[1])).await), BTreeSet::new());

    assert_eq!(node.call(lock_request("", &[3])).await.code, 29);
    let many: Vec<i32> = (0..10_001).collect();
    assert_eq!(node.call(lock_request("c1", &many)).await.code, 29);
    for code in [RequestCode::LOCK_BATCH_MQ, RequestCode::UNLOCK_BATCH_MQ] {
        assert_eq!(node.call(RemotingCommand::request(code).with_body("{")).await.code, 1);
    }
    node.stop().await;
}

/// Every orderly consumer renews every 20 s: that must not fill the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_changes_nothing_is_no_entry() {
    let node = OneNode::start().await;
    node.create_topic("T", 4).await;
    node.call(request(&heartbeat("c1", "g", "T"))).await;
    let entries = || node.broker.status()[0].last_index;
    locked(&node.call(lock_request("c1", &[0, 1])).await);
    let before = entries();
    for _ in 0..5 {
        assert_eq!(locked(&node.call(lock_request("c1", &[1, 0])).await), BTreeSet::from([0, 1]));
        assert_eq!(locked(&node.call(lock_request("c1", &[1])).await), BTreeSet::from([1]));
    }
    assert_eq!(entries(), before);
    assert_eq!(locked(&node.call(lock_request("c1", &[0, 1, 2])).await), BTreeSet::from([0, 1, 2]));
    assert_eq!(entries(), before + 1, "all in one");
    assert_eq!(locked(&node.call(lock_request("c2", &[0])).await), BTreeSet::new());
    node.stop().await;
}

/// A consumer that leaves a queue and gets it back in one breath: no lock is granted that a moment later is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_behind_an_unlock_is_a_lock() {
    let node = OneNode::start().await;
    node.create_topic("T", 4).await;
    node.call(request(&heartbeat("c1", "g", "T"))).await;
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    locked(&node.call(lock_request("c1", &[0, 1])).await);
    for round in 0..50 {
        connection.send_oneway(unlock_request("c1", &[0])).unwrap();
        let again = connection.request(lock_request("c1", &[0]), SOON).await.unwrap();
        assert_eq!(locked(&again), BTreeSet::from([0]), "{round}");
        let other = node.call(lock_request("c2", &[0])).await;
        assert_eq!(locked(&other), BTreeSet::new(), "{round}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_outlive_the_leader() {
    let mut three = Three::start(|_| {}).await;
    let topic = wire::CreateTopicRequest {
        topic: "T".into(),
        read_queue_nums: 4,
        write_queue_nums: 4,
        perm: 6,
        ..Default::default()
    };
    let create = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_TOPIC).with_header(&topic);
    assert_eq!(three.at(1).call(create).await.code, 0);
    assert_eq!(three.at(1).call(request(&heartbeat("c1", "g", "T"))).await.code, 0);
    // Through any node.
    for (queue, node) in (0..).zip(1..=3) {
        let answer = three.at(node).call(lock_request("c1", &[queue])).await;
        assert_eq!(locked(&answer), BTreeSet::from([queue]));
    }
    let leader = three.leader().await;
    drop(three.brokers.remove(&leader).unwrap());
    three.leader().await;
    for node in three.brokers.keys() {
        let all = [0, 1, 2, 3];
        let at = three.at(*node);
        assert_eq!(locked(&at.call(lock_request("c2", &all)).await), BTreeSet::from([3]));
        assert_eq!(locked(&at.call(lock_request("c1", &all)).await), BTreeSet::from([0, 1, 2]));
    }
    three.stop().await;
}
