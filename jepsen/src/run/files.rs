//! A replica's files, read while its node is down. Written after docs/formats.md and apart from crates/store on purpose:
//! a mistake there shall not be repeated here.
//!
//! ```text
//! log/<20 digits>     segment header 4096 | frame | frame | …        section 2
//! queues/*.queue      pages of 4092 + 4 (CRC32C): header, units, directory   section 8
//! queues/*.keys       pages: header, slots, units                             section 9
//! tables/checkpoint-* header 64 | `Tables`, of which only the void entries    sections 7, 11
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use xxhash_rust::xxh3::xxh3_64;

const SEGMENT_HEADER: usize = 4096;
const FRAME_HEADER: usize = 64;
const FRAME_MAGIC: u32 = 0x524D_5101;
const PAGE: usize = 4096;
const PAGE_CONTENT: usize = 4092;

/// A file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Position of its first byte.
    pub start: u64,
    pub file: PathBuf,
}

/// The segments of a group's directory, in order.
pub fn segments(group: &Path) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for file in files(&group.join("log"))? {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.len() == 20
            && let Ok(start) = name.parse()
        {
            segments.push(Segment { start, file });
        }
    }
    segments.sort_unstable_by_key(|segment| segment.start);
    Ok(segments)
}

/// The files of a directory, sorted; none where there is no such directory.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        files.push(entry?.path());
    }
    files.retain(|file| file.is_file());
    files.sort_unstable();
    Ok(files)
}

/// A whole frame: one Raft entry.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// 1 messages, 2 command, 3 blank, 4 membership, 5 coupled.
    pub kind: u8,
    pub term: u64,
    pub index: u64,
    pub position: u64,
    pub body: &'a [u8],
    /// Chain value of the frame before.
    pub prev: u64,
    /// Its own: stands for the whole log up to here.
    pub chain: u64,
    /// Position behind its padding.
    pub end: u64,
}

const MESSAGES: u8 = 1;
/// A command and messages.
pub const COUPLED: u8 = 5;

impl<'a> Frame<'a> {
    /// Its stored messages, back to back; empty where its kind has none.
    pub fn records(&self) -> Result<&'a [u8]> {
        match self.kind {
            MESSAGES => Ok(self.body),
            COUPLED => {
                let end = self.body.get(..4).map(|_| 4 + u32_at(self.body, 0) as usize);
                let records = end.and_then(|end| self.body.get(end..));
                records.with_context(|| format!("the command of the entry {} is longer than it", self.index))
            }
            _ => Ok(&[]),
        }
    }
}

/// Where a log ends: behind its last whole frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub position: u64,
    pub index: u64,
    pub term: u64,
    pub chain: u64,
    pub frames: u64,
}

/// Looks at every whole frame in order, from the first segment on, as far as they are chained.
pub fn walk(group: &Path, mut look: impl FnMut(&Frame<'_>) -> Result<()>) -> Result<End> {
    let mut end = End::default();
    for segment in segments(group)? {
        let bytes = fs::read(&segment.file).with_context(|| segment.file.display().to_string())?;
        let mut at = SEGMENT_HEADER;
        while let Some(frame) = frame(&bytes, segment.start, at) {
            if end.frames > 0 && (frame.prev != end.chain || frame.index != end.index + 1) {
                // What a truncation left behind.
                return Ok(end);
            }
            look(&frame)?;
            at = (frame.end - segment.start) as usize;
            end = End {
                position: frame.end,
                index: frame.index,
                term: frame.term,
                chain: frame.chain,
                frames: end.frames + 1,
            };
        }
    }
    Ok(end)
}

/// The frame at `at` in a segment's bytes; `None` unless it is whole.
fn frame(bytes: &[u8], start: u64, at: usize) -> Option<Frame<'_>> {
    let header = bytes.get(at..at + FRAME_HEADER)?;
    let position = u64_at(header, 32);
    if u32_at(header, 0) != FRAME_MAGIC || position != start + at as u64 {
        return None;
    }
    let length = u32_at(header, 8) as usize;
    let padded = bytes.get(at + FRAME_HEADER..at + FRAME_HEADER + length.next_multiple_of(8))?;
    let crc =
        [&header[..12], &header[16..], padded].iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    (crc == u32_at(header, 12)).then(|| Frame {
        kind: header[4],
        term: u64_at(header, 16),
        index: u64_at(header, 24),
        position,
        body: &padded[..length],
        prev: u64_at(header, 48),
        chain: xxh3_64(header),
        end: position + (FRAME_HEADER + padded.len()) as u64,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_be_bytes(four.try_into().unwrap_or_default()))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |two| u16::from_be_bytes(two.try_into().unwrap_or_default()))
}

/// A derived file by its name: `<from>-<to>.queue` or `.keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derived {
    pub from: u64,
    pub to: u64,
    pub file: PathBuf,
}

impl Derived {
    /// Whether the range holds a position of the log.
    pub fn covers(&self, position: u64) -> bool {
        (self.from..self.to).contains(&position)
    }
}

/// The derived files with an ending that count: of those whose ranges overlap, the longest of those that begin first.
pub fn derived(group: &Path, ending: &str) -> Result<Vec<Derived>> {
    let mut found = Vec::new();
    for file in files(&group.join("queues"))? {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let range = name.strip_suffix(ending).and_then(|range| range.strip_suffix('.'));
        if let Some((from, to)) = range.and_then(|range| range.split_once('-'))
            && let (Ok(from), Ok(to)) = (from.parse(), to.parse())
        {
            found.push(Derived { from, to, file });
        }
    }
    found.sort_unstable_by_key(|file| (file.from, std::cmp::Reverse(file.to)));
    let mut covered = 0;
    found.retain(|file| {
        let counts = file.from >= covered;
        covered = if counts { file.to } else { covered };
        counts
    });
    Ok(found)
}

/// Files that were damaged on purpose, each with the XXH3 of what it was then. A node that reads such a file makes another of it, so
/// one that is still as it was left has been needed by nobody since.
#[derive(Debug, Default)]
pub struct Struck(BTreeMap<PathBuf, u64>);

impl Struck {
    /// Notes what is in a file now.
    pub fn note(&mut self, file: PathBuf) -> Result<()> {
        match fs::read(&file) {
            Ok(bytes) => drop(self.0.insert(file, xxh3_64(&bytes))),
            // Struck out altogether.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => drop(self.0.remove(&file)),
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        }
        Ok(())
    }

    /// Whether a file is still as it was left; if so, that is said.
    pub fn is_as_left(&self, file: &Path) -> Result<bool> {
        let Some(left) = self.0.get(file) else { return Ok(false) };
        let bytes = fs::read(file).with_context(|| file.display().to_string())?;
        let is_so = xxh3_64(&bytes) == *left;
        if is_so {
            eprintln!("{} is damaged, on purpose", file.display());
        }
        Ok(is_so)
    }
}

/// The content of a paged file; an error names the page that is damaged.
fn content(file: &Derived) -> Result<Vec<u8>> {
    let bytes = fs::read(&file.file).with_context(|| file.file.display().to_string())?;
    let magic = bytes.get(..8).unwrap_or_default().to_vec();
    let mut content = Vec::with_capacity(bytes.len());
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        let broken = || format!("{}: page {number} is damaged", file.file.display());
        let cut = page.len().checked_sub(PAGE - PAGE_CONTENT).with_context(broken)?;
        let (own, crc) = page.split_at(cut);
        let place =
            [&magic[..], &file.from.to_be_bytes(), &file.to.to_be_bytes(), &(number as u64).to_be_bytes()];
        let sum = place.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part));
        if crc32c::crc32c_append(sum, own) != u32_at(crc, 0) {
            bail!("{}", broken());
        }
        content.extend_from_slice(own);
    }
    Ok(content)
}

/// One unit of a ConsumeQueue: RocketMQ's 20 bytes.
pub type Unit = [u8; 20];

/// A unit as it follows from a message.
pub fn unit(position: u64, size: u32, tags_code: i64) -> Unit {
    let mut unit = [0; 20];
    unit[..8].copy_from_slice(&position.to_be_bytes());
    unit[8..12].copy_from_slice(&size.to_be_bytes());
    unit[12..].copy_from_slice(&tags_code.to_be_bytes());
    unit
}

/// The position in the log that a unit names.
pub fn position(unit: &Unit) -> u64 {
    u64_at(unit, 0)
}

/// Consecutive units of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub topic: String,
    pub queue: u32,
    pub first: u64,
    pub units: Vec<Unit>,
}

/// The units of a queue file.
pub fn read_queue_file(file: &Derived) -> Result<Vec<Run>> {
    let content = content(file)?;
    let name = file.file.display();
    ensure!(content.starts_with(b"RMQQUE01"), "{name}: another magic");
    ensure!((u64_at(&content, 8), u64_at(&content, 16)) == (file.from, file.to), "{name}: another range");
    let units = u64_at(&content, 32) as usize;
    let records = u32_at(&content, 40);
    let buckets = u32_at(&content, 44) as usize;
    let unit_at = |n: usize| content.get(PAGE_CONTENT + n * 20..PAGE_CONTENT + n * 20 + 20);
    let mut at = PAGE_CONTENT + units * 20 + (buckets + 1) * 4;
    let mut runs = Vec::new();
    for _ in 0..records {
        let length = usize::from(u16_at(&content, at));
        let (count, first) = (u32_at(&content, at + 6), u64_at(&content, at + 10));
        let place = u64_at(&content, at + 18) as usize;
        let topic = content.get(at + 26..at + 26 + length).with_context(|| format!("{name}: directory"))?;
        let own = (place..place + count as usize).map(|n| unit_at(n).and_then(|unit| unit.try_into().ok()));
        runs.push(Run {
            topic: String::from_utf8_lossy(topic).into_owned(),
            queue: u32_at(&content, at + 2),
            first,
            units: own.collect::<Option<Vec<Unit>>>().with_context(|| format!("{name}: units"))?,
        });
        at += 26 + length;
    }
    Ok(runs)
}

/// A key's hash and the position of its message, of each unit of a key file, in the order of the log.
pub fn read_key_file(file: &Derived) -> Result<Vec<(u32, u64)>> {
    let content = content(file)?;
    let name = file.file.display();
    ensure!(content.starts_with(b"RMQKEY01"), "{name}: another magic");
    let (slots, units) = (u32_at(&content, 32) as usize, u32_at(&content, 36) as usize);
    let first = 104 + 4 * slots;
    ensure!(content.len() >= first + 20 * (units + 1), "{name}: too short");
    let unit = |n: usize| (u32_at(&content, first + 20 * n), u64_at(&content, first + 20 * n + 4));
    Ok((1..=units).map(unit).collect())
}

/// Which entries are void by a node's newest checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voids {
    /// Entries up to this one are judged; `None`: no checkpoint.
    upto: Option<u64>,
    indexes: BTreeSet<u64>,
}

impl Voids {
    /// Of the node whose checkpoint is the newest: what is void is so on every replica.
    pub fn newest<'a>(groups: impl IntoIterator<Item = &'a Path>, struck: &Struck) -> Result<Voids> {
        let mut newest = Voids::default();
        for group in groups {
            let voids = Voids::read(group, struck)?;
            if voids.upto > newest.upto {
                newest = voids;
            }
        }
        Ok(newest)
    }

    /// Reads the newest checkpoint of a group's directory, of those that are sound.
    pub fn read(group: &Path, struck: &Struck) -> Result<Voids> {
        let index = |file: &PathBuf| {
            let name = file.file_name()?.to_str()?;
            name.strip_prefix("checkpoint-")?.parse::<u64>().ok()
        };
        let mut found = Vec::new();
        for file in files(&group.join("tables"))? {
            if !struck.is_as_left(&file)? {
                found.push(file);
            }
        }
        let Some((upto, file)) = found.into_iter().filter_map(|file| Some((index(&file)?, file))).max()
        else {
            return Ok(Voids::default());
        };
        let bytes = fs::read(&file)?;
        let tables = (|| {
            ensure!(bytes.starts_with(b"RMQTAB01") && u64_at(&bytes, 8) == upto, "another header");
            let length = usize::try_from(u64_at(&bytes, 48))?;
            let tables = bytes.get(64..).and_then(|rest| rest.get(..length)).context("too short")?;
            ensure!(
                crc32c::crc32c_append(crc32c::crc32c(&bytes[..56]), tables) == u32_at(&bytes, 56),
                "it is damaged"
            );
            // `Tables`, field 3: the broker's, of which field 12.
            let mut indexes = BTreeSet::new();
            for state in bytes_fields(tables, 3)? {
                for mut packed in bytes_fields(state, 12)? {
                    while !packed.is_empty() {
                        indexes.insert(varint(&mut packed)?);
                    }
                }
            }
            Ok(Voids { upto: Some(upto), indexes })
        })();
        tables.with_context(|| file.display().to_string())
    }

    /// An entry beyond the checkpoint is an error.
    pub fn contains(&self, index: u64) -> Result<bool> {
        ensure!(
            self.upto.is_some_and(|upto| index <= upto),
            "whether the entry {index} is void is not known: the newest checkpoint is at {:?}",
            self.upto
        );
        Ok(self.indexes.contains(&index))
    }
}

/// The fields of a protobuf message with a number, as far as they are bytes.
fn bytes_fields(mut message: &[u8], number: u64) -> Result<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match tag & 7 {
            0 => drop(varint(&mut message)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?)?;
                let (field, rest) = message.split_at_checked(length).context("a field is cut off")?;
                message = rest;
                if tag >> 3 == number {
                    found.push(field);
                }
            }
            other => bail!("wire type {other}, which docs/formats.md has not"),
        }
    }
    Ok(found)
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().context("a number is cut off")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number of more than 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(position: u64, index: u64, prev: u64, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEADER];
        frame[..4].copy_from_slice(&FRAME_MAGIC.to_be_bytes());
        frame[4] = 1;
        frame[8..12].copy_from_slice(&(body.len() as u32).to_be_bytes());
        frame[16..24].copy_from_slice(&3_u64.to_be_bytes());
        frame[24..32].copy_from_slice(&index.to_be_bytes());
        frame[32..40].copy_from_slice(&position.to_be_bytes());
        frame[48..56].copy_from_slice(&prev.to_be_bytes());
        frame.extend_from_slice(body);
        frame.resize(FRAME_HEADER + body.len().next_multiple_of(8), 0);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..12]), &frame[16..]);
        frame[12..16].copy_from_slice(&crc.to_be_bytes());
        frame
    }

    #[test]
    fn the_records_of_an_entry() {
        let records = |kind, body: &'static [u8]| {
            let frame = Frame { kind, term: 1, index: 1, position: 0, body, prev: 0, chain: 0, end: 0 };
            frame.records().ok()
        };
        assert_eq!(records(1, b"records"), Some(&b"records"[..]));
        assert_eq!(records(2, b"command"), Some(&b""[..]));
        assert_eq!(records(5, b"\0\0\0\x02dorecords"), Some(&b"records"[..]));
        assert_eq!(records(5, b"\0\0\0\x02do"), Some(&b""[..]));
        for body in [&b""[..], b"\0\0\0", b"\0\0\0\x03do", b"\xff\xff\xff\xffdo"] {
            assert_eq!(records(5, body), None);
        }
    }

    #[test]
    fn frames_are_walked_as_far_as_they_are_chained() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        let mut log = vec![0; SEGMENT_HEADER];
        let one = framed(4096, 0, 0, b"first");
        let chain = xxh3_64(&one[..FRAME_HEADER]);
        log.extend(&one);
        let second = framed(log.len() as u64, 1, chain, b"second");
        log.extend(&second);
        // whole, but of another log
        let third = framed(log.len() as u64, 2, 7, b"third");
        let end = log.len() as u64;
        log.extend(&third);
        log.resize(8192, 0);
        let file = dir.path().join("log").join("00000000000000000000");
        fs::write(&file, &log).unwrap();
        fs::write(dir.path().join("log").join("next-1"), b"").unwrap();
        let mut bodies = Vec::new();
        let found = walk(dir.path(), |frame| {
            bodies.push(frame.body.to_vec());
            Ok(())
        });
        let found = found.unwrap();
        assert_eq!((found.position, found.index, found.term, found.frames), (end, 1, 3, 2));
        assert_eq!(bodies, [b"first".to_vec(), b"second".to_vec()]);
        // a flipped bit ends the log there
        log[SEGMENT_HEADER + FRAME_HEADER + 2] ^= 4;
        fs::write(&file, &log).unwrap();
        assert_eq!(walk(dir.path(), |_| Ok(())).unwrap().frames, 0);
    }

    #[test]
    fn void_entries_are_those_of_the_newest_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            Voids::read(dir.path(), &Struck::default()).unwrap().contains(0).is_err(),
            "without a checkpoint nothing is known"
        );
        fs::create_dir(dir.path().join("tables")).unwrap();
        let save = |index: u64, voids: &[u8]| {
            // level 2; a name; packed voids; a number behind them
            let state = [&[8, 2, 18, 1, b'x', 98, voids.len() as u8], voids, &[104, 0xff, 1]].concat();
            let tables = [&[10, 2, 8, 1, 26, state.len() as u8], &state[..]].concat();
            let mut file = b"RMQTAB01".to_vec();
            file.extend([index, 3, 9000, 7, 1].iter().flat_map(|n| n.to_be_bytes()));
            file.extend((tables.len() as u64).to_be_bytes());
            let crc = crc32c::crc32c_append(crc32c::crc32c(&file), &tables);
            file.extend(crc.to_be_bytes());
            file.extend([0; 4]);
            file.extend(tables);
            let path = dir.path().join("tables").join(format!("checkpoint-{index}"));
            fs::write(&path, &file).unwrap();
            (path, file)
        };
        save(9, &[4]);
        let (path, mut file) = save(500, &[4, 0xac, 0x02]);
        fs::write(dir.path().join("tables").join("boundary-600"), b"no checkpoint").unwrap();
        let voids = Voids::read(dir.path(), &Struck::default()).unwrap();
        let found = [4, 5, 300, 500].map(|index| voids.contains(index).unwrap());
        assert_eq!(found, [true, false, true, false]);
        assert!(voids.contains(501).unwrap_err().to_string().contains("checkpoint is at Some(500)"));
        *file.last_mut().unwrap() ^= 1;
        fs::write(&path, &file).unwrap();
        assert!(
            format!("{:#}", Voids::read(dir.path(), &Struck::default()).unwrap_err()).contains("damaged")
        );
    }

    fn paged(magic: &[u8], from: u64, to: u64, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, part) in content.chunks(PAGE_CONTENT).enumerate() {
            let place = [magic, &from.to_be_bytes(), &to.to_be_bytes(), &(number as u64).to_be_bytes(), part];
            let crc = place.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(&crc.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn a_queue_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut content = b"RMQQUE01".to_vec();
        content.extend([4096_u64, 9000, 5, 2].iter().flat_map(|n| n.to_be_bytes()));
        content.extend([1_u32, 1].iter().flat_map(|n| n.to_be_bytes()));
        content.extend(27_u64.to_be_bytes());
        content.resize(PAGE_CONTENT, 0);
        content.extend([unit(4160, 100, 0), unit(4260, 100, 9)].concat());
        content.extend([0_u32, 27].iter().flat_map(|n| n.to_be_bytes()));
        content.extend(1_u16.to_be_bytes());
        content.extend([3_u32, 2].iter().flat_map(|n| n.to_be_bytes()));
        content.extend([40_u64, 0].iter().flat_map(|n| n.to_be_bytes()));
        content.push(b't');
        fs::create_dir(dir.path().join("queues")).unwrap();
        let name = format!("{:020}-{:020}.queue", 4096, 9000);
        let file = dir.path().join("queues").join(&name);
        fs::write(&file, paged(b"RMQQUE01", 4096, 9000, &content)).unwrap();
        let shorter = dir.path().join("queues").join(format!("{:020}-{:020}.queue", 4096, 5000));
        fs::write(shorter, b"of a merge").unwrap();
        let found = derived(dir.path(), "queue").unwrap();
        assert_eq!(found.len(), 1);
        let runs = read_queue_file(&found[0]).unwrap();
        let units = vec![unit(4160, 100, 0), unit(4260, 100, 9)];
        assert_eq!(runs, [Run { topic: "t".into(), queue: 3, first: 40, units }]);
        let mut damaged = fs::read(&file).unwrap();
        damaged[4100] ^= 1;
        fs::write(&file, damaged).unwrap();
        assert!(read_queue_file(&found[0]).unwrap_err().to_string().contains("page 1"));
    }
}
