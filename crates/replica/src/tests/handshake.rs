//! log.md 19: who a peer is, and of what, is compared before anything else. Asked over real connections, as the protocol has
//! it: each request, the first of a stream and the head of a snapshot names its origin.

use bytes::Bytes;
use futures::stream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::cluster::{Cluster, SEGMENT, eventually};
use crate::proto::{self, peer_client::PeerClient};
use crate::{FormationError, GroupConfig, HostConfig, NodeId, OpenError};

pub(super) fn client(address: &str) -> PeerClient<Channel> {
    PeerClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

/// Node 2 as node 1 ought to know it.
pub(super) fn node_2(incarnation: &str) -> proto::Origin {
    proto::Origin {
        cluster: "test".into(),
        group: "g".into(),
        from: 2,
        to: 1,
        incarnation: incarnation.into(),
        segment_size: SEGMENT,
        format: store::FRAME_MAGIC,
        level: 1,
    }
}

type Change = fn(&mut proto::Origin);

/// Ways to be another, and what is said about them, whether the group is formed or not.
const OTHERS: [(&str, Change, Code); 5] = [
    ("this is cluster test, not testx", |origin| origin.cluster.push('x'), Code::FailedPrecondition),
    ("this is node 1, not 7: check the peer list", |origin| origin.to = 7, Code::FailedPrecondition),
    ("node 2 has 33554432 in format", |origin| origin.segment_size *= 2, Code::FailedPrecondition),
    ("node 2 has 16777216 in format", |origin| origin.format += 1, Code::FailedPrecondition),
    // It may be opened yet: the caller tries again.
    ("group gx is not open on this node", |origin| origin.group.push('x'), Code::Unavailable),
];

/// And those that a group knows once it is formed.
const STRANGERS: [(&str, Change, Code); 2] = [
    ("node 9 is not a member of group g", |origin| origin.from = 9, Code::FailedPrecondition),
    (
        "node 2 of group g is known with another data directory",
        |origin| origin.incarnation = "0".repeat(32),
        Code::FailedPrecondition,
    ),
];

fn assert_refused<T>(what: &str, answer: Result<T, Status>, expect: &str, code: Code) {
    let Err(status) = answer else { panic!("{what} was answered instead of: {expect}") };
    assert_eq!(status.code(), code, "{what}: {status}");
    assert!(status.message().contains(expect), "{what}: {status} instead of: {expect}");
}

/// Each kind of request that names an origin, but Hello. A vote of a term that is not over would be obeyed.
async fn ask_all(
    address: &str,
    origin: Option<proto::Origin>,
    term: u64,
) -> Vec<(&'static str, Result<(), Status>)> {
    let mut client = client(address);
    let vote = |committed| Some(proto::Vote { term, node: 2, committed });
    let append = || proto::AppendRequest { origin: origin.clone(), vote: vote(true), ..Default::default() };
    let ballot = || proto::VoteRequest { origin: origin.clone(), vote: vote(false), ..Default::default() };
    let transfer = proto::TransferLeaderRequest {
        origin: origin.clone(),
        from_leader: vote(true),
        to: 2,
        ..Default::default()
    };
    let head = proto::SnapshotHead {
        origin: origin.clone(),
        vote: vote(true),
        last: Some(proto::LogId { term: 0, index: 0 }),
        ..Default::default()
    };
    let chunk = proto::SnapshotChunk { head: Some(head), ..Default::default() };
    let appended = match client.append(stream::iter([append()])).await {
        Ok(replies) => replies.into_inner().message().await.map(|_| ()),
        Err(status) => Err(status),
    };
    vec![
        ("an append", appended),
        ("a heartbeat", client.heartbeat(append()).await.map(|_| ())),
        ("a vote", client.vote(ballot()).await.map(|_| ())),
        ("a pre-vote", client.pre_vote(ballot()).await.map(|_| ())),
        ("a transfer", client.transfer_leader(transfer).await.map(|_| ())),
        ("a snapshot", client.snapshot(stream::iter([chunk])).await.map(|_| ())),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_formed_group_refuses_every_request_of_another_origin() {
    let cluster = Cluster::start(2).await;
    cluster.leader().await;
    let address = &cluster.peers[&NodeId(1)];
    let good = node_2(cluster.group(2).log().incarnation());
    for (what, answer) in ask_all(address, Some(good.clone()), 0).await {
        assert!(answer.is_ok(), "{what} of a member: {answer:?}");
    }
    for (expect, change, code) in OTHERS.into_iter().chain(STRANGERS) {
        let mut origin = good.clone();
        change(&mut origin);
        for (what, answer) in ask_all(address, Some(origin), 1000).await {
            assert_refused(what, answer, expect, code);
        }
    }
    for (what, answer) in ask_all(address, None, 1000).await {
        assert_refused(what, answer, "names no origin", Code::InvalidArgument);
    }
    // Nothing of it came as far as openraft.
    let vote = cluster.group(1).log().vote().unwrap();
    assert!(vote.term.0 < 1000, "{vote:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_to_another_node_or_cluster_is_refused() {
    let cluster = Cluster::start(2).await;
    let mut client = client(&cluster.peers[&NodeId(1)]);
    let good = proto::CallRequest {
        cluster: "test".into(),
        from: 2,
        to: 1,
        service: 1,
        timeout_ms: 1000,
        payload: Bytes::from_static(b"hello"),
    };
    client.call(good.clone()).await.unwrap();
    let expect = "this is node 1 of cluster test";
    let other = proto::CallRequest { cluster: "testx".into(), ..good.clone() };
    assert_refused("another cluster", client.call(other).await, expect, Code::FailedPrecondition);
    let other = proto::CallRequest { to: 2, ..good };
    assert_refused("another node", client.call(other).await, expect, Code::FailedPrecondition);
}

async fn hello(address: &str, origin: proto::Origin, voters: &[u64]) -> Result<proto::HelloReply, Status> {
    let request = proto::HelloRequest { origin: Some(origin), formed: false, voters: voters.to_vec() };
    client(address).hello(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_forms_a_group_with_nobody_who_differs() {
    let cluster = Cluster::plan(2);
    let address = &cluster.peers[&NodeId(1)];
    // Of a node that nobody knows yet any incarnation is good.
    let good = node_2(&"0".repeat(32));
    let asked = async {
        let reply = eventually(|| async { hello(address, good.clone(), &[1, 2]).await.ok() }).await;
        assert!(!reply.formed && reply.known.is_empty());
        for (expect, change, code) in OTHERS {
            let mut origin = good.clone();
            change(&mut origin);
            assert_refused("a hello", hello(address, origin, &[1, 2]).await, expect, code);
        }
        let other_list = hello(address, good.clone(), &[1, 2, 3]).await;
        let expect = "group g has voters [1, 2] here and [1, 2, 3] on node 2";
        assert_refused("a hello", other_list, expect, Code::FailedPrecondition);
        let reply = hello(address, good.clone(), &[1, 2]).await.unwrap();
        assert!(!reply.formed, "to ask is not to take part");
    };
    tokio::select! {
        _ = cluster.open(1) => panic!("node 1 has formed the group without node 2"),
        () = asked => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_formed_group_says_whom_it_knows_to_its_members_only() {
    let cluster = Cluster::start(2).await;
    let address = &cluster.peers[&NodeId(1)];
    // A node that lost its directory: it is told what ends its start, whatever it believes to be.
    let lost = node_2(&"0".repeat(32));
    let reply = hello(address, lost.clone(), &[1, 2]).await.unwrap();
    assert!(reply.formed);
    assert_eq!(reply.known[&2], cluster.group(2).log().incarnation());
    assert_eq!(reply.incarnation, cluster.group(1).log().incarnation());
    for (expect, change, code) in [OTHERS[0], STRANGERS[0]] {
        let mut origin = lost.clone();
        change(&mut origin);
        assert_refused("a hello", hello(address, origin, &[1, 2]).await, expect, code);
    }
}

/// Starts nodes 1 and 2 of three, of which node 2 is configured otherwise; what the one says that gives up first.
async fn refusal(change: &dyn Fn(&mut HostConfig, &mut GroupConfig)) -> String {
    let cluster = Cluster::plan(3);
    let ended = tokio::select! {
        ended = cluster.open(1) => ended,
        ended = cluster.open_as(2, change) => ended,
    };
    match ended {
        Err(OpenError::Formation(error @ FormationError::Refused { .. })) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the group was formed"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_differ_do_not_form_a_group() {
    let said = refusal(&|host, _| host.cluster = "other".into()).await;
    assert!(said.contains("refuses: this is cluster"), "{said}");
    let said = refusal(&|_, group| group.segment_size = 2 * SEGMENT).await;
    assert!(said.contains("refuses: group g has segments of"), "{said}");
    let said = refusal(&|_, group| group.voters = vec![NodeId(1), NodeId(2)]).await;
    assert!(said.contains("refuses: group g has voters"), "{said}");
    let crossed = refusal(&|host, _| {
        let (one, three) = (host.peers[&NodeId(1)].clone(), host.peers[&NodeId(3)].clone());
        host.peers.insert(NodeId(1), three);
        host.peers.insert(NodeId(3), one);
    });
    let said = crossed.await;
    assert!(said.contains("refuses: this is node 1, not 3: check the peer list"), "{said}");
}
