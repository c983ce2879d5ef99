//! Three hosts of a cluster on loopback, with tables that count queue offsets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use store::{Frame, FrameKind, StoreError, TablesMeta};
use wire::{LogPosition, QueueId, QueueOffset};

use super::disk::GatedDisk;
use crate::{
    COUPLED_LEVEL, CommandProposal, CoupledProposal, CoupledReceipt, Group, GroupConfig, Host, HostConfig,
    MessagesProposal, NodeId, OpenError, Outcome, PeerHandler, ProposeError, Receipt, Service, StateMachine,
};

/// Tables: the next offset of each queue of each topic. The command `topic:queues` creates a topic. That of a coupled entry is
/// any word: the entry is void if the word has come before.
#[derive(Default)]
pub(crate) struct Counters {
    tables: Mutex<Tables>,
}

#[derive(Default, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tables {
    pub(crate) next: BTreeMap<String, BTreeMap<u32, u64>>,
    pub(crate) words: BTreeSet<String>,
    pub(crate) applied: u64,
    pub(crate) voids: u64,
    /// Whether an entry of kind coupled has come.
    pub(crate) coupled: bool,
}

impl Counters {
    pub(crate) fn tables(&self) -> Tables {
        self.tables.lock().unwrap().clone()
    }
}

impl StateMachine for Counters {
    fn apply(&self, frame: &Frame) -> Outcome {
        let mut tables = self.tables.lock().unwrap();
        tables.applied = frame.id().index.0;
        if frame.kind() == FrameKind::Command {
            let body = frame.body();
            let (topic, queues) = std::str::from_utf8(&body).unwrap().split_once(':').unwrap();
            let entry = tables.next.entry(topic.to_owned()).or_default();
            for queue in 0..queues.parse().unwrap() {
                entry.entry(queue).or_insert(0);
            }
            return Outcome::Command(Bytes::from_static(b"done"));
        }
        let word = frame.command().map(|word| String::from_utf8(word.to_vec()).unwrap());
        tables.coupled |= word.is_some();
        if word.as_ref().is_some_and(|word| tables.words.contains(word)) {
            tables.voids += 1;
            return Outcome::Void;
        }
        let mut next = tables.next.clone();
        for message in wire::Messages::new(&frame.records()) {
            let message = message.unwrap();
            let Some(count) =
                next.get_mut(message.topic).and_then(|queues| queues.get_mut(&message.queue_id.0))
            else {
                tables.voids += 1;
                return Outcome::Void;
            };
            if *count != message.queue_offset.0 {
                tables.voids += 1;
                return Outcome::Void;
            }
            *count += 1;
        }
        tables.next = next;
        let Some(word) = word else { return Outcome::Messages };
        let answer = Bytes::from(format!("{word} is new"));
        tables.words.insert(word);
        Outcome::Coupled(answer)
    }

    fn pass(&self, frame: &Frame) {
        self.tables.lock().unwrap().applied = frame.id().index.0;
    }

    fn next_offset(&self, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.tables.lock().unwrap().next.get(topic)?.get(&queue.0).copied().map(QueueOffset)
    }

    fn level(&self) -> u32 {
        if self.tables.lock().unwrap().coupled { COUPLED_LEVEL } else { 1 }
    }

    fn encode(&self) -> Vec<u8> {
        let tables = self.tables.lock().unwrap();
        let mut text = format!("{} {} {}\n", tables.applied, tables.voids, tables.coupled);
        for (topic, queues) in &tables.next {
            for (queue, next) in queues {
                text.push_str(&format!("{topic} {queue} {next}\n"));
            }
        }
        for word in &tables.words {
            text.push_str(&format!("{word}\n"));
        }
        text.into_bytes()
    }

    fn restore(&self, saved: &[u8], _at: &TablesMeta) -> Result<(), String> {
        let mut tables = Tables::default();
        for (i, line) in std::str::from_utf8(saved).unwrap().lines().enumerate() {
            let words: Vec<&str> = line.split(' ').collect();
            if i == 0 {
                tables.applied = words[0].parse().unwrap();
                tables.voids = words[1].parse().unwrap();
                tables.coupled = words[2].parse().unwrap();
            } else if let [word] = words[..] {
                tables.words.insert(word.to_owned());
            } else {
                let queues = tables.next.entry(words[0].to_owned()).or_default();
                queues.insert(words[1].parse().unwrap(), words[2].parse().unwrap());
            }
        }
        *self.tables.lock().unwrap() = tables;
        Ok(())
    }

    fn after_apply(&self, _end: LogPosition) {}

    fn checkpointed(&self, _end: LogPosition) {}
}

/// Answers a call with the name of the node and what was asked.
struct Echo(NodeId);

impl PeerHandler for Echo {
    fn handle(
        &self,
        from: NodeId,
        service: Service,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let me = self.0;
        async move {
            if service.0 == 9 {
                return Err("not here".to_owned());
            }
            Ok(Bytes::from(format!("{me} to {from}: {}", String::from_utf8_lossy(&payload))))
        }
        .boxed()
    }
}

pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) group: Group,
    pub(crate) tables: Arc<Counters>,
}

pub(crate) struct Cluster {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) peers: BTreeMap<NodeId, String>,
    pub(crate) nodes: HashMap<u64, Node>,
    pub(crate) name: &'static str,
    pub(crate) disks: BTreeMap<u64, GatedDisk>,
}

pub(crate) const SEGMENT: u64 = 16 << 20;

impl Cluster {
    /// A cluster of `n` nodes that have all started.
    pub(crate) async fn start(n: u64) -> Cluster {
        let mut cluster = Cluster::plan(n);
        let starts = (1..=n).map(|node| cluster.open(node));
        for (node, started) in futures::future::join_all(starts).await.into_iter().enumerate() {
            cluster.nodes.insert(node as u64 + 1, started.unwrap());
        }
        cluster
    }

    pub(crate) fn plan(n: u64) -> Cluster {
        // RUST_LOG=info shows what a test does.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let peers = addresses(n);
        let disks = (1..=n).map(|node| (node, GatedDisk::default())).collect();
        Cluster { directory: tempfile::tempdir().unwrap(), peers, nodes: HashMap::new(), name: "test", disks }
    }

    /// Starts a node on its directory.
    pub(crate) fn open(&self, node: u64) -> impl Future<Output = Result<Node, OpenError>> + use<> {
        self.open_as(node, &|_, _| ())
    }

    /// Starts a node whose configuration is not that of the others.
    pub(crate) fn open_as(
        &self,
        node: u64,
        change: &dyn Fn(&mut HostConfig, &mut GroupConfig),
    ) -> impl Future<Output = Result<Node, OpenError>> + use<> {
        let mut config = HostConfig {
            cluster: self.name.to_owned(),
            node: NodeId(node),
            listen: self.peers[&NodeId(node)].parse().unwrap(),
            peers: self.peers.clone(),
            flush_threads: 2,
        };
        let mut group =
            GroupConfig::new("g", self.group_directory(node), self.peers.keys().copied().collect());
        group.segment_size = SEGMENT;
        change(&mut config, &mut group);
        let disk = self.disks[&node].clone();
        async move {
            let here = tokio::runtime::Handle::current();
            let host = Host::start(&config, Arc::new(disk), Arc::new(Echo(config.node)), here.clone(), here)?;
            let started = async {
                let opened = host.open_group(group)?;
                let tables = Arc::new(Counters::default());
                if let Some((at, saved)) = opened.checkpoint() {
                    tables.restore(saved, at).unwrap();
                }
                Ok((host.start_group(opened, tables.clone()).await?, tables))
            }
            .await;
            match started {
                Ok((group, tables)) => Ok(Node { host, group, tables }),
                Err(error) => {
                    host.remove_group("g");
                    host.shutdown();
                    Err(error)
                }
            }
        }
    }

    /// Why a node does not start. What it held a moment ago, directory and port, may be free a moment later.
    pub(crate) async fn refused_as(
        &self,
        node: u64,
        change: &dyn Fn(&mut HostConfig, &mut GroupConfig),
    ) -> OpenError {
        eventually(|| async {
            match self.open_as(node, change).await {
                Err(OpenError::Store(StoreError::Locked { .. }) | OpenError::Listen { .. }) => None,
                Err(error) => Some(error),
                Ok(_) => panic!("node {node} has started"),
            }
        })
        .await
    }

    pub(crate) fn group_directory(&self, node: u64) -> std::path::PathBuf {
        self.directory.path().join(format!("n{node}"))
    }

    /// Stops a node without handing over leadership.
    pub(crate) async fn stop(&mut self, node: u64) {
        let stopped = self.nodes.remove(&node).unwrap();
        stopped.group.shutdown().await;
        stopped.host.remove_group("g");
        stopped.host.shutdown();
    }

    pub(crate) async fn restart(&mut self, node: u64) {
        self.restart_as(node, &|_, _| ()).await;
    }

    pub(crate) async fn restart_as(&mut self, node: u64, change: &dyn Fn(&mut HostConfig, &mut GroupConfig)) {
        let started = eventually(|| async { self.open_as(node, change).await.ok() }).await;
        self.nodes.insert(node, started);
    }

    /// The node that leads and may propose.
    pub(crate) async fn leader(&self) -> u64 {
        let leads =
            || async { self.nodes.iter().find(|(_, node)| node.group.role().ready).map(|(&id, _)| id) };
        let states = || {
            let states = self.nodes.values().map(|node| format!("\n{:?}", node.group.status()));
            format!("no node leads:{}", states.collect::<String>())
        };
        eventually_or(leads, states).await
    }

    pub(crate) fn group(&self, node: u64) -> &Group {
        &self.nodes[&node].group
    }

    /// Waits until a node has everything on its disk, as its leader knows. Tables that agree say that a majority has.
    pub(crate) async fn level(&self, leader: u64, node: u64) {
        eventually(|| async { (self.group(leader).lag_of(NodeId(node)) == Some(0)).then_some(()) }).await;
    }

    /// Waits until every node has applied the same, and returns it.
    pub(crate) async fn converged(&self) -> Tables {
        eventually(|| async {
            let mut all = self.nodes.values().map(|n| n.tables.tables());
            let first = all.next()?;
            all.all(|t| t == first).then_some(first)
        })
        .await
    }
}

/// Three nodes, one of which leads, and topic `t` with one queue.
pub(crate) async fn three_with_topic() -> (Cluster, u64) {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.group(leader).propose_command(command("t:1")).await.unwrap();
    (cluster, leader)
}

/// An address for each of `n` nodes that nobody has yet.
pub(crate) fn addresses(n: u64) -> BTreeMap<NodeId, String> {
    (1..=n).map(|id| (NodeId(id), format!("127.0.0.1:{}", tests::ports::free().unwrap()))).collect()
}

/// Asks until there is an answer, for at most 20 s.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(ask: impl FnMut() -> F) -> T {
    eventually_or(ask, || "the condition was not met".to_owned()).await
}

/// [`eventually`] that says at its end how things are.
async fn eventually_or<T, F: Future<Output = Option<T>>>(
    mut ask: impl FnMut() -> F,
    otherwise: impl Fn() -> String,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within 20 s: {}", otherwise());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A proposal of one message.
pub(crate) fn message(topic: &str, queue: u32, body: &str) -> MessagesProposal {
    let host = "127.0.0.1:10911".parse().unwrap();
    let new = wire::NewMessage {
        topic,
        queue_id: QueueId(queue),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 0,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: -1,
        body: body.as_bytes(),
        properties: "",
    };
    let mut records = BytesMut::new();
    wire::encode_message(&new, &mut records).unwrap();
    MessagesProposal { topic: topic.into(), queue: QueueId(queue), records, count: 1 }
}

pub(crate) async fn propose(group: &Group, proposal: MessagesProposal) -> Result<Receipt, ProposeError> {
    let (tx, rx) = tokio::sync::oneshot::channel();
    group.propose_messages(
        proposal,
        Box::new(move |result| {
            let _ = tx.send(result);
        }),
    );
    rx.await.expect("every proposal is answered")
}

/// `topic:queues`, which makes a topic.
pub(crate) fn command(text: &str) -> CommandProposal {
    CommandProposal { body: Bytes::copy_from_slice(text.as_bytes()), barrier: true, level: 1 }
}

/// A word that must be new, and messages.
pub(crate) fn coupled(word: &str, messages: Vec<MessagesProposal>) -> CoupledProposal {
    let command = Bytes::copy_from_slice(word.as_bytes());
    CoupledProposal { command, level: COUPLED_LEVEL, messages }
}

pub(crate) async fn propose_coupled(
    group: &Group,
    proposal: CoupledProposal,
) -> Result<CoupledReceipt, ProposeError> {
    let (tx, rx) = tokio::sync::oneshot::channel();
    group.propose_coupled(
        proposal,
        Box::new(move |result| {
            let _ = tx.send(result);
        }),
    );
    rx.await.expect("every proposal is answered")
}

/// `None` where a proposal may be sent again. What may be stored must not be.
pub(crate) fn unless_refused(result: Result<Receipt, ProposeError>) -> Option<Receipt> {
    match result {
        Ok(receipt) => Some(receipt),
        Err(error) if error.is_definite() => None,
        Err(error) => panic!("{error}"),
    }
}

/// Checks that a node holds a message where its receipt says, with the offset and the time that it says.
pub(crate) fn check_stored(group: &Group, receipt: &Receipt, body: &str) {
    let size = group.log().read_bytes(receipt.position, 4).unwrap();
    let size = u32::from_be_bytes(size[..].try_into().unwrap()) as usize;
    let record = group.log().read_bytes(receipt.position, size).unwrap();
    let stored = wire::StoredMessage::parse(&record).unwrap();
    stored.verify().unwrap();
    assert_eq!(stored.body, body.as_bytes());
    assert_eq!((stored.queue_offset, stored.position), (receipt.first_offset, receipt.position));
    assert_eq!(stored.store_timestamp as u64, receipt.store_timestamp_ms);
}

/// The bytes of a group's segments up to `end`, by file name.
pub(crate) fn segments(directory: &Path, end: LogPosition) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory.join("log")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if let Ok(start) = name.parse::<u64>()
            && start < end.0
        {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            bytes.truncate((end.0 - start).min(SEGMENT) as usize);
            files.insert(name, bytes);
        }
    }
    files
}
