//! What a history proves. One pass over the events feeds all rules; each rule is a file, and its tests show it failing.
//!
//! ```text
//!  events ─▶ log (L0: places, values, what was known when) ─▶ H  discipline     is it a history at all?
//!                                                             E  contract       answers as docs/errors.md says
//!                                                             L1 … L14          log/*.rs
//!                                                             L12 replicas      equal bytes, queues, tables
//!                                                             L15 liveness      gaps, progress, convergence
//!                                                             Q  pops           one consumer at a time, all of it
//!                                                             T  later          when it is due, all of it
//!                                                             X  transactions   one end, and seen if committed
//!                                                             I  invariants     what nodes say of themselves
//!                                                             C  coverage       did what was planned happen?
//!  files  ─▶ porcupine (Go)                                   P1 P2 P3          linearizability
//! ```
//! A run passes, fails, or is *invalid*: a fault that did not happen, an undecided search, a rule with nothing to
//! check. Only a pass is a pass. Rules take time linear in the history and a few bytes for each message.

mod contract;
mod coverage;
mod discipline;
mod excuse;
pub mod faults;
mod invariants;
mod later;
mod liveness;
mod log;
mod pops;
mod porcupine;
mod replicas;
mod report;
#[cfg(test)]
pub(crate) mod story;
mod transactions;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use porcupine::Porcupine;
pub use report::{Report, RuleReport, Status};

use self::log::{Log, Step};
use self::report::Findings;
use crate::history::{Event, HistoryError, Reader};

/// How to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether linearizability is searched for.
    pub porcupine: Porcupine,
    /// The time that the search has for each of its parts.
    pub search_time: Duration,
    /// Operations of one queue or register that are searched; what is beyond is left out, and the report says so.
    pub search_ops_max: usize,
    /// Operations of unknown outcome among them.
    pub search_unknown_max: usize,
    /// A history without a plan is judged by its rules alone. Without this it is invalid: nothing says what it should
    /// prove.
    pub planless: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            porcupine: Porcupine::IfPresent,
            // reliability.md, section 0: measured with 16 clients; above it memory is counted in gigabytes
            search_time: Duration::from_mins(1),
            search_ops_max: 20_000,
            search_unknown_max: 300,
            planless: false,
        }
    }
}

/// A rule of jepsen/README.md.
pub(crate) trait Rule {
    fn id(&self) -> &'static str;

    fn says(&self) -> &'static str;

    /// One event; the log has it already.
    fn step(&mut self, _step: Step<'_>, _log: &Log, _found: &mut Findings) {}

    /// After the last event.
    fn end(&mut self, _log: &Log, _found: &mut Findings) {}
}

fn rules(options: &Options) -> Vec<(Box<dyn Rule>, Findings)> {
    let mut rules: Vec<Box<dyn Rule>> =
        vec![Box::new(discipline::Discipline::default()), Box::new(contract::Contract)];
    rules.extend(log::rules());
    rules.push(Box::new(replicas::Replicas::default()));
    rules.push(Box::new(liveness::Liveness::default()));
    rules.push(Box::new(pops::Pops::default()));
    rules.push(Box::new(later::Later::default()));
    rules.push(Box::new(transactions::Transactions::default()));
    rules.push(Box::new(invariants::Invariants::default()));
    if !options.planless {
        rules.push(Box::new(coverage::Coverage::default()));
    }
    rules.into_iter().map(|rule| (rule, Findings::default())).collect()
}

pub(crate) fn run_rules(rules: &mut [(Box<dyn Rule>, Findings)], step: Step<'_>, log: &Log) {
    for (rule, found) in rules {
        rule.step(step, log, found);
    }
}

/// Checks one history, which may lie in several files.
pub fn check_files(files: &[PathBuf], options: &Options) -> Result<Report, HistoryError> {
    let mut report = check_events(Reader::open(files)?, options)?;
    let started = Instant::now();
    report.files = files.iter().map(|file| file.display().to_string()).collect();
    let required = report.rules_required.clone();
    report.rules.extend(porcupine::check(files, options));
    report.status = Report::judge(&report.rules, &required);
    report.check_seconds += started.elapsed().as_secs_f64();
    Ok(report)
}

/// Checks a history without the search for linearizability, which needs files.
pub fn check_events(
    events: impl IntoIterator<Item = Result<Event, HistoryError>>,
    options: &Options,
) -> Result<Report, HistoryError> {
    let started = Instant::now();
    let mut log = Log::default();
    let mut rules = rules(options);
    let (mut count, mut first_ns, mut last_ns) = (0, None, 0);
    for event in events {
        let event = event?;
        count += 1;
        first_ns.get_or_insert(event.t_ns);
        last_ns = event.t_ns;
        let step = log.step(&event);
        run_rules(&mut rules, step, &log);
    }
    let mut reports = Vec::new();
    for (mut rule, mut found) in rules {
        rule.end(&log, &mut found);
        reports.push(RuleReport::new(rule.id(), rule.says(), found));
    }
    let plan = log.plan.unwrap_or_default();
    // What the search will say is judged once it has been made.
    let here = |id: &&String| !porcupine::is_rule(id);
    let required: Vec<String> = plan.rules.iter().filter(here).cloned().collect();
    Ok(Report {
        status: Report::judge(&reports, &required),
        run: plan.run,
        seed: plan.seed,
        commit: plan.commit,
        command: plan.command,
        files: Vec::new(),
        events: count,
        seconds: last_ns.saturating_sub(first_ns.unwrap_or_default()) as f64 / 1e9,
        check_seconds: started.elapsed().as_secs_f64(),
        rules_required: plan.rules,
        rules: reports,
    })
}

#[cfg(test)]
mod tests {
    use super::story::{Story, queue};
    use super::*;
    use crate::history::{Details, Kind, Op, Phase, Plan, Queue, Read, Recorder, Value};
    use crate::outcome::Outcome;

    fn check_story(story: &Story, options: &Options) -> Report {
        check_events(story.events().iter().cloned().map(Ok), options).unwrap()
    }

    fn plan() -> Plan {
        let rules =
            ["L1", "L2", "L3", "L4", "L6", "L7", "L8", "L10", "L12", "L15"].map(str::to_owned).to_vec();
        Plan { run: "F0".into(), seed: 7, nodes: vec![1, 2], queues: vec![queue()], rules, ..Plan::default() }
    }

    /// A small run, as far as the drain.
    fn run() -> Story {
        let mut story = Story::new();
        story.plan(plan()).phase(Phase::Load).sent("1-0", 0).unknown("1-1").sent("2-0", 2).pulled(
            3,
            0,
            "1-0 1-1 2-0",
        );
        story.phase(Phase::Heal).pulled(3, 3, "").phase(Phase::Converge).phase(Phase::Drain);
        story
    }

    #[test]
    fn a_run_passes_fails_or_is_invalid() {
        let mut story = run();
        story.drained(1, "1-0 1-1 2-0").drained(2, "1-0 1-1 2-0").phase(Phase::End);
        let report = check_story(&story, &Options::default());
        assert_eq!(report.status, Status::Pass, "{report}");
        assert_eq!((report.run.as_str(), report.seed, report.exit_code()), ("F0", 7, 0));

        // a replica lacks the last message
        let mut story = run();
        story.drained(1, "1-0 1-1 2-0").drained(2, "1-0 1-1").phase(Phase::End);
        let report = check_story(&story, &Options::default());
        assert_eq!((report.status, report.exit_code()), (Status::Fail, 1), "{report}");
        let failed: Vec<_> = report.rules.iter().filter(|rule| rule.status == Status::Fail).collect();
        assert_eq!(failed.iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>(), ["L4", "L12"]);
        assert!(
            report.to_string().contains("2-0 at 2 of a/t/0: not at node 2 by Pull (postfix)"),
            "{report}"
        );
        assert!(report.to_json().unwrap().contains("\"status\": \"fail\""));

        // a replica was not read at all
        let mut story = run();
        story.drained(1, "1-0 1-1 2-0").phase(Phase::End);
        let report = check_story(&story, &Options::default());
        assert_eq!((report.status, report.exit_code()), (Status::Invalid, 2), "{report}");

        // nothing was read, so that L3 has nothing to say
        let mut story = Story::new();
        story.plan(plan()).sent("1-0", 0).drained(1, "1-0").drained(2, "1-0").phase(Phase::End);
        assert_eq!(check_story(&story, &Options::default()).status, Status::Invalid);
    }

    #[test]
    fn a_history_without_a_plan_is_judged_only_on_demand() {
        let mut story = Story::new();
        story.sent("1-0", 0).pulled(2, 0, "1-0");
        assert_eq!(check_story(&story, &Options::default()).status, Status::Invalid);
        let planless = Options { planless: true, ..Options::default() };
        assert_eq!(check_story(&story, &planless).status, Status::Pass);
        story.sent("3-0", 0);
        assert_eq!(check_story(&story, &planless).status, Status::Fail);
    }

    #[test]
    fn files_are_checked_as_they_were_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).unwrap();
        let mut process = recorder.process();
        for offset in 0..100 {
            let value = process.value();
            let send = |offset| Op::Send { queue: queue(), value, offset, position: None };
            process.invoke(send(None));
            process.complete(Outcome::Ok, send(Some(offset)), Details::default());
        }
        recorder.finish().unwrap();
        let options = Options { planless: true, porcupine: Porcupine::Off, ..Options::default() };
        let report = check_files(&[path], &options).unwrap();
        assert_eq!((report.status, report.events), (Status::Pass, 200), "{report}");
        assert_eq!(report.rule("L8").unwrap().checked, 100);
    }

    /// Fourteen million events: 7.0 s and 121 MiB (profile `ci`).
    /// `cargo test --profile ci -p jepsen --lib -- --ignored ten_million --nocapture`
    #[test]
    #[ignore = "takes minutes where nothing is optimized; for measuring"]
    fn ten_million_events_take_linear_time() {
        const SENDERS: u32 = 16;
        const SENDS: u32 = 300_000;
        let queues: Vec<_> = (0..SENDERS).map(|id| Queue::new("a", "t", id)).collect();
        let event = |n: u64, process, kind, op| Event {
            t_ns: n * 1_000,
            process,
            kind,
            op,
            node: None,
            term: None,
            attempts: None,
            code: None,
            error: None,
        };
        let events = (0..SENDS).flat_map(|n| {
            let queues = &queues;
            (0..SENDERS).flat_map(move |sender| {
                let queue = &queues[sender as usize];
                let (value, at) = (Value::new(sender, n), u64::from(n));
                let send = |offset| Op::Send { queue: queue.clone(), value, offset, position: None };
                let first = u64::from(n * SENDERS + sender) * 3;
                let pull = Op::Deliver {
                    group: "g".into(),
                    queue: queue.clone(),
                    messages: vec![Read { offset: at, value }],
                };
                [
                    event(first, sender, Kind::Invoke, send(None)),
                    event(first + 1, sender, Kind::Ok, send(Some(at))),
                    event(first + 2, SENDERS, Kind::Ok, pull),
                ]
            })
        });
        let report = check_events(events.map(Ok), &Options { planless: true, ..Options::default() }).unwrap();
        println!("{report}");
        assert_eq!((report.status, report.events), (Status::Pass, 14_400_000));
    }
}
