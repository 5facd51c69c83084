//! A sorted map whose clones share what has not changed since: where the machine keeps what there may be millions of.
//!
//! A B+ tree of wide nodes. Keys come mostly in ascending order (ids begin with a time, places are counted), so a
//! node that overflows at its end stays full and the next begins with one key.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Keys of a leaf, or children of a branch, at most. A wider node makes the tree flatter; a narrower one is copied
/// faster, when it changes for the first time after a clone.
const WIDTH: usize = 64;

/// A node with fewer, after a removal, joins its neighbour if both fit into one.
const NARROW: usize = WIDTH / 4;

/// Levels of branches, at most: a tree of this height would have more keys than there are bytes.
const HEIGHT_MAX: usize = 16;

/// A map in ascending order of key. To clone it costs as much as a pointer; a change copies the nodes on the way to
/// the key that are shared with a clone, and no others.
///
/// - Keys rise from leaf to leaf, and all leaves are equally deep.
/// - No node but the root is empty; none has more than `WIDTH`.
/// - A child's key in its branch is no more than all keys below it, but for the first child's, which nobody reads.
#[derive(Clone)]
pub struct Ordered<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

#[derive(Clone)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Branch(Vec<Child<K, V>>),
}

/// A child under its key.
type Child<K, V> = (K, Arc<Node<K, V>>);

/// What an insertion did to a node.
enum Inserted<K, V> {
    /// The key was there; this was its value.
    Replaced(V),
    /// The key is new, and the node had room.
    Added,
    /// The key is new, and this node is to be the next one, under this key.
    Split(K, Node<K, V>),
}

impl<K, V> Default for Ordered<K, V> {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> Ordered<K, V> {
    /// Makes an empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns how many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Branch(children) => node = &*children.get(child_of(children, key))?.1,
                Node::Leaf(pairs) => {
                    let at = find(pairs, key).ok()?;
                    return pairs.get(at).map(|(_, value)| value);
                }
            }
        }
    }

    /// Tells whether a key is there.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Returns the value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let mut node = Arc::make_mut(&mut self.root);
        loop {
            match node {
                Node::Branch(children) => {
                    let at = child_of(children, key);
                    node = Arc::make_mut(&mut children.get_mut(at)?.1);
                }
                Node::Leaf(pairs) => {
                    let at = find(pairs, key).ok()?;
                    return pairs.get_mut(at).map(|(_, value)| value);
                }
            }
        }
    }

    /// Puts a value under a key; returns the one that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match Arc::make_mut(&mut self.root).insert(key, value) {
            Inserted::Replaced(former) => return Some(former),
            Inserted::Added => {}
            Inserted::Split(key, node) => {
                let left = Arc::clone(&self.root);
                let first = left.first_key().cloned().unwrap_or_else(|| key.clone());
                self.root = Arc::new(Node::Branch(vec![(first, left), (key, Arc::new(node))]));
            }
        }
        self.len += 1;
        None
    }

    /// Takes a key out; returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let root = Arc::make_mut(&mut self.root);
        let removed = root.remove(key)?;
        self.len -= 1;
        if let Node::Branch(children) = root
            && children.len() <= 1
        {
            self.root = children.pop().map_or_else(|| Self::default().root, |(_, child)| child);
        }
        Some(removed)
    }

    /// Returns the lowest key with its value.
    #[must_use]
    pub fn get_min(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// Goes through all pairs in order of key.
    pub fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter { above: Vec::new(), leaf: [].iter() };
        iter.descend(&self.root, None::<&K>);
        iter
    }

    /// Goes through the pairs whose keys are above this one.
    pub fn above<Q: Ord + ?Sized>(&self, key: &Q) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let mut iter = Iter { above: Vec::new(), leaf: [].iter() };
        iter.descend(&self.root, Some(key));
        iter
    }

    /// Counts the keys below this one, leaf by leaf, and looks at no more than `leaves_max` leaves: with `false`
    /// there are more than were counted. A leaf has about as many keys as `WIDTH`, half of that at worst after
    /// inserts alone.
    #[must_use]
    pub fn count_below<Q: Ord + ?Sized>(&self, key: &Q, leaves_max: usize) -> (u64, bool)
    where
        K: Borrow<Q>,
    {
        let (mut count, mut leaves) = (0, leaves_max);
        let is_all = self.root.count_below(key, &mut count, &mut leaves);
        (count, is_all)
    }

    /// Goes through all values in order of key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

/// Finds the child in which a key is, if it is anywhere.
fn child_of<K: Borrow<Q>, Q: Ord + ?Sized, C>(children: &[(K, C)], key: &Q) -> usize {
    children.get(1..).unwrap_or_default().partition_point(|(first, _)| first.borrow() <= key)
}

/// Finds the place of a key, or where it belongs.
fn find<K: Borrow<Q>, Q: Ord + ?Sized, V>(pairs: &[(K, V)], key: &Q) -> Result<usize, usize> {
    // What comes is mostly the highest so far.
    if pairs.last().is_some_and(|(last, _)| last.borrow() < key) {
        return Err(pairs.len());
    }
    pairs.binary_search_by(|(other, _)| other.borrow().cmp(key))
}

/// Puts an element into a full or not so full list. What is returned does not fit and comes behind it.
fn put<T>(list: &mut Vec<T>, at: usize, element: T) -> Option<Vec<T>> {
    if list.len() < WIDTH {
        if list.len() == list.capacity() {
            list.reserve_exact((list.len().max(2) * 2).min(WIDTH) - list.len());
        }
        list.insert(at, element);
        return None;
    }
    if at == list.len() {
        return Some(vec![element]);
    }
    let mut right = list.split_off(WIDTH / 2);
    match at.checked_sub(WIDTH / 2) {
        Some(at) => right.insert(at, element),
        None => list.insert(at, element),
    }
    Some(right)
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    fn first_key(&self) -> Option<&K> {
        match self {
            Self::Leaf(pairs) => pairs.first().map(|(key, _)| key),
            Self::Branch(children) => children.first().map(|(key, _)| key),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(pairs) => pairs.len(),
            Self::Branch(children) => children.len(),
        }
    }

    /// Adds up the keys below one; `false` when that took too many leaves.
    fn count_below<Q: Ord + ?Sized>(&self, key: &Q, count: &mut u64, leaves: &mut usize) -> bool
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Leaf(pairs) => {
                let Some(left) = leaves.checked_sub(1) else { return false };
                *leaves = left;
                let (Ok(below) | Err(below)) = find(pairs, key);
                *count += below as u64;
                true
            }
            Self::Branch(children) => {
                let last = child_of(children, key);
                children.iter().take(last + 1).all(|(_, it)| it.count_below(key, count, leaves))
            }
        }
    }

    fn insert(&mut self, key: K, value: V) -> Inserted<K, V> {
        match self {
            Self::Leaf(pairs) => match find(pairs, &key) {
                Ok(at) => {
                    let (_, there) = pairs.get_mut(at).expect("it was found there");
                    Inserted::Replaced(std::mem::replace(there, value))
                }
                Err(at) => Inserted::of(put(pairs, at, (key, value)).map(Self::Leaf)),
            },
            Self::Branch(children) => {
                let at = child_of(children, &key);
                let (_, child) = children.get_mut(at).expect("a branch has a child");
                match Arc::make_mut(child).insert(key, value) {
                    Inserted::Split(key, node) => {
                        let right = put(children, at + 1, (key, Arc::new(node)));
                        Inserted::of(right.map(Self::Branch))
                    }
                    done @ (Inserted::Replaced(_) | Inserted::Added) => done,
                }
            }
        }
    }

    fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Leaf(pairs) => {
                let at = find(pairs, key).ok()?;
                Some(pairs.remove(at).1)
            }
            Self::Branch(children) => {
                let at = child_of(children, key);
                let child = Arc::make_mut(&mut children.get_mut(at)?.1);
                let removed = child.remove(key)?;
                if child.len() == 0 {
                    children.remove(at);
                } else if child.len() < NARROW {
                    join(children, at);
                }
                Some(removed)
            }
        }
    }
}

/// Joins a child that has become narrow with a neighbour, if both fit into one node with room to grow.
fn join<K: Ord + Clone, V: Clone>(children: &mut Vec<Child<K, V>>, at: usize) {
    let len_at = |at: usize| children.get(at).map_or(WIDTH, |(_, child)| child.len());
    let fits = |left: usize| len_at(left) + len_at(left + 1) <= WIDTH - NARROW;
    let left = match at.checked_sub(1).filter(|left| fits(*left)) {
        Some(left) => left,
        None if fits(at) => at,
        None => return,
    };
    let (first, right) = children.remove(left + 1);
    let (_, child) = children.get_mut(left).expect("it has a neighbour on its left");
    match (Arc::make_mut(child), Arc::unwrap_or_clone(right)) {
        (Node::Leaf(pairs), Node::Leaf(more)) => pairs.extend(more),
        (Node::Branch(children), Node::Branch(mut more)) => {
            // It is not the first child any more: its key is read from now on.
            if let Some((key, _)) = more.first_mut() {
                *key = first;
            }
            children.extend(more);
        }
        (Node::Leaf(_), Node::Branch(_)) | (Node::Branch(_), Node::Leaf(_)) => {
            unreachable!("all leaves are equally deep")
        }
    }
}

impl<K: Clone, V> Inserted<K, V> {
    fn of(next: Option<Node<K, V>>) -> Self
    where
        K: Ord,
        V: Clone,
    {
        match next {
            None => Self::Added,
            Some(node) => {
                let first = node.first_key().cloned().expect("what was split off is not empty");
                Self::Split(first, node)
            }
        }
    }
}

/// Goes through pairs in order of key.
pub struct Iter<'a, K, V> {
    /// What is still to come at the right of the way to `leaf`, the root's first.
    above: Vec<std::slice::Iter<'a, Child<K, V>>>,
    leaf: std::slice::Iter<'a, (K, V)>,
}

impl<'a, K: Ord + Clone, V: Clone> Iter<'a, K, V> {
    /// Goes down to the first key of a node, or to the first above `after`.
    fn descend<Q: Ord + ?Sized>(&mut self, mut node: &'a Node<K, V>, after: Option<&Q>)
    where
        K: Borrow<Q>,
    {
        loop {
            match node {
                Node::Leaf(pairs) => {
                    let from = after.map_or(0, |key| match find(pairs, key) {
                        Ok(at) => at + 1,
                        Err(at) => at,
                    });
                    self.leaf = pairs.get(from..).unwrap_or_default().iter();
                    return;
                }
                Node::Branch(children) => {
                    let at = after.map_or(0, |key| child_of(children, key));
                    let mut rest = children.get(at..).unwrap_or_default().iter();
                    let Some((_, child)) = rest.next() else { return };
                    self.above.push(rest);
                    assert!(self.above.len() <= HEIGHT_MAX, "a tree higher than memory is large");
                    node = child;
                }
            }
        }
    }
}

impl<'a, K: Ord + Clone, V: Clone> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<(&'a K, &'a V)> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            match self.above.last_mut()?.next() {
                Some((_, child)) => self.descend(child, None::<&K>),
                None => _ = self.above.pop(),
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for Ordered<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && (Arc::ptr_eq(&self.root, &other.root) || self.iter().eq(other.iter()))
    }
}

impl<K: Ord + Clone, V: Clone + Eq> Eq for Ordered<K, V> {}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for Ordered<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A linear congruence: no test here needs a better one.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, end: u32) -> u32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u32::try_from((self.0 >> 33) % u64::from(end)).unwrap()
        }
    }

    impl Ordered<u32, u32> {
        /// Checks every invariant; returns how many nodes there are.
        fn check(&self) -> usize {
            let keys: Vec<u32> = self.iter().map(|(key, _)| *key).collect();
            assert_eq!(keys.len(), self.len);
            assert!(keys.is_sorted_by(|one, next| one < next));
            let (mut depths, mut count) = (Vec::new(), 0);
            let mut open = vec![(&*self.root, 0, None, None)];
            while let Some((node, depth, from, to)) = open.pop() {
                count += 1;
                assert!(node.len() <= WIDTH && (node.len() > 0 || depth == 0));
                match node {
                    Node::Leaf(pairs) => {
                        depths.push(depth);
                        let inside =
                            |key| from.is_none_or(|it| it <= key) && to.is_none_or(|it| key < it);
                        assert!(pairs.iter().all(|(key, _)| inside(*key)), "{from:?} {to:?}");
                    }
                    Node::Branch(children) => {
                        for (at, (key, child)) in children.iter().enumerate() {
                            let from = if at == 0 { from } else { Some(*key) };
                            let to = children.get(at + 1).map(|(key, _)| *key).or(to);
                            open.push((child, depth + 1, from, to));
                        }
                    }
                }
            }
            assert!(depths.iter().all(|depth| *depth == depths[0]), "leaves are equally deep");
            count
        }
    }

    #[test]
    fn keys_below_one_are_counted_leaf_by_leaf() {
        let mut dice = Dice(3);
        let mut map = Ordered::new();
        (0..20_000).for_each(|_| _ = map.insert(dice.below(1 << 20), 0));
        (0..5_000).for_each(|_| _ = map.remove(&dice.below(1 << 20)));
        let keys: Vec<u32> = map.iter().map(|(key, _)| *key).collect();
        for _ in 0..200 {
            let key = dice.below(1 << 20);
            let below = keys.partition_point(|other| *other < key) as u64;
            assert_eq!(map.count_below(&key, usize::MAX), (below, true), "{key}");
            let (count, is_all) = map.count_below(&key, 3);
            // Three leaves that are passed over have at least a key each.
            assert!(if is_all { count == below } else { (3..=below).contains(&count) }, "{count}");
        }
        assert_eq!(Ordered::<u32, u32>::new().count_below(&7, 1), (0, true));
        assert_eq!(map.count_below(&0, 0), (0, false));
    }

    /// Random changes, beside a map of the standard library; clones taken on the way stay as they were.
    #[test]
    fn changes_are_those_of_another_map_and_clones_stay() {
        let mut dice = Dice(7);
        for span in [10, 300, 20_000, 1 << 30] {
            let (mut map, mut model) = (Ordered::new(), BTreeMap::new());
            let mut clones = Vec::new();
            for step in 0..30_000_u32 {
                // It grows first, and shrinks then.
                let key = dice.below(span);
                if dice.below(30_000) > step {
                    assert_eq!(map.insert(key, step), model.insert(key, step));
                } else {
                    let near = map.above(&key).next().map_or(key, |(near, _)| *near);
                    assert_eq!(map.remove(&near), model.remove(&near));
                }
                assert_eq!(map.get(&key), model.get(&key));
                assert_eq!(map.get_min(), model.first_key_value());
                if let Some(value) = map.get_mut(&key) {
                    *value += 1;
                    *model.get_mut(&key).unwrap() += 1;
                }
                if step % 3000 == 0 {
                    clones.push((map.clone(), model.clone()));
                    map.check();
                }
            }
            clones.push((map, model));
            for (map, model) in clones {
                map.check();
                assert!(map.iter().eq(model.iter()));
                let after = dice.below(span);
                assert!(map.above(&after).eq(model.range(after + 1..)));
                assert_eq!(
                    map,
                    model.into_iter().fold(Ordered::new(), |mut map, (key, value)| {
                        map.insert(key, value);
                        map
                    })
                );
            }
        }
    }

    #[test]
    fn ascending_keys_fill_their_nodes_and_a_line_emptied_from_its_front_keeps_none() {
        let mut map = Ordered::new();
        (0..100_000).for_each(|key| _ = map.insert(key, key));
        assert!(map.check() < 100_000 / WIDTH + 100_000 / WIDTH / WIDTH + 4);
        for key in 0..100_000 {
            assert_eq!(map.get_min(), Some((&key, &key)));
            assert_eq!(map.remove(&key), Some(key));
            assert_eq!(map.remove(&key), None);
        }
        assert_eq!((map.check(), map.len()), (1, 0));
    }

    #[test]
    fn sparse_removals_leave_no_narrow_nodes_behind() {
        let mut map = Ordered::new();
        (0..100_000).for_each(|key| _ = map.insert(key, key));
        (0..100_000).filter(|key| key % 100 != 0).for_each(|key| _ = map.remove(&key));
        assert!(map.check() < 1000 / NARROW * 2 + 10, "{}", map.check());
    }
}
