//! Rates of topics, client addresses and consumer groups, and the longest wait for a commit.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;
use wire::{Language, prop};

use super::slow_disk::SlowDisk;
use super::*;
use crate::{RateRule, Whom};

/// More than a slow test can wait for at the rates below.
const LARGE: usize = 200_000;

fn rule(whom: Whom, messages: Option<u64>, bytes: Option<u64>) -> RateRule {
    RateRule { whom, messages_per_second: messages, bytes_per_second: bytes }
}

/// Sends as Java's client of a version; code and remark.
async fn send_as(node: &OneNode, topic: &str, version: i32) -> (i32, String) {
    let mut request = send_request(topic, 0, "", "m");
    (request.language, request.version) = (Language::Java, version);
    let response = node.call(request).await;
    (response.code, response.remark.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_over_its_rate_is_refused_and_others_are_not() {
    let node =
        OneNode::with(|config| config.rates = vec![rule(Whom::Topic("slow".into()), None, Some(1000))]).await;
    for topic in ["slow", "other"] {
        node.create_topic(topic, 1).await;
    }
    node.send("slow", 0, "", &"x".repeat(LARGE)).await;
    for (version, want) in [(479, 2), (407, 14)] {
        let (code, remark) = send_as(&node, "slow", version).await;
        assert_eq!(code, want, "{remark}");
        assert!(remark.contains("topic slow is over its rate of 1000 bytes a second"), "{remark}");
    }
    assert_eq!(node.pull(pull_header("slow", 0, 0)).await.messages.len(), 1, "nothing of that was stored");
    for _ in 0..20 {
        node.send("other", 0, "", "m").await;
    }
    // What waits elsewhere counts for the topic that it is meant for.
    let half = properties(&[(prop::TRAN_MSG, "true"), (prop::PGROUP, "p")]);
    for (topic, want) in [("slow", 2), ("other", 0)] {
        assert_eq!(node.call(send_request(topic, 0, &half, "m")).await.code, want);
    }
    assert_eq!(node.broker.pauses(), 0, "a few refusals hold up nobody's other topics");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_its_rate_is_refused_whatever_it_sends_to() {
    let node = OneNode::with(|config| config.limits.client_bytes_per_second = 1000).await;
    node.create_topic("T", 1).await;
    node.send("T", 0, "", &"x".repeat(LARGE)).await;
    let (code, remark) = send_as(&node, "T", 407).await;
    assert_eq!(code, 14);
    assert!(remark.contains("client 127.0.0.1 is over its rate of 1000 bytes a second"), "{remark}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_over_its_rate_comes_again_later() {
    let node =
        OneNode::with(|config| config.rates = vec![rule(Whom::Group("g".into()), None, Some(1000))]).await;
    node.create_topic("T", 1).await;
    node.send("T", 0, "", &"x".repeat(LARGE)).await;
    let first = node.pull(pull_header("T", 0, 0)).await;
    assert_eq!(first.messages.len(), 1, "what it gets is known afterwards");
    let response = node.ask(RequestCode::PULL_MESSAGE, &pull_header("T", 0, 0)).await;
    let remark = response.remark.unwrap();
    assert_eq!(response.code, 2);
    assert!(remark.contains("group g is over its rate of 1000 bytes a second"), "{remark}");
    let other = PullMessageRequest { consumer_group: "h".into(), ..pull_header("T", 0, 0) };
    assert_eq!(node.pull(other).await.messages.len(), 1);
    node.stop().await;
}

/// What is sent to a slow disk, all at a time, and what the disk writes: a queue of half a second, if nothing is refused.
const SENDERS: usize = 64;
const SENT_BYTES: usize = 128 << 10;
const SLOW_BYTES_PER_SECOND: u64 = 16 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_would_wait_too_long_for_a_slow_disk_is_refused() {
    let disk = SlowDisk::default();
    let node =
        Arc::new(OneNode::on_disk(Arc::new(disk.clone()), |config| config.limits.queue_wait_ms = 100).await);
    node.create_topic("T", 1).await;
    disk.limit(SLOW_BYTES_PER_SECOND);
    let [stored, refused, late] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
    let is_over = Arc::new(AtomicBool::new(false));
    let mut senders = JoinSet::new();
    // Another one, that sends one message at a time over a connection of its own.
    let polite = Arc::new(AtomicU64::new(0));
    {
        let (address, polite, is_over) = (node.address.clone(), polite.clone(), is_over.clone());
        senders.spawn(async move {
            let client = Client::new(ClientConfig::default());
            while !is_over.load(Ordering::Relaxed) {
                let answer = client.call(&address, send_request("T", 0, "", "m"), SOON).await.unwrap();
                polite.fetch_add(u64::from(answer.code == 0), Ordering::Relaxed);
            }
        });
    }
    for _ in 0..SENDERS {
        let (node, is_over) = (node.clone(), is_over.clone());
        let (stored, refused, late) = (stored.clone(), refused.clone(), late.clone());
        senders.spawn(async move {
            let body = "x".repeat(SENT_BYTES);
            while !is_over.load(Ordering::Relaxed) {
                let answer = node.call(send_request("T", 0, "", &body)).await;
                if answer.code == 0 {
                    stored.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let remark = answer.remark.unwrap_or_default();
                assert_eq!(answer.code, 2, "{remark}");
                if remark.ends_with("it has waited for 1500 ms or more behind others that were refused") {
                    late.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                assert!(remark.contains("bytes wait to be committed"), "{remark}");
                assert!(remark.ends_with("(queue_wait_ms: 100)"), "{remark}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // Both at a time: what fits is stored meanwhile.
    let patience = Instant::now() + SOON;
    // All senders share a connection, which is told of few refusals: it is left alone for a while after each.
    let enough = || {
        let reached = |count: &AtomicU64, wanted| count.load(Ordering::Relaxed) >= wanted;
        reached(&stored, 200) && reached(&refused, 10) && reached(&polite, 20)
    };
    while !enough() && !senders.is_empty() {
        assert!(
            Instant::now() < patience,
            "{stored:?} and {polite:?} stored, {refused:?} and {late:?} refused"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
        while let Some(ended) = senders.try_join_next() {
            ended.unwrap();
        }
    }
    is_over.store(true, Ordering::Relaxed);
    disk.limit(0);
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
    let pulled = node.pull(pull_header("T", 0, 0)).await;
    let stored = stored.load(Ordering::Relaxed) + polite.load(Ordering::Relaxed);
    assert_eq!(pulled.header.max_offset as u64, stored, "nothing refused is stored");
    assert!(node.broker.pauses() > 0);
    // Once it is seen that the disk is fast again, as many at a time are taken in.
    let patience = Instant::now() + SOON;
    loop {
        let burst: Vec<_> = (0..SENDERS).map(|_| send_request("T", 0, "", &"x".repeat(SENT_BYTES))).collect();
        let answers = futures::future::join_all(burst.into_iter().map(|request| node.call(request))).await;
        if answers.iter().all(|answer| answer.code == 0) {
            break;
        }
        assert!(Instant::now() < patience, "{:?}", answers.iter().find(|answer| answer.code != 0));
    }
    Arc::into_inner(node).unwrap().stop().await;
}
