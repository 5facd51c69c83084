//! Reads that say how they are done: at once from what is applied, from an entry on, or with where they were read.

use raftq::wire::reads::Consistency;

use super::*;

impl World {
    fn read(&self, waiter: u64, consistency: Consistency, read: Request) -> Input<u64> {
        self.ask(waiter, Request::ReadAt { consistency, read: Box::new(read) })
    }

    fn applied(&self) -> Index {
        self.replica.machine().applied_index()
    }

    /// Returns where a waiter's one answer was read, or why it was refused.
    fn read_at(&self, waiter: u64) -> Option<Result<Index, Code>> {
        let heard = self.heard(waiter);
        assert!(heard.len() <= 1, "{heard:?}");
        heard.into_iter().next().map(|reply| match reply {
            Reply::ReadAt { index, .. } => Ok(index),
            Reply::Explained(explanation) => Ok(explanation.index),
            Reply::Refused(refusal) => Err(refusal.code),
            other => panic!("{other:?}"),
        })
    }
}

fn get() -> Request {
    Request::GetJob { id: job(1).id }
}

#[test]
fn read_without_a_leader_is_answered_at_once_if_it_may_be_stale_and_refused_if_not() {
    let mut world = World::leader(3);
    world.turn(vec![world.ask(9, Request::SubmitJob(job(1)))]);
    // Nobody answers any more: it leads for a moment still, and then knows no leader.
    world.peers = Peers::DeafAfterFirst;
    let applied = world.applied();
    world.turn(vec![
        world.read(1, Consistency::Stale, get()),
        world.read(2, Consistency::Linearizable, get()),
        world.read(3, Consistency::Stale, Request::ListWorkers),
        world.read(4, Consistency::Stale, Request::WhyJob { id: job(1).id }),
        world.read(5, Consistency::Stale, Request::GetJob { id: job(2).id }),
    ]);
    for waiter in [1, 3, 4] {
        assert_eq!(world.read_at(waiter), Some(Ok(applied)), "{waiter}");
    }
    assert_eq!(world.read_at(5), Some(Err(Code::NotFound)));
    assert_eq!(world.read_at(2), None, "nobody confirms it");
    world.turns(600);
    assert_eq!(world.read_at(2), Some(Err(Code::Unavailable)));
}

#[test]
fn read_from_an_entry_on_waits_until_it_is_applied() {
    let mut world = World::leader(3);
    let next = Index(world.applied().0 + 1);
    world.turn(vec![
        world.read(1, Consistency::MinIndex(world.applied()), get()),
        world.read(2, Consistency::MinIndex(next), get()),
        world.read(3, Consistency::MinIndex(Index(u64::MAX)), get()),
    ]);
    assert_eq!(world.read_at(1), Some(Err(Code::NotFound)), "at once, and the job is not there");
    world.turns(50);
    assert_eq!(world.read_at(2), None);
    world.turn(vec![world.ask(9, Request::SubmitJob(job(1)))]);
    world.turns(2);
    assert_eq!(world.read_at(2), Some(Ok(next)), "it sees the submit");
    assert_eq!(world.read_at(3), None);
    world.turns(500);
    assert_eq!(world.read_at(3), Some(Err(Code::Unavailable)));
    let heard = world.heard(3);
    let [Reply::Refused(refusal)] = heard.as_slice() else { panic!("{heard:?}") };
    assert!(refusal.message.contains(&format!("to entry {next}, and")), "{}", refusal.message);
}

#[test]
fn so_many_reads_wait_for_entries_to_come_and_no_more() {
    let mut world = World::leader(1);
    let far = Consistency::MinIndex(Index(u64::MAX));
    let reads = (0..1100).map(|waiter| world.read(waiter, far, get())).collect();
    world.turn(reads);
    assert_eq!(world.read_at(1023), None);
    assert_eq!(world.read_at(1024), Some(Err(Code::ResourceExhausted)));
    // They harm no other read.
    world.turn(vec![world.read(5000, Consistency::Linearizable, Request::ListWorkers)]);
    world.turns(2);
    assert_eq!(world.read_at(5000), Some(Ok(world.applied())));
    world.turns(510);
    assert_eq!(world.read_at(1023), Some(Err(Code::Unavailable)));
    world.answers.clear();
    world.turn(vec![world.read(1, far, get())]);
    assert_eq!(world.read_at(1), None, "there is room again");
}
