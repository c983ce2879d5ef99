//! A disk in memory that keeps what was written apart from what was made durable, for tests and simulation.
//!
//! A crash keeps what was durable and, of everything since, a subset that a seed chooses: writes torn at 512 bytes and
//! in any order, lengths, directory operations. That is stricter than any real disk, which is the point.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, Map};

const PAGE: usize = 4096;
/// What a real disk writes as one piece.
const SECTOR: u64 = 512;

/// Which operation a [`Fault`] hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOp {
    /// `read_at`.
    Read,
    /// `write_at`.
    Write,
    /// `sync_data`. What the failed sync covered is kept or lost by chance, and no later sync makes it durable: Linux
    /// marks such pages clean.
    Sync,
    /// `sync_dir`.
    SyncDir,
    /// `allocate`.
    Allocate,
}

/// An error that the disk is to answer with.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which operation fails.
    pub op: FaultOp,
    /// Only on paths that contain this.
    pub path: String,
    /// How many such operations succeed first.
    pub after: u64,
    /// The number of the error: 5 is EIO, 28 ENOSPC.
    pub errno: i32,
    /// True: every later one fails as well.
    pub for_good: bool,
}

/// A disk whose power can be cut. Clones are handles of the same disk; see [`CrashDisk::fork`] for a copy.
#[derive(Clone)]
pub struct CrashDisk(Arc<Mutex<World>>);

impl CrashDisk {
    /// An empty disk with a root directory; `seed` decides [`Disk::entropy`] and the outcome of failed syncs.
    pub fn new(seed: u64) -> Self {
        let root = BTreeMap::from([(PathBuf::from("/"), Node::Dir)]);
        Self(Arc::new(Mutex::new(World {
            generation: 0,
            is_off: false,
            off_at_sync: None,
            off_at_step: None,
            syncs: 0,
            steps: 0,
            live: root.clone(),
            durable: root,
            moves: Vec::new(),
            files: BTreeMap::new(),
            files_ever: 0,
            faults: Vec::new(),
            capacity: None,
            locks: BTreeSet::new(),
            random: Random(seed),
        })))
    }

    /// A copy that shares nothing with this one; handles of open files stay with this one.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.world().clone())))
    }

    /// Syncs (of files and directories) that were called so far.
    pub fn syncs(&self) -> u64 {
        self.world().syncs
    }

    /// Operations that change something which were called so far.
    pub fn steps(&self) -> u64 {
        self.world().steps
    }

    /// Cuts the power when the `n`-th sync from the start of the disk is called, before it has any effect: from then on
    /// every operation fails until [`CrashDisk::crash`].
    pub fn power_off_at_sync(&self, n: u64) {
        self.world().off_at_sync = Some(n);
    }

    /// Cuts the power when the `n`-th changing operation from the start of the disk is called.
    pub fn power_off_at_step(&self, n: u64) {
        self.world().off_at_step = Some(n);
    }

    /// True once the power is cut.
    pub fn is_off(&self) -> bool {
        self.world().is_off
    }

    /// Cuts the power now (if it is not), loses a subset of what was not durable, and switches it on again. Handles and
    /// locks of before are dead.
    pub fn crash(&self, seed: u64) {
        self.world().crash(seed);
    }

    /// Ends the processes that use the disk and leaves its power on: handles and locks of before are dead, what was
    /// written is there, durable or not (kill -9).
    pub fn end_processes(&self) {
        let mut world = self.world();
        world.generation += 1;
        world.locks.clear();
        world.forget_unnamed();
    }

    /// Arranges an error.
    pub fn inject(&self, fault: Fault) {
        self.world().faults.push(fault);
    }

    /// Takes all arranged errors back.
    pub fn heal(&self) {
        self.world().faults.clear();
    }

    /// Limits the bytes that the files may take together; `None`: no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world().capacity = bytes;
    }

    /// Inverts a bit of a file, in what is durable as well: bit rot.
    ///
    /// # Errors
    /// `NotFound` when there is no such file.
    pub fn flip(&self, path: &Path, offset: u64) -> io::Result<()> {
        let mut world = self.world();
        let id = world.file(path)?;
        let file = world.files.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        for content in [&mut file.live, &mut file.durable] {
            let mut byte = [0];
            content.read(offset, &mut byte);
            content.write(offset, &[byte[0] ^ 0x10]);
        }
        Ok(())
    }

    fn handle(&self, world: &World, id: u64, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let users = Arc::clone(&world.files.get(&id).ok_or(io::ErrorKind::NotFound)?.users);
        let (disk, generation, path) = (self.clone(), world.generation, path.to_owned());
        Ok(Arc::new(CrashFile { disk, generation, id, path, _user: users }))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SplitMix64: enough to choose subsets.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
}

#[derive(Clone)]
enum Move {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, Node),
    /// The two names, each with what it gets.
    Exchange([(PathBuf, Node); 2]),
}

impl Move {
    fn dir(&self) -> Option<&Path> {
        match self {
            Move::Link(path, _)
            | Move::Unlink(path)
            | Move::Rename(_, path, _)
            | Move::Exchange([(path, _), _]) => path.parent(),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Move::Link(path, node) => {
                names.insert(path, node);
            }
            Move::Unlink(path) => {
                names.remove(&path);
            }
            Move::Rename(from, to, node) => {
                names.remove(&from);
                names.insert(to, node);
            }
            Move::Exchange(names_and_files) => names.extend(names_and_files),
        }
    }
}

#[derive(Clone)]
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Len(u64),
    Allocate(u64),
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Change::Write { offset, data } => content.write(*offset, data),
            Change::Len(len) => content.set_len(*len),
            Change::Allocate(len) => content.len = content.len.max(*len),
        }
    }

    /// Applies what `keep` lets through, asked once per sector.
    fn apply_torn(&self, content: &mut Content, mut keep: impl FnMut() -> bool) {
        let Change::Write { offset, data } = self else {
            if keep() {
                self.apply(content);
            }
            return;
        };
        let mut at = *offset;
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            let n = rest.len().min((SECTOR - at % SECTOR) as usize);
            let (sector, tail) = rest.split_at(n);
            if keep() {
                content.write(at, sector);
            }
            at += n as u64;
            rest = tail;
        }
    }
}

/// A sparse file: pages that were never written are absent and read as zeros.
#[derive(Clone, Default)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Content {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let n = buffer.len().min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX));
        let mut at = offset;
        let mut rest = buffer.get_mut(..n).unwrap_or_default();
        while !rest.is_empty() {
            let inside = (at % PAGE as u64) as usize;
            let (piece, tail) = rest.split_at_mut(rest.len().min(PAGE - inside));
            match self.pages.get(&(at / PAGE as u64)).and_then(|page| page.get(inside..inside + piece.len()))
            {
                Some(bytes) => piece.copy_from_slice(bytes),
                None => piece.fill(0),
            }
            at += piece.len() as u64;
            rest = tail;
        }
        n
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let inside = (at % PAGE as u64) as usize;
            let (piece, tail) = rest.split_at(rest.len().min(PAGE - inside));
            let page = self.pages.entry(at / PAGE as u64).or_insert_with(|| Box::new([0; PAGE]));
            if let Some(bytes) = page.get_mut(inside..inside + piece.len()) {
                bytes.copy_from_slice(piece);
            }
            at += piece.len() as u64;
            rest = tail;
        }
        self.len = self.len.max(at);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.retain(|number, _| number * (PAGE as u64) < len);
            let inside = (len % PAGE as u64) as usize;
            if let Some(tail) =
                self.pages.get_mut(&(len / PAGE as u64)).and_then(|page| page.get_mut(inside..))
            {
                tail.fill(0);
            }
        }
        self.len = len;
    }
}

#[derive(Clone, Default)]
struct FileState {
    live: Content,
    durable: Content,
    /// Since the last sync, in order.
    changes: Vec<Change>,
    /// Each open handle has a clone: a file without a name lives on while it is open.
    users: Arc<()>,
}

#[derive(Clone)]
struct World {
    generation: u64,
    is_off: bool,
    off_at_sync: Option<u64>,
    off_at_step: Option<u64>,
    syncs: u64,
    steps: u64,
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// Since the last sync of their directory, in order.
    moves: Vec<Move>,
    files: BTreeMap<u64, FileState>,
    files_ever: u64,
    faults: Vec<Fault>,
    capacity: Option<u64>,
    locks: BTreeSet<PathBuf>,
    random: Random,
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl World {
    fn check_power(&self) -> io::Result<()> {
        if self.is_off { Err(power_is_off()) } else { Ok(()) }
    }

    /// Before each operation that changes something.
    fn step(&mut self) -> io::Result<()> {
        self.check_power()?;
        self.steps += 1;
        if self.off_at_step.is_some_and(|n| self.steps >= n) {
            self.is_off = true;
        }
        self.check_power()
    }

    fn count_sync(&mut self) -> io::Result<()> {
        self.step()?;
        self.syncs += 1;
        if self.off_at_sync.is_some_and(|n| self.syncs >= n) {
            self.is_off = true;
        }
        self.check_power()
    }

    fn fault(&mut self, op: FaultOp, path: &Path) -> io::Result<()> {
        let path = path.to_string_lossy().into_owned();
        let Some(at) = self.faults.iter().position(|fault| fault.op == op && path.contains(&fault.path))
        else {
            return Ok(());
        };
        let Some(fault) = self.faults.get_mut(at) else { return Ok(()) };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let errno = fault.errno;
        if !fault.for_good {
            self.faults.remove(at);
        }
        Err(io::Error::from_raw_os_error(errno))
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        match self.live.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn make_room(&self, more: u64) -> io::Result<()> {
        if more <= self.free() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn free(&self) -> u64 {
        let used: u64 = self
            .live
            .values()
            .map(|node| match node {
                Node::File(id) => self.files.get(id).map_or(0, |file| file.live.len),
                Node::Dir => 0,
            })
            .sum();
        self.capacity.map_or(1 << 40, |capacity| capacity.saturating_sub(used))
    }

    fn crash(&mut self, seed: u64) {
        let mut random = Random(seed ^ 0x5DEE_CE66_D1CE_4E5B);
        // How much of each kind survives: nothing, all, a prefix, or any subset.
        let mut style = || {
            let kind = random.next() % 4;
            let mut inner = Random(random.next());
            let mut left = inner.next() % 16;
            move || match kind {
                0 => false,
                1 => true,
                2 => {
                    left = left.saturating_sub(1);
                    left > 0
                }
                _ => inner.coin(),
            }
        };
        let mut keep = style();
        for entry in std::mem::take(&mut self.moves) {
            if keep() {
                entry.apply(&mut self.durable);
            }
        }
        for file in self.files.values_mut() {
            let mut keep = style();
            for change in std::mem::take(&mut file.changes) {
                change.apply_torn(&mut file.durable, &mut keep);
            }
            file.live = file.durable.clone();
        }
        // A name in a directory that did not survive is gone.
        let names = self.durable.clone();
        self.durable.retain(|path, _| path.ancestors().skip(1).all(|dir| names.get(dir) == Some(&Node::Dir)));
        self.live = self.durable.clone();
        self.forget_unnamed();
        self.generation += 1;
        self.is_off = false;
        self.off_at_sync = None;
        self.off_at_step = None;
        self.locks.clear();
    }

    /// Drops the content of files that no name leads to, now or after a crash.
    fn forget_unnamed(&mut self) {
        let mut named: BTreeSet<u64> = BTreeSet::new();
        for node in self.live.values().chain(self.durable.values()) {
            if let Node::File(id) = node {
                named.insert(*id);
            }
        }
        for entry in &self.moves {
            if let Move::Link(_, Node::File(id)) | Move::Rename(_, _, Node::File(id)) = entry {
                named.insert(*id);
            }
        }
        self.files.retain(|id, file| named.contains(id) || Arc::strong_count(&file.users) > 1);
    }
}

impl Disk for CrashDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let world = self.world();
        world.check_power()?;
        let id = world.file(path)?;
        self.handle(&world, id, path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        world.step()?;
        if path.parent().and_then(|dir| world.live.get(dir)) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let id = match world.live.get(path) {
            Some(Node::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(Node::File(id)) => {
                let id = *id;
                if let Some(file) = world.files.get_mut(&id) {
                    file.live.set_len(0);
                    file.changes.push(Change::Len(0));
                }
                id
            }
            None => {
                world.files_ever += 1;
                let id = world.files_ever;
                world.files.insert(id, FileState::default());
                world.live.insert(path.to_owned(), Node::File(id));
                world.moves.push(Move::Link(path.to_owned(), Node::File(id)));
                id
            }
        };
        self.handle(&world, id, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.step()?;
        let node = Node::File(world.file(from)?);
        let entry = Move::Rename(from.to_owned(), to.to_owned(), node);
        entry.clone().apply(&mut world.live);
        world.moves.push(entry);
        Ok(())
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.step()?;
        let (of_one, of_other) = (Node::File(world.file(one)?), Node::File(world.file(other)?));
        let entry = Move::Exchange([(one.to_owned(), of_other), (other.to_owned(), of_one)]);
        entry.clone().apply(&mut world.live);
        world.moves.push(entry);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.step()?;
        world.file(path)?;
        let entry = Move::Unlink(path.to_owned());
        entry.clone().apply(&mut world.live);
        world.moves.push(entry);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        world.check_power()?;
        if world.live.get(dir) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = world.live.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.step()?;
        let missing: Vec<PathBuf> = dir
            .ancestors()
            .filter(|path| !path.as_os_str().is_empty() && !world.live.contains_key(*path))
            .map(Path::to_owned)
            .collect();
        for path in missing.into_iter().rev() {
            let entry = Move::Link(path, Node::Dir);
            entry.clone().apply(&mut world.live);
            world.moves.push(entry);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.count_sync()?;
        world.fault(FaultOp::SyncDir, dir)?;
        let (here, elsewhere) =
            std::mem::take(&mut world.moves).into_iter().partition(|entry: &Move| entry.dir() == Some(dir));
        world.moves = elsewhere;
        let here: Vec<Move> = here;
        for entry in here {
            entry.apply(&mut world.durable);
        }
        world.forget_unnamed();
        Ok(())
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let world = self.world();
        world.check_power()?;
        Ok(world.free())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut world = self.world();
        world.check_power()?;
        if !world.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(CrashLock { disk: self.clone(), generation: world.generation, path: path.to_owned() }))
    }

    fn entropy(&self) -> io::Result<[u8; 16]> {
        let mut world = self.world();
        let (high, low) = (world.random.next(), world.random.next());
        Ok(((u128::from(high) << 64) | u128::from(low)).to_be_bytes())
    }
}

struct CrashLock {
    disk: CrashDisk,
    generation: u64,
    path: PathBuf,
}

impl Drop for CrashLock {
    fn drop(&mut self) {
        let mut world = self.disk.world();
        if world.generation == self.generation {
            world.locks.remove(&self.path);
        }
    }
}

struct CrashFile {
    disk: CrashDisk,
    /// Crashes of the disk when the file was opened: a handle does not survive one.
    generation: u64,
    id: u64,
    path: PathBuf,
    _user: Arc<()>,
}

impl CrashFile {
    fn world(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = self.disk.world();
        if world.generation == self.generation { Ok(world) } else { Err(power_is_off()) }
    }

    fn change(&self, world: &mut World, change: Change) -> io::Result<()> {
        let file = world.files.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
        change.apply(&mut file.live);
        file.changes.push(change);
        Ok(())
    }

    fn grow(&self, world: &World, len: u64) -> io::Result<()> {
        let now = world.files.get(&self.id).map_or(0, |file| file.live.len);
        if len > now { world.make_room(len - now) } else { Ok(()) }
    }
}

impl DiskFile for CrashFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.world()?;
        world.check_power()?;
        world.fault(FaultOp::Read, &self.path)?;
        let file = world.files.get(&self.id).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.live.read(offset, buffer))
    }

    fn read_resident_at(&self, offset: u64, buffer: &mut [u8]) -> bool {
        // There is nothing to wait for.
        self.read_at(offset, buffer).is_ok_and(|read| read == buffer.len())
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        let mut world = self.world()?;
        world.step()?;
        world.fault(FaultOp::Write, &self.path)?;
        let data = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect::<Vec<u8>>();
        self.grow(&world, offset + data.len() as u64)?;
        self.change(&mut world, Change::Write { offset, data })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.world()?;
        world.count_sync()?;
        let outcome = world.fault(FaultOp::Sync, &self.path);
        let mut random = world.random.clone();
        let file = world.files.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
        for change in std::mem::take(&mut file.changes) {
            if outcome.is_ok() {
                change.apply(&mut file.durable);
            } else {
                change.apply_torn(&mut file.durable, || random.coin());
            }
        }
        world.random = random;
        outcome
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut world = self.world()?;
        world.step()?;
        world.fault(FaultOp::Allocate, &self.path)?;
        self.grow(&world, len)?;
        self.change(&mut world, Change::Allocate(len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.world()?;
        world.step()?;
        self.grow(&world, len)?;
        self.change(&mut world, Change::Len(len))
    }

    fn len(&self) -> io::Result<u64> {
        let world = self.world()?;
        world.check_power()?;
        Ok(world.files.get(&self.id).ok_or(io::ErrorKind::NotFound)?.live.len)
    }

    fn map(&self, _len: u64) -> io::Result<Option<Map>> {
        Ok(None)
    }

    fn forget(&self, _offset: u64, _len: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &CrashDisk, path: &str) -> Option<Vec<u8>> {
        super::super::read_file(disk, Path::new(path), 1 << 20).unwrap()
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
        let mut seen = BTreeSet::new();
        for seed in 0..64 {
            let disk = CrashDisk::new(0);
            let file = disk.create(Path::new("/a")).unwrap();
            file.write_all_at(0, &[1; 1024]).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            file.write_all_at(0, &[2; 1024]).unwrap();
            disk.crash(seed);
            assert!(file.len().is_err(), "a handle does not survive a crash");
            let content = read(&disk, "/a").unwrap();
            let sectors: Vec<u8> = content.chunks(512).map(|sector| sector[0]).collect();
            assert!(content.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            seen.insert(sectors);
        }
        assert_eq!(seen.len(), 4, "each sector is old or new, independently: {seen:?}");
    }

    #[test]
    fn a_name_is_durable_with_its_directory_and_not_before() {
        let mut survived = [false; 2];
        for seed in 0..64 {
            let disk = CrashDisk::new(0);
            disk.create_dir(Path::new("/d")).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            let file = disk.create(Path::new("/d/new")).unwrap();
            file.write_all_at(0, b"content").unwrap();
            file.sync_data().unwrap();
            disk.crash(seed);
            survived[usize::from(read(&disk, "/d/new").is_some())] = true;
        }
        assert_eq!(survived, [true, true]);
    }

    #[test]
    fn after_a_failed_sync_nothing_more_becomes_durable() {
        let mut lost = false;
        for seed in 0..16 {
            let disk = CrashDisk::new(seed);
            let file = disk.create(Path::new("/a")).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            file.write_all_at(0, &[7; 4096]).unwrap();
            disk.inject(Fault { op: FaultOp::Sync, path: "a".into(), after: 0, errno: 5, for_good: false });
            assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
            file.sync_data().unwrap();
            assert_eq!(read(&disk, "/a").unwrap(), vec![7; 4096], "the page cache still shows it");
            disk.crash(1);
            lost |= read(&disk, "/a").unwrap() != vec![7; 4096];
        }
        assert!(lost);
    }

    #[test]
    fn what_was_written_outlives_the_process_and_not_the_power() {
        let disk = CrashDisk::new(0);
        let file = disk.create(Path::new("/a")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let _lock = disk.lock(Path::new("/LOCK")).unwrap();
        file.write_all_at(0, &[7; 512]).unwrap();
        disk.end_processes();
        assert!(file.len().is_err(), "a handle does not survive its process");
        assert!(disk.lock(Path::new("/LOCK")).is_ok());
        assert_eq!(read(&disk, "/a").unwrap(), vec![7; 512]);
        let lost = (0..16).any(|seed| {
            let disk = disk.fork();
            disk.crash(seed);
            read(&disk, "/a").unwrap().is_empty()
        });
        assert!(lost);
    }

    #[test]
    fn a_full_disk_says_so() {
        let disk = CrashDisk::new(0);
        disk.set_capacity(Some(10_000));
        let file = disk.create(Path::new("/a")).unwrap();
        file.allocate(9_000).unwrap();
        assert_eq!(file.allocate(11_000).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.write_all_at(9_999, &[1, 2]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.free_space(Path::new("/")).unwrap(), 1_000);
    }

    #[test]
    fn the_power_goes_at_the_chosen_sync() {
        let disk = CrashDisk::new(0);
        let file = disk.create(Path::new("/a")).unwrap();
        disk.power_off_at_sync(2);
        file.sync_data().unwrap();
        assert!(file.sync_data().is_err() && disk.is_off() && file.len().is_err());
        disk.crash(0);
        assert!(!disk.is_off());
    }
}
