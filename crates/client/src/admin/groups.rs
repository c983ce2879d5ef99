//! Consumer groups and producers.

use wire::{
    Body, ConsumeStats, ConsumerConnection, ConsumerGroupRequest, DeleteSubscriptionGroupRequest,
    GetConsumeStatsRequest, MessageQueue, OffsetResponse, ProducerConnection, ProducerGroupRequest,
    QueueOffset, RequestCode, ResetOffsetBody, ResetOffsetRequest, ResponseCode, SearchOffsetRequest,
    SubscriptionGroupConfig,
};

use super::{Admin, address_of};
use crate::call::bad_answer;
use crate::error::ClientError;

impl Admin {
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

    /// 207 at every master of the cluster; with its offsets, if asked. Its retry and dead-letter topics go as well, as with
    /// mqadmin.
    pub async fn delete_group(
        &self,
        cluster: &str,
        group: &str,
        with_offsets: bool,
    ) -> Result<(), ClientError> {
        for address in self.masters(cluster).await? {
            let header =
                DeleteSubscriptionGroupRequest { group_name: group.to_owned(), clean_offset: with_offsets };
            let request = self.shared().caller.request(RequestCode::DELETE_SUBSCRIPTIONGROUP, &header);
            self.shared().caller.ask(&address, request, self.timeout()).await?;
        }
        for topic in [wire::retry_topic(group), wire::dlq_topic(group)] {
            self.delete_topic(cluster, &topic).await?;
        }
        Ok(())
    }

    /// 208 at every broker that serves the group. `topic`: that one only.
    pub async fn consume_stats(&self, group: &str, topic: Option<&str>) -> Result<ConsumeStats, ClientError> {
        let mut all = ConsumeStats::default();
        // A group that never had a member has no retry topic by which it could be found.
        let found_by = topic.map_or_else(|| wire::retry_topic(group), str::to_owned);
        for address in self.brokers_of(&found_by).await? {
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

    /// 203: who consumes in a group, as one of its brokers knows. Code 206 when nobody does.
    pub async fn consumer_connection(&self, group: &str) -> Result<ConsumerConnection, ClientError> {
        let addresses = self.brokers_of(&wire::retry_topic(group)).await?;
        let address = &addresses[rand::random_range(0..addresses.len())];
        let header = ConsumerGroupRequest { consumer_group: group.to_owned() };
        let request = self.shared().caller.request(RequestCode::GET_CONSUMER_CONNECTION_LIST, &header);
        self.shared().caller.ask_body(address, request, self.timeout()).await
    }

    /// 204: who produces for a group, as a broker of the topic knows. `None`: nobody.
    pub async fn producer_connection(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<Option<ProducerConnection>, ClientError> {
        let addresses = self.brokers_of(topic).await?;
        let address = &addresses[rand::random_range(0..addresses.len())];
        let header = ProducerGroupRequest { producer_group: group.to_owned() };
        let request = self.shared().caller.request(RequestCode::GET_PRODUCER_CONNECTION_LIST, &header);
        match self.shared().caller.ask_body(address, request, self.timeout()).await {
            Ok(connection) => Ok(Some(connection)),
            // The code for "nobody"; whatever else has it says so in its remark.
            Err(ClientError::Broker { code: ResponseCode::SYSTEM_ERROR, remark, .. })
                if remark.contains("not exist") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// 29: in each queue of a topic that can be read, the first message stored at or after a time (milliseconds since
    /// 1970), or the end.
    pub async fn offsets_at(
        &self,
        topic: &str,
        time_ms: i64,
    ) -> Result<Vec<(MessageQueue, QueueOffset)>, ClientError> {
        let route = self.route(topic).await?;
        let mut found = Vec::new();
        for queues in &route.queue_datas {
            let broker = route.broker_datas.iter().find(|broker| broker.broker_name == queues.broker_name);
            let Some(address) = broker.and_then(address_of) else { continue };
            for queue_id in 0..queues.read_queue_nums {
                let header = SearchOffsetRequest {
                    topic: topic.to_owned(),
                    queue_id,
                    timestamp: time_ms,
                    boundary_type: None,
                };
                let request = self.shared().caller.request(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, &header);
                let answer = self.shared().caller.ask(&address, request, self.timeout()).await?;
                let header =
                    OffsetResponse::decode(&answer.ext).map_err(|error| bad_answer(&address, error))?;
                let offset = QueueOffset::from_wire(header.offset)
                    .ok_or_else(|| bad_answer(&address, format!("offset {}", header.offset)))?;
                found.push((MessageQueue::new(topic, &queues.broker_name, queue_id), offset));
            }
        }
        Ok(found)
    }

    /// 222 at every broker of the topic: a group goes on from a time (milliseconds since 1970; -1: the end). Returns the
    /// offsets that it goes on from.
    pub async fn reset_offsets(
        &self,
        group: &str,
        topic: &str,
        time_ms: i64,
    ) -> Result<ResetOffsetBody, ClientError> {
        let mut all = ResetOffsetBody::default();
        for address in self.brokers_of(topic).await? {
            let header = ResetOffsetRequest {
                group: group.to_owned(),
                topic: topic.to_owned(),
                timestamp: time_ms,
                is_force: true,
                ..ResetOffsetRequest::default()
            };
            let request = self.shared().caller.request(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET, &header);
            let body: ResetOffsetBody =
                self.shared().caller.ask_body(&address, request, self.timeout()).await?;
            all.offset_table.extend(body.offset_table.0);
        }
        Ok(all)
    }
}
