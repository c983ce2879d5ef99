//! After convergence: every queue read through every node, and single messages looked up.

use std::time::Duration;

use super::call::{Answered, Caller, Sought};
use super::field::Field;
use crate::history::{Bounds, LookupBy, Op, Process, PullStatus, Queue, Read, Way};

/// Messages in one line of the history.
const PIECE: usize = 1_000;
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// Reads a queue through a node, from its first message to its last. `None`: the node gave it up to some point only.
pub(super) async fn queue(field: &Field, caller: &Caller, node: u64, queue: &Queue, end: u64) {
    let mut piece: Vec<Read> = Vec::new();
    let mut next = 0;
    let mut min = None;
    let note = |messages: Vec<Read>, bounds: Option<Bounds>| {
        let op = Op::Drain { replica: node, queue: queue.clone(), way: Way::Pull, messages, bounds };
        field.recorder.note(op);
    };
    while next < end {
        let Answered { result, .. } = caller.pull(node, queue, next, None).await;
        let Some(pulled) = result else {
            tokio::time::sleep(AFTER_FAILURE).await;
            continue;
        };
        min.get_or_insert(pulled.min);
        piece.extend(pulled.messages);
        match pulled.status {
            // Outside, said of a place that is inside: the rules of the last piece show what is missing.
            PullStatus::Moved if pulled.next <= next => break,
            // The harness has waited for every node to have applied all of it.
            PullStatus::NothingNew => break,
            PullStatus::Found | PullStatus::NoneMatched | PullStatus::Moved => next = pulled.next,
        }
        if piece.len() >= PIECE {
            note(std::mem::take(&mut piece), None);
        }
    }
    note(piece, Some(Bounds { min: min.unwrap_or(0), max: end }));
}

/// Looks acknowledged messages up by all that is known of them, each at another node.
pub(super) async fn look_ups(field: &Field, caller: &Caller) {
    let mut process = field.recorder.process();
    let ways = [LookupBy::Key, LookupBy::UniqueId, LookupBy::OffsetId];
    for (number, sought) in field.kept().iter().enumerate() {
        let node = number as u64 % caller.nodes() + 1;
        look_up(caller, &mut process, node, sought, ways[number / caller.nodes() as usize % ways.len()])
            .await;
    }
}

async fn look_up(caller: &Caller, process: &mut Process, node: u64, sought: &Sought, by: LookupBy) {
    let op = |found| Op::Lookup { queue: sought.queue.clone(), value: sought.value, by, found };
    process.invoke(op(Vec::new()));
    let Answered { outcome, details, result } = caller.look_up(node, sought, by).await;
    process.complete(outcome, op(result.unwrap_or_default()), details);
}
