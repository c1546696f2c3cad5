//! Plots as SVG, for pages.

use std::ops::Range;

use plotters::prelude::*;

/// Width and height, in pixels before scaling.
const SIZE: (u32, u32) = (680, 260);
/// Colours that people with any colour vision tell apart (Okabe and Ito 2008).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// A line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    /// What it shows.
    pub(super) name: String,
    /// Its points, from left to right. Those with a coordinate that is not finite are left out.
    pub(super) points: Vec<(f64, f64)>,
}

impl Series {
    /// A line of that name.
    pub(super) fn new(name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
        Self { name: name.to_string(), points: points.into_iter().filter(finite).collect() }
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
    let points = || series.iter().flat_map(|series| &series.points);
    if points().next().is_none() {
        return Ok(None);
    }
    let (x, y) = (span(points().map(|(x, _)| *x)), span(points().map(|(_, y)| *y)));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
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
            .x_label_formatter(&|x| label(*x))
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

/// A number at an axis.
fn label(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_string() } else { text.to_string() }
}
