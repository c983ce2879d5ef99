//! Files that hold the tables at one index (docs/formats.md 7): checkpoints, boundary snapshots, and the current snapshot,
//! which is one of the boundaries. Three things, three names (log.md 7).

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wire::LogPosition;

use crate::bytes_at::{array, put, u32_at, u64_at};
use crate::disk::{Disk, DiskFile, read_file, replace_file};
use crate::error::{At, StoreError};
use crate::frame::Tail;
use crate::ids::{LogId, LogIndex, Term};
use crate::limits::{POSITION_MAX, TABLES_LEN_MAX};

const MAGIC: [u8; 8] = *b"RMQTAB01";
const HEADER: usize = 64;

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TablesKind {
    /// This node's tables at some index; the newest is loaded at start.
    Checkpoint,
    /// The tables exactly at the last entry of a segment.
    Boundary,
}

impl TablesKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint-",
            Self::Boundary => "boundary-",
        }
    }
}

/// After which entry the tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablesMeta {
    /// The last applied entry.
    pub last: LogId,
    /// The position after its frame.
    pub end: LogPosition,
    /// The chain value of its frame.
    pub chain: u64,
    /// Its log time, ms.
    pub log_time_ms: u64,
}

impl TablesMeta {
    pub(crate) fn tail(&self) -> Tail {
        Tail {
            id: Some(self.last),
            next: self.last.index.next(),
            end: self.end,
            chain: self.chain,
            log_time_ms: self.log_time_ms,
        }
    }

    /// Where a log goes on whose entries up to here are gone.
    pub(crate) fn resume(&self, segment_size: u64) -> Result<Tail, StoreError> {
        self.tail().at_next_segment(segment_size)
    }

    fn encode(&self, tables: &[u8]) -> [u8; HEADER] {
        let Self { last, end, chain, log_time_ms } = *self;
        let mut bytes = [0; HEADER];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &last.index.0.to_be_bytes());
        put(&mut bytes, 16, &last.term.0.to_be_bytes());
        put(&mut bytes, 24, &end.0.to_be_bytes());
        put(&mut bytes, 32, &chain.to_be_bytes());
        put(&mut bytes, 40, &log_time_ms.to_be_bytes());
        put(&mut bytes, 48, &(tables.len() as u64).to_be_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(bytes.get(..56).unwrap_or_default()), tables);
        put(&mut bytes, 56, &crc.to_be_bytes());
        bytes
    }

    /// Writes a file of tables; durable on return.
    pub(crate) fn write(&self, file: &dyn DiskFile, tables: &[u8]) -> std::io::Result<()> {
        let len = (HEADER + tables.len()) as u64;
        file.write_at(0, &[IoSlice::new(&self.encode(tables)), IoSlice::new(tables)])?;
        if file.len()? != len {
            file.set_len(len)?;
        }
        file.sync_data()
    }

    fn decode(mut bytes: Vec<u8>) -> Result<(Self, Vec<u8>), String> {
        if bytes.len() < HEADER || array(&bytes, 0) != MAGIC {
            return Err("it is no file of tables of this version".into());
        }
        let tables = bytes.split_off(HEADER);
        let crc = crc32c::crc32c_append(crc32c::crc32c(bytes.get(..56).unwrap_or_default()), &tables);
        if u64_at(&bytes, 48) != tables.len() as u64 || u32_at(&bytes, 56) != crc || u32_at(&bytes, 60) != 0 {
            return Err("its length or checksum is wrong".into());
        }
        let meta = Self {
            last: LogId { index: LogIndex(u64_at(&bytes, 8)), term: Term(u64_at(&bytes, 16)) },
            end: LogPosition(u64_at(&bytes, 24)),
            chain: u64_at(&bytes, 32),
            log_time_ms: u64_at(&bytes, 40),
        };
        if meta.end.0 > POSITION_MAX {
            return Err(format!("position {}", meta.end));
        }
        Ok((meta, tables))
    }
}

/// The directory of the tables.
pub(crate) struct TablesDir<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) dir: PathBuf,
}

impl TablesDir<'_> {
    pub(crate) fn path(&self, kind: TablesKind, index: LogIndex) -> PathBuf {
        self.dir.join(format!("{}{index}", kind.prefix()))
    }

    /// Indexes of the files of a kind, ascending.
    pub(crate) fn list(&self, kind: TablesKind) -> Result<Vec<LogIndex>, StoreError> {
        let names = self.disk.list(&self.dir).at("list", &self.dir)?;
        let mut indexes: Vec<LogIndex> = names
            .iter()
            .filter_map(|name| name.strip_prefix(kind.prefix())?.parse().ok().map(LogIndex))
            .collect();
        indexes.sort_unstable();
        Ok(indexes)
    }

    /// Durable on return.
    pub(crate) fn save(&self, kind: TablesKind, meta: &TablesMeta, tables: &[u8]) -> Result<(), StoreError> {
        let path = self.path(kind, meta.last.index);
        replace_file(self.disk, &path, &[&meta.encode(tables), tables]).at("replace", &path)
    }

    /// Allocates a file for a boundary with `len` bytes of tables, under a name of its own on which nothing is built.
    pub(crate) fn receive(
        &self,
        number: u64,
        index: LogIndex,
        len: u64,
    ) -> Result<(PathBuf, Arc<dyn DiskFile>), StoreError> {
        let path = self.dir.join(format!("boundary-{index}.{number}.new"));
        let allocated = (|| {
            let file = self.disk.create(&path)?;
            file.allocate(HEADER as u64 + len)?;
            Ok(file)
        })();
        if allocated.is_err() {
            // Give back what was taken; when that fails too, the next open does it.
            let _ = self.disk.remove(&path);
        }
        Ok((path.clone(), allocated.at("allocate", &path)?))
    }

    /// Gives what was received the name of a boundary, in the place of one of that name.
    pub(crate) fn adopt(&self, received: &Path, meta: &TablesMeta) -> Result<(), StoreError> {
        self.disk
            .rename(received, &self.path(TablesKind::Boundary, meta.last.index))
            .at("rename", received)?;
        self.disk.sync_dir(&self.dir).at("sync", &self.dir)
    }

    /// `None` when there is no such file; `Corrupt` when its bytes are damaged.
    pub(crate) fn load(
        &self,
        kind: TablesKind,
        index: LogIndex,
    ) -> Result<Option<(TablesMeta, Vec<u8>)>, StoreError> {
        let path = self.path(kind, index);
        let Some(bytes) = read_file(self.disk, &path, TABLES_LEN_MAX).at("read", &path)? else {
            return Ok(None);
        };
        match TablesMeta::decode(bytes) {
            Ok((meta, tables)) if meta.last.index == index => Ok(Some((meta, tables))),
            Ok((meta, _)) => Err(StoreError::damaged(&path, format!("it holds the tables at {}", meta.last))),
            Err(reason) => Err(StoreError::damaged(&path, reason)),
        }
    }

    /// The newest checkpoint that is whole; damaged ones are logged and passed over, and those that the disk cannot read
    /// any more are damaged too: an older one and the log make the same tables.
    pub(crate) fn newest_checkpoint(
        &self,
        upto: Option<LogIndex>,
    ) -> Result<Option<(TablesMeta, Vec<u8>)>, StoreError> {
        for index in self.list(TablesKind::Checkpoint)?.into_iter().rev() {
            if upto.is_some_and(|upto| index > upto) {
                continue;
            }
            match self.load(TablesKind::Checkpoint, index) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, "passing over a damaged checkpoint");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Removes the files of a kind whose index `drop` picks.
    pub(crate) fn remove(&self, kind: TablesKind, drop: impl Fn(LogIndex) -> bool) -> Result<(), StoreError> {
        let mut removed = false;
        for index in self.list(kind)?.into_iter().filter(|index| drop(*index)) {
            remove_if_there(self.disk, &self.path(kind, index))?;
            removed = true;
        }
        if removed { self.disk.sync_dir(&self.dir).at("sync", &self.dir) } else { Ok(()) }
    }
}

/// Removes a file; no error when it is gone already.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    match disk.remove(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.at("remove", path),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tables_come_back_and_a_flipped_bit_is_seen(
            index: u64, term: u64, end in 0_u64..1 << 62, chain: u64, time: u64, tables: Vec<u8>, flip: u16,
        ) {
            let meta = TablesMeta { last: LogId::new(term, index), end: LogPosition(end), chain, log_time_ms: time };
            let mut bytes = meta.encode(&tables).to_vec();
            bytes.extend_from_slice(&tables);
            prop_assert_eq!(TablesMeta::decode(bytes.clone()), Ok((meta, tables)));
            let at = flip as usize % bytes.len();
            bytes[at] ^= 2;
            prop_assert!(TablesMeta::decode(bytes).is_err());
        }
    }
}
