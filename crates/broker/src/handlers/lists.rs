//! Many at once: 18 topics, 225 consumer groups. Each is a command of its own, as if it were asked for alone; nothing is
//! proposed where one of them breaks a rule.

use std::sync::Arc;
use std::time::Instant;

use futures::future::FutureExt;
use wire::{
    Body, CreateTopicListRequestBody, CreateTopicRequest, RemotingCommand, ResponseCode,
    SubscriptionGroupList, TopicConfig,
};

use crate::call::Call;
use crate::errors::Error;
use crate::handlers::step::{self, success};
use crate::handlers::{group, topic};
use crate::hosted::Hosted;
use crate::limits::ADMIN_LIST_MAX;
use crate::requests::Answer;
use crate::state::{Command, Names, State};

/// 18.
pub(crate) fn topics<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let commands = topic_commands(&hosted.state, &hosted.names, &call.request.body)?;
        propose(hosted, call, commands).await
    }
    .boxed()
}

/// 225.
pub(crate) fn groups<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let commands = group_commands(&call.request.body)?;
        propose(hosted, call, commands).await
    }
    .boxed()
}

fn topic_commands(state: &State, names: &Names, body: &[u8]) -> Result<Vec<Command>, Error> {
    let list = CreateTopicListRequestBody::decode(body)?.topic_config_list;
    check_length(list.len())?;
    list.into_iter().map(|config| topic::change(state, names, asked(config))).collect()
}

fn group_commands(body: &[u8]) -> Result<Vec<Command>, Error> {
    let list = SubscriptionGroupList::decode(body)?.group_config_list;
    check_length(list.len())?;
    list.iter().map(group::change).collect()
}

fn check_length(length: usize) -> Result<(), Error> {
    if (1..=ADMIN_LIST_MAX).contains(&length) {
        return Ok(());
    }
    let remark = format!("the list has {length} entries, not from 1 to {ADMIN_LIST_MAX}");
    Err(Error::refused(ResponseCode::INVALID_PARAMETER, remark))
}

/// The same as a request for this topic alone. Keys of attributes have their sign before them, `+message.type`.
fn asked(config: TopicConfig) -> CreateTopicRequest {
    let attribute = |(key, value): (&String, &String)| {
        if key.starts_with('-') { key.clone() } else { format!("{key}={value}") }
    };
    let attributes: Vec<String> = config.attributes.iter().map(attribute).collect();
    CreateTopicRequest {
        topic: config.topic_name,
        default_topic: wire::topic::AUTO_CREATE.into(),
        read_queue_nums: config.read_queue_nums,
        write_queue_nums: config.write_queue_nums,
        perm: config.perm,
        topic_filter_type: config.topic_filter_type,
        topic_sys_flag: Some(config.topic_sys_flag),
        order: config.order,
        attributes: (!attributes.is_empty()).then(|| attributes.join(",")),
        force: None,
    }
}

/// Proposes one after the other, until nobody waits for the answer any more: a long list must not keep others from
/// their turn for longer. An error leaves what came before it: to ask again for all does no harm, and what is as it is to
/// be is not proposed again, so that each time brings the list further.
async fn propose(hosted: &Hosted, call: &Call, commands: Vec<Command>) -> Result<RemotingCommand, Error> {
    let mut changed = false;
    let mut end = success(&call.request);
    let count = commands.len();
    for (done, command) in commands.into_iter().enumerate() {
        // The last one is proposed in any case: with it this node has led all the time.
        if done + 1 < count && hosted.state.has(&command) {
            continue;
        }
        if Instant::now() >= call.deadline {
            let remark =
                format!("{done} of {count} entries are done and the time is over: send the list again");
            end = call.response(ResponseCode::SYSTEM_BUSY).with_remark(remark);
            break;
        }
        let reply = hosted.propose_here(command).await?;
        changed |= reply.changed;
        if reply.code != 0 {
            end = step::answer(&call.request, &reply);
            break;
        }
    }
    if changed {
        hosted.register_by(call.deadline).await;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command::Kind;
    use crate::state::testing::small_state;

    fn topics(body: &str) -> Result<Vec<Command>, i32> {
        let names = Names { cluster: "c1".into(), broker: "b1".into() };
        topic_commands(&small_state(), &names, body.as_bytes()).map_err(|error| error.answer().0.get())
    }

    #[test]
    fn topics_as_mqadmin_sends_them() {
        let commands = topics(
            r#"{"topicConfigList":[{"attributes":{"+message.type":"FIFO"},"order":true,"perm":6,"readQueueNums":4,
               "topicFilterType":"SINGLE_TAG","topicName":"A","topicSysFlag":0,"writeQueueNums":4},
               {"topicName":"B","readQueueNums":1,"writeQueueNums":2,"perm":4}]}"#,
        )
        .unwrap();
        let kinds: Vec<_> = commands.into_iter().filter_map(|command| command.kind).collect();
        let [Kind::UpdateTopic(a), Kind::UpdateTopic(b)] = &kinds[..] else { panic!("{kinds:?}") };
        assert_eq!((a.config.name.as_str(), a.config.order), ("A", true));
        assert_eq!(a.config.attribute("message.type"), Some("FIFO"));
        assert_eq!((b.config.name.as_str(), b.config.read_queues, b.config.perm), ("B", 1, 4));
    }

    #[test]
    fn one_that_breaks_a_rule_stops_all() {
        for (body, code) in [
            (r#"{"topicConfigList":[]}"#, 29),
            (r#"{"topicConfigList":[{"topicName":"A"},{"topicName":"TBW102"}]}"#, 29),
            (r#"{"topicConfigList":[{"topicName":"A","attributes":{"message.type":"FIFO"}}]}"#, 29),
            (r#"{"topicConfigList":[{"topicName":"A","attributes":{"-message.type":""}}]}"#, 29),
            ("", 1),
            ("[", 1),
        ] {
            assert_eq!(topics(body).unwrap_err(), code, "{body}");
        }
        let many = format!(r#"{{"topicConfigList":[{}]}}"#, vec![r#"{"topicName":"A"}"#; 1001].join(","));
        assert_eq!(topics(&many).unwrap_err(), 29);
    }

    #[test]
    fn groups() {
        let commands = group_commands(
            br#"{"groupConfigList":[{"groupName":"g1","retryMaxTimes":3},{"groupName":"g2"}]}"#,
        );
        assert_eq!(commands.unwrap().len(), 2);
        let bad = group_commands(br#"{"groupConfigList":[{"groupName":"g1"},{"groupName":"a b"}]}"#);
        assert_eq!(bad.unwrap_err().answer().0.get(), 29);
    }
}
