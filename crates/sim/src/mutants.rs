//! The checkers checked: each mutant (store's mutant.rs) breaks one rule on purpose, and something must notice.
//!
//! Most are hunted with seeds, one after the other until an invariant is violated; the same seed must then hold without the
//! mutant, or it shows something else. What a simulation cannot bring about is hunted by a test that proves the rule.

use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use store::Mutant;

/// A mutant that lives longer is not caught.
const PATIENCE: Duration = Duration::from_mins(5);
/// Seeds that are tried by default, from 1 on.
pub(crate) const SEEDS: u64 = 200;

/// What is to notice a mutant.
#[derive(Clone, Copy)]
enum Hunter {
    Seeds,
    /// A test of a package, by its name in a target.
    Test {
        package: &'static str,
        target: &'static [&'static str],
        name: &'static str,
    },
}

const fn store_test(name: &'static str) -> Hunter {
    Hunter::Test { package: "store", target: &["--test", "it"], name }
}

fn hunter(mutant: Mutant) -> Hunter {
    match mutant {
        // Nothing is ever read but the commit index of the newest tables, or one that is clamped: it takes a look at the disk.
        Mutant::CommitBeyondFsync => {
            store_test("snapshot::rule_3_the_commit_index_on_disk_is_never_beyond_the_fsynced_log")
        }
        // Takes a proposer that is deaf for an election of its own node, which needs two threads.
        Mutant::NoWithLeader => Hunter::Test {
            package: "replica",
            target: &["--lib"],
            name: "tests::proposals::what_was_proposed_for_an_old_term_is_not_appended_by_the_same_leader_in_a_later_one",
        },
        // Take entries that are rejected between others that are not, which one thread hardly brings about.
        Mutant::NoVoidCheck => Hunter::Test {
            package: "broker",
            target: &["--lib"],
            name: "state::tests::an_entry_is_void_as_a_whole",
        },
        Mutant::CountOnAfterRejection => Hunter::Test {
            package: "replica",
            target: &["--lib"],
            name: "tests::proposals::a_gap_in_the_lease_of_a_term_leaves_no_hole",
        },
        // Takes an acknowledgement that comes late, and between two steps of who takes the batch over: two seeds of a thousand.
        Mutant::AcknowledgedAgain => Hunter::Test {
            package: "broker",
            target: &["--lib"],
            name: "state::pop::tests::what_was_acknowledged_while_a_take_was_on_its_way_is_not_handed_out_again",
        },
        // Takes three leaders in a row, and frames of equal length.
        Mutant::FramesNotChained => store_test("damage::rule_5_a_truncated_frame_never_comes_back"),
        Mutant::WatermarkNotLowered => {
            store_test("damage::rule_5_the_watermark_is_lowered_before_anything_is_overwritten")
        }
        _ => Hunter::Seeds,
    }
}

/// How a hunt ended.
enum End {
    Caught {
        by: String,
        with: String,
    },
    Survived(String),
    /// Nobody knows whether it was the mutant that was noticed.
    Void(String),
}

/// The mutants of a name, or all of them.
pub(crate) fn named(name: &str) -> Option<Vec<Mutant>> {
    if name == "all" {
        return Some(Mutant::ALL.to_vec());
    }
    Mutant::named(name).map(|mutant| vec![mutant])
}

/// Hunts mutants; true when all are caught. `seeds`: those instead of the default, also for mutants that a test catches.
pub(crate) fn run(mutants: &[Mutant], seeds: Option<&[u64]>, jobs: usize) -> io::Result<bool> {
    let mut caught = 0;
    for mutant in mutants {
        let began = Instant::now();
        let end = match (seeds, hunter(*mutant)) {
            (Some(seeds), _) => with_seeds(*mutant, seeds, jobs)?,
            (None, Hunter::Seeds) => {
                let seeds: Vec<u64> = (1..=SEEDS).collect();
                with_seeds(*mutant, &seeds, jobs)?
            }
            (None, Hunter::Test { package, target, name }) => with_test(*mutant, package, target, name)?,
        };
        let name = mutant.name();
        let seconds = began.elapsed().as_secs();
        match end {
            End::Caught { by, with } => {
                caught += 1;
                println!("CAUGHT {name} with {with} in {seconds} s by {by}");
            }
            End::Survived(with) => println!("SURVIVED {name}: {with}, {seconds} s; it {}", mutant.what()),
            End::Void(why) => println!("VOID {name}: {why}"),
        }
    }
    println!("mutants: {caught} caught, {} not", mutants.len() - caught);
    Ok(caught == mutants.len())
}

/// One seed in a process of its own.
fn seed(seed: u64, mutant: Option<Mutant>) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--seed", &seed.to_string(), "--quiet"]).env_remove("RUST_LOG");
    if let Some(mutant) = mutant {
        command.args(["--mutant", mutant.name()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

fn with_seeds(mutant: Mutant, seeds: &[u64], jobs: usize) -> io::Result<End> {
    let began = Instant::now();
    for (n, batch) in seeds.chunks(jobs.max(1)).enumerate() {
        let tried = n * jobs.max(1);
        if began.elapsed() >= PATIENCE {
            return Ok(End::Survived(format!("{tried} seeds")));
        }
        let mut children = Vec::new();
        for number in batch {
            children.push((*number, seed(*number, Some(mutant))?.spawn()?));
        }
        let mut ends = Vec::new();
        for (number, child) in children {
            ends.push((number, child.wait_with_output()?));
        }
        for (number, output) in ends {
            if output.status.success() {
                continue;
            }
            let said = String::from_utf8_lossy(&output.stdout);
            let Some(by) = said.lines().find_map(|line| line.strip_prefix("VIOLATED ")) else {
                let errors = String::from_utf8_lossy(&output.stderr);
                let last = errors.lines().last().unwrap_or_default();
                return Ok(End::Void(format!("seed {number} ended with {}: {last}", output.status)));
            };
            if !seed(number, None)?.output()?.status.success() {
                return Ok(End::Void(format!("seed {number} does not hold without it either")));
            }
            let with = format!("seed {number} ({} tried)", tried + batch.len());
            return Ok(End::Caught { by: by.to_owned(), with });
        }
    }
    Ok(End::Survived(format!("{} seeds", seeds.len())))
}

/// The profile with which this program was built: its folder's name but for that of `dev`.
fn profile() -> io::Result<String> {
    let program = std::env::current_exe()?;
    let folder = program.parent().and_then(|folder| folder.file_name()).unwrap_or_default();
    Ok(match folder.to_string_lossy().as_ref() {
        "debug" => "dev".to_owned(),
        name => name.to_owned(),
    })
}

fn with_test(mutant: Mutant, package: &str, target: &[&str], name: &str) -> io::Result<End> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = profile()?;
    let test = |is_on: bool| {
        let mut command = Command::new(&cargo);
        command
            .args(["test", "-p", package, "--features", "mutants", "--profile", &profile])
            .args(target)
            .args([name, "--", "--exact"]);
        if is_on {
            command.env("RAFTMQ_MUTANT", mutant.name());
        }
        command.stdin(Stdio::null()).output()
    };
    let said =
        |output: &std::process::Output, what: &str| String::from_utf8_lossy(&output.stdout).contains(what);
    let without = test(false)?;
    if !said(&without, "1 passed; 0 failed") {
        let errors = String::from_utf8_lossy(&without.stderr).into_owned();
        return Ok(End::Void(format!("{name} does not pass without it: {errors}")));
    }
    let with = format!("cargo test -p {package} {name}");
    if said(&test(true)?, "0 passed; 1 failed") {
        Ok(End::Caught { by: "its failure".to_owned(), with })
    } else {
        Ok(End::Survived(with))
    }
}
