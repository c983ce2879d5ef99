//! The leader asks producers what became of transactions that did not end (39): a duty that begins with a term and ends
//! with it. It knows nothing of its own: which half messages are pending, how often and when their producers were asked, is in
//! the tables, so that a new leader goes on where the old one was.
//!
//! ```text
//! pending, older than its immunity, never asked  ─┐
//! pending, asked longer ago than the interval    ─┴─▶ Attempt (counted by the log) ─▶ 39 to a producer of the group
//! pending, asked so often, and the interval over ───▶ moved to TRANS_CHECK_MAX_TIME_TOPIC, in one entry
//! ```
//!
//! An attempt counts also where no producer is connected, as in RocketMQ: a group that is gone for good leaves nothing
//! behind that is looked at for ever. A round reads so many messages at most; what is left over comes in the next.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use replica::MessagesProposal;
use tokio_util::sync::CancellationToken;
use wire::{
    CheckTransactionStateRequest, Language, MessageError, OffsetMessageId, QueueId, QueueOffset,
    RemotingCommand, RequestCode, StoredMessage, perm, prop, topic as system,
};

use crate::creation;
use crate::damage;
use crate::duties::SourceArrivals;
use crate::errors::Error;
use crate::handlers::offset::blocking;
use crate::hosted::{Hosted, Serving};
use crate::limits::{
    CHECK_BYTES, CHECK_PACE, CHECKS_AT_A_TIME, CHECKS_PER_ROUND, DAMAGE_LOOK, LOG_TIME_LOOK, PENDING_PAGE,
};
use crate::state::TopicConfig;
use crate::state::command::{Attempt, Command, Kind, Release, Source, released};
use crate::transactions::half;
use crate::transactions::token::Token;

/// How a group treats transactions that do not end.
#[derive(Debug, Clone, Copy)]
struct Terms {
    timeout: Duration,
    interval: Duration,
    checks_max: u32,
}

impl Terms {
    fn of(hosted: &Hosted) -> Terms {
        Terms {
            timeout: Duration::from_millis(hosted.config.transaction_timeout_ms),
            interval: Duration::from_millis(hosted.config.transaction_check_interval_ms),
            checks_max: hosted.config.transaction_checks_max,
        }
    }
}

/// What is to be done with a half message.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Ask,
    GiveUp,
    /// Nothing before this log time, ms.
    At(u64),
}

/// By when it was stored, how long it is left alone from then on, and the attempts so far.
fn next(now_ms: u64, stored_ms: u64, immunity: Duration, attempts: (u32, u64), terms: Terms) -> Next {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (count, last_ms) = attempts;
    let due = if count == 0 {
        stored_ms.saturating_add(ms(immunity))
    } else {
        last_ms.saturating_add(ms(terms.interval))
    };
    if due > now_ms {
        Next::At(due)
    } else if count >= terms.checks_max {
        Next::GiveUp
    } else {
        Next::Ask
    }
}

/// A half message that has its turn, and is sound.
struct Turn {
    offset: QueueOffset,
    record: Bytes,
    /// Times that its producer was asked before.
    count: u32,
}

/// What a round found.
#[derive(Default)]
struct Found {
    ask: Vec<Turn>,
    give_up: Vec<Turn>,
    /// When there will be something to do, ms; none: nothing is pending.
    next_ms: Option<u64>,
    /// There is more to look at from here on.
    more: Option<QueueOffset>,
}

impl Found {
    fn note(&mut self, due_ms: u64) {
        self.next_ms = Some(self.next_ms.map_or(due_ms, |next| next.min(due_ms)));
    }
}

/// Runs for as long as this node leads; dropped when it does not.
pub(crate) async fn run(hosted: Arc<Hosted>, over: CancellationToken) -> Result<(), Error> {
    let terms = Terms::of(&hosted);
    let arrivals = hosted.source_arrivals(half::TOPIC);
    let mut from = QueueOffset(0);
    let mut next_ms: Option<u64> = None;
    loop {
        let over = over.clone();
        let found =
            blocking(&hosted, move |hosted, serving| look(hosted, serving, from, terms, &over)).await?;
        let Found { ask: asked, give_up: given_up, next_ms: due, more } = found;
        let did = !asked.is_empty() || !given_up.is_empty();
        ask(&hosted, asked).await?;
        give_up(&hosted, given_up).await?;
        next_ms = [next_ms, due].into_iter().flatten().min();
        if let Some(more) = more {
            from = more;
            if did {
                // Producers and the log have other work too.
                tokio::time::sleep(CHECK_PACE).await;
            }
            continue;
        }
        from = QueueOffset(0);
        // What was asked now has its next turn an interval later.
        let again = did.then(|| hosted.log_now_ms().saturating_add(terms.interval.as_millis() as u64));
        let until = [next_ms.take(), again].into_iter().flatten().min();
        wait(&hosted, until, &arrivals, terms).await;
    }
}

/// Until it is time, or until a half message that came meanwhile is old enough.
async fn wait(hosted: &Hosted, until_ms: Option<u64>, arrivals: &SourceArrivals, terms: Terms) {
    let until = until_ms.map(|until| Duration::from_millis(until.saturating_sub(hosted.log_now_ms())));
    match until {
        Some(left) if left <= terms.timeout => {
            tokio::time::sleep(left.clamp(CHECK_PACE, LOG_TIME_LOOK)).await;
        }
        Some(left) => {
            let come = async {
                arrivals.arrived().await;
                tokio::time::sleep(terms.timeout).await;
            };
            // Either is time enough.
            let _ = tokio::time::timeout(left.min(LOG_TIME_LOOK), come).await;
        }
        None => arrivals.arrived().await,
    }
}

/// Looks through pending half messages, from the oldest on, until one is too young: those behind it are younger.
fn look(
    hosted: &Hosted,
    serving: &Serving,
    from: QueueOffset,
    terms: Terms,
    over: &CancellationToken,
) -> Result<Found, Error> {
    let now = hosted.log_now_ms();
    let mut found = Found::default();
    let (mut from, mut bytes) = (from, 0);
    loop {
        let page = hosted.state.pending(half::TOPIC, half::QUEUE, from, PENDING_PAGE);
        let Some(last) = page.last().filter(|_| !over.is_cancelled()) else { return Ok(found) };
        let behind = last.plus(1);
        for offset in page {
            let attempts = hosted.state.attempts(half::TOPIC, half::QUEUE, offset);
            if attempts.0 > 0
                && let Next::At(due) = next(now, 0, Duration::ZERO, attempts, terms)
            {
                found.note(due);
                continue;
            }
            if found.ask.len() + found.give_up.len() >= CHECKS_PER_ROUND || bytes >= CHECK_BYTES {
                found.more = Some(offset);
                return Ok(found);
            }
            let look_again = now.saturating_add(DAMAGE_LOOK.as_millis() as u64);
            let record = match half::read(hosted, serving, offset) {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                // It is reported, and keeps nobody behind it.
                Err(Error::Store(_)) => {
                    found.note(look_again);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let damaged = |error: MessageError, found: &mut Found| {
                damage::report(hosted, half::TOPIC, half::QUEUE, offset, &error);
                found.note(look_again);
            };
            let message = match StoredMessage::parse(&record) {
                Ok(message) => message,
                Err(error) => {
                    damaged(error, &mut found);
                    continue;
                }
            };
            let stored = u64::try_from(message.store_timestamp).unwrap_or(0);
            let turn = next(now, stored, half::immunity(&message, terms.timeout), attempts, terms);
            match turn {
                Next::At(due) => {
                    found.note(due);
                    let first = stored.saturating_add(terms.timeout.as_millis() as u64);
                    if attempts.0 == 0 && first > now {
                        found.note(first);
                        return Ok(found);
                    }
                }
                Next::Ask | Next::GiveUp => {
                    // Not before: most are only looked at.
                    if let Err(error) = message.verify() {
                        damaged(error, &mut found);
                        continue;
                    }
                    bytes += record.len();
                    let list = if turn == Next::Ask { &mut found.ask } else { &mut found.give_up };
                    list.push(Turn { offset, record, count: attempts.0 });
                }
            }
        }
        from = behind;
    }
}

fn source(hosted: &Hosted, offsets: Vec<u64>) -> Result<Source, Error> {
    let topic = hosted.state.topic(half::TOPIC).ok_or(Error::NotLeader { leader: None })?;
    Ok(Source { topic: topic.id.0, queue: half::QUEUE.0, offsets })
}

/// Counts an attempt for each, and asks the producers of those that were still pending.
async fn ask(hosted: &Arc<Hosted>, turns: Vec<Turn>) -> Result<(), Error> {
    if turns.is_empty() {
        return Ok(());
    }
    let source = source(hosted, turns.iter().map(|turn| turn.offset.0).collect())?;
    let reply = hosted.propose_here(Command::from(Kind::Attempt(Attempt { source }))).await?;
    if reply.code != 0 {
        return Err(Error::refused(wire::ResponseCode(reply.code), reply.remark));
    }
    let turns: Vec<Turn> = {
        let mut granted = reply.granted.iter().peekable();
        let counted = |(place, turn)| granted.next_if_eq(&&(place as u32)).map(|_| turn);
        turns.into_iter().enumerate().filter_map(counted).collect()
    };
    let asking = stream::iter(turns).for_each_concurrent(CHECKS_AT_A_TIME, |turn| async move {
        if let Err(why) = ask_producer(hosted, &turn).await {
            tracing::info!(
                group = hosted.name(),
                offset = turn.offset.0,
                why,
                "nobody can be asked of a transaction"
            );
        }
    });
    asking.await;
    Ok(())
}

/// Asks one producer of the message's group, wherever it is connected. Another one each time, for one may have lost what
/// another one knows.
async fn ask_producer(hosted: &Hosted, turn: &Turn) -> Result<(), String> {
    let half = StoredMessage::parse(&turn.record).map_err(|error| error.to_string())?;
    let group = half.property(prop::PGROUP).ok_or("the half message names no producer group")?;
    let producers = hosted.node.clients.producers(group);
    let checks = turn.count.saturating_add(1);
    let first = (half.queue_offset.0 as usize).wrapping_add(checks as usize);
    let mut why = format!("no producer of {group} is connected");
    for n in 0..producers.len().min(PRODUCERS_TRIED) {
        let producer = &producers[first.wrapping_add(n) % producers.len()];
        let request = request(hosted, &half, checks, producer.language)?;
        match hosted.node.tell_client(&producer.id, request).await {
            Ok(()) => return Ok(()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// Of those that seem to be connected and are not (Java tries as many).
const PRODUCERS_TRIED: usize = 3;

fn request(
    hosted: &Hosted,
    half: &StoredMessage<'_>,
    checks: u32,
    language: Language,
) -> Result<RemotingCommand, String> {
    let unique = half.unique_id().unwrap_or_default();
    let token = Token { node: hosted.node.id, group: hosted.name(), position: half.position, unique };
    let token = token.to_string();
    // The Go client (v2.1.2) takes the `transactionId` of a 39 for its message id, and answers with the message's own instead
    // (CheckTransactionStateRequestHeader.Decode, transactionProducer.checkTransactionState).
    let shown_id = (language == Language::Go).then_some(token.as_str());
    let id = OffsetMessageId { host: hosted.store_host, position: half.position };
    let header = CheckTransactionStateRequest {
        topic: Some(half::TOPIC.to_owned()),
        tran_state_table_offset: half.queue_offset.to_wire(),
        commit_log_offset: half.position.to_wire(),
        msg_id: Some(unique.to_owned()),
        transaction_id: Some(token.clone()),
        offset_msg_id: Some(id.to_string()),
        broker_name: Some(hosted.name().to_owned()),
    };
    let body = half::shown(half, checks, shown_id)?;
    Ok(RemotingCommand::request(RequestCode::CHECK_TRANSACTION_STATE)
        .with_header(&header)
        .with_body(body)
        .oneway())
}

/// Puts half messages aside of which nobody knew. One that ended at this moment voids the entry: the next round sees it.
async fn give_up(hosted: &Arc<Hosted>, turns: Vec<Turn>) -> Result<(), Error> {
    if turns.is_empty() {
        return Ok(());
    }
    if hosted.state.topic(system::TRANS_CHECK_MAX_TIME).is_none() {
        let config = TopicConfig {
            name: system::TRANS_CHECK_MAX_TIME.to_owned(),
            read_queues: 1,
            write_queues: 1,
            perm: perm::READ_WRITE,
            ..TopicConfig::default()
        };
        creation::ensure(hosted, config).await?;
    }
    let (mut messages, mut offsets) = (Vec::new(), Vec::new());
    for turn in &turns {
        let Ok(half) = StoredMessage::parse(&turn.record) else { continue };
        let Ok(records) = half::given_up(&half, turn.count, hosted.store_host) else {
            tracing::error!(
                group = hosted.name(),
                offset = turn.offset.0,
                "a half message cannot be put aside"
            );
            continue;
        };
        let topic = system::TRANS_CHECK_MAX_TIME.into();
        messages.push(MessagesProposal { topic, queue: QueueId(0), records, count: 1 });
        offsets.push(turn.offset.0);
        tracing::warn!(
            group = hosted.name(),
            offset = turn.offset.0,
            unique = half.unique_id(),
            topic = half.property(prop::REAL_TOPIC),
            producers = half.property(prop::PGROUP),
            checks = turn.count,
            "nobody knows what became of a transaction: its message is put aside"
        );
    }
    let release = Release { sources: vec![source(hosted, offsets)?], how: released::MOVED };
    match hosted.propose_coupled_here(Kind::Release(release).into(), messages).await {
        Ok(_) | Err(Error::Void) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_turn() {
        let seconds = Duration::from_secs;
        let terms = Terms { timeout: seconds(6), interval: seconds(30), checks_max: 3 };
        for (now, stored, immunity, attempts, want) in [
            (10_000, 5_000, 6, (0, 0), Next::At(11_000)),
            (11_000, 5_000, 6, (0, 0), Next::Ask),
            (11_000, 5_000, 60, (0, 0), Next::At(65_000)),
            // Once asked, the interval counts.
            (40_000, 5_000, 60, (1, 11_000), Next::At(41_000)),
            (41_000, 5_000, 6, (1, 11_000), Next::Ask),
            (41_000, 5_000, 6, (2, 11_000), Next::Ask),
            (40_999, 5_000, 6, (3, 11_000), Next::At(41_000)),
            (41_000, 5_000, 6, (3, 11_000), Next::GiveUp),
            (u64::MAX, u64::MAX, 6, (0, 0), Next::Ask),
        ] {
            let got = next(now, stored, seconds(immunity), attempts, terms);
            assert_eq!(got, want, "at {now}, stored {stored}, {attempts:?}");
        }
    }
}
