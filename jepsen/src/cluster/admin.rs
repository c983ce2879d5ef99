//! Questions and orders of the harness to single nodes, from a namespace that no fault cuts off.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use wire::{CreateTopicRequest, GetRouteInfoRequest, RemotingCommand, RequestCode, ResponseCode};

use super::space::Space;
use crate::history::Vote;

/// RaftMQ's own requests (crates/broker/src/handlers/raft.rs). Its structures are read here apart from the broker's code,
/// so that a field that changes its meaning there is seen.
const GROUP_STATUS: RequestCode = RequestCode(30_001);
const TRANSFER_LEADER: RequestCode = RequestCode(30_002);
const REPLICA_DIGEST: RequestCode = RequestCode(30_003);

/// One question to one node. A node that is asked five times a second is not waited for longer.
const QUESTION: Duration = Duration::from_millis(800);
/// What the leader does for us may meet an election.
const ORDER: Duration = Duration::from_secs(5);

/// A group as one node sees it: `raftmq admin group status --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub group: String,
    pub node: u64,
    pub term: u64,
    /// 0: nobody known.
    pub leader: u64,
    /// leader, follower, candidate, learner, stopped or starting.
    pub state: String,
    pub last_index: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    pub synced_index: u64,
    /// End of the log, a byte position.
    pub log_end: u64,
    pub pending_bytes: u64,
    // Older builds do not tell what follows.
    /// The vote on the node's disk.
    pub vote: Option<Vote>,
    pub incarnation: Option<String>,
    pub purged_index: Option<u64>,
    pub snapshot_index: Option<u64>,
    pub checkpoint_index: Option<u64>,
    /// End of what is fsynced, a byte position.
    pub synced_position: Option<u64>,
    /// For how long a flush has been under way on the node's disk.
    pub flushing_ms: Option<u64>,
    /// Why the group has stopped here.
    pub stopped: Option<String>,
}

/// What a node holds, right behind one entry (docs/formats.md 12.4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaDigest {
    pub index: Option<u64>,
    pub chain: Option<String>,
    pub tables: BTreeMap<String, String>,
    pub queues: Vec<QueueDigest>,
}

/// The newest units of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueDigest {
    pub topic: String,
    pub queue: u32,
    pub min: u64,
    pub next: u64,
    pub units_from: u64,
    pub units: Option<String>,
}

impl Status {
    pub fn leads(&self) -> bool {
        self.state == "leader"
    }

    /// It takes part, and has applied all that it knows to be committed.
    pub fn is_caught_up(&self) -> bool {
        (self.state == "leader" || self.state == "follower")
            && self.leader != 0
            && self.applied_index == self.committed_index
            && self.committed_index == self.last_index
    }
}

/// Asks nodes by their address, and waits on the caller's thread.
#[derive(Debug)]
pub struct Admin {
    space: Space,
    asker: Asker,
}

/// The same for tasks of the harness's own namespace.
#[derive(Clone)]
pub struct Asker(net::Client);

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asker")
    }
}

impl Asker {
    /// How a node sees the group that it serves at `address`; `None` without an answer in time.
    pub async fn status(&self, address: SocketAddr) -> Option<Status> {
        let request = RemotingCommand::request(GROUP_STATUS);
        let answer = self.0.call(&address.to_string(), request, QUESTION).await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// What the node holds right behind an entry that is to come, or now. `None`: it has none, or the entry does not come in
    /// time.
    pub async fn digest(&self, address: SocketAddr, index: Option<u64>) -> Option<ReplicaDigest> {
        let request = RemotingCommand::request(REPLICA_DIGEST);
        let request = match index {
            Some(index) => request.with_ext("index", &index.to_string()),
            None => request,
        };
        let answer = self.0.call(&address.to_string(), request, QUESTION).await.ok()?;
        if answer.response_code() != ResponseCode::SUCCESS {
            return None;
        }
        serde_json::from_slice(&answer.body).ok()
    }
}

impl Admin {
    pub fn new(space: Space) -> Admin {
        let config = net::ClientConfig { connect_timeout: QUESTION, ..net::ClientConfig::default() };
        Admin { space, asker: Asker(net::Client::new(config)) }
    }

    pub fn asker(&self) -> &Asker {
        &self.asker
    }

    /// Where tasks that ask are to run.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        self.space.handle()
    }

    /// The answer to a request that must succeed.
    fn ask(&self, address: SocketAddr, request: RemotingCommand, limit: Duration) -> Result<RemotingCommand> {
        let net = self.asker.0.clone();
        let answer = self.space.run(async move { net.call(&address.to_string(), request, limit).await })?;
        let remark = answer.remark.as_deref().unwrap_or_default();
        ensure!(
            answer.response_code() == ResponseCode::SUCCESS,
            "{address} answered {}: {remark}",
            answer.response_code()
        );
        Ok(answer)
    }

    /// How a node sees the group that it serves at `address`.
    pub fn status(&self, address: SocketAddr) -> Result<Status> {
        let answer = self.ask(address, RemotingCommand::request(GROUP_STATUS), QUESTION)?;
        serde_json::from_slice(&answer.body).with_context(|| format!("the status of {address}"))
    }

    /// The same of several nodes, asked at a time: one that hangs takes nobody else's turn.
    pub fn statuses(&self, addresses: &[SocketAddr]) -> Vec<Option<Status>> {
        let (asker, addresses) = (self.asker.clone(), addresses.to_vec());
        self.space.run(async move {
            futures::future::join_all(addresses.into_iter().map(|address| asker.status(address))).await
        })
    }

    /// Has the leader at `address` hand over to a node.
    pub fn transfer(&self, address: SocketAddr, to: u64) -> Result<()> {
        let request = RemotingCommand::request(TRANSFER_LEADER).with_ext("node", &to.to_string());
        self.ask(address, request, ORDER).map(drop)
    }

    /// Creates a topic, or changes it, through any node.
    pub fn create_topic(&self, address: SocketAddr, topic: &str, queues: i32) -> Result<()> {
        let header = CreateTopicRequest {
            topic: topic.to_owned(),
            default_topic: wire::topic::AUTO_CREATE.to_owned(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: wire::perm::READ_WRITE,
            ..CreateTopicRequest::default()
        };
        let request = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_TOPIC).with_header(&header);
        self.ask(address, request, ORDER).map(drop)
    }

    /// Whether a nameserver tells clients of a topic's leader.
    pub fn has_route(&self, nameserver: SocketAddr, topic: &str) -> Result<bool> {
        let header = GetRouteInfoRequest { topic: topic.to_owned(), accept_standard_json_only: Some(true) };
        let request = RemotingCommand::request(RequestCode::GET_ROUTEINFO_BY_TOPIC).with_header(&header);
        let answer = self.ask(nameserver, request, QUESTION)?;
        let route = <wire::TopicRouteData as wire::Body>::decode(&answer.body)?;
        Ok(route.broker_datas.iter().any(|broker| broker.broker_addrs.contains_key(&wire::MASTER_ID)))
    }
}
