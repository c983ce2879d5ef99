//! RocketMQ's own admin tool, one process for each command as operators run it.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::java;

/// Runs `mqadmin ARGUMENTS -n NAMESRV` of Apache RocketMQ 5.3.3 and returns its standard output. mqadmin ends with
/// status 0 after most errors, so an exception in its output is the sign of failure.
pub fn run(dir: &Path, namesrv: &str, arguments: &[&str]) -> Result<String> {
    let mut command = java::command(&dir.join("mqadmin.home"));
    command.args(["-cp", &java::mqadmin_classpath()?, "org.apache.rocketmq.tools.command.MQAdminStartup"]);
    command.args(arguments).args(["-n", namesrv]).stdin(Stdio::null());
    let output = command.output().context("run java")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    let log = format!("mqadmin {}\n{said}{complained}\n", arguments.join(" "));
    std::fs::write(dir.join(format!("mqadmin-{}.log", arguments.first().unwrap_or(&"help"))), &log)?;
    ensure!(output.status.success() && !log.contains("Exception"), "{log}");
    Ok(said)
}

/// The lines of a table whose columns are separated by blanks, behind its heading (which starts with '#').
pub fn rows(output: &str) -> Vec<Vec<&str>> {
    let lines = output.lines().skip_while(|line| !line.starts_with('#')).skip(1);
    lines.filter(|line| !line.trim().is_empty()).map(|line| line.split_whitespace().collect()).collect()
}
