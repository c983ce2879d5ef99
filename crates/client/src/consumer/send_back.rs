//! Messages that failed: back to their broker (DefaultMQPushConsumerImpl.sendMessageBack).

use wire::{ConsumerSendMsgBackRequest, RequestCode, ext_key, prop};

use super::push::PushMember;
use super::received::ReceivedMessage;
use crate::error::ClientError;
use crate::limits;
use crate::producer::Message;

impl PushMember {
    /// Gives a message back to its broker for another attempt later. False: that failed.
    pub(crate) async fn send_back(&self, message: &ReceivedMessage, delay_level: i32) -> bool {
        let result = self.send_back_by_position(message, delay_level).await;
        let Err(error) = result else { return true };
        let queue = message.queue();
        tracing::warn!(group = &*self.group, ?queue, offset = message.offset().get(), %error, "message is not taken back");
        let copy = match self.retry_copy(message, message.reconsume_times() + 1) {
            Ok(copy) => copy,
            Err(error) => {
                tracing::error!(group = &*self.group, ?queue, %error, "no copy for the retry topic");
                return false;
            }
        };
        match self.fallback.send(&copy).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(group = &*self.group, ?queue, %error, "message is not sent to the retry topic");
                false
            }
        }
    }

    async fn send_back_by_position(
        &self,
        message: &ReceivedMessage,
        delay_level: i32,
    ) -> Result<(), ClientError> {
        let name = &message.queue().broker_name;
        let address =
            self.shared.routes.broker(name).and_then(|broker| broker.master()).ok_or_else(|| {
                ClientError::NotSent { to: name.clone(), why: "it has no master now".into() }
            })?;
        let header = ConsumerSendMsgBackRequest {
            offset: message.position().to_wire(),
            group: self.group.to_string(),
            delay_level,
            origin_msg_id: Some(message.message_id()),
            origin_topic: Some(message.topic().to_owned()),
            unit_mode: false,
            max_reconsume_times: Some(self.reconsume_times()),
        };
        let caller = &self.shared.caller;
        let request =
            caller.request(RequestCode::CONSUMER_SEND_MSG_BACK, &header).with_ext(ext_key::BROKER_NAME, name);
        caller.ask(&address, request, limits::SEND_BACK_TIMEOUT).await.map(drop)
    }

    /// The message as an ordinary one for the retry topic (sendMessageBackAsNormalMessage).
    pub(crate) fn retry_copy(&self, message: &ReceivedMessage, times: i32) -> Result<Message, ClientError> {
        let mut copy =
            Message::new(wire::retry_topic(&self.group), message.body().clone()).flag(message.flag());
        for (name, value) in message.properties() {
            if !matches!(name, prop::TRAN_MSG | prop::DELAY) {
                copy = copy.reserved(name, value);
            }
        }
        if message.property(prop::ORIGIN_MESSAGE_ID).is_none() {
            copy = copy.reserved(prop::ORIGIN_MESSAGE_ID, &message.message_id());
        }
        let level = limits::RETRY_DELAY_LEVEL.saturating_add(times - 1);
        let copy = copy
            .reserved(prop::RETRY_TOPIC, message.topic())
            .reserved(prop::RECONSUME_TIME, &times.to_string())
            .reserved(prop::MAX_RECONSUME_TIMES, &self.reconsume_times().to_string())
            .reserved(prop::DELAY, &level.to_string());
        copy.check()?;
        Ok(copy)
    }
}
