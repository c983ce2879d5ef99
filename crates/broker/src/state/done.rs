//! Which messages of a source queue are done (decisions/0011).
//!
//! ```text
//!            base                                next
//! ────────────┼──────────────────────────────────┼─▶ offsets
//!   all done  │ chunks of 1024 bits; no chunk:    │
//!             │ all pending                       │
//! ```
//! Messages are done nearly in the order of their offsets, so the base follows close behind and few chunks are needed;
//! one that is due in three days holds the base back and costs those behind it a bit each, and nothing but an entry of
//! the map where a whole chunk is done.
//!
//! One set has one form: a chunk is there while something at or above the base is done in it, its bits below the base
//! are set, the base itself is never done, and a chunk that is full has no bits.

use std::collections::BTreeMap;

use super::TopicId;

/// Offsets of one chunk.
const CHUNK: u64 = 1024;
const WORDS: usize = (CHUNK / 64) as usize;
type Bits = [u64; WORDS];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Chunk {
    /// All are done.
    Full,
    Bits(Box<Bits>),
}

impl Chunk {
    fn contains(&self, bit: u64) -> bool {
        match self {
            Chunk::Full => true,
            Chunk::Bits(bits) => bits[(bit / 64) as usize] >> (bit % 64) & 1 == 1,
        }
    }

    /// The first bit from `from` on that is not set; [`CHUNK`] when all are.
    fn next_clear(&self, from: u64) -> u64 {
        let Chunk::Bits(bits) = self else { return CHUNK };
        let mut word = (from / 64) as usize;
        // Bits below `from` count as set.
        let mut masked = bits[word] | ((1u64 << (from % 64)) - 1);
        while masked == u64::MAX {
            word += 1;
            if word == WORDS {
                return CHUNK;
            }
            masked = bits[word];
        }
        word as u64 * 64 + u64::from(masked.trailing_ones())
    }

    fn count(&self) -> u64 {
        match self {
            Chunk::Full => CHUNK,
            Chunk::Bits(bits) => bits.iter().map(|word| u64::from(word.count_ones())).sum(),
        }
    }
}

/// A chunk of which the bits below one are set.
fn set_below(bit: u64) -> Bits {
    let mut bits = [0; WORDS];
    for (word, bits) in (0..).zip(bits.iter_mut()) {
        let below = bit.saturating_sub(word * 64).min(64);
        *bits = if below == 64 { u64::MAX } else { (1u64 << below) - 1 };
    }
    bits
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DoneSet {
    base: u64,
    /// Derived: how many are done at or above the base.
    above: u64,
    chunks: BTreeMap<u64, Chunk>,
}

/// A [`DoneSet`] of a queue, as snapshots hold it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DoneRecord {
    #[prost(uint32, tag = "1")]
    topic: u32,
    #[prost(uint32, tag = "2")]
    queue: u32,
    #[prost(uint64, tag = "3")]
    base: u64,
    /// Runs of full chunks: the number of the first, and how many, in turn.
    #[prost(uint64, repeated, tag = "4")]
    full: Vec<u64>,
    /// The numbers of the other chunks.
    #[prost(uint64, repeated, tag = "5")]
    partial: Vec<u64>,
    /// 128 bytes for each of them: offset n of the chunk is bit n % 8, counted from the lowest, of byte n / 8.
    #[prost(bytes = "vec", tag = "6")]
    bits: Vec<u8>,
}

impl DoneSet {
    /// All below the base is done, and nothing else.
    pub(super) fn new(base: u64) -> DoneSet {
        DoneSet { base, ..DoneSet::default() }
    }

    /// All below it is done, and it is not.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        offset < self.base
            || self.chunks.get(&(offset / CHUNK)).is_some_and(|chunk| chunk.contains(offset % CHUNK))
    }

    /// Marks one done; false when it is already.
    pub(super) fn mark(&mut self, offset: u64) -> bool {
        if self.contains(offset) {
            return false;
        }
        if offset == self.base {
            if let Some(Chunk::Bits(bits)) = self.chunks.get_mut(&(offset / CHUNK)) {
                set(bits, offset % CHUNK);
            }
            self.base += 1;
            self.advance();
            return true;
        }
        let floor = self.base.saturating_sub(offset / CHUNK * CHUNK).min(CHUNK);
        let chunk =
            self.chunks.entry(offset / CHUNK).or_insert_with(|| Chunk::Bits(Box::new(set_below(floor))));
        self.above += 1;
        if let Chunk::Bits(bits) = chunk {
            set(bits, offset % CHUNK);
            if bits.iter().all(|word| *word == u64::MAX) {
                *chunk = Chunk::Full;
            }
        }
        true
    }

    /// Everything below the floor is done: it cannot be read any more.
    pub(super) fn raise(&mut self, floor: u64) {
        if floor <= self.base {
            return;
        }
        self.base = floor;
        self.chunks = self.chunks.split_off(&(floor / CHUNK));
        if let Some(Chunk::Bits(bits)) = self.chunks.get_mut(&(floor / CHUNK)) {
            for (word, below) in bits.iter_mut().zip(set_below(floor % CHUNK)) {
                *word |= below;
            }
            if bits.iter().all(|word| *word == u64::MAX) {
                self.chunks.insert(floor / CHUNK, Chunk::Full);
            }
        }
        self.above = self.count_above();
        self.advance();
    }

    /// Has the base follow what is done from it on.
    fn advance(&mut self) {
        while let Some(mut first) = self.chunks.first_entry() {
            let (start, bit) = (first.key() * CHUNK, self.base % CHUNK);
            if start > self.base {
                return;
            }
            let clear = first.get().next_clear(bit);
            self.base = start + clear;
            self.above -= clear - bit;
            if clear == CHUNK {
                first.remove();
                continue;
            }
            let chunk = first.get_mut();
            if chunk.count() == clear {
                // Nothing is done beyond the base.
                first.remove();
            }
            return;
        }
    }

    fn count_above(&self) -> u64 {
        let done: u64 = self.chunks.values().map(Chunk::count).sum();
        let below = if self.chunks.contains_key(&(self.base / CHUNK)) { self.base % CHUNK } else { 0 };
        done - below
    }

    /// What is pending from an offset on and below `next`, ascending.
    pub(super) fn pending(&self, from: u64, next: u64) -> impl Iterator<Item = u64> {
        let mut at = from.max(self.base);
        let mut chunks = self.chunks.range(at / CHUNK..).peekable();
        std::iter::from_fn(move || {
            while at < next {
                let number = at / CHUNK;
                while chunks.next_if(|(other, _)| **other < number).is_some() {}
                let clear = match chunks.peek() {
                    Some((other, chunk)) if **other == number => chunk.next_clear(at % CHUNK),
                    _ => at % CHUNK,
                };
                at = number * CHUNK + clear;
                if clear < CHUNK && at < next {
                    at += 1;
                    return Some(at - 1);
                }
            }
            None
        })
    }

    /// How many are pending below `next`, which is above all that are done.
    pub(super) fn pending_count(&self, next: u64) -> u64 {
        next.saturating_sub(self.base).saturating_sub(self.above)
    }

    pub(super) fn encode(&self, topic: TopicId, queue: u32) -> DoneRecord {
        let mut record = DoneRecord { topic: topic.0, queue, base: self.base, ..DoneRecord::default() };
        for (number, chunk) in &self.chunks {
            match (chunk, record.full.as_mut_slice()) {
                (Chunk::Bits(bits), _) => {
                    record.partial.push(*number);
                    record.bits.extend(bits.iter().flat_map(|word| word.to_le_bytes()));
                }
                (Chunk::Full, [.., first, count]) if *first + *count == *number => *count += 1,
                (Chunk::Full, _) => record.full.extend([*number, 1]),
            }
        }
        record
    }

    /// The set of a queue whose next offset is known by `next`.
    pub(super) fn decode(
        record: &DoneRecord,
        next: impl Fn(TopicId, u32) -> Option<u64>,
    ) -> Result<((TopicId, u32), DoneSet), String> {
        let DoneRecord { topic, queue, base, full, partial, bits } = record;
        let key = (TopicId(*topic), *queue);
        let impossible = || format!("what is done of queue {queue} of topic {topic} cannot be");
        let next = next(key.0, key.1).ok_or_else(impossible)?;
        let mut chunks = BTreeMap::new();
        for run in full.chunks(2) {
            let [first, count] = *run else { return Err(impossible()) };
            // No more than there are messages.
            let end = first.checked_add(count).filter(|end| *end <= next / CHUNK).ok_or_else(impossible)?;
            chunks.extend((first..end).map(|number| (number, Chunk::Full)));
        }
        if bits.len() != partial.len() * WORDS * 8 {
            return Err(impossible());
        }
        for (number, bytes) in partial.iter().zip(bits.chunks_exact(WORDS * 8)) {
            let mut words = [0; WORDS];
            for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            }
            if *number > next / CHUNK || chunks.insert(*number, Chunk::Bits(Box::new(words))).is_some() {
                return Err(impossible());
            }
        }
        let mut set = DoneSet { base: *base, above: 0, chunks };
        if !set.is_well_formed(next) {
            return Err(impossible());
        }
        set.above = set.count_above();
        // Its one form, or it was not this code that wrote it.
        if set.encode(key.0, key.1) != *record {
            return Err(impossible());
        }
        Ok((key, set))
    }

    /// What the module says of its form; and nothing is done that is not stored.
    fn is_well_formed(&self, next: u64) -> bool {
        self.base <= next
            && self.chunks.iter().all(|(number, chunk)| {
                let start = number * CHUNK;
                let below = self.base.saturating_sub(start).min(CHUNK);
                let Chunk::Bits(bits) = chunk else { return self.base < start && start + CHUNK <= next };
                let floor = set_below(below);
                let is_floored = bits.iter().zip(floor).all(|(word, floor)| word & floor == floor);
                let is_stored = (0..CHUNK).all(|bit| start + bit < next || !chunk.contains(bit));
                below < CHUNK
                    && is_floored
                    && is_stored
                    && chunk.count() > below
                    && chunk.count() < CHUNK
                    && (start > self.base || !chunk.contains(below))
            })
    }
}

fn set(bits: &mut Bits, bit: u64) {
    bits[(bit / 64) as usize] |= 1 << (bit % 64);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set_of(base: u64, offsets: impl IntoIterator<Item = u64>) -> DoneSet {
        let mut set = DoneSet::new(base);
        for offset in offsets {
            set.mark(offset);
        }
        set
    }

    #[test]
    fn what_is_done_in_order_leaves_a_base_alone() {
        let mut set = DoneSet::new(0);
        for offset in 0..5000 {
            assert!(set.mark(offset));
            assert!(!set.mark(offset));
        }
        assert_eq!(set, DoneSet::new(5000));
        assert_eq!((set.base(), set.pending_count(5010)), (5000, 10));
    }

    #[test]
    fn one_that_waits_holds_the_base_and_full_chunks_cost_nothing() {
        let mut set = set_of(0, 1..10 * CHUNK);
        assert_eq!((set.base(), set.chunks.len()), (0, 10));
        assert_eq!(set.chunks.values().filter(|chunk| **chunk == Chunk::Full).count(), 9);
        assert_eq!(set.pending(0, 10 * CHUNK + 2).collect::<Vec<_>>(), [0, 10 * CHUNK, 10 * CHUNK + 1]);
        let record = set.encode(TopicId(1), 2);
        assert_eq!((&record.full[..], record.bits.len()), (&[1, 9][..], 128));
        assert!(set.mark(0));
        assert_eq!(set, DoneSet::new(10 * CHUNK));
    }

    #[test]
    fn a_floor_ends_what_is_below() {
        let mut set = set_of(0, [3, 4, 2000, 2001, 4000]);
        set.raise(3);
        assert_eq!((set.base(), set.above), (5, 3));
        set.raise(4);
        assert_eq!(set.base(), 5, "it never falls");
        set.raise(1999);
        assert_eq!((set.base(), set.above), (1999, 3));
        set.mark(1999);
        assert_eq!((set.base(), set.above), (2002, 1));
        set.raise(9000);
        assert_eq!(set, DoneSet::new(9000));
    }

    #[test]
    fn damaged_records_are_refused() {
        let next = |_: TopicId, _: u32| Some(5000);
        let good = set_of(10, [12, 2000]).encode(TopicId(0), 0);
        assert!(DoneSet::decode(&good, next).is_ok());
        let refused = |change: fn(&mut DoneRecord)| {
            let mut record = good.clone();
            change(&mut record);
            assert!(DoneSet::decode(&record, next).is_err(), "{record:?}");
        };
        assert!(DoneSet::decode(&good, |_, _| None).is_err(), "no such queue");
        assert!(DoneSet::decode(&good, |_, _| Some(2000)).is_err(), "done and not stored");
        refused(|record| record.base = 12);
        refused(|record| record.base = 13);
        refused(|record| record.base = 6000);
        refused(|record| record.full = vec![2]);
        refused(|record| record.full = vec![1, 1]);
        refused(|record| record.full = vec![2, u64::MAX]);
        refused(|record| record.full = vec![4, 1]);
        refused(|record| record.full = vec![2, 1, 3, 1]);
        refused(|record| record.partial = vec![0, 0]);
        refused(|record| record.partial = vec![1, 0]);
        refused(|record| record.partial = vec![0, u64::MAX]);
        refused(|record| record.bits[0] = 0);
        refused(|record| record.bits[1] = 0b111);
        refused(|record| record.bits[1] = 0b11);
        refused(|record| record.bits[128..].fill(0));
        refused(|record| record.bits[128..].fill(255));
        refused(|record| record.bits.truncate(255));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Mark(u64),
        Run(u64, u64),
        Raise(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (0..5000u64).prop_map(Op::Mark),
            3 => (0..5000u64, 1..1500u64).prop_map(|(from, count)| Op::Run(from, count)),
            2 => (0..20u64, 1..1100u64).prop_map(|(from, count)| Op::Run(from, count)),
            1 => (0..2000u64).prop_map(Op::Raise),
        ]
    }

    proptest! {
        #[test]
        fn like_a_set_of_offsets(base in 0..1500u64, ops in prop::collection::vec(op(), 0..60)) {
            const NEXT: u64 = 7000;
            let mut set = DoneSet::new(base);
            let mut pending: BTreeSet<u64> = (base..NEXT).collect();
            for op in ops {
                match op {
                    Op::Mark(offset) => prop_assert_eq!(set.mark(offset), pending.remove(&offset)),
                    Op::Run(from, count) => for offset in from..from + count {
                        prop_assert_eq!(set.mark(offset), pending.remove(&offset));
                    },
                    Op::Raise(floor) => {
                        set.raise(floor);
                        pending = pending.split_off(&floor);
                    }
                }
                prop_assert!(set.is_well_formed(NEXT), "{:?}", set);
                prop_assert_eq!(Some(set.base()), pending.first().copied());
                prop_assert_eq!(set.pending_count(NEXT), pending.len() as u64);
            }
            prop_assert!((0..NEXT).all(|offset| set.contains(offset) != pending.contains(&offset)));
            prop_assert!(set.pending(0, NEXT).eq(pending.iter().copied()));
            prop_assert!(set.pending(3000, 4000).eq(pending.range(3000..4000).copied()));
            // Equal sets have one form, however they came about.
            let again = set_of(set.base(), (set.base()..NEXT).rev().filter(|offset| !pending.contains(offset)));
            prop_assert_eq!(&again, &set);
            let record = set.encode(TopicId(7), 3);
            let (key, decoded) = DoneSet::decode(&record, |_, _| Some(NEXT)).unwrap();
            prop_assert_eq!(key, (TopicId(7), 3));
            prop_assert_eq!(decoded, set);
        }
    }
}
