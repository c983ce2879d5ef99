//! The configuration file of a node: what it may hold, its defaults, and the rules that it must keep.
//!
//! A mistake is refused with file, line, key and the rule. Nothing starts on a file that is not wholly understood.

mod import;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

pub(crate) use import::{Fate, import};

/// A mistake in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigError {
    pub(crate) file: PathBuf,
    /// From 1; 0 where the mistake is not at one place.
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

/// One node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeConfig {
    /// Nodes of another cluster are refused; RocketMQ's brokerClusterName.
    pub(crate) cluster: Spanned<String>,
    /// This node's id, unique in the cluster. A node that lost its data comes back under a new id.
    pub(crate) node: Spanned<u64>,
    /// Directory of everything that this node keeps.
    pub(crate) data: PathBuf,
    /// Nameservers to register with, `host:port`.
    #[serde(default)]
    pub(crate) nameservers: Vec<Spanned<String>>,
    /// Node id → `host:port` at which the other nodes reach it; the same list on every node.
    #[serde(default)]
    pub(crate) peers: BTreeMap<String, Spanned<String>>,
    /// Where this node listens for the others; its own entry in `peers` unless set.
    pub(crate) peer_listen: Option<Spanned<String>>,
    /// Present: this node plays a nameserver.
    pub(crate) nameserver: Option<NameserverSection>,
    #[serde(default)]
    pub(crate) broker: BrokerSection,
    #[serde(default)]
    pub(crate) limits: LimitsSection,
    /// The groups whose replicas live here.
    #[serde(default, rename = "group")]
    pub(crate) groups: Vec<GroupSection>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameserverSection {
    pub(crate) listen: Spanned<String>,
    /// File that keeps the key-value configuration (mqadmin updateKvConfig) over restarts.
    pub(crate) kv_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BrokerSection {
    /// Topics are created by a first send, from TBW102 (RocketMQ's autoCreateTopicEnable).
    pub(crate) auto_create_topic: bool,
    /// Consumer groups are created by a first heartbeat (autoCreateSubscriptionGroup).
    pub(crate) auto_create_group: bool,
    /// Queues of TBW102 (defaultTopicQueueNums).
    pub(crate) default_queues: u32,
    /// MSG_REGION of stored messages (regionId).
    pub(crate) region: String,
}

impl Default for BrokerSection {
    fn default() -> Self {
        BrokerSection {
            auto_create_topic: true,
            auto_create_group: true,
            default_queues: 8,
            region: "DefaultRegion".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsSection {
    /// Client connections of one listener.
    pub(crate) connections: usize,
    /// Client connections of one address.
    pub(crate) connections_per_ip: usize,
    /// Largest frame of a client, bytes; at most 8 MiB, the largest entry of the log.
    pub(crate) frame_bytes: usize,
    /// Largest message body, bytes (maxMessageSize).
    pub(crate) message_bytes: usize,
    /// Requests of one connection that are not answered yet, bytes.
    pub(crate) in_flight_bytes_per_connection: usize,
}

impl Default for LimitsSection {
    fn default() -> Self {
        LimitsSection {
            connections: 20_000,
            connections_per_ip: 5_000,
            frame_bytes: 8 << 20,
            message_bytes: 4 << 20,
            in_flight_bytes_per_connection: 32 << 20,
        }
    }
}

/// A group: one Raft group, one RocketMQ brokerName.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupSection {
    /// RocketMQ's brokerName.
    pub(crate) name: Spanned<String>,
    /// Where clients connect; the group listens on this port and on port − 2 (RocketMQ's VIP channel).
    pub(crate) listen: Spanned<String>,
    /// What clients are told of this node; `listen` unless set.
    pub(crate) advertise: Option<Spanned<String>>,
    /// What clients are told of the leader, the same on every node: an address that reaches any live one (a virtual
    /// IP, a Service, a balancer). The leader's `advertise` unless set.
    pub(crate) advertise_leader: Option<Spanned<String>>,
    /// The node that leads while it is caught up.
    pub(crate) preferred_leader: Option<Spanned<u64>>,
    /// The nodes that vote; all of `peers` unless set.
    pub(crate) voters: Option<Spanned<Vec<u64>>>,
    /// Consumers may read committed messages from followers (slaveReadEnable).
    #[serde(default)]
    pub(crate) follower_reads: bool,
    /// Bytes of a log segment: a property of the group, the same on every node, never changed later.
    #[serde(default = "default_segment_size")]
    pub(crate) segment_size: Spanned<u64>,
    /// `quorum-fsync`: acknowledged when a majority has it on disk.
    pub(crate) durability: Option<Spanned<String>>,
}

fn default_segment_size() -> Spanned<u64> {
    Spanned::new(0..0, 1 << 30)
}

/// A whole file that keeps every rule, and what was read from it.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) config: NodeConfig,
    /// `peers` with numbers for keys.
    pub(crate) peers: BTreeMap<u64, String>,
    pub(crate) peer_listen: Option<SocketAddr>,
    pub(crate) nameserver_listen: Option<SocketAddr>,
    /// In the order of `config.groups`.
    pub(crate) groups: Vec<CheckedGroup>,
}

#[derive(Debug, Clone)]
pub(crate) struct CheckedGroup {
    pub(crate) name: String,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: SocketAddr,
    pub(crate) advertise_leader: Option<SocketAddr>,
    pub(crate) preferred_leader: Option<u64>,
    pub(crate) voters: Vec<u64>,
    pub(crate) follower_reads: bool,
    pub(crate) segment_size: u64,
}

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
    let config: NodeConfig = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(0, |span| line_of(text, span.start));
        let key = e.span().map_or(String::new(), |span| key_at(text, &span));
        ConfigError { file: file.to_owned(), line, key, rule: e.message().to_owned() }
    })?;
    Checker { file, text, listeners: HashMap::new() }.run(config)
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count() + 1
}

/// The key of the line that a span points into.
fn key_at(text: &str, span: &Range<usize>) -> String {
    let line = text.lines().nth(line_of(text, span.start) - 1).unwrap_or("");
    line.split('=').next().unwrap_or("").trim().trim_matches(['[', ']']).to_owned()
}

struct Checker<'a> {
    file: &'a Path,
    text: &'a str,
    /// Port → who listens there, and on which address.
    listeners: HashMap<u16, Vec<(SocketAddr, String)>>,
}

impl Checker<'_> {
    fn error<T>(&self, span: Range<usize>, key: &str, rule: impl Into<String>) -> Result<T, ConfigError> {
        let line = if span == (0..0) { 0 } else { line_of(self.text, span.start) };
        Err(ConfigError { file: self.file.to_owned(), line, key: key.to_owned(), rule: rule.into() })
    }

    fn run(mut self, config: NodeConfig) -> Result<Checked, ConfigError> {
        self.name(&config.cluster, "cluster", 127)?;
        if *config.node.get_ref() == 0 {
            return self.error(config.node.span(), "node", "node ids start at 1");
        }
        let node = *config.node.get_ref();
        let mut peers = BTreeMap::new();
        let mut addresses: HashMap<&str, u64> = HashMap::new();
        for (id, address) in &config.peers {
            let key = format!("peers.{id}");
            let Ok(number) = id.parse::<u64>() else {
                return self.error(address.span(), &key, "the key must be a node id, a number from 1");
            };
            if number == 0 {
                return self.error(address.span(), &key, "node ids start at 1");
            }
            self.host_port(address, &key)?;
            if let Some(other) = addresses.insert(address.get_ref(), number) {
                return self.error(address.span(), &key, format!("node {other} has this address already"));
            }
            peers.insert(number, address.get_ref().clone());
        }
        let nameserver_listen = match &config.nameserver {
            None => None,
            Some(section) => {
                let listen = self.socket(&section.listen, "nameserver.listen")?;
                self.claim(listen, "nameserver.listen", section.listen.span())?;
                Some(listen)
            }
        };
        for address in &config.nameservers {
            self.host_port(address, "nameservers")?;
        }
        if config.groups.is_empty() && config.nameserver.is_none() {
            return self.error(0..0, "group", "a node plays a nameserver or holds at least one group");
        }
        let mut peer_listen = None;
        if !config.groups.is_empty() {
            let Some(own) = config.peers.get(&node.to_string()) else {
                return self.error(
                    config.node.span(),
                    "peers",
                    format!("the list must name this node, {node}, like every other"),
                );
            };
            let spanned = config.peer_listen.as_ref().unwrap_or(own);
            let listen = self.socket(spanned, "peer_listen")?;
            self.claim(listen, "peer_listen", spanned.span())?;
            peer_listen = Some(listen);
        }
        let mut groups: Vec<CheckedGroup> = Vec::new();
        for group in &config.groups {
            let checked = self.group(group, &peers, node)?;
            if groups.iter().any(|g| g.name == checked.name) {
                return self.error(group.name.span(), "group.name", "two groups have this name");
            }
            groups.push(checked);
        }
        if config.broker.default_queues == 0 || config.broker.default_queues > 1024 {
            return self.error(0..0, "broker.default_queues", "must be 1 to 1024");
        }
        let limits = &config.limits;
        if limits.message_bytes + (64 << 10) > limits.frame_bytes {
            return self.error(
                0..0,
                "limits.frame_bytes",
                "must hold a message of limits.message_bytes and 64 KiB of headers",
            );
        }
        if limits.frame_bytes > 8 << 20 {
            return self.error(0..0, "limits.frame_bytes", "at most 8 MiB, the largest entry of the log");
        }
        if limits.message_bytes > 4 << 20 {
            return self.error(0..0, "limits.message_bytes", "at most 4 MiB (RocketMQ's maxMessageSize)");
        }
        Ok(Checked { config, peers, peer_listen, nameserver_listen, groups })
    }

    fn group(
        &mut self,
        group: &GroupSection,
        peers: &BTreeMap<u64, String>,
        node: u64,
    ) -> Result<CheckedGroup, ConfigError> {
        self.name(&group.name, "group.name", 127)?;
        let listen = self.socket(&group.listen, "group.listen")?;
        if listen.port() < 3 {
            return self.error(group.listen.span(), "group.listen", "port − 2 is listened on too: from 3");
        }
        self.claim(listen, &format!("group {}", group.name.get_ref()), group.listen.span())?;
        let vip = SocketAddr::new(listen.ip(), listen.port() - 2);
        self.claim(vip, &format!("group {} (port − 2)", group.name.get_ref()), group.listen.span())?;
        let advertised = group.advertise.as_ref().unwrap_or(&group.listen);
        let advertise = self.reachable(advertised, "group.advertise")?;
        let advertise_leader = match &group.advertise_leader {
            None => None,
            Some(address) => Some(self.reachable(address, "group.advertise_leader")?),
        };
        if let Some(address) = &group.advertise_leader
            && advertise_leader == Some(advertise)
            && peers.len() > 1
        {
            let rule = "must differ from this node's own address: nodes of a group that register one address \
                        displace each other";
            return self.error(address.span(), "group.advertise_leader", rule);
        }
        let voters = match &group.voters {
            None => peers.keys().copied().collect(),
            Some(list) => {
                let mut voters = list.get_ref().clone();
                voters.sort_unstable();
                voters.dedup();
                if let Some(unknown) = voters.iter().find(|v| !peers.contains_key(v)) {
                    return self.error(
                        list.span(),
                        "group.voters",
                        format!("node {unknown} is not in the list of peers"),
                    );
                }
                if !voters.contains(&node) {
                    return self.error(
                        list.span(),
                        "group.voters",
                        format!("this node, {node}, does not vote: leave the group out of its file"),
                    );
                }
                voters
            }
        };
        let preferred_leader = group.preferred_leader.as_ref().map(|p| *p.get_ref());
        if let Some(preferred) = &group.preferred_leader
            && !voters.contains(preferred.get_ref())
        {
            return self.error(preferred.span(), "group.preferred_leader", "must be a voter of the group");
        }
        let segment_size = *group.segment_size.get_ref();
        if !(16 << 20..=1 << 30).contains(&segment_size) || !segment_size.is_multiple_of(4096) {
            return self.error(
                group.segment_size.span(),
                "group.segment_size",
                "must be 16 MiB to 1 GiB, a multiple of 4096",
            );
        }
        if let Some(durability) = &group.durability
            && durability.get_ref() != "quorum-fsync"
        {
            return self.error(
                durability.span(),
                "group.durability",
                "must be \"quorum-fsync\" (quorum-memory does not exist yet)",
            );
        }
        Ok(CheckedGroup {
            name: group.name.get_ref().clone(),
            listen,
            advertise,
            advertise_leader,
            preferred_leader,
            voters,
            follower_reads: group.follower_reads,
            segment_size,
        })
    }

    /// An address that clients can be told.
    fn reachable(&self, address: &Spanned<String>, key: &str) -> Result<SocketAddr, ConfigError> {
        let socket = self.socket(address, key)?;
        if socket.ip().is_unspecified() {
            return self.error(address.span(), key, "clients cannot connect to an unspecified address");
        }
        Ok(socket)
    }

    fn name(&self, name: &Spanned<String>, key: &str, longest: usize) -> Result<(), ConfigError> {
        let text = name.get_ref();
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if text.is_empty() || text.len() > longest || !text.chars().all(legal) {
            return self.error(
                name.span(),
                key,
                format!("must be 1 to {longest} letters, digits, '_' or '-', not {text:?}"),
            );
        }
        Ok(())
    }

    fn socket(&self, address: &Spanned<String>, key: &str) -> Result<SocketAddr, ConfigError> {
        match address.get_ref().parse::<SocketAddr>() {
            Ok(parsed) if parsed.port() != 0 => Ok(parsed),
            _ => self.error(
                address.span(),
                key,
                format!("must be IP:PORT, as 127.0.0.1:10911, not {:?}", address.get_ref()),
            ),
        }
    }

    fn host_port(&self, address: &Spanned<String>, key: &str) -> Result<(), ConfigError> {
        let legal = address
            .get_ref()
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
        if !legal {
            return self.error(
                address.span(),
                key,
                format!("must be HOST:PORT, not {:?}", address.get_ref()),
            );
        }
        Ok(())
    }

    fn claim(&mut self, address: SocketAddr, who: &str, span: Range<usize>) -> Result<(), ConfigError> {
        let taken = self.listeners.entry(address.port()).or_default();
        let clash = taken.iter().find(|(a, _)| {
            a.ip() == address.ip() || a.ip().is_unspecified() || address.ip().is_unspecified()
        });
        if let Some((other, owner)) = clash {
            let rule = format!("port clash: {owner} listens on {other} already");
            return self.error(span, who, rule);
        }
        taken.push((address, who.to_owned()));
        Ok(())
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

    fn refused(text: &str) -> String {
        check(Path::new("f.toml"), text).expect_err("must be refused").to_string()
    }

    #[test]
    fn defaults_are_filled_in() {
        let checked = check(Path::new("f.toml"), GOOD).unwrap();
        assert_eq!(checked.groups[0].voters, [1, 2, 3]);
        assert_eq!(checked.groups[0].advertise.to_string(), "127.0.0.1:10911");
        assert_eq!(checked.groups[0].segment_size, 1 << 30);
        assert!(checked.config.broker.auto_create_topic);
    }

    #[test]
    fn mistakes_are_refused_with_file_line_key_and_rule() {
        let cases = [
            ("node = 1", "nodes = 1", "f.toml:2: nodes: unknown field"),
            ("node = 1", "node = \"one\"", "f.toml:2: node: invalid type: string"),
            ("node = 1", "node = 4", "f.toml:2: peers: the list must name this node, 4"),
            ("10902", "10901", "f.toml:8: peers.2: node 1 has this address already"),
            ("10911\"", "9876\"", "f.toml:16: group broker-a: port clash: nameserver.listen listens"),
            ("10911\"", "9878\"", "f.toml:16: group broker-a (port − 2): port clash"),
            ("10911\"", "nonsense\"", "f.toml:16: group.listen: must be IP:PORT"),
            ("broker-a", "broker a", "f.toml:15: group.name: must be 1 to 127 letters"),
            ("127.0.0.1:10911", "0.0.0.0:10911", "group.advertise: clients cannot connect"),
        ];
        for (from, to, want) in cases {
            let text = GOOD.replace(from, to);
            let got = refused(&text);
            assert!(got.contains(want), "{to}: {got}");
        }
    }

    #[test]
    fn rules_between_keys_are_checked() {
        let text = format!("{GOOD}preferred_leader = 7\n");
        assert!(refused(&text).contains("f.toml:17: group.preferred_leader: must be a voter"));
        let text = format!("{GOOD}voters = [2, 3]\n");
        assert!(refused(&text).contains("does not vote"));
        let text = format!("{GOOD}segment_size = 1000\n");
        assert!(refused(&text).contains("16 MiB to 1 GiB"));
        let text = format!("{GOOD}durability = \"fast\"\n");
        assert!(refused(&text).contains("quorum-fsync"));
    }
}
