//! Acknowledgements and changes of invisible times: what has arrived while an entry was on its way goes into the next one
//! together, and each is answered when it is in the log.

use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore};
use wire::{ChangeInvisibleTimeResponse, Header as _, QueueId, QueueOffset, RemotingCommand, ResponseCode};

use crate::call::Call;
use crate::errors::Error;
use crate::hosted::{Hosted, lock};
use crate::limits::{POP_ACKS_PER_ENTRY, POP_ACKS_UNDER_WAY, POP_ACKS_WAITING_MAX};
use crate::state::command::{Command, Kind, PopAck, PopChange};
use crate::state::{GroupId, Reply, TopicId};

/// A message that a consumer had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Popped {
    pub(crate) topic: TopicId,
    pub(crate) group: GroupId,
    pub(crate) queue: QueueId,
    pub(crate) offset: QueueOffset,
    /// Which time it was handed out.
    pub(crate) pop_time_ms: u64,
}

/// What a request says of messages.
pub(crate) enum Settled {
    /// They are done.
    Acknowledged(Vec<Popped>),
    /// It stays its consumer's for another time, counted from now. `keeps_pop_time`: it was popped in order; then the
    /// handle stays good. `revive_queue`: for the new handle.
    Changed { message: Popped, invisible_ms: u64, keeps_pop_time: bool, revive_queue: i32 },
}

impl Settled {
    fn rows(&self) -> usize {
        match self {
            Settled::Acknowledged(messages) => messages.len(),
            Settled::Changed { .. } => 1,
        }
    }
}

/// Requests that wait for the next entry.
#[derive(Default)]
pub(crate) struct Acks {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<(Call, Settled)>,
    rows: usize,
}

impl Acks {
    /// Has a request answered when what it says is in the log.
    pub(crate) fn add(&self, hosted: &Arc<Hosted>, call: Call, settled: Settled) {
        let mut waiting = lock(&self.waiting);
        if waiting.rows >= POP_ACKS_WAITING_MAX {
            drop(waiting);
            let remark =
                format!("{POP_ACKS_WAITING_MAX} acknowledgements wait for the log; no more are taken");
            return hosted.fail(call, Error::Overloaded(remark));
        }
        waiting.rows += settled.rows();
        waiting.requests.push((call, settled));
        drop(waiting);
        self.added.notify_one();
    }

    /// As many of the oldest as go into one entry; at least one, if there is any.
    fn take(&self) -> Vec<(Call, Settled)> {
        let mut waiting = lock(&self.waiting);
        let mut rows = 0;
        let fits = |(_, settled): &&(Call, Settled)| {
            rows += settled.rows();
            rows <= POP_ACKS_PER_ENTRY
        };
        let count = waiting.requests.iter().take_while(fits).count().max(1).min(waiting.requests.len());
        let taken: Vec<_> = waiting.requests.drain(..count).collect();
        waiting.rows -= taken.iter().map(|(_, settled)| settled.rows()).sum::<usize>();
        taken
    }

    fn is_empty(&self) -> bool {
        lock(&self.waiting).requests.is_empty()
    }
}

/// Proposes what waits, so many entries at a time: what comes meanwhile goes into the next one. Ends with the node.
pub(crate) async fn keep_acks(hosted: Arc<Hosted>) {
    let turns = Arc::new(Semaphore::new(POP_ACKS_UNDER_WAY));
    loop {
        hosted.pop.acks.added.notified().await;
        while !hosted.pop.acks.is_empty() {
            // Its owner never closes it.
            let Ok(turn) = turns.clone().acquire_owned().await else { return };
            let requests = hosted.pop.acks.take();
            let hosted = hosted.clone();
            tokio::spawn(async move {
                settle(&hosted, requests).await;
                drop(turn);
            });
        }
    }
}

async fn settle(hosted: &Arc<Hosted>, requests: Vec<(Call, Settled)>) {
    let (mut acks, mut changes) = (Vec::new(), Vec::new());
    for (call, settled) in requests {
        match settled {
            Settled::Acknowledged(messages) => acks.push((call, messages)),
            Settled::Changed { message, invisible_ms, keeps_pop_time, revive_queue } => {
                changes.push((call, message, invisible_ms, keeps_pop_time, revive_queue));
            }
        }
    }
    let acknowledged = async {
        if acks.is_empty() {
            return;
        }
        let mut command = PopAck::default();
        for message in acks.iter().flat_map(|(_, messages)| messages) {
            let Popped { topic, group, queue, offset, pop_time_ms } = *message;
            command.topics.push(topic.0);
            command.groups.push(group.0);
            command.queues.push(queue.0);
            command.offsets.push(offset.0);
            command.pop_times_ms.push(pop_time_ms);
        }
        let result = propose(hosted, Kind::PopAck(command)).await;
        for (call, _) in acks {
            match &result {
                // Also where nobody had it any more: it is not the consumer's to know.
                Ok(_) => call.succeed(),
                Err(error) => hosted.fail(call, error.shared()),
            }
        }
    };
    let changed = async {
        if changes.is_empty() {
            return;
        }
        let mut command = PopChange::default();
        for (_, message, invisible_ms, ..) in &changes {
            let Popped { topic, group, queue, offset, pop_time_ms } = *message;
            command.topics.push(topic.0);
            command.groups.push(group.0);
            command.queues.push(queue.0);
            command.offsets.push(offset.0);
            command.pop_times_ms.push(pop_time_ms);
            command.invisible_ms.push(*invisible_ms);
        }
        let result = propose(hosted, Kind::PopChange(command)).await;
        for (at, (call, message, invisible_ms, keeps_pop_time, revive_queue)) in (0u32..).zip(changes) {
            let reply = match &result {
                Ok(reply) => reply,
                Err(error) => {
                    hosted.fail(call, error.shared());
                    continue;
                }
            };
            if reply.granted.binary_search(&at).is_err() {
                let remark = format!(
                    "the message at offset {} is not in flight with pop time {} (any more)",
                    message.offset, message.pop_time_ms
                );
                refuse_change(call, ResponseCode::NO_MESSAGE, remark);
                continue;
            }
            let visible_ms = reply.time_ms.saturating_add(invisible_ms);
            let pop_time_ms = if keeps_pop_time { message.pop_time_ms } else { reply.time_ms };
            let mut response = call.response(ResponseCode::SUCCESS);
            ChangeInvisibleTimeResponse {
                pop_time: signed(pop_time_ms),
                invisible_time: signed(visible_ms - pop_time_ms),
                revive_qid: revive_queue,
            }
            .encode(&mut response.ext);
            call.answer(response);
        }
    };
    futures::join!(acknowledged, changed);
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

async fn propose(hosted: &Hosted, kind: Kind) -> Result<Reply, Error> {
    hosted.propose_here(Command::from(kind)).await
}

/// Refuses a change of an invisible time. Java's client reads the header before the code.
pub(crate) fn refuse_change(call: Call, code: ResponseCode, remark: String) {
    let mut response: RemotingCommand = call.response(code).with_remark(remark);
    ChangeInvisibleTimeResponse { pop_time: 0, invisible_time: 0, revive_qid: 0 }.encode(&mut response.ext);
    call.answer(response);
}
