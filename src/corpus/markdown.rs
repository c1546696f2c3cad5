//! Markdown: a section under a heading of level 1 or 2 is a document.

use pulldown_cmark::Event;
use pulldown_cmark::HeadingLevel;
use pulldown_cmark::Options;
use pulldown_cmark::Parser;
use pulldown_cmark::Tag;
use pulldown_cmark::TagEnd;

use crate::corpus::readers::Parsed;
use crate::corpus::readers::Piece;

/// Parses `text`. Text before the first heading is titled by `stem`, the file's name. Code blocks,
/// raw HTML and images are dropped: their sentences are not prose to ask about.
pub(super) fn parse(text: &str, stem: &str) -> Parsed {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
        | Options::ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS;
    let mut sections = Sections::new(stem);
    for event in Parser::new_ext(text, options) {
        sections.take(event);
    }
    sections.close();
    Parsed { pieces: sections.pieces, faults: Vec::new() }
}

struct Sections {
    pieces: Vec<Piece>,
    title: String,
    body: String,
    /// The heading being read, when it opens a document.
    heading: Option<String>,
    /// Depth of elements whose text is dropped.
    dropping: usize,
}

impl Sections {
    fn new(stem: &str) -> Self {
        Self {
            pieces: Vec::new(),
            title: stem.to_string(),
            body: String::new(),
            heading: None,
            dropping: 0,
        }
    }

    fn close(&mut self) {
        let text = std::mem::take(&mut self.body);
        if !text.trim().is_empty() {
            self.pieces.push(Piece { title: self.title.clone(), text, record_id: None });
        }
    }

    fn text(&mut self, text: &str) {
        if self.dropping == 0 {
            self.heading.as_mut().unwrap_or(&mut self.body).push_str(text);
        }
    }

    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) if is_dropped(&tag) => self.dropping += 1,
            Event::End(tag) if is_dropped_end(tag) => {
                self.dropping = self.dropping.saturating_sub(1);
            }
            Event::Start(Tag::Heading { level: HeadingLevel::H1 | HeadingLevel::H2, .. }) => {
                self.heading = Some(String::new());
            }
            Event::End(TagEnd::Heading(HeadingLevel::H1 | HeadingLevel::H2)) => {
                self.close();
                self.title = self.heading.take().unwrap_or_default();
            }
            Event::Start(tag) if is_block(&tag) => self.text("\n\n"),
            Event::End(TagEnd::TableCell) => self.text(" "),
            Event::Text(text) | Event::Code(text) => self.text(&text),
            Event::SoftBreak | Event::HardBreak => self.text(" "),
            Event::Rule => self.text("\n\n"),
            _ => {}
        }
    }
}

fn is_dropped(tag: &Tag<'_>) -> bool {
    matches!(tag, Tag::CodeBlock(_) | Tag::HtmlBlock | Tag::Image { .. } | Tag::MetadataBlock(_))
}

fn is_dropped_end(tag: TagEnd) -> bool {
    matches!(tag, TagEnd::CodeBlock | TagEnd::HtmlBlock | TagEnd::Image | TagEnd::MetadataBlock(_))
}

fn is_block(tag: &Tag<'_>) -> bool {
    matches!(
        tag,
        Tag::Paragraph
            | Tag::Heading { .. }
            | Tag::Item
            | Tag::BlockQuote(_)
            | Tag::TableHead
            | Tag::TableRow
            | Tag::FootnoteDefinition(_)
    )
}
