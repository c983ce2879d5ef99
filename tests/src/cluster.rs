//! Clusters of `raftmq server` processes on free loopback ports.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Process, tail};
use crate::remoting::{self, Brokers, Connection};
use crate::runner::Scratch;
use crate::stalls::STALL_MIN;
use crate::{paths, ports, runner, wait};

/// Longer than the interval of registrations, 30 s; failover.rs asks for less where less is promised.
const PATIENCE: Duration = Duration::from_secs(45);
/// One question to one node.
const QUESTION: Duration = Duration::from_secs(2);

/// The delays of the levels in tests, in seconds: short, for tests of delays, retries and dead letters.
pub const DELAY_LEVELS_S: [u64; 6] = [1, 2, 1, 2, 3, 1];

/// Apache's names for the settings that tests of messaging need of it: `apache.py --extra`.
pub const APACHE_SETTINGS: &str = "messageDelayLevel=1s 2s 1s 2s 3s 1s;recallMessageEnable=true;\
    traceTopicEnable=true;transactionTimeOut=1000;transactionCheckInterval=1000";

/// What to build.
#[derive(Debug, Clone)]
pub struct Plan {
    pub nodes: u64,
    pub groups: Vec<String>,
    /// The n-th group prefers to be led by the n-th node, in turn. Otherwise leaders stay where they are.
    pub preferred_leaders: bool,
    /// `None`: every node is a nameserver too. Otherwise the addresses of nameservers that run already.
    pub nameservers: Option<Vec<String>>,
    pub auto_create_topic: bool,
    /// More settings of what all groups of a node share, and of every group, as lines of the configuration.
    pub broker_settings: Vec<String>,
    pub group_settings: Vec<String>,
    /// What clients are told for the leader instead of its own address, by group.
    pub advertise_leader: BTreeMap<String, String>,
}

/// What tests of messaging need of a group, so that they take seconds: [`DELAY_LEVELS_S`], and producers that are asked soon
/// what became of their transactions.
fn short_delays() -> Vec<String> {
    let levels: Vec<String> = DELAY_LEVELS_S.iter().map(|seconds| format!("{seconds}s")).collect();
    vec![
        format!("message_delay_level = \"{}\"", levels.join(" ")),
        "transaction_timeout_ms = 1000".to_owned(),
        "transaction_check_interval_ms = 1000".to_owned(),
    ]
}

impl Plan {
    /// `nodes` nodes that are nameservers too, with `groups` groups named broker-a, broker-b …
    pub fn new(nodes: u64, groups: u8) -> Plan {
        let name = |n: u8| format!("broker-{}", (b'a' + n) as char);
        Plan {
            nodes,
            groups: (0..groups).map(name).collect(),
            preferred_leaders: true,
            nameservers: None,
            auto_create_topic: true,
            broker_settings: Vec::new(),
            group_settings: short_delays(),
            advertise_leader: BTreeMap::new(),
        }
    }
}

/// A node's addresses and files; the process when it runs.
struct Node {
    id: u64,
    peer: String,
    nameserver: Option<String>,
    /// Group → listen address.
    groups: BTreeMap<String, String>,
    config: PathBuf,
    data: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

/// Kills its nodes when dropped.
pub struct Cluster {
    plan: Plan,
    nodes: Vec<Node>,
    dir: PathBuf,
    /// The node whose death took longest, from the signal until the kernel had closed its sockets.
    slowest_death: Option<(Duration, u64)>,
}

/// The configuration file of one node: the only place that knows its format (crates/cli/src/config).
fn configuration(plan: &Plan, node: &Node, all: &[(u64, String)], nameservers: &[String]) -> String {
    let mut text = format!("cluster = \"it\"\nnode = {}\ndata = \"{}\"\n", node.id, node.data.display());
    let _ = writeln!(text, "nameservers = {nameservers:?}\n\n[peers]");
    for (id, peer) in all {
        let _ = writeln!(text, "{id} = {peer:?}");
    }
    if let Some(listen) = &node.nameserver {
        let _ = write!(text, "\n[nameserver]\nlisten = {listen:?}\n");
    }
    let _ = write!(text, "\n[broker]\nauto_create_topic = {}\n", plan.auto_create_topic);
    for setting in &plan.broker_settings {
        let _ = writeln!(text, "{setting}");
    }
    for (n, name) in (0..).zip(&plan.groups) {
        let _ = write!(text, "\n[[group]]\nname = {name:?}\nlisten = {:?}\n", node.groups[name]);
        if let Some(address) = plan.advertise_leader.get(name) {
            let _ = writeln!(text, "advertise_leader = {address:?}");
        }
        if plan.preferred_leaders {
            let _ = writeln!(text, "preferred_leader = {}", n % plan.nodes + 1);
        }
        // the smallest segment: it is allocated whole
        let _ = writeln!(text, "segment_size = {}", 16 << 20);
        for setting in &plan.group_settings {
            let _ = writeln!(text, "{setting}");
        }
    }
    text
}

impl Cluster {
    /// Writes the configuration, starts every node and waits until every group can be used.
    pub fn start(scratch: &Scratch, plan: Plan) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(scratch.dir(), plan)?;
        for node in 1..=cluster.plan.nodes {
            cluster.start_node(node)?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Writes the configuration and starts nothing.
    pub fn prepare(dir: &Path, plan: Plan) -> Result<Cluster> {
        let mut nodes = Vec::new();
        for id in 1..=plan.nodes {
            let address = || Ok::<_, anyhow::Error>(format!("127.0.0.1:{}", ports::free()?));
            let groups = plan.groups.iter().map(|name| Ok((name.clone(), address()?)));
            nodes.push(Node {
                id,
                peer: address()?,
                nameserver: if plan.nameservers.is_none() { Some(address()?) } else { None },
                groups: groups.collect::<Result<_>>()?,
                config: dir.join(format!("node-{id}.toml")),
                data: dir.join(format!("node-{id}.data")),
                log: dir.join(format!("node-{id}.log")),
                process: None,
            });
        }
        let peers: Vec<(u64, String)> = nodes.iter().map(|node| (node.id, node.peer.clone())).collect();
        let cluster = Cluster { plan, nodes, dir: dir.to_owned(), slowest_death: None };
        let nameservers = cluster.nameserver_list();
        for node in &cluster.nodes {
            std::fs::write(&node.config, configuration(&cluster.plan, node, &peers, &nameservers))?;
        }
        Ok(cluster)
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn nameserver_list(&self) -> Vec<String> {
        let own = || self.nodes.iter().filter_map(|node| node.nameserver.clone()).collect();
        self.plan.nameservers.clone().unwrap_or_else(own)
    }

    /// As clients want it: `a:1;b:2`.
    pub fn namesrv(&self) -> String {
        self.nameserver_list().join(";")
    }

    fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// Where a node serves a group's clients.
    pub fn address(&self, node: u64, group: &str) -> &str {
        &self.node(node).groups[group]
    }

    /// Where a node plays a nameserver.
    pub fn nameserver(&self, node: u64) -> Option<&str> {
        self.node(node).nameserver.as_deref()
    }

    /// A node's configuration file.
    pub fn config(&self, node: u64) -> &Path {
        &self.node(node).config
    }

    /// The directory of a node's replica of a group.
    pub fn group_dir(&self, node: u64, group: &str) -> PathBuf {
        self.node(node).data.join(group)
    }

    pub fn is_running(&self, node: u64) -> bool {
        self.node(node).process.is_some()
    }

    /// The nodes that run.
    pub fn running(&self) -> Vec<u64> {
        (1..=self.plan.nodes).filter(|&node| self.is_running(node)).collect()
    }

    /// Starts a node that does not run; its listeners may open a moment later.
    pub fn start_node(&mut self, id: u64) -> Result<()> {
        let binary = paths::raftmq()?;
        let dir = self.dir.clone();
        let node = self.node_mut(id);
        ensure!(node.process.is_none(), "node {id} runs");
        let mut command = Command::new(binary);
        command.arg("server").arg("--config").arg(&node.config).current_dir(dir);
        node.process = Some(Process::start(&format!("node {id}"), &mut command, &node.log)?);
        Ok(())
    }

    /// kill -9, and waits until the kernel has closed what the node held.
    pub fn kill(&mut self, id: u64) -> Result<()> {
        self.reap(id, Instant::now())
    }

    /// kill -9 of all running nodes, so close together that no election is won in between.
    pub fn kill_all(&mut self) -> Result<()> {
        let struck = Instant::now();
        for id in self.running() {
            self.signal(id, Signal::KILL)?;
        }
        self.running().into_iter().try_for_each(|id| self.reap(id, struck))
    }

    fn reap(&mut self, id: u64, struck: Instant) -> Result<()> {
        let process = self.node_mut(id).process.take();
        process.with_context(|| format!("node {id} does not run"))?.kill()?;
        self.slowest_death = self.slowest_death.max(Some((struck.elapsed(), id)));
        Ok(())
    }

    /// A node that was killed and took so long to die that for its clients it had been stopped first.
    ///
    /// A process gives back its memory before its sockets are closed, and waits meanwhile for a processor and for the kernel's
    /// locks of files that others have mapped as well (`exit_mmap`), for half a second and longer where sixteen threads
    /// want two processors. Until then nobody hears that it is gone.
    pub fn slow_death(&self) -> Option<String> {
        let (took, id) = self.slowest_death.filter(|(took, _)| *took >= STALL_MIN)?;
        Some(format!("node {id} took {took:?} to die"))
    }

    /// SIGSTOP, SIGCONT, SIGTERM …
    pub fn signal(&mut self, id: u64, signal: Signal) -> Result<()> {
        let process = self.node_mut(id).process.as_mut();
        process.with_context(|| format!("node {id} does not run"))?.signal(signal)
    }

    /// SIGTERM, and waits for the end. A planned stop goes on forwarding for clients that still use the node, so this
    /// can take a minute.
    pub fn stop(&mut self, id: u64) -> Result<()> {
        self.signal(id, Signal::TERM)?;
        let mut process = self.node_mut(id).process.take().context("it got a signal just now")?;
        let status = process.wait(Duration::from_secs(90))?;
        ensure!(status.success(), "node {id} ended with {status}");
        Ok(())
    }

    /// An error when a node that should run has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process
                && let Some(status) = process.exited()?
            {
                node.process = None;
                let last = tail(&node.log, 15);
                return Err(wait::final_error(format!(
                    "node {} ended by itself, {status}:\n{last}",
                    node.id
                )));
            }
        }
        Ok(())
    }

    /// What the nameservers say that can be asked; an error when they differ or none answers. Nameservers do not talk
    /// to each other, so one that has just started may know less for a moment.
    pub fn brokers(&self) -> Result<Brokers> {
        let mut known: Option<Brokers> = None;
        for address in self.live_nameservers() {
            let brokers = remoting::brokers(&address)?;
            if let Some(known) = &known {
                ensure!(*known == brokers, "nameservers differ: {known:?} and {brokers:?}");
            }
            known = Some(brokers);
        }
        known.context("no nameserver runs")
    }

    fn live_nameservers(&self) -> Vec<String> {
        let own = self.nodes.iter().filter(|node| node.process.is_some());
        let own = || own.filter_map(|node| node.nameserver.clone()).collect();
        self.plan.nameservers.clone().unwrap_or_else(own)
    }

    /// Waits until every group has a leader, the preferred one if there are such, and every running node is registered.
    pub fn wait_ready(&mut self) -> Result<()> {
        if !self.plan.preferred_leaders {
            return self.wait_members("every group has a leader", |_| true);
        }
        let preferred = |n: u64| n % self.plan.nodes + 1;
        let wanted: BTreeMap<String, u64> =
            (0..).zip(&self.plan.groups).map(|(n, group)| (group.clone(), preferred(n))).collect();
        self.wait_members("every group has its preferred leader", |leaders| *leaders == wanted)
    }

    /// Waits until every group has a leader, whoever it is, and every running node is registered and has the whole
    /// log.
    pub fn wait_whole(&mut self) -> Result<()> {
        self.wait_members("every group has a leader", |_| true)?;
        for group in self.plan.groups.clone() {
            let end = self.log_end(self.leader(&group)?, &group)?;
            for id in self.running() {
                wait::until_true(&format!("node {id} has {group} up to {end}"), PATIENCE, || {
                    Ok(self.log_end(id, &group)? >= end)
                })?;
            }
        }
        Ok(())
    }

    fn wait_members(&mut self, what: &str, good: impl Fn(&BTreeMap<String, u64>) -> bool) -> Result<()> {
        wait::until_true(what, PATIENCE, || {
            self.check_alive()?;
            let brokers = self.brokers()?;
            let count = self.running().len();
            for group in &self.plan.groups {
                let members = brokers.get(group).with_context(|| format!("{group} is not registered"))?;
                ensure!(members.len() == count, "{group} is {members:?}");
            }
            let leaders = self.plan.groups.iter().map(|group| Ok((group.clone(), self.leader(group)?)));
            let leaders = leaders.collect::<Result<BTreeMap<String, u64>>>()?;
            ensure!(leaders.values().all(|&id| self.is_running(id)), "led by the dead: {leaders:?}");
            ensure!(good(&leaders), "leaders: {leaders:?}");
            Ok(true)
        })
        .with_context(|| self.ended())
    }

    fn ended(&self) -> String {
        let running = self.running();
        format!("nodes that run: {running:?}; logs in {}", self.dir.display())
    }

    /// The node that leads a group: the owner of brokerId 0's address, or, where that address moves, what
    /// `raftmq admin group status` says.
    pub fn leader(&self, group: &str) -> Result<u64> {
        if self.plan.advertise_leader.contains_key(group) {
            return self.leader_by_admin(group);
        }
        let brokers = self.brokers()?;
        let address = brokers.get(group).and_then(|members| members.get(&0));
        let address = address.with_context(|| format!("{group} has no brokerId 0: {brokers:?}"))?;
        let node = self.nodes.iter().find(|node| node.groups.get(group) == Some(address));
        Ok(node.with_context(|| format!("nobody is {address}"))?.id)
    }

    /// Group → where the node that leads it serves clients, as the nameservers tell it.
    pub fn leader_addresses(&self) -> Result<BTreeMap<String, String>> {
        let address =
            |group: &String| Ok((group.clone(), self.address(self.leader(group)?, group).to_owned()));
        self.plan.groups.iter().map(address).collect()
    }

    /// `raftmq admin group status --json`: one row for each node that answers, with `term` and `leader` (0: unknown)
    /// as that node sees them.
    fn leader_by_admin(&self, group: &str) -> Result<u64> {
        let mut command = Command::new(paths::raftmq()?);
        command
            .args(["admin", "-n", &self.namesrv(), "--json", "group", "status", group])
            .stdin(Stdio::null());
        let output = command.output()?;
        let rows: Vec<Value> =
            serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
        let newest = rows.iter().max_by_key(|row| row["term"].as_u64());
        let leader = newest.and_then(|row| row["leader"].as_u64()).filter(|&leader| leader > 0);
        leader.with_context(|| format!("no leader of {group} in {rows:?}"))
    }

    /// The end of a node's own log (code 28 is never forwarded).
    fn log_end(&self, node: u64, group: &str) -> Result<i64> {
        let runtime = Connection::open(self.address(node, group), QUESTION)?.runtime()?;
        Ok(runtime.get("commitLogMaxOffset").context("no commitLogMaxOffset")?.parse()?)
    }

    /// Creates a topic in every group and waits until every nameserver routes to all of them.
    pub fn create_topic(&self, topic: &str, queues: u32) -> Result<()> {
        create_topic(&self.live_nameservers(), &self.plan.groups, topic, queues)
    }
}

fn create_topic(nameservers: &[String], groups: &[String], topic: &str, queues: u32) -> Result<()> {
    let namesrv = nameservers.first().context("no nameserver")?;
    let brokers = remoting::brokers(namesrv)?;
    for group in groups {
        let address = brokers.get(group).and_then(|members| members.get(&0));
        let address = address.with_context(|| format!("{group} has no brokerId 0: {brokers:?}"))?;
        remoting::create_topic(address, topic, queues)?;
    }
    wait::until_true(&format!("{topic} is routed to {groups:?}"), PATIENCE, || {
        for namesrv in nameservers {
            let route = remoting::route(namesrv, topic)?;
            let missing =
                groups.iter().find(|group| !route.get(*group).is_some_and(|ids| ids.contains_key(&0)));
            if let Some(missing) = missing {
                bail!("{namesrv} does not route to {missing}: {route:?}");
            }
        }
        Ok(true)
    })
}

/// `RAFTMQ_TEST_NAMESRV`.
pub fn external() -> Option<String> {
    std::env::var("RAFTMQ_TEST_NAMESRV").ok().filter(|address| !address.is_empty())
}

/// A running cluster for tests that break nothing: `RAFTMQ_TEST_NAMESRV`, or one of three nodes and three groups that
/// all such tests of a run share.
pub struct Running {
    namesrv: String,
    nameservers: Vec<String>,
    groups: Vec<String>,
    own: bool,
}

static SHARED: Mutex<Option<Cluster>> = Mutex::new(None);

fn shared() -> MutexGuard<'static, Option<Cluster>> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    pub fn get() -> Result<Running> {
        if let Some(namesrv) = external() {
            let nameservers: Vec<String> = namesrv.split(';').map(str::to_owned).collect();
            let groups = remoting::brokers(&nameservers[0])?.into_keys().collect();
            return Ok(Running { namesrv, nameservers, groups, own: false });
        }
        let mut shared = shared();
        if shared.is_none() {
            *shared = Some(Cluster::start(&Scratch::create("shared")?, Plan::new(3, 3))?);
        }
        let cluster = shared.as_ref().context("started above")?;
        let groups = cluster.plan.groups.clone();
        Ok(Running { namesrv: cluster.namesrv(), nameservers: cluster.nameserver_list(), groups, own: true })
    }

    pub fn namesrv(&self) -> &str {
        &self.namesrv
    }

    /// One nameserver.
    pub fn nameserver(&self) -> &str {
        &self.nameservers[0]
    }

    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Whether it is RaftMQ; otherwise it is whatever `RAFTMQ_TEST_NAMESRV` names.
    pub fn is_raftmq(&self) -> bool {
        self.own
    }

    /// The address of a group's brokerId 0.
    pub fn master(&self, group: &str) -> Result<String> {
        let brokers = remoting::brokers(self.nameserver())?;
        let master = brokers.get(group).and_then(|members| members.get(&0)).cloned();
        master.with_context(|| format!("{group} has no brokerId 0: {brokers:?}"))
    }

    /// Creates a topic in every group; returns its total number of queues.
    pub fn create_topic(&self, topic: &str, queues: u32) -> Result<usize> {
        create_topic(&self.nameservers, &self.groups, topic, queues)?;
        Ok(self.groups.len() * queues as usize)
    }
}

/// After each test: a node of the shared cluster that has ended fails the test, and the next one gets a new cluster.
pub(crate) fn check_shared() -> Result<()> {
    let mut shared = shared();
    let result = shared.as_mut().map_or(Ok(()), Cluster::check_alive);
    if result.is_err() {
        *shared = None;
    }
    result.context("the shared cluster")
}

pub(crate) fn stop_shared() {
    *shared() = None;
}

pub(crate) fn shared_logs() -> String {
    shared().as_ref().map_or(String::new(), |cluster| runner::logs_of(&cluster.dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_gets_a_file_that_names_all_peers() {
        let dir = std::env::temp_dir().join(format!("raftmq-plan-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut plan = Plan::new(3, 3);
        plan.advertise_leader.insert("broker-b".to_owned(), "127.0.0.9:999".to_owned());
        let cluster = Cluster::prepare(&dir, plan).unwrap();
        let text = std::fs::read_to_string(dir.join("node-2.toml")).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        let file: toml::Table = text.parse().unwrap();
        assert_eq!(file["node"].as_integer(), Some(2));
        assert_eq!(file["peers"].as_table().unwrap().len(), 3);
        assert_eq!(file["nameservers"].as_array().unwrap().len(), 3);
        let groups = file["group"].as_array().unwrap();
        assert_eq!(groups[0]["listen"].as_str(), Some(cluster.address(2, "broker-a")));
        assert_eq!(groups[1]["advertise_leader"].as_str(), Some("127.0.0.9:999"));
        assert_eq!(groups[2]["preferred_leader"].as_integer(), Some(3));
        assert_eq!(cluster.namesrv().split(';').count(), 3);
    }
}
