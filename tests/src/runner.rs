//! Runs the tests of the one integration binary: side by side, since most of them wait for clients most of the time. Those that
//! measure time have only their like beside them, and those that change what all share run alone ([`Company`]).
//!
//! A test that misses a bound of time while the machine stood still is run once more, which is said (stalls.rs); no other failure
//! is.
//!
//! A test that cannot run here is *ignored with its reason*: it shows in its own line, in the count, and in a summary
//! at the end. `RAFTMQ_REQUIRE` turns that into a failure.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::stalls::Stalls;
use crate::{cluster, go, java, paths, process};

/// Something that a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// java, javac and mvn, and the jars from Maven Central or a local repository.
    Java,
    /// go, and the modules of tests/go.
    Go,
    /// The test starts and breaks its own cluster: not with `RAFTMQ_TEST_NAMESRV`.
    OwnCluster,
    Root,
    /// The test takes minutes: only with `RAFTMQ_LONG=1`.
    Long,
    /// Fixed ports that somebody may hold.
    Ports,
    /// Something that the broker does not claim to have yet: it answers code 3 to the request.
    Feature,
}

impl Requirement {
    /// The name in `RAFTMQ_REQUIRE`.
    fn name(self) -> &'static str {
        match self {
            Requirement::Java => "java",
            Requirement::Go => "go",
            Requirement::OwnCluster => "own-cluster",
            Requirement::Root => "root",
            Requirement::Long => "long",
            Requirement::Ports => "ports",
            Requirement::Feature => "feature",
        }
    }

    /// Why it is not met here; `None` when it is.
    fn missing(self) -> Option<String> {
        match self {
            Requirement::Java => java::missing(),
            Requirement::Go => go::missing(),
            Requirement::OwnCluster => cluster::external()
                .map(|address| format!("a cluster of its own; RAFTMQ_TEST_NAMESRV={address} is set")),
            Requirement::Root => (!rustix::process::geteuid().is_root()).then(|| "root".to_owned()),
            Requirement::Long => {
                (std::env::var_os("RAFTMQ_LONG").is_none()).then(|| "minutes: set RAFTMQ_LONG=1".to_owned())
            }
            Requirement::Ports | Requirement::Feature => None,
        }
    }

    fn is_required(self) -> bool {
        let required = std::env::var("RAFTMQ_REQUIRE").unwrap_or_default();
        required.split(',').any(|name| name.trim() == self.name())
    }
}

/// An error that says: this test cannot run here. Return it through [`skip`].
#[derive(Debug)]
struct Skip {
    requirement: Requirement,
    reason: String,
}

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "needs {}: {}", self.requirement.name(), self.reason)
    }
}

impl std::error::Error for Skip {}

/// The error for a requirement that turns out not to be met in the middle of a test.
pub fn skip(requirement: Requirement, reason: impl Into<String>) -> anyhow::Error {
    Skip { requirement, reason: reason.into() }.into()
}

/// An error that says: a bound of time was missed, and nothing else was wrong.
#[derive(Debug)]
struct Untimely {
    what: String,
    /// What was not as the test wants it, where the test knows of it.
    because: Option<String>,
}

impl std::fmt::Display for Untimely {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Untimely {}

/// The error for a bound of time that was missed where everything else was right: it counts only of a machine that went on, and
/// where every fault was what it was meant to be; `because`: one that was not.
pub fn untimely(what: impl Into<String>, because: Option<String>) -> anyhow::Error {
    Untimely { what: what.into(), because }.into()
}

/// The directory of one test: logs, data, histories. Kept when the test fails.
pub struct Scratch {
    name: String,
    dir: PathBuf,
}

impl Scratch {
    /// An empty directory under target/it.
    pub fn create(name: &str) -> Result<Scratch> {
        let dir = Scratch::path(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Scratch { name: name.to_owned(), dir })
    }

    fn path(name: &str) -> PathBuf {
        let legal = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        paths::target().join("it").join(name.replace("::", ".").chars().map(legal).collect::<String>())
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A name for a topic or consumer group that no other test and no earlier run has used.
    pub fn unique(&self, kind: &str) -> String {
        let legal = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let test = self.name.chars().map(legal).collect::<String>();
        let since = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_millis() % 100_000_000);
        format!("{test}_{kind}_{since}")
    }

    /// Prints a measurement, so that it is seen also when the test passes.
    pub fn report(&self, text: &str) {
        eprintln!("MEASURED {}: {text}", self.name);
    }

    /// The ends of all logs.
    fn logs(&self) -> String {
        let mut text = String::new();
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "log")) {
            text += &format!("--- the end of {}\n{}\n", file.display(), process::tail(file, 25));
        }
        text
    }
}

type Run = dyn Fn(&Scratch) -> Result<()> + Send;

/// Beside whom a test may run. The order is that in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Company {
    /// Any of these, as many as there are threads.
    Any,
    /// Two at a time: each leaves a core idle most of the time, and has bounds that a busy machine would break.
    Calm,
    /// Nobody: it changes what others use.
    Nobody,
}

impl Company {
    /// How many of these run at once.
    fn room(self) -> usize {
        match self {
            Company::Any => usize::MAX,
            Company::Calm => 2,
            Company::Nobody => 1,
        }
    }
}

/// A test, what it needs, and its name in the output.
pub struct Test {
    name: String,
    needs: Vec<Requirement>,
    company: Company,
    run: Box<Run>,
}

impl Test {
    /// It measures time, and makes little load itself: at most one other such test runs meanwhile.
    #[must_use]
    pub fn calm(self) -> Test {
        Test { company: Company::Calm, ..self }
    }

    /// Nothing else runs meanwhile.
    #[must_use]
    pub fn alone(self) -> Test {
        Test { company: Company::Nobody, ..self }
    }
}

pub fn test(
    name: impl Into<String>,
    needs: &[Requirement],
    run: impl Fn(&Scratch) -> Result<()> + Send + 'static,
) -> Test {
    Test { name: name.into(), needs: needs.to_vec(), company: Company::Any, run: Box::new(run) }
}

/// The tests that run now: all of one kind.
struct Running {
    company: Company,
    count: usize,
}

/// Who waits for whom. The tests come sorted by their company, so nobody waits for ever.
struct Turns {
    running: Mutex<Running>,
    ended: Condvar,
}

impl Turns {
    fn new() -> Turns {
        Turns { running: Mutex::new(Running { company: Company::Any, count: 0 }), ended: Condvar::new() }
    }

    /// Runs a test when its turn has come.
    fn take<T>(&self, company: Company, run: impl FnOnce() -> T) -> T {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let must_wait = |running: &mut Running| {
            running.count > 0 && (running.company != company || running.count >= company.room())
        };
        let mut running = self.ended.wait_while(running, must_wait).unwrap_or_else(PoisonError::into_inner);
        *running = Running { company, count: running.count + 1 };
        drop(running);
        let _turn = Turn(self);
        run()
    }
}

/// Ends when dropped, also by a panic.
struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner).count -= 1;
        self.0.ended.notify_all();
    }
}

/// How many of the slowest tests are named in the end.
const SLOWEST: usize = 15;

/// The `main` of the integration binary. Without `--test-threads` there is one more than cores: tests wait.
pub fn main(mut tests: Vec<Test>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let cores = available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cores + 1);
    tests.sort_by_key(|test| test.company);
    let stalls = match Stalls::watch(paths::target()) {
        Ok(stalls) => Arc::new(stalls),
        Err(error) => {
            eprintln!("cannot write to {}: {error}", paths::target().display());
            return ExitCode::FAILURE;
        }
    };
    let turns = Arc::new(Turns::new());
    let (skipped, took) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let trials = tests.into_iter().map(|test| {
        let (turns, skipped, took) = (turns.clone(), skipped.clone(), took.clone());
        let stalls = stalls.clone();
        Trial::ignorable_test(test.name.clone(), move || {
            turns.take(test.company, || {
                let began = Instant::now();
                let result = run_one(&test, &stalls, &skipped);
                let mut took = took.lock().expect("no test panics while it holds the list");
                took.push((began.elapsed(), test.name.clone()));
                result
            })
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    cluster::stop_shared();
    report_slowest(&mut took.lock().expect("no test panics while it holds the list"));
    let skipped = skipped.lock().expect("no test panics while it holds the list");
    if !skipped.is_empty() {
        eprintln!("SKIPPED {} tests:", skipped.len());
        for line in skipped.iter() {
            eprintln!("SKIPPED: {line}");
        }
    }
    conclusion.exit_code()
}

fn report_slowest(took: &mut [(Duration, String)]) {
    took.sort_by(|one, other| other.cmp(one));
    let whole: Duration = took.iter().map(|(time, _)| *time).sum();
    eprintln!("MEASURED {} tests, {:.0} s in all; the slowest, in seconds:", took.len(), whole.as_secs_f64());
    for (time, name) in &took[..took.len().min(SLOWEST)] {
        eprintln!("MEASURED {:>6.1} {name}", time.as_secs_f64());
    }
}

fn run_one(test: &Test, stalls: &Stalls, skipped: &Mutex<Vec<String>>) -> Result<Completion, Failed> {
    let unmet = test
        .needs
        .iter()
        .find_map(|&requirement| requirement.missing().map(|reason| Skip { requirement, reason }));
    let result = match unmet {
        Some(skip) => Err(skip.into()),
        None => {
            let began = Instant::now();
            let first = run_once(test);
            let late = first.as_ref().err().and_then(|error| error.downcast_ref::<Untimely>());
            let because = late.and_then(|late| {
                let stall = || stalls.longest_since(began);
                late.because.clone().or_else(|| stall().map(|stall| stall.to_string()))
            });
            match (late, because) {
                (Some(late), Some(because)) => {
                    eprintln!("VOID {}: {because}: {late}", test.name);
                    keep(&test.name);
                    run_once(test)
                }
                _ => first,
            }
        }
    };
    match result {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(skip) if !skip.requirement.is_required() => {
                let mut skipped = skipped.lock().expect("no test panics while it holds the list");
                skipped.push(format!("{} {skip}", test.name));
                Ok(Completion::ignored_with(skip))
            }
            Some(skip) => Err(format!("{skip}, which RAFTMQ_REQUIRE asks for").into()),
            None => Err(format!("{error:#}").into()),
        },
    }
}

/// Puts the directory of a run aside that is void.
fn keep(name: &str) {
    let dir = Scratch::path(name);
    let aside = dir.with_extension("void");
    let _ = std::fs::remove_dir_all(&aside);
    let _ = std::fs::rename(&dir, &aside);
}

fn run_once(test: &Test) -> Result<()> {
    let scratch = Scratch::create(&test.name)?;
    let result = unpanicked(|| (test.run)(&scratch)).and_then(|()| cluster::check_shared());
    match &result {
        Ok(()) if std::env::var_os("RAFTMQ_KEEP").is_none() => {
            let _ = std::fs::remove_dir_all(scratch.dir());
        }
        Ok(()) => {}
        Err(error) if error.is::<Skip>() => {}
        Err(_) => eprintln!("{}{}", scratch.logs(), cluster::shared_logs()),
    }
    result
}

/// A panic as an error, so that it too is reported with the logs.
fn unpanicked(run: impl FnOnce() -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        bail!("panicked: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("not with a text"))
    })
}

/// The ends of the logs in a directory; for directories that are not a test's own.
pub(crate) fn logs_of(dir: &Path) -> String {
    Scratch { name: String::new(), dir: dir.to_owned() }.logs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stalls::STALL_MIN;

    fn outcome(run: impl Fn(&Scratch) -> Result<()> + Send + 'static) -> (Result<Completion, Failed>, usize) {
        let skipped = Mutex::new(Vec::new());
        let result = run_one(&test("runner::unit", &[], run), &Stalls::none(), &skipped);
        let count = skipped.lock().unwrap().len();
        (result, count)
    }

    #[test]
    fn a_bound_that_was_missed_while_the_machine_stood_still_is_tried_once_more() {
        type Fault = fn() -> anyhow::Error;
        let (late, wrong): (Fault, Fault) = (|| untimely("late", None), || anyhow::anyhow!("lost"));
        let excused: Fault = || untimely("late", Some("a slow death".into()));
        for (fault, stalls_each, failures, runs, fails) in [
            (late, true, 1, 2, false),
            (excused, false, 1, 2, false),
            (excused, false, 2, 2, true),
            (late, true, 2, 2, true),
            (late, false, 1, 1, true),
            (wrong, true, 1, 1, true),
        ] {
            let stalls = Arc::new(Stalls::none());
            let (counted, seen) = (Arc::new(Mutex::new(0)), stalls.clone());
            let count = counted.clone();
            let test = test("runner::stalls", &[], move |_| {
                if stalls_each {
                    seen.note("the test", STALL_MIN);
                }
                let mut count = count.lock().unwrap();
                *count += 1;
                if *count > failures { Ok(()) } else { Err(fault()) }
            });
            let result = run_one(&test, &stalls, &Mutex::new(Vec::new()));
            assert_eq!((*counted.lock().unwrap(), result.is_err()), (runs, fails));
        }
    }

    #[test]
    fn nobody_gets_company_that_it_must_not_have() {
        let turns = Turns::new();
        let running = Mutex::new(Vec::new());
        let kinds = [Company::Any, Company::Calm, Company::Nobody];
        std::thread::scope(|scope| {
            for company in kinds.into_iter().flat_map(|company| [company; 4]) {
                let (turns, running) = (&turns, &running);
                scope.spawn(move || {
                    turns.take(company, || {
                        running.lock().unwrap().push(company);
                        for _ in 0..100 {
                            std::thread::yield_now();
                            let now = running.lock().unwrap();
                            assert!(now.iter().all(|other| *other == company), "{now:?}");
                            assert!(now.len() <= company.room(), "{now:?}");
                        }
                        running.lock().unwrap().pop();
                    });
                });
            }
        });
        assert!(running.into_inner().unwrap().is_empty());
    }

    #[test]
    fn a_skip_is_counted_and_an_error_fails() {
        assert!(matches!(outcome(|_| Ok(())), (Ok(Completion::Completed), 0)));
        let (skipped, count) = outcome(|_| Err(skip(Requirement::Ports, "9876 is taken")));
        assert!(matches!(skipped, Ok(Completion::Ignored { reason: Some(r) }) if r.contains("9876")));
        assert_eq!(count, 1);
        let (failed, count) = outcome(|_| anyhow::bail!("broken"));
        assert_eq!(failed.err().unwrap().message(), Some("broken"));
        assert_eq!(count, 0);
        let (failed, _) = outcome(|_| panic!("at {}", 1));
        assert_eq!(failed.err().unwrap().message(), Some("panicked: at 1"));
    }
}
