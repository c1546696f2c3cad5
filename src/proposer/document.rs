//! Question and answer in one text: a line that begins with `Answer:` and one with `Question:`, in
//! the order that the prompt begins.

use super::question_in;

const ANSWER: &str = "Answer:";
const QUESTION: &str = "Question:";

/// A longer answer, in words, is a sentence of the passage and not the answer to a question.
const ANSWER_WORDS_MAX: usize = 10;

/// What is written behind a prompt with this query, for a demonstration.
pub fn demonstrated(query: &str, question: &str, answer: &str) -> String {
    match query.ends_with(QUESTION) {
        true => format!("{question}\n{ANSWER} {answer}\n"),
        false => format!("{answer}\n{QUESTION} {question}\n"),
    }
}

/// Where the text ends behind a prompt with this query: at a blank line, and where another passage
/// or another draft begins.
pub(super) fn ends(query: &str) -> Vec<String> {
    let begun = query.lines().next_back().unwrap_or_default();
    vec!["\n\n".into(), "\nTitle:".into(), format!("\n{begun}")]
}

/// Answer and question in the prompt's query and what was written behind it. Of a text that was
/// cut off, whole lines count.
pub(super) fn read(query: &str, text: &str, cut: bool) -> Option<(String, String)> {
    let whole = if cut { text.rsplit_once('\n')?.0 } else { text };
    let text = format!("{query}{whole}");
    let line = |label: &str| text.lines().find_map(|line| line.trim_start().strip_prefix(label));
    let answer = tidy(line(ANSWER)?);
    let question = question_in(line(QUESTION)?)?;
    let words = answer.split_whitespace().count();
    (1..=ANSWER_WORDS_MAX).contains(&words).then_some((answer, question))
}

/// Without quotation marks, a full stop and surplus white space.
fn tidy(answer: &str) -> String {
    let bare = answer.trim().trim_end_matches('.').trim_matches(['"', '“', '”']);
    bare.split_whitespace().collect::<Vec<_>>().join(" ")
}
