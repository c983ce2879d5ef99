//! The directory of the index: opening through a bounded set of descriptors, writing whole files atomically.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::codec::{Kind, LogRange};
use super::shelf::{Header, Run};
use crate::disk::{Disk, DiskFile};

/// Ends the name of a file that is being written: `<its name>.<number>.new`, so that two that write the same range (one
/// from memory, one from the log) do not meet.
const NEW: &str = ".new";

pub(super) struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    ids: AtomicU64,
    descriptors: usize,
    /// Taken last of all locks; nothing is read or written under it.
    open: Mutex<Descriptors>,
}

/// Descriptors by the id of the run, with the time of their last use.
#[derive(Default)]
struct Descriptors {
    files: HashMap<u64, (Arc<dyn DiskFile>, u64)>,
    clock: u64,
}

impl Files {
    /// Creates the directory when there is none.
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, descriptors: usize) -> io::Result<Self> {
        disk.create_dir(&dir)?;
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent)?;
        }
        Ok(Self { disk, dir, ids: AtomicU64::new(0), descriptors, open: Mutex::default() })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, kind: Kind, range: LogRange) -> PathBuf {
        self.dir.join(range.file_name(kind))
    }

    /// The ranges of all files by kind; what a crash left half-written is removed.
    pub(super) fn list(&self) -> io::Result<Vec<(Kind, LogRange)>> {
        let mut found = Vec::new();
        for name in self.disk.list(&self.dir)? {
            match LogRange::parse_file_name(&name) {
                Some(file) => found.push(file),
                None if is_half_written(&name) => {
                    self.disk.remove(&self.dir.join(&name))?;
                }
                None => {
                    tracing::warn!(file = %self.dir.join(&name).display(), "not a file of the index; left alone");
                }
            }
        }
        Ok(found)
    }

    /// Opens a file that is not known to be good yet.
    pub(super) fn open_unknown(&self, kind: Kind, range: LogRange) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.path(kind, range))
    }

    pub(super) fn run(&self, header: Header) -> Arc<Run> {
        Arc::new(Run { id: self.ids.fetch_add(1, Ordering::Relaxed), header })
    }

    /// The file of a run. Readers that hold it may go on when the run is replaced and its name is gone.
    pub(super) fn open(&self, run: &Run) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.open_already(run) {
            return Ok(file);
        }
        let file = self.disk.open(&self.path(run.kind(), run.range()))?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while open.files.len() >= self.descriptors {
            let oldest = open.files.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            let Some(oldest) = oldest else { break };
            open.files.remove(&oldest);
        }
        open.clock += 1;
        let now = open.clock;
        open.files.insert(run.id, (Arc::clone(&file), now));
        Ok(file)
    }

    /// The file of a run, if somebody has opened it.
    pub(super) fn open_already(&self, run: &Run) -> Option<Arc<dyn DiskFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clock += 1;
        let now = open.clock;
        let (file, used) = open.files.get_mut(&run.id)?;
        *used = now;
        Some(Arc::clone(file))
    }

    /// Closes the descriptor of a run that is no longer in use.
    pub(super) fn forget(&self, run: &Run) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).files.remove(&run.id);
    }

    /// Descriptors that are open now.
    pub(super) fn open_count(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).files.len()
    }

    /// Writes a file under a temporary name and gives it its own once `write` has made it durable. The name is durable
    /// after [`Files::sync`].
    pub(super) fn write<T, E: From<io::Error>>(
        &self,
        kind: Kind,
        range: LogRange,
        write: impl FnOnce(Arc<dyn DiskFile>) -> Result<T, E>,
    ) -> Result<T, E> {
        let path = self.path(kind, range);
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        let new = self.dir.join(format!("{}.{number}{NEW}", range.file_name(kind)));
        let written = self.disk.create(&new).map_err(E::from).and_then(write);
        let renamed = written.and_then(|value| {
            self.disk.rename(&new, &path)?;
            Ok(value)
        });
        if renamed.is_err() {
            // Only tidiness: a full disk gets its room back now instead of at the next start.
            let _ = self.disk.remove(&new);
        }
        renamed
    }

    /// Makes names durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.disk.sync_dir(&self.dir)
    }

    /// Removes a file; none there is as good.
    pub(super) fn remove(&self, kind: Kind, range: LogRange) -> io::Result<()> {
        match self.disk.remove(&self.path(kind, range)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn is_half_written(name: &str) -> bool {
    let stem = name.strip_suffix(NEW).and_then(|stem| stem.rsplit_once('.'));
    stem.is_some_and(|(stem, _)| LogRange::parse_file_name(stem).is_some())
}
