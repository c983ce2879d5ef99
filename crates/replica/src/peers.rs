//! The channels to the other nodes. Three per node: log traffic, consensus (heartbeats and votes never wait behind
//! log traffic), and calls of the broker. They connect when first used and again after a loss.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use tonic::transport::{Channel, Endpoint};

use crate::limits::{PEER_MESSAGE_BYTES, PEER_WINDOW_BYTES};
use crate::proto::peer_client::PeerClient;
use crate::transport::{Transport, channel};
use crate::{NodeId, proto};

/// What a call between nodes is for; the broker gives the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Service(pub u32);

/// Answers calls of other nodes. It must not call back to the node that asks (one hop at most).
pub trait PeerHandler: Send + Sync + 'static {
    /// `Err` is told to the caller as [`CallError::Refused`].
    fn handle(
        &self,
        from: NodeId,
        service: Service,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// Why a call got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The request has certainly not reached the node.
    #[error("node {node} cannot be reached: {reason}")]
    NotSent { node: NodeId, reason: String },
    /// The request may have been carried out.
    #[error("no answer of node {node}: {reason}")]
    Unknown { node: NodeId, reason: String },
    /// The node answered that it did not do it.
    #[error("node {node}: {reason}")]
    Refused { node: NodeId, reason: String },
}

struct Link {
    log: Channel,
    consensus: Channel,
    calls: Channel,
}

/// The other nodes of the cluster. A clone is a reference.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: String,
    me: NodeId,
    links: BTreeMap<NodeId, Link>,
}

impl Peers {
    /// Must be called inside the consensus runtime. Addresses are `host:port`.
    pub(crate) fn new(
        cluster: &str,
        me: NodeId,
        addresses: &BTreeMap<NodeId, String>,
        transport: Option<&Arc<dyn Transport>>,
    ) -> Result<Self, tonic::transport::Error> {
        let mut links = BTreeMap::new();
        for (&node, address) in addresses.iter().filter(|&(&node, _)| node != me) {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?
                .connect_timeout(Duration::from_millis(500))
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_secs(1))
                .keep_alive_timeout(Duration::from_millis(1500))
                .keep_alive_while_idle(true)
                .initial_connection_window_size(PEER_WINDOW_BYTES)
                .initial_stream_window_size(PEER_WINDOW_BYTES);
            links.insert(
                node,
                Link {
                    log: channel(&endpoint, transport, address),
                    consensus: channel(&endpoint, transport, address),
                    calls: channel(&endpoint, transport, address),
                },
            );
        }
        Ok(Peers { inner: Arc::new(Inner { cluster: cluster.to_owned(), me, links }) })
    }

    /// The node that this process is.
    pub fn me(&self) -> NodeId {
        self.inner.me
    }

    /// Every other node, in order.
    pub fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.inner.links.keys().copied()
    }

    pub(crate) fn log_client(&self, node: NodeId) -> Option<PeerClient<Channel>> {
        self.inner.links.get(&node).map(|l| client(&l.log))
    }

    pub(crate) fn consensus_client(&self, node: NodeId) -> Option<PeerClient<Channel>> {
        self.inner.links.get(&node).map(|l| client(&l.consensus))
    }

    /// Asks another node. `deadline` bounds the whole call.
    pub async fn call(
        &self,
        node: NodeId,
        service: Service,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let Some(link) = self.inner.links.get(&node) else {
            return Err(CallError::NotSent { node, reason: "not a node of this cluster".into() });
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CallError::NotSent { node, reason: "no time is left".into() });
        }
        let request = proto::CallRequest {
            cluster: self.inner.cluster.clone(),
            from: self.inner.me.0,
            to: node.0,
            service: service.0,
            timeout_ms: left.as_millis() as u32,
            payload,
        };
        match tokio::time::timeout(left, client(&link.calls).call(request)).await {
            Err(_) => {
                Err(CallError::Unknown { node, reason: format!("no answer in {} ms", left.as_millis()) })
            }
            Ok(Err(status)) if never_sent(&status) => {
                Err(CallError::NotSent { node, reason: status.message().to_owned() })
            }
            Ok(Err(status)) => Err(CallError::Unknown { node, reason: status.message().to_owned() }),
            Ok(Ok(reply)) => match reply.into_inner().result {
                Some(proto::call_reply::Result::Payload(payload)) => Ok(payload),
                Some(proto::call_reply::Result::Error(reason)) => Err(CallError::Refused { node, reason }),
                None => Err(CallError::Unknown { node, reason: "an answer without content".into() }),
            },
        }
    }
}

fn client(channel: &Channel) -> PeerClient<Channel> {
    PeerClient::new(channel.clone())
        .max_decoding_message_size(PEER_MESSAGE_BYTES)
        .max_encoding_message_size(PEER_MESSAGE_BYTES)
}

/// Whether a status says that no connection could be made, so that nothing was sent.
fn never_sent(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
