//! How transactions end: commits and rollbacks that wait for their entry.
//!
//! ```text
//! 37, 37, 37 … ─▶ commits   ─▶ one entry at a time: Release + the messages   ─▶ done, or judged again by the tables
//!              └▶ rollbacks ─▶ one entry at a time: Release                  ─▶ done, or over already
//! ```
//!
//! What has arrived while an entry was under way goes into the next one: bounded by bytes, never by waiting. `apply`
//! takes an entry of commits as a whole or not at all, so one transaction that is over already voids it: then those that are
//! over are told so, and the others go into the next entry. Of two ends of one transaction the second waits for the first.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use replica::MessagesProposal;
use wire::{QueueId, QueueOffset, ResponseCode, StoredMessage};

use crate::call::Call;
use crate::errors::Error;
use crate::hosted::{Hosted, lock};
use crate::limits::{ENDS_BYTES_MAX, ENDS_PER_ENTRY, ENDS_PER_ENTRY_BYTES};
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

    /// What goes into the next entry, of one kind, by offset; empty: nothing waits.
    fn take(&mut self) -> Vec<End> {
        self.turn = !self.turn;
        let rollbacks_first = self.turn && !self.rollbacks.is_empty() || self.commits.is_empty();
        let queue = if rollbacks_first { &mut self.rollbacks } else { &mut self.commits };
        let (mut taken, mut later) = (Vec::<End>::new(), Vec::new());
        let (mut bytes, mut offsets) = (0, HashSet::new());
        while let Some(end) = queue.front() {
            let fits = bytes + end.bytes() <= ENDS_PER_ENTRY_BYTES && taken.len() < ENDS_PER_ENTRY;
            if !taken.is_empty() && (!fits || end.is_alone()) {
                break;
            }
            let Some(end) = queue.pop_front() else { break };
            if !offsets.insert(end.offset) {
                later.push(end);
                continue;
            }
            bytes += end.bytes();
            let is_alone = end.is_alone();
            taken.push(end);
            if is_alone {
                break;
            }
        }
        later.into_iter().rev().for_each(|end| queue.push_front(end));
        self.bytes -= bytes;
        taken.sort_unstable_by_key(|end| end.offset);
        taken
    }
}

/// Works until nothing waits.
async fn work(hosted: Arc<Hosted>) {
    loop {
        let ends = {
            let mut waiting = lock(&hosted.ends.waiting);
            let ends = waiting.take();
            if ends.is_empty() {
                waiting.is_worked_on = false;
                return;
            }
            ends
        };
        let (over, ends): (Vec<End>, Vec<End>) = ends.into_iter().partition(|end| end.is_over(&hosted));
        for end in over {
            end.tell_over(&hosted);
        }
        match ends.first() {
            None => {}
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
        // Definitely not done, and by one of them: each is looked at again.
        Err(Error::Void | Error::Refused { .. }) if kept.len() > 1 => {
            let (over, mut others): (Vec<End>, Vec<End>) =
                kept.into_iter().partition(|end| end.is_over(hosted));
            if over.is_empty() {
                for commit in others.iter_mut().filter_map(|end| end.commit.as_mut()) {
                    commit.alone = true;
                }
            }
            hosted.ends.push_back(others);
            for end in over {
                end.tell_over(hosted);
            }
        }
        Err(error) => fail(hosted, kept, &error),
    }
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
