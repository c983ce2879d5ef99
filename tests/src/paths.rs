//! Where things lie: the workspace, cargo's target directory, the binary under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).stdin(Stdio::null());
    command
}

/// Cargo's target directory, wherever the environment or a configuration file has put it.
pub fn target() -> &'static Path {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET.get_or_init(|| {
        let output = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output();
        let metadata = output.ok().and_then(|o| serde_json::from_slice::<Value>(&o.stdout).ok());
        match metadata.as_ref().and_then(|m| m["target_directory"].as_str()) {
            Some(dir) => PathBuf::from(dir),
            None => workspace().join("target"),
        }
    })
}

/// The binary under test: `RAFTMQ_BIN`, or what `cargo build -p cli` makes in the profile of this test run.
pub fn raftmq() -> Result<&'static Path> {
    static BINARY: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let built = BINARY.get_or_init(|| match std::env::var_os("RAFTMQ_BIN") {
        Some(path) => Ok(PathBuf::from(path)),
        None => build().map_err(|e| format!("{e:#}")),
    });
    match built {
        Ok(path) => Ok(path),
        Err(error) => bail!("no binary to test: {error}"),
    }
}

fn build() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "-p", "cli", "--message-format", "json-render-diagnostics"]);
    // target/PROFILE/deps/it-…, where dev is called debug
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).and_then(Path::file_name).and_then(|name| name.to_str());
    if let Some(profile) = profile.filter(|name| *name != "debug") {
        command.args(["--profile", profile]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(output.status.success(), "cargo build -p cli: {}", output.status);
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut executables = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "raftmq")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executables.next_back().context("cargo named no executable `raftmq`")
}
