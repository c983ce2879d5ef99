//! How a fault is really done: a command that the scenario gives, or a signal to a node's process on this machine.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::scenario::{Deed, NodeHands};

/// A node that is told to stop hands over and lets its clients poll first, which takes half a minute.
const STOP: Duration = Duration::from_mins(1);

/// Does deeds, and keeps the processes that it started, so that they leave no zombies.
#[derive(Default)]
pub(crate) struct Doer {
    started: Vec<Child>,
}

impl Doer {
    /// Blocks until it is done.
    ///
    /// # Errors
    /// The command fails, or no such process runs here.
    pub(crate) fn act(&mut self, node: u64, hands: &NodeHands, deed: Deed) -> anyhow::Result<()> {
        let what = || format!("node {node}: {}", deed.name());
        if let Some(command) = hands.command(deed) {
            return run(command).with_context(what);
        }
        let config = hands.config.as_deref().with_context(|| format!("{}: no way is given", what()))?;
        self.act_on_process(config, deed).with_context(what)
    }

    fn act_on_process(&mut self, config: &Path, deed: Deed) -> anyhow::Result<()> {
        self.started.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        if deed == Deed::Start {
            if find(config)?.is_none() {
                self.started.push(start(config)?);
            }
            return Ok(());
        }
        let pid = find(config)?.with_context(|| format!("no node runs with {}", config.display()))?;
        match deed {
            Deed::Kill => signal(pid, Signal::KILL)?,
            Deed::Stop => signal(pid, Signal::TERM)?,
            Deed::Pause => return signal(pid, Signal::STOP),
            Deed::Resume => return signal(pid, Signal::CONT),
            Deed::Start | Deed::Isolate | Deed::Heal | Deed::Slow | Deed::Fast => {
                anyhow::bail!("a process of this machine cannot be asked for that; give a command")
            }
        }
        let since = Instant::now();
        while find(config)? == Some(pid) {
            anyhow::ensure!(since.elapsed() < STOP, "process {pid:?} has not ended in {} s", STOP.as_secs());
            for child in &mut self.started {
                // Its end is what the next look in /proc tells.
                let _ = child.try_wait();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn run(command: &str) -> anyhow::Result<()> {
    let output = Command::new("sh").arg("-c").arg(command).stdin(Stdio::null()).output()?;
    anyhow::ensure!(
        output.status.success(),
        "`{command}` ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The node is its own process group and outlives the drill.
fn start(config: &Path) -> anyhow::Result<Child> {
    let log = config.with_extension("drill.log");
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("{} cannot be written", log.display()))?;
    let child = Command::new(std::env::current_exe()?)
        .args(["server", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    Ok(child)
}

/// The process of this machine that runs `server --config FILE`: a program of our name, so that what starts or watches one
/// (sudo, timeout, a debugger) is not taken for it.
fn find(config: &Path) -> anyhow::Result<Option<Pid>> {
    let wanted = fs::canonicalize(config).with_context(|| format!("{} cannot be found", config.display()))?;
    let ours = std::env::current_exe()?;
    let mut found = None;
    for entry in fs::read_dir("/proc").context("/proc cannot be read: is this Linux?")? {
        let entry = entry?;
        let Some(pid) =
            entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok().and_then(Pid::from_raw))
        else {
            continue;
        };
        // A process may end while it is looked at; a zombie has no command line.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let Some(file) = config_argument(&line) else { continue };
        let is_ours =
            fs::read_link(entry.path().join("exe")).is_ok_and(|exe| program(&exe) == program(&ours));
        if !is_ours {
            continue;
        }
        let directory = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if fs::canonicalize(directory.join(file)).is_ok_and(|file| file == wanted) {
            anyhow::ensure!(found.is_none(), "two processes run with {}", config.display());
            found = Some(pid);
        }
    }
    Ok(found)
}

/// The name of a program's file; that of one which was replaced while it runs ends in " (deleted)" in /proc.
fn program(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
}

/// The file of `… server --config FILE` or `--config=FILE` in a command line of /proc.
fn config_argument(line: &[u8]) -> Option<PathBuf> {
    let words: Vec<&str> = std::str::from_utf8(line).ok()?.split('\0').collect();
    let server = words.iter().position(|word| *word == "server")?;
    let mut rest = words.get(server + 1..)?.iter();
    while let Some(word) = rest.next() {
        if *word == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(file) = word.strip_prefix("--config=") {
            return Some(PathBuf::from(file));
        }
    }
    None
}

fn signal(pid: Pid, signal: Signal) -> anyhow::Result<()> {
    kill_process(pid, signal).with_context(|| format!("process {pid:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_by_its_configuration_file() {
        for (line, file) in [
            ("raftmq\0server\0--config\0conf/n.toml\0", Some("conf/n.toml")),
            ("/usr/bin/raftmq\0server\0--config=/etc/n.toml\0", Some("/etc/n.toml")),
            ("raftmq\0config\0check\0n.toml\0", None),
            ("raftmq\0server\0", None),
            ("", None),
        ] {
            assert_eq!(config_argument(line.as_bytes()), file.map(PathBuf::from), "{line:?}");
        }
    }

    #[test]
    fn a_program_is_known_by_its_name() {
        let name = |file: &str| program(Path::new(file));
        assert_eq!(name("/usr/bin/raftmq"), name("/work/target/raftmq (deleted)"));
        assert_ne!(name("/usr/bin/raftmq"), name("/usr/bin/timeout"));
    }

    #[test]
    fn a_command_that_fails_says_what_it_wrote() {
        assert!(run("true").is_ok());
        let said = format!("{:#}", run("echo no such host >&2; exit 3").unwrap_err());
        assert!(said.contains("exit status: 3") && said.contains("no such host"), "{said}");
    }
}
