//! L12: replicas are equal. Digests that nodes give while they run, at one entry (the log's chain value, tables, units of
//! queues), and those after convergence (bytes of the log, messages and units of queues,
//! keys, tables; also of derived files that were deleted and built again), and the queues as they were drained, message
//! for message.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Rule;
use super::log::{Log, QueueNo, Step};
use super::report::Findings;
use crate::history::{Bounds, Digest, DigestOf, Op, Read, Way};

#[derive(Default)]
pub(crate) struct Replicas {
    digests: BTreeMap<Part, Vec<Hashed>>,
    /// Of nodes that run, until all have given theirs.
    live: BTreeMap<Part, BTreeMap<u64, String>>,
    drained: BTreeMap<QueueNo, BTreeMap<(u64, Way), Chain>>,
}

/// What is compared: broker, kind, key, range.
type Part = (String, DigestOf, String, u64, u64);

struct Hashed {
    node: u64,
    rebuilt: bool,
    hash: String,
}

impl Hashed {
    fn of(&self) -> String {
        let rebuilt = if self.rebuilt { ", built again" } else { "" };
        format!("{} at node {}{rebuilt}", self.hash, self.node)
    }
}

/// A hash over a queue's messages in the order of the drain.
#[derive(Default)]
struct Chain {
    hash: u64,
    messages: u64,
    bounds: Option<Bounds>,
}

impl Chain {
    fn add(&mut self, Read { offset, value }: Read) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&offset.to_le_bytes());
        bytes[8..].copy_from_slice(&value.pack().to_le_bytes());
        self.hash = xxh3_64_with_seed(&bytes, self.hash);
        self.messages += 1;
    }
}

impl Replicas {
    /// A digest of a node that runs. It is forgotten once all nodes have given theirs.
    fn live(&mut self, part: Part, node: u64, hash: &str, nodes: usize, found: &mut Findings) {
        let given = self.live.entry(part.clone()).or_default();
        if let Some((other, before)) = given.iter().find(|(_, before)| *before != hash) {
            let (broker, what, key, from, to) = &part;
            found.fail(|| {
                format!(
                    "{what:?} {key} [{from}, {to}) of {broker}, while they ran: {before} at node {other}, {hash} at \
                     node {node}"
                )
            });
        }
        given.insert(node, hash.to_owned());
        if given.len() == 2 {
            found.checked += 1;
            found.count("digests of running nodes compared");
        }
        if given.len() == nodes {
            self.live.remove(&part);
        }
    }
}

impl Rule for Replicas {
    fn id(&self) -> &'static str {
        "L12"
    }

    fn says(&self) -> &'static str {
        "replicas are equal"
    }

    fn step(&mut self, step: Step<'_>, log: &Log, found: &mut Findings) {
        match (&step.event.op, step.queue) {
            (Op::Digest(digest), _) => {
                let Digest { node, broker, what, key, from, to, hash, rebuilt, live } = &**digest;
                let part = (broker.clone(), *what, key.clone(), *from, *to);
                if *live {
                    let nodes = log.plan.as_ref().map_or(0, |plan| plan.nodes.len());
                    return self.live(part, *node, hash, nodes, found);
                }
                let hashed = Hashed { node: *node, rebuilt: *rebuilt, hash: hash.clone() };
                self.digests.entry(part).or_default().push(hashed);
            }
            (Op::Drain { replica, way, messages, bounds, .. }, Some(queue)) => {
                let chain = self.drained.entry(queue).or_default().entry((*replica, *way)).or_default();
                for &read in messages {
                    chain.add(read);
                }
                chain.bounds = chain.bounds.or(*bounds);
            }
            _ => {}
        }
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        let nodes = log.plan.as_ref().map_or(&[][..], |plan| plan.nodes.as_slice());
        for ((broker, what, key, from, to), hashes) in &self.digests {
            let part = || format!("{what:?} {key} [{from}, {to}) of {broker}");
            let mut all = hashes.iter();
            let Some(first) = all.next() else { continue };
            found.checked += 1;
            for other in all.filter(|other| other.hash != first.hash) {
                found.fail(|| format!("{}: {}, {}", part(), first.of(), other.of()));
            }
            let given: BTreeSet<u64> = hashes.iter().map(|hashed| hashed.node).collect();
            for node in nodes.iter().filter(|node| !given.contains(node)) {
                found.invalid(|| format!("{}: node {node} gave no digest", part()));
            }
        }
        for (&queue, chains) in &self.drained {
            let name = &log.queue(queue).name;
            let mut whole = chains.iter().filter_map(|(at, chain)| Some((at, chain, chain.bounds?)));
            let Some(((node, way), first, bounds)) = whole.next() else { continue };
            found.checked += 1;
            for ((other_node, other_way), other, other_bounds) in whole {
                if bounds.min != other_bounds.min {
                    // Retention went on in between: the parts that both have are compared by L1 and L4.
                    found.count("queues drained while their minimum rose");
                } else if (bounds, first.hash) != (other_bounds, other.hash) {
                    found.fail(|| {
                        format!(
                            "{name}: node {node} by {way:?} gave {} messages in {bounds:?}, node {other_node} by \
                             {other_way:?} {} in {other_bounds:?}, and they differ",
                            first.messages, other.messages
                        )
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::{Story, reads};
    use crate::history::Plan;

    fn live(node: u64, key: &str, to: u64, hash: &str) -> Op {
        Op::Digest(Box::new(Digest {
            node,
            broker: "a".into(),
            what: DigestOf::Table,
            key: key.into(),
            from: 0,
            to,
            hash: hash.into(),
            rebuilt: false,
            live: true,
        }))
    }

    fn digest(node: u64, to: u64, hash: &str, rebuilt: bool) -> Op {
        Op::Digest(Box::new(Digest {
            node,
            broker: "a".into(),
            what: DigestOf::Log,
            key: "0".into(),
            from: 0,
            to,
            hash: hash.into(),
            rebuilt,
            live: false,
        }))
    }

    #[test]
    fn equal_replicas_pass() {
        let mut story = Story::new();
        story.plan(Plan { nodes: vec![1, 2], ..Plan::default() });
        story.note(digest(1, 9, "x", false)).note(digest(2, 9, "x", false)).note(digest(2, 9, "x", true));
        story.drain(1, reads(0, "1-0"), None).drain(1, reads(1, "1-1"), Some(Bounds { min: 0, max: 2 }));
        story.drained(2, "1-0 1-1");
        assert_eq!(story.passes(Replicas::default()).checked, 2);
    }

    #[test]
    fn different_digests_fail_and_absent_ones_are_no_proof() {
        let plan = || Plan { nodes: vec![1, 2], ..Plan::default() };
        let mut story = Story::new();
        story.plan(plan()).note(digest(1, 9, "x", false)).note(digest(2, 9, "y", false));
        story.fails(Replicas::default(), "Log 0 [0, 9) of a: x at node 1, y at node 2");
        let mut story = Story::new();
        story.note(digest(1, 9, "x", false)).note(digest(1, 9, "y", true));
        story.fails(Replicas::default(), "y at node 1, built again");
        let mut story = Story::new();
        story.plan(plan()).note(digest(1, 9, "x", false)).note(digest(2, 8, "x", false));
        story.is_invalid(Replicas::default(), "Log 0 [0, 9) of a: node 2 gave no digest");
    }

    #[test]
    fn nodes_that_run_are_compared_at_one_entry() {
        let plan = || Plan { nodes: vec![1, 2, 3], ..Plan::default() };
        let mut story = Story::new();
        // Node 3 is down; at another entry tables differ, and each table is one of its own.
        story.plan(plan()).note(live(1, "offsets", 7, "x")).note(live(2, "offsets", 7, "x"));
        story.note(live(1, "offsets", 8, "y")).note(live(1, "topics", 7, "z"));
        let report = story.passes(Replicas::default());
        assert_eq!((report.checked, report.figures["digests of running nodes compared"]), (1, 1));
        let mut story = Story::new();
        story.plan(plan()).note(live(1, "offsets", 7, "x")).note(live(2, "offsets", 7, "x"));
        story.note(live(3, "offsets", 7, "y"));
        story.fails(
            Replicas::default(),
            "Table offsets [0, 7) of a, while they ran: x at node 1, y at node 3",
        );
        // Not only what comes first: a second round at the same entry, in which a node says something else.
        let mut story = Story::new();
        story.plan(plan());
        for node in 1..=3 {
            story.note(live(node, "offsets", 7, "x"));
        }
        story.note(live(1, "offsets", 7, "x")).note(live(2, "offsets", 7, "y"));
        story.fails(Replicas::default(), "x at node 1, y at node 2");
    }

    #[test]
    fn different_queues_fail() {
        let mut story = Story::new();
        story.drained(1, "1-0 1-1").drained(2, "1-0");
        story.fails(Replicas::default(), "and they differ");
        // also in what nobody was told about
        Story::new()
            .drained(1, "1-0 1-1")
            .drained(2, "1-0 1-2")
            .fails(Replicas::default(), "a/t/0: node 1 by Pull");
    }
}
