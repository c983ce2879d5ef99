//! Q: pop consumers get every message, each is one consumer's at a time, what is acknowledged does not come again, and what
//! is not does, until it is a dead letter.
//!
//! ```text
//!   pop invoked ─ handed out ─ pop completed ── acknowledged in time ──▶ no pop invoked from here on has it
//!        ├─ invisible − ahead ───────────┼────▶ until here nobody else has it
//!                                        ├─ invisible ──▶ from here on it comes again, if it is not acknowledged
//! ```
//! Each copy of a message is handed out once: what comes again is a new copy, in the group's retry topic. The broker's time
//! may run ahead by a second where a clock is wrong, so an acknowledgement counts as in time only if it is earlier by that.
//! Where clocks were moved, times are not judged.

use std::collections::{HashMap, HashSet};

use super::Rule;
use super::excuse::{Clocks, Faults, MS};
use super::log::{Log, State, Step};
use super::report::Findings;
use crate::history::{Event, Kind, LivenessBounds, Op, Phase, Popped, Queue, Value};

/// From the end of its invisible time until another consumer has a message: the broker looks for such at once, and the
/// consumers of the workload always ask.
const AGAIN_MS: u64 = 5_000;
/// Log time runs ahead of a single clock that is wrong by so much at most (ARCHITECTURE.md, Time).
const AHEAD_MS: u64 = 1_000;

/// A message in a consumer's hands.
#[derive(Clone, Debug)]
struct HandOut {
    place: (Queue, u64),
    /// Of the handle that is valid now.
    pop_ms: u64,
    /// The pop, or the change of its time, began and ended.
    from_ns: u64,
    to_ns: u64,
    invisible_ms: u64,
    /// Its time was changed, whatever came of it.
    changed: bool,
    /// What came of that is not known, so that the handle may be an old one.
    blurred: bool,
    /// An acknowledgement was sent, whatever came of it.
    acknowledged: bool,
}

impl HandOut {
    /// Until here it is surely its consumer's.
    fn held_until_ns(&self) -> u64 {
        (self.from_ns + self.invisible_ms * MS).saturating_sub(AHEAD_MS * MS)
    }
}

/// A message as the group has seen it.
#[derive(Debug, Default)]
struct Fate {
    hand_outs: Vec<HandOut>,
    attempts: Vec<u32>,
    /// Acknowledged in time, known since.
    done_ns: Option<u64>,
    /// Seen among the dead letters.
    dead_ns: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Pops {
    fates: HashMap<(String, Value), Fate>,
    /// Copies that were handed out, by group.
    handed_out: HashSet<(String, Queue, u64)>,
    dead: HashSet<(String, u64, Value)>,
    /// Groups and the topics that they pop from, with the broker.
    groups: HashSet<(String, String, String)>,
    /// When the open request of a process began.
    invoked_ns: HashMap<u32, u64>,
    faults: Faults,
    drain_ns: Option<u64>,
    last_ns: u64,
}

impl Rule for Pops {
    fn id(&self) -> &'static str {
        "Q"
    }

    fn says(&self) -> &'static str {
        "pop consumers get all, one at a time, until acknowledged"
    }

    fn step(&mut self, step: Step<'_>, _log: &Log, found: &mut Findings) {
        let event = step.event;
        self.last_ns = event.t_ns;
        match &event.op {
            Op::Nemesis(nemesis) => self.faults.note(event.t_ns, nemesis),
            Op::Phase(Phase::Drain) => self.drain_ns = Some(event.t_ns),
            Op::DeadLetters { replica, group, messages } => {
                for read in messages {
                    self.died(event.t_ns, *replica, group, read.value, found);
                }
            }
            Op::Pop { .. } | Op::Ack { .. } | Op::ChangeInvisible { .. } if event.kind == Kind::Invoke => {
                self.invoked_ns.insert(event.process, event.t_ns);
                self.touched(event);
            }
            Op::Pop { .. } => self.popped(event, found),
            Op::Ack { group, messages } if event.kind == Kind::Ok => {
                for message in messages {
                    self.acknowledged(event.t_ns, group, message, found);
                }
            }
            Op::ChangeInvisible { group, message, invisible_ms, pop_ms: Some(pop_ms) }
                if event.kind == Kind::Ok =>
            {
                let from_ns = self.invoked_ns.get(&event.process).copied().unwrap_or(event.t_ns);
                if let Some(hand_out) = self.hand_out(group, message) {
                    (hand_out.pop_ms, hand_out.blurred) = (*pop_ms, false);
                    (hand_out.from_ns, hand_out.to_ns) = (from_ns, event.t_ns);
                    hand_out.invisible_ms = *invisible_ms;
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        let none = LivenessBounds::default();
        let bounds = log.plan.as_ref().and_then(|plan| plan.liveness.as_ref()).unwrap_or(&none);
        for ((group, value), fate) in &self.fates {
            self.judge(group, *value, fate, log, found);
            self.came_again(group, *value, fate, bounds, found);
        }
        if self.drain_ns.is_none() {
            return;
        }
        let mut never = 0;
        for (value, sent) in log.all_sent().filter(|(_, sent)| sent.state() == State::Ok) {
            let queue = &log.queue(sent.queue()).name;
            for (group, broker, topic) in &self.groups {
                if queue.topic != *topic || queue.broker != *broker {
                    continue;
                }
                found.checked += 1;
                if !self.fates.contains_key(&(group.clone(), value)) {
                    never += 1;
                    found.fail(|| format!("{value} of {queue} came to nobody of {group}"));
                }
            }
        }
        if never > 0 {
            found.figure("acknowledged messages that came to nobody", never);
        }
    }
}

impl Pops {
    /// The hand-out of which this is a handle.
    fn hand_out(&mut self, group: &str, message: &Popped) -> Option<&mut HandOut> {
        let fate = self.fates.get_mut(&(group.to_owned(), message.value))?;
        fate.hand_outs.iter_mut().find(|hand_out| {
            hand_out.pop_ms == message.pop_ms
                && hand_out.place.1 == message.offset
                && hand_out.place.0 == message.queue
        })
    }

    /// Something is asked for that concerns hand-outs: from now on they may be over.
    fn touched(&mut self, event: &Event) {
        match &event.op {
            Op::Ack { group, messages } => {
                for message in messages {
                    if let Some(hand_out) = self.hand_out(group, message) {
                        hand_out.acknowledged = true;
                    }
                }
            }
            Op::ChangeInvisible { group, message, .. } => {
                if let Some(hand_out) = self.hand_out(group, message) {
                    (hand_out.changed, hand_out.blurred) = (true, true);
                }
            }
            _ => {}
        }
    }

    fn popped(&mut self, event: &Event, found: &mut Findings) {
        let Op::Pop { broker, topic, group, invisible_ms, messages } = &event.op else { return };
        let from_ns = self.invoked_ns.remove(&event.process).unwrap_or(event.t_ns);
        self.groups.insert((group.clone(), broker.clone(), topic.clone()));
        for message in messages {
            found.checked += 1;
            let Popped { queue, offset, value, pop_ms, attempt } = message;
            if !self.handed_out.insert((group.clone(), queue.clone(), *offset)) {
                found.fail(|| format!("{value} at {offset} of {queue} was handed out twice to {group}"));
            }
            let fate = self.fates.entry((group.clone(), *value)).or_default();
            if let Some(done_ns) = fate.done_ns.filter(|done_ns| from_ns > *done_ns) {
                let after = (from_ns - done_ns) / MS;
                found.fail(|| {
                    format!(
                        "{value} came again to {group}, from {offset} of {queue}, by a pop that began {after} ms after \
                         its acknowledgement"
                    )
                });
            }
            if fate.dead_ns.is_some_and(|dead_ns| from_ns > dead_ns) {
                found.fail(|| format!("{value} came to {group}, from {offset} of {queue}, as a dead letter"));
            }
            if fate.attempts.contains(attempt) {
                found.fail(|| format!("attempt {attempt} with {value} was made twice by {group}"));
            }
            fate.attempts.push(*attempt);
            fate.hand_outs.push(HandOut {
                place: (queue.clone(), *offset),
                pop_ms: *pop_ms,
                from_ns,
                to_ns: event.t_ns,
                invisible_ms: *invisible_ms,
                changed: false,
                blurred: false,
                acknowledged: false,
            });
            if fate.hand_outs.len() > 1 {
                found.count("messages that came again");
            }
        }
    }

    fn acknowledged(&mut self, t_ns: u64, group: &str, message: &Popped, found: &mut Findings) {
        let clocks = self.faults.clocks(0, t_ns);
        let Some(hand_out) = self.hand_out(group, message).filter(|hand_out| !hand_out.blurred) else {
            // The broker says yes to these too, and they mean nothing to it.
            found.count("acknowledgements by handles that may be old");
            return;
        };
        if t_ns > hand_out.held_until_ns() || clocks != Clocks::Untouched {
            found.count("acknowledgements that may have come too late");
            return;
        }
        found.count("acknowledgements in time");
        if let Some(fate) = self.fates.get_mut(&(group.to_owned(), message.value)) {
            fate.done_ns.get_or_insert(t_ns);
        }
    }

    fn died(&mut self, t_ns: u64, replica: u64, group: &str, value: Value, found: &mut Findings) {
        found.checked += 1;
        if !self.dead.insert((group.to_owned(), replica, value)) {
            found.fail(|| format!("{value} is twice among the dead letters of {group} at node {replica}"));
        }
        let fate = self.fates.entry((group.to_owned(), value)).or_default();
        if fate.dead_ns.is_none() {
            fate.dead_ns = Some(t_ns);
            found.count("dead letters");
        }
    }

    fn judge(&self, group: &str, value: Value, fate: &Fate, log: &Log, found: &mut Findings) {
        // Sent to the topic, and not refused.
        let sent = log.sent(value).filter(|sent| {
            let queue = &log.queue(sent.queue()).name;
            self.groups.iter().any(|(of, broker, topic)| {
                (of.as_str(), broker, topic) == (group, &queue.broker, &queue.topic)
            })
        });
        match sent {
            None => found.fail(|| format!("{value} came to {group}, and nobody sent it there")),
            Some(sent) if sent.state() == State::Fail => {
                found.fail(|| format!("{value} was refused and came to {group}"));
            }
            Some(_) => {}
        }
        if fate.dead_ns.is_some() && fate.done_ns.is_some() {
            found.fail(|| format!("{value} was acknowledged by {group} and is a dead letter"));
        }
        if self.faults.clocks(0, self.last_ns) != Clocks::Untouched {
            return;
        }
        for (at, one) in fate.hand_outs.iter().enumerate() {
            for other in &fate.hand_outs[at + 1..] {
                if one.changed || other.changed {
                    continue;
                }
                let held_ns = one.held_until_ns().min(other.held_until_ns());
                let both_ns = one.to_ns.max(other.to_ns);
                if both_ns < held_ns {
                    found.fail(|| {
                        let ms = (held_ns - both_ns) / MS;
                        format!("{value} was in two hands of {group} at once, {ms} ms before its time")
                    });
                }
            }
        }
    }

    /// What was not acknowledged has come again, or is dead.
    fn came_again(
        &self,
        group: &str,
        value: Value,
        fate: &Fate,
        bounds: &LivenessBounds,
        found: &mut Findings,
    ) {
        let Some(last) = fate.hand_outs.iter().max_by_key(|hand_out| hand_out.to_ns) else { return };
        let end_ns = self.drain_ns.unwrap_or(self.last_ns);
        for hand_out in &fate.hand_outs {
            if hand_out.acknowledged || hand_out.changed {
                continue;
            }
            found.checked += 1;
            let due_ns = hand_out.to_ns + hand_out.invisible_ms * MS;
            let later = fate.hand_outs.iter().filter(|other| other.from_ns > hand_out.from_ns);
            let next_ns = later.map(|other| other.to_ns).chain(fate.dead_ns).min();
            let until_ns = next_ns.unwrap_or(end_ns);
            let excused = self.faults.excused_ms(bounds, due_ns, until_ns.max(due_ns), self.last_ns);
            let allowed = bounds.again_ms.unwrap_or(AGAIN_MS) + excused.unwrap_or(0);
            let took = until_ns.saturating_sub(due_ns) / MS;
            if took > allowed && self.faults.clocks(0, until_ns) == Clocks::Untouched {
                let what = if next_ns.is_some() { "came again" } else { "has not come again" };
                found.fail(|| {
                    format!(
                        "{value}, handed out by attempt {} and not acknowledged, {what} {took} ms after its time, \
                         {allowed} are allowed to {group}; last seen at {} ns",
                        fate.attempts.first().copied().unwrap_or(0),
                        last.to_ns
                    )
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::{Story, queue, reads, value};
    use crate::history::{Action, Plan, Read};

    const INVISIBLE_MS: u64 = 3_000;

    fn popped(text: &str, offset: u64, pop_ms: u64) -> Popped {
        Popped { queue: queue(), offset, value: value(text), pop_ms, attempt: 0 }
    }

    /// One that comes again.
    fn retried(text: &str, offset: u64, pop_ms: u64, attempt: u32) -> Popped {
        let queue = Queue::new("a", "%RETRY%g_t", 0);
        Popped { queue, offset, value: value(text), pop_ms, attempt }
    }

    fn pop(messages: &[Popped]) -> Op {
        Op::Pop {
            broker: "a".into(),
            topic: "t".into(),
            group: "g".into(),
            invisible_ms: INVISIBLE_MS,
            messages: messages.to_vec(),
        }
    }

    impl Story {
        fn popped(&mut self, process: u32, messages: &[Popped]) -> &mut Story {
            self.op(process, pop(&[]), Kind::Ok, pop(messages))
        }

        fn acked(&mut self, process: u32, messages: &[Popped], kind: Kind) -> &mut Story {
            let ack = Op::Ack { group: "g".into(), messages: messages.to_vec() };
            self.op(process, ack.clone(), kind, ack)
        }

        fn changed(
            &mut self,
            process: u32,
            message: &Popped,
            invisible_ms: u64,
            pop_ms: Option<u64>,
        ) -> &mut Story {
            let change = |pop_ms| Op::ChangeInvisible {
                group: "g".into(),
                message: message.clone(),
                invisible_ms,
                pop_ms,
            };
            let kind = if pop_ms.is_some() { Kind::Ok } else { Kind::Info };
            self.op(process, change(None), kind, change(pop_ms))
        }

        fn died(&mut self, text: &str) -> &mut Story {
            self.note(Op::DeadLetters { replica: 1, group: "g".into(), messages: reads(0, text) })
        }
    }

    #[test]
    fn messages_that_are_taken_and_acknowledged_pass() {
        let mut story = Story::new();
        story.sent("1-0", 0).sent("1-1", 1).sent("1-2", 2).unknown("1-3");
        let (one, two, three) = (popped("1-0", 0, 7), popped("1-1", 1, 7), popped("1-2", 2, 8));
        story.popped(5, &[one.clone(), two.clone()]).acked(5, std::slice::from_ref(&one), Kind::Ok);
        // not acknowledged: it comes again, and again, and is dead
        story.popped(6, std::slice::from_ref(&three)).wait_ms(3_500).popped(5, &[retried("1-2", 0, 50, 1)]);
        story.wait_ms(3_500).died("1-2");
        // for longer, by a new handle
        let renewed = Popped { pop_ms: 60, ..two.clone() };
        story.changed(7, &two, 9_000, Some(60)).wait_ms(4_000).acked(7, &[renewed], Kind::Ok);
        // a late acknowledgement proves nothing
        let late = popped("1-3", 3, 70);
        story.popped(5, std::slice::from_ref(&late)).wait_ms(3_200).acked(5, &[late], Kind::Ok);
        story.popped(5, &[retried("1-3", 1, 80, 1)]).acked(5, &[retried("1-3", 1, 80, 1)], Kind::Ok);
        story.phase(Phase::Drain);
        let report = story.passes(Pops::default());
        assert_eq!((report.figures["dead letters"], report.figures["messages that came again"]), (1, 2));
        assert_eq!(report.figures["acknowledgements in time"], 3);
        assert_eq!(report.figures["acknowledgements that may have come too late"], 1);
    }

    #[test]
    fn what_is_acknowledged_and_comes_again_fails() {
        let one = popped("1-0", 0, 7);
        let mut story = Story::new();
        story.sent("1-0", 0).popped(5, std::slice::from_ref(&one)).acked(
            5,
            std::slice::from_ref(&one),
            Kind::Ok,
        );
        story.wait_ms(9_000).popped(6, &[retried("1-0", 0, 99, 1)]);
        story.fails(Pops::default(), "1-0 came again to g, from 0 of a/%RETRY%g_t/0, by a pop that began");
        // by a pop that had begun before: nobody can tell
        let mut story = Story::new();
        story.sent("1-0", 0).event(6, Kind::Invoke, pop(&[])).popped(5, std::slice::from_ref(&one));
        story.acked(5, std::slice::from_ref(&one), Kind::Ok).wait_ms(4_000);
        story.event(6, Kind::Ok, pop(&[retried("1-0", 0, 99, 1)])).passes(Pops::default());
        let mut story = Story::new();
        story.sent("1-0", 0).popped(5, std::slice::from_ref(&one)).acked(5, &[one], Kind::Ok).died("1-0");
        story.fails(Pops::default(), "1-0 was acknowledged by g and is a dead letter");
    }

    #[test]
    fn an_old_handle_proves_nothing() {
        let one = popped("1-0", 0, 7);
        let mut story = Story::new();
        story.sent("1-0", 0).popped(5, std::slice::from_ref(&one)).changed(5, &one, 10, None);
        story.acked(6, &[one], Kind::Ok).wait_ms(100).popped(7, &[retried("1-0", 0, 99, 1)]);
        let report = story.passes(Pops::default());
        assert_eq!(report.figures["acknowledgements by handles that may be old"], 1);
    }

    #[test]
    fn two_hands_at_once_fail() {
        let mut story = Story::new();
        story.sent("1-0", 0).popped(5, &[popped("1-0", 0, 7)]).popped(6, &[retried("1-0", 0, 8, 1)]);
        story.fails(Pops::default(), "1-0 was in two hands of g at once, 1997 ms before its time");
        let mut story = Story::new();
        story
            .sent("1-0", 0)
            .popped(5, &[popped("1-0", 0, 7)])
            .wait_ms(3_500)
            .popped(6, &[popped("1-0", 0, 9)]);
        let report = story.fails(Pops::default(), "1-0 at 0 of a/t/0 was handed out twice to g");
        assert!(report.examples.iter().any(|text| text.contains("attempt 0 with 1-0 was made twice")));
    }

    #[test]
    fn what_nobody_gets_fails() {
        let mut story = Story::new();
        story.sent("1-0", 0).sent("1-1", 1).popped(5, &[popped("1-1", 1, 7)]);
        story.acked(5, &[popped("1-1", 1, 7)], Kind::Ok).phase(Phase::Drain);
        story.fails(Pops::default(), "1-0 of a/t/0 came to nobody of g");
        let run = |wait_ms: u64, fault: bool| {
            let mut story = Story::new();
            story.sent("1-0", 0).popped(5, &[popped("1-0", 0, 7)]).wait_ms(4_000);
            if fault {
                story.nemesis(1, "kill-leader", Action::Start, true, vec![]);
                story.nemesis(1, "kill-leader", Action::Stop, true, vec![]);
            }
            story.wait_ms(wait_ms).phase(Phase::Drain);
            story
        };
        run(3_000, false).passes(Pops::default());
        run(4_500, false)
            .fails(Pops::default(), "has not come again 5501 ms after its time, 5000 are allowed to g");
        run(6_500, true).passes(Pops::default());
        run(7_500, true).fails(Pops::default(), "8000 are allowed");
    }

    #[test]
    fn strangers_fail() {
        let mut story = Story::new();
        story.popped(5, &[popped("1-0", 0, 7)]);
        story.fails(Pops::default(), "1-0 came to g, and nobody sent it there");
        let mut story = Story::new();
        story.refused("1-0").popped(5, &[popped("1-0", 0, 7)]);
        story.fails(Pops::default(), "1-0 was refused and came to g");
        let mut story = Story::new();
        story.sent("1-0", 0).popped(5, &[popped("1-0", 0, 7)]).died("1-0 1-0");
        story.fails(Pops::default(), "1-0 is twice among the dead letters of g at node 1");
        let mut story = Story::new();
        story.sent("1-0", 0).popped(5, &[popped("1-0", 0, 7)]).died("1-0").wait_ms(9_000);
        story.popped(5, &[retried("1-0", 1, 9, 1)]);
        story.fails(Pops::default(), "as a dead letter");
        let other = Read { offset: 0, value: Value::foreign(b"torn") };
        let mut story = Story::new();
        story.plan(Plan::default()).popped(5, &[Popped { value: other.value, ..popped("1-0", 0, 7) }]);
        story.fails(Pops::default(), "nobody sent it there");
    }
}
