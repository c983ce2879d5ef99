//! Thin calls for tools: each is one request, or one per broker, and nothing is kept. Topics, groups, messages and
//! brokers have files of their own.

mod brokers;
mod groups;
mod messages;
mod topics;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use wire::{Body, BrokerData, ClusterInfo, RequestCode, TopicList, TopicRouteData};

use crate::call::bad_answer;
use crate::client::{Client, Shared};
use crate::error::ClientError;

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
