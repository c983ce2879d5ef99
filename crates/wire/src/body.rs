//! Request and response bodies that are JSON (and the compressed registration).
//!
//! Fields are declared in alphabetical order, as fastjson writes them. Every field may be missing
//! and takes its Java default then; unknown ones are ignored. Shapes: the classes of these names in
//! RocketMQ's remoting/protocol/{body,heartbeat,route,subscription,admin}.

mod assignment;
mod group;
mod heartbeat;
mod inspect;
mod queues;
mod register;
mod route;
mod stats;
mod topic;

pub use assignment::*;
pub use group::*;
pub use heartbeat::*;
pub use inspect::*;
pub use queues::*;
pub use register::*;
pub use route::*;
pub use stats::*;
pub use topic::*;

/// Enums that Java writes as names. Read by name in any case or, as C++ clients send them, by
/// ordinal; anything else reads as the first.
macro_rules! named_enums {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            const ALL: &[$name] = &[$($name::$variant,)*];

            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
        }

        impl Default for $name {
            fn default() -> $name {
                [$($name::$variant,)*][0]
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                Ok(match $crate::body::NameOrOrdinal::deserialize(deserializer)? {
                    $crate::body::NameOrOrdinal::Ordinal(ordinal) => $name::ALL.get(ordinal as usize).copied(),
                    $crate::body::NameOrOrdinal::Name(name) => {
                        $name::ALL.iter().copied().find(|known| known.name().eq_ignore_ascii_case(&name))
                    }
                }
                .unwrap_or_default())
            }
        }
    )*};
}
pub(crate) use named_enums;

#[derive(serde::Deserialize)]
#[serde(untagged)]
pub(crate) enum NameOrOrdinal {
    Ordinal(u32),
    Name(String),
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::{Body, DataVersion};

    /// Java's text reads as this value, and this value is written as Java's text.
    fn same<T: Body + Debug + PartialEq>(java: &str, value: &T) {
        assert_eq!(&T::decode(java.as_bytes()).unwrap(), value);
        assert_eq!(String::from_utf8(value.encode().to_vec()).unwrap(), java);
    }

    fn orders() -> SubscriptionData {
        SubscriptionData::from_tags("orders", "TagA || TagB", 1_700_000_000_000).unwrap()
    }

    fn queue() -> MessageQueue {
        MessageQueue::new("orders", "broker-a", 3)
    }

    // The texts below are what RocketMQ 5.3.3 writes for the same values.

    #[test]
    fn codes_of_tags_may_be_in_quotes() {
        let java = String::from_utf8(Body::encode(&orders()).to_vec()).unwrap();
        let codes: Vec<String> = orders().code_set.iter().map(i32::to_string).collect();
        let quoted = java.replace(&codes.join(","), &format!("\"{}\"", codes.join("\",\"")));
        assert_ne!(quoted, java);
        assert_eq!(SubscriptionData::decode(quoted.as_bytes()).unwrap(), orders());
        assert!(SubscriptionData::decode(java.replace(&codes[0], "\"x\"").as_bytes()).is_err());
    }

    #[test]
    fn heartbeat() {
        let java = r#"{"clientID":"10.0.0.7@1","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_PASSIVELY","groupName":"cg","messageModel":"CLUSTERING","subscriptionDataSet":[{"classFilterMode":false,"codeSet":[2598919,2598920],"expressionType":"TAG","subString":"TagA || TagB","subVersion":1700000000000,"tagsSet":["TagA","TagB"],"topic":"orders"}],"unitMode":false}],"heartbeatFingerprint":0,"producerDataSet":[{"groupName":"pg"}],"withoutSub":false}"#;
        let value = HeartbeatData {
            client_id: "10.0.0.7@1".into(),
            consumer_data_set: vec![ConsumerData {
                consume_type: ConsumeType::Passively,
                group_name: "cg".into(),
                message_model: MessageModel::Clustering,
                subscription_data_set: vec![orders()],
                ..Default::default()
            }],
            producer_data_set: vec![ProducerData { group_name: "pg".into() }],
            ..Default::default()
        };
        same(java, &value);
    }

    #[test]
    fn heartbeats_of_other_clients() {
        // C++ writes enums as ordinals, Go an empty list as null.
        let other = br#"{"clientID":"c","consumerDataSet":[{"consumeFromWhere":4,"consumeType":1,"groupName":"g","messageModel":"Clustering","subscriptionDataSet":[{"subString":"*","subVersion":1,"tagsSet":null,"topic":"t","codeSet":null}]}],"producerDataSet":null}"#;
        let data = HeartbeatData::decode(other).unwrap();
        let consumer = &data.consumer_data_set[0];
        assert_eq!(consumer.consume_from_where, ConsumeFromWhere::FirstOffset);
        assert_eq!(consumer.consume_type, ConsumeType::Passively);
        assert_eq!(consumer.message_model, MessageModel::Clustering);
        assert!(consumer.subscription_data_set[0].may_match(5));
        assert!(data.producer_data_set.is_empty());
    }

    #[test]
    fn subscriptions_by_tags() {
        // FilterAPI.buildSubscriptionData of 5.3.3 for the same expressions.
        let check = |expression: &str, expect: Option<(&str, &[&str])>| {
            let data = SubscriptionData::from_tags("t", expression, 0).ok();
            let tags = data.as_ref().map(|data| data.tags_set.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(data.as_ref().map(|data| data.sub_string.as_str()), expect.map(|(text, _)| text));
            assert_eq!(tags.as_deref(), expect.map(|(_, tags)| tags));
        };
        check("*", Some(("*", &[])));
        check("", Some(("*", &[])));
        check("a", Some(("a", &["a"])));
        check("a||", Some(("a||", &["a"])));
        check("||", None);
        check("|| ||", Some(("|| ||", &[])));
        check(" ", Some((" ", &[])));
        assert!(orders().may_match(2_598_919) && !orders().may_match(0));
        assert!(SubscriptionData::from_expression("t", EXPRESSION_TYPE_SQL92, "a > 1", 0).may_match(0));
    }

    #[test]
    fn routes() {
        let addrs = [(0, "127.0.0.1:10911".to_owned()), (1, "127.0.0.1:10921".to_owned())];
        let broker = BrokerData {
            broker_addrs: addrs.clone().into_iter().collect(),
            broker_name: "broker-a".into(),
            cluster: "c".into(),
            ..Default::default()
        };
        let route = TopicRouteData {
            broker_datas: vec![broker.clone()],
            queue_datas: vec![QueueData {
                broker_name: "broker-a".into(),
                perm: perm::READ_WRITE,
                read_queue_nums: 4,
                write_queue_nums: 4,
                ..Default::default()
            }],
            ..Default::default()
        };
        let java = r#"{"brokerDatas":[{"brokerAddrs":{0:"127.0.0.1:10911",1:"127.0.0.1:10921"},"brokerName":"broker-a","cluster":"c","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}"#;
        assert_eq!(TopicRouteData::decode(java.as_bytes()).unwrap(), route);
        same(&java.replace("{0:", "{\"0\":").replace(",1:", ",\"1\":"), &route);

        let cluster = ClusterInfo {
            broker_addr_table: [("broker-a".to_owned(), broker)].into_iter().collect(),
            cluster_addr_table: [("c".to_owned(), vec!["broker-a".to_owned()])].into_iter().collect(),
        };
        let java = r#"{"brokerAddrTable":{"broker-a":{"brokerAddrs":{0:"127.0.0.1:10911",1:"127.0.0.1:10921"},"brokerName":"broker-a","cluster":"c","enableActingMaster":false}},"clusterAddrTable":{"c":["broker-a"]}}"#;
        assert_eq!(ClusterInfo::decode(java.as_bytes()).unwrap(), cluster);

        let members = GetBrokerMemberGroupResponseBody {
            broker_member_group: BrokerMemberGroup {
                broker_addrs: addrs.into_iter().collect(),
                broker_name: "broker-a".into(),
                cluster: "c".into(),
            },
        };
        let java = r#"{"brokerMemberGroup":{"brokerAddrs":{0:"127.0.0.1:10911",1:"127.0.0.1:10921"},"brokerName":"broker-a","cluster":"c"}}"#;
        assert_eq!(GetBrokerMemberGroupResponseBody::decode(java.as_bytes()).unwrap(), members);
    }

    #[test]
    fn topics() {
        let mut config = TopicConfig::new("orders", 4, perm::READ_WRITE);
        config.attributes.insert("message.type".into(), "FIFO".into());
        same(
            r#"{"attributes":{"message.type":"FIFO"},"order":false,"perm":6,"readQueueNums":4,"topicFilterType":"SINGLE_TAG","topicName":"orders","topicSysFlag":0,"writeQueueNums":4}"#,
            &config,
        );
        let text = r#"orders 4 4 6 SINGLE_TAG {"message.type":"FIFO"}"#;
        assert_eq!(config.to_text(), text);
        assert_eq!(TopicConfig::from_text(text), Ok(config));
        assert_eq!(TopicConfig::from_text("T 1 2 4 MULTI_TAG").unwrap().write_queue_nums, 2);
        for bad in ["", " 1 2 3 X", "T", "T 1 2", "T 1 2 3", "T a 2 3 X", "T 1 2 3 X {"] {
            assert!(TopicConfig::from_text(bad).is_err(), "{bad:?}");
        }
        same(
            r#"{"dataVersion":{"counter":0,"stateVersion":0,"timestamp":0},"mappingDataVersion":{"counter":0,"stateVersion":0,"timestamp":0},"topicConfigTable":{},"topicQueueMappingDetailMap":{},"topicQueueMappingInfoMap":{}}"#,
            &TopicConfigSerializeWrapper::default(),
        );
    }

    #[test]
    fn data_versions_compare_by_term_first() {
        let version = DataVersion::default().next(2, 50);
        assert!(version > DataVersion { counter: 9, state_version: 1, timestamp: 99 });
        assert!(version < version.next(2, 50));
        assert!(version > DataVersion { timestamp: 49, ..version });
    }

    #[test]
    fn groups_and_connections() {
        same(
            r#"{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,"consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"cg","groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}"#,
            &SubscriptionGroupConfig::new("cg"),
        );
        assert_eq!(
            SubscriptionGroupConfig::decode(br#"{"groupName":"cg"}"#).unwrap(),
            SubscriptionGroupConfig::new("cg")
        );
        same(
            r#"{"connectionSet":[{"clientAddr":"10.0.0.7:5555","clientId":"c1","language":"JAVA","version":479}],"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","subscriptionTable":{"orders":{"classFilterMode":false,"codeSet":[2598919,2598920],"expressionType":"TAG","subString":"TagA || TagB","subVersion":1700000000000,"tagsSet":["TagA","TagB"],"topic":"orders"}}}"#,
            &ConsumerConnection {
                connection_set: vec![Connection {
                    client_addr: "10.0.0.7:5555".into(),
                    client_id: "c1".into(),
                    language: crate::Language::Java,
                    version: 479,
                }],
                consume_type: ConsumeType::Passively,
                message_model: MessageModel::Clustering,
                subscription_table: [("orders".to_owned(), orders())].into_iter().collect(),
                ..Default::default()
            },
        );
        same(
            r#"{"data":{"g":[{"clientId":"c1","language":"GO","lastUpdateTimestamp":5,"remoteIP":"10.0.0.7","version":479}]}}"#,
            &ProducerTableInfo {
                data: [(
                    "g".to_owned(),
                    vec![ProducerInfo {
                        client_id: "c1".into(),
                        language: crate::Language::Go,
                        last_update_timestamp: 5,
                        remote_ip: "10.0.0.7".into(),
                        version: 479,
                    }],
                )]
                .into_iter()
                .collect(),
            },
        );
    }

    #[test]
    fn maps_keyed_by_queues() {
        let offset = TopicOffset { last_update_timestamp: 1_700_000_000_000, max_offset: 9, min_offset: 1 };
        same(
            r#"{"offsetTable":{{"brokerName":"broker-a","queueId":3,"topic":"orders"}:{"lastUpdateTimestamp":1700000000000,"maxOffset":9,"minOffset":1}},"topicPutTps":0.0}"#,
            &TopicStatsTable { offset_table: [(queue(), offset)].into_iter().collect(), topic_put_tps: 0.0 },
        );
        let stats = ConsumeStats {
            consume_tps: 0.0,
            offset_table: [(
                queue(),
                OffsetWrapper { broker_offset: 9, consumer_offset: 4, last_timestamp: 5, pull_offset: 0 },
            )]
            .into_iter()
            .collect(),
        };
        let java = r#"{"consumeTps":0.0,"offsetTable":{{"brokerName":"broker-a","queueId":3,"topic":"orders"}:{"brokerOffset":9,"consumerOffset":4,"lastTimestamp":5,"pullOffset":0}}}"#;
        same(java, &stats);
        let list = ConsumeStatsList {
            broker_addr: "a:1".into(),
            consume_stats_list: vec![[("g".to_owned(), vec![stats.clone(), stats])].into_iter().collect()],
            total_diff: 1,
            total_inflight_diff: 2,
        };
        assert_eq!(ConsumeStatsList::decode(&list.encode()).unwrap(), list);
        same(
            r#"{"offsetTable":{{"brokerName":"broker-a","queueId":3,"topic":"orders"}:77}}"#,
            &ResetOffsetBody { offset_table: [(queue(), 77)].into_iter().collect() },
        );
        let reset = ResetOffsetBody { offset_table: [(queue(), 77)].into_iter().collect() };
        assert_eq!(
            reset.encode_list(),
            r#"{"offsetTable":[{"brokerName":"broker-a","offset":77,"queueId":3,"topic":"orders"}]}"#
        );
        same(
            r#"{"correctionOffsets":{"0":7,"1":9223372036854775807}}"#,
            &QueryCorrectionOffsetBody { correction_offsets: [(0, 7), (1, i64::MAX)].into_iter().collect() },
        );
        assert!(
            QueryCorrectionOffsetBody::decode(br#"{"correctionOffsets":{0:7}}"#).is_ok(),
            "as Java writes it"
        );
        let table: QueueTable<i64> =
            [(queue(), 77), (MessageQueue::new("é\"", "b", 0), -1)].into_iter().collect();
        let status = GetConsumerStatusBody {
            consumer_table: [("c1".to_owned(), table.clone())].into_iter().collect(),
            message_queue_table: table,
        };
        assert_eq!(GetConsumerStatusBody::decode(&status.encode()).unwrap(), status);
        assert!(ResetOffsetBody::decode(br#"{"offsetTable":{{"queueId":"x"}:1}}"#).is_err());
    }

    #[test]
    fn locks_and_acknowledgements() {
        same(
            r#"{"clientId":"c1","consumerGroup":"cg","mqSet":[{"brokerName":"broker-a","queueId":3,"topic":"orders"}],"onlyThisBroker":false}"#,
            &LockBatchRequestBody {
                client_id: "c1".into(),
                consumer_group: "cg".into(),
                mq_set: vec![queue()],
                only_this_broker: false,
            },
        );
        same(
            r#"{"lockOKMQSet":[{"brokerName":"broker-a","queueId":3,"topic":"orders"}]}"#,
            &LockBatchResponseBody { lock_ok_mq_set: vec![queue()] },
        );
        let ack = BatchAck {
            bits: BatchAck::bits_of(100, &[100, 109]),
            consumer_group: "cg".into(),
            invisible_time: 6,
            pop_time: 5,
            queue_id: 3,
            retry: "0".into(),
            revive_queue_id: 1,
            start_offset: 100,
            topic: "orders".into(),
        };
        assert_eq!(ack.offsets(), [100, 109]);
        same(
            r#"{"acks":[{"b":"AQI=","c":"cg","it":6,"pt":5,"q":3,"r":"0","rq":1,"so":100,"t":"orders"}],"brokerName":"broker-a"}"#,
            &BatchAckMessageRequestBody { acks: vec![ack], broker_name: "broker-a".into() },
        );
    }

    #[test]
    fn statistics_that_refer_to_each_other() {
        // fastjson writes an object that occurs twice as a reference; only all-zero ones were seen.
        let java = br#"{"statsDay":{"avgpt":0.0,"sum":0,"tps":0.0},"statsHour":{"$ref":"$.statsDay"}}"#;
        assert_eq!(BrokerStatsData::decode(java).unwrap(), BrokerStatsData::default());
    }

    proptest::proptest! {
        #[test]
        fn queue_tables_round_trip(
            entries in proptest::collection::btree_map((".{0,9}", ".{0,9}", proptest::prelude::any::<i32>()), proptest::prelude::any::<i64>(), 0..6),
        ) {
            let offset_table = entries
                .into_iter()
                .map(|((topic, broker, queue), offset)| (MessageQueue::new(&topic, &broker, queue), offset))
                .collect();
            let body = ResetOffsetBody { offset_table };
            proptest::prop_assert_eq!(ResetOffsetBody::decode(&body.encode()).unwrap(), body);
        }

        #[test]
        fn batch_acks_round_trip(offsets in proptest::collection::btree_set(1000_i64..1100, 0..20)) {
            let offsets: Vec<i64> = offsets.into_iter().collect();
            let ack = BatchAck { bits: BatchAck::bits_of(1000, &offsets), start_offset: 1000, ..Default::default() };
            proptest::prop_assert_eq!(ack.offsets(), offsets);
        }
    }
}
