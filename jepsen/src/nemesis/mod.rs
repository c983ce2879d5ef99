//! What breaks the cluster: faults, each of which says what it really did, and the pace at which they come.
//!
//! ```text
//!   Kind (a name, how long it lasts, what it needs) ─▶ Fault ── begin ─▶ effects: pid 71 seen dead
//!        kinds.rs                                        │ step   while it lasts (flapping, a strobe)
//!                                                        └ end ───▶ effects: 812 packets dropped; node 2 leads now
//!   drive: rest, begin, hold, end, wait until the group is whole again; each begin and end is a line of the history
//! ```
//! A fault that cannot prove that it happened is worth nothing: the checkers reject a run without the effects that its kind
//! must have (`check::faults`).

mod chaos;
mod clock;
mod corrupt;
mod disk;
mod kinds;
mod network;
mod process;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::cluster::node::{Exit, client_address, host};
use crate::cluster::{Cluster, GROUP, Leader};
use crate::history::{Action, Effect, EffectOf, Nemesis, Op, Recorder};

pub use self::kinds::{KINDS, Kind, Need, Span, kind};

/// How often a fault that lasts is looked after.
const STEP: Duration = Duration::from_millis(250);
/// A node that was started answers within this, whatever it has to recover.
const START: Duration = Duration::from_secs(30);
/// From the end of a fault until every node takes part again.
const RECOVERY: Duration = Duration::from_mins(1);

/// What a fault works on.
#[derive(Debug)]
pub struct World<'a> {
    pub cluster: &'a mut Cluster,
    pub rng: &'a mut StdRng,
}

/// What a fault says when it has begun.
#[derive(Clone, Debug, Default)]
pub struct Begun {
    /// The nodes that it is about.
    pub targets: Vec<u64>,
    /// A majority runs, reaches one another and can write while it lasts.
    pub leaves_majority: bool,
    pub effects: Vec<Effect>,
    /// For people.
    pub note: String,
}

/// One kind of harm. Its state between begin and end is its own.
pub trait Fault: std::fmt::Debug {
    /// The name by which the checkers know what must have happened.
    fn name(&self) -> &'static str;

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun>;

    /// A few times a second while it lasts.
    fn step(&mut self, _world: &mut World<'_>) -> Result<()> {
        Ok(())
    }

    /// Undoes it, starts what is down, and says what it had come to.
    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>>;
}

/// Which nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Leader,
    Follower,
    /// Anyone.
    One,
    Two,
    All,
}

/// Nodes that a fault strikes.
#[derive(Clone, Debug, Default)]
struct Struck {
    nodes: Vec<u64>,
    /// Who led when they were picked.
    leader: Option<Leader>,
}

impl Struck {
    /// The effect that says that the leader is among them.
    fn led(&self) -> Option<Effect> {
        let leader = self.leader.filter(|leader| self.nodes.contains(&leader.node))?;
        Some(Effect::on(EffectOf::Led, leader.node).at(GROUP))
    }
}

impl World<'_> {
    /// Picks among the nodes that run and are not paused.
    fn pick(&mut self, who: Who) -> Result<Struck> {
        let leader = match who {
            Who::Leader | Who::Follower => Some(self.cluster.wait_leader(RECOVERY)?),
            Who::One | Who::Two | Who::All => self.cluster.leader(),
        };
        let is_leader = |node: u64| leader.is_some_and(|leader| leader.node == node);
        let mut nodes = self.cluster.awake();
        match who {
            Who::Leader => nodes.retain(|&node| is_leader(node)),
            Who::Follower => nodes.retain(|&node| !is_leader(node)),
            Who::One | Who::Two | Who::All => {}
        }
        let count = match who {
            Who::Leader | Who::Follower | Who::One => 1,
            Who::Two => 2,
            Who::All => nodes.len(),
        };
        ensure!(!nodes.is_empty() && nodes.len() >= count, "too few nodes run for {who:?}");
        let mut nodes: Vec<u64> = nodes.choose_multiple(self.rng, count).copied().collect();
        nodes.sort_unstable();
        Ok(Struck { nodes, leader })
    }

    /// The same, of a single node.
    fn pick_one(&mut self, who: Who) -> Result<(u64, Option<Effect>)> {
        let struck = self.pick(who)?;
        let node = struck.nodes.first().copied().context("nobody was picked")?;
        Ok((node, struck.led()))
    }

    /// More than half of the nodes are not among these.
    fn leaves_majority(&self, struck: &[u64]) -> bool {
        let all = self.cluster.ids().len();
        (all - struck.len()) * 2 > all
    }

    /// Starts those of the nodes that are down and waits until each answers.
    fn start(&mut self, ids: &[u64]) -> Result<Vec<Effect>> {
        for &id in ids {
            if !self.cluster.node(id).is_running() {
                self.cluster.start_node(id)?;
            }
        }
        ids.iter().map(|&id| self.await_answer(id)).collect()
    }

    fn await_answer(&mut self, id: u64) -> Result<Effect> {
        let stop = self.cluster.stop().clone();
        let status = stop.until(&format!("node {id} answers"), START, || {
            self.cluster.look()?;
            Ok(Some(self.cluster.admin().status(client_address(id))?))
        });
        let tail = || format!("the end of its log:\n{}", self.cluster.node(id).log_tail(15));
        status.with_context(tail)?;
        let pid = self.cluster.node(id).pid().context("it answered and is gone")?;
        Ok(Effect::on(EffectOf::Started, id).pid(pid))
    }
}

/// What a schedule of faults came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub faults: u32,
    /// Nodes that ended by themselves, though nothing that was done to them ends a node.
    pub crashes: Vec<Exit>,
}

/// How long faults of a kind go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Times(u32),
    Time(Duration),
}

/// Breaks the cluster by one kind after another and writes it all down.
#[derive(Debug)]
pub struct Driver {
    rng: StdRng,
    recorder: Recorder,
    next_id: u32,
    tally: Tally,
}

impl Driver {
    pub fn new(seed: u64, recorder: Recorder) -> Driver {
        Driver { rng: StdRng::seed_from_u64(seed), recorder, next_id: 1, tally: Tally::default() }
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Faults of a kind, one at a time, each healed before the next. An error says that the harness could not do what it
    /// meant to, or that the cluster did not recover.
    pub fn drive(&mut self, cluster: &mut Cluster, kind: &Kind, amount: Amount) -> Result<()> {
        let began = Instant::now();
        let mut times = 0;
        loop {
            let rest = kind.rest.pick(&mut self.rng);
            cluster.stop().clone().pass(rest)?;
            let is_over = match amount {
                Amount::Times(wanted) => times >= wanted,
                Amount::Time(time) => began.elapsed() >= time,
            };
            if is_over {
                return Ok(());
            }
            times += 1;
            let fault = (kind.make)(&mut self.rng);
            match fault {
                Some(fault) => self.strike(cluster, kind, fault)?,
                // A quiet time is part of the mix.
                None => cluster.stop().clone().pass(kind.hold.pick(&mut self.rng))?,
            }
        }
    }

    fn strike(&mut self, cluster: &mut Cluster, kind: &Kind, mut fault: Box<dyn Fault>) -> Result<()> {
        let id = self.next_id;
        self.next_id += 1;
        self.tally.faults += 1;
        let name = fault.name();
        let before = cluster.leader();
        let hold = kind.hold.pick(&mut self.rng);
        let mut world = World { cluster, rng: &mut self.rng };
        let begun = fault.begin(&mut world).with_context(|| format!("{name} could not begin"));
        let begun = match begun {
            Ok(begun) => begun,
            Err(error) => {
                // What it has done by then is undone, so that the run's remains can still be read.
                let _ = world.cluster.heal();
                return Err(error);
            }
        };
        let Begun { targets, leaves_majority, effects, note } = begun;
        let line = |action, effects, note| {
            let (fault, targets) = (name.to_owned(), targets.clone());
            Op::Nemesis(Box::new(Nemesis { id, fault, action, targets, leaves_majority, effects, note }))
        };
        self.recorder.note(line(Action::Start, effects, note));
        let held = hold_on(&mut world, fault.as_mut(), hold, before);
        // Healed also when the time was cut short, and the line is written: the history shows how far it came.
        let healed = fault.end(&mut world).with_context(|| format!("{name} could not be ended"));
        if healed.is_err() {
            let _ = world.cluster.heal();
        }
        let mut effects = healed?;
        if let Some(elected) = held? {
            effects.push(elected);
        }
        self.recorder.note(line(Action::Stop, effects, String::new()));
        let recovered = cluster.wait_whole(RECOVERY).with_context(|| format!("after {name}"));
        self.note_exits(cluster)?;
        for node in cluster.ids() {
            cluster.node_mut(node).may_end = false;
        }
        recovered.map(drop)
    }

    /// Takes note of nodes that ended by themselves.
    pub fn note_exits(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.look()?;
        for exit in cluster.take_exits() {
            eprintln!("node {} ended by itself, {}:\n{}", exit.node, exit.status, exit.last);
            if !exit.is_expected {
                self.tally.crashes.push(exit);
            }
        }
        Ok(())
    }
}

/// Lets a fault last, and looks who leads meanwhile: an election that is over before the end counts too.
fn hold_on(
    world: &mut World<'_>,
    fault: &mut dyn Fault,
    hold: Duration,
    before: Option<Leader>,
) -> Result<Option<Effect>> {
    let began = Instant::now();
    let mut elected = None;
    loop {
        let left = hold.saturating_sub(began.elapsed());
        world.cluster.stop().clone().pass(left.min(STEP))?;
        fault.step(world)?;
        world.cluster.look()?;
        if let (None, Some(before)) = (&elected, before) {
            let now = world.cluster.leader();
            let other = now.filter(|now| now.node != before.node && now.term > before.term);
            elected = other.map(|now| Effect::link(EffectOf::Elected, before.node, now.node).at(GROUP));
        }
        if left.is_zero() {
            return Ok(elected);
        }
    }
}

/// The number in a host's name, of a node's host.
fn node_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix('n')?.parse().ok()?;
    (host(number) == name).then_some(number)
}
