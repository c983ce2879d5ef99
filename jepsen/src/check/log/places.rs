//! Who holds which offset of a queue: nine bytes a place, in chunks, so that one absurd offset costs a chunk and no
//! more.

use std::collections::BTreeMap;
use std::ops::BitOr;

use crate::history::Value;

const CHUNK: u64 = 1024;

/// Who says that a value is at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks(u8);

impl Marks {
    pub(crate) const ACKNOWLEDGED: Marks = Marks(1);
    /// By a consumer, before the drain.
    pub(crate) const READ: Marks = Marks(2);
    pub(crate) const DRAINED: Marks = Marks(4);

    pub(crate) fn has(self, mark: Marks) -> bool {
        self.0 & mark.0 != 0
    }

    /// For reports.
    pub(crate) fn words(self) -> String {
        let words =
            [(Marks::ACKNOWLEDGED, "acknowledged"), (Marks::READ, "read"), (Marks::DRAINED, "drained")];
        words.iter().filter(|(mark, _)| self.has(*mark)).map(|(_, word)| *word).collect::<Vec<_>>().join(", ")
    }
}

impl BitOr for Marks {
    type Output = Marks;

    fn bitor(self, other: Marks) -> Marks {
        Marks(self.0 | other.0)
    }
}

struct Chunk {
    values: [u64; CHUNK as usize],
    /// 0: nobody has said anything of the place.
    marks: [u8; CHUNK as usize],
}

/// The places of one queue.
#[derive(Default)]
pub(crate) struct Places {
    chunks: BTreeMap<u64, Box<Chunk>>,
    /// Values of a place beyond the first that somebody named.
    contested: BTreeMap<u64, Vec<(Value, Marks)>>,
    /// How many have a value.
    count: u64,
}

impl Places {
    pub(crate) fn mark(&mut self, offset: u64, value: Value, mark: Marks) {
        let chunk = self
            .chunks
            .entry(offset / CHUNK)
            .or_insert_with(|| Box::new(Chunk { values: [0; CHUNK as usize], marks: [0; CHUNK as usize] }));
        let at = (offset % CHUNK) as usize;
        if chunk.marks[at] == 0 {
            chunk.values[at] = value.pack();
            self.count += 1;
        }
        if chunk.values[at] == value.pack() {
            chunk.marks[at] |= mark.0;
            return;
        }
        let others = self.contested.entry(offset).or_default();
        match others.iter_mut().find(|(other, _)| *other == value) {
            Some((_, marks)) => *marks = *marks | mark,
            None => others.push((value, mark)),
        }
    }

    /// How many places somebody has named.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Every place with the first value that was named for it, ascending.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u64, Value, Marks)> {
        self.chunks.iter().flat_map(|(&number, chunk)| {
            let places = chunk.values.iter().zip(&chunk.marks).zip(0..CHUNK);
            places
                .filter(|((_, marks), _)| **marks != 0)
                .map(move |((&value, &marks), at)| (number * CHUNK + at, Value::unpack(value), Marks(marks)))
        })
    }

    /// The first value of a place.
    pub(crate) fn get(&self, offset: u64) -> Option<(Value, Marks)> {
        let chunk = self.chunks.get(&(offset / CHUNK))?;
        let at = (offset % CHUNK) as usize;
        (chunk.marks[at] != 0).then(|| (Value::unpack(chunk.values[at]), Marks(chunk.marks[at])))
    }

    /// The other values of places that have several.
    pub(crate) fn contested(&self) -> impl Iterator<Item = (u64, &[(Value, Marks)])> {
        self.contested.iter().map(|(&offset, others)| (offset, &**others))
    }

    /// Every claim on a place: the first value and all others.
    pub(crate) fn claims(&self, offset: u64) -> Vec<(Value, Marks)> {
        let others = self.contested.get(&offset).into_iter().flatten().copied();
        self.get(offset).into_iter().chain(others).collect()
    }
}

/// A set of offsets: one bit each, in chunks.
#[derive(Default)]
pub(crate) struct Offsets {
    chunks: BTreeMap<u64, [u64; 16]>,
}

impl Offsets {
    /// Whether it is new.
    pub(crate) fn insert(&mut self, offset: u64) -> bool {
        let chunk = self.chunks.entry(offset / 1024).or_default();
        let at = offset % 1024;
        let (word, bit) = (&mut chunk[(at / 64) as usize], 1 << (at % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    pub(crate) fn contains(&self, offset: u64) -> bool {
        let at = offset % 1024;
        self.chunks
            .get(&(offset / 1024))
            .is_some_and(|chunk| chunk[(at / 64) as usize] & (1 << (at % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_the_first_value_and_contest_the_others() {
        let mut places = Places::default();
        let (one, two) = (Value::new(1, 0), Value::new(2, 0));
        for offset in [5, 1023, 1024, u64::MAX] {
            places.mark(offset, one, Marks::ACKNOWLEDGED);
            places.mark(offset, one, Marks::READ);
        }
        assert_eq!(places.contested().count(), 0);
        places.mark(1024, two, Marks::DRAINED);
        places.mark(1024, two, Marks::READ);
        assert_eq!(places.count(), 4);
        let offsets: Vec<u64> = places.all().map(|(offset, _, _)| offset).collect();
        assert_eq!(offsets, [5, 1023, 1024, u64::MAX]);
        let both = Marks::ACKNOWLEDGED | Marks::READ;
        assert_eq!(places.claims(1024), [(one, both), (two, Marks::DRAINED | Marks::READ)]);
        assert!(places.claims(7).is_empty());
        assert_eq!(both.words(), "acknowledged, read");
    }

    #[test]
    fn offsets_are_a_set() {
        let mut offsets = Offsets::default();
        for offset in [0, 63, 64, 1023, 1024, u64::MAX] {
            assert!(!offsets.contains(offset));
            assert!(offsets.insert(offset));
            assert!(!offsets.insert(offset));
            assert!(offsets.contains(offset));
        }
        assert!(!offsets.contains(1));
    }
}
