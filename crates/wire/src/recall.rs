//! What a producer shows to take a timer message back (RecallMessageHandle): base64url of
//! `v1 topic brokerName time uniqueId`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Padded as Java's encoder does; its decoder takes text without padding too.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A text that is no recall handle; worded as the Java broker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("recall handle is invalid")]
pub struct RecallHandleError;

/// Names a timer message that may still be pending. `Display` and `FromStr` are its text form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallHandle {
    pub topic: String,
    pub broker_name: String,
    /// When it is due, ms since 1970; -1 when the handle has no number there.
    pub time_ms: i64,
    pub unique_id: String,
}

impl fmt::Display for RecallHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecallHandle { topic, broker_name, time_ms, unique_id } = self;
        f.write_str(&BASE64.encode(format!("v1 {topic} {broker_name} {time_ms} {unique_id}")))
    }
}

impl FromStr for RecallHandle {
    type Err = RecallHandleError;

    fn from_str(text: &str) -> Result<RecallHandle, RecallHandleError> {
        let text = BASE64.decode(text).map_err(|_| RecallHandleError)?;
        let text = std::str::from_utf8(&text).map_err(|_| RecallHandleError)?;
        let mut items = text.split(' ');
        if items.next() != Some("v1") {
            return Err(RecallHandleError);
        }
        let mut next = || items.next().ok_or(RecallHandleError);
        Ok(RecallHandle {
            topic: next()?.to_owned(),
            broker_name: next()?.to_owned(),
            time_ms: next()?.parse().unwrap_or(-1),
            unique_id: next()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_java_writes_and_reads_it() {
        let handle = RecallHandle {
            topic: "T".into(),
            broker_name: "broker-a".into(),
            time_ms: 1_700_000_000_001,
            unique_id: "7F0000010001".into(),
        };
        let text = handle.to_string();
        assert_eq!(text, "djEgVCBicm9rZXItYSAxNzAwMDAwMDAwMDAxIDdGMDAwMDAxMDAwMQ==");
        assert_eq!(text.parse(), Ok(handle.clone()));
        assert_eq!(text.trim_end_matches('=').parse(), Ok(handle));
        let of = |plain: &str| BASE64.encode(plain).parse::<RecallHandle>();
        assert_eq!(of("v1 T b x U").map(|handle| handle.time_ms), Ok(-1));
        assert_eq!(of("v1 T b 1 U more").map(|handle| handle.unique_id), Ok("U".into()));
        for bad in ["v2 T b 1 U", "v1 T b 1", "v1", ""] {
            assert_eq!(of(bad), Err(RecallHandleError), "{bad:?}");
        }
        for bad in ["", "?", "djEgVCBicm9rZXItYSAx", "\u{e9}"] {
            assert_eq!(bad.parse::<RecallHandle>(), Err(RecallHandleError), "{bad:?}");
        }
    }
}
