//! The configuration file of a node: what it may hold, and what a broker and a nameserver make of it.
//!
//! A mistake is refused with file, line, key and the rule. Nothing starts on a file that is not wholly understood. The
//! rules and the defaults are the broker's ([`BrokerConfig::check_beside`], [`broker::Limits`]), so that `config check`
//! and `server` cannot differ; only what a file alone can get wrong is looked at here.

mod import;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use broker::{BrokerConfig, DelayLevels, GroupConfig, Initial, Limits, RateRule, Whom, duration_ms};
use serde::Deserialize;
use toml::de::DeTable;

pub(crate) use import::{Fate, import};

/// A mistake in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigError {
    pub(crate) file: PathBuf,
    /// From 1; 0 where the file cannot be read at all.
    pub(crate) line: usize,
    pub(crate) key: String,
    pub(crate) rule: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.rule)
    }
}

impl std::error::Error for ConfigError {}

/// A whole file that keeps every rule: the roles of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) cluster: String,
    pub(crate) node: u64,
    pub(crate) nameserver: Option<NameserverRole>,
    pub(crate) broker: Option<BrokerConfig>,
}

impl Checked {
    /// What a file may say that an operator hardly wants.
    pub(crate) fn notes(&self) -> Vec<String> {
        let Some(broker) = &self.broker else { return Vec::new() };
        let mut notes = Vec::new();
        let is_replicated = broker.groups.iter().any(|group| group.voters.len() > 1);
        match &broker.nameservers[..] {
            [] => notes.push("nameservers: there is none, so clients find none of the groups".to_owned()),
            [one] if is_replicated => notes.push(format!(
                "nameservers: there is only {one}: while it is down clients do not hear of a new leader"
            )),
            _ => {}
        }
        let listed: Option<Vec<SocketAddr>> =
            broker.nameservers.iter().map(|address| address.parse().ok()).collect();
        // Where names are used it is not known which one is this node.
        if let (Some(listed), Some(NameserverRole { listen, .. })) = (listed, &self.nameserver)
            && !listen.ip().is_unspecified()
            && !listed.contains(listen)
        {
            notes.push(format!(
                "nameserver.listen: {listen} is not among `nameservers`: the groups do not register there"
            ));
        }
        notes
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameserverRole {
    pub(crate) listen: SocketAddr,
    pub(crate) kv_file: Option<PathBuf>,
    pub(crate) limits: Limits,
}

/// One node, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    /// Nodes of another cluster are refused; RocketMQ's brokerClusterName.
    cluster: String,
    /// This node's id, unique in the cluster. A node that lost its data comes back under a new id.
    node: u64,
    /// Directory of everything that this node keeps.
    data: PathBuf,
    /// Nameservers to register with, `host:port`.
    #[serde(default)]
    nameservers: Vec<String>,
    /// Node id → `host:port` at which the other nodes reach it; the same list on every node.
    #[serde(default)]
    peers: BTreeMap<String, String>,
    /// Where this node listens for the others; its own entry in `peers` unless set.
    peer_listen: Option<String>,
    /// Present: this node plays a nameserver.
    nameserver: Option<NameserverSection>,
    #[serde(default)]
    broker: BrokerSection,
    /// By the names of [`Limits`].
    #[serde(default)]
    limits: BTreeMap<String, usize>,
    /// Rates of single topics, consumer groups and clients.
    #[serde(default, rename = "rate")]
    rates: Vec<RateSection>,
    /// The groups whose replicas live here.
    #[serde(default, rename = "group")]
    groups: Vec<GroupSection>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NameserverSection {
    listen: String,
    /// File that keeps the key-value configuration (mqadmin updateKvConfig) over restarts.
    kv_file: Option<PathBuf>,
}

/// What all groups of a node share. What is not set has the default of [`BrokerConfig`] or [`GroupConfig`].
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BrokerSection {
    /// Topics are created by a first send, from TBW102 (RocketMQ's autoCreateTopicEnable).
    auto_create_topic: Option<bool>,
    /// Consumer groups are created by a first heartbeat (autoCreateSubscriptionGroup).
    auto_create_group: Option<bool>,
    /// Consumers may filter by SQL92 expressions (enablePropertyFilter, which is off in RocketMQ by default).
    property_filter: Option<bool>,
    /// Queues whose first message is within so much of the machine's memory from the end of the log are new: groups
    /// without offsets begin at 0 (accessMessageInMemoryMaxRatio).
    in_memory_percent: Option<u32>,
    /// What offsets are reset to is kept until consumers have been told (useServerSideResetOffset).
    server_side_reset: Option<bool>,
    /// Queues of TBW102 (defaultTopicQueueNums).
    default_queues: Option<u32>,
    /// MSG_REGION of stored messages (regionId).
    region: Option<String>,
}

/// What one topic, one consumer group or one client may have in a second, in place of what `[limits]` says. 0: any number.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateSection {
    /// One of the three.
    topic: Option<String>,
    group: Option<String>,
    /// An IP address.
    client: Option<String>,
    messages_per_second: Option<u64>,
    bytes_per_second: Option<u64>,
}

impl RateSection {
    fn rule(&self) -> Result<RateRule, String> {
        let whom = match (&self.topic, &self.group, &self.client) {
            (Some(topic), None, None) => Whom::Topic(topic.clone()),
            (None, Some(group), None) => Whom::Group(group.clone()),
            (None, None, Some(client)) => Whom::Client(client.clone()),
            _ => return Err("must name one topic, one group or one client".to_owned()),
        };
        if self.messages_per_second.is_none() && self.bytes_per_second.is_none() {
            return Err("must set messages_per_second or bytes_per_second".to_owned());
        }
        Ok(RateRule {
            whom,
            messages_per_second: self.messages_per_second,
            bytes_per_second: self.bytes_per_second,
        })
    }
}

/// A group: one Raft group, one RocketMQ brokerName.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupSection {
    /// RocketMQ's brokerName.
    name: String,
    /// Where clients connect; the group listens on this port and on port − 2 (RocketMQ's VIP channel).
    listen: String,
    /// `host:port` that clients are told of this node; `listen` unless set.
    advertise: Option<String>,
    /// `host:port` that clients are told of the leader, the same on every node: an address that reaches any live one (a
    /// virtual IP, a Service, a balancer). The leader's `advertise` unless set.
    advertise_leader: Option<String>,
    /// The node that leads while it is caught up.
    preferred_leader: Option<u64>,
    /// The nodes that vote; all of `peers` unless set.
    voters: Option<Vec<u64>>,
    /// Consumers may read committed messages from followers (slaveReadEnable).
    follower_reads: Option<bool>,
    /// Bytes of a log segment: a property of the group, the same on every node, never changed later.
    segment_size: Option<u64>,
    /// The delays of the levels, as `1s 5s 10s` (messageDelayLevel): the same on every node of the group.
    message_delay_level: Option<String>,
    /// How far ahead a timer message may be sent, as `3d` (timerMaxDelaySec).
    timer_max_delay: Option<String>,
    /// Producers may take timer messages back (recallMessageEnable).
    recall_messages: Option<bool>,
    /// For how long the producer of a half message is not asked (transactionTimeOut), from one time that it is asked to the
    /// next (transactionCheckInterval), and how often (transactionCheckMax).
    transaction_timeout_ms: Option<u64>,
    transaction_check_interval_ms: Option<u64>,
    transaction_checks_max: Option<u32>,
    /// Up to which feature level this node lets the group go: that of an older release, as long as it may be gone back to.
    feature_level: Option<u32>,
    /// `quorum-fsync`: acknowledged when a majority has it on disk.
    durability: Option<String>,
}

/// Path of a key, as `group.0.listen`, and the rule that it breaks.
type Broken = (String, String);

/// Reads and checks a file.
pub(crate) fn load(file: &Path) -> Result<Checked, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|e| ConfigError {
        file: file.to_owned(),
        line: 0,
        key: String::new(),
        rule: format!("cannot be read: {e}"),
    })?;
    check(file, &text)
}

/// Parses and checks the text of a file.
pub(crate) fn check(file: &Path, text: &str) -> Result<Checked, ConfigError> {
    let parsed: NodeFile = toml::from_str(text).map_err(|e| {
        // An empty span is the whole file: a required key is missing, and no other one is to blame.
        let span = e.span().filter(|span| !span.is_empty());
        let line = span.as_ref().map_or(1, |span| line_of(text, span.start));
        let key = span.map_or(String::new(), |_| key_at(text, line));
        ConfigError { file: file.to_owned(), line, key, rule: e.message().to_owned() }
    })?;
    parsed.checked().map_err(|(path, rule)| {
        let (mut line, key) = locate(text, &path);
        if path == "peer_listen" && parsed.peer_listen.is_none() {
            line = locate(text, &format!("peers.{}", parsed.node)).0;
        }
        ConfigError { file: file.to_owned(), line, key, rule }
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count() + 1
}

/// The key that a line sets or, in a header, opens.
fn key_at(text: &str, line: usize) -> String {
    let line = text.lines().nth(line - 1).unwrap_or("");
    line.split('=').next().unwrap_or("").trim().trim_matches(['[', ']']).to_owned()
}

/// The line of the value at a path, or of what is nearest around it where it is not set; and the key as people write it,
/// without places in lists.
fn locate(text: &str, path: &str) -> (usize, String) {
    let (mut line, mut key) = (1, Vec::new());
    let Ok(document) = DeTable::parse(text) else { return (line, path.to_owned()) };
    let mut steps = path.split('.');
    let mut found = steps.next().and_then(|step| {
        key.push(step);
        document.get_ref().get(step)
    });
    for step in steps {
        let inside = found.map(|value| value.get_ref());
        line = found.map_or(line, |value| line_of(text, value.span().start));
        found = match step.parse::<usize>() {
            Ok(place) if inside.is_some_and(|value| value.is_array()) => {
                inside.and_then(|value| value.get(place))
            }
            _ => {
                key.push(step);
                inside.and_then(|value| value.get(step))
            }
        };
    }
    (found.map_or(line, |value| line_of(text, value.span().start)), key.join("."))
}

/// The path in a file of what the broker's configuration calls otherwise.
fn in_file(path: &str) -> String {
    match path.strip_prefix("groups") {
        // A setting of all groups here.
        Some(rest) if rest.ends_with(".default_topic_queues") => "broker.default_queues".to_owned(),
        Some(rest) => {
            let rest = rest.replace("segment_bytes", "segment_size");
            format!("group{}", rest.replace("timer_max_delay_ms", "timer_max_delay"))
        }
        None => path.replace("rates.", "rate."),
    }
}

/// An address to listen on.
fn socket(address: &str, path: &str) -> Result<SocketAddr, Broken> {
    match address.parse::<SocketAddr>() {
        Ok(socket) if socket.port() != 0 => Ok(socket),
        _ => Err((path.to_owned(), format!("must be IP:PORT, as 127.0.0.1:10911, not {address:?}"))),
    }
}

impl NodeFile {
    fn checked(&self) -> Result<Checked, Broken> {
        let nameserver = match &self.nameserver {
            None => None,
            Some(section) => Some(NameserverRole {
                listen: socket(&section.listen, "nameserver.listen")?,
                kv_file: section.kv_file.clone(),
                limits: self.named_limits()?,
            }),
        };
        if self.groups.is_empty() && nameserver.is_none() {
            let rule = "a node plays a nameserver or holds at least one group";
            return Err(("group".to_owned(), rule.to_owned()));
        }
        let broker = self.broker()?;
        let others = nameserver.as_ref().map(|role| ("nameserver.listen", role.listen));
        let broker = match broker.check_beside(others.as_slice()) {
            Ok(()) => Some(broker),
            // A nameserver alone. Everything that its file says otherwise is good.
            Err((path, _)) if path == "groups" => None,
            Err((path, rule)) => return Err((in_file(&path), rule)),
        };
        Ok(Checked { cluster: self.cluster.clone(), node: self.node, nameserver, broker })
    }

    fn named_limits(&self) -> Result<Limits, Broken> {
        let mut limits = Limits::default();
        for (key, value) in &self.limits {
            limits.set(key, *value).map_err(|rule| (format!("limits.{key}"), rule))?;
        }
        Ok(limits)
    }

    /// The broker role, its rules unchecked.
    fn broker(&self) -> Result<BrokerConfig, Broken> {
        let peers = self.numbered_peers()?;
        let limits = self.named_limits()?;
        let rates = self.rates.iter().enumerate();
        let rates = rates.map(|(n, rate)| rate.rule().map_err(|rule| (format!("rate.{n}"), rule)));
        let peer_listen = self.peer_socket(&peers)?;
        let everyone: Vec<u64> =
            if peers.is_empty() { vec![self.node] } else { peers.keys().copied().collect() };
        let groups = self.groups.iter().enumerate().map(|(n, group)| {
            let at = |key: &str| format!("group.{n}.{key}");
            if group.durability.as_ref().is_some_and(|mode| mode != "quorum-fsync") {
                let rule = "must be \"quorum-fsync\" (quorum-memory does not exist yet)";
                return Err((at("durability"), rule.to_owned()));
            }
            let default = GroupConfig::default();
            let levels = group.message_delay_level.as_deref().map(str::parse::<DelayLevels>).transpose();
            let longest = group.timer_max_delay.as_deref().map(duration_ms).transpose();
            Ok(GroupConfig {
                name: group.name.clone(),
                voters: group.voters.clone().unwrap_or_else(|| everyone.clone()),
                preferred_leader: group.preferred_leader,
                listen: socket(&group.listen, &at("listen"))?,
                advertise: group.advertise.clone(),
                advertise_leader: group.advertise_leader.clone(),
                segment_bytes: group.segment_size.unwrap_or(default.segment_bytes),
                follower_reads: group.follower_reads.map_or(default.follower_reads, Initial::from),
                auto_create_topic: self
                    .broker
                    .auto_create_topic
                    .map_or(default.auto_create_topic, Initial::from),
                auto_create_group: self
                    .broker
                    .auto_create_group
                    .map_or(default.auto_create_group, Initial::from),
                property_filter: self.broker.property_filter.unwrap_or(default.property_filter),
                in_memory_percent: self.broker.in_memory_percent.unwrap_or(default.in_memory_percent),
                server_side_reset: self.broker.server_side_reset.unwrap_or(default.server_side_reset),
                default_topic_queues: self.broker.default_queues.unwrap_or(default.default_topic_queues),
                delay_levels: levels
                    .map_err(|rule| (at("message_delay_level"), rule))?
                    .unwrap_or(default.delay_levels),
                timer_max_delay_ms: longest
                    .map_err(|rule| (at("timer_max_delay"), rule))?
                    .unwrap_or(default.timer_max_delay_ms),
                recall: group.recall_messages.unwrap_or(default.recall),
                transaction_timeout_ms: group
                    .transaction_timeout_ms
                    .unwrap_or(default.transaction_timeout_ms),
                transaction_check_interval_ms: group
                    .transaction_check_interval_ms
                    .unwrap_or(default.transaction_check_interval_ms),
                transaction_checks_max: group
                    .transaction_checks_max
                    .unwrap_or(default.transaction_checks_max),
                feature_level: group.feature_level.unwrap_or(default.feature_level),
                ..default
            })
        });
        let default = BrokerConfig::default();
        Ok(BrokerConfig {
            cluster: self.cluster.clone(),
            node: self.node,
            data: self.data.clone(),
            peer_listen: peer_listen.unwrap_or(default.peer_listen),
            groups: groups.collect::<Result<_, Broken>>()?,
            peers,
            nameservers: self.nameservers.clone(),
            region: self.broker.region.clone().unwrap_or(default.region),
            limits,
            rates: rates.collect::<Result<_, Broken>>()?,
            ..default
        })
    }

    /// `peers` by number: TOML has nothing but text for keys.
    fn numbered_peers(&self) -> Result<BTreeMap<u64, String>, Broken> {
        let mut peers = BTreeMap::new();
        for (key, address) in &self.peers {
            let path = format!("peers.{key}");
            let Ok(node) = key.parse::<u64>() else {
                return Err((path, "the key must be a node id, a number from 1".to_owned()));
            };
            if let Some((other, _)) = peers.insert(node, (key, address)) {
                return Err((path, format!("node {node} is there already, as {other:?}")));
            }
        }
        Ok(peers.into_iter().map(|(node, (_, address))| (node, address.clone())).collect())
    }

    /// Where this node listens for the others; `None` where nothing does.
    fn peer_socket(&self, peers: &BTreeMap<u64, String>) -> Result<Option<SocketAddr>, Broken> {
        if let Some(listen) = &self.peer_listen {
            return socket(listen, "peer_listen").map(Some);
        }
        if self.groups.is_empty() {
            return Ok(None);
        }
        let Some(own) = peers.get(&self.node) else {
            if !peers.is_empty() {
                // The broker's rules tell what is wrong with the list, or with the node's id.
                return Ok(None);
            }
            let rule = format!("must name this node, {}, or peer_listen be set", self.node);
            return Err(("peers".to_owned(), rule));
        };
        let listen = own.parse().ok().filter(|socket: &SocketAddr| socket.port() != 0);
        listen.map(Some).ok_or_else(|| {
            let rule = format!(
                "must be set, as IP:PORT: it is what peers.{} says unless set, but a node listens on an address, and \
                 {own:?} is none",
                self.node
            );
            ("peer_listen".to_owned(), rule)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"cluster = "demo"
node = 1
data = "/tmp/x"
nameservers = ["127.0.0.1:9876"]

[peers]
1 = "127.0.0.1:10901"
2 = "127.0.0.1:10902"
3 = "127.0.0.1:10903"

[nameserver]
listen = "127.0.0.1:9876"

[[group]]
name = "broker-a"
listen = "127.0.0.1:10911"
"#;

    fn accepted(text: &str) -> Checked {
        check(Path::new("f.toml"), text).unwrap()
    }

    fn refused(text: &str) -> String {
        check(Path::new("f.toml"), text).expect_err("must be refused").to_string()
    }

    #[test]
    fn what_is_not_set_has_the_brokers_defaults() {
        let checked = accepted(GOOD);
        assert_eq!(checked.nameserver.unwrap().listen.port(), 9876);
        let mut broker = checked.broker.unwrap();
        let group = broker.groups.remove(0);
        let listen = SocketAddr::from(([127, 0, 0, 1], 10911));
        assert_eq!(group, GroupConfig { voters: vec![1, 2, 3], listen, ..GroupConfig::default() });
        assert_eq!(broker.limits, Limits::default());
        assert_eq!(broker.peer_listen.port(), 10901);
    }

    #[test]
    fn mistakes_are_refused_with_file_line_key_and_rule() {
        let cases = [
            ("node = 1", "nodes = 1", "f.toml:2: nodes: unknown field"),
            ("node = 1", "node = \"one\"", "f.toml:2: node: invalid type: string"),
            ("node = 1", "node = 0", "f.toml:2: node: node ids start at 1"),
            ("node = 1", "node = 4", "f.toml:6: peers: must name this node, 4"),
            ("cluster = \"demo\"\n", "", "f.toml:1: missing field `cluster`"),
            ("demo", "de mo", "f.toml:1: cluster: must be 1 to 127 letters"),
            ("[\"127.0.0.1:9876\"]", "[\n\"n\"]", "f.toml:5: nameservers: must be HOST:PORT"),
            ("10902", "10901", "f.toml:8: peers.2: node 1 has this address already"),
            ("2 = \"", "two = \"", "f.toml:8: peers.two: the key must be a node id"),
            ("2 = \"", "01 = \"", "peers.1: node 1 is there already, as \"01\""),
            ("10911\"", "9876\"", "f.toml:16: group.listen: port clash: nameserver.listen listens on"),
            ("10911\"", "9878\"", "f.toml:16: group.listen: port clash"),
            ("10911\"", "nonsense\"", "f.toml:16: group.listen: must be IP:PORT"),
            ("10911\"", "2\"", "f.toml:16: group.listen: port − 2"),
            ("broker-a", "broker a", "f.toml:15: group.name: must be 1 to 127 letters"),
            (
                "127.0.0.1:10911",
                "0.0.0.0:10911",
                "f.toml:14: group.advertise: must be set: clients cannot connect",
            ),
            ("127.0.0.1:10901", "host-1:10901", "f.toml:7: peer_listen: must be set, as IP:PORT"),
        ];
        for (from, to, want) in cases {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            let got = refused(&text);
            assert!(got.contains(want), "{to}: {got}");
        }
        let no_group = GOOD.split("[nameserver]").next().unwrap();
        assert!(refused(no_group).starts_with("f.toml:1: group: a node plays"), "{}", refused(no_group));
    }

    #[test]
    fn rules_between_keys_are_checked() {
        let cases = [
            ("preferred_leader = 7", "f.toml:17: group.preferred_leader: must be a voter"),
            ("voters = [2, 3]", "f.toml:17: group.voters: node 1 does not vote"),
            ("segment_size = 1000", "f.toml:17: group.segment_size: must be 16 to 1024 MiB"),
            (
                "segment_size = 16777728",
                "f.toml:17: group.segment_size: must be 16 to 1024 MiB, a multiple of 4096",
            ),
            ("durability = \"fast\"", "f.toml:17: group.durability: must be \"quorum-fsync\""),
            ("advertise_leader = \"127.0.0.1:10911\"", "f.toml:17: group.advertise_leader: must differ"),
            (
                "message_delay_level = \"1s 5\"",
                "f.toml:17: group.message_delay_level: must be a number and s, m",
            ),
            ("message_delay_level = \"\"", "f.toml:17: group.message_delay_level: must be 1 to 128 delays"),
            (
                "transaction_check_interval_ms = 5",
                "f.toml:17: group.transaction_check_interval_ms: must be 100 at least",
            ),
            ("timer_max_delay = \"3\"", "f.toml:17: group.timer_max_delay: must be a number and s, m"),
            ("timer_max_delay = \"0s\"", "f.toml:17: group.timer_max_delay: must be 1 to"),
            ("advertise = \"a b\"", "f.toml:17: group.advertise: must be HOST:PORT"),
            ("[broker]\ndefault_queues = 0", "f.toml:18: broker.default_queues: must be 1 to"),
            ("[limits]\nconnections = 0", "f.toml:18: limits.connections: must be 1 to"),
            ("[limits]\nconnections = -1", "f.toml:18: connections: invalid value"),
            (
                "[limits]\nconection = 1",
                "f.toml:18: limits.conection: no such limit; there are connections, ",
            ),
            (
                "[limits]\nin_flight_bytes_per_connection = 4194304",
                "f.toml:18: limits.in_flight_bytes_per_connection: must be frame_bytes (8388608) at least",
            ),
            (
                "[limits]\nmessage_bytes = 8388608",
                "f.toml:18: limits.message_bytes: frame_bytes (8388608) must hold",
            ),
            (
                "[limits]\nframe_bytes = 1048576",
                "f.toml:18: limits.frame_bytes: frame_bytes (1048576) must hold",
            ),
            ("[[rate]]\ntopic = \"T\"", "f.toml:17: rate: must set messages_per_second or"),
            (
                "[[rate]]\ntopic = \"T\"\ngroup = \"g\"\nbytes_per_second = 1",
                "f.toml:17: rate: must name one topic",
            ),
            (
                "[[rate]]\nclient = \"c\"\nbytes_per_second = 1",
                "f.toml:17: rate: a client is named by its IP",
            ),
            ("[[group]]\nname = \"broker-a\"\nlisten = \"127.0.0.1:1\"", "f.toml:19: group.listen: port − 2"),
            (
                "[[group]]\nname = \"broker-a\"\nlisten = \"127.0.0.1:12911\"",
                "f.toml:18: group.name: two groups",
            ),
        ];
        for (more, want) in cases {
            let got = refused(&format!("{GOOD}{more}\n"));
            assert!(got.starts_with(want), "{more}: {got}");
        }
    }

    #[test]
    fn addresses_may_be_names() {
        let text = GOOD
            .replace(
                "[peers]\n1 = \"127.0.0.1:10901\"",
                "peer_listen = \"0.0.0.0:10901\"\n[peers]\n1 = \"host-1:10901\"",
            )
            .replace("nameservers = [\"127.0.0.1", "nameservers = [\"names.example")
            + "advertise = \"broker-1.example:30911\"\nadvertise_leader = \"broker.example:30911\"\n";
        let broker = accepted(&text).broker.unwrap();
        assert_eq!(broker.peer_listen, SocketAddr::from(([0, 0, 0, 0], 10901)));
        assert_eq!(broker.groups[0].advertised(), "broker-1.example:30911");
        assert_eq!(broker.groups[0].advertised_as_leader(), "broker.example:30911");
    }

    #[test]
    fn names_may_have_rates_of_their_own() {
        let text = format!(
            "{GOOD}[[rate]]\ntopic = \"T\"\nmessages_per_second = 5\n[[rate]]\nclient = \"10.0.0.1\"\nbytes_per_second = 0\n"
        );
        let rate = |whom, messages_per_second, bytes_per_second| RateRule {
            whom,
            messages_per_second,
            bytes_per_second,
        };
        assert_eq!(
            accepted(&text).broker.unwrap().rates,
            [
                rate(Whom::Topic("T".into()), Some(5), None),
                rate(Whom::Client("10.0.0.1".into()), None, Some(0))
            ]
        );
    }

    #[test]
    fn transactions_are_checked_as_a_group_says() {
        let more =
            "transaction_timeout_ms = 1\ntransaction_check_interval_ms = 100\ntransaction_checks_max = 3\n";
        let group = accepted(&format!("{GOOD}{more}")).broker.unwrap().groups.remove(0);
        let got =
            (group.transaction_timeout_ms, group.transaction_check_interval_ms, group.transaction_checks_max);
        assert_eq!(got, (1, 100, 3));
    }

    #[test]
    fn delays_are_those_of_a_group() {
        let more = "message_delay_level = \"1s 2m\"\ntimer_max_delay = \"7d\"\nrecall_messages = false\n";
        let group = accepted(&format!("{GOOD}{more}")).broker.unwrap().groups.remove(0);
        assert_eq!(group.delay_levels.to_string(), "1s 2m");
        assert_eq!((group.timer_max_delay_ms, group.recall), (7 * 24 * 3600 * 1000, false));
    }

    #[test]
    fn every_limit_can_be_set() {
        for (key, value) in Limits::default().table() {
            let other = value.checked_sub(1).unwrap_or(1);
            let text = format!("{GOOD}[limits]\n{key} = {other}\n");
            let limits = accepted(&text).broker.unwrap().limits;
            assert!(limits.table().contains(&(key, other)), "{key}");
        }
    }

    #[test]
    fn what_an_operator_hardly_wants_is_noted() {
        let notes = |servers: &str| {
            accepted(
                &GOOD.replace("nameservers = [\"127.0.0.1:9876\"]", &format!("nameservers = [{servers}]")),
            )
            .notes()
        };
        let two = "\"127.0.0.1:9876\", \"127.0.0.1:9877\"";
        assert_eq!(notes(two), Vec::<String>::new());
        assert_eq!(notes("\"a.example:9876\", \"b.example:9876\""), Vec::<String>::new());
        assert!(notes("").concat().contains("there is none"));
        assert!(notes("\"127.0.0.1:9876\"").concat().contains("there is only 127.0.0.1:9876"));
        let elsewhere = notes("\"127.0.0.1:9877\", \"127.0.0.1:9878\"").concat();
        assert!(elsewhere.contains("127.0.0.1:9876 is not among"), "{elsewhere}");
        let alone = accepted(&GOOD.replace("\n2 = \"127.0.0.1:10902\"\n3 = \"127.0.0.1:10903\"", ""));
        assert_eq!(alone.notes(), Vec::<String>::new(), "one node needs one nameserver");
    }

    #[test]
    fn a_nameserver_needs_no_group() {
        let text = GOOD.split("[[group]]").next().unwrap();
        assert_eq!(accepted(text).broker, None);
        assert!(refused(&format!("{text}[limits]\nclients = 0\n")).contains("limits.clients"));
        let role = accepted(&format!("{text}[limits]\nconnections = 3\n")).nameserver.unwrap();
        assert_eq!(role.limits, Limits { connections: 3, ..Limits::default() });
    }

    /// Its commented section is how operators learn of the limits.
    #[test]
    fn an_example_names_every_limit_with_its_default() {
        let example = include_str!("../../../../conf/one-node.toml");
        for (key, value) in Limits::default().table() {
            assert!(example.contains(&format!("\n# {key} = {value}\n")), "# {key} = {value}");
        }
    }
}
