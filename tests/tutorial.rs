//! The first ten minutes of README.md, run as they stand there: every command, and what it prints.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; it watches the real clock"
)]

#[expect(dead_code, reason = "shared with the tests of whole clusters")]
mod harness;

use std::path::Path;
use std::process::Command;

use harness::Cluster;

const README: &str = include_str!("../README.md");

/// A command, and the lines that it prints; `...` stands for anything, alone in a line for any lines.
struct Step {
    command: String,
    prints: Vec<String>,
}

/// Reads the block of commands under a heading.
fn steps(heading: &str) -> Vec<Step> {
    let (_, section) = README.split_once(heading).expect("the section is there");
    let (_, block) = section.split_once("```console\n").expect("it shows commands");
    let (block, _) = block.split_once("\n```").expect("and ends");
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.into(), prints: Vec::new() }),
            (None, Some(step)) if step.command.ends_with('\\') => {
                step.command.push('\n');
                step.command.push_str(line);
            }
            (None, Some(step)) => step.prints.push(line.into()),
            (None, None) => panic!("output before a command: {line}"),
        }
    }
    steps
}

/// Tells whether a line is what was said, with `...` for anything.
fn fits(said: &str, line: &str) -> bool {
    let mut rest = line;
    let parts: Vec<&str> = said.split("...").collect();
    for (at, part) in parts.iter().enumerate() {
        let Some(found) = rest.find(part) else { return false };
        if at == 0 && found > 0 {
            return false;
        }
        rest = &rest[found + part.len()..];
    }
    rest.is_empty() || said.ends_with("...")
}

/// Tells whether lines are those that were said.
fn all_fit(said: &[String], lines: &[&str]) -> bool {
    match (said.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, more)), _) if first == "..." => {
            all_fit(more, lines) || !lines.is_empty() && all_fit(said, &lines[1..])
        }
        (Some((first, more)), Some((line, rest))) => fits(first, line) && all_fit(more, rest),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[test]
fn the_first_ten_minutes_are_as_the_readme_tells_them() {
    let cluster = Cluster::start("tutorial", 3, &[]);
    let program = Path::new(env!("CARGO_BIN_EXE_raftq")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let steps = steps("## Ten minutes");
    assert!(steps.len() > 8);
    // Variables live from one command to the next: each shell tells the next one what it knows.
    let state = cluster.dir().join("shell");
    for Step { command, prints } in &steps {
        if command.starts_with("scripts/cluster.sh") || command.starts_with("PATH=") {
            continue;
        }
        let script = format!(
            "[ ! -e '{0}' ] || . '{0}'\n{command}\nended=$?\ndeclare -p ID > '{0}' 2>/dev/null\nexit $ended",
            state.display()
        );
        let output = Command::new("timeout")
            .args(["60", "bash", "-c", &script])
            .env("PATH", &path)
            .env("RAFTQ_ADDRS", cluster.addrs())
            .env("TZ", "UTC")
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = printed.lines().map(str::trim_end).collect();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            all_fit(prints, &lines),
            "$ {command}\nREADME.md says:\n{}\nit prints:\n{printed}\nand says:\n{told}",
            prints.join("\n")
        );
    }
}

#[test]
fn what_does_not_fit_is_found() {
    let said = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(all_fit(&said(&["a ... b", "...", "z"]), &["a 7 b", "x", "y", "z"]));
    assert!(all_fit(&said(&["...", "z"]), &["z"]));
    assert!(!all_fit(&said(&["a ... b"]), &["a 7 c"]));
    assert!(!all_fit(&said(&["a"]), &["a", "b"]));
    assert!(!all_fit(&said(&["a", "b"]), &["a"]));
    assert!(!all_fit(&said(&["b ..."]), &["a b 7"]));
}
