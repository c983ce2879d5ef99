//! One node: its disk, its configuration, its process and what is done to it at present.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::disk::Disk;
use super::lease::Lease;
use super::network::address;
use super::process::{Process, tail};
use super::shell::text;
use super::wait::Stop;
use super::{GROUP, Plan};

const CLIENT_PORT: u16 = 10911;
const PEER_PORT: u16 = 10901;
pub(super) const NAMESERVER_PORT: u16 = 9876;
/// The smallest that there is: a run of minutes shall cross many ends of segments.
const SEGMENT_BYTES: u64 = 16 << 20;

/// Producers that leave a transaction open are asked soon and often, so that a short run sees many questions; and they are
/// asked for as long as a fault may last.
const CHECK_AFTER_MS: u64 = 3_000;
const CHECK_EVERY_MS: u64 = 3_000;
const CHECKS_MAX: u32 = 1_000;

/// Larger answers to pulls than usual: millions of messages are read six times over.
const PULL: u32 = 256;
const PULL_BYTES: u32 = 256 << 10;

/// Where libfaketime is on Debian and its kin, or where a person says.
pub fn faketime_library() -> Option<PathBuf> {
    let said = std::env::var_os("JEPSEN_FAKETIME").map(PathBuf::from);
    let usual = ["x86_64-linux-gnu/faketime", "aarch64-linux-gnu/faketime", "faketime"]
        .map(|dir| Path::new("/usr/lib").join(dir).join("libfaketime.so.1"));
    said.into_iter().chain(usual).find(|file| file.is_file())
}

/// A node that ended without being told to.
#[derive(Clone, Debug)]
pub struct Exit {
    pub node: u64,
    pub status: String,
    /// The end of its log.
    pub last: String,
    /// The fault that was under way makes a node end: a failed fsync, a damaged file.
    pub is_expected: bool,
}

#[derive(Debug)]
pub struct Node {
    pub id: u64,
    pub disk: Disk,
    namespace: PathBuf,
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    /// What libfaketime adds to the wall clock, read at every look at it. `None`: the run has real clocks.
    clock: Option<PathBuf>,
    process: Option<Process>,
    /// Its process id, 0 where there is none, for those who sample the node.
    pid_cell: Arc<AtomicU32>,
    is_paused: bool,
    /// strace, while it makes the node's system calls fail or wait.
    tracer: Option<Process>,
    /// Its own end is no failure of the run.
    pub may_end: bool,
}

/// Where a node serves its clients.
pub fn client_address(id: u64) -> SocketAddr {
    SocketAddr::from((address(&host(id)), CLIENT_PORT))
}

/// The name of a node's host.
pub fn host(id: u64) -> String {
    format!("n{id}")
}

/// A node's configuration file (crates/cli/src/config).
fn configuration(plan: &Plan, id: u64, data: &Path) -> String {
    let peer = |id: u64| SocketAddr::from((address(&host(id)), PEER_PORT));
    let mut file = format!("cluster = \"jepsen\"\nnode = {id}\ndata = \"{}\"\n", data.display());
    let nameservers: Vec<String> = plan.nameserver_addresses().iter().map(SocketAddr::to_string).collect();
    let _ = writeln!(file, "nameservers = {nameservers:?}\n\n[peers]");
    for other in plan.node_ids() {
        let _ = writeln!(file, "{other} = \"{}\"", peer(other));
    }
    let _ = write!(
        file,
        "\n[broker]\nauto_create_topic = false\n\n[limits]\npull_messages_in_memory = {PULL}\n\
         pull_messages_on_disk = {PULL}\npull_bytes_on_disk = {PULL_BYTES}\n\n[[group]]\nname = \"{GROUP}\"\nlisten = \"{}\"\n\
         follower_reads = {}\nsegment_size = {SEGMENT_BYTES}\ntransaction_timeout_ms = {CHECK_AFTER_MS}\n\
         transaction_check_interval_ms = {CHECK_EVERY_MS}\ntransaction_checks_max = {CHECKS_MAX}\n",
        client_address(id),
        plan.follower_reads
    );
    file
}

impl Node {
    /// Makes its disk and its configuration; starts nothing.
    pub(super) fn make(lease: &Lease, plan: &Plan, id: u64, namespace: &Path) -> Result<Node> {
        let name = host(id);
        let disk = Disk::make(lease.work(), &name, plan.disk_bytes)?;
        disk.plant_canary()?;
        let config = plan.out.join(format!("{name}.toml"));
        std::fs::write(&config, configuration(plan, id, &disk.path().join("data")))?;
        let clock = plan.fake_clocks.then(|| lease.work().join(format!("{name}.clock")));
        let node = Node {
            id,
            disk,
            namespace: namespace.to_owned(),
            binary: plan.binary.clone(),
            config,
            log: plan.out.join(format!("{name}.log")),
            clock,
            process: None,
            pid_cell: Arc::default(),
            is_paused: false,
            tracer: None,
            may_end: false,
        };
        if node.clock.is_some() {
            node.set_clock("+0")?;
        }
        Ok(node)
    }

    /// The directory of its replica of the group.
    pub fn group_dir(&self) -> PathBuf {
        self.disk.path().join("data").join(GROUP)
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Starts it; its listeners open a moment later.
    pub fn start(&mut self, lease: &Lease) -> Result<()> {
        ensure!(self.process.is_none(), "node {} runs", self.id);
        // nsenter becomes the program, so that the process id is the node's.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", text(&self.namespace))).arg(&self.binary);
        command.arg("server").arg("--config").arg(&self.config);
        if let Some(clock) = &self.clock {
            let library = faketime_library().context("libfaketime is not installed")?;
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", clock);
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let process = Process::start(lease, &format!("node {}", self.id), &mut command, &self.log)?;
        self.pid_cell.store(process.pid(), Ordering::SeqCst);
        self.process = Some(process);
        self.is_paused = false;
        Ok(())
    }

    /// Forgets a process that is gone.
    fn ended(&mut self) {
        self.process = None;
        self.is_paused = false;
        self.pid_cell.store(0, Ordering::SeqCst);
    }

    pub(super) fn pid_cell(&self) -> &Arc<AtomicU32> {
        &self.pid_cell
    }

    fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().with_context(|| format!("node {} does not run", self.id))
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process()?.signal(signal)
    }

    /// kill -9; the process id that is gone now.
    pub fn kill(&mut self) -> Result<u32> {
        self.untrace()?;
        let mut process = self.process.take().with_context(|| format!("node {} does not run", self.id))?;
        let pid = process.pid();
        process.kill()?;
        self.ended();
        Ok(pid)
    }

    /// SIGSTOP. Returns when no thread of it runs any more.
    pub fn pause(&mut self, stop: &Stop) -> Result<()> {
        let pid = self.process()?.pid();
        self.signal(Signal::STOP)?;
        self.is_paused = true;
        // A signal takes effect when each thread next leaves the kernel; one that is in an fsync does so late.
        stop.until_true("every thread has stopped", Duration::from_secs(10), || threads_stopped(pid))
    }

    pub fn resume(&mut self) -> Result<()> {
        if self.is_paused {
            self.signal(Signal::CONT)?;
            self.is_paused = false;
        }
        Ok(())
    }

    /// SIGTERM. A second one cuts the time short that it leaves to clients, which is 35 s at least.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Waits for the end after [`Node::terminate`].
    pub fn wait_end(&mut self, stop: &Stop, limit: Duration) -> Result<ExitStatus> {
        let status = self.process()?.wait(stop, limit)?;
        self.ended();
        Ok(status)
    }

    /// Whether it has ended by itself since the last look.
    pub fn look(&mut self) -> Result<Option<Exit>> {
        let Some(process) = &mut self.process else { return Ok(None) };
        let Some(status) = process.exited()? else { return Ok(None) };
        self.ended();
        self.untrace()?;
        Ok(Some(Exit {
            node: self.id,
            status: status.to_string(),
            last: tail(&self.log, 15),
            is_expected: self.may_end,
        }))
    }

    /// Has system calls of it fail or wait: `injection` in the words of `strace -e inject=…`. What was injected is
    /// written to the file returned, a line per call.
    pub fn trace(&mut self, lease: &Lease, injection: &str) -> Result<PathBuf> {
        ensure!(self.tracer.is_none(), "node {} is traced already", self.id);
        let pid = self.process()?.pid();
        let calls = injection.split(':').next().unwrap_or_default();
        let file = lease.work().join(format!("{}.strace", host(self.id)));
        let _ = std::fs::remove_file(&file);
        let mut command = Command::new("strace");
        command.arg("-f").arg("-o").arg(&file).arg("-e").arg(format!("trace={calls}"));
        command.arg("-e").arg(format!("inject={injection}")).arg("-p").arg(pid.to_string());
        let log = lease.work().join("strace.log");
        self.tracer = Some(Process::start(lease, "strace", &mut command, &log)?);
        Ok(file)
    }

    /// Ends what [`Node::trace`] began. A tracer that is killed lets its process go.
    pub fn untrace(&mut self) -> Result<()> {
        if let Some(mut tracer) = self.tracer.take() {
            if tracer.exited()?.is_none() {
                tracer.kill()?;
            }
            // Threads that were stopped at a system call at that moment.
            if let Some(process) = &mut self.process
                && !self.is_paused
                && process.exited()?.is_none()
            {
                process.signal(Signal::CONT)?;
            }
        }
        Ok(())
    }

    pub fn is_traced(&self) -> bool {
        self.tracer.is_some()
    }

    /// Moves its wall clock: libfaketime's text, such as `+3600` or `-10y`.
    pub fn set_clock(&self, shift: &str) -> Result<()> {
        let clock = self.clock.as_ref().context("the run has real clocks")?;
        // Replaced whole: the node reads it at any moment.
        let next = clock.with_extension("next");
        std::fs::write(&next, format!("{shift}\n"))?;
        Ok(std::fs::rename(next, clock)?)
    }

    /// The file by which its wall clock is moved.
    pub fn clock_file(&self) -> Option<&Path> {
        self.clock.as_deref()
    }

    pub fn has_fake_clock(&self) -> bool {
        self.clock.is_some()
    }

    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

/// Whether every thread is in state T.
fn threads_stopped(pid: u32) -> Result<bool> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().next());
        if !matches!(state, Some("T" | "t" | "Z" | "X")) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_all_peers() {
        let plan = Plan { follower_reads: true, ..Plan::default() };
        let file: toml::Table = configuration(&plan, 2, Path::new("/d/data")).parse().unwrap();
        assert_eq!(file["node"].as_integer(), Some(2));
        assert_eq!(file["peers"].as_table().unwrap().len(), 3);
        assert_eq!(file["peers"]["3"].as_str(), Some("10.77.0.3:10901"));
        assert_eq!(file["nameservers"].as_array().unwrap().len(), 2);
        let group = &file["group"].as_array().unwrap()[0];
        assert_eq!(group["listen"].as_str(), Some("10.77.0.2:10911"));
        assert_eq!(group["follower_reads"].as_bool(), Some(true));
    }
}
