//! Faults of the network. Links are cut on the bridge, in each direction for itself; what was dropped is counted there.

use std::collections::BTreeMap;

use anyhow::Result;
use rand::Rng as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::{Begun, Fault, START, Who, World, node_of};
use crate::cluster::network::Rule;
use crate::cluster::node::host;
use crate::cluster::{GROUP, client_host, nameserver_host};
use crate::history::{Effect, EffectOf};

/// Who is cut off from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A node from the other nodes; clients and nameservers still reach it.
    Isolate(Who),
    /// The hosts in two halves, with nodes, nameservers and clients in both.
    Halves,
    /// The leader and the first place of clients from all others.
    LeaderWithClients,
    /// One of the six directed links between nodes.
    OneWay,
    /// One node reaches both others, and these do not reach each other.
    Bridge,
    /// Every link between nodes.
    All,
}

/// A cut that stays as it is.
#[derive(Debug)]
pub(super) struct Cut {
    name: &'static str,
    shape: Shape,
}

impl Cut {
    pub(super) fn new(name: &'static str, shape: Shape) -> Cut {
        Cut { name, shape }
    }
}

impl Fault for Cut {
    fn name(&self) -> &'static str {
        self.name
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let leader = world.cluster.wait_leader(START)?;
        let led = Effect::on(EffectOf::Led, leader.node).at(GROUP);
        let nodes = world.cluster.ids();
        let mut note = String::new();
        let (rules, targets, leaves_majority) = match self.shape {
            Shape::Isolate(who) => {
                let lonely = if who == Who::Leader { leader.node } else { world.pick_one(who)?.0 };
                let others = nodes.iter().filter(|&&node| node != lonely);
                let rules = others.flat_map(|&node| Rule::cut_both(&host(lonely), &host(node))).collect();
                (rules, vec![lonely], true)
            }
            Shape::Halves => {
                let halves = halves(world);
                note = format!("{} | {}", halves[0].join(" "), halves[1].join(" "));
                let smaller = halves.iter().min_by_key(|half| nodes_among(half).len());
                (between(&halves[0], &halves[1]), nodes_among(smaller.unwrap_or(&halves[0])), true)
            }
            Shape::LeaderWithClients => {
                let ours = [host(leader.node), client_host(1)];
                let theirs: Vec<String> =
                    hosts(world).into_iter().filter(|host| !ours.contains(host)).collect();
                (between(&ours, &theirs), vec![leader.node], true)
            }
            Shape::OneWay => {
                let mut pair: Vec<u64> = nodes.choose_multiple(world.rng, 2).copied().collect();
                pair.shuffle(world.rng);
                note = format!("from node {} to node {}", pair[0], pair[1]);
                (vec![Rule::cut(&host(pair[0]), &host(pair[1]))], pair, true)
            }
            Shape::Bridge => {
                let middle = world.pick_one(Who::One)?.0;
                note = format!("node {middle} reaches both others");
                let ends: Vec<u64> = nodes.iter().copied().filter(|&node| node != middle).collect();
                (all_links(&ends), ends, true)
            }
            Shape::All => (all_links(&nodes), nodes, false),
        };
        world.cluster.cut(&rules)?;
        let mut effects: Vec<Effect> = rules.iter().map(|rule| on_link(EffectOf::Cut, rule)).collect();
        effects.extend(targets.contains(&leader.node).then_some(led));
        Ok(Begun { targets, leaves_majority, effects, note })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        heal(world)
    }
}

/// A cut that changes while it lasts, about once a second.
#[derive(Debug)]
pub(super) struct Restless {
    name: &'static str,
    how: How,
    turn: u32,
    dropped: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// The leader of the moment is isolated and let in again.
    Flapping,
    /// The one dead link wanders round the ring of the nodes.
    Ring,
}

/// Steps between two changes.
const STEPS: u32 = 4;

impl Restless {
    pub(super) fn new(name: &'static str, how: How) -> Restless {
        Restless { name, how, turn: 0, dropped: BTreeMap::new() }
    }

    fn change(&mut self, world: &mut World<'_>) -> Result<Vec<Rule>> {
        let nodes = world.cluster.ids();
        let turn = (self.turn / STEPS) as usize;
        let rules = match self.how {
            How::Flapping if turn % 2 == 1 => Vec::new(),
            How::Flapping => {
                // Nobody leads right after a turn: then whoever is first is as good.
                let lonely = world.cluster.leader().map_or(nodes[0], |leader| leader.node);
                let others = nodes.iter().filter(|&&node| node != lonely);
                others.flat_map(|&node| Rule::cut_both(&host(lonely), &host(node))).collect()
            }
            How::Ring => {
                let (one, other) = (nodes[turn % nodes.len()], nodes[(turn + 1) % nodes.len()]);
                Rule::cut_both(&host(one), &host(other)).to_vec()
            }
        };
        for (link, count) in world.cluster.cut(&rules)? {
            *self.dropped.entry(link).or_default() += count;
        }
        Ok(rules)
    }
}

impl Fault for Restless {
    fn name(&self) -> &'static str {
        self.name
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let rules = self.change(world)?;
        let effects = rules.iter().map(|rule| on_link(EffectOf::Cut, rule)).collect();
        Ok(Begun {
            targets: world.cluster.ids(),
            leaves_majority: true,
            effects,
            note: "changes each second".into(),
        })
    }

    fn step(&mut self, world: &mut World<'_>) -> Result<()> {
        self.turn += 1;
        if self.turn.is_multiple_of(STEPS) {
            self.change(world)?;
        }
        Ok(())
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        let last = world.cluster.cut(&[])?;
        for (link, count) in last {
            *self.dropped.entry(link).or_default() += count;
        }
        let mut effects = dropped(&self.dropped);
        effects.push(Effect::new(EffectOf::Healed));
        Ok(effects)
    }
}

/// Every link between nodes loses packets.
#[derive(Debug)]
pub(super) struct Loss {
    percent: u8,
}

impl Loss {
    pub(super) fn new(percent: u8) -> Loss {
        Loss { percent }
    }
}

impl Fault for Loss {
    fn name(&self) -> &'static str {
        "loss"
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let nodes = world.cluster.ids();
        let links = all_links(&nodes);
        let rules: Vec<Rule> =
            links.iter().map(|link| Rule::loss(&link.from, &link.to, self.percent)).collect();
        world.cluster.cut(&rules)?;
        // Heartbeats get lost too, so that there may be no progress; that nothing is lost or doubled must hold.
        let note = format!("{} % of the packets between nodes", self.percent);
        Ok(Begun { targets: nodes, leaves_majority: false, effects: Vec::new(), note })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        heal(world)
    }
}

/// Packets to a node queue up in front of a thin link. (The kernels of test machines have no netem, so that nothing
/// reorders; a queue delays in bursts, as a full link does.)
#[derive(Debug)]
pub(super) struct Delay {
    who: Who,
}

/// A tenth of what 2,000 messages a second of half a KiB need.
const THIN_KILOBITS: u32 = 800;
const QUEUE_MS: u32 = 200;

impl Delay {
    pub(super) fn new(who: Who) -> Delay {
        Delay { who }
    }
}

impl Fault for Delay {
    fn name(&self) -> &'static str {
        "delay"
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let (struck, led) = world.pick_one(self.who)?;
        world.cluster.throttle(struck, THIN_KILOBITS, QUEUE_MS)?;
        let note = format!("{THIN_KILOBITS} kbit/s to node {struck}, up to {QUEUE_MS} ms");
        // What clients send to this node comes through the same link.
        let leaves_majority = led.is_none();
        Ok(Begun { targets: vec![struck], leaves_majority, effects: led.into_iter().collect(), note })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        Ok(vec![Effect::new(EffectOf::Delayed).count(world.cluster.unthrottle()?)])
    }
}

/// Takes all rules away and says what they had dropped.
fn heal(world: &mut World<'_>) -> Result<Vec<Effect>> {
    let mut effects = dropped(&world.cluster.cut(&[])?);
    effects.push(Effect::new(EffectOf::Healed));
    Ok(effects)
}

/// An effect on a link; ends that are no nodes are named.
fn on_link(what: EffectOf, rule: &Rule) -> Effect {
    let (from, to) = (node_of(&rule.from), node_of(&rule.to));
    let effect = Effect { node: from, to, ..Effect::new(what) };
    if from.is_some() && to.is_some() { effect } else { effect.at(format!("{}>{}", rule.from, rule.to)) }
}

fn dropped(counters: &BTreeMap<String, u64>) -> Vec<Effect> {
    let parse = |(link, &count): (&String, &u64)| {
        let (from, to) = link.split_once('>')?;
        Some(on_link(EffectOf::Dropped, &Rule::cut(from, to)).count(count))
    };
    counters.iter().filter_map(parse).collect()
}

fn all_links(nodes: &[u64]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (at, &one) in nodes.iter().enumerate() {
        for &other in &nodes[at + 1..] {
            rules.extend(Rule::cut_both(&host(one), &host(other)));
        }
    }
    rules
}

fn between(ours: &[String], theirs: &[String]) -> Vec<Rule> {
    ours.iter().flat_map(|one| theirs.iter().flat_map(move |other| Rule::cut_both(one, other))).collect()
}

fn nodes_among(hosts: &[String]) -> Vec<u64> {
    hosts.iter().filter_map(|host| node_of(host)).collect()
}

/// All hosts but the harness's own.
fn hosts(world: &World<'_>) -> Vec<String> {
    let plan = world.cluster.plan();
    let nodes = plan.node_ids().map(host);
    let nameservers = (1..=plan.nameservers).map(nameserver_host);
    nodes.chain(nameservers).chain((1..=plan.clients).map(client_host)).collect()
}

/// Two nodes, a nameserver and a place of clients on one side, the rest on the other.
fn halves(world: &mut World<'_>) -> [Vec<String>; 2] {
    let mut halves = [Vec::new(), Vec::new()];
    let mut nodes = world.cluster.ids();
    nodes.shuffle(world.rng);
    for (place, node) in nodes.into_iter().enumerate() {
        halves[place % 2].push(host(node));
    }
    let plan = world.cluster.plan().clone();
    let kinds = [(plan.nameservers, nameserver_host as fn(u64) -> String), (plan.clients, client_host)];
    for (count, name) in kinds {
        let shift = world.rng.random_range(0..2);
        for n in 1..=count {
            halves[((n + shift) % 2) as usize].push(name(n));
        }
    }
    halves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_has_two_directions() {
        assert_eq!(all_links(&[1, 2, 3]).len(), 6);
        let rules = between(&["n1".into()], &["n2".into(), "c1".into()]);
        assert_eq!(rules.len(), 4);
        assert_eq!(rules[0], Rule::cut("n1", "n2"));
        assert_eq!(rules[3], Rule::cut("c1", "n1"));
    }

    #[test]
    fn counters_become_effects() {
        let counters = BTreeMap::from([("c1>n2".to_owned(), 3), ("n1>n2".to_owned(), 9)]);
        let effects = dropped(&counters);
        assert_eq!(effects[0], Effect { to: Some(2), ..Effect::new(EffectOf::Dropped) }.count(3).at("c1>n2"));
        assert_eq!(effects[1], Effect::link(EffectOf::Dropped, 1, 2).count(9));
    }
}
