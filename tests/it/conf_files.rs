//! Each configuration of conf/ is started as it stands, and used. A file directly in conf/ is a deployment; the files of a
//! folder are one deployment together. Data folders in them are relative, so each test has its own. Where there are several
//! nameservers a node with one dies, and clients of the others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::process::Process;
use tests::remoting::{self, Connection};
use tests::runner::{Requirement, Scratch, Test, skip, test};
use tests::{paths, ports, wait};

const PATIENCE: Duration = Duration::from_secs(20);
/// Leaders move one after another, each when its successor has been caught up for 5 s.
const SPREAD: Duration = Duration::from_mins(1);

pub(crate) fn tests() -> Vec<Test> {
    let deployments = deployments().unwrap_or_default();
    let mut tests = vec![test("conf_files::there_are_some", &[], |_| {
        ensure!(!self::deployments()?.is_empty(), "conf/ has no files");
        Ok(())
    })];
    tests.extend(deployments.into_iter().map(|(name, files)| {
        test(format!("conf_files::{name}"), &[], move |scratch| starts_and_is_used(scratch, &files))
    }));
    tests
}

/// Name and files of each deployment.
fn deployments() -> Result<Vec<(String, Vec<PathBuf>)>> {
    let mut found = Vec::new();
    for path in sorted(&paths::workspace().join("conf"))? {
        let files: Vec<PathBuf> = if path.is_dir() { sorted(&path)? } else { vec![path.clone()] };
        let files: Vec<PathBuf> =
            files.into_iter().filter(|f| f.extension().is_some_and(|e| e == "toml")).collect();
        if !files.is_empty() {
            let name = path.file_stem().context("a file without a name")?.to_string_lossy().replace('-', "_");
            found.push((name, files));
        }
    }
    Ok(found)
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// What the test must know of a file.
struct File {
    config: toml::Table,
    path: PathBuf,
}

impl File {
    fn read(path: &Path) -> Result<File> {
        let config = fs::read_to_string(path)?.parse().with_context(|| path.display().to_string())?;
        Ok(File { config, path: path.to_owned() })
    }

    fn nameserver(&self) -> Option<&str> {
        self.config.get("nameserver")?.get("listen")?.as_str()
    }

    /// Where its groups register.
    fn nameservers(&self) -> Vec<&str> {
        let list = self.config.get("nameservers").and_then(|list| list.as_array()).into_iter().flatten();
        list.filter_map(|address| address.as_str()).collect()
    }

    /// Names and listen addresses of the groups.
    fn groups(&self) -> Vec<(&str, &str)> {
        let groups = self.config.get("group").and_then(|g| g.as_array()).into_iter().flatten();
        groups
            .filter_map(|group| Some((group.get("name")?.as_str()?, group.get("listen")?.as_str()?)))
            .collect()
    }

    fn node(&self) -> Result<i64> {
        self.config.get("node").and_then(|node| node.as_integer()).context("no node")
    }

    /// Names of the groups that are to be led by some node, and that node.
    fn preferred_leaders(&self) -> Vec<(&str, i64)> {
        let groups = self.config.get("group").and_then(|g| g.as_array()).into_iter().flatten();
        groups
            .filter_map(|group| {
                Some((group.get("name")?.as_str()?, group.get("preferred_leader")?.as_integer()?))
            })
            .collect()
    }

    /// Every port that the node listens on.
    fn ports(&self) -> Result<Vec<u16>> {
        let port = |address: &str| {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            port.with_context(|| format!("{}: no port in {address}", self.path.display()))
        };
        let mut ports = Vec::new();
        for (_, listen) in self.groups() {
            ports.extend([port(listen)?, port(listen)? - 2]);
        }
        let node = self.node()?.to_string();
        let peer = self.config.get("peers").and_then(|peers| peers.get(&node)).and_then(|peer| peer.as_str());
        for address in self.nameserver().into_iter().chain(peer) {
            ports.push(port(address)?);
        }
        Ok(ports)
    }
}

fn starts_and_is_used(scratch: &Scratch, files: &[PathBuf]) -> Result<()> {
    // Deployments have ports in common.
    static PORTS: Mutex<()> = Mutex::new(());
    let _ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let files: Vec<File> = files.iter().map(|path| File::read(path)).collect::<Result<_>>()?;
    for file in &files {
        let data = file.config.get("data").and_then(|d| d.as_str()).context("no data")?;
        ensure!(Path::new(data).is_relative(), "{}: data = {data:?} is not relative", file.path.display());
        for port in file.ports()? {
            if !ports::is_free(port) {
                return Err(skip(
                    Requirement::Ports,
                    format!("port {port} of {} is taken", file.path.display()),
                ));
            }
        }
    }
    let nameservers: Vec<&str> = files.iter().filter_map(File::nameserver).collect();
    ensure!(!nameservers.is_empty(), "no file plays a nameserver");
    for file in &files {
        let listed = file.nameservers();
        ensure!(listed == nameservers, "{}: {listed:?}, and there are {nameservers:?}", file.path.display());
    }
    let mut nodes = Vec::new();
    for (n, file) in (1..).zip(&files) {
        let mut command = Command::new(paths::raftmq()?);
        command.arg("server").arg("--config").arg(&file.path).current_dir(scratch.dir());
        nodes.push(Process::start(
            &format!("node {n}"),
            &mut command,
            &scratch.dir().join(format!("node-{n}.log")),
        )?);
    }
    let alive = |nodes: &mut [Process]| {
        for (node, file) in nodes.iter_mut().zip(&files) {
            if let Some(status) = node.exited()? {
                return Err(wait::final_error(format!("{} ended: {status}", file.path.display())));
            }
        }
        Ok(())
    };
    let mut groups: Vec<&str> = files.iter().flat_map(File::groups).map(|(name, _)| name).collect();
    groups.sort_unstable();
    groups.dedup();
    let wanted = preferred_addresses(&files)?;
    for namesrv in &nameservers {
        wait::until_true(&format!("{namesrv} knows {groups:?} and all their members"), PATIENCE, || {
            alive(&mut nodes)?;
            let brokers = remoting::brokers(namesrv)?;
            for group in &groups {
                let members = files.iter().flat_map(File::groups).filter(|(name, _)| name == group).count();
                let known = brokers.get(*group);
                ensure!(
                    known.is_some_and(|m| m.contains_key(&0) && m.len() == members),
                    "{group}: {known:?}"
                );
            }
            Ok(true)
        })?;
        wait::until_true(&format!("{namesrv} has the leaders {wanted:?}"), SPREAD, || {
            alive(&mut nodes)?;
            let brokers = remoting::brokers(namesrv)?;
            let leads = |(group, address): (&&str, &&str)| {
                brokers
                    .get(*group)
                    .and_then(|members| members.get(&0))
                    .is_some_and(|leader| leader == address)
            };
            ensure!(wanted.iter().all(leads), "{brokers:?}");
            Ok(true)
        })?;
        a_message_in_and_out(namesrv, &scratch.unique("t"))?;
    }
    alive(&mut nodes)?;
    // The node that is the first nameserver leads a group.
    let Some((_, others)) = nameservers.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Ok(());
    };
    nodes[0].kill()?;
    let dead: BTreeSet<&str> = files[0].groups().into_iter().map(|(_, address)| address).collect();
    for namesrv in others {
        wait::until_true(&format!("{namesrv} knows a leader of each group that lives"), PATIENCE, || {
            let brokers = remoting::brokers(namesrv)?;
            let lives = |group: &&str| {
                let leader = brokers.get(*group).and_then(|members| members.get(&0));
                leader.is_some_and(|address| !dead.contains(address.as_str()))
            };
            ensure!(groups.iter().all(lives), "{brokers:?}");
            Ok(true)
        })?;
        a_message_in_and_out(namesrv, &scratch.unique("t"))?;
    }
    Ok(())
}

/// A message in and out of each group, through the address that clients are told.
fn a_message_in_and_out(namesrv: &str, topic: &str) -> Result<()> {
    for (group, members) in remoting::brokers(namesrv)? {
        remoting::create_topic(&members[&0], topic, 1)?;
        let mut connection = Connection::open(&members[&0], Duration::from_secs(3))?;
        let stored = connection.send(topic, 0, group.as_bytes())?;
        let read = wait::until("the message", Duration::from_secs(5), || {
            Ok(connection.pull(topic, 0, stored.offset)?.into_iter().next())
        })?;
        ensure!(read.body == group.as_bytes() && read.topic == topic, "{group}: {read:?}");
    }
    Ok(())
}

/// Group → where the node that is to lead it serves clients. The files of a deployment agree on it, and with several
/// groups every node leads as many as any other.
fn preferred_addresses(files: &[File]) -> Result<BTreeMap<&str, &str>> {
    let mut preferred = BTreeMap::new();
    for (group, node) in files.iter().flat_map(File::preferred_leaders) {
        let before = preferred.insert(group, node);
        ensure!(before.is_none_or(|before| before == node), "{group} prefers {before:?} and {node}");
    }
    let leaders: BTreeSet<i64> = preferred.values().copied().collect();
    ensure!(preferred.len() < files.len() || leaders.len() == files.len(), "not spread: {preferred:?}");
    let mut addresses = BTreeMap::new();
    for (group, node) in preferred {
        for file in files {
            if file.node()? == node {
                let listen = file.groups().into_iter().find(|(name, _)| *name == group);
                addresses.extend(listen);
            }
        }
        ensure!(addresses.contains_key(group), "node {node}, which is to lead {group}, does not hold it");
    }
    Ok(addresses)
}
