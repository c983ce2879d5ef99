//! Programs of the machine: ip, nft, mount. What they print on standard error is in the error.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Runs a program to its end; what it printed on standard output.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    run_with_input(program, arguments, "")
}

/// The same for a program that reads its standard input.
pub fn run_with_input(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: Ctrl-C must not cut cleaning up short.
    command.process_group(0);
    let mut child = command.spawn().with_context(|| format!("{program} cannot be run"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading has its reason on standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a program is, if it is installed. Administrators' programs are looked for too where PATH leaves them out.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].into_iter().map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A path as the argument of a program.
pub fn text(path: &Path) -> &str {
    // The harness makes its own names; only `--work` and `--out` could hold other bytes, and main.rs takes text.
    path.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_the_program_said() {
        let error = run("sh", &["-c", "echo broken >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.ends_with(": broken"), "{error}");
        assert_eq!(run_with_input("cat", &[], "a\nb").unwrap(), "a\nb");
        assert!(run("no-such-program", &[]).is_err());
        assert!(find("sh").is_some() && find("no-such-program").is_none());
    }
}
