//! mqadmin's names: `raftmq admin topicList` is `raftmq admin topic list`. Only the names: options are RaftMQ's own.

use std::ffi::OsString;

/// mqadmin's name, and the words of ours.
const NAMES: [(&str, [&str; 2]); 18] = [
    ("brokerStatus", ["broker", "status"]),
    ("clusterList", ["cluster", "list"]),
    ("consumerConnection", ["consumer", "connection"]),
    ("consumerProgress", ["consumer", "progress"]),
    ("deleteSubGroup", ["consumer", "delete"]),
    ("deleteTopic", ["topic", "delete"]),
    ("getBrokerConfig", ["broker", "config"]),
    ("producerConnection", ["producer", "connection"]),
    ("queryMsgById", ["message", "id"]),
    ("queryMsgByKey", ["message", "key"]),
    ("queryMsgByUniqueKey", ["message", "id"]),
    ("topicList", ["topic", "list"]),
    ("topicRoute", ["topic", "route"]),
    ("topicStatus", ["topic", "status"]),
    ("updateBrokerConfig", ["broker", "config"]),
    ("updateSubGroup", ["consumer", "create"]),
    ("updateTopic", ["topic", "create"]),
    ("updateTopicPerm", ["topic", "perm"]),
];

/// The arguments of the program with such a name replaced, where it stands for a command of `admin`.
pub(crate) fn translate(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    let mut is_done = false;
    for (at, argument) in arguments.into_iter().enumerate() {
        let text = argument.to_str();
        if at == 1 && text != Some("admin") {
            is_done = true;
        }
        let is_value = out.last().is_some_and(|before| before == "-n" || before == "--nameserver");
        if !is_done && at > 1 && !is_value && !text.is_some_and(|text| text.starts_with('-')) {
            // The first word is the command, whatever it is.
            is_done = true;
            let found =
                NAMES.iter().find(|(name, _)| text.is_some_and(|text| text.eq_ignore_ascii_case(name)));
            if let Some((_, words)) = found {
                out.extend(words.map(OsString::from));
                continue;
            }
        }
        out.push(argument);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_mqadmin() {
        let check = |line: &str, want: &str| {
            let words = translate(line.split(' ').map(OsString::from));
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            assert_eq!(words.join(" "), want);
        };
        check("raftmq admin topicList", "raftmq admin topic list");
        check("raftmq admin -n a:1 --json topiclist", "raftmq admin -n a:1 --json topic list");
        check("raftmq admin -n topicList topicRoute T", "raftmq admin -n topicList topic route T");
        check("raftmq admin topic create topicList", "raftmq admin topic create topicList");
        check("raftmq produce topicList", "raftmq produce topicList");
        check("raftmq", "raftmq");
    }
}
