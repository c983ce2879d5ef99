//! Compressed message bodies. Brokers never look inside; clients do.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::ZlibDecoder;
use flate2::write::ZlibEncoder;

use crate::sysflag;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// Kind of [`sysflag::COMPRESSION_TYPE`] bits that is not read here (LZ4, ZSTD).
    #[error("compression type {0} is not supported")]
    Unsupported(i32),
    #[error("decompressed form exceeds {0} bytes")]
    TooLarge(usize),
    #[error("compressed bytes are damaged: {0}")]
    Damaged(String),
}

/// The zlib stream that producers send when they set [`sysflag::COMPRESSED`] and
/// [`sysflag::COMPRESSION_ZLIB`]. RocketMQ's level is 5 (DefaultMQProducer); above 9 counts as 9.
pub fn compress_body(body: &[u8], level: u32) -> Vec<u8> {
    zlib(body, level)
}

/// The plain body of a message with these flags, at most `max` bytes.
pub fn decompress_body(sys_flag: i32, body: &[u8], max: usize) -> Result<Vec<u8>, DecompressError> {
    if sys_flag & sysflag::COMPRESSED == 0 {
        return Ok(body.to_vec());
    }
    match sys_flag & sysflag::COMPRESSION_TYPE {
        0 | sysflag::COMPRESSION_ZLIB => unzlib(body, max),
        other => Err(DecompressError::Unsupported(other >> 8)),
    }
}

pub(crate) fn zlib(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder =
        ZlibEncoder::new(Vec::with_capacity(plain.len() / 4 + 64), Compression::new(level.min(9)));
    // Writing into memory cannot fail.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default()
}

pub(crate) fn unzlib(bytes: &[u8], max: usize) -> Result<Vec<u8>, DecompressError> {
    let mut plain = Vec::new();
    let limit = (max as u64).saturating_add(1);
    ZlibDecoder::new(bytes)
        .take(limit)
        .read_to_end(&mut plain)
        .map_err(|error| DecompressError::Damaged(error.to_string()))?;
    if plain.len() > max {
        return Err(DecompressError::TooLarge(max));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = zlib(&vec![0; 10_000_000], 9);
        assert!(bomb.len() < 20_000);
        assert_eq!(unzlib(&bomb, 1_000_000), Err(DecompressError::TooLarge(1_000_000)));
    }

    #[test]
    fn kinds() {
        assert_eq!(decompress_body(0, b"plain", 0), Ok(b"plain".to_vec()));
        let lz4 = sysflag::COMPRESSED | sysflag::COMPRESSION_LZ4;
        assert_eq!(decompress_body(lz4, b"x", 9), Err(DecompressError::Unsupported(1)));
        assert!(matches!(decompress_body(sysflag::COMPRESSED, b"x", 9), Err(DecompressError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn bodies_round_trip(body in prop::collection::vec(any::<u8>(), 0..300), level in 0_u32..12) {
            let packed = compress_body(&body, level);
            prop_assert_eq!(decompress_body(sysflag::COMPRESSED, &packed, body.len()), Ok(body));
        }
    }
}
