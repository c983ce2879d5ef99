//! How transactions end: commits and rollbacks that wait for their entry.
//!
//! ```text
//! 37, 37, 37 … ─▶ commits   ─▶ one entry at a time: Release + the messages   ─▶ done, or judged again by the tables
//!              └▶ rollbacks ─▶ one entry at a time: Release                  ─▶ done, or over already
//! ```
//!
//! What has arrived while an entry was under way goes into the next one: bounded by bytes, never by waiting. `apply`
//! takes an entry of commits as a whole or not at all, so one transaction that is over already voids it: then those that are
//! over are told so, and the others go into the next entry. Where none is over, the cause was another entry, and they go
//! together again. Of two ends of one transaction the second waits for the first.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use replica::MessagesProposal;
use wire::{QueueId, QueueOffset, ResponseCode, StoredMessage};

use crate::call::Call;
use crate::errors::Error;
use crate::hosted::{Hosted, lock};
use crate::limits::{ENDS_BYTES_MAX, ENDS_PER_ENTRY, ENDS_PER_ENTRY_BYTES, ENDS_VOID_MAX};
use crate::state::command::{Kind, Release, Source, released};
use crate::transactions::half;

/// Transactions of one group that are to end.
#[derive(Default)]
pub(crate) struct Ends {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    commits: VecDeque<End>,
    rollbacks: VecDeque<End>,
    bytes: usize,
    /// A task works on them.
    is_worked_on: bool,
    /// Rollbacks are next.
    turn: bool,
}

/// One transaction that is to end.
pub(crate) struct End {
    pub(crate) call: Call,
    /// Of the half message.
    pub(crate) offset: QueueOffset,
    /// The half message, where it is to be committed: its record, and the topic and queue that it goes to.
    pub(crate) commit: Option<Commit>,
    pub(crate) since: Instant,
}

/// What a commit needs.
pub(crate) struct Commit {
    pub(crate) half: Bytes,
    pub(crate) topic: Arc<str>,
    pub(crate) queue: QueueId,
    /// It was refused together with others, and might be the reason.
    pub(crate) alone: bool,
    /// Its entry was void so often, and none in it was the reason.
    pub(crate) voids: u32,
}

impl End {
    fn bytes(&self) -> usize {
        self.commit.as_ref().map_or(64, |commit| commit.half.len())
    }

    fn is_alone(&self) -> bool {
        self.commit.as_ref().is_some_and(|commit| commit.alone)
    }

    fn is_over(&self, hosted: &Hosted) -> bool {
        hosted.state.is_done(half::TOPIC, half::QUEUE, self.offset)
    }

    fn tell_over(self, hosted: &Arc<Hosted>) {
        let error = over(self.offset);
        hosted.fail(self.call, error);
    }
}

/// What a late or repeated 37 is told.
pub(crate) fn over(offset: QueueOffset) -> Error {
    let remark = format!("the transaction of the half message at offset {offset} is over");
    Error::refused(ResponseCode::SYSTEM_ERROR, remark)
}

impl Ends {
    /// Ends a transaction soon, and answers its call.
    pub(crate) fn push(&self, hosted: &Arc<Hosted>, end: End) {
        {
            let mut waiting = lock(&self.waiting);
            if waiting.bytes + end.bytes() > ENDS_BYTES_MAX && waiting.bytes > 0 {
                let bytes = waiting.bytes;
                drop(waiting);
                let remark = format!("{bytes} bytes of ends of transactions wait (limit {ENDS_BYTES_MAX})");
                return hosted.fail(end.call, Error::Overloaded(remark));
            }
            waiting.push(end);
            if std::mem::replace(&mut waiting.is_worked_on, true) {
                return;
            }
        }
        tokio::spawn(work(hosted.clone()));
    }

    /// Those that are tried once more, before all others.
    fn push_back(&self, ends: Vec<End>) {
        let mut waiting = lock(&self.waiting);
        for end in ends.into_iter().rev() {
            waiting.bytes += end.bytes();
            waiting.commits.push_front(end);
        }
    }
}

impl Waiting {
    fn push(&mut self, end: End) {
        self.bytes += end.bytes();
        if end.commit.is_some() { self.commits.push_back(end) } else { self.rollbacks.push_back(end) }
    }

    /// What goes into the next entry, of one kind.
    fn take(&mut self, is_over: impl Fn(&End) -> bool) -> Taken {
        self.turn = !self.turn;
        let rollbacks_first = self.turn && !self.rollbacks.is_empty() || self.commits.is_empty();
        let queue = if rollbacks_first { &mut self.rollbacks } else { &mut self.commits };
        let (mut taken, mut later) = (Taken::default(), Vec::new());
        let (mut bytes, mut offsets) = (0, HashSet::new());
        while let Some(end) = queue.front() {
            let size = end.bytes();
            let fits = bytes + size <= ENDS_PER_ENTRY_BYTES && taken.ends.len() < ENDS_PER_ENTRY;
            if !taken.ends.is_empty() && (!fits || end.is_alone()) {
                break;
            }
            // However often clients repeat themselves: so much is looked at in one turn.
            if taken.over.len() + later.len() >= ENDS_PER_ENTRY {
                break;
            }
            let Some(end) = queue.pop_front() else { break };
            if is_over(&end) {
                self.bytes -= size;
                taken.over.push(end);
                continue;
            }
            if !offsets.insert(end.offset) {
                later.push(end);
                continue;
            }
            bytes += size;
            let is_alone = end.is_alone();
            taken.ends.push(end);
            if is_alone {
                break;
            }
        }
        later.into_iter().rev().for_each(|end| queue.push_front(end));
        self.bytes -= bytes;
        taken.ends.sort_unstable_by_key(|end| end.offset);
        taken
    }
}

/// What one turn is about; nothing: nothing waits.
#[derive(Default)]
struct Taken {
    /// By offset.
    ends: Vec<End>,
    /// They are over already.
    over: Vec<End>,
}

/// The one who works on the ends of a group. Gone, whatever became of it, it makes room for another one.
struct Worker {
    hosted: Arc<Hosted>,
    is_done: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.is_done {
            lock(&self.hosted.ends.waiting).is_worked_on = false;
        }
    }
}

/// Works until nothing waits.
async fn work(hosted: Arc<Hosted>) {
    let mut worker = Worker { hosted: hosted.clone(), is_done: false };
    loop {
        let Taken { ends, over } = {
            let mut waiting = lock(&hosted.ends.waiting);
            let taken = waiting.take(|end| end.is_over(&hosted));
            if taken.ends.is_empty() && taken.over.is_empty() {
                waiting.is_worked_on = false;
                worker.is_done = true;
                return;
            }
            taken
        };
        for end in over {
            end.tell_over(&hosted);
        }
        match ends.first() {
            None => tokio::task::yield_now().await,
            Some(first) if first.commit.is_some() => commit(&hosted, ends).await,
            Some(_) => roll_back(&hosted, ends).await,
        }
    }
}

fn release(hosted: &Hosted, ends: &[End], how: u32) -> Result<Kind, Error> {
    let topic = hosted.state.topic(half::TOPIC).ok_or(Error::NotLeader { leader: None })?;
    let offsets = ends.iter().map(|end| end.offset.0).collect();
    let source = Source { topic: topic.id.0, queue: half::QUEUE.0, offsets };
    Ok(Kind::Release(Release { sources: vec![source], how }))
}

async fn commit(hosted: &Arc<Hosted>, ends: Vec<End>) {
    let mut kept = Vec::with_capacity(ends.len());
    let mut messages = Vec::with_capacity(ends.len());
    for end in ends {
        match message(hosted, &end) {
            Ok(message) => {
                messages.push(message);
                kept.push(end);
            }
            Err(error) => hosted.fail(end.call, error),
        }
    }
    if kept.is_empty() {
        return;
    }
    let sizes: Vec<u64> = messages.iter().map(|message| message.records.len() as u64).collect();
    let result = match release(hosted, &kept, released::DELIVERED) {
        Ok(release) => hosted.propose_coupled_here(release.into(), messages).await.map(|_| ()),
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => {
            for (end, bytes) in kept.into_iter().zip(sizes) {
                if let Some(commit) = &end.commit {
                    hosted.stats.put(&commit.topic, 1, bytes, end.since.elapsed());
                }
                end.call.succeed();
            }
        }
        // Definitely not done: each is looked at again.
        Err(error @ (Error::Void | Error::Refused { .. })) if kept.len() > 1 => {
            let (over, others) = kept.into_iter().partition(|end: &End| end.is_over(hosted));
            let is_explained = !Vec::is_empty(&over);
            for end in over {
                end.tell_over(hosted);
            }
            match once_more(others, &error, is_explained) {
                Ok(others) => hosted.ends.push_back(others),
                Err(others) => fail(hosted, others, &error),
            }
        }
        Err(error) => fail(hosted, kept, &error),
    }
}

/// How those are tried again that were not over when their entry had no effect; or given back, when it was void so often
/// that it is for the park to say when. `is_explained`: others in it were over.
fn once_more(mut ends: Vec<End>, error: &Error, is_explained: bool) -> Result<Vec<End>, Vec<End>> {
    if is_explained {
        return Ok(ends);
    }
    let mut voids = 0;
    for commit in ends.iter_mut().filter_map(|end| end.commit.as_mut()) {
        if matches!(error, Error::Void) {
            // One that voids an entry is over by then: this one was void because of another entry before it.
            commit.voids += 1;
            voids = voids.max(commit.voids);
        } else {
            // It may be any of them.
            commit.alone = true;
        }
    }
    if voids > ENDS_VOID_MAX { Err(ends) } else { Ok(ends) }
}

fn message(hosted: &Hosted, end: &End) -> Result<MessagesProposal, Error> {
    let illegal = |why: String| Error::refused(ResponseCode::MESSAGE_ILLEGAL, why);
    let commit = end.commit.as_ref().ok_or_else(|| illegal("no message to commit".into()))?;
    let half = StoredMessage::parse(&commit.half).map_err(|error| illegal(error.to_string()))?;
    let record = half::committed(&half, &commit.topic, commit.queue, hosted.store_host);
    let records = record.map_err(|error| illegal(error.to_string()))?;
    Ok(MessagesProposal { topic: commit.topic.clone(), queue: commit.queue, records, count: 1 })
}

async fn roll_back(hosted: &Arc<Hosted>, ends: Vec<End>) {
    let result = match release(hosted, &ends, released::ROLLED_BACK) {
        Ok(release) => hosted.propose_here(release.into()).await,
        Err(error) => Err(error),
    };
    let granted: HashSet<u32> = match result {
        Ok(reply) if reply.code == 0 => reply.granted.into_iter().collect(),
        Ok(reply) => {
            let error = Error::refused(ResponseCode(reply.code), reply.remark);
            return fail(hosted, ends, &error);
        }
        Err(error) => return fail(hosted, ends, &error),
    };
    for (place, end) in ends.into_iter().enumerate() {
        if granted.contains(&(place as u32)) { end.call.succeed() } else { end.tell_over(hosted) }
    }
}

/// All of them have the same fate. What may be tried again is, by the park, and looks at the tables first.
fn fail(hosted: &Arc<Hosted>, ends: Vec<End>, error: &Error) {
    for end in ends {
        hosted.fail(end.call, error.shared());
    }
}

#[cfg(test)]
mod tests {
    use wire::{RemotingCommand, RequestCode};

    use super::*;
    use crate::call::Sender;
    use crate::park::Park;

    fn end(offset: u64, is_commit: bool) -> End {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let from = Sender::new(address, "b".into());
        let request = RemotingCommand::request(RequestCode::END_TRANSACTION);
        let call = Call::from_self(request, from, Park::<Call>::new(1, 1).ticket());
        let commit = is_commit.then(|| Commit {
            half: Bytes::from_static(b"half"),
            topic: "T".into(),
            queue: QueueId(0),
            alone: false,
            voids: 0,
        });
        End { call, offset: QueueOffset(offset), commit, since: Instant::now() }
    }

    fn offsets(ends: &[End]) -> Vec<u64> {
        ends.iter().map(|end| end.offset.0).collect()
    }

    #[test]
    fn of_one_transaction_the_second_waits() {
        let mut waiting = Waiting::default();
        for offset in [5, 3, 5, 4, 5] {
            waiting.push(end(offset, true));
        }
        let taken = waiting.take(|_| false);
        assert_eq!((offsets(&taken.ends), taken.over.len()), (vec![3, 4, 5], 0));
        // The first did it: the others are told together, and nothing remains.
        let taken = waiting.take(|end| end.offset.0 == 5);
        assert_eq!((taken.ends.len(), offsets(&taken.over)), (0, vec![5, 5]));
        assert_eq!(waiting.bytes, 0);
        let taken = waiting.take(|_| false);
        assert!(taken.ends.is_empty() && taken.over.is_empty());
    }

    #[test]
    fn a_turn_is_bounded_however_often_an_end_is_repeated() {
        for is_commit in [true, false] {
            let mut waiting = Waiting::default();
            let count = 4 * ENDS_PER_ENTRY;
            for _ in 0..count {
                waiting.push(end(7, is_commit));
            }
            let looked = std::cell::Cell::new(0);
            let taken = waiting.take(|_| {
                looked.set(looked.get() + 1);
                false
            });
            assert_eq!(offsets(&taken.ends), [7]);
            assert!(looked.get() <= ENDS_PER_ENTRY + 1, "{} looked at", looked.get());
            let mut turns = 0;
            let mut told = 0;
            loop {
                let taken = waiting.take(|_| true);
                if taken.over.is_empty() {
                    break;
                }
                told += taken.over.len();
                turns += 1;
            }
            assert_eq!((told, turns, waiting.bytes), (count - 1, 4, 0));
        }
    }

    #[test]
    fn a_void_of_another_cause_leaves_them_together() {
        let both = || vec![end(1, true), end(2, true)];
        let alone = |ends: &[End]| ends.iter().filter(|end| end.is_alone()).count();
        let mut ends = both();
        for _ in 0..ENDS_VOID_MAX {
            ends = once_more(ends, &Error::Void, false).unwrap_or_else(|_| panic!("once more"));
            assert_eq!(alone(&ends), 0);
        }
        // Not for ever.
        assert!(once_more(ends, &Error::Void, false).is_err());

        let refused = Error::refused(ResponseCode::TOPIC_NOT_EXIST, "gone");
        let ends = once_more(both(), &refused, false).unwrap_or_else(|_| panic!("once more"));
        assert_eq!(alone(&ends), 2, "one of them is the reason");
        for error in [Error::Void, refused] {
            let ends = once_more(both(), &error, true).unwrap_or_else(|_| panic!("once more"));
            assert_eq!(alone(&ends), 0, "the reason is gone");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_worker_that_panics_makes_room_for_another() {
        let node = crate::tests::OneNode::start().await;
        let hosted = node.broker.hosted("b1");
        lock(&hosted.ends.waiting).is_worked_on = true;
        let worker = Worker { hosted: hosted.clone(), is_done: false };
        let panicked = tokio::spawn(async move {
            let _worker = worker;
            panic!("as the test wants it");
        });
        panicked.await.unwrap_err();
        assert!(!lock(&hosted.ends.waiting).is_worked_on);
        // One that has ended as it should takes nothing from the next.
        lock(&hosted.ends.waiting).is_worked_on = true;
        drop(Worker { hosted: hosted.clone(), is_done: true });
        assert!(lock(&hosted.ends.waiting).is_worked_on);
        node.stop().await;
    }
}
