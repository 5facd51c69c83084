//! Tells whether a history of overlapping operations is one that a single copy could have produced.
//!
//! The search is that of Wing and Gong with the memory of Lowe: operations are placed one after the other, each
//! before whatever was invoked after it had returned, and a set of placed operations that led to a state once
//! is not looked at twice. An operation whose outcome is unknown may be placed at any time after it was invoked, or
//! never. A search that exceeds its bound is [`Verdict::Undecided`], which nobody may count as a pass.

use std::collections::BTreeSet;

/// Steps of one search, at most, unless told otherwise; an honest history of one job takes about one for each operation.
pub const STEPS_MAX: u64 = 20_000_000;

/// Placed operations shown of a history that is illegal: the last ones.
const SHOWN_MAX: usize = 8;

/// What one copy does, one operation at a time.
pub trait Model {
    /// An operation with its outcome.
    type Op;
    /// What the copy remembers. It may stand for many states of the real thing, those that it can reach by itself.
    type State: Clone + Ord + std::fmt::Debug;

    /// Returns the state before the first operation.
    fn initial(&self) -> Self::State;

    /// Adds to `next` every state that the operation may lead to from `state`, with just the outcome it had;
    /// none if it could not have had that outcome. An operation of unknown outcome adds those in which it was done.
    fn step(&self, state: &Self::State, op: &Self::Op, next: &mut Vec<Self::State>);

    /// Tells whether an operation that changes nothing here may be placed at once and never be tried later: whatever
    /// can follow it later can do without it. True of a read; not of a write of the value that is there already,
    /// which may be what brings that value back later.
    fn settles(&self, op: &Self::Op) -> bool;
}

/// One operation of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<O> {
    /// What, and what came of it.
    pub op: O,
    /// When it was begun.
    pub invoked: u64,
    /// When its outcome was known; `None`: never. One that returns when another is invoked overlaps it.
    pub returned: Option<u64>,
}

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Legal {
        /// Steps taken.
        steps: u64,
    },
    /// There is none.
    Illegal(Illegal),
    /// The bound was reached. This is a failure of the test.
    Undecided {
        /// Steps taken.
        steps: u64,
    },
}

/// How far the best attempt came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Illegal {
    /// The operations it placed, in order, by their places in the history.
    pub placed: Vec<usize>,
    /// Those that had to come next, and none of which could.
    pub stuck: Vec<usize>,
    /// The state they met.
    pub state: String,
}

impl Illegal {
    /// Says which operations could not be ordered, a line for each.
    pub fn describe<O>(
        &self,
        show: impl Fn(&Operation<O>) -> String,
        history: &[Operation<O>],
    ) -> String {
        let line = |at: &usize| match history.get(*at) {
            Some(operation) => format!("    {}\n", show(operation)),
            None => String::new(),
        };
        let skipped = self.placed.len().saturating_sub(SHOWN_MAX);
        let placed: String = self.placed.iter().skip(skipped).map(line).collect();
        let stuck: String = self.stuck.iter().map(line).collect();
        format!(
            "no order of these operations is possible; the best one begins with {} of {}, at last\n{placed}  which \
             leads to {}, and then none of these can follow:\n{stuck}",
            self.placed.len(),
            history.len(),
            self.state
        )
    }
}

/// Looks for an order of the operations that the model allows, in at most `steps_max` steps.
pub fn check<M: Model>(model: &M, history: &[Operation<M::Op>], steps_max: u64) -> Verdict {
    Search::new(model, history, steps_max).run()
}

/// One operation placed, and how to take it back.
struct Placed<S> {
    op: usize,
    before: S,
    /// States it may have led to instead.
    others: Vec<S>,
    /// It changed nothing: what could not be done after it cannot be done before it.
    is_settled: bool,
}

/// The search.
///
/// - The list holds the events of the operations not placed, in order of time: operation `i` is invoked at `i` and
///   returns at `count + i`.
struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Operation<M::Op>],
    steps_max: u64,
    list: List,
    /// Known operations not placed.
    left: usize,
    placed: Vec<Placed<M::State>>,
    state: M::State,
    /// The exclusive or of the keys of the operations placed: two sets share one by chance once in 10^38.
    set: u128,
    keys: Vec<u128>,
    seen: BTreeSet<(u128, M::State)>,
    steps: u64,
    best: Option<Illegal>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, history: &'a [Operation<M::Op>], steps_max: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(history.len() as u64);
        Self {
            model,
            history,
            steps_max,
            list: List::new(history),
            left: history.iter().filter(|operation| operation.returned.is_some()).count(),
            placed: Vec::new(),
            state: model.initial(),
            set: 0,
            keys: history.iter().map(|_| dice.u128(..)).collect(),
            seen: BTreeSet::new(),
            steps: 0,
            best: None,
        }
    }

    fn run(mut self) -> Verdict {
        let mut next = Vec::new();
        let mut cursor = self.list.first();
        while self.left > 0 {
            if self.steps >= self.steps_max {
                return Verdict::Undecided { steps: self.steps };
            }
            self.steps += 1;
            cursor = match self.history.get(cursor) {
                Some(operation) => {
                    next.clear();
                    self.model.step(&self.state, &operation.op, &mut next);
                    if self.place(cursor, &mut next) {
                        self.list.first()
                    } else {
                        self.list.after(cursor)
                    }
                }
                // An operation returned that could not be placed.
                None => {
                    self.note_stuck(cursor);
                    match self.take_back() {
                        Some(cursor) => cursor,
                        None => return Verdict::Illegal(self.best.expect("it was noted")),
                    }
                }
            };
        }
        Verdict::Legal { steps: self.steps }
    }

    /// Places an operation with the last of the states that was not met before, if there is one.
    fn place(&mut self, op: usize, next: &mut Vec<M::State>) -> bool {
        let set = self.set ^ self.key(op);
        let unchanged = next.len() == 1 && next.first() == Some(&self.state);
        let operation = self.history.get(op);
        let is_settled =
            unchanged && operation.is_some_and(|operation| self.model.settles(&operation.op));
        while let Some(state) = next.pop() {
            if !self.seen.insert((set, state.clone())) {
                continue;
            }
            let before = std::mem::replace(&mut self.state, state);
            let others = std::mem::take(next);
            self.placed.push(Placed { op, before, others, is_settled });
            self.set = set;
            let is_known = self.is_known(op);
            self.list.lift(op, is_known);
            self.left -= usize::from(is_known);
            return true;
        }
        false
    }

    /// Takes back the last operation that could have gone otherwise; returns where to go on.
    fn take_back(&mut self) -> Option<usize> {
        loop {
            let Placed { op, before, others, is_settled } = self.placed.pop()?;
            let is_known = self.is_known(op);
            self.list.unlift(op, is_known);
            self.left += usize::from(is_known);
            self.set ^= self.key(op);
            self.state = before;
            if is_settled {
                continue;
            }
            let mut others = others;
            if self.place(op, &mut others) {
                return Some(self.list.first());
            }
            return Some(self.list.after(op));
        }
    }

    fn is_known(&self, op: usize) -> bool {
        self.history.get(op).is_some_and(|operation| operation.returned.is_some())
    }

    fn key(&self, op: usize) -> u128 {
        self.keys.get(op).copied().unwrap_or_default()
    }

    fn note_stuck(&mut self, at: usize) {
        if self.best.as_ref().is_some_and(|best| best.placed.len() >= self.placed.len()) {
            return;
        }
        let mut stuck = Vec::new();
        let mut cursor = self.list.first();
        while cursor != at {
            stuck.push(cursor);
            cursor = self.list.after(cursor);
        }
        let placed = self.placed.iter().map(|placed| placed.op).collect();
        self.best = Some(Illegal { placed, stuck, state: format!("{:?}", self.state) });
    }
}

/// The events of the operations not placed, linked in order of time, so that taking one out and putting it back
/// where it was costs nothing.
struct List {
    count: usize,
    next: Vec<usize>,
    prev: Vec<usize>,
}

impl List {
    fn new<O>(history: &[Operation<O>]) -> Self {
        let count = history.len();
        let calls = history.iter().enumerate().map(|(at, it)| (it.invoked, 0, at));
        let returns = history
            .iter()
            .enumerate()
            .filter_map(|(at, it)| it.returned.map(|time| (time, 1, count + at)));
        let mut events: Vec<(u64, u8, usize)> = calls.chain(returns).collect();
        events.sort_unstable();
        let end = 2 * count;
        let mut list = Self { count, next: vec![end; end + 1], prev: vec![end; end + 1] };
        let mut last = end;
        for (_, _, event) in events {
            list.link(last, event);
            last = event;
        }
        list.link(last, end);
        list
    }

    fn link(&mut self, from: usize, to: usize) {
        if let Some(next) = self.next.get_mut(from) {
            *next = to;
        }
        if let Some(prev) = self.prev.get_mut(to) {
            *prev = from;
        }
    }

    fn first(&self) -> usize {
        self.after(2 * self.count)
    }

    fn after(&self, event: usize) -> usize {
        self.next.get(event).copied().unwrap_or_default()
    }

    fn before(&self, event: usize) -> usize {
        self.prev.get(event).copied().unwrap_or_default()
    }

    /// Takes the events of an operation out: the call, and the return of a known one. They keep their neighbours.
    fn lift(&mut self, op: usize, is_known: bool) {
        self.take_out(op);
        if is_known {
            self.take_out(self.count + op);
        }
    }

    /// Puts back what was taken out last.
    fn unlift(&mut self, op: usize, is_known: bool) {
        if is_known {
            self.put_back(self.count + op);
        }
        self.put_back(op);
    }

    fn take_out(&mut self, event: usize) {
        self.link(self.before(event), self.after(event));
    }

    fn put_back(&mut self, event: usize) {
        let (before, after) = (self.before(event), self.after(event));
        self.link(before, event);
        self.link(event, after);
    }
}

#[cfg(test)]
mod tests;
