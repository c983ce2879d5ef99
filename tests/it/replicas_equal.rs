//! The log is the same bytes on every node (docs/formats.md 2): compared file by file after a run with kills.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::cluster::{Cluster, Plan};
use tests::remoting::Connection;
use tests::runner::{Requirement, Scratch, Test, test};
use tests::wait;

const GROUP: &str = "broker-a";
const SEGMENT_HEADER: usize = 4096;
const FRAME_HEADER: usize = 64;
const FRAME_MAGIC: u32 = 0x524D_5101;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("replicas_equal::after_kills", &[Requirement::OwnCluster], after_kills),
        test("replicas_equal::the_comparison_sees_a_flipped_bit", &[], the_comparison_sees_a_flipped_bit),
    ]
}

fn after_kills(scratch: &Scratch) -> Result<()> {
    let mut cluster = Cluster::start(scratch, Plan { preferred_leaders: false, ..Plan::new(3, 1) })?;
    let topic = scratch.unique("t");
    cluster.create_topic(&topic, 4)?;
    let mut acknowledged = 0;
    // 3 × 9 MiB: past the end of the first segment
    for round in 0..3 {
        let leader = cluster.leader(GROUP)?;
        let mut connection = Connection::open(cluster.address(leader, GROUP), Duration::from_secs(5))?;
        for n in 0..72_u8 {
            let body: Vec<u8> = (0..128 << 10).map(|at: u32| (at as u8).wrapping_add(n)).collect();
            let stored = connection.send(&topic, u32::from(n % 4), &body)?;
            // the offset message id ends in the position in the log
            acknowledged = acknowledged.max(u64::from_str_radix(&stored.id[stored.id.len() - 16..], 16)?);
        }
        cluster.kill(leader)?;
        cluster.start_node(leader)?;
        cluster.wait_whole().with_context(|| format!("after kill {round}"))?;
    }
    // wait_whole: every node has the leader's whole log; what lies in memory only is acknowledged by nobody
    let dirs: Vec<_> = (1..=3).map(|node| cluster.group_dir(node, GROUP).join("log")).collect();
    wait::until_true("the same end of the log on every disk", Duration::from_secs(20), || {
        let ends = dirs.iter().map(|dir| end_of_log(dir)).collect::<Result<Vec<u64>>>()?;
        ensure!(
            ends.iter().all(|&end| end == ends[0] && end > acknowledged),
            "{ends:?}, {acknowledged} acknowledged"
        );
        Ok(true)
    })?;
    cluster.kill_all()?;
    let compared = compare(&[&dirs[0], &dirs[1], &dirs[2]])?;
    ensure!(compared > acknowledged, "compared up to {compared}, acknowledged {acknowledged}");
    ensure!(compared > 16 << 20, "one segment only");
    scratch.report(&format!("{compared} bytes equal on three nodes"));
    Ok(())
}

/// The segments of a log: start position and file.
fn segments(dir: &Path) -> Result<Vec<(u64, std::path::PathBuf)>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if name.len() == 20
            && let Ok(start) = name.parse()
        {
            segments.push((start, path));
        }
    }
    ensure!(!segments.is_empty(), "no segments in {}", dir.display());
    segments.sort();
    Ok(segments)
}

/// The end of the last frame, found by walking the frames of the last segment.
fn end_of_log(dir: &Path) -> Result<u64> {
    let mut walked = segments(dir)?;
    while let Some((start, file)) = walked.pop() {
        let end = end_of_frames(start, &fs::read(file)?)?;
        if end > SEGMENT_HEADER || walked.is_empty() {
            return Ok(start + end as u64);
        }
    }
    bail!("no segments")
}

/// Where the frames of a segment end.
fn end_of_frames(start: u64, bytes: &[u8]) -> Result<usize> {
    ensure!(bytes.starts_with(b"RMQSEG"), "the segment at {start} has no header");
    let mut at = SEGMENT_HEADER;
    while let Some(header) = bytes.get(at..at + FRAME_HEADER) {
        let word = |from: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| header[from + n]));
        let position = u64::from(word(32)) << 32 | u64::from(word(36));
        if word(0) != FRAME_MAGIC || position != start + at as u64 {
            break;
        }
        let next = at + FRAME_HEADER + (word(8) as usize).next_multiple_of(8);
        if next > bytes.len() {
            break;
        }
        at = next;
    }
    Ok(at)
}

/// Compares the logs byte for byte up to the shortest one's last frame; returns the position of that end.
fn compare(dirs: &[&Path]) -> Result<u64> {
    let end = dirs.iter().map(|dir| end_of_log(dir)).collect::<Result<Vec<u64>>>()?.into_iter().min();
    let end = end.context("no logs")?;
    let first = segments(dirs[0])?;
    for dir in &dirs[1..] {
        let other = segments(dir)?;
        for ((start, file), (other_start, other_file)) in first.iter().zip(&other) {
            ensure!(start == other_start, "segments start at {start} and {other_start}");
            let length = end.saturating_sub(*start).min(fs::metadata(file)?.len());
            let (ours, theirs) = (head(file, length)?, head(other_file, length)?);
            if let Some(at) = ours.iter().zip(&theirs).position(|(a, b)| a != b) {
                bail!("{} and {} differ at {}", file.display(), other_file.display(), start + at as u64);
            }
            ensure!(ours.len() == theirs.len(), "{} is shorter", other_file.display());
        }
        ensure!(
            other.last().is_some_and(|(start, _)| *start < end || other.len() == 1),
            "segments beyond the end"
        );
    }
    Ok(end)
}

fn head(file: &Path, length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Two made-up logs of two frames.
fn the_comparison_sees_a_flipped_bit(scratch: &Scratch) -> Result<()> {
    let mut log = b"RMQSEG01".to_vec();
    log.resize(SEGMENT_HEADER, 0);
    for body in [13_usize, 24] {
        let at = log.len();
        log.extend(FRAME_MAGIC.to_be_bytes());
        log.extend([1, 0, 0, 0]);
        log.extend((body as u32).to_be_bytes());
        log.resize(at + 32, 7);
        log.extend((at as u64).to_be_bytes());
        log.resize(at + FRAME_HEADER + body.next_multiple_of(8), 9);
    }
    let end = log.len();
    log.resize(16 << 10, 0);
    let (one, two) = (scratch.dir().join("one"), scratch.dir().join("two"));
    let write = |dir: &Path, bytes: &[u8]| {
        fs::create_dir_all(dir)?;
        Ok::<_, anyhow::Error>(fs::write(dir.join("00000000000000000000"), bytes)?)
    };
    write(&one, &log)?;
    write(&two, &log)?;
    ensure!(compare(&[&one, &two])? == end as u64, "the end is {end}");
    let mut flipped = log.clone();
    flipped[SEGMENT_HEADER + FRAME_HEADER + 3] ^= 1;
    write(&two, &flipped)?;
    ensure!(
        compare(&[&one, &two]).is_err_and(|e| e.to_string().contains("differ at 4163")),
        "a flipped bit passes"
    );
    // a header is compared too
    flipped.clone_from(&log);
    flipped[100] ^= 1;
    write(&two, &flipped)?;
    ensure!(compare(&[&one, &two]).is_err(), "a flipped bit in the segment header passes");
    Ok(())
}
