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
}

/// An open file. All methods may be called from many threads at once.
pub trait DiskFile: Send + Sync {
    /// Reads at `offset`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
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
