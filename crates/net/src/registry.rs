//! The open connections of a server or a client, and the pass over them that enforces deadlines.
//!
//! Locks: `open` is held to add, remove or copy the list; each connection's own lock is taken after it
//! is released.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::connection::{Connection, Stage};
use crate::lock;

/// Numbers connections across all servers and clients of the process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

#[derive(Default)]
pub(crate) struct Registry {
    open: Mutex<HashMap<u64, Arc<Connection>>>,
}

impl Registry {
    pub(crate) fn add(&self, connection: Arc<Connection>) {
        lock(&self.open).insert(connection.id(), connection);
    }

    pub(crate) fn remove(&self, id: u64) {
        lock(&self.open).remove(&id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        lock(&self.open).values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.open).len()
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Connection>> {
        lock(&self.open).get(&id).cloned()
    }

    pub(crate) fn advance(&self, stage: &Stage) {
        for connection in self.all() {
            connection.advance(stage.clone());
        }
    }

    /// Ends what takes too long.
    pub(crate) fn sweep(&self) {
        let overdue: Vec<_> = {
            let open = lock(&self.open);
            open.values().filter_map(|connection| Some((connection.clone(), connection.overdue()?))).collect()
        };
        for (connection, reason) in overdue {
            tracing::info!(peer = %connection.peer(), id = connection.id(), %reason, "closing a connection");
            connection.advance(Stage::Ending(reason));
        }
    }
}
