//! What a run makes outside its output directory, written down so that it goes away again whatever happens.
//!
//! ```text
//! /run/raftmq-jepsen/<id>/owner   process id and start time of the harness; second line: the work directory
//! /run/raftmq-jepsen/<id>/pids    a line per process that it started: process id and start time
//! <work>/<id>/                    disk images and where they are mounted
//! namespaces rj<id>-…             bridge, links and packet rules live in them and end with them
//! ```
//! One way leads out, [`remove`]: the guard takes it at the end and in a panic, `jepsen clean` for runs whose harness was
//! killed. Processes are ended by id, and only if they began when the one did that was written down: ids are used again.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::shell;

const STATE: &str = "/run/raftmq-jepsen";
/// Also bounds the names of links, of which the kernel takes 15 bytes.
const PREFIX: &str = "rj";
/// How long killed processes and busy mounts are waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The name of a run and all that bears it; removed when dropped.
#[derive(Debug)]
pub struct Lease {
    id: String,
    work: PathBuf,
}

impl Lease {
    /// A name that no other run has, and a directory below `work_root` for its disks.
    pub fn take(work_root: &Path) -> Result<Lease> {
        fs::create_dir_all(STATE).with_context(|| format!("create {STATE}"))?;
        loop {
            let id: String = (0..5).map(|_| LETTERS[rand::random_range(0..LETTERS.len())] as char).collect();
            let state = state(&id);
            match fs::create_dir(&state) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.with_context(|| format!("create {}", state.display()))?,
            }
            let work = work_root.join(&id);
            let lease = Lease { id, work };
            let own = std::process::id();
            let owner = format!("{own} {}\n{}\n", start_time(own).unwrap_or(0), lease.work.display());
            fs::write(state.join("owner"), owner)?;
            fs::create_dir_all(&lease.work).with_context(|| format!("create {}", lease.work.display()))?;
            return Ok(lease);
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the disks of this run are.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The network namespace of a host of this run.
    pub fn namespace(&self, host: &str) -> String {
        format!("{PREFIX}{}-{host}", self.id)
    }

    /// Writes a process down that was just started.
    pub fn note(&self, pid: u32) -> Result<()> {
        let start = start_time(pid).with_context(|| format!("process {pid} is gone already"))?;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(state(&self.id).join("pids"))?;
        Ok(writeln!(file, "{pid} {start}")?)
    }
}

const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";

impl Drop for Lease {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.id) {
            eprintln!("jepsen: run {} is not wholly removed, `jepsen clean` tries again: {error:#}", self.id);
        }
    }
}

fn state(id: &str) -> PathBuf {
    Path::new(STATE).join(id)
}

/// Path of a network namespace by its name.
pub fn namespace_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// When a process began, in ticks since the machine did; `None`: there is none, or it has ended.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat)
}

/// Fields 3 and 22 of /proc/<pid>/stat; the second one, a name in brackets, may hold anything.
fn parse_stat(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let status = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    // Ended, and its parent has not looked yet.
    (!matches!(status, "Z" | "X")).then_some(start)
}

/// A process as it is written down.
#[derive(Debug, Clone, Copy)]
struct Noted {
    pid: u32,
    start: u64,
}

impl Noted {
    fn parse(line: &str) -> Option<Noted> {
        let (pid, start) = line.split_once(' ')?;
        Some(Noted { pid: pid.parse().ok()?, start: start.trim().parse().ok()? })
    }

    fn runs(self) -> bool {
        start_time(self.pid) == Some(self.start)
    }
}

/// The runs that are written down and whose harness is gone.
pub fn abandoned() -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(STATE) else { return Ok(Vec::new()) };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry?;
        let owner = fs::read_to_string(entry.path().join("owner")).unwrap_or_default();
        let is_alive = owner.lines().next().and_then(Noted::parse).is_some_and(Noted::runs);
        if !is_alive {
            ids.extend(entry.file_name().into_string());
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Takes everything away that bears the name of a run. Tries all of it and tells the first error.
pub fn remove(id: &str) -> Result<()> {
    let directory = state(id);
    if !directory.exists() {
        return Ok(());
    }
    let owner = fs::read_to_string(directory.join("owner")).unwrap_or_default();
    // A run whose harness was killed in its first moment has no work directory written down, and none made.
    let work = owner.lines().nth(1).map(PathBuf::from);
    if let Some(work) = &work {
        ensure!(work.ends_with(id), "{} is not the work directory of run {id}", work.display());
    }
    let mounts = work.as_deref().map_or_else(Vec::new, mounts_below);
    let mut first = Ok(());
    let mut note = |result: Result<()>| {
        if first.is_ok() {
            first = result;
        }
    };
    // Who waits for a frozen disk cannot even be killed. One that is not frozen says so: nothing to do.
    for mount in &mounts {
        let _ = shell::run("fsfreeze", &["-u", mount]);
    }
    note(end_processes(&fs::read_to_string(directory.join("pids")).unwrap_or_default()));
    for mount in &mounts {
        note(unmount(mount));
    }
    for namespace in namespaces_of(id) {
        note(shell::run("ip", &["netns", "del", &namespace]).map(drop));
    }
    first?;
    if let Some(work) = work
        && work.exists()
    {
        // Never across a mount: what is below would be somebody's disk.
        ensure!(mounts_below(&work).is_empty(), "something is mounted below {}", work.display());
        fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    }
    fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))
}

fn end_processes(pids: &str) -> Result<()> {
    let noted: Vec<Noted> = pids.lines().filter_map(Noted::parse).collect();
    let alive = || noted.iter().copied().filter(|process| process.runs());
    for process in alive() {
        if let Some(pid) = Pid::from_raw(process.pid as i32) {
            // It may end by itself at this moment.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let began = Instant::now();
    while let Some(process) = alive().next() {
        if began.elapsed() > PATIENCE {
            bail!("process {} does not end", process.pid);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The mounts below a directory, the deepest first.
fn mounts_below(directory: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut below: Vec<String> =
        targets.filter(|target| Path::new(target).starts_with(directory)).map(str::to_owned).collect();
    below.sort_unstable_by_key(|target| std::cmp::Reverse(target.len()));
    below
}

/// Unmounts; what was killed a moment ago may hold the disk a moment longer.
pub fn unmount(mount: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        match shell::run("umount", &[mount]) {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn namespaces_of(id: &str) -> Vec<String> {
    let prefix = format!("{PREFIX}{id}-");
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_known_by_when_they_began() {
        let own = std::process::id();
        let start = start_time(own).unwrap();
        assert!(Noted { pid: own, start }.runs());
        assert!(!Noted { pid: own, start: start + 1 }.runs());
        assert!(Noted::parse("12 99\n").is_some_and(|noted| (noted.pid, noted.start) == (12, 99)));
        assert!(Noted::parse("x 1").is_none());
    }

    #[test]
    fn a_name_may_hold_brackets_and_spaces() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(&format!("9 (a ) b) {rest}")), Some(4711));
        assert_eq!(parse_stat(&format!("9 (a) {}", rest.replacen('S', "Z", 1))), None);
    }
}
