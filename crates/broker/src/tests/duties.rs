//! What only the leader does, and that it ends with its term.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use replica::MessagesProposal;
use tokio::sync::{mpsc, watch};

use super::three::Three;
use super::*;
use crate::duties::{self, Duty};
use crate::errors::Error;
use crate::state::Command;
use crate::state::command::{Kind, Release, Source, TopicConfig};

/// Each node's count of the duty's runs under way, told with every change.
type Running = Arc<watch::Sender<BTreeMap<u64, u32>>>;

/// Counts a run for as long as it is not dropped.
struct Counted(Running, u64);

impl Counted {
    fn new(running: &Running, node: u64) -> Counted {
        running.send_modify(|nodes| {
            let count = nodes.entry(node).or_default();
            *count += 1;
            assert_eq!(*count, 1, "two runs at a time on node {node}");
        });
        Counted(running.clone(), node)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|nodes| *nodes.entry(self.1).or_default() -= 1);
    }
}

async fn only(running: &Running, node: u64) {
    let is_only = |nodes: &BTreeMap<u64, u32>| nodes.iter().all(|(n, count)| *count == u32::from(*n == node));
    running.subscribe().wait_for(|nodes| nodes.contains_key(&node) && is_only(nodes)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_alone_has_duties() {
    let three = Three::start(|_| {}).await;
    let running: Running = Arc::default();
    let (told, mut heard) = mpsc::unbounded_channel();
    for (node, broker) in &three.brokers {
        let hosted = broker.hosted("b1");
        let (node, running, told) = (*node, running.clone(), told.clone());
        let duty = Duty::new("test", move |hosted, over| {
            let (running, told) = (running.clone(), told.clone());
            async move {
                let _counted = Counted::new(&running, node);
                assert!(hosted.leads() && !over.is_cancelled());
                let arrivals = hosted.source_arrivals("T");
                loop {
                    arrivals.arrived().await;
                    let _ = told.send((node, hosted.state.pending_count("T", wire::QueueId(0))));
                }
            }
        });
        hosted.node.spawn(duties::keep(hosted.clone(), vec![duty]));
    }
    let leader = three.leader().await;
    only(&running, leader).await;
    let client = Client::new(ClientConfig::default());
    // To another topic first: nobody hears of that.
    for topic in ["U", "T"] {
        let response = client.call(&three.addresses[&leader], send_request(topic, 0, "", "m"), SOON).await;
        assert_eq!(response.unwrap().code, 0);
    }
    assert_eq!(heard.recv().await, Some((leader, 1)));
    let heir = leader % 3 + 1;
    three.level().await;
    let hosted = three.brokers[&leader].hosted("b1");
    hosted.hand_over(hosted.serving().unwrap(), replica::NodeId(heir)).await.unwrap();
    only(&running, heir).await;
    let response = client.call(&three.addresses[&leader], send_request("T", 0, "", "m"), SOON).await;
    assert_eq!(response.unwrap().code, 0);
    assert_eq!(heard.recv().await, Some((heir, 2)), "the new leader's duty, and no other");
    assert!(heard.try_recv().is_err());
    three.stop().await;
    // A node that stops ends its duties, and does not wait for them to end by themselves.
    assert!(running.borrow().values().all(|count| *count == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duty_that_fails_starts_again() {
    let node = OneNode::start().await;
    let hosted = node.broker.hosted("b1");
    let (told, mut heard) = mpsc::unbounded_channel();
    let tries = Arc::new(Mutex::new(0));
    let fails = Duty::new("fails", move |_, _| {
        let (tries, told) = (tries.clone(), told.clone());
        async move {
            let n = {
                let mut tries = tries.lock().unwrap();
                *tries += 1;
                *tries
            };
            let _ = told.send(n);
            match n {
                1 => Err(Error::Void),
                2 => panic!("as planned"),
                _ => Ok(()),
            }
        }
    });
    hosted.node.spawn(duties::keep(hosted.clone(), vec![fails]));
    for n in 1..=3 {
        assert_eq!(heard.recv().await, Some(n));
    }
    node.stop().await;
    assert_eq!(heard.recv().await, None, "one that has nothing more to do is not started again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_coupled_is_stored_and_done_together() {
    let node = OneNode::start().await;
    node.create_topic("S", 1).await;
    node.create_topic("T", 1).await;
    node.send("S", 0, "", "waits").await;
    let hosted = node.broker.hosted("b1");
    let topic = hosted.state.topic("S").unwrap().id.0;
    let release =
        || Kind::Release(Release { sources: vec![Source { topic, queue: 0, offsets: vec![0] }], how: 0 });
    let copy = || {
        let records = crate::state::testing::record("T", 0, 0, 0, b"delivered");
        MessagesProposal { topic: "T".into(), queue: wire::QueueId(0), records, count: 1 }
    };
    let (reply, receipts) = hosted.propose_coupled_here(release().into(), vec![copy()]).await.unwrap();
    assert_eq!((reply.code, &reply.granted[..]), (0, &[0][..]));
    assert_eq!(receipts[0].first_offset, wire::QueueOffset(0));
    let again = hosted.propose_coupled_here(release().into(), vec![copy()]).await;
    assert!(matches!(again, Err(Error::Void)), "{again:?}");
    let unfit = Command::create_topic(TopicConfig { name: "X".into(), ..TopicConfig::default() });
    assert!(matches!(hosted.propose_coupled_here(unfit, vec![copy()]).await, Err(Error::Void)));
    assert_eq!(node.pull(pull_header("T", 0, 0)).await.bodies(), ["delivered"]);
    // What comes next goes on behind it.
    assert_eq!(node.send("T", 0, "", "next").await, 1);
    assert!(hosted.state.is_done("S", wire::QueueId(0), wire::QueueOffset(0)));
    node.stop().await;
}
