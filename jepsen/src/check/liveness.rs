//! L15: the group goes on. Clients are not without success for longer than the drills allow
//! (reliability.md (d)), sends are acknowledged while a minority is at fault, and after the healing
//! consumers and replicas soon have everything.
//!
//! A *gap* of a group is the time in which somebody tried to send and nobody succeeded; of a queue's assigned
//! consumers, in which they lacked a message that was acknowledged and got none. It is judged by the faults at work in
//! it, or shortly before (excuse.rs). Where there was none, the quiet bound holds. A single queue may have so few senders
//! that one of them, who waits for a node that is cut off, makes a gap; so a queue has some seconds more. Consumers of
//! groups wait for rebalances too, and are judged by the end alone.

use std::collections::{BTreeMap, HashMap};

use super::Rule;
use super::excuse::{AFTERMATH_NS, Faults, MS};
use super::log::{Log, QueueNo, Step};
use super::report::Findings;
use crate::history::{Action, Event, Kind, LivenessBounds, Machine, Nemesis, NodeSample, Op, Phase};

/// Gaps that are remembered: for the figures. Shorter ones are no news.
const GAP_NS_MIN: u64 = 100 * MS;
/// Without any fault: as a follower's death, since nothing at all shall be noticed.
const QUIET_GAP_MS: u64 = 300;
const CONVERGE_MS: u64 = 30_000;
const PROGRESS_MIN: u64 = 100;
/// Faults that are shorter need not see so many sends.
const PROGRESS_NS: u64 = 5_000 * MS;
const MINUTE_NS: u64 = 60_000 * MS;
/// What a single queue's sends may take longer than those of its group.
const QUEUE_SLACK_MS: u64 = 10_000;

#[derive(Default)]
pub(crate) struct Liveness {
    /// By broker name.
    sends: BTreeMap<String, Waiting>,
    queue_sends: BTreeMap<QueueNo, Waiting>,
    readers: BTreeMap<QueueNo, BTreeMap<Reader, Reading>>,
    /// End of what is acknowledged.
    acknowledged: HashMap<QueueNo, u64>,
    gaps: Vec<Gap>,
    faults: Faults,
    /// Acknowledged sends when a fault began, and while it lasted, by its number.
    progress: BTreeMap<u32, (u64, u64)>,
    ok_sends: u64,
    healed_ns: Option<u64>,
    /// Producers have stopped.
    converging_ns: Option<u64>,
    draining: bool,
    groups: BTreeMap<String, Members>,
    last_ns: u64,
    /// When the machine itself stood still.
    stalls: Vec<(u64, Machine)>,
}

/// One number of a machine's standstill.
type Measure = fn(&Machine) -> u64;

/// Whether somebody waits for a success.
#[derive(Default)]
struct Waiting {
    open: u64,
    since_ns: Option<u64>,
}

impl Waiting {
    /// Since when somebody has waited, where this is a success. A refusal ends no gap: whoever it came to has still not
    /// sent.
    fn event(&mut self, t_ns: u64, kind: Kind) -> Option<u64> {
        if kind == Kind::Invoke {
            self.open += 1;
            self.since_ns.get_or_insert(t_ns);
            return None;
        }
        self.open = self.open.saturating_sub(1);
        if kind != Kind::Ok {
            return None;
        }
        std::mem::replace(&mut self.since_ns, (self.open > 0).then_some(t_ns))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reader {
    Assigned,
    Group(String),
}

/// How far a reader has come.
#[derive(Default)]
struct Reading {
    end: u64,
    /// It lacks something since.
    since_ns: Option<u64>,
    /// It had everything for the first time after the healing.
    level_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Sends,
    QueueSends,
    Reads,
}

struct Gap {
    of: Of,
    /// Broker name or queue.
    name: String,
    from_ns: u64,
    to_ns: u64,
}

/// What a group's nodes say.
#[derive(Default)]
struct Members {
    /// Applied and last, in the latest sample since producers stopped.
    ends: BTreeMap<u64, (u64, u64)>,
    level_ns: Option<u64>,
    term: u64,
    /// When the term rose, and by how much.
    rises: Vec<(u64, u64)>,
}

impl Rule for Liveness {
    fn id(&self) -> &'static str {
        "L15"
    }

    fn says(&self) -> &'static str {
        "the group goes on, and becomes level after the healing"
    }

    fn step(&mut self, step: Step<'_>, log: &Log, _found: &mut Findings) {
        let event = step.event;
        self.last_ns = event.t_ns;
        match (&event.op, step.queue) {
            (Op::Send { offset, .. } | Op::Batch { offset, .. }, Some(queue)) => {
                let end = offset.map(|first| first.saturating_add(event.op.sends().len() as u64));
                self.sent(event, queue, end, log);
            }
            (Op::Pull { assigned: true, from, messages, .. }, Some(queue)) if event.kind == Kind::Ok => {
                let end = messages.last().map_or(*from, |last| last.offset.saturating_add(1));
                self.read(event.t_ns, queue, Reader::Assigned, end, !messages.is_empty(), log);
            }
            (Op::Deliver { group, messages, .. }, Some(queue)) => {
                if let Some(last) = messages.last() {
                    let reader = Reader::Group(group.clone());
                    self.read(event.t_ns, queue, reader, last.offset.saturating_add(1), true, log);
                }
            }
            (Op::Nemesis(nemesis), _) => self.nemesis(event.t_ns, nemesis),
            (Op::Machine(machine), _) => self.stalls.push((event.t_ns, *machine)),
            (Op::Phase(phase), _) => self.phase(event.t_ns, *phase, log),
            (Op::Node(sample), _) => {
                let nodes = log.plan.as_ref().map_or(0, |plan| plan.nodes.len());
                self.sampled(event.t_ns, sample, nodes);
            }
            _ => {}
        }
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        let none = LivenessBounds::default();
        let bounds = log.plan.as_ref().and_then(|plan| plan.liveness.as_ref()).unwrap_or(&none);
        // Of a run that broke off before its convergence.
        self.end_sends(self.last_ns, log);
        self.judge_gaps(bounds, found);
        self.judge_progress(bounds, found);
        self.judge_convergence(bounds, log, found);
        self.judge_elections(bounds, found);
        self.figures(found);
    }
}

impl Liveness {
    fn sent(&mut self, event: &Event, queue: QueueNo, end: Option<u64>, log: &Log) {
        let t_ns = event.t_ns;
        let name = &log.queue(queue).name;
        let of_group = self.sends.entry(name.broker.clone()).or_default().event(t_ns, event.kind);
        let of_queue = self.queue_sends.entry(queue).or_default().event(t_ns, event.kind);
        if event.kind != Kind::Ok {
            return;
        }
        self.ok_sends += 1;
        self.gap(Of::Sends, &name.broker, of_group, t_ns);
        self.gap(Of::QueueSends, name, of_queue, t_ns);
        let Some(end) = end else { return };
        let acknowledged = self.acknowledged.entry(queue).or_default();
        *acknowledged = end.max(*acknowledged);
        let end = *acknowledged;
        for reading in self.readers.entry(queue).or_default().values_mut() {
            if reading.end < end {
                reading.since_ns.get_or_insert(t_ns);
            }
        }
    }

    fn read(&mut self, t_ns: u64, queue: QueueNo, reader: Reader, end: u64, progress: bool, log: &Log) {
        let acknowledged = self.acknowledged.get(&queue).copied().unwrap_or(0);
        let is_assigned = reader == Reader::Assigned;
        let reading = self.readers.entry(queue).or_default().entry(reader).or_default();
        reading.end = reading.end.max(end);
        let level = reading.end >= acknowledged;
        let since = reading.since_ns;
        if level {
            reading.since_ns = None;
            if self.healed_ns.is_some() {
                reading.level_ns.get_or_insert(t_ns);
            }
        } else if progress || since.is_none() {
            reading.since_ns = Some(t_ns);
        }
        if is_assigned && (level || progress) {
            self.gap(Of::Reads, &log.queue(queue).name, since, t_ns);
        }
    }

    fn gap(&mut self, of: Of, name: &impl ToString, from_ns: Option<u64>, to_ns: u64) {
        if let Some(from_ns) = from_ns.filter(|from_ns| to_ns - from_ns >= GAP_NS_MIN) {
            self.gaps.push(Gap { of, name: name.to_string(), from_ns, to_ns });
        }
    }

    fn nemesis(&mut self, t_ns: u64, nemesis: &Nemesis) {
        self.faults.note(t_ns, nemesis);
        match nemesis.action {
            Action::Start => {
                self.progress.insert(nemesis.id, (self.ok_sends, 0));
            }
            Action::Stop => {
                if let Some((before, during)) = self.progress.get_mut(&nemesis.id) {
                    *during = self.ok_sends - *before;
                }
            }
        }
    }

    /// Nothing more is sent: whoever still waits has had no success.
    fn end_sends(&mut self, t_ns: u64, log: &Log) {
        for (broker, waiting) in std::mem::take(&mut self.sends) {
            self.gap(Of::Sends, &broker, waiting.since_ns, t_ns);
        }
        for (queue, waiting) in std::mem::take(&mut self.queue_sends) {
            self.gap(Of::QueueSends, &log.queue(queue).name, waiting.since_ns, t_ns);
        }
    }

    fn phase(&mut self, t_ns: u64, phase: Phase, log: &Log) {
        match phase {
            Phase::Heal => {
                self.healed_ns = Some(t_ns);
                for reading in self.readers.values_mut().flat_map(BTreeMap::values_mut) {
                    reading.level_ns = reading.since_ns.is_none().then_some(t_ns);
                }
            }
            Phase::Converge => {
                self.converging_ns = Some(t_ns);
                self.end_sends(t_ns, log);
            }
            Phase::Drain => {
                self.draining = true;
                let assigned = |readers: &BTreeMap<Reader, Reading>| readers.get(&Reader::Assigned)?.since_ns;
                let behind: Vec<_> =
                    self.readers.iter().map(|(queue, readers)| (*queue, assigned(readers))).collect();
                for (queue, since_ns) in behind {
                    self.gap(Of::Reads, &log.queue(queue).name, since_ns, t_ns);
                }
            }
            Phase::Load | Phase::Faults | Phase::End => {}
        }
    }

    fn sampled(&mut self, t_ns: u64, sample: &NodeSample, nodes: usize) {
        let members = self.groups.entry(sample.broker.clone()).or_default();
        if let Some(term) = sample.term
            && term > members.term
        {
            // The first term that is seen says nothing of how it was reached.
            if members.term > 0 {
                members.rises.push((t_ns, term - members.term));
            }
            members.term = term;
        }
        let (Some(_), Some(applied), Some(last)) = (self.converging_ns, sample.applied, sample.last) else {
            return;
        };
        members.ends.insert(sample.node, (applied, last));
        let level = |&(node_applied, node_last): &(u64, u64)| node_applied == last && node_last == last;
        if nodes > 0 && members.ends.len() >= nodes && members.ends.values().all(level) {
            members.level_ns.get_or_insert(t_ns);
        }
    }

    /// The longest times for which the machine stood still in a gap.
    fn worst_stall(&self, gap: &Gap) -> Machine {
        let within = |(t_ns, machine): &&(u64, Machine)| {
            let lasted_ns = machine.late_ms.max(machine.sync_ms).max(machine.flushing_ms) * MS;
            *t_ns >= gap.from_ns && t_ns.saturating_sub(lasted_ns) <= gap.to_ns
        };
        let longest = |one: Machine, (_, other): &(u64, Machine)| Machine {
            late_ms: one.late_ms.max(other.late_ms),
            sync_ms: one.sync_ms.max(other.sync_ms),
            queued_ms: one.queued_ms.max(other.queued_ms),
            flushing_ms: one.flushing_ms.max(other.flushing_ms),
        };
        self.stalls.iter().filter(within).fold(Machine::default(), longest)
    }

    fn judge_gaps(&self, bounds: &LivenessBounds, found: &mut Findings) {
        found.checked += self.ok_sends;
        let quiet = bounds.quiet_gap_ms.unwrap_or(QUIET_GAP_MS);
        for gap in &self.gaps {
            let ms = (gap.to_ns - gap.from_ns) / MS;
            let excused = self.faults.excused_ms(bounds, gap.from_ns, gap.to_ns, self.last_ns);
            let slack = if gap.of == Of::QueueSends { QUEUE_SLACK_MS } else { 0 };
            let allowed = excused.unwrap_or(0).max(quiet) + slack;
            if ms > allowed {
                found.fail(|| {
                    let why =
                        if excused.is_some() { "with the faults of the time" } else { "without a fault" };
                    let Machine { late_ms, sync_ms, queued_ms, flushing_ms } = self.worst_stall(gap);
                    let machine = match late_ms.max(sync_ms).max(queued_ms).max(flushing_ms) {
                        0 => String::new(),
                        _ => format!(
                            "; the machine woke a thread {late_ms} ms late, took {sync_ms} ms for an fsync, let a \
                             node's threads wait {queued_ms} ms for a processor in a tenth of a second, and a \
                             node's flush was under way for {flushing_ms} ms"
                        ),
                    };
                    format!(
                        "{:?} of {}: {ms} ms without success from {} ns on, {allowed} ms are allowed {why}{machine}",
                        gap.of, gap.name, gap.from_ns
                    )
                });
            }
        }
    }

    fn judge_progress(&self, bounds: &LivenessBounds, found: &mut Findings) {
        if self.ok_sends == 0 {
            return;
        }
        let min = bounds.progress_min.unwrap_or(PROGRESS_MIN);
        for (id, span) in self.faults.all().filter(|(_, span)| span.leaves_majority) {
            let Some(to_ns) = span.to_ns.filter(|to_ns| to_ns - span.from_ns >= PROGRESS_NS) else {
                continue;
            };
            found.checked += 1;
            let during = self.progress.get(&id).map_or(0, |progress| progress.1);
            if during < min {
                found.fail(|| {
                    format!(
                        "{} sends acknowledged in the {} ms of {} at {} ns, which leaves a majority; at least {min}",
                        during,
                        (to_ns - span.from_ns) / MS,
                        span.fault,
                        span.from_ns
                    )
                });
            }
        }
    }

    fn judge_convergence(&self, bounds: &LivenessBounds, log: &Log, found: &mut Findings) {
        let allowed = bounds.converge_ms.unwrap_or(CONVERGE_MS);
        for (&queue, readers) in &self.readers {
            let name = &log.queue(queue).name;
            let acknowledged = self.acknowledged.get(&queue).copied().unwrap_or(0);
            for (reader, reading) in readers {
                if let Some(healed_ns) = self.healed_ns {
                    found.checked += 1;
                    let took = reading.level_ns.map(|level_ns| level_ns.saturating_sub(healed_ns) / MS);
                    if took.is_none_or(|took| took > allowed) {
                        found.fail(|| {
                            format!("{reader:?} had all of {name} {took:?} ms after the healing, {allowed} are allowed")
                        });
                    }
                }
                if self.draining && reading.end < acknowledged {
                    found.fail(|| {
                        let end = reading.end;
                        format!(
                            "{reader:?} had {name} up to {end} in the end, {acknowledged} were acknowledged"
                        )
                    });
                }
            }
        }
        let Some(converging_ns) = self.converging_ns else { return };
        for (broker, members) in self.groups.iter().filter(|(_, members)| !members.ends.is_empty()) {
            found.checked += 1;
            let took = members.level_ns.map(|level_ns| (level_ns - converging_ns) / MS);
            if took.is_none_or(|took| took > allowed) {
                let ends = &members.ends;
                found.fail(|| {
                    format!("{broker} was level after {took:?} ms, {allowed} are allowed; applied and last: {ends:?}")
                });
            }
        }
    }

    fn judge_elections(&self, bounds: &LivenessBounds, found: &mut Findings) {
        for (broker, members) in &self.groups {
            let mut most = 0;
            let (mut within, mut sum) = (0, 0);
            for &(t_ns, rise) in &members.rises {
                sum += rise;
                while t_ns - members.rises[within].0 > MINUTE_NS {
                    sum -= members.rises[within].1;
                    within += 1;
                }
                most = most.max(sum);
            }
            found.figure(format!("terms of {broker}, most in a minute"), most);
            found.figure(format!("terms of {broker}, in all"), members.rises.iter().map(|rise| rise.1).sum());
            if let Some(allowed) = bounds.elections_per_minute.filter(|allowed| most > *allowed) {
                found.fail(|| {
                    format!("the term of {broker} rose by {most} in a minute, {allowed} are allowed")
                });
            }
        }
    }

    /// The table of drills: of each kind of fault the longest gap that each instance made.
    fn figures(&self, found: &mut Findings) {
        let figures: [(&str, Measure); 4] = [
            ("machine: a thread woke late by, max ms", |machine| machine.late_ms),
            ("machine: an fsync took, max ms", |machine| machine.sync_ms),
            ("machine: a node's threads waited in 100 ms for a processor, max ms", |machine| {
                machine.queued_ms
            }),
            ("machine: a node's flush was under way for, faults included, max ms", |machine| {
                machine.flushing_ms
            }),
        ];
        for (name, of) in figures {
            let longest = self.stalls.iter().map(|(_, machine)| of(machine)).max();
            if let Some(longest) = longest.filter(|longest| *longest > 0) {
                found.figure(name, longest);
            }
        }
        let mut longest: BTreeMap<(&str, Of), Vec<u64>> = BTreeMap::new();
        for (_, span) in self.faults.all() {
            let end = span.to_ns.unwrap_or(self.last_ns) + AFTERMATH_NS;
            for of in [Of::Sends, Of::Reads] {
                let during = |gap: &&Gap| gap.of == of && gap.to_ns >= span.from_ns && gap.from_ns <= end;
                let gaps = self.gaps.iter().filter(during).map(|gap| (gap.to_ns - gap.from_ns) / MS);
                longest.entry((span.fault.as_str(), of)).or_default().push(gaps.max().unwrap_or(0));
            }
        }
        for ((fault, of), mut gaps) in longest {
            gaps.sort_unstable();
            let quantile = |percent: usize| gaps[(gaps.len() * percent).div_ceil(100).max(1) - 1];
            let of = if of == Of::Sends { "send" } else { "read" };
            for (name, percent) in [("p50", 50), ("p99", 99), ("max", 100)] {
                found.figure(format!("{fault}: {of} gap {name} ms"), quantile(percent));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::Story;
    use crate::history::{Plan, Queue, Value};

    fn rule() -> Liveness {
        Liveness::default()
    }

    /// Sends 1-`from` … at these times from now on, each acknowledged a millisecond later.
    fn steady(story: &mut Story, from: u64, times: u64, every_ms: u64) {
        for n in from..from + times {
            story.wait_ms(every_ms.saturating_sub(2)).sent(&format!("1-{n}"), n);
        }
    }

    fn fault(story: &mut Story, id: u32, name: &str, action: Action, leaves_majority: bool) {
        story.nemesis(id, name, action, leaves_majority, vec![]);
    }

    #[test]
    fn steady_sends_pass_and_idle_time_is_no_gap() {
        let mut story = Story::new();
        steady(&mut story, 0, 5, 50);
        story.wait_ms(60_000);
        steady(&mut story, 5, 5, 50);
        story.passes(rule());
    }

    #[test]
    fn a_gap_without_a_fault_fails() {
        let mut story = Story::new();
        story.invoke_send("1-0").wait_ms(400).ok_send("1-0", 0);
        story.fails(rule(), "Sends of a: 401 ms without success");
        // refusals in between end nothing
        let mut story = Story::new();
        story.sent("1-0", 0).refused("1-1").wait_ms(200).refused("1-2").wait_ms(200).sent("1-3", 1);
        story.fails(rule(), "without a fault");
        // neither does the end of the load
        let mut story = Story::new();
        story.sent("1-0", 0).unknown("1-1").wait_ms(500).phase(Phase::Converge);
        story.fails(rule(), "without success");
        // nor the end of a run that broke off
        let mut story = Story::new();
        story.invoke_send("1-0").wait_ms(500).phase(Phase::Heal);
        story.fails(rule(), "without success");
        // a plan may allow more
        let liveness = Some(LivenessBounds { quiet_gap_ms: Some(500), ..LivenessBounds::default() });
        let mut story = Story::new();
        story.plan(Plan { liveness, ..Plan::default() });
        story.invoke_send("1-0").wait_ms(400).ok_send("1-0", 0).passes(rule());
    }

    #[test]
    fn a_machine_that_stood_still_is_named_and_excuses_nothing() {
        let mut story = Story::new();
        story.invoke_send("1-0").wait_ms(400);
        story.note(Op::Machine(Machine { late_ms: 350, ..Machine::default() })).ok_send("1-0", 0);
        story.fails(rule(), "without a fault; the machine woke a thread 350 ms late");
        let mut story = Story::new();
        story.invoke_send("1-0").wait_ms(400).ok_send("1-0", 0).wait_ms(100);
        // seen a moment after the gap, and begun in it
        story.note(Op::Machine(Machine { flushing_ms: 380, ..Machine::default() }));
        story.fails(rule(), "a node's flush was under way for 380 ms");
    }

    #[test]
    fn a_queue_that_stands_still_fails_even_if_others_go_on() {
        let run = |times: u64| {
            let mut story = Story::new();
            story.invoke_send("1-0");
            for n in 0..times {
                let (queue, value) = (Queue::new("a", "t", 1), Value::new(2, n as u32));
                let send = |offset| Op::Send { queue: queue.clone(), value, offset, position: None };
                story.wait_ms(98).op(2, send(None), Kind::Ok, send(Some(n)));
            }
            story.ok_send("1-0", 0);
            story
        };
        run(90).passes(rule());
        run(110).fails(rule(), "QueueSends of a/t/0");
    }

    #[test]
    fn a_fault_excuses_what_its_drill_allows() {
        let run = |gap_ms: u64, majority: bool| {
            let mut story = Story::new();
            story.sent("1-0", 0);
            fault(&mut story, 1, "kill-leader", Action::Start, majority);
            story.invoke_send("1-1").wait_ms(gap_ms);
            fault(&mut story, 1, "kill-leader", Action::Stop, majority);
            story.ok_send("1-1", 1);
            story
        };
        let report = run(2_900, true).passes(rule());
        assert_eq!(report.figures["kill-leader: send gap max ms"], 2_902);
        run(3_100, true).fails(rule(), "3000 ms are allowed with the faults of the time");
        // without a majority nobody can go on before the fault ends
        run(20_000, false).passes(rule());
        let mut story = Story::new();
        fault(&mut story, 1, "kill-majority", Action::Start, false);
        fault(&mut story, 1, "kill-majority", Action::Stop, false);
        story.invoke_send("1-0").wait_ms(3_500).ok_send("1-0", 0);
        story.fails(rule(), "are allowed with the faults");
    }

    #[test]
    fn too_little_progress_during_a_fault_fails() {
        let run = |sends: u64| {
            let mut story = Story::new();
            story.sent("2-0", 1_000);
            fault(&mut story, 1, "isolate-one", Action::Start, true);
            steady(&mut story, 0, sends, 60);
            story.wait_ms(6_000);
            fault(&mut story, 1, "isolate-one", Action::Stop, true);
            story
        };
        run(100).passes(rule());
        run(99).fails(rule(), "99 sends acknowledged in the");
    }

    #[test]
    fn readers_must_come_level() {
        let mut story = Story::new();
        story.pulled(2, 0, "").sent("1-0", 0).phase(Phase::Heal).sent("1-1", 1).pulled(2, 0, "1-0 1-1");
        story.phase(Phase::Converge).phase(Phase::Drain);
        story.passes(rule());
        // late
        let mut story = Story::new();
        let liveness = Some(LivenessBounds { quiet_gap_ms: Some(99_000), ..LivenessBounds::default() });
        story.plan(Plan { liveness, ..Plan::default() });
        story.pulled(2, 0, "").sent("1-0", 0).phase(Phase::Heal).wait_ms(31_000).pulled(2, 0, "1-0");
        story.fails(rule(), "ms after the healing, 30000 are allowed");
        // never
        let mut story = Story::new();
        story.delivered("g", 0, "1-0").sent("1-0", 0).sent("1-1", 1).phase(Phase::Drain);
        story.fails(rule(), "Group(\"g\") had a/t/0 up to 1 in the end, 2 were acknowledged");
        // a reader that stands still
        let mut story = Story::new();
        story.pulled(2, 0, "").sent("1-0", 0).wait_ms(900).pulled(2, 0, "1-0");
        story.fails(rule(), "Reads of a/t/0");
    }

    #[test]
    fn replicas_must_become_level_and_terms_stay_low() {
        let node = |node, term, applied, last| NodeSample {
            node,
            broker: "a".into(),
            term: Some(term),
            applied: Some(applied),
            last: Some(last),
            ..NodeSample::default()
        };
        let plan = |elections_per_minute| Plan {
            nodes: vec![1, 2],
            liveness: Some(LivenessBounds { elections_per_minute, ..LivenessBounds::default() }),
            ..Plan::default()
        };
        let mut story = Story::new();
        story.plan(plan(Some(1))).node(node(1, 3, 5, 9)).phase(Phase::Converge);
        story.node(node(1, 4, 9, 9)).node(node(2, 4, 8, 9)).node(node(2, 4, 9, 9)).node(node(1, 4, 9, 9));
        story.wait_ms(61_000).node(node(1, 5, 9, 9));
        let report = story.passes(rule());
        assert_eq!(report.figures["terms of a, in all"], 2);
        assert_eq!(report.figures["terms of a, most in a minute"], 1);
        let mut story = Story::new();
        story.plan(plan(Some(1))).node(node(1, 3, 5, 9)).node(node(1, 5, 5, 9));
        story.fails(rule(), "the term of a rose by 2 in a minute, 1 are allowed");
        let mut story = Story::new();
        story.plan(plan(None)).phase(Phase::Converge).node(node(1, 3, 9, 9)).node(node(2, 3, 8, 9));
        story.fails(rule(), "a was level after None ms");
    }
}
