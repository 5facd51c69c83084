//! The report of a run, for people: what happened, what was checked, what came of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::args::Args;
use crate::faults::Told;
use crate::plan::Kind;
use crate::record::{Class, Sample};
use crate::svg::percentile;
use crate::verify::Findings;

/// How the picture is read.
const READING: &str = "\
A lane a node: the blue line above is the time it led, with the number of its term; below it what befell the process or \
its clock, and below that what befell its links. Below the lanes is what clients got: gaps are the time that a new \
leader takes, or, where the ground is red, times in which too few nodes ran and heard each other for anything to be \
acknowledged. All clients reach every node throughout.\n";

/// Everything that is told.
#[derive(Debug)]
pub struct Report<'a> {
    /// What was asked for.
    pub args: &'a Args,
    /// How the nodes reached each other.
    pub net: &'a str,
    /// What could not be done here, loudly.
    pub missing: &'a [String],
    /// The faults.
    pub told: &'a [Told],
    /// Leaders seen.
    pub reigns: usize,
    /// The operations.
    pub samples: &'a [Sample],
    /// How often each error came.
    pub errors: &'a BTreeMap<String, u64>,
    /// How long the cluster took to be whole in each calm time, and at the end.
    pub recoveries: &'a [String],
    /// What was found.
    pub findings: &'a Findings,
}

/// Operations by how they ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// As they should.
    pub acknowledged: usize,
    /// Not done, and the client knows.
    pub refused: usize,
    /// The client cannot know.
    pub unknown: usize,
}

/// Counts operations by how they ended.
pub fn totals(samples: &[Sample]) -> Totals {
    let count = |class| samples.iter().filter(|sample| sample.class == class).count();
    Totals {
        acknowledged: count(Class::Acknowledged),
        refused: count(Class::Refused),
        unknown: count(Class::Unknown),
    }
}

impl Report<'_> {
    /// Writes it as Markdown.
    pub fn write(&self) -> String {
        let mut out = String::new();
        let violations = &self.findings.violations;
        let verdict = match violations.len() {
            0 => "No promise was broken.".into(),
            count => format!("**{count} violations.**"),
        };
        let Args { nodes, minutes, seed, .. } = self.args;
        line(
            &mut out,
            &format!("# raftq under faults: {nodes} nodes, {minutes} minutes, seed {seed}\n"),
        );
        line(&mut out, &format!("{verdict}\n"));
        for violation in violations {
            line(&mut out, &format!("- {violation}"));
        }
        line(&mut out, &format!("\nRepeat it: `{}`\n", self.args.again(self.net)));
        let net = match self.net {
            "netns" => {
                "Each node ran in a network namespace of its own; links were cut by iptables."
            }
            _ => "Each link between two nodes went through a user-space proxy.",
        };
        line(&mut out, net);
        for missing in self.missing {
            line(&mut out, &format!("\n**Not done here:** {missing}"));
        }
        line(&mut out, "\n![faults above, operations and latency below](timeline.svg)\n");
        line(&mut out, READING);
        self.checks(&mut out);
        self.figures(&mut out);
        self.faults(&mut out);
        out
    }

    fn checks(&self, out: &mut String) {
        line(out, "## Checked\n\n| promise | looked at |\n|---|---|");
        for (check, amount) in &self.findings.checks {
            line(out, &format!("| {check} | {amount} |"));
        }
        line(
            out,
            "\nBack to a whole cluster (a leader that hears every node) after all faults were healed:\n",
        );
        for recovery in self.recoveries {
            line(out, &format!("- {recovery}"));
        }
    }

    fn figures(&self, out: &mut String) {
        let Totals { acknowledged, refused, unknown } = totals(self.samples);
        let mut took: Vec<u64> = self
            .samples
            .iter()
            .filter(|sample| sample.class == Class::Acknowledged)
            .map(|sample| sample.took_us)
            .collect();
        took.sort_unstable();
        let ms = |of_100| percentile(&took, of_100).unwrap_or_default() as f64 / 1000.0;
        line(
            out,
            "\n## Operations\n\n| acknowledged | refused | unknown | median | 99th percentile | leaders seen |",
        );
        line(out, "|---|---|---|---|---|---|");
        let (median, slow) = (ms(50), ms(99));
        line(
            out,
            &format!(
                "| {acknowledged} | {refused} | {unknown} | {median:.1} ms | {slow:.1} ms | {} |",
                self.reigns
            ),
        );
        let errors: Vec<String> =
            self.errors.iter().map(|(word, count)| format!("{word} {count}")).collect();
        if !errors.is_empty() {
            line(
                out,
                &format!("\nWhat clients heard instead of an answer: {}.", errors.join(", ")),
            );
        }
    }

    fn faults(&self, out: &mut String) {
        line(out, "\n## Faults\n\n| kind | times |\n|---|---|");
        for kind in Kind::ALL {
            let count = self.told.iter().filter(|one| one.kind == kind).count();
            line(out, &format!("| {} | {count} |", kind.words()));
        }
        line(out, "\n| from (s) | to (s) | fault |\n|---|---|---|");
        for one in self.told {
            let (from, to) = (one.from_ms as f64 / 1000.0, one.to_ms as f64 / 1000.0);
            line(out, &format!("| {from:.1} | {to:.1} | {} |", one.words));
        }
    }
}

fn line(out: &mut String, text: &str) {
    let _never_fails = writeln!(out, "{text}").is_err();
}
