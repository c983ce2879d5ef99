//! What a group promises, with nodes that come and go.

use std::time::{Duration, Instant};

use bytes::Bytes;
use wire::{LogPosition, QueueId};

use super::cluster::{Cluster, SEGMENT, command, eventually, message, propose, segments, unless_refused};
use crate::{CallError, FormationError, NodeId, OpenError, ProposeError, Service, TransferError};

async fn create_topic(cluster: &Cluster, text: &'static str) {
    let leader = cluster.leader().await;
    let answer = cluster.group(leader).propose_command(command(text)).await.unwrap();
    assert_eq!(answer, "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_one_keeps_what_it_acknowledged_over_a_restart() {
    let mut cluster = Cluster::start(1).await;
    create_topic(&cluster, "t:2").await;
    for i in 0..50 {
        let receipt = propose(cluster.group(1), message("t", i % 2, &format!("m{i}"))).await.unwrap();
        assert_eq!(receipt.first_offset.0, u64::from(i / 2));
        let bytes = cluster.group(1).log().read_bytes(receipt.position, 8).unwrap();
        assert_eq!(&bytes[4..8], 0xDAA3_20A7u32.to_be_bytes(), "the receipt names the message's position");
    }
    let before = cluster.converged().await;
    let term = cluster.group(1).role().term;
    cluster.stop(1).await;
    cluster.restart(1).await;
    cluster.leader().await;
    let after = cluster.converged().await;
    assert_eq!(after.next, before.next);
    assert!(cluster.group(1).role().term > term, "a restarted leader wins an election first (log.md 1)");
    let receipt = propose(cluster.group(1), message("t", 0, "next")).await.unwrap();
    assert_eq!(receipt.first_offset.0, 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_equal_byte_for_byte_and_lose_nothing_when_leaders_go() {
    let mut cluster = Cluster::start(3).await;
    create_topic(&cluster, "t:4").await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let leader = cluster.leader().await;
        let sends = (0..200).map(|i| {
            let text = format!("round {round} message {i}");
            let group = cluster.group(leader).clone();
            async move { (text.clone(), propose(&group, message("t", i % 4, &text)).await) }
        });
        for (text, result) in futures::future::join_all(sends).await {
            acknowledged.push((text, result.unwrap()));
        }
        cluster.stop(leader).await;
        let next = cluster.leader().await;
        assert_ne!(next, leader);
        cluster.restart(leader).await;
    }
    let tables = cluster.converged().await;
    assert_eq!(tables.next["t"].values().sum::<u64>(), 600);
    assert_eq!(tables.voids, 0);
    let end = eventually(|| async {
        let ends: Vec<LogPosition> = (1..=3).map(|n| cluster.group(n).log().state().end).collect();
        (ends[0] == ends[1] && ends[1] == ends[2]).then_some(ends[0])
    })
    .await;
    for node in 1..=3 {
        for (text, receipt) in &acknowledged {
            let bytes = cluster.group(node).log().read_bytes(receipt.position, 88 + text.len()).unwrap();
            assert_eq!(&bytes[88..], text.as_bytes(), "node {node} holds it where the receipt says");
        }
    }
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    let first = segments(&cluster.group_directory(1), end);
    for node in 2..=3 {
        assert!(first == segments(&cluster.group_directory(node), end), "node {node} differs from node 1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_refuses_definitely_and_names_the_leader() {
    let cluster = Cluster::start(3).await;
    create_topic(&cluster, "t:1").await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|&n| n != leader).unwrap();
    // The leader had a majority without it, so it may hear of it last.
    eventually(|| async { (cluster.group(follower).role().leader == Some(NodeId(leader))).then_some(()) })
        .await;
    let error = propose(cluster.group(follower), message("t", 0, "x")).await.unwrap_err();
    assert!(matches!(error, ProposeError::NotLeader { leader: Some(l) } if l.0 == leader), "{error}");
    assert!(error.is_definite());
    let error = propose(cluster.group(leader), message("t", 7, "x")).await.unwrap_err();
    assert!(matches!(error, ProposeError::NoQueue { queue: QueueId(7), .. }), "{error}");
    assert!(cluster.group(follower).read_barrier().await.is_err());
    cluster.group(leader).read_barrier().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_to_a_caught_up_voter_without_a_failed_proposal() {
    let cluster = Cluster::start(3).await;
    create_topic(&cluster, "t:1").await;
    let leader = cluster.leader().await;
    let target = (1..=3).find(|&n| n != leader).unwrap();
    propose(cluster.group(leader), message("t", 0, "before")).await.unwrap();
    let error = cluster.group(leader).transfer_leadership(NodeId(9)).await.unwrap_err();
    assert!(matches!(error, TransferError::NotAVoter(NodeId(9))));
    cluster.level(leader, target).await;
    let began = Instant::now();
    cluster.group(leader).transfer_leadership(NodeId(target)).await.unwrap();
    eventually(|| async { cluster.group(target).role().ready.then_some(()) }).await;
    println!("transfer took {:?}", began.elapsed());
    let receipt = propose(cluster.group(target), message("t", 0, "after")).await.unwrap();
    assert_eq!(receipt.first_offset.0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_acknowledged_and_the_outcome_is_unknown() {
    let mut cluster = Cluster::start(3).await;
    create_topic(&cluster, "t:1").await;
    let leader = cluster.leader().await;
    for node in (1..=3).filter(|&n| n != leader) {
        cluster.stop(node).await;
    }
    let began = Instant::now();
    let error = propose(cluster.group(leader), message("t", 0, "x")).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "an answer comes in time");
    assert!(matches!(error, ProposeError::Unknown(_) | ProposeError::NotLeader { .. }), "{error}");
    assert!(cluster.group(leader).read_barrier().await.is_err(), "nothing current without a majority");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_alone_does_not_raise_its_term() {
    let mut cluster = Cluster::start(3).await;
    create_topic(&cluster, "t:1").await;
    let leader = cluster.leader().await;
    let (alone, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    // What the leader has sent it by now it may look at later: then it would raise its term by that.
    cluster.converged().await;
    // The leader last: otherwise the two that are left may elect another meanwhile.
    cluster.stop(other).await;
    cluster.stop(leader).await;
    let term = cluster.group(alone).role().term;
    // Several election timeouts: without pre-vote each would raise the term.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.group(alone).role().term, term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_directory_is_refused_under_its_old_id() {
    let mut cluster = Cluster::start(3).await;
    create_topic(&cluster, "t:1").await;
    cluster.converged().await;
    cluster.stop(2).await;
    std::fs::remove_dir_all(cluster.group_directory(2)).unwrap();
    let error = cluster.refused_as(2, &|_, _| ()).await;
    assert!(
        matches!(error, OpenError::Formation(FormationError::Replaced { node: NodeId(2), .. })),
        "{error}"
    );
    // The vote alone gone: refused as well.
    cluster.stop(3).await;
    std::fs::remove_file(cluster.group_directory(3).join("vote")).unwrap();
    let error = cluster.refused_as(3, &|_, _| ()).await;
    assert!(matches!(error, OpenError::Store(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_tell_what_is_known_of_their_outcome() {
    let mut cluster = Cluster::start(2).await;
    let deadline = || Instant::now() + Duration::from_secs(2);
    let peers = cluster.nodes[&1].host.peers().clone();
    let answer = peers.call(NodeId(2), Service(1), Bytes::from_static(b"hello"), deadline()).await.unwrap();
    assert_eq!(answer, "2 to 1: hello");
    let refused = peers.call(NodeId(2), Service(9), Bytes::new(), deadline()).await.unwrap_err();
    assert!(matches!(refused, CallError::Refused { .. }), "{refused}");
    cluster.stop(2).await;
    let gone = eventually(|| async {
        match peers.call(NodeId(2), Service(1), Bytes::new(), deadline()).await {
            Err(e @ CallError::NotSent { .. }) => Some(e),
            _ => None,
        }
    })
    .await;
    assert!(gone.to_string().contains("node 2 cannot be reached"));
}

/// Three nodes of which one is stopped, while the others have purged what it lacks: the leader, that node, and the entry to
/// which they purged. Topic `t` has 21 and 20 messages in its two queues.
async fn one_behind_the_purge() -> (Cluster, u64, u64, store::LogId) {
    let mut cluster = Cluster::start(3).await;
    create_topic(&cluster, "t:2").await;
    let leader = cluster.leader().await;
    let away = leader % 3 + 1;
    propose(cluster.group(leader), message("t", 0, "before")).await.unwrap();
    cluster.converged().await;
    cluster.stop(away).await;
    let body = "x".repeat(1 << 20);
    for n in 0..40 {
        propose(cluster.group(leader), message("t", n % 2, &body)).await.unwrap();
    }
    cluster.converged().await;
    let mut purged = Vec::new();
    for node in cluster.nodes.values() {
        // Tables of before a segment are written behind the entry that opened it: those of before the newest one.
        let log = node.group.log();
        eventually(|| async {
            let (at, _) = log.boundary(*log.boundaries().unwrap().last()?).unwrap()?;
            (at.end.0 + SEGMENT > log.segment_start(log.state().end).0).then_some(())
        })
        .await;
        purged.push(node.group.purge().await.unwrap().unwrap());
    }
    assert_eq!(purged[0], purged[1], "a boundary is the same everywhere");
    (cluster, leader, away, purged[0])
}

/// log.md 10: a snapshot that the disk cannot take is refused before openraft sees it, which would end the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_is_full_refuses_the_snapshot_and_takes_it_later() {
    let (mut cluster, _, away, purged) = one_behind_the_purge().await;
    cluster.disks[&away].fill(true);
    cluster.restart(away).await;
    let last = cluster.group(away).log().state().last;
    eventually(|| async { (cluster.disks[&away].refusals() > 2).then_some(()) }).await;
    eventually(|| async {
        let leader = cluster.leader().await;
        unless_refused(propose(cluster.group(leader), message("t", 0, "sends go on")).await)
    })
    .await;
    assert_eq!(cluster.group(away).log().state().last, last);
    let follows = || async { cluster.group(away).role().leader.filter(|leader| *leader != NodeId(away)) };
    eventually(follows).await;
    cluster.disks[&away].fill(false);
    assert_eq!(cluster.converged().await.next["t"][&0], 22);
    assert_eq!(cluster.group(away).log().state().purged, Some(purged));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_behind_the_purge_gets_the_snapshot_and_goes_on() {
    let (mut cluster, leader, away, purged) = one_behind_the_purge().await;
    cluster.restart(away).await;
    let behind = cluster.converged().await;
    assert_eq!((behind.next["t"][&0], behind.next["t"][&1]), (21, 20));
    let state = cluster.group(away).log().state();
    assert_eq!(state.purged, Some(purged), "its log starts at the boundary of the snapshot");
    // It votes, leads and appends at the same positions as the others.
    eventually(|| async {
        cluster.group(leader).transfer_leadership(NodeId(away)).await.ok()?;
        Some(())
    })
    .await;
    eventually(|| async { cluster.group(away).role().ready.then_some(()) }).await;
    let receipt = propose(cluster.group(away), message("t", 0, "after")).await.unwrap();
    assert_eq!(receipt.first_offset.0, 21);
    cluster.converged().await;
    for node in 1..=3 {
        let bytes = cluster.group(node).log().read_bytes(receipt.position, 88 + 5).unwrap();
        assert_eq!(&bytes[88..], b"after", "node {node}");
    }
    // And again from its files.
    cluster.stop(away).await;
    cluster.restart(away).await;
    cluster.converged().await;
}
