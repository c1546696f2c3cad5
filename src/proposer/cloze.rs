//! Questions made by code: a sentence of the corpus with the answer replaced by a question word.
//!
//! No human text goes in and no model is asked. "Lisbon was rebuilt in 1755." with the answer 1755
//! becomes "In what year was Lisbon rebuilt?" where the sentence has an auxiliary verb to move,
//! and "Fire destroyed Lisbon in what year?" where it has none.

use super::draft_id;
use crate::corpus::sentences;
use crate::task::AnswerKind;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Passage;
use crate::task::Seed;

/// Sentences outside these bounds, in words, make poor questions.
const SENTENCE_WORDS: std::ops::RangeInclusive<usize> = 5..=40;
/// Longer questions than this, in words, are not what a person would ask.
const MAX_QUESTION_WORDS: usize = 26;
/// Words kept behind the answer before the question is cut at a clause's end.
const TAIL_WORDS: usize = 12;

const PREPOSITIONS: [&str; 24] = [
    "in", "on", "at", "by", "from", "to", "of", "with", "for", "since", "until", "during",
    "between", "around", "before", "after", "near", "under", "into", "through", "about", "over",
    "against", "within",
];
const AUXILIARIES: [&str; 14] = [
    "is", "was", "are", "were", "has", "had", "have", "can", "could", "will", "would", "may",
    "must", "did",
];
/// Prepositions that go to the front with their question word.
const MOVING: [&str; 6] = ["in", "on", "by", "at", "since", "during"];
/// Words of the verb that a name may stand behind to be asked for in front: "was called".
const PREDICATE_WORDS: usize = 3;
const PLACE_PREPOSITIONS: [&str; 5] = ["in", "at", "near", "into", "from"];
/// Words that open a sentence and are no part of a name.
const OPENINGS: [&str; 40] = [
    "The", "A", "An", "This", "These", "In", "On", "At", "By", "Its", "His", "Her", "There",
    "Many", "Some", "Most", "Several", "It", "They", "He", "She", "With", "From", "For", "After",
    "Before", "During", "Since", "Although", "While", "When", "As", "Unlike", "Like", "Born",
    "Both", "Their", "Until", "Around", "Over",
];
/// Numbers in words: what follows them in an answer is its unit.
const COUNT_WORDS: [&str; 24] = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "fifteen", "twenty", "thirty", "forty", "fifty", "sixty", "hundred", "thousand",
    "million", "billion", "trillion", "dozen",
];
/// Words that mark a name as something other than a person.
const THINGS: [&str; 40] = [
    "University",
    "College",
    "School",
    "River",
    "Sea",
    "Ocean",
    "Lake",
    "Mount",
    "Mountain",
    "Mountains",
    "War",
    "Battle",
    "Treaty",
    "Empire",
    "Kingdom",
    "Republic",
    "Union",
    "States",
    "City",
    "Island",
    "Islands",
    "Party",
    "Church",
    "Act",
    "Prize",
    "Award",
    "Company",
    "Army",
    "League",
    "Cup",
    "Museum",
    "Theatre",
    "Street",
    "Park",
    "Council",
    "Dynasty",
    "Revolution",
    "Age",
    "Society",
    "Institute",
];

/// The draft for a seed, from the last passage of its path. `None` in the draft's question when no
/// rule fits the sentence.
pub fn draft(seed: &Seed, passage: &Passage, night: u32) -> Draft {
    Draft {
        id: draft_id(Origin::Code, night, seed),
        origin: Origin::Code,
        seed: seed.clone(),
        question: question(passage, &seed.answer, seed.kind),
        transcript: None,
        model_version: "code".into(),
    }
}

/// A question about the first sentence of `passage` that states `answer`.
pub fn question(passage: &Passage, answer: &str, kind: AnswerKind) -> Option<String> {
    let sentence = sentences(&passage.text).into_iter().find(|s| whole(s, answer).is_some())?;
    if !SENTENCE_WORDS.contains(&sentence.split_whitespace().count()) {
        return None;
    }
    let start = whole(sentence, answer)?;
    let before = clean(&resolve_subject(&sentence[..start], &passage.title, answer));
    let after = clean(sentence[start + answer.len()..].trim_end_matches(['.', '!', '"', '”']));
    if inside_a_larger_name(&before, &after, kind) {
        return None;
    }
    let mut words: Vec<&str> = before.split_whitespace().collect();
    while matches!(words.last(), Some(&("the" | "The" | "a" | "an" | "A" | "An"))) {
        words.pop();
    }
    let tail = tail(&after);
    let text = match words.split_last() {
        None => subject_question(answer, kind, passage, &after)?,
        Some((last, rest)) => object_question(rest, last, answer, kind, &tail)?,
    };
    let text = with_topic(&text, &passage.title, answer);
    if text.split_whitespace().count() > MAX_QUESTION_WORDS {
        return None;
    }
    Some(capitalise(&format!("{}?", text.trim_end_matches([',', ';', ':', ' ', '?']))))
}

/// Whether the question word stands in front, as people put it, and not where the answer stood.
pub fn asks_in_front(question: &str) -> bool {
    question
        .split_whitespace()
        .take(2)
        .any(|word| matches!(word.to_lowercase().as_str(), "what" | "who" | "whom" | "how"))
}

/// Whether the answer is a part of something longer ("Antonie van Leeuwenhoek", "Charles I of
/// England") or of an enumeration: what is left would not make sense.
fn inside_a_larger_name(before: &str, after: &str, kind: AnswerKind) -> bool {
    if after.starts_with(['-', '–', '\'', '’', '/']) || before.ends_with(['-', '–', '/']) {
        return true;
    }
    if !matches!(kind, AnswerKind::Name | AnswerKind::Title) {
        return false;
    }
    let capital = |word: &str| word.starts_with(char::is_uppercase);
    let mut following = after.split_whitespace();
    let joined = match following.next() {
        Some("and" | "or" | "of" | "de" | "van") => following.next().is_some_and(capital),
        Some(word) => capital(word),
        None => false,
    };
    let mut preceding = before.split_whitespace().rev();
    let first = preceding.next();
    let opens = preceding.next().is_none();
    let led = first.is_some_and(|word| {
        (capital(word) && !opens && !word.ends_with([',', ';'])) || matches!(word, "van" | "de")
    });
    joined || led
}

/// Where `answer` stands in `text` as whole words.
fn whole(text: &str, answer: &str) -> Option<usize> {
    let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    text.match_indices(answer).map(|(at, _)| at).find(|&at| {
        boundary(text[..at].chars().next_back())
            && boundary(text[at + answer.len()..].chars().next())
    })
}

/// A pronoun that opens the sentence stands for the document's subject.
fn resolve_subject(before: &str, title: &str, answer: &str) -> String {
    if title.contains(answer) || answer.contains(title) {
        return before.to_string();
    }
    for pronoun in ["It ", "He ", "She ", "They "] {
        if let Some(rest) = before.strip_prefix(pronoun) {
            return format!("{title} {rest}");
        }
    }
    for pronoun in ["Its ", "His ", "Her ", "Their "] {
        if let Some(rest) = before.strip_prefix(pronoun) {
            return format!("{title}'s {rest}");
        }
    }
    before.to_string()
}

/// Without parentheses, quotation marks and opening connectives.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut depth = 0_usize;
    for c in text.chars() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '"' | '“' | '”' => {}
            _ if depth == 0 => out.push(c),
            _ => {}
        }
    }
    let mut out = out.split_whitespace().collect::<Vec<_>>().join(" ").replace(" ,", ",");
    for connective in ["However, ", "Therefore, ", "In addition, ", "Also, ", "Then, ", "Thus, "] {
        if let Some(rest) = out.strip_prefix(connective) {
            out = rest.to_string();
        }
    }
    out
}

/// What follows the answer, up to a clause's end once it is long enough.
fn tail(after: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for word in after.split_whitespace() {
        kept.push(word);
        if word.ends_with([';', ':']) || (word.ends_with(',') && kept.len() > TAIL_WORDS / 2) {
            break;
        }
        if kept.len() >= TAIL_WORDS && word.ends_with(',') {
            break;
        }
    }
    // A relative clause right behind the answer would describe the gap.
    let text = kept.join(" ");
    match text.split_once(", wh") {
        Some((head, _)) => head.to_string(),
        None => text.trim_start_matches([',', ' ']).to_string(),
    }
}

/// The answer opens the sentence: "Who was a German astronomer …".
fn subject_question(
    answer: &str,
    kind: AnswerKind,
    passage: &Passage,
    after: &str,
) -> Option<String> {
    let first = after.split_whitespace().next()?;
    if after.starts_with(',') || !first.chars().all(char::is_lowercase) {
        return None;
    }
    let word = match kind {
        AnswerKind::Date => return None,
        AnswerKind::Number => quantity(answer)?,
        AnswerKind::Name | AnswerKind::Title => {
            if is_person(answer, passage) {
                "who".into()
            } else {
                "what".into()
            }
        }
    };
    let words: Vec<&str> = after.split_whitespace().collect();
    let cut = words.iter().position(|word| word.ends_with([';', ','])).filter(|at| *at >= 8);
    Some(format!("{word} {}", words[..cut.map_or(words.len(), |at| at + 1)].join(" ")))
}

/// The answer stands behind `rest last`: the question word is moved to the front with the
/// auxiliary verb where there is one, and left in place where there is none.
fn object_question(
    rest: &[&str],
    last: &str,
    answer: &str,
    kind: AnswerKind,
    tail: &str,
) -> Option<String> {
    let preposition = PREPOSITIONS.contains(&last.to_lowercase().as_str()).then_some(last);
    let gap = gap(preposition, answer, kind)?;
    let before: Vec<&str> = match preposition {
        Some(_) => rest.to_vec(),
        None => rest.iter().copied().chain([last]).collect(),
    };
    if before.is_empty() {
        // "In 1755, Lisbon was destroyed": the rest of the sentence is the question.
        return fronted_gap(&gap, tail);
    }
    let comma = before.iter().rposition(|word| word.ends_with(','));
    let verb = before.iter().position(|word| AUXILIARIES.contains(word));
    let Some(verb) = verb.filter(|verb| *verb > 0) else {
        return Some(in_place(&before, &gap, tail));
    };
    // What stands before the subject's comma goes to the end.
    let moves = match (kind, preposition) {
        // A bare count needs its noun right behind it, and most prepositions stay with their verb.
        (AnswerKind::Number, None) => !gap.ends_with("how many"),
        (AnswerKind::Number, Some(_)) => false,
        (_, Some(preposition)) => MOVING.contains(&preposition.to_lowercase().as_str()),
        // "A newt is a salamander in the subfamily …": the answer belongs to the noun before it.
        (_, None) => before.len() - verb <= PREDICATE_WORDS,
    };
    let lead = comma.filter(|comma| comma + 1 < verb);
    let subject = &before[lead.map_or(0, |at| at + 1)..verb];
    if !moves
        || subject.len() > 12
        || subject.first() == Some(&"There")
        || subject.iter().any(|w| w.ends_with(','))
        || clause(&before[verb..])
    {
        return Some(in_place(&before, &gap, tail));
    }
    let lead = lead.map_or(String::new(), |at| lower_first(&before[..=at].join(" ")));
    Some(format!(
        "{gap} {} {} {} {tail} {}",
        before[verb],
        lower_opening(&subject.join(" ")),
        before[verb + 1..].join(" "),
        lead.trim_end_matches(','),
    ))
}

/// Whether the words hold a relative clause.
fn clause(words: &[&str]) -> bool {
    words.iter().any(|word| matches!(*word, "which" | "who" | "that" | "and" | "whose"))
}

/// The question word where the answer stood; the question ends soon behind it.
fn in_place(before: &[&str], gap: &str, tail: &str) -> String {
    let tail = tail.split([',', ';', ':']).next().unwrap_or_default();
    format!("{} {gap} {tail}", before.join(" "))
}

/// "In what year" + "Lisbon was destroyed …" → "In what year was Lisbon destroyed …".
fn fronted_gap(gap: &str, clause: &str) -> Option<String> {
    let words: Vec<&str> = clause.split_whitespace().collect();
    let verb = words.iter().position(|word| AUXILIARIES.contains(word))?;
    if verb == 0 || verb > 8 {
        return None;
    }
    let subject = lower_opening(&words[..verb].join(" "));
    Some(format!("{gap} {} {subject} {}", words[verb], words[verb + 1..].join(" ")))
}

/// The question word with its preposition, in small letters.
fn gap(preposition: Option<&str>, answer: &str, kind: AnswerKind) -> Option<String> {
    let preposition = preposition.map(str::to_lowercase);
    let place = preposition.as_deref().is_some_and(|p| PLACE_PREPOSITIONS.contains(&p));
    let word = match kind {
        AnswerKind::Date => {
            preposition.as_ref()?;
            if answer.contains("century") {
                "what century".to_string()
            } else if answer.split_whitespace().all(of_year) {
                "what year".into()
            } else if preposition.as_deref() == Some("in") {
                "what month".into()
            } else {
                "what date".into()
            }
        }
        AnswerKind::Number => quantity(answer)?,
        AnswerKind::Name | AnswerKind::Title => {
            let person = looks_like_person(answer);
            match (preposition.as_deref(), person) {
                (Some("by" | "to" | "with" | "for" | "from"), true) => "whom".into(),
                (_, true) if !place => "who".into(),
                _ if place => "what place".into(),
                _ => "what".into(),
            }
        }
    };
    Some(match preposition {
        Some(preposition) => format!("{preposition} {word}"),
        None => word,
    })
}

/// A year's number, or its era.
fn of_year(word: &str) -> bool {
    matches!(word, "AD" | "BC" | "CE" | "BCE") || word.chars().all(|c| c.is_ascii_digit())
}

/// "how many metres", "what percentage", "how much".
fn quantity(answer: &str) -> Option<String> {
    if answer.contains('%') || answer.contains("per cent") || answer.contains("percent") {
        return Some("what percentage".into());
    }
    if answer.starts_with(['$', '£', '€']) {
        return Some("how much money".into());
    }
    let unit: Vec<&str> = answer
        .split_whitespace()
        .skip_while(|word| {
            word.starts_with(|c: char| c.is_ascii_digit())
                || COUNT_WORDS.contains(&word.to_lowercase().as_str())
        })
        .collect();
    Some(if unit.is_empty() || unit.len() == answer.split_whitespace().count() {
        "how many".into()
    } else {
        format!("how many {}", unit.join(" "))
    })
}

fn is_person(answer: &str, passage: &Passage) -> bool {
    let text = format!(" {} ", passage.text);
    let mentioned = [" he ", " she ", " He ", " She ", " his ", " her ", " born "];
    let of_subject = passage.title.contains(answer) || answer.contains(passage.title.as_str());
    if of_subject { mentioned.iter().any(|m| text.contains(m)) } else { looks_like_person(answer) }
}

/// Two or three capitalised words, none of which names a kind of thing.
fn looks_like_person(answer: &str) -> bool {
    let words: Vec<&str> = answer.split_whitespace().collect();
    (2..=3).contains(&words.len())
        && !words.iter().any(|word| THINGS.contains(word) || word.ends_with("ism"))
        && words.iter().all(|word| word.starts_with(char::is_uppercase))
}

/// Names the document when nothing in the question does, so that it can be understood alone.
fn with_topic(text: &str, title: &str, answer: &str) -> String {
    let lower = text.to_lowercase();
    let short = title.split(" (").next().unwrap_or(title);
    let named = lower.contains(&short.to_lowercase())
        || title
            .split_whitespace()
            .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase())
            .any(|word| word.chars().count() > 3 && lower.contains(&word));
    let answer = answer.to_lowercase();
    let leaks = title.to_lowercase().contains(&answer)
        || short.to_lowercase().split_whitespace().any(|w| w.len() > 3 && answer.contains(w));
    if named || leaks { text.to_string() } else { format!("in {short}, {}", lower_opening(text)) }
}

/// In small letters where the first word is one that no name begins with.
fn lower_opening(text: &str) -> String {
    let first = text.split_whitespace().next().unwrap_or_default();
    if OPENINGS.contains(&first) { lower_first(text) } else { text.to_string() }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn capitalise(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
