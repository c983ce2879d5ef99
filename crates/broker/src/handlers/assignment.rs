//! Assignment by the broker: 400 which queues a consumer is to consume, and how; 401 who gets a topic by pop (protocol.md
//! 3.3). Every broker of a cluster works out the same: from the topic's route and the members of the group.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::future::FutureExt;
use wire::{
    Body, GetRouteInfoRequest, MessageModel, MessageQueue, MessageQueueAssignment, MessageRequestMode,
    QueryAssignmentRequestBody, QueryAssignmentResponseBody, RemotingCommand, RequestCode, ResponseCode,
    SetMessageRequestModeRequestBody, TopicRouteData, is_retry_topic, perm,
};

use crate::call::Call;
use crate::creation;
use crate::errors::Error;
use crate::handlers::step::success;
use crate::hosted::{Hosted, lock};
use crate::limits::{CLIENT_CALL, ROUTE_VALID, ROUTES_KEPT};
use crate::requests::Answer;
use crate::state::RequestMode;
use crate::state::command::{Kind, SetRequestMode};

/// 401.
pub(crate) fn set_mode<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let body = SetMessageRequestModeRequestBody::decode(&call.request.body)?;
        let SetMessageRequestModeRequestBody { consumer_group, mode, pop_share_queue_num, topic } = body;
        if is_retry_topic(&topic) {
            let remark = "retry topic is not allowed to set mode";
            return Err(Error::refused(ResponseCode::NO_PERMISSION, remark));
        }
        if hosted.state.topic(&topic).is_none() {
            return Err(Error::refused(ResponseCode::TOPIC_NOT_EXIST, format!("topic[{topic}] not exist")));
        }
        if creation::consumer_group(hosted, &consumer_group).await?.is_none() {
            let remark = "subscription group does not exist";
            return Err(Error::refused(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
        }
        let command = Kind::RequestMode(SetRequestMode {
            topic,
            group: consumer_group,
            pop: mode == MessageRequestMode::Pop,
            pop_share_queues: pop_share_queue_num,
        });
        let reply = hosted.propose_here(command.into()).await?;
        if reply.code != 0 {
            return Err(Error::refused(ResponseCode(reply.code), reply.remark));
        }
        Ok(success(&call.request))
    }
    .boxed()
}

/// 400.
pub(crate) fn query<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let body = QueryAssignmentRequestBody::decode(&call.request.body)?;
        let mode = mode_of(hosted, &body);
        let queues = route(hosted, &body.topic).await;
        let shares = queues.and_then(|queues| share(hosted, &body, mode, queues));
        let assignments = shares.map(|queues| {
            let assigned = |message_queue| MessageQueueAssignment {
                message_queue,
                mode: if mode.pop { MessageRequestMode::Pop } else { MessageRequestMode::Pull },
            };
            queues.into_iter().map(assigned).collect()
        });
        let answer = QueryAssignmentResponseBody { message_queue_assignments: assignments };
        Ok(success(&call.request).with_body(answer.encode()))
    }
    .boxed()
}

fn mode_of(hosted: &Hosted, body: &QueryAssignmentRequestBody) -> RequestMode {
    let pull = RequestMode { pop: false, pop_share_queues: 0 };
    // What comes back to a retry topic is pulled.
    if is_retry_topic(&body.topic) {
        return pull;
    }
    hosted.state.request_mode(&body.topic, &body.consumer_group).unwrap_or(pull)
}

/// The queues of one member; `None`: it is to keep what it has.
fn share(
    hosted: &Hosted,
    body: &QueryAssignmentRequestBody,
    mode: RequestMode,
    queues: Vec<MessageQueue>,
) -> Option<Vec<MessageQueue>> {
    if body.message_model == MessageModel::Broadcasting {
        return Some(queues);
    }
    let group = hosted.node.clients.consumer_group(&body.consumer_group)?;
    let mut clients: Vec<&str> = group.members.keys().map(String::as_str).collect();
    clients.sort_by(|a, b| java_order(a, b));
    let strategy = Strategy::named(&body.strategy_name)?;
    if mode.pop {
        return Some(share_pop(strategy, &body.client_id, &queues, &clients, mode.pop_share_queues));
    }
    Some(strategy.share(&body.client_id, &queues, &clients))
}

/// How the queues of a topic are shared out (AllocateMessageQueueAveragely and its likes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strategy {
    /// Neighbouring queues to one client; the first ones get one more.
    Averagely,
    /// Dealt out one by one.
    ByCircle,
}

impl Strategy {
    fn named(name: &str) -> Option<Strategy> {
        match name {
            "AVG" => Some(Strategy::Averagely),
            "AVG_BY_CIRCLE" => Some(Strategy::ByCircle),
            _ => None,
        }
    }

    /// The share of `me`; both lists are sorted. Nothing for who is no member.
    fn share<T: Clone>(self, me: &str, queues: &[T], clients: &[&str]) -> Vec<T> {
        let Some(at) = clients.iter().position(|client| *client == me) else { return Vec::new() };
        match self {
            Strategy::Averagely => {
                let (size, more) = (queues.len() / clients.len(), queues.len() % clients.len());
                let first = at * size + at.min(more);
                queues.iter().skip(first).take(size + usize::from(at < more)).cloned().collect()
            }
            Strategy::ByCircle => queues.iter().skip(at).step_by(clients.len()).cloned().collect(),
        }
    }
}

/// The queues that a pop consumer takes messages from. `shared`: it has also those of so many members that follow it; 0
/// or as many as there are others: it takes from all, which is said by -1 for each broker's queue.
fn share_pop(
    strategy: Strategy,
    me: &str,
    queues: &[MessageQueue],
    clients: &[&str],
    shared: i32,
) -> Vec<MessageQueue> {
    let shared = usize::try_from(shared).unwrap_or(0);
    let mut mine = if shared == 0 || shared + 1 >= clients.len() {
        let any = queues.iter().map(|queue| MessageQueue { queue_id: -1, ..queue.clone() });
        any.collect()
    } else if clients.len() <= queues.len() {
        let at = clients.iter().position(|client| *client == me);
        let following =
            at.into_iter().flat_map(|at| (0..=shared).map(move |step| (at + step) % clients.len()));
        following.flat_map(|at| strategy.share(clients[at], queues, clients)).collect()
    } else {
        // More clients than queues: each has one, and some have it together.
        let at = clients.iter().position(|client| *client == me);
        at.and_then(|at| queues.get(at % queues.len().max(1))).cloned().into_iter().collect::<Vec<_>>()
    };
    mine.sort_unstable();
    mine.dedup();
    mine
}

/// Java's order of strings: by UTF-16 code units.
fn java_order(left: &str, right: &str) -> std::cmp::Ordering {
    left.encode_utf16().cmp(right.encode_utf16())
}

/// Routes of topics as the nameservers told them a moment ago.
#[derive(Default)]
pub(crate) struct Routes(Mutex<BTreeMap<String, (Instant, Vec<MessageQueue>)>>);

/// All queues of a topic that can be read, in every group of the cluster, sorted. `None`: there are none.
async fn route(hosted: &Hosted, topic: &str) -> Option<Vec<MessageQueue>> {
    let now = Instant::now();
    if let Some((told, queues)) = lock(&hosted.routes.0).get(topic)
        && now.saturating_duration_since(*told) < ROUTE_VALID
    {
        return Some(queues.clone());
    }
    let told = told_by_nameservers(hosted, topic).await;
    let is_told = told.is_some();
    let mut queues = told.unwrap_or_else(|| of_this_node(hosted, topic));
    if queues.is_empty() {
        return None;
    }
    queues.sort_unstable();
    if !is_told {
        return Some(queues);
    }
    let mut routes = lock(&hosted.routes.0);
    if routes.len() >= ROUTES_KEPT {
        routes.retain(|_, (told, _)| now.saturating_duration_since(*told) < ROUTE_VALID);
    }
    if routes.len() < ROUTES_KEPT {
        routes.insert(topic.to_owned(), (now, queues.clone()));
    }
    Some(queues)
}

/// `None`: no nameserver answers, or none is configured.
async fn told_by_nameservers(hosted: &Hosted, topic: &str) -> Option<Vec<MessageQueue>> {
    let node = &hosted.node;
    for nameserver in &node.config.nameservers {
        let header = GetRouteInfoRequest { topic: topic.to_owned(), accept_standard_json_only: Some(true) };
        let request = RemotingCommand::request(RequestCode::GET_ROUTEINFO_BY_TOPIC).with_header(&header);
        let Ok(response) = node.outside.call(nameserver, request, CLIENT_CALL).await else { continue };
        match response.response_code() {
            ResponseCode::SUCCESS => {}
            ResponseCode::TOPIC_NOT_EXIST => return Some(Vec::new()),
            _ => continue,
        }
        let Ok(route) = TopicRouteData::decode(&response.body) else { continue };
        let readable = route.queue_datas.iter().filter(|queues| perm::is_readable(queues.perm));
        let queues = readable.flat_map(|queues| {
            let ids = 0..queues.read_queue_nums;
            ids.map(|id| MessageQueue::new(topic, &queues.broker_name, id))
        });
        return Some(queues.collect());
    }
    None
}

/// What the groups of this node have of the topic.
fn of_this_node(hosted: &Hosted, topic: &str) -> Vec<MessageQueue> {
    let groups = hosted.node.groups();
    let known = groups.iter().filter_map(|group| Some((group.name(), group.state.topic(topic)?)));
    known
        .filter(|(_, topic)| perm::is_readable(topic.config.perm))
        .flat_map(|(name, found)| {
            let ids = 0..i32::try_from(found.config.read_queues).unwrap_or(i32::MAX);
            ids.map(move |id| MessageQueue::new(topic, name, id))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(count: i32) -> Vec<MessageQueue> {
        let mut queues: Vec<_> = (0..count)
            .map(|at| MessageQueue::new("T", if at % 2 == 0 { "a" } else { "b" }, at / 2))
            .collect();
        queues.sort_unstable();
        queues
    }

    fn names(queues: &[MessageQueue]) -> String {
        let name = |queue: &MessageQueue| format!("{}{}", queue.broker_name, queue.queue_id);
        queues.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn queues_are_shared_out_as_java_does() {
        let all = queues(8);
        let check = |strategy: Strategy, clients: &[&str], want: &[&str]| {
            let shares: Vec<_> = clients.iter().map(|me| names(&strategy.share(me, &all, clients))).collect();
            assert_eq!(shares, want, "{strategy:?} {clients:?}");
        };
        check(Strategy::Averagely, &["x"], &["a0 a1 a2 a3 b0 b1 b2 b3"]);
        check(Strategy::Averagely, &["x", "y", "z"], &["a0 a1 a2", "a3 b0 b1", "b2 b3"]);
        check(Strategy::ByCircle, &["x", "y", "z"], &["a0 a3 b2", "a1 b0 b3", "a2 b1"]);
        assert!(Strategy::Averagely.share("w", &all, &["x"]).is_empty());
        assert_eq!(Strategy::named("AVG"), Some(Strategy::Averagely));
        assert_eq!(Strategy::named("MACHINE_ROOM"), None);
    }

    #[test]
    fn pop_consumers_share_queues() {
        let all = queues(4);
        let check = |clients: &[&str], shared: i32, want: &[&str]| {
            let shares: Vec<_> = clients
                .iter()
                .map(|me| names(&share_pop(Strategy::Averagely, me, &all, clients, shared)))
                .collect();
            assert_eq!(shares, want, "{clients:?} {shared}");
        };
        // Everybody takes from every queue of every broker.
        check(&["x", "y"], 0, &["a-1 b-1"; 2]);
        check(&["x", "y", "z"], -1, &["a-1 b-1"; 3]);
        check(&["x", "y", "z"], 2, &["a-1 b-1"; 3]);
        // Its own, and those of the next one.
        check(&["w", "x", "y", "z"], 1, &["a0 a1", "a1 b0", "b0 b1", "a0 b1"]);
        // More clients than queues.
        check(&["u", "v", "w", "x", "y", "z"], 1, &["a0", "a1", "b0", "b1", "a0", "a1"]);
    }

    #[test]
    fn clients_are_sorted_as_java_sorts_them() {
        assert!(java_order("\u{1F600}", "\u{FFFD}").is_lt());
        assert!(java_order("10.0.0.1@2", "10.0.0.1@10").is_gt());
    }
}
