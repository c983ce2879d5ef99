//! Turns a RocketMQ or DLedger `broker.conf` (Java properties) into a configuration file of ours, and says of each key
//! what became of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// With its value and meaning, under this key of ours.
    Kept(String),
    /// In another form, under this key of ours.
    Renamed(String),
    /// It has no meaning here; why.
    Meaningless(&'static str),
}

#[derive(Debug)]
pub(crate) struct Imported {
    /// The new file.
    pub(crate) toml: String,
    /// Key, value and fate, in the order of the file.
    pub(crate) keys: Vec<(String, String, Fate)>,
    /// What the operator must still decide.
    pub(crate) notes: Vec<String>,
}

/// The rows of the table of keys that have no meaning here, by prefix or whole name, with the reason.
const MEANINGLESS: &[(&str, &str)] = &[
    ("flushDiskType", "a majority has every acknowledged message fsynced (quorum-fsync)"),
    ("flush", "the log is flushed before each acknowledgement, in groups"),
    ("brokerRole", "roles follow from elections: brokerId 0 is the leader"),
    ("brokerId", "roles follow from elections: brokerId 0 is the leader"),
    ("haListenPort", "replication runs between peers, see [peers]"),
    ("haMasterAddress", "replication runs between peers, see [peers]"),
    ("ha", "replication is Raft, see [peers]"),
    ("slaveReadEnable", "see group.follower_reads"),
    ("enableDLegerCommitLog", "the log is a Raft log always"),
    ("dLegerGroup", "the group is named by brokerName"),
    ("enableDLedgerCommitLog", "the log is a Raft log always"),
    ("isEnableBatchPush", "replication is batched and pipelined always"),
    ("preferredLeaderId", "see group.preferred_leader"),
    ("transientStorePool", "there is no such pool: appends are written and fsynced"),
    ("warmMapedFileEnable", "the log is written with pwrite, never through a map"),
    ("mappedFileSize", "segments are a property of the group: group.segment_size"),
    ("sendMessageThreadPoolNums", "there are no thread pools by kind of request"),
    ("pullMessageThreadPoolNums", "there are no thread pools by kind of request"),
    ("useReentrantLockWhenPutMessage", "one task orders each group's proposals; there is no such lock"),
    ("osPageCacheBusyTimeOutMills", "nothing waits for the page cache on the way to an acknowledgement"),
    ("waitTimeMillsInSendQueue", "requests that meet an election wait at most 2.2 s, others are not queued"),
    ("storePath", "everything lies under `data`"),
    ("enableControllerMode", "there is no controller: the group elects its leader"),
    ("controllerAddr", "there is no controller: the group elects its leader"),
    ("abortFile", "recovery needs no such file"),
];

/// Reads Java properties as far as broker files use them: `key=value` or `key:value`, `#` and `!` comments.
fn properties(text: &str) -> Vec<(String, String)> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '!']))
        .filter_map(|line| {
            let at = line.find(['=', ':'])?;
            let (key, value) = line.split_at(at);
            Some((key.trim().to_owned(), value[1..].trim().to_owned()))
        })
        .collect()
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Imports the text of a properties file.
pub(crate) fn import(text: &str) -> Imported {
    let pairs = properties(text);
    let map: BTreeMap<&str, &str> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut notes = Vec::new();
    let get = |key: &str| map.get(key).copied();

    let cluster = get("brokerClusterName").unwrap_or("DefaultCluster");
    let name = get("brokerName").unwrap_or("broker-a");
    let port: u16 = get("listenPort").and_then(|p| p.parse().ok()).unwrap_or(10911);
    let ip = get("brokerIP1").unwrap_or("127.0.0.1");
    let data =
        get("storePathRootDir").map_or_else(|| "/var/lib/raftmq".to_owned(), |d| format!("{d}-raftmq"));
    let self_id = get("dLegerSelfId").or_else(|| get("dLedgerSelfId"));
    let peers = peers_of(get("dLegerPeers").or_else(|| get("dLedgerPeers")));
    let node = self_id.and_then(node_number).unwrap_or(1);

    let mut toml = String::new();
    let _ = writeln!(toml, "cluster = {}\nnode = {node}\ndata = {}", quoted(cluster), quoted(&data));
    if let Some(list) = get("namesrvAddr") {
        let servers: Vec<String> = list.split(';').filter(|s| !s.is_empty()).map(quoted).collect();
        let _ = writeln!(toml, "nameservers = [{}]", servers.join(", "));
    }
    let _ = writeln!(toml, "\n[peers]");
    if peers.is_empty() {
        let _ = writeln!(toml, "{node} = {}", quoted(&format!("{ip}:{}", port.saturating_sub(10))));
        notes.push(
            "the file names no peers: this is a group of one node; list three nodes under [peers] for failover"
                .to_owned(),
        );
    } else {
        for (id, address) in &peers {
            let _ = writeln!(toml, "{id} = {}", quoted(address));
        }
    }
    let _ = writeln!(toml, "\n[broker]");
    let mut broker_key = |key: &str, ours: &str| {
        if let Some(value) = get(key) {
            let _ = writeln!(toml, "{ours} = {value}");
        }
    };
    broker_key("autoCreateTopicEnable", "auto_create_topic");
    broker_key("autoCreateSubscriptionGroup", "auto_create_group");
    broker_key("defaultTopicQueueNums", "default_queues");
    if let Some(region) = get("regionId") {
        let _ = writeln!(toml, "region = {}", quoted(region));
    }
    if let Some(size) = get("maxMessageSize") {
        let _ = writeln!(toml, "\n[limits]\nmessage_bytes = {size}");
    }
    let listen_ip = get("bindAddress").unwrap_or(ip);
    let _ = writeln!(
        toml,
        "\n[[group]]\nname = {}\nlisten = {}",
        quoted(name),
        quoted(&format!("{listen_ip}:{port}"))
    );
    if get("brokerIP1").is_some() {
        let _ = writeln!(toml, "advertise = {}", quoted(&format!("{ip}:{port}")));
    }
    if let Some(preferred) = get("preferredLeaderId").and_then(node_number) {
        let _ = writeln!(toml, "preferred_leader = {preferred}");
    }
    if get("slaveReadEnable") == Some("true") {
        let _ = writeln!(toml, "follower_reads = true");
    }
    if let Some(size) = get("mappedFileSizeCommitLog") {
        let _ = writeln!(toml, "segment_size = {size}");
    }
    if get("storePathRootDir").is_some() || get("storePathCommitLog").is_some() {
        notes.push(
            "messages are not carried over by this command: it turns the configuration only".to_owned(),
        );
    }

    let keys = pairs.iter().map(|(k, v)| (k.clone(), v.clone(), fate(k))).collect();
    Imported { toml, keys, notes }
}

fn fate(key: &str) -> Fate {
    let renamed = match key {
        "brokerClusterName" => "cluster",
        "brokerName" => "group.name",
        "namesrvAddr" => "nameservers",
        "listenPort" | "bindAddress" => "group.listen",
        "brokerIP1" => "group.advertise",
        "dLegerPeers" | "dLedgerPeers" => "peers",
        "dLegerSelfId" | "dLedgerSelfId" => "node",
        "autoCreateTopicEnable" => "broker.auto_create_topic",
        "autoCreateSubscriptionGroup" => "broker.auto_create_group",
        "defaultTopicQueueNums" => "broker.default_queues",
        "regionId" => "broker.region",
        "maxMessageSize" => "limits.message_bytes",
        "preferredLeaderId" => "group.preferred_leader",
        "slaveReadEnable" => "group.follower_reads",
        "mappedFileSizeCommitLog" => "group.segment_size",
        "storePathRootDir" => "data",
        _ => "",
    };
    let as_it_is =
        ["cluster", "group.name", "group.follower_reads", "group.segment_size", "limits.message_bytes"];
    if as_it_is.contains(&renamed) || renamed.starts_with("broker.") {
        return Fate::Kept(renamed.to_owned());
    }
    if !renamed.is_empty() {
        return Fate::Renamed(renamed.to_owned());
    }
    let known = MEANINGLESS.iter().filter(|(prefix, _)| key.starts_with(prefix)).max_by_key(|(p, _)| p.len());
    match known {
        Some((_, why)) => Fate::Meaningless(why),
        None => Fate::Meaningless("no setting of this name or meaning exists here"),
    }
}

/// `n0-host:port;n1-host:port` → node id → address. DLedger's ids count from 0, ours from 1.
fn peers_of(list: Option<&str>) -> BTreeMap<u64, String> {
    list.unwrap_or("")
        .split(';')
        .filter_map(|peer| {
            let (id, address) = peer.trim().split_once('-')?;
            Some((node_number(id)?, address.to_owned()))
        })
        .collect()
}

fn node_number(id: &str) -> Option<u64> {
    let digits = id.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.parse::<u64>().ok().map(|n| n + 1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const DLEDGER: &str = "brokerClusterName = RaftCluster\nbrokerName=RaftNode00\nlistenPort=30911\n\
        namesrvAddr=127.0.0.1:9876;127.0.0.1:9877\nstorePathRootDir=/tmp/rmqstore/node00\n\
        storePathCommitLog=/tmp/rmqstore/node00/commitlog\nenableDLegerCommitLog=true\ndLegerGroup=RaftNode00\n\
        dLegerPeers=n0-127.0.0.1:40911;n1-127.0.0.1:40912;n2-127.0.0.1:40913\n# must be unique\ndLegerSelfId=n0\n\
        sendMessageThreadPoolNums=16\n";

    #[test]
    fn a_dledger_file_becomes_a_file_that_passes_the_check() {
        let imported = import(DLEDGER);
        let checked = super::super::check(Path::new("new.toml"), &imported.toml).unwrap();
        assert_eq!(checked.config.cluster.get_ref(), "RaftCluster");
        assert_eq!(checked.peers.len(), 3);
        assert_eq!(checked.peers[&1], "127.0.0.1:40911");
        assert_eq!(checked.groups[0].listen.port(), 30911);
        assert_eq!(checked.config.nameservers.len(), 2);
    }

    #[test]
    fn every_key_has_a_fate() {
        let imported = import(DLEDGER);
        assert_eq!(imported.keys.len(), 11);
        let fate = |k: &str| imported.keys.iter().find(|(key, _, _)| key == k).unwrap().2.clone();
        assert_eq!(fate("brokerName"), Fate::Kept("group.name".into()));
        assert_eq!(fate("dLegerSelfId"), Fate::Renamed("node".into()));
        assert!(
            matches!(fate("sendMessageThreadPoolNums"), Fate::Meaningless(why) if why.contains("thread pools"))
        );
        assert!(matches!(fate("storePathCommitLog"), Fate::Meaningless(why) if why.contains("data")));
    }
}
