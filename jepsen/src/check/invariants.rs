//! I: what nodes say of themselves, sample by sample. At most one of them leads in a term, and votes name no other; term,
//! vote, purged and minimum offsets never fall, also across restarts; nothing that was both committed and on a node's disk
//! goes from it; the orders of design.md invariant 6 hold; and what was acknowledged is soon fsynced at a majority.

use std::collections::{BTreeMap, HashMap};

use super::Rule;
use super::log::{Log, Step};
use super::report::Findings;
use crate::history::{Effect, EffectOf, Kind, NodeSample, Op, Queue, Vote};

/// A sample is asked for before its line is written. After this long nothing that it says is older than the line that
/// it is compared with; the harness gives up on an answer before.
const SETTLED_NS: u64 = 5_000_000_000;

#[derive(Default)]
pub(crate) struct Invariants {
    /// By broker and term.
    leaders: HashMap<(String, u64), u64>,
    past: HashMap<(String, u64), Past>,
    durable: BTreeMap<String, Durable>,
}

/// What a node has said before.
#[derive(Default)]
struct Past {
    incarnation: Option<String>,
    term: u64,
    vote: Option<Vote>,
    purged: u64,
    snapshot: u64,
    /// Of its own tables.
    checkpoint: u64,
    /// Committed, and fsynced on this node.
    kept: u64,
    minimums: HashMap<Queue, u64>,
}

/// Whether acknowledged messages are on a majority's disks: asked of one acknowledgement after the other.
#[derive(Default)]
struct Durable {
    /// The greatest position acknowledged.
    acknowledged: Option<u64>,
    /// The one that is being asked about, and since when.
    asked: Option<(u64, u64)>,
    /// Whether each node has it.
    has: BTreeMap<u64, bool>,
}

impl Rule for Invariants {
    fn id(&self) -> &'static str {
        "I"
    }

    fn says(&self) -> &'static str {
        "nodes keep their invariants"
    }

    fn step(&mut self, step: Step<'_>, log: &Log, found: &mut Findings) {
        let event = step.event;
        match &event.op {
            // A node that has just started has told its consensus nothing yet; it says zeros for a moment.
            Op::Node(sample) if sample.term == Some(0) => {}
            Op::Node(sample) => {
                found.checked += 1;
                self.leader(sample, found);
                orders(sample, found);
                self.never_back(sample, found);
                let nodes = log.plan.as_ref().map_or(0, |plan| plan.nodes.len());
                if let Some(durable) = self.durable.get_mut(&sample.broker) {
                    durable.sampled(event.t_ns, sample, nodes, found);
                }
            }
            Op::Send { queue, position: Some(position), .. }
            | Op::Batch { queue, position: Some(position), .. }
                if event.kind == Kind::Ok =>
            {
                let durable = self.durable.entry(queue.broker.clone()).or_default();
                durable.acknowledged = durable.acknowledged.max(Some(*position));
            }
            Op::Nemesis(nemesis) => {
                // Whoever lost its directory, or got an old one, has another past.
                let replaced =
                    |effect: &&Effect| matches!(effect.what, EffectOf::Removed | EffectOf::Restored);
                let is_tables = |effect: &&Effect| effect.at.contains("/tables/");
                for effect in nemesis.effects.iter().filter(|effect| !is_tables(effect)).filter(replaced) {
                    self.past.retain(|(_, other), _| Some(*other) != effect.node);
                }
                // A node whose newest checkpoint is damaged starts from an older one.
                for effect in nemesis.effects.iter().filter(is_tables) {
                    let harmed = self.past.iter_mut().filter(|((_, other), _)| Some(*other) == effect.node);
                    harmed.for_each(|(_, past)| past.checkpoint = 0);
                }
            }
            _ => {}
        }
    }
}

impl Invariants {
    fn leader(&mut self, sample: &NodeSample, found: &mut Findings) {
        let (node, broker) = (sample.node, &sample.broker);
        if let (true, Some(term)) = (sample.leads, sample.term) {
            let leader = *self.leaders.entry((broker.clone(), term)).or_insert(node);
            if leader != node {
                found.fail(|| format!("nodes {leader} and {node} both lead {broker} in term {term}"));
            }
        }
        if let Some(Vote { term, node: elected, committed: true }) = sample.vote {
            let leader = *self.leaders.entry((broker.clone(), term)).or_insert(elected);
            if leader != elected {
                found.fail(|| {
                    format!(
                        "node {node} of {broker} holds {elected} for the leader of term {term}, which {leader} is"
                    )
                });
            }
        }
    }

    fn never_back(&mut self, sample: &NodeSample, found: &mut Findings) {
        let past = self.past.entry((sample.broker.clone(), sample.node)).or_default();
        if sample.incarnation.is_some() && sample.incarnation != past.incarnation {
            *past = Past { incarnation: sample.incarnation.clone(), ..Past::default() };
        }
        let node = || format!("node {} of {}", sample.node, sample.broker);
        if let Some(term) = sample.term {
            if term < past.term {
                found.fail(|| format!("{}: the term fell from {} to {term}", node(), past.term));
            }
            past.term = past.term.max(term);
        }
        if let Some(now) = sample.vote {
            found.count("votes on disks compared");
            if let Some(before) = past.vote {
                let elected = now.committed && !before.committed;
                if now.term < before.term {
                    found.fail(|| format!("{}: the vote fell from {before:?} to {now:?}", node()));
                } else if now.term == before.term && now.node != before.node && !elected {
                    found.fail(|| {
                        let (before, now, term) = (before.node, now.node, now.term);
                        format!("{}: voted for {before} and for {now} in term {term}", node())
                    });
                } else if now.term == before.term && before.committed && !now.committed {
                    found.fail(|| format!("{}: forgot who leads, {before:?}, and has {now:?}", node()));
                }
            }
            if past.vote.is_none_or(|before| before.term <= now.term) {
                past.vote = Some(now);
            }
        }
        if let Some(purged) = sample.purged {
            if purged < past.purged {
                found.fail(|| format!("{}: purged fell from {} to {purged}", node(), past.purged));
            }
            past.purged = past.purged.max(purged);
        }
        if let Some(snapshot) = sample.snapshot {
            if snapshot < past.snapshot {
                found.fail(|| {
                    format!("{}: the current snapshot fell from {} to {snapshot}", node(), past.snapshot)
                });
            }
            past.snapshot = past.snapshot.max(snapshot);
        }
        if let Some(last) = sample.last
            && last < past.kept
        {
            found.fail(|| {
                format!("{}: the log ends at {last}, but {} was committed and on its disk", node(), past.kept)
            });
        }
        if let (Some(committed), Some(synced)) = (sample.committed, sample.synced) {
            past.kept = past.kept.max(committed.min(synced));
        }
        if let Some(applied) = sample.applied
            && applied < past.checkpoint
        {
            found.fail(|| format!("{}: applied {applied}, below its checkpoint {}", node(), past.checkpoint));
        }
        past.checkpoint = past.checkpoint.max(own_checkpoint(sample).unwrap_or(0));
        for (queue, min) in &sample.minimums {
            let before = past.minimums.entry(queue.clone()).or_insert(*min);
            if *min < *before {
                found.fail(|| format!("{}: the minimum of {queue} fell from {before} to {min}", node()));
            }
            *before = (*before).max(*min);
        }
    }
}

/// The newest checkpoint, where it is not a snapshot that came from a leader: of the node's own log, all of which up to there
/// is on its disk and applied. A snapshot is ahead of both until the log starts at it.
fn own_checkpoint(sample: &NodeSample) -> Option<u64> {
    sample.checkpoint.filter(|checkpoint| sample.snapshot != Some(*checkpoint))
}

/// `purged ≤ current snapshot ≤ newest checkpoint ≤ fsynced ≤ last` and `applied ≤ committed ≤ last`.
fn orders(sample: &NodeSample, found: &mut Findings) {
    let orders: [&[(&str, Option<u64>)]; 4] = [
        &[("purged", sample.purged), ("snapshot", sample.snapshot), ("checkpoint", sample.checkpoint)],
        &[("checkpoint", own_checkpoint(sample)), ("synced", sample.synced), ("last", sample.last)],
        &[("purged", sample.purged), ("last", sample.last)],
        &[("applied", sample.applied), ("committed", sample.committed), ("last", sample.last)],
    ];
    for order in orders {
        let told: Vec<_> = order.iter().filter_map(|(name, index)| Some((name, (*index)?))).collect();
        for pair in told.windows(2) {
            let ((lower, below), (upper, above)) = (pair[0], pair[1]);
            if below > above {
                let (node, broker) = (sample.node, &sample.broker);
                found.fail(|| format!("node {node} of {broker}: {lower} {below} is above {upper} {above}"));
            }
        }
    }
}

impl Durable {
    fn sampled(&mut self, t_ns: u64, sample: &NodeSample, nodes: usize, found: &mut Findings) {
        let (Some(synced), Some(acknowledged)) = (sample.synced_position, self.acknowledged) else { return };
        let (position, since) = *self.asked.get_or_insert((acknowledged, t_ns));
        if nodes == 0 || t_ns < since + SETTLED_NS {
            return;
        }
        self.has.insert(sample.node, synced > position);
        let lack = self.has.values().filter(|has| !**has).count();
        if lack >= nodes.div_ceil(2) {
            found.fail(|| {
                format!(
                    "position {position} of {} was acknowledged, and nodes {:?} do not have it on disk",
                    sample.broker,
                    self.has.iter().filter(|(_, has)| !**has).map(|(node, _)| *node).collect::<Vec<_>>()
                )
            });
        }
        if self.has.len() >= nodes || lack >= nodes.div_ceil(2) {
            found.count("acknowledgements compared with what is on the disks");
            *self = Durable { acknowledged: self.acknowledged, ..Durable::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::{Story, queue};
    use crate::history::{Action, Plan};

    fn sample(node: u64, term: u64) -> NodeSample {
        NodeSample { node, broker: "a".into(), term: Some(term), ..NodeSample::default() }
    }

    fn vote(term: u64, node: u64, committed: bool) -> Vote {
        Vote { term, node, committed }
    }

    fn fails(samples: Vec<NodeSample>, words: &str) {
        let mut story = Story::new();
        for sample in samples {
            story.node(sample);
        }
        story.fails(Invariants::default(), words);
    }

    #[test]
    fn a_node_that_goes_forward_passes() {
        let whole = |term| NodeSample {
            leads: term == 2,
            vote: Some(Vote { term, node: 1, committed: term == 2 }),
            last: Some(9),
            synced: Some(9),
            committed: Some(8),
            applied: Some(8),
            checkpoint: Some(5),
            snapshot: Some(3),
            purged: Some(3),
            minimums: vec![(queue(), term)],
            ..sample(1, term)
        };
        let mut story = Story::new();
        // applied and committed may restart lower, the log ends above what was committed and synced
        let restarted = NodeSample { committed: Some(5), applied: Some(5), ..whole(2) };
        story.node(whole(1)).node(whole(2)).node(restarted).node(NodeSample { leads: true, ..sample(2, 3) });
        assert_eq!(story.passes(Invariants::default()).checked, 4);
        // another directory, and an old copy, have another past
        let mut story = Story::new();
        story.node(NodeSample { incarnation: Some("x".into()), ..sample(1, 9) });
        story.node(NodeSample { incarnation: Some("y".into()), ..sample(1, 2) });
        let restored = vec![Effect::on(EffectOf::Restored, 1).at("data")];
        story.nemesis(1, "old-copy", Action::Start, true, restored).node(sample(1, 1));
        story.passes(Invariants::default());
        // a vote for one node may become another one's that was elected in the term, as others know
        let mut story = Story::new();
        let votes =
            |node, by, committed| NodeSample { vote: Some(vote(4, node, committed)), ..sample(by, 4) };
        story
            .node(votes(2, 1, false))
            .node(votes(3, 1, true))
            .node(votes(3, 2, true))
            .node(votes(3, 3, true));
        assert_eq!(story.passes(Invariants::default()).figures.len(), 1);
        // a snapshot from the leader is ahead of a log until that starts at it
        let mut story = Story::new();
        let log =
            |last| NodeSample { last: Some(last), synced: Some(last), applied: Some(last), ..sample(1, 4) };
        let installed = |last| NodeSample { snapshot: Some(50), checkpoint: Some(50), ..log(last) };
        story.node(log(9)).node(installed(9)).node(NodeSample { purged: Some(50), ..installed(50) });
        // whose newest checkpoint is damaged starts from an older one
        let harmed = vec![Effect::on(EffectOf::Flipped, 1).at("/n1/broker-a/tables/checkpoint-60")];
        let checkpoint = |index| NodeSample { snapshot: Some(50), checkpoint: Some(index), ..log(70) };
        story.node(checkpoint(60)).nemesis(1, "bit-flips", Action::Start, true, harmed);
        story.node(NodeSample { applied: Some(55), ..checkpoint(55) });
        story.passes(Invariants::default());
    }

    #[test]
    fn each_broken_invariant_fails() {
        let leads = |node, term| NodeSample { leads: true, ..sample(node, term) };
        fails(vec![leads(1, 4), leads(2, 4)], "nodes 1 and 2 both lead a in term 4");
        fails(vec![sample(1, 4), sample(1, 3)], "the term fell from 4 to 3");
        let votes =
            |term, node, committed| NodeSample { vote: Some(vote(term, node, committed)), ..sample(1, 4) };
        fails(vec![votes(4, 1, false), votes(4, 2, false)], "voted for 1 and for 2 in term 4");
        fails(vec![votes(4, 1, true), votes(4, 2, true)], "voted for 1 and for 2 in term 4");
        fails(vec![votes(4, 1, true), votes(4, 1, false)], "forgot who leads");
        fails(vec![votes(4, 1, false), votes(3, 1, true)], "the vote fell from");
        let other = NodeSample { node: 2, ..votes(4, 3, true) };
        fails(vec![votes(4, 1, true), other], "node 2 of a holds 3 for the leader of term 4, which 1 is");
        fails(vec![leads(2, 4), votes(4, 1, true)], "holds 1 for the leader of term 4, which 2 is");
        let snapshot = |index| NodeSample { snapshot: Some(index), ..sample(1, 1) };
        fails(vec![snapshot(5), snapshot(4)], "the current snapshot fell from 5 to 4");
        let purged = |index| NodeSample { purged: Some(index), ..sample(1, 1) };
        fails(vec![purged(5), purged(4)], "purged fell from 5 to 4");
        let min = |offset| NodeSample { minimums: vec![(queue(), offset)], ..sample(1, 1) };
        fails(vec![min(5), min(4)], "the minimum of a/t/0 fell from 5 to 4");
        let log = |last, synced, committed| NodeSample {
            last: Some(last),
            synced: Some(synced),
            committed: Some(committed),
            ..sample(1, 1)
        };
        fails(vec![log(9, 8, 7), log(6, 6, 6)], "the log ends at 6, but 7 was committed and on its disk");
        let checkpoint = NodeSample { checkpoint: Some(5), ..sample(1, 1) };
        let applied = NodeSample { applied: Some(4), ..sample(1, 1) };
        fails(vec![checkpoint, applied], "applied 4, below its checkpoint 5");
        fails(vec![log(8, 9, 1)], "synced 9 is above last 8");
        fails(vec![log(8, 8, 9)], "committed 9 is above last 8");
        let order = NodeSample { purged: Some(4), checkpoint: Some(3), ..sample(1, 1) };
        fails(vec![order], "purged 4 is above checkpoint 3");
        let order = NodeSample { snapshot: Some(4), checkpoint: Some(3), ..sample(1, 1) };
        fails(vec![order], "snapshot 4 is above checkpoint 3");
        let order = NodeSample { snapshot: Some(3), checkpoint: Some(9), ..log(9, 8, 1) };
        fails(vec![order], "checkpoint 9 is above synced 8");
        let order = NodeSample { purged: Some(9), snapshot: Some(9), ..log(8, 8, 1) };
        fails(vec![order], "purged 9 is above last 8");
    }

    /// Node samples, long after a message at `position` was acknowledged, with what each has on disk.
    fn after_acknowledgement(position: u64, synced: &[u64]) -> Story {
        let mut story = Story::new();
        story.plan(Plan { nodes: vec![1, 2, 3], ..Plan::default() });
        story.sent("1-0", 0).but(|event| {
            if let Op::Send { position: at, .. } = &mut event.op {
                *at = Some(position);
            }
        });
        let on_disk = |node, position| NodeSample { synced_position: Some(position), ..sample(node, 1) };
        story.node(on_disk(1, 0)).wait_ms(6_000);
        for (node, &position) in (1..).zip(synced) {
            story.node(on_disk(node, position));
        }
        story
    }

    #[test]
    fn what_was_acknowledged_is_on_a_majority() {
        let report = after_acknowledgement(700, &[900, 0, 701]).passes(Invariants::default());
        assert_eq!(report.figures.len(), 1);
        after_acknowledgement(700, &[900, 700, 700]).fails(
            Invariants::default(),
            "position 700 of a was acknowledged, and nodes [2, 3] do not have it",
        );
        // a node that is down says nothing
        after_acknowledgement(700, &[900, 0]).passes(Invariants::default());
    }
}
