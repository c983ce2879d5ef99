//! Single messages.

use std::str::FromStr as _;
use std::sync::Arc;

use wire::{
    MessageQueue, OffsetMessageId, QueryMessageRequest, RequestCode, ResponseCode, StoredMessage,
    ViewMessageRequest, ext_key,
};

use super::{Admin, address_of};
use crate::call::bad_answer;
use crate::consumer::ReceivedMessage;
use crate::error::ClientError;
use crate::limits;

impl Admin {
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
}
