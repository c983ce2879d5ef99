//! RocketMQ's Go client: tests/go, built into target/go-client/raftmq-go.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use crate::paths;
use crate::runner::{Requirement, skip};
use crate::scenario::Scenario;

/// Why it cannot be built here; `None` when it can.
pub(crate) fn missing() -> Option<String> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let mut go = Command::new("go");
    go.arg("version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    MISSING
        .get_or_init(|| {
            let runs = go.status().is_ok_and(|status| status.success());
            (!runs).then(|| "go not installed".to_owned())
        })
        .clone()
}

/// The Go client, ready to run scenarios.
#[derive(Debug, Clone)]
pub struct Kit {
    program: PathBuf,
}

/// Builds tests/go with the versions that go.sum names. Skips the test when its modules cannot be had.
pub fn kit() -> Result<Kit> {
    static BUILT: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    let program = built.clone().map_err(|error| skip(Requirement::Go, error))?;
    Ok(Kit { program })
}

fn build() -> Result<PathBuf> {
    let folder = paths::target().join("go-client");
    std::fs::create_dir_all(&folder)?;
    let program = folder.join("raftmq-go");
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-o"]).arg(&program).arg(".");
    go.current_dir(paths::workspace().join("tests/go")).stdin(Stdio::null());
    let output = go.output().context("run go")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "go build: {said}");
    Ok(program)
}

impl Kit {
    /// Starts `raftmq-go ARGUMENTS`, with its files in `dir` under `name`. Offsets of broadcasting go below its home.
    pub fn scenario(&self, dir: &Path, name: &str, namesrv: &str, arguments: &[&str]) -> Result<Scenario> {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(["-namesrv", namesrv]);
        command.env("HOME", dir.join(format!("{name}.home"))).env_remove("NAMESRV_ADDR");
        let title = format!("{name} (go {})", arguments.join(" "));
        Scenario::start(&mut command, &title, dir, name)
    }
}
