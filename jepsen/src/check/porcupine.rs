//! P1 to P3: linearizability, searched for by the Go program in jepsen/porcupine. It is built when it is needed; where
//! Go is missing the report says so, and a run that requires the search is invalid. An undecided search is invalid too:
//! no answer is no proof.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::Options;
use super::report::{Findings, RuleReport};

/// Whether the search is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Porcupine {
    Off,
    /// Where Go is missing, the report says "not checked".
    #[default]
    IfPresent,
    /// Where Go is missing, the run is invalid.
    Required,
}

/// A binary that is built already.
const BINARY: &str = "RAFTMQ_PORCUPINE";
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/porcupine");

const RULES: [(&str, &str); 3] = [
    ("P1", "queues are linearizable: append, read, end"),
    ("P2", "consumer offsets are linearizable registers"),
    ("P3", "topics are linearizable registers"),
];

/// Whether the rule is one of this file.
pub(super) fn is_rule(id: &str) -> bool {
    RULES.iter().any(|(rule, _)| *rule == id)
}

#[derive(Debug, Deserialize)]
struct Verdicts {
    parts: Vec<Verdict>,
}

/// As main.go prints it.
#[derive(Debug, Deserialize)]
struct Verdict {
    rule: String,
    key: String,
    result: String,
    ops: u64,
    unknown: u64,
    left_out: u64,
    seconds: f64,
    #[serde(default)]
    why: String,
}

pub(super) fn check(files: &[PathBuf], options: &Options) -> Vec<RuleReport> {
    if options.porcupine == Porcupine::Off {
        return Vec::new();
    }
    match find().and_then(|binary| binary.map(|binary| search(&binary, files, options)).transpose()) {
        Ok(Some(verdicts)) => RULES.iter().map(|(id, says)| report(id, says, &verdicts)).collect(),
        Ok(None) => without(options, "NOT CHECKED: Go is not installed"),
        Err(error) => without(options, &format!("NOT CHECKED: {error:#}")),
    }
}

/// The reports of a search that was not made.
fn without(options: &Options, why: &str) -> Vec<RuleReport> {
    let report = |(id, says): &(&str, &str)| {
        let mut found = Findings::default();
        if options.porcupine == Porcupine::Required {
            found.invalid(|| why.to_owned());
        } else {
            found.note(why);
        }
        RuleReport::new(id, says, found)
    };
    RULES.iter().map(report).collect()
}

fn report(id: &str, says: &str, verdicts: &Verdicts) -> RuleReport {
    let mut found = Findings::default();
    let (mut left_out, mut unknown, mut slowest) = (0, 0, 0.0_f64);
    for verdict in verdicts.parts.iter().filter(|verdict| verdict.rule == id) {
        let Verdict { rule: _, key, result, ops, unknown: unknown_ops, left_out: out, seconds, why } =
            verdict;
        found.checked += ops;
        left_out += out;
        unknown += unknown_ops;
        slowest = slowest.max(*seconds);
        match result.as_str() {
            "ok" => {}
            "illegal" => found.fail(|| format!("{key}: {why}")),
            _ => found.invalid(|| format!("{key}: undecided: {why}")),
        }
    }
    if found.checked > 0 {
        found.figure("operations of unknown outcome searched", unknown);
        found.figure("slowest part ms", (slowest * 1e3) as u64);
    }
    if left_out > 0 {
        found.figure("operations left out beyond the cap", left_out);
    }
    RuleReport::new(id, says, found)
}

/// The program, built if need be; `None` without Go.
fn find() -> Result<Option<PathBuf>> {
    if let Some(binary) = env::var_os(BINARY) {
        return Ok(Some(binary.into()));
    }
    if Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return Ok(None);
    }
    ensure!(Path::new(SOURCE).is_dir(), "{SOURCE} is gone; {BINARY} may name the built program");
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => Path::new(SOURCE).join("../../target"),
    };
    let dir = target.join("porcupine");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    // Go rebuilds only what has changed. By another name first, for two checks may run at once.
    let (unfinished, binary) = (dir.join(format!("porcupine.{}", id())), dir.join("porcupine"));
    let built = Command::new("go")
        .args(["build", "-trimpath", "-o"])
        .arg(&unfinished)
        .arg(".")
        .current_dir(SOURCE)
        .stdin(Stdio::null())
        .output()
        .context("go build")?;
    if !built.status.success() {
        bail!("go build in {SOURCE}: {}", String::from_utf8_lossy(&built.stderr).trim());
    }
    fs::rename(&unfinished, &binary).with_context(|| binary.display().to_string())?;
    Ok(Some(binary))
}

fn search(binary: &Path, files: &[PathBuf], options: &Options) -> Result<Verdicts> {
    let answer = Command::new(binary)
        .arg(format!("-time={}ms", options.search_time.as_millis()))
        .arg(format!("-ops={}", options.search_ops_max))
        .arg(format!("-unknown={}", options.search_unknown_max))
        .arg("--")
        .args(files)
        .stdin(Stdio::null())
        .output()
        .with_context(|| binary.display().to_string())?;
    if !answer.status.success() {
        bail!("{}: {}", binary.display(), String::from_utf8_lossy(&answer.stderr).trim());
    }
    serde_json::from_slice(&answer.stdout).context("the answer of porcupine")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::report::Status;

    fn verdicts(text: &str) -> Verdicts {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn verdicts_become_rules() {
        let verdicts = verdicts(
            r#"{"parts":[
                {"rule":"P1","key":"a/t/0","result":"ok","ops":9,"unknown":1,"left_out":0,"seconds":0.1},
                {"rule":"P1","key":"a/t/1","result":"illegal","ops":7,"unknown":0,"left_out":2,"seconds":0.2,"why":"no order"},
                {"rule":"P2","key":"g","result":"unknown","ops":5,"unknown":0,"left_out":0,"seconds":60,"why":"not decided"}
            ]}"#,
        );
        let [one, two, three] = RULES.map(|(id, says)| report(id, says, &verdicts));
        assert_eq!(
            (one.status, one.checked, &one.examples[..]),
            (Status::Fail, 16, &["a/t/1: no order".to_owned()][..])
        );
        assert_eq!((two.status, &two.invalid[0][..]), (Status::Invalid, "g: undecided: not decided"));
        assert_eq!(three.status, Status::NotChecked);
    }

    #[test]
    fn a_search_that_is_not_made_is_seen() {
        let options = |porcupine| Options { porcupine, ..Options::default() };
        let [optional, required] = [Porcupine::IfPresent, Porcupine::Required].map(|porcupine| {
            let mut reports = without(&options(porcupine), "NOT CHECKED: Go is not installed");
            assert_eq!(reports.len(), 3);
            reports.remove(0)
        });
        assert_eq!((optional.status, required.status), (Status::NotChecked, Status::Invalid));
        assert_eq!(optional.notes, ["NOT CHECKED: Go is not installed"]);
        assert!(check(&[], &options(Porcupine::Off)).is_empty());
        assert!(is_rule("P2") && !is_rule("L2"));
    }
}
