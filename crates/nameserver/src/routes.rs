//! Who owns which topic right now: the tables, and every rule that changes them.
//!
//! ```text
//! clusters   cluster name -> broker names
//! brokers    broker name  -> { members: id -> address, term, hold }
//! topics     topic        -> broker name -> queue numbers and permission
//! alive      (cluster, address) -> { last heard, timeout, version, connection }
//! ```
//!
//! No clock, no I/O: `now` comes in as milliseconds that never go back. RocketMQ's rules are in
//! protocol.md 2.4 (RouteInfoManager.java). Ours, all of them silent while no broker sends a
//! `stateVersion` (the Raft term; Apache brokers send 0 outside controller mode):
//!
//! - **Hold.** The address of id 0 stays in the routes for up to [`HOLD_MS`] after its connection
//!   closed, it fell silent, or it registered under another id, as long as the group has other live
//!   members and nobody of a term at least as high took id 0. A client that polled in that second
//!   would lose the group's queues for 30 s; the old address still forwards, or refuses at once.
//! - **Fence.** Before anything is changed, a registration is ignored that claims id 0 in a lower term
//!   than an id 0 of that name has registered with, or that is older than what its own address has
//!   said. Upstream moves the address to its late id first and compares later. An address proves
//!   nothing: all leaders of a group may share one (`advertise_leader`), so the fence holds for the
//!   address that has id 0 as well, while anybody lives who knows the higher term.
//! - **Goodbye.** 104 takes an address off only under the id that it has, and id 0 only over the
//!   connection that carries it: a shared address belongs to the leader that registered it last, and
//!   the one before may say its goodbye late.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wire::{
    BrokerData, BrokerMemberGroup, ClusterInfo, DataVersion, MASTER_ID, QueueData, TopicConfig,
    TopicConfigSerializeWrapper, TopicList, TopicRouteData, perm,
};

use crate::limits::{
    BROKER_TIMEOUT_MS, BROKER_TIMEOUT_MS_MAX, BROKER_TIMEOUT_MS_MIN, BROKERS_MAX, CLUSTERS_MAX,
    FILTER_SERVERS_MAX, HOLD_MS, MEMBERS_MAX, QUEUE_DATAS_MAX, TERM_MEMORY_MS,
};
use crate::names::{is_address, is_name, is_text};

/// Topics with this prefix show acting masters as they are (RouteInfoManager.java).
const SYNC_BROKER_MEMBER_PREFIX: &str = "rmq_sys_SYNC_BROKER_MEMBER_";

const FLAG_UNIT: i32 = 1;
const FLAG_UNIT_SUB: i32 = 2;

/// What a broker says of itself (103).
#[derive(Clone, Debug, Default)]
pub struct Registration {
    pub cluster: String,
    pub broker_name: String,
    pub broker_addr: String,
    pub broker_id: i64,
    pub ha_server_addr: String,
    pub zone: Option<String>,
    pub timeout_ms: Option<i64>,
    /// `None` from brokers that know nothing of acting masters.
    pub enable_acting_master: Option<bool>,
    pub topics: TopicConfigSerializeWrapper,
    /// `None`: unchanged (brokers before 3.0.11).
    pub filter_servers: Option<Vec<String>>,
    /// The connection whose end ends the registration.
    pub connection: u64,
}

/// The answer to a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// Of id 0, for every other id.
    pub master_addr: Option<String>,
    pub ha_server_addr: Option<String>,
    /// It was too old and changed nothing. Brokers are told no more than that it arrived, as upstream.
    pub is_fenced: bool,
}

/// Why a registration was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// A broker that is not known yet sent a single topic (protocol.md 2.4 rule 3).
    #[error("register broker failed")]
    Incremental,
    #[error("{what} is not valid: {value}")]
    Name { what: &'static str, value: String },
    #[error("too many {what}, the maximum is {max}")]
    TooMany { what: &'static str, max: usize },
}

/// Settings that the rules depend on.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteOptions {
    /// Topics that a registration does not name are removed.
    pub delete_topic_with_broker_registration: bool,
    /// Routes show the lowest id as id 0 where a group without one agreed to that.
    pub support_acting_master: bool,
}

/// Which topics 311, 312 and 313 ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitTopics {
    Unit,
    HasUnitSub,
    HasUnitSubNotUnit,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    cluster: String,
    addr: String,
}

impl Key {
    fn new(cluster: &str, addr: &str) -> Key {
        Key { cluster: cluster.to_owned(), addr: addr.to_owned() }
    }
}

#[derive(Debug)]
struct Alive {
    broker_name: String,
    updated_ms: u64,
    timeout_ms: u64,
    version: DataVersion,
    connection: u64,
    ha_server_addr: String,
}

#[derive(Debug, Default)]
struct Broker {
    cluster: String,
    zone: Option<String>,
    enable_acting_master: bool,
    /// Address by id; an address occurs once.
    members: BTreeMap<i64, String>,
    /// Highest term in which an id 0 has registered, and when a registration last knew it.
    term: i64,
    term_known_ms: u64,
    hold: Option<Hold>,
}

/// Id 0 is kept though its owner has gone or stepped down.
#[derive(Debug)]
struct Hold {
    until_ms: u64,
    /// The id under which the owner has registered since.
    next_id: Option<i64>,
}

/// The tables; see the head of this file.
#[derive(Debug, Default)]
pub struct Routes {
    clusters: BTreeMap<String, BTreeSet<String>>,
    brokers: BTreeMap<String, Broker>,
    topics: BTreeMap<String, BTreeMap<String, QueueData>>,
    queue_datas: usize,
    /// Static topics: what their brokers say, passed on unread.
    mappings: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
    alive: HashMap<Key, Alive>,
    filter_servers: HashMap<Key, Vec<String>>,
    /// Which registrations a connection carries.
    by_connection: HashMap<u64, BTreeSet<Key>>,
    counts: Counts,
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub registered_total: u64,
    pub fenced_total: u64,
    pub refused_total: u64,
    pub expired_total: u64,
    pub held_total: u64,
}

/// The tables for people and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub brokers: Vec<BrokerSnapshot>,
    pub topics: usize,
    /// (topic, broker) pairs.
    pub queue_datas: usize,
    pub counts: Counts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSnapshot {
    pub name: String,
    pub cluster: String,
    pub term: i64,
    /// Id 0 is only held, for this much longer.
    pub hold_ms_left: Option<u64>,
    pub topics: usize,
    pub members: Vec<MemberSnapshot>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSnapshot {
    pub id: i64,
    pub addr: String,
    /// `None`: its registration has ended.
    pub silent_ms: Option<u64>,
    pub timeout_ms: Option<u64>,
    pub version: Option<DataVersion>,
}

impl Routes {
    /// Takes a registration in, or says why not. Nothing is changed by one that is refused or fenced.
    pub fn register(
        &mut self,
        now_ms: u64,
        options: RouteOptions,
        registration: Registration,
    ) -> Result<Registered, RegisterError> {
        let result = self.try_register(now_ms, options, registration);
        match &result {
            Ok(registered) if registered.is_fenced => self.counts.fenced_total += 1,
            Ok(_) => self.counts.registered_total += 1,
            Err(_) => self.counts.refused_total += 1,
        }
        result
    }

    fn try_register(
        &mut self,
        now_ms: u64,
        options: RouteOptions,
        mut registration: Registration,
    ) -> Result<Registered, RegisterError> {
        validate(&mut registration)?;
        if self.is_fenced(now_ms, &registration) {
            return Ok(Registered { is_fenced: true, ..Registered::default() });
        }
        let Registration {
            cluster,
            broker_name,
            broker_addr,
            broker_id,
            ha_server_addr,
            zone,
            timeout_ms,
            enable_acting_master,
            topics,
            filter_servers,
            connection,
        } = registration;
        let known = self.brokers.get(&broker_name);
        let mut is_first = known.is_none();
        if topics.topic_config_table.len() == 1
            && !known.is_some_and(|broker| broker.members.contains_key(&broker_id))
        {
            return Err(RegisterError::Incremental);
        }
        self.check_room(&cluster, &broker_name, &topics)?;

        let key = Key::new(&cluster, &broker_addr);
        // An address that comes back as a member of another group has left its old one.
        if let Some(alive) = self.alive.get(&key).filter(|alive| alive.broker_name != broker_name) {
            let old_name = alive.broker_name.clone();
            self.drop_alive(&key);
            self.remove_member(&old_name, &broker_addr);
        }
        let keeps_id_0 = broker_id != MASTER_ID && self.may_hold(&broker_name, &broker_addr);
        self.clusters.entry(cluster.clone()).or_default().insert(broker_name.clone());
        let broker = self
            .brokers
            .entry(broker_name.clone())
            .or_insert_with(|| Broker { cluster: cluster.clone(), ..Broker::default() });
        broker.enable_acting_master = enable_acting_master.unwrap_or(false);
        broker.zone = zone;
        if keeps_id_0 {
            let hold = broker.hold.get_or_insert(Hold { until_ms: now_ms + HOLD_MS, next_id: None });
            hold.next_id = Some(broker_id);
        } else {
            let hold = if broker_id == MASTER_ID { broker.hold.take() } else { None };
            let held_addr = hold.as_ref().and_then(|_| broker.members.get(&MASTER_ID).cloned());
            // A member that changes its id, a slave that became the master, leaves its old one.
            broker.members.retain(|id, addr| *addr != broker_addr || *id == broker_id);
            is_first |= broker.members.insert(broker_id, broker_addr.clone()).is_none();
            // Whoever was held under id 0 and has registered under another id appears under that one.
            if let (Some(Hold { next_id: Some(id), .. }), Some(addr)) = (hold, held_addr)
                && addr != broker_addr
            {
                broker.members.entry(id).or_insert(addr);
            }
            if !broker.members.contains_key(&MASTER_ID) {
                broker.hold = None;
            }
        }
        let term = topics.data_version.state_version;
        if broker_id == MASTER_ID {
            broker.term = term;
        }
        if term >= broker.term {
            broker.term_known_ms = now_ms;
        }
        let is_master = broker_id == MASTER_ID;
        let is_prime_slave = enable_acting_master.is_some()
            && !is_master
            && !keeps_id_0
            && broker.members.keys().next() == Some(&broker_id);
        let wipes_write = is_prime_slave && broker.enable_acting_master;

        let version = topics.data_version;
        if is_master || is_prime_slave {
            let is_changed = is_first || self.alive.get(&key).is_none_or(|alive| alive.version != version);
            self.take_topics(options, &broker_name, topics, is_changed, wipes_write);
        }
        self.put_alive(
            key.clone(),
            Alive {
                broker_name: broker_name.clone(),
                updated_ms: now_ms,
                timeout_ms: timeout(timeout_ms),
                version,
                connection,
                ha_server_addr,
            },
        );
        match filter_servers {
            Some(servers) if servers.is_empty() => drop(self.filter_servers.remove(&key)),
            Some(servers) => drop(self.filter_servers.insert(key, servers)),
            None => {}
        }

        let mut registered = Registered::default();
        if !is_master
            && let Some(master) =
                self.brokers.get(&broker_name).and_then(|broker| broker.members.get(&MASTER_ID))
            && let Some(alive) = self.alive.get(&Key::new(&cluster, master))
        {
            registered.master_addr = Some(master.clone());
            registered.ha_server_addr = Some(alive.ha_server_addr.clone());
        }
        Ok(registered)
    }

    fn is_fenced(&self, now_ms: u64, registration: &Registration) -> bool {
        let Registration { cluster, broker_name, broker_addr, broker_id, topics, .. } = registration;
        let Some(broker) = self.brokers.get(broker_name) else {
            return false;
        };
        let term = topics.data_version.state_version;
        let term_at = |addr: &str| {
            let alive = self.alive.get(&Key::new(cluster, addr));
            let of_this_name = alive.filter(|alive| alive.broker_name == *broker_name);
            of_this_name.map_or(i64::MIN, |alive| alive.version.state_version)
        };
        let holder = broker.members.get(broker_id);
        let is_other = holder.is_some_and(|holder| holder != broker_addr);
        // Late: the same address has said something newer.
        let is_late = term < term_at(broker_addr);
        // Upstream's own fence (protocol.md 2.4 rule 2).
        let is_beaten = is_other && holder.is_some_and(|holder| term < term_at(holder));
        // Deposed: an id 0 of a higher term has been here. Forgotten when nobody has known that term for
        // a while and no member lives that has said a higher one.
        let is_remembered = || {
            now_ms < broker.term_known_ms + TERM_MEMORY_MS
                || broker.members.values().any(|member| term < term_at(member))
        };
        let is_deposed = *broker_id == MASTER_ID && term < broker.term && is_remembered();
        let is_fenced = is_late || is_beaten || is_deposed;
        if is_fenced {
            tracing::warn!(
                broker = broker_name,
                addr = broker_addr,
                id = broker_id,
                term,
                known_term = broker.term,
                "an old registration was ignored"
            );
        }
        is_fenced
    }

    fn check_room(
        &self,
        cluster: &str,
        broker_name: &str,
        topics: &TopicConfigSerializeWrapper,
    ) -> Result<(), RegisterError> {
        let too_many = |what, max| Err(RegisterError::TooMany { what, max });
        if self.clusters.len() >= CLUSTERS_MAX && !self.clusters.contains_key(cluster) {
            return too_many("clusters", CLUSTERS_MAX);
        }
        match self.brokers.get(broker_name) {
            None if self.brokers.len() >= BROKERS_MAX => return too_many("brokers", BROKERS_MAX),
            Some(broker) if broker.members.len() >= MEMBERS_MAX => return too_many("members", MEMBERS_MAX),
            _ => {}
        }
        let mappings: usize = self.mappings.values().map(BTreeMap::len).sum();
        let coming = topics.topic_config_table.len();
        if coming > QUEUE_DATAS_MAX || mappings + topics.topic_queue_mapping_info_map.len() > QUEUE_DATAS_MAX
        {
            return too_many("topics", QUEUE_DATAS_MAX);
        }
        if self.queue_datas + coming > QUEUE_DATAS_MAX {
            let is_new = |topic: &&String| {
                !self.topics.get(*topic).is_some_and(|queues| queues.contains_key(broker_name))
            };
            let new = topics.topic_config_table.keys().filter(is_new).count();
            if self.queue_datas + new > QUEUE_DATAS_MAX {
                return too_many("topics", QUEUE_DATAS_MAX);
            }
        }
        Ok(())
    }

    /// Whether the rule of the hold applies to `addr`: it has id 0 of a group that sends terms, and
    /// others of the group are alive.
    fn may_hold(&self, broker_name: &str, addr: &str) -> bool {
        self.brokers.get(broker_name).is_some_and(|broker| {
            broker.term > 0
                && broker.members.get(&MASTER_ID).is_some_and(|master| master == addr)
                && broker
                    .members
                    .values()
                    .any(|other| other != addr && self.alive.contains_key(&Key::new(&broker.cluster, other)))
        })
    }

    fn take_topics(
        &mut self,
        options: RouteOptions,
        broker_name: &str,
        topics: TopicConfigSerializeWrapper,
        is_changed: bool,
        wipes_write: bool,
    ) {
        let TopicConfigSerializeWrapper {
            topic_config_table: table,
            topic_queue_mapping_info_map: mappings,
            data_version: _,
            mapping_data_version: _,
            topic_queue_mapping_detail_map: _,
        } = topics;
        if options.delete_topic_with_broker_registration && mappings.is_empty() {
            self.remove_queue_datas(|topic, broker| broker == broker_name && !table.contains_key(topic));
        }
        for (topic, config) in table {
            let queues = self.topics.entry(topic).or_default();
            if is_changed || !queues.contains_key(broker_name) {
                let data = queue_data(broker_name, &config, wipes_write);
                if queues.insert(broker_name.to_owned(), data).is_none() {
                    self.queue_datas += 1;
                }
            }
        }
        if is_changed {
            for (topic, info) in mappings {
                let owner =
                    info.get("bname").and_then(|name| name.as_str()).unwrap_or(broker_name).to_owned();
                self.mappings.entry(topic).or_default().insert(owner, info);
            }
        }
    }

    fn put_alive(&mut self, key: Key, alive: Alive) {
        self.drop_alive(&key);
        self.by_connection.entry(alive.connection).or_default().insert(key.clone());
        self.alive.insert(key, alive);
    }

    fn drop_alive(&mut self, key: &Key) -> Option<Alive> {
        let alive = self.alive.remove(key)?;
        if let Some(keys) = self.by_connection.get_mut(&alive.connection) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_connection.remove(&alive.connection);
            }
        }
        Some(alive)
    }

    /// A broker says that it goes (104). No hold: it said so. Returns whether it was heeded; brokers
    /// are not told, as upstream.
    pub fn unregister(
        &mut self,
        cluster: &str,
        broker_name: &str,
        broker_addr: &str,
        broker_id: i64,
        connection: u64,
    ) -> bool {
        let key = Key::new(cluster, broker_addr);
        if !self.is_its_goodbye(broker_name, &key, broker_id, connection) {
            // Nothing has looked at this address yet.
            let addr: String = broker_addr.chars().take(64).collect();
            tracing::info!(
                broker = broker_name,
                addr,
                id = broker_id,
                "a goodbye for another's registration was ignored"
            );
            return false;
        }
        if self.alive.get(&key).is_some_and(|alive| alive.broker_name == broker_name) {
            self.drop_alive(&key);
            self.filter_servers.remove(&key);
        }
        self.remove_member(broker_name, broker_addr);
        true
    }

    /// Whether a goodbye is not for what somebody else has registered. Upstream goes by the address
    /// alone; so do we for groups without terms.
    fn is_its_goodbye(&self, broker_name: &str, key: &Key, broker_id: i64, connection: u64) -> bool {
        let Some(broker) = self.brokers.get(broker_name).filter(|broker| broker.term > 0) else {
            return true;
        };
        let has = |id: i64| broker.members.get(&id).is_some_and(|member| *member == key.addr);
        if broker_id == MASTER_ID {
            return has(MASTER_ID) && self.alive.get(key).is_some_and(|alive| alive.connection == connection);
        }
        // Whoever is held under id 0 may have an id of its own by now.
        let held_as = broker.hold.as_ref().and_then(|hold| hold.next_id);
        has(broker_id) || (has(MASTER_ID) && held_as == Some(broker_id))
    }

    /// Ends the registrations that came over a connection.
    pub fn connection_closed(&mut self, now_ms: u64, connection: u64) {
        for key in self.by_connection.remove(&connection).unwrap_or_default() {
            self.end(now_ms, &key);
        }
    }

    /// Ends what is overdue: silent brokers and holds. Returns the connections of silent brokers that
    /// carry no other registration; they are to be closed.
    pub fn tick(&mut self, now_ms: u64) -> Vec<u64> {
        let is_silent = |alive: &Alive| alive.updated_ms + alive.timeout_ms < now_ms;
        let mut silent: Vec<Key> =
            self.alive.iter().filter(|(_, alive)| is_silent(alive)).map(|(key, _)| key.clone()).collect();
        silent.sort();
        let mut connections = BTreeSet::new();
        for key in silent {
            self.counts.expired_total += 1;
            if let Some(alive) = self.end(now_ms, &key) {
                connections.insert(alive.connection);
            }
        }
        connections.retain(|connection| !self.by_connection.contains_key(connection));
        let due = |broker: &Broker| broker.hold.as_ref().is_some_and(|hold| hold.until_ms <= now_ms);
        let due: Vec<String> =
            self.brokers.iter().filter(|(_, broker)| due(broker)).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.end_hold(&name);
        }
        connections.into_iter().collect()
    }

    /// When a hold ends next, for whoever calls [`Routes::tick`].
    pub fn next_hold_end_ms(&self) -> Option<u64> {
        self.brokers.values().filter_map(|broker| Some(broker.hold.as_ref()?.until_ms)).min()
    }

    /// The registration of `key` has ended without a word.
    fn end(&mut self, now_ms: u64, key: &Key) -> Option<Alive> {
        let alive = self.drop_alive(key)?;
        tracing::info!(broker = alive.broker_name, addr = key.addr, "a broker's registration has ended");
        self.filter_servers.remove(key);
        if self.may_hold(&alive.broker_name, &key.addr)
            && let Some(broker) = self.brokers.get_mut(&alive.broker_name)
        {
            self.counts.held_total += 1;
            let hold = broker.hold.get_or_insert(Hold { until_ms: now_ms + HOLD_MS, next_id: None });
            hold.next_id = None;
        } else {
            self.remove_member(&alive.broker_name, &key.addr);
        }
        Some(alive)
    }

    fn end_hold(&mut self, broker_name: &str) {
        let Some(broker) = self.brokers.get_mut(broker_name) else {
            return;
        };
        if let (Some(hold), Some(addr)) = (broker.hold.take(), broker.members.remove(&MASTER_ID)) {
            tracing::info!(broker = broker_name, addr, "nobody took over from a leader in time");
            if let Some(id) = hold.next_id {
                broker.members.entry(id).or_insert(addr);
            }
        }
        self.reduced(broker_name);
    }

    fn remove_member(&mut self, broker_name: &str, addr: &str) {
        let Some(broker) = self.brokers.get_mut(broker_name) else {
            return;
        };
        broker.members.retain(|_, member| member != addr);
        if !broker.members.contains_key(&MASTER_ID) {
            broker.hold = None;
        }
        if let Some(Hold { next_id: None, .. }) = broker.hold {
            let is_alive = |addr: &String| self.alive.contains_key(&Key::new(&broker.cluster, addr));
            if !broker.members.values().any(is_alive) {
                broker.hold = None;
                broker.members.remove(&MASTER_ID);
            }
        }
        self.reduced(broker_name);
    }

    /// After a group has lost a member: it goes with its last one, and where it lost its master a
    /// group of acting masters is read-only.
    fn reduced(&mut self, broker_name: &str) {
        let Some(broker) = self.brokers.get(broker_name) else {
            return;
        };
        if broker.members.is_empty() {
            self.brokers.remove(broker_name);
            self.clusters.retain(|_, names| {
                names.remove(broker_name);
                !names.is_empty()
            });
            self.remove_queue_datas(|_, broker| broker == broker_name);
            self.mappings.retain(|_, owners| {
                owners.remove(broker_name);
                !owners.is_empty()
            });
        } else if broker.enable_acting_master && !broker.members.contains_key(&MASTER_ID) {
            for data in self.topics.values_mut().filter_map(|queues| queues.get_mut(broker_name)) {
                data.perm &= !perm::WRITE;
            }
        }
    }

    fn remove_queue_datas(&mut self, goes: impl Fn(&str, &str) -> bool) {
        let count = &mut self.queue_datas;
        self.topics.retain(|topic, queues| {
            let before = queues.len();
            queues.retain(|broker, _| !goes(topic, broker));
            *count -= before - queues.len();
            !queues.is_empty()
        });
    }

    /// 904, and a side effect of 322.
    pub fn heard_from(&mut self, now_ms: u64, cluster: &str, addr: &str) {
        if let Some(alive) = self.alive.get_mut(&Key::new(cluster, addr)) {
            alive.updated_ms = now_ms;
        }
    }

    /// What a broker registered with last (322).
    pub fn data_version(&self, cluster: &str, addr: &str) -> Option<DataVersion> {
        Some(self.alive.get(&Key::new(cluster, addr))?.version)
    }

    /// 105, without what the key-value table adds.
    pub fn route(&self, options: RouteOptions, topic: &str) -> Option<TopicRouteData> {
        let queues = self.topics.get(topic)?;
        let mut route = TopicRouteData {
            broker_datas: queues.keys().filter_map(|name| self.broker_data(name)).collect(),
            queue_datas: queues.values().cloned().collect(),
            topic_queue_mapping_by_broker: self.mappings.get(topic).cloned(),
            ..TopicRouteData::default()
        };
        if route.broker_datas.is_empty() {
            return None;
        }
        if !self.filter_servers.is_empty() {
            for data in &route.broker_datas {
                for addr in data.broker_addrs.values() {
                    if let Some(servers) = self.filter_servers.get(&Key::new(&data.cluster, addr)) {
                        route.filter_server_table.insert(addr.clone(), servers.clone());
                    }
                }
            }
        }
        if options.support_acting_master && !topic.starts_with(SYNC_BROKER_MEMBER_PREFIX) {
            for data in &mut route.broker_datas {
                promote_acting_master(data, queues);
            }
        }
        Some(route)
    }

    fn broker_data(&self, broker_name: &str) -> Option<BrokerData> {
        let broker = self.brokers.get(broker_name)?;
        Some(BrokerData {
            broker_addrs: broker.members.clone(),
            broker_name: broker_name.to_owned(),
            cluster: broker.cluster.clone(),
            enable_acting_master: broker.enable_acting_master,
            zone_name: broker.zone.clone(),
        })
    }

    /// 106.
    pub fn cluster_info(&self) -> ClusterInfo {
        let names = self.brokers.keys();
        ClusterInfo {
            broker_addr_table: names
                .filter_map(|name| Some((name.clone(), self.broker_data(name)?)))
                .collect(),
            cluster_addr_table: self
                .clusters
                .iter()
                .map(|(cluster, names)| (cluster.clone(), names.iter().cloned().collect()))
                .collect(),
        }
    }

    /// 901.
    pub fn member_group(&self, cluster: &str, broker_name: &str) -> BrokerMemberGroup {
        BrokerMemberGroup {
            broker_addrs: self
                .brokers
                .get(broker_name)
                .map(|broker| broker.members.clone())
                .unwrap_or_default(),
            broker_name: broker_name.to_owned(),
            cluster: cluster.to_owned(),
        }
    }

    /// 206.
    pub fn topics(&self) -> TopicList {
        TopicList { topic_list: self.topics.keys().cloned().collect(), broker_addr: None }
    }

    /// 224.
    pub fn topics_of_cluster(&self, cluster: &str) -> TopicList {
        let brokers = self.clusters.get(cluster);
        let is_here = |queues: &BTreeMap<String, QueueData>| {
            brokers.is_some_and(|brokers| queues.keys().any(|name| brokers.contains(name)))
        };
        let topics = self.topics.iter().filter(|(_, queues)| is_here(queues));
        TopicList { topic_list: topics.map(|(topic, _)| topic.clone()).collect(), broker_addr: None }
    }

    /// 304: the topics that are called after clusters and brokers, and some broker to ask for more.
    pub fn system_topics(&self) -> TopicList {
        let names: BTreeSet<&String> =
            self.clusters.iter().flat_map(|(cluster, names)| std::iter::once(cluster).chain(names)).collect();
        TopicList {
            topic_list: names.into_iter().cloned().collect(),
            broker_addr: self.brokers.values().find_map(|broker| broker.members.values().next().cloned()),
        }
    }

    /// 311, 312, 313.
    pub fn unit_topics(&self, which: UnitTopics) -> TopicList {
        let matches = |queues: &BTreeMap<String, QueueData>| {
            let flag = queues.values().next().map_or(0, |data| data.topic_sys_flag);
            let (is_unit, has_sub) = (flag & FLAG_UNIT != 0, flag & FLAG_UNIT_SUB != 0);
            match which {
                UnitTopics::Unit => is_unit,
                UnitTopics::HasUnitSub => has_sub,
                UnitTopics::HasUnitSubNotUnit => has_sub && !is_unit,
            }
        };
        let topics = self.topics.iter().filter(|(_, queues)| matches(queues));
        TopicList { topic_list: topics.map(|(topic, _)| topic.clone()).collect(), broker_addr: None }
    }

    /// 205 and 327: takes the write permission from a broker, or gives all its topics read and write.
    /// Returns how many. A changed registration undoes it.
    pub fn set_writable(&mut self, broker_name: &str, is_writable: bool) -> usize {
        let mut count = 0;
        for data in self.topics.values_mut().filter_map(|queues| queues.get_mut(broker_name)) {
            data.perm = if is_writable { perm::READ_WRITE } else { data.perm & !perm::WRITE };
            count += 1;
        }
        count
    }

    /// 217: makes a topic by hand. Ignored from the first unknown broker on, as upstream.
    pub fn register_topic(&mut self, topic: &str, datas: Vec<QueueData>) -> Result<(), RegisterError> {
        if !is_name(topic) {
            let value = topic.chars().take(64).collect();
            return Err(RegisterError::Name { what: "topic", value });
        }
        if self.queue_datas + datas.len() > QUEUE_DATAS_MAX {
            return Err(RegisterError::TooMany { what: "topics", max: QUEUE_DATAS_MAX });
        }
        let is_known = self.topics.contains_key(topic);
        // A new topic is made whole or not at all.
        if !is_known && !datas.iter().all(|data| self.brokers.contains_key(&data.broker_name)) {
            return Ok(());
        }
        for data in datas {
            if !self.brokers.contains_key(&data.broker_name) {
                return Ok(());
            }
            let queues = self.topics.entry(topic.to_owned()).or_default();
            if queues.insert(data.broker_name.clone(), data).is_none() {
                self.queue_datas += 1;
            }
        }
        Ok(())
    }

    /// 216; with a cluster, on the brokers of that cluster only.
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let brokers = match cluster {
            Some(cluster) => match self.clusters.get(cluster) {
                Some(brokers) => Some(brokers.clone()),
                None => return,
            },
            None => None,
        };
        let Some(queues) = self.topics.get_mut(topic) else {
            return;
        };
        let before = queues.len();
        queues.retain(|name, _| brokers.as_ref().is_some_and(|brokers| !brokers.contains(name)));
        self.queue_datas -= before - queues.len();
        if queues.is_empty() {
            self.topics.remove(topic);
        }
    }

    pub fn snapshot(&self, now_ms: u64) -> Snapshot {
        let mut topics: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.topics.values().flat_map(BTreeMap::keys) {
            *topics.entry(name).or_default() += 1;
        }
        let member = |broker: &Broker, (id, addr): (&i64, &String)| {
            let alive = self.alive.get(&Key::new(&broker.cluster, addr));
            MemberSnapshot {
                id: *id,
                addr: addr.clone(),
                silent_ms: alive.map(|alive| now_ms.saturating_sub(alive.updated_ms)),
                timeout_ms: alive.map(|alive| alive.timeout_ms),
                version: alive.map(|alive| alive.version),
            }
        };
        Snapshot {
            brokers: self
                .brokers
                .iter()
                .map(|(name, broker)| BrokerSnapshot {
                    name: name.clone(),
                    cluster: broker.cluster.clone(),
                    term: broker.term,
                    hold_ms_left: broker.hold.as_ref().map(|hold| hold.until_ms.saturating_sub(now_ms)),
                    topics: topics.get(name.as_str()).copied().unwrap_or(0),
                    members: broker.members.iter().map(|entry| member(broker, entry)).collect(),
                })
                .collect(),
            topics: self.topics.len(),
            queue_datas: self.queue_datas,
            counts: self.counts,
        }
    }

    /// What holds between the tables; for tests.
    #[cfg(test)]
    fn check(&self) {
        assert_eq!(self.queue_datas, self.topics.values().map(BTreeMap::len).sum::<usize>());
        for queues in self.topics.values() {
            assert!(!queues.is_empty());
            assert!(queues.keys().all(|name| self.brokers.contains_key(name)), "queues of an unknown broker");
        }
        for (name, broker) in &self.brokers {
            assert!(!broker.members.is_empty(), "{name} has no members");
            let addrs: BTreeSet<_> = broker.members.values().collect();
            assert_eq!(addrs.len(), broker.members.len(), "{name} has an address twice");
            assert!(broker.hold.is_none() || broker.members.contains_key(&MASTER_ID));
            assert!(self.clusters.values().any(|names| names.contains(name)));
        }
        for names in self.clusters.values() {
            assert!(!names.is_empty() && names.iter().all(|name| self.brokers.contains_key(name)));
        }
        let carried: usize = self.by_connection.values().map(BTreeSet::len).sum();
        assert_eq!(carried, self.alive.len());
        for (key, alive) in &self.alive {
            assert!(self.by_connection[&alive.connection].contains(key));
        }
    }
}

/// Checks names, and leaves out topics whose names are none: one odd topic must not cost a broker
/// its route.
fn validate(registration: &mut Registration) -> Result<(), RegisterError> {
    let name = |what, value: &str, is_valid: bool| {
        if is_valid {
            Ok(())
        } else {
            Err(RegisterError::Name { what, value: value.chars().take(64).collect() })
        }
    };
    name("clusterName", &registration.cluster, is_name(&registration.cluster))?;
    name("brokerName", &registration.broker_name, is_name(&registration.broker_name))?;
    name("brokerAddr", &registration.broker_addr, is_address(&registration.broker_addr))?;
    name("haServerAddr", &registration.ha_server_addr, is_text(&registration.ha_server_addr))?;
    let zone = registration.zone.as_deref().unwrap_or_default();
    name("zoneName", zone, is_text(zone))?;
    if registration.broker_id < 0 {
        return Err(RegisterError::Name { what: "brokerId", value: registration.broker_id.to_string() });
    }
    if let Some(servers) = &registration.filter_servers {
        if servers.len() > FILTER_SERVERS_MAX {
            return Err(RegisterError::TooMany { what: "filter servers", max: FILTER_SERVERS_MAX });
        }
        for server in servers {
            name("filter server", server, is_address(server))?;
        }
    }
    let topics = &mut registration.topics;
    let before = topics.topic_config_table.len();
    topics.topic_config_table.retain(|topic, config| is_name(topic) && config.topic_name == *topic);
    topics.topic_queue_mapping_info_map.retain(|topic, _| is_name(topic));
    let odd = before - topics.topic_config_table.len();
    if odd > 0 {
        tracing::warn!(broker = registration.broker_name, odd, "topics with invalid names left out");
    }
    Ok(())
}

fn timeout(asked_ms: Option<i64>) -> u64 {
    match asked_ms {
        Some(asked @ 1..) => (asked as u64).clamp(BROKER_TIMEOUT_MS_MIN, BROKER_TIMEOUT_MS_MAX),
        _ => BROKER_TIMEOUT_MS,
    }
}

fn queue_data(broker_name: &str, config: &TopicConfig, wipes_write: bool) -> QueueData {
    QueueData {
        broker_name: broker_name.to_owned(),
        perm: if wipes_write { config.perm & !perm::WRITE } else { config.perm },
        read_queue_nums: config.read_queue_nums,
        topic_sys_flag: config.topic_sys_flag,
        write_queue_nums: config.write_queue_nums,
    }
}

/// Shows the lowest id of a group without a master as its master, for reading.
fn promote_acting_master(data: &mut BrokerData, queues: &BTreeMap<String, QueueData>) {
    if !data.enable_acting_master || data.broker_addrs.contains_key(&MASTER_ID) {
        return;
    }
    let is_read_only = queues.get(&data.broker_name).is_some_and(|queue| !perm::is_writable(queue.perm));
    if is_read_only && let Some((_, addr)) = data.broker_addrs.pop_first() {
        data.broker_addrs.insert(MASTER_ID, addr);
    }
}

/// Leaves the brokers of one zone, and those without a master (ZoneRouteRPCHook.java).
pub(crate) fn filter_by_zone(route: &mut TopicRouteData, zone: &str) {
    let (kept, removed): (Vec<_>, Vec<_>) =
        std::mem::take(&mut route.broker_datas).into_iter().partition(|data| {
            !data.broker_addrs.contains_key(&MASTER_ID)
                || data.zone_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(zone))
        });
    route.broker_datas = kept;
    for data in removed {
        route.queue_datas.retain(|queue| queue.broker_name != data.broker_name);
        for addr in data.broker_addrs.values() {
            route.filter_server_table.remove(addr);
        }
    }
}

#[cfg(test)]
mod tests;
