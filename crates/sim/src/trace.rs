//! What happened, line by line. Two runs of a seed give the same lines; their hash stands for them.

use std::collections::VecDeque;
use std::fmt;
use std::io::{BufWriter, Stdout, Write as _};
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use crate::clock;

/// Lines that a quiet run keeps, to be shown when it fails.
const KEPT: usize = 60;

struct Trace {
    /// `None`: quiet.
    out: Option<BufWriter<Stdout>>,
    hash: Box<Xxh3>,
    lines: u64,
    last: VecDeque<String>,
}

static TRACE: Mutex<Option<Trace>> = Mutex::new(None);

/// Adds a line to the trace; arguments as those of `format!`.
macro_rules! say {
    ($($argument:tt)*) => { $crate::trace::line(format_args!($($argument)*)) };
}
pub(crate) use say;

pub(crate) fn open(is_quiet: bool) {
    let out = (!is_quiet).then(|| BufWriter::with_capacity(64 << 10, std::io::stdout()));
    let trace = Trace { out, hash: Box::new(Xxh3::new()), lines: 0, last: VecDeque::new() };
    *TRACE.lock().unwrap_or_else(PoisonError::into_inner) = Some(trace);
}

pub(crate) fn line(text: fmt::Arguments<'_>) {
    let mut trace = TRACE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(trace) = trace.as_mut() else { return };
    let line = format!("{:>7} {text}\n", clock::now_ms());
    trace.hash.update(line.as_bytes());
    trace.lines += 1;
    match &mut trace.out {
        // Nobody reads it any more: the run goes on for its exit code.
        Some(out) => drop(out.write_all(line.as_bytes())),
        None => {
            if trace.last.len() == KEPT {
                trace.last.pop_front();
            }
            trace.last.push_back(line);
        }
    }
}

/// Ends the trace; its lines and their hash. What a quiet one kept is shown if the run has failed.
pub(crate) fn close(has_failed: bool) -> (u64, u64) {
    let trace = TRACE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut trace) = trace else { return (0, 0) };
    match &mut trace.out {
        Some(out) => drop(out.flush()),
        None if has_failed => {
            for line in &trace.last {
                print!("{line}");
            }
        }
        None => {}
    }
    (trace.lines, trace.hash.digest())
}
