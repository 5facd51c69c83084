//! `wire-spec.md` is true: every example in it is what the code writes and reads, every limit and number
//! is the code's.

#[path = "wire/support.rs"]
mod support;
#[path = "wire/text.rs"]
mod text;

use bytes::BytesMut;
use raftq::wire::frame::{BODY_BYTES_MAX, FrameCodec, HEADER_BYTES, PREAMBLE};
use support::{Any, samples, wire};
use text::{diagnostic, hex, unhex};
use tokio_util::codec::Decoder;

const SPEC: &str = include_str!("../wire-spec.md");

/// One example of the document: its title, the body as people read it, and its bytes.
struct Example {
    title: String,
    body: String,
    bytes: Vec<u8>,
}

/// Finds the fenced blocks that begin with ```` ```frame TITLE ````.
fn examples() -> Vec<Example> {
    let blocks = SPEC.split("\n```frame ").skip(1);
    blocks
        .map(|block| {
            let (title, rest) = block.split_once('\n').expect("a title");
            let (text, _) = rest.split_once("\n```").expect("an end");
            let (body, bytes) = text.split_once("\n---\n").expect("a body, a rule, bytes");
            Example { title: title.into(), body: body.replace('\n', " "), bytes: unhex(bytes) }
        })
        .collect()
}

/// Writes an example as the document has it.
fn block(title: &str, corr: u32, message: &Any) -> String {
    let frame = message.to_frame(corr);
    let bytes = wire(&frame);
    let (head, body) = bytes.split_at(HEADER_BYTES);
    let head = hex(head);
    let fields =
        [&head[..8], &head[8..10], &head[10..12], &head[12..16], &head[16..24], &head[24..]];
    let mut text =
        format!("```frame {title}\n{}\n---\n{}\n", diagnostic(&frame.body), fields.join(" | "));
    for line in body.chunks(32) {
        text.push_str(&hex(line));
        text.push('\n');
    }
    text + "```\n"
}

/// A message in the document is, byte for byte, what the code makes of it and reads from it.
#[test]
fn every_example_is_what_the_code_writes_and_reads() {
    let examples = examples();
    let missing: Vec<String> = samples()
        .iter()
        .filter(|(title, ..)| examples.iter().all(|example| example.title != *title))
        .map(|(title, corr, message)| block(title, *corr, message))
        .collect();
    assert!(missing.is_empty(), "not in wire-spec.md:\n{}", missing.join("\n"));
    for (title, corr, message) in samples() {
        let example = examples.iter().find(|example| example.title == title);
        let wanted = block(title, corr, &message);
        let example = example.expect(title);
        assert_eq!(hex(&example.bytes), hex(&wire(&message.to_frame(corr))), "should be\n{wanted}");
    }
    for Example { title, body, bytes } in &examples {
        let mut buffer = BytesMut::from(bytes.as_slice());
        let frame = FrameCodec::new(BODY_BYTES_MAX).decode(&mut buffer);
        let frame = frame.expect(title).unwrap_or_else(|| panic!("{title} is cut short"));
        assert!(buffer.is_empty(), "{title} has bytes too many");
        let spaced: Vec<&str> = body.split_whitespace().collect();
        let shown = diagnostic(&frame.body);
        assert_eq!(spaced, shown.split_whitespace().collect::<Vec<_>>(), "body of {title}");
        let message = Any::from_frame(&frame).unwrap_or_else(|error| panic!("{title}: {error}"));
        let (_, corr, sample) = samples()
            .into_iter()
            .find(|(name, ..)| name == title)
            .unwrap_or_else(|| panic!("{title} is an example of nothing"));
        assert_eq!((frame.corr, message), (corr, sample), "{title}");
    }
}

/// No frame is shown in any other way: a block of hexadecimal digits that no test reads would rot.
#[test]
fn no_hex_block_escapes_the_test() {
    assert!(SPEC.contains(&format!("```preamble\n{}\n```", "c1 52 4a 51 0d 0a 1a 0a")));
    assert_eq!(unhex("c1 52 4a 51 0d 0a 1a 0a"), PREAMBLE);
    let mut is_open = false;
    let mut language = "";
    for line in SPEC.lines() {
        if let Some(opened) = line.strip_prefix("```") {
            is_open = !is_open;
            language = opened.split(' ').next().unwrap_or_default();
        } else if is_open && !["frame", "preamble"].contains(&language) {
            let looks_hex = line.chars().filter(char::is_ascii_hexdigit).count() >= 16
                && line.chars().all(|c| c.is_ascii_hexdigit() || c == ' ' || c == '|');
            assert!(!looks_hex, "an unchecked hex line in ```{language}: {line}");
        }
    }
}

/// Every number that stands in a table of limits is the code's.
#[test]
fn limits_equal_the_code() {
    use raftq::jobs::{change, cron, cron_spec, find, intake, job, list, options, rules};
    use raftq::pack;
    use raftq::replica::{history, reads};
    use raftq::types::UniqueKey;
    use raftq::wire::{
        bulk, frame, hello, message, named, peer, positional, reasons, refusal, request,
    };

    let code: Vec<(&str, u64)> = vec![
        ("PREAMBLE_BYTES", PREAMBLE.len() as u64),
        ("HEADER_BYTES", HEADER_BYTES as u64),
        ("BODY_BYTES_MAX", BODY_BYTES_MAX as u64),
        ("HELLO_BYTES_MAX", frame::HELLO_BYTES_MAX as u64),
        ("DEPTH_MAX", pack::DEPTH_MAX as u64),
        ("MAP_ENTRIES_MAX", pack::MAP_ENTRIES_MAX as u64),
        ("BODY_ELEMENTS_MAX", named::BODY_ELEMENTS_MAX as u64),
        ("IN_FLIGHT_MAX", u64::from(hello::IN_FLIGHT_MAX)),
        ("AGENT_BYTES_MAX", hello::AGENT_BYTES_MAX as u64),
        ("NODES_MAX", hello::NODES_MAX as u64),
        ("MESSAGE_BYTES_MAX", refusal::MESSAGE_BYTES_MAX as u64),
        ("JOB_BYTES_MAX", job::BODY_BYTES_MAX as u64),
        ("COMMAND_WORDS_MAX", job::COMMAND_WORDS_MAX as u64),
        ("OUTPUT_BYTES_MAX", job::OUTPUT_BYTES_MAX as u64),
        ("ERROR_BYTES_MAX", job::ERROR_BYTES_MAX as u64),
        ("BATCH_JOBS_MAX", message::BATCH_JOBS_MAX as u64),
        ("BATCH_UPDATES_MAX", message::BATCH_UPDATES_MAX as u64),
        ("BATCH_BYTES_MAX", request::BATCH_BYTES_MAX as u64),
        ("LIST_JOBS_MAX", message::LIST_JOBS_MAX as u64),
        ("LOOKED_MAX", list::LOOKED_MAX as u64),
        ("TEXT_BYTES_MAX", find::TEXT_BYTES_MAX as u64),
        ("REASONS_MAX", reasons::REASONS_MAX as u64),
        ("LIST_QUEUES_MAX", message::LIST_QUEUES_MAX as u64),
        ("LIST_CRONS_MAX", raftq::wire::crons::LIST_CRONS_MAX as u64),
        ("LIST_LOG_MAX", u64::from(request::LIST_LOG_MAX)),
        ("WAIT_JOBS_MAX", message::WAIT_JOBS_MAX as u64),
        ("WAIT_MS_MAX", message::WAIT_MS_MAX),
        ("HELD_MAX", message::HELD_MAX as u64),
        ("PERCENT_MAX", u64::from(intake::PERCENT_MAX)),
        ("NOTE_BYTES_MAX", intake::NOTE_BYTES_MAX as u64),
        ("RESERVE_JOBS_MAX", message::RESERVE_JOBS_MAX as u64),
        ("RELEASE_JOBS_MAX", request::RELEASE_JOBS_MAX as u64),
        ("WORKER_SLOTS_MAX", u64::from(job::WORKER_SLOTS_MAX)),
        ("WORKER_QUEUES_MAX", job::WORKER_QUEUES_MAX as u64),
        ("PRIORITY_MAX", u64::from(options::PRIORITY_MAX)),
        ("RETRIES_MAX", u64::from(options::RETRIES_MAX)),
        ("DURATION_MS_MAX", options::DURATION_MS_MAX),
        ("UNIQUE_BYTES_MAX", UniqueKey::BYTES_MAX as u64),
        ("TAGS_MAX", options::TAGS_MAX as u64),
        ("PAST_MAX", job::PAST_MAX as u64),
        ("CHANGES_PER_ANSWER_MAX", history::CHANGES_PER_ANSWER_MAX as u64),
        ("CHANGE_ERROR_BYTES_MAX", change::CHANGE_ERROR_BYTES_MAX as u64),
        ("WATCHERS_MAX", reads::WATCHERS_MAX as u64),
        ("LIMIT_MAX", u64::from(rules::LIMIT_MAX)),
        ("RATE_COUNT_MAX", u64::from(rules::RATE_COUNT_MAX)),
        ("RULED_QUEUES_MAX", raftq::jobs::queue::RULED_QUEUES_MAX as u64),
        ("CRONS_MAX", cron::CRONS_MAX as u64),
        ("SPEC_BYTES_MAX", cron_spec::SPEC_BYTES_MAX as u64),
        ("EVERY_MS_MIN", cron_spec::EVERY_MS_MIN),
        ("ON_TIME_MS", cron::ON_TIME_MS),
        ("MADE_UP_MAX", u64::from(cron::MADE_UP_MAX)),
        ("CRON_ERROR_BYTES_MAX", cron::CRON_ERROR_BYTES_MAX as u64),
        ("VOTERS_MAX", positional::VOTERS_MAX as u64),
        ("ENTRIES_MAX", peer::ENTRIES_MAX as u64),
        ("DIGESTS_MAX", peer::DIGESTS_MAX as u64),
        ("CHUNK_BYTES", bulk::CHUNK_BYTES as u64),
        ("WINDOW_BYTES", bulk::WINDOW_BYTES),
    ];
    let table = section("## 3. ");
    let rows: Vec<Vec<&str>> = rows(table);
    for (name, value) in &code {
        let quoted = format!("`{name}`");
        let row = rows.iter().find(|row| row[0] == quoted);
        let row = row.unwrap_or_else(|| panic!("{name} = {value} is not in the table of limits"));
        let digits: String = row[1].chars().filter(char::is_ascii_digit).collect();
        assert_eq!(digits.parse(), Ok(*value), "{name}");
    }
    for row in rows.iter().filter(|row| row[0].starts_with('`')) {
        let name = row[0].trim_matches('`');
        assert!(code.iter().any(|(known, _)| *known == name), "{name} is in no code");
    }
}

/// Every code of the table of errors has the code's number, and every code is there.
#[test]
fn errors_equal_the_code() {
    use raftq::wire::message::Code;
    let rows = rows(section("## 10. "));
    for code in Code::ALL {
        let number = code.number().to_string();
        let name = format!("`{code}`");
        assert!(rows.iter().any(|row| row[0] == number && row[1] == name), "{number} {name}");
        assert_eq!(Code::from_number(code.number()), Some(code));
        assert_eq!(Code::parse(code.as_str()), Some(code));
    }
    let numbered = rows.iter().filter(|row| row[0].parse::<u16>().is_ok_and(|number| number > 0));
    assert_eq!(numbered.count(), Code::ALL.len(), "codes that only the document knows");
}

/// Every kind of frame in the registry has the code's number, and every kind is there.
#[test]
fn registry_of_kinds_equals_the_code() {
    let rows = rows(section("## Appendix A. "));
    let written: Vec<(String, String)> = rows
        .iter()
        .skip(2)
        .map(|row| (row[0].to_owned(), row[1].trim_matches('`').to_owned()))
        .collect();
    let coded: Vec<(String, String)> = raftq::wire::kind::ALL
        .iter()
        .map(|(kind, name)| (format!("0x{kind:02x}"), (*name).to_owned()))
        .collect();
    assert_eq!(written, coded);
}

fn section(title: &str) -> &'static str {
    let start = SPEC.find(&format!("\n{title}")).unwrap_or_else(|| panic!("no section {title}"));
    let rest = &SPEC[start + 1..];
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

/// Returns the cells of every line of a table.
fn rows(section: &'static str) -> Vec<Vec<&'static str>> {
    let lines = section.lines().filter(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}
