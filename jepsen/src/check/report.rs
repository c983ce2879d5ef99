//! What the checks found, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// How many examples of one kind are kept: enough to see a pattern; the counts say the rest.
const EXAMPLES: usize = 10;

/// What one rule, or a whole run, comes to. The order is that of [`Report::status`]: the last one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Pass,
    /// Nothing in the history that the rule is about.
    NotChecked,
    /// It does not count: what should have been tested was not, or nobody can say how it ended. Never a pass.
    Invalid,
    Fail,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Pass => "pass",
            Status::NotChecked => "not checked",
            Status::Invalid => "INVALID",
            Status::Fail => "FAIL",
        })
    }
}

/// Some of many, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Examples {
    pub(crate) count: u64,
    pub(crate) texts: Vec<String>,
}

impl Examples {
    pub(crate) fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.texts.len() < EXAMPLES {
            self.texts.push(text());
        }
    }
}

/// What a rule has found so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// How many things were checked.
    pub(crate) checked: u64,
    pub(crate) failed: Examples,
    pub(crate) invalid: Examples,
    pub(crate) notes: Vec<String>,
    pub(crate) figures: BTreeMap<String, u64>,
}

impl Findings {
    /// The system broke the rule.
    pub(crate) fn fail(&mut self, text: impl FnOnce() -> String) {
        self.failed.add(text);
    }

    /// The run cannot be judged.
    pub(crate) fn invalid(&mut self, text: impl FnOnce() -> String) {
        self.invalid.add(text);
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub(crate) fn figure(&mut self, name: impl Into<String>, value: u64) {
        self.figures.insert(name.into(), value);
    }

    pub(crate) fn count(&mut self, name: &str) {
        match self.figures.get_mut(name) {
            Some(value) => *value += 1,
            None => self.figure(name, 1),
        }
    }
}

/// What one rule says of a history.
#[derive(Clone, Debug, Serialize)]
pub struct RuleReport {
    /// `L1`, `P2` …: the ids of jepsen/README.md.
    pub id: String,
    /// The rule in a few words.
    pub says: String,
    pub status: Status,
    pub checked: u64,
    /// Violations by the system under test.
    pub failures: u64,
    /// The first of them.
    pub examples: Vec<String>,
    /// Why the run does not count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub invalid: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, u64>,
}

impl RuleReport {
    pub(crate) fn new(id: &str, says: &str, found: Findings) -> RuleReport {
        let Findings { checked, failed, invalid, notes, figures } = found;
        let status = if failed.count > 0 {
            Status::Fail
        } else if invalid.count > 0 {
            Status::Invalid
        } else if checked == 0 {
            Status::NotChecked
        } else {
            Status::Pass
        };
        let mut why = invalid.texts;
        if invalid.count > why.len() as u64 {
            why.push(format!("… {} in all", invalid.count));
        }
        RuleReport {
            id: id.to_owned(),
            says: says.to_owned(),
            status,
            checked,
            failures: failed.count,
            examples: failed.texts,
            invalid: why,
            notes,
            figures,
        }
    }
}

/// What all rules say of one history.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub status: Status,
    /// The plan's name of the run, its seed, commit and command.
    pub run: String,
    pub seed: u64,
    pub commit: String,
    pub command: String,
    pub files: Vec<String>,
    pub events: u64,
    /// From the first event to the last.
    pub seconds: f64,
    /// What the check itself took.
    pub check_seconds: f64,
    /// What the plan says must have been checked.
    pub rules_required: Vec<String>,
    pub rules: Vec<RuleReport>,
}

impl Report {
    /// Every run but a passed one is a failed run.
    pub fn passed(&self) -> bool {
        self.status == Status::Pass
    }

    /// For the shell: 0 pass, 1 fail, 2 invalid.
    pub fn exit_code(&self) -> u8 {
        match self.status {
            Status::Pass => 0,
            Status::Fail => 1,
            Status::Invalid | Status::NotChecked => 2,
        }
    }

    pub fn rule(&self, id: &str) -> Option<&RuleReport> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The status of the whole, given which rules the plan requires. A broken history (rule H) proves nothing, so it
    /// comes first; then a failure, then whatever leaves the run without proof.
    pub(crate) fn judge(rules: &[RuleReport], required: &[String]) -> Status {
        let status = |id: &str| rules.iter().find(|rule| rule.id == id).map(|rule| rule.status);
        let whole = status("H").unwrap_or(Status::Invalid);
        if whole == Status::Invalid || whole == Status::Fail {
            return Status::Invalid;
        }
        let worst = rules.iter().map(|rule| rule.status).max().unwrap_or(Status::Invalid);
        let unproved = required.iter().any(|id| matches!(status(id), None | Some(Status::NotChecked)));
        match worst {
            Status::Fail => Status::Fail,
            Status::Invalid => Status::Invalid,
            _ if unproved => Status::Invalid,
            Status::Pass | Status::NotChecked => Status::Pass,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { status, run, seed, events, seconds, check_seconds, .. } = self;
        let run = if run.is_empty() { "a history without a plan" } else { run.as_str() };
        writeln!(
            f,
            "{status}  {run}, seed {seed}: {events} events in {seconds:.1} s, checked in {check_seconds:.1} s"
        )?;
        for rule in &self.rules {
            writeln!(
                f,
                "  {:<4} {:<12} {:<60} {:>12} checked",
                rule.id, rule.status, rule.says, rule.checked
            )?;
            if rule.failures > 0 {
                writeln!(f, "         {} violations", rule.failures)?;
            }
            let lines = rule.examples.iter().chain(&rule.invalid).chain(&rule.notes);
            for line in lines {
                writeln!(f, "         - {line}")?;
            }
            for (name, value) in &rule.figures {
                writeln!(f, "         {name}: {value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: &str, status: Status) -> RuleReport {
        let mut found = Findings { checked: u64::from(status != Status::NotChecked), ..Findings::default() };
        match status {
            Status::Fail => found.fail(|| "bad".into()),
            Status::Invalid => found.invalid(|| "unknown".into()),
            Status::Pass | Status::NotChecked => {}
        }
        let rule = RuleReport::new(id, "says", found);
        assert_eq!(rule.status, status);
        rule
    }

    #[test]
    fn only_a_run_with_proof_passes() {
        let judge = |rules: &[(&str, Status)], required: &[&str]| {
            let rules: Vec<_> = rules.iter().map(|(id, status)| rule(id, *status)).collect();
            let required: Vec<_> = required.iter().map(|&id| id.to_owned()).collect();
            Report::judge(&rules, &required)
        };
        let good = ("H", Status::Pass);
        assert_eq!(judge(&[good, ("L1", Status::Pass), ("L2", Status::NotChecked)], &["L1"]), Status::Pass);
        assert_eq!(judge(&[good, ("L1", Status::NotChecked)], &["L1"]), Status::Invalid);
        assert_eq!(judge(&[good], &["P1"]), Status::Invalid);
        assert_eq!(judge(&[good, ("P1", Status::Invalid)], &[]), Status::Invalid);
        assert_eq!(judge(&[good, ("L1", Status::Fail), ("C", Status::Invalid)], &[]), Status::Fail);
        assert_eq!(judge(&[("H", Status::Invalid), ("L1", Status::Fail)], &[]), Status::Invalid);
        assert_eq!(judge(&[("L1", Status::Pass)], &[]), Status::Invalid);
    }

    #[test]
    fn examples_are_bounded_and_counted() {
        let mut found = Findings::default();
        for n in 0..25 {
            found.fail(|| format!("number {n}"));
            found.count("n");
        }
        let rule = RuleReport::new("L1", "says", found);
        assert_eq!((rule.failures, rule.examples.len(), rule.figures["n"]), (25, EXAMPLES, 25));
    }
}
