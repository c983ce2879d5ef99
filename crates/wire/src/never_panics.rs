//! Whatever the bytes, every decoder answers.

use bytes::{Bytes, BytesMut};

use crate::golden::{self, unhex};
use crate::*;

/// A small generator of its own (xorshift64*), so that a failure repeats.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % below
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.roll(256) as u8).collect()
    }

    /// A copy with a few bytes changed, cut, repeated or put in.
    fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len().max(1));
            match self.roll(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at.min(bytes.len()), self.roll(256) as u8),
                2 if at < bytes.len() => {
                    bytes.remove(at);
                }
                3 => {
                    let part = bytes[at.min(bytes.len())..].to_vec();
                    bytes.extend(part);
                }
                _ if at < bytes.len() => {
                    bytes[at] = [0, 1, 0x7F, 0x80, 0xFF, b'"', b'\\', b'{'][self.roll(8)];
                }
                _ => {}
            }
        }
        bytes
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [
        golden::SEND_310_JSON,
        golden::SEND_310_ROCKETMQ,
        golden::SEND_10_JSON,
        golden::RESPONSE_ROCKETMQ,
        golden::POP_ROCKETMQ,
        golden::STORED_V4,
        golden::STORED_V6,
        golden::BATCH,
        golden::REGISTER_COMPRESSED,
    ]
    .into_iter()
    .map(unhex)
    .collect();
    seeds.extend(
        [
            r#"{"offsetTable":{{"brokerName":"b","queueId":3,"topic":"t"}:{"maxOffset":9}},"topicPutTps":0.0}"#,
            r#"{"clientID":"c","consumerDataSet":[{"consumeType":1,"subscriptionDataSet":[{"tagsSet":["a"]}]}]}"#,
            r#"{"brokerDatas":[{"brokerAddrs":{0:"a",1:"b"}}],"queueDatas":[{"perm":6}],"filterServerTable":{}}"#,
            r#"{"acks":[{"b":"AQI=","so":9223372036854775807}],"brokerName":"b"}"#,
            "orders 4 4 6 SINGLE_TAG {\"a\":\"b\"}",
            "KEYS\u{1}a b\u{2}TAGS\u{1}x\u{2}",
            "7F00000100002A9F00000000000004D2",
            "FD00000000000000000000000000000232421DBD16A6757203190000",
        ]
        .map(|text| text.as_bytes().to_vec()),
    );
    seeds
}

fn decode_headers(ext: &ExtFields) {
    macro_rules! all {
        ($($header:ident)*) => { $(let _ = $header::decode(ext);)* };
    }
    let _ = SendMessageRequest::decode_for(RequestCode::SEND_MESSAGE_V2, ext);
    all!(
        SendMessageRequest SendMessageResponse ReplyMessageRequest ConsumerSendMsgBackRequest
        PullMessageRequest PullMessageResponse QueryConsumerOffsetRequest UpdateConsumerOffsetRequest
        EndTransactionRequest CheckTransactionStateRequest PopMessageRequest AckMessageRequest
        ResetOffsetRequest QueryCorrectionOffsetRequest CloneGroupOffsetRequest CreateTopicRequest RegisterBrokerRequest BrokerHeartbeatRequest
    );
}

fn decode_everything(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(command)) = decode_frame(&mut buffer, FRAME_BYTES_MAX) {
        decode_headers(&command.ext);
        // What was read can be written, and reads the same again.
        let mut out = BytesMut::new();
        command.encode(&mut out);
        let again = decode_frame(&mut out, FRAME_BYTES_MAX).unwrap().unwrap();
        assert_eq!(again.code, command.code);
    }
    for stored in Messages::new(bytes).flatten() {
        let _ = stored.verify();
        let _ = (
            stored.unit_code(),
            stored.tags_code(),
            stored.keys().count(),
            stored.offset_message_id().to_string(),
        );
    }
    let shared = Bytes::copy_from_slice(bytes);
    for message in Message::decode_all(&shared).unwrap_or_default() {
        let _ = message.plain_body(1 << 16);
    }
    let _ = BatchItems::new(bytes).count();
    let mut record = bytes.to_vec();
    let _ = patch_queue_offset(&mut record, QueueOffset(u64::MAX));
    let _ = patch_position(&mut record, LogPosition(u64::MAX));
    let _ = patch_store_timestamp(&mut record, i64::MIN);
    let _ = decompress_body(sysflag::COMPRESSED, bytes, 1 << 16);
    let _ = RegisterBrokerBody::decode_compressed(bytes, VERSION, 1 << 16);

    macro_rules! bodies {
        ($($body:ident)*) => { $(let _ = $body::decode(bytes);)* };
    }
    bodies!(
        HeartbeatData SubscriptionData TopicRouteData ClusterInfo TopicConfig TopicConfigSerializeWrapper
        RegisterBrokerBody DataVersion KvTable TopicList SubscriptionGroupConfig ConsumerConnection
        TopicStatsTable ConsumeStats ConsumeStatsList ResetOffsetBody GetConsumerStatusBody LockBatchRequestBody
        LockBatchResponseBody QueryCorrectionOffsetBody BrokerStatsData QueryAssignmentResponseBody
    );
    for ack in BatchAckMessageRequestBody::decode(bytes).map(|body| body.acks).unwrap_or_default() {
        let _ = ack.offsets();
    }

    let text = String::from_utf8_lossy(bytes);
    let _ = (properties_get(&text, "TAGS"), properties_to_map(&text), java_string_hash(&text));
    let mut properties = text.to_string();
    properties_set(&mut properties, "TAGS", "x");
    let _ = (validate_topic(&text), validate_group(&text), TopicConfig::from_text(&text));
    let _ = text.parse::<OffsetMessageId>();
    let _ = text.parse::<RecallHandle>();
    if let Ok(id) = text.parse::<UniqueId>() {
        let _ = (id.time_near(0), id.time_near(i64::MIN), id.time_near(i64::MAX));
    }
    let _ = SubscriptionData::from_tags("t", &text, 0);
}

#[test]
fn random_bytes() {
    let mut dice = Dice(0x5EED);
    for _ in 0..6_000 {
        let len = dice.roll(200);
        decode_everything(&dice.bytes(len));
    }
}

#[test]
fn mutated_frames_and_bodies() {
    let mut dice = Dice(0xD1CE);
    let seeds = seeds();
    for round in 0..12_000 {
        let bytes = dice.mutate(&seeds[round % seeds.len()]);
        decode_everything(&bytes);
    }
}

#[test]
fn headers_whose_lengths_are_right_but_bytes_are_not() {
    let mut dice = Dice(0xF4A3);
    let seeds: Vec<Vec<u8>> =
        [golden::SEND_310_JSON, golden::SEND_310_ROCKETMQ, golden::POP_ROCKETMQ].map(unhex).into();
    for round in 0..12_000 {
        let header = dice.mutate(&seeds[round % seeds.len()][8..]);
        let kind = (round % 3).min(1) as u32;
        let mut frame = Vec::new();
        frame.extend_from_slice(&(4 + header.len() as u32).to_be_bytes());
        frame.extend_from_slice(&(kind << 24 | header.len() as u32).to_be_bytes());
        frame.extend_from_slice(&header);
        decode_everything(&frame);
    }
}

#[test]
fn extreme_clocks() {
    let ids = UniqueIds::new("::1".parse().unwrap(), 1, 2);
    for now in [i64::MIN, -1, 0, i64::MAX] {
        let _ = ids.next(now).to_string();
    }
}
