//! Where in a settings file a key stands.

use toml::de::DeTable;
use toml::de::DeValue;

/// The line, from 1, of the key `dotted` (`section.key`) in a TOML text; none when it is not there.
pub(super) fn line_of(text: &str, dotted: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut start = None;
    for part in dotted.split('.') {
        let (key, value) = table.iter().find(|(key, _)| key.get_ref() == part)?;
        start = Some(key.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    let before = text.get(..start?)?;
    Some(before.matches('\n').count() + 1)
}

/// The key that an error of the TOML reader is about, dotted, from its words: it gives the path in
/// text only.
pub(super) fn key_of(error: &str) -> Option<String> {
    let quoted = |after: &str| {
        let rest = &error[error.find(after)? + after.len()..];
        Some(rest[..rest.find('`')?].to_string())
    };
    let section = quoted("\nin `");
    match (section, quoted("unknown field `")) {
        (Some(section), Some(field)) if section.split('.').next_back() != Some(&field) => {
            Some(format!("{section}.{field}"))
        }
        (None, Some(field)) => Some(field),
        (section, _) => section,
    }
}
