//! What waits for a time waits for log time, whatever the wall clock of the node that leads says. In these tests the clock by
//! which the group counts is another than the system's, as where the leader's own clock is wrong.

use replica::WallClock;

use super::delaying::{bodies, wait_for, waiting, wall_ms};
use super::*;

pub(super) const HOUR_MS: i64 = 3600 * 1000;

async fn timer(node: &OneNode, name: &str, ms: i64) -> Option<String> {
    let given = properties(&[(name, &ms.to_string())]);
    let response = node.call(send_request("T", 0, &given, name)).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    SendMessageResponse::decode(&response.ext).unwrap().recall_handle
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_counts_from_log_time() {
    let clock = WallClock::default();
    clock.set_ahead_ms(2000);
    let node = OneNode::with(|config| config.wall_clock = clock.clone()).await;
    node.create_topic("T", 1).await;
    // This leader's clock is now 2 s behind what the log says.
    clock.set_ahead_ms(0);
    node.send("T", 0, "", "before").await;
    timer(&node, "TIMER_DELAY_MS", 1000).await;
    let delivered = wait_for(&node.client, &node.address, "T", 0, 2).await;
    let out: i64 = delivered[1].property("TIMER_OUT_MS").unwrap().parse().unwrap();
    // From when it came, which is after the entry before it, and before its own.
    let before = delivered[0].store_timestamp;
    assert!(out >= before + 1000, "{} ms after the message before it", out - before);
    let early = out - delivered[1].store_timestamp;
    assert!(early <= 0, "{early} ms early");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_hastens_no_timer_and_recalls_it() {
    let clock = WallClock::default();
    clock.set_ahead_ms(-HOUR_MS);
    let node = OneNode::with(|config| config.wall_clock = clock.clone()).await;
    node.create_topic("T", 1).await;
    let start = wall_ms() - HOUR_MS;
    let recalled = timer(&node, "TIMER_DELIVER_MS", start + HOUR_MS / 2).await;
    timer(&node, "TIMER_DELIVER_MS", start + HOUR_MS / 4).await;
    timer(&node, "TIMER_DELAY_MS", HOUR_MS / 3).await;
    assert_eq!(waiting(&node.client, &node.address).await, 3);
    let header = wire::RecallMessageRequest {
        producer_group: Some("p".into()),
        topic: "T".into(),
        recall_handle: recalled.unwrap(),
    };
    let response = node.ask(RequestCode::RECALL_MESSAGE, &header).await;
    assert_eq!(response.code, 0, "{:?}", response.remark);
    assert_eq!(node.pull_code(pull_header("T", 0, 0)).await, 19);
    // The group was down for a while, as it were: nothing is stored that would tell of the time.
    clock.set_ahead_ms(HOUR_MS / 2 - HOUR_MS);
    let delivered = wait_for(&node.client, &node.address, "T", 0, 2).await;
    assert_eq!(bodies(&delivered), ["TIMER_DELIVER_MS", "TIMER_DELAY_MS"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_down_delivers_what_fell_due_meanwhile() {
    let data = tempfile::tempdir().unwrap();
    let client = Client::new(ClientConfig::default());
    let config = config(&data);
    let broker = Broker::start(config.clone()).await.unwrap();
    broker.ready().await;
    let given = properties(&[("TIMER_DELAY_MS", &(HOUR_MS / 2).to_string())]);
    let address = broker.addresses()["b1"].to_string();
    let response = client.call(&address, send_request("T", 0, &given, "m"), SOON).await.unwrap();
    assert_eq!(response.code, 0, "{:?}", response.remark);
    broker.shutdown(Drain::Now).await;
    config.wall_clock.set_ahead_ms(HOUR_MS);
    let broker = Broker::start(config).await.unwrap();
    broker.ready().await;
    let address = broker.addresses()["b1"].to_string();
    assert_eq!(bodies(&wait_for(&client, &address, "T", 0, 1).await), ["m"]);
    broker.shutdown(Drain::Now).await;
}
