//! The nodes: each a process with a runtime of its own, a disk and its thread, a wall clock. All run on this thread, in
//! steps of a millisecond, one after the other in an order that the seed chooses.
//!
//! ```text
//! tick: what is due arrives ─▶ clients, n1, n2, n3 in any order, each until it waits ─▶ the next millisecond
//!                                       └─ then its disk's thread, until it waits
//! ```
//! A runtime's clock is paused: it moves on by the millisecond that a step waits for. During a step time stands still, for
//! tokio as for `std` (clock.rs).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker::state::InFlight;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use replica::{Ground, GroupConfig, Host, HostConfig, NodeId, OpenError, PeerHandler, Service};
use store::{Flusher, Frame, Log, LogItem, Options, Work};
use tokio::runtime::Runtime;
use wire::{LogPosition, QueueId, QueueOffset};
use xxhash_rust::xxh3::Xxh3;

use crate::clock;
use crate::disk::{Ending, SimDisk};
use crate::net::{Net, SimTransport, address};
use crate::oracle::{GroupSight, Oracle, Out, Replica, Sight, Standing};
use crate::plan::{
    ALL_TOPICS, NODES, ORDERED, ORDERLY, POPPED, POPPERS, Plan, QUEUES, READERS, SOURCES, TOPICS,
};
use crate::random::Random;
use crate::served::{Directory, Served};
use crate::tables::{ReadFailure, Tables};
use crate::thread::DiskThread;
use crate::trace::say;
use crate::workload::consumer_of;

const TICK: Duration = Duration::from_millis(1);
/// How often all nodes are looked at.
const LOOK_MS: u64 = 20;
/// How often the indexes are kept.
const INDEX_MS: u64 = 300;
/// How often logs are asked to check themselves.
const CHECK_MS: u64 = 500;
/// A planned stop that has not ended by then is made an end.
const STOP_MS: u64 = 15_000;

pub(crate) fn group_name(group: usize) -> String {
    format!("broker-{group}")
}

/// What a process has once it takes part.
struct Running {
    host: Host,
    served: Vec<Served>,
}

enum Stage {
    Starting,
    Running(Running),
    Failed(String),
    /// Since then.
    Stopping(u64),
    Stopped,
}

struct Process {
    number: u64,
    /// `None` only while it is being ended.
    runtime: Option<Runtime>,
    flusher: Flusher,
    stage: Arc<Mutex<Stage>>,
    /// The logs that are open, by group.
    logs: Arc<Mutex<BTreeMap<usize, Log>>>,
    is_published: bool,
    /// By how much its clock is behind: it was paused.
    lag_ms: u64,
}

struct Node {
    id: u64,
    disk: SimDisk,
    thread: DiskThread,
    process: Option<Process>,
    wall_ahead_ms: i64,
    paused_until_ms: u64,
    /// A sync was made to fail since the process began: its groups may stop.
    may_break: bool,
    /// Its groups have stopped, as they may.
    is_broken: bool,
    is_full: bool,
    /// Its log is damaged: it must not start.
    is_rotten: bool,
}

pub(crate) struct Cluster {
    pub(crate) plan: Plan,
    pub(crate) net: Net,
    pub(crate) directory: Directory,
    pub(crate) oracle: Arc<Oracle>,
    clients: Runtime,
    nodes: Vec<Node>,
    /// In which order they run.
    random: Random,
    processes_ever: u64,
    /// Logs that were damaged (rot.rs).
    pub(crate) rots: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_start(|| {
            eprintln!("a thread of tokio's own would make the order of events a matter of chance");
            std::process::abort();
        })
        .build()
        .expect("a runtime")
}

/// Everything that is ready, and then a millisecond.
fn step(runtime: &Runtime) {
    runtime.block_on(async { tokio::time::sleep(TICK).await });
}

/// Calls between nodes are the broker's, which is not here.
struct NoCalls;

impl PeerHandler for NoCalls {
    fn handle(
        &self,
        _from: NodeId,
        _service: Service,
        _payload: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        async { Err("nobody answers calls in a simulation".to_owned()) }.boxed()
    }
}

/// What a process needs to start.
struct Boot {
    node: u64,
    plan: Plan,
    disk: SimDisk,
    flusher: Flusher,
    net: Net,
    oracle: Arc<Oracle>,
    logs: Arc<Mutex<BTreeMap<usize, Log>>>,
}

impl Boot {
    async fn run(self) -> Result<Running, OpenError> {
        let here = tokio::runtime::Handle::current();
        let config = HostConfig {
            cluster: "sim".to_owned(),
            node: NodeId(self.node),
            listen: address(self.node),
            peers: (1..=NODES).map(|node| (NodeId(node), address(node).to_string())).collect(),
            flush_threads: 0,
        };
        let ground = Ground {
            disk: Arc::new(self.disk.clone()),
            flusher: self.flusher.clone(),
            transport: Some(Arc::new(SimTransport { net: self.net.clone(), node: self.node })),
        };
        let host = Host::start_on(&config, ground, Arc::new(NoCalls), here.clone(), here)?;
        let starts = (0..self.plan.groups).map(|group| self.join(&host, group));
        let served = futures::future::try_join_all(starts).await?;
        Ok(Running { host, served })
    }

    async fn join(&self, host: &Host, group: usize) -> Result<Served, OpenError> {
        let name = group_name(group);
        let config = GroupConfig {
            segment_size: self.plan.segment_size,
            checkpoint_interval: self.plan.checkpoint_interval,
            catch_up: self.plan.catch_up,
            log: Options {
                recent_bytes_max: self.plan.recent_bytes_max,
                small_segments: true,
                zeros_ahead: self.plan.zeros_ahead,
            },
            ..GroupConfig::new(name.clone(), format!("/data/{name}"), (1..=NODES).map(NodeId).collect())
        };
        let opened = host.open_group(config)?;
        lock(&self.logs).insert(group, opened.log().clone());
        let checkpoint = opened.checkpoint().map(|(at, _)| at.last.index.0);
        let tables = Arc::new(Tables::open(self.node, group, &opened, self.oracle.clone())?);
        self.oracle.started(self.node, group, checkpoint);
        let group = host.start_group(opened, tables.clone()).await?;
        Ok(Served { group, tables })
    }
}

impl Cluster {
    pub(crate) fn new(plan: Plan, oracle: Arc<Oracle>) -> Self {
        let net = Net::new(plan.seed, plan.latency_ms);
        let nodes = (1..=NODES).map(|id| Node {
            id,
            disk: SimDisk::new(plan.seed, id, plan.sync_ms),
            thread: DiskThread::start(format!("disk-{id}")),
            process: None,
            wall_ahead_ms: 0,
            paused_until_ms: 0,
            may_break: false,
            is_broken: false,
            is_full: false,
            is_rotten: false,
        });
        for (from, to) in links() {
            net.lose(from, to, plan.loss_permille);
        }
        Cluster {
            nodes: nodes.collect(),
            net,
            directory: Directory::default(),
            oracle,
            clients: runtime(),
            random: Random::of(plan.seed, "order"),
            processes_ever: 0,
            rots: 0,
            plan,
        }
    }

    /// Runs a task among the clients.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.clients.spawn(task));
    }

    fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// One millisecond.
    pub(crate) fn tick(&mut self) {
        self.net.deliver();
        let mut order: Vec<u64> = (0..=NODES).collect();
        self.random.shuffle(&mut order);
        for who in order {
            if who == 0 {
                clock::set_node(0, 0);
                step(&self.clients);
            } else {
                self.node(who).step();
            }
        }
        clock::set_node(0, 0);
        clock::set_now_ms(clock::now_ms() + 1);
        self.look_after();
        if clock::now_ms().is_multiple_of(LOOK_MS) {
            self.look();
        }
        for panic in crate::panics::take() {
            self.oracle.violated("panic", &panic);
        }
    }

    /// Starts a node that is down.
    pub(crate) fn start(&mut self, id: u64) {
        self.processes_ever += 1;
        let number = self.processes_ever;
        let (plan, net, oracle) = (self.plan.clone(), self.net.clone(), self.oracle.clone());
        self.net.begin(id);
        let node = self.node(id);
        assert!(node.process.is_none(), "node {id} runs already");
        say!("n{id} starts");
        node.disk.begin();
        clock::set_node(id, node.wall_ahead_ms);
        let (runtime, flusher) = (runtime(), Flusher::manual());
        let stage = Arc::new(Mutex::new(Stage::Starting));
        let logs = Arc::new(Mutex::new(BTreeMap::new()));
        let (disk, flushed) = (node.disk.clone(), flusher.clone());
        let boot = Boot { node: id, plan, disk, flusher: flushed, net, oracle, logs: logs.clone() };
        let result = stage.clone();
        runtime.spawn(async move {
            let next = match boot.run().await {
                Ok(running) => Stage::Running(running),
                Err(error) => Stage::Failed(error.to_string()),
            };
            *lock(&result) = next;
        });
        let runtime = Some(runtime);
        let process = Process { number, runtime, flusher, stage, logs, is_published: false, lag_ms: 0 };
        node.process = Some(process);
    }

    /// Ends the process of a node, whatever it is doing.
    pub(crate) fn end(&mut self, id: u64, ending: Ending) {
        self.directory.withdraw(id);
        let node = self.node(id);
        let Some(mut process) = node.process.take() else { return };
        node.paused_until_ms = 0;
        (node.may_break, node.is_broken) = (false, false);
        let disk = node.disk.clone();
        self.net.end(id, ending == Ending::Process);
        // Its tasks are gone before they see the disk fail.
        drop(process.runtime.take());
        disk.end(ending);
        self.node(id).thread.finish();
        drop(process);
    }

    /// Begins a planned stop; false where the node does not take part at the moment.
    pub(crate) fn stop(&mut self, id: u64) -> bool {
        let node = self.node(id);
        let Some(process) = &node.process else { return false };
        let Some(runtime) = &process.runtime else { return false };
        let running = {
            let mut stage = lock(&process.stage);
            match std::mem::replace(&mut *stage, Stage::Stopping(clock::now_ms())) {
                Stage::Running(running) => running,
                before => {
                    *stage = before;
                    return false;
                }
            }
        };
        let stage = process.stage.clone();
        runtime.spawn(async move {
            for served in &running.served {
                served.group.shutdown().await;
            }
            running.host.shutdown();
            drop(running);
            *lock(&stage) = Stage::Stopped;
        });
        self.directory.withdraw(id);
        true
    }

    /// Stops the process of a node from running until then.
    pub(crate) fn pause(&mut self, id: u64, until_ms: u64) {
        self.node(id).paused_until_ms = until_ms;
    }

    pub(crate) fn disk(&mut self, id: u64) -> &SimDisk {
        &self.node(id).disk
    }

    /// The next sync fails; what this does to the node's groups is no fault of theirs.
    pub(crate) fn break_disk(&mut self, id: u64) {
        let node = self.node(id);
        node.may_break = node.process.is_some();
        node.disk.fail_syncs(u32::from(node.may_break));
    }

    pub(crate) fn fill_disk(&mut self, id: u64, is_full: bool) {
        let node = self.node(id);
        node.is_full = is_full;
        node.disk.fill(is_full);
    }

    pub(crate) fn set_clock(&mut self, id: u64, ahead_ms: i64) {
        self.node(id).wall_ahead_ms = ahead_ms;
    }

    /// Everything but the nodes that are down is well again.
    pub(crate) fn heal(&mut self) {
        self.net.heal();
        let sync_ms = self.plan.sync_ms;
        for node in &mut self.nodes {
            node.disk.set_sync_ms(sync_ms);
            node.disk.hang(false);
            node.disk.fail_syncs(0);
            node.disk.fill(false);
            (node.is_full, node.wall_ahead_ms, node.paused_until_ms) = (false, 0, 0);
        }
    }

    /// After [`Cluster::heal`]: whoever is down starts, also who was about to stop.
    pub(crate) fn keep_up(&mut self) {
        for node in self.broken() {
            self.end(node, Ending::Process);
        }
        for node in 1..=NODES {
            if !self.is_up(node) {
                self.start(node);
            }
        }
    }

    /// The file of the last frame that a node has of a group, and where in it the frame starts; `None` where a checkpoint
    /// makes it needless to read it at a start.
    pub(crate) fn last_frame(&self, id: u64, group: usize) -> Option<(PathBuf, u64)> {
        let process = self.nodes[id as usize - 1].process.as_ref()?;
        let log = lock(&process.logs).get(&group)?.clone();
        let checkpoint = match &*lock(&process.stage) {
            Stage::Running(running) => running.served[group].tables.checkpoint_end(),
            _ => return None,
        };
        let last = log.state().last?.index;
        let frames = log.read(last, last.next(), 1).ok()?;
        let at = frames.first().map(Frame::position).filter(|at| *at >= checkpoint)?;
        let start = log.segment_start(at);
        Some((log.dir().join("log").join(format!("{:020}", start.0)), at.0 - start.0))
    }

    /// Ends a node, flips a bit of a file, and starts the node.
    pub(crate) fn rot(&mut self, id: u64, path: &Path, offset: u64) -> Result<(), String> {
        self.end(id, Ending::Process);
        let node = self.node(id);
        node.is_rotten = true;
        node.disk.flip(path, offset).map_err(|error| format!("{}: {error}", path.display()))?;
        self.start(id);
        Ok(())
    }

    pub(crate) fn is_starting(&self, id: u64) -> bool {
        let process = self.nodes[id as usize - 1].process.as_ref();
        process.is_some_and(|process| matches!(&*lock(&process.stage), Stage::Starting | Stage::Failed(_)))
    }

    pub(crate) fn is_up(&self, id: u64) -> bool {
        self.nodes[id as usize - 1].process.is_some()
    }

    /// Nodes whose groups have stopped after a failed sync: only a new process helps them.
    pub(crate) fn broken(&self) -> Vec<u64> {
        self.nodes.iter().filter(|node| node.is_broken).map(|node| node.id).collect()
    }

    /// Notes what has become of the processes.
    fn look_after(&mut self) {
        let now = clock::now_ms();
        let mut ends = Vec::new();
        for node in &mut self.nodes {
            let Some(process) = &mut node.process else { continue };
            if let Some(what) = node.disk.take_touched() {
                let id = node.id;
                self.oracle.violated("consensus_touches_no_file", &format!("node {id}: {what}"));
            }
            for (group, log) in &*lock(&process.logs) {
                let (group, log, vote) = (*group, log.state(), log.vote());
                let at = Standing { node: node.id, process: process.number, group, log, vote };
                self.oracle.stands(&at);
            }
            let stage = lock(&process.stage);
            match &*stage {
                Stage::Starting => {}
                Stage::Running(running) => {
                    if !process.is_published {
                        process.is_published = true;
                        say!("n{} takes part", node.id);
                        node.disk.guard();
                        if let Some(runtime) = &process.runtime {
                            let handle = runtime.handle().clone();
                            self.directory.publish(node.id, handle, running.served.clone());
                        }
                    }
                    if now.is_multiple_of(INDEX_MS) {
                        for served in running.served.clone() {
                            let keep = move || drop(served.tables.keep_index(served.group.log()));
                            node.disk.push_work(keep);
                        }
                    }
                    if now.is_multiple_of(CHECK_MS) {
                        for served in &running.served {
                            let (log, oracle, id) =
                                (served.group.log().clone(), self.oracle.clone(), node.id);
                            node.disk.push_work(move || {
                                if let Err(error) = log.check() {
                                    oracle.violated("log_check", &format!("node {id}: {error}"));
                                }
                            });
                        }
                    }
                }
                Stage::Failed(error) => {
                    say!("n{} does not start: {error}", node.id);
                    if !node.is_full && !node.is_rotten {
                        self.oracle.violated("start", &format!("node {}: {error}", node.id));
                    }
                    ends.push(node.id);
                }
                Stage::Stopping(since) if now - since < STOP_MS => {}
                Stage::Stopping(_) => {
                    say!("n{} does not stop by itself", node.id);
                    ends.push(node.id);
                }
                Stage::Stopped => {
                    say!("n{} has stopped", node.id);
                    ends.push(node.id);
                }
            }
        }
        for id in ends {
            self.end(id, Ending::Process);
        }
    }

    /// Shows all nodes to the oracle.
    fn look(&mut self) {
        let alone = (1..=NODES).filter(|node| self.is_alone(*node)).collect();
        let mut sight = Sight { groups: Vec::new(), wall_ms: clock::true_wall_ms(), alone };
        for node in &mut self.nodes {
            let Some(process) = &node.process else { continue };
            let stage = lock(&process.stage);
            let Stage::Running(running) = &*stage else { continue };
            for (number, served) in running.served.iter().enumerate() {
                let group = &served.group;
                let status = group.status();
                if let Some(why) = status.stopped {
                    if !node.may_break {
                        let id = node.id;
                        self.oracle.violated("stopped", &format!("node {id}, group {number}: {why}"));
                    }
                    node.is_broken = true;
                }
                let seen = GroupSight {
                    group: number,
                    leads: status.state == "leader",
                    term: status.term,
                    vote: group.log().vote(),
                    log: group.log().state(),
                    applied_end: group.applied_end().0,
                };
                sight.groups.push((node.id, process.number, seen));
            }
        }
        self.oracle.seen(&sight);
    }

    /// Whether nothing gets through to a node that is well itself: it runs, and its disk is no slower than usual.
    fn is_alone(&self, id: u64) -> bool {
        let node = &self.nodes[id as usize - 1];
        let mut others = self.nodes.iter().filter(|other| other.id != id && other.process.is_some());
        node.paused_until_ms <= clock::now_ms()
            && node.disk.is_well(self.plan.sync_ms)
            && others.all(|other| self.net.is_cut(other.id, id))
    }

    /// The node that leads a group, as it says itself.
    pub(crate) fn leader(&self, group: usize) -> Option<u64> {
        let leads = |node: &&Node| {
            let Some(process) = &node.process else { return false };
            match &*lock(&process.stage) {
                Stage::Running(running) => running.served[group].group.role().ready,
                _ => false,
            }
        };
        self.nodes.iter().find(leads).map(|node| node.id)
    }

    /// What every node has of every group; `Err`: why not everything is at rest.
    fn at_rest(&self) -> Result<Vec<(u64, usize, Served)>, String> {
        let mut all = Vec::new();
        for node in &self.nodes {
            let process = node.process.as_ref().ok_or_else(|| format!("node {} is down", node.id))?;
            let stage = lock(&process.stage);
            let Stage::Running(running) = &*stage else {
                return Err(format!("node {} does not take part", node.id));
            };
            for (group, served) in running.served.iter().enumerate() {
                all.push((node.id, group, served.clone()));
            }
        }
        for group in 0..self.plan.groups {
            let here = || all.iter().filter(|(_, of, _)| *of == group);
            if here().filter(|(_, _, served)| served.group.role().ready).count() != 1 {
                return Err(format!("group {group} has no leader"));
            }
            let ends: Vec<_> = here()
                .map(|(node, _, served)| {
                    let (log, status) = (served.group.log().state(), served.group.status());
                    (*node, log.last, log.synced, status.applied, status.committed)
                })
                .collect();
            let last = ends.iter().map(|end| end.1).max().flatten();
            let mut behind =
                ends.iter().filter(|end| [end.1, end.2, end.3, end.4].iter().any(|id| *id != last));
            if let Some(behind) = behind.next() {
                return Err(format!("group {group} ends at {last:?}, node {} is at {behind:?}", behind.0));
            }
        }
        Ok(all)
    }

    /// Goes on until everything is at rest and equal at its ends, and returns what the replicas hold.
    pub(crate) fn replicas(&mut self, within_ms: u64) -> Result<Vec<Replica>, String> {
        let until = clock::now_ms() + within_ms;
        let mut reason = String::new();
        while clock::now_ms() < until && !self.oracle.is_violated() {
            self.keep_up();
            self.tick();
            if !clock::now_ms().is_multiple_of(LOOK_MS) {
                continue;
            }
            let all = match self.at_rest() {
                Ok(all) => all,
                Err(why) => {
                    reason = why;
                    continue;
                }
            };
            let mut from: BTreeMap<usize, LogPosition> = BTreeMap::new();
            for (_, group, served) in &all {
                let first = served.group.log().state().first_position;
                let from = from.entry(*group).or_default();
                *from = first.max(*from);
            }
            let read = |(node, group, served): &(u64, usize, Served)| {
                self.replica(*node, *group, from[group], served)
            };
            let replicas: Result<Vec<Replica>, ReadFailure> = all.iter().map(read).collect();
            match replicas {
                Ok(replicas) => return Ok(replicas),
                Err(ReadFailure::Rebuilding) => {
                    "an index is being built again".clone_into(&mut reason);
                }
                Err(ReadFailure::Gone) => {
                    "a node has purged what it is asked for".clone_into(&mut reason);
                }
                Err(ReadFailure::Wrong(what)) => return Err(what),
            }
        }
        Err(format!("not at rest within {within_ms} ms: {reason}"))
    }

    /// What a node has of a group, from a position on that it has.
    fn replica(
        &self,
        node: u64,
        group: usize,
        from: LogPosition,
        served: &Served,
    ) -> Result<Replica, ReadFailure> {
        let log = served.group.log();
        let wrong = |what: String| ReadFailure::Wrong(format!("node {node}, group {group}: {what}"));
        let mut hash = Xxh3::new();
        let mut last_index = 0;
        let mut reader = log.frames_from(from);
        while let Some(item) = reader.next_item().map_err(|error| wrong(error.to_string()))? {
            let LogItem::Frame(frame) = item else { continue };
            last_index = frame.id().index.0;
            hash.update(&frame.position().0.to_be_bytes());
            hash.update(frame.bytes());
        }
        let mut queues = BTreeMap::new();
        let mut offsets = BTreeMap::new();
        for topic in ALL_TOPICS {
            for queue in 0..QUEUES {
                let of = (group, topic.to_owned(), queue);
                let first = self.oracle.first_from(&of, from.0);
                let mut messages = vec![None; first as usize];
                let range = served.tables.state.queue(topic, QueueId(queue));
                let next = range.map_or(0, |range| range.next.0);
                while (messages.len() as u64) < next {
                    let from = messages.len() as u64;
                    let more = served.tables.read(log, topic, queue, from, 1000)?;
                    if more.is_empty() {
                        return Err(wrong(format!("{topic}/{queue} ends at {from}, not {next}")));
                    }
                    messages.extend(more.into_iter().map(Some));
                }
                queues.insert(of, messages);
                let consumers = (0..=self.plan.clients).map(consumer_of);
                for consumer in consumers.chain([READERS.to_owned()]) {
                    if let Some(offset) = served.tables.state.offset(topic, &consumer, QueueId(queue)) {
                        offsets.insert((group, consumer, topic.to_owned(), queue), offset.0);
                    }
                }
            }
        }
        let state = &served.tables.state;
        let (mut pending, mut cursors, mut in_flight) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (mut attempts, mut resets, mut in_order) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for queue in 0..QUEUES {
            for topic in SOURCES {
                let of = (group, topic.to_owned(), queue);
                let waits = state.pending(topic, QueueId(queue), QueueOffset(0), usize::MAX);
                pending.insert(of.clone(), waits.into_iter().map(|offset| offset.0).collect());
                // Also of what is done: it has none.
                let end = state.queue(topic, QueueId(queue)).map_or(0, |range| range.next.0);
                let tried = (0..end)
                    .map(|offset| (offset, state.attempts(topic, QueueId(queue), QueueOffset(offset))))
                    .filter(|(_, (count, _))| *count > 0);
                attempts.insert(of, tried.collect());
            }
            for topic in TOPICS {
                if let Some(reset) = state.pending_reset(topic, READERS, QueueId(queue)) {
                    resets.insert((group, READERS.to_owned(), topic.to_owned(), queue), reset.0);
                }
            }
            let place = state.pop_place(ORDERED, ORDERLY, QueueId(queue));
            let batch = place.ordered.unwrap_or_default().messages;
            let out = batch.into_iter().map(|(offset, message)| {
                let InFlight { pop_time_ms, visible_at_ms, attempts } = message;
                (offset.0, Out { pop_time_ms, visible_at_ms, attempts })
            });
            let cursor = place.cursor.map(|offset| offset.0);
            in_order.insert((group, ORDERED.to_owned(), queue), (cursor, out.collect()));
            let popped = (group, POPPED.to_owned(), queue);
            let end = state.queue(POPPED, QueueId(queue)).map_or(0, |range| range.next.0);
            let out = (0..end).filter_map(|offset| {
                let message = state.pop_in_flight(POPPED, POPPERS, QueueId(queue), QueueOffset(offset))?;
                Some((offset, (message.pop_time_ms, message.visible_at_ms)))
            });
            in_flight.insert(popped.clone(), out.collect());
            let cursor = state.offset(POPPED, POPPERS, QueueId(queue));
            cursors.insert(popped, cursor.map(|offset| offset.0));
        }
        let tables = replica::StateMachine::encode(&*served.tables);
        let log_hash = hash.digest();
        Ok(Replica {
            node,
            group,
            last_index,
            from: from.0,
            log_hash,
            tables,
            queues,
            offsets,
            pending,
            cursors,
            in_flight,
            in_order,
            resets,
            attempts,
        })
    }
}

impl Node {
    /// One millisecond of its process and its disk.
    fn step(&mut self) {
        let Some(process) = &mut self.process else { return };
        if self.paused_until_ms > clock::now_ms() {
            process.lag_ms += 1;
            return;
        }
        clock::set_node(self.id, self.wall_ahead_ms);
        let Some(runtime) = &process.runtime else { return };
        let lag = std::mem::take(&mut process.lag_ms);
        if lag > 0 {
            runtime.block_on(tokio::time::advance(Duration::from_millis(lag)));
        }
        step(runtime);
        let (disk, flusher) = (&self.disk, &process.flusher);
        self.thread.step(|| {
            if let Some(work) = disk.next_work() {
                return Some(work);
            }
            flusher.is_due().then(|| {
                let flusher = flusher.clone();
                let work: Work = Box::new(move || {
                    flusher.turn_by_clock();
                });
                work
            })
        });
    }
}

/// Every direction between two nodes.
pub(crate) fn links() -> impl Iterator<Item = (u64, u64)> {
    (1..=NODES).flat_map(|from| (1..=NODES).filter(move |to| *to != from).map(move |to| (from, to)))
}
