//! log.md 4: what keeps the queue offsets of a term without holes and without doubles, when openraft refuses proposals, gives
//! no answer, or is another term's by now. In all of these `apply` would void the entry; here it must not come to that.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::ClientWriteResult;
use store::FrameKind;
use store::limits::SEGMENT_HEADER_LEN;
use tokio::sync::{oneshot, watch};
use wire::QueueOffset;

use super::cluster::{
    Cluster, SEGMENT, command, eventually, message, propose, three_with_topic, unless_refused,
};
use crate::limits::PENDING_BYTES_MAX;
use crate::proposer::{Intake, Proposer};
use crate::server::{GroupSlot, Levels};
use crate::types::{Completion, Data, TypeConfig, header_room};
use crate::{Group, NodeId, ProposeError, Receipt, Role, WallClock};

async fn one_with_topic() -> Cluster {
    let cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    cluster.group(leader).propose_command(command("t:1")).await.unwrap();
    cluster
}

/// A second proposer of a running group, which hears of roles what the test tells it.
struct Deaf {
    intake: Intake,
    role: watch::Sender<Role>,
    _paused: watch::Sender<bool>,
}

impl Deaf {
    fn start(cluster: &Cluster, node: u64, role: Role) -> Deaf {
        let member = &cluster.nodes[&node];
        let log = member.group.log().clone();
        let (voters, levels) = (vec![NodeId(node)], Levels { known: 1, max: 1 });
        let slot = GroupSlot::new(cluster.name, "g", NodeId(node), voters, log, levels, WallClock::default());
        let (role, role_rx) = watch::channel(role);
        let (paused, paused_rx) = watch::channel(false);
        let (intake, proposer) = Proposer::new(
            member.group.raft().clone(),
            Arc::new(slot),
            member.tables.clone(),
            role_rx,
            watch::channel(None).1,
            paused_rx,
            watch::channel(0).0,
            tokio::runtime::Handle::current(),
        );
        tokio::spawn(proposer.run());
        Deaf { intake, role, _paused: paused }
    }

    async fn propose(&self, body: &str) -> Result<Receipt, ProposeError> {
        let (tx, rx) = oneshot::channel();
        self.intake.messages(
            message("t", 0, body),
            Box::new(move |result| {
                let _ = tx.send(result);
            }),
        );
        rx.await.expect("every proposal is answered")
    }
}

/// Watches coalesce: a node that loses leadership and regains it may never tell its proposer that the term is another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_proposed_for_an_old_term_is_not_appended_by_the_same_leader_in_a_later_one() {
    let mut cluster = one_with_topic().await;
    let old = cluster.group(1).role().term;
    cluster.stop(1).await;
    cluster.restart(1).await;
    cluster.leader().await;
    let term = cluster.group(1).role().term;
    assert!(term > old);
    let leads = |term| Role { term, leader: Some(NodeId(1)), ready: true };
    let deaf = Deaf::start(&cluster, 1, leads(old));
    let last = cluster.group(1).log().state().last;
    for _ in 0..3 {
        let error = deaf.propose("for the old term").await.unwrap_err();
        assert!(matches!(error, ProposeError::NotLeader { .. }), "{error}");
        assert!(error.is_definite());
    }
    assert_eq!(cluster.group(1).log().state().last, last, "nothing was appended");
    assert_eq!(cluster.nodes[&1].tables.tables().next["t"][&0], 0);
    // It was the term alone: told of it, the same proposer goes on.
    deaf.role.send_replace(leads(term));
    let receipt = eventually(|| async { unless_refused(deaf.propose("for this term").await) }).await;
    assert_eq!(receipt.first_offset, QueueOffset(0));
}

/// Sends a message until it is taken.
async fn again(group: &Group, body: &str) -> Receipt {
    eventually(|| async { unless_refused(propose(group, message("t", 0, body)).await) }).await
}

/// Waits until openraft takes nothing because no majority has confirmed the leader of late; how many more messages it took
/// before.
async fn until_the_lease_is_over(group: &Group, next: &mut u64) {
    let lease = Duration::from_millis(group.raft().config().election_timeout_max);
    loop {
        eventually(|| async {
            let acked = group.raft().metrics().borrow_watched().last_quorum_acked;
            acked.is_none_or(|at| at.elapsed() > lease).then_some(())
        })
        .await;
        match propose(group, message("t", 0, "into the gap")).await {
            // A confirmation that the metrics did not show yet; this one is confirmed too, so the lease starts again.
            Ok(receipt) => {
                assert_eq!(receipt.first_offset.0, *next);
                *next += 1;
            }
            Err(ProposeError::NotLeader { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A leader that hears of nobody for a moment refuses, and accepts again in the same term: what comes then must not be
/// counted from what was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_lease_of_a_term_leaves_no_hole() {
    let (cluster, leader) = three_with_topic().await;
    let group = cluster.group(leader);
    let term = group.role().term;
    for (_, node) in cluster.nodes.iter().filter(|&(&node, _)| node != leader) {
        node.group.raft().runtime_config().elect(false);
    }
    let mut next = 0;
    for gap in 0..2 {
        group.raft().runtime_config().heartbeat(false);
        until_the_lease_is_over(group, &mut next).await;
        let last = group.log().state().last;
        let refused = futures::future::join_all((0..50).map(|_| propose(group, message("t", 0, "x")))).await;
        for result in refused {
            let error = result.unwrap_err();
            assert!(matches!(error, ProposeError::NotLeader { .. }), "gap {gap}: {error}");
            assert!(error.is_definite());
        }
        assert_eq!(group.log().state().last, last, "gap {gap}: nothing was appended");
        group.raft().runtime_config().heartbeat(true);
        let receipt = again(group, "after the gap").await;
        assert_eq!(receipt.first_offset.0, next, "gap {gap}: counted from the tables");
        next += 1;
        assert_eq!(group.role().term, term, "gap {gap}: it is the same term");
    }
    let tables = cluster.converged().await;
    assert_eq!((tables.next["t"][&0], tables.voids), (next, 0));
}

/// Where the proposer itself refuses, for want of room, it counts anew as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_that_found_no_room_leave_no_hole() {
    let cluster = one_with_topic().await;
    let group = cluster.group(1);
    assert_eq!(propose(group, message("t", 0, "x")).await.unwrap().first_offset.0, 0);
    // Once both segments ahead are allocated, the room does not grow by itself.
    let room = SEGMENT - SEGMENT_HEADER_LEN;
    eventually(|| async { (group.log().free_room() == room).then_some(()) }).await;
    let taken = group.log().reserve(room).unwrap();
    let refused = futures::future::join_all((0..20).map(|_| propose(group, message("t", 0, "x")))).await;
    for result in refused {
        assert!(matches!(result, Err(ProposeError::NoRoom { .. })), "{result:?}");
    }
    drop(taken);
    assert_eq!(propose(group, message("t", 0, "x")).await.unwrap().first_offset.0, 1);
    let tables = cluster.converged().await;
    assert_eq!((tables.next["t"][&0], tables.voids), (2, 0));
}

/// A proposal that was reported as unknown may still be committed. Until that is known nothing is counted past it, and it
/// takes its share of what may wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_that_was_given_up_still_counts() {
    let (cluster, leader) = three_with_topic().await;
    let group = cluster.group(leader);
    let others: Vec<u64> = (1..=3).filter(|&node| node != leader).collect();
    for node in &others {
        cluster.disks[node].hang(true);
    }
    let error = propose(group, message("t", 0, "given up")).await.unwrap_err();
    assert!(!error.is_definite(), "{error}");
    assert!(group.status().pending_bytes > 0, "openraft has it still");
    for _ in 0..3 {
        let error = propose(group, message("t", 0, "behind it")).await.unwrap_err();
        assert!(error.is_definite(), "it was not proposed: {error}");
    }
    for node in &others {
        cluster.disks[node].hang(false);
    }
    let receipt = again(group, "after it").await;
    assert_eq!(receipt.first_offset.0, 1, "the one that was given up has offset 0");
    let tables = cluster.converged().await;
    assert_eq!((tables.next["t"][&0], tables.voids), (2, 0));
    eventually(|| async { (group.status().pending_bytes == 0).then_some(()) }).await;
}

/// Appends `count` messages from `first` on behind the proposer's back, as a leadership that was lost and regained could.
async fn append_unseen(group: &Group, first: u64, count: u64) {
    let mut records = bytes::BytesMut::new();
    for offset in first..first + count {
        let mut record = message("t", 0, "unseen").records;
        wire::patch_queue_offset(&mut record, QueueOffset(offset)).unwrap();
        records.extend_from_slice(&record);
    }
    let data = Data { kind: FrameKind::Messages, log_time_ms: 0, buffer: header_room(&records) };
    let (tx, rx) = oneshot::channel();
    let done = Completion(Box::new(move |result: ClientWriteResult<TypeConfig>| {
        let _ = tx.send(result.is_ok());
    }));
    group.raft().write(data).responder(done).await.unwrap();
    assert!(rx.await.unwrap());
}

/// Whatever else fails, `apply` is the judge; and its judgement stops the proposer like any refusal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_entry_is_told_to_its_sender_and_counted_from_the_tables() {
    let cluster = one_with_topic().await;
    let group = cluster.group(1);
    assert_eq!(propose(group, message("t", 0, "x")).await.unwrap().first_offset.0, 0);
    append_unseen(group, 1, 3).await;
    let error = propose(group, message("t", 0, "x")).await.unwrap_err();
    assert!(matches!(error, ProposeError::Void), "{error}");
    assert!(error.is_definite(), "it may be sent again");
    assert_eq!(propose(group, message("t", 0, "x")).await.unwrap().first_offset.0, 4);
    let tables = cluster.converged().await;
    assert_eq!((tables.next["t"][&0], tables.voids), (5, 1));
}

/// What waits is bounded (log.md 19), whoever it waits for; it is refused at once, and the bound is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_waits_than_may() {
    let (cluster, leader) = three_with_topic().await;
    let group = cluster.group(leader);
    let others: Vec<u64> = (1..=3).filter(|&node| node != leader).collect();
    for node in &others {
        cluster.disks[node].hang(true);
    }
    let large = "x".repeat(7 << 20);
    let mut waiting = Vec::new();
    let error = loop {
        let (tx, mut rx) = oneshot::channel();
        group.propose_messages(message("t", 0, &large), Box::new(move |result| drop(tx.send(result))));
        match rx.try_recv() {
            Ok(Err(error @ ProposeError::Full { .. })) => break error,
            // One that meets the end of a segment before the next one is there is refused.
            Ok(result) => assert!(result.is_err_and(|error| error.is_definite())),
            Err(_) => waiting.push(rx),
        }
        assert!(waiting.len() < 100, "as much as one likes");
    };
    assert!(
        matches!(error, ProposeError::Full { limit_bytes: PENDING_BYTES_MAX, pending_bytes }
            if pending_bytes + large.len() >= PENDING_BYTES_MAX),
        "{error}"
    );
    assert!(error.is_definite());
    for node in &others {
        cluster.disks[node].hang(false);
    }
    let mut stored = 0;
    for result in waiting {
        stored += u64::from(unless_refused(result.await.unwrap()).is_some());
    }
    assert!(stored > 0, "{stored}");
    eventually(|| async { (group.status().pending_bytes == 0).then_some(()) }).await;
    assert_eq!(again(group, "after them").await.first_offset.0, stored);
}
