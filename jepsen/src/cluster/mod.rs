//! The world of a run: three nodes, two nameservers and two places for clients, each a host of its own.
//!
//! ```text
//!  Lease ── name of the run; what bears it goes with it, also after a panic or Ctrl-C (lease.rs)
//!  Network ── a namespace per host, one bridge, the rules of all cuts (network.rs)
//!  Cluster ─┬─ Node × 3    `raftmq server` on a disk of its own (node.rs, disk.rs)
//!           ├─ nameservers
//!           ├─ Admin       questions from a host that is never cut off (admin.rs)
//!           └─ Space × 2   where load is made: threads of this process in a client's namespace (space.rs)
//! ```
//! Whoever holds the `Cluster` breaks it; load and samples need no more than addresses.

pub mod admin;
pub mod disk;
pub mod lease;
pub mod network;
pub mod node;
pub mod process;
pub mod shell;
pub mod space;
pub mod wait;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use self::admin::{Admin, Status};
use self::disk::{Contents, PowerCut};
use self::lease::Lease;
use self::network::{ADMIN, Network, Rule, address};
use self::node::{Exit, NAMESERVER_PORT, Node, client_address, host};
use self::process::Process;
use self::shell::text;
use self::space::Space;
use self::wait::Stop;
use crate::run::files::Struck;

/// The one group of the runs; RocketMQ's broker name.
pub const GROUP: &str = "broker-a";

/// A node that has lost nothing is back within this, on two cores that also make the load.
const START: Duration = Duration::from_secs(30);
/// A planned stop leaves clients 35 s to hear of it.
const LAST_STOP: Duration = Duration::from_mins(1);

/// What to build.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `raftmq`, release or debug.
    pub binary: PathBuf,
    /// Logs and configuration files.
    pub out: PathBuf,
    /// Where the disk images are made: a directory on a disk that syncs.
    pub work: PathBuf,
    pub disk_bytes: u64,
    pub nodes: u64,
    pub nameservers: u64,
    pub clients: u64,
    /// Nodes run under libfaketime, which makes each look at the clock read a file.
    pub fake_clocks: bool,
    pub follower_reads: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            binary: PathBuf::new(),
            out: PathBuf::new(),
            work: PathBuf::from("/var/tmp/raftmq-jepsen"),
            disk_bytes: 1 << 30,
            nodes: 3,
            nameservers: 2,
            clients: 2,
            fake_clocks: false,
            follower_reads: true,
        }
    }
}

impl Plan {
    pub fn node_ids(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.nodes
    }

    /// Where nodes serve clients, by node id from 1.
    pub fn node_addresses(&self) -> Vec<SocketAddr> {
        self.node_ids().map(client_address).collect()
    }

    pub fn nameserver_addresses(&self) -> Vec<SocketAddr> {
        let of = |n: u64| SocketAddr::from((address(&nameserver_host(n)), NAMESERVER_PORT));
        (1..=self.nameservers).map(of).collect()
    }

    fn hosts(&self) -> Vec<String> {
        let nodes = self.node_ids().map(host);
        let nameservers = (1..=self.nameservers).map(nameserver_host);
        let clients = (1..=self.clients).map(client_host);
        nodes.chain(nameservers).chain(clients).chain([ADMIN.to_owned()]).collect()
    }
}

/// The host of a nameserver, from 1.
pub fn nameserver_host(n: u64) -> String {
    format!("s{n}")
}

/// The host of a place for clients, from 1.
pub fn client_host(n: u64) -> String {
    format!("c{n}")
}

/// What cannot be done without; its name and how to get it.
pub fn missing(programs: &[&str]) -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    missing.extend(
        programs.iter().filter(|program| shell::find(program).is_none()).map(|program| (*program).to_owned()),
    );
    missing
}

/// Programs that every run needs.
pub const PROGRAMS: &[&str] = &["ip", "nft", "nsenter", "sysctl", "mount", "umount", "mkfs.ext4", "fsfreeze"];

/// Fields are dropped in this order: processes first, what they stand on last.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    stop: Stop,
    admin: Arc<Admin>,
    spaces: Vec<Arc<Space>>,
    nodes: Vec<Node>,
    nameservers: Vec<Nameserver>,
    network: Network,
    throttled: Vec<String>,
    exits: Vec<Exit>,
    /// Files that were damaged on purpose. What they were may have been put back since.
    struck: Struck,
    lease: Lease,
}

#[derive(Debug)]
struct Nameserver {
    host: String,
    config: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

/// What a power cut did to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub node: u64,
    /// `None`: it was down already.
    pub pid: Option<u32>,
    /// That had been written, not synced, and are gone; those of the harness's own canary with them.
    pub bytes: u64,
}

/// Who leads, as the one says that leads in the highest term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    pub node: u64,
    pub term: u64,
}

impl Cluster {
    /// Makes hosts and disks, starts everything and waits until the group can be used.
    pub fn start(plan: Plan, stop: &Stop) -> Result<Cluster> {
        ensure!(plan.binary.is_file(), "{} is no program", plan.binary.display());
        let binary = std::path::absolute(&plan.binary)?;
        let out = std::path::absolute(&plan.out)?;
        std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
        let plan = Plan { binary, out, ..plan };
        let lease = Lease::take(&plan.work)?;
        let network = Network::make(&lease, &plan.hosts())?;
        let admin = Arc::new(Admin::new(Space::enter(network.namespace(ADMIN)?, 1)?));
        let mut spaces = Vec::new();
        for n in 1..=plan.clients {
            spaces.push(Arc::new(Space::enter(network.namespace(&client_host(n))?, 2)?));
        }
        let mut nodes = Vec::new();
        for id in plan.node_ids() {
            nodes.push(Node::make(&lease, &plan, id, network.namespace(&host(id))?)?);
        }
        let nameservers = (1..=plan.nameservers).map(|n| Nameserver::make(&plan, n));
        let nameservers = nameservers.collect::<Result<Vec<_>>>()?;
        let (stop, throttled, exits) = (stop.clone(), Vec::new(), Vec::new());
        let mut cluster = Cluster {
            plan,
            stop,
            admin,
            spaces,
            nodes,
            nameservers,
            network,
            throttled,
            exits,
            struck: Struck::default(),
            lease,
        };
        cluster.start_missing()?;
        cluster.wait_whole(START)?;
        Ok(cluster)
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    pub fn admin(&self) -> &Arc<Admin> {
        &self.admin
    }

    /// Where load is made, by place from 0.
    pub fn spaces(&self) -> &[Arc<Space>] {
        &self.spaces
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// A node together with the lease, in which processes that serve it are written down.
    pub fn node_and_lease(&mut self, id: u64) -> (&mut Node, &Lease) {
        (&mut self.nodes[id as usize - 1], &self.lease)
    }

    /// A file was damaged on purpose, and is as it is now because of that.
    pub fn note_struck(&mut self, file: PathBuf) -> Result<()> {
        self.struck.note(file)
    }

    /// The files that were.
    pub fn struck(&self) -> &Struck {
        &self.struck
    }

    /// Every node's id.
    pub fn ids(&self) -> Vec<u64> {
        self.plan.node_ids().collect()
    }

    /// The nodes that run and are not paused.
    pub fn awake(&self) -> Vec<u64> {
        let awake = self.nodes.iter().filter(|node| node.is_running() && !node.is_paused());
        awake.map(|node| node.id).collect()
    }

    pub fn start_node(&mut self, id: u64) -> Result<()> {
        let (node, lease) = self.node_and_lease(id);
        node.start(lease)
    }

    /// kill -9 of several nodes, so close together that no election is won in between; their process ids.
    pub fn kill(&mut self, ids: &[u64]) -> Result<Vec<u32>> {
        for &id in ids {
            self.node_mut(id).signal(rustix::process::Signal::KILL)?;
        }
        ids.iter().map(|&id| self.node_mut(id).kill()).collect()
    }

    /// Power loss of several nodes at once: stopped, so that nothing is written any more; cut; killed. The disks are there
    /// again, without what was not synced, when this returns; the nodes are down. Of each node the process id that is gone
    /// and the bytes that were lost.
    pub fn lose_power(&mut self, ids: &[u64], cut: PowerCut) -> Result<Vec<Loss>> {
        let stop = self.stop.clone();
        for &id in ids {
            if self.node(id).is_running() {
                self.node_mut(id).pause(&stop)?;
            }
        }
        let before: Vec<Contents> =
            ids.iter().map(|&id| Contents::newest(&self.node(id).group_dir())).collect();
        for &id in ids {
            self.node(id).disk.power_off(cut)?;
        }
        let mut losses = Vec::new();
        for &id in ids {
            let pid = if self.node(id).is_running() { Some(self.node_mut(id).kill()?) } else { None };
            losses.push(Loss { node: id, pid, bytes: 0 });
        }
        for (loss, before) in losses.iter_mut().zip(before) {
            let node = self.node(loss.node);
            let canary = node.disk.power_on().with_context(|| format!("the disk of node {}", loss.node))?;
            loss.bytes = canary + before.lost(&node.group_dir());
        }
        Ok(losses)
    }

    /// kill -9 of a nameserver, by number from 1; its process id.
    pub fn kill_nameserver(&mut self, n: u64) -> Result<u32> {
        let nameserver = &mut self.nameservers[n as usize - 1];
        let process = nameserver.process.take();
        let mut process = process.with_context(|| format!("{} does not run", nameserver.host))?;
        let pid = process.pid();
        process.kill()?;
        Ok(pid)
    }

    /// Packets to a node are delayed from now on.
    pub fn throttle(&mut self, id: u64, kilobits: u32, latency_ms: u32) -> Result<()> {
        self.network.throttle(&host(id), kilobits, latency_ms)?;
        self.throttled.push(host(id));
        Ok(())
    }

    /// Takes the thin links away; how many packets they had made wait, or dropped.
    pub fn unthrottle(&mut self) -> Result<u64> {
        let mut delayed = 0;
        for host in std::mem::take(&mut self.throttled) {
            delayed += self.network.unthrottle(&host)?;
        }
        Ok(delayed)
    }

    /// Replaces the rules of the network; what the ones before had dropped.
    pub fn cut(&self, rules: &[Rule]) -> Result<BTreeMap<String, u64>> {
        self.network.set(rules)
    }

    /// The process of each node, by node id from 1: 0 where there is none. For those who sample.
    pub fn pids(&self) -> Vec<Arc<AtomicU32>> {
        self.nodes.iter().map(|node| node.pid_cell().clone()).collect()
    }

    /// Undoes every fault that is under way and starts what is down.
    pub fn heal(&mut self) -> Result<()> {
        self.network.set(&[])?;
        self.unthrottle()?;
        // Before anything else: who waits for the disk can neither be traced nor be killed.
        for node in &mut self.nodes {
            node.disk.thaw()?;
            node.disk.drain()?;
        }
        self.look()?;
        for node in &mut self.nodes {
            node.untrace()?;
            if node.has_fake_clock() {
                node.set_clock("+0")?;
            }
            node.resume()?;
        }
        self.look()?;
        self.start_missing()
    }

    /// Starts the nameservers that are down; their hosts and process ids.
    pub fn start_nameservers(&mut self) -> Result<Vec<(String, u32)>> {
        let mut started = Vec::new();
        for nameserver in &mut self.nameservers {
            if nameserver.process.is_none() {
                let pid = nameserver.start(&self.lease, &self.plan, &self.network)?;
                started.push((nameserver.host.clone(), pid));
            }
        }
        Ok(started)
    }

    fn start_missing(&mut self) -> Result<()> {
        self.start_nameservers()?;
        for node in &mut self.nodes {
            if !node.is_running() {
                node.start(&self.lease)?;
            }
        }
        Ok(())
    }

    /// Notes the nodes that have ended by themselves.
    pub fn look(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            self.exits.extend(node.look()?);
        }
        Ok(())
    }

    /// The nodes that ended without being told to, since the last call.
    pub fn take_exits(&mut self) -> Vec<Exit> {
        std::mem::take(&mut self.exits)
    }

    /// Each node's account of the group; `None` of those that do not answer.
    pub fn statuses(&self) -> Vec<Option<Status>> {
        self.admin.statuses(&self.plan.node_addresses())
    }

    pub fn leader(&self) -> Option<Leader> {
        leader_of(&self.statuses())
    }

    /// Waits until somebody leads.
    pub fn wait_leader(&self, limit: Duration) -> Result<Leader> {
        self.stop.until("a leader", limit, || Ok(self.leader()))
    }

    /// Waits until every node takes part, all of one leader, and has applied the whole log. Under load the log grows
    /// meanwhile: it is enough that each node has what was there at the first look.
    pub fn wait_whole(&mut self, limit: Duration) -> Result<Leader> {
        let stop = self.stop.clone();
        let leader = self.wait_leader(limit)?;
        let end = self.statuses().iter().flatten().map(|status| status.committed_index).max().unwrap_or(0);
        stop.until(&format!("all nodes have the log up to {end}"), limit, || {
            self.look()?;
            let statuses = self.statuses();
            let is_there = |status: &Status| {
                matches!(status.state.as_str(), "leader" | "follower")
                    && status.leader == leader_of(&statuses).map_or(0, |leader| leader.node)
                    && status.applied_index >= end
            };
            for (status, node) in statuses.iter().zip(&self.nodes) {
                let why = || {
                    let said = status.as_ref().map_or_else(|| "no answer".to_owned(), |s| format!("{s:?}"));
                    let running = if node.is_running() { "" } else { ", its process has ended" };
                    format!("node {}{running}: {said}", node.id)
                };
                ensure!(status.as_ref().is_some_and(is_there), why());
            }
            Ok(Some(leader_of(&statuses).unwrap_or(leader)))
        })
    }

    /// What an operator does with nodes that do not take part although nothing is wrong with them any more: kill -9 and a new
    /// start. Which ones these were.
    pub fn restart_idle(&mut self) -> Result<Vec<u64>> {
        self.look()?;
        let takes_part = |status: &Option<Status>| {
            status
                .as_ref()
                .is_some_and(|status| matches!(status.state.as_str(), "leader" | "follower" | "candidate"))
        };
        let statuses = self.statuses();
        let idle: Vec<u64> = self
            .ids()
            .into_iter()
            .zip(&statuses)
            .filter(|(_, status)| !takes_part(status))
            .map(|(id, _)| id)
            .collect();
        for &id in &idle {
            if self.node(id).is_running() {
                self.node_mut(id).kill()?;
            }
            self.start_node(id)?;
        }
        Ok(idle)
    }

    /// Waits until the group has nothing more to do: the whole log is committed and applied on every node.
    pub fn wait_quiet(&mut self, limit: Duration) -> Result<u64> {
        let stop = self.stop.clone();
        stop.until("every node has applied the same end of the log", limit, || {
            self.look()?;
            let statuses: Option<Vec<Status>> = self.statuses().into_iter().collect();
            let statuses = statuses.context("a node does not answer")?;
            let first = statuses.first().context("no nodes")?;
            let same = |status: &Status| status.is_caught_up() && status.last_index == first.last_index;
            ensure!(statuses.iter().all(same), "{statuses:?}");
            Ok(Some(first.last_index))
        })
    }

    /// Stops all nodes as an operator does who has time, so that each saves its tables as they are: a stop that is cut short
    /// does not.
    pub fn stop_all(&mut self) -> Result<()> {
        self.look()?;
        let stop = self.stop.clone();
        for node in self.nodes.iter_mut().filter(|node| node.is_running()) {
            node.terminate()?;
        }
        for node in self.nodes.iter_mut().filter(|node| node.is_running()) {
            let status = node.wait_end(&stop, LAST_STOP)?;
            ensure!(status.success(), "node {} ended with {status}:\n{}", node.id, node.log_tail(15));
        }
        Ok(())
    }

    /// kill -9 of all nodes and nameservers; the disks stay mounted.
    pub fn end_all(&mut self) -> Result<()> {
        self.look()?;
        let running: Vec<u64> =
            self.nodes.iter().filter(|node| node.is_running()).map(|node| node.id).collect();
        self.kill(&running)?;
        for nameserver in &mut self.nameservers {
            nameserver.process = None;
        }
        Ok(())
    }
}

/// The one that leads in the highest term.
pub fn leader_of(statuses: &[Option<Status>]) -> Option<Leader> {
    let leading = statuses.iter().flatten().filter(|status| status.leads());
    let newest = leading.max_by_key(|status| status.term)?;
    Some(Leader { node: newest.node, term: newest.term })
}

impl Nameserver {
    fn make(plan: &Plan, n: u64) -> Result<Nameserver> {
        let host = nameserver_host(n);
        let config = plan.out.join(format!("{host}.toml"));
        // A nameserver keeps nothing; the directory is one that every file must name.
        let data = plan.out.join(format!("{host}.data"));
        let listen = SocketAddr::from((address(&host), NAMESERVER_PORT));
        let text = format!(
            "cluster = \"jepsen\"\nnode = {}\ndata = \"{}\"\n\n[nameserver]\nlisten = \"{listen}\"\n",
            100 + n,
            data.display()
        );
        std::fs::write(&config, text)?;
        let log = plan.out.join(format!("{host}.log"));
        Ok(Nameserver { host, config, log, process: None })
    }

    fn start(&mut self, lease: &Lease, plan: &Plan, network: &Network) -> Result<u32> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", text(network.namespace(&self.host)?))).arg(&plan.binary);
        command.arg("server").arg("--config").arg(&self.config);
        let process = Process::start(lease, &self.host, &mut command, &self.log)?;
        let pid = process.pid();
        self.process = Some(process);
        Ok(pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_term_leads() {
        let status = |node, term, state: &str| {
            Some(Status { node, term, state: state.to_owned(), ..Status::default() })
        };
        let statuses = [status(1, 4, "leader"), None, status(2, 5, "leader"), status(3, 6, "follower")];
        assert_eq!(leader_of(&statuses), Some(Leader { node: 2, term: 5 }));
        assert_eq!(leader_of(&statuses[1..2]), None);
    }

    #[test]
    fn each_host_has_a_name() {
        let hosts = Plan::default().hosts();
        assert_eq!(hosts, ["n1", "n2", "n3", "s1", "s2", "c1", "c2", "admin"]);
    }
}
