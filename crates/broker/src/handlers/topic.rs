//! Topics: 17 create or change, 215 delete, 351 one, 21 all, 305 the system's (protocol.md 8.2).

use wire::{
    Body, CreateTopicRequest, GetAllTopicConfigRequest, GetAllTopicConfigResponse, RemotingCommand,
    ResponseCode, TopicConfigSerializeWrapper, TopicList, TopicRequest,
};

use crate::errors::Error;
use crate::handlers::page::{self, Page};
use crate::handlers::step::{Step, success};
use crate::state::command::{DeleteTopic, Kind, UpdateTopic};
use crate::state::rules;
use crate::state::{Command, Names, State, TopicConfig};

/// 17. The default topic that it names is only a form: the request carries every value.
pub(crate) fn update(state: &State, names: &Names, request: &RemotingCommand) -> Result<Step, Error> {
    let header = CreateTopicRequest::decode(&request.ext)?;
    change(state, names, header).map(Step::Propose)
}

/// What an administrator asks for, as a command.
pub(crate) fn change(state: &State, names: &Names, header: CreateTopicRequest) -> Result<Command, Error> {
    let name = header.topic.as_str();
    rules::topic_name(name)?;
    refuse_system(names, name)?;
    let (read_queues, write_queues, perm) =
        rules::topic_numbers(header.read_queue_nums, header.write_queue_nums, header.perm)?;
    let multi_tag = match header.topic_filter_type.as_str() {
        "SINGLE_TAG" => false,
        "MULTI_TAG" => true,
        other => {
            return Err(Error::refused(
                ResponseCode::INVALID_PARAMETER,
                format!("topicFilterType is {other}; it is SINGLE_TAG or MULTI_TAG"),
            ));
        }
    };
    let live = state.topic(name);
    let change = rules::attribute_change(
        header.attributes.as_deref().unwrap_or_default(),
        live.as_ref().map(|topic| &topic.config),
    )?;
    Ok(Kind::UpdateTopic(UpdateTopic {
        config: TopicConfig {
            name: header.topic,
            read_queues,
            write_queues,
            perm,
            multi_tag,
            sys_flag: header.topic_sys_flag.unwrap_or(0),
            order: header.order,
            attributes: change.set,
        },
        unset: change.unset,
    })
    .into())
}

/// 215. A topic that does not exist counts as deleted.
pub(crate) fn delete(names: &Names, request: &RemotingCommand) -> Result<Step, Error> {
    let TopicRequest { topic } = TopicRequest::decode(&request.ext)?;
    if topic.trim().is_empty() {
        return Err(Error::refused(ResponseCode::INVALID_PARAMETER, "The specified topic is blank."));
    }
    refuse_system(names, &topic)?;
    Ok(Step::Propose(Kind::DeleteTopic(DeleteTopic { name: topic }).into()))
}

/// 351.
pub(crate) fn one(state: &State, request: &RemotingCommand) -> Result<RemotingCommand, Error> {
    let TopicRequest { topic } = TopicRequest::decode(&request.ext)?;
    let live = state.topic(&topic).ok_or_else(|| {
        Error::refused(ResponseCode::TOPIC_NOT_EXIST, format!("No topic in this broker. topic: {topic}"))
    })?;
    Ok(success(request).with_body(live.config.to_wire().encode()))
}

/// 21: all of them, or for clients since 5.3.4 a page. `term` is this group's, as in registrations.
pub(crate) fn all(state: &State, term: u64, request: &RemotingCommand) -> Result<RemotingCommand, Error> {
    let header = GetAllTopicConfigRequest::decode(&request.ext)?;
    let (topics, version) = state.topics_with_version();
    let version = version.to_wire(term);
    let page = Page::wanted(header.topic_seq, header.max_topic_num, header.data_version.as_deref(), version)?;
    let body = TopicConfigSerializeWrapper {
        data_version: version,
        topic_config_table: page::take(&topics, page)
            .iter()
            .map(|topic| (topic.name.to_string(), topic.config.to_wire()))
            .collect(),
        ..TopicConfigSerializeWrapper::default()
    };
    let total = GetAllTopicConfigResponse { total_topic_num: Some(topics.len() as i32) };
    Ok(success(request).with_header(&total).with_body(body.encode()))
}

/// 305.
pub(crate) fn system(names: &Names, request: &RemotingCommand) -> RemotingCommand {
    let list = TopicList { broker_addr: None, topic_list: names.system_topics() };
    success(request).with_body(list.encode())
}

fn refuse_system(names: &Names, topic: &str) -> Result<(), Error> {
    if names.is_system_topic(topic) {
        return Err(Error::refused(
            ResponseCode::INVALID_PARAMETER,
            format!("The topic[{topic}] is conflict with system topic."),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wire::{Header, RequestCode};

    use super::*;
    use crate::state::testing::small_state;

    fn names() -> Names {
        Names { cluster: "c1".into(), broker: "b1".into() }
    }

    fn request(code: RequestCode, header: &impl Header) -> RemotingCommand {
        RemotingCommand::request(code).with_header(header)
    }

    fn create(change: fn(&mut CreateTopicRequest)) -> Result<Step, i32> {
        let mut header = CreateTopicRequest {
            topic: "T".into(),
            default_topic: "TBW102".into(),
            read_queue_nums: 8,
            write_queue_nums: 4,
            perm: 6,
            topic_filter_type: "SINGLE_TAG".into(),
            ..CreateTopicRequest::default()
        };
        change(&mut header);
        let request = request(RequestCode::UPDATE_AND_CREATE_TOPIC, &header);
        update(&small_state(), &names(), &request).map_err(|error| error.answer().0.get())
    }

    #[test]
    fn an_update_is_proposed_as_it_was_asked_for() {
        let step = create(|h| {
            h.attributes = Some("+message.type=FIFO".into());
            h.order = true;
            h.topic_sys_flag = Some(1);
        });
        let Ok(Step::Propose(command)) = step else { panic!("{step:?}") };
        assert!(command.is_barrier());
        let Some(Kind::UpdateTopic(UpdateTopic { config, unset })) = command.kind else {
            panic!("{command:?}")
        };
        assert!(unset.is_empty());
        assert_eq!((config.read_queues, config.write_queues, config.perm, config.sys_flag), (8, 4, 6, 1));
        assert!(config.order && !config.multi_tag);
        assert_eq!(config.attribute("message.type"), Some("FIFO"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        for (change, code) in [
            ((|h| h.topic = "a b".into()) as fn(&mut CreateTopicRequest), 29),
            (|h| h.topic = String::new(), 29),
            (|h| h.topic = "TBW102".into(), 29),
            (|h| h.topic = "c1".into(), 29),
            (|h| h.topic = "b1".into(), 29),
            (|h| h.topic = "rmq_sys_x".into(), 29),
            (|h| h.read_queue_nums = 0, 29),
            (|h| h.write_queue_nums = 1 << 20, 29),
            (|h| h.perm = 9, 29),
            (|h| h.topic_filter_type = "ANY".into(), 29),
            (|h| h.attributes = Some("+queue.type=BatchCQ".into()), 29),
            (|h| h.attributes = Some("-message.type".into()), 29),
        ] {
            assert_eq!(create(change).map(|_| ()), Err(code));
        }
        let empty = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_TOPIC);
        let error = update(&small_state(), &names(), &empty).unwrap_err();
        let (code, remark) = error.answer();
        assert_eq!((code.get(), remark.as_str()), (1, "the custom field <topic> is null"));
    }

    #[test]
    fn deletion() {
        let ask = |topic: &str| {
            let header = TopicRequest { topic: topic.into() };
            delete(&names(), &request(RequestCode::DELETE_TOPIC_IN_BROKER, &header))
        };
        let Ok(Step::Propose(command)) = ask("gone") else { panic!("a proposal") };
        assert_eq!(command.kind, Some(Kind::DeleteTopic(DeleteTopic { name: "gone".into() })));
        for topic in ["", " ", "SCHEDULE_TOPIC_XXXX", "c1"] {
            assert_eq!(ask(topic).unwrap_err().answer().0.get(), 29, "{topic:?}");
        }
    }

    #[test]
    fn one_topic_in_javas_shape() {
        let header = TopicRequest { topic: "T".into() };
        let response = one(&small_state(), &request(RequestCode::GET_TOPIC_CONFIG, &header)).unwrap();
        assert_eq!(response.code, 0);
        assert_eq!(
            std::str::from_utf8(&response.body).unwrap(),
            r#"{"attributes":{},"order":false,"perm":6,"readQueueNums":2,"topicFilterType":"SINGLE_TAG","#
                .to_owned()
                + r#""topicName":"T","topicSysFlag":0,"writeQueueNums":2}"#
        );
        let header = TopicRequest { topic: "none".into() };
        let error = one(&small_state(), &request(RequestCode::GET_TOPIC_CONFIG, &header)).unwrap_err();
        assert_eq!(error.answer().0.get(), 17);
    }

    #[test]
    fn all_topics_whole_and_by_pages() {
        let state = small_state();
        let all_of = |header: &GetAllTopicConfigRequest| {
            let response = all(&state, 5, &request(RequestCode::GET_ALL_TOPIC_CONFIG, header)).unwrap();
            assert_eq!(response.ext.get("totalTopicNum"), Some("3"));
            TopicConfigSerializeWrapper::decode(&response.body).unwrap()
        };
        let whole = all_of(&GetAllTopicConfigRequest::default());
        let table: Vec<_> = whole.topic_config_table.keys().map(String::as_str).collect();
        assert_eq!(table, ["%RETRY%g", "T", "U"]);
        assert_eq!((whole.data_version.counter, whole.data_version.state_version), (3, 5));
        let page = all_of(&GetAllTopicConfigRequest {
            topic_seq: Some(1),
            max_topic_num: Some(1),
            ..GetAllTopicConfigRequest::default()
        });
        assert_eq!(page.topic_config_table.into_keys().collect::<Vec<_>>(), ["T"]);
    }

    #[test]
    fn system_topics() {
        let request = RemotingCommand::request(RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_BROKER);
        let list = TopicList::decode(&system(&names(), &request).body).unwrap().topic_list;
        for topic in ["TBW102", "c1", "b1", "c1_REPLY_TOPIC", "SELF_TEST_TOPIC"] {
            assert!(list.iter().any(|has| has == topic), "{topic}");
        }
    }
}
