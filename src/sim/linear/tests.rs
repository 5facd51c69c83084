//! The search against trying every order by hand, and what it says of an illegal history.

use super::*;

/// A register that is written and read.
struct Register;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Write(u8),
    Read(u8),
    /// Adds an unknown amount of up to two.
    Drift,
}

impl Model for Register {
    type Op = Op;
    type State = u8;

    fn initial(&self) -> u8 {
        0
    }

    fn settles(&self, op: &Op) -> bool {
        matches!(op, Op::Read(_))
    }

    fn step(&self, state: &u8, op: &Op, next: &mut Vec<u8>) {
        match op {
            Op::Write(value) => next.push(*value),
            Op::Read(value) => next.extend((state == value).then_some(*value)),
            Op::Drift => next.extend([state + 1, state + 2]),
        }
    }
}

fn of(op: Op, invoked: u64, returned: Option<u64>) -> Operation<Op> {
    Operation { op, invoked, returned }
}

/// Tries every order, one operation after the other, without any memory.
fn by_hand(history: &[Operation<Op>], done: &mut Vec<bool>, state: u8) -> bool {
    let open = |done: &[bool]| {
        history.iter().zip(done).any(|(operation, done)| !done && operation.returned.is_some())
    };
    if !open(done) {
        return true;
    }
    for at in 0..history.len() {
        let preceded = history.iter().zip(done.iter()).any(|(other, done)| {
            !done && other.returned.is_some_and(|returned| returned < history[at].invoked)
        });
        if done[at] || preceded {
            continue;
        }
        let mut next = Vec::new();
        Register.step(&state, &history[at].op, &mut next);
        done[at] = true;
        if next.into_iter().any(|state| by_hand(history, done, state)) {
            return true;
        }
        done[at] = false;
    }
    false
}

#[test]
fn search_agrees_with_trying_every_order() {
    let mut dice = fastrand::Rng::with_seed(7);
    let mut counts = [0, 0];
    for _ in 0..20_000 {
        let count = dice.usize(1..8);
        let history: Vec<_> = (0..count)
            .map(|_| {
                let op = match dice.u32(0..5) {
                    0 | 1 => Op::Write(dice.u8(0..3)),
                    2 | 3 => Op::Read(dice.u8(0..3)),
                    _ => Op::Drift,
                };
                let invoked = dice.u64(0..20);
                let returned = (dice.u32(0..6) > 0).then(|| invoked + dice.u64(0..8));
                of(op, invoked, returned)
            })
            .collect();
        let expected = by_hand(&history, &mut vec![false; count], 0);
        let verdict = check(&Register, &history, STEPS_MAX);
        assert_eq!(matches!(verdict, Verdict::Legal { .. }), expected, "{history:?}: {verdict:?}");
        counts[usize::from(expected)] += 1;
    }
    assert!(counts[0] > 2000 && counts[1] > 2000, "{counts:?}");
}

#[test]
fn stale_read_is_illegal_and_says_what_could_not_follow() {
    let history = [
        of(Op::Write(1), 0, Some(10)),
        of(Op::Write(2), 20, Some(30)),
        of(Op::Read(1), 40, Some(50)),
    ];
    let Verdict::Illegal(illegal) = check(&Register, &history, STEPS_MAX) else { panic!() };
    assert_eq!(
        (illegal.placed.as_slice(), illegal.stuck.as_slice()),
        ([0, 1].as_slice(), [2].as_slice())
    );
    let text = illegal.describe(|operation| format!("{:?}", operation.op), &history);
    assert!(text.contains("2 of 3") && text.contains("Read(1)"), "{text}");
}

#[test]
fn unknown_write_explains_a_read_at_any_later_time_and_needs_not_happen() {
    let write = of(Op::Write(2), 0, None);
    let late = [write.clone(), of(Op::Read(0), 10, Some(20)), of(Op::Read(2), 30, Some(40))];
    assert!(matches!(check(&Register, &late, STEPS_MAX), Verdict::Legal { .. }));
    let never = [write.clone(), of(Op::Read(0), 10, Some(20))];
    assert!(matches!(check(&Register, &never, STEPS_MAX), Verdict::Legal { .. }));
    let back = [write, of(Op::Read(2), 10, Some(20)), of(Op::Read(0), 30, Some(40))];
    assert!(matches!(check(&Register, &back, STEPS_MAX), Verdict::Illegal(_)));
}

#[test]
fn bound_that_is_reached_is_no_pass() {
    let history: Vec<_> = (0..9).map(|n| of(Op::Write(n), 0, Some(100))).collect();
    assert!(matches!(check(&Register, &history, 100), Verdict::Legal { .. }));
    assert_eq!(check(&Register, &history, 5), Verdict::Undecided { steps: 5 });
}
