//! Faults of processes: kill -9, SIGSTOP, planned stops, leadership given away, nameservers that die.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Begun, Fault, START, Struck, Who, World};
use crate::cluster::node::client_address;
use crate::cluster::{GROUP, nameserver_host};
use crate::history::{Effect, EffectOf};

/// A node hands its leadership over, and a second signal ends it without the 35 s that it leaves to clients.
const HANDOVER: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(500);
/// A whole planned stop: two minutes for clients at most, and closing.
const PLANNED_STOP: Duration = Duration::from_secs(150);

/// kill -9. The nodes stay down until the end.
#[derive(Debug)]
pub(super) struct Kill {
    name: &'static str,
    who: Who,
    struck: Struck,
}

impl Kill {
    pub(super) fn new(name: &'static str, who: Who) -> Kill {
        Kill { name, who, struck: Struck::default() }
    }
}

impl Fault for Kill {
    fn name(&self) -> &'static str {
        self.name
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        self.struck = world.pick(self.who)?;
        let nodes = self.struck.nodes.clone();
        let pids = world.cluster.kill(&nodes)?;
        let killed = nodes.iter().zip(pids).map(|(&node, pid)| Effect::on(EffectOf::Killed, node).pid(pid));
        let effects = killed.chain(self.struck.led()).collect();
        let leaves_majority = world.leaves_majority(&nodes);
        Ok(Begun { targets: nodes, leaves_majority, effects, note: String::new() })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        world.start(&self.struck.nodes)
    }
}

/// SIGSTOP, and SIGCONT at the end: a node that was away and does not know it.
#[derive(Debug)]
pub(super) struct Pause {
    name: &'static str,
    who: Who,
    struck: Struck,
}

impl Pause {
    pub(super) fn new(name: &'static str, who: Who) -> Pause {
        Pause { name, who, struck: Struck::default() }
    }
}

impl Fault for Pause {
    fn name(&self) -> &'static str {
        self.name
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        self.struck = world.pick(self.who)?;
        let stop = world.cluster.stop().clone();
        let mut effects = Vec::new();
        for &id in &self.struck.nodes {
            let node = world.cluster.node_mut(id);
            node.pause(&stop)?;
            let pid = node.pid().context("a paused node runs")?;
            effects.push(Effect::on(EffectOf::Paused, id).pid(pid));
        }
        effects.extend(self.struck.led());
        let (targets, leaves_majority) =
            (self.struck.nodes.clone(), world.leaves_majority(&self.struck.nodes));
        Ok(Begun { targets, leaves_majority, effects, note: String::new() })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        let mut effects = Vec::new();
        for &id in &self.struck.nodes {
            let node = world.cluster.node_mut(id);
            ensure!(node.is_paused(), "node {id} did not stay paused");
            let pid = node.pid().context("a paused node runs")?;
            node.resume()?;
            effects.push(Effect::on(EffectOf::Resumed, id).pid(pid));
        }
        Ok(effects)
    }
}

/// Every node is stopped as operators do it and started again, one after the other, the leader last.
#[derive(Debug)]
pub(super) struct Rolling {
    /// Waits out the time that a stopping node leaves to its clients; otherwise it is cut short as soon as another leads.
    is_patient: bool,
    left: Vec<u64>,
    effects: Vec<Effect>,
}

impl Rolling {
    pub(super) fn new(is_patient: bool) -> Rolling {
        Rolling { is_patient, left: Vec::new(), effects: Vec::new() }
    }

    fn restart(&mut self, world: &mut World<'_>, id: u64) -> Result<()> {
        let pid = stop(world, id, self.is_patient)?;
        self.effects.push(Effect::on(EffectOf::Stopped, id).pid(pid));
        self.effects.extend(world.start(&[id])?);
        world.cluster.wait_whole(START).map(drop)
    }
}

/// A planned stop; the process id that is gone. One that is not patient is cut short once another node leads.
fn stop(world: &mut World<'_>, id: u64, is_patient: bool) -> Result<u32> {
    let stop = world.cluster.stop().clone();
    let node = world.cluster.node_mut(id);
    let pid = node.pid().with_context(|| format!("node {id} does not run"))?;
    node.terminate()?;
    if !is_patient {
        stop.until_true("another node leads", HANDOVER, || {
            Ok(world.cluster.leader().is_some_and(|leader| leader.node != id))
        })?;
    }
    let status =
        if is_patient { world.cluster.node_mut(id).wait_end(&stop, PLANNED_STOP) } else { hurry(world, id) };
    let status = status?;
    ensure!(status.success(), "node {id} ended with {status}:\n{}", world.cluster.node(id).log_tail(15));
    Ok(pid)
}

/// Cuts a planned stop short. A signal that comes before the one ahead of it was taken is one with it, so there are more.
fn hurry(world: &mut World<'_>, id: u64) -> Result<ExitStatus> {
    let stop = world.cluster.stop().clone();
    let began = Instant::now();
    loop {
        let node = world.cluster.node_mut(id);
        node.terminate()?;
        match node.wait_end(&stop, AGAIN) {
            Err(error) if began.elapsed() > START || stop.is_stopped() => return Err(error),
            Err(_) => {}
            ended => return ended,
        }
    }
}

impl Fault for Rolling {
    fn name(&self) -> &'static str {
        "rolling-restart"
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let (leader, led) = world.pick_one(Who::Leader)?;
        let mut order = world.cluster.ids();
        order.sort_unstable_by_key(|&id| (id == leader, id));
        self.left.clone_from(&order);
        let note = format!("in the order {order:?}");
        Ok(Begun { leaves_majority: true, targets: order, effects: led.into_iter().collect(), note })
    }

    /// One node each time, so that the history's lines show the whole as one fault.
    fn step(&mut self, world: &mut World<'_>) -> Result<()> {
        if self.left.is_empty() {
            return Ok(());
        }
        let id = self.left.remove(0);
        self.restart(world, id)
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        while !self.left.is_empty() {
            self.step(world)?;
        }
        Ok(std::mem::take(&mut self.effects))
    }
}

/// The leader is stopped as operators do it, and started again at the end.
#[derive(Debug)]
pub(super) struct StopLeader {
    stopped: u64,
}

impl StopLeader {
    pub(super) fn new() -> StopLeader {
        StopLeader { stopped: 0 }
    }
}

impl Fault for StopLeader {
    fn name(&self) -> &'static str {
        "stop-leader"
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let (leader, led) = world.pick_one(Who::Leader)?;
        self.stopped = leader;
        let pid = stop(world, leader, false)?;
        let stopped = Effect::on(EffectOf::Stopped, leader).pid(pid);
        let effects = led.into_iter().chain([stopped]).collect();
        Ok(Begun { targets: vec![leader], leaves_majority: true, effects, note: String::new() })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        world.start(&[self.stopped])
    }
}

/// Leadership is given to another node.
#[derive(Debug)]
pub(super) struct Transfer {
    effects: Vec<Effect>,
}

impl Transfer {
    pub(super) fn new() -> Transfer {
        Transfer { effects: Vec::new() }
    }
}

impl Fault for Transfer {
    fn name(&self) -> &'static str {
        "transfer"
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let follower = world.pick(Who::Follower)?;
        let to = follower.nodes.first().copied().context("there is a follower")?;
        let leader = follower.leader.context("followers have a leader")?;
        world.cluster.admin().transfer(client_address(leader.node), to)?;
        let stop = world.cluster.stop().clone();
        stop.until_true("the target leads", HANDOVER, || {
            Ok(world.cluster.leader().is_some_and(|now| now.node == to && now.term > leader.term))
        })?;
        self.effects = vec![Effect::link(EffectOf::Transferred, leader.node, to).at(GROUP)];
        let led = Effect::on(EffectOf::Led, leader.node).at(GROUP);
        let effects = [vec![led], self.effects.clone()].concat();
        Ok(Begun { targets: vec![leader.node, to], leaves_majority: true, effects, note: String::new() })
    }

    fn end(&mut self, _world: &mut World<'_>) -> Result<Vec<Effect>> {
        Ok(std::mem::take(&mut self.effects))
    }
}

/// Nameservers die, and come back empty.
#[derive(Debug)]
pub(super) struct Nameservers {
    all: bool,
}

impl Nameservers {
    pub(super) fn new(all: bool) -> Nameservers {
        Nameservers { all }
    }
}

impl Fault for Nameservers {
    fn name(&self) -> &'static str {
        "nameserver-kill"
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        use rand::Rng as _;
        let count = world.cluster.plan().nameservers;
        let struck = if self.all { (1..=count).collect() } else { vec![world.rng.random_range(1..=count)] };
        let mut effects = Vec::new();
        for n in struck {
            let pid = world.cluster.kill_nameserver(n)?;
            effects.push(Effect::new(EffectOf::NameserverKilled).pid(pid).at(nameserver_host(n)));
        }
        Ok(Begun { targets: Vec::new(), leaves_majority: true, effects, note: String::new() })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        let started = world.cluster.start_nameservers()?;
        let effect = |(host, pid)| Effect::new(EffectOf::NameserverStarted).pid(pid).at(host);
        Ok(started.into_iter().map(effect).collect())
    }
}
