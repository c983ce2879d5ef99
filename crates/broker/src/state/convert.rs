//! Between the configurations of the log and those of the wire.

use super::command::{
    Attribute, GroupConfig, RetryGrowth, RetryPolicy, RetryTable, Subscription, TopicConfig,
};

const SINGLE_TAG: &str = "SINGLE_TAG";
const MULTI_TAG: &str = "MULTI_TAG";

impl TopicConfig {
    /// As clients, tools and nameservers see it.
    pub fn to_wire(&self) -> wire::TopicConfig {
        let TopicConfig { name, read_queues, write_queues, perm, multi_tag, sys_flag, order, attributes } =
            self;
        wire::TopicConfig {
            attributes: attributes.iter().map(|a| (a.key.clone(), a.value.clone())).collect(),
            order: *order,
            perm: *perm,
            read_queue_nums: *read_queues as i32,
            topic_filter_type: if *multi_tag { MULTI_TAG } else { SINGLE_TAG }.to_owned(),
            topic_name: name.clone(),
            topic_sys_flag: *sys_flag,
            write_queue_nums: *write_queues as i32,
        }
    }

    /// The value of an attribute.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|Attribute { key: has, .. }| has == key).map(|a| a.value.as_str())
    }
}

impl GroupConfig {
    /// As clients and tools see it.
    pub fn to_wire(&self) -> wire::SubscriptionGroupConfig {
        let GroupConfig {
            name,
            consume_enable,
            consume_from_min_enable,
            consume_broadcast_enable,
            consume_message_orderly,
            retry_queue_nums,
            retry_max_times,
            retry_policy: RetryPolicy { exponential, table, growth },
            broker_id,
            which_broker_when_consume_slowly,
            notify_consumer_ids_changed_enable,
            group_sys_flag,
            consume_timeout_minute,
            subscriptions,
        } = self;
        let kind = if *exponential {
            wire::GroupRetryPolicyType::Exponential
        } else {
            wire::GroupRetryPolicyType::Customized
        };
        let subscriptions = subscriptions.iter().map(|s| wire::SimpleSubscriptionData {
            expression: s.expression.clone(),
            expression_type: s.expression_type.clone(),
            topic: s.topic.clone(),
            version: s.version,
        });
        wire::SubscriptionGroupConfig {
            attributes: std::collections::BTreeMap::new(),
            broker_id: *broker_id,
            consume_broadcast_enable: *consume_broadcast_enable,
            consume_enable: *consume_enable,
            consume_from_min_enable: *consume_from_min_enable,
            consume_message_orderly: *consume_message_orderly,
            consume_timeout_minute: *consume_timeout_minute,
            group_name: name.clone(),
            group_retry_policy: wire::GroupRetryPolicy {
                customized_retry_policy: table
                    .as_ref()
                    .map(|table| wire::CustomizedRetryPolicy { next: table.delays_ms.clone() }),
                exponential_retry_policy: growth.as_ref().map(|growth| wire::ExponentialRetryPolicy {
                    initial: growth.initial_ms,
                    max: growth.max_ms,
                    multiplier: growth.multiplier,
                }),
                kind,
            },
            group_sys_flag: *group_sys_flag,
            notify_consumer_ids_changed_enable: *notify_consumer_ids_changed_enable,
            retry_max_times: *retry_max_times,
            retry_queue_nums: *retry_queue_nums,
            subscription_data_set: Some(subscriptions.collect::<Vec<_>>()).filter(|set| !set.is_empty()),
            which_broker_when_consume_slowly: *which_broker_when_consume_slowly,
        }
    }
}

/// Without the attributes, of which groups have none.
impl From<&wire::SubscriptionGroupConfig> for GroupConfig {
    fn from(config: &wire::SubscriptionGroupConfig) -> GroupConfig {
        let policy = &config.group_retry_policy;
        let subscriptions = config.subscription_data_set.iter().flatten().map(|s| Subscription {
            topic: s.topic.clone(),
            expression_type: s.expression_type.clone(),
            expression: s.expression.clone(),
            version: s.version,
        });
        GroupConfig {
            name: config.group_name.clone(),
            consume_enable: config.consume_enable,
            consume_from_min_enable: config.consume_from_min_enable,
            consume_broadcast_enable: config.consume_broadcast_enable,
            consume_message_orderly: config.consume_message_orderly,
            retry_queue_nums: config.retry_queue_nums,
            retry_max_times: config.retry_max_times,
            retry_policy: RetryPolicy {
                exponential: policy.kind == wire::GroupRetryPolicyType::Exponential,
                table: policy
                    .customized_retry_policy
                    .as_ref()
                    .map(|table| RetryTable { delays_ms: table.next.clone() }),
                growth: policy.exponential_retry_policy.as_ref().map(|growth| RetryGrowth {
                    initial_ms: growth.initial,
                    max_ms: growth.max,
                    multiplier: growth.multiplier,
                }),
            },
            broker_id: config.broker_id,
            which_broker_when_consume_slowly: config.which_broker_when_consume_slowly,
            notify_consumer_ids_changed_enable: config.notify_consumer_ids_changed_enable,
            group_sys_flag: config.group_sys_flag,
            consume_timeout_minute: config.consume_timeout_minute,
            subscriptions: subscriptions.collect(),
        }
    }
}
