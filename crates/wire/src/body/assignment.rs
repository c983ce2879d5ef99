//! Assignment by the broker, and pop acknowledgements in batch: 400, 401, 200151.

use serde::{Deserialize, Serialize};

use crate::body::heartbeat::MessageModel;
use crate::body::named_enums;
use crate::body::queues::MessageQueue;
use crate::json::json_bodies;

named_enums! {
    MessageRequestMode {
        Pull = "PULL",
        Pop = "POP",
    }
}

/// 400.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueryAssignmentRequestBody {
    pub client_id: String,
    pub consumer_group: String,
    pub message_model: MessageModel,
    pub strategy_name: String,
    pub topic: String,
}

/// Answer to 400; no list at all means: keep what you have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueryAssignmentResponseBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_queue_assignments: Option<Vec<MessageQueueAssignment>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MessageQueueAssignment {
    pub message_queue: MessageQueue,
    pub mode: MessageRequestMode,
}

/// 401.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SetMessageRequestModeRequestBody {
    pub consumer_group: String,
    pub mode: MessageRequestMode,
    pub pop_share_queue_num: i32,
    pub topic: String,
}

/// 200151.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BatchAckMessageRequestBody {
    pub acks: Vec<BatchAck>,
    pub broker_name: String,
}

/// Queue offsets that one [`BatchAck`] can span. One pop returns 32 messages; those that its filter
/// passed over lie between them.
pub const BATCH_ACK_SPAN_MAX: usize = 65_536;

/// Acknowledges some of what one pop of one queue returned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchAck {
    /// Which of them, counted from `start_offset`: base64 of a Java BitSet. See
    /// [`BatchAck::offsets`].
    #[serde(rename = "b")]
    pub bits: String,
    #[serde(rename = "c")]
    pub consumer_group: String,
    /// Milliseconds.
    #[serde(rename = "it")]
    pub invisible_time: i64,
    /// Milliseconds since 1970.
    #[serde(rename = "pt")]
    pub pop_time: i64,
    #[serde(rename = "q")]
    pub queue_id: i32,
    /// "0" normal, "1" retry, "2" retry v2.
    #[serde(rename = "r")]
    pub retry: String,
    #[serde(rename = "rq")]
    pub revive_queue_id: i32,
    #[serde(rename = "so")]
    pub start_offset: i64,
    #[serde(rename = "t")]
    pub topic: String,
}

impl BatchAck {
    /// The queue offsets named by `bits`, within [`BATCH_ACK_SPAN_MAX`]; none if it is not base64.
    pub fn offsets(&self) -> Vec<i64> {
        let mut offsets = Vec::new();
        let bytes = from_base64(&self.bits).unwrap_or_default();
        for (at, byte) in bytes.into_iter().take(BATCH_ACK_SPAN_MAX / 8).enumerate() {
            for bit in 0..8 {
                if byte & (1 << bit) != 0 {
                    offsets.push(self.start_offset.saturating_add(at as i64 * 8 + bit));
                }
            }
        }
        offsets
    }

    /// The `bits` of these offsets; those not within [`BATCH_ACK_SPAN_MAX`] of `start_offset` are
    /// left out.
    pub fn bits_of(start_offset: i64, offsets: &[i64]) -> String {
        const SPAN: i64 = BATCH_ACK_SPAN_MAX as i64;
        let mut set = Vec::new();
        for &offset in offsets {
            let Some(bit @ 0..SPAN) = offset.checked_sub(start_offset) else { continue };
            let (byte, mask) = ((bit / 8) as usize, 1_u8 << (bit % 8));
            if set.len() <= byte {
                set.resize(byte + 1, 0);
            }
            if let Some(byte) = set.get_mut(byte) {
                *byte |= mask;
            }
        }
        to_base64(&set)
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn to_base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().enumerate().fold(0_u32, |word, (at, &byte)| word | u32::from(byte) << (16 - 8 * at));
        for at in 0..4 {
            let sextet = (word >> (18 - 6 * at)) & 63;
            let letter = BASE64.get(sextet as usize).copied().unwrap_or(b'=');
            out.push(if at <= chunk.len() { letter as char } else { '=' });
        }
    }
    out
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut word, mut bits) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let sextet = BASE64.iter().position(|&letter| letter == byte)? as u32;
        word = (word << 6 | sextet) & 0xFFFF;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    Some(out)
}

json_bodies!(
    QueryAssignmentRequestBody,
    QueryAssignmentResponseBody,
    SetMessageRequestModeRequestBody,
    BatchAckMessageRequestBody
);
