//! Big-endian fields of fixed-size buffers, without a panic on short ones (they read as zeros).

/// Copies `N` bytes from `at`.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|field| field.try_into().ok()).unwrap_or([0; N])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

/// Writes a field; the caller's buffer has room for it.
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    match bytes.get_mut(at..at + field.len()) {
        Some(place) => place.copy_from_slice(field),
        None => debug_assert!(false, "field at {at} outside a buffer of {} bytes", bytes.len()),
    }
}
