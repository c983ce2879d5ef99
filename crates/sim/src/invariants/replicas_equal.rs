//! Healed and at rest, replicas are equal: the bytes of their logs, their tables, what their queues give (design.md invariant
//! 3; L12).

use super::{Invariant, Verdict};
use crate::oracle::{History, Replica};

pub(super) struct ReplicasEqual;

impl Invariant for ReplicasEqual {
    fn name(&self) -> &'static str {
        "replicas_equal"
    }

    fn ended(&mut self, _history: &History, replicas: &[Replica]) -> Verdict {
        for replica in replicas {
            let Some(first) = replicas.iter().find(|other| other.group == replica.group) else { continue };
            let parts = [
                ("last entries", first.last_index == replica.last_index),
                ("logs", first.log_hash == replica.log_hash),
                ("tables", first.tables == replica.tables),
                ("queues", first.queues == replica.queues),
                ("offsets", first.offsets == replica.offsets),
            ];
            if let Some((what, _)) = parts.iter().find(|(_, is_equal)| !is_equal) {
                let (group, one, other) = (replica.group, first.node, replica.node);
                return Err(format!("group {group}: the {what} of nodes {one} and {other} differ"));
            }
        }
        Ok(())
    }
}
