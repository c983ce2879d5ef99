//! log.md 19: a cluster is formed once, by an explicit list. What a configuration lists later changes nobody's vote.

use std::sync::Arc;

use store::{Flusher, Identity, Log, OsDisk};

use super::cluster::{
    Cluster, SEGMENT, addresses, command, eventually, message, propose, three_with_topic, unless_refused,
};
use crate::{FormationError, NodeId, OpenError};

fn list(voters: &[u64]) -> Vec<NodeId> {
    voters.iter().copied().map(NodeId).collect()
}

/// What node `node` says to a list of voters with which it does not start.
async fn refusal(cluster: &Cluster, node: u64, voters: &[u64]) -> String {
    match cluster.refused_as(node, &|_, group| group.voters = list(voters)).await {
        OpenError::Formation(error @ FormationError::Voters { .. }) => error.to_string(),
        error => panic!("{voters:?}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_list_is_refused_and_the_old_one_goes_on() {
    let (mut cluster, leader) = three_with_topic().await;
    let node = leader % 3 + 1;
    // A majority has the topic; this node is to have the first entry, too.
    cluster.converged().await;
    cluster.stop(node).await;
    for voters in [&[1, 2][..], &[2, 3], &[1, 3], &[1, 2, 3, 4], &[node], &[4, 5, 6]] {
        let said = refusal(&cluster, node, voters).await;
        for part in [
            format!("group g: group.voters (all of peers, where it is not set) names {{{}", voters[0]),
            format!("on node {node}, but {{1, 2, 3}} formed the group and {{1, 2, 3}} vote in it now"),
            "a group is formed once".to_owned(),
        ] {
            assert!(said.contains(&part), "{said} / {part}");
        }
    }
    cluster.restart_as(node, &|_, group| group.voters = list(&[3, 1, 2])).await;
    propose(cluster.group(leader), message("t", 0, "x")).await.unwrap();
    assert_eq!(cluster.converged().await.next["t"][&0], 1);
}

/// Members change through the log. A configuration may follow it, or stay as it was when the group was formed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_may_follow_the_members_that_the_log_has() {
    let (mut cluster, leader) = three_with_topic().await;
    let (stays, goes) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let now = [leader.min(stays), leader.max(stays)];
    cluster.group(leader).raft().change_membership(now, false).await.unwrap();
    cluster.stop(goes).await;
    cluster.converged().await;
    cluster.stop(stays).await;
    // By the checkpoint of the stop; and without one, by the entries of the log.
    for has_checkpoint in [true, false] {
        if !has_checkpoint {
            for file in std::fs::read_dir(cluster.group_directory(stays).join("tables")).unwrap() {
                let file = file.unwrap();
                if file.file_name().to_string_lossy().starts_with("checkpoint-") {
                    std::fs::remove_file(file.path()).unwrap();
                }
            }
        }
        for other in [&[stays][..], &[stays.min(goes), stays.max(goes)], &[1, 2, 3, 4]] {
            let said = refusal(&cluster, stays, other).await;
            assert!(said.contains(&format!("{{{}, {}}} vote in it now", now[0], now[1])), "{said}");
        }
        for good in [&now[..], &[1, 2, 3]] {
            cluster.restart_as(stays, &|_, group| group.voters = list(good)).await;
            cluster.converged().await;
            cluster.stop(stays).await;
        }
    }
}

/// A node that was stopped between forming the group and writing its first entry writes it at the next start: it must be that
/// of those who formed the group, or two nodes write two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_entry_names_those_who_formed_the_group() {
    let mut cluster = Cluster::plan(1);
    let identity = Identity { cluster: "test".into(), group: "g".into(), node: 1, segment_size: SEGMENT };
    let flusher = Flusher::start(1);
    let log = Log::open(Arc::new(OsDisk), &cluster.group_directory(1), &identity, &flusher).unwrap();
    log.set_formed([(1, log.incarnation().to_owned())].into()).unwrap();
    log.close().unwrap();
    drop(log);
    flusher.stop();
    let said = refusal(&cluster, 1, &[1, 2]).await;
    assert!(said.contains("but {1} formed the group and its first entry is not here yet"), "{said}");
    cluster.restart(1).await;
    let leader = cluster.leader().await;
    let answer = cluster.group(leader).propose_command(command("t:1")).await.unwrap();
    assert_eq!(answer, "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_may_change_at_a_restart() {
    let (mut cluster, leader) = three_with_topic().await;
    propose(cluster.group(leader), message("t", 0, "before")).await.unwrap();
    cluster.converged().await;
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    cluster.peers = addresses(3);
    for node in 1..=3 {
        cluster.restart(node).await;
    }
    let receipt = eventually(|| async {
        let leader = cluster.leader().await;
        unless_refused(propose(cluster.group(leader), message("t", 0, "after")).await)
    })
    .await;
    assert_eq!(receipt.first_offset.0, 1);
    assert_eq!(cluster.converged().await.next["t"][&0], 2);
}
