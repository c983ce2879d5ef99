//! Commands and messages that take effect together or not at all.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use store::limits::SEGMENT_HEADER_LEN;
use store::{FrameKind, LogIndex};
use wire::QueueId;

use super::cluster::{
    Cluster, SEGMENT, check_stored, command, coupled, eventually, message, propose, propose_coupled, segments,
};
use crate::limits::PROPOSAL_BYTES_MAX;
use crate::{Group, MessagesProposal, ProposeError, Receipt};

/// A group of so many nodes, and topics `t` with three queues and `u` with one.
async fn with_topics(nodes: u64) -> (Cluster, u64) {
    let cluster = Cluster::start(nodes).await;
    let leader = cluster.leader().await;
    for topic in ["t:3", "u:1"] {
        cluster.group(leader).propose_command(command(topic)).await.unwrap();
    }
    (cluster, leader)
}

/// Several messages of one queue as one proposal.
fn batch(topic: &str, queue: u32, bodies: &[&str]) -> MessagesProposal {
    let mut records = BytesMut::new();
    for body in bodies {
        records.extend_from_slice(&message(topic, queue, body).records);
    }
    MessagesProposal { topic: topic.into(), queue: QueueId(queue), records, count: bodies.len() as u32 }
}

fn offsets(receipts: &[Receipt]) -> Vec<u64> {
    receipts.iter().map(|receipt| receipt.first_offset.0).collect()
}

/// How many entries of a kind the log of a node holds.
fn count(group: &Group, kind: FrameKind) -> usize {
    let log = group.log();
    let frames = log.read(log.state().first_index, LogIndex(u64::MAX), usize::MAX).unwrap();
    frames.iter().filter(|frame| frame.kind() == kind).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_say_where_each_message_is_and_what_the_command_answered() {
    let (cluster, leader) = with_topics(1).await;
    let group = cluster.group(leader);
    assert_eq!(propose(group, message("t", 0, "plain")).await.unwrap().first_offset.0, 0);
    let messages =
        vec![batch("t", 0, &["a", "b"]), message("u", 0, "c"), message("t", 0, "d"), message("t", 2, "e")];
    let receipt = propose_coupled(group, coupled("one", messages)).await.unwrap();
    assert_eq!(receipt.answer, "one is new");
    assert_eq!(offsets(&receipt.receipts), [1, 0, 3, 0]);
    for (receipt, body) in receipt.receipts.iter().zip(["a", "c", "d", "e"]) {
        check_stored(group, receipt, body);
    }
    // A command alone, all or nothing as well.
    let receipt = propose_coupled(group, coupled("two", Vec::new())).await.unwrap();
    assert_eq!((receipt.answer, receipt.receipts), (Bytes::from_static(b"two is new"), Vec::new()));
    assert_eq!(propose(group, message("t", 0, "plain")).await.unwrap().first_offset.0, 4);
    let tables = cluster.converged().await;
    assert_eq!(tables.next["t"], [(0, 5), (1, 0), (2, 1)].into());
    assert_eq!((tables.next["u"][&0], tables.voids), (1, 0));
    assert_eq!(tables.words.into_iter().collect::<Vec<_>>(), ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_command_takes_its_messages_along_and_leaves_no_hole() {
    let (cluster, leader) = with_topics(3).await;
    let group = cluster.group(leader);
    propose_coupled(group, coupled("once", vec![message("t", 0, "a"), message("t", 1, "b")])).await.unwrap();
    let error =
        propose_coupled(group, coupled("once", vec![message("t", 0, "c"), message("u", 0, "d")])).await;
    let error = error.unwrap_err();
    assert!(matches!(error, ProposeError::Void), "{error}");
    assert!(error.is_definite(), "its sender may read the tables and go on");
    // Whoever comes next gets the offsets that the void entry had.
    let next = eventually(|| async { propose(group, message("t", 0, "e")).await.ok() }).await;
    assert_eq!(next.first_offset.0, 1);
    check_stored(group, &next, "e");
    let again = propose_coupled(group, coupled("twice", vec![message("u", 0, "f")])).await.unwrap();
    assert_eq!(offsets(&again.receipts), [0]);
    let tables = cluster.converged().await;
    assert_eq!((tables.next["t"][&0], tables.next["t"][&1], tables.next["u"][&0]), (2, 1, 1));
    assert_eq!(tables.voids, 1);
    assert_eq!(count(group, FrameKind::Coupled), 3, "its bytes stay in the log");
}

/// What is counted past an entry that turns out void is void itself, and told so; nothing is acknowledged twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_behind_a_void_entry_is_told() {
    let (cluster, leader) = with_topics(3).await;
    let group = cluster.group(leader);
    propose_coupled(group, coupled("w0", vec![message("t", 0, "w0")])).await.unwrap();
    let mut sent = Vec::new();
    for n in 0..120_u64 {
        // Every third may be one that has been before.
        let word = if n % 3 == 2 { format!("w{}", n / 6) } else { format!("w{}", n + 1000) };
        let body = format!("m{n}");
        let group = group.clone();
        sent.push(async move {
            let messages = vec![message("t", 0, &body), message("t", 1, &body)];
            let coupled = propose_coupled(&group, coupled(&word, messages)).await;
            (body, coupled, propose(&group, message("t", 0, "plain")).await)
        });
    }
    let mut acknowledged: BTreeMap<(u32, u64), String> = BTreeMap::new();
    acknowledged.insert((0, 0), "w0".into());
    let mut voids = 0;
    for (body, coupled, plain) in futures::future::join_all(sent).await {
        match coupled {
            Ok(receipt) => {
                for (queue, at) in (0..).zip(&receipt.receipts) {
                    let before = acknowledged.insert((queue, at.first_offset.0), body.clone());
                    assert_eq!(before, None);
                    check_stored(group, at, &body);
                }
            }
            Err(error) => {
                assert!(error.is_definite(), "{error}");
                voids += u64::from(matches!(error, ProposeError::Void));
            }
        }
        match plain {
            Ok(receipt) => {
                assert_eq!(acknowledged.insert((0, receipt.first_offset.0), "plain".into()), None);
                check_stored(group, &receipt, "plain");
            }
            Err(error) => assert!(error.is_definite(), "{error}"),
        }
    }
    assert!(voids > 0, "a word that has been before is refused");
    let tables = cluster.converged().await;
    assert!(tables.voids > 0);
    for queue in [0, 1] {
        let offsets: Vec<u64> = acknowledged.keys().filter(|key| key.0 == queue).map(|key| key.1).collect();
        assert_eq!(offsets, (0..tables.next["t"][&queue]).collect::<Vec<_>>(), "no hole in queue {queue}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_in_flight_keep_their_order_among_messages_and_survive_a_restart() {
    let (mut cluster, leader) = with_topics(3).await;
    let group = cluster.group(leader).clone();
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    // Proposed one after the other without waiting: offsets follow the order of the calls.
    for n in 0..200_u64 {
        let (tx, body) = (tx.clone(), format!("m{n}"));
        if n % 2 == 0 {
            let proposal = coupled(&format!("w{n}"), vec![message("t", 0, &body), message("u", 0, &body)]);
            let done = move |result: Result<crate::CoupledReceipt, ProposeError>| {
                let _ = tx.send((n, result.map(|receipt| receipt.receipts)));
            };
            group.propose_coupled(proposal, Box::new(done));
        } else {
            let done = move |result: Result<Receipt, ProposeError>| {
                let _ = tx.send((n, result.map(|receipt| vec![receipt])));
            };
            group.propose_messages(message("t", 0, &body), Box::new(done));
        }
    }
    drop(tx);
    let mut receipts = BTreeMap::new();
    while let Some((n, result)) = rx.recv().await {
        receipts.insert(n, result.unwrap());
    }
    assert_eq!(receipts.len(), 200);
    for (n, receipts) in &receipts {
        let expected = if n % 2 == 0 { vec![*n, n / 2] } else { vec![*n] };
        assert_eq!(offsets(receipts), expected);
    }
    assert_eq!(count(&group, FrameKind::Coupled), 100, "each is an entry of its own");
    drop(group);
    let before = cluster.converged().await;
    assert_eq!((before.words.len(), before.voids), (100, 0));
    let end = eventually(|| async {
        let ends: Vec<_> = (1..=3).map(|node| cluster.group(node).log().state().end).collect();
        (ends[0] == ends[1] && ends[1] == ends[2]).then_some(ends[0])
    })
    .await;
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    let first = segments(&cluster.group_directory(1), end);
    for node in 2..=3 {
        assert!(first == segments(&cluster.group_directory(node), end), "node {node} has other bytes");
    }
    for node in 1..=3 {
        cluster.restart(node).await;
    }
    let leader = cluster.leader().await;
    let after = cluster.converged().await;
    assert_eq!((&after.next, &after.words), (&before.next, &before.words));
    for node in 1..=3 {
        for (n, receipts) in &receipts {
            for at in receipts {
                check_stored(cluster.group(node), at, &format!("m{n}"));
            }
        }
    }
    let error = propose_coupled(cluster.group(leader), coupled("w8", vec![message("t", 0, "x")])).await;
    assert!(matches!(error, Err(ProposeError::Void)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_does_not_exist_refuses_the_whole_proposal() {
    let (cluster, leader) = with_topics(1).await;
    let group = cluster.group(leader);
    let last = group.log().state().last;
    for messages in [
        vec![message("t", 0, "a"), message("t", 3, "b")],
        vec![message("t", 0, "a"), message("no such topic", 0, "b"), message("t", 1, "c")],
    ] {
        let error = propose_coupled(group, coupled("word", messages)).await.unwrap_err();
        assert!(matches!(error, ProposeError::NoQueue { .. }), "{error}");
    }
    assert_eq!(group.log().state().last, last, "nothing was proposed");
    // The first queue's counter is where it was, in the same term of the proposer.
    let receipt = propose_coupled(group, coupled("word", vec![message("t", 0, "a")])).await.unwrap();
    assert_eq!(offsets(&receipt.receipts), [0]);
    assert_eq!(propose(group, message("t", 0, "b")).await.unwrap().first_offset.0, 1);
    assert_eq!(cluster.converged().await.voids, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_room_are_those_of_messages() {
    let (cluster, leader) = with_topics(1).await;
    let group = cluster.group(leader);
    let half = "x".repeat(PROPOSAL_BYTES_MAX / 2);
    let messages = || vec![message("t", 0, &half), message("t", 1, &half)];
    let error = propose_coupled(group, coupled("word", messages())).await.unwrap_err();
    assert!(matches!(error, ProposeError::TooLarge { len, .. } if len > PROPOSAL_BYTES_MAX), "{error}");
    assert_eq!(group.status().pending_bytes, 0);
    let large = &half[..half.len() - 1024];
    let messages = vec![message("t", 0, large), message("t", 1, large)];
    let receipt = propose_coupled(group, coupled("word", messages)).await.unwrap();
    assert_eq!(offsets(&receipt.receipts), [0, 0]);
    // Once both segments ahead are allocated, the room does not grow by itself.
    let room = SEGMENT - SEGMENT_HEADER_LEN;
    eventually(|| async { (group.log().free_room() == room).then_some(()) }).await;
    let taken = group.log().reserve(room).unwrap();
    let error = propose_coupled(group, coupled("other", vec![message("t", 0, "x")])).await.unwrap_err();
    assert!(matches!(error, ProposeError::NoRoom { .. }), "{error}");
    drop(taken);
    let receipt = eventually(|| async {
        propose_coupled(group, coupled("other", vec![message("t", 0, "x")])).await.ok()
    })
    .await;
    assert_eq!(offsets(&receipt.receipts), [1]);
    eventually(|| async { (group.status().pending_bytes == 0).then_some(()) }).await;
    assert_eq!(cluster.converged().await.voids, 0);
}
