//! 37: a producer ends a transaction (protocol.md 3.5). One-way from every stock client.
//!
//! The half message is looked up by its offset and must be the one that is meant: position, producer group and unique id.
//! So a late end never touches another transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wire::{
    EndTransactionRequest, MessageError, QueueId, QueueOffset, ResponseCode, StoredMessage, prop, sysflag,
};

use crate::call::Call;
use crate::creation;
use crate::damage;
use crate::errors::Error;
use crate::handlers::offset::blocking;
use crate::hosted::Hosted;
use crate::state::{Topic, TopicConfig, rules};
use crate::transactions::ends::{self, Commit, End};
use crate::transactions::half::{self, Look};
use crate::transactions::token::Token;

/// Where a 37 belongs, if not to the group whose listener it met.
pub(crate) fn elsewhere<'a>(here: &str, call: &'a Call) -> Option<(&'a str, Option<Token<'a>>)> {
    if call.is_forwarded() {
        return None;
    }
    let ext = &call.request.ext;
    let token = ext.get("transactionId").and_then(Token::parse);
    let group = token.as_ref().map(|token| token.group).or_else(|| ext.get("bname"))?;
    (group != here && !group.is_empty()).then_some((group, token))
}

/// 37.
pub(crate) fn end(hosted: &Arc<Hosted>, call: Call) {
    let header = match EndTransactionRequest::decode(&call.request.ext) {
        Ok(header) => header,
        Err(error) => return hosted.fail(call, error.into()),
    };
    match header.commit_or_rollback {
        sysflag::TRANSACTION_COMMIT | sysflag::TRANSACTION_ROLLBACK => {}
        // The producer does not know. It will be asked.
        _ => return call.succeed(),
    }
    let Some(serving) = hosted.serving() else { return hosted.again(call, None) };
    let Some(offset) = QueueOffset::from_wire(header.tran_state_table_offset) else {
        return hosted.fail(call, wrong("The transaction state table offset wrong"));
    };
    match half::look(hosted, serving, offset) {
        Look::Found(record) => judge(hosted, call, header, offset, record),
        Look::Missing => hosted.fail(call, wrong(MISSING)),
        Look::Cold => {
            let hosted = hosted.clone();
            tokio::spawn(async move {
                match blocking(&hosted, move |hosted, serving| half::read(hosted, serving, offset)).await {
                    Ok(Some(record)) => judge(&hosted, call, header, offset, record),
                    Ok(None) => hosted.fail(call, wrong(MISSING)),
                    Err(Error::Store(error)) => hosted.fail(call, wrong(format!("{DAMAGED}: {error}"))),
                    Err(error) => hosted.fail(call, error),
                }
            });
        }
    }
}

const MISSING: &str = "Find prepared transaction message failed";
const DAMAGED: &str = "the half message is damaged on this node, or cannot be read";

fn wrong(remark: impl Into<String>) -> Error {
    Error::refused(ResponseCode::SYSTEM_ERROR, remark)
}

fn judge(
    hosted: &Arc<Hosted>,
    call: Call,
    header: EndTransactionRequest,
    offset: QueueOffset,
    record: Bytes,
) {
    let damaged = |error: MessageError| {
        damage::report(hosted, half::TOPIC, half::QUEUE, offset, &error);
        wrong(format!("{DAMAGED}: {error}"))
    };
    let checked = match StoredMessage::parse(&record) {
        Ok(half) => check(hosted, &header, &half).and_then(|()| {
            if header.commit_or_rollback == sysflag::TRANSACTION_ROLLBACK {
                return Ok(None);
            }
            // It would get another CRC.
            half.verify().map_err(damaged)?;
            let (topic, queue) = half::real(&half).ok_or_else(|| wrong("the half message has no topic"))?;
            Ok(Some((topic.to_owned(), queue)))
        }),
        Err(error) => Err(damaged(error)),
    };
    let since = Instant::now();
    match checked {
        Err(error) => {
            tracing::debug!(group = hosted.name(), %offset, %error, "a transaction is not ended");
            hosted.fail(call, error);
        }
        Ok(None) => hosted.ends.push(hosted, End { call, offset, commit: None, since }),
        Ok(Some((topic, queue))) => match hosted.state.topic(&topic) {
            Some(topic) => {
                let commit = Commit {
                    half: record,
                    queue: fitting(&topic, queue),
                    topic: topic.name.clone(),
                    alone: false,
                    voids: 0,
                };
                hosted.ends.push(hosted, End { call, offset, commit: Some(commit), since });
            }
            None => create(hosted, call, header, offset, record, &topic),
        },
    }
}

/// The checks of protocol.md 3.5, and whether the transaction goes on at all.
fn check(hosted: &Hosted, header: &EndTransactionRequest, half: &StoredMessage<'_>) -> Result<(), Error> {
    let timeout = Duration::from_millis(hosted.config.transaction_timeout_ms);
    if !header.from_transaction_check && half::asked_immunity(half).is_some() {
        let age = hosted.log_now_ms().saturating_sub(u64::try_from(half.store_timestamp).unwrap_or(0));
        if Duration::from_millis(age) > half::immunity(half, timeout) {
            let remark = "the time in which the producer could end it by itself is over; it will be asked";
            return Err(Error::refused(ResponseCode::ILLEGAL_OPERATION, remark));
        }
    }
    if half.property(prop::PGROUP) != Some(header.producer_group.as_str()) {
        return Err(wrong("The producer group wrong"));
    }
    if half.position.to_wire() != header.commit_log_offset {
        return Err(wrong("The commit log offset wrong"));
    }
    if !header.transaction_id.as_deref().is_none_or(|id| names(id, half)) {
        return Err(wrong("The transaction id names another message"));
    }
    if hosted.state.is_done(half::TOPIC, half::QUEUE, half.queue_offset) {
        return Err(ends::over(half.queue_offset));
    }
    Ok(())
}

/// Whether a 37's transactionId is that of this half message. After a 39, Java clients bring its token back. After the send
/// every stock client brings back what the answer to it named, the unique id; so does Go's after a 39, which reads it from
/// the message.
fn names(id: &str, half: &StoredMessage<'_>) -> bool {
    let unique = half.unique_id().unwrap_or_default();
    match Token::parse(id) {
        Some(token) => token.position == half.position && token.unique == unique,
        None => id.is_empty() || id == unique || half.property(prop::TRANSACTION_ID) == Some(id),
    }
}

/// A topic that has fewer queues than it had keeps its messages all the same.
fn fitting(topic: &Topic, queue: QueueId) -> QueueId {
    let count = topic.queue_count().max(1);
    QueueId(queue.0 % count)
}

/// The topic was deleted since the half message came: it is made again where a send would make it.
fn create(
    hosted: &Arc<Hosted>,
    call: Call,
    header: EndTransactionRequest,
    offset: QueueOffset,
    record: Bytes,
    topic: &str,
) {
    let config = match pattern(hosted, topic) {
        Ok(config) => config,
        Err(error) => {
            tracing::warn!(group = hosted.name(), topic, %offset, %error, "a transaction cannot be committed");
            return hosted.fail(call, error);
        }
    };
    let hosted = hosted.clone();
    tokio::spawn(async move {
        match creation::ensure(&hosted, config).await {
            Ok(()) => judge(&hosted, call, header, offset, record),
            Err(error) => hosted.fail(call, error),
        }
    });
}

fn pattern(hosted: &Hosted, topic: &str) -> Result<TopicConfig, Error> {
    let allowed = hosted.settings.auto_create_topic();
    let pattern = allowed.then(|| hosted.state.topic(wire::topic::AUTO_CREATE)).flatten();
    let pattern = pattern.as_ref().map(|topic| &topic.config);
    let queues = pattern.map_or(0, |config| i32::try_from(config.write_queues).unwrap_or(i32::MAX));
    Ok(rules::auto_create(topic, pattern, queues, 0)?)
}
