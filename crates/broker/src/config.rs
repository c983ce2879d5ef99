//! What a broker is told: plain values with RocketMQ's defaults. The command line maps its file onto these.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::limits::Limits;

/// The broker role of one process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    pub groups: Vec<GroupConfig>,
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
            groups: Vec::new(),
        }
    }
}

/// One group: a RocketMQ brokerName, a Raft group, a directory, listeners of its own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    /// `host:port` of this node that clients are told; the listener's own address unless set. No other node of the
    /// group may have the same: nameservers know a broker by it.
    pub advertise: Option<String>,
    /// `host:port` that clients are told for whoever leads; the leader's own [`advertise`](Self::advertise) unless
    /// set. The same on every node: an address that reaches any live one (a virtual IP, a Service, a balancer), so
    /// that what clients know stays good when leadership moves.
    pub advertise_leader: Option<String>,
    /// Bytes of a log segment, a property of the group.
    pub segment_bytes: u64,
    /// Whether pulls may be served by this node while it does not lead.
    pub follower_reads: bool,
    /// RocketMQ's brokerPermission: 4 read, 2 write.
    pub permission: u32,
    /// Whether a first send creates its topic, and a first heartbeat its consumer group.
    pub auto_create_topic: bool,
    pub auto_create_group: bool,
    /// Queues of TBW102, the most that an auto-created topic gets.
    pub default_topic_queues: u32,
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
            follower_reads: false,
            permission: 6,
            auto_create_topic: true,
            auto_create_group: true,
            default_topic_queues: 8,
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

impl BrokerConfig {
    /// The first rule that the configuration breaks: the key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (String, String)> {
        let fail = |key: &str, rule: String| Err((key.to_owned(), rule));
        if let Err(error) = wire::validate_topic(&self.cluster) {
            // The cluster's name is also a topic's.
            return fail("cluster", error.to_string());
        }
        if !self.peers.is_empty() && !self.peers.contains_key(&self.node) {
            return fail("peers", format!("node {} itself is missing", self.node));
        }
        if let Some(rule) = self.limits.contradiction() {
            return fail("limits", rule);
        }
        if self.groups.is_empty() {
            return fail("groups", "a broker has at least one group".into());
        }
        let mut names = BTreeSet::new();
        let mut sockets = BTreeSet::from([self.peer_listen]);
        for group in &self.groups {
            let key = format!("groups.{}", group.name);
            if let Err(error) = wire::validate_topic(&group.name) {
                return fail(&key, error.to_string());
            }
            if group.name.contains(['|', '%']) {
                return fail(&key, "a group's name is a directory's name as well: no | and no %".into());
            }
            if !names.insert(&group.name) {
                return fail(&key, "is there twice".into());
            }
            if !group.voters.contains(&self.node) {
                return fail(&key, format!("node {} is not among the voters {:?}", self.node, group.voters));
            }
            if group.voters.iter().collect::<BTreeSet<_>>().len() != group.voters.len() {
                return fail(&key, format!("a voter is there twice in {:?}", group.voters));
            }
            let unknown = |voter: &&u64| **voter != self.node && !self.peers.contains_key(voter);
            if let Some(voter) = group.voters.iter().find(unknown) {
                return fail(&key, format!("voter {voter} has no address in peers"));
            }
            if group.preferred_leader.is_some_and(|node| !group.voters.contains(&node)) {
                return fail(&key, "preferred_leader is not a voter".into());
            }
            for socket in std::iter::once(group.listen).chain(group.vip_listen()) {
                if socket.port() != 0 && !sockets.insert(socket) {
                    return fail(&key, format!("{socket} is listened on twice"));
                }
            }
            if group.segment_bytes < 16 << 20 {
                return fail(
                    &key,
                    "segment_bytes is below 16 MiB, so the largest frame might not fit".into(),
                );
            }
            let (min, max) = group.election_ms;
            if group.heartbeat_ms == 0 || group.heartbeat_ms * 2 > min || min >= max {
                return fail(
                    &key,
                    "needs heartbeat_ms > 0, 2 × heartbeat_ms ≤ election_ms[0] < election_ms[1]".into(),
                );
            }
            if group.permission > 6 || group.permission & 1 != 0 {
                return fail(
                    &key,
                    format!("permission is {}, not a sum of 4 (read) and 2 (write)", group.permission),
                );
            }
            if group.default_topic_queues == 0 {
                return fail(&key, "default_topic_queues is 0".into());
            }
        }
        Ok(())
    }
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
        let broken = |change: fn(&mut BrokerConfig)| {
            let mut config = config();
            change(&mut config);
            config.check().unwrap_err().0
        };
        assert_eq!(broken(|c| c.cluster = "a b".into()), "cluster");
        assert_eq!(broken(|c| c.node = 4), "peers");
        assert_eq!(broken(|c| c.groups.clear()), "groups");
        assert_eq!(broken(|c| c.limits.frame_bytes = 1), "limits");
        for change in [
            (|c: &mut BrokerConfig| c.groups[0].voters = vec![2, 3]) as fn(&mut BrokerConfig),
            |c| c.groups[0].voters = vec![1, 2, 9],
            |c| c.groups[0].voters = vec![1, 1],
            |c| c.groups[0].preferred_leader = Some(7),
            |c| c.groups[0].listen = c.peer_listen,
            |c| c.groups[0].segment_bytes = 1 << 20,
            |c| c.groups[0].election_ms = (50, 60),
            |c| c.groups[0].permission = 7,
            |c| c.groups.push(c.groups[0].clone()),
        ] {
            assert_eq!(broken(change), "groups.broker-a");
        }
    }

    #[test]
    fn the_second_listener_is_two_below() {
        let group = GroupConfig::default();
        assert_eq!(group.vip_listen(), Some(SocketAddr::from(([127, 0, 0, 1], 10909))));
        assert_eq!(GroupConfig { vip: false, ..group.clone() }.vip_listen(), None);
        assert_eq!(GroupConfig { listen: SocketAddr::from(([0, 0, 0, 0], 0)), ..group }.vip_listen(), None);
    }
}
