//! Reading histories as a stream.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::Event;

/// The longest line that is read: a pull of 8 MiB of small messages stays below.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("{}: {error}", .file.display())]
    Io { file: PathBuf, error: io::Error },
    #[error("{}, line {line}: {why}", .file.display())]
    Line { file: PathBuf, line: u64, why: String },
}

/// Reads the events of one or more files as a stream, merged by their times. After an error it ends.
pub struct Reader {
    files: Vec<OneFile>,
    /// The next event's time of each file that has one.
    next: BinaryHeap<Reverse<(u64, usize)>>,
    failed: bool,
}

struct OneFile {
    path: PathBuf,
    lines: BufReader<File>,
    buffer: Vec<u8>,
    line: u64,
    last_ns: u64,
    /// Read and not given yet.
    ahead: Option<Event>,
}

impl Reader {
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Reader, HistoryError> {
        let mut reader = Reader { files: Vec::new(), next: BinaryHeap::new(), failed: false };
        for (at, path) in paths.iter().enumerate() {
            let path = path.as_ref().to_owned();
            let file = File::open(&path).map_err(|error| HistoryError::Io { file: path.clone(), error })?;
            let lines = BufReader::with_capacity(1 << 20, file);
            let mut file = OneFile { path, lines, buffer: Vec::new(), line: 0, last_ns: 0, ahead: None };
            file.ahead = file.read()?;
            reader.next.extend(file.ahead.as_ref().map(|event| Reverse((event.t_ns, at))));
            reader.files.push(file);
        }
        Ok(reader)
    }

    fn read(&mut self) -> Result<Option<Event>, HistoryError> {
        let Some(Reverse((_, at))) = self.next.pop() else {
            return Ok(None);
        };
        let file = &mut self.files[at];
        let event = file.ahead.take();
        file.ahead = file.read()?;
        self.next.extend(file.ahead.as_ref().map(|event| Reverse((event.t_ns, at))));
        Ok(event)
    }
}

impl Iterator for Reader {
    type Item = Result<Event, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let event = self.read().transpose();
        self.failed = matches!(event, Some(Err(_)));
        event
    }
}

impl OneFile {
    fn read(&mut self) -> Result<Option<Event>, HistoryError> {
        self.buffer.clear();
        let mut limited = (&mut self.lines).take(LINE_BYTES_MAX);
        let read = limited
            .read_until(b'\n', &mut self.buffer)
            .map_err(|error| HistoryError::Io { file: self.path.clone(), error })?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        if self.buffer.last() != Some(&b'\n') {
            let long = read as u64 == LINE_BYTES_MAX;
            return Err(self.bad(if long { "too long" } else { "cut off: the run that wrote it broke off" }));
        }
        let event: Event = match serde_json::from_slice(&self.buffer) {
            Ok(event) => event,
            Err(error) => return Err(self.bad(error)),
        };
        if event.t_ns < self.last_ns {
            return Err(self.bad("its time is before that of the line above"));
        }
        self.last_ns = event.t_ns;
        Ok(Some(event))
    }

    fn bad(&self, why: impl fmt::Display) -> HistoryError {
        HistoryError::Line { file: self.path.clone(), line: self.line, why: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_merged_by_time_and_broken_ones_named() {
        let dir = tempfile::tempdir().unwrap();
        let line = |t: u64, process: u32| {
            format!(r#"{{"t_ns":{t},"process":{process},"type":"ok","op":{{"phase":"load"}}}}"#)
        };
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let one = write("one", format!("{}\n{}\n", line(1, 1), line(5, 1)));
        let two = write("two", format!("{}\n{}\n", line(2, 2), line(4, 2)));
        let times: Vec<u64> = Reader::open(&[&one, &two]).unwrap().map(|event| event.unwrap().t_ns).collect();
        assert_eq!(times, [1, 2, 4, 5]);

        let error =
            |path: PathBuf| Reader::open(&[path]).and_then(Iterator::collect::<Result<Vec<Event>, _>>);
        let cut = write("cut", format!("{}\n{{\"t_ns\":", line(1, 1)));
        assert!(
            error(cut).unwrap_err().to_string().ends_with("line 2: cut off: the run that wrote it broke off")
        );
        let backwards = write("backwards", format!("{}\n{}\n", line(2, 1), line(1, 1)));
        assert!(error(backwards).is_err());
        let strange = write("strange", "{\"what\":1}\n".into());
        assert!(error(strange).unwrap_err().to_string().contains("line 1"));
        assert!(error(dir.path().join("absent")).is_err());
    }
}
