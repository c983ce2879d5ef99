//! The client registry among nodes: who is told what, when a silent node's clients vanish, and how a request reaches
//! a client that is connected elsewhere. The registry itself is clients.rs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use net::Connection;
use prost::Message;
use replica::{CallError, NodeId, Peers};
use wire::{ConsumerGroupRequest, FRAME_BYTES_MAX, RemotingCommand, RequestCode, ResponseCode, decode_frame};

use crate::clients::{Changed, ConnectionId, Have, News};
use crate::errors::Error;
use crate::forward::{EVERYTHING, NEWS, RELAY};
use crate::limits::{
    CLIENT_CALL, CLIENT_SCAN, REGISTRY_COLLECT, REGISTRY_FETCH, REGISTRY_PULSE, REGISTRY_SILENT,
};
use crate::service::Node;

#[derive(Clone, PartialEq, Message)]
struct RelayRequest {
    #[prost(string, tag = "1")]
    client_id: String,
    #[prost(bytes = "bytes", tag = "2")]
    frame: Bytes,
    /// 0: the request is one-way, no answer is waited for.
    #[prost(uint32, tag = "3")]
    timeout_ms: u32,
}

/// What became of a relayed request.
#[derive(Clone, PartialEq, Message)]
struct RelayReply {
    #[prost(oneof = "RelayOutcome", tags = "1, 2, 3")]
    outcome: Option<RelayOutcome>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum RelayOutcome {
    /// The client's answer; empty for a one-way request.
    #[prost(bytes = "bytes", tag = "1")]
    Answer(Bytes),
    /// It was not sent: the client is not connected here (any more).
    #[prost(string, tag = "2")]
    Absent(String),
    /// It was sent, and no answer came.
    #[prost(string, tag = "3")]
    Silent(String),
}

/// Why a client was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreached {
    /// The client has not seen the request.
    #[error("the client {0} is not connected to any node")]
    Absent(String),
    /// It may have seen it.
    #[error("the client does not answer: {0}")]
    Silent(String),
}

impl From<Unreached> for Error {
    fn from(why: Unreached) -> Error {
        let code = match why {
            Unreached::Absent(_) => ResponseCode::SYSTEM_ERROR,
            Unreached::Silent(_) => ResponseCode::CONSUME_MSG_TIMEOUT,
        };
        Error::refused(code, why.to_string())
    }
}

/// Starts what keeps the registry in step. The tasks end with the node.
pub(crate) fn start(node: &Arc<Node>, peers: &Peers) {
    for peer in peers.others() {
        let (node, peers) = (node.clone(), peers.clone());
        node.clone().spawn(tell(node, peers, peer));
    }
    node.spawn(fetch(node.clone(), peers.clone()));
    node.spawn(expire(node.clone()));
}

/// Tells one node the news, and once a second that there is none.
async fn tell(node: Arc<Node>, peers: Peers, peer: NodeId) {
    let mut changes = node.client_changes.subscribe();
    let mut has = Have::default();
    loop {
        changes.mark_unchanged();
        let news = node.clients.news_since(has);
        let expected = Have { version: news.version, copy: if news.more { news.copy } else { 0 } };
        let payload = serde_json::to_vec(&news).map(Bytes::from).unwrap_or_default();
        let reply = peers.call(peer, NEWS, payload, Instant::now() + REGISTRY_SILENT).await;
        // Who does not answer may have taken it or not, and says so when it is heard of again.
        let heard = reply.ok().and_then(|reply| Have::decode(reply).ok());
        has = heard.unwrap_or(has);
        if heard.is_some_and(|heard| news.more || heard != expected) {
            // The next page, or what it has lost: nothing is waited for.
            tokio::time::sleep(REGISTRY_COLLECT).await;
            continue;
        }
        tokio::select! {
            _ = changes.changed() => tokio::time::sleep(REGISTRY_COLLECT).await,
            () = tokio::time::sleep(REGISTRY_PULSE) => {}
        }
    }
}

/// Gets the other nodes' parts at the start: until then 38 would name too few.
async fn fetch(node: Arc<Node>, peers: Peers) {
    let until = Instant::now() + REGISTRY_FETCH;
    let asked = peers.others().map(|peer| {
        let (node, peers) = (node.clone(), peers.clone());
        async move {
            let mut has = Have::default();
            while Instant::now() < until {
                match peers.call(peer, EVERYTHING, has.encode_to_vec().into(), until).await {
                    Ok(page) => match take(&node, peer, &page) {
                        Some((now, true)) => has = now,
                        Some((_, false)) | None => return,
                    },
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }
    });
    futures::future::join_all(asked).await;
    node.registry_ready.send_replace(true);
}

/// Drops clients and nodes that fell silent.
async fn expire(node: Arc<Node>) {
    let mut scanned = Instant::now();
    loop {
        tokio::time::sleep(REGISTRY_PULSE / 2).await;
        let now = Instant::now();
        let mut changed = node.clients.forget_silent(now);
        if now - scanned >= CLIENT_SCAN {
            scanned = now;
            changed.extend(node.clients.forget_quiet(now));
        }
        node.clients_changed(changed);
    }
}

pub(crate) fn take_news(node: &Arc<Node>, from: NodeId, payload: &Bytes) -> Result<Bytes, String> {
    let (has, _) = take(node, from, payload).ok_or("unreadable news")?;
    Ok(has.encode_to_vec().into())
}

/// Takes a page of news. Returns how far the sender's part is here now, and whether the sender has more of it; `None`: it
/// cannot be read.
fn take(node: &Arc<Node>, from: NodeId, payload: &[u8]) -> Option<(Have, bool)> {
    let news: News = serde_json::from_slice(payload).ok()?;
    let more = news.more;
    let (has, changed) = node.clients.take_news(from, news, Instant::now());
    // Who left elsewhere has left here.
    node.clients_changed(changed);
    Some((has, more))
}

/// A page of this node's part, for a node that starts.
pub(crate) fn everything(node: &Arc<Node>, payload: Bytes) -> Result<Bytes, String> {
    let has = Have::decode(payload).map_err(|error| error.to_string())?;
    serde_json::to_vec(&node.clients.news_since(has)).map(Bytes::from).map_err(|error| error.to_string())
}

impl Node {
    /// The registry's local part may have changed: the other nodes hear of it, and so do consumers.
    pub(crate) fn clients_changed(&self, changed: Changed) {
        let version = self.clients.version();
        self.client_changes.send_if_modified(|known| std::mem::replace(known, version) != version);
        self.notify(changed);
    }

    /// Tells this node's members of the groups that they have to share their queues anew (40).
    pub(crate) fn notify(&self, changed: Changed) {
        for group in changed {
            if !self.wants_notices(&group) {
                continue;
            }
            let request = RemotingCommand::request(RequestCode::NOTIFY_CONSUMER_IDS_CHANGED)
                .with_header(&ConsumerGroupRequest { consumer_group: group.clone() });
            for connection in self.clients.local_members(&group) {
                if let Some(connection) = self.connection(connection) {
                    // A connection that has just ended is no member any more.
                    let _ = connection.send_oneway(request.clone());
                }
            }
        }
    }

    fn wants_notices(&self, group: &str) -> bool {
        let switched_off = |hosted: &Arc<crate::hosted::Hosted>| {
            hosted.state.group(group).is_some_and(|known| !known.config.notify_consumer_ids_changed_enable)
        };
        !self.groups().iter().any(switched_off)
    }

    /// Remembers a connection that has a client.
    pub(crate) fn remember(&self, connection: &Arc<Connection>) {
        crate::hosted::lock(&self.connections).entry(connection.id()).or_insert_with(|| connection.clone());
    }

    pub(crate) fn connection(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        crate::hosted::lock(&self.connections).get(&id).cloned()
    }

    /// A connection has ended.
    pub(crate) fn forget(&self, id: ConnectionId) {
        crate::hosted::lock(&self.connections).remove(&id);
        let changed = self.clients.disconnected(id);
        self.clients_changed(changed);
    }

    /// Asks a client something (307, 309, 326 …), wherever it is connected.
    pub(crate) async fn ask_client(
        &self,
        client_id: &str,
        request: RemotingCommand,
        timeout: Duration,
    ) -> Result<RemotingCommand, Unreached> {
        if let Some(answer) = self.ask_client_here(client_id, &request, timeout).await {
            return answer;
        }
        let frame = self.relay(client_id, request, timeout).await?;
        match decode_frame(&mut BytesMut::from(frame), FRAME_BYTES_MAX) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(Unreached::Silent("its answer is unreadable".into())),
        }
    }

    /// Tells a client something that has no answer (39, 40, 220), wherever it is connected.
    pub(crate) async fn tell_client(
        &self,
        client_id: &str,
        request: RemotingCommand,
    ) -> Result<(), Unreached> {
        if self.tell_client_here(client_id, &request) {
            return Ok(());
        }
        self.relay(client_id, request.oneway(), Duration::ZERO).await.map(|_| ())
    }

    /// Over the connections of this node, the last heard first; `None`: none of them took the request.
    async fn ask_client_here(
        &self,
        client_id: &str,
        request: &RemotingCommand,
        timeout: Duration,
    ) -> Option<Result<RemotingCommand, Unreached>> {
        for connection in self.connections_to(client_id) {
            match connection.request(request.clone(), timeout).await {
                Ok(answer) => return Some(Ok(answer)),
                Err(error) if error.is_not_sent() => {}
                Err(error) => return Some(Err(Unreached::Silent(error.to_string()))),
            }
        }
        None
    }

    fn tell_client_here(&self, client_id: &str, request: &RemotingCommand) -> bool {
        self.connections_to(client_id).any(|connection| connection.send_oneway(request.clone()).is_ok())
    }

    fn connections_to(&self, client_id: &str) -> impl Iterator<Item = Arc<Connection>> {
        let known = self.clients.connections_of(client_id).into_iter();
        known.filter_map(|id| self.connection(id)).filter(|connection| !connection.is_over())
    }

    /// Has another node send a request to a client of its own. Returns the frame of the answer.
    async fn relay(
        &self,
        client_id: &str,
        request: RemotingCommand,
        timeout: Duration,
    ) -> Result<Bytes, Unreached> {
        let absent = || Unreached::Absent(client_id.to_owned());
        let peers = self.peers().ok_or_else(absent)?;
        let mut frame = BytesMut::new();
        request.encode(&mut frame);
        let relay = RelayRequest {
            client_id: client_id.to_owned(),
            frame: frame.freeze(),
            timeout_ms: timeout.as_millis() as u32,
        };
        let payload = Bytes::from(relay.encode_to_vec());
        for node in self.clients.nodes_of(client_id) {
            let deadline = Instant::now() + timeout + RELAY_MARGIN;
            let reply = match peers.call(node, RELAY, payload.clone(), deadline).await {
                Ok(reply) => RelayReply::decode(reply).ok().and_then(|reply| reply.outcome),
                Err(CallError::NotSent { .. } | CallError::Refused { .. }) => continue,
                Err(error @ CallError::Unknown { .. }) => return Err(Unreached::Silent(error.to_string())),
            };
            match reply {
                Some(RelayOutcome::Answer(frame)) => return Ok(frame),
                Some(RelayOutcome::Absent(_)) => {}
                Some(RelayOutcome::Silent(why)) => return Err(Unreached::Silent(why)),
                None => return Err(Unreached::Silent(format!("node {node} says nothing readable"))),
            }
        }
        Err(absent())
    }
}

/// Beyond the time that the client has, for the way between the nodes.
const RELAY_MARGIN: Duration = Duration::from_millis(200);

/// Another node relays a request to a client that is connected here.
pub(crate) async fn relay_here(node: &Arc<Node>, payload: Bytes) -> Result<Bytes, String> {
    let relay = RelayRequest::decode(payload).map_err(|error| error.to_string())?;
    let request = match decode_frame(&mut BytesMut::from(relay.frame), FRAME_BYTES_MAX) {
        Ok(Some(request)) => request,
        Ok(None) | Err(_) => return Err("an unreadable request".into()),
    };
    let answer = if relay.timeout_ms == 0 {
        node.tell_client_here(&relay.client_id, &request).then(|| Ok(Bytes::new()))
    } else {
        let timeout = Duration::from_millis(relay.timeout_ms.into()).min(CLIENT_CALL * 10);
        let answer = node.ask_client_here(&relay.client_id, &request, timeout).await;
        answer.map(|answer| {
            answer.map(|answer| {
                let mut frame = BytesMut::new();
                answer.encode(&mut frame);
                frame.freeze()
            })
        })
    };
    let outcome = match answer {
        Some(Ok(frame)) => RelayOutcome::Answer(frame),
        Some(Err(why)) => RelayOutcome::Silent(why.to_string()),
        None => RelayOutcome::Absent(relay.client_id),
    };
    Ok(RelayReply { outcome: Some(outcome) }.encode_to_vec().into())
}
