//! What replicas that run say of what they hold (30003), and of their disks (30001).

use std::collections::BTreeSet;

use super::three::Three;
use super::*;
use crate::{GroupReport, REPLICA_DIGEST, ReplicaDigest};

async fn ask(client: &Client, address: &str, index: Option<u64>) -> Result<ReplicaDigest, (i32, String)> {
    let request = RemotingCommand::request(RequestCode(REPLICA_DIGEST));
    let request = match index {
        Some(index) => request.with_ext("index", &index.to_string()),
        None => request,
    };
    let response = client.call(address, request, SOON).await.unwrap();
    match response.code {
        0 => Ok(wire::from_json(&response.body).unwrap()),
        code => Err((code, response.remark.unwrap_or_default())),
    }
}

/// Without what tells nodes apart.
fn held(digest: ReplicaDigest) -> ReplicaDigest {
    ReplicaDigest { node: 0, incarnation: String::new(), ..digest }
}

async fn send(client: &Client, address: &str, body: &str) {
    let response = client.call(address, send_request("T", 0, "", body), SOON).await.unwrap();
    assert_eq!(response.code, 0, "{:?}", response.remark);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_say_the_same_at_one_entry_while_they_work() {
    let three = Three::start(|_| {}).await;
    let client = Client::new(ClientConfig::default());
    let leader = three.leader().await;
    let addresses: Vec<String> = three.addresses.values().cloned().collect();
    send(&client, &three.addresses[&leader], "first").await;
    let last = three.brokers[&leader].status()[0].last_index;
    // The questions are on their way while messages are stored.
    let at = last + 60;
    let asked = futures::future::join_all(addresses.iter().map(|address| ask(&client, address, Some(at))));
    let sending = async {
        for n in 0..80 {
            send(&client, &three.addresses[&leader], &n.to_string()).await;
        }
    };
    let (answers, ()) = tokio::join!(asked, sending);
    let answers: Vec<ReplicaDigest> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().map(|digest| digest.node).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(answers.iter().map(|digest| &digest.incarnation).collect::<BTreeSet<_>>().len(), 3);
    let first = held(answers[0].clone());
    assert_eq!(first.index, Some(at));
    assert!(first.chain.is_some() && first.term.is_some() && first.tables.len() == 10, "{first:?}");
    let queue = first.queues.iter().find(|queue| queue.topic == "T").unwrap();
    assert!((2..=81).contains(&queue.next) && queue.min == 0 && queue.units.is_some(), "{queue:?}");
    for other in &answers[1..] {
        assert_eq!(held(other.clone()), first);
    }
    // It is behind us now.
    let (code, remark) = ask(&client, &addresses[0], Some(at)).await.unwrap_err();
    assert_eq!(code, 29, "{remark}");
    assert!(remark.contains(&format!("the entry {at} is applied already")), "{remark}");
    // Nobody sends: it does not come.
    let (code, remark) = ask(&client, &addresses[0], Some(at + 1000)).await.unwrap_err();
    assert_eq!(code, 14, "{remark}");
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_tells_which_table_changed() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    node.send("T", 0, "", "one").await;
    let before = ask(&node.client, &node.address, None).await.unwrap();
    assert_eq!(before, ask(&node.client, &node.address, None).await.unwrap());
    node.send("T", 0, "", "two").await;
    let after = ask(&node.client, &node.address, None).await.unwrap();
    let differ = |a: &ReplicaDigest, b: &ReplicaDigest| {
        a.tables
            .iter()
            .filter(|(table, hash)| b.tables[*table] != **hash)
            .map(|(table, _)| table.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(differ(&before, &after), ["topics", "totals"]);
    assert_ne!(before.chain, after.chain);
    assert_eq!(after.index, before.index.map(|index| index + 1));
    let units = |digest: &ReplicaDigest| {
        let queue = digest.queues.iter().find(|queue| queue.topic == "T").unwrap();
        (queue.next, queue.units.clone().unwrap())
    };
    assert_eq!((units(&before).0, units(&after).0), (1, 2));
    assert_ne!(units(&before).1, units(&after).1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_tells_what_is_on_the_disk() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    node.send("T", 0, "", "one").await;
    let response = node.call(RemotingCommand::request(RequestCode(crate::GROUP_STATUS))).await;
    let report: GroupReport = wire::from_json(&response.body).unwrap();
    let vote = report.vote.unwrap();
    assert_eq!((vote.term, vote.node, vote.committed), (report.term, 1, true));
    assert_eq!(report.incarnation.len(), 32);
    // One node has on its disk what it has acknowledged.
    assert!(report.synced_index >= report.applied_index && report.synced_position <= report.log_end);
    assert!(report.synced_position > 4096, "{}", report.synced_position);
    assert_eq!((report.purged_index, report.snapshot_index), (None, None), "nothing has been purged");
    let OneNode { broker, data, .. } = node;
    broker.shutdown(Drain::Now).await;
    // A planned stop leaves a checkpoint, and the next process is of the same directory.
    let broker = Broker::start(config(&data)).await.unwrap();
    broker.ready().await;
    let again = broker.status().remove(0);
    assert_eq!(again.incarnation, report.incarnation);
    assert!(again.checkpoint_index >= Some(report.applied_index), "{again:?}");
    assert!(again.vote.unwrap().term >= vote.term);
    broker.shutdown(Drain::Now).await;
}
