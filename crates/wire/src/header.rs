//! Request and response headers: what a command carries in its `extFields`.
//!
//! A header is a row of data: `"wire key" => field: Type`. A plain type is required, `Option` is
//! optional, `= value` gives what an absent field means. All values travel as decimal strings,
//! `true`/`false` or text; ids that may be -1 stay signed here and become [`crate::QueueId`] and its
//! kin where the -1 has been dealt with. Source of every row: the header classes of RocketMQ 5.3.3.

mod admin;
mod client;
mod namesrv;
mod pop;
mod pull;
mod send;
mod transaction;

pub use admin::*;
pub use client::*;
pub use namesrv::*;
pub use pop::*;
pub use pull::*;
pub use send::*;
pub use transaction::*;

use crate::ext::ExtFields;

/// Keys that are set beside a header rather than in one.
pub mod ext_key {
    /// Name of the broker group that the client means (5.x clients, on many requests).
    pub const BROKER_NAME: &str = "bname";
    pub const NAMESPACE: &str = "ns";
    /// On 12: "true" when `key` is a unique id.
    pub const UNIQUE_KEY_QUERY: &str = "_UNIQUE_KEY_QUERY";
    /// On send responses; clients read both.
    pub const MSG_REGION: &str = "MSG_REGION";
    pub const TRACE_ON: &str = "TRACE_ON";
    /// On heartbeat responses.
    pub const IS_SUPPORT_HEART_BEAT_V2: &str = "IS_SUPPORT_HEART_BEAT_V2";
    pub const IS_SUB_CHANGE: &str = "IS_SUB_CHANGE";
    pub const ZONE_NAME: &str = "__ZONE_NAME";
    pub const ZONE_MODE: &str = "__ZONE_MODE";
    /// ACL (AclClientRPCHook).
    pub const ACCESS_KEY: &str = "AccessKey";
    pub const SECURITY_TOKEN: &str = "SecurityToken";
    pub const SIGNATURE: &str = "Signature";
}

/// Why a header could not be read. Its text is fit for the remark of a `SYSTEM_ERROR` response and
/// begins as the Java broker's does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the custom field <{0}> is null")]
    Missing(&'static str),
    #[error("the custom field <{field}> is not a valid value: {value}")]
    Bad { field: &'static str, value: String },
}

/// Anything that can be put into `extFields`.
pub trait Header {
    fn encode(&self, ext: &mut ExtFields);
}

/// One field of a header.
pub(crate) trait Field<'a>: Sized {
    fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, HeaderError>;
    fn write(&self, field: &'static str, ext: &mut ExtFields);
}

impl<'a> Field<'a> for &'a str {
    fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, HeaderError> {
        text.ok_or(HeaderError::Missing(field))
    }

    fn write(&self, field: &'static str, ext: &mut ExtFields) {
        ext.set(field, self);
    }
}

impl<'a> Field<'a> for String {
    fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, HeaderError> {
        text.map(str::to_owned).ok_or(HeaderError::Missing(field))
    }

    fn write(&self, field: &'static str, ext: &mut ExtFields) {
        ext.set(field, self);
    }
}

/// As `Boolean.parseBoolean`: anything but "true" is false.
impl<'a> Field<'a> for bool {
    fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, HeaderError> {
        text.map(|text| text.eq_ignore_ascii_case("true")).ok_or(HeaderError::Missing(field))
    }

    fn write(&self, field: &'static str, ext: &mut ExtFields) {
        ext.set(field, if *self { "true" } else { "false" });
    }
}

macro_rules! number_fields {
    ($($type:ty)*) => {$(
        impl<'a> Field<'a> for $type {
            fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, HeaderError> {
                let text = text.ok_or(HeaderError::Missing(field))?;
                text.parse().map_err(|_| HeaderError::Bad { field, value: text.chars().take(64).collect() })
            }

            fn write(&self, field: &'static str, ext: &mut ExtFields) {
                ext.set_int(field, *self);
            }
        }
    )*};
}
number_fields!(i32 i64);

/// An optional field; a number that is present but empty counts as absent.
impl<'a, T: Field<'a> + OptionalNumber> Field<'a> for Option<T> {
    fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, HeaderError> {
        match text {
            None => Ok(None),
            Some("") if T::EMPTY_IS_ABSENT => Ok(None),
            text => T::read(field, text).map(Some),
        }
    }

    fn write(&self, field: &'static str, ext: &mut ExtFields) {
        if let Some(value) = self {
            value.write(field, ext);
        }
    }
}

pub(crate) trait OptionalNumber {
    const EMPTY_IS_ABSENT: bool;
}

macro_rules! empty_is_absent {
    ($($type:ty = $absent:literal)*) => {$(
        impl OptionalNumber for $type {
            const EMPTY_IS_ABSENT: bool = $absent;
        }
    )*};
}
empty_is_absent!(&str = false String = false bool = true i32 = true i64 = true);

/// Tables of headers; see the head of this file.
macro_rules! headers {
    ($(
        $(#[$doc:meta])*
        $vis:vis $name:ident $(<$life:lifetime>)? {
            $( $(#[$field_doc:meta])* $key:literal => $field:ident : $type:ty $(= $default:expr)?, )*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name $(<$life>)? {
            $( $(#[$field_doc])* pub $field: $type, )*
        }

        impl $(<$life>)? $name $(<$life>)? {
            /// Reads the header; errors name the field as it is called on the wire.
            $vis fn decode(ext: & $($life)? $crate::ext::ExtFields) -> Result<Self, $crate::header::HeaderError> {
                let mut cursor = ext.cursor();
                Ok($name {
                    $($field: $crate::header::headers!(@read cursor, $key, $type $(, $default)?),)*
                })
            }
        }

        impl $(<$life>)? $crate::header::Header for $name $(<$life>)? {
            fn encode(&self, ext: &mut $crate::ext::ExtFields) {
                $($crate::header::Field::write(&self.$field, $key, ext);)*
            }
        }

        /// Every field empty, zero, or what its absence means.
        impl $(<$life>)? Default for $name $(<$life>)? {
            fn default() -> Self {
                $name { $($field: $crate::header::headers!(@default $($default)?),)* }
            }
        }
    )*};
    (@read $cursor:ident, $key:literal, $type:ty) => {
        <$type as $crate::header::Field>::read($key, $cursor.get($key))?
    };
    (@read $cursor:ident, $key:literal, $type:ty, $default:expr) => {
        <Option<$type> as $crate::header::Field>::read($key, $cursor.get($key))?.unwrap_or($default)
    };
    (@default) => { Default::default() };
    (@default $default:expr) => { $default };
}
pub(crate) use headers;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::RequestCode;

    fn ext(pairs: &[(&str, &str)]) -> ExtFields {
        pairs.iter().copied().collect()
    }

    #[test]
    fn errors_name_the_field_as_it_is_on_the_wire() {
        let check = |pairs: &[(&str, &str)], expect: &str| {
            let error = UpdateConsumerOffsetRequest::decode(&ext(pairs)).unwrap_err();
            assert_eq!(error.to_string(), expect);
        };
        check(&[], "the custom field <consumerGroup> is null");
        check(&[("consumerGroup", "g"), ("topic", "t")], "the custom field <queueId> is null");
        check(
            &[("consumerGroup", "g"), ("topic", "t"), ("queueId", "2147483648"), ("commitOffset", "0")],
            "the custom field <queueId> is not a valid value: 2147483648",
        );
        let long_keys = ext(&[("topic", "t")]);
        let read = SendMessageRequest::decode_for(RequestCode::SEND_BATCH_MESSAGE, &long_keys);
        assert_eq!(read, Err(HeaderError::Missing("b")));
    }

    #[test]
    fn absent_fields_mean_their_default() {
        let header = GetMaxOffsetRequest::decode(&ext(&[("topic", "t"), ("queueId", "1")])).unwrap();
        assert!(header.committed);
        let header = ResetOffsetRequest::decode(&ext(&[("topic", "t"), ("group", "g")])).unwrap();
        assert_eq!(header, ResetOffsetRequest { topic: "t".into(), group: "g".into(), ..Default::default() });
        assert_eq!(header.queue_id, -1);
        let header = PullMessageResponse {
            max_offset: 9,
            offset_delta: None,
            topic_sys_flag: Some(0),
            ..Default::default()
        };
        let mut fields = ExtFields::new();
        header.encode(&mut fields);
        assert_eq!(
            fields,
            ext(&[
                ("suggestWhichBrokerId", "0"),
                ("nextBeginOffset", "0"),
                ("minOffset", "0"),
                ("maxOffset", "9"),
                ("topicSysFlag", "0")
            ])
        );
        fields.set("topicSysFlag", "");
        assert_eq!(PullMessageResponse::decode(&fields).unwrap().topic_sys_flag, None);
    }

    #[test]
    fn booleans_read_as_java_reads_them() {
        for (text, expect) in [("true", true), ("TRUE", true), ("1", false), ("", false)] {
            let header = QueryDataVersionResponse::decode(&ext(&[("changed", text)])).unwrap();
            assert_eq!(header.changed, expect, "{text}");
        }
    }

    #[test]
    fn keys_of_a_send() {
        let header = SendMessageRequest { topic: "t", batch: Some(true), ..Default::default() };
        let keys = |code: RequestCode| {
            let mut fields = ExtFields::new();
            header.encode_for(code, &mut fields);
            assert_eq!(SendMessageRequest::decode_for(code, &fields).unwrap(), header);
            fields.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>().join(" ")
        };
        insta::assert_snapshot!(keys(RequestCode::SEND_MESSAGE), @"producerGroup topic defaultTopic defaultTopicQueueNums queueId sysFlag bornTimestamp flag batch");
        insta::assert_snapshot!(keys(RequestCode::SEND_MESSAGE_V2), @"a b c d e f g h m");
        assert_eq!(keys(RequestCode::SEND_REPLY_MESSAGE), keys(RequestCode::SEND_MESSAGE));
        assert_eq!(keys(RequestCode::SEND_REPLY_MESSAGE_V2), keys(RequestCode::SEND_BATCH_MESSAGE));
    }

    proptest! {
        #[test]
        fn headers_round_trip(
            (text, optional) in (".{0,20}", prop::option::of(".{0,20}")),
            (small, maybe_small, large) in any::<(i32, Option<i32>, i64)>(),
            (flag, maybe_flag, maybe_large) in any::<(bool, Option<bool>, Option<i64>)>(),
            short in any::<bool>(),
        ) {
            let mut fields = ExtFields::new();
            let code = if short { RequestCode::SEND_MESSAGE_V2 } else { RequestCode::SEND_MESSAGE };
            let send = SendMessageRequest {
                producer_group: &text, topic: "t", default_topic: &text, default_topic_queue_nums: small,
                queue_id: small, sys_flag: small, born_timestamp: large, flag: small,
                properties: optional.as_deref(), reconsume_times: maybe_small, unit_mode: maybe_flag,
                max_reconsume_times: maybe_small, batch: maybe_flag, broker_name: optional.as_deref(),
            };
            send.encode_for(code, &mut fields);
            prop_assert_eq!(SendMessageRequest::decode_for(code, &fields).unwrap(), send);

            let mut fields = ExtFields::new();
            let pull = PullMessageRequest {
                consumer_group: text.clone(), topic: text.clone(), queue_id: small, queue_offset: large,
                max_msg_nums: small, sys_flag: small, commit_offset: large, suspend_timeout_millis: large,
                subscription: optional.clone(), sub_version: large, expression_type: optional.clone(),
                max_msg_bytes: maybe_small, request_source: maybe_small, proxy_forward_client_id: optional.clone(),
            };
            pull.encode(&mut fields);
            prop_assert_eq!(PullMessageRequest::decode(&fields).unwrap(), pull);

            let mut fields = ExtFields::new();
            let register = RegisterBrokerRequest {
                broker_name: text.clone(), broker_addr: text.clone(), cluster_name: text.clone(),
                ha_server_addr: text.clone(), broker_id: large, heartbeat_timeout_millis: maybe_large,
                enable_acting_master: maybe_flag, compressed: flag, body_crc32: small,
            };
            register.encode(&mut fields);
            prop_assert_eq!(RegisterBrokerRequest::decode(&fields).unwrap(), register);
        }
    }
}
