//! Slots: small records written alternately to two pages, so that a torn write leaves the other one. The synced watermark
//! (docs/formats.md 3) and the vote (4) are kept so.

use wire::LogPosition;

use crate::bytes_at::{array, put, u32_at, u64_at};
use crate::frame::Tail;
use crate::ids::{LogId, LogIndex, Term, Vote};
use crate::limits::SLOT_LEN;

const WATERMARK_MAGIC: [u8; 4] = *b"RMW1";
const VOTE_MAGIC: [u8; 4] = *b"RMV1";
/// Bytes of a slot that are written; the rest of its page is never read.
pub(crate) const WATERMARK_LEN: usize = 72;
pub(crate) const VOTE_LEN: usize = 33;

/// Up to where this disk holds the log for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watermark {
    /// The greatest one counts.
    pub(crate) sequence: u64,
    /// The end of the last synced frame.
    pub(crate) position: LogPosition,
    /// Its index plus 1: the index of the next entry.
    pub(crate) next: LogIndex,
    pub(crate) term: Term,
    pub(crate) chain: u64,
    /// The last entry that was known to be committed, never beyond the synced ones (log.md 3).
    pub(crate) committed: Option<LogId>,
}

impl Watermark {
    pub(crate) fn new(sequence: u64, synced: &Tail, committed: Option<LogId>) -> Self {
        let Tail { next, end: position, chain, .. } = *synced;
        Self { sequence, position, next, term: synced.term(), chain, committed }
    }

    /// Where it goes in the file of a segment.
    pub(crate) fn offset(&self, segment_size: u64) -> u64 {
        segment_size + self.sequence % 2 * SLOT_LEN
    }

    pub(crate) fn encode(&self) -> [u8; WATERMARK_LEN] {
        let Self { sequence, position, next, term, chain, committed } = *self;
        let mut bytes = [0; WATERMARK_LEN];
        put(&mut bytes, 0, &WATERMARK_MAGIC);
        put(&mut bytes, 8, &sequence.to_be_bytes());
        put(&mut bytes, 16, &position.0.to_be_bytes());
        put(&mut bytes, 24, &next.0.to_be_bytes());
        put(&mut bytes, 32, &term.0.to_be_bytes());
        put(&mut bytes, 40, &chain.to_be_bytes());
        let committed_next = committed.map_or(0, |id| id.index.next().0);
        put(&mut bytes, 48, &committed_next.to_be_bytes());
        put(&mut bytes, 56, &committed.map_or(0, |id| id.term.0).to_be_bytes());
        seal(&mut bytes);
        bytes
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let bytes = checked(slot, WATERMARK_LEN, WATERMARK_MAGIC)?;
        let committed = u64_at(bytes, 48).checked_sub(1);
        Some(Self {
            sequence: u64_at(bytes, 8),
            position: LogPosition(u64_at(bytes, 16)),
            next: LogIndex(u64_at(bytes, 24)),
            term: Term(u64_at(bytes, 32)),
            chain: u64_at(bytes, 40),
            committed: committed.map(|index| LogId { term: Term(u64_at(bytes, 56)), index: LogIndex(index) }),
        })
    }

    /// The valid slot with the highest sequence.
    pub(crate) fn newest(slots: &[u8]) -> Option<Self> {
        slots.chunks(SLOT_LEN as usize).filter_map(Self::decode).max_by_key(|mark| mark.sequence)
    }
}

/// A slot of the vote file. `vote` is `None` in a new directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VoteSlot {
    pub(crate) sequence: u64,
    pub(crate) vote: Option<Vote>,
}

impl VoteSlot {
    pub(crate) fn encode(&self) -> [u8; VOTE_LEN] {
        let mut bytes = [0; VOTE_LEN];
        put(&mut bytes, 0, &VOTE_MAGIC);
        put(&mut bytes, 8, &self.sequence.to_be_bytes());
        match self.vote {
            Some(Vote { term, node, committed }) => {
                put(&mut bytes, 16, &term.0.to_be_bytes());
                put(&mut bytes, 24, &node.to_be_bytes());
                put(&mut bytes, 32, &[u8::from(committed)]);
            }
            None => put(&mut bytes, 32, &[2]),
        }
        seal(&mut bytes);
        bytes
    }

    pub(crate) fn decode(slot: &[u8]) -> Option<Self> {
        let bytes = checked(slot, VOTE_LEN, VOTE_MAGIC)?;
        let (term, node) = (Term(u64_at(bytes, 16)), u64_at(bytes, 24));
        let vote = match array::<1>(bytes, 32) {
            [0] => Some(Vote { term, node, committed: false }),
            [1] => Some(Vote { term, node, committed: true }),
            [2] => None,
            _ => return None,
        };
        Some(Self { sequence: u64_at(bytes, 8), vote })
    }
}

/// Fills in the CRC32C of everything behind it.
fn seal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(bytes.get(8..).unwrap_or_default());
    put(bytes, 4, &crc.to_be_bytes());
}

fn checked(slot: &[u8], len: usize, magic: [u8; 4]) -> Option<&[u8]> {
    let bytes = slot.get(..len)?;
    let is_whole = array(bytes, 0) == magic && crc32c::crc32c(bytes.get(8..)?) == u32_at(bytes, 4);
    is_whole.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_watermark_comes_back_and_a_flipped_bit_is_seen(
            sequence: u64, position: u64, next: u64, term: u64, chain: u64, committed: Option<(u64, u64)>, flip in 0..WATERMARK_LEN,
        ) {
            let committed = committed.map(|(term, index)| LogId::new(term, index.min(u64::MAX - 1)));
            let mark = Watermark { sequence, position: LogPosition(position), next: LogIndex(next), term: Term(term), chain, committed };
            let mut bytes = mark.encode();
            prop_assert_eq!(Watermark::decode(&bytes), Some(mark));
            bytes[flip] ^= 0x40;
            prop_assert_eq!(Watermark::decode(&bytes), None);
        }

        #[test]
        fn a_vote_comes_back_and_a_flipped_bit_is_seen(
            sequence: u64, vote: Option<(u64, u64, bool)>, flip in 0..VOTE_LEN,
        ) {
            let vote = vote.map(|(term, node, committed)| Vote { term: Term(term), node, committed });
            let slot = VoteSlot { sequence, vote };
            let mut bytes = slot.encode();
            prop_assert_eq!(VoteSlot::decode(&bytes), Some(slot));
            bytes[flip] ^= 0x40;
            prop_assert_eq!(VoteSlot::decode(&bytes), None);
        }
    }

    #[test]
    fn the_newest_valid_slot_counts() {
        let mark = |sequence| Watermark {
            sequence,
            position: LogPosition(sequence * 10),
            next: LogIndex(1),
            term: Term(1),
            chain: 7,
            committed: None,
        };
        let mut slots = vec![0; 2 * SLOT_LEN as usize];
        assert_eq!(Watermark::newest(&slots), None);
        slots[..WATERMARK_LEN].copy_from_slice(&mark(8).encode());
        slots[4096..4096 + WATERMARK_LEN].copy_from_slice(&mark(9).encode());
        assert_eq!(Watermark::newest(&slots), Some(mark(9)));
        slots[4096 + 20] ^= 1;
        assert_eq!(Watermark::newest(&slots), Some(mark(8)));
    }
}
