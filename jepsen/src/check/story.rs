//! Hand-made histories for the tests of the rules. Everything is about one queue, unless an operation says otherwise;
//! each event comes a millisecond after the one before.

use super::log::Log;
use super::report::{Findings, RuleReport, Status};
use super::{Rule, run_rules};
use crate::history::{
    Action, Bounds, Effect, Event, Kind, LookupBy, Nemesis, NodeSample, Op, Phase, Plan, PullStatus, Queue,
    Read, Value, Way,
};

const MS: u64 = 1_000_000;

pub(crate) fn queue() -> Queue {
    Queue::new("a", "t", 0)
}

pub(crate) fn value(text: &str) -> Value {
    text.parse().expect("a value")
}

/// `1-0 1-1`.
pub(crate) fn values(text: &str) -> Vec<Value> {
    text.split_whitespace().map(value).collect()
}

/// The values at consecutive offsets.
pub(crate) fn reads(from: u64, text: &str) -> Vec<Read> {
    values(text).into_iter().zip(from..).map(|(value, offset)| Read { offset, value }).collect()
}

#[derive(Default)]
pub(crate) struct Story {
    events: Vec<Event>,
    now_ms: u64,
}

impl Story {
    pub(crate) fn new() -> Story {
        Story::default()
    }

    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    pub(crate) fn event(&mut self, process: u32, kind: Kind, op: Op) -> &mut Story {
        self.now_ms += 1;
        self.events.push(Event {
            t_ns: self.now_ms * MS,
            process,
            kind,
            op,
            node: None,
            term: None,
            attempts: None,
            code: None,
            error: None,
        });
        self
    }

    /// Changes the last event.
    pub(crate) fn but(&mut self, change: impl FnOnce(&mut Event)) -> &mut Story {
        change(self.events.last_mut().expect("an event"));
        self
    }

    /// Takes the last event back.
    pub(crate) fn take_last(&mut self) -> Event {
        self.events.pop().expect("an event")
    }

    pub(crate) fn wait_ms(&mut self, ms: u64) -> &mut Story {
        self.now_ms += ms;
        self
    }

    /// Both events of an operation.
    pub(crate) fn op(&mut self, process: u32, invoked: Op, kind: Kind, completed: Op) -> &mut Story {
        self.event(process, Kind::Invoke, invoked).event(process, kind, completed)
    }

    pub(crate) fn note(&mut self, op: Op) -> &mut Story {
        self.event(0, Kind::Ok, op)
    }

    pub(crate) fn plan(&mut self, plan: Plan) -> &mut Story {
        self.note(Op::Plan(Box::new(plan)))
    }

    pub(crate) fn phase(&mut self, phase: Phase) -> &mut Story {
        self.note(Op::Phase(phase))
    }

    fn send(text: &str, offset: Option<u64>) -> Op {
        Op::Send { queue: queue(), value: value(text), offset, position: None }
    }

    pub(crate) fn invoke_send(&mut self, text: &str) -> &mut Story {
        self.event(value(text).process(), Kind::Invoke, Story::send(text, None))
    }

    pub(crate) fn ok_send(&mut self, text: &str, offset: u64) -> &mut Story {
        self.event(value(text).process(), Kind::Ok, Story::send(text, Some(offset)))
    }

    /// An acknowledged send.
    pub(crate) fn sent(&mut self, text: &str, offset: u64) -> &mut Story {
        self.invoke_send(text).ok_send(text, offset)
    }

    /// A send of unknown outcome.
    pub(crate) fn unknown(&mut self, text: &str) -> &mut Story {
        self.invoke_send(text).event(value(text).process(), Kind::Info, Story::send(text, None))
    }

    /// A send that was refused.
    pub(crate) fn refused(&mut self, text: &str) -> &mut Story {
        self.invoke_send(text).event(value(text).process(), Kind::Fail, Story::send(text, None))
    }

    /// A batch; `ok` with an offset, else of unknown outcome.
    pub(crate) fn batch(&mut self, text: &str, offset: Option<u64>) -> &mut Story {
        let batch = |offset| Op::Batch { queue: queue(), values: values(text), offset, position: None };
        let kind = if offset.is_some() { Kind::Ok } else { Kind::Info };
        self.op(values(text)[0].process(), batch(None), kind, batch(offset))
    }

    fn pull_op(from: u64, status: Option<PullStatus>, messages: Vec<Read>, next: Option<u64>) -> Op {
        Op::Pull { queue: queue(), from, assigned: true, status, messages, next, min: None, max: None }
    }

    /// A pull of an assigned consumer that got these values from `from` on.
    pub(crate) fn pulled(&mut self, process: u32, from: u64, text: &str) -> &mut Story {
        let messages = reads(from, text);
        let next = from + messages.len() as u64;
        let answer = Story::pull_op(from, Some(PullStatus::Found), messages, Some(next));
        self.op(process, Story::pull_op(from, None, Vec::new(), None), Kind::Ok, answer)
    }

    /// A pull of an assigned consumer with another answer.
    pub(crate) fn pull(&mut self, process: u32, from: u64, status: PullStatus, next: u64) -> &mut Story {
        let answer = Story::pull_op(from, Some(status), Vec::new(), Some(next));
        self.op(process, Story::pull_op(from, None, Vec::new(), None), Kind::Ok, answer)
    }

    pub(crate) fn delivered(&mut self, group: &str, from: u64, text: &str) -> &mut Story {
        self.note(Op::Deliver { group: group.to_owned(), queue: queue(), messages: reads(from, text) })
    }

    pub(crate) fn committed(&mut self, process: u32, group: &str, offset: u64) -> &mut Story {
        let op = Op::Commit { group: group.to_owned(), queue: queue(), offset, oneway: false };
        self.op(process, op.clone(), Kind::Ok, op)
    }

    pub(crate) fn queried(&mut self, process: u32, group: &str, offset: Option<u64>) -> &mut Story {
        let query = |offset| Op::Query { group: group.to_owned(), queue: queue(), offset };
        self.op(process, query(None), Kind::Ok, query(offset))
    }

    pub(crate) fn max_offset(&mut self, process: u32, offset: u64) -> &mut Story {
        let op = |offset| Op::MaxOffset { queue: queue(), offset };
        self.op(process, op(None), Kind::Ok, op(Some(offset)))
    }

    pub(crate) fn min_offset(&mut self, process: u32, offset: u64) -> &mut Story {
        let op = |offset| Op::MinOffset { queue: queue(), offset };
        self.op(process, op(None), Kind::Ok, op(Some(offset)))
    }

    pub(crate) fn looked_up(&mut self, process: u32, text: &str, found: &[(u64, &str)]) -> &mut Story {
        let op = |found| Op::Lookup { queue: queue(), value: value(text), by: LookupBy::Key, found };
        let found = found
            .iter()
            .map(|&(offset, text)| crate::history::Found { queue: queue(), offset, value: value(text) })
            .collect();
        self.op(process, op(Vec::new()), Kind::Ok, op(found))
    }

    /// The whole queue of one replica, from offset 0.
    pub(crate) fn drained(&mut self, replica: u64, text: &str) -> &mut Story {
        self.drained_from(replica, 0, text)
    }

    pub(crate) fn drained_from(&mut self, replica: u64, min: u64, text: &str) -> &mut Story {
        let messages = reads(min, text);
        let max = min + messages.len() as u64;
        self.drain(replica, messages, Some(Bounds { min, max }))
    }

    pub(crate) fn drain(&mut self, replica: u64, messages: Vec<Read>, bounds: Option<Bounds>) -> &mut Story {
        self.note(Op::Drain { replica, queue: queue(), way: Way::Pull, messages, bounds })
    }

    pub(crate) fn node(&mut self, sample: NodeSample) -> &mut Story {
        self.note(Op::Node(Box::new(sample)))
    }

    pub(crate) fn nemesis(
        &mut self,
        id: u32,
        fault: &str,
        action: Action,
        leaves_majority: bool,
        effects: Vec<Effect>,
    ) -> &mut Story {
        self.note(Op::Nemesis(Box::new(Nemesis {
            id,
            fault: fault.to_owned(),
            action,
            leaves_majority,
            effects,
            ..Nemesis::default()
        })))
    }

    /// What one rule says.
    pub(crate) fn judge(&self, rule: impl Rule + 'static) -> RuleReport {
        let mut rules: Vec<(Box<dyn Rule>, Findings)> = vec![(Box::new(rule), Findings::default())];
        let mut log = Log::default();
        for event in &self.events {
            let step = log.step(event);
            run_rules(&mut rules, step, &log);
        }
        let (mut rule, mut found) = rules.pop().expect("the rule");
        rule.end(&log, &mut found);
        RuleReport::new(rule.id(), rule.says(), found)
    }

    pub(crate) fn passes(&self, rule: impl Rule + 'static) -> RuleReport {
        let report = self.judge(rule);
        assert_eq!(report.status, Status::Pass, "{report:#?}");
        report
    }

    /// Fails with an example that has these words.
    pub(crate) fn fails(&self, rule: impl Rule + 'static, words: &str) -> RuleReport {
        let report = self.judge(rule);
        assert_eq!(report.status, Status::Fail, "{report:#?}");
        assert!(report.examples.iter().any(|text| text.contains(words)), "{report:#?}");
        report
    }

    /// Does not count, for a reason that has these words.
    pub(crate) fn is_invalid(&self, rule: impl Rule + 'static, words: &str) -> RuleReport {
        let report = self.judge(rule);
        assert_eq!(report.status, Status::Invalid, "{report:#?}");
        assert!(report.invalid.iter().any(|text| text.contains(words)), "{report:#?}");
        report
    }
}
