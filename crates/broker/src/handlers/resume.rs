//! 323: an administrator has the producers of a transaction asked once more that was put aside because none of them knew what
//! became of it (AdminBrokerProcessor.resumeCheckHalfMessage).

use std::sync::Arc;

use futures::future::FutureExt;
use replica::MessagesProposal;
use wire::{OffsetMessageId, ResponseCode, ResumeCheckHalfMessageRequest, StoredMessage, topic as system};

use crate::call::Call;
use crate::damage::{self, sound};
use crate::errors::Error;
use crate::handlers::offset::blocking;
use crate::handlers::query::record_at;
use crate::handlers::send_back::store;
use crate::handlers::step::success;
use crate::hosted::Hosted;
use crate::requests::Answer;
use crate::transactions::half;

/// 323.
pub(crate) fn resume<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = ResumeCheckHalfMessageRequest::decode(&call.request.ext)?;
        let id = header.msg_id.unwrap_or_default();
        let wrong = |why: &str| {
            let remark = format!("the message {id:?} is not put back among the half messages: {why}");
            Error::refused(ResponseCode::SYSTEM_ERROR, remark)
        };
        let place: OffsetMessageId = id.parse().map_err(|_| wrong("this is no offset message id"))?;
        let record = blocking(hosted, move |hosted, serving| {
            let found = record_at(hosted, serving, place.position)?;
            let checked =
                |found: bytes::Bytes| damage::read(&serving.log, place.position, found.len() as u32);
            Ok(found.map(checked).transpose()?)
        });
        let record = record.await?.ok_or_else(|| wrong("it is not there"))?;
        let message =
            sound(&record).map_err(|error| wrong(&format!("it is damaged on this node: {error}")))?;
        check(&message).map_err(wrong)?;
        hosted.check_level()?;
        let topic = hosted.state.topic(half::TOPIC).ok_or(Error::Void)?.name.clone();
        let records =
            half::resumed(&message, hosted.store_host).map_err(|error| wrong(&error.to_string()))?;
        store(hosted, MessagesProposal { topic, queue: half::QUEUE, records, count: 1 }).await?;
        tracing::info!(
            group = hosted.name(),
            unique = message.unique_id(),
            "the producers of a transaction are asked again"
        );
        Ok(success(&call.request))
    }
    .boxed()
}

/// Only what was put aside: RocketMQ takes any message, and so makes a second transaction of one that is pending.
fn check(message: &StoredMessage<'_>) -> Result<(), &'static str> {
    if message.topic != system::TRANS_CHECK_MAX_TIME {
        return Err("it is not in TRANS_CHECK_MAX_TIME_TOPIC");
    }
    half::real(message).map(drop).ok_or("it names no topic and queue")
}
