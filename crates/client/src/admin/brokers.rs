//! Brokers, each for itself.

use std::collections::BTreeMap;

use wire::{KvTable, RequestCode, java_properties};

use super::Admin;
use crate::error::ClientError;

impl Admin {
    /// 28: a broker's own account of itself, key by key.
    pub async fn broker_runtime_info(&self, address: &str) -> Result<BTreeMap<String, String>, ClientError> {
        let request = self.shared().caller.bare_request(RequestCode::GET_BROKER_RUNTIME_INFO);
        let table: KvTable = self.shared().caller.ask_body(address, request, self.timeout()).await?;
        Ok(table.table)
    }

    /// 26: a broker's configuration under RocketMQ's names.
    pub async fn broker_config(&self, address: &str) -> Result<BTreeMap<String, String>, ClientError> {
        let request = self.shared().caller.bare_request(RequestCode::GET_BROKER_CONFIG);
        let answer = self.shared().caller.ask(address, request, self.timeout()).await?;
        Ok(java_properties::read(&String::from_utf8_lossy(&answer.body)).into_iter().collect())
    }

    /// 25: changes what may be changed while a broker runs. Returns what it says that it took.
    pub async fn update_broker_config(
        &self,
        address: &str,
        values: &BTreeMap<String, String>,
    ) -> Result<String, ClientError> {
        let text = java_properties::write(values.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let request = self.shared().caller.bare_request(RequestCode::UPDATE_BROKER_CONFIG).with_body(text);
        let answer = self.shared().caller.ask(address, request, self.timeout()).await?;
        Ok(answer.remark.unwrap_or_default())
    }
}
