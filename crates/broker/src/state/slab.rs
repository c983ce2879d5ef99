//! Named things with numbers that the log gives.
//!
//! ```text
//! name ─▶ place ─▶ thing ◀─ place ◀─ number      numbers: in log order, never given again, ordered
//! ```
//! The hash map from names is for lookups alone: nothing iterates over it, so its order reaches no output. Places are
//! used again; they mean something in this process only.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Where a thing is while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

#[derive(Debug)]
pub(super) struct Slab<T> {
    /// With their numbers.
    things: Vec<Option<(u32, T)>>,
    free: Vec<Place>,
    by_name: HashMap<Arc<str>, Place>,
    by_id: BTreeMap<u32, Place>,
    next_id: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab::with_next_id(0)
    }
}

impl<T> Slab<T> {
    /// Empty; the next thing gets this number.
    pub(super) fn with_next_id(next_id: u32) -> Slab<T> {
        Slab {
            things: Vec::new(),
            free: Vec::new(),
            by_name: HashMap::new(),
            by_id: BTreeMap::new(),
            next_id,
        }
    }

    /// The number that the next thing gets.
    pub(super) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Number of live things.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn place(&self, name: &str) -> Option<Place> {
        self.by_name.get(name).copied()
    }

    pub(super) fn at(&self, place: Place) -> Option<&T> {
        self.things.get(place.0 as usize)?.as_ref().map(|(_, thing)| thing)
    }

    pub(super) fn at_mut(&mut self, place: Place) -> Option<&mut T> {
        self.things.get_mut(place.0 as usize)?.as_mut().map(|(_, thing)| thing)
    }

    pub(super) fn named(&self, name: &str) -> Option<&T> {
        self.at(self.place(name)?)
    }

    /// The number of a name.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        let Place(at) = self.place(name)?;
        self.things.get(at as usize)?.as_ref().map(|(id, _)| *id)
    }

    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.at(*self.by_id.get(&id)?)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.at_mut(*self.by_id.get(&id)?)
    }

    /// By number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.by_id.iter().filter_map(|(id, place)| Some((*id, self.at(*place)?)))
    }

    /// Gives a name a number. The name must not be live.
    pub(super) fn insert(&mut self, name: &Arc<str>, make: impl FnOnce(u32) -> T) -> u32 {
        let id = self.next_id;
        self.next_id = id.checked_add(1).expect("fewer than 2^32 names in the life of a group");
        assert!(self.put(id, Arc::clone(name), make(id)), "{name} is given a second number");
        id
    }

    /// Puts a thing at its number, which is below the next one. False when the number or the name cannot be.
    pub(super) fn put(&mut self, id: u32, name: Arc<str>, thing: T) -> bool {
        if id >= self.next_id || self.by_id.contains_key(&id) || self.by_name.contains_key(&name) {
            return false;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.things.push(None);
            Place(self.things.len() as u32 - 1)
        });
        self.things[place.0 as usize] = Some((id, thing));
        self.by_id.insert(id, place);
        self.by_name.insert(name, place);
        true
    }

    /// Ends a name and its number.
    pub(super) fn remove(&mut self, name: &str) -> Option<(Place, T)> {
        let place = self.by_name.remove(name)?;
        let (id, thing) = self.things[place.0 as usize].take().expect("a name that is live");
        self.by_id.remove(&id);
        self.free.push(place);
        Some((place, thing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_given_again_and_places_are() {
        let mut slab = Slab::default();
        let names: Vec<Arc<str>> = ["b", "a", "c"].map(Arc::from).into();
        let ids: Vec<u32> = names.iter().map(|name| slab.insert(name, |id| id * 10)).collect();
        assert_eq!(ids, [0, 1, 2]);
        let (place, thing) = slab.remove("a").unwrap();
        assert_eq!((thing, slab.len(), slab.id("a"), slab.get(1)), (10, 2, None, None));
        assert_eq!(slab.insert(&names[1], |id| id * 10), 3);
        assert_eq!(slab.place("a"), Some(place));
        assert_eq!(
            slab.iter().map(|(id, thing)| (id, *thing)).collect::<Vec<_>>(),
            [(0, 0), (2, 20), (3, 30)]
        );
        *slab.get_mut(3).unwrap() += 1;
        assert_eq!((slab.named("a"), slab.named("d")), (Some(&31), None));
        assert!(!slab.put(9, "d".into(), 0), "beyond the next number");
        assert!(!slab.put(2, "d".into(), 0), "a number that is taken");
        assert!(!slab.put(1, "a".into(), 0), "a name that is taken");
    }
}
