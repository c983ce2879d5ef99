//! A child process that cannot outlive its test.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Killed by its process id and reaped when dropped. Its standard error, and its standard output unless that is a
/// pipe, are appended to a log file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; `log` is created when missing.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Process> {
        let out = append(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        Self::spawn(name, command, log)
    }

    /// Starts `command` with its standard input and output as pipes.
    pub fn start_piped(
        name: &str,
        command: &mut Command,
        log: &Path,
    ) -> Result<(Process, ChildStdin, ChildStdout)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(append(log)?);
        let mut process = Self::spawn(name, command, log)?;
        let stdin = process.child.stdin.take().context("no standard input")?;
        let stdout = process.child.stdout.take().context("no standard output")?;
        Ok((process, stdin, stdout))
    }

    fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Process> {
        let child = command.spawn().with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Process { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; `None` while it runs.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// kill -9, and waits until the kernel has closed what it held.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal; an error when the process is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        ensure!(self.exited()?.is_none(), "{} is gone", self.name);
        let pid = Pid::from_raw(self.child.id() as i32).context("process id 0")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        wait::until(&format!("the end of {}", self.name), limit, || Ok(child.try_wait()?))
            .with_context(|| format!("{}:\n{}", self.log.display(), tail(&self.log, 20)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process has been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn append(log: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))
}

/// The last `lines` of a file; empty when there is no such file.
pub fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_process_is_gone() {
        let log = std::env::temp_dir().join(format!("raftmq-process-{}.log", std::process::id()));
        let mut process = Process::start("sleep", Command::new("sleep").arg("100"), &log).unwrap();
        assert_eq!(process.exited().unwrap(), None);
        process.signal(Signal::STOP).unwrap();
        let proc_dir = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(proc_dir.exists());
        drop(process);
        assert!(!proc_dir.exists());
        std::fs::remove_file(log).unwrap();
    }
}
