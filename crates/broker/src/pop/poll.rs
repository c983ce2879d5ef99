//! A pop, or a question whether there is something to pop, from its arrival to its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wire::{Header as _, NotificationRequest, NotificationResponse, PopMessageRequest};
use wire::{QueueId, RemotingCommand, ResponseCode};

use super::answer;
use super::take::{self, Look, Plan, Taken};
use super::waiting::{NotWaiting, Place, Waiting};
use crate::call::Call;
use crate::errors::Error;
use crate::filters::{self, Wish};
use crate::handlers::pop as checks;
use crate::handlers::pull;
use crate::hosted::{Hosted, Toward};
use crate::limits::{
    HOLD_MAX, HOLD_TICK, POP_AGAIN, POP_BUSY_AGAIN, POP_CROWDED_AGAIN, PULL_UNITS, WAKE_TIME,
};
use crate::reading;

/// One of them as its client sent it, decoded once, however often it is tried.
pub(crate) struct Poll {
    pub(crate) call: Call,
    pub(crate) asked: Asked,
    pub(crate) arrived: Instant,
    /// Its time is over: it is answered, whatever there is.
    over: bool,
    /// What it wants of its topic, once that was looked at.
    wish: Option<Wish>,
    /// What called it: others may want that if it ends without having taken from there.
    called_by: Option<(Arc<str>, QueueId)>,
}

/// What is asked.
pub(crate) enum Asked {
    /// 200050.
    Messages(PopMessageRequest),
    /// 200054.
    Notice(NotificationRequest),
}

impl Poll {
    pub(crate) fn new(call: Call, asked: Asked) -> Poll {
        // It may have waited for a leader before.
        let arrived = call.arrived;
        Poll { call, asked, arrived, over: false, wish: None, called_by: None }
    }

    fn poll_time(&self) -> i64 {
        match &self.asked {
            Asked::Messages(header) => header.poll_time,
            Asked::Notice(header) => header.poll_time,
        }
    }

    /// They wait where they arrived.
    fn may_wait(&self) -> bool {
        !self.over && self.poll_time() > 0 && !self.call.is_forwarded() && Instant::now() < self.until()
    }

    /// It ends, and may have left what it was called for.
    fn pass_on(&self, hosted: &Hosted) {
        if let Some((topic, queue)) = &self.called_by {
            hosted.pop.note(topic, *queue);
        }
    }

    fn is_gone(&self) -> bool {
        self.call.connection().is_some_and(|connection| connection.is_over())
    }

    fn until(&self) -> Instant {
        let asked = u64::try_from(self.poll_time()).unwrap_or(0);
        self.arrived + Duration::from_millis(asked).min(HOLD_MAX)
    }

    fn is_notice(&self) -> bool {
        matches!(self.asked, Asked::Notice(_))
    }

    fn is_in_order(&self) -> bool {
        match &self.asked {
            Asked::Messages(header) => header.order,
            Asked::Notice(header) => header.order,
        }
    }

    fn place(&self) -> Place {
        let (topic, group, queue) = match &self.asked {
            Asked::Messages(header) => (&header.topic, &header.consumer_group, header.queue_id),
            Asked::Notice(header) => (&header.topic, &header.consumer_group, header.queue_id),
        };
        Place {
            topic: Arc::from(topic.as_str()),
            group: Arc::from(group.as_str()),
            retry_topic: checks::retry_topic(topic, group).into(),
            queue: QueueId::from_wire(queue),
        }
    }
}

/// Tries one, here or at the leader.
pub(crate) fn begin(hosted: &Arc<Hosted>, poll: Poll) {
    let hosted = hosted.clone();
    tokio::spawn(async move {
        if hosted.leads() { execute(&hosted, poll).await } else { ask_leader(&hosted, poll).await }
    });
}

async fn execute(hosted: &Arc<Hosted>, mut poll: Poll) {
    let plan = match &poll.asked {
        Asked::Messages(header) => checks::plan(hosted, &poll.call, header).await,
        Asked::Notice(header) => checks::notice_plan(hosted, &poll.call, header).await,
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return fail(hosted, poll, error),
    };
    poll.wish.clone_from(&plan.wish);
    if poll.is_notice() {
        return match plan.look(hosted) {
            Ok(()) => notice(poll.call, true, false),
            Err(looks) => wait(hosted, poll, &plan, looks, 0),
        };
    }
    let since = Instant::now();
    match take::take(hosted, &plan).await {
        Ok(taken) if taken.got.is_empty() => {
            hosted.stats.missed();
            let Taken { looks, rest, .. } = taken;
            wait(hosted, poll, &plan, looks, rest);
        }
        Ok(taken) => give(hosted, poll.call, &plan, &taken, since),
        Err(error) => fail(hosted, poll, error),
    }
}

fn fail(hosted: &Arc<Hosted>, poll: Poll, error: Error) {
    // One that is tried again has not ended.
    if !error.may_retry() {
        poll.pass_on(hosted);
    }
    hosted.fail(poll.call, error);
}

fn give(hosted: &Arc<Hosted>, call: Call, plan: &Plan, taken: &Taken, since: Instant) {
    let (header, body) = match answer::with_messages(hosted, plan, taken) {
        Ok(answer) => answer,
        // They come back when their time is over.
        Err(error) => return hosted.fail(call, error),
    };
    let messages: usize = taken.got.iter().map(|got| got.offsets.len()).sum();
    hosted.stats.got(&plan.topic.name, &plan.group.name, messages as u64, body.len() as u64, since.elapsed());
    let mut response = call.response(ResponseCode::SUCCESS).with_remark("FOUND").with_body(body);
    header.encode(&mut response.ext);
    call.answer(response);
}

fn notice(call: Call, has_msg: bool, polling_full: bool) {
    let mut response = call.response(ResponseCode::SUCCESS);
    NotificationResponse { has_msg, polling_full }.encode(&mut response.ext);
    call.answer(response);
}

/// Answers that there is nothing.
fn nothing(hosted: &Hosted, poll: Poll, plan: &Plan, code: ResponseCode, rest: u64) {
    poll.pass_on(hosted);
    if poll.is_notice() {
        return notice(poll.call, false, code == ResponseCode::POLLING_FULL);
    }
    let mut response = poll.call.response(code).with_remark("NO_MESSAGE_IN_QUEUE");
    answer::header(hosted, plan, hosted.log_now_ms(), rest).encode(&mut response.ext);
    poll.call.answer(response);
}

/// Has one wait that found nothing, if it wants to.
fn wait(hosted: &Arc<Hosted>, poll: Poll, plan: &Plan, looks: Vec<Look>, rest: u64) {
    if !poll.may_wait() {
        return nothing(hosted, poll, plan, ResponseCode::POLLING_TIMEOUT, rest);
    }
    let place = Place {
        topic: plan.topic.name.clone(),
        group: plan.group.name.clone(),
        retry_topic: plan.retry_topic.clone(),
        queue: plan.queue,
    };
    match hold(hosted, poll, place, &looks) {
        Ok(()) => {}
        Err(NotWaiting::Full(poll)) => nothing(hosted, *poll, plan, ResponseCode::POLLING_FULL, rest),
        Err(NotWaiting::Closed(poll)) => nothing(hosted, *poll, plan, ResponseCode::POLLING_TIMEOUT, rest),
    }
}

fn hold(hosted: &Arc<Hosted>, poll: Poll, place: Place, looks: &[Look]) -> Result<(), NotWaiting<Box<Poll>>> {
    let (until, now_ms) = (poll.until(), hosted.log_now_ms());
    let order = poll.is_in_order().then_some("");
    let again = looks.iter().filter_map(|look| match look {
        Look::Blocked { until_ms, .. } => Some(Duration::from_millis(until_ms.saturating_sub(now_ms) + 1)),
        Look::Refused => Some(POP_AGAIN),
        // Room may come anywhere, and then calls nobody here.
        Look::Crowded => Some(POP_CROWDED_AGAIN),
        // Whose turn it was may have been refused, and then calls nobody.
        Look::Busy { .. } => Some(POP_BUSY_AGAIN),
        Look::Taken { .. } | Look::Full { .. } => None,
    });
    // Not at once, whatever the clocks say: a batch that is not visible by log time yet would be asked for in a loop.
    let again_at = again.min().map(|after| Instant::now() + after.max(POP_AGAIN));
    let (group, retry_topic) = (place.group.clone(), place.retry_topic.clone());
    let list = if poll.is_notice() { &hosted.pop.noticing } else { &hosted.pop.waiting };
    list.wait(Waiting { what: Box::new(poll), place, until, again_at })?;
    // What came between the look and the wait has called nobody.
    for look in looks {
        let news = match look {
            Look::Taken { topic, queue, end } => {
                hosted.state.queue(topic, *queue).filter(|range| range.next > *end).map(|_| (topic, *queue))
            }
            Look::Busy { topic, queue, key } => (!hosted.pop.takes.is_busy(*key)).then_some((topic, *queue)),
            Look::Full { topic, queue } => {
                let standing = hosted.state.pop_standing(topic, &group, *queue, order, now_ms);
                (standing.room > 0).then_some((topic, *queue))
            }
            Look::Blocked { topic, queue, .. } => {
                let standing = hosted.state.pop_standing(topic, &group, *queue, Some(""), now_ms);
                standing.blocked_until_ms.is_none().then_some((topic, *queue))
            }
            Look::Refused | Look::Crowded => None,
        };
        if let Some((topic, queue)) = news {
            hosted.pop.arrivals.note(topic, queue);
        }
    }
    // Where it is made only now, nobody has looked.
    let first = QueueId(0);
    let has_retry = looks.iter().any(|look| look.topic() == Some(&retry_topic));
    if !has_retry && hosted.state.queue(&retry_topic, first).is_some_and(|range| range.next > range.min) {
        let cursor = hosted.state.offset(&retry_topic, &group, first);
        if cursor.is_none() {
            hosted.pop.arrivals.note(&retry_topic, first);
        }
    }
    Ok(())
}

/// The leader answers, without waiting; what it does not find waits here, and is called by what is applied here.
async fn ask_leader(hosted: &Arc<Hosted>, poll: Poll) {
    let Toward::Node(leader) = hosted.toward() else { return hosted.again(poll.call, None) };
    if poll.call.is_forwarded() {
        return poll.call.not_here(Some(leader));
    }
    hosted.note_misdirected();
    let place = poll.place();
    let looks = seen_here(hosted, &place);
    let mut request = poll.call.request.clone();
    // Neither does it wait there, nor does the leader's clock say whether it is too late.
    request.ext.set_int("pollTime", 0);
    request.ext.set_int("bornTime", 0);
    let response = match pull::leaders_answer(hosted, leader, &request, &poll.call).await {
        Ok(response) => response,
        // What it took comes back when its time is over.
        Err(Error::Unknown(_)) => return hosted.again(poll.call, None),
        Err(error) => return fail(hosted, poll, error),
    };
    let has_rest = response.ext.get("restNum").is_some_and(|rest| rest != "0");
    if !is_nothing(&poll, &response) {
        if !poll.is_notice() && response.response_code() == ResponseCode::SUCCESS {
            // Nothing that is applied here calls the next one for what is left.
            if has_rest {
                looks.iter().filter_map(Look::queue).for_each(|(topic, queue)| hosted.pop.note(topic, queue));
            }
        } else {
            poll.pass_on(hosted);
        }
        return poll.call.answer(response);
    }
    if !poll.may_wait() {
        poll.pass_on(hosted);
        return poll.call.answer(response);
    }
    // Somebody else was taking, and calls only those who wait there.
    let mut looks = looks;
    if has_rest {
        looks.push(Look::Refused);
    }
    if let Err(NotWaiting::Full(poll) | NotWaiting::Closed(poll)) = hold(hosted, poll, place, &looks) {
        poll.pass_on(hosted);
        poll.call.answer(response);
    }
}

/// Where the queues end that matter, as far as is applied here, and what is out in order.
fn seen_here(hosted: &Hosted, place: &Place) -> Vec<Look> {
    let mut looks = Vec::new();
    for topic in [&place.topic, &place.retry_topic] {
        for (queue, range) in (0u32..).map(QueueId).zip(hosted.state.queues(topic).unwrap_or_default()) {
            if place.queue.is_some_and(|only| only != queue && *topic == place.topic) {
                continue;
            }
            looks.push(Look::Taken { topic: topic.clone(), queue, end: range.next });
            let standing =
                hosted.state.pop_standing(topic, &place.group, queue, Some(""), hosted.log_now_ms());
            looks.extend(standing.blocked_until_ms.map(|until_ms| Look::Blocked {
                topic: topic.clone(),
                queue,
                until_ms,
            }));
        }
    }
    looks
}

fn is_nothing(poll: &Poll, response: &RemotingCommand) -> bool {
    match poll.asked {
        Asked::Messages(_) => response.response_code() == ResponseCode::POLLING_TIMEOUT,
        Asked::Notice(_) => {
            response.response_code() == ResponseCode::SUCCESS && response.ext.get("hasMsg") == Some("false")
        }
    }
}

/// Tries one that waited once more; `over`: for the last time; `called_by`: what has come.
fn again(
    hosted: &Arc<Hosted>,
    waiting: Waiting<Box<Poll>>,
    over: bool,
    called_by: Option<(Arc<str>, QueueId)>,
) {
    let mut poll = *waiting.what;
    poll.called_by = called_by;
    if poll.is_gone() {
        // Nobody is there any more.
        poll.pass_on(hosted);
        return poll.call.give_up();
    }
    poll.over |= over;
    poll.call.renew(hosted.ticket());
    begin(hosted, poll);
}

/// The node is stopping: what waits is answered, and nothing waits any more.
pub(crate) fn over(hosted: &Arc<Hosted>) {
    for waiting in hosted.pop.waiting.close().into_iter().chain(hosted.pop.noticing.close()) {
        again(hosted, waiting, true, None);
    }
}

/// Calls those who wait for queues that have messages that they want. Ends with the node.
pub(crate) async fn wake(hosted: Arc<Hosted>) {
    loop {
        let queues = tokio::select! {
            () = hosted.node.stopping.cancelled() => return,
            queues = hosted.pop.arrivals.take() => queues,
        };
        let until = Instant::now() + WAKE_TIME;
        for (topic, queue) in queues {
            wake_queue(&hosted, &topic, queue, until);
        }
    }
}

/// Expressions are asked until `until`; after it, whoever has one is called and finds out for itself.
fn wake_queue(hosted: &Arc<Hosted>, topic: &Arc<str>, queue: QueueId, until: Instant) {
    let noticing = &hosted.pop.noticing;
    for candidate in noticing.candidates(topic, queue, usize::MAX, |_| ()) {
        if let Some(waiting) = noticing.take_one(candidate.number) {
            // It takes nothing that another one could have.
            again(hosted, waiting, false, None);
        }
    }
    let waiting = &hosted.pop.waiting;
    let candidates = waiting.candidates(topic, queue, LOOKED_AT, |poll| poll.wish.clone());
    let wants = |group: &Arc<str>, wish: Option<Wish>| {
        // What comes back from others was wanted once.
        let wish = wish.filter(|wish| wish.subscription.topic == **topic);
        may_want(hosted, topic, group, queue, wish.as_ref(), until)
    };
    for waiting in waiting.call(candidates, |poll| poll.is_gone(), wants) {
        again(hosted, waiting, false, Some((topic.clone(), queue)));
    }
}

/// Of those that wait for one queue, as many are looked at for one that wants what came.
const LOOKED_AT: usize = 32;

/// Whether what a group has not got of a queue may hold something that is wanted.
fn may_want(
    hosted: &Hosted,
    topic: &str,
    group: &str,
    queue: QueueId,
    wish: Option<&Wish>,
    until: Instant,
) -> bool {
    let (Some(range), Some(serving)) = (hosted.state.queue(topic, queue), hosted.serving()) else {
        return true;
    };
    let Some(cursor) = hosted.state.offset(topic, group, queue) else { return true };
    let from = cursor.clamp(range.min, range.next);
    let count = (range.next.0 - from.0) as usize;
    if count == 0 {
        // It was for another group, or is somebody's already.
        return false;
    }
    let Some(wish) = wish.filter(|wish| !wish.takes_everything()) else { return true };
    if count > PULL_UNITS {
        return true;
    }
    let units = serving.index.units_resident(topic, queue, from, count).unwrap_or_default();
    if units.len() != count {
        return true;
    }
    let Some(filter) = &wish.expression else {
        return units.iter().any(|unit| wish.may_match(unit.tags_code));
    };
    if Instant::now() >= until {
        return true;
    }
    let Ok(records) = reading::records_of(serving, &units, false) else { return true };
    let each = reading::each_record(&records, &units);
    records.count != count || filters::any_accepted(filter, each, until)
}

/// Answers those whose time is over, and tries those again whose queues are free by now. Ends with the node.
pub(crate) async fn expire(hosted: Arc<Hosted>) {
    let mut tick = tokio::time::interval(HOLD_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = hosted.node.stopping.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = Instant::now();
        let due = hosted.pop.waiting.due(now).into_iter().chain(hosted.pop.noticing.due(now));
        for (waiting, is_over) in due {
            again(&hosted, waiting, is_over, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Sender;
    use crate::park::Park;

    #[test]
    fn who_waited_for_a_leader_waits_so_much_less_for_messages() {
        let poll = |waited: u64| {
            let from = Sender::new(([127, 0, 0, 1], 1).into(), "main".into());
            let request = RemotingCommand::request(wire::RequestCode::POP_MESSAGE);
            let mut call = Call::from_self(request, from, Park::<Call>::new(1, 1).ticket());
            call.arrived -= Duration::from_millis(waited);
            let header = PopMessageRequest { poll_time: 20_000, ..PopMessageRequest::default() };
            Poll::new(call, Asked::Messages(header))
        };
        let left = poll(2_000).until().saturating_duration_since(Instant::now());
        assert!(left <= Duration::from_secs(18), "{left:?}");
        assert!(poll(2_000).may_wait() && !poll(20_000).may_wait());
    }
}
