//! reStructuredText: one document a file, prose kept, markup taken away.

use std::sync::LazyLock;

use regex::Regex;

use crate::corpus::readers::Parsed;
use crate::corpus::readers::Piece;

/// Directives whose body is prose; the bodies of all others are dropped.
const PROSE_DIRECTIVES: [&str; 19] = [
    "admonition",
    "attention",
    "caution",
    "container",
    "danger",
    "deprecated",
    "epigraph",
    "error",
    "hint",
    "important",
    "note",
    "pull-quote",
    "seealso",
    "tip",
    "topic",
    "versionadded",
    "versionchanged",
    "warning",
    "highlights",
];

/// Patterns of inline markup and what is left of each, applied in this order.
static INLINE: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    let rules = [
        (r"``(.+?)``", "$1"),
        (r":[\w:.+-]+:`~?([^`<]+?)\s*(?:<[^`>]*>)?`", "$1"),
        (r"`([^`<]+?)\s*<[^`>]*>`__?", "$1"),
        (r"`([^`]+)`_{0,2}", "$1"),
        (r"\[(?:#?[\w-]*|\*)\]_", ""),
        (r"\|([^|\s][^|]*)\|_{0,2}", "$1"),
        (r"\*\*(\S(?:.*?\S)?)\*\*", "$1"),
        (r"(^|[\s(\x22'])\*([^\s*](?:[^*]*[^\s*])?)\*", "$1$2"),
        (r"\b([A-Za-z][A-Za-z0-9-]*)__?([\s.,;:!?)]|$)", "$1$2"),
        (r"\\(.)", "$1"),
    ];
    rules
        .into_iter()
        .filter_map(|(pattern, left)| Some((Regex::new(pattern).ok()?, left)))
        .collect()
});

/// Fields such as `:Author: name` and, at the top, mail headers such as `Author: name`.
static FIELD: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^:?([A-Z][\w -]*|\w[\w-]*):(?:\s+(.*))?$").ok());
static MARKER: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^(?:[-*+•]|#\.|\(?\d{1,3}[.)]|\|)\s+").ok());

/// Parses `text`; the title is that of a `Title:` field, else the first section's, else `stem`.
pub(super) fn parse(text: &str, stem: &str) -> Parsed {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let mut reader = Reader { title: None, out: String::new(), lines: &lines, at: 0 };
    reader.header();
    while reader.at < lines.len() {
        reader.step();
    }
    let mut body = reader.out;
    for (pattern, left) in INLINE.iter() {
        // Line by line, so that an unpaired mark spoils one paragraph and not the file.
        let paragraphs = body.split("\n\n").map(|part| pattern.replace_all(part, *left));
        body = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
    let title = reader.title.unwrap_or_else(|| stem.to_string());
    Parsed { pieces: vec![Piece { title, text: body, record_id: None }], faults: Vec::new() }
}

struct Reader<'a> {
    title: Option<String>,
    out: String,
    lines: &'a [&'a str],
    at: usize,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> &str {
        self.lines.get(at).copied().unwrap_or("")
    }

    /// Fields before the first blank line, with their continuation lines.
    fn header(&mut self) {
        while self.line(self.at).is_empty() && self.at < self.lines.len() {
            self.at += 1;
        }
        let end = (self.at..=self.lines.len()).find(|at| self.line(*at).is_empty());
        let end = end.unwrap_or(self.lines.len());
        let fields = &self.lines[self.at..end];
        let Some(pattern) = FIELD.as_ref() else { return };
        let is_field = |line: &&str| line.starts_with(' ') || pattern.is_match(line);
        if fields.len() < 2 || !fields.iter().all(is_field) {
            return;
        }
        for field in fields {
            if let Some(found) = pattern.captures(field)
                && found[1].eq_ignore_ascii_case("title")
            {
                self.title = found.get(2).map(|value| value.as_str().to_string());
            }
        }
        self.at = end;
    }

    fn step(&mut self) {
        let line = self.line(self.at).to_string();
        let trimmed = line.trim_start();
        if let Some(rest) = trimmed.strip_prefix("..")
            && (rest.is_empty() || rest.starts_with(' '))
        {
            self.explicit_markup(indent(&line), rest.trim());
        } else if is_adornment(&line) {
            self.adornment();
        } else if trimmed.starts_with("+-") || trimmed.starts_with("+=") {
            self.skip_while(|line| line.trim_start().starts_with(['+', '|']));
        } else if trimmed.starts_with(':')
            && FIELD.as_ref().is_some_and(|field| field.is_match(trimmed))
        {
            let depth = indent(&line);
            self.at += 1;
            self.skip_while(|line| !line.is_empty() && indent(line) > depth);
        } else {
            self.prose(&line);
        }
    }

    /// A title with its over- or underline, a rule between parts, or a simple table.
    fn adornment(&mut self) {
        let border = self.line(self.at).to_string();
        if border.contains(' ') || is_simple_table(self.lines, self.at) {
            let is_border = |line: &str| line.starts_with(['=', '-']) && is_adornment(line);
            self.at += 1;
            while self.at < self.lines.len() {
                let closes = is_border(self.line(self.at)) && self.line(self.at + 1).is_empty();
                self.at += 1;
                if closes {
                    break;
                }
            }
            return;
        }
        let overlined = is_adornment(self.line(self.at + 2)) && !self.line(self.at + 1).is_empty();
        self.at += 1;
        if overlined {
            let title = self.line(self.at).trim().to_string();
            self.at += 2;
            self.heading(title);
        }
    }

    fn heading(&mut self, heading: String) {
        match self.title {
            None => self.title = Some(heading),
            Some(_) => {
                self.out.push_str("\n\n");
                self.out.push_str(&heading);
                self.out.push_str("\n\n");
            }
        }
    }

    /// `.. name:: arguments`, `.. _target:`, `.. [1] footnote`, `.. comment`, each with its body.
    fn explicit_markup(&mut self, depth: usize, rest: &str) {
        self.at += 1;
        let name = rest.split("::").next().unwrap_or_default().trim();
        if rest.contains("::") && PROSE_DIRECTIVES.contains(&name) {
            // The body is indented prose: it is read like the rest.
            let arguments = rest.split_once("::").map_or("", |(_, arguments)| arguments.trim());
            self.out.push_str("\n\n");
            self.out.push_str(arguments);
            self.out.push('\n');
            return;
        }
        self.skip_block(depth);
    }

    /// Skips what is indented deeper than `depth`, blank lines within it included.
    fn skip_block(&mut self, depth: usize) {
        self.skip_while(|line| line.is_empty() || indent(line) > depth);
    }

    fn skip_while(&mut self, wanted: impl Fn(&str) -> bool) {
        while self.at < self.lines.len() && wanted(self.line(self.at)) {
            self.at += 1;
        }
    }

    fn prose(&mut self, line: &str) {
        let trimmed = line.trim_start();
        let under = self.line(self.at + 1);
        let width = trimmed.chars().count();
        if !trimmed.is_empty()
            && indent(line) == 0
            && is_adornment(under)
            && !under.contains(' ')
            && under.chars().count() + 2 >= width
        {
            self.at += 2;
            self.heading(trimmed.to_string());
            return;
        }
        self.at += 1;
        let item = MARKER.as_ref().map(|marker| marker.replace(trimmed, ""));
        let text = item.as_deref().unwrap_or(trimmed);
        if text.len() < trimmed.len() {
            self.out.push_str("\n\n");
        }
        let Some(before) = text.strip_suffix("::") else {
            self.out.push_str(text);
            self.out.push('\n');
            return;
        };
        // A literal block follows, indented; `::` alone leaves nothing behind.
        if !before.is_empty() {
            self.out.push_str(before.trim_end());
            self.out.push(':');
        }
        self.out.push_str("\n\n");
        self.skip_block(indent(line));
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// A line of one repeated punctuation mark, as under titles; with spaces, the border of a table.
fn is_adornment(line: &str) -> bool {
    let mut marks = line.chars().filter(|c| *c != ' ');
    let Some(first) = marks.next() else { return false };
    line.len() >= 3
        && !line.starts_with(' ')
        && "=-~^\"'`#*+_:.<>".contains(first)
        && marks.all(|mark| mark == first)
        && (!line.contains(' ') || matches!(first, '=' | '-'))
}

/// A one-column table begins like an overlined title but its first row is followed by more rows.
fn is_simple_table(lines: &[&str], at: usize) -> bool {
    lines.get(at).is_some_and(|line| line.contains(' '))
}
