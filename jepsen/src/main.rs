//! The binary `jepsen`: runs, checks, lists and cleans up. Arguments and exit codes live here alone.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | every check passed, and every fault really happened |
//! | 1 | the system broke a rule, or a step of the run failed |
//! | 2 | the run does not count: a fault that did not happen, an undecided search, a rule with nothing to check |
//! | 77 | skipped: this machine lacks something, which is named |

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use jepsen::check::{self, Porcupine, Status};
use jepsen::cluster::wait::Stop;
use jepsen::cluster::{self, lease};
use jepsen::export::Part;
use jepsen::history::{LivenessBounds, Reader};
use jepsen::nemesis::{Amount, KINDS, Need, kind};
use jepsen::run::rows::{self, NIGHTLY, QUICK, Row, nightly};
use jepsen::run::{self, Spec, Stage};
use jepsen::workload::{Options, Workload};

const FAILED: u8 = 1;
const INVALID: u8 = 2;
const SKIPPED: u8 = 77;

#[derive(Parser)]
#[command(name = "jepsen", version, about = "Breaks a RaftMQ cluster and checks what its clients saw.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One workload under one kind of fault
    Run(RunArgs),
    /// Check histories of earlier runs, or of other programs
    Check(CheckArgs),
    /// Write a history as EDN, for other checkers
    Export {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[arg(long, value_enum, default_value = "queues")]
        part: PartName,
        /// Write it here instead of to standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// The gates of CI: ten minutes in all
    Quick {
        /// These gates alone, such as Q-F0
        rows: Vec<String>,
        #[command(flatten)]
        matrix: MatrixArgs,
    },
    /// A row of the matrix, such as F1
    Nightly {
        row: String,
        /// The part of its size to run
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
        #[command(flatten)]
        matrix: MatrixArgs,
    },
    /// Workloads, kinds of faults, and the rows of the matrix
    List,
    /// Remove what runs have left behind whose harness was killed
    Clean,
}

#[derive(Args)]
struct RunArgs {
    #[arg(long, value_enum, default_value = "log")]
    workload: WorkloadName,
    /// Kinds of faults, one after the other; `jepsen list` shows them
    #[arg(long, value_delimiter = ',', default_value = "none")]
    nemesis: Vec<String>,
    /// How long each kind goes on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Faults of each kind, instead of a time
    #[arg(long)]
    times: Option<u32>,
    /// Messages a second
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// Bytes of a message's body
    #[arg(long, default_value_t = 256)]
    body: usize,
    #[arg(long, default_value_t = 4)]
    queues: u32,
    #[command(flatten)]
    matrix: MatrixArgs,
}

/// What every run has.
#[derive(Args, Clone)]
struct MatrixArgs {
    /// The seed of faults and clients; a random one if not given. It is in the history
    #[arg(long)]
    seed: Option<u64>,
    /// Where histories, reports and logs go
    #[arg(long, value_name = "DIR", default_value = "target/jepsen")]
    out: PathBuf,
    /// The binary under test, release or debug
    #[arg(long, env = "RAFTMQ_BIN", value_name = "PATH")]
    raftmq: Option<PathBuf>,
    /// Where disk images are made
    #[arg(long, value_name = "DIR", default_value = "/var/tmp/raftmq-jepsen")]
    work: PathBuf,
    /// Followers pass every pull on to the leader
    #[arg(long)]
    no_follower_reads: bool,
    /// The longest time without success, in ms, that no fault explains; for machines slower than the bounds are meant for
    #[arg(long, value_name = "MS")]
    quiet_gap: Option<u64>,
    /// Elections in a minute beyond which the run fails
    #[arg(long)]
    elections: Option<u64>,
    /// Leave out the search for linearizability, which needs Go
    #[arg(long)]
    no_search: bool,
}

#[derive(Args)]
struct CheckArgs {
    /// Histories; several are one history in parts
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Leave out the search for linearizability, which needs Go
    #[arg(long)]
    no_search: bool,
    /// Judge by the rules alone a history that has no plan
    #[arg(long)]
    planless: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum WorkloadName {
    Log,
    Group,
    Registers,
    Topics,
    All,
    Pop,
    Delay,
    Transaction,
    Waiting,
    Everything,
}

#[derive(Clone, Copy, ValueEnum)]
enum PartName {
    Queues,
    Offsets,
    Topics,
}

impl From<PartName> for Part {
    fn from(name: PartName) -> Part {
        match name {
            PartName::Queues => Part::Queues,
            PartName::Offsets => Part::Offsets,
            PartName::Topics => Part::Topics,
        }
    }
}

impl From<WorkloadName> for Workload {
    fn from(name: WorkloadName) -> Workload {
        match name {
            WorkloadName::Log => Workload::Log,
            WorkloadName::Group => Workload::Group,
            WorkloadName::Registers => Workload::Registers,
            WorkloadName::Topics => Workload::Topics,
            WorkloadName::All => Workload::All,
            WorkloadName::Pop => Workload::Pop,
            WorkloadName::Delay => Workload::Delay,
            WorkloadName::Transaction => Workload::Transaction,
            WorkloadName::Waiting => Workload::Waiting,
            WorkloadName::Everything => Workload::Everything,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| "error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match cli.command {
        Command::Run(args) => run_one(&args),
        Command::Check(args) => check_files(&args),
        Command::Export { files, part, output } => export(&files, part, output.as_deref()),
        Command::Quick { rows, matrix } => quick(&rows, &matrix),
        Command::Nightly { row, scale, matrix } => run_row(&row, scale, &matrix),
        Command::List => {
            list();
            Ok(0)
        }
        Command::Clean => clean(),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("jepsen: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run_one(args: &RunArgs) -> Result<u8> {
    let mut stages = Vec::new();
    for name in &args.nemesis {
        let kind = *kind(name).with_context(|| format!("no kind of fault {name}; see `jepsen list`"))?;
        let time = Amount::Time(Duration::from_secs(args.seconds));
        stages.push(Stage { kind, amount: args.times.map_or(time, Amount::Times) });
    }
    ensure!(args.queues > 0 && args.rate > 0, "queues and rate must be above 0");
    let seed = args.matrix.seed.unwrap_or_else(rand::random);
    let options = Options { rate: args.rate, body_bytes: args.body, queues: args.queues, seed };
    let workload = Workload::from(args.workload);
    let name = format!("{}+{}", workload.name(), args.nemesis.join("+"));
    execute(&spec(name, workload, stages, options, &args.matrix)?, &stop_on_signal()?)
}

fn run_row(id: &str, scale: f64, matrix: &MatrixArgs) -> Result<u8> {
    let row = nightly(id).with_context(|| format!("no row {id}; see `jepsen list`"))?;
    ensure!(scale > 0.0 && scale.is_finite(), "the scale must be above 0");
    if row.doses.is_empty() {
        println!("SKIPPED: {} {}: {}", row.id, row.about, row.lacks);
        return Ok(SKIPPED);
    }
    let seed = matrix.seed.unwrap_or_else(rand::random);
    let spec = spec(row.id.to_owned(), row.workload, row.stages(scale), row.options(seed), matrix)?;
    execute(&spec, &stop_on_signal()?)
}

/// All gates, or those that are named, each run whatever became of the one before. The worst of them counts.
fn quick(ids: &[String], matrix: &MatrixArgs) -> Result<u8> {
    let named =
        ids.iter().map(|id| rows::quick(id).with_context(|| format!("no gate {id}; see `jepsen list`")));
    let named: Vec<&Row> = named.collect::<Result<_>>()?;
    let gates = if named.is_empty() { QUICK.iter().collect() } else { named };
    let stop = stop_on_signal()?;
    let seed = matrix.seed.unwrap_or_else(rand::random);
    let mut codes = Vec::new();
    for row in gates {
        let spec = spec(row.id.to_owned(), row.workload, row.quick_stages(), row.options(seed), matrix)?;
        let code = execute(&spec, &stop).unwrap_or_else(|error| {
            eprintln!("jepsen: {}: {error:#}", row.id);
            FAILED
        });
        codes.push((row.id, code));
        if stop.is_stopped() {
            bail!("stopped");
        }
    }
    for (id, code) in &codes {
        let word = match *code {
            0 => "pass",
            FAILED => "FAIL",
            SKIPPED => "SKIPPED",
            _ => "INVALID",
        };
        println!("{word:<8} {id}");
    }
    let of = |wanted: u8| codes.iter().any(|(_, code)| *code == wanted).then_some(wanted);
    Ok(of(FAILED).or(of(INVALID)).or(of(SKIPPED)).unwrap_or(0))
}

fn spec(
    name: String,
    workload: Workload,
    stages: Vec<Stage>,
    options: Options,
    matrix: &MatrixArgs,
) -> Result<Spec> {
    let binary = match &matrix.raftmq {
        Some(binary) => binary.clone(),
        None => run::default_binary()?,
    };
    ensure!(matrix.work.to_str().is_some() && matrix.out.to_str().is_some(), "paths must be text");
    Ok(Spec {
        out: matrix.out.join(format!("{name}-{}", options.seed)),
        name,
        workload,
        stages,
        options,
        cluster: cluster::Plan {
            binary,
            work: matrix.work.clone(),
            follower_reads: !matrix.no_follower_reads,
            ..cluster::Plan::default()
        },
        liveness: LivenessBounds {
            quiet_gap_ms: matrix.quiet_gap,
            elections_per_minute: matrix.elections,
            progress_min: workload.progress_min(),
            ..LivenessBounds::default()
        },
        searched: !matrix.no_search && can_search(),
    })
}

/// Whether the search for linearizability can be made here (check/porcupine.rs).
fn can_search() -> bool {
    std::env::var_os("RAFTMQ_PORCUPINE").is_some() || cluster::shell::find("go").is_some()
}

/// Runs and checks; the exit code.
fn execute(spec: &Spec, stop: &Stop) -> Result<u8> {
    let missing = spec.missing();
    if !missing.is_empty() {
        println!("SKIPPED: {}: this machine lacks {}", spec.name, missing.join(", "));
        return Ok(SKIPPED);
    }
    println!(
        "{}, seed {}, some {} s, into {}",
        spec.name,
        spec.options.seed,
        spec.time().as_secs(),
        spec.out.display()
    );
    let ran = run::run(spec, stop)?;
    let report = check::check_files(std::slice::from_ref(&ran.history), &options(!spec.searched, false))?;
    let verdict = spec.out.join("report.json");
    std::fs::write(&verdict, report.to_json()?).with_context(|| verdict.display().to_string())?;
    print!("{report}");
    println!("{} faults; history {}", ran.faults, ran.history.display());
    for problem in &ran.problems {
        println!("PROBLEM  {problem}");
    }
    // A step that failed is a failure, even where all that the history still holds is good.
    Ok(if ran.problems.is_empty() || report.status == Status::Fail { report.exit_code() } else { FAILED })
}

fn options(no_search: bool, planless: bool) -> check::Options {
    let porcupine = if no_search { Porcupine::Off } else { Porcupine::IfPresent };
    check::Options { porcupine, planless, ..check::Options::default() }
}

fn check_files(args: &CheckArgs) -> Result<u8> {
    let report = check::check_files(&args.files, &options(args.no_search, args.planless))?;
    if args.json {
        println!("{}", report.to_json()?);
    } else {
        print!("{report}");
    }
    Ok(report.exit_code())
}

fn export(files: &[PathBuf], part: PartName, output: Option<&Path>) -> Result<u8> {
    let out: Box<dyn Write> = match output {
        Some(path) => Box::new(std::fs::File::create(path).with_context(|| path.display().to_string())?),
        None => Box::new(std::io::stdout().lock()),
    };
    let out = std::io::BufWriter::new(out);
    let operations = jepsen::export::export(Reader::open(files)?, part.into(), out)?;
    eprintln!("{operations} operations");
    Ok(0)
}

fn list() {
    println!("Workloads (--workload)");
    for workload in Workload::ALL {
        println!("  {:<26}{}", workload.name(), workload.about());
    }
    println!("\nKinds of faults (--nemesis)");
    for kind in KINDS {
        let needs: Vec<&str> = kind
            .needs
            .iter()
            .map(|need| match need {
                Need::Program(program) => *program,
                Need::FakeClocks => "libfaketime",
            })
            .collect();
        let needs = if needs.is_empty() { String::new() } else { format!("; needs {}", needs.join(", ")) };
        println!("  {:<26}{}{needs}", kind.name, kind.about);
    }
    let print = |rows: &[Row]| {
        for row in rows {
            let time: Duration = row.stages(1.0).iter().map(Stage::time).sum();
            let minutes = time.as_secs().div_ceil(60);
            println!("  {:<18}{:<54}{minutes:>5} min  {:?}", row.id, row.about, row.doses);
            if !row.lacks.is_empty() {
                println!("  {:<18}without: {}", "", row.lacks);
            }
        }
    };
    println!("\nRows (jepsen nightly ROW)");
    print(NIGHTLY);
    println!("\nGates (jepsen quick)");
    print(QUICK);
}

fn clean() -> Result<u8> {
    let missing = cluster::missing(cluster::PROGRAMS);
    if !missing.is_empty() {
        println!("SKIPPED: this machine lacks {}", missing.join(", "));
        return Ok(SKIPPED);
    }
    let mut code = 0;
    for id in lease::abandoned()? {
        match lease::remove(&id) {
            Ok(()) => println!("run {id} is removed"),
            Err(error) => {
                eprintln!("jepsen: run {id}: {error:#}");
                code = FAILED;
            }
        }
    }
    Ok(code)
}

/// The sign that ends a run in order at Ctrl-C or SIGTERM. A second signal ends the harness at once; what it leaves behind
/// `jepsen clean` removes.
fn stop_on_signal() -> Result<Stop> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Stop::default();
    let on_signal = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if on_signal.is_stopped() {
                    eprintln!("jepsen: ended at once; `jepsen clean` removes what is left");
                    std::process::exit(130);
                }
                eprintln!("jepsen: stopping");
                on_signal.stop();
            }
        });
    })?;
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["jepsen", "nightly", "F1", "--scale", "0.1", "--seed", "7"]);
        assert!(matches!(cli.unwrap().command, Command::Nightly { .. }));
        let cli = Cli::try_parse_from(["jepsen", "run", "--nemesis", "kill-leader,halves", "--out", "/x"]);
        let Command::Run(args) = cli.unwrap().command else { panic!("another command") };
        assert_eq!(args.nemesis, ["kill-leader", "halves"]);
        assert_eq!(args.matrix.out, Path::new("/x"));
    }
}
