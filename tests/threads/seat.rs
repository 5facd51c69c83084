//! The Raft thread and its visitors: whatever the order of events, each thing that is brought is done once, in its
//! sender's order and while nobody else sits, and what a visitor leaves to the host is done by the host.

use std::panic::{AssertUnwindSafe, catch_unwind};

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use crate::room::{Hosted, Panicked, Seat};
use crate::{Receiver, Sender, bounded};

/// Those who bring something.
const SENDERS: usize = 2;

/// What each of them brings.
const THINGS: u32 = 3;

/// What is on the seat: a record of what was done, and the ways to the host.
struct Desk {
    lane: Receiver<(usize, u32)>,
    bell: (Sender<()>, Receiver<()>),
    done: [Vec<u32>; SENDERS],
    /// A visitor has left something to the host.
    owes: bool,
    is_sat_at: bool,
}

impl Desk {
    /// Does one thing, at a point where another thread may go on.
    fn take(&mut self, (sender, thing): (usize, u32)) {
        assert!(!std::mem::replace(&mut self.is_sat_at, true), "two in one seat");
        thread::yield_now();
        self.done.get_mut(sender).unwrap().push(thing);
        self.is_sat_at = false;
    }
}

impl Hosted for Desk {
    fn is_idle(&self) -> bool {
        self.lane.is_empty() && self.bell.1.is_empty()
    }
}

/// Brings things, as a link or the disk does: to the seat, and into the lane if that is not to be had. Returns how
/// many were done on the spot.
fn bring(seat: &Seat<Desk>, lane: &Sender<(usize, u32)>, sender: usize) -> u32 {
    let mut on_the_spot = 0;
    for thing in 0..THINGS {
        let left = seat.visit((sender, thing), |desk, brought| {
            desk.take(brought);
            if thread_rng().gen_bool(0.3) {
                desk.owes = true;
                desk.bell.0.try_send(()).unwrap();
            }
        });
        match left {
            Some(brought) => lane.send(brought).unwrap(),
            None => on_the_spot += 1,
        }
    }
    on_the_spot
}

/// Sits down when something waits, as the Raft thread does, until all is done.
fn host(seat: &Seat<Desk>, mut desk: Box<Desk>) -> Box<Desk> {
    let (lane, rung) = (desk.lane.clone(), desk.bell.1.clone());
    let is_over = |desk: &Desk| desk.done.iter().map(Vec::len).sum::<usize>() == 6 && !desk.owes;
    while !is_over(&desk) {
        seat.leave(desk);
        // The tick of the clock may come at any time. Without one, what is in no lane must have rung.
        while lane.is_empty() && rung.is_empty() && thread_rng().gen_bool(0.9) {
            thread::yield_now();
        }
        desk = seat.sit().unwrap();
        let is_called = rung.try_iter().count() > 0;
        assert_eq!(is_called, desk.owes, "called for nothing, or not called");
        desk.owes = false;
        lane.try_iter().for_each(|brought| desk.take(brought));
    }
    desk
}

#[test]
fn every_order_of_visits_does_each_thing_once_and_in_its_senders_order() {
    shuttle::check_random(
        || {
            let ((lane, out), bell) = (bounded(8), bounded(1));
            let desk =
                Desk { lane: out, bell, done: Default::default(), owes: false, is_sat_at: false };
            let seat = Seat::new();
            let senders: Vec<_> = (0..SENDERS)
                .map(|sender| {
                    let (seat, lane) = (seat.clone(), lane.clone());
                    thread::spawn(move || bring(&seat, &lane, sender))
                })
                .collect();
            let desk = host(&seat, Box::new(desk));
            let things: Vec<u32> = (0..THINGS).collect();
            assert_eq!(desk.done, [things.clone(), things]);
            assert!(seat.visit((), |_, ()| ()).is_some(), "the host has sat down for good");
            let on_the_spot: u32 = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
            assert!(on_the_spot <= THINGS * 2);
        },
        2000,
    );
}

#[test]
fn visitor_that_panics_leaves_word_of_it_and_nothing_else() {
    shuttle::check_random(
        || {
            let ((_lane, out), bell) = (bounded(1), bounded(1));
            let (owes, is_sat_at) = (false, false);
            let desk = Desk { lane: out, bell, done: Default::default(), owes, is_sat_at };
            let seat = Seat::new();
            seat.leave(Box::new(desk));
            let visit = AssertUnwindSafe(|| seat.visit((), |_, ()| panic!("as it should")));
            assert!(catch_unwind(visit).is_err());
            assert!(seat.visit((), |_, ()| ()).is_some(), "there is nothing to work on");
            assert_eq!(seat.sit().err(), Some(Panicked));
        },
        1,
    );
}
