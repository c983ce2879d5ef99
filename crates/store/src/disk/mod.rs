//! What the store asks of a disk, and the two disks that answer: [`OsDisk`] and [`CrashDisk`].
//!
//! ```text
//! write_at ──▶ page cache ──sync_data──▶ durable        create, rename, remove ──▶ namespace ──sync_dir──▶ durable
//! ```
//! Nothing is durable before its sync returned Ok; after a failed sync nothing may be assumed about what it covered.

mod crash;
mod map;
mod os;

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use crate::limits::{SPARE_FILE_SLACK, SPARE_FILE_STEP};

pub use crash::{CrashDisk, Fault, FaultOp};
pub use map::Map;
pub use os::OsDisk;

/// A directory tree.
pub trait Disk: Send + Sync {
    /// Opens an existing file for reading and writing; `NotFound` when there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates an empty file, or empties an existing one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing what was there; durable after a sync of both directories.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Swaps the files of two names, which takes no space; durable after a sync of both directories. `Unsupported` where
    /// the file system cannot.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()>;
    /// Removes a file; `NotFound` when there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names in a directory (files and directories), sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents; no error when it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that an unprivileged process may still allocate on the disk that holds `dir`.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
    /// Takes the exclusive lock of a file, which is created when missing; `WouldBlock` when another holds it. Dropping
    /// the guard gives it back.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// 16 bytes that no other node has.
    fn entropy(&self) -> io::Result<[u8; 16]>;
    /// Takes work that may wait for this disk, to do it where that harms nobody; gives it back where the caller's runtime
    /// has threads for that, as beside every real disk. A simulated one takes it, so that the order of events stays its own.
    fn take_work(&self, work: Work) -> Option<Work> {
        Some(work)
    }
}

/// See [`Disk::take_work`].
pub type Work = Box<dyn FnOnce() + Send>;

/// An open file. All methods may be called from many threads at once.
pub trait DiskFile: Send + Sync {
    /// Reads at `offset`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Fills the buffer if all of it is in memory, and so without a wait for the disk. False where it is not, and where
    /// nobody can say: what is in the buffer then means nothing.
    fn read_resident_at(&self, _offset: u64, _buffer: &mut [u8]) -> bool {
        false
    }
    /// Writes all the buffers, one after the other, at `offset`; extends the file when needed.
    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()>;
    /// Makes the content and the length durable (fdatasync). After an error nothing that was written since the last
    /// success can be trusted, on any descriptor.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes the file at least `len` bytes long with real blocks that read as zeros where nothing was written;
    /// `StorageFull` when they are not to be had.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts the file, or extends it with a hole.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;
    /// True when the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// A read-only map of the first `len` bytes, which must all be allocated; `None` where maps are not to be had.
    fn map(&self, len: u64) -> io::Result<Option<Map>>;
    /// Tells that a range will not be read again soon, so that a cold reader does not push others out of memory.
    fn forget(&self, offset: u64, len: u64);

    /// Reads exactly `buffer.len()` bytes; `UnexpectedEof` at the end of the file.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.read_at(offset, buffer)? == buffer.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
    /// Writes one buffer.
    fn write_all_at(&self, offset: u64, buffer: &[u8]) -> io::Result<()> {
        self.write_at(offset, &[IoSlice::new(buffer)])
    }
}

/// Writes a file whole: to `<path>.new`, fsync, rename, fsync of the directory. A crash leaves the old file or the new.
///
/// # Errors
/// Those of the disk; the old file is then still in place, or (failed sync of the directory) either of them.
pub fn replace_file(disk: &dyn Disk, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let file = disk.create(&temporary)?;
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    file.write_at(0, &slices)?;
    file.sync_data()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Writes a file whole like [`replace_file`], but takes no space for it: to `spare`, which holds the content of before, and
/// swaps the two. So a full disk refuses it only where the content has outgrown what was allocated, which is done ahead. What
/// lies behind `content` in the file means nothing.
///
/// # Errors
/// Those of the disk; the old file is then still in place, or (failed sync of the directory) either of them.
pub(crate) fn swap_file(disk: &dyn Disk, path: &Path, spare: &Path, content: &[u8]) -> io::Result<()> {
    let file = open_spare(disk, spare, content.len() as u64)?;
    file.write_all_at(0, content)?;
    file.sync_data()?;
    match disk.open(path) {
        Ok(_) => match disk.exchange(spare, path) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => disk.rename(spare, path)?,
            swapped => swapped?,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.rename(spare, path)?,
        Err(error) => return Err(error),
    }
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// The spare of [`swap_file`] for a content of `len` bytes and a little more.
///
/// # Errors
/// Those of the disk; `StorageFull` where `len` bytes do not fit.
pub(crate) fn open_spare(disk: &dyn Disk, spare: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
    let file = match disk.open(spare) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(spare)?,
        opened => opened?,
    };
    let has = file.len()?;
    if has < len + SPARE_FILE_SLACK {
        let wanted = (len + SPARE_FILE_SLACK).next_multiple_of(SPARE_FILE_STEP);
        match file.allocate(wanted) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && has >= len => {}
            allocated => allocated?,
        }
    }
    Ok(file)
}

/// Reads a file whole; `None` when there is none, `FileTooLarge` above `max` bytes.
///
/// # Errors
/// Those of the disk.
pub fn read_file(disk: &dyn Disk, path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut content = vec![0; len as usize];
    file.read_exact_at(0, &mut content)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both disks do.
    fn check(disk: &dyn Disk, root: &Path) {
        let dir = root.join("a/b");
        disk.create_dir(&dir).unwrap();
        disk.create_dir(&dir).unwrap();
        disk.sync_dir(&dir).unwrap();
        assert_eq!(disk.list(root).unwrap(), ["a"]);
        let path = dir.join("file");
        assert_eq!(disk.open(&path).err().unwrap().kind(), io::ErrorKind::NotFound);
        assert_eq!(disk.remove(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(disk.rename(&path, &dir.join("other")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(disk.list(&dir.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(read_file(disk, &path, 100).unwrap().is_none());

        let file = disk.create(&path).unwrap();
        assert!(file.is_empty().unwrap());
        // More buffers than one call of the operating system takes, some of them empty.
        let numbers: Vec<Vec<u8>> =
            (0..3000_u32).map(|n| n.to_be_bytes()[(n as usize % 5).min(4)..].to_vec()).collect();
        let slices: Vec<IoSlice<'_>> = numbers.iter().map(|bytes| IoSlice::new(bytes)).collect();
        file.write_at(10, &slices).unwrap();
        let whole: Vec<u8> = [vec![0; 10], numbers.concat()].concat();
        assert_eq!(file.len().unwrap(), whole.len() as u64);
        assert_eq!(read_file(disk, &path, 1 << 20).unwrap().unwrap(), whole);
        assert_eq!(read_file(disk, &path, 10).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let mut tail = [7; 8];
        assert_eq!(file.read_at(whole.len() as u64 - 3, &mut tail).unwrap(), 3);
        assert_eq!(file.read_at(1 << 40, &mut tail).unwrap(), 0);
        assert_eq!(
            file.read_exact_at(whole.len() as u64 - 3, &mut tail).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );

        file.allocate(100_000).unwrap();
        assert_eq!(file.len().unwrap(), 100_000);
        file.allocate(50).unwrap();
        assert_eq!(file.len().unwrap(), 100_000, "an allocation never cuts");
        file.set_len(5).unwrap();
        file.set_len(12).unwrap();
        file.sync_data().unwrap();
        assert_eq!(read_file(disk, &path, 100).unwrap().unwrap(), [0; 12]);

        disk.rename(&path, &dir.join("one")).unwrap();
        let two = disk.create(&dir.join("two")).unwrap();
        two.write_all_at(0, b"2").unwrap();
        disk.exchange(&dir.join("one"), &dir.join("two")).unwrap();
        assert_eq!(read_file(disk, &dir.join("one"), 100).unwrap().unwrap(), b"2");
        assert_eq!(read_file(disk, &dir.join("two"), 100).unwrap().unwrap(), [0; 12]);
        assert_eq!(
            disk.exchange(&dir.join("one"), &dir.join("none")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        disk.rename(&dir.join("two"), &path).unwrap();
        disk.remove(&dir.join("one")).unwrap();
        drop(two);

        replace_file(disk, &path, &[b"new ", b"content"]).unwrap();
        assert_eq!(read_file(disk, &path, 100).unwrap().unwrap(), b"new content");
        assert_eq!(disk.list(&dir).unwrap(), ["file"]);
        assert_eq!(file.len().unwrap(), 12, "a handle stays with its file");
        disk.rename(&path, &dir.join("other")).unwrap();
        let file = disk.open(&dir.join("other")).unwrap();
        disk.remove(&dir.join("other")).unwrap();
        let mut bytes = [0; 3];
        file.read_exact_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"new", "also when its name is gone");

        let lock = disk.lock(&dir.join("LOCK")).unwrap();
        assert_eq!(disk.lock(&dir.join("LOCK")).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        disk.lock(&dir.join("LOCK")).unwrap();
        assert!(disk.free_space(&dir).unwrap() > 1 << 20);
        assert_ne!(disk.entropy().unwrap(), disk.entropy().unwrap());
    }

    #[test]
    fn both_disks_do_the_same() {
        check(&CrashDisk::new(1), Path::new("/"));
        let dir = tempfile::tempdir().unwrap();
        check(&OsDisk, dir.path());
    }

    #[test]
    fn what_was_written_a_moment_ago_is_read_without_a_wait() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("file")).unwrap();
        file.write_all_at(0, b"0123456789").unwrap();
        let mut buffer = [0; 4];
        // Some file systems (tmpfs) cannot tell, and then nobody is told.
        if file.read_resident_at(3, &mut buffer) {
            assert_eq!(buffer, *b"3456");
        }
        assert!(!file.read_resident_at(8, &mut buffer), "the file ends before");
    }

    #[test]
    fn a_map_shows_what_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("file")).unwrap();
        file.allocate(100_000).unwrap();
        let map = file.map(100_000).unwrap().unwrap();
        file.write_all_at(70_000, b"bytes").unwrap();
        assert!(map.is_resident(70_000, 5), "it was written a moment ago");
        assert_eq!(map.bytes(70_000, 5).unwrap(), b"bytes"[..]);
        assert!(map.bytes(99_999, 2).is_none() && map.bytes(u64::MAX, 1).is_none());
        assert!(!map.is_resident(99_999, 2) && map.is_resident(5, 0) && !map.is_resident(100_001, 0));
        let held = map.bytes(70_000, 5).unwrap();
        drop((map, file));
        assert_eq!(held, b"bytes"[..]);
    }
}
