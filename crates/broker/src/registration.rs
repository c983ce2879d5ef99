//! Telling the nameservers who this node is for each group (protocol.md 2.3 to 2.5).
//!
//! One task for each (group, nameserver): so at most one registration is in flight there, and it says the newest state
//! when it is sent. brokerId 0 is the leader, with the Raft term in `DataVersion.stateVersion`, by which nameservers
//! refuse older leaders; followers have their place among the voters, from 1. A node that knows no leader says nothing.
//! Each group has connections of its own: a nameserver forgets who registered over a connection when it closes.
//!
//! A nameserver knows a broker by its address. This node's own address (`advertise`) is nobody else's, so it is taken
//! off when it does not stand for this node any more: when a leader is known by the address that all leaders share
//! (`advertise_leader`), and at a planned stop. The shared address is never taken off: its next owner registers it over,
//! and Apache's nameservers would take it from that one too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use net::{Client, ClientConfig, Connection};
use wire::{
    Body, BrokerMemberGroup, GetBrokerMemberGroupRequest, GetBrokerMemberGroupResponseBody,
    RegisterBrokerBody, RegisterBrokerRequest, RemotingCommand, RequestCode, TopicConfigSerializeWrapper,
    UnregisterBrokerRequest, body_crc,
};

use crate::hosted::{Hosted, lock};
use crate::limits::{
    REGISTER_COLLECT, REGISTER_COMPRESS_TOPICS, REGISTER_INTERVAL, REGISTER_RETRY, REGISTER_TIMEOUT,
};

/// Starts the tasks of a group; they end with the node.
pub(crate) fn start(hosted: &Arc<Hosted>) {
    let client = Client::new(ClientConfig::default());
    let nameservers = hosted.node.config.nameservers.clone();
    let done = Arc::new(std::sync::Mutex::new(vec![0; nameservers.len()]));
    for (at, nameserver) in nameservers.into_iter().enumerate() {
        let (hosted, client, done) = (hosted.clone(), client.clone(), done.clone());
        hosted.node.clone().spawn(keep_registered(hosted, client, nameserver, at, done));
    }
}

impl Hosted {
    /// Tells the nameservers of a change, and waits for them, though not long: a tool that created a topic asks for
    /// its route next.
    pub(crate) async fn register_now(&self) {
        let change = self.note_registration();
        let mut registered = self.registered.subscribe();
        let all = registered.wait_for(|done| *done >= change);
        if tokio::time::timeout(Duration::from_millis(500), all).await.is_err() {
            tracing::debug!(group = self.name(), "not every nameserver has answered yet");
        }
    }

    /// The same, where somebody waits for an answer until `deadline`.
    pub(crate) async fn register_by(&self, deadline: Instant) {
        // They are told all the same.
        let _ = tokio::time::timeout_at(deadline.into(), self.register_now()).await;
    }

    /// Has the nameservers told of the newest state, soon.
    pub(crate) fn note_registration(&self) -> u64 {
        let mut change = 0;
        self.registration.send_modify(|count| {
            *count += 1;
            change = *count;
        });
        if self.node.config.nameservers.is_empty() {
            self.registered.send_replace(change);
        }
        change
    }
}

/// From this number of a change on, the node says goodbye instead of registering. Changes are counted from 1.
const GOODBYE: u64 = 1 << 63;
/// A planned stop waits so long for the nameservers; one that does not answer finds out by itself.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);

async fn keep_registered(
    hosted: Arc<Hosted>,
    client: Client,
    nameserver: String,
    at: usize,
    done: Arc<std::sync::Mutex<Vec<u64>>>,
) {
    let mut changes = hosted.registration.subscribe();
    // A first look: what changed before the line above is no change.
    let mut next = Some(Instant::now());
    let mut reachable = true;
    let mut entry =
        Entry { hosted: hosted.clone(), client, nameserver, connection: None, told: None, own_id: None };
    loop {
        let timer = next.map_or(REGISTER_INTERVAL, |next| next.saturating_duration_since(Instant::now()));
        let mut nothing_new = false;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(timer) => nothing_new = true,
            () = ended(entry.connection.as_deref()) => entry.connection = None,
        }
        // Changes come in groups: a new leader's role, its system topics.
        tokio::time::sleep(REGISTER_COLLECT).await;
        let change = *changes.borrow_and_update();
        if change >= GOODBYE {
            entry.say_goodbye().await;
            note_done(&hosted, &done, at, change);
            return;
        }
        let Some(standing) = Standing::of(&hosted) else {
            next = None;
            continue;
        };
        if nothing_new && reachable && entry.told == Some(standing) {
            entry.look_for_doubles(standing.broker_id).await;
        }
        let result = entry.register(standing).await;
        match &result {
            Ok(()) => {
                if !reachable {
                    tracing::info!(group = hosted.name(), nameserver = entry.nameserver, "registered again");
                }
                next = Some(Instant::now() + REGISTER_INTERVAL);
                note_done(&hosted, &done, at, change);
            }
            Err(reason) => {
                if reachable {
                    tracing::warn!(
                        group = hosted.name(),
                        nameserver = entry.nameserver,
                        reason,
                        "not registered"
                    );
                }
                next = Some(Instant::now() + REGISTER_RETRY);
                // Nobody waits for a nameserver that is not there.
                note_done(&hosted, &done, at, change);
            }
        }
        reachable = result.is_ok();
    }
}

/// Returns when the connection has ended; never where there is none.
async fn ended(connection: Option<&Connection>) {
    match connection {
        Some(connection) => {
            connection.ended().await;
        }
        None => std::future::pending().await,
    }
}

/// This node as a member of its group at one nameserver.
struct Entry {
    hosted: Arc<Hosted>,
    client: Client,
    nameserver: String,
    /// Over which the nameserver heard of this node: when it ends, the nameserver has forgotten or is gone.
    connection: Option<Arc<Connection>>,
    /// What the nameserver has heard last.
    told: Option<Standing>,
    /// The id under which this node's own address is there.
    own_id: Option<u64>,
}

impl Entry {
    /// Registers. After a change of role the first word goes out whatever the number of topics: a group with very many
    /// tells its address first, and all its topics right after (clients.md 13).
    async fn register(&mut self, standing: Standing) -> Result<(), String> {
        let hosted = &self.hosted;
        let connection = self.client.connection(&self.nameserver, REGISTER_TIMEOUT).await;
        let connection = connection.map_err(|error| error.to_string())?;
        if self.told != Some(standing)
            && hosted.state.topics_version().counter > 0
            && hosted.state.topics().len() > REGISTER_COMPRESS_TOPICS
        {
            call(&connection, request(hosted, standing, true), REGISTER_TIMEOUT).await?;
        }
        let builder = hosted.clone();
        // Compressing the topics of a large group takes a while.
        let full = tokio::task::spawn_blocking(move || request(&builder, standing, false));
        let full = full.await.map_err(|error| error.to_string())?;
        call(&connection, full, REGISTER_TIMEOUT).await?;
        self.told = Some(standing);
        if address(hosted, standing.broker_id) == hosted.config.advertised() {
            self.own_id = Some(standing.broker_id);
        } else if let Some(id) = self.own_id {
            // After the new address: clients must find the leader under one of them. Tried again with the next
            // registration where it fails.
            let taken_off = call(&connection, goodbye(hosted, id), REGISTER_TIMEOUT).await;
            self.own_id = taken_off.is_err().then_some(id);
        }
        // Over which it was registered: another one may be open by the time that this one has ended.
        self.connection = Some(connection);
        Ok(())
    }

    /// Asks who has this node's address, when nothing has been registered for it since the last time as far as this node
    /// knows. A nameserver that keeps no groups of members (before 5.0) refuses the question.
    async fn look_for_doubles(&self, broker_id: u64) {
        let Some(connection) = &self.connection else { return };
        let header = GetBrokerMemberGroupRequest {
            cluster_name: self.hosted.names.cluster.clone(),
            broker_name: self.hosted.name().to_owned(),
        };
        let question = RemotingCommand::request(RequestCode::GET_BROKER_MEMBER_GROUP).with_header(&header);
        let Ok(answer) = connection.request(question, REGISTER_TIMEOUT).await else { return };
        let Ok(body) = GetBrokerMemberGroupResponseBody::decode(&answer.body) else { return };
        let address = address(&self.hosted, broker_id);
        if let Some(id) = double(&body.broker_member_group, &address, broker_id) {
            tracing::error!(
                group = self.hosted.name(),
                nameserver = self.nameserver,
                address,
                id,
                registered_as = broker_id,
                "another node registers this node's address, so that they displace each other: advertise must \
                 differ on every node of a group; an address that all share is advertise_leader"
            );
        }
    }

    /// A planned stop: the nameserver forgets this member of the group, unless it is known by the shared address only.
    async fn say_goodbye(&self) {
        if let (Some(connection), Some(id)) = (&self.connection, self.own_id) {
            // It finds out by itself where this fails: the connection ends.
            let _ = call(connection, goodbye(&self.hosted, id), GOODBYE_WAIT).await;
        }
    }
}

/// The id other than its own that an address has in a group.
fn double(group: &BrokerMemberGroup, address: &str, broker_id: u64) -> Option<i64> {
    let other = |(id, member): &(&i64, &String)| **id != broker_id as i64 && **member == address;
    group.broker_addrs.iter().find(other).map(|(id, _)| *id)
}

/// What this node is in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    term: u64,
    broker_id: u64,
}

impl Standing {
    fn of(hosted: &Hosted) -> Option<Standing> {
        let role = hosted.serving()?.group.role();
        let leader = role.leader?;
        if leader != hosted.node.id {
            return Some(Standing { term: role.term, broker_id: hosted.follower_id() });
        }
        // A leader that cannot answer yet is not told of.
        hosted.leads().then_some(Standing { term: role.term, broker_id: 0 })
    }
}

fn note_done(hosted: &Hosted, done: &std::sync::Mutex<Vec<u64>>, at: usize, change: u64) {
    let all = {
        let mut done = lock(done);
        if let Some(mine) = done.get_mut(at) {
            *mine = change;
        }
        done.iter().copied().min().unwrap_or(change)
    };
    hosted.registered.send_if_modified(|known| {
        let grown = all > *known;
        *known = all.max(*known);
        grown
    });
}

async fn call(connection: &Connection, request: RemotingCommand, timeout: Duration) -> Result<(), String> {
    match connection.request(request, timeout).await {
        Ok(response) if response.code == 0 => Ok(()),
        Ok(response) => Err(format!("code {}: {}", response.code, response.remark.unwrap_or_default())),
        Err(error) => Err(error.to_string()),
    }
}

/// The registration as it is now. A brief one names the broker's own topics only and claims an older table, so that
/// the full one is read.
fn request(hosted: &Hosted, standing: Standing, brief: bool) -> RemotingCommand {
    let (topics, version) = hosted.state.topics_with_version();
    let mut version = version.to_wire(standing.term);
    // A nameserver takes topics whose version differs from the one it has.
    version.timestamp = version.timestamp.wrapping_add(hosted.settings.changes() as i64);
    if brief {
        version.counter = 0;
    }
    let own = |name: &str| !brief || name == hosted.names.broker || name == hosted.names.cluster;
    // As RocketMQ: what the broker does not allow, no topic of its does.
    let permission = hosted.settings.permission() as i32;
    let table: BTreeMap<_, _> = topics
        .iter()
        .filter(|topic| own(&topic.name))
        .map(|topic| {
            let mut config = topic.config.to_wire();
            config.perm &= permission | wire::perm::INHERIT;
            (topic.name.to_string(), config)
        })
        .collect();
    let compressed = table.len() > REGISTER_COMPRESS_TOPICS;
    let body = RegisterBrokerBody {
        filter_server_list: Vec::new(),
        topic_config_serialize_wrapper: TopicConfigSerializeWrapper {
            data_version: version,
            topic_config_table: table,
            ..TopicConfigSerializeWrapper::default()
        },
    };
    let body = if compressed { body.encode_compressed() } else { body.encode() };
    let address = address(hosted, standing.broker_id);
    let header = RegisterBrokerRequest {
        broker_name: hosted.name().to_owned(),
        ha_server_addr: ha_address(&address),
        broker_addr: address,
        cluster_name: hosted.names.cluster.clone(),
        broker_id: standing.broker_id as i64,
        compressed,
        body_crc32: body_crc(&body) as i32,
        ..RegisterBrokerRequest::default()
    };
    RemotingCommand::request(RequestCode::REGISTER_BROKER).with_header(&header).with_body(body)
}

fn address(hosted: &Hosted, broker_id: u64) -> String {
    if broker_id == 0 { hosted.config.advertised_as_leader() } else { hosted.config.advertised() }
}

/// Any text serves: only Apache's brokers use it. RocketMQ's rule is port + 1.
fn ha_address(advertised: &str) -> String {
    let next = advertised.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    next.map_or_else(|| advertised.to_owned(), |(host, port)| format!("{host}:{}", port.saturating_add(1)))
}

/// Takes this node's own address off.
fn goodbye(hosted: &Hosted, id: u64) -> RemotingCommand {
    RemotingCommand::request(RequestCode::UNREGISTER_BROKER).with_header(&UnregisterBrokerRequest {
        broker_name: hosted.name().to_owned(),
        broker_addr: hosted.config.advertised(),
        cluster_name: hosted.names.cluster.clone(),
        broker_id: id as i64,
    })
}

/// A planned stop: the nameservers forget this member of the group, and nothing is registered any more. The tasks do it,
/// each over its connection and after what it has under way, so that no registration follows.
pub(crate) async fn unregister(hosted: &Hosted) {
    hosted.registration.send_modify(|change| *change = GOODBYE.max(*change));
    if hosted.node.config.nameservers.is_empty() {
        return;
    }
    let mut registered = hosted.registered.subscribe();
    let all = registered.wait_for(|done| *done >= GOODBYE);
    let _ = tokio::time::timeout(GOODBYE_WAIT, all).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ha_address_is_one_above() {
        assert_eq!(ha_address("10.0.0.1:10911"), "10.0.0.1:10912");
        assert_eq!(ha_address("[::1]:10911"), "[::1]:10912");
        assert_eq!(ha_address("odd"), "odd");
    }

    #[test]
    fn an_address_has_one_id() {
        let group = |members: &[(i64, &str)]| BrokerMemberGroup {
            broker_addrs: members.iter().map(|(id, address)| (*id, (*address).to_owned())).collect(),
            ..BrokerMemberGroup::default()
        };
        assert_eq!(double(&group(&[(0, "a:1"), (2, "b:1")]), "b:1", 2), None);
        assert_eq!(double(&group(&[(0, "a:1")]), "b:1", 2), None, "forgotten");
        assert_eq!(double(&group(&[(0, "a:1"), (2, "b:1")]), "a:1", 2), Some(0));
        assert_eq!(double(&group(&[(2, "a:1")]), "a:1", 0), Some(2));
    }
}
