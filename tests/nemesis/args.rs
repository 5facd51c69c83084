//! What a run is asked to do: its options, and the line that repeats it.

use std::path::PathBuf;

use raftq::planted::Bug;

/// The script names in it the directory where cargo builds, for state and reports.
pub const STATE: &str = "NEMESIS_STATE";

/// What `--help` says.
const HELP: &str = "\
usage: scripts/nemesis.sh [--minutes M] [--nodes N] [--seed S] [--out DIR] [--net netns|proxy|auto]
       scripts/kill9.sh CYCLES [--nodes N] [--seed S] [--out DIR]

Runs a real cluster under faults while clients record what they were told, then checks it all and writes
DIR/report.md, DIR/timeline.svg and DIR/history.jsonl. Exit code 1 if anything broke a promise.

  --minutes M   minutes of faults, at least 0.2 (default 1); healing and checking come after them
  --nodes N     3, 5 or 7 nodes (default 3)
  --seed S      the schedule of faults and the mix of requests (default: drawn)
  --out DIR     where everything goes (default target/nemesis/SEED, and target/kill9)
  --net NET     netns: a network namespace a node, cut by iptables; needs root
                proxy: a user-space proxy a link; needs nothing
                auto: netns where it works, or proxy (default)
  --rate R      operations a second, all clients together (default 120)
  --program P   the raftq to run
  --plant BUG   break the nodes in this way, to see the checks go red (needs the feature planted-bugs)
  --kill9 N     no schedule: until N kills -9 under load have been survived in all";

/// How the nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// By namespaces where they work, or by proxies.
    Auto,
    /// By namespaces, or not at all.
    Netns,
    /// By proxies.
    Proxy,
}

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Args {
    /// Minutes of faults.
    pub minutes: f64,
    /// Nodes.
    pub nodes: usize,
    /// All chance comes from it.
    pub seed: u64,
    /// Where everything goes.
    pub out: PathBuf,
    /// How the nodes reach each other.
    pub net: Wanted,
    /// Operations a second.
    pub rate: u32,
    /// The program under test.
    pub program: PathBuf,
    /// The name of a bug that all nodes have.
    pub plant: Option<String>,
    /// Kills in all, of a run of kills alone.
    pub kill9: Option<u64>,
}

impl Args {
    /// Reads the command line.
    ///
    /// # Errors
    /// What is wrong with it, for a person; the help text for `--help`.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            minutes: 1.0,
            nodes: 3,
            seed: fastrand::u64(1..100_000),
            out: PathBuf::new(),
            net: Wanted::Auto,
            rate: 120,
            program: PathBuf::from("target/release/raftq"),
            plant: None,
            kill9: None,
        };
        while let Some(word) = words.next() {
            if matches!(word.as_str(), "-h" | "--help" | "help") {
                return Err(HELP.into());
            }
            let value = words.next().ok_or_else(|| format!("{word} needs a value\n\n{HELP}"))?;
            match word.as_str() {
                "--minutes" => args.minutes = number(&word, &value)?,
                "--nodes" => args.nodes = number(&word, &value)?,
                "--seed" => args.seed = number(&word, &value)?,
                "--rate" => args.rate = number(&word, &value)?,
                "--kill9" => args.kill9 = Some(number(&word, &value)?),
                "--plant" => args.plant = Some(value),
                "--out" => args.out = value.into(),
                "--program" => args.program = value.into(),
                "--net" => {
                    args.net = match value.as_str() {
                        "auto" => Wanted::Auto,
                        "netns" => Wanted::Netns,
                        "proxy" => Wanted::Proxy,
                        _ => return Err(format!("--net is netns, proxy or auto, not {value}")),
                    }
                }
                _ => return Err(format!("{word} is no option\n\n{HELP}")),
            }
        }
        args.checked()
    }

    fn checked(mut self) -> Result<Self, String> {
        if !matches!(self.nodes, 3 | 5 | 7) {
            return Err(format!("--nodes is 3, 5 or 7, not {}", self.nodes));
        }
        if !(0.2..=10_000.0).contains(&self.minutes) {
            return Err(format!("--minutes is 0.2 to 10000, not {}", self.minutes));
        }
        if !(1..=5_000).contains(&self.rate) {
            return Err(format!("--rate is 1 to 5000, not {}", self.rate));
        }
        if let Some(name) = &self.plant {
            if !cfg!(feature = "planted-bugs") {
                return Err(
                    "this nemesis has no bugs: build it with --features planted-bugs".into()
                );
            }
            if !Bug::ALL.iter().any(|bug| bug.name() == name) {
                let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
                return Err(format!("{name} is no bug; these are: {}", names.join(", ")));
            }
            self.program = std::env::current_exe().map_err(|error| error.to_string())?;
        }
        if self.out.as_os_str().is_empty() {
            let target = std::env::var_os(STATE).map_or_else(|| "target".into(), PathBuf::from);
            self.out = match self.kill9 {
                Some(_) => target.join("kill9"),
                None => target.join("nemesis").join(self.seed.to_string()),
            };
        }
        Ok(self)
    }

    /// Returns the milliseconds of faults.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    pub fn faults_ms(&self) -> u64 {
        (self.minutes * 60_000.0) as u64
    }

    /// Returns the command that does the same again.
    pub fn again(&self, net: &str) -> String {
        let plant = self.plant.as_ref().map(|bug| format!(" --plant {bug}")).unwrap_or_default();
        let line = match self.kill9 {
            Some(kills) => {
                format!("scripts/kill9.sh {kills} --nodes {} --seed {}", self.nodes, self.seed)
            }
            None => format!(
                "scripts/nemesis.sh --minutes {} --nodes {} --seed {} --net {net}",
                self.minutes, self.nodes, self.seed
            ),
        };
        line + &plant
    }
}

fn number<T: std::str::FromStr>(option: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_not_one| format!("{option} takes a number, not {text}"))
}
