//! RocketMQ's own admin tool, 5.3.3: one process for one command as operators run it, or a JVM that runs many.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::java;
use crate::process::{Process, tail};

/// A command that takes longer is interrupted.
const COMMAND: Duration = Duration::from_secs(40);
/// What the shell writes where it interrupted a command.
const INTERRUPTED: &str = "(interrupted)";

/// Runs `mqadmin ARGUMENTS -n NAMESRV` of Apache RocketMQ 5.3.3 and returns its standard output. mqadmin ends with
/// status 0 after most errors, so an exception in its output is the sign of failure.
pub fn run(dir: &Path, namesrv: &str, arguments: &[&str]) -> Result<String> {
    let mut command = java::command(&dir.join("mqadmin.home"));
    java::mqadmin()?.run(&mut command, java::MQADMIN);
    command.args(arguments).args(["-n", namesrv]).stdin(Stdio::null());
    let output = command.output().context("run java")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    let log = format!("mqadmin {}\n{said}{complained}\n", arguments.join(" "));
    std::fs::write(dir.join(format!("mqadmin-{}.log", arguments.first().unwrap_or(&"help"))), &log)?;
    ensure!(output.status.success() && !log.contains("Exception"), "{log}");
    Ok(said)
}

/// mqadmin in one JVM, for many commands (tests/java/mqadmin/Shell.java).
pub struct Shell {
    process: Process,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    namesrv: String,
    log: PathBuf,
}

impl Shell {
    /// Commands are asked of `namesrv`; files of a command that names none go below `dir`.
    pub fn start(dir: &Path, namesrv: &str) -> Result<Shell> {
        let log = dir.join("mqadmin.log");
        let mut command = java::command(&dir.join("mqadmin.home"));
        java::mqadmin()?.run(&mut command, "Shell");
        command.current_dir(dir);
        let (process, commands, answers) = Process::start_piped("mqadmin", &mut command, &log)?;
        Ok(Shell { process, commands, answers: BufReader::new(answers), namesrv: namesrv.to_owned(), log })
    }

    /// What a command writes, whatever that is, before its time is over.
    pub fn say(&mut self, arguments: &[&str], limit: Duration) -> Result<String> {
        let limit = limit.as_millis().to_string();
        // Without a command it lists all that there are.
        let nameservers = ["-n", &self.namesrv];
        let nameservers = if arguments.is_empty() { &[] } else { &nameservers[..] };
        let words = [&[limit.as_str()][..], arguments, nameservers].concat();
        writeln!(self.commands, "{}", words.join("\t"))?;
        let mut length = String::new();
        let read = self.answers.read_line(&mut length)?;
        let name = self.process.name();
        ensure!(read > 0, "{name} ended at {arguments:?}:\n{}", tail(&self.log, 20));
        let mut said = vec![0; length.trim().parse().with_context(|| format!("{length:?} is no length"))?];
        self.answers.read_exact(&mut said)?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let mut log = std::fs::OpenOptions::new().append(true).open(&self.log)?;
        write!(log, "mqadmin {}\n{said}\n", arguments.join(" "))?;
        Ok(said)
    }

    /// What a command writes that succeeds.
    pub fn run(&mut self, arguments: &[&str]) -> Result<String> {
        let said = self.say(arguments, COMMAND)?;
        let fails = said.contains("Exception") || said.contains(INTERRUPTED);
        ensure!(!fails, "mqadmin {}\n{said}", arguments.join(" "));
        Ok(said)
    }

    /// What a command writes that would go on for ever, in this time.
    pub fn watch(&mut self, arguments: &[&str], limit: Duration) -> Result<String> {
        let said = self.say(arguments, limit)?;
        ensure!(!said.contains("Exception"), "mqadmin {}\n{said}", arguments.join(" "));
        ensure!(said.contains(INTERRUPTED), "mqadmin {} ended:\n{said}", arguments.join(" "));
        Ok(said)
    }

    /// What a command writes that a server refuses.
    pub fn refused(&mut self, arguments: &[&str]) -> Result<String> {
        let said = self.say(arguments, COMMAND)?;
        ensure!(said.contains("Exception"), "mqadmin {} is not refused:\n{said}", arguments.join(" "));
        Ok(said)
    }
}

/// The lines of a table whose columns are separated by blanks, behind its heading (which starts with '#').
pub fn rows(output: &str) -> Vec<Vec<&str>> {
    let lines = output.lines().skip_while(|line| !line.starts_with('#')).skip(1);
    lines.filter(|line| !line.trim().is_empty()).map(|line| line.split_whitespace().collect()).collect()
}
