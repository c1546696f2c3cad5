//! Plots as SVG, for pages.

use std::ops::Range;

use plotters::prelude::*;

/// Width and height of a plot as wide as a page, in pixels before scaling.
const SIZE: (u32, u32) = (680, 260);
/// Colours that people with any colour vision tell apart (Okabe and Ito 2008).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// A line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    /// What it shows.
    pub(crate) name: String,
    /// Its points, from left to right. Those with a coordinate that is not finite are left out.
    pub(crate) points: Vec<(f64, f64)>,
    /// Where a point has an interval: its place, and both ends.
    pub(crate) intervals: Vec<(f64, (f64, f64))>,
}

impl Series {
    /// A line of that name.
    pub(crate) fn new(name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
        let points = points.into_iter().filter(finite).collect();
        Self { name: name.to_string(), points, intervals: Vec::new() }
    }

    /// The same with intervals, drawn as strokes through its points.
    pub(crate) fn within(mut self, all: impl IntoIterator<Item = (f64, (f64, f64))>) -> Self {
        let finite = |(x, (low, high)): &(f64, (f64, f64))| {
            x.is_finite() && low.is_finite() && high.is_finite()
        };
        self.intervals = all.into_iter().filter(finite).collect();
        self
    }
}

/// A plot of lines as an `<svg>` element; none when they have no point.
///
/// # Errors
/// When it cannot be drawn.
pub(super) fn lines(
    x_name: &str,
    y_name: &str,
    series: &[Series],
) -> anyhow::Result<Option<String>> {
    lines_of_size(SIZE, x_name, y_name, series)
}

/// As [`lines`], of another width and height.
///
/// # Errors
/// When it cannot be drawn.
pub(crate) fn lines_of_size(
    size: (u32, u32),
    x_name: &str,
    y_name: &str,
    series: &[Series],
) -> anyhow::Result<Option<String>> {
    let points = || series.iter().flat_map(|series| &series.points).copied();
    let ends = series.iter().flat_map(|series| &series.intervals);
    let ends = ends.flat_map(|(x, (low, high))| [(*x, *low), (*x, *high)]);
    if points().next().is_none() {
        return Ok(None);
    }
    let x = span(points().map(|(x, _)| x));
    let y = span(points().chain(ends).map(|(_, y)| y));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(x_name)
            .y_desc(y_name)
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|x| whole(*x))
            .y_label_formatter(&|y| label(*y))
            .draw()?;
        for (series, colour) in series.iter().zip(COLOURS.iter().cycle()) {
            chart
                .draw_series(LineSeries::new(
                    series.points.iter().copied(),
                    colour.stroke_width(2),
                ))?
                .label(&series.name)
                .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            chart.draw_series(series.intervals.iter().map(|(x, (low, high))| {
                PathElement::new([(*x, *low), (*x, *high)], colour.mix(0.5).stroke_width(2))
            }))?;
            // A line of one point would not be seen.
            let dots = series.points.iter().map(|point| Circle::new(*point, 2, colour.filled()));
            chart.draw_series(dots)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .draw()?;
        area.present()?;
    }
    Ok(Some(svg))
}

/// What an axis shows: all values and a little more.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let margin = if high > low { (high - low) * 0.05 } else { low.abs().max(1.0) * 0.1 };
    low - margin..high + margin
}

/// A number at an axis of nights, rounds or steps, between which there is nothing.
fn whole(value: f64) -> String {
    let is_whole = (value - value.round()).abs() < 1e-9;
    if is_whole { label(value) } else { String::new() }
}

/// A number at an axis.
fn label(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_string() } else { text.to_string() }
}
