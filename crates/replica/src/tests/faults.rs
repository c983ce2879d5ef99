//! What a group does about a disk that hangs or is full, and about a leader that hands over under load.

use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver as _;

use super::cluster::{Cluster, SEGMENT, eventually, message, propose, three_with_topic};
use crate::limits::PROPOSAL_BYTES_MAX;
use crate::{NodeId, ProposeError, ReadError, TransferError};

/// Sends until `stop`; what was acknowledged, and what else was said.
fn keep_sending(
    cluster: &Cluster,
    stop: tokio_util::sync::CancellationToken,
) -> tokio::task::JoinHandle<(Vec<u64>, Vec<ProposeError>)> {
    let groups: Vec<_> = cluster.nodes.values().map(|node| node.group.clone()).collect();
    tokio::spawn(async move {
        let (mut offsets, mut errors) = (Vec::new(), Vec::new());
        while !stop.is_cancelled() {
            let Some(group) = groups.iter().find(|group| group.role().ready) else {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            };
            match propose(group, message("t", 0, "x")).await {
                Ok(receipt) => offsets.push(receipt.first_offset.0),
                Err(error) => errors.push(error),
            }
        }
        (offsets, errors)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_under_load_refuses_only_definitely_and_leaves_no_hole() {
    let (cluster, first) = three_with_topic().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let senders: Vec<_> = (0..8).map(|_| keep_sending(&cluster, stop.clone())).collect();
    let mut leader = first;
    for _ in 0..4 {
        let target = leader % 3 + 1;
        eventually(|| async {
            match cluster.group(leader).transfer_leadership(NodeId(target)).await {
                Ok(()) => Some(()),
                // Under load a target may be some entries behind for a moment.
                Err(TransferError::Behind { .. } | TransferError::Undecided) => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await;
        eventually(|| async { cluster.group(target).role().ready.then_some(()) }).await;
        leader = target;
    }
    stop.cancel();
    let mut acknowledged = Vec::new();
    for sender in senders {
        let (offsets, errors) = sender.await.unwrap();
        acknowledged.extend(offsets);
        let unknown = errors.iter().find(|error| !error.is_definite());
        assert!(unknown.is_none(), "a planned transfer leaves no outcome open: {unknown:?}");
    }
    acknowledged.sort_unstable();
    let count = acknowledged.len() as u64;
    assert_eq!(acknowledged, (0..count).collect::<Vec<_>>(), "offsets without holes or doubles");
    let tables = cluster.converged().await;
    assert_eq!((tables.next["t"][&0], tables.voids), (count, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_to_a_node_that_lacks_entries_is_refused_and_sends_go_on() {
    let (mut cluster, leader) = three_with_topic().await;
    let (gone, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.stop(gone).await;
    propose(cluster.group(leader), message("t", 0, "x")).await.unwrap();
    let error = cluster.group(leader).transfer_leadership(NodeId(gone)).await.unwrap_err();
    assert!(matches!(error, TransferError::Behind { to, .. } if to == NodeId(gone)), "{error}");
    assert_eq!(propose(cluster.group(leader), message("t", 0, "y")).await.unwrap().first_offset.0, 1);
    cluster.level(leader, other).await;
    cluster.group(leader).transfer_leadership(NodeId(other)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_is_asked_to_stand_leads() {
    let (cluster, leader) = three_with_topic().await;
    let heir = leader % 3 + 1;
    // Who lacks an entry is not elected.
    cluster.converged().await;
    let vote = cluster.group(leader).raft().server_metrics().borrow_watched().vote;
    cluster.group(leader).ask_to_stand(NodeId(heir), vote).await;
    eventually(|| async { cluster.group(heir).role().ready.then_some(()) }).await;
}

/// openraft's leader does nothing more once it has asked, whoever it was that it asked (log.md 17).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_to_a_node_that_cannot_stand_ends_with_another_leader() {
    let (cluster, leader) = three_with_topic().await;
    let (target, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    // Who lacks an entry is not elected.
    cluster.level(leader, other).await;
    // It has every entry, and cannot save the vote for itself.
    cluster.level(leader, target).await;
    cluster.disks[&target].hang(true);
    let error = cluster.group(leader).transfer_leadership(NodeId(target)).await.unwrap_err();
    let wanted = TransferError::Another { to: NodeId(target), leader: NodeId(other) };
    assert_eq!(error.to_string(), wanted.to_string());
    eventually(|| async { cluster.group(other).role().ready.then_some(()) }).await;
    assert_eq!(propose(cluster.group(other), message("t", 0, "x")).await.unwrap().first_offset.0, 0);
    cluster.disks[&target].hang(false);
    let tables = cluster.converged().await;
    assert_eq!((tables.next["t"][&0], tables.voids), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_hangs_lets_another_lead_and_says_so() {
    let (cluster, leader) = three_with_topic().await;
    cluster.disks[&leader].hang(true);
    // Committed by the others' disks; the leader's own flush never ends.
    propose(cluster.group(leader), message("t", 0, "x")).await.unwrap();
    let heir = eventually(|| async {
        let heir = (1..=3).find(|&node| node != leader && cluster.group(node).role().ready)?;
        let role = cluster.group(leader).role();
        (!role.ready && role.leader != Some(NodeId(leader))).then_some(heir)
    })
    .await;
    assert_eq!(propose(cluster.group(heir), message("t", 0, "y")).await.unwrap().first_offset.0, 1);
    cluster.disks[&leader].hang(false);
    let tables = cluster.converged().await;
    assert_eq!(tables.next["t"][&0], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_do_not_wait_for_a_followers_disk() {
    let (cluster, leader) = three_with_topic().await;
    let followers: Vec<u64> = (1..=3).filter(|&node| node != leader).collect();
    for node in &followers {
        cluster.disks[node].hang(true);
    }
    let group = cluster.group(leader).clone();
    let sent = tokio::spawn(async move { propose(&group, message("t", 0, "x")).await });
    // Longer than an election would take; shorter than what counts as a stuck disk.
    let until = Instant::now() + Duration::from_millis(1500);
    let mut passed = 0;
    while Instant::now() < until {
        cluster.group(leader).read_barrier().await.unwrap();
        passed += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(passed > 10, "barriers pass while no follower's flush completes: {passed}");
    assert!(!sent.is_finished(), "a message is not acknowledged by hung disks");
    for node in &followers {
        cluster.disks[node].hang(false);
    }
    assert_eq!(sent.await.unwrap().unwrap().first_offset.0, 0);
    assert_eq!(cluster.group(leader).role().leader, Some(NodeId(leader)));
}

/// openraft opens a stream that cannot be opened again at once: with a peer that refuses connections the leader would do
/// nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_costs_a_leader_little() {
    let (mut cluster, leader) = three_with_topic().await;
    let dead = leader % 3 + 1;
    cluster.stop(dead).await;
    let address = &cluster.peers[&NodeId(dead)];
    let listener = eventually(|| async { tokio::net::TcpListener::bind(address).await.ok() }).await;
    propose(cluster.group(leader), message("t", 0, "for the dead one too")).await.unwrap();
    let mut tries = 0;
    let count = async {
        loop {
            // Closed at once.
            drop(listener.accept().await.unwrap());
            tries += 1;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), count).await;
    // One stream and one heartbeat of each of two nodes every 50 ms, and elections that are none.
    assert!((5..200).contains(&tries), "{tries} connections in a second");
}

/// Fills the disks of these nodes, once all have the same and each has allocated its segments ahead: without its spare one a
/// follower could not store what it lacks (log.md 10). A node allocates them behind its start, which may take longer than its
/// election; and one that was still starting when the others elected has not opened its first segment, and has room for a
/// segment less than they have.
async fn fill_disks(cluster: &Cluster, nodes: impl IntoIterator<Item = u64>) {
    cluster.converged().await;
    for node in nodes {
        let log = cluster.group(node).log();
        eventually(|| async {
            (log.free_room() >= SEGMENT - store::limits::SEGMENT_HEADER_LEN).then_some(())
        })
        .await;
        cluster.disks[&node].fill(true);
    }
}

/// Fills what the node has allocated, until a message is refused for want of room.
async fn exhaust(cluster: &Cluster, leader: u64) {
    let body = "x".repeat(1 << 20);
    for _ in 0..200 {
        match propose(cluster.group(leader), message("t", 0, &body)).await {
            Ok(_) => {}
            Err(ProposeError::NoRoom { .. } | ProposeError::NotLeader { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the disk took everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_leaves_a_full_disk_and_sends_go_on() {
    let (cluster, leader) = three_with_topic().await;
    fill_disks(&cluster, [leader]).await;
    exhaust(&cluster, leader).await;
    let heir =
        eventually(|| async { (1..=3).find(|&node| node != leader && cluster.group(node).role().ready) })
            .await;
    // The majority that has room takes messages; the full node is behind, and neither stops nor harms the others.
    for n in 0..40 {
        let body = "y".repeat(PROPOSAL_BYTES_MAX / 16);
        propose(cluster.group(heir), message("t", 0, &body)).await.unwrap_or_else(|e| panic!("{n}: {e}"));
    }
    cluster.disks[&leader].fill(false);
    cluster.converged().await;
}

/// What the two others have committed, a follower with a full disk takes into its spare segment: it may be needed for a
/// majority a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_follower_stores_what_it_lacks_and_is_a_majority_with_another() {
    let (mut cluster, leader) = three_with_topic().await;
    let full = leader % 3 + 1;
    fill_disks(&cluster, [full]).await;
    let body = "x".repeat(1 << 20);
    let mut sent = 0;
    // One by one: a follower that lags could open its spare between two looks, and be sent more than the spare holds.
    let log = cluster.group(full).log();
    while !(log.is_disk_full() && log.free_room() < 2 << 20) {
        assert!(sent < 100, "the disk took everything");
        propose(cluster.group(leader), message("t", 0, &body)).await.unwrap();
        sent += 1;
        cluster.converged().await;
    }
    for _ in 0..4 {
        propose(cluster.group(leader), message("t", 0, &body)).await.unwrap();
    }
    cluster.stop(leader).await;
    let next = cluster.leader().await;
    eventually(|| async { cluster.group(next).read_barrier().await.ok() }).await;
    assert_eq!(cluster.converged().await.next["t"][&0], sent + 4);
}

/// Once not even its spare segment is left it refuses what comes (log.md 10): were it given to openraft, the append would fail,
/// and the group would end on this node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_takes_nothing_more_refuses_and_lives() {
    let (cluster, leader) = three_with_topic().await;
    let full = leader % 3 + 1;
    fill_disks(&cluster, [full]).await;
    let body = "x".repeat(1 << 20);
    // The open segment, those ahead, and some.
    let sent = (SEGMENT >> 20) * (1 + store::limits::SEGMENTS_AHEAD as u64) + 4;
    for _ in 0..sent {
        propose(cluster.group(leader), message("t", 0, &body)).await.unwrap();
    }
    let follower = cluster.group(full);
    eventually(|| async { follower.log().reserve_behind(body.len() as u64).is_err().then_some(()) }).await;
    let is_behind = follower.log().state().last < cluster.group(leader).log().state().last;
    assert!(is_behind, "it cannot have it all");
    assert_eq!(follower.status().stopped, None);
    cluster.disks[&full].fill(false);
    assert_eq!(cluster.converged().await.next["t"][&0], sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_full_disks_still_elects_answers_reads_and_recovers() {
    let (mut cluster, leader) = three_with_topic().await;
    fill_disks(&cluster, 1..=3).await;
    exhaust(&cluster, leader).await;
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    // A blank is small and has room of its own (log.md 10).
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    match cluster.group(next).read_barrier().await {
        Ok(()) | Err(ReadError::NotLeader { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    for disk in cluster.disks.values() {
        disk.fill(false);
    }
    eventually(|| async {
        let leader = cluster.leader().await;
        propose(cluster.group(leader), message("t", 0, "room again")).await.ok()
    })
    .await;
}
