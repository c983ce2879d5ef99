//! Whole groups on virtual time, network and disk, from one seed.
//!
//! ```text
//! cargo run -p sim -- --seed 7            the trace, and the line that repeats it
//! cargo run -p sim -- --seeds 1..=200     many, each in a process of its own
//! ```
//! | file | what |
//! |---|---|
//! | plan.rs, random.rs | what a seed decides |
//! | clock.rs, thread.rs, cluster.rs | time, and in which order things run |
//! | net.rs, disk.rs | what is between nodes, and under them |
//! | served.rs, tables.rs | what a node does, as the broker would |
//! | workload.rs, waiting.rs, faults.rs | what is done to it |
//! | oracle.rs, invariants/ | what must hold, one file each |
//! | run.rs, runner.rs, trace.rs | one seed, many seeds, what is printed |
//!
//! Real are: store, replica, openraft, tonic and h2, the broker's replicated state and the queue index. Not here: the broker's
//! listeners, handlers, forwarding and registry, and real sockets, files and threads. See
//! docs/decisions/0009-simulation-in-one-thread.md.

mod clock;
mod cluster;
mod disk;
mod faults;
mod invariants;
mod net;
mod oracle;
mod panics;
mod plan;
mod random;
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
RUST_LOG=info shows what the nodes log, on stderr.";

enum Task {
    One { seed: u64, is_quiet: bool },
    Many { seeds: Vec<u64>, jobs: usize },
}

fn task(arguments: impl Iterator<Item = String>) -> Option<Task> {
    let (mut seed, mut seeds, mut jobs, mut is_quiet) = (None, None, 2, false);
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
            _ => return None,
        }
    }
    match (seed, seeds) {
        (Some(seed), None) => Some(Task::One { seed, is_quiet }),
        (None, Some(seeds)) => Some(Task::Many { seeds, jobs }),
        _ => None,
    }
}

fn main() -> ExitCode {
    let is_ok = match task(std::env::args().skip(1)) {
        None => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
        Some(Task::Many { seeds, jobs }) => match runner::run(&seeds, jobs) {
            Ok(is_ok) => is_ok,
            Err(error) => {
                eprintln!("sim: {error}");
                false
            }
        },
        Some(Task::One { seed, is_quiet }) => one(seed, is_quiet),
    };
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
