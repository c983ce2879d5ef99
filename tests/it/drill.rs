//! `raftmq drill` on a real cluster: its faults really happen, its report is whole, and it does nothing where a group would be
//! left without a majority.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::cluster::{Cluster, Plan};
use tests::process::Process;
use tests::runner::{Requirement, Scratch, Test, test};
use tests::{paths, wait};

/// Bounds are not judged here: machines that test may be busy.
const STEPS: &str = r#"
group = "broker-a"
[canary]
messages_per_s = 100
[[step]]
fault = "kill-leader"
rounds = 2
hold_s = 1.0
rest_s = 0.5
write_gap_p50_s = 60.0
write_gap_max_s = 60.0
read_gap_max_s = 60.0
[[step]]
fault = "pause-leader"
hold_s = 2.0
rest_s = 0.5
write_gap_p50_s = 60.0
write_gap_max_s = 60.0
read_gap_max_s = 60.0
[[step]]
fault = "transfer"
rest_s = 0.5
write_gap_p50_s = 60.0
write_gap_max_s = 60.0
read_gap_max_s = 60.0
"#;
const PATIENCE: Duration = Duration::from_mins(3);

pub(crate) fn tests() -> Vec<Test> {
    vec![test("drill::faults_happen_and_nothing_is_lost", &[Requirement::OwnCluster], faults_happen)]
}

/// Nodes that a drill has started belong to nobody: they are ended with this.
struct Orphans(Vec<PathBuf>);

impl Orphans {
    fn of_this_test(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let names_one = self.0.iter().any(|file| {
                line.split(|byte| *byte == 0).any(|word| word == file.as_os_str().as_encoded_bytes())
            });
            found.extend(pid.filter(|_| names_one));
        }
        found
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        for pid in self.of_this_test() {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Runs a drill: whether it passed, and what it wrote.
fn drill(scratch: &Scratch, arguments: &[&str]) -> Result<(bool, String)> {
    let log = scratch.dir().join("drill.log");
    let mut command = std::process::Command::new(paths::raftmq()?);
    command.arg("drill").args(arguments).current_dir(scratch.dir()).env_remove("NAMESRV_ADDR");
    let mut process = Process::start("raftmq drill", &mut command, &log)?;
    let status = process.wait(PATIENCE)?;
    Ok((status.success(), fs::read_to_string(&log)?))
}

fn faults_happen(scratch: &Scratch) -> Result<()> {
    let cluster = Cluster::start(scratch, Plan { preferred_leaders: false, ..Plan::new(3, 1) })?;
    let files: Vec<PathBuf> = (1..=3).map(|node| cluster.config(node).to_owned()).collect();
    let orphans = Orphans(files.clone());
    let namesrv = cluster.namesrv();
    let mut scenario = format!("nameserver = {namesrv:?}\n{STEPS}");
    for (number, file) in files.iter().enumerate() {
        scenario.push_str(&format!("[node.{}]\nconfig = {:?}\n", number + 1, file.display()));
    }
    fs::write(scratch.dir().join("drill.toml"), scenario)?;

    let (ok, said) = drill(scratch, &["drill.toml", "--check"])?;
    ensure!(ok && said.contains("node 3 may be taken away"), "{said}");

    let (ok, said) =
        drill(scratch, &["-n", &namesrv, "drill.toml", "--json", "drill.json", "--html", "drill.html"])?;
    ensure!(ok && said.contains("passed: nothing acknowledged was lost"), "{said}");
    let report: Value = serde_json::from_slice(&fs::read(scratch.dir().join("drill.json"))?)?;
    let rounds = report["rounds"].as_array().context("no rounds")?;
    let faults: Vec<&str> = rounds.iter().filter_map(|round| round["fault"].as_str()).collect();
    ensure!(faults == ["kill-leader", "kill-leader", "pause-leader", "transfer"], "{faults:?}");
    ensure!(
        rounds.iter().all(|round| round["happened"] == true && round["elections"].as_u64() >= Some(1)),
        "{report}"
    );
    // A leader that was killed takes no write for as long as an election takes at least.
    ensure!(rounds[0]["write_gap_s"].as_f64().is_some_and(|gap| gap > 0.1), "{report}");
    ensure!(
        report["acknowledged"].as_u64() > Some(100) && report["lost"] == Value::Array(vec![]),
        "{report}"
    );
    ensure!(report["read"].as_u64() >= report["acknowledged"].as_u64(), "{report}");
    let page = fs::read_to_string(scratch.dir().join("drill.html"))?;
    ensure!(page.contains("pause-leader of node") && page.ends_with("</html>\n"), "{page}");

    // With one node down no other may go.
    let leader = cluster.leader("broker-a")?;
    let down = files.get((leader % 3) as usize).context("no such node")?.clone();
    for pid in Orphans(vec![down]).of_this_test() {
        kill_process(pid, Signal::KILL)?;
    }
    wait::until_true("the node is missed", Duration::from_secs(30), || {
        let (ok, said) = drill(scratch, &["drill.toml", "--fault", "kill-leader"])?;
        if ok {
            return Err(wait::final_error(format!("a second node was taken away: {said}")));
        }
        Ok(said.contains("its state cannot be had") || said.contains("do not follow or lag behind"))
    })?;
    let (_, said) = drill(scratch, &["drill.toml", "--fault", "explode"])?;
    ensure!(said.contains("unknown variant `explode`"), "{said}");
    drop(orphans);
    Ok(())
}
