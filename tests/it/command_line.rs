//! The commands of `raftmq`, run as users run them: the real binary, its exit code, what it prints, what it listens on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tests::cluster::{Cluster, Plan, Running};
use tests::process::Process;
use tests::remoting;
use tests::runner::{Requirement, Scratch, Test, skip, test};
use tests::{paths, ports, wait};

const GROUP: &str = "broker-a";
/// One command; generous, as machines may be busy.
const COMMAND: Duration = Duration::from_mins(1);
/// What nodes do on their own, such as a registration.
const PATIENCE: Duration = Duration::from_secs(45);
/// An interrupted process has ended by then.
const STOP: Duration = Duration::from_secs(15);

pub(crate) fn tests() -> Vec<Test> {
    let own = [Requirement::OwnCluster];
    vec![
        test(
            "command_line::config_check_says_what_the_server_says",
            &[],
            config_check_says_what_the_server_says,
        ),
        test("command_line::config_import", &[], config_import),
        test("command_line::dev", &[], dev),
        test("command_line::advertised_addresses", &[], advertised_addresses),
        test("command_line::produce_consume_admin", &own, produce_consume_admin),
        test("command_line::a_first_send_makes_its_topic_in_every_group", &own, a_first_send_makes_its_topic),
        test("command_line::bench", &own, bench),
    ]
}

/// How a command ended, and what it wrote.
struct Outcome {
    name: String,
    status: ExitStatus,
    out: String,
    err: String,
}

/// Runs `raftmq` with a text as its standard input.
fn run(scratch: &Scratch, arguments: &[&str], input: &str) -> Result<Outcome> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let log = scratch.dir().join(format!("command-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)));
    let mut command = Command::new(paths::raftmq()?);
    command.args(arguments).current_dir(scratch.dir());
    let name = format!("raftmq {}", arguments.join(" "));
    let (mut process, mut stdin, mut stdout) = Process::start_piped(&name, &mut command, &log)?;
    // A command that reads nothing may be gone already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let reader = thread::spawn(move || {
        let mut out = String::new();
        stdout.read_to_string(&mut out).map(|_| out)
    });
    let status = process.wait(COMMAND)?;
    let out = reader.join().map_err(|_| anyhow!("the reader of {name} panicked"))??;
    Ok(Outcome { name, status, out, err: fs::read_to_string(&log)? })
}

/// The standard output of a command that must succeed.
fn succeed(scratch: &Scratch, arguments: &[&str]) -> Result<String> {
    let outcome = run(scratch, arguments, "")?;
    ensure!(outcome.status.success(), "{}: {}\n{}", outcome.name, outcome.status, outcome.err);
    Ok(outcome.out)
}

/// The same, as JSON.
fn json(scratch: &Scratch, arguments: &[&str]) -> Result<Value> {
    let out = succeed(scratch, arguments)?;
    serde_json::from_str(&out).with_context(|| format!("{arguments:?} printed {out}"))
}

/// The standard error of a command that must fail.
fn fail(scratch: &Scratch, arguments: &[&str]) -> Result<String> {
    let outcome = run(scratch, arguments, "")?;
    ensure!(outcome.status.code() == Some(1), "{}: {}\n{}", outcome.name, outcome.status, outcome.out);
    Ok(outcome.err)
}

/// A file for one node that is a nameserver too and has two groups.
fn one_node(namesrv: u16, peer: u16, groups: [u16; 2]) -> String {
    let [a, b] = groups;
    format!(
        r#"cluster = "it"
node = 1
data = "data"
nameservers = ["127.0.0.1:{namesrv}"]
peer_listen = "127.0.0.1:{peer}"

[peers]
1 = "localhost:{peer}"

[nameserver]
listen = "127.0.0.1:{namesrv}"

[[group]]
name = "broker-a"
listen = "127.0.0.1:{a}"
advertise = "localhost:{a}"
segment_size = {size}

[[group]]
name = "broker-b"
listen = "0.0.0.0:{b}"
advertise = "127.0.0.2:{b}"
segment_size = {size}
"#,
        size = 16 << 20
    )
}

fn config_check_says_what_the_server_says(scratch: &Scratch) -> Result<()> {
    let good = one_node(19876, 20901, [20911, 20921]);
    fs::write(scratch.dir().join("good.toml"), &good)?;
    let said = succeed(scratch, &["config", "check", "good.toml"])?;
    ensure!(said.contains("node 1 of cluster it, 2 group(s), nameserver"), "{said}");
    let lines = good.lines().count();
    let limits = |text: &str| (format!("{good}[limits]\n{text}\n"), lines + 2);
    let cases = [
        (limits("in_flight_bytes_per_connection = 4194304"), "limits.in_flight_bytes_per_connection"),
        (limits("connections = 0"), "limits.connections"),
        (limits("parked_requests = \"many\""), "parked_requests"),
        ((good.replace("16777216", "16777217"), 17), "group.segment_size"),
        ((good.replace("[peers]\n", "[peers]\n01 = \"localhost:1\"\n"), 9), "peers.1"),
        ((good.replace("peer_listen = ", "# "), 8), "peer_listen"),
    ];
    for (n, ((text, line), key)) in cases.into_iter().enumerate() {
        let file = format!("bad-{n}.toml");
        fs::write(scratch.dir().join(&file), text)?;
        let checked = fail(scratch, &["config", "check", &file])?;
        ensure!(
            checked.starts_with(&format!("raftmq: {file}:{line}: {key}: ")),
            "line {line}, {key}: {checked}"
        );
        let served = fail(scratch, &["server", "--config", &file])?;
        ensure!(served == checked, "`server` says {served} and `config check` {checked}");
    }
    Ok(())
}

fn config_import(scratch: &Scratch) -> Result<()> {
    let properties = "# a classic broker\nbrokerName=store-1\nlistenPort 20911\nautoCreateTopicEnable = TRUE\n\
        namesrvAddr=127.0.0.1:9876;\\\n    127.0.0.1:9877\nflushDiskType=ASYNC_FLUSH\n";
    fs::write(scratch.dir().join("broker.conf"), properties)?;
    let outcome = run(scratch, &["config", "import", "broker.conf", "--output", "new.toml"], "")?;
    ensure!(outcome.status.success() && outcome.out.is_empty(), "{}{}", outcome.out, outcome.err);
    ensure!(outcome.err.contains("kept         brokerName = store-1  →  group.name"), "{}", outcome.err);
    ensure!(outcome.err.contains("renamed      listenPort = 20911  →  group.listen"), "{}", outcome.err);
    ensure!(outcome.err.contains("meaningless  flushDiskType = ASYNC_FLUSH"), "{}", outcome.err);
    succeed(scratch, &["config", "check", "new.toml"])?;
    let new: toml::Table = fs::read_to_string(scratch.dir().join("new.toml"))?.parse()?;
    ensure!(new["broker"]["auto_create_topic"].as_bool() == Some(true), "{new:?}");
    ensure!(new["nameservers"].as_array().is_some_and(|list| list.len() == 2), "{new:?}");

    // What needs a hand is said also when the file goes to standard output.
    fs::write(scratch.dir().join("broker.conf"), properties.replace("store-1", "store 1"))?;
    let outcome = run(scratch, &["config", "import", "broker.conf"], "")?;
    ensure!(outcome.status.success() && outcome.out.parse::<toml::Table>().is_ok(), "{}", outcome.out);
    let note = outcome.err.lines().find(|line| line.starts_with("note") && line.contains("group.name"));
    ensure!(note.is_some(), "{}", outcome.err);
    Ok(())
}

/// Where `raftmq dev` listens: nameserver, peers, and each broker on its port and two below.
const DEV_PORTS: [u16; 10] = [9876, 10901, 10902, 10903, 10909, 10911, 10919, 10921, 10929, 10931];

/// A distance that moves all of them to free ports below Linux's ephemeral range: if it can be, between those of conf/ and
/// those that other tests are given meanwhile (ports.rs).
fn free_offset() -> Result<u16> {
    // Runs side by side start at different places.
    let own = std::process::id() as u16 % 100;
    let is_free = |offset: &u16| DEV_PORTS.iter().all(|port| ports::is_free(port + offset));
    (1300 + own..2000)
        .step_by(100)
        .chain((4000 + own..20_000).step_by(100))
        .find(is_free)
        .ok_or_else(|| skip(Requirement::Ports, "no free ports for dev"))
}

/// Starts `raftmq dev` and waits until it is ready; gives what it printed as well.
fn start_dev(scratch: &Scratch, offset: u16, data: &Path, log: &str) -> Result<(Process, String)> {
    let log = scratch.dir().join(log);
    let mut command = Command::new(paths::raftmq()?);
    command.arg("dev").arg("--port-offset").arg(offset.to_string()).arg("--data").arg(data);
    command.current_dir(scratch.dir());
    let mut dev = Process::start("raftmq dev", &mut command, &log)?;
    let said = wait::until("raftmq dev is ready", COMMAND, || {
        if let Some(status) = dev.exited()? {
            return Err(wait::final_error(format!("it ended: {status}")));
        }
        let text = fs::read_to_string(&log)?;
        Ok(text.contains("Ctrl-C stops it.").then_some(text))
    })?;
    Ok((dev, said))
}

/// Ctrl-C.
fn interrupt(mut process: Process) -> Result<()> {
    process.signal(Signal::INT)?;
    let status = process.wait(STOP)?;
    ensure!(status.success(), "{} ended with {status}", process.name());
    Ok(())
}

fn dev(scratch: &Scratch) -> Result<()> {
    let offset = free_offset()?;
    let data = scratch.dir().join("state");
    let namesrv = format!("127.0.0.1:{}", 9876 + offset);
    let start = Instant::now();
    let (dev, said) = start_dev(scratch, offset, &data, "dev-1.log")?;
    let ready = start.elapsed();
    let to_try: Vec<Vec<&str>> = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("raftmq "))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let [produce, consume] = &to_try[..] else { return Err(anyhow!("two lines to try: {said}")) };
    // At once: whoever reads that it is ready need not wait for anything more.
    let sent = succeed(scratch, produce)?;
    let first = start.elapsed();
    scratch.report(&format!(
        "ready {} ms after its start, three messages of another process sent after {} ms",
        ready.as_millis(),
        first.as_millis()
    ));
    ensure!(sent.lines().count() == 3 && sent.lines().all(|line| line.contains(GROUP)), "{sent}");

    let expected: BTreeSet<SocketAddr> =
        DEV_PORTS.iter().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port + offset))).collect();
    let listening = listening(dev.pid())?;
    ensure!(listening == expected, "it listens on {listening:?}, not on {expected:?}");
    let told =
        |name: &str, address: &str| said.lines().any(|line| line.split_whitespace().eq([name, address]));
    ensure!(told("nameserver", &namesrv), "{said}");
    for port in [10911, 10921, 10931] {
        ensure!(told(GROUP, &format!("127.0.0.1:{}", port + offset)), "{said}");
    }
    let log = scratch.dir().join("consume.log");
    let mut command = Command::new(paths::raftmq()?);
    let consumer = Process::start("raftmq consume", command.args(consume), &log)?;
    wait::until_true("the messages", PATIENCE, || {
        let text = fs::read_to_string(&log)?;
        let seen: BTreeSet<&str> = text.lines().filter(|line| line.starts_with("hello ")).collect();
        Ok(seen == BTreeSet::from(["hello 0", "hello 1", "hello 2"]))
    })?;
    interrupt(consumer)?;
    let route = json(scratch, &["admin", "-n", &namesrv, "--json", "topic", "route", "hello"])?;
    ensure!(route["brokerDatas"][0]["brokerAddrs"].as_object().is_some_and(|ids| ids.len() == 3), "{route}");

    interrupt(dev)?;
    let (dev, _) = start_dev(scratch, offset, &data, "dev-2.log")?;
    let again = succeed(
        scratch,
        &["consume", "-n", &namesrv, "--topic", "hello", "--group", "again", "--count", "3"],
    )?;
    ensure!(sorted(&again) == ["hello 0", "hello 1", "hello 2"], "after the restart: {again}");
    interrupt(dev)
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// The TCP sockets on which a process listens, from /proc.
fn listening(pid: u32) -> Result<BTreeSet<SocketAddr>> {
    const LISTEN: &str = "0A";
    let mut sockets = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor may have been closed meanwhile.
        let target = fs::read_link(entry?.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        sockets.extend(inode.map(str::to_owned));
    }
    let v4 = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    // There is no such file where IPv6 is off.
    let v6 = fs::read_to_string(format!("/proc/{pid}/net/tcp6")).unwrap_or_default();
    let mut listening = BTreeSet::new();
    for line in v4.lines().skip(1).chain(v6.lines().skip(1)) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (columns.get(1), columns.get(3), columns.get(9));
        if state == Some(&LISTEN) && inode.is_some_and(|inode| sockets.contains(*inode)) {
            let local = local.and_then(|local| proc_address(local));
            listening.insert(local.with_context(|| format!("no address in {line}"))?);
        }
    }
    Ok(listening)
}

/// `0100007F:2694`: each word of the address in the machine's byte order.
fn proc_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |n: usize| Some(u32::from_str_radix(ip.get(n * 8..(n + 1) * 8)?, 16).ok()?.to_ne_bytes());
    let ip = if ip.len() == 8 {
        IpAddr::from(Ipv4Addr::from(word(0)?))
    } else {
        let octets: [u8; 16] = [word(0)?, word(1)?, word(2)?, word(3)?].concat().try_into().ok()?;
        IpAddr::from(Ipv6Addr::from(octets))
    };
    Some(SocketAddr::new(ip, port))
}

/// Clients are told other addresses than the node listens on, one of them a name, and use them.
fn advertised_addresses(scratch: &Scratch) -> Result<()> {
    let (namesrv, peer, a, b) = (ports::free()?, ports::free()?, ports::free()?, ports::free()?);
    let file = scratch.dir().join("node.toml");
    fs::write(&file, one_node(namesrv, peer, [a, b]))?;
    let mut command = Command::new(paths::raftmq()?);
    command.arg("server").arg("--config").arg(&file).current_dir(scratch.dir());
    let mut node = Process::start("the node", &mut command, &scratch.dir().join("node.log"))?;
    let namesrv = format!("127.0.0.1:{namesrv}");
    let only = |address: String| BTreeMap::from([(0, address)]);
    let expected = BTreeMap::from([
        ("broker-a".to_owned(), only(format!("localhost:{a}"))),
        ("broker-b".to_owned(), only(format!("127.0.0.2:{b}"))),
    ]);
    wait::until_true(&format!("the nameserver tells {expected:?}"), PATIENCE, || {
        if let Some(status) = node.exited()? {
            return Err(wait::final_error(format!("it ended: {status}")));
        }
        let brokers = remoting::brokers(&namesrv)?;
        ensure!(brokers == expected, "{brokers:?}");
        Ok(true)
    })?;
    let topic = scratch.unique("t");
    succeed(scratch, &["admin", "-n", &namesrv, "topic", "create", &topic, "--queues", "2"])?;
    wait::until_true("the route", PATIENCE, || Ok(remoting::route(&namesrv, &topic)? == expected))?;
    let sent = succeed(scratch, &["produce", "-n", &namesrv, "--topic", &topic, "--count", "8"])?;
    ensure!(sent.contains(" of broker-a ") && sent.contains(" of broker-b "), "{sent}");
    let read = succeed(scratch, &["consume", "-n", &namesrv, "--topic", &topic, "--count", "8"])?;
    ensure!(sorted(&read).len() == 8, "{read}");
    // No other node is there to which clients could be sent, so a stop need not wait for them.
    interrupt(node)
}

fn produce_consume_admin(scratch: &Scratch) -> Result<()> {
    // No preferred leader: it would take leadership back while the test looks.
    let mut cluster = Cluster::start(scratch, Plan { preferred_leaders: false, ..Plan::new(3, 1) })?;
    let namesrv = cluster.namesrv();
    let admin =
        |words: &[&str]| json(scratch, &[&["admin", "-n", namesrv.as_str(), "--json"][..], words].concat());
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));

    let brokers = admin(&["cluster", "list"])?;
    let brokers = brokers.as_array().context("no list")?;
    let addresses: BTreeSet<&str> = brokers.iter().filter_map(|row| row["address"].as_str()).collect();
    let expected: BTreeSet<&str> = (1..=3).map(|node| cluster.address(node, GROUP)).collect();
    ensure!(addresses == expected, "{brokers:?}");
    ensure!(brokers.iter().filter(|row| row["id"] == 0).count() == 1, "{brokers:?}");
    ensure!(brokers.iter().all(|row| row["cluster"] == "it" && row["broker"] == GROUP), "{brokers:?}");

    let created = admin(&["topic", "create", &topic, "--queues", "3"])?;
    ensure!(created["topic"] == topic && created["queues"] == 3, "{created}");
    wait::until_true("the topic is listed and routed", PATIENCE, || {
        let topics = admin(&["topic", "list"])?;
        ensure!(topics.as_array().is_some_and(|all| all.iter().any(|name| *name == topic)), "{topics}");
        let route = admin(&["topic", "route", &topic])?;
        let queues = &route["queueDatas"][0];
        ensure!(queues["brokerName"] == GROUP && queues["writeQueueNums"] == 3, "{route}");
        ensure!(
            route["brokerDatas"][0]["brokerAddrs"].as_object().is_some_and(|ids| ids.len() == 3),
            "{route}"
        );
        Ok(true)
    })?;

    let produce = ["produce", "-n", namesrv.as_str(), "--topic", topic.as_str()];
    let sent =
        succeed(scratch, &[&produce[..], &["--count", "30", "--tag", "red", "--key", "k-{}"]].concat())?;
    let places: BTreeSet<(&str, &str)> = sent.lines().filter_map(place).collect();
    ensure!(sent.lines().count() == 30 && places.len() == 30, "{sent}");
    let typed = run(scratch, &produce, "one\ntwo\nthree\n")?;
    ensure!(typed.status.success() && typed.out.lines().count() == 3, "{}{}", typed.out, typed.err);

    let status = admin(&["topic", "status", &topic])?;
    let stored = |row: &Value| Some(row["max"].as_i64()? - row["min"].as_i64()?);
    let rows = status.as_array().context("no list")?;
    ensure!(rows.len() == 3 && rows.iter().filter_map(stored).sum::<i64>() == 33, "{status}");

    let consume = ["consume", "-n", namesrv.as_str(), "--topic", topic.as_str(), "--group", group.as_str()];
    let read = succeed(scratch, &[&consume[..], &["--count", "33"]].concat())?;
    let expected: Vec<String> = (0..30).map(|n| format!("hello {n}")).collect();
    let mut expected: Vec<&str> =
        expected.iter().map(String::as_str).chain(["one", "two", "three"]).collect();
    expected.sort_unstable();
    ensure!(sorted(&read) == expected, "{read}");
    wait::until_true("the progress of the group", PATIENCE, || {
        let progress = admin(&["consumer", "progress", &group])?;
        let queues = progress["queues"].as_array().context("no queues")?;
        let ours = queues.iter().filter(|row| row["topic"] == topic);
        let consumed: i64 = ours.filter_map(|row| row["consumed"].as_i64()).sum();
        ensure!(progress["lag"] == 0 && consumed == 33, "{progress}");
        Ok(true)
    })?;

    let leader = cluster.leader(GROUP)?;
    let before = wait::until("everybody agrees on the leader", PATIENCE, || {
        leadership(&admin(&["group", "status", GROUP])?, leader).map(Some)
    })?;
    let to = cluster.running().into_iter().find(|&node| node != leader).context("no follower")?;
    let moved = admin(&["group", "transfer", GROUP, "--to", &to.to_string()])?;
    ensure!(moved["group"] == GROUP && moved["leader"] == to, "{moved}");
    wait::until_true(&format!("node {to} leads, in a newer term than {before}"), PATIENCE, || {
        cluster.check_alive()?;
        let after = leadership(&admin(&["group", "status", GROUP])?, to)?;
        Ok(cluster.leader(GROUP)? == to && after > before)
    })?;
    let sent = succeed(scratch, &[&produce[..], &["--count", "1"]].concat())?;
    ensure!(sent.lines().count() == 1, "{sent}");

    let table = succeed(scratch, &["admin", "-n", &namesrv, "cluster", "list"])?;
    ensure!(table.starts_with("CLUSTER") && table.contains(cluster.address(1, GROUP)), "{table}");
    let refused = fail(scratch, &["admin", "-n", &namesrv, "topic", "route", "no_such_topic"])?;
    ensure!(refused.contains("no topic no_such_topic"), "{refused}");
    Ok(())
}

/// Queue and offset in a line of `raftmq produce`: `ID queue 2 of broker-a offset 7`.
fn place(line: &str) -> Option<(&str, &str)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [_, "queue", queue, "of", GROUP, "offset", offset] => Some((queue, offset)),
        _ => None,
    }
}

/// The term of a group whose three nodes all follow `leader`, two of them with its whole log; an error where it is not so.
fn leadership(status: &Value, leader: u64) -> Result<u64> {
    let rows = status.as_array().context("no list")?;
    ensure!(rows.len() == 3, "{status}");
    let term = rows[0]["term"].as_u64().context("no term")?;
    for row in rows {
        let index = |name: &str| row[name].as_u64().with_context(|| format!("no {name} in {row}"));
        ensure!(row["group"] == GROUP && row["durability"] == "quorum-fsync", "{row}");
        ensure!(row["term"] == term && row["leader"] == leader, "{status}");
        ensure!(index("applied_index")? <= index("committed_index")?, "{row}");
        ensure!(index("committed_index")? <= index("last_index")?, "{row}");
        ensure!(index("synced_index")? <= index("last_index")? && index("applied_index")? > 0, "{row}");
    }
    let own = rows.iter().find(|row| row["node"] == leader).context("the leader is not there")?;
    let followers = own["followers"].as_array().context("no followers")?;
    ensure!(own["state"] == "leader" && followers.len() == 2, "{own}");
    ensure!(followers.iter().all(|follower| follower["lag"] == 0), "{own}");
    Ok(term)
}

fn a_first_send_makes_its_topic(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let topic = scratch.unique("t");
    let sent = succeed(scratch, &["produce", "-n", cluster.namesrv(), "--topic", &topic, "--count", "1"])?;
    ensure!(sent.lines().count() == 1, "{sent}");
    let groups: BTreeSet<&str> = cluster.groups().iter().map(String::as_str).collect();
    wait::until_true(&format!("the topic is in {groups:?}"), PATIENCE, || {
        let route = json(scratch, &["admin", "-n", cluster.namesrv(), "--json", "topic", "route", &topic])?;
        let queues = route["queueDatas"].as_array().context("no queueDatas")?;
        let found: BTreeSet<&str> = queues.iter().filter_map(|queue| queue["brokerName"].as_str()).collect();
        ensure!(found == groups, "{route}");
        Ok(true)
    })
}

fn bench(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let topic = scratch.unique("t");
    cluster.create_topic(&topic, 4)?;
    let arguments = |kind, more: &[&'static str]| {
        let common = ["bench", kind, "-n", cluster.namesrv(), "--topic", topic.as_str()];
        [&common[..], more].concat()
    };
    let measure = |kind, more: &[&'static str]| -> Result<Value> {
        let figures = json(scratch, &[&arguments(kind, more)[..], &["--seconds", "1", "--json"]].concat())?;
        ensure!(figures["messages"].as_u64().is_some_and(|count| count > 0), "{kind}: {figures}");
        ensure!(figures["failed"] == 0, "{kind}: {figures}");
        Ok(figures)
    };
    let produced = measure("produce", &["--in-flight", "64"])?;
    ensure!(produced["latency_ms"]["p50"].as_f64().is_some_and(|ms| ms > 0.0), "{produced}");
    let ended = measure("end-to-end", &["--rate", "200", "--size", "64"])?;
    ensure!(ended["latency_ms"]["p50"].as_f64().is_some_and(|ms| ms > 0.0), "{ended}");
    // Messages keep coming, so that there are some to measure however fast the backlog is consumed.
    let mut command = Command::new(paths::raftmq()?);
    let feed = command.args(arguments("produce", &["--rate", "200", "--seconds", "600"]));
    let _feeder = Process::start("raftmq bench produce", feed, &scratch.dir().join("feeder.log"))?;
    measure("consume", &[])?;
    Ok(())
}
