//! HTML: one document a page.

use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;

use regex::Regex;

use crate::corpus::readers::Fault;
use crate::corpus::readers::Parsed;
use crate::corpus::readers::Piece;
use crate::corpus::reading::SkipReason;

/// Wide enough that no paragraph is wrapped; lines are joined anyway.
const WIDTH_COLUMNS: usize = 1_000_000;

// The patterns below are constants of this file: a test reads a page with each of them.
static TITLE: LazyLock<Option<Regex>> = LazyLock::new(|| element("title"));
static HEADING: LazyLock<Option<Regex>> = LazyLock::new(|| element("h1"));
/// What surrounds the text of a page and is the same on all its neighbours.
static FURNITURE: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    ["nav", "footer", "aside", "script", "style", "noscript", "pre"]
        .into_iter()
        .filter_map(element)
        .collect()
});

fn element(name: &str) -> Option<Regex> {
    Regex::new(&format!(r"(?is)<{name}(?:\s[^>]*)?>(.*?)</{name}\s*>")).ok()
}

/// Parses `text`; the title is that of `<title>`, else of the first `<h1>`, else `stem`.
pub(super) fn parse(text: &str, stem: &str) -> Parsed {
    let mut page = text.to_string();
    for pattern in FURNITURE.iter() {
        page = pattern.replace_all(&page, "\n").into_owned();
    }
    // The parser is not ours and its input is anything at all: a panic in it costs one file.
    let body = std::panic::catch_unwind(AssertUnwindSafe(|| render(&page)));
    let Ok(Ok(body)) = body else {
        let detail = "the HTML could not be parsed; open it in a browser and save it again";
        let fault = Fault::whole(SkipReason::Unparsable, detail);
        return Parsed { pieces: Vec::new(), faults: vec![fault] };
    };
    let title = [&TITLE, &HEADING]
        .into_iter()
        .filter_map(|pattern| pattern.as_ref()?.captures(&page))
        .filter_map(|found| render(found.get(1)?.as_str()).ok())
        .find(|title| !title.trim().is_empty())
        .unwrap_or_else(|| stem.to_string());
    Parsed { pieces: vec![Piece { title, text: body, record_id: None }], faults: Vec::new() }
}

/// The words of a piece of HTML, blocks parted by blank lines.
fn render(html: &str) -> Result<String, html2text::Error> {
    let rendered = html2text::config::plain_no_decorate()
        .link_footnotes(false)
        .raw_mode(true)
        .allow_width_overflow()
        .string_from_read(html.as_bytes(), WIDTH_COLUMNS)?;
    // Items of a list come on lines of their own, without a blank line between.
    Ok(rendered.replace('\n', "\n\n"))
}
