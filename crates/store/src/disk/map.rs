//! Read-only maps of files, and the question whether a page of one is in memory.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};

/// Pages that one mincore(2) asks about: 1 MiB of small ones, more than a pull brings.
const PAGES_ASKED: usize = 256;

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
        self.holds(offset, len).is_some() && self.resident(offset, len) == len
    }

    /// How many bytes of the range, from its start on, are in memory at this moment; none of one that leaves the map.
    pub fn resident(&self, offset: u64, len: usize) -> usize {
        let Some(offset) = self.holds(offset, len) else { return 0 };
        let (page, end) = (rustix::param::page_size(), offset + len);
        let mut at = offset - offset % page;
        // On the stack: this is asked for each pull.
        let mut states = [0_u8; PAGES_ASKED];
        while at < end {
            let asked = (end - at).min(states.len() * page);
            // SAFETY: `at` is a multiple of the page size within the map (maps start at a page), `asked` bytes from there
            // end within the map, and `states` has one byte for each page that they touch.
            let answer =
                unsafe { libc::mincore(self.0.as_mut_ptr().add(at).cast(), asked, states.as_mut_ptr()) };
            let pages = asked.div_ceil(page);
            let is_in_memory = |state: &&u8| answer == 0 && **state & 1 == 1;
            let here = states.iter().take(pages).take_while(is_in_memory).count();
            at += here * page;
            if here < pages {
                break;
            }
        }
        at.min(end).saturating_sub(offset)
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
