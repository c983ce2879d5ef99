//! The binary `raftmq`: every role of a node, and the commands of its users and operators.

mod admin;
mod bench;
mod config;
mod consume;
mod dev;
mod drill;
mod node;
mod produce;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

const _: () = assert!(
    !broker::HAS_MUTANTS,
    "with the feature `mutants` an environment variable could make raftmq break its rules: build it without (--all-features of \
     the workspace has it, -p cli does not)"
);

#[derive(Parser)]
#[command(name = "raftmq", version, about = "A RocketMQ-compatible broker whose CommitLog is a Raft log.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a nameserver and a three-node group on loopback, for development
    Dev(dev::DevArgs),
    /// Start one node from its configuration file
    Server(ServerArgs),
    /// Check or make configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Send messages: one per line of standard input, or generated ones
    Produce(produce::ProduceArgs),
    /// Receive messages and print their bodies
    Consume(consume::ConsumeArgs),
    /// Show and change a running cluster
    Admin(admin::AdminArgs),
    /// Generate load against RaftMQ or Apache RocketMQ and print what it took
    Bench(bench::BenchArgs),
    /// Do to a running cluster what may happen to it, and see what clients see meanwhile
    Drill(drill::DrillArgs),
}

#[derive(Args)]
struct ServerArgs {
    /// The node's configuration file; conf/ has commented examples
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say whether a file is whole; if not: file, line, key and the rule
    Check { file: PathBuf },
    /// Turn a RocketMQ or DLedger broker.conf into a file for RaftMQ, and say what became of each key
    Import {
        file: PathBuf,
        /// Write the new file here instead of to standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Where `raftmq dev` has its nameserver, and RocketMQ's usual port.
const DEFAULT_NAMESERVER: &str = "127.0.0.1:9876";

/// Where a cluster is found; every command that talks to one has it.
#[derive(Args, Clone)]
struct ClusterArgs {
    /// Nameservers, host:port, separated by ';'
    #[arg(
        short = 'n',
        long,
        env = "NAMESRV_ADDR",
        default_value = DEFAULT_NAMESERVER,
        value_name = "ADDRESSES"
    )]
    nameserver: String,
}

fn main() -> ExitCode {
    share_one_arena();
    let cli = Cli::parse_from(admin::translate(std::env::args_os()));
    start_log();
    let result = match cli.command {
        Command::Dev(args) => dev::run(args),
        Command::Server(args) => config::load(&args.config).map_err(Into::into).and_then(node::run),
        Command::Config(ConfigCommand::Check { file }) => check(&file),
        Command::Config(ConfigCommand::Import { file, output }) => import(&file, output.as_deref()),
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Admin(args) => admin::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Drill(args) => drill::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raftmq: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One arena of glibc's allocator for all threads, unless `MALLOC_ARENA_MAX` says otherwise. A message is allocated by one
/// thread and freed by another, so each thread's own arena only keeps memory that is not used: with one, a node under load
/// is a third smaller and no slower (docs/decisions/0008).
fn share_one_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // SAFETY: sets one number of the allocator, before any other thread is started.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

/// Logs go to standard error; RUST_LOG chooses what (default: info of our crates, warnings of the others).
fn start_log() {
    const DEFAULT: &str =
        "warn,raftmq=info,broker=info,replica=info,store=info,nameserver=info,net=info,client=warn";
    // While a peer is down, openraft warns of each heartbeat and each append to it, some twenty times a second. So it is
    // quiet also under RUST_LOG=info, and warns where RUST_LOG names it. Lag is in `raftmq admin group status`.
    const QUIET: &str = "openraft=error";
    let chosen = std::env::var("RUST_LOG").ok().filter(|chosen| !chosen.is_empty());
    let filter = format!("{QUIET},{}", chosen.as_deref().unwrap_or(DEFAULT));
    let filter = tracing_subscriber::EnvFilter::new(filter);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).init();
}

fn check(file: &std::path::Path) -> anyhow::Result<()> {
    let checked = config::load(file)?;
    println!(
        "{}: node {} of cluster {}, {} group(s){}",
        file.display(),
        checked.node,
        checked.cluster,
        checked.broker.as_ref().map_or(0, |broker| broker.groups.len()),
        if checked.nameserver.is_some() { ", nameserver" } else { "" }
    );
    let nameservers = checked.broker.as_ref().map_or(&[][..], |broker| &broker.nameservers[..]);
    if !nameservers.is_empty() {
        println!("clients find it by NAMESRV_ADDR='{}'", nameservers.join(";"));
    }
    for note in checked.notes() {
        println!("note: {note}");
    }
    Ok(())
}

fn import(file: &std::path::Path, output: Option<&std::path::Path>) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let imported = config::import(&text);
    // What became of the keys goes to standard error, so that the file can be redirected.
    for (key, value, fate) in &imported.keys {
        match fate {
            config::Fate::Kept(as_key) => eprintln!("kept         {key} = {value}  →  {as_key}"),
            config::Fate::Renamed(as_key) => eprintln!("renamed      {key} = {value}  →  {as_key}"),
            config::Fate::Meaningless(why) => eprintln!("meaningless  {key} = {value}  ({why})"),
        }
    }
    for note in &imported.notes {
        eprintln!("note         {note}");
    }
    if let Err(error) = config::check(output.unwrap_or("the new file".as_ref()), &imported.toml) {
        eprintln!("note         it cannot be used yet: {error}");
    }
    match output {
        None => print!("{}", imported.toml),
        Some(path) => std::fs::write(path, &imported.toml)
            .with_context(|| format!("{} cannot be written", path.display()))?,
    }
    Ok(())
}
