//! Numbers from a seed (SplitMix64). Each part of the simulation has a stream of its own, so that a change in one does not
//! change what the others do.

pub(crate) const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream of a part of the simulation.
    pub(crate) fn of(seed: u64, part: &str) -> Self {
        Random(mix(seed ^ xxhash_rust::xxh3::xxh3_64(part.as_bytes())))
    }

    pub(crate) fn next(&mut self) -> u64 {
        let number = mix(self.0);
        self.0 = self.0.wrapping_add(STEP);
        number
    }

    /// Less than `n`, which is not 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// From `least` to `most`.
    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    pub(crate) fn permille(&mut self, n: u64) -> bool {
        self.below(1000) < n
    }

    pub(crate) fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// One of several by their weights, which are not all 0.
    pub(crate) fn weighted<T: Copy>(&mut self, from: &[(u64, T)]) -> T {
        let all: u64 = from.iter().map(|(weight, _)| weight).sum();
        let mut at = self.below(all);
        for (weight, item) in from {
            if at < *weight {
                return *item;
            }
            at -= weight;
        }
        unreachable!("the weights add up to {all}")
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for n in (1..items.len()).rev() {
            items.swap(n, self.below(n as u64 + 1) as usize);
        }
    }
}
