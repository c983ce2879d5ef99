//! Damage to the files of one node while it is down: what a bad sector, a lost write or a careless hand leaves behind. The
//! node is started on it at once; whether it may refuse depends on where the damage is (docs/formats.md 1).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{Begun, Fault, Who, World};
use crate::cluster::disk::{read_at, write_at};
use crate::cluster::node::client_address;
use crate::history::{Effect, EffectOf};
use crate::run::files::{derived, files, segments, walk};

/// Which file, and what follows from damage there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    /// Frames of the segment that is written: what is below the watermark is never cut, so the node refuses.
    OpenSegment,
    /// Frames of a segment that gets no more.
    SealedSegment,
    /// Behind the last frame: a torn write. It is passed over.
    Tail,
    /// Derived files: built again.
    Queue,
    Keys,
    Positions,
    /// One of the two copies of the vote: the other counts.
    Vote,
    /// Tables: an older one is taken, and the log behind it.
    Checkpoint,
    Boundary,
    /// Without it nobody can say what the log is: the node refuses.
    Manifest,
}

impl Zone {
    /// The node has to come back and take part with the damage.
    fn must_survive(self) -> bool {
        !matches!(self, Zone::OpenSegment | Zone::SealedSegment | Zone::Manifest)
    }

    /// A file of the zone, and the bytes in it of which one may be hit.
    fn target(self, group: &Path, rng: &mut StdRng) -> Result<(PathBuf, std::ops::Range<u64>)> {
        let all = segments(group)?;
        let open = all.last().context("there is no segment")?;
        let whole = |file: PathBuf| {
            let length = file.metadata()?.len();
            Ok::<_, anyhow::Error>((file, 0..length))
        };
        let mut one_of = |found: Vec<PathBuf>| {
            let file =
                found.choose(rng).cloned().with_context(|| format!("no file of {self:?} is there yet"));
            file.and_then(whole)
        };
        let tables = |start: &str| -> Result<Vec<PathBuf>> {
            let mut found = files(&group.join("tables"))?;
            found.retain(|file| {
                file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
            });
            Ok(found)
        };
        match self {
            Zone::OpenSegment => {
                let end = walk(group, |_| Ok(()))?.position;
                // The kill may have come between the making of a segment and its first frame.
                let written = all.iter().rev().find(|segment| segment.start + SEGMENT_HEADER < end);
                let written = written.context("no segment has a frame yet")?;
                Ok((written.file.clone(), SEGMENT_HEADER..end - written.start))
            }
            Zone::Tail => {
                let end = walk(group, |_| Ok(()))?.position;
                // In a segment without a frame the next one is its first.
                let end = end.saturating_sub(open.start).max(SEGMENT_HEADER);
                let room = open.file.metadata()?.len().saturating_sub(WATERMARK_SLOTS);
                let range = end..room.min(end + TAIL_MAX);
                ensure!(!range.is_empty(), "the open segment is full");
                Ok((open.file.clone(), range))
            }
            Zone::SealedSegment => {
                let sealed = all[..all.len() - 1].iter().map(|segment| segment.file.clone()).collect();
                let (file, range) = one_of(sealed)?;
                Ok((file, SEGMENT_HEADER..range.end))
            }
            Zone::Queue => one_of(derived(group, "queue")?.into_iter().map(|file| file.file).collect()),
            Zone::Keys => one_of(derived(group, "keys")?.into_iter().map(|file| file.file).collect()),
            Zone::Positions => {
                let mut found = files(&group.join("log"))?;
                found.retain(|file| file.extension().is_some_and(|ending| ending == "index"));
                one_of(found)
            }
            Zone::Vote => {
                let slot = rng.random_range(0..2) * VOTE_SLOT;
                Ok((group.join("vote"), slot..slot + VOTE_BYTES))
            }
            Zone::Checkpoint => one_of(tables("checkpoint-")?),
            Zone::Boundary => one_of(tables("boundary-")?),
            Zone::Manifest => whole(group.join("manifest")),
        }
    }
}

/// A file of the zone is there within this, at the rate of the rows.
const TARGET: Duration = Duration::from_mins(1);
const SEGMENT_HEADER: u64 = 4096;
/// Behind the addressable bytes of the open segment.
const WATERMARK_SLOTS: u64 = 8192;
const TAIL_MAX: u64 = 4096;
const VOTE_SLOT: u64 = 4096;
const VOTE_BYTES: u64 = 33;
const OVERWRITTEN_BYTES: u64 = 512;

/// What is done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    Flip,
    Overwrite,
    Truncate,
    Delete,
}

#[derive(Debug)]
pub(super) struct Corrupt {
    name: &'static str,
    zone: Zone,
    harm: Harm,
    struck: u64,
    /// The file, and what it was.
    saved: Option<(PathBuf, Vec<u8>)>,
}

impl Corrupt {
    pub(super) fn new(name: &'static str, zone: Zone, harm: Harm) -> Corrupt {
        Corrupt { name, zone, harm, struck: 0, saved: None }
    }

    /// Puts back what was there, of a node that is down.
    fn repair(&mut self) -> Result<()> {
        if let Some((file, bytes)) = self.saved.take() {
            std::fs::write(&file, bytes)?;
            std::fs::File::open(&file)?.sync_all()?;
        }
        Ok(())
    }
}

impl Fault for Corrupt {
    fn name(&self) -> &'static str {
        self.name
    }

    fn begin(&mut self, world: &mut World<'_>) -> Result<Begun> {
        let (struck, led) = world.pick_one(Who::One)?;
        self.struck = struck;
        let group = world.cluster.node(self.struck).group_dir();
        // Most files come only with time: sealed segments, queues, checkpoints.
        let stop = world.cluster.stop().clone();
        stop.until("there is something to damage", TARGET, || {
            self.zone.target(&group, &mut world.rng.clone()).map(Some)
        })?;
        let pids = world.cluster.kill(&[self.struck])?;
        let mut effects: Vec<Effect> =
            pids.into_iter().map(|pid| Effect::on(EffectOf::Killed, self.struck).pid(pid)).collect();
        let (file, range) = self.zone.target(&group, world.rng)?;
        ensure!(!range.is_empty(), "{} is empty", file.display());
        self.saved = Some((file.clone(), std::fs::read(&file)?));
        // A torn write begins where the log ends; what lies further behind is what an older one left.
        let at_end = self.zone == Zone::Tail && world.rng.random();
        let at = if at_end { range.start } else { world.rng.random_range(range.clone()) };
        let (effect, note) = harm(self.harm, &file, at, range.end, world.rng)?;
        world.cluster.note_struck(file)?;
        effects.push(Effect { node: Some(self.struck), ..effect });
        effects.extend(led);
        // Not waited for: it may refuse.
        let (node, lease) = world.cluster.node_and_lease(self.struck);
        node.may_end = true;
        node.start(lease)?;
        Ok(Begun { targets: vec![self.struck], leaves_majority: true, effects, note })
    }

    fn end(&mut self, world: &mut World<'_>) -> Result<Vec<Effect>> {
        world.cluster.look()?;
        let status = world.cluster.admin().status(client_address(self.struck));
        let takes_part = status
            .as_ref()
            .is_ok_and(|status| matches!(status.state.as_str(), "leader" | "follower") && status.leader != 0);
        if takes_part {
            let pid = world.cluster.node(self.struck).pid().context("it answers")?;
            return Ok(vec![Effect::on(EffectOf::Started, self.struck).pid(pid)]);
        }
        let said = match &status {
            Ok(status) => format!("{status:?}"),
            Err(error) => format!("{error:#}"),
        };
        let said = format!("{said}\n{}", world.cluster.node(self.struck).log_tail(15));
        if world.cluster.node(self.struck).is_running() {
            world.cluster.node_mut(self.struck).kill()?;
        }
        self.repair()?;
        if self.zone.must_survive() {
            bail!("node {} does not take part with {:?} damaged: {said}", self.struck, self.zone);
        }
        // What an operator does who has a copy of the file.
        println!("node {} refuses {:?}, as it should:\n{said}", self.struck, self.zone);
        world.start(&[self.struck])
    }
}

/// Harms a file at a place, before `end`; what was done, and in words.
fn harm(harm: Harm, file: &Path, at: u64, end: u64, rng: &mut StdRng) -> Result<(Effect, String)> {
    let name = file.display().to_string();
    let (effect, note) = match harm {
        Harm::Flip => {
            let before = read_at(file, at, 1)?[0];
            let bit = rng.random_range(0..8_u32);
            write_at(file, at, &[before ^ (1 << bit)])?;
            ensure!(read_at(file, at, 1)?[0] != before, "{name}: the bit was not flipped");
            (Effect::new(EffectOf::Flipped).count(1), format!("bit {bit} of byte {at}"))
        }
        Harm::Overwrite => {
            let count = OVERWRITTEN_BYTES.min(end - at);
            let before = read_at(file, at, count as usize)?;
            let garbage: Vec<u8> = before.iter().map(|byte| byte ^ rng.random_range(1..=255_u8)).collect();
            write_at(file, at, &garbage)?;
            (Effect::new(EffectOf::Overwritten).bytes(count), format!("{count} bytes at {at}"))
        }
        Harm::Truncate => {
            let open = std::fs::OpenOptions::new().write(true).open(file)?;
            let length = open.metadata()?.len();
            open.set_len(at)?;
            open.sync_all()?;
            (Effect::new(EffectOf::Truncated).bytes(length - at), format!("{at} of {length} bytes are left"))
        }
        Harm::Delete => {
            std::fs::remove_file(file)?;
            (Effect::new(EffectOf::Removed), "deleted".to_owned())
        }
    };
    Ok((effect.at(name.clone()), format!("{name}: {note}")))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn harm_stays_in_its_range_and_says_what_it_did() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let original = vec![7_u8; 4000];
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..50 {
            std::fs::write(&file, &original).unwrap();
            let at = rng.random_range(100..200);
            let (effect, _) = harm(Harm::Flip, &file, at, 200, &mut rng).unwrap();
            assert_eq!((effect.what, effect.count), (EffectOf::Flipped, 1));
            let now = std::fs::read(&file).unwrap();
            let changed: Vec<usize> = (0..4000).filter(|&at| now[at] != original[at]).collect();
            assert_eq!(changed, [at as usize]);
            std::fs::write(&file, &original).unwrap();
            let (effect, _) = harm(Harm::Overwrite, &file, at, 200, &mut rng).unwrap();
            let now = std::fs::read(&file).unwrap();
            let changed: Vec<usize> = (0..4000).filter(|&at| now[at] != original[at]).collect();
            assert_eq!(changed.len() as u64, effect.bytes);
            assert!(changed.iter().all(|at| (100..200).contains(at)));
        }
        let (effect, _) = harm(Harm::Truncate, &file, 150, 200, &mut rng).unwrap();
        assert_eq!(file.metadata().unwrap().len() + effect.bytes, 4000);
        harm(Harm::Delete, &file, 0, 1, &mut rng).unwrap();
        assert!(!file.exists());
    }
}
