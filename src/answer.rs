//! Matching answers: exact match and token F1 after SQuAD normalisation (Rajpurkar et al. 2016).

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

/// Lower case, punctuation removed, articles removed, white space collapsed.
///
/// ```
/// assert_eq!(nightschool::answer::normalise("The  Eiffel Tower!"), "eiffel tower");
/// ```
pub fn normalise(text: &str) -> String {
    let lower: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let words = lower.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.collect::<Vec<_>>().join(" ")
}

/// 1 when prediction and reference are equal after normalisation, else 0.
pub fn exact_match(prediction: &str, reference: &str) -> f32 {
    f32::from(u8::from(normalise(prediction) == normalise(reference)))
}

/// Harmonic mean of the precision and recall of tokens, in [0, 1]. Two empty answers score 1.
pub fn f1(prediction: &str, reference: &str) -> f32 {
    let (prediction, reference) = (normalise(prediction), normalise(reference));
    let predicted: Vec<&str> = prediction.split(' ').filter(|w| !w.is_empty()).collect();
    let expected: Vec<&str> = reference.split(' ').filter(|w| !w.is_empty()).collect();
    if predicted.is_empty() || expected.is_empty() {
        return f32::from(u8::from(predicted == expected));
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in &expected {
        *counts.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in &predicted {
        if let Some(count) = counts.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let precision = common as f32 / predicted.len() as f32;
    let recall = common as f32 / expected.len() as f32;
    2.0 * precision * recall / (precision + recall)
}

/// The best (exact match, F1) over several accepted answers.
pub fn best_match<S: AsRef<str>>(prediction: &str, references: &[S]) -> (f32, f32) {
    references.iter().fold((0.0, 0.0), |(em, best), reference| {
        let reference = reference.as_ref();
        (exact_match(prediction, reference).max(em), f1(prediction, reference).max(best))
    })
}

/// Whether the normalised `answer` stands in the normalised `text`, as whole words.
pub fn contains(text: &str, answer: &str) -> bool {
    let answer = normalise(answer);
    !answer.is_empty() && format!(" {} ", normalise(text)).contains(&format!(" {answer} "))
}

/// A question reduced to its words: compatibility forms unified, lower case, no punctuation. What
/// asks the same has the same key.
pub fn question_key(question: &str) -> String {
    let folded: String = question.nfkc().flat_map(char::to_lowercase).collect();
    let words: Vec<&str> =
        folded.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}
