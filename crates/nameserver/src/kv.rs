//! The key-value table: namespaces of strings, of which `ORDER_TOPIC_CONFIG` is the one in use. In
//! memory, and in a file where one is configured: the only thing a nameserver keeps.
//!
//! A change is written before it is answered, whole, to a file beside the old one that then takes its
//! place. The file is upstream's `kvConfig.json`: `{"configTable":{namespace:{key:value}}}`.
//!
//! Locks: `writing` before `current`; `current` is a leaf.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::limits::{KV_BYTES_MAX, KV_KEYS_MAX, KV_NAMESPACES_MAX, KV_VALUE_BYTES_MAX};
use crate::names::is_text;

/// The namespace of order topics: topic -> "brokerA:4;brokerB:4".
pub(crate) const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct KvTables {
    config_table: BTreeMap<String, BTreeMap<String, String>>,
}

/// Why a change was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KvError {
    #[error("{0} is not valid")]
    Invalid(&'static str),
    #[error("the key-value table is full: too many {0}")]
    Full(&'static str),
    #[error("cannot write {path}: {error}")]
    Write { path: String, error: io::Error },
}

impl KvTables {
    pub(crate) fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        Some(self.config_table.get(namespace)?.get(key)?)
    }

    pub(crate) fn namespace(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.config_table.get(namespace)
    }

    fn put(&mut self, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        let is_name = |name: &str| !name.is_empty() && is_text(name);
        if !is_name(namespace) {
            return Err(KvError::Invalid("namespace"));
        }
        if !is_name(key) {
            return Err(KvError::Invalid("key"));
        }
        if value.len() > KV_VALUE_BYTES_MAX {
            return Err(KvError::Invalid("value"));
        }
        if !self.config_table.contains_key(namespace) && self.config_table.len() >= KV_NAMESPACES_MAX {
            return Err(KvError::Full("namespaces"));
        }
        let entries = || self.config_table.values().flatten();
        if entries().count() >= KV_KEYS_MAX {
            return Err(KvError::Full("keys"));
        }
        let bytes: usize = entries().map(|(key, value)| key.len() + value.len()).sum();
        if bytes + key.len() + value.len() > KV_BYTES_MAX {
            return Err(KvError::Full("bytes"));
        }
        self.config_table.entry(namespace.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// The namespace stays, as upstream.
    fn delete(&mut self, namespace: &str, key: &str) {
        if let Some(table) = self.config_table.get_mut(namespace) {
            table.remove(key);
        }
    }
}

/// The current table and its file.
#[derive(Debug, Default)]
pub(crate) struct Kv {
    current: RwLock<Arc<KvTables>>,
    writing: Mutex<()>,
    path: Option<PathBuf>,
}

impl Kv {
    /// Reads the file; a missing one is an empty table, a damaged one an error.
    pub(crate) fn open(path: Option<&Path>) -> io::Result<Kv> {
        let tables = match path.map(fs::read) {
            None => KvTables::default(),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => KvTables::default(),
            Some(Err(error)) => return Err(error),
            Some(Ok(json)) => wire::from_json(&json)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?,
        };
        Ok(Kv {
            current: RwLock::new(Arc::new(tables)),
            writing: Mutex::new(()),
            path: path.map(Path::to_owned),
        })
    }

    pub(crate) fn current(&self) -> Arc<KvTables> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True when changes go to a disk, which may take a while.
    pub(crate) fn is_persistent(&self) -> bool {
        self.path.is_some()
    }

    pub(crate) fn put(&self, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        self.change(|tables| tables.put(namespace, key, value))
    }

    pub(crate) fn delete(&self, namespace: &str, key: &str) -> Result<(), KvError> {
        self.change(|tables| {
            tables.delete(namespace, key);
            Ok(())
        })
    }

    /// One change at a time. What could not be written does not become current.
    fn change(&self, change: impl FnOnce(&mut KvTables) -> Result<(), KvError>) -> Result<(), KvError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tables = (*self.current()).clone();
        change(&mut tables)?;
        if let Some(path) = &self.path {
            write_whole(path, &wire::to_json(&tables))
                .map_err(|error| KvError::Write { path: path.display().to_string(), error })?;
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tables);
        Ok(())
    }
}

/// Replaces a file so that a crash leaves the old one or the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_survive_a_restart_and_damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/kvConfig.json");
        let kv = Kv::open(Some(&path)).unwrap();
        kv.put("ns", "key", "value").unwrap();
        kv.put("ns", "key", "other \"ü\"").unwrap();
        kv.put(ORDER_TOPIC_CONFIG, "T", "a:4;b:4").unwrap();
        kv.delete("ns", "missing").unwrap();
        kv.delete("nowhere", "missing").unwrap();
        kv.put("ns", "gone", "x").unwrap();
        kv.delete("ns", "gone").unwrap();
        let again = Kv::open(Some(&path)).unwrap();
        assert_eq!(again.current(), kv.current());
        assert_eq!(again.current().get("ns", "key"), Some("other \"ü\""));
        assert_eq!(again.current().get("ns", "gone"), None);
        assert_eq!(again.current().namespace(ORDER_TOPIC_CONFIG).unwrap().len(), 1);
        assert_eq!(again.current().namespace("nowhere"), None);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no part files are left");

        // What upstream wrote is read too.
        fs::write(&path, "{\n\t\"configTable\":{\"ORDER_TOPIC_CONFIG\":{\"T\":\"a:1\"}\n\t}\n}").unwrap();
        assert_eq!(Kv::open(Some(&path)).unwrap().current().get(ORDER_TOPIC_CONFIG, "T"), Some("a:1"));
        fs::write(&path, "{\"configTable\":").unwrap();
        assert_eq!(Kv::open(Some(&path)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_cannot_be_written_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file/kv.json");
        fs::write(folder.path().join("file"), "in the way").unwrap();
        let kv = Kv { path: Some(path), ..Kv::default() };
        let error = kv.put("ns", "key", "value").unwrap_err();
        assert!(matches!(error, KvError::Write { .. }), "{error}");
        assert_eq!(kv.current().namespace("ns"), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let kv = Kv::default();
        let is_invalid = |result: Result<(), KvError>| matches!(result, Err(KvError::Invalid(_)));
        assert!(is_invalid(kv.put("", "k", "v")));
        assert!(is_invalid(kv.put("ns", "", "v")));
        assert!(is_invalid(kv.put("ns\n", "k", "v")));
        assert!(is_invalid(kv.put("ns", &"k".repeat(256), "v")));
        let large = "v".repeat(KV_VALUE_BYTES_MAX);
        assert!(is_invalid(kv.put("ns", "k", &(large.clone() + "v"))));
        let mut stored = 0;
        let error = loop {
            match kv.put("ns", &format!("k{stored}"), &large) {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, KvError::Full("bytes")), "{error}");
        assert!((200..300).contains(&stored));
    }
}
