//! Timer messages that are on their way out of their queue at this node: delivered, or taken back.
//!
//! The log decides which of the two comes first, and voids the other. But a void entry takes those with it that were
//! proposed behind it, so a leader does not propose both.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::hosted::lock;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<Claimed>);

#[derive(Debug, Default)]
struct Claimed {
    delivered: HashSet<u64>,
    recalled: HashSet<u64>,
}

/// Messages that are being taken back, until it is dropped.
#[derive(Debug)]
pub(crate) struct Recall<'a> {
    claims: &'a Claims,
    pub(crate) offsets: Vec<u64>,
}

impl Claims {
    /// The duty begins, with a term or once more within one. What an earlier term had under way is decided, or void. What
    /// this term had may still be under way, unclaimed: should a recall come now, the log decides between the two.
    pub(super) fn begin(&self) {
        lock(&self.0).delivered.clear();
    }

    /// Claims messages for a delivery; leaves those in `offsets` that are, and returns those that are being taken back.
    pub(super) fn deliver(&self, offsets: &mut Vec<u64>) -> Vec<u64> {
        let mut claimed = lock(&self.0);
        let Claimed { delivered, recalled } = &mut *claimed;
        let (theirs, ours) = offsets.drain(..).partition(|offset| recalled.contains(offset));
        *offsets = ours;
        delivered.extend(offsets.iter().copied());
        theirs
    }

    /// They are decided, or wait again.
    pub(super) fn delivered(&self, offsets: impl IntoIterator<Item = u64>) {
        let mut claimed = lock(&self.0);
        for offset in offsets {
            claimed.delivered.remove(&offset);
        }
    }

    /// Claims those of these messages that nobody has claimed, to take them back.
    pub(crate) fn recall(&self, mut offsets: Vec<u64>) -> Recall<'_> {
        let mut claimed = lock(&self.0);
        let Claimed { delivered, recalled } = &mut *claimed;
        offsets.retain(|offset| !delivered.contains(offset) && recalled.insert(*offset));
        drop(claimed);
        Recall { claims: self, offsets }
    }
}

impl Drop for Recall<'_> {
    fn drop(&mut self) {
        let mut claimed = lock(&self.claims.0);
        for offset in &self.offsets {
            claimed.recalled.remove(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_one_way() {
        let claims = Claims::default();
        let mut due = vec![1, 2, 3];
        let recall = claims.recall(vec![2, 4]);
        assert_eq!(recall.offsets, [2, 4]);
        assert_eq!((claims.deliver(&mut due), due.clone()), (vec![2], vec![1, 3]));
        assert_eq!(claims.recall(vec![1, 2, 5]).offsets, [5], "one is delivered, one recalled already");
        drop(recall);
        claims.delivered([1]);
        assert_eq!(claims.recall(vec![1, 2, 3]).offsets, [1, 2]);
        claims.begin();
        assert_eq!(claims.recall(vec![3]).offsets, [3]);
    }
}
