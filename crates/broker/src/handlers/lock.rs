//! Queues that consumers of ordered messages have for themselves: 41 and 42 (RocketMQ's `RebalanceLockManager`). The
//! locks are leases in the log, so that they outlive a leader; `onlyThisBroker`, with which RocketMQ's brokers ask each
//! other, therefore changes nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use wire::{Body, LockBatchRequestBody, LockBatchResponseBody, MessageQueue, QueueId, ResponseCode};

use crate::call::Call;
use crate::errors::Error;
use crate::handlers::offset;
use crate::handlers::step::{self, success};
use crate::hosted::{Hosted, lock as guard};
use crate::limits::{LOCK_LEASE_MS, LOCK_QUEUES_MAX};
use crate::state::command::{Kind, Lock};
use crate::state::{Command, TopicId};

/// A request of one client of one group, with the queues that exist.
struct Wanted {
    body: LockBatchRequestBody,
    group: u32,
    /// Places in the body's set.
    queues: Vec<(usize, TopicId, QueueId)>,
}

impl Wanted {
    fn decode(hosted: &Hosted, call: &Call) -> Result<Wanted, Error> {
        let body = LockBatchRequestBody::decode(&call.request.body)?;
        if body.mq_set.len() > LOCK_QUEUES_MAX {
            let remark = format!("{} queues in one request, more than {LOCK_QUEUES_MAX}", body.mq_set.len());
            return Err(Error::refused(ResponseCode::INVALID_PARAMETER, remark));
        }
        let Some(group) = hosted.state.group(&body.consumer_group) else {
            let remark = format!("subscription group [{}] does not exist", body.consumer_group);
            return Err(Error::refused(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
        };
        // Mostly they are of one topic or two.
        let mut topics: HashMap<&str, Option<(TopicId, u32)>> = HashMap::new();
        let mut queues = Vec::with_capacity(body.mq_set.len());
        for (place, MessageQueue { topic, broker_name: _, queue_id }) in body.mq_set.iter().enumerate() {
            let known = topics.entry(topic).or_insert_with(|| {
                let topic = hosted.state.topic(topic)?;
                Some((topic.id, topic.config.read_queues.max(topic.config.write_queues)))
            });
            // What does not exist cannot be locked.
            if let Some((topic, count)) = *known
                && let Some(queue) = QueueId::from_wire(*queue_id).filter(|queue| queue.0 < count)
            {
                queues.push((place, topic, queue));
            }
        }
        Ok(Wanted { group: group.id.0, queues, body })
    }

    fn command(&self, unlock: bool) -> Command {
        Kind::Lock(Lock {
            group: self.group,
            client: self.body.client_id.clone(),
            unlock,
            lease_ms: LOCK_LEASE_MS,
            topics: self.queues.iter().map(|(_, topic, _)| topic.0).collect(),
            queues: self.queues.iter().map(|(_, _, queue)| queue.0).collect(),
        })
        .into()
    }

    fn who(&self) -> (u32, String) {
        (self.group, self.body.client_id.clone())
    }

    /// Whether its client has all of the queues, for half a lease and more (clients.md 12), and gives none away. A leader
    /// that was deposed may say so too: what it knows holds for that long at least.
    fn is_held(&self, hosted: &Hosted) -> bool {
        let is_leaving = {
            let leaving = guard(&hosted.leaving);
            !leaving.is_empty() && leaving.contains_key(&self.who())
        };
        if is_leaving {
            return false;
        }
        let now_ms = hosted.log_now_ms();
        let Wanted { body, queues, .. } = self;
        let until_ms = now_ms + LOCK_LEASE_MS / 2;
        queues.iter().all(|(place, _, queue)| {
            let lease = hosted.state.lock_holder(&body.consumer_group, &body.mq_set[*place].topic, *queue);
            lease.is_some_and(|lease| *lease.client == *body.client_id && lease.holds(until_ms))
        })
    }

    /// The queues of these places among those that exist.
    fn granted(&self, places: impl Iterator<Item = usize>) -> LockBatchResponseBody {
        let queue = |at: usize| self.queues.get(at).map(|(place, ..)| self.body.mq_set[*place].clone());
        LockBatchResponseBody { lock_ok_mq_set: places.filter_map(queue).collect() }
    }
}

/// 41. Decided about in the order in which they come: what is proposed here is in the log in that order.
pub(crate) fn lock(hosted: &Arc<Hosted>, call: Call) {
    let wanted = match Wanted::decode(hosted, &call) {
        Ok(wanted) => wanted,
        Err(error) => return hosted.fail(call, error),
    };
    if wanted.is_held(hosted) {
        let body = wanted.granted(0..wanted.queues.len());
        let response = success(&call.request).with_body(body.encode());
        return call.answer(response);
    }
    decide(hosted, call, wanted, None);
}

/// 42. What its client does not hold is passed over.
pub(crate) fn unlock(hosted: &Arc<Hosted>, call: Call) {
    let wanted = match Wanted::decode(hosted, &call) {
        Ok(wanted) => wanted,
        Err(error) => return hosted.fail(call, error),
    };
    if wanted.queues.is_empty() {
        return call.succeed();
    }
    let unlocking = Unlocking::begin(hosted, &wanted);
    decide(hosted, call, wanted, Some(unlocking));
}

/// Proposes it at once, and answers when it is decided.
fn decide(hosted: &Arc<Hosted>, call: Call, wanted: Wanted, unlocking: Option<Unlocking>) {
    let command = wanted.command(unlocking.is_some());
    let answer = match hosted.served_here() {
        Ok(serving) => serving.group.propose_command_now(command.proposal()),
        Err(error) => return hosted.fail(call, error),
    };
    let hosted = hosted.clone();
    tokio::spawn(async move {
        let reply = offset::reply_of(answer).await;
        let is_lock = unlocking.is_none();
        drop(unlocking);
        match reply {
            Ok(reply) if reply.code == 0 && is_lock => {
                let body = wanted.granted(reply.granted.iter().map(|place| *place as usize));
                let response = success(&call.request).with_body(body.encode());
                call.answer(response);
            }
            Ok(reply) => {
                let response = step::answer(&call.request, &reply);
                call.answer(response);
            }
            Err(error) => hosted.fail(call, error),
        }
    });
}

/// Clients of which an unlock is under way, by group, and how many are: what they hold is not theirs for long.
pub(crate) type Leaving = Mutex<HashMap<(u32, String), usize>>;

/// One unlock that is under way, from before it is proposed until it is decided or given up.
struct Unlocking {
    hosted: Arc<Hosted>,
    who: (u32, String),
}

impl Unlocking {
    fn begin(hosted: &Arc<Hosted>, wanted: &Wanted) -> Unlocking {
        let who = wanted.who();
        *guard(&hosted.leaving).entry(who.clone()).or_default() += 1;
        Unlocking { hosted: hosted.clone(), who }
    }
}

impl Drop for Unlocking {
    fn drop(&mut self) {
        let mut leaving = guard(&self.hosted.leaving);
        if let Some(count) = leaving.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                leaving.remove(&self.who);
            }
        }
    }
}
