//! Opening the directory of a group: making a new one, or finding the end of its log after any crash (log.md 5).
//!
//! ```text
//! checkpoint or segment header ──── every frame whole and chained ──── watermark ──── whole and chained ──── cut
//!                                   anything else is damage: refuse                   kept: written again, fsynced
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use wire::LogPosition;

use crate::disk::{Disk, DiskFile, read_file};
use crate::error::{At, StoreError};
use crate::flush::{Flusher, lock};
use crate::frame::{Frame, FrameError, Tail};
use crate::ids::{LogId, LogIndex};
use crate::limits::{
    HEADER_LEN, READ_AHEAD, SEGMENT_HEADER_LEN, SLOT_LEN, SPARSE_LEN_MAX, SPARSE_STEP, TRAILER_LEN,
};
use crate::log::{Identity, Inner, Lane, Log, Options, State};
use crate::manifest::{MANIFEST, Manifest, Mark, RAFT_V1, Segment};
use crate::mutant::Mutant;
use crate::room::Pool;
use crate::segment::{
    Sealed, SegmentEntry, SegmentFile, SegmentHeader, SegmentKind, file_len, place, segment_name,
    segment_of_name,
};
use crate::slot::{VOTE_LEN, VoteSlot, Watermark};
use crate::sparse::Sparse;
use crate::tables::{TablesDir, TablesKind, TablesMeta, remove_if_there};
use crate::writer::{Open, Writer};

const VOTE: &str = "vote";

/// A sealed file of another log that an import placed as `log/<start>`, below the first entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignSegment {
    /// Position of its first byte, and its name (20 digits).
    pub start: LogPosition,
    /// The position after its last byte.
    pub end: LogPosition,
    /// What it is; anything but `raft-v1`.
    pub kind: String,
}

impl Log {
    /// Makes the log of a group that does not start at index 0: its first entry follows `origin.last`, in the segment at or
    /// after `origin.end`; `tables`, those at that entry, are its current snapshot. Foreign segments lie below; their files are in
    /// the directory already. The log is then opened with [`Log::open`].
    ///
    /// # Errors
    /// `Invariant` when the directory holds a log, or a foreign segment does not fit; those of the disk.
    pub fn create_at(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        identity: &Identity,
        options: &Options,
        origin: &TablesMeta,
        tables: &[u8],
        foreign: &[ForeignSegment],
    ) -> Result<(), StoreError> {
        identity.check(options)?;
        let disk = &**disk;
        make_dirs(disk, dir)?;
        let _lock = take_lock(disk, dir)?;
        if read_file(disk, &dir.join(MANIFEST), u64::MAX).at("read", dir)?.is_some() {
            return Err(StoreError::Invariant(format!("{} holds a log already", dir.display())));
        }
        let log_dir = dir.join("log");
        let start = origin.resume(identity.segment_size)?;
        let mut segments = Vec::new();
        for segment in foreign {
            let path = log_dir.join(segment_name(segment.start));
            let file = disk.open(&path).at("open", &path)?;
            let len = segment.end.0.checked_sub(segment.start.0);
            if len.is_none_or(|len| file.len().is_ok_and(|have| have < len)) {
                return Err(StoreError::Invariant(format!("{} is shorter than {segment:?}", path.display())));
            }
            if segment.kind == RAFT_V1 {
                return Err(StoreError::Invariant(format!("{segment:?} is none of another log")));
            }
            file.sync_data().at("sync", &path)?;
            let sealed = Mark { index: 0, position: segment.end.0, term: 0, chain: 0, time_ms: 0 };
            let kind = segment.kind.clone();
            segments.push(Segment { start: segment.start.0, kind, first_index: 0, sealed: Some(sealed) });
        }
        disk.sync_dir(&log_dir).at("sync", &log_dir)?;
        create_vote(disk, dir)?;
        TablesDir { disk, dir: dir.join("tables") }.save(TablesKind::Boundary, origin, tables)?;
        let mut manifest = new_manifest(disk, dir, identity, start)?;
        manifest.snapshot = Some(Mark::from(origin.tail()));
        manifest.segments = segments;
        // What cannot be read back is refused now.
        Manifest::decode(&manifest.encode()).map_err(StoreError::Invariant)?;
        manifest.save(disk, dir)
    }
}

pub(crate) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    identity: &Identity,
    flusher: &Flusher,
    options: Options,
) -> Result<Log, StoreError> {
    identity.check(&options)?;
    let manifest = match Manifest::load(&*disk, dir)? {
        Some(manifest) => {
            check_identity(dir, identity, &manifest)?;
            check_parts(&*disk, dir)?;
            None
        }
        None => {
            make_dirs(&*disk, dir)?;
            Some(())
        }
    };
    let dir_lock = take_lock(&*disk, dir)?;
    if manifest.is_some() {
        create(&*disk, dir, identity)?;
    }
    // Read again under the lock.
    let Some(mut manifest) = Manifest::load(&*disk, dir)? else {
        return Err(StoreError::Incomplete { dir: dir.to_owned(), missing: "the manifest is gone".into() });
    };
    check_identity(dir, identity, &manifest)?;
    let log_dir = dir.join("log");
    let (vote_file, vote) = open_vote(&*disk, dir)?;
    let entries = entries_of(&manifest, &log_dir);
    let names = disk.list(&log_dir).at("list", &log_dir)?;
    check_files(dir, &entries, &names)?;
    sweep(&*disk, dir, &log_dir, &manifest, &entries, &names)?;
    manifest.keep_room(&*disk, dir);

    let tables = TablesDir { disk: &*disk, dir: dir.join("tables") };
    let checkpoint = tables.newest_checkpoint(None)?.map(|(meta, _)| meta);
    let manifest_path = dir.join(MANIFEST);
    let scan = Scan { disk: &*disk, identity, manifest: &manifest, manifest_path, checkpoint };
    let found = scan.run(entries)?;
    if !found.dropped.is_empty() {
        manifest.segments.truncate(found.entries.len());
        if let Some(last) = manifest.segments.last_mut().filter(|segment| !segment.is_foreign()) {
            last.sealed = None;
        }
        manifest.save(&*disk, dir)?;
        for name in &found.dropped {
            remove_if_there(&*disk, name)?;
        }
        disk.sync_dir(&log_dir).at("sync", &log_dir)?;
    }

    let first = Tail::from(manifest.first);
    let tail = found.tail;
    // Nothing durable names an entry that is not here (log.md 3). A checkpoint beyond the end would have been damage.
    tables.remove(TablesKind::Boundary, |index| {
        index >= tail.next && manifest.snapshot.is_none_or(|snapshot| index.next().0 != snapshot.index)
    })?;
    let committed = found.committed.max(first.id);
    let committed_end = checkpoint.map_or(first.end, |meta| meta.end.max(first.end));
    let state = State {
        first,
        tail,
        recent: std::collections::VecDeque::new(),
        recent_bytes: 0,
        files_end: tail.end,
        written_ticket: 0,
        next_ticket: 1,
        epoch: 0,
        synced: tail,
        committed: committed.map(|id| if id.index < tail.next { id } else { tail.id.unwrap_or(id) }),
        committed_end,
        vote: vote.vote,
        segments: Arc::new(found.entries),
        checkpoint: checkpoint.map(|meta| meta.last),
        snapshot: manifest.snapshot.and_then(|mark| Tail::from(mark).id),
        poisoned: None,
        reserved: 0,
        rolls_queued: 0,
    };
    let writer = Writer::new(found.open, tail, found.sequence, vote_file, vote.sequence);
    let inner = Arc::new_cyclic(|me| Inner {
        me: me.clone(),
        disk,
        dir: dir.to_owned(),
        log_dir,
        identity: identity.clone(),
        options,
        incarnation: manifest.incarnation.clone(),
        flusher: flusher.clone(),
        order: Mutex::default(),
        state: Mutex::new(state),
        lane: Mutex::new(Lane::default()),
        flushing: Mutex::default(),
        writer: Mutex::new(writer),
        manifest: Mutex::new(manifest),
        tables: Mutex::default(),
        pool: Mutex::new(Pool::default()),
        prepared_ever: AtomicU64::new(0),
        received_ever: AtomicU64::new(0),
        _dir_lock: dir_lock,
    });
    inner.adopt_prepared(&names)?;
    inner.prepare();
    lock(&inner.writer).mark_now(&inner)?;
    tracing::info!(group = identity.group, last = ?tail.id, end = %tail.end, "the log is open");
    Ok(Log(inner))
}

fn take_lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Send + Sync>, StoreError> {
    let path = dir.join("LOCK");
    match disk.lock(&path) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(StoreError::Locked { path }),
        outcome => outcome.at("lock", &path),
    }
}

/// Makes the directories of a group, and those above as far as they are missing; durable on return.
fn make_dirs(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    for name in ["log", "queues", "tables"] {
        let path = dir.join(name);
        disk.create_dir(&path).at("create", &path)?;
    }
    disk.sync_dir(dir).at("sync", dir)?;
    // Every name on the way here, for any may have been made just now, or by a process that was killed before it got this
    // far. A directory that this user may not read, or whose file system takes no changes, has no name of ours.
    for path in dir.ancestors().skip(1) {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match disk.sync_dir(path) {
            Err(error) if is_of_others(error.kind()) => {}
            outcome => outcome.at("sync", path)?,
        }
    }
    Ok(())
}

fn is_of_others(error: io::ErrorKind) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error, PermissionDenied | ReadOnlyFilesystem | InvalidInput | Unsupported)
}

/// A new directory: the manifest comes last, so that a crash leaves one that is made again.
fn create(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<(), StoreError> {
    let log_dir = dir.join("log");
    let names = disk.list(&log_dir).at("list", &log_dir)?;
    if names.iter().any(|name| segment_of_name(name).is_some()) {
        let missing = "the manifest is gone, but there is a log".into();
        return Err(StoreError::Incomplete { dir: dir.to_owned(), missing });
    }
    create_vote(disk, dir)?;
    let start = Tail { id: None, next: LogIndex(0), end: LogPosition(0), chain: 0, log_time_ms: 0 };
    new_manifest(disk, dir, identity, start)?.save(disk, dir)
}

fn create_vote(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(VOTE);
    let old = read_file(disk, &path, 1 << 20).at("read", &path)?.unwrap_or_default();
    if old.chunks(SLOT_LEN as usize).filter_map(VoteSlot::decode).any(|slot| slot.vote.is_some()) {
        // Without its manifest a directory has lost its identity, and this node has voted.
        let missing = "the manifest is gone, but there is a vote".into();
        return Err(StoreError::Incomplete { dir: dir.to_owned(), missing });
    }
    let file = disk.create(&path).at("create", &path)?;
    file.allocate(2 * SLOT_LEN).at("allocate", &path)?;
    let slot = VoteSlot { sequence: 0, vote: None }.encode();
    for at in [0, SLOT_LEN] {
        file.write_all_at(at, &slot).at("write", &path)?;
    }
    file.sync_data().at("sync", &path)?;
    disk.sync_dir(dir).at("sync", dir)
}

fn new_manifest(
    disk: &dyn Disk,
    dir: &Path,
    identity: &Identity,
    first: Tail,
) -> Result<Manifest, StoreError> {
    let entropy = disk.entropy().at("draw a random number for", dir)?;
    let incarnation = format!("{:032x}", u128::from_be_bytes(entropy));
    let Identity { cluster, group, node, segment_size } = identity;
    Ok(Manifest::new((cluster, group, *node, *segment_size), incarnation, Mark::from(first)))
}

fn check_identity(dir: &Path, identity: &Identity, manifest: &Manifest) -> Result<(), StoreError> {
    let Identity { cluster, group, node, segment_size } = identity;
    let parts = [
        ("cluster", cluster.clone(), manifest.cluster.clone()),
        ("group", group.clone(), manifest.group.clone()),
        ("node", node.to_string(), manifest.node.to_string()),
        ("segment size", segment_size.to_string(), manifest.segment_size.to_string()),
    ];
    for (what, expected, found) in parts {
        if expected != found {
            return Err(StoreError::Identity { dir: dir.to_owned(), what, expected, found });
        }
    }
    Ok(())
}

/// A directory with a manifest has all its parts, or its node must not come back under this id (log.md 19).
fn check_parts(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    let names = disk.list(dir).at("list", dir)?;
    for part in ["log", "tables", "queues", VOTE] {
        if !names.iter().any(|name| name == part) {
            if part == "queues" {
                // Derived: built again.
                let path = dir.join(part);
                disk.create_dir(&path).at("create", &path)?;
                continue;
            }
            return Err(StoreError::Incomplete { dir: dir.to_owned(), missing: format!("{part} is gone") });
        }
    }
    Ok(())
}

fn open_vote(disk: &dyn Disk, dir: &Path) -> Result<(Arc<dyn DiskFile>, VoteSlot), StoreError> {
    let path = dir.join(VOTE);
    let file = disk.open(&path).at("open", &path)?;
    let mut slots = [None; 2];
    for (at, slot) in slots.iter_mut().enumerate() {
        let mut bytes = [0; VOTE_LEN];
        // Too short a file is damage, and the other slot may do. But what the disk cannot read now may be the newest vote,
        // and the other slot an older one: this node would vote a second time.
        match file.read_exact_at(at as u64 * SLOT_LEN, &mut bytes) {
            Ok(()) => *slot = VoteSlot::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(StoreError::io("read", &path, error)),
        }
    }
    let Some(newest) = slots.into_iter().flatten().max_by_key(|slot| slot.sequence) else {
        return Err(StoreError::damaged(&path, "neither slot of the vote is whole"));
    };
    // A torn write, or a crash before the copy: both slots hold the vote again before anything is answered.
    if slots != [Some(newest); 2] {
        for at in [(newest.sequence + 1) % 2, newest.sequence % 2] {
            file.write_all_at(at * SLOT_LEN, &newest.encode()).at("write", &path)?;
            file.sync_data().at("sync", &path)?;
        }
    }
    Ok((file, newest))
}

fn entries_of(manifest: &Manifest, log_dir: &Path) -> Vec<SegmentEntry> {
    let entry = |segment: &Segment| {
        let start = LogPosition(segment.start);
        let sealed = segment.sealed.map(|mark| Sealed { tail: Tail::from(mark) });
        let foreign = segment.is_foreign().then(|| segment.kind.clone());
        let len = match (&foreign, sealed) {
            (Some(_), Some(sealed)) => sealed.tail.end.0.saturating_sub(start.0),
            _ => manifest.segment_size,
        };
        let sparse = if sealed.is_some() { Sparse::File } else { Sparse::default() };
        SegmentEntry {
            start,
            kind: foreign.map_or(SegmentKind::RaftV1, SegmentKind::Foreign),
            first_index: LogIndex(segment.first_index),
            sealed,
            file: SegmentFile::new(log_dir, start, len, sparse),
        }
    };
    manifest.segments.iter().map(entry).collect()
}

/// Every segment that the manifest names is there.
fn check_files(dir: &Path, entries: &[SegmentEntry], names: &[String]) -> Result<(), StoreError> {
    for entry in entries {
        let name = segment_name(entry.start);
        if names.binary_search(&name).is_err() {
            return Err(StoreError::Incomplete {
                dir: dir.to_owned(),
                missing: format!("segment {name} is gone"),
            });
        }
    }
    Ok(())
}

/// Removes what a crash left: unfinished files, and segments that the manifest does not name. One of these that was synced
/// last, and beyond where the log starts, says that the manifest is not the newest: then nothing is touched.
fn sweep(
    disk: &dyn Disk,
    dir: &Path,
    log_dir: &Path,
    manifest: &Manifest,
    entries: &[SegmentEntry],
    names: &[String],
) -> Result<(), StoreError> {
    let is_named = |start: LogPosition| entries.iter().any(|entry| entry.start == start);
    let strays: Vec<LogPosition> =
        names.iter().filter_map(|name| segment_of_name(name)).filter(|start| !is_named(*start)).collect();
    let size = manifest.segment_size;
    let mut newest: Option<(Watermark, LogPosition)> = None;
    let starts = entries.iter().filter(|entry| entry.kind == SegmentKind::RaftV1).map(|entry| entry.start);
    for start in starts.chain(strays.iter().copied()) {
        let mark = read_marks(disk, &log_dir.join(segment_name(start)), size)?;
        if let Some(mark) =
            mark.filter(|mark| newest.is_none_or(|(newest, _)| mark.sequence > newest.sequence))
        {
            newest = Some((mark, start));
        }
    }
    if let Some((mark, start)) = newest
        && !is_named(start)
        && mark.position.0 > start.0.max(manifest.first.position)
    {
        return Err(StoreError::Corrupt {
            file: dir.join(MANIFEST),
            position: start,
            index: mark.next,
            reason: format!(
                "it does not name segment {}, which was synced up to position {}: it is not the newest manifest",
                segment_name(start),
                mark.position
            ),
        });
    }
    for start in strays {
        tracing::info!(segment = segment_name(start), "removing a segment that is no part of the log");
        remove_if_there(disk, &log_dir.join(segment_name(start)))?;
    }
    for (dir, names) in [
        (dir.to_owned(), disk.list(dir).at("list", dir)?),
        (log_dir.to_owned(), names.to_vec()),
        (dir.join("tables"), disk.list(&dir.join("tables")).at("list", dir)?),
    ] {
        for name in names.iter().filter(|name| name.strip_suffix(".new").is_some()) {
            remove_if_there(disk, &dir.join(name))?;
        }
    }
    for name in names {
        let stem = name.strip_suffix(".index").and_then(segment_of_name);
        if stem.is_some_and(|start| !is_named(start)) {
            remove_if_there(disk, &log_dir.join(name))?;
        }
    }
    disk.sync_dir(log_dir).at("sync", log_dir)
}

/// The newest watermark in the trailer of a segment file; `None` when it has none (sealed, or never synced).
fn read_marks(disk: &dyn Disk, path: &Path, segment_size: u64) -> Result<Option<Watermark>, StoreError> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", path, error)),
    };
    if file.len().at("stat", path)? <= segment_size {
        return Ok(None);
    }
    let mut slots = vec![0; TRAILER_LEN as usize];
    file.read_at(segment_size, &mut slots).at("read", path)?;
    Ok(Watermark::newest(&slots))
}

/// What the log is found to be.
struct Found {
    entries: Vec<SegmentEntry>,
    open: Option<Open>,
    tail: Tail,
    /// Of the newest watermark slot.
    sequence: u64,
    committed: Option<LogId>,
    /// Files of an empty segment at the end, which the manifest must forget first.
    dropped: Vec<PathBuf>,
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    identity: &'a Identity,
    manifest: &'a Manifest,
    manifest_path: PathBuf,
    checkpoint: Option<TablesMeta>,
}

/// The state at a watermark; its log time is not known.
fn tail_of_mark(mark: Watermark) -> Tail {
    let Watermark { position: end, next, term, chain, .. } = mark;
    let last = next.0.checked_sub(1);
    let id = last.map(|index| LogId { term, index: LogIndex(index) });
    Tail { id, next, end, chain, log_time_ms: 0 }
}

impl Scan<'_> {
    /// Reads the open segment from the newest known place on.
    fn run(&self, entries: Vec<SegmentEntry>) -> Result<Found, StoreError> {
        let mark = self.check_lengths(&entries)?;
        let sequence = mark.map_or(0, |mark| mark.sequence);
        let committed = mark.and_then(|mark| mark.committed);
        let first = Tail::from(self.manifest.first);
        let Some(last) = entries.last().filter(|entry| entry.sealed.is_none()).cloned() else {
            // No open segment: a new log, or one that was just reset to a snapshot; or all is foreign.
            self.check_reached(
                &first,
                self.checkpoint.map(|meta| meta.tail()),
                &self.manifest_path,
                "nothing is there",
            )?;
            return Ok(Found { entries, open: None, tail: first, sequence, committed, dropped: Vec::new() });
        };
        let before = entries.iter().rev().nth(1).filter(|entry| entry.kind == SegmentKind::RaftV1);
        let before = before.and_then(|entry| entry.sealed).map(|sealed| sealed.tail);
        let header =
            self.check_header(&last, before.or(Some(first).filter(|first| first.next == last.first_index)))?;
        let begin = self.begin(&last, &header, mark);
        if let Ok(Some(bytes)) = read_file(self.disk, &last.file.index_path(), SPARSE_LEN_MAX) {
            *last.file.sparse() = Sparse::decode(&bytes, last.start, begin.end);
        }
        // Up to where everything must be whole.
        let here = |sure: &Tail| sure.end > begin.end && sure.end > last.start;
        let sure = [mark.map(tail_of_mark), self.checkpoint.map(|meta| meta.tail())].into_iter().flatten();
        let sure = sure.filter(here).max_by_key(|sure| sure.end);
        let (tail, reason) = self.frames(&last, begin, sure)?;
        self.check_reached(&tail, sure, &last.file.path, &reason)?;
        if tail.next == header.first_index {
            return self.without_last(
                entries,
                before,
                Found {
                    entries: Vec::new(),
                    open: None,
                    tail: first,
                    sequence,
                    committed,
                    dropped: Vec::new(),
                },
            );
        }
        let open = self.open_at(&last.file)?;
        self.rewrite(&open, sure.map_or(begin.end, |sure| sure.end), &tail)?;
        Ok(Found { entries, open: Some(open), tail, sequence, committed, dropped: Vec::new() })
    }

    /// Files are as long as they were made; the newest watermark of all.
    fn check_lengths(&self, entries: &[SegmentEntry]) -> Result<Option<Watermark>, StoreError> {
        let size = self.identity.segment_size;
        let mut newest: Option<Watermark> = None;
        for entry in entries {
            let path = &entry.file.path;
            let file = entry.file.open(self.disk)?;
            let len = file.len().at("stat", path)?;
            if len < entry.file.len {
                return Err(StoreError::Corrupt {
                    file: path.clone(),
                    position: LogPosition(entry.start.0 + len),
                    index: entry.first_index,
                    reason: format!("it has {len} bytes, not {}", entry.file.len),
                });
            }
            if entry.kind != SegmentKind::RaftV1 {
                continue;
            }
            let mark = read_marks(self.disk, path, size)?;
            newest = [newest, mark].into_iter().flatten().max_by_key(|mark| mark.sequence);
            if entry.sealed.is_some() && len > size {
                // A crash came before its watermark slots were cut off; the manifest says what they said.
                file.set_len(size).at("cut", path)?;
            }
        }
        Ok(newest)
    }

    /// Where to start reading: the newest place whose state is known. A checkpoint beyond the watermark is no such place but
    /// one that must be reached.
    fn begin(&self, last: &SegmentEntry, header: &SegmentHeader, mark: Option<Watermark>) -> Tail {
        let known = match (mark.map(tail_of_mark), self.checkpoint.map(|meta| meta.tail())) {
            (Some(marked), Some(checkpoint)) if checkpoint.end <= marked.end => Some(checkpoint),
            // Its log time is not known, but there are frames behind it.
            (Some(marked), Some(_)) => Some(marked),
            _ => None,
        };
        let end = last.start.0 + self.identity.segment_size;
        let known = [Some(self.manifest.first.into()), known].into_iter().flatten();
        let here = known.filter(|known: &Tail| known.end > last.start && known.end.0 <= end);
        here.chain([header.tail()]).max_by_key(|known| known.end).unwrap_or(header.tail())
    }

    /// Nothing came into the last segment. The next entry may be a smaller one that fits the segment before: where a frame
    /// goes is a function of the end of the frame before it, not of what this node once tried. So the segment before (whose
    /// end is `before`) is open again.
    fn without_last(
        &self,
        mut entries: Vec<SegmentEntry>,
        before: Option<Tail>,
        found: Found,
    ) -> Result<Found, StoreError> {
        let empty = entries.pop();
        let dropped =
            empty.map_or(Vec::new(), |empty| vec![empty.file.path.clone(), empty.file.index_path()]);
        let found = Found { dropped, ..found };
        let (Some(tail), Some(entry)) = (before, entries.last_mut()) else {
            return Ok(Found { entries, ..found });
        };
        let index = read_file(self.disk, &entry.file.index_path(), SPARSE_LEN_MAX).unwrap_or_default();
        let sparse = Sparse::decode(&index.unwrap_or_default(), entry.start, tail.end);
        let dir = entry.file.path.parent().unwrap_or(Path::new("."));
        entry.file = SegmentFile::new(dir, entry.start, self.identity.segment_size, sparse);
        entry.sealed = None;
        let open = self.open_at(&entry.file)?;
        // Its watermark before the manifest stops naming it as sealed.
        let committed = found.committed.filter(|id| id.index < tail.next);
        let mark = Watermark::new(found.sequence + 1, &tail, committed);
        open.file
            .write_all_at(mark.offset(self.identity.segment_size), &mark.encode())
            .at("write", &open.segment.path)?;
        open.file.sync_data().at("sync", &open.segment.path)?;
        Ok(Found { entries, open: Some(open), tail, sequence: mark.sequence, ..found })
    }

    fn open_at(&self, segment: &Arc<SegmentFile>) -> Result<Open, StoreError> {
        let file = segment.open(self.disk)?;
        let size = self.identity.segment_size;
        if file.len().at("stat", &segment.path)? < file_len(size) {
            file.allocate(file_len(size)).at("allocate", &segment.path)?;
        }
        let stale_to = LogPosition(segment.start.0 + size);
        let (segment, file) = (Arc::clone(segment), Arc::clone(file));
        let filled_to = segment.start;
        Ok(Open { segment, file, stale_to, filled_to, is_dirty: false, marked: None })
    }

    fn check_header(&self, entry: &SegmentEntry, before: Option<Tail>) -> Result<SegmentHeader, StoreError> {
        let header = entry.file.header(self.disk)?;
        let damaged = |reason: String| StoreError::Corrupt {
            file: entry.file.path.clone(),
            position: entry.start,
            index: entry.first_index,
            reason,
        };
        let Identity { cluster, group, segment_size, .. } = self.identity;
        let expect =
            SegmentHeader::new(cluster, group, *segment_size, entry.start, &before.unwrap_or(header.tail()));
        if header != expect {
            return Err(damaged(format!(
                "its header {header:?} is not the one that belongs there: {expect:?}"
            )));
        }
        if header.first_index != entry.first_index {
            return Err(damaged(format!("its header says that it starts at index {}", header.first_index)));
        }
        Ok(header)
    }

    /// What was synced is there, or this is damage. (A checkpoint names only what was fsynced.)
    fn check_reached(
        &self,
        tail: &Tail,
        sure: Option<Tail>,
        file: &Path,
        reason: &str,
    ) -> Result<(), StoreError> {
        match sure {
            Some(sure) if tail.next < sure.next && !Mutant::TruncateOnCrcError.is_on() => {
                Err(StoreError::Corrupt {
                    file: file.to_owned(),
                    position: place(tail.end, HEADER_LEN as u64, self.identity.segment_size),
                    index: tail.next,
                    reason: format!(
                        "{reason}; it was synced up to position {} (index {})",
                        sure.end, sure.next
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// Follows the chain from `tail`; the state after the last frame of it, and why the next bytes are none.
    fn frames(
        &self,
        entry: &SegmentEntry,
        mut tail: Tail,
        sure: Option<Tail>,
    ) -> Result<(Tail, String), StoreError> {
        let size = self.identity.segment_size;
        let limit = entry.start.0 + size;
        let mut window = Window::new(self.disk, &entry.file, limit);
        let reason = loop {
            let at = LogPosition(tail.end.0.max(entry.start.0 + SEGMENT_HEADER_LEN));
            if at.0 + HEADER_LEN as u64 > limit {
                break "the segment is full".to_owned();
            }
            let frame = match window.frame(at)? {
                Ok(frame) => frame,
                Err(error) => break error.to_string(),
            };
            if let Err(reason) = tail.check(&frame, at) {
                break reason;
            }
            if let Some(sure) = sure.filter(|sure| at < sure.end && sure.end < frame.end()) {
                break format!("the frame at {at} ends beyond the synced position {}", sure.end);
            }
            tail = Tail::after(&frame);
            if let Some(sure) =
                sure.filter(|sure| sure.end == tail.end && (sure.chain, sure.next) != (tail.chain, tail.next))
            {
                return Err(StoreError::Corrupt {
                    file: entry.file.path.clone(),
                    position: at,
                    index: frame.id().index,
                    reason: format!(
                        "the chain value before index {} is {:016x}, but {:016x} before index {} was synced",
                        tail.next, tail.chain, sure.chain, sure.next
                    ),
                });
            }
            entry.file.sparse().add(entry.start, frame.id(), at);
        };
        if sure.is_none_or(|sure| tail.end >= sure.end)
            && !window.is_blank(tail.end.0.max(entry.start.0 + SEGMENT_HEADER_LEN))?
        {
            tracing::warn!(
                group = self.identity.group, position = %tail.end, index = %tail.next, reason,
                "cutting what a crash left behind the last whole frame; none of it was synced"
            );
        }
        Ok((tail, reason))
    }

    /// What is kept above the watermark was perhaps never on disk, only in the page cache: after a failed fsync Linux takes
    /// such pages for clean. So it is written again and fsynced before it counts (log.md 5).
    fn rewrite(&self, open: &Open, from: LogPosition, tail: &Tail) -> Result<(), StoreError> {
        let segment = &open.segment;
        let mut at = from.0.max(segment.start.0 + SEGMENT_HEADER_LEN);
        if at >= tail.end.0 {
            return Ok(());
        }
        tracing::info!(
            group = self.identity.group,
            bytes = tail.end.0 - at,
            "writing again what is kept above the synced watermark"
        );
        while at < tail.end.0 {
            let len = (tail.end.0 - at).min(READ_AHEAD as u64) as usize;
            let bytes = segment.read(self.disk, LogPosition(at), len)?;
            open.file.write_all_at(at - segment.start.0, &bytes).at("write", &segment.path)?;
            at += len as u64;
        }
        open.file.sync_data().at("sync", &segment.path)
    }
}

/// Reads a file forwards in pieces and cuts frames out of them.
pub(crate) struct Window<'a> {
    disk: &'a dyn Disk,
    segment: &'a SegmentFile,
    /// Frames end at or before this position.
    limit: u64,
    at: u64,
    bytes: bytes::Bytes,
}

impl<'a> Window<'a> {
    pub(crate) fn new(disk: &'a dyn Disk, segment: &'a SegmentFile, limit: u64) -> Self {
        Self { disk, segment, limit, at: 0, bytes: bytes::Bytes::new() }
    }

    /// The frame at a position; the inner error is what is wrong with its bytes, the outer one that of the disk.
    pub(crate) fn frame(&mut self, position: LogPosition) -> Result<Result<Frame, FrameError>, StoreError> {
        let mut want = HEADER_LEN as u64;
        loop {
            let bytes = self.fill(position.0, want)?;
            match Frame::parse_first(&bytes) {
                Err(FrameError::Short { needed, .. })
                    if needed > want && position.0 + needed <= self.limit =>
                {
                    want = needed;
                }
                outcome => return Ok(outcome),
            }
        }
    }

    /// At least `want` bytes from `at` on, fewer only at the limit.
    fn fill(&mut self, at: u64, want: u64) -> Result<bytes::Bytes, StoreError> {
        let inside = at.checked_sub(self.at).filter(|skip| skip + want <= self.bytes.len() as u64);
        if let Some(skip) = inside {
            return Ok(self.bytes.slice(skip as usize..));
        }
        let len = want.max(READ_AHEAD as u64).min(self.limit.saturating_sub(at));
        self.bytes = self.segment.read(self.disk, LogPosition(at), len as usize)?;
        self.at = at;
        Ok(self.bytes.clone())
    }

    /// True when the next bytes are zeros, as they are behind a clean end.
    fn is_blank(&mut self, at: u64) -> Result<bool, StoreError> {
        Ok(self.fill(at, HEADER_LEN as u64)?.iter().take(HEADER_LEN).all(|byte| *byte == 0))
    }
}

const _: () = assert!(SPARSE_STEP < READ_AHEAD as u64);
