//! A picture of latency against load, as SVG: to the right what is done a second, upwards how long it takes.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 72.0;

/// One measured point of a line.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Requests in flight.
    pub in_flight: usize,
    /// Operations a second.
    pub per_s: f64,
    /// The median latency in milliseconds.
    pub p50_ms: f64,
    /// The latency that one in a hundred exceeds, in milliseconds.
    pub p99_ms: f64,
}

/// A line of the picture.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it is called.
    pub name: String,
    /// Its colour, as SVG takes it.
    pub colour: &'static str,
    /// Its points, in order of load.
    pub points: Vec<Point>,
}

/// Whole powers of ten around some numbers.
struct Axis {
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Axis {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "exponents of what can be measured are small"
    )]
    fn around(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let good = values.filter(|value| value.is_finite() && *value > 0.0);
        let low = good.clone().fold(f64::INFINITY, f64::min);
        let high = good.fold(0.0, f64::max);
        let (low, high) = if high > 0.0 { (low, high) } else { (1.0, 10.0) };
        let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        Self { low, high: high.max(low + 1), from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }
}

/// Draws the lines; `title` says what was measured, and on what.
#[must_use]
pub fn draw(title: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let across = Axis::around(points().map(|point| point.per_s), LEFT, WIDTH - RIGHT);
    let latencies: Vec<f64> = points().flat_map(|point| [point.p50_ms, point.p99_ms]).collect();
    let up = Axis::around(latencies.iter().copied(), HEIGHT - BOTTOM, TOP);
    let mut svg = String::new();
    svg.push_str(&format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{}</text>\n",
        escaped(title)
    ));
    grid(&mut svg, &across, &up);
    for (place, line) in series.iter().enumerate() {
        let x = LEFT + 190.0 * place as f64;
        put(
            &mut svg,
            format_args!(
                "<line x1=\"{x}\" y1=\"42\" x2=\"{}\" y2=\"42\" stroke=\"{}\" stroke-width=\"3\"/>\
             <text x=\"{}\" y=\"46\">{}</text>\n",
                x + 24.0,
                line.colour,
                x + 30.0,
                escaped(&line.name)
            ),
        );
        draw_line(&mut svg, &across, &up, line, |point| point.p50_ms, "");
        draw_line(&mut svg, &across, &up, line, |point| point.p99_ms, " stroke-dasharray=\"5 4\"");
        for point in &line.points {
            put(
                &mut svg,
                format_args!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"middle\" fill=\"{}\">{}</text>\n",
                    across.place(point.per_s),
                    up.place(point.p50_ms) + 18.0,
                    line.colour,
                    point.in_flight
                ),
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a string does not fail.
    if svg.write_fmt(text).is_err() {
        log::error!("a picture could not be written");
    }
}

fn grid(svg: &mut String, across: &Axis, up: &Axis) {
    let floor = HEIGHT - BOTTOM;
    for exponent in across.low..=across.high {
        let value = 10_f64.powi(exponent);
        let x = across.place(value);
        put(
            svg,
            format_args!(
                "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{floor}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>\n",
                floor + 20.0
            ),
        );
    }
    for exponent in up.low..=up.high {
        let value = 10_f64.powi(exponent);
        let y = up.place(value);
        put(
            svg,
            format_args!(
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>\n",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0
            ),
        );
    }
    put(
        svg,
        format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">operations a second; the numbers on the lines are requests in flight</text>\n\
         <text transform=\"translate(22 {}) rotate(-90)\" text-anchor=\"middle\">milliseconds: p50 drawn through, p99 dashed</text>\n",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 20.0,
            (TOP + floor) / 2.0
        ),
    );
}

fn draw_line(
    svg: &mut String,
    across: &Axis,
    up: &Axis,
    line: &Series,
    height: impl Fn(&Point) -> f64,
    style: &str,
) {
    let places: Vec<String> = line
        .points
        .iter()
        .map(|point| format!("{:.1},{:.1}", across.place(point.per_s), up.place(height(point))))
        .collect();
    put(
        svg,
        format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{style}/>\n",
            places.join(" "),
            line.colour
        ),
    );
    for place in &places {
        if let Some((x, y)) = place.split_once(',') {
            put(
                svg,
                format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{}\"/>\n", line.colour),
            );
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picture_has_every_point_and_stays_inside() {
        let point =
            |in_flight, per_s, p50_ms| Point { in_flight, per_s, p50_ms, p99_ms: 3.0 * p50_ms };
        let points = vec![point(1, 1_000.0, 0.9), point(64, 30_000.0, 2.0)];
        let series = Series { name: "a < b".into(), colour: "#07c", points };
        let svg = draw("three nodes & one disk", &[series]);
        assert!(svg.contains("three nodes &amp; one disk") && svg.contains("a &lt; b"));
        assert_eq!(svg.matches("<circle").count(), 4);
        for number in svg.split("cx=\"").skip(1) {
            let x: f64 = number.split('"').next().unwrap().parse().unwrap();
            assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{x}");
        }
    }

    #[test]
    fn nothing_measured_is_an_empty_picture() {
        assert!(draw("nothing", &[]).ends_with("</svg>\n"));
    }
}
