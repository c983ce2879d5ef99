//! Topics, at every master of a cluster or at one address.

use wire::{
    CreateTopicRequest, DeleteTopicFromNamesrvRequest, RequestCode, ResponseCode, TopicConfig, TopicRequest,
    TopicStatsTable,
};

use super::Admin;
use crate::error::ClientError;

impl Admin {
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

    /// 215 at every master of the cluster, then 216 at every nameserver.
    pub async fn delete_topic(&self, cluster: &str, topic: &str) -> Result<(), ClientError> {
        for address in self.masters(cluster).await? {
            let header = TopicRequest { topic: topic.to_owned() };
            let request = self.shared().caller.request(RequestCode::DELETE_TOPIC_IN_BROKER, &header);
            self.shared().caller.ask(&address, request, self.timeout()).await?;
        }
        let header =
            DeleteTopicFromNamesrvRequest { topic: topic.to_owned(), cluster_name: Some(cluster.to_owned()) };
        for nameserver in &self.shared().config.nameservers {
            let request = self.shared().caller.request(RequestCode::DELETE_TOPIC_IN_NAMESRV, &header);
            self.shared().caller.ask(nameserver, request, self.timeout()).await?;
        }
        Ok(())
    }

    /// 351: a topic as one broker has it; `None`: it has none of that name.
    pub async fn topic_config_at(
        &self,
        address: &str,
        topic: &str,
    ) -> Result<Option<TopicConfig>, ClientError> {
        let header = TopicRequest { topic: topic.to_owned() };
        let request = self.shared().caller.request(RequestCode::GET_TOPIC_CONFIG, &header);
        match self.shared().caller.ask_body(address, request, self.timeout()).await {
            Ok(config) => Ok(Some(config)),
            Err(ClientError::Broker { code: ResponseCode::TOPIC_NOT_EXIST, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

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
}
