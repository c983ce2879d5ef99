//! What the replicas hold, from the files of nodes that are down: the log's bytes, each queue's messages, units and keys, and
//! tables. Digests are over what all have in common, so that equal replicas give equal digests, and each queue is read out
//! message by message.
//!
//! ```text
//! log       XXH3 of a segment's bytes up to the last frame that all have
//! queue     chained XXH3 of its records, by a scan of the log
//! units     20 bytes each, from the queue files; beside it, as "built again", what the scan says they must be
//! keys      (hash, position) from the key files; likewise
//! table     tables/boundary-<index> and checkpoint-<index> of the same index: equal bytes
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use wire::Messages;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use super::files::{self, End, Run, Struck, Unit, Voids};
use crate::cluster::GROUP;
use crate::history::{Bounds, Digest, DigestOf, Op, Queue, Read, Recorder, Way};
use crate::workload::value_of;

/// Behind the header of the first segment.
const FIRST_FRAME: u64 = 4096;
/// Messages in one line of the history.
const PIECE: usize = 1_000;

/// What one node's log says.
struct Scan {
    node: u64,
    group: PathBuf,
    end: End,
    queues: BTreeMap<Queue, Scanned>,
    /// Hash and position of every key, in the order of the log.
    keys: Vec<(u32, u64)>,
    /// Entries that nothing points to: whose offsets do not follow, or whose command did not fit the tables.
    voids: u64,
}

/// A queue, by the log.
#[derive(Default)]
struct Scanned {
    reads: Vec<Read>,
    units: Vec<Unit>,
    chain: u64,
}

/// Writes down what the replicas hold: digests of all, and of the queues that are asked for every message. `groups`: node
/// and directory of the group, of nodes that are down. `struck`: files that were damaged on purpose.
pub fn write(
    groups: &[(u64, PathBuf)],
    queues: &[Queue],
    struck: &Struck,
    recorder: &Recorder,
) -> Result<()> {
    let mut scans = Vec::new();
    let voids = Voids::newest(groups.iter().map(|(_, group)| group.as_path()), struck)?;
    for (node, group) in groups {
        scans.push(scan(*node, group, &voids).with_context(|| format!("the files of node {node}"))?);
    }
    for scan in &scans {
        eprintln!(
            "node {}: {} entries up to {}, {} of them void",
            scan.node, scan.end.frames, scan.end.position, scan.voids
        );
        for queue in queues {
            drain(scan, queue, recorder);
        }
    }
    // The range that all have. Every node was waited for, so that more is missing than a blank or two only if some lost it:
    // the drains and the digests below then differ in their ranges, and the checkers say so.
    let ends: Vec<u64> = scans.iter().map(|scan| scan.end.position).collect();
    let common = ends.iter().copied().min().context("no replica")?;
    for scan in &scans {
        log_digests(scan, common, recorder)?;
        queue_digests(scan, recorder);
    }
    units_and_keys(&scans, struck, recorder)?;
    tables(&scans, struck, recorder)
}

fn scan(node: u64, group: &Path, judged: &Voids) -> Result<Scan> {
    let mut queues: BTreeMap<Queue, Scanned> = BTreeMap::new();
    let (mut keys, mut voids) = (Vec::new(), 0);
    let end = files::walk(group, |frame| {
        let mut records = Vec::new();
        for stored in Messages::new(frame.records()?) {
            let stored =
                stored.with_context(|| format!("the entry {} at {}", frame.index, frame.position))?;
            let queue = Queue::new(GROUP, stored.topic, stored.queue_id.get());
            records.push((queue, stored));
        }
        // As `apply` judges: an entry whose offsets do not follow its queues' ends is void as a whole.
        let mut nexts: BTreeMap<&Queue, u64> = BTreeMap::new();
        let follows = records.iter().all(|(queue, stored)| {
            let end = queues.get(queue).map_or(0, |scanned| scanned.reads.len() as u64);
            let next = nexts.entry(queue).or_insert(end);
            let is_next = stored.queue_offset.get() == *next;
            *next += 1;
            is_next
        });
        // What else it takes for a command that is coupled with messages is for the tables to say.
        if !follows || (frame.kind == files::COUPLED && judged.contains(frame.index)?) {
            voids += 1;
            return Ok(());
        }
        for (queue, stored) in records {
            let value = value_of(&queue, &stored);
            ensure!(stored.position.get() >= frame.position, "a record before its frame");
            for key in stored.unique_id().into_iter().chain(stored.keys()) {
                keys.push((key_hash(stored.topic, key), stored.position.get()));
            }
            let scanned = queues.entry(queue).or_default();
            scanned.reads.push(Read { offset: stored.queue_offset.get(), value });
            let size = stored.size() as u32;
            scanned.units.push(files::unit(stored.position.get(), size, stored.unit_code()));
            scanned.chain = xxh3_64_with_seed(stored.record, scanned.chain);
        }
        Ok(())
    })?;
    Ok(Scan { node, group: group.to_owned(), end, queues, keys, voids })
}

/// The absolute value of Java's hash of `topic#key`, 0 for the smallest number.
fn key_hash(topic: &str, key: &str) -> u32 {
    wire::java_string_hash(&format!("{topic}#{key}")).checked_abs().unwrap_or(0) as u32
}

fn drain(scan: &Scan, queue: &Queue, recorder: &Recorder) {
    let reads = scan.queues.get(queue).map_or(&[][..], |scanned| scanned.reads.as_slice());
    let op = |messages: &[Read], bounds| Op::Drain {
        replica: scan.node,
        queue: queue.clone(),
        way: Way::Files,
        messages: messages.to_vec(),
        bounds,
    };
    for piece in reads.chunks(PIECE) {
        recorder.note(op(piece, None));
    }
    recorder.note(op(&[], Some(Bounds { min: 0, max: reads.len() as u64 })));
}

fn note(
    scan: &Scan,
    what: DigestOf,
    key: String,
    range: (u64, u64),
    hash: u64,
    rebuilt: bool,
    recorder: &Recorder,
) {
    let digest = Digest {
        node: scan.node,
        broker: GROUP.to_owned(),
        what,
        key,
        from: range.0,
        to: range.1,
        hash: format!("{hash:016x}"),
        rebuilt,
        live: false,
    };
    recorder.note(Op::Digest(Box::new(digest)));
}

/// The log's bytes up to a position, segment by segment. A segment's header counts: it holds nothing of a node's own.
fn log_digests(scan: &Scan, common: u64, recorder: &Recorder) -> Result<()> {
    let segments = files::segments(&scan.group)?;
    for (at, segment) in segments.iter().enumerate() {
        // What lies behind the addressable bytes of a segment is the node's own: its watermark.
        let end = segments.get(at + 1).map_or(common, |next| next.start.min(common));
        if end <= segment.start {
            break;
        }
        let mut bytes = fs::read(&segment.file)?;
        bytes.truncate(usize::try_from(end - segment.start)?);
        let range = (segment.start, segment.start + bytes.len() as u64);
        note(scan, DigestOf::Log, segment.start.to_string(), range, xxh3_64(&bytes), false, recorder);
    }
    Ok(())
}

fn queue_digests(scan: &Scan, recorder: &Recorder) {
    for (queue, scanned) in &scan.queues {
        let range = (0, scanned.reads.len() as u64);
        note(scan, DigestOf::Queue, queue.to_string(), range, scanned.chain, false, recorder);
    }
}

/// What the derived files of a node hold, without a gap from the first message on.
struct DerivedFiles {
    units: BTreeMap<Queue, Vec<Unit>>,
    keys: Vec<(u32, u64)>,
    /// Key files cover the log up to here.
    keys_to: u64,
}

/// A file that was damaged on purpose, and that no node has read since, counts as what a node would make of it: what the log
/// says of its range.
fn derived_files(scan: &Scan, struck: &Struck) -> Result<DerivedFiles> {
    let mut units: BTreeMap<Queue, Vec<Unit>> = BTreeMap::new();
    for file in files::derived(&scan.group, "queue")? {
        let runs = if struck.is_as_left(&file.file)? {
            runs_of(scan, &file)
        } else {
            files::read_queue_file(&file)?
        };
        for Run { topic, queue, first, units: run } in runs {
            let queue = units.entry(Queue::new(GROUP, topic, queue)).or_default();
            // A range that no file covers is a gap: what follows it is built again at the next start.
            if queue.len() as u64 == first {
                queue.extend(run);
            }
        }
    }
    let (mut keys, mut keys_to) = (Vec::new(), 0);
    for file in files::derived(&scan.group, "keys")? {
        if file.from > keys_to.max(FIRST_FRAME) {
            break;
        }
        if struck.is_as_left(&file.file)? {
            keys.extend(scan.keys.iter().filter(|(_, position)| file.covers(*position)));
        } else {
            keys.extend(files::read_key_file(&file)?);
        }
        keys_to = file.to;
    }
    Ok(DerivedFiles { units, keys, keys_to })
}

/// What a queue file of this range ought to hold.
fn runs_of(scan: &Scan, file: &files::Derived) -> Vec<Run> {
    let run = |(queue, scanned): (&Queue, &Scanned)| {
        let at = |unit: &Unit| file.covers(files::position(unit));
        let first = scanned.units.iter().position(at)?;
        let units = scanned.units[first..].iter().take_while(|unit| at(unit)).copied().collect();
        Some(Run { topic: queue.topic.clone(), queue: queue.id, first: first as u64, units })
    };
    scan.queues.iter().filter_map(run).collect()
}

/// Units and keys over the ranges that the files of all nodes cover.
fn units_and_keys(scans: &[Scan], struck: &Struck, recorder: &Recorder) -> Result<()> {
    let mut derived = Vec::new();
    for scan in scans {
        let files = derived_files(scan, struck);
        derived.push(files.with_context(|| format!("derived files of node {}", scan.node))?);
    }
    let Some(first) = scans.first() else { return Ok(()) };
    for queue in first.queues.keys() {
        let count = |files: &DerivedFiles| files.units.get(queue).map_or(0, Vec::len);
        let common = derived.iter().map(count).min().unwrap_or(0);
        if common == 0 {
            continue;
        }
        let range = (0, common as u64);
        for (scan, files) in scans.iter().zip(&derived) {
            let scanned = scan.queues.get(queue).map_or(&[][..], |scanned| scanned.units.as_slice());
            let expected = scanned.get(..common).unwrap_or(scanned);
            let hash = |units: &[Unit]| xxh3_64(units.as_flattened());
            let own = files.units.get(queue).map_or(0, |units| hash(&units[..common]));
            note(scan, DigestOf::Units, queue.to_string(), range, own, false, recorder);
            note(scan, DigestOf::Units, queue.to_string(), range, hash(expected), true, recorder);
        }
    }
    let to = derived.iter().map(|files| files.keys_to).min().unwrap_or(0);
    if to > 0 {
        for (scan, files) in scans.iter().zip(&derived) {
            for (keys, rebuilt) in [(&files.keys, false), (&scan.keys, true)] {
                let range = (0, to);
                note(
                    scan,
                    DigestOf::Keys,
                    "all".to_owned(),
                    range,
                    hash_of_keys(keys, to),
                    rebuilt,
                    recorder,
                );
            }
        }
    }
    Ok(())
}

/// Of the keys of messages below a position, in an order that does not depend on how files were merged.
fn hash_of_keys(keys: &[(u32, u64)], below: u64) -> u64 {
    let mut keys: Vec<(u64, u32)> = keys
        .iter()
        .filter(|(_, position)| *position < below)
        .map(|&(hash, position)| (position, hash))
        .collect();
    keys.sort_unstable();
    let mut hash = Xxh3::new();
    for (position, key) in keys {
        hash.update(&position.to_be_bytes());
        hash.update(&key.to_be_bytes());
    }
    hash.digest()
}

/// Tables that were taken at the same entry on every node. Those that were struck, and that no node has needed since, count as those of
/// another node, which is what one that would read them takes.
fn tables(scans: &[Scan], struck: &Struck, recorder: &Recorder) -> Result<()> {
    let mut held: BTreeMap<String, Vec<(usize, PathBuf)>> = BTreeMap::new();
    for (at, scan) in scans.iter().enumerate() {
        for file in files::files(&scan.group.join("tables"))? {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if file.extension().is_none_or(|extension| extension != "new") {
                held.entry(name).or_default().push((at, file));
            }
        }
    }
    for (name, files) in held.into_iter().filter(|(_, files)| files.len() == scans.len()) {
        let mut hashes = Vec::new();
        for (at, file) in files {
            let is_sound = !struck.is_as_left(&file)?;
            hashes.push((at, if is_sound { Some(xxh3_64(&fs::read(&file)?)) } else { None }));
        }
        // Of tables that were struck everywhere nothing can be said.
        let Some(sound) = hashes.iter().find_map(|(_, hash)| *hash) else { continue };
        for (at, hash) in hashes {
            let hash = hash.unwrap_or(sound);
            note(&scans[at], DigestOf::Table, name.clone(), (0, 0), hash, false, recorder);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_java() {
        // "polygenelubricants" has the smallest number for its hash, which has no absolute value.
        assert_eq!(wire::java_string_hash("polygenelubricants"), i32::MIN);
        assert_eq!(key_hash("t", "k"), wire::java_string_hash("t#k").unsigned_abs());
        let one = hash_of_keys(&[(1, 10), (2, 20), (3, 99)], 50);
        assert_eq!(one, hash_of_keys(&[(2, 20), (1, 10)], 50));
        assert_ne!(one, hash_of_keys(&[(2, 20), (1, 11)], 50));
    }

    /// A node whose log has ten messages in each of two queues, from 5,000 on, 100 bytes each and each with a key.
    fn scanned(group: &Path) -> Scan {
        let unit = |n: u64| files::unit(5_000 + 100 * n, 100, 0);
        let of = |parity| Scanned {
            units: (0..20).filter(|n| n % 2 == parity).map(unit).collect(),
            ..Scanned::default()
        };
        Scan {
            node: 1,
            group: group.to_owned(),
            end: End { position: 7_000, index: 20, term: 1, chain: 0, frames: 20 },
            queues: (0..2).map(|parity| (Queue::new(GROUP, "t", parity), of(u64::from(parity)))).collect(),
            keys: (0..20).map(|n| (n, 5_000 + 100 * u64::from(n))).collect(),
            voids: 0,
        }
    }

    #[test]
    fn a_struck_file_counts_as_what_the_log_says_of_its_range_and_another_damaged_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let queues = dir.path().join("queues");
        fs::create_dir(&queues).unwrap();
        // Both hold nothing that could be read.
        let (queue, keys) = (queues.join("4096-6000.queue"), queues.join("4096-6500.keys"));
        fs::write(&queue, vec![7; 8192]).unwrap();
        fs::write(&keys, vec![7; 8192]).unwrap();
        let scan = scanned(dir.path());

        let mut struck = Struck::default();
        struck.note(queue.clone()).unwrap();
        struck.note(keys.clone()).unwrap();
        let files = derived_files(&scan, &struck).unwrap();
        // Messages 0 to 9 lie below 6,000, 0 to 14 below 6,500.
        for (id, queue) in &scan.queues {
            assert_eq!(files.units[id], queue.units[..5]);
        }
        assert_eq!((files.keys.as_slice(), files.keys_to), (&scan.keys[..15], 6_500));

        // What a node has written since is its own.
        fs::write(&keys, vec![8; 8192]).unwrap();
        let error = derived_files(&scan, &struck).err().expect("the keys are others");
        assert!(error.to_string().contains("page 0 is damaged"), "{error:#}");
    }

    #[test]
    fn runs_of_a_later_file_begin_where_the_log_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let scan = scanned(dir.path());
        let file = files::Derived { from: 6_000, to: 6_300, file: PathBuf::new() };
        let runs: Vec<(u32, u64, usize)> =
            runs_of(&scan, &file).iter().map(|run| (run.queue, run.first, run.units.len())).collect();
        // Messages 10, 11 and 12.
        assert_eq!(runs, [(0, 5, 2), (1, 5, 1)]);
    }
}
