//! One line of text mode made a command: verbs, their unique beginnings, and the nearest guess.

use crate::jobs::job::Status;
use crate::types::{Index, JobId, QueueName};

/// Rows of a table, at most; a larger limit is lowered to it.
pub const ROWS_MAX: usize = 200;

/// Rows of a table when no limit is given.
pub const ROWS_DEFAULT: usize = 20;

/// What a line asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// What can be asked.
    Help(Option<String>),
    /// Does the process live?
    Ping,
    /// The same, in ZooKeeper's words.
    Ruok,
    /// Can the node serve?
    Ready,
    /// Which program is this?
    Version,
    /// This node in a few lines.
    Status,
    /// Who leads, in one line.
    Leader,
    /// Every node, as this one sees it.
    Nodes,
    /// Consensus in detail.
    Raft,
    /// Some jobs.
    Jobs {
        /// Only of this queue.
        queue: Option<QueueName>,
        /// Only in this status.
        status: Option<Status>,
        /// At most so many.
        limit: usize,
    },
    /// One job.
    Job(JobId),
    /// The jobs that failed last.
    Dead {
        /// At most so many.
        limit: usize,
    },
    /// The registry.
    Workers {
        /// At most so many.
        limit: usize,
    },
    /// The queues, with what waits and runs in each.
    Queues {
        /// At most so many.
        limit: usize,
    },
    /// The crons, with their next slots.
    Cron {
        /// At most so many.
        limit: usize,
    },
    /// Entries of the Raft log.
    Log {
        /// From this one on; `None`: the last ones.
        from: Option<Index>,
        /// At most so many.
        limit: usize,
    },
    /// Why a job is where it is.
    Why(JobId),
    /// All that is counted.
    Metrics,
    /// The settings in force.
    Config,
    /// Stay: a prompt, and no end after each answer.
    Shell,
    /// End.
    Quit,
}

/// Every verb with its arguments, what it does, and an example, in the order of `help`.
pub const VERBS: [(&str, &str, &str, &str); 21] = [
    ("help", "[VERB]", "what can be asked", "help jobs"),
    ("ping", "", "pong: the process lives, no more is said", "ping"),
    ("ruok", "", "imok: the same", "ruok"),
    ("ready", "", "can this node serve?", "ready"),
    ("version", "", "program, version, node", "version"),
    ("status", "", "this node in a few lines", "status"),
    ("leader", "", "who leads: id, address, term", "leader"),
    ("nodes", "", "every node, as this one sees it", "nodes"),
    ("raft", "", "log, commit and snapshot of this node", "raft"),
    ("jobs", "[queue=Q] [status=S] [limit=N]", "jobs known here", "jobs status=running limit=50"),
    ("job", "ID", "one job with its output", "job 0192f3a07c6e4b1d8f00a1b2c3d4e5f6"),
    ("dead", "[N]", "the jobs that failed last, newest first", "dead 5"),
    ("workers", "[limit=N]", "the registry of workers", "workers"),
    ("queues", "[limit=N]", "what waits and runs in each queue", "queues"),
    ("cron", "[limit=N]", "the crons and their next slots", "cron"),
    ("log", "[from=INDEX] [limit=N]", "entries of the Raft log", "log limit=5"),
    ("metrics", "", "all that is counted, as Prometheus text", "metrics"),
    ("config", "", "the settings in force", "config"),
    ("shell", "", "stay connected, with a prompt", "shell"),
    ("quit", "", "end the connection", "quit"),
    ("why", "ID", "what a job waits for, or how it ended", "why 0192f3a07c6e4b1d8f00a1b2c3d4e5f6"),
];

/// Why a line is no command, in words for the one who typed it.
pub type Fault = String;

/// Parses one line that is not blank. Upper and lower case are the same; the beginning of a verb will
/// do where no other begins so.
///
/// # Errors
/// What is wrong with it and what to try.
pub fn parse(line: &str) -> Result<Command, Fault> {
    let mut words = line.split_whitespace();
    let verb = find(&words.next().unwrap_or_default().to_lowercase())?;
    let rest: Vec<&str> = words.collect();
    match verb {
        "help" => Ok(Command::Help(match rest.first() {
            Some(word) => Some(find(&word.to_lowercase())?.to_owned()),
            None => None,
        })),
        "job" => match rest.as_slice() {
            [id] => id.parse().map(Command::Job).map_err(|error| format!("job: {error}")),
            _ => Err("job takes one id; see: jobs".into()),
        },
        "why" => match rest.as_slice() {
            [id] => id.parse().map(Command::Why).map_err(|error| format!("why: {error}")),
            _ => Err("why takes one id; see: jobs".into()),
        },
        "jobs" => {
            let mut found = Arguments::parse(verb, &rest, &["queue", "status", "state", "limit"])?;
            let queue = found.take("queue").map(QueueName::new).transpose();
            Ok(Command::Jobs {
                queue: queue.map_err(|error| format!("queue: {error}"))?,
                status: found
                    .take("status")
                    .or_else(|| found.take("state"))
                    .map(status)
                    .transpose()?,
                limit: found.limit()?,
            })
        }
        "dead" => match rest.as_slice() {
            [count] if !count.contains('=') => Ok(Command::Dead { limit: rows(count)? }),
            words => {
                Ok(Command::Dead { limit: Arguments::parse(verb, words, &["limit"])?.limit()? })
            }
        },
        "workers" => {
            Ok(Command::Workers { limit: Arguments::parse(verb, &rest, &["limit"])?.limit()? })
        }
        "queues" => {
            Ok(Command::Queues { limit: Arguments::parse(verb, &rest, &["limit"])?.limit()? })
        }
        "cron" => Ok(Command::Cron { limit: Arguments::parse(verb, &rest, &["limit"])?.limit()? }),
        "log" => {
            let mut found = Arguments::parse(verb, &rest, &["from", "limit"])?;
            Ok(Command::Log { from: found.number("from")?.map(Index), limit: found.limit()? })
        }
        _ => {
            Arguments::parse(verb, &rest, &[])?;
            plain(verb)
        }
    }
}

/// The verbs without arguments.
fn plain(verb: &str) -> Result<Command, Fault> {
    Ok(match verb {
        "ping" => Command::Ping,
        "ruok" => Command::Ruok,
        "ready" => Command::Ready,
        "version" => Command::Version,
        "status" => Command::Status,
        "leader" => Command::Leader,
        "nodes" => Command::Nodes,
        "raft" => Command::Raft,
        "metrics" => Command::Metrics,
        "config" => Command::Config,
        "shell" => Command::Shell,
        "quit" => Command::Quit,
        other => return Err(format!("{other} is not known; try: help")),
    })
}

fn status(word: &str) -> Result<Status, Fault> {
    let wanted = word.to_lowercase();
    let found = Status::ALL.into_iter().find(|status| status.as_str() == wanted);
    found.ok_or_else(|| "status is pending, running, completed, failed or cancelled".into())
}

/// Reads how many rows are wanted.
fn rows(word: &str) -> Result<usize, Fault> {
    let wanted: u64 = word
        .parse()
        .map_err(|_not_a_number| format!("dead takes a number, not {}", shown(word)))?;
    Ok(usize::try_from(wanted).unwrap_or(usize::MAX).clamp(1, ROWS_MAX))
}

/// Finds the verb that a word is or begins.
fn find(word: &str) -> Result<&'static str, Fault> {
    let verbs = || VERBS.iter().map(|(verb, ..)| *verb);
    if let Some(verb) = verbs().find(|verb| *verb == word) {
        return Ok(verb);
    }
    let begun: Vec<&'static str> = verbs().filter(|verb| verb.starts_with(word)).collect();
    match begun.as_slice() {
        [verb] => Ok(verb),
        [] => Err(match nearest(word) {
            Some(verb) => format!("no command {}; did you mean {verb}? try: help", shown(word)),
            None => format!("no command {}; try: help", shown(word)),
        }),
        several => Err(format!("{} could be {}", shown(word), several.join(" or "))),
    }
}

/// A verb that many letters away may have been meant.
const DISTANCE_MAX: usize = 2;

/// Words longer than this are not repeated in full.
const WORD_CHARS_MAX: usize = 24;

fn shown(word: &str) -> String {
    crate::net::text::table::plain(word, WORD_CHARS_MAX)
}

fn nearest(word: &str) -> Option<&'static str> {
    // Words whose lengths differ by more are further apart than that.
    let letters = word.chars().count();
    let near = VERBS.iter().filter(|(verb, ..)| verb.len().abs_diff(letters) <= DISTANCE_MAX);
    let verbs = near.map(|(verb, ..)| (distance(word, verb), *verb));
    verbs.min().filter(|(distance, _)| *distance <= DISTANCE_MAX).map(|(_, verb)| verb)
}

/// Counts the letters to insert, delete or replace (Levenshtein's distance), row by row.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (deleted, letter) in from.chars().enumerate() {
        let mut left = deleted + 1;
        let mut diagonal = deleted;
        let mut next = vec![left];
        for (other, above) in to.iter().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = *above;
            left = replaced.min(left + 1).min(above + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// The `key=value` words after a verb.
struct Arguments<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Arguments<'a> {
    fn parse(verb: &str, words: &[&'a str], known: &[&str]) -> Result<Self, Fault> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for word in words {
            match word.split_once('=') {
                Some((key, value)) if known.contains(&key) => {
                    if pairs.iter().any(|(given, _)| *given == key) {
                        return Err(format!("{verb}: {key} is given twice"));
                    }
                    pairs.push((key, value));
                }
                Some(_) | None if known.is_empty() => {
                    return Err(format!("{verb} takes no arguments, and {} is one", shown(word)));
                }
                Some(_) | None => {
                    let keys: Vec<String> = known.iter().map(|key| format!("{key}=...")).collect();
                    return Err(format!("{verb} takes {}, not {}", keys.join(" "), shown(word)));
                }
            }
        }
        Ok(Self { pairs })
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let at = self.pairs.iter().position(|(given, _)| *given == key)?;
        Some(self.pairs.swap_remove(at).1)
    }

    fn number(&mut self, key: &str) -> Result<Option<u64>, Fault> {
        let parse = |value: &str| {
            value
                .parse()
                .map_err(|_not_a_number| format!("{key} takes a number, not {}", shown(value)))
        };
        self.take(key).map(parse).transpose()
    }

    fn limit(&mut self) -> Result<usize, Fault> {
        let wanted = self
            .number("limit")?
            .map_or(ROWS_DEFAULT, |n| usize::try_from(n).unwrap_or(usize::MAX));
        Ok(wanted.clamp(1, ROWS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_found_by_its_name_in_any_case() {
        for (verb, arguments, _, example) in VERBS {
            assert_eq!(find(verb), Ok(verb));
            assert!(parse(example).is_ok(), "{example}");
            assert!(
                parse(
                    &example
                        .to_uppercase()
                        .replace("STATUS=", "status=")
                        .replace("LIMIT=", "limit=")
                )
                .is_ok()
            );
            if arguments.is_empty() {
                assert!(parse(&format!("{verb} more")).is_err(), "{verb}");
            }
        }
    }

    #[test]
    fn unique_beginning_will_do_and_another_is_named() {
        assert_eq!(parse("stat"), Ok(Command::Status));
        assert_eq!(parse("le"), Ok(Command::Leader));
        assert_eq!(parse("l"), Err("l could be leader or log".into()));
        assert_eq!(parse("job"), Err("job takes one id; see: jobs".into()));
    }

    #[test]
    fn misspelt_verb_gets_the_nearest() {
        assert!(parse("staus").expect_err("misspelt").contains("did you mean status?"));
        assert!(parse("xyzzyplugh").expect_err("nonsense").ends_with("try: help"));
        let long = "x".repeat(4000);
        assert!(parse(&long).expect_err("nonsense").len() < 100);
    }

    #[test]
    fn arguments_are_checked_and_limits_lowered() {
        let jobs = parse("jobs queue=mail state=RUNNING limit=99999");
        let queue = QueueName::new("mail").ok();
        assert_eq!(
            jobs,
            Ok(Command::Jobs { queue, status: Some(Status::Running), limit: ROWS_MAX })
        );
        assert_eq!(parse("dead"), Ok(Command::Dead { limit: ROWS_DEFAULT }));
        assert_eq!(parse("dead 0"), Ok(Command::Dead { limit: 1 }));
        assert_eq!(parse("dead limit=99999"), Ok(Command::Dead { limit: ROWS_MAX }));
        for bad in [
            "jobs queue=",
            "jobs status=dead",
            "jobs limit=x",
            "jobs 5",
            "jobs limit=1 limit=2",
            "job xyz",
            "why",
            "why xyz",
            "dead x",
            "dead 1 2",
            "dead queue=q",
            "log from=-1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
