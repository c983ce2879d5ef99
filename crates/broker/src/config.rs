//! What a broker is told: plain values with RocketMQ's defaults. The command line maps its file onto these.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::delay::{DelayLevels, TIMER_MAX_DELAY_MS};
use crate::limits::{Limits, SEGMENT_BYTES, SEGMENT_BYTES_STEP};
use crate::settings::Initial;
use crate::state::command::FEATURE_LEVEL;
use crate::state::limits::QUEUES_PER_TOPIC_MAX;

/// The broker role of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    /// The cluster that clients and nameservers see; peers of another cluster are refused.
    pub cluster: String,
    /// This node's id, unique in the cluster.
    pub node: u64,
    /// Where the groups' directories are.
    pub data: PathBuf,
    /// Where other nodes reach this one.
    pub peer_listen: SocketAddr,
    /// `host:port` of every node that shares a group with this one, itself included, by node id.
    pub peers: BTreeMap<u64, String>,
    /// `host:port` of every nameserver.
    pub nameservers: Vec<String>,
    /// What messages and answers to sends carry as MSG_REGION and TRACE_ON.
    pub region: String,
    pub trace_on: bool,
    /// Concurrent fdatasync calls; more than four bring nothing (log.md 16).
    pub flush_threads: usize,
    /// Threads of the runtime on which consensus runs.
    pub consensus_threads: usize,
    pub limits: Limits,
    /// Rates of single topics, consumer groups and clients, in place of those in `limits`.
    pub rates: Vec<RateRule>,
    pub groups: Vec<GroupConfig>,
    /// By which its groups count.
    #[cfg(test)]
    pub(crate) wall_clock: replica::WallClock,
}

/// A rate of one name's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateRule {
    pub whom: Whom,
    /// 0: any number; `None`: as `limits` says.
    pub messages_per_second: Option<u64>,
    pub bytes_per_second: Option<u64>,
}

/// Whose rate it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whom {
    /// What is sent to a topic.
    Topic(String),
    /// What a consumer group is given.
    Group(String),
    /// What is sent from an IP address.
    Client(String),
}

impl Whom {
    /// The topic, the group or the address.
    pub fn name(&self) -> &str {
        match self {
            Whom::Topic(name) | Whom::Group(name) | Whom::Client(name) => name,
        }
    }
}

impl Default for BrokerConfig {
    fn default() -> BrokerConfig {
        BrokerConfig {
            cluster: "DefaultCluster".into(),
            node: 1,
            data: PathBuf::from("data"),
            peer_listen: SocketAddr::from(([127, 0, 0, 1], 10920)),
            peers: BTreeMap::new(),
            nameservers: Vec::new(),
            region: "DefaultRegion".into(),
            trace_on: true,
            flush_threads: 4,
            consensus_threads: 1,
            limits: Limits::default(),
            rates: Vec::new(),
            groups: Vec::new(),
            #[cfg(test)]
            wall_clock: replica::WallClock::default(),
        }
    }
}

/// One group: a RocketMQ brokerName, a Raft group, a directory, listeners of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// The brokerName.
    pub name: String,
    /// The nodes that vote, the same list on every node of the group.
    pub voters: Vec<u64>,
    /// The node that leads when it can.
    pub preferred_leader: Option<u64>,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// A second listener with the same answers, on port − 2 (RocketMQ's VIP channel).
    pub vip: bool,
    /// `host:port` of this node that clients are told, a name or an IP address; the listener's own address unless set.
    /// No other node of the group may have the same: nameservers know a broker by it.
    pub advertise: Option<String>,
    /// `host:port` that clients are told for whoever leads; the leader's own [`advertise`](Self::advertise) unless
    /// set. The same on every node: an address that reaches any live one (a virtual IP, a Service, a balancer), so
    /// that what clients know stays good when leadership moves.
    pub advertise_leader: Option<String>,
    /// Bytes of a log segment, a property of the group.
    pub segment_bytes: u64,
    /// Whether pulls may be served by this node while it does not lead.
    pub follower_reads: Initial<bool>,
    /// RocketMQ's brokerPermission: 4 read, 2 write.
    pub permission: Initial<u32>,
    /// Whether a first send creates its topic, and a first heartbeat its consumer group.
    pub auto_create_topic: Initial<bool>,
    pub auto_create_group: Initial<bool>,
    /// Whether consumers may filter by SQL92 expressions on properties (RocketMQ's enablePropertyFilter, which is off
    /// there by default).
    pub property_filter: bool,
    /// How far behind the end of the log a queue's first message may lie, in percent of the machine's memory, so that a new
    /// consumer group begins there whatever its ConsumeFromWhere says (RocketMQ's accessMessageInMemoryMaxRatio). 0: it
    /// never does.
    pub in_memory_percent: u32,
    /// Whether the broker itself keeps what consumer offsets are reset to until consumers have been told (RocketMQ's
    /// useServerSideResetOffset); else consumers that run are told once, and nobody else (220).
    pub server_side_reset: bool,
    /// Queues of TBW102, the most that an auto-created topic gets.
    pub default_topic_queues: u32,
    /// The delays of the levels (RocketMQ's messageDelayLevel). The leader's count: the same on every node of the group.
    pub delay_levels: DelayLevels,
    /// How far ahead a timer message may be sent, ms (timerMaxDelaySec); no longer than messages are kept.
    pub timer_max_delay_ms: u64,
    /// Whether timer messages can be taken back (recallMessageEnable, which is false unless set).
    pub recall: bool,
    /// For how long the producer of a half message is not asked what became of it (RocketMQ's `transactionTimeOut`).
    pub transaction_timeout_ms: u64,
    /// From one time that it is asked to the next (`transactionCheckInterval`).
    pub transaction_check_interval_ms: u64,
    /// How often it is asked (`transactionCheckMax`); then the message is put aside.
    pub transaction_checks_max: u32,
    /// Up to which feature level this node lets the group go, from 1; the build's own, unless a release before is to be gone
    /// back to.
    pub feature_level: u32,
    /// Raft timing, in milliseconds.
    pub heartbeat_ms: u64,
    pub election_ms: (u64, u64),
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            name: "broker-a".into(),
            voters: vec![1],
            preferred_leader: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 10911)),
            vip: true,
            advertise: None,
            advertise_leader: None,
            segment_bytes: 1 << 30,
            follower_reads: false.into(),
            permission: 6.into(),
            auto_create_topic: true.into(),
            auto_create_group: true.into(),
            property_filter: true,
            in_memory_percent: 40,
            server_side_reset: true,
            default_topic_queues: 8,
            delay_levels: DelayLevels::default(),
            timer_max_delay_ms: 3 * 24 * 3600 * 1000,
            recall: true,
            transaction_timeout_ms: 6_000,
            transaction_check_interval_ms: 30_000,
            transaction_checks_max: 15,
            feature_level: FEATURE_LEVEL,
            heartbeat_ms: 50,
            election_ms: (150, 300),
        }
    }
}

impl GroupConfig {
    /// What clients are told of this node.
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// What clients are told of this node while it leads.
    pub fn advertised_as_leader(&self) -> String {
        self.advertise_leader.clone().unwrap_or_else(|| self.advertised())
    }

    /// The address of the second listener.
    pub fn vip_listen(&self) -> Option<SocketAddr> {
        // Port 0 is the kernel's choice, for tests; "two below" means nothing there.
        let port = self.listen.port().checked_sub(2).filter(|port| *port > 0)?;
        self.vip.then(|| SocketAddr::new(self.listen.ip(), port))
    }
}

/// What a configuration does wrong: the path of the key, and the rule. A path is as `groups.0.listen` or
/// `limits.frame_bytes`: names of fields, and places in lists from 0.
type Broken = (String, String);

impl BrokerConfig {
    /// The first rule that the configuration breaks: the path of the key, as `groups.0.listen`, and the rule.
    pub fn check(&self) -> Result<(), Broken> {
        self.check_beside(&[])
    }

    /// The same, in a process that listens on other sockets too, each with the key that says so. That there is a group
    /// is asked when everything outside groups is good: a process without any is no broker, but has the same rules.
    pub fn check_beside(&self, others: &[(&str, SocketAddr)]) -> Result<(), Broken> {
        self.check_node()?;
        if self.groups.is_empty() {
            return Err(("groups".into(), "a broker has at least one group".into()));
        }
        let mut names = BTreeSet::new();
        for (n, group) in self.groups.iter().enumerate() {
            let broken = |(key, rule): (&str, String)| (format!("groups.{n}.{key}"), rule);
            group.check(self.node, &self.peers).map_err(broken)?;
            if !names.insert(&group.name) {
                return Err(broken(("name", format!("two groups are called {}", group.name))));
            }
        }
        self.check_sockets(others)
    }

    /// What is not about one group.
    fn check_node(&self) -> Result<(), Broken> {
        let broken = |key: &str, rule: &str| Err((key.to_owned(), rule.to_owned()));
        name(&self.cluster).map_err(|rule| ("cluster".to_owned(), rule))?;
        if self.node == 0 {
            return broken("node", NODES_FROM);
        }
        if !self.peers.is_empty() && !self.peers.contains_key(&self.node) {
            return broken("peers", &format!("must name this node, {}, like every other", self.node));
        }
        let mut addresses = BTreeMap::new();
        for (node, address) in &self.peers {
            let key = format!("peers.{node}");
            if *node == 0 {
                return broken(&key, NODES_FROM);
            }
            if let Err(rule) = reachable(address) {
                return broken(&key, &rule);
            }
            if let Some(other) = addresses.insert(address, node) {
                return broken(&key, &format!("node {other} has this address already"));
            }
        }
        for (n, address) in self.nameservers.iter().enumerate() {
            let key = format!("nameservers.{n}");
            if let Err(rule) = reachable(address) {
                return broken(&key, &rule);
            }
            if self.nameservers[..n].contains(address) {
                return broken(&key, &format!("{address} is named already"));
            }
        }
        self.check_rates()?;
        self.limits.check().map_err(|(key, rule)| (format!("limits.{key}"), rule))
    }

    fn check_rates(&self) -> Result<(), Broken> {
        let mut named = BTreeSet::new();
        for (n, RateRule { whom, .. }) in self.rates.iter().enumerate() {
            let broken = |rule: String| Err((format!("rates.{n}"), rule));
            if let Whom::Client(address) = whom
                && address.parse::<std::net::IpAddr>().is_err()
            {
                return broken(format!("a client is named by its IP address, not {address:?}"));
            }
            if whom.name().is_empty() || !named.insert(whom) {
                return broken(format!("the name {:?} is empty or there twice", whom.name()));
            }
        }
        Ok(())
    }

    /// That no two listeners want the same port.
    fn check_sockets(&self, others: &[(&str, SocketAddr)]) -> Result<(), Broken> {
        // Key, who it is, and the socket, in the order in which they have a claim.
        let mut sockets: Vec<(String, String, SocketAddr)> =
            others.iter().map(|(key, socket)| ((*key).to_owned(), (*key).to_owned(), *socket)).collect();
        sockets.push(("peer_listen".into(), "peer_listen".into(), self.peer_listen));
        for (n, group) in self.groups.iter().enumerate() {
            for socket in std::iter::once(group.listen).chain(group.vip_listen()) {
                sockets.push((format!("groups.{n}.listen"), format!("group {}", group.name), socket));
            }
        }
        for (n, (key, who, socket)) in sockets.iter().enumerate() {
            let everywhere = |socket: &SocketAddr| socket.ip().is_unspecified();
            let clash = sockets[..n].iter().find(|(_, _, other)| {
                // Port 0 is the kernel's choice, for tests.
                let same_ip = other.ip() == socket.ip() || everywhere(other) || everywhere(socket);
                socket.port() != 0 && other.port() == socket.port() && same_ip
            });
            if let Some((_, other, at)) = clash {
                let rule = format!("port clash: {other} listens on {at}, {who} on {socket}");
                return Err((key.clone(), rule));
            }
        }
        Ok(())
    }
}

impl GroupConfig {
    /// The first rule that the group breaks on this node: the field, and the rule.
    fn check(&self, node: u64, peers: &BTreeMap<u64, String>) -> Result<(), (&'static str, String)> {
        let broken = |key: &'static str, rule: &str| Err((key, rule.to_owned()));
        name(&self.name).map_err(|rule| ("name", rule))?;
        if self.vip && matches!(self.listen.port(), 1 | 2) {
            return broken("listen", "port − 2 is listened on too: from 3");
        }
        match &self.advertise {
            Some(address) => reachable(address).map_err(|rule| ("advertise", rule))?,
            None if self.listen.ip().is_unspecified() => {
                return broken(
                    "advertise",
                    &format!("must be set: clients cannot connect to {}", self.listen),
                );
            }
            None => {}
        }
        if let Some(address) = &self.advertise_leader {
            reachable(address).map_err(|rule| ("advertise_leader", rule))?;
            if *address == self.advertised() && self.voters.len() > 1 {
                let rule = "must differ from this node's own address: nodes of a group that register one address \
                            displace each other";
                return broken("advertise_leader", rule);
            }
        }
        if !self.voters.contains(&node) {
            let rule = format!("node {node} does not vote: leave the group out of its configuration");
            return broken("voters", &rule);
        }
        if self.voters.iter().collect::<BTreeSet<_>>().len() != self.voters.len() {
            return broken("voters", &format!("a voter is there twice in {:?}", self.voters));
        }
        if let Some(voter) = self.voters.iter().find(|voter| **voter != node && !peers.contains_key(voter)) {
            return broken("voters", &format!("voter {voter} has no address in peers"));
        }
        if self.preferred_leader.is_some_and(|node| !self.voters.contains(&node)) {
            return broken("preferred_leader", "must be a voter of the group");
        }
        if !SEGMENT_BYTES.contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(SEGMENT_BYTES_STEP)
        {
            let (least, most) = (SEGMENT_BYTES.start() >> 20, SEGMENT_BYTES.end() >> 20);
            let rule = format!("must be {least} to {most} MiB, a multiple of {SEGMENT_BYTES_STEP} bytes");
            return broken("segment_bytes", &rule);
        }
        if self.transaction_check_interval_ms < TRANSACTION_CHECK_INTERVAL_MIN_MS {
            let rule = format!("must be {TRANSACTION_CHECK_INTERVAL_MIN_MS} at least");
            return broken("transaction_check_interval_ms", &rule);
        }
        if !(1..=FEATURE_LEVEL).contains(&self.feature_level) {
            let rule = format!("must be 1 to {FEATURE_LEVEL}, not {}", self.feature_level);
            return broken("feature_level", &rule);
        }
        let (min, max) = self.election_ms;
        if self.heartbeat_ms == 0 || self.heartbeat_ms * 2 > min || min >= max {
            let rule = "must keep 0 < heartbeat_ms, 2 × heartbeat_ms ≤ election_ms.0 < election_ms.1";
            return broken("election_ms", rule);
        }
        self.permission.check_permission().map_err(|rule| ("permission", rule))?;
        if !(1..=QUEUES_PER_TOPIC_MAX).contains(&self.default_topic_queues) {
            let rule = format!("must be 1 to {QUEUES_PER_TOPIC_MAX}, not {}", self.default_topic_queues);
            return broken("default_topic_queues", &rule);
        }
        if !TIMER_MAX_DELAY_MS.contains(&self.timer_max_delay_ms) {
            let (least, most) = (TIMER_MAX_DELAY_MS.start() / 1000, TIMER_MAX_DELAY_MS.end() / 1000);
            let rule = format!("must be {least} to {most} s, not {} ms", self.timer_max_delay_ms);
            return broken("timer_max_delay_ms", &rule);
        }
        Ok(())
    }
}

/// Producers must have the time to answer.
const TRANSACTION_CHECK_INTERVAL_MIN_MS: u64 = 100;

const NODES_FROM: &str = "node ids start at 1";

/// The names of the cluster and of its groups are names of topics too, and a group's is that of a directory.
fn name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > wire::TOPIC_LEN_MAX || !name.chars().all(legal) {
        return Err(format!(
            "must be 1 to {} letters, digits, '_' or '-', not {name:?}",
            wire::TOPIC_LEN_MAX
        ));
    }
    Ok(())
}

/// `host:port` at which others are to reach somebody.
fn reachable(address: &str) -> Result<(), String> {
    let socket = address.parse::<SocketAddr>().ok();
    if socket.is_some_and(|socket| socket.ip().is_unspecified()) {
        return Err(format!("nobody can connect to {address}, which is every address of a machine"));
    }
    let is_name = |host: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        !host.is_empty() && host.chars().all(legal)
    };
    let is_port = |port: &str| {
        port.chars().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let parts = address.rsplit_once(':');
    if !parts.is_some_and(|(host, port)| is_port(port) && (socket.is_some() || is_name(host))) {
        return Err(format!("must be HOST:PORT, as 10.0.0.1:10911, not {address:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> BrokerConfig {
        BrokerConfig {
            peers: (1..=3).map(|n| (n, format!("127.0.0.1:1092{n}"))).collect(),
            groups: vec![GroupConfig { voters: vec![1, 2, 3], ..GroupConfig::default() }],
            ..BrokerConfig::default()
        }
    }

    #[test]
    fn rules_name_the_key() {
        assert_eq!(config().check(), Ok(()));
        fn rate(whom: Whom) -> RateRule {
            RateRule { whom, messages_per_second: Some(1), bytes_per_second: None }
        }
        let broken = |change: fn(&mut BrokerConfig)| {
            let mut config = config();
            change(&mut config);
            config.check().unwrap_err().0
        };
        assert_eq!(broken(|c| c.cluster = "a b".into()), "cluster");
        assert_eq!(broken(|c| c.node = 0), "node");
        assert_eq!(broken(|c| c.node = 4), "peers");
        assert_eq!(broken(|c| drop(c.peers.insert(0, "127.0.0.1:1".into()))), "peers.0");
        assert_eq!(broken(|c| drop(c.peers.insert(2, "127.0.0.1".into()))), "peers.2");
        assert_eq!(broken(|c| drop(c.peers.insert(3, c.peers[&2].clone()))), "peers.3");
        assert_eq!(broken(|c| c.nameservers = vec!["n:1".into(), "n".into()]), "nameservers.1");
        assert_eq!(
            broken(|c| c.nameservers = vec!["n:1".into(), "n:2".into(), "n:1".into()]),
            "nameservers.2"
        );
        assert_eq!(broken(|c| c.groups.clear()), "groups");
        assert_eq!(broken(|c| c.limits.frame_bytes = 1), "limits.frame_bytes");
        assert_eq!(broken(|c| c.rates = vec![rate(Whom::Client("a".into()))]), "rates.0");
        assert_eq!(broken(|c| c.rates = vec![rate(Whom::Topic(String::new()))]), "rates.0");
        assert_eq!(broken(|c| c.rates = vec![rate(Whom::Topic("T".into())); 2]), "rates.1");
        assert_eq!(broken(|c| c.groups.push(c.groups[0].clone())), "groups.1.name");
        let clash = |c: &mut BrokerConfig| {
            c.groups.push(GroupConfig { name: "b".into(), ..c.groups[0].clone() });
            c.groups[1].listen.set_port(10913);
        };
        assert_eq!(broken(clash), "groups.1.listen");
    }

    #[test]
    fn rules_of_a_group_name_the_key() {
        let broken = |change: fn(&mut GroupConfig)| {
            let mut config = config();
            change(&mut config.groups[0]);
            let (path, _) = config.check().unwrap_err();
            path.strip_prefix("groups.0.").unwrap().to_owned()
        };
        assert_eq!(broken(|g| g.name = "a/b".into()), "name");
        assert_eq!(broken(|g| g.listen.set_port(2)), "listen");
        assert_eq!(broken(|g| g.listen.set_port(10920)), "listen");
        assert_eq!(broken(|g| g.listen.set_ip([0, 0, 0, 0].into())), "advertise");
        assert_eq!(broken(|g| g.advertise = Some("0.0.0.0:10911".into())), "advertise");
        assert_eq!(broken(|g| g.advertise_leader = Some(g.listen.to_string())), "advertise_leader");
        assert_eq!(broken(|g| g.voters = vec![2, 3]), "voters");
        assert_eq!(broken(|g| g.voters = vec![1, 2, 9]), "voters");
        assert_eq!(broken(|g| g.voters = vec![1, 1]), "voters");
        assert_eq!(broken(|g| g.preferred_leader = Some(7)), "preferred_leader");
        assert_eq!(broken(|g| g.segment_bytes = 1 << 20), "segment_bytes");
        assert_eq!(broken(|g| g.segment_bytes = 2 << 30), "segment_bytes");
        assert_eq!(broken(|g| g.segment_bytes = (16 << 20) + 512), "segment_bytes");
        assert_eq!(broken(|g| g.transaction_check_interval_ms = 0), "transaction_check_interval_ms");
        assert_eq!(broken(|g| g.election_ms = (50, 60)), "election_ms");
        assert_eq!(broken(|g| g.permission = 7.into()), "permission");
        assert_eq!(broken(|g| g.default_topic_queues = 0), "default_topic_queues");
        assert_eq!(broken(|g| g.timer_max_delay_ms = 999), "timer_max_delay_ms");
    }

    #[test]
    fn what_others_can_connect_to() {
        for good in ["10.0.0.1:1", "[::1]:80", "broker-1.example:10911", "a_b:65535"] {
            assert_eq!(reachable(good), Ok(()), "{good}");
        }
        for bad in ["", "a", ":1", "a:", "a:0", "a:65536", "a:+1", "a b:1", "a/b:1", "10.0.0.1:0", "[::]:1"] {
            assert!(reachable(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_listener_of_the_process_counts() {
        let clash = config().check_beside(&[("other", SocketAddr::from(([0, 0, 0, 0], 10909)))]).unwrap_err();
        assert_eq!(clash.0, "groups.0.listen");
        assert!(
            clash.1.contains("other listens on 0.0.0.0:10909, group broker-a on 127.0.0.1:10909"),
            "{clash:?}"
        );
    }

    #[test]
    fn the_second_listener_is_two_below() {
        let group = GroupConfig::default();
        assert_eq!(group.vip_listen(), Some(SocketAddr::from(([127, 0, 0, 1], 10909))));
        assert_eq!(GroupConfig { vip: false, ..group.clone() }.vip_listen(), None);
        assert_eq!(GroupConfig { listen: SocketAddr::from(([0, 0, 0, 0], 0)), ..group }.vip_listen(), None);
    }
}
