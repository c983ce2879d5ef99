//! Thin calls for tools: each is one request, or one per broker, and nothing is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;

use wire::{
    Body, BrokerData, ClusterInfo, ConsumeStats, ConsumerConnection, ConsumerGroupRequest,
    CreateTopicRequest, GetConsumeStatsRequest, KvTable, MessageQueue, OffsetMessageId, QueryMessageRequest,
    RequestCode, ResponseCode, StoredMessage, SubscriptionGroupConfig, TopicConfig, TopicList, TopicRequest,
    TopicRouteData, TopicStatsTable, ViewMessageRequest, ext_key,
};

use crate::call::bad_answer;
use crate::client::{Client, Shared};
use crate::consumer::ReceivedMessage;
use crate::error::ClientError;
use crate::limits;

/// Questions and orders of an operator.
pub struct Admin {
    client: Client,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("client", &self.client).finish()
    }
}

impl Client {
    pub fn admin(&self) -> Admin {
        Admin { client: self.clone() }
    }
}

impl Admin {
    fn shared(&self) -> &Arc<Shared> {
        &self.client.shared
    }

    // Nameserver.

    /// 105: the nameserver's word now, not what this client has cached. `None`: unknown topic.
    pub async fn topic_route(&self, topic: &str) -> Result<Option<TopicRouteData>, ClientError> {
        self.shared().routes.nameservers().route(topic).await
    }

    /// 106.
    pub async fn cluster_info(&self) -> Result<ClusterInfo, ClientError> {
        self.ask_nameserver(RequestCode::GET_BROKER_CLUSTER_INFO).await
    }

    /// 206.
    pub async fn topic_list(&self) -> Result<TopicList, ClientError> {
        self.ask_nameserver(RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER).await
    }

    async fn ask_nameserver<T: Body>(&self, code: RequestCode) -> Result<T, ClientError> {
        let request = self.shared().caller.bare_request(code);
        let (from, answer) = self.shared().routes.nameservers().ask(request).await?;
        T::decode(&answer.body).map_err(|error| bad_answer(&from, error))
    }

    // Topics and groups, at every master of a cluster or at one address.

    /// 17 at every master of the cluster. Stops at the first that refuses.
    pub async fn create_topic(&self, cluster: &str, config: &TopicConfig) -> Result<(), ClientError> {
        for address in self.masters(cluster).await? {
            self.create_topic_at(&address, config).await?;
        }
        Ok(())
    }

    /// 17 at one broker: creates the topic or changes it.
    pub async fn create_topic_at(&self, address: &str, config: &TopicConfig) -> Result<(), ClientError> {
        wire::validate_topic(&config.topic_name).map_err(|error| ClientError::Refused(error.to_string()))?;
        let attribute = |(name, value): (&String, &String)| format!("+{name}={value}");
        let attributes: Vec<String> = config.attributes.iter().map(attribute).collect();
        let header = CreateTopicRequest {
            topic: config.topic_name.clone(),
            default_topic: wire::topic::AUTO_CREATE.into(),
            read_queue_nums: config.read_queue_nums,
            write_queue_nums: config.write_queue_nums,
            perm: config.perm,
            topic_filter_type: config.topic_filter_type.clone(),
            topic_sys_flag: Some(config.topic_sys_flag),
            order: config.order,
            attributes: (!attributes.is_empty()).then(|| attributes.join(",")),
            force: None,
        };
        let request = self.shared().caller.request(RequestCode::UPDATE_AND_CREATE_TOPIC, &header);
        self.shared().caller.ask(address, request, self.timeout()).await.map(drop)
    }

    /// 200 at every master of the cluster.
    pub async fn update_group(
        &self,
        cluster: &str,
        config: &SubscriptionGroupConfig,
    ) -> Result<(), ClientError> {
        for address in self.masters(cluster).await? {
            self.update_group_at(&address, config).await?;
        }
        Ok(())
    }

    /// 200 at one broker.
    pub async fn update_group_at(
        &self,
        address: &str,
        config: &SubscriptionGroupConfig,
    ) -> Result<(), ClientError> {
        wire::validate_group(&config.group_name).map_err(|error| ClientError::Refused(error.to_string()))?;
        let code = RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
        let request = self.shared().caller.bare_request(code).with_body(config.encode());
        self.shared().caller.ask(address, request, self.timeout()).await.map(drop)
    }

    /// Addresses of the masters of a cluster, in the order of their broker names.
    pub async fn masters(&self, cluster: &str) -> Result<Vec<String>, ClientError> {
        let info = self.cluster_info().await?;
        let Some(names) = info.cluster_addr_table.get(cluster) else {
            let known: Vec<_> = info.cluster_addr_table.keys().map(String::as_str).collect();
            return Err(ClientError::Refused(format!("no cluster {cluster}; there is {}", known.join(", "))));
        };
        let names: BTreeSet<&String> = names.iter().collect();
        let mut addresses = Vec::new();
        for name in names {
            let broker = info.broker_addr_table.get(name);
            let master = broker.and_then(|broker| broker.broker_addrs.get(&wire::MASTER_ID));
            addresses.push(master.cloned().ok_or_else(|| ClientError::NotSent {
                to: name.clone(),
                why: "it has no master now".into(),
            })?);
        }
        Ok(addresses)
    }

    // Statistics.

    /// 202 at every broker of the topic.
    pub async fn topic_stats(&self, topic: &str) -> Result<TopicStatsTable, ClientError> {
        let mut all = TopicStatsTable::default();
        for address in self.brokers_of(topic).await? {
            let header = TopicRequest { topic: topic.to_owned() };
            let request = self.shared().caller.request(RequestCode::GET_TOPIC_STATS_INFO, &header);
            let stats: TopicStatsTable =
                self.shared().caller.ask_body(&address, request, self.timeout()).await?;
            all.offset_table.extend(stats.offset_table.0);
            all.topic_put_tps += stats.topic_put_tps;
        }
        Ok(all)
    }

    /// 208 at every broker that serves the group. `topic`: that one only.
    pub async fn consume_stats(&self, group: &str, topic: Option<&str>) -> Result<ConsumeStats, ClientError> {
        let mut all = ConsumeStats::default();
        for address in self.brokers_of(&wire::retry_topic(group)).await? {
            let header = GetConsumeStatsRequest {
                consumer_group: group.to_owned(),
                topic: topic.map(str::to_owned),
                topic_list: None,
            };
            let request = self.shared().caller.request(RequestCode::GET_CONSUME_STATS, &header);
            let stats: ConsumeStats =
                self.shared().caller.ask_body(&address, request, self.timeout()).await?;
            all.offset_table.extend(stats.offset_table.0);
            all.consume_tps += stats.consume_tps;
        }
        Ok(all)
    }

    /// 28: a broker's own account of itself, key by key.
    pub async fn broker_runtime_info(&self, address: &str) -> Result<BTreeMap<String, String>, ClientError> {
        let request = self.shared().caller.bare_request(RequestCode::GET_BROKER_RUNTIME_INFO);
        let table: KvTable = self.shared().caller.ask_body(address, request, self.timeout()).await?;
        Ok(table.table)
    }

    /// 203: who consumes in a group, as one of its brokers knows. Code 206 when nobody does.
    pub async fn consumer_connection(&self, group: &str) -> Result<ConsumerConnection, ClientError> {
        let addresses = self.brokers_of(&wire::retry_topic(group)).await?;
        let address = &addresses[rand::random_range(0..addresses.len())];
        let header = ConsumerGroupRequest { consumer_group: group.to_owned() };
        let request = self.shared().caller.request(RequestCode::GET_CONSUMER_CONNECTION_LIST, &header);
        self.shared().caller.ask_body(address, request, self.timeout()).await
    }

    // Messages.

    /// 33: the message with this offset message id, from the broker that the id names.
    pub async fn view_message(&self, offset_message_id: &str) -> Result<ReceivedMessage, ClientError> {
        let id = OffsetMessageId::from_str(offset_message_id)
            .map_err(|_| ClientError::Refused(format!("{offset_message_id} is no offset message id")))?;
        let address = id.host.to_string();
        let header = ViewMessageRequest { topic: None, offset: id.position.to_wire() };
        let request = self.shared().caller.request(RequestCode::VIEW_MESSAGE_BY_ID, &header);
        let answer = self.shared().caller.ask(&address, request, self.timeout()).await?;
        let stored = StoredMessage::parse(&answer.body).map_err(|error| bad_answer(&address, error))?;
        // The broker's name is not told, and its address names it as well.
        let queue = Arc::new(MessageQueue::new(stored.topic, &address, stored.queue_id.to_wire()));
        Ok(ReceivedMessage::from_stored(&queue, &stored, &answer.body))
    }

    /// 12: messages of the topic with this key, stored between two times (milliseconds since 1970),
    /// newest first, at most 64.
    pub async fn query_by_key(
        &self,
        topic: &str,
        key: &str,
        begin_ms: u64,
        end_ms: u64,
        max: u32,
    ) -> Result<Vec<ReceivedMessage>, ClientError> {
        let found = self.query(topic, key, begin_ms, end_ms, max.clamp(1, limits::QUERY_MAX), false).await?;
        // Brokers go by a hash of the key.
        Ok(found.into_iter().filter(|message| message.keys().any(|own| own == key)).collect())
    }

    /// 12: messages of the topic with this unique id, newest first.
    pub async fn query_by_unique_id(
        &self,
        topic: &str,
        id: &str,
    ) -> Result<Vec<ReceivedMessage>, ClientError> {
        let found = self.query(topic, id, 0, i64::MAX as u64, 32, true).await?;
        Ok(found.into_iter().filter(|message| message.message_id() == id).collect())
    }

    async fn query(
        &self,
        topic: &str,
        key: &str,
        begin_ms: u64,
        end_ms: u64,
        max: u32,
        is_unique_id: bool,
    ) -> Result<Vec<ReceivedMessage>, ClientError> {
        let wire_ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let header = QueryMessageRequest {
            topic: topic.to_owned(),
            key: key.to_owned(),
            max_num: i32::try_from(max).unwrap_or(i32::MAX),
            begin_timestamp: wire_ms(begin_ms),
            end_timestamp: wire_ms(end_ms),
        };
        let mut found = Vec::new();
        for broker in self.route(topic).await?.broker_datas {
            let Some(address) = address_of(&broker) else { continue };
            let request = self
                .shared()
                .caller
                .request(RequestCode::QUERY_MESSAGE, &header)
                .with_ext(ext_key::UNIQUE_KEY_QUERY, if is_unique_id { "true" } else { "false" });
            let answer = match self.shared().caller.ask(&address, request, self.timeout()).await {
                Err(ClientError::Broker { code: ResponseCode::QUERY_NOT_FOUND, .. }) => continue,
                answer => answer?,
            };
            for stored in wire::Messages::new(&answer.body) {
                let stored = stored.map_err(|error| bad_answer(&address, error))?;
                let queue = MessageQueue::new(stored.topic, &broker.broker_name, stored.queue_id.to_wire());
                found.push(ReceivedMessage::from_stored(&Arc::new(queue), &stored, &answer.body));
            }
        }
        found.sort_by_key(|message| std::cmp::Reverse(message.store_timestamp_ms()));
        found.truncate(max as usize);
        Ok(found)
    }

    fn timeout(&self) -> std::time::Duration {
        self.shared().config.call_timeout
    }

    async fn route(&self, topic: &str) -> Result<TopicRouteData, ClientError> {
        let route = self.topic_route(topic).await?;
        route.filter(|route| !route.broker_datas.is_empty()).ok_or_else(|| ClientError::NoRoute {
            topic: topic.to_owned(),
            why: "the nameserver does not know it".into(),
        })
    }

    /// An address of each broker of a topic, its master's where there is one. Not empty.
    async fn brokers_of(&self, topic: &str) -> Result<Vec<String>, ClientError> {
        let route = self.route(topic).await?;
        let addresses: Vec<String> = route.broker_datas.iter().filter_map(address_of).collect();
        if addresses.is_empty() {
            let why = "its brokers have no address".into();
            return Err(ClientError::NoRoute { topic: topic.to_owned(), why });
        }
        Ok(addresses)
    }
}

fn address_of(broker: &BrokerData) -> Option<String> {
    let master = broker.broker_addrs.get(&wire::MASTER_ID);
    master.or_else(|| broker.broker_addrs.values().next()).cloned()
}
