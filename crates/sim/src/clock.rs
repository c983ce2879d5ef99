//! The clocks of this process and its randomness, in the hands of the simulation.
//!
//! ```text
//! std Instant, SystemTime ──▶ clock_gettime ─┐                      ┌─ virtual: NOW, and for the wall clock what a node is ahead
//!                                            ├─▶ the two functions ─┤
//! RandomState, rand::rng() ─▶ getrandom ─────┘      below           └─ before `start`, and in the runner: the kernel's
//! ```
//! An executable's symbols come before those of libc, so this needs no change of production code. tokio's own clock is
//! paused and moves with NOW (cluster.rs). Whatever runs does so alone, so a number for the process is enough.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};

use crate::random;

static IS_SIMULATED: AtomicBool = AtomicBool::new(false);
/// Since the start of the simulation.
static NOW_MS: AtomicU64 = AtomicU64::new(0);
static NODE: AtomicU64 = AtomicU64::new(0);
static WALL_AHEAD_MS: AtomicI64 = AtomicI64::new(0);
static RANDOM: AtomicU64 = AtomicU64::new(0);

/// What the monotonic clock says at the start: nobody is to rely on a number near 0.
const MONOTONIC_START_MS: u64 = 1_000_000_000;
/// What a right wall clock says at the start: 2026-01-01.
pub(crate) const WALL_START_MS: u64 = 1_767_225_600_000;

/// From here on time stands still until it is set, and randomness is a function of the seed.
pub(crate) fn start(seed: u64) {
    RANDOM.store(seed, Relaxed);
    IS_SIMULATED.store(true, Relaxed);
}

pub(crate) fn now_ms() -> u64 {
    NOW_MS.load(Relaxed)
}

pub(crate) fn set_now_ms(ms: u64) {
    NOW_MS.store(ms, Relaxed);
}

/// Who runs next, 0 for the clients, and by how much its wall clock is wrong.
pub(crate) fn set_node(node: u64, wall_ahead_ms: i64) {
    NODE.store(node, Relaxed);
    WALL_AHEAD_MS.store(wall_ahead_ms, Relaxed);
}

/// Who runs, 0 for the clients.
pub(crate) fn node() -> u64 {
    NODE.load(Relaxed)
}

/// What a right wall clock says.
pub(crate) fn true_wall_ms() -> u64 {
    WALL_START_MS + now_ms()
}

/// libc's, for the whole process.
///
/// # Safety
/// As libc's: `to` can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    to: *mut libc::timespec,
) -> libc::c_int {
    if !IS_SIMULATED.load(Relaxed) {
        // SAFETY: the caller's arguments, to the kernel.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, to) as libc::c_int };
    }
    let ms = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            true_wall_ms().saturating_add_signed(WALL_AHEAD_MS.load(Relaxed))
        }
        _ => MONOTONIC_START_MS + now_ms(),
    };
    let time = libc::timespec {
        tv_sec: (ms / 1000) as libc::time_t,
        tv_nsec: (ms % 1000 * 1_000_000) as libc::c_long,
    };
    // SAFETY: `to` can be written, by the contract of this function.
    unsafe { to.write(time) };
    0
}

/// libc's, for the whole process.
///
/// # Safety
/// As libc's: `len` bytes can be written at `buffer`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    len: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if !IS_SIMULATED.load(Relaxed) {
        // SAFETY: the caller's arguments, to the kernel.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) as libc::ssize_t };
    }
    let mut written = 0;
    while written < len {
        let bytes = random::mix(RANDOM.fetch_add(random::STEP, Relaxed)).to_ne_bytes();
        let n = bytes.len().min(len - written);
        // SAFETY: `written + n <= len` bytes can be written at `buffer`, by the contract of this function.
        unsafe { buffer.cast::<u8>().add(written).copy_from_nonoverlapping(bytes.as_ptr(), n) };
        written += n;
    }
    len as libc::ssize_t
}
