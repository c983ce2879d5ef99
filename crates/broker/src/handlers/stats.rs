//! Progress in numbers: 202 of a topic, 208 of a group, 317 of all groups, 303 by time, 315 of what this node counted
//! (protocol.md 8.2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wire::{
    Body, BrokerStatsData, BrokerStatsItem, ConsumeStats, ConsumeStatsList, GetConsumeStatsInBrokerRequest,
    GetConsumeStatsRequest, MessageQueue, OffsetWrapper, QueryConsumeTimeSpanBody,
    QueryConsumeTimeSpanRequest, QueueId, QueueOffset, QueueTimeSpan, RemotingCommand, ResponseCode,
    TopicOffset, TopicRequest, TopicStatsTable, ViewBrokerStatsDataRequest,
};

use crate::clients::{Clients, ConsumerGroup};
use crate::errors::Error;
use crate::handlers::step::success;
use crate::state::{Names, State, Topic};
use crate::stats::{Snapshot, Span, Stats};

/// What 208 and 317 are answered from. They read the store time of single messages, possibly from disk: call them
/// where that may block.
pub(crate) struct Progress<'a> {
    pub(crate) state: &'a State,
    pub(crate) clients: &'a Clients,
    pub(crate) stats: &'a Stats,
    pub(crate) names: &'a Names,
    /// Store time, ms, of the message at an offset; `None` when it is not in the log any more.
    pub(crate) store_time: &'a dyn Fn(&str, QueueId, QueueOffset) -> Option<u64>,
    /// How far this node served a (topic, group, queue).
    pub(crate) pulled: &'a dyn Fn(&str, &str, QueueId) -> Option<QueueOffset>,
}

/// 202.
pub(crate) fn topic(
    state: &State,
    stats: &Stats,
    names: &Names,
    request: &RemotingCommand,
) -> Result<RemotingCommand, Error> {
    let TopicRequest { topic } = TopicRequest::decode(&request.ext)?;
    let queues = state
        .queues(&topic)
        .ok_or_else(|| Error::refused(ResponseCode::TOPIC_NOT_EXIST, format!("topic[{topic}] not exist")))?;
    let offsets = queues.iter().enumerate().map(|(queue, range)| {
        let offset = TopicOffset {
            last_update_timestamp: range.last_store_ms as i64,
            max_offset: range.next.to_wire(),
            min_offset: range.min.to_wire(),
        };
        (MessageQueue::new(&topic, &names.broker, queue as i32), offset)
    });
    let body =
        TopicStatsTable { offset_table: offsets.collect(), topic_put_tps: stats.topic_put_tps(&topic) };
    Ok(success(request).with_body(body.encode()))
}

impl Progress<'_> {
    /// 208.
    pub(crate) fn of_group(&self, request: &RemotingCommand) -> Result<RemotingCommand, Error> {
        let header = GetConsumeStatsRequest::decode(&request.ext)?;
        let group = header.consumer_group.as_str();
        let listed: BTreeSet<&str> = header
            .topic_list
            .as_deref()
            .unwrap_or_default()
            .split(';')
            .filter(|t| !t.trim().is_empty())
            .collect();
        let topics: Vec<Arc<Topic>> = if !listed.is_empty() {
            // Asked for by name: not measured against the subscriptions.
            listed.iter().filter_map(|topic| self.state.topic(topic)).collect()
        } else {
            let online = self.clients.consumer_group(group);
            let topics = match header.topic.as_deref().filter(|topic| !topic.trim().is_empty()) {
                Some(topic) => self.state.topic(topic).into_iter().collect(),
                None => self.state.topics_of_group(group),
            };
            topics.into_iter().filter(|topic| is_subscribed(online.as_deref(), &topic.name)).collect()
        };
        let mut stats = ConsumeStats::default();
        for topic in &topics {
            self.collect(group, topic, topic.config.read_queues, &mut stats);
        }
        Ok(success(request).with_body(stats.encode()))
    }

    /// 317. `addr` is this broker's, as it is advertised.
    pub(crate) fn of_all_groups(
        &self,
        addr: &str,
        request: &RemotingCommand,
    ) -> Result<RemotingCommand, Error> {
        let GetConsumeStatsInBrokerRequest { is_order } =
            GetConsumeStatsInBrokerRequest::decode(&request.ext)?;
        let mut body = ConsumeStatsList { broker_addr: addr.to_owned(), ..ConsumeStatsList::default() };
        for group in self.state.groups() {
            let online = self.clients.consumer_group(&group.name);
            let mut list = Vec::new();
            for topic in self.state.topics_of_group(&group.name) {
                if (is_order && !topic.config.order) || !is_subscribed(online.as_deref(), &topic.name) {
                    continue;
                }
                let mut stats = ConsumeStats::default();
                self.collect(&group.name, &topic, topic.config.write_queues, &mut stats);
                for offsets in stats.offset_table.values() {
                    body.total_diff += offsets.broker_offset - offsets.consumer_offset;
                    body.total_inflight_diff += offsets.pull_offset - offsets.consumer_offset;
                }
                list.push(stats);
            }
            body.consume_stats_list.push(BTreeMap::from([(group.name.to_string(), list)]));
        }
        Ok(success(request).with_body(body.encode()))
    }

    /// 303: in store time, where each queue of a topic begins and ends and how far a group is. Queues without messages
    /// have -1 as Java has.
    pub(crate) fn time_spans(
        &self,
        now_ms: u64,
        request: &RemotingCommand,
    ) -> Result<RemotingCommand, Error> {
        let QueryConsumeTimeSpanRequest { topic, group } = QueryConsumeTimeSpanRequest::decode(&request.ext)?;
        let known = self.state.topic(&topic).ok_or_else(|| {
            Error::refused(ResponseCode::TOPIC_NOT_EXIST, format!("topic[{topic}] not exist"))
        })?;
        let ranges = self.state.queues(&topic).unwrap_or_default();
        let offsets = self.state.offsets(&topic, &group);
        let spans = (0..known.config.write_queues).map(QueueId).zip(&ranges).map(|(queue, range)| {
            let time = |offset: QueueOffset| {
                let is_there = (range.min..range.next).contains(&offset);
                let time = if is_there { (self.store_time)(&topic, queue, offset) } else { None };
                time.map_or(-1, |time| time as i64)
            };
            let consumed = offsets.get(&queue).copied().unwrap_or_default();
            let min_time_stamp = time(range.min);
            let delay_time = match time(consumed) {
                -1 => 0,
                next => now_ms as i64 - next,
            };
            QueueTimeSpan {
                consume_time_stamp: match consumed.0.checked_sub(1) {
                    Some(before) => time(QueueOffset(before)),
                    None => min_time_stamp,
                },
                delay_time,
                max_time_stamp: range.next.0.checked_sub(1).map_or(-1, |last| time(QueueOffset(last))),
                message_queue: MessageQueue::new(&topic, &self.names.broker, queue.to_wire()),
                min_time_stamp,
            }
        });
        let body = QueryConsumeTimeSpanBody { consume_time_span_set: spans.collect() };
        Ok(success(request).with_body(body.encode()))
    }

    fn collect(&self, group: &str, topic: &Topic, queues: u32, stats: &mut ConsumeStats) {
        let ranges = self.state.queues(&topic.name).unwrap_or_default();
        let offsets = self.state.offsets(&topic.name, group);
        for (queue, range) in (0..queues).map(QueueId).zip(&ranges) {
            let consumed = offsets.get(&queue).copied().unwrap_or_default();
            let pulled = (self.pulled)(&topic.name, group, queue).unwrap_or_default();
            let last = match consumed.0.checked_sub(1) {
                None => None,
                Some(_) if consumed == range.next => Some(range.last_store_ms),
                Some(before) => (self.store_time)(&topic.name, queue, QueueOffset(before)),
            };
            stats.offset_table.insert(
                MessageQueue::new(&topic.name, &self.names.broker, queue.to_wire()),
                OffsetWrapper {
                    broker_offset: range.next.to_wire(),
                    consumer_offset: consumed.to_wire(),
                    last_timestamp: last.unwrap_or(0) as i64,
                    pull_offset: consumed.max(pulled).to_wire(),
                },
            );
        }
        stats.consume_tps += self.stats.group_get_tps(&topic.name, group);
    }
}

/// A group that is online counts for what it subscribes to; one that is not, for all that it has offsets in.
fn is_subscribed(online: Option<&ConsumerGroup>, topic: &str) -> bool {
    online.is_none_or(|group| group.subscriptions.is_empty() || group.subscriptions.contains_key(topic))
}

/// 315.
pub(crate) fn view(
    stats: &Stats,
    names: &Names,
    request: &RemotingCommand,
) -> Result<RemotingCommand, Error> {
    let ViewBrokerStatsDataRequest { stats_name, stats_key } =
        ViewBrokerStatsDataRequest::decode(&request.ext)?;
    let item = stats.item(&stats_name, &stats_key, &names.cluster).ok_or_else(|| {
        Error::refused(
            ResponseCode::SYSTEM_ERROR,
            format!("The stats <{stats_name}> <{stats_key}> not exist"),
        )
    })?;
    let part = |span| {
        let Snapshot { sum, tps, per_call } = item.snapshot(span);
        BrokerStatsItem { avgpt: per_call, sum: sum as i64, tps }
    };
    let body = BrokerStatsData {
        stats_day: part(Span::Day),
        stats_hour: part(Span::Hour),
        stats_minute: part(Span::Minute),
    };
    Ok(success(request).with_body(body.encode()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use wire::{Header, Language, RequestCode, SubscriptionData};

    use super::*;
    use crate::clients::{Client, Consumer};
    use crate::state::testing::small_state;

    fn names() -> Names {
        Names { cluster: "c1".into(), broker: "b1".into() }
    }

    fn text(response: &RemotingCommand) -> &str {
        std::str::from_utf8(&response.body).unwrap()
    }

    fn request(code: RequestCode, header: &impl Header) -> RemotingCommand {
        RemotingCommand::request(code).with_header(header)
    }

    /// A consumer of `g` that subscribes to these.
    fn consumer(topics: &[&str]) -> Client {
        let subscription = |topic: &&str| {
            (
                (*topic).to_owned(),
                SubscriptionData { topic: (*topic).to_owned(), ..SubscriptionData::default() },
            )
        };
        Client {
            id: "c@1".into(),
            address: "127.0.0.1:5".into(),
            language: Language::Java,
            version: 479,
            producers: ["p".to_owned()].into(),
            consumers: [(
                "g".to_owned(),
                Consumer {
                    consume_type: wire::ConsumeType::Passively,
                    message_model: wire::MessageModel::Clustering,
                    consume_from_where: wire::ConsumeFromWhere::default(),
                    subscriptions: topics.iter().map(subscription).collect(),
                },
            )]
            .into(),
        }
    }

    #[test]
    fn a_topics_queues_have_raw_object_keys() {
        let stats = Stats::new(0);
        for second in 0..=10 {
            stats.put("T", 1, 9, Duration::ZERO);
            stats.tick(second * 1000);
        }
        let ask = |topic_name: &str| {
            let header = TopicRequest { topic: topic_name.into() };
            topic(&small_state(), &stats, &names(), &request(RequestCode::GET_TOPIC_STATS_INFO, &header))
        };
        assert_eq!(
            text(&ask("T").unwrap()),
            r#"{"offsetTable":{{"brokerName":"b1","queueId":0,"topic":"T"}:"#.to_owned()
                + r#"{"lastUpdateTimestamp":1000005,"maxOffset":3,"minOffset":0},"#
                + r#"{"brokerName":"b1","queueId":1,"topic":"T"}:"#
                + r#"{"lastUpdateTimestamp":1000005,"maxOffset":1,"minOffset":0}},"topicPutTps":1.1}"#
        );
        assert!(
            text(&ask("U").unwrap()).contains(r#"{"lastUpdateTimestamp":0,"maxOffset":0,"minOffset":0}"#)
        );
        assert_eq!(ask("none").unwrap_err().answer().0.get(), 17);
    }

    /// Asks 208 with store times that are 1000 + the offset, and 3 messages of T/0 pulled.
    fn progress<R>(clients: &Clients, ask: impl FnOnce(&Progress<'_>) -> R) -> R {
        let pulled = |topic: &str, _: &str, queue: QueueId| {
            (topic == "T" && queue == QueueId(0)).then_some(QueueOffset(3))
        };
        ask(&Progress {
            state: &small_state(),
            clients,
            stats: &Stats::new(0),
            names: &names(),
            store_time: &|_, _, offset| Some(1000 + offset.0),
            pulled: &pulled,
        })
    }

    fn of_group(clients: &Clients, topic: Option<&str>, list: Option<&str>) -> ConsumeStats {
        let header = GetConsumeStatsRequest {
            consumer_group: "g".into(),
            topic: topic.map(str::to_owned),
            topic_list: list.map(str::to_owned),
        };
        let request = request(RequestCode::GET_CONSUME_STATS, &header);
        let response = progress(clients, |progress| progress.of_group(&request)).unwrap();
        ConsumeStats::decode(&response.body).unwrap()
    }

    #[test]
    fn a_groups_progress() {
        let clients = Clients::new(1, 10);
        let stats = of_group(&clients, None, None);
        let wrapper = |broker, consumer, pull, last| OffsetWrapper {
            broker_offset: broker,
            consumer_offset: consumer,
            pull_offset: pull,
            last_timestamp: last,
        };
        let queue = |topic: &str, id| MessageQueue::new(topic, "b1", id);
        assert_eq!(
            stats.offset_table.0,
            [(queue("T", 0), wrapper(3, 2, 3, 1001)), (queue("T", 1), wrapper(1, 0, 0, 0))].into()
        );
        assert_eq!(
            of_group(&clients, Some("U"), None).offset_table.0,
            [(queue("U", 0), wrapper(0, 0, 0, 0))].into()
        );
        assert_eq!(of_group(&clients, Some("none"), None).offset_table.len(), 0);
        assert_eq!(of_group(&clients, None, Some("T;U;none")).offset_table.len(), 3);
    }

    #[test]
    fn a_group_that_is_online_counts_for_its_subscriptions() {
        let clients = Clients::new(1, 10);
        clients.heard(1, consumer(&["U", "%RETRY%g"]), 0, false, Instant::now()).unwrap();
        assert_eq!(of_group(&clients, None, None).offset_table.len(), 0, "T is not subscribed to any more");
        assert_eq!(of_group(&clients, Some("U"), None).offset_table.len(), 1);
        assert_eq!(of_group(&clients, None, Some("T")).offset_table.len(), 2, "asked for by name");
    }

    #[test]
    fn progress_of_all_groups() {
        let request = request(
            RequestCode::GET_BROKER_CONSUME_STATS,
            &GetConsumeStatsInBrokerRequest { is_order: false },
        );
        let response =
            progress(&Clients::new(1, 10), |progress| progress.of_all_groups("b:1", &request)).unwrap();
        let list = ConsumeStatsList::decode(&response.body).unwrap();
        assert_eq!((list.total_diff, list.total_inflight_diff, list.broker_addr.as_str()), (2, 1, "b:1"));
        let groups: Vec<_> = list.consume_stats_list.iter().flat_map(BTreeMap::keys).cloned().collect();
        assert_eq!(groups, ["g", "h"]);
    }

    #[test]
    fn progress_by_time() {
        let ask = |topic: &str| {
            let header = QueryConsumeTimeSpanRequest { topic: topic.into(), group: "g".into() };
            let request = request(RequestCode::QUERY_CONSUME_TIME_SPAN, &header);
            progress(&Clients::new(1, 10), |progress| progress.time_spans(5000, &request))
        };
        let spans = QueryConsumeTimeSpanBody::decode(&ask("T").unwrap().body).unwrap().consume_time_span_set;
        let times = |span: &QueueTimeSpan| {
            (span.min_time_stamp, span.max_time_stamp, span.consume_time_stamp, span.delay_time)
        };
        // 2 of 3 consumed, the third stored at 1002; nothing of the one in the other queue.
        assert_eq!(
            spans.iter().map(times).collect::<Vec<_>>(),
            [(1000, 1002, 1001, 3998), (1000, 1000, 1000, 4000)]
        );
        let empty = QueryConsumeTimeSpanBody::decode(&ask("U").unwrap().body).unwrap().consume_time_span_set;
        assert_eq!(times(&empty[0]), (-1, -1, -1, 0));
        assert_eq!(ask("none").unwrap_err().answer().0.get(), 17);
    }

    #[test]
    fn items_of_statistics() {
        let start = 1 << 40;
        let stats = Stats::new(start);
        for second in 0..=10 {
            stats.put("T", 2, 9, Duration::ZERO);
            stats.tick(start + second * 1000);
        }
        let ask = |name: &str, key: &str| {
            let header = ViewBrokerStatsDataRequest { stats_name: name.into(), stats_key: key.into() };
            view(&stats, &names(), &request(RequestCode::VIEW_BROKER_STATS_DATA, &header))
        };
        assert_eq!(
            text(&ask("TOPIC_PUT_NUMS", "T").unwrap()),
            r#"{"statsDay":{"avgpt":2.0,"sum":22,"tps":0.006111111111111111},"#.to_owned()
                + r#""statsHour":{"avgpt":2.0,"sum":22,"tps":0.03666666666666667},"#
                + r#""statsMinute":{"avgpt":2.0,"sum":22,"tps":2.2}}"#
        );
        assert!(ask("BROKER_PUT_NUMS", "c1").is_ok());
        let (code, remark) = ask("GROUP_GET_NUMS", "T@g").unwrap_err().answer();
        assert_eq!((code.get(), remark.as_str()), (1, "The stats <GROUP_GET_NUMS> <T@g> not exist"));
    }

    #[test]
    fn who_is_connected() {
        use crate::handlers::consumer_admin as admin;
        let clients = Clients::new(1, 10);
        clients.heard(1, consumer(&["U"]), 0, false, Instant::now()).unwrap();
        let group = |name: &str| {
            let header = wire::ConsumerGroupRequest { consumer_group: name.into() };
            admin::consumer_connection(&clients, &request(RequestCode::GET_CONSUMER_CONNECTION_LIST, &header))
        };
        let body = wire::ConsumerConnection::decode(&group("g").unwrap().body).unwrap();
        let subscription = |topic: &str| {
            let header =
                wire::QuerySubscriptionByConsumerRequest { group: "g".into(), topic: Some(topic.into()) };
            let request = request(RequestCode::QUERY_SUBSCRIPTION_BY_CONSUMER, &header);
            let body = admin::subscription(&clients, &request).unwrap().body;
            wire::QuerySubscriptionResponseBody::decode(&body).unwrap()
        };
        assert_eq!(subscription("U").subscription_data.unwrap().topic, "U");
        assert_eq!((subscription("T").subscription_data, subscription("T").topic), (None, Some("T".into())));
        let header = wire::GroupRequest { group: "g".into() };
        let topics = request(RequestCode::QUERY_TOPICS_BY_CONSUMER, &header);
        let topics = admin::topics_of(&small_state(), "b:1".into(), &topics).unwrap();
        assert_eq!(text(&topics), r#"{"brokerAddr":"b:1","topicList":["T"]}"#);
        assert_eq!(body.connection_set[0].client_id, "c@1");
        assert_eq!(body.connection_set[0].client_addr, "127.0.0.1:5");
        assert_eq!(body.subscription_table.keys().collect::<Vec<_>>(), ["U"]);
        assert!(text(&group("g").unwrap()).contains(r#""consumeType":"CONSUME_PASSIVELY""#));
        assert_eq!(group("none").unwrap_err().answer().0.get(), 206);

        let producers = |name: &str| {
            let header = wire::ProducerGroupRequest { producer_group: name.into() };
            admin::producer_connection(&clients, &request(RequestCode::GET_PRODUCER_CONNECTION_LIST, &header))
        };
        assert_eq!(
            text(&producers("p").unwrap()),
            r#"{"connectionSet":[{"clientAddr":"127.0.0.1:5","clientId":"c@1","language":"JAVA","version":479}]}"#
        );
        assert_eq!(producers("none").unwrap_err().answer().0.get(), 1);

        let all =
            admin::all_producers(&clients, 7, &RemotingCommand::request(RequestCode::GET_ALL_PRODUCER_INFO));
        assert!(
            text(&all)
                .starts_with(r#"{"data":{"p":[{"clientId":"c@1","language":"JAVA","lastUpdateTimestamp":7"#)
        );

        let consumed = |topic: &str| {
            let header = TopicRequest { topic: topic.into() };
            let request = request(RequestCode::QUERY_TOPIC_CONSUME_BY_WHO, &header);
            text(&admin::consumed_by(&small_state(), &clients, &request).unwrap()).to_owned()
        };
        assert_eq!(consumed("T"), r#"{"groupList":["g"]}"#, "it has offsets");
        assert_eq!(consumed("U"), r#"{"groupList":["g"]}"#, "it is subscribed");
        assert_eq!(consumed("V"), r#"{"groupList":[]}"#);
    }
}
