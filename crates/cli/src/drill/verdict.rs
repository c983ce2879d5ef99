//! What a drill showed: gaps as clients saw them, and whether anything that was acknowledged is missing. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::canary::{Acked, Read, Seen};
use super::scenario::{Bounds, Fault};
use super::watch::Leadership;

/// One fault that was done. Times are seconds since the drill's start.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) fault: Fault,
    pub(crate) node: u64,
    pub(crate) from_s: f64,
    /// When it was undone.
    pub(crate) until_s: f64,
    /// When the group was whole again.
    pub(crate) whole_s: f64,
    pub(crate) bounds: Bounds,
    /// The longest time without an acknowledgement in one queue, while it lasted or until the group was whole again.
    pub(crate) write_gap_s: f64,
    /// The same without a message read.
    pub(crate) read_gap_s: f64,
    /// Terms in which somebody came to lead.
    pub(crate) elections: u32,
    /// A fault that must move the leader and did not, did not happen.
    pub(crate) happened: bool,
}

impl Round {
    pub(crate) fn recovery_s(&self) -> f64 {
        self.whole_s - self.until_s
    }
}

/// What is summed up over the rounds of one fault.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) fault: Fault,
    pub(crate) rounds: usize,
    pub(crate) write_gap_p50_s: f64,
    pub(crate) write_gap_p99_s: f64,
    pub(crate) write_gap_max_s: f64,
    pub(crate) read_gap_p50_s: f64,
    pub(crate) read_gap_p99_s: f64,
    pub(crate) read_gap_max_s: f64,
    pub(crate) recovery_max_s: f64,
    pub(crate) elections: u32,
    pub(crate) bounds: Bounds,
    /// What is beyond its bound, in words.
    pub(crate) over: Vec<String>,
}

/// A message that is not where it was acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Lost {
    pub(crate) queue: u32,
    pub(crate) value: u64,
    pub(crate) offset: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) group: String,
    pub(crate) seconds: f64,
    pub(crate) acknowledged: usize,
    pub(crate) read: usize,
    pub(crate) lost: Vec<Lost>,
    /// Offsets between the first and the last that nobody could read.
    pub(crate) holes: u64,
    /// Copies beyond the first, of messages of which an attempt had an unknown outcome.
    pub(crate) duplicates: u64,
    /// Copies beyond the first for which no attempt of unknown outcome accounts.
    pub(crate) unexplained_duplicates: u64,
    /// Messages behind one that was sent after them.
    pub(crate) reordered: u64,
    /// Times an offset was read again with another message, or reading went back.
    pub(crate) changed: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) unanswered: usize,
    pub(crate) read_errors: u64,
    pub(crate) unread_queues: Vec<u32>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) summaries: Vec<Summary>,
    pub(crate) leaderships: Vec<Leadership>,
    /// Why the drill ended early.
    pub(crate) ended_early: Option<String>,
}

impl Verdict {
    /// What makes a drill fail, in words; empty when all is well.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut say = |count: u64, what: &str| {
            if count > 0 {
                all.push(format!("{count} {what}"));
            }
        };
        say(self.lost.len() as u64, "acknowledged messages are not where they were acknowledged");
        say(self.holes, "offsets cannot be read");
        say(self.unexplained_duplicates, "messages are stored twice without a send of unknown outcome");
        say(self.reordered, "messages are out of order");
        say(self.changed, "offsets were read again with another message");
        say(self.unread_queues.len() as u64, "queues could not be read to their end");
        let absent = self.rounds.iter().filter(|round| !round.happened).count();
        say(absent as u64, "faults did not happen: the leader did not change");
        for summary in &self.summaries {
            all.extend(summary.over.iter().map(|over| format!("{}: {over}", summary.fault.name())));
        }
        all.extend(self.ended_early.iter().map(|why| format!("ended early: {why}")));
        all
    }
}

/// Judges what was seen.
pub(crate) fn judge(
    group: &str,
    seconds: f64,
    seen: &Seen,
    mut rounds: Vec<Round>,
    leaderships: Vec<Leadership>,
    ended_early: Option<String>,
) -> Verdict {
    let acked_at = times(seen, seen.notes.acked.iter().map(|acked| (acked.queue, acked.at_s)));
    let read_at = times(seen, seen.notes.read.iter().map(|read| (read.queue, read.at_s)));
    for round in &mut rounds {
        round.write_gap_s = longest_gap(&acked_at, round.from_s, round.whole_s);
        round.read_gap_s = longest_gap(&read_at, round.from_s, round.whole_s);
    }
    let Stored { lost, holes, duplicates, unexplained_duplicates, reordered, changed } = stored(seen);
    Verdict {
        group: group.to_owned(),
        seconds,
        acknowledged: seen.notes.acked.len(),
        read: seen.notes.read.len(),
        lost,
        holes,
        duplicates,
        unexplained_duplicates,
        reordered,
        changed,
        refused: seen.refused,
        unknown: seen.unknown,
        unanswered: seen.notes.open.len(),
        read_errors: seen.read_errors,
        unread_queues: seen.unread.clone(),
        summaries: summaries(&rounds),
        rounds,
        leaderships,
        ended_early,
    }
}

fn times(seen: &Seen, events: impl Iterator<Item = (u32, f64)>) -> Vec<Vec<f64>> {
    let mut all = vec![Vec::new(); seen.begins.len()];
    for (queue, at_s) in events {
        if let Some(times) = all.get_mut(queue as usize) {
            times.push(at_s);
        }
    }
    for times in &mut all {
        times.sort_by(f64::total_cmp);
    }
    all
}

/// The longest time between two neighbours of one queue that touches a span. What was under way at the span's end counts
/// to its own end; a queue in which nothing followed counts to the end of the span.
fn longest_gap(queues: &[Vec<f64>], from_s: f64, until_s: f64) -> f64 {
    let mut longest: f64 = 0.0;
    for times in queues {
        let first = times.partition_point(|at| *at <= from_s).saturating_sub(1);
        let mut previous = times.get(first).copied().unwrap_or(from_s);
        let mut ended = false;
        for at in &times[(first + 1).min(times.len())..] {
            longest = longest.max(at - previous);
            previous = *at;
            if *at >= until_s {
                ended = true;
                break;
            }
        }
        if !ended {
            longest = longest.max(until_s - previous);
        }
    }
    longest
}

struct Stored {
    lost: Vec<Lost>,
    holes: u64,
    duplicates: u64,
    unexplained_duplicates: u64,
    reordered: u64,
    changed: u64,
}

fn stored(seen: &Seen) -> Stored {
    let mut at: BTreeMap<(u32, u64), Option<u64>> = BTreeMap::new();
    let mut changed = 0;
    for Read { queue, offset, value, .. } in &seen.notes.read {
        if let Some(before) = at.insert((*queue, *offset), *value)
            && before != *value
        {
            changed += 1;
        }
    }
    let lost = seen.notes.acked.iter().filter(|a| at.get(&(a.queue, a.offset)) != Some(&Some(a.value)));
    let lost = lost.map(|a| Lost { queue: a.queue, value: a.value, offset: a.offset }).collect();
    let mut holes = 0;
    for (queue, (begin, end)) in seen.begins.iter().zip(&seen.ends).enumerate() {
        let read = at.range((queue as u32, *begin)..(queue as u32, *end)).count() as u64;
        holes += end.saturating_sub(*begin) - read;
    }
    let may_double: BTreeMap<(u32, u64), u32> = seen
        .notes
        .acked
        .iter()
        .map(|Acked { queue, value, unknown, .. }| ((*queue, *value), *unknown))
        .collect();
    let open: BTreeSet<(u32, u64)> = seen.notes.open.iter().copied().collect();
    let mut copies: BTreeMap<(u32, u64), u32> = BTreeMap::new();
    let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
    let mut reordered = 0;
    for ((queue, _), value) in &at {
        let Some(value) = value else { continue };
        let count = copies.entry((*queue, *value)).or_default();
        *count += 1;
        // Only a first copy says something about the order.
        if *count == 1 {
            let newest = newest.entry(*queue).or_insert(*value);
            if *value < *newest {
                reordered += 1;
            }
            *newest = (*newest).max(*value);
        }
    }
    let (mut duplicates, mut unexplained_duplicates) = (0, 0);
    for (place, count) in copies {
        let more = count - 1;
        let allowed = if open.contains(&place) { more } else { may_double.get(&place).copied().unwrap_or(0) };
        duplicates += u64::from(more.min(allowed));
        unexplained_duplicates += u64::from(more.saturating_sub(allowed));
    }
    Stored { lost, holes, duplicates, unexplained_duplicates, reordered, changed }
}

fn summaries(rounds: &[Round]) -> Vec<Summary> {
    let faults: BTreeSet<Fault> = rounds.iter().map(|round| round.fault).collect();
    faults
        .into_iter()
        .map(|fault| {
            let of: Vec<&Round> = rounds.iter().filter(|round| round.fault == fault).collect();
            let sorted = |get: fn(&Round) -> f64| {
                let mut all: Vec<f64> = of.iter().map(|round| get(round)).collect();
                all.sort_by(f64::total_cmp);
                all
            };
            let of_gaps = |gaps: Vec<f64>| [0.5, 0.99, 1.0].map(|share| quantile(&gaps, share));
            let write = of_gaps(sorted(|round| round.write_gap_s));
            let read = of_gaps(sorted(|round| round.read_gap_s));
            let bounds = of[0].bounds;
            let mut over = Vec::new();
            for (what, value, bound) in [
                ("write gap p50", write[0], bounds.write_gap_p50_s),
                ("write gap max", write[2], bounds.write_gap_max_s),
                ("read gap max", read[2], bounds.read_gap_max_s),
            ] {
                if value > bound {
                    over.push(format!("{what} {value:.2} s, bound {bound:.2} s"));
                }
            }
            Summary {
                fault,
                rounds: of.len(),
                write_gap_p50_s: write[0],
                write_gap_p99_s: write[1],
                write_gap_max_s: write[2],
                read_gap_p50_s: read[0],
                read_gap_p99_s: read[1],
                read_gap_max_s: read[2],
                recovery_max_s: quantile(&sorted(Round::recovery_s), 1.0),
                elections: of.iter().map(|round| round.elections).sum(),
                bounds,
                over,
            }
        })
        .collect()
}

/// By nearest rank, of sorted values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::canary::Notes;
    use super::*;

    fn acked(value: u64, offset: u64, at_s: f64, unknown: u32) -> Acked {
        Acked { queue: 0, value, offset, at_s, unknown }
    }

    fn read(offset: u64, value: u64) -> Read {
        Read { queue: 0, offset, value: Some(value), at_s: offset as f64 }
    }

    fn seen(acked: Vec<Acked>, read: Vec<Read>, end: u64) -> Seen {
        Seen {
            notes: Notes { acked, read, open: Vec::new() },
            begins: vec![0],
            ends: vec![end],
            refused: 0,
            unknown: 0,
            read_errors: 0,
            unread: Vec::new(),
        }
    }

    pub(crate) fn round(from_s: f64, until_s: f64, whole_s: f64) -> Round {
        let fault = Fault::KillLeader;
        Round {
            fault,
            node: 1,
            from_s,
            until_s,
            whole_s,
            bounds: fault.bounds(),
            write_gap_s: 0.0,
            read_gap_s: 0.0,
            elections: 1,
            happened: true,
        }
    }

    pub(crate) fn judged(seen: &Seen, rounds: Vec<Round>) -> Verdict {
        judge("g", 10.0, seen, rounds, Vec::new(), None)
    }

    #[test]
    fn what_is_in_its_place_is_no_failure() {
        let seen = seen(
            vec![acked(0, 0, 0.1, 0), acked(1, 1, 0.2, 1), acked(2, 3, 0.3, 0)],
            vec![read(0, 0), read(1, 1), read(2, 1), read(3, 2)],
            4,
        );
        let verdict = judged(&seen, Vec::new());
        assert_eq!(verdict.failures(), Vec::<String>::new());
        assert_eq!((verdict.duplicates, verdict.unexplained_duplicates), (1, 0));
    }

    #[test]
    fn what_is_missing_doubled_or_out_of_order_is_told() {
        let whole = vec![acked(0, 0, 0.1, 0), acked(1, 1, 0.2, 0)];
        let lost = judged(&seen(whole.clone(), vec![read(0, 0), read(1, 7)], 2), Vec::new());
        assert_eq!(lost.lost, [Lost { queue: 0, value: 1, offset: 1 }]);
        let holes = judged(&seen(whole.clone(), vec![read(0, 0), read(1, 1)], 3), Vec::new());
        assert_eq!((holes.holes, holes.failures().len()), (1, 1));
        let doubled = judged(&seen(whole.clone(), vec![read(0, 0), read(1, 1), read(2, 0)], 3), Vec::new());
        assert_eq!((doubled.unexplained_duplicates, doubled.reordered), (1, 0));
        let turned = vec![acked(1, 0, 0.1, 0), acked(0, 1, 0.2, 0)];
        let turned = judged(&seen(turned, vec![read(0, 1), read(1, 0)], 2), Vec::new());
        assert_eq!(turned.reordered, 1);
        let changed = judged(&seen(whole, vec![read(0, 9), read(0, 0), read(1, 1)], 2), Vec::new());
        assert_eq!((changed.changed, changed.lost.len()), (1, 0));
    }

    #[test]
    fn a_gap_is_the_longest_silence_that_touches_a_round() {
        let times = vec![vec![0.0, 1.0, 2.5, 2.6, 9.0], vec![0.5, 1.5, 2.0, 3.0]];
        assert!((longest_gap(&times, 1.2, 2.55) - 1.5).abs() < 1e-9);
        assert!((longest_gap(&times, 2.7, 3.0) - 6.4).abs() < 1e-9);
        assert!((longest_gap(&[vec![0.0]], 1.0, 4.0) - 4.0).abs() < 1e-9);
        assert!((longest_gap(&[vec![]], 1.0, 4.0) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn bounds_are_held_against_what_was_measured() {
        let times: Vec<Acked> =
            (0..100).filter(|i| !(20..60).contains(i)).map(|i| acked(i, i, i as f64 / 10.0, 0)).collect();
        let seen = seen(times, (0..100).map(|i| read(i, i)).collect(), 100);
        let verdict = judged(&seen, vec![round(2.0, 4.0, 5.0)]);
        let summary = &verdict.summaries[0];
        assert!((summary.write_gap_max_s - 4.1).abs() < 1e-9, "{}", summary.write_gap_max_s);
        assert!((summary.recovery_max_s - 1.0).abs() < 1e-9);
        assert_eq!(summary.over.len(), 2, "{:?}", summary.over);
        // One round: all its quantiles are its gap. One message a second was read.
        for gap in [summary.read_gap_p50_s, summary.read_gap_p99_s, summary.read_gap_max_s] {
            assert!((gap - 1.0).abs() < 1e-9, "{gap}");
        }
        let mut idle = round(2.0, 4.0, 5.0);
        idle.happened = false;
        assert!(judged(&seen, vec![idle]).failures().iter().any(|f| f.contains("did not happen")));
        assert!((quantile(&[1.0, 2.0, 3.0, 4.0], 0.5) - 2.0).abs() < 1e-9);
        assert!(quantile(&[], 0.5).abs() < 1e-9);
    }
}
