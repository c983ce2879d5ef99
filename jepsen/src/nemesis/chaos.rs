//! One fault drawn from all that may come at any time, sometimes two at once.

use anyhow::Result;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{Begun, Fault, Kind, World, kind};
use crate::history::Effect;

/// Those that a group must bear at any moment, with their weights. Faults that need a hand afterwards (damaged files) or
/// other machines (fake clocks) have runs of their own.
const MIX: &[(&str, u32)] = &[
    ("kill-leader", 4),
    ("kill-one", 3),
    ("kill-majority", 1),
    ("kill-all", 1),
    ("pause-leader", 4),
    ("pause-one", 3),
    ("isolate-leader", 4),
    ("isolate-one", 3),
    ("halves", 3),
    ("cut-one-way", 3),
    ("bridge", 3),
    ("flapping", 2),
    ("loss", 2),
    ("power-loss-leader", 3),
    ("power-loss-one", 3),
    ("power-loss-all", 1),
    ("power-loss-and-pause", 2),
    ("disk-full-one", 1),
    ("hung-disk", 1),
    ("transfer", 2),
    ("nameserver-one", 2),
];

/// A fault of the mix; in one of four cases none: a quiet time.
pub(super) fn draw(rng: &mut StdRng) -> Option<Box<dyn Fault>> {
    if rng.random_ratio(1, 4) {
        return None;
    }
    let kind = drawn_kind(rng)?;
    (kind.make)(rng)
}

fn drawn_kind(rng: &mut StdRng) -> Option<&'static Kind> {
    let (name, _) = MIX.choose_weighted(rng, |(_, weight)| *weight).ok()?;
    kind(name)
}

/// A cut together with a fault of a process: a node that dies or sleeps while two others cannot agree.
#[derive(Debug)]
pub(super) struct Both {
    cut: Box<dyn Fault>,
    other: Box<dyn Fault>,
}

impl Both {
    /// A cut that cuts nobody's majority off for good, and a fault of one node.
    pub(super) fn draw(rng: &mut StdRng) -> Option<Box<dyn Fault>> {
        let mut one_of = |names: &[&str]| {
            let kind = kind(names.choose(rng).copied()?)?;
            (kind.make)(rng)
        };
        let cut = one_of(&["cut-one-way", "bridge", "flapping", "halves"])?;
        let other = one_of(&["kill-one", "pause-one", "power-loss-one"])?;
        Some(Box::new(Both { cut, other }))
    }
}

impl Fault for Both {
    /// The checkers ask for the proof of the one that is named; the other's effects are in the line as well.
    fn name(&self) -> &'static str {
        self.other.name()
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let mut begun = self.other.begin(world)?;
        let cut = self.cut.begin(world)?;
        begun.effects.extend(cut.effects);
        for node in cut.targets {
            if !begun.targets.contains(&node) {
                begun.targets.push(node);
            }
        }
        // The two together may leave no two nodes that reach one another.
        begun.leaves_majority = false;
        begun.note = format!("with {}: {}", self.cut.name(), cut.note);
        Ok(begun)
    }

    fn step(&mut self, world: &mut World<'_>) -> Result<()> {
        self.cut.step(world)
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        // The network first: a node that starts is waited for.
        let mut effects = self.cut.end(world)?;
        effects.extend(self.other.end(world)?);
        Ok(effects)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn the_mix_names_kinds_that_there_are() {
        for (name, _) in MIX {
            assert!(kind(name).is_some(), "{name}");
        }
        let mut rng = StdRng::seed_from_u64(7);
        let drawn: Vec<Option<&str>> = (0..200).map(|_| draw(&mut rng).map(|fault| fault.name())).collect();
        assert!(drawn.iter().any(Option::is_none) && drawn.iter().filter(|d| d.is_some()).count() > 100);
        assert!(Both::draw(&mut rng).is_some());
    }

    #[test]
    fn a_seed_draws_the_same_faults() {
        let names = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            (0..50).map(|_| draw(&mut rng).map(|fault| fault.name())).collect::<Vec<_>>()
        };
        assert_eq!(names(3), names(3));
        assert_ne!(names(3), names(4));
    }
}
