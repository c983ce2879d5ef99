//! The body of 103, which a broker sends to each nameserver (RegisterBrokerBody).
//!
//! ```text
//! plain       JSON of RegisterBrokerBody
//! compressed  one zlib stream of
//!               i32 + n  DataVersion, JSON
//!               i32      topics, then for each  i32 + n  its text form
//!               i32 + n  filter servers, JSON
//!               i32      mappings, then for each  i32 + n  JSON        (brokers since 5.0.0)
//! ```

use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};

use crate::body::topic::{TopicConfig, TopicConfigSerializeWrapper};
use crate::compression::{unzlib, zlib};
use crate::json::{BodyError, from_json, json_bodies};
use crate::language::version;

/// Largest decompressed registration accepted: 64 MiB, about half a million topics.
pub const REGISTER_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RegisterBrokerBody {
    pub filter_server_list: Vec<String>,
    pub topic_config_serialize_wrapper: TopicConfigSerializeWrapper,
}

json_bodies!(RegisterBrokerBody);

impl RegisterBrokerBody {
    /// The compressed form of a broker of [`crate::VERSION`]. Topic mappings are left out: they belong
    /// to static topics.
    pub fn encode_compressed(&self) -> Bytes {
        let RegisterBrokerBody { filter_server_list, topic_config_serialize_wrapper: topics } = self;
        let mut plain = Vec::new();
        put(&mut plain, &serde_json::to_vec(&topics.data_version).unwrap_or_default());
        plain.put_u32(topics.topic_config_table.len() as u32);
        for config in topics.topic_config_table.values() {
            put(&mut plain, config.to_text().as_bytes());
        }
        put(&mut plain, &serde_json::to_vec(filter_server_list).unwrap_or_default());
        plain.put_u32(0);
        Bytes::from(zlib(&plain, 9))
    }

    /// Reads the compressed form from a broker of this version; at most `max` bytes of it, unpacked
    /// (see [`REGISTER_BYTES_MAX`]).
    pub fn decode_compressed(
        bytes: &[u8],
        broker_version: i32,
        max: usize,
    ) -> Result<RegisterBrokerBody, BodyError> {
        let plain = unzlib(bytes, max)?;
        let mut rest: &[u8] = &plain;
        let mut body = RegisterBrokerBody::default();
        let topics = &mut body.topic_config_serialize_wrapper;
        topics.data_version = from_json(take(&mut rest)?)?;
        for _ in 0..count(&mut rest)? {
            let line = std::str::from_utf8(take(&mut rest)?)
                .map_err(|_| BodyError::Malformed("a topic line is not UTF-8"))?;
            let config = TopicConfig::from_text(line)?;
            topics.topic_config_table.insert(config.topic_name.clone(), config);
        }
        let filter_servers = take(&mut rest)?;
        if !filter_servers.is_empty() {
            body.filter_server_list = from_json(filter_servers)?;
        }
        if broker_version >= version::V5_0_0 && !rest.is_empty() {
            for _ in 0..count(&mut rest)? {
                let info: serde_json::Value = from_json(take(&mut rest)?)?;
                if let Some(topic) = info.get("topic").and_then(|topic| topic.as_str()) {
                    topics.topic_queue_mapping_info_map.insert(topic.to_owned(), info.clone());
                }
            }
        }
        Ok(body)
    }
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    out.put_u32(part.len() as u32);
    out.extend_from_slice(part);
}

fn count(rest: &mut &[u8]) -> Result<u32, BodyError> {
    rest.try_get_u32().map_err(|_| BodyError::Malformed("registration ends too early"))
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BodyError> {
    let bytes = count(rest)? as usize;
    let (head, tail) =
        rest.split_at_checked(bytes).ok_or(BodyError::Malformed("registration ends too early"))?;
    *rest = tail;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::body::{DataVersion, perm};
    use crate::compression::DecompressError;
    use crate::golden::{self, unhex};
    use crate::language::VERSION;

    fn sample() -> RegisterBrokerBody {
        let mut body = RegisterBrokerBody::default();
        let topics = &mut body.topic_config_serialize_wrapper;
        topics.data_version = DataVersion { counter: 3, state_version: 9, timestamp: 1_700_000_000_000 };
        let mut orders = TopicConfig::new("orders", 4, perm::READ_WRITE);
        orders.attributes.insert("message.type".into(), "FIFO".into());
        let other = TopicConfig { write_queue_nums: 2, ..TopicConfig::new("T2", 1, perm::READ) };
        for config in [orders, other] {
            topics.topic_config_table.insert(config.topic_name.clone(), config);
        }
        body
    }

    #[test]
    fn java_compressed_form_reads() {
        let bytes = unhex(golden::REGISTER_COMPRESSED);
        let mut expect = sample();
        let mappings = &mut expect.topic_config_serialize_wrapper.topic_queue_mapping_info_map;
        mappings.insert(
            "st".into(),
            serde_json::json!({"bname": "broker-a", "currIdMap": {}, "dirty": false, "epoch": 5, "scope": "__global__", "topic": "st", "totalQueues": 2}),
        );
        assert_eq!(RegisterBrokerBody::decode_compressed(&bytes, VERSION, 4096).unwrap(), expect);
        let old = RegisterBrokerBody::decode_compressed(&bytes, version::V4_9_4, 4096).unwrap();
        assert_eq!(old, sample(), "brokers before 5.0.0 send no mappings");
        assert_eq!(
            RegisterBrokerBody::decode_compressed(&bytes, VERSION, 100),
            Err(BodyError::Compressed(DecompressError::TooLarge(100)))
        );
    }

    #[test]
    fn every_cut_is_an_error() {
        let plain = unzlib(&sample().encode_compressed(), 4096).unwrap();
        for len in 0..plain.len() - 4 {
            assert!(
                RegisterBrokerBody::decode_compressed(&zlib(&plain[..len], 1), VERSION, 4096).is_err(),
                "{len}"
            );
        }
    }

    proptest! {
        #[test]
        fn both_forms_round_trip(
            topics in prop::collection::btree_map("[%|a-zA-Z0-9_-]{1,20}", (any::<i32>(), any::<i32>(), 0..8), 0..8),
            filter_server_list in prop::collection::vec(".{0,9}", 0..3),
            (counter, state_version, timestamp) in any::<(i64, i64, i64)>(),
        ) {
            let mut body = RegisterBrokerBody { filter_server_list, ..Default::default() };
            let wrapper = &mut body.topic_config_serialize_wrapper;
            wrapper.data_version = DataVersion { counter, state_version, timestamp };
            for (name, (read_queue_nums, write_queue_nums, perm)) in topics {
                let config = TopicConfig { read_queue_nums, write_queue_nums, ..TopicConfig::new(&name, 1, perm) };
                wrapper.topic_config_table.insert(name, config);
            }
            use crate::json::Body;
            prop_assert_eq!(&RegisterBrokerBody::decode(&body.encode()).unwrap(), &body);
            let packed = body.encode_compressed();
            prop_assert_eq!(
                RegisterBrokerBody::decode_compressed(&packed, VERSION, REGISTER_BYTES_MAX).unwrap(),
                body
            );
        }
    }
}
