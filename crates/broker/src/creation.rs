//! Topics made by a first send: in the group that the send met, which the send waits for, and then in every other
//! group of the cluster, so that the topic survives the loss of one leader (clients.md 4). Topics of a consumer group, for
//! retries and dead letters, are made where they are needed only.
//!
//! A command that creates a topic holds up everything behind it. So of each topic there is one under way at a time, whoever
//! needs it and however often, and none for a topic that has come meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::oneshot;
use wire::{
    Body, ClusterInfo, CreateTopicRequest, GetRouteInfoRequest, MASTER_ID, RemotingCommand, RequestCode,
    TopicRouteData,
};

use crate::call::Call;
use crate::errors::Error;
use crate::handlers::send;
use crate::hosted::{Hosted, lock};
use crate::limits::{CLIENT_CALL, PARK};
use crate::state::{Command, Group, TopicConfig, rules};

/// A topic that is being created, for all who wait for it.
type Creation = Shared<BoxFuture<'static, Result<(), Arc<Error>>>>;

/// Topics of one group that are being created, and the sends that wait for them, in their order.
pub(crate) struct Creations {
    under_way: Mutex<HashMap<String, Creation>>,
    waiting: Mutex<Waiting>,
    /// How many topics are being created: so that an ordinary send need not look.
    count: AtomicUsize,
    /// Of sends that wait, and so of topics: each has a task, and a command that everything behind it waits for.
    max: usize,
}

#[derive(Default)]
struct Waiting {
    topics: HashMap<String, Vec<Call>>,
    /// Sends of all topics.
    calls: usize,
}

/// What [`Creations::join`] did with a send.
pub(crate) enum Join {
    /// Its topic is not being created.
    No(Call),
    Waits,
    Full(Call),
}

impl Creations {
    pub(crate) fn new(max: usize) -> Creations {
        Creations { under_way: Mutex::default(), waiting: Mutex::default(), count: AtomicUsize::new(0), max }
    }

    /// What a send is told for which there is no room.
    pub(crate) fn full(&self) -> Error {
        Error::Overloaded(format!(
            "{0} sends wait for their topic to be created (waiting_for_topic: {0})",
            self.max
        ))
    }

    pub(crate) fn join(&self, call: Call) -> Join {
        if self.count.load(Ordering::Acquire) == 0 {
            return Join::No(call);
        }
        let mut waiting = lock(&self.waiting);
        let is_full = waiting.calls >= self.max;
        let Some(calls) = send::topic_of(&call).and_then(|topic| waiting.topics.get_mut(topic)) else {
            return Join::No(call);
        };
        if is_full {
            return Join::Full(call);
        }
        calls.push(call);
        waiting.calls += 1;
        Join::Waits
    }

    /// Creates the topic for the first send that needs it.
    pub(crate) fn create(&self, hosted: &Arc<Hosted>, config: TopicConfig, call: Call) {
        {
            let mut waiting = lock(&self.waiting);
            let is_new = !waiting.topics.contains_key(&config.name);
            // A topic whose sends are being let go has none that waits.
            if waiting.calls >= self.max || (is_new && waiting.topics.len() >= self.max) {
                drop(waiting);
                return hosted.fail(call, self.full());
            }
            waiting.topics.entry(config.name.clone()).or_default().push(call);
            waiting.calls += 1;
            self.count.store(waiting.topics.len(), Ordering::Release);
            if !is_new {
                return;
            }
        }
        let hosted = hosted.clone();
        tokio::spawn(async move {
            let name = config.name.clone();
            let result = ensure(&hosted, config).await;
            hosted.creations.release(&hosted, &name, &result);
        });
    }

    /// The creation of a topic that is under way, begun where there is none.
    fn join_creation(&self, hosted: &Arc<Hosted>, config: TopicConfig) -> Creation {
        let mut under_way = lock(&self.under_way);
        let name = config.name.clone();
        // One that is over and still here has come to no good end.
        if let Some(creation) = under_way.get(&name).filter(|creation| creation.peek().is_none()) {
            return creation.clone();
        }
        let (told, outcome) = oneshot::channel();
        let stopped = |_| Err(Arc::new(Error::Unknown("the topic's creation was broken off".into())));
        let creation = outcome.map(move |outcome| outcome.unwrap_or_else(stopped)).boxed().shared();
        under_way.insert(name.clone(), creation.clone());
        drop(under_way);
        let hosted = hosted.clone();
        tokio::spawn(async move {
            let result = create(&hosted, &config).await;
            lock(&hosted.creations.under_way).remove(&name);
            let is_new = matches!(result, Ok(true));
            // Who asked may be gone by then.
            let _ = told.send(result.map(drop).map_err(Arc::new));
            if is_new {
                tracing::info!(group = hosted.name(), topic = name, "topic created by a first message");
                if !is_local(&name) {
                    everywhere(&hosted, config).await;
                }
            }
        });
        creation
    }

    /// Lets the sends of a topic go on; those that arrive meanwhile join the end.
    fn release(&self, hosted: &Arc<Hosted>, topic: &str, result: &Result<(), Error>) {
        loop {
            let calls = {
                let mut waiting = lock(&self.waiting);
                let calls = waiting.topics.get_mut(topic).map(std::mem::take).unwrap_or_default();
                if calls.is_empty() {
                    waiting.topics.remove(topic);
                    self.count.store(waiting.topics.len(), Ordering::Release);
                    return;
                }
                waiting.calls -= calls.len();
                calls
            };
            for call in calls {
                match result {
                    Ok(()) => send::send_now(hosted, call),
                    // Nothing was stored for the send itself, whatever became of the topic.
                    Err(Error::Refused { code, remark }) => {
                        hosted.fail(call, Error::refused(*code, remark.clone()));
                    }
                    Err(Error::NotLeader { leader }) => hosted.again(call, *leader),
                    Err(_) => hosted.again(call, None),
                }
            }
        }
    }
}

/// Creates a topic where it does not exist, and returns when it is there; in the other groups of the cluster behind that.
///
/// # Errors
/// That of the one creation, for all who waited for it.
pub(crate) async fn ensure(hosted: &Arc<Hosted>, config: TopicConfig) -> Result<(), Error> {
    hosted.creations.join_creation(hosted, config).await.map_err(|error| error.shared())
}

/// False: it is there already.
async fn create(hosted: &Hosted, config: &TopicConfig) -> Result<bool, Error> {
    if hosted.state.topic(&config.name).is_some() {
        return Ok(false);
    }
    let reply = hosted.propose_here(Command::create_topic(config.clone())).await?;
    if reply.code != 0 {
        return Err(Error::refused(wire::ResponseCode(reply.code), reply.remark));
    }
    Ok(reply.changed)
}

/// Whether a topic is of the group that needs it alone: others make their own, or refuse it as one of the system's.
fn is_local(topic: &str) -> bool {
    wire::is_retry_topic(topic) || wire::is_dlq_topic(topic) || topic == wire::topic::TRANS_CHECK_MAX_TIME
}

/// A consumer group by its name. One that is missing is made where heartbeats may make it, as RocketMQ does for each request of a
/// consumer (findSubscriptionGroupConfig): its first heartbeat may not be answered yet.
pub(crate) async fn consumer_group(hosted: &Hosted, name: &str) -> Result<Option<Arc<Group>>, Error> {
    let known = hosted.state.group(name);
    if known.is_some() || !hosted.settings.auto_create_group() || rules::group_name(name).is_err() {
        return Ok(known);
    }
    let reply = hosted.propose_here(Command::create_group(rules::default_group(name))).await?;
    if reply.code != 0 {
        return Err(Error::refused(wire::ResponseCode(reply.code), reply.remark));
    }
    Ok(hosted.state.group(name))
}

/// Creates the topic in the other groups of the cluster. Nobody waits for it; what fails is logged.
async fn everywhere(hosted: &Arc<Hosted>, config: TopicConfig) {
    let here = hosted.node.groups();
    for other in
        here.iter().filter(|other| other.name() != hosted.name() && other.settings.auto_create_topic())
    {
        let command = Command::create_topic(config.clone());
        match other.propose_anywhere(&command, Instant::now() + PARK * 2).await {
            Ok(reply) if reply.code == 0 => {}
            Ok(reply) => {
                tracing::warn!(
                    group = other.name(),
                    topic = config.name,
                    remark = reply.remark,
                    "not created"
                );
            }
            Err(error) => tracing::warn!(group = other.name(), topic = config.name, %error, "not created"),
        }
    }
    let names: Vec<&str> = here.iter().map(|group| group.name()).collect();
    for (name, address) in elsewhere(hosted, &names, &config.name).await {
        let wire = config.to_wire();
        let header = CreateTopicRequest {
            topic: wire.topic_name,
            default_topic: wire::topic::AUTO_CREATE.to_owned(),
            read_queue_nums: wire.read_queue_nums,
            write_queue_nums: wire.write_queue_nums,
            perm: wire.perm,
            topic_filter_type: wire.topic_filter_type,
            topic_sys_flag: Some(wire.topic_sys_flag),
            order: wire.order,
            ..CreateTopicRequest::default()
        };
        let request = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_TOPIC).with_header(&header);
        match hosted.node.outside.call(&address, request, CLIENT_CALL).await {
            Ok(response) if response.code == 0 => {}
            Ok(response) => {
                let remark = response.remark.unwrap_or_default();
                tracing::warn!(group = name, topic = config.name, remark, "not created");
            }
            Err(error) => tracing::warn!(group = name, topic = config.name, %error, "not created"),
        }
    }
}

/// Names and addresses of the cluster's groups that are on other nodes only and do not have the topic.
async fn elsewhere(hosted: &Hosted, here: &[&str], topic: &str) -> Vec<(String, String)> {
    let node = &hosted.node;
    for nameserver in &node.config.nameservers {
        let request = RemotingCommand::request(RequestCode::GET_BROKER_CLUSTER_INFO);
        let Ok(response) = node.outside.call(nameserver, request, CLIENT_CALL).await else { continue };
        let Ok(info) = ClusterInfo::decode(&response.body) else { continue };
        let route =
            RemotingCommand::request(RequestCode::GET_ROUTEINFO_BY_TOPIC).with_header(&GetRouteInfoRequest {
                topic: topic.to_owned(),
                accept_standard_json_only: Some(true),
            });
        let route = match node.outside.call(nameserver, route, CLIENT_CALL).await {
            // 17: nobody has it yet.
            Ok(response) => TopicRouteData::decode(&response.body).unwrap_or_default(),
            Err(_) => continue,
        };
        // It may have been changed there on purpose: only where it is missing.
        let has = |name: &String| route.queue_datas.iter().any(|queues| queues.broker_name == *name);
        let names = info.cluster_addr_table.get(&node.config.cluster).into_iter().flatten();
        return names
            .filter(|name| !here.contains(&name.as_str()) && !has(name))
            .filter_map(|name| {
                let master = info.broker_addr_table.get(name)?.broker_addrs.get(&MASTER_ID)?;
                Some((name.clone(), master.clone()))
            })
            .collect();
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_are_told_of() {
        for (topic, want) in
            [("T", false), ("%RETRY%g", true), ("%DLQ%g", true), ("TRANS_CHECK_MAX_TIME_TOPIC", true)]
        {
            assert_eq!(is_local(topic), want, "{topic}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_topic_that_many_need_is_created_once() {
        let node = crate::tests::OneNode::start().await;
        let hosted = node.broker.hosted("b1");
        let config = |name: &str| TopicConfig {
            name: name.to_owned(),
            read_queues: 1,
            write_queues: 1,
            perm: 6,
            ..TopicConfig::default()
        };
        let too_long = "t".repeat(1000);
        for (name, works) in [("T", true), (too_long.as_str(), false), ("T", true)] {
            let before = node.broker.status()[0].last_index;
            let all = (0..200).map(|_| ensure(&hosted, config(name)));
            for result in futures::future::join_all(all).await {
                match result {
                    Ok(()) => assert!(works),
                    Err(Error::Refused { .. }) => assert!(!works),
                    Err(error) => panic!("{error}"),
                }
            }
            let entries = node.broker.status()[0].last_index - before;
            assert!(entries <= 20, "{entries} entries for one topic");
        }
        assert!(hosted.state.topic("T").is_some());
        assert!(lock(&hosted.creations.under_way).is_empty());
        node.stop().await;
    }
}
