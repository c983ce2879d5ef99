//! A file as a sequence of checked pages, so that any piece of it can be read and trusted without reading the rest.
//!
//! ```text
//! page = 4092 bytes of content, CRC32C of (magic, from, to, page number, content)     4096 bytes; the last may be short
//! ```
//! The CRC names file and page: a page that a disk put elsewhere is as wrong as a flipped bit. Reads are `pread`s of
//! whole pages, never through a map: an unreadable sector must be an error, not a SIGBUS (log.md 9), and the few
//! pages that a lookup touches cost less than the faults of a fresh map.

use std::io;
use std::sync::Arc;

use super::codec::{Fields, Kind, LogRange};
use crate::disk::DiskFile;

/// Bytes of a page in the file.
const PAGE_LEN: usize = 4096;
/// Bytes of it that are content.
pub(super) const CONTENT_LEN: usize = PAGE_LEN - CRC_LEN;
const CRC_LEN: usize = 4;
/// Bytes that a writer collects before it writes them.
const WRITE_LEN: usize = 64 * PAGE_LEN;
/// Bytes that a writer leaves to the page cache before it asks for them to be made durable: one fsync of a merged
/// file at its end would hold up the log's.
const SYNC_LEN: usize = 8 << 20;
/// Pages that a [`Scan`] reads at once.
const SCAN_PAGES: usize = 16;

/// Why bytes could not be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The file does not hold what it ought to: build it again from the log.
    Damaged(String),
    /// The disk could not answer; the file may be well.
    Io(io::Error),
}

impl ReadError {
    pub(super) fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged(reason.into())
    }
}

impl From<io::Error> for ReadError {
    /// A file that ends early and a sector that cannot be read are damage; too many open files, say, are not.
    fn from(error: io::Error) -> Self {
        let unreadable = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => Self::damaged(error.to_string()),
            _ if unreadable => Self::damaged(error.to_string()),
            _ => Self::Io(error),
        }
    }
}

/// CRC32C of what binds a page to its file.
pub(super) fn file_seed(kind: Kind, range: LogRange) -> u32 {
    let crc = crc32c::crc32c(&kind.magic());
    let crc = crc32c::crc32c_append(crc, &range.from.to_be_bytes());
    crc32c::crc32c_append(crc, &range.to.to_be_bytes())
}

fn page_crc(seed: u32, page: u64, content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &page.to_be_bytes()), content)
}

/// Bytes of the file that holds this many bytes of content; `None` when no file is that long.
pub(super) fn file_len(content_len: u64) -> Option<u64> {
    let pages = content_len / CONTENT_LEN as u64;
    let rest = content_len % CONTENT_LEN as u64;
    let last = if rest > 0 { rest + CRC_LEN as u64 } else { 0 };
    pages.checked_mul(PAGE_LEN as u64)?.checked_add(last)
}

/// Writes content in order, after some first pages that are written last because they say what follows them.
pub(super) struct PageWriter {
    file: Arc<dyn DiskFile>,
    seed: u32,
    /// Number of the page that is being filled.
    number: u64,
    /// Its content so far.
    content: Vec<u8>,
    /// Finished pages that are not written yet.
    ready: Vec<u8>,
    /// Where in the file they belong.
    ready_at: u64,
    unsynced: usize,
    written: u64,
}

impl PageWriter {
    /// Leaves room for `reserved` pages at the start.
    pub(super) fn new(file: Arc<dyn DiskFile>, seed: u32, reserved: u64) -> Self {
        Self {
            file,
            seed,
            number: reserved,
            content: Vec::with_capacity(CONTENT_LEN),
            ready: Vec::with_capacity(WRITE_LEN + PAGE_LEN),
            ready_at: reserved * PAGE_LEN as u64,
            unsynced: 0,
            written: 0,
        }
    }

    /// Bytes that went to the disk so far.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let room = CONTENT_LEN - self.content.len();
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.content.extend_from_slice(now);
            if self.content.len() < CONTENT_LEN {
                return Ok(());
            }
            self.end_page();
            if self.ready.len() >= WRITE_LEN {
                self.write()?;
            }
            bytes = later;
        }
    }

    /// Writes the rest and the first pages, whose content is given, and makes all of it durable.
    pub(super) fn finish(mut self, first: &[u8]) -> io::Result<()> {
        if !self.content.is_empty() {
            self.end_page();
        }
        self.write()?;
        self.ready_at = 0;
        for (number, content) in first.chunks(CONTENT_LEN).enumerate() {
            self.number = number as u64;
            self.content.extend_from_slice(content);
            self.content.resize(CONTENT_LEN, 0);
            self.end_page();
            if self.ready.len() >= WRITE_LEN {
                self.write()?;
            }
        }
        self.write()?;
        self.file.sync_data()
    }

    fn end_page(&mut self) {
        let crc = page_crc(self.seed, self.number, &self.content);
        self.ready.append(&mut self.content);
        self.ready.extend_from_slice(&crc.to_be_bytes());
        self.number += 1;
    }

    fn write(&mut self) -> io::Result<()> {
        if self.ready.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(self.ready_at, &self.ready)?;
        self.ready_at += self.ready.len() as u64;
        self.written += self.ready.len() as u64;
        self.unsynced += self.ready.len();
        self.ready.clear();
        if self.unsynced >= SYNC_LEN {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

/// Reads content at any place.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) seed: u32,
    /// Bytes of content in the file.
    pub(super) content_len: u64,
    /// Whether reads may wait for the disk. `WouldBlock` where one would have to, and may not.
    pub(super) may_block: bool,
}

impl Pages {
    /// The content of the first page of a file of any length, for one who does not know the length yet.
    pub(super) fn read_first(file: &dyn DiskFile, seed: u32) -> Result<Vec<u8>, ReadError> {
        let mut page = vec![0; PAGE_LEN];
        file.read_exact_at(0, &mut page)?;
        Ok(checked(seed, 0, &page)?.to_vec())
    }

    /// `len` bytes from `at`; damage when they reach beyond the content.
    pub(super) fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let end = at.checked_add(len as u64).filter(|end| *end <= self.content_len);
        let (Some(end), Some(file_len)) = (end, file_len(self.content_len)) else {
            return Err(ReadError::damaged(format!("{len} bytes at {at} are outside the content")));
        };
        let first = at / CONTENT_LEN as u64;
        let pages_end = end.div_ceil(CONTENT_LEN as u64);
        let start = first * PAGE_LEN as u64;
        let stop = (pages_end * PAGE_LEN as u64).min(file_len);
        // Mostly one or two pages, of which little is wanted.
        let (mut few, mut many) = ([0; 2 * PAGE_LEN], Vec::new());
        let raw_len = (stop - start) as usize;
        let raw = match few.get_mut(..raw_len) {
            Some(raw) => raw,
            None => {
                many.resize(raw_len, 0);
                &mut many[..]
            }
        };
        if self.may_block {
            self.file.read_exact_at(start, raw)?;
        } else if !self.file.read_resident_at(start, raw) {
            return Err(ReadError::Io(io::ErrorKind::WouldBlock.into()));
        }
        let mut content = Vec::with_capacity(len);
        let mut skip = (at - first * CONTENT_LEN as u64) as usize;
        for (number, page) in (first..).zip(raw.chunks(PAGE_LEN)) {
            let here = checked(self.seed, number, page)?.get(skip..).unwrap_or_default();
            content.extend_from_slice(here.get(..len - content.len()).unwrap_or(here));
            skip = 0;
        }
        Ok(content)
    }
}

/// The content of a page.
fn checked(seed: u32, number: u64, page: &[u8]) -> Result<&[u8], ReadError> {
    let content = page.split_last_chunk::<CRC_LEN>();
    let content =
        content.filter(|(content, crc)| page_crc(seed, number, content) == u32::from_be_bytes(**crc));
    content
        .map(|(content, _)| content)
        .ok_or_else(|| ReadError::damaged(format!("page {number} fails its checksum")))
}

/// Reads content from one place to another, in order, a few pages at a time.
pub(super) struct Scan {
    pages: Pages,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    taken: usize,
}

impl Scan {
    pub(super) fn new(pages: Pages, at: u64, end: u64) -> Self {
        Self { pages, at, end, buffer: Vec::new(), taken: 0 }
    }

    /// True when everything was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.end && self.taken == self.buffer.len()
    }

    /// The next `len` bytes; damage when the stretch ends before them.
    pub(super) fn take(&mut self, len: usize) -> Result<Fields<'_>, ReadError> {
        self.fill(len)?;
        self.taken += len;
        Ok(Fields(self.buffer.get(self.taken - len..self.taken).unwrap_or_default()))
    }

    /// The same without moving on.
    pub(super) fn peek(&mut self, len: usize) -> Result<Fields<'_>, ReadError> {
        self.fill(len)?;
        Ok(Fields(self.buffer.get(self.taken..self.taken + len).unwrap_or_default()))
    }

    fn fill(&mut self, len: usize) -> Result<(), ReadError> {
        while self.buffer.len() - self.taken < len {
            // Up to the end of a page, so that the next read starts at one.
            let aligned = CONTENT_LEN - (self.at % CONTENT_LEN as u64) as usize;
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let more = self.pages.read(self.at, left.min(aligned + (SCAN_PAGES - 1) * CONTENT_LEN))?;
            if more.is_empty() {
                return Err(ReadError::damaged("a record reaches beyond its stretch"));
            }
            self.at += more.len() as u64;
            self.buffer.drain(..self.taken);
            self.taken = 0;
            self.buffer.extend_from_slice(&more);
        }
        Ok(())
    }
}
