//! Faults of disks: power loss, no room, failing and slow syncs, a disk that hangs.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng as _;

use super::{Begun, Fault, Struck, Who, World};
use crate::cluster::disk::PowerCut;
use crate::history::{Effect, EffectOf};

/// A failed call that was asked for comes within this: a leader under load syncs a hundred times a second.
const INJECTION: Duration = Duration::from_secs(20);

/// Power loss: what was not synced is gone. The nodes are down until the end.
#[derive(Debug)]
pub(super) struct PowerLoss {
    name: &'static str,
    who: Who,
    cut: PowerCut,
    struck: Struck,
}

impl PowerLoss {
    pub(super) fn new(name: &'static str, who: Who, cut: PowerCut) -> PowerLoss {
        PowerLoss { name, who, cut, struck: Struck::default() }
    }
}

/// Cuts the power of nodes and says what that did.
fn lose_power(world: &mut World<'_>, struck: &[u64], cut: PowerCut) -> Result<Vec<Effect>> {
    let mut effects = Vec::new();
    for loss in world.cluster.lose_power(struck, cut)? {
        effects.push(Effect::on(EffectOf::PowerLost, loss.node).bytes(loss.bytes));
        effects.extend(loss.pid.map(|pid| Effect::on(EffectOf::Killed, loss.node).pid(pid)));
        effects.push(Effect::on(EffectOf::Remounted, loss.node));
    }
    Ok(effects)
}

impl Fault for PowerLoss {
    fn name(&self) -> &'static str {
        self.name
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        self.struck = world.pick(self.who)?;
        let nodes = self.struck.nodes.clone();
        let mut effects = lose_power(world, &nodes, self.cut)?;
        effects.extend(self.struck.led());
        let leaves_majority = world.leaves_majority(&nodes);
        Ok(Begun { targets: nodes, leaves_majority, effects, note: format!("lost: {:?}", self.cut) })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        world.start(&self.struck.nodes)
    }
}

/// One node sleeps, another loses power and is back at once: those two decide now what was acknowledged (the case that
/// split NATS JetStream).
#[derive(Debug)]
pub(super) struct PowerLossAndPause {
    paused: u64,
}

impl PowerLossAndPause {
    pub(super) fn new() -> PowerLossAndPause {
        PowerLossAndPause { paused: 0 }
    }
}

impl Fault for PowerLossAndPause {
    fn name(&self) -> &'static str {
        "power-loss-and-pause"
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let pair = world.pick(Who::Two)?;
        let [one, other] = pair.nodes[..] else { bail!("two nodes were asked for: {pair:?}") };
        let (paused, struck) = if world.rng.random() { (one, other) } else { (other, one) };
        self.paused = paused;
        let stop = world.cluster.stop().clone();
        let node = world.cluster.node_mut(paused);
        node.pause(&stop)?;
        let pid = node.pid().context("a paused node runs")?;
        let mut effects = vec![Effect::on(EffectOf::Paused, paused).pid(pid)];
        effects.extend(lose_power(world, &[struck], PowerCut::Everything)?);
        effects.extend(world.start(&[struck])?);
        effects.extend(pair.led());
        Ok(Begun { targets: pair.nodes, leaves_majority: false, effects, note: String::new() })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        let node = world.cluster.node_mut(self.paused);
        let pid = node.pid().context("a paused node runs")?;
        node.resume()?;
        Ok(vec![Effect::on(EffectOf::Resumed, self.paused).pid(pid)])
    }
}

/// The disk is full to the last block.
#[derive(Debug)]
pub(super) struct Full {
    who: Who,
    struck: Struck,
}

impl Full {
    pub(super) fn new(who: Who) -> Full {
        Full { who, struck: Struck::default() }
    }
}

impl Fault for Full {
    fn name(&self) -> &'static str {
        "disk-full"
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        self.struck = world.pick(self.who)?;
        let nodes = self.struck.nodes.clone();
        let mut effects = Vec::new();
        for &id in &nodes {
            let disk = &world.cluster.node(id).disk;
            let bytes = disk.fill()?;
            let refused = disk.try_write()?;
            effects.push(Effect::on(EffectOf::Filled, id).bytes(bytes).count(u64::from(refused)));
        }
        effects.extend(self.struck.led());
        let leaves_majority = world.leaves_majority(&nodes);
        Ok(Begun { targets: nodes, leaves_majority, effects, note: String::new() })
    }

    /// What the node frees meanwhile is taken as well.
    fn step(&mut self, world: &mut World<'_>) -> Result<()> {
        for &id in &self.struck.nodes {
            world.cluster.node(id).disk.fill()?;
        }
        Ok(())
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        let mut effects = Vec::new();
        for &id in &self.struck.nodes {
            world.cluster.node(id).disk.drain()?;
            effects.push(Effect::on(EffectOf::Freed, id));
        }
        // A full disk is a refusal, never an end: a node that has died of it is found by whoever drives the faults.
        world.cluster.look()?;
        effects.extend(world.start(&self.struck.nodes)?);
        Ok(effects)
    }
}

/// System calls of a node fail or wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// fsync fails once; the node has to give up on the disk.
    FsyncFails,
    /// A write in the middle of others finds no room.
    WriteFails,
    /// Every fsync takes half a second more.
    FsyncSlow,
}

impl Calls {
    fn injection(self) -> &'static str {
        match self {
            Calls::FsyncFails => "fdatasync,fsync:error=EIO:when=1",
            Calls::WriteFails => "pwrite64,pwritev,pwritev2:error=ENOSPC:when=1",
            Calls::FsyncSlow => "fdatasync,fsync:delay_enter=500000",
        }
    }

    /// How strace marks the calls that it did something to.
    fn mark(self) -> &'static str {
        if self == Calls::FsyncSlow { "(DELAYED)" } else { "(INJECTED)" }
    }
}

#[derive(Debug)]
pub(super) struct FailingCalls {
    calls: Calls,
    who: Who,
    struck: u64,
    file: PathBuf,
    counted: u64,
}

impl FailingCalls {
    pub(super) fn new(calls: Calls, who: Who) -> FailingCalls {
        FailingCalls { calls, who, struck: 0, file: PathBuf::new(), counted: 0 }
    }
}

impl Fault for FailingCalls {
    fn name(&self) -> &'static str {
        match self.calls {
            Calls::FsyncFails => "fsync-error",
            Calls::WriteFails => "write-error",
            Calls::FsyncSlow => "slow-fsync",
        }
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let (struck, led) = world.pick_one(self.who)?;
        self.struck = struck;
        let stop = world.cluster.stop().clone();
        let (node, lease) = world.cluster.node_and_lease(self.struck);
        self.file = node.trace(lease, self.calls.injection())?;
        let (file, mark) = (self.file.clone(), self.calls.mark());
        let waited = stop.until("the first call is struck", INJECTION, || {
            let count = marked(&file, mark);
            Ok((count > 0).then_some(count))
        });
        if self.calls != Calls::FsyncSlow {
            // Once is the fault; a tracer that stays on makes every call of the node slow as well.
            node.may_end = true;
            node.untrace()?;
            self.counted = waited?;
        } else {
            waited?;
        }
        let effects = led.into_iter().collect();
        Ok(Begun { targets: vec![self.struck], leaves_majority: true, effects, note: String::new() })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        if self.calls == Calls::FsyncSlow {
            self.counted = marked(&self.file, self.calls.mark());
            world.cluster.node_mut(self.struck).untrace()?;
            return Ok(vec![Effect::on(EffectOf::CallsDelayed, self.struck).count(self.counted)]);
        }
        let mut effects = vec![Effect::on(EffectOf::CallsFailed, self.struck).count(self.counted)];
        // Its group has ended there, whether or not its process has; an operator looks at the disk and starts it again.
        world.cluster.look()?;
        if world.cluster.node(self.struck).is_running() {
            let pid = world.cluster.node_mut(self.struck).kill()?;
            effects.push(Effect::on(EffectOf::Killed, self.struck).pid(pid));
        }
        effects.extend(world.start(&[self.struck])?);
        Ok(effects)
    }
}

/// Lines of strace's output that bear a mark.
fn marked(file: &Path, mark: &str) -> u64 {
    let text = std::fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter(|line| line.contains(mark)).count() as u64
}

/// The disk hangs: whoever writes waits.
#[derive(Debug)]
pub(super) struct Hung {
    who: Who,
    struck: u64,
    /// A write of our own that has to wait as the node's do; how long it did.
    probe: Option<JoinHandle<Result<Duration>>>,
}

impl Hung {
    pub(super) fn new(who: Who) -> Hung {
        Hung { who, struck: 0, probe: None }
    }
}

impl Fault for Hung {
    fn name(&self) -> &'static str {
        "hung-disk"
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let (struck, led) = world.pick_one(self.who)?;
        self.struck = struck;
        let disk = &mut world.cluster.node_mut(self.struck).disk;
        disk.freeze()?;
        let file = disk.path().join("probe");
        self.probe = Some(thread::Builder::new().name("probe".into()).spawn(move || {
            let began = Instant::now();
            std::fs::write(&file, "x")?;
            Ok(began.elapsed())
        })?);
        let effects = led.into_iter().collect();
        Ok(Begun { targets: vec![self.struck], leaves_majority: true, effects, note: String::new() })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        let disk = &mut world.cluster.node_mut(self.struck).disk;
        disk.thaw()?;
        let probe = self.probe.take().context("the probe was started")?;
        let waited = probe.join().map_err(|_| anyhow::anyhow!("the probe panicked"))??;
        ensure!(!waited.is_zero(), "a write to the frozen disk did not wait");
        let waited = waited.as_millis() as u64;
        Ok(vec![
            Effect::on(EffectOf::Frozen, self.struck).count(waited),
            Effect::on(EffectOf::Thawed, self.struck),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strace_did_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("strace");
        let text = "7 fdatasync(3 <unfinished ...>\n7 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)\n\
                    8 fdatasync(4) = 0 (DELAYED)\n";
        std::fs::write(&file, text).unwrap();
        assert_eq!(marked(&file, Calls::FsyncFails.mark()), 1);
        assert_eq!(marked(&file, Calls::FsyncSlow.mark()), 1);
        assert_eq!(marked(&dir.path().join("none"), "(DELAYED)"), 0);
    }
}
