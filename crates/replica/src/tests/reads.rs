//! log.md 11: current answers come from a ReadIndex round, shared by all who wait; never from a lease, and of a new leader
//! not before its first entry is applied. (That nobody is answered by a round that began before is tested in group.rs.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::metrics::MetricsRecorder;

use super::cluster::{Node, eventually, message, propose, three_with_topic};
use crate::{NodeId, ProposeError};

/// Counts what a follower takes in of its leader. When nothing is written these are heartbeats.
#[derive(Debug, Default)]
struct Heartbeats(AtomicU64);

impl MetricsRecorder for Heartbeats {
    fn record_apply_batch(&self, _: u64) {}
    fn record_append_batch(&self, _: u64) {}
    fn record_write_batch(&self, _: u64) {}
    fn set_current_term(&self, _: u64) {}
    fn set_last_log_index(&self, _: u64) {}
    fn set_committed_index(&self, _: u64) {}
    fn set_applied_index(&self, _: u64) {}
    fn set_snapshot_index(&self, _: u64) {}
    fn set_purged_index(&self, _: u64) {}
    fn set_server_state(&self, _: u8) {}
    fn increment_vote(&self) {}
    fn increment_heartbeat(&self) {}
    fn increment_append(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reads_cost_a_few_rounds() {
    let (cluster, leader) = three_with_topic().await;
    let heartbeats = Arc::new(Heartbeats::default());
    for (_, node) in cluster.nodes.iter().filter(|&(&node, _)| node != leader) {
        let recorder: Arc<dyn MetricsRecorder> = heartbeats.clone();
        node.group.raft().set_metrics_recorder(Some(recorder)).await.unwrap();
        // Answered behind the recorder: from now on it counts.
        node.group.raft().with_raft_state(|_| ()).await.unwrap();
    }
    let before = heartbeats.0.load(Ordering::Relaxed);
    let reads = (0..1000).map(|_| cluster.group(leader).read_barrier());
    for read in futures::future::join_all(reads).await {
        read.unwrap();
    }
    // A round is a heartbeat to each of the two. With them come those that a leader sends anyway, one in 50 ms.
    let cost = heartbeats.0.load(Ordering::Relaxed) - before;
    assert!(cost > 0, "a round asks others");
    assert!(cost < 500, "{cost} heartbeats for 1,000 reads at once");
}

/// A majority has just confirmed the leader. That says nothing of now: another may lead already, if a follower has forgotten
/// its promise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_answers_nothing() {
    let (mut cluster, leader) = three_with_topic().await;
    let group = cluster.group(leader).clone();
    group.read_barrier().await.unwrap();
    // From here on no follower answers. Not to a heartbeat only: what comes with the log confirms a leader as well.
    for node in (1..=3).filter(|&node| node != leader) {
        cluster.stop(node).await;
    }
    let answer = group.read_barrier().await;
    assert!(answer.is_err(), "nobody was asked whether this node still leads");
}

/// What a leader has applied may end before what its predecessor acknowledged. Only once its own first entry is applied is
/// everything before it, so until then it neither answers nor proposes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_answers_nothing_before_its_first_entry_is_applied() {
    let (cluster, leader) = three_with_topic().await;
    let heir = leader % 3 + 1;
    propose(cluster.group(leader), message("t", 0, "x")).await.unwrap();
    let last = cluster.group(leader).log().state().last.unwrap();
    eventually(|| async {
        let applied = |node: &Node| node.tables.tables().applied == last.index.0;
        cluster.nodes.values().all(applied).then_some(())
    })
    .await;
    // Nothing is left for a disk to do that a vote would have to wait for.
    for node in cluster.nodes.values() {
        node.group.log().sync_all().unwrap();
    }
    for disk in cluster.disks.values() {
        disk.hang_but_for_votes(true);
    }
    let vote = cluster.group(leader).raft().server_metrics().borrow_watched().vote;
    cluster.group(leader).ask_to_stand(NodeId(heir), vote).await;
    let group = cluster.group(heir);
    // It is elected, and a majority says so at this moment; its blank is on no disk.
    eventually(|| async {
        let confirmed = group.raft().get_read_linearizer(ReadPolicy::ReadIndex).await.is_ok();
        (confirmed && group.raft().is_leader()).then_some(())
    })
    .await;
    let refused = propose(group, message("t", 0, "too early")).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NotLeader { .. }), "{refused}");
    assert!(!group.role().ready);
    let answer = group.read_barrier().await;
    assert!(answer.is_err(), "it has not applied what its predecessor may have committed");
    assert!(!group.role().ready);
    for disk in cluster.disks.values() {
        disk.hang_but_for_votes(false);
    }
    eventually(|| async {
        let leader = cluster.leader().await;
        cluster.group(leader).read_barrier().await.ok()
    })
    .await;
    assert_eq!(cluster.converged().await.next["t"][&0], 1);
}
