//! The first thing that must hold of a simulation: a seed run twice, in processes of their own, gives the same trace.

use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().expect("the simulator runs")
}

fn trace(seed: u64) -> String {
    let output = sim(&["--seed", &seed.to_string()]);
    String::from_utf8(output.stdout).expect("a trace is text")
}

/// The first line that differs, with the one before it.
fn difference(one: &str, other: &str) -> Option<String> {
    let mut before = "";
    for (number, (one, other)) in one.lines().zip(other.lines()).enumerate() {
        if one != other {
            return Some(format!("line {number}, after {before:?}:\n  {one}\n  {other}"));
        }
        before = one;
    }
    (one.len() != other.len()).then(|| format!("one is longer: {} and {} bytes", one.len(), other.len()))
}

#[test]
fn a_seed_run_twice_gives_the_same_trace() {
    for seed in [1, 2, 3] {
        let (one, other) = (trace(seed), trace(seed));
        assert!(one.lines().count() > 100, "seed {seed} does something:\n{one}");
        if let Some(difference) = difference(&one, &other) {
            panic!("seed {seed}: {difference}");
        }
    }
}

#[test]
fn seeds_differ() {
    let (one, other) = (sim(&["--seed", "4", "--quiet"]), sim(&["--seed", "5", "--quiet"]));
    assert_ne!(one.stdout, other.stdout);
}

#[test]
fn what_must_hold_holds() {
    let output = sim(&["--seeds", "1..=8"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("sim: 8 passed, 0 failed"), "{said}");
}

/// What is built without the feature breaks no rule, however it is asked to.
#[cfg(not(feature = "mutants"))]
#[test]
fn a_build_without_mutants_has_none() {
    for arguments in [&["--mutant", "ack-before-fsync", "--seed", "1"][..], &["--mutant", "all"]] {
        let output = sim(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}: nothing is run");
    }
    let mut sim = Command::new(env!("CARGO_BIN_EXE_sim"));
    let output = sim.args(["--seed", "1", "--quiet"]).env("RAFTMQ_MUTANT", "ack-before-fsync").output();
    assert!(output.expect("the simulator runs").status.success(), "the environment changes nothing");
}

/// A mutant that shows at once is caught, by the invariant that is its rule.
#[cfg(feature = "mutants")]
#[test]
fn a_mutant_is_caught_and_named() {
    let output = sim(&["--mutant", "uncommitted-read-at-follower", "--seeds", "1..=8"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("CAUGHT uncommitted-read-at-follower with seed"), "{said}");
    assert!(said.contains("by durable_majority: "), "{said}");
    assert!(said.contains("mutants: 1 caught, 0 not"), "{said}");
}

/// A seed that once failed is a test of its own, named by what it found. What a seed does changes with the workload; what it
/// found then has a test beside the code too (docs/found.md).
macro_rules! seeds_that_failed {
    ($($name:ident: $seed:literal;)*) => {
        $(
            #[test]
            fn $name() {
                let output = sim(&["--seed", stringify!($seed), "--quiet"]);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            }
        )*
    };
}

seeds_that_failed! {
    a_follower_that_must_catch_up_does_with_small_segments: 15;
    a_leader_whose_idle_log_failed_ends: 24;
    a_dead_peer_does_not_make_a_leader_spin: 37;
    log_time_does_not_run_ahead_of_a_clock_that_was_set_right: 52;
    a_leaders_stream_to_a_node_whose_sync_fails_ends_once: 64;
    a_full_disk_takes_no_snapshot_and_lives: 97;
    and_so_it_does_under_load: 138;
    what_was_acknowledged_in_order_is_not_handed_out_again: 725;
    nor_after_resets_and_a_purge: 945;
}

#[test]
fn wrong_arguments_are_refused() {
    for arguments in [
        &[][..],
        &["--seed"],
        &["--seed", "x"],
        &["--seeds", "1..2"],
        &["--seed", "1", "--seeds", "1..=2"],
        &["--mutant"],
        &["--mutant", "none"],
        &["--mutant", "none", "--seed", "1"],
        &["--mutant", "no-pre-vote", "--seed", "1", "--seeds", "1..=2"],
    ] {
        assert_eq!(sim(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
