//! C: what was planned happened. A fault that did nothing, a replica that nobody read, a run that broke off: whatever
//! the other rules say then, they have not tested what the run was for, so it is invalid.

use std::collections::{BTreeMap, BTreeSet};

use super::Rule;
use super::faults::fault_of;
use super::log::{Log, Step};
use super::report::Findings;
use crate::history::{Action, Effect, EffectOf, Nemesis, Op, Phase, RequiredFault};

#[derive(Default)]
pub(crate) struct Coverage {
    /// Whether the first event was the plan.
    planned: Option<bool>,
    ended: bool,
    after_end: u64,
    /// By id.
    faults: BTreeMap<u32, Instance>,
}

#[derive(Default)]
struct Instance {
    fault: String,
    started: bool,
    stopped: bool,
    effects: Vec<Effect>,
}

impl Rule for Coverage {
    fn id(&self) -> &'static str {
        "C"
    }

    fn says(&self) -> &'static str {
        "what was planned happened"
    }

    fn step(&mut self, step: Step<'_>, _log: &Log, found: &mut Findings) {
        let op = &step.event.op;
        self.planned.get_or_insert(matches!(op, Op::Plan(_)));
        self.after_end += u64::from(self.ended);
        match op {
            Op::Phase(Phase::End) => self.ended = true,
            Op::Nemesis(nemesis) => self.nemesis(nemesis, found),
            _ => {}
        }
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        found.checked += 1;
        if self.planned != Some(true) {
            found.invalid(|| "the history does not begin with its plan".into());
        }
        if !self.ended || self.after_end > 0 {
            found.invalid(|| "the history does not end with the phase `end`: the run broke off".into());
        }
        self.judge_faults(log, found);
        let Some(plan) = &log.plan else { return };
        if log.acknowledged < plan.ok_sends_min {
            found.invalid(|| {
                format!("{} sends acknowledged, {} planned", log.acknowledged, plan.ok_sends_min)
            });
        }
        for queue in &plan.queues {
            let drains = log.queue_named(queue).into_iter().flat_map(|queue| queue.complete_drains());
            let drained: BTreeSet<u64> = drains.map(|(replica, _, _)| log.replicas[replica].0).collect();
            for node in plan.nodes.iter().filter(|node| !drained.contains(node)) {
                found.invalid(|| format!("{queue} was not drained from node {node}"));
            }
            found.checked += 1;
        }
    }
}

impl Coverage {
    fn nemesis(&mut self, nemesis: &Nemesis, found: &mut Findings) {
        let instance = self.faults.entry(nemesis.id).or_default();
        instance.effects.extend(nemesis.effects.iter().cloned());
        let again = match nemesis.action {
            Action::Start => {
                instance.fault.clone_from(&nemesis.fault);
                std::mem::replace(&mut instance.started, true)
            }
            Action::Stop => std::mem::replace(&mut instance.stopped, true),
        };
        if again || instance.fault != nemesis.fault {
            found.invalid(|| format!("fault {} ({}) begins or ends twice", nemesis.id, nemesis.fault));
        }
    }

    fn judge_faults(&self, log: &Log, found: &mut Findings) {
        // How often each really happened, and how often not, with a reason.
        let mut happened: BTreeMap<&str, (u64, u64, String)> = BTreeMap::new();
        let (mut power_losses, mut bytes_lost) = (0, 0);
        for (id, instance) in &self.faults {
            let name = instance.fault.as_str();
            if !instance.stopped {
                found.invalid(|| format!("fault {id} ({name}) never ended"));
            }
            let counts = happened.entry(name).or_default();
            let missing = match fault_of(name) {
                Some(fault) => fault.missing(&instance.effects),
                None => Some("no such fault in check::faults".to_owned()),
            };
            match missing {
                None => counts.0 += 1,
                Some(why) => {
                    counts.1 += 1;
                    counts.2 = why;
                }
            }
            let lost = instance.effects.iter().filter(|effect| effect.what == EffectOf::PowerLost);
            for effect in lost {
                power_losses += 1;
                bytes_lost += effect.bytes;
            }
        }
        for (name, (really, in_vain, why)) in &happened {
            found.checked += 1;
            found.figure(format!("{name}: happened"), *really);
            if *in_vain > 0 {
                found.figure(format!("{name}: in vain"), *in_vain);
            }
            if *really == 0 {
                found.invalid(|| format!("{name} never really happened: {why}"));
            }
        }
        // A disk that lost nothing tests nothing. One loss may; all of a run may not.
        if power_losses > 0 && bytes_lost == 0 {
            found.invalid(|| format!("{power_losses} power losses, and no unsynced byte was lost"));
        }
        for RequiredFault { fault, times } in log.plan.iter().flat_map(|plan| &plan.faults) {
            found.checked += 1;
            let really = happened.get(fault.as_str()).map_or(0, |counts| counts.0);
            if really < *times {
                found.invalid(|| format!("{fault} happened {really} times, {times} planned"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::{Story, queue};
    use crate::history::Plan;

    fn plan() -> Plan {
        Plan {
            nodes: vec![1, 2],
            queues: vec![queue()],
            faults: vec![RequiredFault { fault: "pause-one".into(), times: 1 }],
            ok_sends_min: 1,
            ..Plan::default()
        }
    }

    fn paused(pid: Option<u32>) -> Vec<Effect> {
        vec![Effect { pid, ..Effect::on(EffectOf::Paused, 1) }]
    }

    /// A whole run, with the fault's effects.
    fn run(effects: Vec<Effect>) -> Story {
        let mut story = Story::new();
        story.plan(plan()).sent("1-0", 0);
        story.nemesis(1, "pause-one", Action::Start, true, effects).nemesis(
            1,
            "pause-one",
            Action::Stop,
            true,
            vec![],
        );
        story.drained(1, "1-0").drained(2, "1-0").phase(Phase::End);
        story
    }

    #[test]
    fn a_run_that_did_what_was_planned_passes() {
        let report = run(paused(Some(7))).passes(Coverage::default());
        assert_eq!(report.figures["pause-one: happened"], 1);
    }

    #[test]
    fn a_fault_that_did_not_happen_makes_the_run_invalid() {
        run(paused(None)).is_invalid(Coverage::default(), "pause-one never really happened");
        run(vec![]).is_invalid(Coverage::default(), "pause-one happened 0 times, 1 planned");
        let mut story = run(paused(Some(7)));
        story.is_invalid_with(
            |story| {
                story.nemesis(2, "meteor", Action::Start, true, vec![]).nemesis(
                    2,
                    "meteor",
                    Action::Stop,
                    true,
                    vec![],
                );
            },
            "meteor never really happened: no such fault",
        );
        let lost = |bytes| {
            vec![Effect::on(EffectOf::PowerLost, 1).bytes(bytes), Effect::on(EffectOf::Killed, 1).pid(8)]
        };
        let mut story = run(paused(Some(7)));
        story.is_invalid_with(
            |story| {
                let name = "power-loss-one";
                story.nemesis(2, name, Action::Start, true, lost(0)).nemesis(
                    2,
                    name,
                    Action::Stop,
                    true,
                    vec![],
                );
            },
            "no unsynced byte was lost",
        );
        let mut story = run(paused(Some(7)));
        story.is_invalid_with(
            |story| {
                story.nemesis(2, "power-loss-one", Action::Start, true, lost(4096));
            },
            "fault 2 (power-loss-one) never ended",
        );
    }

    #[test]
    fn a_run_that_broke_off_or_looked_away_is_invalid() {
        let mut story = Story::new();
        story.sent("1-0", 0);
        let report = story.is_invalid(Coverage::default(), "does not begin with its plan");
        assert!(report.invalid.iter().any(|why| why.contains("broke off")));
        let mut story = Story::new();
        story.plan(plan()).drained(1, "").phase(Phase::End);
        let report = story.is_invalid(Coverage::default(), "a/t/0 was not drained from node 2");
        assert!(report.invalid.iter().any(|why| why.contains("0 sends acknowledged, 1 planned")));
        run(paused(Some(7))).phase(Phase::End).is_invalid(Coverage::default(), "broke off");
    }

    impl Story {
        /// Puts events before the end, and expects the run to be invalid.
        fn is_invalid_with(&mut self, tell: impl FnOnce(&mut Story), words: &str) {
            let end = self.take_last();
            tell(self);
            self.note(end.op);
            self.is_invalid(Coverage::default(), words);
        }
    }
}
