//! Damage on this node's disk to the properties of stored messages, which their own CRC does not cover: no message is made of
//! them that would look sound.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use wire::prop;

use super::delaying::{bodies, create_group, send_back, wait_for, waiting};
use super::popping::pop_header;
use super::transactions::{COMMIT, end, end_header, half_request, send_half};
use super::*;

/// Changes the bytes `from` to `to`, of the same length, wherever they are in a segment of the group's log.
fn change(data: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let file = data.join("b1/log").join(format!("{:020}", 0));
    let bytes = std::fs::read(&file).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from.as_bytes())).collect();
    assert!(!places.is_empty(), "{from} is nowhere");
    // Those bytes alone: the node writes to the file and has it mapped.
    let file = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    for at in places {
        file.write_all_at(to.as_bytes(), at as u64).unwrap();
    }
}

fn tagged(more: &[(&str, &str)]) -> String {
    properties(&[&[("mark", "undamaged")][..], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_properties_are_not_stored_anew() {
    let clock = replica::WallClock::default();
    let own_clock = |config: &mut BrokerConfig| config.wall_clock = clock.clone();
    let node = OneNode::with(own_clock).await;
    node.create_topic("T", 1).await;
    node.create_topic("P", 1).await;
    create_group(&node, "g", 3).await;
    node.send("T", 0, &tagged(&[(prop::TIMER_DELAY_MS, "60000")]), "timer").await;
    let half = half_request("T", 0, "K", &[("mark", "undamaged")]);
    let half = send_half(&node.client, &node.address, half).await;
    node.send("P", 0, &tagged(&[]), "popped").await;
    node.send("P", 0, "", "sound").await;
    let position = node.pull(pull_header("P", 0, 0)).await.messages[0].position.to_wire();
    assert_eq!(node.ask(RequestCode::POP_MESSAGE, &pop_header("P", 0)).await.code, 0);
    let before = node.broker.hosted("b1").state.totals().messages;

    // What a node has taken in itself is in memory, where it was checked; after a start it is read from the disk.
    let node = node.again(own_clock).await;
    change(node.data.path(), "undamaged", "UNdamaged");
    // What waits is due now, and what was popped.
    clock.set_ahead_ms(61_000);
    let (client, address) = (&node.client, node.address.as_str());
    node.send("T", 0, &properties(&[(prop::TIMER_DELAY_MS, "1")]), "sound").await;
    assert_eq!(bodies(&wait_for(client, address, "T", 0, 1).await), ["sound"]);
    let retry = wire::pop_retry_topic("P", "g");
    assert_eq!(bodies(&wait_for(client, address, &retry, 0, 1).await), ["sound"]);
    let (code, remark) = end(client, address, &end_header(&half, COMMIT)).await;
    assert_eq!((code, remark.contains("damaged")), (1, true), "{remark}");
    let (code, remark) = send_back(&node, position, 0, None).await;
    assert_eq!((code, remark.contains("damaged")), (1, true), "{remark}");
    assert_eq!(waiting(client, address).await, 1, "it waits for a leader that can read it");
    let state = node.broker.hosted("b1").state.clone();
    assert!(!state.is_done(wire::topic::TRANS_HALF, wire::QueueId(0), wire::QueueOffset(0)));
    let popped = state.pop_due(u64::MAX, None, 10);
    assert_eq!(popped.iter().map(|due| (&*due.topic, due.offset.0)).collect::<Vec<_>>(), [("P", 0)]);
    assert_eq!(state.totals().messages, before + 3, "the sound ones, and one's delivery");
    drop(state);

    // As another leader has it.
    change(node.data.path(), "UNdamaged", "undamaged");
    let node = node.again(own_clock).await;
    let (client, address) = (&node.client, node.address.as_str());
    assert_eq!(end(client, address, &end_header(&half, COMMIT)).await.0, 0);
    let delivered = wait_for(client, address, "T", 0, 3).await;
    let marks = delivered.iter().filter(|m| m.property("mark") == Some("undamaged")).count();
    assert_eq!(marks, 2, "{:?}", bodies(&delivered));
    let retried = wait_for(client, address, &retry, 0, 2).await;
    assert_eq!(retried[1].property("mark"), Some("undamaged"));
    assert_eq!(send_back(&node, position, 0, None).await.0, 0);
    node.stop().await;
}
