//! The clients that are connected to the cluster: one registry per process, fed by the heartbeats of all its listeners
//! and told to every other node. Nothing of it is in the log (log.md 13).
//!
//! ```text
//! local    client id ─▶ what it said, its connections      told to the others by version: `news_since`
//! remote   node ─▶ client id ─▶ what it said               vanishes when the node is silent (`forget_silent`)
//! views    consumer group ─▶ members of all parts, merged subscriptions     what 38, 203 and a pull read
//! ```
//!
//! The members of a group are the union over the parts, by client id; so every node gives the same list (clients.md 7).
//! A client leaves by 35, by closing its last connection anywhere, or by silence.
//!
//! Lock order: `inner` before `views`. Both are held for table work only.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use replica::NodeId;
use serde::{Deserialize, Serialize};
use wire::{ConsumeFromWhere, ConsumeType, Language, MessageModel, SubscriptionData};

use crate::limits::{CLIENT_SILENT, REGISTRY_REMOVALS, REGISTRY_SILENT};

/// The number of a client connection, unique in this process.
pub(crate) type ConnectionId = u64;

/// What a client said in its last heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Client {
    pub(crate) id: String,
    /// As the node saw it, `ip:port`.
    pub(crate) address: String,
    pub(crate) language: Language,
    pub(crate) version: i32,
    pub(crate) producers: BTreeSet<String>,
    pub(crate) consumers: BTreeMap<String, Consumer>,
}

/// A client as a member of one consumer group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Consumer {
    pub(crate) consume_type: ConsumeType,
    pub(crate) message_model: MessageModel,
    pub(crate) consume_from_where: ConsumeFromWhere,
    pub(crate) subscriptions: BTreeMap<String, SubscriptionData>,
}

/// A consumer group as all nodes see it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConsumerGroup {
    pub(crate) members: BTreeMap<String, Arc<Client>>,
    /// By topic; of members that differ, the newest (`subVersion`).
    pub(crate) subscriptions: BTreeMap<String, Arc<SubscriptionData>>,
    pub(crate) consume_type: ConsumeType,
    pub(crate) message_model: MessageModel,
    pub(crate) consume_from_where: ConsumeFromWhere,
}

/// What one node tells another about its clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct News {
    /// Differs after a restart.
    pub(crate) incarnation: u64,
    /// The version that the receiver must have; 0: this is everything.
    pub(crate) since: u64,
    pub(crate) version: u64,
    pub(crate) present: Vec<Client>,
    pub(crate) gone: Vec<String>,
    /// Memberships that clients gave up by 35 since then: (client, group).
    pub(crate) left: Vec<(String, String)>,
}

/// Groups whose members or subscriptions changed: their consumers are to be notified (40).
pub(crate) type Changed = BTreeSet<String>;

pub(crate) struct Clients {
    inner: Mutex<Inner>,
    views: RwLock<HashMap<String, Arc<ConsumerGroup>>>,
    max: usize,
}

struct Inner {
    incarnation: u64,
    /// Counts the changes of the local part.
    version: u64,
    local: Part,
    /// Of each local client: its connections and when each was last heard.
    connections: HashMap<String, Vec<(ConnectionId, Instant)>>,
    client_of: HashMap<ConnectionId, String>,
    /// Of each local client: the version at which it changed, and the fingerprint of its subscriptions.
    stamps: HashMap<String, Stamp>,
    removals: VecDeque<(u64, Removal)>,
    remote: BTreeMap<NodeId, Remote>,
}

struct Stamp {
    version: u64,
    fingerprint: i32,
}

enum Removal {
    Gone(String),
    Left(String, String),
}

struct Remote {
    incarnation: u64,
    version: u64,
    heard: Instant,
    part: Part,
}

/// The clients of one node, by client id and by group.
#[derive(Default)]
struct Part {
    clients: HashMap<String, Arc<Client>>,
    consumers: HashMap<String, BTreeSet<String>>,
    producers: HashMap<String, BTreeSet<String>>,
}

impl Part {
    /// Returns the consumer groups that `client` is or was in, if it differs from what was known.
    fn put(&mut self, client: Arc<Client>) -> Changed {
        let mut groups = match self.clients.get(&client.id) {
            Some(old) if **old == *client => return Changed::new(),
            Some(_) => self.remove(&client.id.clone()),
            None => Changed::new(),
        };
        for group in client.consumers.keys() {
            self.consumers.entry(group.clone()).or_default().insert(client.id.clone());
            groups.insert(group.clone());
        }
        for group in &client.producers {
            self.producers.entry(group.clone()).or_default().insert(client.id.clone());
        }
        self.clients.insert(client.id.clone(), client);
        groups
    }

    fn remove(&mut self, id: &str) -> Changed {
        let Some(client) = self.clients.remove(id) else { return Changed::new() };
        let drop_from = |groups: &mut HashMap<String, BTreeSet<String>>, group: &String| {
            if let Some(members) = groups.get_mut(group) {
                members.remove(id);
                if members.is_empty() {
                    groups.remove(group);
                }
            }
        };
        client.producers.iter().for_each(|group| drop_from(&mut self.producers, group));
        client.consumers.keys().for_each(|group| drop_from(&mut self.consumers, group));
        client.consumers.keys().cloned().collect()
    }

    /// Takes a client out of a group, as producer and as consumer.
    fn leave(&mut self, id: &str, group: &str) -> Changed {
        let Some(client) = self.clients.get(id) else { return Changed::new() };
        let mut client = Client::clone(client);
        let producer = client.producers.remove(group);
        if client.consumers.remove(group).is_none() && !producer {
            return Changed::new();
        }
        if client.producers.is_empty() && client.consumers.is_empty() {
            return self.remove(id);
        }
        self.put(Arc::new(client))
    }
}

/// What a heartbeat did.
#[derive(Debug, PartialEq)]
pub(crate) struct Heard {
    pub(crate) changed: Changed,
    /// It came without subscriptions and this node does not know them: the client must send them.
    pub(crate) needs_subscriptions: bool,
}

/// The registry has as many clients as it may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyClients;

impl Clients {
    /// `incarnation` tells this process from earlier ones of the node.
    pub(crate) fn new(incarnation: u64, max: usize) -> Clients {
        Clients {
            inner: Mutex::new(Inner {
                incarnation,
                version: 1,
                local: Part::default(),
                connections: HashMap::new(),
                client_of: HashMap::new(),
                stamps: HashMap::new(),
                removals: VecDeque::new(),
                remote: BTreeMap::new(),
            }),
            views: RwLock::new(HashMap::new()),
            max,
        }
    }

    /// A heartbeat over one of this node's connections. `without_subscriptions` (V2): those of the last heartbeat with
    /// this `fingerprint` still hold.
    pub(crate) fn heard(
        &self,
        connection: ConnectionId,
        mut client: Client,
        fingerprint: i32,
        without_subscriptions: bool,
        now: Instant,
    ) -> Result<Heard, TooManyClients> {
        let mut inner = self.lock();
        let known = inner.local.clients.get(&client.id).cloned();
        if known.is_none() && inner.local.clients.len() >= self.max {
            return Err(TooManyClients);
        }
        let mut needs_subscriptions = false;
        if without_subscriptions {
            let same = inner.stamps.get(&client.id).is_some_and(|stamp| stamp.fingerprint == fingerprint);
            needs_subscriptions = !same;
            for (group, consumer) in &mut client.consumers {
                if let Some(before) = known.as_ref().and_then(|known| known.consumers.get(group)) {
                    consumer.subscriptions.clone_from(&before.subscriptions);
                } else {
                    needs_subscriptions = true;
                }
            }
        }
        // The connections of one client have different ports; its first one names it.
        if let Some(known) = &known {
            client.address.clone_from(&known.address);
        }
        let id = client.id.clone();
        let changed_here = known.as_deref() != Some(&client);
        let touched = inner.local.put(Arc::new(client));
        inner.link(connection, &id, now);
        if changed_here {
            inner.version += 1;
        }
        let version = inner.version;
        let stamp = inner.stamps.entry(id).or_insert(Stamp { version, fingerprint });
        if changed_here {
            stamp.version = version;
        }
        if !without_subscriptions {
            stamp.fingerprint = fingerprint;
        }
        Ok(Heard { changed: self.review(&inner, touched), needs_subscriptions })
    }

    /// Code 35: the client leaves the groups named, everywhere.
    pub(crate) fn leave(&self, id: &str, groups: impl Iterator<Item = String>) -> Changed {
        let mut inner = self.lock();
        let mut touched = Changed::new();
        for group in groups {
            inner.version += 1;
            let version = inner.version;
            touched.extend(inner.leave_everywhere(id, &group));
            inner.removed(version, Removal::Left(id.to_owned(), group));
        }
        self.review(&inner, touched)
    }

    /// A connection is closed; with its last one, the client is gone.
    pub(crate) fn disconnected(&self, connection: ConnectionId) -> Changed {
        let mut inner = self.lock();
        let Some(id) = inner.client_of.remove(&connection) else { return Changed::new() };
        let last = inner.connections.get_mut(&id).is_none_or(|links| {
            links.retain(|(link, _)| *link != connection);
            links.is_empty()
        });
        let touched = if last { inner.drop_local(&id) } else { Changed::new() };
        self.review(&inner, touched)
    }

    /// Drops local clients that were not heard on any connection for two minutes.
    pub(crate) fn forget_quiet(&self, now: Instant) -> Changed {
        let mut inner = self.lock();
        let quiet: Vec<String> = inner
            .connections
            .iter()
            .filter(|(_, links)| {
                links.iter().all(|(_, heard)| now.saturating_duration_since(*heard) > CLIENT_SILENT)
            })
            .map(|(id, _)| id.clone())
            .collect();
        let touched = quiet.iter().flat_map(|id| inner.drop_local(id)).collect();
        self.review(&inner, touched)
    }

    /// Drops the part of every node that has been silent for too long.
    pub(crate) fn forget_silent(&self, now: Instant) -> Changed {
        let mut inner = self.lock();
        let mut touched = Changed::new();
        inner.remote.retain(|_, remote| {
            let keep = now.saturating_duration_since(remote.heard) <= REGISTRY_SILENT;
            if !keep {
                touched.extend(remote.part.consumers.keys().cloned());
            }
            keep
        });
        self.review(&inner, touched)
    }

    /// The version of the local part: it changes when there is news.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// What a node that has version `since` of the local part lacks; everything where that cannot be told.
    pub(crate) fn news_since(&self, since: u64) -> News {
        let inner = self.lock();
        let oldest = inner.removals.front().map_or(0, |(version, _)| *version);
        let dropped_some = inner.removals.len() >= REGISTRY_REMOVALS && since + 1 < oldest;
        let since = if dropped_some || since > inner.version { 0 } else { since };
        let mut news = News {
            incarnation: inner.incarnation,
            since,
            version: inner.version,
            present: Vec::new(),
            gone: Vec::new(),
            left: Vec::new(),
        };
        let changed = |id: &str| inner.stamps.get(id).is_none_or(|stamp| stamp.version > since);
        news.present.extend(
            inner.local.clients.values().filter(|client| changed(&client.id)).map(|c| Client::clone(c)),
        );
        for (_, removal) in inner.removals.iter().filter(|(version, _)| since > 0 && *version > since) {
            match removal {
                Removal::Gone(id) if inner.local.clients.contains_key(id) => {}
                Removal::Gone(id) => news.gone.push(id.clone()),
                Removal::Left(id, group) => news.left.push((id.clone(), group.clone())),
            }
        }
        news
    }

    /// Takes another node's news. Returns the version of its part that is held now (0: everything is wanted).
    pub(crate) fn take_news(&self, from: NodeId, news: News, now: Instant) -> (u64, Changed) {
        let mut inner = self.lock();
        let mut touched = Changed::new();
        let fits = inner
            .remote
            .get(&from)
            .is_some_and(|remote| remote.incarnation == news.incarnation && remote.version >= news.since);
        if news.since > 0 && !fits {
            return (0, touched);
        }
        let remote = inner.remote.entry(from).or_insert_with(|| Remote {
            incarnation: news.incarnation,
            version: 0,
            heard: now,
            part: Part::default(),
        });
        remote.heard = now;
        if remote.incarnation == news.incarnation && remote.version > news.version {
            return (remote.version, touched);
        }
        remote.incarnation = news.incarnation;
        remote.version = news.version;
        if news.since == 0 {
            let present: BTreeSet<&str> = news.present.iter().map(|client| client.id.as_str()).collect();
            let gone: Vec<String> =
                remote.part.clients.keys().filter(|id| !present.contains(id.as_str())).cloned().collect();
            for id in gone {
                touched.extend(remote.part.remove(&id));
            }
        }
        for id in &news.gone {
            touched.extend(remote.part.remove(id));
        }
        for client in news.present {
            touched.extend(remote.part.put(Arc::new(client)));
        }
        let version = remote.version;
        for (id, group) in &news.left {
            touched.extend(inner.leave_everywhere(id, group));
        }
        (version, self.review(&inner, touched))
    }

    pub(crate) fn consumer_group(&self, group: &str) -> Option<Arc<ConsumerGroup>> {
        self.views.read().unwrap_or_else(PoisonError::into_inner).get(group).cloned()
    }

    /// The names of all consumer groups that have members, sorted.
    pub(crate) fn consumer_groups(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.views.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// The producers of a group on all nodes, by client id.
    pub(crate) fn producers(&self, group: &str) -> Vec<Arc<Client>> {
        let inner = self.lock();
        let of = |part: &Part| -> Vec<(String, Arc<Client>)> {
            let ids = part.producers.get(group).into_iter().flatten();
            ids.filter_map(|id| Some((id.clone(), part.clients.get(id)?.clone()))).collect()
        };
        let all: BTreeMap<_, _> = inner.parts().flat_map(of).collect();
        all.into_values().collect()
    }

    /// Every producer group with its clients (328).
    pub(crate) fn all_producers(&self) -> BTreeMap<String, Vec<Arc<Client>>> {
        let groups: BTreeSet<String> =
            self.lock().parts().flat_map(|part| part.producers.keys().cloned()).collect();
        groups.into_iter().map(|group| (group.clone(), self.producers(&group))).collect()
    }

    /// The connections over which this node can reach a client, the last heard first.
    pub(crate) fn connections_of(&self, id: &str) -> Vec<ConnectionId> {
        let inner = self.lock();
        let mut links = inner.connections.get(id).cloned().unwrap_or_default();
        links.sort_unstable_by_key(|(_, heard)| std::cmp::Reverse(*heard));
        links.into_iter().map(|(connection, _)| connection).collect()
    }

    /// One connection of each of this node's members of a group: where a 40 goes.
    pub(crate) fn local_members(&self, group: &str) -> Vec<ConnectionId> {
        let ids: Vec<String> = {
            let inner = self.lock();
            inner.local.consumers.get(group).into_iter().flatten().cloned().collect()
        };
        ids.iter().filter_map(|id| self.connections_of(id).first().copied()).collect()
    }

    /// The client that a connection belongs to.
    pub(crate) fn client_on(&self, connection: ConnectionId) -> Option<String> {
        self.lock().client_of.get(&connection).cloned()
    }

    /// A node that has the client connected, if it is not this one.
    pub(crate) fn node_of(&self, id: &str) -> Option<NodeId> {
        let inner = self.lock();
        inner.remote.iter().find(|(_, remote)| remote.part.clients.contains_key(id)).map(|(node, _)| *node)
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().local.clients.len()
    }

    /// Rebuilds the views of the groups touched; returns those that read differently now.
    fn review(&self, inner: &Inner, touched: Changed) -> Changed {
        if touched.is_empty() {
            return touched;
        }
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        touched
            .into_iter()
            .filter(|group| {
                let new = inner.view(group);
                let old = views.get(group);
                let differs = match (old, &new) {
                    (Some(old), Some(new)) => {
                        !old.members.keys().eq(new.members.keys()) || old.subscriptions != new.subscriptions
                    }
                    (None, None) => false,
                    _ => true,
                };
                match new {
                    Some(new) => views.insert(group.clone(), Arc::new(new)),
                    None => views.remove(group),
                };
                differs
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.local).chain(self.remote.values().map(|remote| &remote.part))
    }

    fn link(&mut self, connection: ConnectionId, id: &str, now: Instant) {
        // A connection that speaks for another client now (a proxy) no longer speaks for the first.
        if let Some(before) = self.client_of.insert(connection, id.to_owned())
            && before != id
            && let Some(links) = self.connections.get_mut(&before)
        {
            links.retain(|(link, _)| *link != connection);
        }
        let links = self.connections.entry(id.to_owned()).or_default();
        match links.iter_mut().find(|(link, _)| *link == connection) {
            Some((_, heard)) => *heard = now,
            None => links.push((connection, now)),
        }
    }

    fn drop_local(&mut self, id: &str) -> Changed {
        for (connection, _) in self.connections.remove(id).unwrap_or_default() {
            self.client_of.remove(&connection);
        }
        self.stamps.remove(id);
        self.version += 1;
        let version = self.version;
        self.removed(version, Removal::Gone(id.to_owned()));
        self.local.remove(id)
    }

    fn removed(&mut self, version: u64, removal: Removal) {
        if self.removals.len() >= REGISTRY_REMOVALS {
            self.removals.pop_front();
        }
        self.removals.push_back((version, removal));
    }

    fn leave_everywhere(&mut self, id: &str, group: &str) -> Changed {
        let mut touched = self.local.leave(id, group);
        if let Some(stamp) = self.stamps.get_mut(id)
            && !touched.is_empty()
        {
            self.version += 1;
            stamp.version = self.version;
        }
        for remote in self.remote.values_mut() {
            touched.extend(remote.part.leave(id, group));
        }
        touched
    }

    fn view(&self, group: &str) -> Option<ConsumerGroup> {
        let mut view: Option<ConsumerGroup> = None;
        let members = self.parts().flat_map(|part| {
            let ids = part.consumers.get(group).into_iter().flatten();
            ids.filter_map(|id| part.clients.get(id))
        });
        for client in members {
            let Some(consumer) = client.consumers.get(group) else { continue };
            let view = view.get_or_insert_with(|| ConsumerGroup {
                members: BTreeMap::new(),
                subscriptions: BTreeMap::new(),
                consume_type: consumer.consume_type,
                message_model: consumer.message_model,
                consume_from_where: consumer.consume_from_where,
            });
            view.members.entry(client.id.clone()).or_insert_with(|| client.clone());
            for (topic, subscription) in &consumer.subscriptions {
                let newest = view.subscriptions.get(topic);
                if newest.is_none_or(|newest| newest.sub_version < subscription.sub_version) {
                    view.subscriptions.insert(topic.clone(), Arc::new(subscription.clone()));
                }
            }
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn client(id: &str, groups: &[&str], sub_version: i64) -> Client {
        let consumer = |group: &&str| {
            let subscription = SubscriptionData::from_tags("T", "*", sub_version).unwrap();
            let consumer = Consumer {
                consume_type: ConsumeType::Passively,
                message_model: MessageModel::Clustering,
                consume_from_where: ConsumeFromWhere::LastOffset,
                subscriptions: BTreeMap::from([("T".to_owned(), subscription)]),
            };
            ((*group).to_owned(), consumer)
        };
        Client {
            id: id.into(),
            address: "127.0.0.1:1".into(),
            language: Language::Java,
            version: 479,
            producers: BTreeSet::from(["p".to_owned()]),
            consumers: groups.iter().map(consumer).collect(),
        }
    }

    fn heard(clients: &Clients, connection: ConnectionId, client: Client) -> Vec<String> {
        clients.heard(connection, client, 0, false, Instant::now()).unwrap().changed.into_iter().collect()
    }

    fn members(clients: &Clients, group: &str) -> Vec<String> {
        clients.consumer_group(group).map(|g| g.members.keys().cloned().collect()).unwrap_or_default()
    }

    /// Tells `to` what `from` has, as two nodes do; returns the groups that changed.
    fn tell(from: &Clients, to: &Clients, node: u64, has: &mut u64) -> Vec<String> {
        let (version, changed) = to.take_news(NodeId(node), from.news_since(*has), Instant::now());
        *has = version;
        changed.into_iter().collect()
    }

    #[test]
    fn a_client_has_as_many_connections_as_it_likes_and_leaves_with_the_last() {
        let clients = Clients::new(1, 10);
        assert_eq!(heard(&clients, 1, client("a", &["g"], 1)), ["g"]);
        assert!(heard(&clients, 2, client("a", &["g"], 1)).is_empty(), "the same on another connection");
        assert_eq!(heard(&clients, 3, client("b", &["g"], 1)), ["g"]);
        assert_eq!(clients.local_members("g").len(), 2, "one connection of each");
        assert!(clients.disconnected(1).is_empty());
        assert_eq!(members(&clients, "g"), ["a", "b"]);
        assert_eq!(clients.disconnected(2).into_iter().collect::<Vec<_>>(), ["g"]);
        assert_eq!(members(&clients, "g"), ["b"]);
        assert!(clients.disconnected(2).is_empty());
        assert_eq!(clients.client_on(3).as_deref(), Some("b"));
        assert_eq!(clients.producers("p").len(), 1);
    }

    #[test]
    fn silence_ends_a_client() {
        let clients = Clients::new(1, 10);
        heard(&clients, 1, client("a", &["g"], 1));
        let now = Instant::now();
        assert!(clients.forget_quiet(now).is_empty());
        assert!(!clients.forget_quiet(now + CLIENT_SILENT + Duration::from_secs(1)).is_empty());
        assert!(members(&clients, "g").is_empty());
    }

    #[test]
    fn the_newest_subscription_counts() {
        let clients = Clients::new(1, 10);
        heard(&clients, 1, client("a", &["g"], 5));
        heard(&clients, 2, client("b", &["g"], 4));
        let version = || clients.consumer_group("g").unwrap().subscriptions["T"].sub_version;
        assert_eq!(version(), 5);
        assert_eq!(heard(&clients, 2, client("b", &["g"], 6)), ["g"], "a changed subscription is told");
        assert_eq!(version(), 6);
    }

    #[test]
    fn the_registry_is_bounded() {
        let clients = Clients::new(1, 1);
        heard(&clients, 1, client("a", &[], 1));
        assert_eq!(clients.heard(2, client("b", &[], 1), 0, false, Instant::now()), Err(TooManyClients));
        heard(&clients, 2, client("a", &["g"], 1));
    }

    #[test]
    fn nodes_tell_each_other_what_changed() {
        let (one, two) = (Clients::new(11, 10), Clients::new(22, 10));
        let (mut has, mut back) = (0, 0);
        heard(&one, 1, client("a", &["g"], 1));
        heard(&one, 2, client("b", &["g", "h"], 1));
        assert_eq!(tell(&one, &two, 1, &mut has), ["g", "h"]);
        assert_eq!(members(&two, "g"), ["a", "b"]);
        assert_eq!(two.node_of("a"), Some(NodeId(1)));
        let nothing = one.news_since(has);
        assert!(nothing.present.is_empty() && nothing.gone.is_empty(), "only what changed travels");

        // The same client at both nodes is one member, until it has left both.
        heard(&two, 7, client("a", &["g"], 1));
        assert!(tell(&two, &one, 2, &mut back).is_empty());
        one.disconnected(1);
        assert!(tell(&one, &two, 1, &mut has).is_empty());
        assert_eq!(members(&one, "g"), ["a", "b"]);
        assert_eq!(two.disconnected(7).len(), 1);
        assert_eq!(tell(&two, &one, 2, &mut back), ["g"]);
        assert_eq!((members(&one, "g"), members(&two, "g")), (vec!["b".to_owned()], vec!["b".to_owned()]));

        // 35 anywhere is 35 everywhere.
        two.leave("b", ["g".to_owned()].into_iter());
        assert_eq!(tell(&two, &one, 2, &mut back), ["g"]);
        assert!(members(&one, "g").is_empty());
        assert_eq!(members(&one, "h"), ["b"]);
        tell(&one, &two, 1, &mut has);
        assert!(members(&two, "g").is_empty(), "it does not come back");
    }

    #[test]
    fn a_node_that_restarts_or_falls_silent() {
        let (one, two) = (Clients::new(11, 10), Clients::new(22, 10));
        let mut has = 0;
        heard(&one, 1, client("a", &["g"], 1));
        tell(&one, &two, 1, &mut has);
        // Restarted: it knows others, and what it says replaces what was known.
        let one = Clients::new(12, 10);
        heard(&one, 1, client("b", &["g"], 1));
        let (version, _) = two.take_news(NodeId(1), one.news_since(1), Instant::now());
        assert_eq!(version, 0, "a difference to what another life said does not fit");
        has = 0;
        assert_eq!(tell(&one, &two, 1, &mut has), ["g"]);
        assert_eq!(members(&two, "g"), ["b"]);
        let later = Instant::now() + REGISTRY_SILENT + Duration::from_millis(1);
        assert_eq!(two.forget_silent(later).len(), 1);
        assert!(members(&two, "g").is_empty());
        let (version, _) = two.take_news(NodeId(1), one.news_since(has), Instant::now());
        assert_eq!(version, 0, "everything is wanted again");
    }

    #[test]
    fn who_was_behind_too_far_gets_everything() {
        let one = Clients::new(11, 10);
        heard(&one, 1, client("stays", &["g"], 1));
        let old = one.version();
        for n in 0..=REGISTRY_REMOVALS as u64 {
            heard(&one, 100 + n, client("passes", &["g"], 1));
            one.disconnected(100 + n);
        }
        assert_eq!(one.news_since(old).since, 0);
        assert!(one.news_since(one.version()).since > 0);
    }
}
