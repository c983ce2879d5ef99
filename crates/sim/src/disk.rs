//! A node's disk: [`CrashDisk`], on which syncs take virtual time, hang, or fail, as the faults have it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::{CrashDisk, Disk, DiskFile, Fault, FaultOp, Map, Work};

use crate::clock;
use crate::random::Random;
use crate::thread::{is_disk_thread, wait_until};

/// How a process ends, for its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// What was written is there.
    Process,
    /// What was not synced is there in part.
    Power,
}

struct Mood {
    random: Random,
    /// How long a sync takes, ms.
    sync_ms: (u64, u64),
    hangs: bool,
    /// Syncs that are to fail.
    fails: u32,
    /// The process is being ended: nothing takes time any more.
    is_ending: bool,
    /// Consensus runs: its thread changes nothing on disk (log.md 9).
    is_guarded: bool,
    /// What it changed all the same.
    touched: Option<String>,
}

struct Shared {
    disk: CrashDisk,
    mood: Mutex<Mood>,
    work: Mutex<VecDeque<Work>>,
}

/// See the module. A clone is a reference.
#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Shared>);

struct SimFile {
    file: Arc<dyn DiskFile>,
    disk: SimDisk,
}

/// Bytes that a full disk has left; less than the smallest segment.
const SMALL_FILES: u64 = 0;
/// A sync that hangs is looked at again after so long.
const HANG_STEP_MS: u64 = 20;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    pub(crate) fn new(seed: u64, node: u64, sync_ms: (u64, u64)) -> Self {
        let mood = Mood {
            random: Random::of(seed, &format!("disk {node}")),
            sync_ms,
            hangs: false,
            fails: 0,
            is_ending: false,
            is_guarded: false,
            touched: None,
        };
        SimDisk(Arc::new(Shared {
            disk: CrashDisk::new(seed ^ node),
            mood: Mutex::new(mood),
            work: Mutex::default(),
        }))
    }

    pub(crate) fn set_sync_ms(&self, ms: (u64, u64)) {
        lock(&self.0.mood).sync_ms = ms;
    }

    /// While true no sync ends.
    pub(crate) fn hang(&self, hangs: bool) {
        lock(&self.0.mood).hangs = hangs;
    }

    /// Whether syncs end, and in the usual time.
    pub(crate) fn is_well(&self, usual_ms: (u64, u64)) -> bool {
        let mood = lock(&self.0.mood);
        !mood.hangs && mood.sync_ms == usual_ms
    }

    /// Inverts a bit of a file, or inverts it back.
    pub(crate) fn flip(&self, path: &Path, offset: u64) -> io::Result<()> {
        self.0.disk.flip(path, offset)
    }

    /// The next `n` syncs fail; 0: no more do.
    pub(crate) fn fail_syncs(&self, n: u32) {
        lock(&self.0.mood).fails = n;
    }

    /// While true little more is to be had than is taken: no segment, but a small file.
    pub(crate) fn fill(&self, is_full: bool) {
        self.0.disk.set_capacity(None);
        if is_full {
            const VAST: u64 = 1 << 60;
            self.0.disk.set_capacity(Some(VAST));
            let used = VAST - self.0.disk.free_space(Path::new("/")).unwrap_or(VAST);
            self.0.disk.set_capacity(Some(used + SMALL_FILES));
        }
    }

    /// From now on the thread of consensus must leave it alone.
    pub(crate) fn guard(&self) {
        lock(&self.0.mood).is_guarded = true;
    }

    /// What the thread of consensus changed.
    pub(crate) fn take_touched(&self) -> Option<String> {
        lock(&self.0.mood).touched.take()
    }

    /// Ends the process that uses it; the disk's thread is to be finished then.
    pub(crate) fn end(&self, ending: Ending) {
        let seed = {
            let mut mood = lock(&self.0.mood);
            mood.is_ending = true;
            mood.is_guarded = false;
            mood.fails = 0;
            mood.random.next()
        };
        self.0.disk.heal();
        match ending {
            Ending::Process => self.0.disk.end_processes(),
            Ending::Power => self.0.disk.crash(seed),
        }
    }

    /// A new process uses it.
    pub(crate) fn begin(&self) {
        lock(&self.0.work).clear();
        lock(&self.0.mood).is_ending = false;
    }

    pub(crate) fn next_work(&self) -> Option<Work> {
        lock(&self.0.work).pop_front()
    }

    pub(crate) fn push_work(&self, work: impl FnOnce() + Send + 'static) {
        lock(&self.0.work).push_back(Box::new(work));
    }

    /// Before anything else: a process that has ended does nothing any more, whatever its threads still try.
    fn check_alive(&self) -> io::Result<()> {
        if lock(&self.0.mood).is_ending {
            return Err(io::Error::other("the process has ended"));
        }
        Ok(())
    }

    /// After [`SimDisk::change`], before a sync takes effect: it takes its time, and may be about to fail.
    fn sync(&self, op: FaultOp) -> io::Result<()> {
        if !is_disk_thread() {
            return Ok(());
        }
        let ms = {
            let mut mood = lock(&self.0.mood);
            let (least, most) = mood.sync_ms;
            mood.random.between(least, most)
        };
        let mut until = clock::now_ms() + ms;
        loop {
            wait_until(until);
            self.check_alive()?;
            let mut mood = lock(&self.0.mood);
            if !mood.hangs {
                if mood.fails > 0 {
                    mood.fails -= 1;
                    let path = String::new();
                    self.0.disk.inject(Fault { op, path, after: 0, errno: libc::EIO, for_good: false });
                }
                return Ok(());
            }
            until = clock::now_ms() + HANG_STEP_MS;
        }
    }

    /// Before anything is changed.
    fn change(&self, what: &str, path: &Path) -> io::Result<()> {
        self.check_alive()?;
        if is_disk_thread() {
            return Ok(());
        }
        let mut mood = lock(&self.0.mood);
        if mood.is_guarded && mood.touched.is_none() {
            mood.touched = Some(format!("{what} {}", path.display()));
        }
        Ok(())
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { file, disk: self.clone() })
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.check_alive()?;
        Ok(self.file(self.0.disk.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.change("create", path)?;
        Ok(self.file(self.0.disk.create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change("rename", from)?;
        self.0.disk.rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.change("exchange", one)?;
        self.0.disk.exchange(one, other)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change("remove", path)?;
        self.0.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.check_alive()?;
        self.0.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.change("create", dir)?;
        self.0.disk.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change("sync", dir)?;
        self.sync(FaultOp::SyncDir)?;
        self.0.disk.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.check_alive()?;
        self.0.disk.free_space(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.check_alive()?;
        self.0.disk.lock(path)
    }

    fn entropy(&self) -> io::Result<[u8; 16]> {
        self.0.disk.entropy()
    }

    fn take_work(&self, work: Work) -> Option<Work> {
        lock(&self.0.work).push_back(work);
        None
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.disk.change("write", Path::new("a file"))?;
        self.file.write_at(offset, buffers)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.change("sync", Path::new("a file"))?;
        self.disk.sync(FaultOp::Sync)?;
        self.file.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.change("allocate", Path::new("a file"))?;
        self.file.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change("cut", Path::new("a file"))?;
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
