//! Rates of topics, client addresses and consumer groups.

use wire::{Language, prop};

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
