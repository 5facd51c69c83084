//! The picture of a run: faults above, what clients got below, one axis of time for all.

use std::fmt::Write as _;

use crate::faults::Bar;
use crate::plan::Kind;
use crate::record::{Class, Sample};
use crate::watch::Reign;

const WIDTH: f64 = 1400.0;
const LEFT: f64 = 118.0;
const RIGHT: f64 = 24.0;
const LANE: f64 = 30.0;
const PANEL: f64 = 150.0;
const GAP: f64 = 58.0;

const INK: &str = "#1f2933";
const FAINT: &str = "#667685";
const GRID: &str = "#e3e8ed";
const LEADER: &str = "#1d4fa8";
const GOOD: &str = "#3f9d5f";
const REFUSED: &str = "#e8a33d";
const UNKNOWN: &str = "#c93a3a";
const NO_MAJORITY: &str = "#fbe1de";
const SLOWEST: &str = "#d9722e";

/// The lowest and highest latency shown, in milliseconds.
const LATENCY_MS: (f64, f64) = (1.0, 10_000.0);

/// What is drawn.
#[derive(Debug)]
pub struct Picture<'a> {
    /// The first line.
    pub title: String,
    /// The second line.
    pub subtitle: String,
    /// Whether nothing was found.
    pub is_good: bool,
    /// How many lanes.
    pub nodes: usize,
    /// Where the faults end.
    pub healed_ms: u64,
    /// Where the load ends.
    pub end_ms: u64,
    /// The faults.
    pub bars: &'a [Bar],
    /// The leaders.
    pub reigns: &'a [Reign],
    /// The operations.
    pub samples: &'a [Sample],
}

/// What one stretch of time saw.
#[derive(Clone, Debug, Default)]
struct Bucket {
    acknowledged: u32,
    refused: u32,
    unknown: u32,
    took_us: Vec<u64>,
}

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Kill => "#c93a3a",
        Kind::Restart => "#9b6a3c",
        Kind::Pause => "#8a5fc7",
        Kind::Clock => "#1c9aa8",
        Kind::Cut => "#3b4754",
        Kind::Slow => "#e0b83a",
    }
}

impl Picture<'_> {
    /// Draws it.
    pub fn draw(&self) -> String {
        let mut out = String::new();
        let lanes_top = 128.0;
        let lanes_end = lanes_top + LANE * self.nodes as f64;
        let ops_top = lanes_end + GAP;
        let latency_top = ops_top + PANEL + GAP;
        let axis = latency_top + PANEL;
        let height = axis + 62.0;
        self.begin(&mut out, height);
        self.majorities(
            &mut out,
            &[(lanes_top, lanes_end), (ops_top, ops_top + PANEL), (latency_top, axis)],
        );
        self.grid(&mut out, lanes_top, axis);
        self.lanes(&mut out, lanes_top);
        let step_ms = self.step_ms();
        let buckets = self.buckets(step_ms);
        self.operations(&mut out, ops_top, &buckets, step_ms);
        self.latency(&mut out, latency_top, &buckets, step_ms);
        out.push_str("</svg>\n");
        out
    }

    fn x(&self, ms: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (ms / self.end_ms.max(1) as f64).clamp(0.0, 1.0)
    }

    fn begin(&self, out: &mut String, height: f64) {
        put(
            out,
            format_args!(
                "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' \
             height='{height}' font-family='DejaVu Sans, Verdana, sans-serif' font-size='13' fill='{INK}'>"
            ),
        );
        put(out, format_args!("<rect width='{WIDTH}' height='{height}' fill='#ffffff'/>"));
        text(out, 24.0, 36.0, "font-size='21' font-weight='bold'", &self.title);
        let verdict = if self.is_good { GOOD } else { UNKNOWN };
        text(out, 24.0, 62.0, &format!("font-size='15' fill='{verdict}'"), &self.subtitle);
        let mut x = 24.0;
        let mut entry = |out: &mut String, fill: &str, words: &str| {
            put(
                out,
                format_args!(
                    "<rect x='{x:.0}' y='82' width='22' height='12' rx='2' fill='{fill}'/>"
                ),
            );
            text(out, x + 28.0, 93.0, "font-size='13'", words);
            x += 28.0 + 7.0 * words.len() as f64 + 18.0;
        };
        entry(out, LEADER, "leads (with its term)");
        for kind in Kind::ALL {
            entry(out, colour(kind), kind.words());
        }
        entry(out, NO_MAJORITY, "no majority could act");
    }

    /// Shades the times in which too few nodes ran and heard each other for anything to be acknowledged.
    fn majorities(&self, out: &mut String, panels: &[(f64, f64)]) {
        let is_out = |bar: &&Bar| bar.is_away;
        let mut turns: Vec<u64> = self.bars.iter().filter(is_out).map(|bar| bar.from_ms).collect();
        turns.extend(self.bars.iter().filter(is_out).map(|bar| bar.to_ms));
        turns.sort_unstable();
        turns.dedup();
        let lost = |at_ms: u64| {
            let away = |node: usize| {
                let mut bars = self.bars.iter().filter(is_out).filter(|bar| bar.node == node);
                bars.any(|bar| bar.from_ms <= at_ms && at_ms < bar.to_ms)
            };
            (1..=self.nodes).filter(|node| !away(*node)).count() <= self.nodes / 2
        };
        for pair in turns.windows(2) {
            let [from_ms, to_ms] = pair else { continue };
            if !lost(*from_ms) {
                continue;
            }
            let (x, end) = (self.x(*from_ms as f64), self.x(*to_ms as f64));
            for (top, bottom) in panels {
                put(
                    out,
                    format_args!(
                        "<rect x='{x:.1}' y='{top:.1}' width='{:.1}' height='{:.1}' fill='{NO_MAJORITY}'/>",
                        (end - x).max(0.5),
                        bottom - top
                    ),
                );
            }
        }
    }

    fn grid(&self, out: &mut String, top: f64, axis: f64) {
        let seconds = self.end_ms as f64 / 1000.0;
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
        let step = steps.into_iter().find(|step| seconds / step <= 16.0).unwrap_or(7200.0);
        let mut at = 0.0;
        while at <= seconds {
            let x = self.x(at * 1000.0);
            put(out, format_args!("<path d='M{x:.1} {top:.0}V{axis:.0}' stroke='{GRID}'/>"));
            let anchor = "text-anchor='middle' font-size='12'";
            text(out, x, axis + 20.0, anchor, &format!("{at:.0}"));
            at += step;
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        text(out, middle, axis + 44.0, "text-anchor='middle'", "seconds since the load began");
        let x = self.x(self.healed_ms as f64);
        put(
            out,
            format_args!(
                "<path d='M{x:.1} {:.0}V{axis:.0}' stroke='{GOOD}' stroke-width='2' stroke-dasharray='5 4'/>",
                top - 8.0
            ),
        );
        let anchor = format!("text-anchor='end' font-size='12' fill='{GOOD}'");
        text(out, x - 4.0, top - 6.0, &anchor, "all faults healed");
    }

    fn lanes(&self, out: &mut String, top: f64) {
        let title = "font-size='12' font-weight='bold'";
        text(out, 24.0, top - 6.0, title, "FAULTS");
        for node in 1..=self.nodes {
            let y = top + LANE * (node - 1) as f64;
            text(out, LEFT - 10.0, y + 20.0, "text-anchor='end'", &format!("node {node}"));
            let width = WIDTH - LEFT - RIGHT;
            put(
                out,
                format_args!(
                    "<rect x='{LEFT}' y='{:.1}' width='{width}' height='{:.1}' fill='#dfe9e2' fill-opacity='0.55'/>",
                    y + 2.0,
                    LANE - 4.0
                ),
            );
            for bar in self.bars.iter().filter(|bar| bar.node == node) {
                // Of processes and clocks above, of the network below: two may be at once.
                let is_below = matches!(bar.kind, Kind::Cut | Kind::Slow);
                let (x, end) = (self.x(bar.from_ms as f64), self.x(bar.to_ms as f64));
                put(
                    out,
                    format_args!(
                        "<rect x='{x:.1}' y='{:.1}' width='{:.1}' height='10' fill='{}'/>",
                        y + if is_below { 17.5 } else { 7.5 },
                        (end - x).max(1.5),
                        colour(bar.kind)
                    ),
                );
            }
        }
        self.leaders(out, top);
    }

    fn leaders(&self, out: &mut String, top: f64) {
        let mut written_to = 0.0;
        let mut reigns = self.reigns.to_vec();
        reigns.sort_by_key(|reign| reign.from_ms);
        for reign in reigns {
            let y = top + LANE * (reign.node - 1) as f64;
            let (x, end) = (self.x(reign.from_ms as f64), self.x(reign.to_ms as f64));
            put(
                out,
                format_args!(
                    "<rect x='{x:.1}' y='{:.1}' width='{:.1}' height='5' fill='{LEADER}'/>",
                    y + 2.0,
                    (end - x).max(2.0)
                ),
            );
            // Terms that would stand in each other's way are left out.
            let label = format!("{}", reign.term);
            let width = 7.0 * label.len() as f64 + 6.0;
            if end - x > width && x > written_to {
                let halo = "stroke='#ffffff' stroke-width='3' paint-order='stroke'";
                let style = format!("font-size='10' font-weight='bold' fill='{LEADER}' {halo}");
                text(out, x + 2.0, y + 16.5, &style, &label);
                written_to = x;
            }
        }
    }

    /// A second in a short run, more in a long one.
    fn step_ms(&self) -> u64 {
        (self.end_ms / 700).max(1_000)
    }

    fn buckets(&self, step_ms: u64) -> Vec<Bucket> {
        let count = usize::try_from(self.end_ms / step_ms + 1).unwrap_or(1);
        let mut buckets = vec![Bucket::default(); count];
        for sample in self.samples {
            let at = usize::try_from(sample.at_us / 1000 / step_ms).unwrap_or(usize::MAX);
            let Some(bucket) = buckets.get_mut(at) else { continue };
            match sample.class {
                Class::Acknowledged => {
                    bucket.acknowledged += 1;
                    bucket.took_us.push(sample.took_us);
                }
                Class::Refused => bucket.refused += 1,
                Class::Unknown => bucket.unknown += 1,
            }
        }
        buckets.iter_mut().for_each(|bucket| bucket.took_us.sort_unstable());
        buckets
    }

    fn operations(&self, out: &mut String, top: f64, buckets: &[Bucket], step_ms: u64) {
        let per_s = |count: u32| f64::from(count) * 1000.0 / step_ms as f64;
        let total = |bucket: &Bucket| bucket.acknowledged + bucket.refused + bucket.unknown;
        let most = buckets.iter().map(|bucket| per_s(total(bucket))).fold(1.0, f64::max);
        let steps = [10.0, 20.0, 25.0, 50.0, 100.0, 200.0, 500.0, 1000.0];
        let step = steps.into_iter().find(|step| most / step <= 5.0).unwrap_or(2000.0);
        let most = (most / step).ceil() * step;
        let y = |value: f64| top + PANEL - PANEL * value / most;
        text(out, 24.0, top - 12.0, "font-size='12' font-weight='bold'", "OPERATIONS A SECOND");
        key(out, 250.0, top - 12.0, GOOD, "acknowledged");
        key(out, 390.0, top - 12.0, REFUSED, "refused: not done, and the client knows");
        key(out, 720.0, top - 12.0, UNKNOWN, "outcome unknown");
        let mut value = 0.0;
        while value <= most {
            rule(out, y(value), &format!("{value:.0}"));
            value += step;
        }
        let width = self.x(step_ms as f64) - self.x(0.0);
        for (fill, from, to) in [
            (GOOD, [0, 0, 0], [1, 0, 0]),
            (REFUSED, [1, 0, 0], [1, 1, 0]),
            (UNKNOWN, [1, 1, 0], [1, 1, 1]),
        ] {
            let level = |bucket: &Bucket, parts: [u32; 3]| {
                let [one, two, three] = parts;
                per_s(bucket.acknowledged * one + bucket.refused * two + bucket.unknown * three)
            };
            let mut path = String::new();
            for (at, bucket) in buckets.iter().enumerate() {
                let (low, high) = (level(bucket, from), level(bucket, to));
                let x = self.x(at as f64 * step_ms as f64);
                let room = (self.x(self.end_ms as f64) - x).min(width);
                if high > low && room > 0.1 {
                    let (bottom, tall) = (y(low), y(low) - y(high));
                    let bar = format!("M{x:.1} {bottom:.1}h{room:.1}v-{tall:.1}h-{room:.1}z");
                    path.push_str(&bar);
                }
            }
            put(out, format_args!("<path d='{path}' fill='{fill}'/>"));
        }
    }

    fn latency(&self, out: &mut String, top: f64, buckets: &[Bucket], step_ms: u64) {
        let (low, high) = LATENCY_MS;
        let y = |ms: f64| {
            let share = (ms.clamp(low, high) / low).log10() / (high / low).log10();
            top + PANEL - PANEL * share
        };
        let title = "LATENCY OF WHAT WAS ACKNOWLEDGED";
        text(out, 24.0, top - 12.0, "font-size='12' font-weight='bold'", title);
        key(out, 330.0, top - 12.0, GOOD, "median");
        key(out, 430.0, top - 12.0, SLOWEST, "99th percentile");
        for (ms, label) in [
            (1.0, "1 ms"),
            (10.0, "10 ms"),
            (100.0, "100 ms"),
            (1_000.0, "1 s"),
            (10_000.0, "10 s"),
        ] {
            rule(out, y(ms), label);
        }
        for (stroke, of_100) in [(SLOWEST, 99), (GOOD, 50)] {
            let mut path = String::new();
            let mut is_open = false;
            for (at, bucket) in buckets.iter().enumerate() {
                let Some(us) = percentile(&bucket.took_us, of_100) else {
                    is_open = false;
                    continue;
                };
                let x = self.x((at as f64 + 0.5) * step_ms as f64);
                let verb = if is_open { 'L' } else { 'M' };
                path.push_str(&format!("{verb}{x:.1} {:.1}", y(us as f64 / 1000.0)));
                if !is_open {
                    path.push_str("h0.1");
                }
                is_open = true;
            }
            put(
                out,
                format_args!(
                    "<path d='{path}' fill='none' stroke='{stroke}' stroke-width='1.8' stroke-linecap='round'/>"
                ),
            );
        }
    }
}

/// Returns the value that so many of a hundred are not above.
pub fn percentile(sorted: &[u64], of_100: usize) -> Option<u64> {
    let rank = (sorted.len() * of_100).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    let _never_fails = writeln!(out, "{what}").is_err();
}

fn text(out: &mut String, x: f64, y: f64, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    put(out, format_args!("<text x='{x:.1}' y='{y:.1}' {style}>{words}</text>"));
}

fn key(out: &mut String, x: f64, y: f64, fill: &str, words: &str) {
    put(
        out,
        format_args!(
            "<rect x='{x:.0}' y='{:.0}' width='14' height='10' rx='2' fill='{fill}'/>",
            y - 9.0
        ),
    );
    text(out, x + 19.0, y, "font-size='12'", words);
}

fn rule(out: &mut String, y: f64, label: &str) {
    let end = WIDTH - RIGHT;
    put(out, format_args!("<path d='M{LEFT} {y:.1}H{end}' stroke='{GRID}'/>"));
    let style = format!("text-anchor='end' font-size='12' fill='{FAINT}'");
    text(out, LEFT - 10.0, y + 4.0, &style, label);
}
