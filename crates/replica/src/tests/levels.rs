//! log.md 15: nothing is proposed that a member of the group would not know.

use std::time::Duration;

use super::cluster::{Cluster, coupled, eventually, message, propose, propose_coupled};
use super::handshake::{client, node_2};
use crate::{COUPLED_LEVEL, ExcuseError, Group, GroupConfig, NodeId, ProposeError, proto};

/// Three nodes, of which one is of an older release, and topic `t`.
async fn with_an_old_node(old: u64, change: fn(&mut GroupConfig)) -> Cluster {
    let mut cluster = Cluster::plan(3);
    let nodes = (1..=3).map(|node| {
        cluster.open_as(node, &|_, group| {
            if node == old {
                change(group);
            }
        })
    });
    for (node, started) in (1..).zip(futures::future::join_all(nodes).await) {
        cluster.nodes.insert(node, started.unwrap());
    }
    let leader = cluster.leader().await;
    cluster.group(leader).propose_command(super::cluster::command("t:1")).await.unwrap();
    cluster
}

fn is_old(group: &mut GroupConfig) {
    (group.level, group.level_max) = (1, 1);
}

/// Leads from now on.
async fn lead(cluster: &Cluster, node: u64) {
    eventually(|| async {
        if cluster.group(node).role().ready {
            return Some(());
        }
        let leader = cluster.leader().await;
        if leader != node {
            // Perhaps it lacks an entry yet, or somebody else was elected.
            let _ = cluster.group(leader).transfer_leadership(NodeId(node)).await;
        }
        None
    })
    .await;
}

async fn try_coupled(group: &Group, word: &str) -> Result<(), ProposeError> {
    propose_coupled(group, coupled(word, vec![message("t", 0, word)])).await.map(drop)
}

/// What holds a coupled entry back.
async fn held_back(group: &Group, by: &[u64]) -> String {
    let last = group.log().state().last;
    let error = try_coupled(group, "early").await.unwrap_err();
    assert!(error.is_definite());
    let ProposeError::Level { needed, nodes } = &error else { panic!("{error}") };
    assert_eq!((*needed, nodes.iter().map(|node| node.0).collect::<Vec<_>>()), (COUPLED_LEVEL, by.to_vec()));
    assert!(group.check_level(COUPLED_LEVEL).is_err());
    assert_eq!(group.log().state().last, last, "nothing was proposed");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_waits_until_every_member_knows_its_kind() {
    let mut cluster = with_an_old_node(3, is_old).await;
    lead(&cluster, 1).await;
    let group = cluster.group(1).clone();
    let said = held_back(&group, &[3]).await;
    assert!(said.contains("node 3 has not said to know it"), "{said}");
    propose(&group, message("t", 0, "plain")).await.unwrap();
    let plain = cluster.converged().await;
    assert_eq!((plain.next["t"][&0], plain.coupled), (1, false), "what all know goes on");
    // It may come back as it was.
    cluster.stop(3).await;
    held_back(&group, &[3]).await;
    let known = tokio::spawn({
        let group = group.clone();
        async move { group.level_known_to_all(COUPLED_LEVEL).await }
    });
    cluster.restart_as(3, &|_, group| is_old(group)).await;
    propose(&group, message("t", 0, "more")).await.unwrap();
    cluster.converged().await;
    held_back(&group, &[3]).await;
    assert!(!known.is_finished());
    cluster.stop(3).await;
    cluster.restart(3).await;
    tokio::time::timeout(Duration::from_secs(20), known).await.expect("node 3 says it").unwrap();
    lead(&cluster, 1).await;
    try_coupled(&group, "late").await.unwrap();
    let tables = cluster.converged().await;
    assert_eq!((tables.next["t"][&0], tables.coupled), (3, true));
}

/// A word that was given is kept in the log: who is down holds nothing back, whoever leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_reached_needs_nobodys_word() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.group(leader).propose_command(super::cluster::command("t:1")).await.unwrap();
    cluster.group(leader).level_known_to_all(COUPLED_LEVEL).await;
    try_coupled(cluster.group(leader), "one").await.unwrap();
    cluster.converged().await;
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    // Node 3 has said nothing to those that start now.
    for node in 1..=2 {
        cluster.restart(node).await;
    }
    let leader = cluster.leader().await;
    eventually(|| async { try_coupled(cluster.group(leader), "two").await.ok() }).await;
    // One of an older release learns what it lacks, and does not get in.
    let address = &cluster.peers[&NodeId(leader)];
    let other = if leader == 1 { 2 } else { 1 };
    let origin = proto::Origin {
        from: other,
        to: leader,
        level: 1,
        ..node_2(cluster.group(other).log().incarnation())
    };
    let vote = Some(proto::Vote { term: 1000, node: other, committed: false });
    let ballot = proto::VoteRequest { origin: Some(origin), vote, ..Default::default() };
    let refused = client(address).vote(ballot).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let expect = format!("group g is at feature level 2, the release of node {other} knows 1");
    assert!(refused.message().contains(&expect), "{refused}");
    assert!(cluster.group(leader).log().vote().unwrap().term.0 < 1000);
}

/// A node that knows more may hold the group back, so that an older release can be gone back to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_may_hold_back_what_it_knows() {
    let mut cluster = with_an_old_node(2, |group| group.level_max = 1).await;
    lead(&cluster, 2).await;
    held_back(&cluster.group(2).clone(), &[2]).await;
    lead(&cluster, 1).await;
    let group = cluster.group(1).clone();
    held_back(&group, &[2]).await;
    cluster.stop(2).await;
    cluster.restart(2).await;
    group.level_known_to_all(COUPLED_LEVEL).await;
    lead(&cluster, 1).await;
    try_coupled(&group, "late").await.unwrap();
    assert!(cluster.converged().await.coupled);
}

/// A node that died with its old release says nothing any more: an operator names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_gone_for_good_need_not_say_anything() {
    let mut cluster = with_an_old_node(3, is_old).await;
    lead(&cluster, 1).await;
    let group = cluster.group(1).clone();
    held_back(&group, &[3]).await;
    let excuse = |group: &Group, level: u32, node: u64| group.excuse_from_level(level, &[NodeId(node)]);
    assert_eq!(excuse(&group, COUPLED_LEVEL, 9), Err(ExcuseError::NotAMember(NodeId(9))));
    assert_eq!(
        excuse(&group, COUPLED_LEVEL, 3),
        Err(ExcuseError::Answers { node: NodeId(3), level: COUPLED_LEVEL })
    );
    assert_eq!(
        excuse(cluster.group(2), COUPLED_LEVEL, 3),
        Err(ExcuseError::NotLeader),
        "only a leader hears what the others know"
    );
    cluster.stop(3).await;
    let beyond = COUPLED_LEVEL + 1;
    eventually(|| async {
        match excuse(&group, beyond, 3) {
            // It has answered a moment ago.
            Err(ExcuseError::Answers { .. }) => None,
            refused => {
                let no_majority = ExcuseError::NoMajority { level: beyond, known: 0, voters: 3 };
                assert_eq!(refused, Err(no_majority), "nobody knows it");
                Some(())
            }
        }
    })
    .await;
    held_back(&group, &[3]).await;

    // An operator who was wrong does no harm: what it says counts, and the group stays where all can follow.
    excuse(&group, COUPLED_LEVEL, 3).unwrap();
    group.check_level(COUPLED_LEVEL).unwrap();
    cluster.restart_as(3, &|_, group| is_old(group)).await;
    eventually(|| async { group.check_level(COUPLED_LEVEL).is_err().then_some(()) }).await;
    held_back(&group, &[3]).await;
    cluster.stop(3).await;
    eventually(|| async { excuse(&group, COUPLED_LEVEL, 3).ok() }).await;
    try_coupled(&group, "without 3").await.unwrap();

    // From then on the others know by the log, whoever leads; and who comes back with a new release follows.
    lead(&cluster, 2).await;
    try_coupled(cluster.group(2), "at 2").await.unwrap();
    cluster.restart(3).await;
    let tables = cluster.converged().await;
    assert_eq!((tables.next["t"][&0], tables.coupled), (2, true));
}
