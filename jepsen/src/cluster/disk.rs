//! A node's disk: an ext4 file system of its own in an image file, so that its power can be cut, it can be filled and it
//! can hang without anybody else's noticing.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::lease::unmount;
use super::shell::{run, text};

/// What of the unsynced writes a power cut loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerCut {
    /// Everything that was not synced (`FS_IOC_SHUTDOWN` with flag 2).
    Everything,
    /// Data, while the journal, and with it names and lengths of files, is saved (flag 1): a file that was renamed before
    /// its data were synced comes back empty.
    Data,
}

/// `_IOR('X', 125, __u32)` of linux/fs.h: stops a file system at once.
const FS_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587D_u32 as libc::Ioctl;

const FILLER: &str = "filler";
const KEPT: &str = "canary-kept";
const LOST: &str = "canary-lost";
const CANARY_BYTES: usize = 64 << 10;

/// The image, its mount, and whether it hangs.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    is_frozen: bool,
}

impl Disk {
    /// Makes a sparse image of `bytes`, formats it and mounts it, in `directory`.
    pub fn make(directory: &Path, name: &str, bytes: u64) -> Result<Disk> {
        let (image, mount) = (directory.join(format!("{name}.img")), directory.join(name));
        fs::create_dir_all(&mount)?;
        File::create(&image)?.set_len(bytes)?;
        let options = ["-q", "-F", "-m", "0", "-b", "4096", "-E", "lazy_itable_init=1,nodiscard"];
        run("mkfs.ext4", &[&options[..], &[text(&image)]].concat())?;
        let disk = Disk { image, mount, is_frozen: false };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        run("mount", &["-o", "loop", text(&self.image), text(&self.mount)]).map(drop)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power: nothing that is not on the disk will be there. The processes that use it are stopped before, so
    /// that nothing is written after the canary, and killed behind it, before [`Disk::power_on`].
    pub fn power_off(&self, cut: PowerCut) -> Result<()> {
        let flag: u32 = match cut {
            PowerCut::Everything => 2,
            PowerCut::Data => 1,
        };
        // Not synced: its absence proves afterwards that the cut lost something, also where the node had synced all.
        fs::write(self.mount.join(LOST), canary())?;
        let directory = File::open(&self.mount)?;
        // SAFETY: the request reads one u32 through the pointer, which is alive during the call, and the descriptor is
        // open. It touches no memory of this process.
        let result = unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_SHUTDOWN, &raw const flag) };
        ensure!(result == 0, "FS_IOC_SHUTDOWN: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Mounts it again after a cut; an error when what was not synced is still there, or what was synced is not. How many
    /// bytes of the canary are gone.
    pub fn power_on(&self) -> Result<u64> {
        unmount(text(&self.mount))?;
        self.mount()?;
        let lost = fs::read(self.mount.join(LOST)).unwrap_or_default();
        ensure!(lost != canary(), "the power cut lost nothing");
        let _ = fs::remove_file(self.mount.join(LOST));
        let kept = fs::read(self.mount.join(KEPT));
        ensure!(kept.is_ok_and(|kept| kept == canary()), "the power cut lost what was synced");
        Ok(differing(&canary(), &lost))
    }

    /// Writes and syncs what every later power cut must keep.
    pub fn plant_canary(&self) -> Result<()> {
        let mut file = File::create(self.mount.join(KEPT))?;
        file.write_all(&canary())?;
        file.sync_all()?;
        Ok(File::open(&self.mount)?.sync_all()?)
    }

    /// Takes all the space that there is, the last piece too; the bytes taken now.
    pub fn fill(&self) -> Result<u64> {
        let file = OpenOptions::new().create(true).append(true).open(self.mount.join(FILLER))?;
        let before = file.metadata()?.len();
        let mut piece: u64 = 64 << 20;
        let mut end = before;
        while piece >= 4096 {
            match fallocate(&file, FallocateFlags::empty(), end, piece) {
                Ok(()) => end += piece,
                Err(rustix::io::Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(error).context("fill the disk"),
            }
        }
        Ok(file.metadata()?.len() - before)
    }

    /// Whether a write that needs room is refused; what it could write is taken back.
    pub fn try_write(&self) -> Result<bool> {
        let file = self.mount.join("try");
        let written = fs::write(&file, vec![1; 64 << 10]);
        let refused = match written {
            Ok(()) => false,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => true,
            Err(error) => return Err(error).context("try to write"),
        };
        let _ = fs::remove_file(file);
        Ok(refused)
    }

    /// Gives the space back.
    pub fn drain(&self) -> Result<()> {
        match fs::remove_file(self.mount.join(FILLER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Bytes that can still be allocated.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = statvfs(&self.mount)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Whoever writes waits from now on.
    pub fn freeze(&mut self) -> Result<()> {
        if !self.is_frozen {
            run("fsfreeze", &["-f", text(&self.mount)])?;
            self.is_frozen = true;
        }
        Ok(())
    }

    pub fn thaw(&mut self) -> Result<()> {
        if self.is_frozen {
            run("fsfreeze", &["-u", text(&self.mount)])?;
            self.is_frozen = false;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Processes that wait for it could not be killed. The lease unmounts it.
        if let Err(error) = self.thaw() {
            eprintln!("jepsen: {}: {error:#}", self.mount.display());
        }
    }
}

/// The newest files of a replica, as they are while its node stands still: what a power cut may take from.
#[derive(Debug)]
pub struct Contents(Vec<(PathBuf, Vec<u8>)>);

/// More segments than that are sealed, and so synced.
const SEGMENTS: usize = 2;

impl Contents {
    /// What cannot be read counts for nothing: it is only measured here.
    pub fn newest(group: &Path) -> Contents {
        let mut segments = names(&group.join("log"));
        segments.sort_unstable();
        let newest = segments.into_iter().rev().filter(|file| is_segment(file)).take(SEGMENTS);
        let others = ["vote", "manifest"].map(|name| group.join(name));
        let files = newest.chain(others);
        Contents(files.filter_map(|file| fs::read(&file).ok().map(|bytes| (file, bytes))).collect())
    }

    /// How many of these bytes are no more what they were.
    pub fn lost(&self, group: &Path) -> u64 {
        let now = |file: &Path| fs::read(file).unwrap_or_default();
        let ours = self.0.iter().filter(|(file, _)| file.starts_with(group));
        ours.map(|(file, before)| differing(before, &now(file))).sum()
    }
}

fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

/// Named by the position of its first byte, 20 digits.
fn is_segment(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// Bytes of `before` that are otherwise in `after`, or not there.
fn differing(before: &[u8], after: &[u8]) -> u64 {
    let common = before.iter().zip(after).filter(|(before, after)| before != after).count();
    let cut = before.get(after.len()..).unwrap_or_default();
    // Zeros that are cut off were room, not data.
    (common + cut.iter().filter(|byte| **byte != 0).count()) as u64
}

fn canary() -> Vec<u8> {
    (0..CANARY_BYTES).map(|at| (at % 251) as u8 + 1).collect()
}

/// Some bytes of a file.
pub fn read_at(file: &Path, at: u64, count: usize) -> Result<Vec<u8>> {
    let mut open = File::open(file).with_context(|| file.display().to_string())?;
    open.seek(SeekFrom::Start(at))?;
    let mut bytes = vec![0; count];
    open.read_exact(&mut bytes).with_context(|| format!("{} at {at}", file.display()))?;
    Ok(bytes)
}

/// Overwrites some bytes of a file, and has them on the disk.
pub fn write_at(file: &Path, at: u64, bytes: &[u8]) -> Result<()> {
    let mut open = OpenOptions::new().write(true).open(file).with_context(|| file.display().to_string())?;
    open.seek(SeekFrom::Start(at))?;
    open.write_all(bytes)?;
    Ok(open.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_bytes_are_counted() {
        assert_eq!(differing(b"abc", b"abc"), 0);
        assert_eq!(differing(b"abc", b"aXc"), 1);
        assert_eq!(differing(b"abc\0\0", b"a"), 2);
        assert_eq!(differing(b"abc", b""), 3);
    }
}
