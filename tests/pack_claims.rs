//! Counts and lengths are only claims: what promises much and holds little is refused, what is honest passes.

use raftq::pack::PackError;
use raftq::pack::unpack::{ALLOWANCE_BYTES, List, Structs, unpack};
use raftq::storage::disk::{Disk, DiskFile};
use raftq::storage::memory::Memory;
use raftq::storage::snapshot_file::{read_head, scan};
use raftq::types::JobId;
use raftq::wire::frame::Frame;
use raftq::wire::kind;
use raftq::wire::message::Reply;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

/// An element of 64 bytes that is one byte on the wire.
#[derive(Debug, serde::Deserialize, PartialEq)]
#[serde(from = "u8")]
struct Large([u64; 8]);

impl From<u8> for Large {
    fn from(byte: u8) -> Self {
        Self([byte.into(); 8])
    }
}

/// What a list of small elements was told of its length before each of them.
#[derive(Debug)]
struct Hints(Vec<usize>);

impl<'de> Deserialize<'de> for Hints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Asking;
        impl<'de> Visitor<'de> for Asking {
            type Value = Hints;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Hints, A::Error> {
                let mut hints = vec![seq.size_hint().unwrap_or(0)];
                while let Some(_element) = seq.next_element::<u8>()? {
                    hints.push(seq.size_hint().unwrap_or(0));
                }
                Ok(Hints(hints))
            }
        }
        deserializer.deserialize_seq(Asking)
    }
}

/// An array of so many ones.
fn ones(count: u32) -> Vec<u8> {
    let mut bytes = vec![0xdd];
    bytes.extend(count.to_be_bytes());
    bytes.resize(5 + count as usize, 1);
    bytes
}

#[test]
fn lists_of_elements_that_dwarf_their_bytes_are_refused_past_the_allowance() {
    let fits = u32::try_from(ALLOWANCE_BYTES / 64).unwrap();
    let List(read) = unpack::<List<Large>>(&ones(fits), Structs::Named).unwrap();
    assert_eq!(read.len(), fits as usize);
    let refused = unpack::<List<Large>>(&ones(100_000), Structs::Named).unwrap_err();
    assert!(refused.to_string().contains("a list of 100000 elements"), "{refused}");
    // A list that grows by doubling pays for the room it leaves empty.
    assert!(unpack::<Vec<Large>>(&ones(fits / 2), Structs::Named).is_ok());
    assert!(unpack::<Vec<Large>>(&ones(fits + 100), Structs::Named).is_err());
}

#[test]
fn ids_and_texts_are_never_too_many_for_their_bytes() {
    let ids: Vec<JobId> = vec![JobId([7; 16]); 100_000];
    let bytes = rmp_serde::to_vec(&ids).unwrap();
    assert_eq!(unpack::<List<JobId>>(&bytes, Structs::Named).unwrap().0, ids);
}

#[test]
fn room_for_small_elements_grows_with_what_comes_and_not_with_the_count() {
    let mut bytes = rmp_serde::to_vec(&[JobId([7; 16])]).unwrap();
    bytes.splice(..1, [0xdd, 0, 1, 0x86, 0xa0]);
    bytes.resize(bytes.len() + 99_999, 0);
    let hints = unpack::<Hints>(&ones(100_000), Structs::Named).unwrap();
    assert_eq!(hints.0.len(), 100_001);
    assert!(hints.0.iter().all(|hint| *hint <= 8), "{:?}", hints.0.iter().max());
    assert!(unpack::<List<JobId>>(&bytes, Structs::Named).is_err());
}

#[test]
fn wrong_text_of_any_length_is_named_in_a_few_words() {
    let mut bytes = vec![0xdb, 0, 0x10, 0, 0];
    bytes.resize(5 + (1 << 20), 1);
    let refused = unpack::<u64>(&bytes, Structs::Named).unwrap_err().to_string();
    assert!(refused.len() < 1024, "{} bytes", refused.len());
    assert!(refused.contains("string"), "{refused}");
}

#[test]
fn tuples_take_as_many_elements_as_they_have() {
    assert_eq!(unpack::<(u8, u8)>(b"\x92\x01\x02", Structs::Named), Ok((1, 2)));
    assert!(unpack::<(u8, u8)>(b"\x91\x01", Structs::Named).is_err());
    let longer = unpack::<(u8, u8)>(b"\x93\x01\x02\x03", Structs::Named);
    assert!(matches!(longer, Err(PackError::Mismatch(_))), "{longer:?}");
    assert_eq!(unpack::<u8>(b"\x01\x02", Structs::Named), Err(PackError::Trailing(1)));
}

#[test]
fn answers_as_long_as_requests_allow_pass_at_their_leanest() {
    use raftq::jobs::job::Status;
    let cancelled = Reply::Cancelled(vec![Ok(Status::Cancelled); 1024]);
    assert_eq!(Reply::from_frame(&cancelled.to_frame(1)), Ok(cancelled));
    let updated = Reply::Updated(vec![Ok(()); 128]);
    assert_eq!(Reply::from_frame(&updated.to_frame(1)), Ok(updated));
    // A server that answers with results of three bytes by the hundred thousand is not one of ours.
    let mut body = b"\x81\xa7results\xdd\x00\x01\x86\xa0".to_vec();
    for _ in 0..100_000 {
        body.extend(b"\x81\xa2ok\x80");
    }
    let refused = Reply::from_frame(&Frame::new(kind::UPDATED, 1, body.into())).unwrap_err();
    assert!(refused.to_string().contains("more than its bytes can stand for"), "{refused}");
}

#[test]
fn record_of_a_snapshot_that_cannot_be_in_the_file_is_not_looked_for() {
    let disk = Memory::default();
    let mut bytes = b"head".to_vec();
    bytes.extend((15_u32 << 20).to_le_bytes());
    bytes.resize(100, 0);
    let file = disk.create("snap").unwrap();
    file.write_at(&bytes, 0).unwrap();
    let refused = scan(&file, "snap", 4, &mut |_| Ok(())).unwrap_err();
    assert!(refused.to_string().contains("an impossible length of a record"), "{refused}");
    assert!(read_head(&file, "snap").is_err());
}
