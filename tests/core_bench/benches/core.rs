//! Measures committed entries a second through three replicas in memory: our core beside the raft crate's.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use raftq_core_bench::ours::Ours;
use raftq_core_bench::theirs::Theirs;
use raftq_core_bench::{Group, LEADER, Telling, payloads};

/// How many proposals are in flight in a turn.
const CASES: [usize; 4] = [1, 16, 64, 256];

/// How many entries pass before the first that counts: all buffers have their size by then, and both logs have been
/// compacted.
const ENTRIES_BEFORE: usize = 10_000;

/// For so many entries at once is made, with the clock stopped, what they carry: that is the caller's work.
const ENTRIES_MADE: usize = 1_024;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .nresamples(5_000)
        .configure_from_args();
    for (name, telling) in [("at_once", Telling::AtOnce), ("with_next", Telling::WithNext)] {
        let mut cases = criterion.benchmark_group(name);
        for proposals in CASES {
            cases.throughput(Throughput::Elements(proposals as u64));
            measure(&mut cases, "ours", || Ours::new(telling), proposals);
            measure(&mut cases, "raft_crate", || Theirs::new(telling), proposals);
        }
        cases.finish();
    }
    criterion.final_summary();
}

fn measure<G: Group>(
    cases: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    make: impl Fn() -> G,
    proposals: usize,
) {
    cases.bench_function(BenchmarkId::new(name, proposals), |bench| {
        let mut group = make();
        for _ in 0..ENTRIES_BEFORE.div_ceil(proposals) {
            group.turn(payloads(proposals));
        }
        let made = BatchSize::NumIterations((ENTRIES_MADE / proposals) as u64);
        bench.iter_batched(|| payloads(proposals), |data| group.turn(data), made);
        // All nodes have handed out what was proposed; but for the last turn where followers hear of it with the next.
        let handed_out = group.handed_out();
        for count in handed_out {
            let behind = handed_out[LEADER] - count;
            assert!(behind <= proposals as u64, "a node is left behind: {handed_out:?}");
        }
    });
}
