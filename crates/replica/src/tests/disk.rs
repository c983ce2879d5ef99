//! A real disk that can be made to hang or to be full.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use store::{Disk, DiskFile, Map, OsDisk};

#[derive(Default)]
struct State {
    hung: bool,
    hung_but_for_votes: bool,
    full: bool,
    /// Allocations for snapshots that were refused.
    refusals: u64,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self, is_vote: bool) {
        let state = self.state.lock().unwrap();
        let hangs = |state: &mut State| state.hung || (state.hung_but_for_votes && !is_vote);
        drop(self.changed.wait_while(state, hangs).unwrap());
    }

    fn room(&self) -> io::Result<()> {
        if self.state.lock().unwrap().full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

/// [`OsDisk`] behind a gate. A clone is a reference.
#[derive(Clone, Default)]
pub(crate) struct GatedDisk(Arc<Gate>);

impl GatedDisk {
    /// While true no sync returns.
    pub(crate) fn hang(&self, hung: bool) {
        self.0.state.lock().unwrap().hung = hung;
        self.0.changed.notify_all();
    }

    /// While true no sync returns but those of the file of votes: a leader can be elected, and get nothing to disk.
    pub(crate) fn hang_but_for_votes(&self, hung: bool) {
        self.0.state.lock().unwrap().hung_but_for_votes = hung;
        self.0.changed.notify_all();
    }

    /// While true nothing can be allocated; what is allocated can be written.
    pub(crate) fn fill(&self, full: bool) {
        self.0.state.lock().unwrap().full = full;
    }

    /// How many allocations for a leader's snapshot were refused so far.
    pub(crate) fn refusals(&self) -> u64 {
        self.0.state.lock().unwrap().refusals
    }

    fn file(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (is_vote, is_boundary) = (name == "vote", name.starts_with("boundary-"));
        Arc::new(GatedFile { file, gate: self.0.clone(), is_vote, is_boundary })
    }
}

impl Disk for GatedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(path, OsDisk.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(path, OsDisk.create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        OsDisk.exchange(one, other)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsDisk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.pass(false);
        OsDisk.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        if self.0.room().is_err() { Ok(0) } else { OsDisk.free_space(dir) }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        OsDisk.lock(path)
    }

    fn entropy(&self) -> io::Result<[u8; 16]> {
        OsDisk.entropy()
    }
}

struct GatedFile {
    file: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
    is_vote: bool,
    is_boundary: bool,
}

impl DiskFile for GatedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.file.write_at(offset, buffers)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass(self.is_vote);
        self.file.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let room = self.gate.room();
        if room.is_err() && self.is_boundary {
            self.gate.state.lock().unwrap().refusals += 1;
        }
        room?;
        self.file.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn map(&self, len: u64) -> io::Result<Option<Map>> {
        self.file.map(len)
    }

    fn forget(&self, offset: u64, len: u64) {
        self.file.forget(offset, len);
    }
}
