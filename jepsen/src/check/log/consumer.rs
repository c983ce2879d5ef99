//! L9: consumers skip nothing. An assigned consumer goes on exactly where its last answer ended, and is never told that
//! its place is outside a queue that it lies in. A group may get messages again after a rebalance or a failover; but in
//! the end its members have got everything below the offset that is committed for it.

use std::collections::{BTreeMap, HashMap};

use super::{Log, Offsets, QueueNo, Step};
use crate::check::Rule;
use crate::check::report::Findings;
use crate::history::{Kind, Op, PullStatus};

#[derive(Default)]
pub(crate) struct Consumer {
    /// Where each process goes on in each queue.
    next: HashMap<(u32, QueueNo), u64>,
    groups: BTreeMap<String, BTreeMap<QueueNo, Progress>>,
}

/// Of one consumer group in one queue.
#[derive(Default)]
struct Progress {
    delivered: Offsets,
    deliveries: u64,
    again: u64,
    /// As the history tells last.
    committed: Option<u64>,
}

impl Rule for Consumer {
    fn id(&self) -> &'static str {
        "L9"
    }

    fn says(&self) -> &'static str {
        "consumers skip nothing"
    }

    fn step(&mut self, step: Step<'_>, log: &Log, found: &mut Findings) {
        let event = step.event;
        let (Some(queue), Kind::Ok) = (step.queue, event.kind) else { return };
        match &event.op {
            Op::Pull { assigned: true, .. } => self.pulled(step, queue, log, found),
            Op::Deliver { group, messages, .. } => {
                let progress = self.progress(group, queue);
                for read in messages {
                    progress.deliveries += 1;
                    progress.again += u64::from(!progress.delivered.insert(read.offset));
                }
            }
            Op::Commit { group, offset, .. } => self.progress(group, queue).committed = Some(*offset),
            Op::Query { group, offset: Some(offset), .. } => {
                self.progress(group, queue).committed = Some(*offset);
            }
            _ => {}
        }
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        for (group, queues) in &self.groups {
            // A group that only commits is one of the workload of registers.
            if queues.values().all(|progress| progress.deliveries == 0) {
                continue;
            }
            let again: u64 = queues.values().map(|progress| progress.again).sum();
            found.figure(format!("deliveries repeated to {group}"), again);
            for (&number, progress) in queues {
                let queue = log.queue(number);
                let Some(committed) = progress.committed else { continue };
                if committed > queue.known_end {
                    found.fail(|| {
                        let end = queue.known_end;
                        format!("{group} has {committed} committed of {}, which reached to {end}", queue.name)
                    });
                }
                let min = queue.known_min.max(queue.drained_min().unwrap_or(0));
                for offset in min..committed.min(queue.known_end) {
                    found.checked += 1;
                    if !progress.delivered.contains(offset) {
                        found.fail(|| {
                            format!("{group} never got {offset} of {}, below its {committed}", queue.name)
                        });
                    }
                }
            }
        }
    }
}

impl Consumer {
    fn progress(&mut self, group: &str, queue: QueueNo) -> &mut Progress {
        self.groups.entry(group.to_owned()).or_default().entry(queue).or_default()
    }

    fn pulled(&mut self, step: Step<'_>, queue: QueueNo, log: &Log, found: &mut Findings) {
        let Op::Pull { from, status, messages, next, .. } = &step.event.op else { return };
        let name = &log.queue(queue).name;
        let process = step.event.process;
        let key = (process, queue);
        if let Some(&expected) = self.next.get(&key) {
            found.checked += 1;
            if *from > expected {
                found.fail(|| format!("process {process} skipped {expected}..{from} of {name}"));
            } else if *from < expected {
                found.fail(|| format!("process {process} went back from {expected} to {from} of {name}"));
            }
        }
        if *status == Some(PullStatus::Moved) {
            if step.open.is_some_and(|open| (open.known_min..=open.known_end).contains(from)) {
                found.fail(|| format!("process {process} at {from} of {name} was told that it is outside"));
            }
            self.next.remove(&key);
            return;
        }
        let end = messages.last().map_or(*from, |last| last.offset.saturating_add(1));
        let next = next.unwrap_or(end);
        if next < end {
            found.fail(|| {
                format!("process {process} got {name} up to {end}, and was told to go on at {next}")
            });
        }
        self.next.insert(key, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::Story;

    #[test]
    fn a_consumer_that_goes_on_where_it_was_passes() {
        let mut story = Story::new();
        story.batch("1-0 1-1 1-2", Some(0));
        story.pulled(2, 0, "1-0 1-1").pull(2, 2, PullStatus::NoneMatched, 2).pulled(2, 2, "1-2");
        story.pull(2, 3, PullStatus::NothingNew, 3);
        // another consumer begins where it likes; beyond the end it may be told so, and begins again
        story.pulled(3, 1, "1-1").pull(3, 2, PullStatus::NothingNew, 2).pull(4, 9, PullStatus::Moved, 3);
        story.pulled(4, 2, "1-2");
        assert_eq!(story.passes(Consumer::default()).checked, 4);
    }

    #[test]
    fn skips_and_returns_of_a_consumer_fail() {
        let mut story = Story::new();
        story.pulled(2, 0, "1-0").pulled(2, 2, "1-2");
        story.fails(Consumer::default(), "process 2 skipped 1..2 of a/t/0");
        let mut story = Story::new();
        story.pulled(2, 0, "1-0 1-1").pulled(2, 1, "1-1");
        story.fails(Consumer::default(), "process 2 went back from 2 to 1");
        let mut story = Story::new();
        story.pulled(2, 0, "1-0 1-1").but(|event| {
            if let Op::Pull { next, .. } = &mut event.op {
                *next = Some(1);
            }
        });
        story.fails(Consumer::default(), "was told to go on at 1");
        // the queue is known to reach to 3
        let mut story = Story::new();
        story.sent("1-0", 2).pull(2, 3, PullStatus::Moved, 0);
        story.fails(Consumer::default(), "at 3 of a/t/0 was told that it is outside");
    }

    #[test]
    fn a_group_that_got_everything_below_its_offset_passes() {
        let mut story = Story::new();
        story.batch("1-0 1-1 1-2 1-3", Some(0)).delivered("g", 0, "1-0 1-1").committed(2, "g", 1);
        story.delivered("g", 1, "1-1 1-2").queried(2, "g", Some(3));
        let report = story.passes(Consumer::default());
        assert_eq!((report.checked, report.figures["deliveries repeated to g"]), (3, 1));
        // what retention has taken nobody must have got
        let mut story = Story::new();
        story.batch("1-0 1-1", Some(0)).min_offset(2, 1).delivered("g", 1, "1-1").committed(3, "g", 2);
        story.passes(Consumer::default());
    }

    #[test]
    fn a_group_that_lacks_a_message_below_its_offset_fails() {
        let mut story = Story::new();
        story.batch("1-0 1-1 1-2", Some(0)).delivered("g", 0, "1-0").delivered("g", 2, "1-2");
        story.queried(2, "g", Some(3)).fails(Consumer::default(), "g never got 1 of a/t/0, below its 3");
        let mut story = Story::new();
        story.sent("1-0", 0).delivered("g", 0, "1-0").committed(2, "g", 7);
        story.fails(Consumer::default(), "g has 7 committed of a/t/0, which reached to 1");
    }

    #[test]
    fn groups_that_only_commit_are_not_consumers() {
        let mut story = Story::new();
        story.sent("1-0", 0).committed(2, "g", 900).pulled(3, 0, "1-0").pull(3, 1, PullStatus::NothingNew, 1);
        story.passes(Consumer::default());
    }
}
