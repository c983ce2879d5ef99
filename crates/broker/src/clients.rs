//! The clients that are connected to the cluster: one registry per process, fed by the heartbeats of all its listeners
//! and told to every other node. Nothing of it is in the log (log.md 13).
//!
//! ```text
//! local    client id ─▶ what it said, its connections      told to the others by version: `news_since`
//! changes  version ─▶ client that is new or changed, client that is gone, membership given up
//! remote   node ─▶ client id ─▶ what it said               vanishes when the node is silent (`forget_silent`)
//! views    consumer group ─▶ members of all parts, merged subscriptions     what 38, 203 and a pull read
//! ```
//!
//! The members of a group are the union over the parts, by client id; so every node gives the same list (clients.md 7).
//! A client leaves by 35, by closing its last connection anywhere, or by silence. Whether a group exists is not asked
//! here: that is for the tables of each of the process's brokers, and one of them may have it.
//!
//! What a client says is bounded, and so is what all of them say together: it lies in memory on every node.
//!
//! Lock order: `inner` before `views`. Both are held for table work only.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use replica::NodeId;
use serde::{Deserialize, Serialize};
use wire::{ConsumeFromWhere, ConsumeType, Language, MessageModel, SubscriptionData};

use crate::limits::{
    CLIENT_BYTES_MAX, CLIENT_GROUP_BYTES_MAX, CLIENT_GROUPS_MAX, CLIENT_ID_BYTES_MAX, CLIENT_LINK_QUIET,
    CLIENT_SILENT, CLIENT_SUBSCRIPTIONS_MAX, REGISTRY_BYTES_MAX, REGISTRY_PAGE_BYTES, REGISTRY_REMOVALS,
    REGISTRY_SILENT,
};

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

impl Client {
    fn is_in(&self, role: Role, group: &str) -> bool {
        match role {
            Role::Producer => self.producers.contains(group),
            Role::Consumer => self.consumers.contains_key(group),
        }
    }

    /// Returns whether it was in it.
    fn leave(&mut self, role: Role, group: &str) -> bool {
        match role {
            Role::Producer => self.producers.remove(group),
            Role::Consumer => self.consumers.remove(group).is_some(),
        }
    }

    /// A subscription's version never falls (RocketMQ's ConsumerGroupInfo.updateSubscription): of two processes with one
    /// id, the older one's pulls would otherwise be served and the newer one's be called not the latest.
    fn keep_newer_subscriptions(&mut self, known: &Client) {
        for (group, consumer) in &mut self.consumers {
            let Some(before) = known.consumers.get(group) else { continue };
            for (topic, subscription) in &mut consumer.subscriptions {
                if let Some(newer) = before.subscriptions.get(topic)
                    && newer.sub_version > subscription.sub_version
                {
                    subscription.clone_from(newer);
                }
            }
        }
    }

    /// Whether it keeps the limits of one client.
    fn check(&self) -> Result<(), Excess> {
        let within = |what, has, max| {
            if has > max { Err(Excess::Client { what, has, max }) } else { Ok(()) }
        };
        let groups = self.producers.iter().chain(self.consumers.keys());
        let longest = groups.clone().map(String::len).max().unwrap_or(0);
        let subscriptions: usize = self.consumers.values().map(|consumer| consumer.subscriptions.len()).sum();
        within("bytes in its id", self.id.len(), CLIENT_ID_BYTES_MAX)?;
        within("groups", groups.count(), CLIENT_GROUPS_MAX)?;
        within("bytes in the name of a group", longest, CLIENT_GROUP_BYTES_MAX)?;
        within("subscriptions", subscriptions, CLIENT_SUBSCRIPTIONS_MAX)?;
        within("bytes of groups and subscriptions", self.bytes(), CLIENT_BYTES_MAX)
    }

    /// What it takes: at least the bytes of its JSON, which travels, and roughly those of its place in the tables.
    fn bytes(&self) -> usize {
        let subscription = |(topic, data): (&String, &SubscriptionData)| {
            let tags: usize = data.tags_set.iter().map(|tag| text_bytes(tag)).sum();
            let codes = data.code_set.len() * ENTRY_BYTES;
            let texts = [topic, &data.topic, &data.expression_type, &data.sub_string];
            RECORD_BYTES + texts.map(|text| text_bytes(text)).iter().sum::<usize>() + tags + codes
        };
        let consumer = |(group, consumer): (&String, &Consumer)| {
            let subscriptions: usize = consumer.subscriptions.iter().map(subscription).sum();
            RECORD_BYTES + text_bytes(group) + subscriptions
        };
        let producers: usize = self.producers.iter().map(|group| text_bytes(group)).sum();
        let consumers: usize = self.consumers.iter().map(consumer).sum();
        RECORD_BYTES + text_bytes(&self.id) + text_bytes(&self.address) + producers + consumers
    }
}

/// What a record takes beside its texts: the names and numbers of its JSON, or its fields and a place in a table.
const RECORD_BYTES: usize = 320;
/// The same of a text or number in a list.
const ENTRY_BYTES: usize = 64;

/// What a text takes. In JSON some characters become six.
fn text_bytes(text: &str) -> usize {
    let escaped = text.bytes().filter(|byte| *byte < b' ' || matches!(byte, b'"' | b'\\')).count();
    ENTRY_BYTES + text.len() + 5 * escaped
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

/// As what a client is in a group. A producer group and a consumer group of one name have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Producer,
    Consumer,
}

/// A membership that a client gave up by 35.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Left {
    pub(crate) client: String,
    pub(crate) group: String,
    pub(crate) role: Role,
}

/// What one node tells another about its clients, in pages where it is much: each goes on from the version of the one
/// before. A *copy* tells of all clients; it is made where a difference cannot be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct News {
    /// Differs after a restart.
    pub(crate) incarnation: u64,
    /// The version that the receiver must have; 0: a copy begins.
    pub(crate) since: u64,
    /// The version at which the copy began to which this belongs; 0: it belongs to none.
    pub(crate) copy: u64,
    pub(crate) version: u64,
    /// Another page follows. With the last page of a copy, who was not named in it is gone.
    pub(crate) more: bool,
    /// Clients that are new or changed, as they are now.
    pub(crate) present: Vec<Client>,
    pub(crate) gone: Vec<String>,
    /// Given up since then, everywhere. Older than `present`: who has come back is a member.
    pub(crate) left: Vec<Left>,
}

/// How far a node has another one's part of the registry. Nothing of it: the default.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Have {
    #[prost(uint64, tag = "1")]
    pub(crate) version: u64,
    /// The version at which the copy began that is not complete here yet; 0: none is under way.
    #[prost(uint64, tag = "2")]
    pub(crate) copy: u64,
}

/// Groups whose members or subscriptions changed: their consumers are to be notified (40).
pub(crate) type Changed = BTreeSet<String>;

pub(crate) struct Clients {
    inner: Mutex<Inner>,
    views: RwLock<HashMap<String, Arc<ConsumerGroup>>>,
    max: usize,
    max_bytes: usize,
    page_bytes: usize,
}

struct Inner {
    incarnation: u64,
    /// Counts the changes of the local part.
    version: u64,
    local: Part,
    /// Of each local client: its connections and when each was last heard.
    connections: HashMap<String, Vec<(ConnectionId, Instant)>>,
    client_of: HashMap<ConnectionId, String>,
    /// The last heartbeat over each connection. Two processes may have one client id (broadcasting consumers of one host, by
    /// default): what the client is, is what its connections say together.
    said: HashMap<ConnectionId, Said>,
    /// Of each local client: the groups that it left over some of its connections.
    leaving: HashMap<String, Vec<(ConnectionId, Role, String)>>,
    stamps: HashMap<String, Stamp>,
    /// Bytes of all local clients.
    bytes: usize,
    /// By version: the last change of each local client, and removals, as many as are remembered.
    changes: BTreeMap<u64, Change>,
    /// The versions of the removals, from the oldest.
    removals: VecDeque<u64>,
    /// The version of the newest removal that is not remembered any more.
    forgotten: u64,
    remote: BTreeMap<NodeId, Remote>,
}

/// What is noted of a local client.
#[derive(Default)]
struct Stamp {
    /// At which it last changed.
    version: u64,
    /// At most what [`Client::bytes`] said when it was last heard.
    bytes: usize,
}

struct Said {
    client: Arc<Client>,
    /// Of its subscriptions (V2); 0: they are not known, or not by a fingerprint.
    fingerprint: i32,
    /// That count beside the client's own: none where all its connections say the same, and share it.
    bytes: usize,
}

enum Change {
    Present(String),
    Gone(String),
    Left(Left),
}

struct Remote {
    incarnation: u64,
    version: u64,
    heard: Instant,
    part: Part,
    copying: Option<Copying>,
}

/// A copy that has begun to arrive. Until it is complete, who was known before stays: members that came and went with
/// the pages would move queues.
struct Copying {
    began: u64,
    named: BTreeSet<String>,
}

impl Remote {
    fn has(&self) -> Have {
        Have { version: self.version, copy: self.copying.as_ref().map_or(0, |copying| copying.began) }
    }

    /// Whether news of this life of the node bring something and leave nothing out.
    fn takes(&self, news: &News) -> bool {
        if news.since == 0 {
            return match &self.copying {
                // The same by another way (a starting node asks and is told), which may be ahead.
                Some(_) => news.version > self.version,
                // Its sender has forgotten what this node would have to be told. Otherwise it is a late call.
                None => news.copy > self.version,
            };
        }
        // A page of a copy leaves out who was gone when that copy began.
        let may_lack = self.copying.as_ref().map_or(self.version, |copying| copying.began);
        (news.since..=news.version).contains(&self.version) && news.copy <= may_lack
    }
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

    /// Takes a client out of a group, in one role. `None`: it was not in it.
    fn leave(&mut self, left: &Left) -> Option<Changed> {
        let mut client = Client::clone(self.clients.get(&left.client)?);
        if !client.leave(left.role, &left.group) {
            return None;
        }
        if client.producers.is_empty() && client.consumers.is_empty() {
            return Some(self.remove(&left.client));
        }
        Some(self.put(Arc::new(client)))
    }
}

/// What a heartbeat did.
#[derive(Debug, PartialEq)]
pub(crate) struct Heard {
    pub(crate) changed: Changed,
    /// It came without subscriptions and this node does not know them: the client must send them.
    pub(crate) needs_subscriptions: bool,
}

/// Why a heartbeat is not taken: a limit, which the text names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Excess {
    #[error("{has} clients are connected to this node; no more are taken")]
    Clients { has: usize },
    #[error("a client may have {max} {what}, this one has {has}")]
    Client { what: &'static str, has: usize, max: usize },
    #[error("the clients of this node have {max} bytes of groups and subscriptions; no more are taken")]
    Registry { max: usize },
}

impl Clients {
    /// `incarnation` tells this process from earlier ones of the node.
    pub(crate) fn new(incarnation: u64, max: usize) -> Clients {
        Clients {
            inner: Mutex::new(Inner {
                incarnation,
                version: 1,
                local: Part::default(),
                connections: HashMap::new(),
                leaving: HashMap::new(),
                client_of: HashMap::new(),
                said: HashMap::new(),
                stamps: HashMap::new(),
                bytes: 0,
                changes: BTreeMap::new(),
                removals: VecDeque::new(),
                forgotten: 0,
                remote: BTreeMap::new(),
            }),
            views: RwLock::new(HashMap::new()),
            max,
            max_bytes: REGISTRY_BYTES_MAX,
            page_bytes: REGISTRY_PAGE_BYTES,
        }
    }

    /// A heartbeat over one of this node's connections. `without_subscriptions` (V2): those of the last heartbeat with
    /// this `fingerprint` still hold. One that is refused changes nothing: what its client said before stays until it is
    /// silent for too long.
    pub(crate) fn heard(
        &self,
        connection: ConnectionId,
        mut client: Client,
        fingerprint: i32,
        without_subscriptions: bool,
        now: Instant,
    ) -> Result<Heard, Excess> {
        client.check()?;
        let mut inner = self.lock();
        let known = inner.local.clients.get(&client.id).cloned();
        if known.is_none() && inner.local.clients.len() >= self.max {
            return Err(Excess::Clients { has: inner.local.clients.len() });
        }
        let mut needs_subscriptions = false;
        if without_subscriptions {
            let links = inner.links_of(&client.id).into_iter();
            let same = links
                .filter_map(|(link, _)| inner.said.get(&link))
                .find(|said| said.fingerprint == fingerprint);
            needs_subscriptions = same.is_none();
            for (group, consumer) in &mut client.consumers {
                let known = known.as_ref().and_then(|known| known.consumers.get(group));
                let before = same.and_then(|said| said.client.consumers.get(group)).or(known);
                if let Some(before) = before {
                    consumer.subscriptions.clone_from(&before.subscriptions);
                } else {
                    needs_subscriptions = true;
                }
            }
            client.check()?;
        }
        if let Some(known) = &known {
            client.keep_newer_subscriptions(known);
        }
        if let Some(leaving) = inner.leaving.get_mut(&client.id) {
            leaving.retain(|(link, role, group)| *link != connection || !client.is_in(*role, group));
        }
        // The connections of one client have different ports; its first one names it.
        if let Some(known) = &known {
            client.address.clone_from(&known.address);
        }
        let said = client.clone();
        inner.add_what_others_say(connection, &mut client, now);
        client.check()?;
        let beside = if said == client { 0 } else { said.bytes() };
        let (id, bytes) = (client.id.clone(), client.bytes());
        let others = inner.bytes - inner.stamps.get(&id).map_or(0, |stamp| stamp.bytes);
        if others + bytes + beside > self.max_bytes {
            return Err(Excess::Registry { max: self.max_bytes });
        }
        let changed_here = known.as_deref() != Some(&client);
        let touched = inner.local.put(Arc::new(client));
        inner.link(connection, &id, now);
        let fingerprint = if needs_subscriptions { 0 } else { fingerprint };
        inner.stamps.entry(id.clone()).or_default().bytes = bytes;
        inner.bytes = others + bytes;
        inner.say(connection, said, fingerprint);
        if changed_here {
            inner.count_said(&id);
            inner.note_present(&id);
        }
        Ok(Heard { changed: self.review(&inner, touched), needs_subscriptions })
    }

    /// Code 35: the client leaves the groups named, in these roles, everywhere: once it has said so over each of its
    /// connections. Two processes may have one id (broadcasting consumers of one host, by default), and one of them
    /// stays; a client that leaves says so to every broker that it sends heartbeats to.
    pub(crate) fn leave(
        &self,
        id: &str,
        connection: Option<ConnectionId>,
        groups: impl Iterator<Item = (Role, String)>,
    ) -> Changed {
        let mut inner = self.lock();
        let mut touched = Changed::new();
        for (role, group) in groups {
            // A client of such a name is nowhere, and nobody need remember it.
            if id.len() > CLIENT_ID_BYTES_MAX || group.len() > CLIENT_GROUP_BYTES_MAX {
                continue;
            }
            let is_in = inner.local.clients.get(id).is_some_and(|client| client.is_in(role, &group));
            if let Some(connection) =
                connection.filter(|link| is_in && inner.client_of.get(link).is_some_and(|c| c == id))
            {
                let leaving = inner.leaving.entry(id.to_owned()).or_default();
                leaving.retain(|(link, r, g)| *link != connection || *r != role || *g != group);
                leaving.push((connection, role, group.clone()));
                inner.unsay(connection, role, &group);
                if !inner.has_left(id, role, &group, Instant::now()) {
                    continue;
                }
            }
            touched.extend(inner.gone_from(id, role, group));
        }
        self.review(&inner, touched)
    }

    /// A connection is closed; with its last one, the client is gone.
    pub(crate) fn disconnected(&self, connection: ConnectionId) -> Changed {
        let mut inner = self.lock();
        inner.forget_said(connection);
        let Some(id) = inner.client_of.remove(&connection) else { return Changed::new() };
        let last = inner.connections.get_mut(&id).is_none_or(|links| {
            links.retain(|(link, _)| *link != connection);
            links.is_empty()
        });
        let mut touched = Changed::new();
        if last {
            touched.extend(inner.drop_local(&id));
        } else {
            // It may have been the last one over which the client was still in a group.
            let marked = inner.leaving.get(&id).cloned().unwrap_or_default();
            for (_, role, group) in marked {
                if inner.has_left(&id, role, &group, Instant::now()) {
                    touched.extend(inner.gone_from(&id, role, group));
                }
            }
            if let Some(leaving) = inner.leaving.get_mut(&id) {
                leaving.retain(|(link, ..)| *link != connection);
            }
            touched.extend(inner.say_again(&id, Instant::now()));
        }
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

    /// What a node lacks that has so much of the local part: one page of it, at least one change where there is any.
    pub(crate) fn news_since(&self, has: Have) -> News {
        let inner = self.lock();
        // To a node that is getting a copy nobody was named who was gone when it began.
        let told = has.version.max(has.copy);
        let begins = has.version == 0 || told > inner.version || told < inner.forgotten;
        let (since, copy) = if begins { (0, inner.version) } else { (has.version, has.copy) };
        let mut news = News {
            incarnation: inner.incarnation,
            since,
            copy,
            version: since,
            more: false,
            present: Vec::new(),
            gone: Vec::new(),
            left: Vec::new(),
        };
        let mut bytes = 0;
        for (&version, change) in inner.changes.range((Bound::Excluded(since), Bound::Unbounded)) {
            bytes += match change {
                Change::Present(id) => inner.stamps.get(id).map_or(0, |stamp| stamp.bytes),
                Change::Gone(_) | Change::Left(_) if version <= copy => continue,
                Change::Gone(id) => text_bytes(id),
                Change::Left(left) => RECORD_BYTES + text_bytes(&left.client) + text_bytes(&left.group),
            };
            if bytes > self.page_bytes && news.version > since {
                news.more = true;
                return news;
            }
            news.version = version;
            match change {
                Change::Present(id) => {
                    news.present.extend(inner.local.clients.get(id).map(|client| Client::clone(client)));
                }
                // It is there again, and told of by its last change.
                Change::Gone(id) if inner.local.clients.contains_key(id) => {}
                Change::Gone(id) => news.gone.push(id.clone()),
                Change::Left(left) => news.left.push(left.clone()),
            }
        }
        news.version = inner.version;
        news
    }

    /// Takes another node's news. Returns how far its part is here now.
    pub(crate) fn take_news(&self, from: NodeId, news: News, now: Instant) -> (Have, Changed) {
        let mut inner = self.lock();
        let mut touched = Changed::new();
        let begins = news.since == 0;
        let of_this_life =
            inner.remote.get(&from).is_some_and(|remote| remote.incarnation == news.incarnation);
        if !begins && !of_this_life {
            return (Have::default(), touched);
        }
        let remote = inner.remote.entry(from).or_insert_with(|| Remote {
            incarnation: news.incarnation,
            version: 0,
            heard: now,
            part: Part::default(),
            copying: None,
        });
        remote.heard = now;
        if of_this_life && !remote.takes(&news) {
            return (remote.has(), touched);
        }
        remote.incarnation = news.incarnation;
        remote.version = news.version;
        if begins {
            remote.copying = Some(Copying { began: news.copy, named: BTreeSet::new() });
        }
        // First, for `present` is how its clients are now.
        for left in &news.left {
            touched.extend(inner.leave_everywhere(left));
        }
        let Some(remote) = inner.remote.get_mut(&from) else { return (Have::default(), touched) };
        for id in &news.gone {
            touched.extend(remote.part.remove(id));
        }
        for client in news.present {
            if let Some(copying) = &mut remote.copying {
                copying.named.insert(client.id.clone());
            }
            touched.extend(remote.part.put(Arc::new(client)));
        }
        if !news.more
            && let Some(Copying { named, .. }) = remote.copying.take()
        {
            let part = &mut remote.part;
            let gone: Vec<String> = part.clients.keys().filter(|id| !named.contains(*id)).cloned().collect();
            for id in gone {
                touched.extend(part.remove(&id));
            }
        }
        (remote.has(), self.review(&inner, touched))
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
        self.lock().links_of(id).into_iter().map(|(connection, _)| connection).collect()
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

    /// The other nodes that have the client connected.
    pub(crate) fn nodes_of(&self, id: &str) -> Vec<NodeId> {
        let inner = self.lock();
        let having = inner.remote.iter().filter(|(_, remote)| remote.part.clients.contains_key(id));
        having.map(|(node, _)| *node).collect()
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

    /// The connections of a client and when each was last heard, the last one first.
    fn links_of(&self, id: &str) -> Vec<(ConnectionId, Instant)> {
        let mut links = self.connections.get(id).cloned().unwrap_or_default();
        links.sort_unstable_by_key(|(_, heard)| std::cmp::Reverse(*heard));
        links
    }

    /// Completes what a client has just said over a connection by the groups that only others of its connections name, unless
    /// they have been quiet for a while.
    fn add_what_others_say(&self, connection: ConnectionId, client: &mut Client, now: Instant) {
        let others = self.links_of(&client.id).into_iter().filter(|(link, heard)| {
            *link != connection && now.saturating_duration_since(*heard) <= CLIENT_LINK_QUIET
        });
        for said in others.filter_map(|(link, _)| self.said.get(&link)) {
            for (group, consumer) in &said.client.consumers {
                if !client.consumers.contains_key(group) {
                    client.consumers.insert(group.clone(), consumer.clone());
                }
            }
            client.producers.extend(said.client.producers.iter().cloned());
        }
    }

    /// What a client is when one of its connections is no more.
    fn say_again(&mut self, id: &str, now: Instant) -> Changed {
        let Some(known) = self.local.clients.get(id).cloned() else { return Changed::new() };
        let Some((last, _)) = self.links_of(id).first().copied() else { return Changed::new() };
        let Some(said) = self.said.get(&last) else { return Changed::new() };
        let mut client = Client::clone(&said.client);
        self.add_what_others_say(last, &mut client, now);
        client.keep_newer_subscriptions(&known);
        if *known == client {
            return Changed::new();
        }
        if let Some(stamp) = self.stamps.get_mut(id) {
            self.bytes -= stamp.bytes;
            stamp.bytes = client.bytes();
            self.bytes += stamp.bytes;
        }
        let touched = self.local.put(Arc::new(client));
        self.count_said(id);
        self.note_present(id);
        touched
    }

    fn say(&mut self, connection: ConnectionId, client: Client, fingerprint: i32) {
        self.forget_said(connection);
        let (client, bytes) = match self.local.clients.get(&client.id).filter(|known| ***known == client) {
            Some(known) => (known.clone(), 0),
            None => {
                let bytes = client.bytes();
                (Arc::new(client), bytes)
            }
        };
        self.bytes += bytes;
        self.said.insert(connection, Said { client, fingerprint, bytes });
    }

    fn forget_said(&mut self, connection: ConnectionId) {
        if let Some(said) = self.said.remove(&connection) {
            self.bytes -= said.bytes;
        }
    }

    /// A client is in a group no more, by what it says over this connection.
    fn unsay(&mut self, connection: ConnectionId, role: Role, group: &str) {
        if let Some(said) = self.said.get(&connection)
            && said.client.is_in(role, group)
        {
            let (mut client, fingerprint) = (Client::clone(&said.client), said.fingerprint);
            client.leave(role, group);
            self.say(connection, client, fingerprint);
        }
    }

    /// The client has changed: what its connections said may be shared no more.
    fn count_said(&mut self, id: &str) {
        let Some(known) = self.local.clients.get(id) else { return };
        for (link, _) in self.connections.get(id).into_iter().flatten() {
            if let Some(said) = self.said.get_mut(link) {
                self.bytes -= said.bytes;
                if said.client == *known {
                    said.client = known.clone();
                }
                said.bytes = if Arc::ptr_eq(&said.client, known) { 0 } else { said.client.bytes() };
                self.bytes += said.bytes;
            }
        }
    }

    /// Whether a client has left a group over every connection that it uses for it here, and over one at least. One over which
    /// it has sent no heartbeat for a while belongs to an address that it does not know any more.
    fn has_left(&self, id: &str, role: Role, group: &str, now: Instant) -> bool {
        let Some(leaving) = self.leaving.get(id) else { return false };
        let marks = || leaving.iter().filter(|(_, r, g)| *r == role && g == group);
        let is_over = |(link, heard): &(ConnectionId, Instant)| {
            now.saturating_duration_since(*heard) > CLIENT_LINK_QUIET
                || marks().any(|(l, ..)| l == link)
                || self.said.get(link).is_some_and(|said| !said.client.is_in(role, group))
        };
        marks().next().is_some() && self.connections.get(id).is_none_or(|links| links.iter().all(is_over))
    }

    fn gone_from(&mut self, id: &str, role: Role, group: String) -> Changed {
        if let Some(leaving) = self.leaving.get_mut(id) {
            leaving.retain(|(_, r, g)| *r != role || *g != group);
            if leaving.is_empty() {
                self.leaving.remove(id);
            }
        }
        let left = Left { client: id.to_owned(), group, role };
        let touched = self.leave_everywhere(&left);
        self.note_removal(Change::Left(left));
        touched
    }

    fn drop_local(&mut self, id: &str) -> Changed {
        self.leaving.remove(id);
        for (connection, _) in self.connections.remove(id).unwrap_or_default() {
            self.client_of.remove(&connection);
            self.forget_said(connection);
        }
        self.note_gone(id);
        self.local.remove(id)
    }

    /// A local client is new or has changed: its last change is the only one that is told.
    fn note_present(&mut self, id: &str) {
        self.version += 1;
        if let Some(stamp) = self.stamps.get_mut(id) {
            self.changes.remove(&stamp.version);
            stamp.version = self.version;
            self.changes.insert(self.version, Change::Present(id.to_owned()));
        }
    }

    fn note_gone(&mut self, id: &str) {
        if let Some(stamp) = self.stamps.remove(id) {
            self.changes.remove(&stamp.version);
            self.bytes -= stamp.bytes;
        }
        self.note_removal(Change::Gone(id.to_owned()));
    }

    fn note_removal(&mut self, removal: Change) {
        self.version += 1;
        self.changes.insert(self.version, removal);
        self.removals.push_back(self.version);
        if self.removals.len() > REGISTRY_REMOVALS
            && let Some(oldest) = self.removals.pop_front()
        {
            self.changes.remove(&oldest);
            self.forgotten = oldest;
        }
    }

    fn leave_everywhere(&mut self, left: &Left) -> Changed {
        let mut touched = Changed::new();
        for (link, _) in self.connections.get(&left.client).cloned().unwrap_or_default() {
            self.unsay(link, left.role, &left.group);
        }
        if let Some(changed) = self.local.leave(left) {
            touched.extend(changed);
            if self.local.clients.contains_key(&left.client) {
                self.note_present(&left.client);
            } else {
                self.note_gone(&left.client);
            }
        }
        for remote in self.remote.values_mut() {
            touched.extend(remote.part.leave(left).unwrap_or_default());
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

    /// Takes a page in, as the other node does; `has` becomes what it then has. Returns the groups that changed.
    fn take(to: &Clients, node: u64, news: News, has: &mut Have) -> Vec<String> {
        let (now, changed) = to.take_news(NodeId(node), news, Instant::now());
        *has = now;
        changed.into_iter().collect()
    }

    /// Tells `to` what `from` has, as two nodes do; returns the groups that changed.
    fn tell(from: &Clients, to: &Clients, node: u64, has: &mut Have) -> Vec<String> {
        let mut changed = BTreeSet::new();
        loop {
            let news = from.news_since(*has);
            let more = news.more;
            changed.extend(take(to, node, news, has));
            if !more {
                assert_eq!(*has, Have { version: from.version(), copy: 0 });
                return changed.into_iter().collect();
            }
        }
    }

    fn leave(clients: &Clients, id: &str, role: Role, group: &str) -> Vec<String> {
        clients.leave(id, None, [(role, group.to_owned())].into_iter()).into_iter().collect()
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
    fn of_two_processes_with_one_id_one_may_leave() {
        let clients = Clients::new(1, 10);
        heard(&clients, 1, client("a", &["g"], 7));
        heard(&clients, 2, client("a", &["g"], 5));
        let version = || clients.consumer_group("g").unwrap().subscriptions["T"].sub_version;
        assert_eq!(version(), 7, "a version never falls: the pulls of both are served");
        let leave = |link| clients.leave("a", Some(link), [(Role::Consumer, "g".to_owned())].into_iter());
        assert!(leave(1).is_empty());
        assert_eq!(members(&clients, "g"), ["a"], "the other process is there");
        // It comes back and leaves again; then the other one is cut off.
        assert!(heard(&clients, 1, client("a", &["g"], 8)).is_empty() || version() == 8);
        assert!(leave(1).is_empty());
        assert_eq!(clients.disconnected(2).into_iter().collect::<Vec<_>>(), ["g"]);
        assert!(members(&clients, "g").is_empty());
        // Over a connection that never spoke for the client, it counts at once.
        heard(&clients, 3, client("b", &["g"], 1));
        assert_eq!(leave_over(&clients, 9, "b"), ["g"]);
    }

    #[test]
    fn two_processes_with_one_id_are_in_the_groups_of_both() {
        let clients = Clients::new(1, 10);
        heard(&clients, 1, client("a", &["g"], 1));
        assert_eq!(heard(&clients, 2, client("a", &["h"], 1)), ["h"], "nothing becomes of g");
        assert!(heard(&clients, 1, client("a", &["g"], 1)).is_empty());
        assert_eq!(
            (members(&clients, "g"), members(&clients, "h")),
            (vec!["a".to_owned()], vec!["a".to_owned()])
        );
        // The one leaves its group: the other has never been in it.
        assert_eq!(leave_over(&clients, 1, "a"), ["g"]);
        assert!(heard(&clients, 2, client("a", &["h"], 1)).is_empty());
        assert_eq!((members(&clients, "g").len(), members(&clients, "h").len()), (0, 1));
        // It comes back, and its connection breaks.
        assert_eq!(heard(&clients, 1, client("a", &["g", "i"], 1)), ["g", "i"]);
        assert_eq!(clients.disconnected(1).into_iter().collect::<Vec<_>>(), ["g", "i"]);
        assert_eq!((members(&clients, "g").len(), members(&clients, "h").len()), (0, 1));
        assert_eq!(clients.disconnected(2).into_iter().collect::<Vec<_>>(), ["h"]);
        assert_eq!(clients.lock().bytes, 0, "all that was counted is given back");
        assert!(clients.lock().said.is_empty());
    }

    fn leave_over(clients: &Clients, link: ConnectionId, id: &str) -> Vec<String> {
        clients.leave(id, Some(link), [(Role::Consumer, "g".to_owned())].into_iter()).into_iter().collect()
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
        let refused = |client| clients.heard(2, client, 0, false, Instant::now()).unwrap_err().to_string();
        assert_eq!(refused(client("b", &[], 1)), "1 clients are connected to this node; no more are taken");
        heard(&clients, 2, client("a", &["g"], 1));

        let mut clients = Clients::new(1, 10);
        let refused = |client| clients.heard(1, client, 0, false, Instant::now()).unwrap_err().to_string();
        assert_eq!(
            refused(client(&"x".repeat(CLIENT_ID_BYTES_MAX + 1), &[], 1)),
            "a client may have 1024 bytes in its id, this one has 1025"
        );
        let names: Vec<String> = (0..CLIENT_GROUPS_MAX).map(|n| format!("g{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(refused(client("a", &names, 1)), "a client may have 1024 groups, this one has 1025");
        assert!(refused(client("a", &[&"g".repeat(256)], 1)).contains("255 bytes in the name of a group"));
        let subscribed = |count: usize, text: &str| {
            let mut client = client("a", &["g"], 1);
            let data = SubscriptionData { sub_string: text.to_owned(), ..SubscriptionData::default() };
            let all = (0..count).map(|n| (format!("T{n}"), data.clone())).collect();
            client.consumers.get_mut("g").unwrap().subscriptions = all;
            client
        };
        assert!(
            refused(subscribed(CLIENT_SUBSCRIPTIONS_MAX + 1, "*"))
                .contains("4096 subscriptions, this one has")
        );
        let long = "x".repeat(CLIENT_BYTES_MAX);
        assert!(refused(subscribed(1, &long)).contains("1048576 bytes of groups and subscriptions"));
        assert!(members(&clients, "g").is_empty());

        // All of them together. Who says less, or is gone, leaves room.
        clients.max_bytes = 2 * subscribed(10, "*").bytes();
        heard(&clients, 1, subscribed(10, "*"));
        heard(&clients, 2, Client { id: "b".into(), ..subscribed(10, "*") });
        let more = || clients.heard(3, client("c", &["g"], 1), 0, false, Instant::now());
        assert_eq!(more(), Err(Excess::Registry { max: clients.max_bytes }));
        heard(&clients, 2, Client { id: "b".into(), ..subscribed(2, "*") });
        assert!(more().is_ok());
        clients.disconnected(1);
        heard(&clients, 2, Client { id: "b".into(), ..subscribed(10, "*") });
        assert_eq!(members(&clients, "g"), ["b", "c"]);
        for connection in [2, 3] {
            clients.disconnected(connection);
        }
        assert_eq!(clients.lock().bytes, 0);
    }

    #[test]
    fn a_client_is_counted_with_its_json() {
        let odd = "\u{1}\"\\ü".repeat(9);
        let mut strange = client(&odd, &[&odd, "g"], i64::MIN);
        strange.version = i32::MIN;
        for consumer in strange.consumers.values_mut() {
            let tags = [odd.clone(), String::new(), "a".into()];
            let data = SubscriptionData {
                tags_set: tags.into(),
                code_set: (i32::MIN..i32::MIN + 50).collect(),
                sub_string: odd.clone(),
                ..SubscriptionData::default()
            };
            consumer.consume_from_where = ConsumeFromWhere::LastOffsetAndFromMinWhenBootFirst;
            consumer.subscriptions = BTreeMap::from([(odd.clone(), data.clone()), (String::new(), data)]);
        }
        for client in [strange, client("", &[""], 1)] {
            let json = serde_json::to_vec(&client).unwrap().len();
            assert!(json <= client.bytes(), "{json} and {}", client.bytes());
        }
    }

    /// A full heartbeat is asked for until one comes.
    #[test]
    fn subscriptions_are_asked_for_until_they_are_here() {
        let clients = Clients::new(1, 10);
        let short = || {
            let mut client = client("a", &["g"], 1);
            client.consumers.get_mut("g").unwrap().subscriptions.clear();
            clients.heard(1, client, 7, true, Instant::now()).unwrap().needs_subscriptions
        };
        assert!(short() && short());
        clients.heard(1, client("a", &["g"], 1), 7, false, Instant::now()).unwrap();
        assert!(!short());
        leave(&clients, "a", Role::Consumer, "g");
        assert!(short() && short());
    }

    #[test]
    fn roles_are_left_apart() {
        let (one, two) = (Clients::new(11, 10), Clients::new(22, 10));
        let (mut has, mut back) = (Have::default(), Have::default());
        for (clients, connection) in [(&one, 1), (&two, 2)] {
            heard(clients, connection, client("a", &["p"], 1));
        }
        tell(&one, &two, 1, &mut has);
        tell(&two, &one, 2, &mut back);
        assert!(leave(&one, "a", Role::Producer, "p").is_empty(), "no consumer has anything to share anew");
        tell(&one, &two, 1, &mut has);
        for clients in [&one, &two] {
            assert!(clients.producers("p").is_empty());
            assert_eq!(members(clients, "p"), ["a"]);
        }
        heard(&one, 1, client("a", &["p"], 1));
        assert_eq!(leave(&one, "a", Role::Consumer, "p"), ["p"]);
        tell(&one, &two, 1, &mut has);
        for clients in [&one, &two] {
            assert_eq!(clients.producers("p").len(), 1);
            assert!(members(clients, "p").is_empty());
        }
    }

    #[test]
    fn who_leaves_and_comes_back_is_a_member() {
        let (one, two) = (Clients::new(11, 10), Clients::new(22, 10));
        let mut has = Have::default();
        heard(&one, 1, client("a", &["g", "h"], 1));
        tell(&one, &two, 1, &mut has);
        // Both before the next news.
        leave(&one, "a", Role::Consumer, "g");
        heard(&one, 1, client("a", &["g", "h"], 1));
        assert!(tell(&one, &two, 1, &mut has).is_empty());
        assert_eq!(members(&two, "g"), ["a"]);
        // The same with all that it had.
        leave(&one, "a", Role::Consumer, "g");
        leave(&one, "a", Role::Consumer, "h");
        leave(&one, "a", Role::Producer, "p");
        heard(&one, 1, client("a", &["g"], 1));
        assert_eq!(tell(&one, &two, 1, &mut has), ["h"]);
        assert_eq!((members(&two, "g"), two.producers("p").len()), (vec!["a".to_owned()], 1));
    }

    #[test]
    fn nodes_tell_each_other_what_changed() {
        let (one, two) = (Clients::new(11, 10), Clients::new(22, 10));
        let (mut has, mut back) = (Have::default(), Have::default());
        heard(&one, 1, client("a", &["g"], 1));
        heard(&one, 2, client("b", &["g", "h"], 1));
        assert_eq!(tell(&one, &two, 1, &mut has), ["g", "h"]);
        assert_eq!(members(&two, "g"), ["a", "b"]);
        assert_eq!(two.nodes_of("a"), [NodeId(1)]);
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
        leave(&two, "b", Role::Consumer, "g");
        assert_eq!(tell(&two, &one, 2, &mut back), ["g"]);
        assert!(members(&one, "g").is_empty());
        assert_eq!(members(&one, "h"), ["b"]);
        tell(&one, &two, 1, &mut has);
        assert!(members(&two, "g").is_empty(), "it does not come back");
    }

    #[test]
    fn a_node_that_restarts_or_falls_silent() {
        let (one, two) = (Clients::new(11, 10), Clients::new(22, 10));
        let mut has = Have::default();
        heard(&one, 1, client("a", &["g"], 1));
        tell(&one, &two, 1, &mut has);
        // Restarted: it knows others, and what it says replaces what was known.
        let one = Clients::new(12, 10);
        heard(&one, 1, client("b", &["g"], 1));
        take(&two, 1, one.news_since(has), &mut has);
        assert_eq!(has, Have::default(), "a difference to what another life said does not fit");
        assert_eq!(tell(&one, &two, 1, &mut has), ["g"]);
        assert_eq!(members(&two, "g"), ["b"]);
        let later = Instant::now() + REGISTRY_SILENT + Duration::from_millis(1);
        assert_eq!(two.forget_silent(later).len(), 1);
        assert!(members(&two, "g").is_empty());
        take(&two, 1, one.news_since(has), &mut has);
        assert_eq!(has, Have::default(), "everything is wanted again");
    }

    #[test]
    fn who_was_behind_too_far_gets_everything() {
        let (one, two) = (Clients::new(11, 10), Clients::new(22, 10));
        let mut has = Have::default();
        heard(&one, 1, client("stays", &["g"], 1));
        heard(&one, 2, client("goes", &["g"], 1));
        tell(&one, &two, 1, &mut has);
        one.disconnected(2);
        for n in 0..REGISTRY_REMOVALS as u64 {
            heard(&one, 100 + n, client("passes", &["g"], 1));
            one.disconnected(100 + n);
        }
        assert_eq!(one.news_since(has).since, 0);
        assert!(one.news_since(Have { version: one.version(), copy: 0 }).since > 0);
        assert_eq!(tell(&one, &two, 1, &mut has), ["g"]);
        assert_eq!(members(&two, "g"), ["stays"]);
    }

    /// Twenty clients, a..t, on a node whose pages hold three.
    fn paged() -> Clients {
        let mut clients = Clients::new(11, 100);
        clients.page_bytes = client("a", &["g"], 1).bytes() * 7 / 2;
        for (n, id) in ('a'..='t').enumerate() {
            heard(&clients, n as u64, client(&id.to_string(), &["g"], 1));
        }
        clients
    }

    #[test]
    fn a_copy_comes_in_pages() {
        let (one, two) = (paged(), Clients::new(22, 10));
        let mut has = Have::default();
        let mut pages = 0;
        loop {
            let news = one.news_since(has);
            let more = news.more;
            assert!(news.present.len() <= 3);
            take(&two, 1, news, &mut has);
            pages += 1;
            if !more {
                break;
            }
        }
        assert_eq!((pages, members(&two, "g").len()), (7, 20));
        // A difference comes in pages as well.
        for n in 0..20 {
            let id = char::from(b'a' + n).to_string();
            heard(&one, n.into(), client(&id, &["g", "h"], 1));
        }
        one.disconnected(3);
        let first = one.news_since(has);
        assert!(first.more && first.since > 0 && first.copy == 0);
        assert_eq!(tell(&one, &two, 1, &mut has), ["g", "h"]);
        assert_eq!((members(&two, "g").len(), members(&two, "h").len()), (19, 19));
        // A client that alone is more than a page is a page.
        let names: Vec<String> = (0..50).map(|n| format!("g{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        heard(&one, 77, client("large", &names, 1));
        tell(&one, &two, 1, &mut has);
        assert_eq!(members(&two, "g49"), ["large"]);
    }

    #[test]
    fn a_copy_drops_nobody_before_its_end_and_all_others_then() {
        let two = Clients::new(22, 10);
        let mut has = Have::default();
        let before = Clients::new(10, 10);
        heard(&before, 1, client("t", &["g"], 1));
        heard(&before, 2, client("x", &["g"], 1));
        tell(&before, &two, 1, &mut has);
        // Another life of the node: `t` is in its last page, `x` in none.
        let one = paged();
        take(&two, 1, one.news_since(has), &mut has);
        take(&two, 1, one.news_since(has), &mut has);
        assert_eq!(members(&two, "g"), ["a", "b", "c", "t", "x"]);
        // Meanwhile one that was named goes, one is new, and a late page comes again.
        let late = one.news_since(Have::default());
        one.disconnected(0);
        heard(&one, 99, client("new", &["g"], 1));
        take(&two, 1, one.news_since(has), &mut has);
        let ahead = has;
        take(&two, 1, late, &mut has);
        assert_eq!(has, ahead, "it brings nothing");
        tell(&one, &two, 1, &mut has);
        let all = members(&two, "g");
        assert_eq!(all.len(), 20);
        assert!(!all.contains(&"a".to_owned()) && all.contains(&"new".to_owned()));
        assert!(all.contains(&"t".to_owned()) && !all.contains(&"x".to_owned()));
    }

    /// A starting node asks for everything and is told it at the same time.
    #[test]
    fn a_copy_may_come_by_two_ways_at_once() {
        let (one, two) = (paged(), Clients::new(22, 10));
        let (mut asked, mut told) = (Have::default(), Have::default());
        for n in 0..20 {
            take(&two, 1, one.news_since(asked), &mut asked);
            one.disconnected(n);
            take(&two, 1, one.news_since(told), &mut told);
            heard(&one, 100 + n, client(&format!("z{n:02}"), &["g"], 1));
        }
        tell(&one, &two, 1, &mut told);
        assert_eq!(members(&two, "g"), members(&one, "g"));
        assert_eq!(members(&two, "g").len(), 20);
    }
}
