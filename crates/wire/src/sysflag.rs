//! Bits of a message's `sysFlag` (MessageSysFlag).

pub const COMPRESSED: i32 = 0x1;
pub const MULTI_TAGS: i32 = 0x2;
/// Mask of the transaction bits.
pub const TRANSACTION: i32 = 0xC;
pub const TRANSACTION_PREPARED: i32 = 0x4;
pub const TRANSACTION_COMMIT: i32 = 0x8;
pub const TRANSACTION_ROLLBACK: i32 = 0xC;
/// The born host has a 16-byte address.
pub const BORNHOST_V6: i32 = 0x10;
/// The store host has a 16-byte address.
pub const STOREHOST_V6: i32 = 0x20;
pub const NEED_UNWRAP: i32 = 0x40;
pub const INNER_BATCH: i32 = 0x80;
/// Mask of the compression type; 0 is zlib as well, from older clients.
pub const COMPRESSION_TYPE: i32 = 0x700;
pub const COMPRESSION_LZ4: i32 = 0x100;
pub const COMPRESSION_ZSTD: i32 = 0x200;
pub const COMPRESSION_ZLIB: i32 = 0x300;
