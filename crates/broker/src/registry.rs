//! The client registry among nodes: who is told what, when a silent node's clients vanish, and how a request reaches
//! a client that is connected elsewhere. The registry itself is clients.rs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use net::Connection;
use prost::Message;
use replica::{NodeId, Peers};
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
    #[prost(uint32, tag = "3")]
    timeout_ms: u32,
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

    /// Asks a client something (39, 307, 309 …), wherever it is connected.
    pub(crate) async fn ask_client(
        &self,
        client_id: &str,
        request: RemotingCommand,
        timeout: Duration,
    ) -> Result<RemotingCommand, Error> {
        for connection in self.clients.connections_of(client_id) {
            if let Some(connection) = self.connection(connection)
                && !connection.is_over()
            {
                return connection.request(request, timeout).await.map_err(timed_out);
            }
        }
        let reply = self.relay(client_id, &request, timeout).await?;
        match decode_frame(&mut BytesMut::from(reply), FRAME_BYTES_MAX) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(Error::Unknown("the client's answer is unreadable".into())),
        }
    }

    /// Tells a client something that it does not answer (220), wherever it is connected.
    pub(crate) async fn tell_client(&self, client_id: &str, request: RemotingCommand) -> Result<(), Error> {
        let request = request.oneway();
        for connection in self.clients.connections_of(client_id) {
            if let Some(connection) = self.connection(connection)
                && !connection.is_over()
            {
                return connection.send_oneway(request).map_err(timed_out);
            }
        }
        self.relay(client_id, &request, CLIENT_CALL).await.map(drop)
    }

    /// Has the node that has the client pass a request on; its answer.
    async fn relay(
        &self,
        client_id: &str,
        request: &RemotingCommand,
        timeout: Duration,
    ) -> Result<Bytes, Error> {
        let elsewhere = self.clients.node_of(client_id).and_then(|node| Some((node, self.peers()?)));
        let Some((node, peers)) = elsewhere else {
            let remark = format!("the client {client_id} is not connected to any node");
            return Err(Error::refused(ResponseCode::SYSTEM_ERROR, remark));
        };
        let mut frame = BytesMut::new();
        request.encode(&mut frame);
        let relay = RelayRequest {
            client_id: client_id.to_owned(),
            frame: frame.freeze(),
            timeout_ms: timeout.as_millis() as u32,
        };
        let deadline = Instant::now() + timeout + Duration::from_millis(200);
        peers.call(node, RELAY, relay.encode_to_vec().into(), deadline).await.map_err(timed_out)
    }
}

fn timed_out(error: impl std::fmt::Display) -> Error {
    Error::refused(ResponseCode::CONSUME_MSG_TIMEOUT, format!("the client does not answer: {error}"))
}

/// Another node relays a request to a client that is connected here.
pub(crate) async fn relay_here(node: &Arc<Node>, payload: Bytes) -> Result<Bytes, String> {
    let relay = RelayRequest::decode(payload).map_err(|error| error.to_string())?;
    let request = match decode_frame(&mut BytesMut::from(relay.frame), FRAME_BYTES_MAX) {
        Ok(Some(request)) => request,
        Ok(None) | Err(_) => return Err("an unreadable request".into()),
    };
    let connection = node
        .clients
        .connections_of(&relay.client_id)
        .into_iter()
        .find_map(|id| node.connection(id))
        .ok_or_else(|| format!("the client {} is not connected here", relay.client_id))?;
    if request.is_oneway() {
        connection.send_oneway(request).map_err(|error| error.to_string())?;
        return Ok(Bytes::new());
    }
    let timeout = Duration::from_millis(relay.timeout_ms.into()).min(CLIENT_CALL * 10);
    let answer = connection.request(request, timeout).await.map_err(|error| error.to_string())?;
    let mut frame = BytesMut::new();
    answer.encode(&mut frame);
    Ok(frame.freeze())
}
