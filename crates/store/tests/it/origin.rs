//! A log that does not start at 0, above an opaque sealed segment: the seam for an importer (design.md, "Positions and
//! indexes are independent").

use std::path::Path;
use std::sync::Arc;

use store::{
    CrashDisk, Disk, Flusher, ForeignSegment, Identity, Log, LogId, LogIndex, LogItem, LogPosition,
    SegmentKind, StoreError, TablesMeta,
};

use super::harness::{DIR, Machine, append, content, draft, entries, identity, ids, next_index, options};

const GIB: u64 = 1 << 30;

fn origin() -> TablesMeta {
    TablesMeta { last: LogId::new(0, 1_000_000), end: LogPosition(3 * GIB), chain: 0, log_time_ms: 123 }
}

fn import(disk: &CrashDisk) -> Vec<u8> {
    let foreign: Vec<u8> = (0..5000_u32).flat_map(u32::to_be_bytes).collect();
    let name = format!("{DIR}/log/{:020}", 2 * GIB);
    disk.create_dir(Path::new(DIR).join("log").as_path()).unwrap();
    disk.create(Path::new(&name)).unwrap().write_all_at(0, &foreign).unwrap();
    let end = LogPosition(2 * GIB + foreign.len() as u64);
    let segment = ForeignSegment { start: LogPosition(2 * GIB), end, kind: "classic".into() };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Log::create_at(&disk, Path::new(DIR), &identity(), &options(), &origin(), b"imported tables", &[segment])
        .unwrap();
    foreign
}

#[test]
fn the_first_entry_is_1_000_001_at_3_gib_above_a_foreign_segment() {
    let disk = CrashDisk::new(1);
    let foreign = import(&disk);
    disk.crash(0);
    let mut machine = Machine::on(disk);
    for round in 0..3 {
        let state = machine.log.state();
        assert_eq!(state.purged, Some(LogId::new(0, 1_000_000)));
        assert_eq!((state.first_index, state.first_position), (LogIndex(1_000_001), LogPosition(3 * GIB)));
        let (meta, tables) = machine.log.load_newest_checkpoint().unwrap().unwrap();
        assert_eq!((meta, tables.as_slice()), (origin(), &b"imported tables"[..]));
        assert_eq!(machine.log.current_snapshot().unwrap().unwrap().0, meta);

        let next = next_index(&machine.log);
        assert_eq!(next, 1_000_001 + round * 10);
        machine.append((next..next + 10).map(|index| draft(1, index, 2000)).collect());
        machine.log.check().unwrap();
        let frames = entries(&machine.log);
        assert_eq!(frames[0].id(), LogId::new(1, 1_000_001));
        assert_eq!(frames[0].position(), LogPosition(3 * GIB + 4096));
        assert!(frames[0].log_time_ms() >= 123);

        // The foreign bytes are served by position and never taken for frames.
        let bytes = machine.log.read_bytes(LogPosition(2 * GIB + 400), 1000).unwrap();
        assert_eq!(bytes, foreign[400..1400]);
        assert!(matches!(
            machine.log.read_bytes(LogPosition(2 * GIB + 19_900), 200),
            Err(StoreError::OutOfRange { .. })
        ));
        assert!(matches!(machine.log.read_bytes(LogPosition(GIB), 8), Err(StoreError::Purged { .. })));
        assert!(matches!(
            machine.log.read(LogIndex(1_000_000), LogIndex(1_000_001), 1),
            Err(StoreError::Purged { .. })
        ));

        let mut reader = machine.log.frames_from(LogPosition(0));
        match reader.next_item().unwrap() {
            Some(LogItem::Foreign { kind, start, end }) => {
                assert_eq!(
                    (kind.as_str(), start, end),
                    ("classic", LogPosition(2 * GIB), LogPosition(2 * GIB + 20_000))
                );
            }
            other => panic!("{other:?}"),
        }
        let mut walked = Vec::new();
        while let Some(LogItem::Frame(frame)) = reader.next_item().unwrap() {
            walked.push(frame.id());
        }
        assert_eq!(walked, frames.iter().map(store::Frame::id).collect::<Vec<_>>());
        let segments = machine.log.segments();
        assert_eq!(segments[0].kind, SegmentKind::Foreign("classic".into()));
        machine = machine.crash(round);
    }
}

#[test]
fn truncation_to_the_origin_and_purging_beyond_the_foreign_segment() {
    let disk = CrashDisk::new(1);
    import(&disk);
    let machine = Machine::on(disk);
    let first = 1_000_001;
    machine.append((first..first + 8).map(|index| draft(1, index, 100)).collect());
    machine.log.truncate_after(Some(LogId::new(0, 1_000_000))).unwrap();
    machine.flusher.turn();
    assert_eq!(machine.log.segments().len(), 1, "the foreign one stays");
    let machine = machine.crash(1);
    assert_eq!(next_index(&machine.log), first);
    machine.append((first..first + 12).map(|index| draft(2, index, 3000)).collect());
    machine.log.save_committed(Some(LogId::new(2, first + 11)));
    let sealed = machine.log.segments().iter().filter_map(|segment| segment.sealed).nth(1).unwrap();
    let last = sealed.last.unwrap();
    let meta = TablesMeta { last, end: sealed.end, chain: sealed.chain, log_time_ms: sealed.log_time_ms };
    machine.log.save_tables(store::TablesKind::Boundary, &meta, b"t").unwrap();
    machine.log.set_current_snapshot(last).unwrap();
    machine.log.purge(last).unwrap();
    machine.flusher.turn();
    machine.log.check().unwrap();
    let name = format!("{DIR}/log/{:020}", 2 * GIB);
    assert!(machine.disk.open(Path::new(&name)).is_err(), "the oldest bytes go first");
    let expect = ids(&machine.log);
    let machine = machine.crash(2);
    assert_eq!(ids(&machine.log), expect);
}

#[test]
fn every_replica_of_an_imported_log_has_the_same_bytes() {
    let machines: Vec<Machine> = (0..2)
        .map(|_| {
            let disk = CrashDisk::new(1);
            import(&disk);
            Machine::on(disk)
        })
        .collect();
    let ack = append(&machines[0].log, (1_000_001..1_000_020).map(|index| draft(1, index, 1500)).collect());
    machines[0].flusher.turn();
    ack.ok();
    machines[1].append(super::harness::frames_as_entries(&entries(&machines[0].log)));
    for segment in machines[0].log.segments().iter().filter(|segment| segment.sealed.is_some()) {
        let path = format!("{DIR}/log/{:020}", segment.start.0);
        assert_eq!(content(&machines[0].disk, &path), content(&machines[1].disk, &path));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let disk = CrashDisk::new(1);
    import(&disk);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let again = Log::create_at(&shared, Path::new(DIR), &identity(), &options(), &origin(), b"", &[]);
    assert!(matches!(again, Err(StoreError::Invariant(_))), "{again:?}");
    let check = |segment: ForeignSegment| {
        let disk = CrashDisk::new(1);
        let path = format!("{DIR}/log/{:020}", segment.start.0);
        disk.create_dir(Path::new(DIR).join("log").as_path()).unwrap();
        disk.create(Path::new(&path)).unwrap().allocate(10_000).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let made = Log::create_at(
            &disk,
            Path::new(DIR),
            &identity(),
            &options(),
            &origin(),
            b"",
            std::slice::from_ref(&segment),
        );
        assert!(matches!(made, Err(StoreError::Invariant(_))), "{segment:?}: {made:?}");
    };
    check(ForeignSegment { start: LogPosition(GIB), end: LogPosition(GIB + 10_001), kind: "classic".into() });
    check(ForeignSegment {
        start: LogPosition(3 * GIB),
        end: LogPosition(3 * GIB + 10_000),
        kind: "classic".into(),
    });
    check(ForeignSegment { start: LogPosition(GIB), end: LogPosition(GIB + 10_000), kind: "raft-v1".into() });
    let other = Identity { node: 2, ..identity() };
    let opened = Log::open_with(Arc::new(disk), Path::new(DIR), &other, &Flusher::manual(), options());
    assert!(matches!(opened, Err(StoreError::Identity { .. })));
}
