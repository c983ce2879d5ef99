//! The body of a batch send (320): items one after the other, never compressed.
//!
//! ```text
//! 0  4      total size of the item     12  4      flag
//! 4  4      magic, ignored             16  4 + n  body
//! 8  4      body CRC, ignored          ..  2 + p  properties
//! ```
//! Source: RocketMQ's MessageDecoder.encodeMessage and MessageExtEncoder.

use bytes::{Buf, BufMut, BytesMut};

use crate::message::{EncodeError, MessageError, PROPERTIES_BYTES_MAX};

const ITEM_BYTES_MIN: usize = 22;

/// One message of a batch, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchItem<'a> {
    pub flag: i32,
    pub body: &'a [u8],
    pub properties: &'a str,
}

/// The items of a batch body; ends after the first error.
#[derive(Clone, Debug)]
pub struct BatchItems<'a> {
    rest: &'a [u8],
}

impl<'a> BatchItems<'a> {
    pub fn new(body: &'a [u8]) -> BatchItems<'a> {
        BatchItems { rest: body }
    }
}

impl<'a> Iterator for BatchItems<'a> {
    type Item = Result<BatchItem<'a>, MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(match parse(self.rest) {
            Ok((item, rest)) => {
                self.rest = rest;
                Ok(item)
            }
            Err(error) => {
                self.rest = &[];
                Err(error)
            }
        })
    }
}

fn parse(bytes: &[u8]) -> Result<(BatchItem<'_>, &[u8]), MessageError> {
    let truncated = |needed| MessageError::Truncated { needed, have: bytes.len() };
    let mut head = bytes;
    let size = head.try_get_u32().map_err(|_| truncated(ITEM_BYTES_MIN))? as usize;
    if size < ITEM_BYTES_MIN {
        return Err(MessageError::Malformed("size of a batch item"));
    }
    let (item, after) = bytes.split_at_checked(size).ok_or(truncated(size))?;
    let short = |_| MessageError::Malformed("size of a batch item");
    let mut rest = item.get(12..).unwrap_or_default();
    let flag = rest.try_get_i32().map_err(short)?;
    let body_bytes = rest.try_get_u32().map_err(short)? as usize;
    let (body, mut rest) =
        rest.split_at_checked(body_bytes).ok_or(MessageError::Malformed("body of a batch item"))?;
    let properties_bytes = rest.try_get_u16().map_err(short)? as usize;
    if properties_bytes != rest.len() || properties_bytes > PROPERTIES_BYTES_MAX {
        return Err(MessageError::Malformed("properties of a batch item"));
    }
    let properties = std::str::from_utf8(rest)
        .map_err(|_| MessageError::Malformed("properties of a batch item are not UTF-8"))?;
    Ok((BatchItem { flag, body, properties }, after))
}

/// Appends one item.
pub fn encode_batch_item(item: &BatchItem<'_>, out: &mut BytesMut) -> Result<(), EncodeError> {
    if item.properties.len() > PROPERTIES_BYTES_MAX {
        return Err(EncodeError::PropertiesLength(item.properties.len()));
    }
    let size = ITEM_BYTES_MIN + item.body.len() + item.properties.len();
    if size > i32::MAX as usize {
        return Err(EncodeError::BodyLength(item.body.len()));
    }
    out.reserve(size);
    out.put_u32(size as u32);
    out.put_u32(0);
    out.put_u32(0);
    out.put_i32(item.flag);
    out.put_u32(item.body.len() as u32);
    out.extend_from_slice(item.body);
    out.put_u16(item.properties.len() as u16);
    out.extend_from_slice(item.properties.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::golden::{self, unhex};

    #[test]
    fn java_batch_reads_and_writes_back() {
        let bytes = unhex(golden::BATCH);
        let items: Vec<BatchItem<'_>> = BatchItems::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(
            items,
            [
                BatchItem { flag: 0, body: b"body1", properties: "WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}" },
                BatchItem { flag: 9, body: b"body-2", properties: "WAIT\u{1}true\u{2}TAGS\u{1}TagB\u{2}" },
            ]
        );
        let mut out = BytesMut::new();
        for item in &items {
            encode_batch_item(item, &mut out).unwrap();
        }
        assert_eq!(out, bytes);
    }

    #[test]
    fn damage_ends_the_batch() {
        let good = unhex(golden::BATCH);
        let check = |at: usize, byte: u8, expect: &str| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let read: Vec<_> = BatchItems::new(&bytes).collect();
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].unwrap_err().to_string(), expect);
        };
        check(3, 3, "record is malformed: size of a batch item");
        check(3, 0xFF, "record needs 255 bytes, 95 are there");
        check(19, 0xFF, "record is malformed: body of a batch item");
        check(26, 7, "record is malformed: properties of a batch item");
        check(30, 0xFF, "record is malformed: properties of a batch item are not UTF-8");
    }

    proptest! {
        #[test]
        fn batches_round_trip(
            items in prop::collection::vec((any::<i32>(), prop::collection::vec(any::<u8>(), 0..30), ".{0,20}"), 0..5),
        ) {
            let items: Vec<BatchItem<'_>> = items
                .iter()
                .map(|(flag, body, properties)| BatchItem { flag: *flag, body, properties })
                .collect();
            let mut out = BytesMut::new();
            for item in &items {
                encode_batch_item(item, &mut out).unwrap();
            }
            let read: Result<Vec<_>, _> = BatchItems::new(&out).collect();
            prop_assert_eq!(read.unwrap(), items);
        }
    }
}
