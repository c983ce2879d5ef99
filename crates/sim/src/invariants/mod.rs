//! What must hold, one file each. An invariant is shown everything that happens (oracle.rs) and says what does not hold.

mod acknowledged_stays;
mod alone_keeps_term;
mod attempts_counted;
mod consumer_offsets;
mod current_ends;
mod dense_queues;
mod durable_majority;
mod locked_alone;
mod log_time;
mod nothing_unsent;
mod one_leader;
mod one_vote;
mod popped_in_order;
mod popped_once;
mod pulled_is_stored;
mod released_once;
mod replicas_equal;
mod resets_hold;
mod same_entries;
mod synced_stays;
mod vote_behind_appends;
mod watermarks;

use crate::oracle::{Answer, Entry, History, Queue, Replica, Sight, Standing, original};

/// `Err`: what does not hold.
pub(crate) type Verdict = Result<(), String>;

pub(crate) trait Invariant: Send {
    /// The name of its file.
    fn name(&self) -> &'static str;

    /// A node has applied an entry. The history does not have it yet.
    fn applied(&mut self, _history: &History, _entry: &Entry<'_>) -> Verdict {
        Ok(())
    }

    /// A node goes on after the entry of this index (`None`: at the first).
    fn restored(&mut self, _node: u64, _group: usize, _index: Option<u64>) {}

    /// A client has learned something. The history has it already.
    fn answered(&mut self, _history: &History, _answer: &Answer) -> Verdict {
        Ok(())
    }

    /// A log after a millisecond of its node.
    fn stands(&mut self, _history: &History, _at: &Standing) -> Verdict {
        Ok(())
    }

    /// All nodes at one moment; often.
    fn seen(&mut self, _history: &History, _sight: &Sight) -> Verdict {
        Ok(())
    }

    /// All replicas at the end, healed and at rest.
    fn ended(&mut self, _history: &History, _replicas: &[Replica]) -> Verdict {
        Ok(())
    }
}

pub(crate) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(acknowledged_stays::AcknowledgedStays),
        Box::new(alone_keeps_term::AloneKeepsTerm::default()),
        Box::new(attempts_counted::AttemptsCounted::default()),
        Box::new(consumer_offsets::ConsumerOffsets::default()),
        Box::new(current_ends::CurrentEnds),
        Box::new(dense_queues::DenseQueues),
        Box::new(durable_majority::DurableMajority),
        Box::new(locked_alone::LockedAlone::default()),
        Box::new(log_time::LogTime::default()),
        Box::new(nothing_unsent::NothingUnsent::default()),
        Box::new(one_leader::OneLeader::default()),
        Box::new(one_vote::OneVote::default()),
        Box::new(popped_in_order::PoppedInOrder::default()),
        Box::new(popped_once::PoppedOnce::default()),
        Box::new(pulled_is_stored::PulledIsStored),
        Box::new(released_once::ReleasedOnce::default()),
        Box::new(replicas_equal::ReplicasEqual),
        Box::new(resets_hold::ResetsHold::default()),
        Box::new(same_entries::SameEntries::default()),
        Box::new(synced_stays::SyncedStays::default()),
        Box::new(vote_behind_appends::VoteBehindAppends::default()),
        Box::new(watermarks::Watermarks::default()),
    ]
}

/// The messages of a coupled entry are copies of those that it names, each once.
fn copies_match(history: &History, entry: &Entry<'_>, named: &[(Queue, u64)]) -> Verdict {
    let mut originals: Vec<Option<&str>> =
        named.iter().map(|(queue, offset)| history.value(queue, *offset)).collect();
    let mut copied: Vec<Option<&str>> =
        entry.messages.iter().map(|message| message.value.as_deref().map(original)).collect();
    originals.sort_unstable();
    copied.sort_unstable();
    if originals != copied {
        let id = entry.frame.id();
        return Err(format!("entry {id} is about {originals:?} and brings copies of {copied:?}"));
    }
    Ok(())
}
