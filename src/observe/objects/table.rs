//! The facts of one kind, where they stand, and what a list makes of them.

use meshrollout_core::ident::Namespace;
use std::collections::{BTreeMap, BTreeSet};

/// The facts of one kind, by namespace and name. A cluster-wide object is filed under its own name.
pub(super) struct Table<T> {
    rows: Rows<T>,
    /// The rows of a list under way: they take the place of the others when it is whole.
    arriving: Option<Rows<T>>,
    /// A list has been whole once.
    pub(super) listed: bool,
}

type Rows<T> = BTreeMap<Namespace, BTreeMap<String, T>>;

/// Where an object is filed: namespace and name.
pub(super) type Place = (Namespace, String);

impl<T: PartialEq> Table<T> {
    /// Its kind is not there any more: what was known of it is not known.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Files a fact, or with `None` takes it away. True when that made a difference.
    pub(super) fn set(
        &mut self,
        (namespace, name): Place,
        fact: Option<T>,
        share: fn(&mut T, &T),
    ) -> bool {
        let Some(fact) = fact else {
            let Some(rows) = self.rows.get_mut(&namespace) else { return false };
            let was_there = rows.remove(&name).is_some();
            if rows.is_empty() {
                self.rows.remove(&namespace);
            }
            return was_there;
        };
        let rows = self.rows.entry(namespace).or_default();
        if rows.get(&name) == Some(&fact) {
            return false;
        }
        insert(rows, name, fact, share);
        true
    }

    /// A list begins.
    pub(super) fn begin(&mut self) {
        self.arriving = Some(Rows::new());
    }

    /// One object of the list.
    pub(super) fn arrive(
        &mut self,
        (namespace, name): Place,
        fact: Option<T>,
        share: fn(&mut T, &T),
    ) {
        if let Some(fact) = fact {
            let arriving = self.arriving.get_or_insert_default();
            insert(arriving.entry(namespace).or_default(), name, fact, share);
        }
    }

    /// The list is whole; answers the namespaces in which it made a difference.
    pub(super) fn finish(&mut self) -> BTreeSet<Namespace> {
        self.listed = true;
        let before = std::mem::replace(&mut self.rows, self.arriving.take().unwrap_or_default());
        let all: BTreeSet<_> = before.keys().chain(self.rows.keys()).cloned().collect();
        all.into_iter().filter(|name| before.get(name) != self.rows.get(name)).collect()
    }
}

/// Names begin with their owner's: a neighbour is likely to be of the same workload.
fn insert<T>(rows: &mut BTreeMap<String, T>, name: String, mut fact: T, share: fn(&mut T, &T)) {
    if let Some((_, neighbour)) = rows.range(..name.clone()).next_back() {
        share(&mut fact, neighbour);
    }
    rows.insert(name, fact);
}

impl<T> Table<T> {
    pub(super) fn facts_of(&self, namespace: &Namespace) -> impl Iterator<Item = &T> {
        self.rows.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn get(&self, namespace: &Namespace, name: &str) -> Option<&T> {
        self.rows.get(namespace)?.get(name)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.rows.values().flat_map(BTreeMap::values)
    }

    pub(super) fn places(&self) -> impl Iterator<Item = ((&Namespace, &str), &T)> {
        self.rows.iter().flat_map(|(namespace, rows)| {
            rows.iter().map(move |(name, fact)| ((namespace, name.as_str()), fact))
        })
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Rows::new(), arriving: None, listed: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers have nothing in common.
    const ALONE: fn(&mut i32, &i32) = |_, _| {};

    fn place(namespace: &str, name: &str) -> Place {
        (namespace.into(), name.into())
    }

    #[test]
    fn only_what_differs_counts_as_a_change() {
        let mut table = Table::default();
        assert!(table.set(place("a", "x"), Some(1), ALONE));
        assert!(!table.set(place("a", "x"), Some(1), ALONE));
        assert!(table.set(place("a", "x"), Some(2), ALONE));
        assert!(!table.set(place("a", "y"), None, ALONE));
        assert!(table.set(place("a", "x"), None, ALONE));
        assert_eq!(table.all().count(), 0);
    }

    #[test]
    fn a_list_takes_the_place_of_what_was_there_when_it_is_whole() {
        let mut table = Table::default();
        table.set(place("same", "x"), Some(1), ALONE);
        table.set(place("gone", "x"), Some(1), ALONE);
        table.set(place("changed", "x"), Some(1), ALONE);
        table.begin();
        table.arrive(place("half", "x"), Some(9), ALONE);
        // It broke off and begins again.
        table.begin();
        table.arrive(place("same", "x"), Some(1), ALONE);
        table.arrive(place("changed", "x"), Some(2), ALONE);
        table.arrive(place("new", "x"), Some(1), ALONE);
        table.arrive(place("nothing", "x"), None, ALONE);
        assert_eq!(table.facts_of(&"gone".into()).count(), 1, "not whole yet");
        assert_eq!(table.finish(), ["changed", "gone", "new"].map(Namespace::from).into());
        assert_eq!(table.all().copied().collect::<Vec<_>>(), [2, 1, 1]);
    }
}
