//! One scenario of tests/java by hand or from a benchmark script, with the JVM as it comes:
//!
//! ```text
//! NAMESRV_ADDR=127.0.0.1:9876 cargo run -p tests --bin scenario -- 5.3.3 throughput --topic t --seconds 30
//! ```
//! The version may be `newest`; java/raftmq/Scenario.java lists scenarios and options.

use std::process::{Command, exit};

use anyhow::{Context, Result};
use tests::{java, paths};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (version, arguments) =
        arguments.split_first().context("usage: scenario VERSION SCENARIO [OPTIONS]")?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut java = Command::new("java");
    // client logs and local offsets go below target, not into the user's home
    java.arg(format!("-Duser.home={}", paths::target().join("java-clients/home").display()));
    let status = java::kit(version)?.program(java, &arguments).status().context("run java")?;
    exit(status.code().unwrap_or(1));
}
