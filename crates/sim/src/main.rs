//! Whole groups on virtual time, network and disk, from one seed.
//!
//! ```text
//! cargo run -p sim -- --seed 7            the trace, and the line that repeats it
//! cargo run -p sim -- --seeds 1..=200     many, each in a process of its own
//! cargo run -p sim --features mutants -- --mutant all     rules broken on purpose: each must be noticed
//! ```
//! | file | what |
//! |---|---|
//! | plan.rs, random.rs | what a seed decides |
//! | clock.rs, thread.rs, cluster.rs | time, and in which order things run |
//! | net.rs, disk.rs | what is between nodes, and under them |
//! | served.rs, tables.rs | what a node does, as the broker would |
//! | workload.rs, waiting.rs, faults.rs, rot.rs | what is done to it |
//! | oracle.rs, invariants/ | what must hold, one file each |
//! | run.rs, runner.rs, trace.rs | one seed, many seeds, what is printed |
//! | mutants.rs | whether what must hold would be missed |
//!
//! Real are: store, replica, openraft, tonic and h2, the broker's replicated state and the queue index. Not here: the broker's
//! listeners, handlers, forwarding and registry, and real sockets, files and threads. See
//! docs/decisions/0009-simulation-in-one-thread.md.

mod clock;
mod cluster;
mod disk;
mod faults;
mod invariants;
#[cfg(feature = "mutants")]
mod mutants;
mod net;
mod oracle;
mod panics;
mod plan;
mod random;
mod rot;
mod run;
mod runner;
mod served;
mod tables;
mod thread;
mod trace;
mod waiting;
mod workload;

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

const USAGE: &str = "usage: sim --seed S [--quiet]
       sim --seeds FIRST..=LAST [--jobs N]
       sim --mutant NAME|all [--seeds FIRST..=LAST] [--jobs N]     (built with --features mutants)
       sim --mutant NAME --seed S [--quiet]
RUST_LOG=info shows what the nodes log, on stderr.";

enum Task {
    One {
        seed: u64,
        is_quiet: bool,
        mutant: Option<String>,
    },
    Many {
        seeds: Vec<u64>,
        jobs: usize,
    },
    #[cfg_attr(not(feature = "mutants"), allow(dead_code, reason = "refused"))]
    Hunt {
        mutant: String,
        seeds: Option<Vec<u64>>,
        jobs: usize,
    },
}

fn task(arguments: impl Iterator<Item = String>) -> Option<Task> {
    let (mut seed, mut seeds, mut jobs, mut is_quiet, mut mutant) = (None, None, 2, false, None);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seed" => seed = Some(arguments.next()?.parse().ok()?),
            "--seeds" => {
                let range = arguments.next()?;
                let (first, last) = range.split_once("..=")?;
                seeds = Some((first.parse::<u64>().ok()?..=last.parse::<u64>().ok()?).collect());
            }
            "--jobs" => jobs = arguments.next()?.parse().ok()?,
            "--quiet" => is_quiet = true,
            "--mutant" => mutant = Some(arguments.next()?),
            _ => return None,
        }
    }
    match (seed, seeds, mutant) {
        (Some(seed), None, mutant) => Some(Task::One { seed, is_quiet, mutant }),
        (None, Some(seeds), None) => Some(Task::Many { seeds, jobs }),
        (None, seeds, Some(mutant)) => Some(Task::Hunt { mutant, seeds, jobs }),
        _ => None,
    }
}

fn main() -> ExitCode {
    let task = task(std::env::args().skip(1));
    let is_ok = match task {
        None => return refuse(USAGE),
        Some(Task::Many { seeds, jobs }) => match runner::run(&seeds, jobs) {
            Ok(is_ok) => is_ok,
            Err(error) => {
                eprintln!("sim: {error}");
                false
            }
        },
        Some(Task::One { seed, is_quiet, mutant: None }) => one(seed, is_quiet),
        #[cfg(feature = "mutants")]
        Some(Task::One { seed, is_quiet, mutant: Some(name) }) => {
            let Some(mutant) = store::Mutant::named(&name) else { return refuse("there is no such mutant") };
            store::mutant::choose(Some(mutant));
            one(seed, is_quiet)
        }
        #[cfg(feature = "mutants")]
        Some(Task::Hunt { mutant, seeds, jobs }) => {
            let Some(mutants) = mutants::named(&mutant) else { return refuse("there is no such mutant") };
            match mutants::run(&mutants, seeds.as_deref(), jobs) {
                Ok(is_ok) => is_ok,
                Err(error) => {
                    eprintln!("sim: {error}");
                    false
                }
            }
        }
        #[cfg(not(feature = "mutants"))]
        Some(Task::One { .. } | Task::Hunt { .. }) => {
            return refuse("this build has no mutants: cargo run -p sim --features mutants");
        }
    };
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(2)
}

fn one(seed: u64, is_quiet: bool) -> bool {
    // Before anything else: the first hash map of a thread draws what all its others are seeded by.
    clock::start(seed);
    log();
    watch_for_standstill(seed);
    let report = run::run(seed, is_quiet);
    for violation in &report.violations {
        println!("VIOLATED {violation}");
    }
    println!("replay: cargo run -p sim -- --seed {seed}");
    println!("RESULT {}", report.line);
    report.violations.is_empty()
}

/// What the nodes log, with virtual time and the node that runs.
fn log() {
    struct Virtual;
    impl FormatTime for Virtual {
        fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
            write!(writer, "{:>7} n{}", clock::now_ms(), clock::node())
        }
    }
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let subscriber =
            tracing_subscriber::fmt().with_env_filter(filter).with_timer(Virtual).with_ansi(false);
        subscriber.with_writer(std::io::stderr).init();
    }
}

/// Ends the process when virtual time stands still: something spins, or waits for what only this thread could bring, such
/// as a lock that the disk's thread holds (ARCHITECTURE.md, Locks).
fn watch_for_standstill(seed: u64) {
    let watch = move || {
        let mut last = clock::now_ms();
        loop {
            std::thread::sleep(Duration::from_mins(1));
            let now = clock::now_ms();
            if now == last {
                eprintln!("seed {seed}: virtual time has stood still at {now} ms for a minute");
                std::process::abort();
            }
            last = now;
        }
    };
    std::thread::Builder::new().name("watch".to_owned()).spawn(watch).expect("a thread");
}
