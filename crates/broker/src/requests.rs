//! Every request code that a broker knows, in one table: what its class is and who handles it. Dispatch, forwarding
//! and docs/requests.md derive from it. A code that is not here is answered with 3.

use std::fmt::Write as _;
use std::sync::Arc;

use futures::future::BoxFuture;
use wire::{RemotingCommand, RequestCode};

use crate::call::Call;
use crate::errors::Error;
use crate::handlers::step::Step;
use crate::handlers::{
    assignment, consumer_admin, delayed, digest, group, heartbeat, lists, lock, node, offset, pop, pull,
    query, raft, recall, refused, reply, reset, resume, send, send_back, step, story, topic, transaction,
};
use crate::hosted::Hosted;
use crate::service::wall_clock_ms;

/// Who answers a request (design.md, "Who answers what").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The node where it arrives; never passed on.
    Node,
    /// Proposed at the leader; other nodes pass it on.
    Log,
    /// Answered by the leader after a ReadIndex round; other nodes pass it on.
    Current,
    /// Answered from what is applied at this node, where that is enough.
    Read,
    /// Answered from the client registry, which is the same on every node.
    Clients,
}

/// How a handler does it.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// Takes the call over and returns at once.
    Take(fn(&Arc<Hosted>, Call)),
    /// Decides by the tables alone: an answer, or a command for the log.
    Step(fn(&Hosted, &RemotingCommand) -> Result<Step, Error>),
    /// Works the answer out on a task of its own.
    Work(for<'a> fn(&'a Arc<Hosted>, &'a Call) -> Answer<'a>),
}

/// An answer that is being worked out.
pub(crate) type Answer<'a> = BoxFuture<'a, Result<RemotingCommand, Error>>;

pub(crate) struct Row {
    pub(crate) code: RequestCode,
    pub(crate) class: Class,
    pub(crate) action: Action,
    /// Log: each ends when its one entry is committed, and waits for nothing else: no client, no scan, no turn at the
    /// disk, no nameserver. Nodes that do not lead pass those on together, in order, and each is answered with the last.
    pub(crate) is_brief: bool,
    /// What it is, for people.
    what: &'static str,
}

const fn row(code: RequestCode, class: Class, action: Action, what: &'static str) -> Row {
    Row { code, class, action, is_brief: false, what }
}

/// A row of Log whose requests end with their commit.
const fn brief(code: RequestCode, action: Action, what: &'static str) -> Row {
    Row { code, class: Class::Log, action, is_brief: true, what }
}

use Action::{Step as Tables, Take, Work};
use Class::{Clients, Current, Log, Node, Read};

/// By code.
const TABLE: &[Row] = &[
    brief(RequestCode::SEND_MESSAGE, Take(send::send), "send a message"),
    row(
        RequestCode::PULL_MESSAGE,
        Read,
        Take(pull::pull),
        "pull; passed on by followers unless they may read",
    ),
    row(RequestCode::QUERY_MESSAGE, Read, Work(query::query), "messages by key or unique id"),
    row(RequestCode::QUERY_CONSUMER_OFFSET, Current, Work(offset::query), "a consumer's offset"),
    brief(RequestCode::UPDATE_CONSUMER_OFFSET, Take(offset::update), "commit a consumer's offset"),
    row(
        RequestCode::UPDATE_AND_CREATE_TOPIC,
        Log,
        Tables(|h, r| topic::update(&h.state, &h.names, r)),
        "create or change a topic",
    ),
    row(RequestCode::UPDATE_AND_CREATE_TOPIC_LIST, Log, Work(lists::topics), "create or change topics"),
    row(
        RequestCode::GET_ALL_TOPIC_CONFIG,
        Read,
        Tables(|h, r| topic::all(&h.state, h.term(), r).map(Step::Answer)),
        "all topics",
    ),
    row(RequestCode::UPDATE_BROKER_CONFIG, Node, Take(node::update_config), "change what may change of it"),
    row(RequestCode::GET_BROKER_CONFIG, Node, Take(node::config), "this node's configuration"),
    row(RequestCode::GET_BROKER_RUNTIME_INFO, Node, Work(node::runtime), "this node's state"),
    row(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, Current, Work(offset::search), "the offset at a store time"),
    row(RequestCode::GET_MAX_OFFSET, Current, Work(offset::max), "the next offset of a queue"),
    row(RequestCode::GET_MIN_OFFSET, Current, Work(offset::min), "the first offset of a queue"),
    row(
        RequestCode::GET_EARLIEST_MSG_STORETIME,
        Current,
        Work(offset::earliest),
        "store time of the first message",
    ),
    row(RequestCode::VIEW_MESSAGE_BY_ID, Read, Work(query::view), "a message by offset id"),
    row(RequestCode::HEART_BEAT, Node, Take(heartbeat::heartbeat), "a client's heartbeat"),
    row(RequestCode::UNREGISTER_CLIENT, Node, Take(heartbeat::unregister), "a client leaves"),
    row(
        RequestCode::CONSUMER_SEND_MSG_BACK,
        Log,
        Work(send_back::send_back),
        "a consumer gives a message back",
    ),
    row(
        RequestCode::END_TRANSACTION,
        Log,
        Take(transaction::end),
        "commit or roll back; passed on to the group of the half message",
    ),
    row(
        RequestCode::GET_CONSUMER_LIST_BY_GROUP,
        Clients,
        Work(heartbeat::members),
        "members of a consumer group",
    ),
    brief(RequestCode::LOCK_BATCH_MQ, Take(lock::lock), "lock queues for one consumer"),
    brief(RequestCode::UNLOCK_BATCH_MQ, Take(lock::unlock), "unlock queues"),
    row(RequestCode::CHECK_CLIENT_CONFIG, Node, Take(heartbeat::check), "check a subscription"),
    row(
        RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
        Log,
        Tables(|_, r| group::update(r)),
        "create or change a consumer group",
    ),
    row(
        RequestCode::GET_ALL_SUBSCRIPTIONGROUP_CONFIG,
        Read,
        Tables(|h, r| group::all(&h.state, h.term(), r).map(Step::Answer)),
        "all consumer groups",
    ),
    row(RequestCode::GET_TOPIC_STATS_INFO, Current, Work(node::topic_stats), "a topic's offsets"),
    row(
        RequestCode::GET_CONSUMER_CONNECTION_LIST,
        Clients,
        Tables(|h, r| consumer_admin::consumer_connection(&h.node.clients, r).map(Step::Answer)),
        "a consumer group's connections",
    ),
    row(
        RequestCode::GET_PRODUCER_CONNECTION_LIST,
        Clients,
        Tables(|h, r| consumer_admin::producer_connection(&h.node.clients, r).map(Step::Answer)),
        "a producer group's connections",
    ),
    row(
        RequestCode::DELETE_SUBSCRIPTIONGROUP,
        Log,
        Tables(|_, r| group::delete(r)),
        "delete a consumer group",
    ),
    row(RequestCode::GET_CONSUME_STATS, Current, Work(node::consume_stats), "a consumer group's progress"),
    row(
        RequestCode::DELETE_TOPIC_IN_BROKER,
        Log,
        Tables(|h, r| topic::delete(&h.names, r)),
        "delete a topic",
    ),
    row(
        RequestCode::INVOKE_BROKER_TO_RESET_OFFSET,
        Log,
        Work(reset::reset),
        "set where a consumer group goes on",
    ),
    row(
        RequestCode::INVOKE_BROKER_TO_GET_CONSUMER_STATUS,
        Clients,
        Work(reset::status),
        "where consumers say that they stand",
    ),
    row(
        RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST,
        Log,
        Work(lists::groups),
        "create or change consumer groups",
    ),
    row(
        RequestCode::QUERY_TOPIC_CONSUME_BY_WHO,
        Clients,
        Tables(|h, r| consumer_admin::consumed_by(&h.state, &h.node.clients, r).map(Step::Answer)),
        "groups that consume a topic",
    ),
    row(RequestCode::QUERY_CONSUME_TIME_SPAN, Current, Work(node::time_spans), "a group's progress by time"),
    row(
        RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_BROKER,
        Node,
        Tables(|h, r| Ok(Step::Answer(topic::system(&h.names, r)))),
        "system topics",
    ),
    row(
        RequestCode::CLEAN_EXPIRED_CONSUMEQUEUE,
        Node,
        Tables(|_, r| Ok(Step::Answer(step::success(r)))),
        "nothing to do: the files of the queue index go with the log",
    ),
    row(RequestCode::GET_CONSUMER_RUNNING_INFO, Clients, Work(node::running_info), "relayed to a consumer"),
    row(
        RequestCode::QUERY_CORRECTION_OFFSET,
        Current,
        Work(reset::correction),
        "the least offsets of all groups in a topic",
    ),
    row(
        RequestCode::CONSUME_MESSAGE_DIRECTLY,
        Clients,
        Work(node::consume_directly),
        "relayed to a consumer with a message",
    ),
    brief(RequestCode::SEND_MESSAGE_V2, Take(send::send), "send a message, short field names"),
    row(
        RequestCode::CLONE_GROUP_OFFSET,
        Log,
        Work(reset::clone),
        "give a consumer group another one's offsets",
    ),
    row(RequestCode::VIEW_BROKER_STATS_DATA, Node, Take(node::counter), "one of this node's counters"),
    row(
        RequestCode::CLEAN_UNUSED_TOPIC,
        Node,
        Tables(|_, r| Ok(Step::Answer(step::success(r)))),
        "nothing to do: a topic's queues go with the topic",
    ),
    row(
        RequestCode::GET_BROKER_CONSUME_STATS,
        Current,
        Work(node::all_consume_stats),
        "every group's progress",
    ),
    brief(RequestCode::SEND_BATCH_MESSAGE, Take(send::send), "send a batch"),
    row(RequestCode::QUERY_CONSUME_QUEUE, Current, Work(query::consume_queue), "units of a queue's index"),
    row(
        RequestCode::RESUME_CHECK_HALF_MESSAGE,
        Log,
        Work(resume::resume),
        "ask once more of a transaction that was put aside",
    ),
    row(RequestCode::SEND_REPLY_MESSAGE, Log, Work(reply::reply), "a reply, pushed to who waits for it"),
    row(RequestCode::SEND_REPLY_MESSAGE_V2, Log, Work(reply::reply), "the same, short field names"),
    row(
        RequestCode::GET_ALL_PRODUCER_INFO,
        Clients,
        Tables(|h, r| Ok(Step::Answer(consumer_admin::all_producers(&h.node.clients, wall_clock_ms(), r)))),
        "all producers",
    ),
    row(
        RequestCode::QUERY_TOPICS_BY_CONSUMER,
        Read,
        Tables(|h, r| consumer_admin::topics_of(&h.state, h.config.advertised(), r).map(Step::Answer)),
        "topics in which a group has offsets",
    ),
    row(
        RequestCode::QUERY_SUBSCRIPTION_BY_CONSUMER,
        Clients,
        Tables(|h, r| consumer_admin::subscription(&h.node.clients, r).map(Step::Answer)),
        "a group's subscription to a topic",
    ),
    row(
        RequestCode::GET_TOPIC_CONFIG,
        Current,
        Tables(|h, r| topic::one(&h.state, r).map(Step::Answer)),
        "a topic's configuration",
    ),
    row(
        RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG,
        Current,
        Tables(|h, r| group::one(&h.state, r).map(Step::Answer)),
        "a consumer group's configuration",
    ),
    row(RequestCode::LITE_PULL_MESSAGE, Read, Take(pull::pull), "pull, of lite pull consumers"),
    row(RequestCode::RECALL_MESSAGE, Log, Work(recall::recall), "take a timer message back"),
    row(
        RequestCode::QUERY_ASSIGNMENT,
        Current,
        Work(assignment::query),
        "the queues of a consumer, and how it gets their messages",
    ),
    row(
        RequestCode::SET_MESSAGE_REQUEST_MODE,
        Log,
        Work(assignment::set_mode),
        "whether a group gets a topic's messages by pull or by pop",
    ),
    row(RequestCode::GET_BROKER_HA_STATUS, Node, Take(node::ha_status), "replication as this node sees it"),
    row(RequestCode(raft::GROUP_STATUS), Node, Take(raft::status), "RaftMQ: a group's status on this node"),
    row(RequestCode(raft::TRANSFER_LEADER), Log, Work(raft::transfer), "RaftMQ: hand leadership over"),
    row(
        RequestCode(digest::REPLICA_DIGEST),
        Node,
        Work(digest::digest),
        "RaftMQ: digests of what this node's replica holds, at one entry",
    ),
    row(
        RequestCode(raft::RAISE_LEVEL),
        Log,
        Work(raft::raise_level),
        "RaftMQ: raise the feature level without nodes that are gone",
    ),
    row(RequestCode(story::MESSAGE_STORY), Current, Work(story::story), "RaftMQ: the story of a message"),
    row(
        RequestCode(delayed::PENDING_MESSAGES),
        Current,
        Work(delayed::pending),
        "RaftMQ: messages that wait for their time",
    ),
    row(
        RequestCode::POP_MESSAGE,
        Read,
        Take(pop::pop),
        "pop; passed on by followers, and held where it arrived",
    ),
    brief(RequestCode::ACK_MESSAGE, Take(pop::ack), "acknowledge a popped message"),
    row(RequestCode::PEEK_MESSAGE, Current, Work(pop::peek), "what a pop would bring, without taking it"),
    brief(
        RequestCode::CHANGE_MESSAGE_INVISIBLETIME,
        Take(pop::change),
        "another invisible time for a popped message",
    ),
    row(
        RequestCode::NOTIFICATION,
        Read,
        Take(pop::notification),
        "whether there is something to pop; passed on by followers, and held where it arrived",
    ),
    row(
        RequestCode::POLLING_INFO,
        Read,
        Tables(|h, r| pop::polling_info(h, r).map(Step::Answer)),
        "how many pops wait at this node",
    ),
    brief(RequestCode::BATCH_ACK_MESSAGE, Take(pop::batch_ack), "acknowledge many popped messages"),
];

/// The row of a code.
pub(crate) fn row_of(code: RequestCode) -> Option<&'static Row> {
    TABLE.binary_search_by_key(&code, |row| row.code).ok().map(|at| &TABLE[at])
}

/// docs/requests.md.
pub fn documentation() -> String {
    let mut text = String::from(
        "# Requests that a broker answers\n\n\
         Made from the table in crates/broker/src/requests.rs; a test compares the two. Any other code is answered \
         with 3; for those below the remark says why.\n\n\
         | code | name | class | what |\n|---|---|---|---|\n",
    );
    for row in TABLE {
        let name = row.code.name().unwrap_or("(RaftMQ)");
        // Writing into a String cannot fail.
        let _ = writeln!(text, "| {} | {name} | {:?} | {} |", row.code.get(), row.class, row.what);
    }
    text.push_str(
        "\nClasses: Node is answered where it arrives. Log is proposed at the leader, Current is answered by it after a \
         ReadIndex round; other nodes pass both on, one hop at most. Read is answered from what is applied on the node. \
         Clients is answered from the client registry, which every node has.\n\n\
         ## Refused, with the reason\n\n| code | name | why |\n|---|---|---|\n",
    );
    for (code, why) in refused::all() {
        let name = code.name().unwrap_or_default();
        let _ = writeln!(text, "| {} | {name} | {why} |", code.get());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        assert!(TABLE.windows(2).all(|pair| pair[0].code < pair[1].code));
        assert!(row_of(RequestCode::SEND_MESSAGE_V2).is_some());
        assert!(row_of(RequestCode::GET_TOPIC_NAME_LIST).is_none());
    }

    /// What waits for anything but its commit holds up every send that a follower passes on with it.
    #[test]
    fn what_is_passed_on_together_ends_with_its_commit() {
        let brief: Vec<i32> = TABLE.iter().filter(|row| row.is_brief).map(|row| row.code.get()).collect();
        assert_eq!(brief, [10, 15, 41, 42, 310, 320, 200_051, 200_053, 200_151]);
        assert!(TABLE.iter().filter(|row| row.is_brief).all(|row| row.class == Class::Log));
    }

    #[test]
    fn docs_are_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/requests.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, documentation()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == documentation(),
            "docs/requests.md is out of date; run this test with UPDATE_DOCS=1"
        );
    }
}
