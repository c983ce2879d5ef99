//! Telling the nameservers who this node is for each group (protocol.md 2.3 to 2.5).
//!
//! One task for each (group, nameserver): so at most one registration is in flight there, and it says the newest state
//! when it is sent. brokerId 0 is the leader, with the Raft term in `DataVersion.stateVersion`, by which nameservers
//! refuse older leaders; followers have their place among the voters, from 1. A node that knows no leader says nothing.
//! Each group has connections of its own: a nameserver forgets who registered over a connection when it closes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use net::{Client, ClientConfig, Connection};
use wire::{
    Body, RegisterBrokerBody, RegisterBrokerRequest, RemotingCommand, RequestCode,
    TopicConfigSerializeWrapper, UnregisterBrokerRequest, body_crc,
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

async fn keep_registered(
    hosted: Arc<Hosted>,
    client: Client,
    nameserver: String,
    at: usize,
    done: Arc<std::sync::Mutex<Vec<u64>>>,
) {
    let mut changes = hosted.registration.subscribe();
    let mut next: Option<Instant> = None;
    let mut told = Told::default();
    let mut reachable = true;
    // Over which the nameserver heard of this node: when it ends, the nameserver has forgotten or is gone.
    let mut heard_over: Option<Arc<Connection>> = None;
    loop {
        let timer = next.map_or(REGISTER_INTERVAL, |next| next.saturating_duration_since(Instant::now()));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(timer) => {}
            () = ended(heard_over.as_deref()) => heard_over = None,
        }
        // Changes come in groups: a new leader's role, its system topics.
        tokio::time::sleep(REGISTER_COLLECT).await;
        let change = *changes.borrow_and_update();
        let Some(standing) = Standing::of(&hosted) else {
            next = None;
            continue;
        };
        let first = told.0 != Some((standing.term, standing.broker_id));
        let result = register(&hosted, &client, &nameserver, standing, first).await;
        match &result {
            Ok(()) => {
                if !reachable {
                    tracing::info!(group = hosted.name(), nameserver, "registered again");
                }
                told.0 = Some((standing.term, standing.broker_id));
                heard_over = client.connection(&nameserver, REGISTER_TIMEOUT).await.ok();
                next = Some(Instant::now() + REGISTER_INTERVAL);
                note_done(&hosted, &done, at, change);
            }
            Err(reason) => {
                if reachable {
                    tracing::warn!(group = hosted.name(), nameserver, reason, "not registered");
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

/// The term and id that a nameserver has heard last.
#[derive(Default)]
struct Told(Option<(u64, u64)>);

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

/// Registers. After a change of role the first word goes out whatever the number of topics: a group with very many
/// tells its address first, and all its topics right after (clients.md 13).
async fn register(
    hosted: &Arc<Hosted>,
    client: &Client,
    nameserver: &str,
    standing: Standing,
    first: bool,
) -> Result<(), String> {
    if first
        && hosted.state.topics_version().counter > 0
        && hosted.state.topics().len() > REGISTER_COMPRESS_TOPICS
    {
        let brief = request(hosted, standing, true);
        call(client, nameserver, brief).await?;
    }
    let builder = hosted.clone();
    // Compressing the topics of a large group takes a while.
    let full = tokio::task::spawn_blocking(move || request(&builder, standing, false));
    call(client, nameserver, full.await.map_err(|error| error.to_string())?).await
}

async fn call(client: &Client, nameserver: &str, request: RemotingCommand) -> Result<(), String> {
    match client.call(nameserver, request, REGISTER_TIMEOUT).await {
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
    if brief {
        version.counter = 0;
    }
    let own = |name: &str| !brief || name == hosted.names.broker || name == hosted.names.cluster;
    // As RocketMQ: what the broker does not allow, no topic of its does.
    let permission = hosted.config.permission as i32;
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

/// A planned stop: the nameservers forget this member of the group.
pub(crate) async fn unregister(hosted: &Hosted) {
    let broker_id = hosted.broker_id();
    let header = UnregisterBrokerRequest {
        broker_name: hosted.name().to_owned(),
        broker_addr: address(hosted, broker_id),
        cluster_name: hosted.names.cluster.clone(),
        broker_id: broker_id as i64,
    };
    let calls = hosted.node.config.nameservers.iter().map(|nameserver| {
        let request = RemotingCommand::request(RequestCode::UNREGISTER_BROKER).with_header(&header);
        hosted.node.outside.call(nameserver, request, Duration::from_secs(1))
    });
    // A nameserver that does not answer finds out by itself.
    futures::future::join_all(calls).await;
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
}
