//! Turns a RocketMQ or DLedger `broker.conf` (Java properties) into a configuration file of ours, and says of each key
//! what became of it.

use std::collections::{BTreeMap, HashSet};
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
    /// The new file. It may break rules still: the old one did not know them.
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
    ("enableDLegerCommitLog", "the log is a Raft log always"),
    ("dLegerGroup", "the group is named by brokerName"),
    ("enableDLedgerCommitLog", "the log is a Raft log always"),
    ("isEnableBatchPush", "replication is batched and pipelined always"),
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

/// The values of a properties file, and what is to be said of them.
struct Source<'a> {
    values: BTreeMap<&'a str, &'a str>,
    notes: Vec<String>,
}

impl<'a> Source<'a> {
    /// The value of the first of these keys that is there.
    fn get(&self, keys: &[&str]) -> Option<&'a str> {
        keys.iter().find_map(|key| self.values.get(*key).map(|value| value.trim()))
    }

    /// As Java's `Boolean.parseBoolean` reads it.
    fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.get(&[key])?;
        let on = value.eq_ignore_ascii_case("true");
        if !on && !value.eq_ignore_ascii_case("false") {
            self.notes.push(format!("{key} = {value} is false, as RocketMQ reads it"));
        }
        Some(on)
    }

    fn number(&mut self, key: &str) -> Option<u64> {
        let value = self.get(&[key])?;
        let number = value.parse().ok();
        if number.is_none() {
            self.notes.push(format!("{key} = {value} is no number, so the default holds"));
        }
        number
    }

    /// `n0-host:port;n1-host:port` → node id → address. DLedger's ids count from 0, ours from 1.
    fn peers(&mut self, keys: &[&str]) -> BTreeMap<u64, &'a str> {
        let mut peers = BTreeMap::new();
        for peer in parts(self.get(keys).unwrap_or("")) {
            if let Some((id, address)) = peer.split_once('-')
                && let Some(node) = node_number(id)
            {
                peers.insert(node, address);
            } else {
                self.notes.push(format!("{peer} is no peer of the form n0-HOST:PORT, so it is left out"));
            }
        }
        peers
    }
}

fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.split(';').map(str::trim).filter(|part| !part.is_empty())
}

fn node_number(id: &str) -> Option<u64> {
    let digits = id.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.parse::<u64>().ok().map(|n| n + 1)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Imports the text of a properties file.
pub(crate) fn import(text: &str) -> Imported {
    let pairs = wire::java_properties::read(text);
    let values = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let mut source = Source { values, notes: Vec::new() };

    let cluster = source.get(&["brokerClusterName"]).unwrap_or("DefaultCluster");
    let name = source.get(&["brokerName"]).unwrap_or("broker-a");
    let port = source.number("listenPort").unwrap_or(10911);
    let own_ip = source.get(&["brokerIP1"]);
    let ip = own_ip.unwrap_or("127.0.0.1");
    let root = source.get(&["storePathRootDir"]);
    let data = root.map_or_else(|| "/var/lib/raftmq".to_owned(), |root| format!("{root}-raftmq"));
    let peers = source.peers(&["dLegerPeers", "dLedgerPeers"]);
    let node = source.get(&["dLegerSelfId", "dLedgerSelfId"]).and_then(node_number).unwrap_or(1);

    let mut toml = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(toml, "cluster = {}\nnode = {node}\ndata = {}", quoted(cluster), quoted(&data));
    if let Some(list) = source.get(&["namesrvAddr"]) {
        // One that is listed twice is one to RocketMQ, and a mistake in our files.
        let mut seen = HashSet::new();
        let servers: Vec<String> = parts(list).filter(|server| seen.insert(*server)).map(quoted).collect();
        let _ = writeln!(toml, "nameservers = [{}]", servers.join(", "));
    }
    let _ = writeln!(toml, "\n[peers]");
    for (id, address) in &peers {
        let _ = writeln!(toml, "{id} = {}", quoted(address));
    }
    if peers.is_empty() {
        let _ = writeln!(toml, "{node} = {}", quoted(&format!("{ip}:{}", port.saturating_sub(10))));
        let note = "the file names no peers: this is a group of one node; list three nodes under [peers] for failover";
        source.notes.push(note.to_owned());
    }
    let _ = writeln!(toml, "\n[broker]");
    for (key, ours) in [
        ("autoCreateTopicEnable", "auto_create_topic"),
        ("autoCreateSubscriptionGroup", "auto_create_group"),
        ("enablePropertyFilter", "property_filter"),
        ("useServerSideResetOffset", "server_side_reset"),
    ] {
        if let Some(on) = source.flag(key) {
            let _ = writeln!(toml, "{ours} = {on}");
        }
    }
    if let Some(queues) = source.number("defaultTopicQueueNums") {
        let _ = writeln!(toml, "default_queues = {queues}");
    }
    if let Some(percent) = source.number("accessMessageInMemoryMaxRatio") {
        let _ = writeln!(toml, "in_memory_percent = {percent}");
    }
    if let Some(region) = source.get(&["regionId"]) {
        let _ = writeln!(toml, "region = {}", quoted(region));
    }
    let limits: Vec<String> =
        [("maxMessageSize", "message_bytes"), ("serverSocketRcvBufSize", "receive_buffer_bytes")]
            .into_iter()
            .filter_map(|(name, ours)| Some(format!("{ours} = {}\n", source.number(name)?)))
            .collect();
    if !limits.is_empty() {
        let _ = write!(toml, "\n[limits]\n{}", limits.concat());
    }
    let listen = format!("{}:{port}", source.get(&["bindAddress"]).unwrap_or(ip));
    let _ = writeln!(toml, "\n[[group]]\nname = {}\nlisten = {}", quoted(name), quoted(&listen));
    if own_ip.is_some() {
        let _ = writeln!(toml, "advertise = {}", quoted(&format!("{ip}:{port}")));
    }
    if let Some(preferred) = source.get(&["preferredLeaderId"]).and_then(node_number) {
        let _ = writeln!(toml, "preferred_leader = {preferred}");
    }
    if let Some(on) = source.flag("slaveReadEnable") {
        let _ = writeln!(toml, "follower_reads = {on}");
    }
    if let Some(bytes) = source.number("mappedFileSizeCommitLog") {
        let _ = writeln!(toml, "segment_size = {bytes}");
    }
    if let Some(levels) = source.get(&["messageDelayLevel"]) {
        let _ = writeln!(toml, "message_delay_level = {}", quoted(levels));
    }
    if let Some(seconds) = source.number("timerMaxDelaySec") {
        let _ = writeln!(toml, "timer_max_delay = \"{seconds}s\"");
    }
    if let Some(on) = source.flag("recallMessageEnable") {
        let _ = writeln!(toml, "recall_messages = {on}");
    }
    for (name, key) in [
        ("transactionTimeOut", "transaction_timeout_ms"),
        ("transactionCheckInterval", "transaction_check_interval_ms"),
        ("transactionCheckMax", "transaction_checks_max"),
    ] {
        if let Some(value) = source.number(name) {
            let _ = writeln!(toml, "{key} = {value}");
        }
    }
    if source.get(&["storePathRootDir", "storePathCommitLog"]).is_some() {
        let note = "messages are not carried over by this command: it turns the configuration only";
        source.notes.push(note.to_owned());
    }
    let notes = source.notes;
    let keys = pairs.iter().map(|(key, value)| (key.clone(), value.clone(), fate(key))).collect();
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
        "enablePropertyFilter" => "broker.property_filter",
        "useServerSideResetOffset" => "broker.server_side_reset",
        "accessMessageInMemoryMaxRatio" => "broker.in_memory_percent",
        "defaultTopicQueueNums" => "broker.default_queues",
        "regionId" => "broker.region",
        "maxMessageSize" => "limits.message_bytes",
        "serverSocketRcvBufSize" => "limits.receive_buffer_bytes",
        "preferredLeaderId" => "group.preferred_leader",
        "slaveReadEnable" => "group.follower_reads",
        "mappedFileSizeCommitLog" => "group.segment_size",
        "messageDelayLevel" => "group.message_delay_level",
        "timerMaxDelaySec" => "group.timer_max_delay",
        "recallMessageEnable" => "group.recall_messages",
        "transactionTimeOut" => "group.transaction_timeout_ms",
        "transactionCheckInterval" => "group.transaction_check_interval_ms",
        "transactionCheckMax" => "group.transaction_checks_max",
        "storePathRootDir" => "data",
        _ => "",
    };
    let as_it_is = [
        "cluster",
        "group.name",
        "group.follower_reads",
        "group.segment_size",
        "group.message_delay_level",
        "group.recall_messages",
        "group.transaction_timeout_ms",
        "group.transaction_check_interval_ms",
        "group.transaction_checks_max",
        "limits.message_bytes",
        "limits.receive_buffer_bytes",
    ];
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Checked, ConfigError, check};
    use super::*;

    const DLEDGER: &str = "brokerClusterName = RaftCluster\nbrokerName=RaftNode00\nlistenPort=30911\n\
        namesrvAddr=127.0.0.1:9876;127.0.0.1:9877\nstorePathRootDir=/tmp/rmqstore/node00\n\
        storePathCommitLog=/tmp/rmqstore/node00/commitlog\nenableDLegerCommitLog=true\ndLegerGroup=RaftNode00\n\
        dLegerPeers=n0-127.0.0.1:40911;n1-127.0.0.1:40912;n2-127.0.0.1:40913\n# must be unique\ndLegerSelfId=n0\n\
        sendMessageThreadPoolNums=16\n";

    fn checked(imported: &Imported) -> Result<Checked, ConfigError> {
        check(Path::new("new.toml"), &imported.toml)
    }

    #[test]
    fn a_dledger_file_becomes_a_file_that_passes_the_check() {
        let checked = checked(&import(DLEDGER)).unwrap();
        assert_eq!(checked.cluster, "RaftCluster");
        let broker = checked.broker.unwrap();
        assert_eq!(broker.peers.len(), 3);
        assert_eq!(broker.peers[&1], "127.0.0.1:40911");
        assert_eq!(broker.groups[0].listen.port(), 30911);
        assert_eq!(broker.nameservers.len(), 2);
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

    /// A row that a renamed key hides is a reason that nobody is ever given.
    #[test]
    fn no_row_is_hidden_by_a_renamed_key() {
        for (name, why) in MEANINGLESS {
            assert_eq!(fate(name), Fate::Meaningless(why), "{name}");
        }
    }

    #[test]
    fn values_are_read_as_java_reads_them() {
        let imported = import(
            "autoCreateTopicEnable = TRUE \nautoCreateSubscriptionGroup=yes\nslaveReadEnable:True\n\
             messageDelayLevel = 1s 2s\ntimerMaxDelaySec=60\nrecallMessageEnable=false\n\
             defaultTopicQueueNums 16\nserverSocketRcvBufSize=65535\nmaxMessageSize=4M\nregionId=a\\u0022b\\\n    c\\=d\nbrokerIP1=10.0.0.7\n\
             namesrvAddr=\\\n  n1:9876; \\\n  n2:9876;n1:9876\n",
        );
        let broker = checked(&imported).unwrap().broker.unwrap();
        let group = &broker.groups[0];
        assert_eq!(
            (group.auto_create_topic, group.auto_create_group, group.follower_reads),
            (true.into(), false.into(), true.into())
        );
        assert_eq!(group.default_topic_queues, 16);
        assert_eq!((group.delay_levels.max(), group.timer_max_delay_ms, group.recall), (2, 60_000, false));
        let limits = broker::Limits { receive_buffer_bytes: 65_535, ..broker::Limits::default() };
        assert_eq!(broker.limits, limits);
        assert_eq!(broker.region, "a\"bc=d");
        assert_eq!(broker.nameservers, ["n1:9876", "n2:9876"]);
        assert_eq!(group.advertise.as_deref(), Some("10.0.0.7:10911"));
        assert!(
            imported.notes.iter().any(|note| note.contains("autoCreateSubscriptionGroup = yes is false"))
        );
        assert!(imported.notes.iter().any(|note| note.contains("maxMessageSize = 4M is no number")));
    }

    #[test]
    fn the_new_file_is_toml_whatever_the_values_are() {
        for value in ["a\"b", "a\\\\b", "\\u0000", "#", "'''", "a b", "ü", ""] {
            for key in [
                "brokerClusterName",
                "brokerName",
                "namesrvAddr",
                "storePathRootDir",
                "regionId",
                "brokerIP1",
            ] {
                let imported = import(&format!("{key}={value}\n"));
                assert!(imported.toml.parse::<toml::Table>().is_ok(), "{}", imported.toml);
            }
        }
        let refused = checked(&import("brokerName=a b\n")).unwrap_err();
        assert_eq!(refused.key, "group.name");
    }
}
