//! Where offsets of a push consumer are kept: at the brokers, or for broadcasting in a file that a
//! Java client reads as well (client/consumer/store/LocalFileOffsetStore.java).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use wire::{Body, MessageQueue, QueueOffset, QueueTable, ResetOffsetBody};

use crate::error::ClientError;

/// `<dir>/<client id>/<group>/offsets.json`: `{"offsetTable":{{"brokerName":..}:5}}`, which happens to
/// be the body of 220.
#[derive(Debug)]
pub(crate) struct OffsetFile {
    path: PathBuf,
    table: Mutex<BTreeMap<MessageQueue, QueueOffset>>,
    /// The table is ahead of the file.
    has_news: AtomicBool,
}

impl OffsetFile {
    /// Reads the file, if there is one.
    pub(crate) fn open(dir: Option<&Path>, client_id: &str, group: &str) -> Result<OffsetFile, ClientError> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => match std::env::home_dir() {
                Some(home) => home.join(".rocketmq_offsets"),
                None => return Err(ClientError::refused("no home directory for offsets; set offset_dir")),
            },
        };
        // A client id may hold what a file name cannot.
        let client_id: String = client_id
            .chars()
            .map(|char| if matches!(char, '/' | '\\' | '\0') { '_' } else { char })
            .collect();
        let path = dir.join(client_id).join(group).join("offsets.json");
        let table = match std::fs::read(&path) {
            Ok(bytes) => {
                ResetOffsetBody::decode(&bytes).map_err(|error| failed(&path, &error))?.offset_table.0
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed(&path, &error)),
        };
        let table =
            table.into_iter().filter_map(|(queue, offset)| Some((queue, QueueOffset::from_wire(offset)?)));
        Ok(OffsetFile { path, table: Mutex::new(table.collect()), has_news: AtomicBool::new(false) })
    }

    pub(crate) fn get(&self, queue: &MessageQueue) -> Option<QueueOffset> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).get(queue).copied()
    }

    pub(crate) fn set(&self, queue: &MessageQueue, offset: QueueOffset) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.insert(queue.clone(), offset) != Some(offset) {
            self.has_news.store(true, Ordering::Release);
        }
    }

    pub(crate) fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Acquire)
    }

    /// Replaces the file as a whole, so that a crash leaves the old or the new one. Blocks.
    pub(crate) fn save(&self) -> Result<(), ClientError> {
        self.has_news.store(false, Ordering::Release);
        let body = {
            let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            let table = table.iter().map(|(queue, offset)| (queue.clone(), offset.to_wire()));
            ResetOffsetBody { offset_table: table.collect::<QueueTable<i64>>() }.encode()
        };
        let write = || -> std::io::Result<()> {
            if let Some(dir) = self.path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            let new = self.path.with_extension("json.tmp");
            let mut file = std::fs::File::create(&new)?;
            file.write_all(&body)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)
        };
        write().map_err(|error| {
            self.has_news.store(true, Ordering::Release);
            failed(&self.path, &error)
        })
    }
}

fn failed(path: &Path, why: &dyn std::fmt::Display) -> ClientError {
    ClientError::OffsetFile { path: path.display().to_string(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_survive_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let queue = MessageQueue::new("t", "b", 3);
        let file = OffsetFile::open(Some(dir.path()), "10.0.0.1@a/b", "g").expect("no file yet");
        assert_eq!(file.get(&queue), None);
        file.set(&queue, QueueOffset(7));
        assert!(file.has_news());
        file.save().expect("saved");
        file.set(&queue, QueueOffset(7));
        assert!(!file.has_news());
        let again = OffsetFile::open(Some(dir.path()), "10.0.0.1@a/b", "g").expect("a file");
        assert_eq!(again.get(&queue), Some(QueueOffset(7)));
        let text = std::fs::read_to_string(dir.path().join("10.0.0.1@a_b/g/offsets.json")).expect("text");
        assert_eq!(text, r#"{"offsetTable":{{"brokerName":"b","queueId":3,"topic":"t"}:7}}"#);
    }

    #[test]
    fn a_file_of_java_is_read_and_a_broken_one_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("c/g");
        std::fs::create_dir_all(&path).expect("directories");
        // As fastjson prettifies it.
        let java = "{\n\t\"offsetTable\":{{\n\t\t\t\"brokerName\":\"a\",\n\t\t\t\"queueId\":1,\n\t\t\t\"topic\":\"t\"\n\t\t}:42\n\t}\n}";
        std::fs::write(path.join("offsets.json"), java).expect("written");
        let file = OffsetFile::open(Some(dir.path()), "c", "g").expect("a file");
        assert_eq!(file.get(&MessageQueue::new("t", "a", 1)), Some(QueueOffset(42)));
        std::fs::write(path.join("offsets.json"), "{").expect("written");
        assert!(OffsetFile::open(Some(dir.path()), "c", "g").is_err());
    }
}
