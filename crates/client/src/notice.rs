//! What brokers ask of clients (client/impl/ClientRemotingProcessor.java). 40 is dealt with where it
//! arrives (client.rs). 39 and 326 come with transactions and request-reply.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use net::Replier;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use wire::{
    Body, ConsumeMessageDirectlyRequest, ConsumeMessageDirectlyResult, GetConsumerRunningInfoRequest,
    GetConsumerStatusBody, GetConsumerStatusRequest, MessageQueue, RemotingCommand, RequestCode,
    ResetOffsetBody, ResetOffsetRequest, ResponseCode, StoredMessage,
};

use crate::client::Shared;
use crate::consumer::{PushMember, ReceivedMessage, Verdict};
use crate::limits;

/// One after the other; what may take long gets a task of its own.
pub(crate) async fn serve(
    shared: Weak<Shared>,
    mut notices: mpsc::Receiver<(RemotingCommand, Replier)>,
    stop: CancellationToken,
) {
    let direct_calls = Arc::new(Semaphore::new(limits::DIRECT_CALLS_MAX));
    while let Some(Some((request, replier))) = stop.run_until_cancelled(notices.recv()).await {
        let Some(shared) = shared.upgrade() else { break };
        let peer = replier.connection().peer();
        tracing::debug!(%peer, code = %request.request_code(), "a broker asks");
        match request.request_code() {
            RequestCode::RESET_CONSUMER_CLIENT_OFFSET => reset_offset(&shared, peer, &request, replier).await,
            RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT => {
                answer(replier, consumer_status(&shared, &request));
            }
            RequestCode::GET_CONSUMER_RUNNING_INFO => answer(replier, running_info(&shared, &request)),
            RequestCode::CONSUME_MESSAGE_DIRECTLY => {
                let Ok(place) = Arc::clone(&direct_calls).try_acquire_owned() else {
                    replier
                        .refuse(ResponseCode::SYSTEM_BUSY, "the client consumes too many messages directly");
                    continue;
                };
                let task_shared = Arc::clone(&shared);
                shared.spawn(async move {
                    let result =
                        task_shared.stop.run_until_cancelled(consume_directly(&task_shared, &request)).await;
                    answer(replier, result.unwrap_or_else(|| Err("the client was shut down".into())));
                    drop(place);
                });
            }
            _ => {
                let remark = format!(" request type {} not supported", request.code);
                replier.refuse(ResponseCode::REQUEST_CODE_NOT_SUPPORTED, remark);
            }
        }
    }
}

fn answer(replier: Replier, result: Result<Bytes, String>) {
    match result {
        Ok(body) => {
            let mut response =
                RemotingCommand::request(RequestCode(ResponseCode::SUCCESS.get())).with_body(body);
            response.flag = 1;
            replier.send(response);
        }
        Err(why) => replier.refuse(ResponseCode::SYSTEM_ERROR, why),
    }
}

fn member(shared: &Shared, group: &str) -> Result<Arc<PushMember>, String> {
    // Java's words.
    shared
        .push_member(group)
        .ok_or_else(|| format!("The Consumer Group <{group}> not exist in this consumer"))
}

async fn reset_offset(shared: &Shared, peer: SocketAddr, request: &RemotingCommand, replier: Replier) {
    let result = async {
        let header = ResetOffsetRequest::decode(&request.ext).map_err(|error| error.to_string())?;
        let body = ResetOffsetBody::decode(&request.body).map_err(|error| error.to_string())?;
        member(shared, &header.group)?.reset_offsets(&header.topic, &body.offset_table).await;
        Ok::<(), String>(())
    };
    let result = result.await;
    if let Err(error) = &result {
        tracing::warn!(%peer, error, "offsets are not reset");
    }
    // It comes one-way; who waits all the same is told.
    answer(replier, result.map(|()| Bytes::new()));
}

fn consumer_status(shared: &Shared, request: &RemotingCommand) -> Result<Bytes, String> {
    let header = GetConsumerStatusRequest::decode(&request.ext).map_err(|error| error.to_string())?;
    let member = member(shared, &header.group)?;
    let assigned = member.assigned();
    let named = assigned.iter().filter(|(queue, _)| queue.topic == header.topic);
    let message_queue_table = named.map(|(queue, it)| (queue.clone(), it.consumed().to_wire())).collect();
    Ok(GetConsumerStatusBody { message_queue_table, ..GetConsumerStatusBody::default() }.encode())
}

async fn consume_directly(shared: &Shared, request: &RemotingCommand) -> Result<Bytes, String> {
    let header = ConsumeMessageDirectlyRequest::decode(&request.ext).map_err(|error| error.to_string())?;
    let member = member(shared, &header.consumer_group)?;
    let stored = StoredMessage::parse(&request.body).map_err(|error| error.to_string())?;
    let broker = header.broker_name.unwrap_or_default();
    let queue = Arc::new(MessageQueue::new(stored.topic, &broker, stored.queue_id.to_wire()));
    let message = ReceivedMessage::from_stored(&queue, &stored, &request.body);
    let started = Instant::now();
    let verdict = member.ask_listener(vec![message]).await;
    let consume_result = match verdict {
        Verdict::Success => "CR_SUCCESS",
        Verdict::Later | Verdict::LaterAtLevel(_) | Verdict::DeadLetter => "CR_LATER",
    };
    let result = ConsumeMessageDirectlyResult {
        auto_commit: true,
        consume_result: consume_result.into(),
        order: member.listener.is_orderly,
        remark: None,
        spent_time_mills: started.elapsed().as_millis() as i64,
    };
    Ok(result.encode())
}

/// ConsumerRunningInfo as Java tools read it: keys that are objects stand there raw (protocol.md 1.9).
fn running_info(shared: &Shared, request: &RemotingCommand) -> Result<Bytes, String> {
    use std::sync::atomic::Ordering::Relaxed;
    let header = GetConsumerRunningInfoRequest::decode(&request.ext).map_err(|error| error.to_string())?;
    let member = member(shared, &header.consumer_group)?;
    let counters = &member.counters;
    let (consumed, failed) = (counters.consumed.load(Relaxed), counters.failed.load(Relaxed));
    let seconds = (crate::identity::now_ms().saturating_sub(member.started_ms) as f64 / 1000.0).max(1.0);
    let pulls = counters.pulls.load(Relaxed).max(1);
    let mut queues = String::new();
    for (queue, assigned) in &*member.assigned() {
        let window = assigned.window();
        let separator = if queues.is_empty() { "" } else { "," };
        let key = serde_json::to_string(queue).map_err(|error| error.to_string())?;
        let info = serde_json::json!({
            "cachedMsgCount": window.len(),
            "cachedMsgMaxOffset": window.highest().map_or(0, wire::QueueOffset::to_wire),
            "cachedMsgMinOffset": window.lowest().map_or(0, wire::QueueOffset::to_wire),
            "cachedMsgSizeInMiB": window.bytes() / (1024 * 1024),
            "commitOffset": assigned.consumed().to_wire(),
            "droped": assigned.is_dropped(),
            "lastConsumeTimestamp": 0,
            "lastLockTimestamp": 0,
            "lastPullTimestamp": 0,
            "locked": assigned.has_lock(shared.tick_ms()),
            "transactionMsgCount": 0,
            "transactionMsgMaxOffset": 0,
            "transactionMsgMinOffset": 0,
            "tryUnlockTimes": 0,
        });
        // Writing into a String cannot fail.
        let _ = write!(queues, "{separator}{key}:{info}");
    }
    let status = serde_json::json!({
        "consumeFailedMsgs": failed,
        "consumeFailedTPS": failed as f64 / seconds,
        "consumeOKTPS": consumed as f64 / seconds,
        "consumeRT": 0.0,
        "pullRT": counters.pull_ms.load(Relaxed) as f64 / pulls as f64,
        "pullTPS": pulls as f64 / seconds,
    });
    let statuses: BTreeMap<&str, _> = member.subscriptions.keys().map(|topic| (&**topic, &status)).collect();
    let properties = serde_json::json!({
        "PROP_CLIENT_VERSION": "V5_3_3",
        "PROP_CONSUMEORDERLY": member.listener.is_orderly.to_string(),
        "PROP_CONSUMER_START_TIMESTAMP": member.started_ms.to_string(),
        "PROP_CONSUME_TYPE": "CONSUME_PASSIVELY",
        "PROP_NAMESERVER_ADDR": shared.config.nameservers.join(";"),
        "PROP_THREADPOOL_CORE_SIZE": member.config.concurrency.to_string(),
    });
    let subscriptions =
        serde_json::to_string(&member.subscription_set()).map_err(|error| error.to_string())?;
    let statuses = serde_json::to_string(&statuses).map_err(|error| error.to_string())?;
    let json = format!(
        "{{\"mqPopTable\":{{}},\"mqTable\":{{{queues}}},\"properties\":{properties},\"statusTable\":{statuses},\
         \"subscriptionSet\":{subscriptions},\"userConsumerInfo\":{{}}}}"
    );
    Ok(Bytes::from(json))
}
