//! Mixed clusters, as they are while one migrates: Apache's brokers with our nameserver, our brokers with Apache's.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::{Cluster, Plan};
use tests::process::Process;
use tests::runner::{Requirement, Scratch, Test, test};
use tests::{apache, history, java, mqadmin, paths, ports, remoting, wait};

const PATIENCE: Duration = Duration::from_secs(40);
const NEEDS: &[Requirement] = &[Requirement::Java, Requirement::OwnCluster];

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("nameserver_mix::apache_with_apache", NEEDS, apache_with_apache),
        test("nameserver_mix::apache_brokers_with_our_nameserver", NEEDS, apache_brokers_with_our_nameserver),
        test(
            "nameserver_mix::our_brokers_with_apaches_nameserver",
            NEEDS,
            our_brokers_with_apaches_nameserver,
        ),
    ]
}

/// `brokers` are registered; a Java client finds them, sends to all of them and receives everything.
fn is_usable(scratch: &Scratch, namesrv: &str, brokers: &[&str], masters: &[String]) -> Result<()> {
    wait::until_true(&format!("{namesrv} knows {brokers:?}"), PATIENCE, || {
        let known = remoting::brokers(namesrv)?;
        ensure!(brokers.iter().all(|b| known.get(*b).is_some_and(|ids| ids.contains_key(&0))), "{known:?}");
        Ok(true)
    })?;
    let topic = scratch.unique("t");
    for master in masters {
        remoting::create_topic(master, &topic, 2)?;
    }
    wait::until_true("the topic is routed", PATIENCE, || {
        Ok(remoting::route(namesrv, &topic)?.len() == brokers.len())
    })?;
    let said = mqadmin::run(scratch.dir(), namesrv, &["clusterList"])?;
    for broker in brokers {
        let row = mqadmin::rows(&said).into_iter().find(|row| row.get(1) == Some(broker));
        ensure!(row.is_some_and(|row| row.get(2) == Some(&"0")), "{broker} in:\n{said}");
    }
    let kit = java::kit(java::APACHE)?;
    let group = scratch.unique("g");
    let consume = ["consume", "--topic", &topic, "--group", &group, "--until", "40"];
    let mut consumer = kit.scenario(scratch.dir(), "consumer", namesrv, &consume)?;
    consumer.wait_assigned(2 * brokers.len())?;
    let send = ["send", "--topic", &topic, "--count", "20", "--mode", "sync,async"];
    let mut producer = kit.scenario(scratch.dir(), "producer", namesrv, &send)?;
    producer.join(PATIENCE)?;
    consumer.join(PATIENCE)?;
    let (sends, deliveries) = (producer.sends(), consumer.deliveries());
    ensure!(history::failed(&sends).is_empty(), "{:?}", history::failed(&sends));
    ensure!(history::lost(&sends, &deliveries).is_empty(), "{:?}", history::lost(&sends, &deliveries));
    let mut used: Vec<&str> = deliveries.iter().map(|d| d.place.broker.as_str()).collect();
    used.sort_unstable();
    used.dedup();
    ensure!(used == brokers, "only {used:?} were used");
    Ok(())
}

/// The check itself, without anything of ours.
fn apache_with_apache(scratch: &Scratch) -> Result<()> {
    let namesrv = apache::nameserver(scratch.dir())?;
    let broker = apache::broker(scratch.dir(), "apache-a", &namesrv.address)?;
    is_usable(scratch, &namesrv.address, &["apache-a"], &[broker.address])
}

fn apache_brokers_with_our_nameserver(scratch: &Scratch) -> Result<()> {
    let listen = format!("127.0.0.1:{}", ports::free()?);
    let config = scratch.dir().join("nameserver.toml");
    std::fs::write(
        &config,
        format!("cluster = \"it\"\nnode = 1\ndata = \"data\"\n[nameserver]\nlisten = {listen:?}\n"),
    )?;
    let mut command = Command::new(paths::raftmq()?);
    command.arg("server").arg("--config").arg(&config).current_dir(scratch.dir());
    let _nameserver = Process::start("our nameserver", &mut command, &scratch.dir().join("nameserver.log"))?;
    wait::until("our nameserver answers", PATIENCE, || remoting::brokers(&listen).map(Some))?;
    let mut broker = apache::broker(scratch.dir(), "apache-a", &listen)?;
    is_usable(scratch, &listen, &["apache-a"], std::slice::from_ref(&broker.address))?;

    // its end is noticed by the closed connection, long before the two minutes of silence
    broker.kill()?;
    wait::until_true("the dead broker is dropped", Duration::from_secs(15), || {
        Ok(remoting::brokers(&listen)?.is_empty())
    })
}

fn our_brokers_with_apaches_nameserver(scratch: &Scratch) -> Result<()> {
    let namesrv = apache::nameserver(scratch.dir())?;
    let plan = Plan { nameservers: Some(vec![namesrv.address.clone()]), ..Plan::new(3, 2) };
    let mut cluster = Cluster::start(scratch, plan)?;
    let groups = ["broker-a", "broker-b"];
    let masters: Vec<String> = groups
        .iter()
        .map(|g| Ok(cluster.address(cluster.leader(g)?, g).to_owned()))
        .collect::<Result<_>>()?;
    is_usable(scratch, &namesrv.address, &groups, &masters)?;

    // side by side with a broker of Apache's: what a migration looks like
    let apache = apache::broker(scratch.dir(), "apache-z", &namesrv.address)?;
    let everyone = ["apache-z", "broker-a", "broker-b"];
    is_usable(scratch, &namesrv.address, &everyone, &[masters, vec![apache.address.clone()]].concat())?;

    // a new leader takes brokerId 0 over in Apache's route
    let old = cluster.leader("broker-a")?;
    cluster.kill(old)?;
    let new = wait::until("a new leader in Apache's route", PATIENCE, || {
        let leader = cluster.leader("broker-a")?;
        Ok((leader != old).then_some(leader))
    })?;
    ensure!(cluster.is_running(new), "node {new} leads and does not run");
    let known = remoting::brokers(&namesrv.address)?;
    known.get("broker-a").and_then(|ids| ids.get(&0)).context("no brokerId 0")?;
    Ok(())
}
