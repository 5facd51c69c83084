//! Runs the scripts of `scripts/`: each is one scene, with every message that is sent.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --test raft` writes the outputs anew; read each changed line.

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{Command, Context, Runner};
use raftq::raft::core::PeerState;
use raftq::raft::message::{AppendOutcome, Message};
use raftq::types::NodeId;
use test_each_file::test_each_path;

use crate::world::World;

test_each_path! { in "tests/raft/scripts" => run_script }

fn run_script(path: &std::path::Path) {
    let mut stage = Stage { world: World::new(3) };
    stage.world.trace = Some(Vec::new());
    goldenscript::run(&mut stage, path).unwrap();
}

struct Stage {
    world: World,
}

impl Runner for Stage {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut out = String::new();
        match command.name.as_str() {
            // cluster COUNT: makes a new one; nobody campaigns unless told to.
            "cluster" => {
                let count = args.next_pos().ok_or("how many?")?.parse()?;
                self.world = World::new(count);
                self.world.trace = Some(Vec::new());
            }
            // logs TERMS...: makes one whose nodes hold such logs, "1 1 2" or "".
            "logs" => {
                let mut logs: Vec<Vec<u64>> = Vec::new();
                while let Some(arg) = args.next_pos() {
                    let terms = arg.split_whitespace();
                    logs.push(terms.map(str::parse).collect::<Result<_, _>>()?);
                }
                let last = logs.iter().flatten().max().copied().unwrap_or(0);
                let refs: Vec<&[u64]> = logs.iter().map(Vec::as_slice).collect();
                self.world = World::with_logs(&refs, &vec![last; logs.len()]);
                self.world.trace = Some(Vec::new());
            }
            "settle" => self.world.settle(),
            // deliver [to=ID]: what is under way now, not what is sent in answer.
            "deliver" => {
                let to: Option<u64> = args.take_key("to").map(str::parse).transpose()?;
                let due = self.world.wire.len();
                let mut skipped = 0;
                for _ in 0..due {
                    if to.is_none_or(|to| self.world.wire[skipped].to == to) {
                        self.world.deliver(skipped);
                    } else {
                        skipped += 1;
                    }
                }
            }
            "lose" => self.world.lose_wire(),
            "heal" => self.world.cut.clear(),
            "snapshot-arrives" => {
                if !self.world.deliver_shipment() {
                    out.push_str("no snapshot is on its way\n");
                }
            }
            "status" => self.write_status(&mut out),
            _ => {
                let id: u64 = args.next_pos().ok_or("which node?")?.parse()?;
                let words: Vec<&str> = std::iter::from_fn(|| args.next_pos()).collect();
                self.act(command.name.as_str(), id, &words, &mut out)?;
            }
        }
        args.reject_next()?;
        for packet in self.world.trace.replace(Vec::new()).unwrap() {
            writeln!(out, "{} -> {}: {}", packet.from, packet.to, describe(&packet.message))?;
        }
        Ok(out)
    }
}

impl Stage {
    fn act(
        &mut self,
        name: &str,
        id: u64,
        words: &[&str],
        out: &mut String,
    ) -> Result<(), Box<dyn Error>> {
        let number = words.first().map(|word| word.parse::<u64>());
        match name {
            "campaign" => {
                self.world.raft_mut(id).campaign();
                self.world.turn(id);
            }
            "elect" => self.world.elect(id),
            "tick" => self.world.tick(id, number.ok_or("how long?")??),
            "propose" => match self.world.propose(id, &words.join(" ")) {
                Some(index) => writeln!(out, "at {index}")?,
                None => out.push_str("refused\n"),
            },
            "persist" => {
                if !self.world.persist(id) {
                    out.push_str("nothing to write\n");
                }
            }
            "read" => {
                let token = self.world.read(id);
                writeln!(out, "read {token}")?;
            }
            "transfer" => {
                let to = NodeId(number.ok_or("to whom?")??);
                writeln!(out, "{:?}", self.world.raft_mut(id).transfer(Some(to)))?;
                self.world.turn(id);
            }
            "cut" => self.world.cut_off(id),
            "crash" => self.world.crash(id, false),
            "start" => self.world.start(id),
            "compact" => self.world.compact(id, number.unwrap_or(Ok(0))?),
            "lost" => {
                self.world.raft_mut(id).peer_lost(NodeId(number.ok_or("which peer?")??));
                self.world.turn(id);
            }
            other => return Err(format!("no such command: {other}").into()),
        }
        Ok(())
    }

    fn write_status(&self, out: &mut String) {
        for id in self.world.ids() {
            if !self.world.is_up(id) {
                writeln!(out, "{id} down").unwrap();
                continue;
            }
            let status = self.world.status(id);
            let terms: Vec<String> = self.world.terms(id).iter().map(u64::to_string).collect();
            write!(out, "{id} {:?} term={}", status.role, status.term).unwrap();
            write!(out, " log={}:[{}]", status.first_index, terms.join(" ")).unwrap();
            write!(out, " commit={}", status.commit_index).unwrap();
            writeln!(out, " applied={}", self.world.node(id).machine.len()).unwrap();
            if !self.world.leaders().contains(&id) {
                continue;
            }
            for peer in status.peers {
                let state = match peer.state {
                    PeerState::Probe => "probe",
                    PeerState::Replicate => "replicate",
                    PeerState::Snapshot => "snapshot",
                };
                let (matched, next) = (peer.match_index, peer.next_index);
                writeln!(out, "  {}: {state} match={matched} next={next}", peer.id).unwrap();
            }
        }
        for (token, index) in &self.world.answers {
            let index = index.map_or("none".to_owned(), |index| index.to_string());
            writeln!(out, "read {token} answered: {index}").unwrap();
        }
    }
}

fn describe(message: &Message) -> String {
    match message {
        Message::PreVote { term, last_index, last_term } => {
            format!("PreVote term={term} last={last_index}@{last_term}")
        }
        Message::PreVoteReply { term, granted } => format!("PreVoteReply term={term} {granted}"),
        Message::Vote { term, last_index, last_term, transfer } => {
            let why = if *transfer { " transfer" } else { "" };
            format!("Vote term={term} last={last_index}@{last_term}{why}")
        }
        Message::VoteReply { term, granted } => format!("VoteReply term={term} {granted}"),
        Message::AppendEntries {
            term,
            prev_index,
            prev_term,
            entries,
            commit_index,
            round,
            ..
        } => {
            let terms: Vec<String> = entries.iter().map(|entry| entry.term.to_string()).collect();
            let terms = terms.join(" ");
            format!(
                "Append term={term} prev={prev_index}@{prev_term} [{terms}] \
                 commit={commit_index} round={round}"
            )
        }
        Message::AppendReply { term, outcome, round, .. } => match outcome {
            AppendOutcome::Accepted { match_index } => {
                format!("Accepted term={term} match={match_index} round={round}")
            }
            AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
                format!("Rejected term={term} prev={prev_index} hint={hint_index}@{hint_term}")
            }
        },
        Message::InstallSnapshot { term, meta } => {
            format!("InstallSnapshot term={term} last={}@{}", meta.index, meta.term)
        }
        Message::TimeoutNow { term } => format!("TimeoutNow term={term}"),
        Message::ReadIndex { term, .. } => format!("ReadIndex term={term}"),
        Message::ReadIndexReply { term, index, .. } => {
            let index = index.map_or("none".to_owned(), |index| index.to_string());
            format!("ReadIndexReply term={term} index={index}")
        }
    }
}
