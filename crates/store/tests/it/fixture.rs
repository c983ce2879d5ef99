//! A directory of format version 1, as it was written when that format was new: every later version opens it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use store::{
    CrashDisk, Disk, Draft, Flusher, FrameKind, Identity, Log, LogId, LogIndex, LogItem, LogPosition,
    NewEntry, Options, OsDisk, TablesKind, Term, Vote,
};

use super::harness::{Ack, body, entries, meta};

fn identity() -> Identity {
    Identity {
        cluster: "fixture".into(),
        group: "group-with-a-name-of-more-than-16-bytes".into(),
        node: 2,
        segment_size: 8192,
    }
}

fn options() -> Options {
    Options { small_segments: true, ..Options::default() }
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

/// What is in it: (term, length of the body, kind) of entries 0 to 11.
const ENTRIES: [(u64, usize, FrameKind); 12] = [
    (1, 200, FrameKind::Membership),
    (1, 0, FrameKind::Blank),
    (1, 900, FrameKind::Command),
    (1, 1500, FrameKind::Command),
    (1, 1000, FrameKind::Command),
    (1, 2000, FrameKind::Command),
    (2, 0, FrameKind::Blank),
    (2, 1800, FrameKind::Command),
    (2, 1801, FrameKind::Command),
    (2, 700, FrameKind::Command),
    (2, 701, FrameKind::Command),
    (2, 702, FrameKind::Command),
];

fn entry_body(index: u64, term: u64, len: usize) -> Vec<u8> {
    if len == 0 { Vec::new() } else { body(term, index, len) }
}

fn write() -> (CrashDisk, Log, Flusher) {
    let disk = CrashDisk::new(1);
    let flusher = Flusher::manual();
    let log =
        Log::open_with(Arc::new(disk.clone()), Path::new("/v1"), &identity(), &flusher, options()).unwrap();
    for (index, (term, len, kind)) in (0..).zip(ENTRIES) {
        let draft = Draft::new(
            LogId::new(term, index),
            kind,
            1_700_000_000_000 + index,
            &entry_body(index, term, len),
        );
        let ack = Ack::default();
        log.append(vec![NewEntry::Draft(draft)], ack.done()).unwrap();
        flusher.turn();
        ack.ok();
    }
    log.save_vote_now(Vote { term: Term(2), node: 2, committed: true }).unwrap();
    log.save_committed(Some(LogId::new(2, 10)));
    log.set_formed([(1, "1".repeat(32)), (2, log.incarnation().to_owned()), (3, "3".repeat(32))].into())
        .unwrap();
    let boundary = log.segments()[0].sealed.unwrap().last.unwrap();
    let frames = entries(&log);
    let last = &frames[boundary.index.0 as usize];
    log.save_tables(TablesKind::Boundary, &meta(last), b"tables at the boundary").unwrap();
    log.set_current_snapshot(last.id()).unwrap();
    log.purge(last.id()).unwrap();
    log.save_tables(TablesKind::Checkpoint, &meta(&frames[10]), b"tables at the checkpoint").unwrap();
    log.sync_all().unwrap();
    flusher.turn();
    (disk, log, flusher)
}

fn files(disk: &dyn Disk, dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for name in disk.list(dir).unwrap() {
        if name.starts_with("next-") || name == "LOCK" {
            continue;
        }
        let path = dir.join(&name);
        if disk.list(&path).is_ok() {
            let inside = files(disk, &path);
            all.extend(inside.into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if let Some(bytes) = store::read_file(disk, &path, 1 << 20).unwrap() {
            all.push((name, bytes));
        }
    }
    all
}

#[test]
#[ignore = "writes the fixture of this format version; run it once per version"]
fn write_the_fixture() {
    let (disk, ..) = write();
    let _ = std::fs::remove_dir_all(home());
    for (name, bytes) in files(&disk, Path::new("/v1")) {
        let path = home().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn version_1_is_written_as_it_was() {
    let (disk, ..) = write();
    let (now, then) = (files(&disk, Path::new("/v1")), files(&OsDisk, &home()));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&now), names(&then));
    for ((name, now), (_, then)) in now.iter().zip(&then) {
        assert!(now == then, "{name} differs: the format has changed, so must its version");
    }
    assert!(then.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() < 100 << 10);
}

#[test]
fn version_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files(&OsDisk, &home()) {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let flusher = Flusher::start(1);
    let log = Log::open_with(Arc::new(OsDisk), dir.path(), &identity(), &flusher, options()).unwrap();
    let state = log.state();
    assert_eq!(state.purged, Some(LogId::new(1, 4)));
    assert_eq!(state.first_position, LogPosition(8192));
    assert_eq!(state.last, Some(LogId::new(2, 11)));
    assert_eq!(log.read_committed(), Some(LogId::new(2, 10)));
    assert_eq!(log.vote(), Some(Vote { term: Term(2), node: 2, committed: true }));
    assert_eq!(log.formed().unwrap()[&3], "3".repeat(32));
    assert_eq!(log.load_newest_checkpoint().unwrap().unwrap().1, b"tables at the checkpoint");
    assert_eq!(log.current_snapshot().unwrap().unwrap().1, b"tables at the boundary");
    let mut reader = log.frames_from(LogPosition(0));
    for (index, (term, len, kind)) in (0..).zip(ENTRIES).skip(5) {
        let Some(LogItem::Frame(frame)) = reader.next_item().unwrap() else { panic!("entry {index}") };
        assert_eq!((frame.id(), frame.kind()), (LogId::new(term, index), kind));
        assert_eq!(frame.body(), entry_body(index, term, len));
        assert_eq!(log.position_of(LogIndex(index)).unwrap(), frame.position());
    }
    log.check().unwrap();
    log.close().unwrap();
    drop(log);
    flusher.stop();
}
