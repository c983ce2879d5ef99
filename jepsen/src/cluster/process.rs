//! Processes of the run: each is written down in the lease, and killed and reaped when dropped.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::lease::Lease;
use super::wait::Stop;

/// A child of the harness; its output is appended to a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    pub fn start(lease: &Lease, name: &str, command: &mut Command, log: &Path) -> Result<Process> {
        let out = OpenOptions::new().create(true).append(true).open(log);
        let out = out.with_context(|| format!("open {}", log.display()))?;
        // A group of its own: Ctrl-C is for the harness, which ends what it started in its order.
        command.process_group(0).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("start {name}: {command:?}"))?;
        // From here on it is killed should anything fail.
        let process = Process { name: name.to_owned(), child };
        lease.note(process.pid())?;
        Ok(process)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; `None` while it runs.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        ensure!(self.exited()?.is_none(), "{} is gone", self.name);
        let pid = Pid::from_raw(self.child.id() as i32).context("process id 0")?;
        Ok(kill_process(pid, signal)?)
    }

    /// kill -9, and waits until the kernel has closed what it held.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, stop: &Stop, limit: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        stop.until(&format!("the end of {}", self.name), limit, || Ok(child.try_wait()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process has been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last `lines` of a file; empty when there is no such file.
pub fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
