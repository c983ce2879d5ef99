//! Requests of RocketMQ that RaftMQ does not do, and why: the reason stands in the remark behind RocketMQ's own words,
//! so that whoever runs a tool learns what to do instead.

use wire::RequestCode;

const ELECTION: &str = "there is no controller: the nodes of a group elect their leader by Raft; see \
                        `raftmq admin group status` and `raftmq admin group transfer`";
const USERS: &str = "there are no users and access lists yet";
const COLD: &str = "cold reads have a budget of their own and need no control by group";
const STATIC: &str = "static topics, whose queues are mapped to other brokers, are not supported";
const ROCKSDB: &str = "nothing is kept in RocksDB: topics, groups and offsets are in the replicated log";
const CONTAINER: &str = "there is no broker container: a node hosts the groups of its configuration file";
const FILTER: &str = "filter servers are not supported";

/// By code.
const REASONS: &[(RequestCode, &str)] = &[
    (RequestCode::TRIGGER_DELETE_FILES, "the log is not shortened on request"),
    (RequestCode::REGISTER_FILTER_SERVER, FILTER),
    (RequestCode::REGISTER_MESSAGE_FILTER_CLASS, FILTER),
    (
        RequestCode::DELETE_EXPIRED_COMMITLOG,
        "the log is not shortened on request: all replicas have the same first position",
    ),
    (
        RequestCode::UPDATE_AND_GET_GROUP_FORBIDDEN,
        "a group cannot be forbidden a single topic: use the topic's perm or the group's consumeEnable",
    ),
    (RequestCode::CHECK_ROCKSDB_CQ_WRITE_PROGRESS, ROCKSDB),
    (RequestCode::EXPORT_ROCKSDB_CONFIG_TO_JSON, ROCKSDB),
    (
        RequestCode::GET_ALL_MESSAGE_REQUEST_MODE,
        "no broker copies another one's request modes: followers have them from the log",
    ),
    (RequestCode::UPDATE_AND_CREATE_STATIC_TOPIC, STATIC),
    (RequestCode::ADD_BROKER, CONTAINER),
    (RequestCode::REMOVE_BROKER, CONTAINER),
    (
        RequestCode::RESET_MASTER_FLUSH_OFFSET,
        "there is no flush offset to reset: a follower's log is the leader's, checked entry by entry",
    ),
    (RequestCode::CONTROLLER_ELECT_MASTER, ELECTION),
    (RequestCode::CONTROLLER_GET_METADATA_INFO, ELECTION),
    (RequestCode::CONTROLLER_GET_SYNC_STATE_DATA, ELECTION),
    (
        RequestCode::GET_BROKER_EPOCH_CACHE,
        "there are no epochs: terms are in the log; see `raftmq admin group status`",
    ),
    (RequestCode::UPDATE_CONTROLLER_CONFIG, ELECTION),
    (RequestCode::GET_CONTROLLER_CONFIG, ELECTION),
    (RequestCode::CLEAN_BROKER_DATA, ELECTION),
    (RequestCode::UPDATE_COLD_DATA_FLOW_CTR_CONFIG, COLD),
    (RequestCode::REMOVE_COLD_DATA_FLOW_CTR_CONFIG, COLD),
    (RequestCode::GET_COLD_DATA_FLOW_CTR_INFO, COLD),
    (RequestCode::SET_COMMITLOG_READ_MODE, "the kernel's read-ahead is not set by request"),
    (RequestCode::AUTH_CREATE_USER, USERS),
    (RequestCode::AUTH_UPDATE_USER, USERS),
    (RequestCode::AUTH_DELETE_USER, USERS),
    (RequestCode::AUTH_GET_USER, USERS),
    (RequestCode::AUTH_LIST_USER, USERS),
    (RequestCode::AUTH_CREATE_ACL, USERS),
    (RequestCode::AUTH_UPDATE_ACL, USERS),
    (RequestCode::AUTH_DELETE_ACL, USERS),
    (RequestCode::AUTH_GET_ACL, USERS),
    (RequestCode::AUTH_LIST_ACL, USERS),
    (RequestCode::POP_ROLLBACK, "pop keeps its records in the replicated log: there are none to export"),
];

/// The remark of code 3.
pub(crate) fn remark(code: RequestCode) -> String {
    let words = format!(" request type {} not supported", code.get());
    match reason(code) {
        Some(why) => format!("{words}: {why}"),
        None => words,
    }
}

fn reason(code: RequestCode) -> Option<&'static str> {
    REASONS.binary_search_by_key(&code, |(code, _)| *code).ok().map(|at| REASONS[at].1)
}

/// Codes and reasons, for docs/requests.md.
pub(crate) fn all() -> impl Iterator<Item = (RequestCode, &'static str)> {
    REASONS.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_order_and_for_what_is_not_answered() {
        assert!(REASONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (code, _) in REASONS {
            assert!(crate::requests::row_of(*code).is_none(), "{code} is answered");
        }
        assert_eq!(remark(RequestCode(7777)), " request type 7777 not supported");
        assert!(
            remark(RequestCode::AUTH_LIST_ACL).starts_with(" request type 3010 not supported: there are no")
        );
    }
}
