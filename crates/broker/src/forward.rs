//! Passing requests on to the node that leads, and what nodes ask each other.
//!
//! ```text
//! Log, brief     one batch of a group under way at a time, taken from the park, so that order is kept
//! Log, others    one call each: they may wait for a client, a scan or the disk, and nothing is to wait with them
//! questions      one call each, asked again when no answer comes
//! ```
//!
//! One hop at most: a forwarded request that meets a node that does not lead comes back (`NotHere`), and only its first
//! node passes it on again. A request is sent again only while it is definitely not done (log.md 12): not sent, or
//! refused. What was sent and not answered is of unknown outcome.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use net::PushBack;
use prost::Message;
use replica::{CallError, NodeId, PeerHandler, Service};
use tokio::sync::oneshot;
use wire::{FRAME_BYTES_MAX, RemotingCommand, ResponseCode, decode_frame};

use crate::call::{Call, Forwarded, Sender};
use crate::errors::Error;
use crate::hosted::Hosted;
use crate::registry;
use crate::service::Node;
use crate::state::{Command, Reply};

/// Requests of clients, passed on.
pub(crate) const FORWARD: Service = Service(1);
/// A command that another node wants proposed.
pub(crate) const PROPOSE: Service = Service(2);
/// Who leads a group, for a node whose own replica does not run yet.
pub(crate) const WHO_LEADS: Service = Service(3);
/// News of the client registry.
pub(crate) const NEWS: Service = Service(4);
/// The whole registry, for a node that starts.
pub(crate) const EVERYTHING: Service = Service(5);
/// A request for a client that is connected to the receiver.
pub(crate) const RELAY: Service = Service(6);
/// How far the sender lags behind this leader.
pub(crate) const LAG: Service = Service(7);
/// The preferred leader asks for leadership.
pub(crate) const TAKE_OVER: Service = Service(8);

/// Beyond the requests' own deadline, for the way back.
const MARGIN: Duration = Duration::from_millis(100);
/// A question that a healthy node answers from memory.
const QUICK: Duration = Duration::from_millis(300);
/// A transfer of leadership waits for the log to be level and for the new term.
const TRANSFER: Duration = Duration::from_secs(3);

#[derive(Clone, PartialEq, Message)]
struct ForwardRequest {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(message, repeated, tag = "2")]
    calls: Vec<ForwardedCall>,
}

/// A client's frame, and what the receiver cannot see of the client.
#[derive(Clone, PartialEq, Message)]
struct ForwardedCall {
    #[prost(bytes = "bytes", tag = "1")]
    frame: Bytes,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(string, tag = "3")]
    client_id: String,
    #[prost(string, tag = "4")]
    listener: String,
    /// Of the time that the request may take, ms.
    #[prost(uint32, tag = "5")]
    left_ms: u32,
    /// Its connection sends more than is taken of it.
    #[prost(bool, tag = "6")]
    is_pressed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ForwardReply {
    #[prost(message, repeated, tag = "1")]
    outcomes: Vec<Outcome>,
}

#[derive(Clone, PartialEq, Message)]
struct Outcome {
    #[prost(oneof = "OutcomeKind", tags = "1, 2, 3, 4")]
    kind: Option<OutcomeKind>,
    /// Of an answer: it refuses what is too much, and the client's connection is not to be read for a while; a [`PushBack`],
    /// or 0. A node that does not know this gives the answer all the same.
    #[prost(uint32, tag = "5")]
    push_back: u32,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OutcomeKind {
    /// A frame, or for PROPOSE the reply of the tables.
    #[prost(bytes = "bytes", tag = "1")]
    Answer(Bytes),
    #[prost(message, tag = "2")]
    NotHere(Leader),
    #[prost(string, tag = "3")]
    Unknown(String),
    /// Definitely not done, and another try would not help.
    #[prost(message, tag = "4")]
    Refused(Refused),
}

/// A response code and its remark.
#[derive(Clone, PartialEq, Message)]
struct Refused {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    remark: String,
}

impl From<Refused> for Error {
    fn from(Refused { code, remark }: Refused) -> Error {
        Error::refused(ResponseCode(code), remark)
    }
}

/// 0: nobody known.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Leader {
    #[prost(uint64, tag = "1")]
    node: u64,
}

impl Leader {
    fn new(node: Option<NodeId>) -> Leader {
        Leader { node: node.map_or(0, |node| node.0) }
    }

    fn get(self) -> Option<NodeId> {
        (self.node != 0).then_some(NodeId(self.node))
    }
}

#[derive(Clone, PartialEq, Message)]
struct ProposeRequest {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(message, optional, tag = "2")]
    command: Option<Command>,
}

/// A question about a group.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GroupQuestion {
    #[prost(string, tag = "1")]
    pub(crate) group: String,
}

/// Entries that a node lacks; `known` is false where the receiver does not lead or cannot tell.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Lag {
    #[prost(bool, tag = "1")]
    pub(crate) known: bool,
    #[prost(uint64, tag = "2")]
    pub(crate) entries: u64,
}

/// Passes one question on, whose order does not count and which may be asked twice.
pub(crate) fn alone(hosted: &Arc<Hosted>, leader: NodeId, call: Call) {
    let hosted = hosted.clone();
    tokio::spawn(async move {
        match ask_leader(&hosted, leader, &call.request, &call.from, call.deadline).await {
            Ok(answer) => call.answer(answer),
            Err(Error::Unknown(_)) => hosted.again(call, None),
            Err(error) => hosted.fail(call, error),
        }
    });
}

/// Passes a request on to a group that this node does not have, by way of a node that has it.
pub(crate) fn to_group(node: &Arc<Node>, group: String, at: NodeId, call: Call) {
    let node = node.clone();
    tokio::spawn(async move {
        // That node, and the leader that it names; where it is gone, whoever else may have the group.
        let others = node.config.peers.keys().copied().map(NodeId);
        let mut next: VecDeque<NodeId> = std::iter::once(at).chain(others).collect();
        let mut asked = BTreeSet::from([node.id]);
        while let Some(at) = next.pop_front().filter(|_| Instant::now() < call.deadline) {
            if !asked.insert(at) {
                continue;
            }
            let calls = [(&call.request, &call.from, call.deadline)];
            match ask_group(&node, &group, at, &calls).await.map(|outcomes| outcomes.into_iter().next()) {
                Ok(Some(Ok(answer))) => return call.answer(answer),
                Ok(Some(Err(Error::NotLeader { leader: Some(leader) }))) => next.push_front(leader),
                Ok(Some(Err(Error::NotLeader { leader: None })) | None) | Err(NotDone(_)) => {}
                Ok(Some(Err(error))) => {
                    let (code, remark) = error.answer();
                    return call.refuse(code, remark);
                }
            }
        }
        let remark = format!("no node that can be reached leads group {group}");
        call.refuse(ResponseCode::SERVICE_NOT_AVAILABLE, remark);
    });
}

/// Passes calls on and answers them.
pub(crate) async fn batch(hosted: &Arc<Hosted>, leader: NodeId, calls: Vec<Call>) {
    let sent: Vec<_> = calls.iter().map(|call| (&call.request, &call.from, call.deadline)).collect();
    match ask(hosted, leader, &sent).await {
        Ok(outcomes) => {
            for (call, outcome) in calls.into_iter().zip(outcomes) {
                match outcome {
                    Ok(answer) => call.answer(answer),
                    Err(error) => hosted.fail(call, error),
                }
            }
        }
        Err(NotDone(hint)) => {
            hosted.take_hint(hint);
            for call in calls {
                hosted.again(call, hint);
            }
        }
    }
}

/// Asks the leader to do one request of this node's client; does not answer it.
pub(crate) async fn ask_leader(
    hosted: &Hosted,
    leader: NodeId,
    request: &RemotingCommand,
    from: &Sender,
    deadline: Instant,
) -> Result<RemotingCommand, Error> {
    match ask(hosted, leader, &[(request, from, deadline)]).await {
        Ok(outcomes) => outcomes.into_iter().next().unwrap_or(Err(Error::NotLeader { leader: None })),
        Err(NotDone(hint)) => {
            hosted.take_hint(hint);
            Err(Error::NotLeader { leader: hint })
        }
    }
}

/// Nothing of it was done.
struct NotDone(Option<NodeId>);

/// One forwarding call: an outcome for each request.
async fn ask(
    hosted: &Hosted,
    leader: NodeId,
    calls: &[(&RemotingCommand, &Sender, Instant)],
) -> Result<Vec<Result<RemotingCommand, Error>>, NotDone> {
    let outcomes = ask_group(&hosted.node, hosted.name(), leader, calls).await?;
    for outcome in &outcomes {
        if let Err(Error::NotLeader { leader }) = outcome {
            hosted.take_hint(*leader);
        }
    }
    Ok(outcomes)
}

async fn ask_group(
    node: &Node,
    group: &str,
    leader: NodeId,
    calls: &[(&RemotingCommand, &Sender, Instant)],
) -> Result<Vec<Result<RemotingCommand, Error>>, NotDone> {
    let Some(peers) = node.peers() else { return Err(NotDone(None)) };
    let now = Instant::now();
    let mut deadline = now;
    let mut message = ForwardRequest { group: group.to_owned(), calls: Vec::with_capacity(calls.len()) };
    for (request, from, until) in calls {
        let mut frame = BytesMut::with_capacity(request.body.len() + 512);
        request.encode(&mut frame);
        deadline = deadline.max(*until);
        message.calls.push(ForwardedCall {
            frame: frame.freeze(),
            address: from.address.to_string(),
            client_id: from.client_id.clone(),
            listener: from.listener.to_string(),
            left_ms: until.saturating_duration_since(now).as_millis() as u32,
            is_pressed: from.is_pressed,
        });
    }
    let unknown = |why: String| {
        Ok(calls.iter().map(|_| Err(Error::Unknown(format!("node {leader}: {why}")))).collect())
    };
    let payload = message.encode_to_vec().into();
    let reply = match peers.call(leader, FORWARD, payload, deadline + MARGIN).await {
        Ok(reply) => ForwardReply::decode(reply),
        Err(CallError::NotSent { .. } | CallError::Refused { .. }) => return Err(NotDone(None)),
        Err(CallError::Unknown { reason, .. }) => return unknown(reason),
    };
    match reply {
        Ok(reply) if reply.outcomes.len() == calls.len() => {
            let outcomes =
                reply.outcomes.into_iter().zip(calls).map(|(outcome, (request, ..))| match outcome.kind {
                    Some(OutcomeKind::Answer(frame)) if outcome.push_back != 0 => {
                        busy(frame, outcome.push_back)
                    }
                    Some(OutcomeKind::Answer(_)) if request.is_oneway() => {
                        Ok(RemotingCommand::response_to(request, ResponseCode::SUCCESS))
                    }
                    Some(OutcomeKind::Answer(frame)) => response(frame),
                    Some(OutcomeKind::NotHere(hint)) => Err(Error::NotLeader { leader: hint.get() }),
                    Some(OutcomeKind::Unknown(why)) => Err(Error::Unknown(why)),
                    Some(OutcomeKind::Refused(refused)) => Err(refused.into()),
                    None => Err(Error::Unknown("an empty outcome".into())),
                });
            Ok(outcomes.collect())
        }
        Ok(_) | Err(_) => unknown("an unreadable reply".into()),
    }
}

fn response(frame: Bytes) -> Result<RemotingCommand, Error> {
    match decode_frame(&mut BytesMut::from(frame), FRAME_BYTES_MAX * 2) {
        Ok(Some(response)) => Ok(response),
        Ok(None) | Err(_) => Err(Error::Unknown("the leader's answer is unreadable".into())),
    }
}

/// A refusal that concerns the client's connection, which is one of this node. A one-way request has no frame of it.
fn busy(frame: Bytes, push_back: u32) -> Result<RemotingCommand, Error> {
    let (code, remark) = if frame.is_empty() {
        (ResponseCode::SYSTEM_BUSY, String::new())
    } else {
        let refusal = response(frame)?;
        (refusal.response_code(), refusal.remark.unwrap_or_default())
    };
    let what =
        if push_back == push_back_code(PushBack::Request) { PushBack::Request } else { PushBack::Connection };
    Err(Error::Busy { code, remark, what })
}

fn push_back_code(what: PushBack) -> u32 {
    match what {
        PushBack::Connection => 1,
        PushBack::Request => 2,
    }
}

/// Has the leader propose a command.
pub(crate) async fn propose_at(
    hosted: &Hosted,
    leader: NodeId,
    command: &Command,
    deadline: Instant,
) -> Result<Reply, Error> {
    let Some(peers) = hosted.node.peers() else { return Err(Error::NotLeader { leader: None }) };
    let request = ProposeRequest { group: hosted.name().to_owned(), command: Some(command.clone()) };
    let outcome = match peers.call(leader, PROPOSE, request.encode_to_vec().into(), deadline).await {
        Ok(reply) => Outcome::decode(reply).ok().and_then(|outcome| outcome.kind),
        Err(CallError::NotSent { .. } | CallError::Refused { .. }) => {
            return Err(Error::NotLeader { leader: None });
        }
        Err(CallError::Unknown { reason, .. }) => return Err(Error::Unknown(reason)),
    };
    match outcome {
        Some(OutcomeKind::Answer(reply)) => {
            Reply::decode(reply).map_err(|error| Error::Unknown(error.to_string()))
        }
        Some(OutcomeKind::NotHere(hint)) => Err(Error::NotLeader { leader: hint.get() }),
        Some(OutcomeKind::Unknown(why)) => Err(Error::Unknown(why)),
        Some(OutcomeKind::Refused(refused)) => Err(refused.into()),
        None => Err(Error::Unknown("an unreadable reply".into())),
    }
}

/// The first leader that another voter names.
pub(crate) async fn who_leads(hosted: &Hosted) -> Option<NodeId> {
    let peers = hosted.node.peers()?;
    let question = about(hosted);
    let deadline = Instant::now() + QUICK;
    let others = hosted.config.voters.iter().map(|node| NodeId(*node)).filter(|node| *node != hosted.node.id);
    let mut answers: FuturesUnordered<_> =
        others.map(|node| peers.call(node, WHO_LEADS, question.clone(), deadline)).collect();
    while let Some(answer) = answers.next().await {
        let leader = answer.ok().and_then(|reply| Leader::decode(reply).ok()).and_then(Leader::get);
        if leader.is_some_and(|leader| leader != hosted.node.id) {
            return leader;
        }
    }
    None
}

/// How far this node lags behind the leader, in entries, if the leader can tell.
pub(crate) async fn my_lag(hosted: &Hosted, leader: NodeId) -> Option<u64> {
    let reply = hosted.node.peers()?.call(leader, LAG, about(hosted), Instant::now() + QUICK).await.ok()?;
    let lag = Lag::decode(reply).ok()?;
    lag.known.then_some(lag.entries)
}

/// Asks the leader to hand leadership to this node.
pub(crate) async fn take_over(hosted: &Hosted, leader: NodeId) -> Result<(), String> {
    let peers = hosted.node.peers().ok_or("no peers yet")?;
    let reply = peers.call(leader, TAKE_OVER, about(hosted), Instant::now() + TRANSFER).await;
    reply.map(|_| ()).map_err(|error| error.to_string())
}

fn about(hosted: &Hosted) -> Bytes {
    GroupQuestion { group: hosted.name().to_owned() }.encode_to_vec().into()
}

/// Answers the other nodes.
pub(crate) struct Answers(pub(crate) Weak<Node>);

impl PeerHandler for Answers {
    fn handle(
        &self,
        from: NodeId,
        service: Service,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let Some(node) = self.0.upgrade() else {
            return futures::future::ready(Err("the broker has stopped".into())).boxed();
        };
        answer(node, from, service, payload).boxed()
    }
}

async fn answer(node: Arc<Node>, from: NodeId, service: Service, payload: Bytes) -> Result<Bytes, String> {
    let about = |payload: &Bytes| {
        let question = GroupQuestion::decode(payload.clone()).map_err(|error| error.to_string())?;
        node.group(&question.group).ok_or_else(|| format!("group {} is not on this node", question.group))
    };
    match service {
        // The requests of a batch are taken in their order, before anything waits.
        FORWARD => Ok(take_forwarded(&node, from, payload)?.await),
        PROPOSE => {
            let request = ProposeRequest::decode(payload).map_err(|error| error.to_string())?;
            let hosted = node
                .group(&request.group)
                .ok_or_else(|| format!("group {} is not on this node", request.group))?;
            let command = request.command.ok_or("no command")?;
            let result = if hosted.leads() {
                hosted.propose_here(command).await
            } else {
                Err(Error::NotLeader { leader: known_leader(&hosted) })
            };
            let kind = match result {
                Ok(reply) => OutcomeKind::Answer(reply.encode_to_vec().into()),
                Err(Error::NotLeader { leader }) => OutcomeKind::NotHere(Leader::new(leader)),
                Err(error) if error.may_retry() => OutcomeKind::NotHere(Leader::new(None)),
                Err(Error::Unknown(why)) => OutcomeKind::Unknown(why),
                Err(error) => {
                    let (code, remark) = error.answer();
                    OutcomeKind::Refused(Refused { code: code.get(), remark })
                }
            };
            Ok(Outcome { kind: Some(kind), push_back: 0 }.encode_to_vec().into())
        }
        WHO_LEADS => {
            let hosted = about(&payload)?;
            let leader = if hosted.leads() { Some(node.id) } else { known_leader(&hosted) };
            Ok(Leader::new(leader).encode_to_vec().into())
        }
        LAG => {
            let hosted = about(&payload)?;
            let lag =
                hosted.serving().filter(|_| hosted.leads()).and_then(|serving| serving.group.lag_of(from));
            let lag = Lag { known: lag.is_some(), entries: lag.unwrap_or(0) };
            Ok(lag.encode_to_vec().into())
        }
        TAKE_OVER => {
            let hosted = about(&payload)?;
            let serving = hosted.serving().ok_or("the group is starting")?;
            hosted.hand_over(serving, from).await.map_err(|error| error.to_string())?;
            Ok(Bytes::new())
        }
        NEWS => registry::take_news(&node, from, &payload),
        EVERYTHING => registry::everything(&node, payload),
        RELAY => registry::relay_here(&node, payload).await,
        Service(other) => Err(format!("service {other} is not known here")),
    }
}

/// The leader according to this node's replica.
fn known_leader(hosted: &Hosted) -> Option<NodeId> {
    hosted.serving().and_then(|serving| serving.group.role().leader)
}

/// Takes another node's requests in their order; the future waits for the answers.
fn take_forwarded(
    node: &Arc<Node>,
    from: NodeId,
    payload: Bytes,
) -> Result<impl Future<Output = Bytes> + Send + 'static, String> {
    let request = ForwardRequest::decode(payload).map_err(|error| error.to_string())?;
    let hosted =
        node.group(&request.group).ok_or_else(|| format!("group {} is not on this node", request.group))?;
    let mut frames = Vec::with_capacity(request.calls.len());
    for call in request.calls {
        // All or none: an error here must not follow a request that was taken.
        let frame = decode_frame(&mut BytesMut::from(call.frame), FRAME_BYTES_MAX * 2);
        let address: Result<SocketAddr, _> = call.address.parse();
        match (frame, address) {
            (Ok(Some(frame)), Ok(address)) => {
                let sender = Sender {
                    client_id: call.client_id,
                    is_pressed: call.is_pressed,
                    node: Some(from),
                    ..Sender::new(address, call.listener.into())
                };
                frames.push((frame, sender, call.left_ms));
            }
            _ => return Err("an unreadable request".into()),
        }
    }
    let mut outcomes = Vec::with_capacity(frames.len());
    for (frame, sender, left_ms) in frames {
        let (reply, outcome) = oneshot::channel();
        outcomes.push((frame.is_oneway(), outcome));
        let deadline = Instant::now() + Duration::from_millis(left_ms.into());
        hosted.take(Call::from_node(frame, sender, deadline, hosted.ticket(), reply));
    }
    Ok(async move {
        let outcomes = join_all(outcomes.into_iter().map(|(is_oneway, outcome)| async move {
            let outcome = outcome.await;
            let push_back = match &outcome {
                Ok(Forwarded::Busy(_, what)) => push_back_code(*what),
                _ => 0,
            };
            let kind = match outcome {
                // Its sender wants none.
                Ok(Forwarded::Answer(_) | Forwarded::Busy(..)) if is_oneway => {
                    OutcomeKind::Answer(Bytes::new())
                }
                Ok(Forwarded::Answer(answer) | Forwarded::Busy(answer, _)) => {
                    let mut frame = BytesMut::with_capacity(answer.body.len() + 512);
                    answer.encode(&mut frame);
                    OutcomeKind::Answer(frame.freeze())
                }
                Ok(Forwarded::NotHere(leader)) => OutcomeKind::NotHere(Leader::new(leader)),
                Ok(Forwarded::GivenUp) => OutcomeKind::Unknown("the leader gave the request up".into()),
                Err(_) => OutcomeKind::Unknown("the leader dropped the request".into()),
            };
            Outcome { kind: Some(kind), push_back }
        }))
        .await;
        Bytes::from(ForwardReply { outcomes }.encode_to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_what_is_too_much_comes_back_as_one() {
        let request = RemotingCommand::request(wire::RequestCode::SEND_MESSAGE);
        let refusal = RemotingCommand::response_to(&request, ResponseCode(14)).with_remark("too much");
        let mut frame = BytesMut::new();
        refusal.encode(&mut frame);
        let frame = frame.freeze();
        for sent in [PushBack::Connection, PushBack::Request] {
            let Err(Error::Busy { code, remark, what }) = busy(frame.clone(), push_back_code(sent)) else {
                panic!("no refusal")
            };
            assert_eq!((code.get(), &remark[..], what), (14, "too much", sent));
            let oneway = busy(Bytes::new(), push_back_code(sent));
            assert!(matches!(oneway, Err(Error::Busy { what, .. }) if what == sent), "it has no frame");
        }
    }
}
