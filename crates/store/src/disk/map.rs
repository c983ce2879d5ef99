//! Read-only maps of files, and the question whether a page of one is in memory.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};

/// A read-only map of the start of a file whose blocks are all allocated and which is never made shorter while mapped.
#[derive(Clone)]
pub struct Map(Arc<MmapRaw>);

impl Map {
    pub(super) fn new(file: &std::fs::File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        Ok(Self(Arc::new(MmapOptions::new().len(len).map_raw_read_only(file)?)))
    }

    fn holds(&self, offset: u64, len: usize) -> Option<usize> {
        let offset = usize::try_from(offset).ok()?;
        (offset.checked_add(len)? <= self.0.len()).then_some(offset)
    }

    /// True when every page of the range is in memory at this moment, so that reading it now waits for no disk.
    pub fn is_resident(&self, offset: u64, len: usize) -> bool {
        let Some(offset) = self.holds(offset, len) else { return false };
        if len == 0 {
            return true;
        }
        let page = rustix::param::page_size();
        let start = offset - offset % page;
        let pages = (offset + len - start).div_ceil(page);
        let mut states = vec![0_u8; pages];
        // SAFETY: `start` is a multiple of the page size within the map (maps start at a page), `pages` pages from
        // there end at or before the last page of the map, and `states` has one byte for each of them.
        let answer = unsafe {
            libc::mincore(self.0.as_mut_ptr().add(start).cast(), offset + len - start, states.as_mut_ptr())
        };
        answer == 0 && states.iter().all(|state| state & 1 == 1)
    }

    /// The bytes of a range, without a copy; they keep the map alive. `None` outside the map. The caller vouches that
    /// the range is never written again (frames at or below the commit index) and has just seen that it is resident:
    /// touching a page of an unreadable sector would be a SIGBUS (log.md 9).
    pub fn bytes(&self, offset: u64, len: usize) -> Option<Bytes> {
        let offset = self.holds(offset, len)?;
        Some(Bytes::from_owner(Range { map: Arc::clone(&self.0), offset, len }))
    }
}

struct Range {
    map: Arc<MmapRaw>,
    offset: usize,
    len: usize,
}

impl AsRef<[u8]> for Range {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `holds` checked offset + len against the length of the map, which lives as long as `self`; the
        // pages are never written again while a `Range` exists, by the contract of `Map::bytes`.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.offset), self.len) }
    }
}
