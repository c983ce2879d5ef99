//! A real disk that writes no more than so many bytes a second.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use store::{Disk, DiskFile, Map, OsDisk};

/// [`OsDisk`], whose syncs take as long as what was written since the last one takes at its speed. A clone is a reference.
#[derive(Clone, Default)]
pub(crate) struct SlowDisk(Arc<AtomicU64>);

impl SlowDisk {
    /// Bytes a second; 0: as fast as it can.
    pub(crate) fn limit(&self, bytes_per_second: u64) {
        self.0.store(bytes_per_second, Ordering::Relaxed);
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SlowFile { file, unsynced_bytes: AtomicU64::new(0), disk: self.clone() })
    }
}

impl Disk for SlowDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(OsDisk.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(OsDisk.create(path)?))
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
        OsDisk.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        OsDisk.free_space(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        OsDisk.lock(path)
    }

    fn entropy(&self) -> io::Result<[u8; 16]> {
        OsDisk.entropy()
    }
}

struct SlowFile {
    file: Arc<dyn DiskFile>,
    unsynced_bytes: AtomicU64,
    disk: SlowDisk,
}

impl DiskFile for SlowFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        self.unsynced_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.file.write_at(offset, buffers)
    }

    fn sync_data(&self) -> io::Result<()> {
        let bytes = self.unsynced_bytes.swap(0, Ordering::Relaxed);
        let start = Instant::now();
        let left = || {
            let us = (bytes * 1_000_000).checked_div(self.disk.0.load(Ordering::Relaxed))?;
            Duration::from_micros(us).checked_sub(start.elapsed()).filter(|left| !left.is_zero())
        };
        // A disk that becomes faster does so for what is under way, too.
        while let Some(left) = left() {
            std::thread::sleep(left.min(Duration::from_millis(10)));
        }
        self.file.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
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
