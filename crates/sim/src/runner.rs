//! Many seeds, each in a process of its own: what is global to a process (random state, threads) then starts anew with each.

use std::collections::BTreeMap;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A seed takes seconds.
const PATIENCE: Duration = Duration::from_mins(5);
/// From so many seeds on, each kind of fault must have happened, and of each of these something.
const ENOUGH: usize = 100;
const COUNTED: [&str; 11] = [
    "voids",
    "coupled",
    "coupled_voids",
    "popped",
    "locked",
    "in_order",
    "again",
    "resets",
    "told",
    "attempts",
    "installed",
];
const KINDS: [&str; 14] = [
    "kill",
    "power",
    "stop",
    "pause",
    "cut",
    "reset",
    "slow-link",
    "slow-disk",
    "hung-disk",
    "failed-sync",
    "full-disk",
    "clock",
    "transfer",
    "purge",
];

struct Under {
    seed: u64,
    child: Child,
    since: Instant,
}

/// How a seed ended: the line of its report, or why there is none.
struct Ended {
    seed: u64,
    output: String,
    is_ok: bool,
}

/// Runs the seeds, `jobs` at a time; true when all hold.
pub(crate) fn run(seeds: &[u64], jobs: usize) -> io::Result<bool> {
    let program = std::env::current_exe()?;
    let began = Instant::now();
    let mut waiting = seeds.iter().copied();
    let mut under_way: Vec<Under> = Vec::new();
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    let (mut passed, mut failed) = (0, Vec::new());
    loop {
        while under_way.len() < jobs.max(1)
            && let Some(seed) = waiting.next()
        {
            let mut command = Command::new(&program);
            command.args(["--seed", &seed.to_string(), "--quiet"]).env_remove("RUST_LOG");
            let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            under_way.push(Under { seed, child, since: Instant::now() });
        }
        if under_way.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
        let mut left = Vec::new();
        for mut under in under_way {
            let is_late = under.since.elapsed() >= PATIENCE;
            if is_late {
                // It may have ended just now.
                let _ = under.child.kill();
            }
            if !is_late && under.child.try_wait()?.is_none() {
                left.push(under);
                continue;
            }
            let ended = finish(under)?;
            match ended.output.lines().rev().find_map(|line| line.strip_prefix("RESULT ")) {
                Some(line) if ended.is_ok => {
                    passed += 1;
                    count(line, &mut totals, &mut faults);
                }
                _ => {
                    println!("---- seed {}\n{}", ended.seed, ended.output);
                    failed.push(ended.seed);
                }
            }
        }
        under_way = left;
    }
    println!("{} seeds in {} s", seeds.len(), began.elapsed().as_secs());
    for (what, count) in &totals {
        println!("  {what}: {count}");
    }
    println!("  faults: {faults:?}");
    let mut missing: Vec<&str> = KINDS.into_iter().filter(|kind| !faults.contains_key(*kind)).collect();
    missing.extend(COUNTED.into_iter().filter(|what| totals.get(*what).is_none_or(|count| *count == 0)));
    let is_enough = seeds.len() < ENOUGH || missing.is_empty();
    if !is_enough {
        println!("what did not happen: {missing:?}; what it would have shown is not known");
    }
    for seed in &failed {
        println!("FAILED; replay: cargo run -p sim -- --seed {seed}");
    }
    // As CI counts tests.
    println!("sim: {passed} passed, {} failed", failed.len());
    Ok(failed.is_empty() && is_enough)
}

fn finish(under: Under) -> io::Result<Ended> {
    let Under { seed, child, since } = under;
    let output = child.wait_with_output()?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_ok = output.status.success();
    if !is_ok {
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        text.push_str(&format!("{} after {} s", output.status, since.elapsed().as_secs()));
    }
    Ok(Ended { seed, output: text, is_ok })
}

/// Adds up the numbers of a report.
fn count(line: &str, totals: &mut BTreeMap<String, u64>, faults: &mut BTreeMap<String, u64>) {
    for (key, value) in line.split(' ').filter_map(|word| word.split_once('=')) {
        if key == "faults" {
            for (kind, count) in value.split(',').filter_map(|fault| fault.split_once(':')) {
                *faults.entry(kind.to_owned()).or_default() += count.parse::<u64>().unwrap_or(0);
            }
        } else if !matches!(key, "seed" | "ok" | "hash") {
            *totals.entry(key.to_owned()).or_default() += value.parse::<u64>().unwrap_or(0);
        }
    }
}
