//! Faults of wall clocks, by libfaketime. The monotonic clock stays true, as it does on real machines.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{Begun, Fault, Struck, Who, World};
use crate::cluster::node::faketime_library;
use crate::cluster::shell;
use crate::history::{Effect, EffectOf};

/// Seconds by which clocks jump: within what NTP corrects, a time zone, a lost battery.
const SHIFTS: [i64; 8] = [-2, 2, -3_600, 3_600, -86_400, 86_400, -315_360_000, 315_360_000];

/// Clocks jump, and jump back at the end.
#[derive(Debug)]
pub(super) struct Jump {
    who: Who,
    struck: Struck,
}

impl Jump {
    pub(super) fn new(who: Who) -> Jump {
        Jump { who, struck: Struck::default() }
    }
}

impl Fault for Jump {
    fn name(&self) -> &'static str {
        "clock-jump"
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        self.struck = world.pick(self.who)?;
        let seconds = *SHIFTS.choose(world.rng).context("there are shifts")?;
        let mut effects = Vec::new();
        for &id in &self.struck.nodes {
            effects.push(shift(world, id, seconds)?);
        }
        effects.extend(self.struck.led());
        let note = format!("{seconds:+} s");
        Ok(Begun { targets: self.struck.nodes.clone(), leaves_majority: true, effects, note })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        for &id in &self.struck.nodes {
            world.cluster.node(id).set_clock("+0")?;
        }
        Ok(Vec::new())
    }
}

/// The clock of a node jumps to and fro, a few times a second.
#[derive(Debug)]
pub(super) struct Strobe {
    struck: u64,
    moved: u64,
}

impl Strobe {
    pub(super) fn new() -> Strobe {
        Strobe { struck: 0, moved: 0 }
    }
}

impl Fault for Strobe {
    fn name(&self) -> &'static str {
        "clock-strobe"
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        self.struck = world.pick_one(Who::One)?.0;
        let effects = vec![shift(world, self.struck, 60)?];
        Ok(Begun { targets: vec![self.struck], leaves_majority: true, effects, note: String::new() })
    }

    fn step(&mut self, world: &mut World<'_>) -> Result<()> {
        let seconds = world.rng.random_range(-60..=60_i64);
        world.cluster.node(self.struck).set_clock(&format!("{seconds:+}"))?;
        self.moved += seconds.unsigned_abs() * 1000;
        Ok(())
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        world.cluster.node(self.struck).set_clock("+0")?;
        Ok(vec![Effect::on(EffectOf::ClockMoved, self.struck).count(self.moved)])
    }
}

/// Moves a node's clock, and makes sure that it is one that moves: the library is in the process, and a program that uses
/// the same file sees the other time.
fn shift(world: &mut World<'_>, id: u64, seconds: i64) -> Result<Effect> {
    let node = world.cluster.node(id);
    node.set_clock(&format!("{seconds:+}"))?;
    let pid = node.pid().with_context(|| format!("node {id} does not run"))?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    ensure!(maps.contains("libfaketime"), "node {id} does not run under libfaketime");
    let library = faketime_library().context("libfaketime is not installed")?;
    let mut date = Command::new("date");
    date.arg("+%s").env("LD_PRELOAD", library).env("FAKETIME_NO_CACHE", "1");
    date.env("FAKETIME_TIMESTAMP_FILE", node.clock_file().context("the run has real clocks")?);
    let output = date.output().context("date")?;
    let shown: i64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("what date prints")?;
    let real: i64 = shell::run("date", &["+%s"])?.trim().parse()?;
    let moved = shown - real;
    ensure!((moved - seconds).abs() <= 2, "a clock to be moved by {seconds} s moved by {moved}");
    Ok(Effect::on(EffectOf::ClockMoved, id).count(moved.unsigned_abs() * 1000))
}
