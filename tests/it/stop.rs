//! Where a continuation ends, against decoding all of it and searching.

use nightschool::inference::StopMatcher;
use nightschool::model::tokenizer::Tokenizer;
use nightschool::rng;
use nightschool::rollout::StopReason;
use proptest::prelude::*;
use rand::Rng as _;

use crate::support;

/// What is stopped at in the plain way: the text, how many tokens it took, and why.
fn plainly(
    tokenizer: &Tokenizer,
    tokens: &[u32],
    stop: &[String],
    stop_tokens: &[u32],
) -> (String, usize, Option<StopReason>) {
    for (at, token) in tokens.iter().enumerate() {
        if tokenizer.is_end(*token) || stop_tokens.contains(token) {
            return (tokenizer.decode(&tokens[..at]), at + 1, Some(StopReason::EndOfText));
        }
        let text = tokenizer.decode(&tokens[..=at]);
        if let Some(cut) = stop.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            return (text[..cut].to_string(), at + 1, Some(StopReason::StopString));
        }
    }
    (tokenizer.decode(tokens), tokens.len(), None)
}

fn matched(
    tokenizer: &Tokenizer,
    tokens: &[u32],
    stop: &[String],
    stop_tokens: &[u32],
) -> (String, usize, Option<StopReason>) {
    let mut matcher = StopMatcher::new(stop, stop_tokens);
    for (at, token) in tokens.iter().enumerate() {
        if let Some(reason) = matcher.push(tokenizer, *token) {
            return (matcher.into_text(), at + 1, Some(reason));
        }
    }
    (matcher.into_text(), tokens.len(), None)
}

/// Text with characters of one to four bytes, and tokens of any kind, some of which are parts of
/// characters.
fn any_tokens() -> impl Strategy<Value = Vec<u32>> {
    let model = support::default_model();
    let words = ["ab", "a", "b", " ", "\n", "é", "日本", "🙂", "</search>", "search", "<", "e"];
    let encoded: Vec<Vec<u32>> = words.iter().map(|word| model.tokenizer.encode(word)).collect();
    let bytes: Vec<u32> = model.tokenizer.encode("🙂🙃é日").into_iter().collect();
    let vocabulary = model.decoder.config().vocabulary as u32;
    let part = prop_oneof![
        6 => prop::sample::select(encoded),
        2 => prop::sample::select(bytes).prop_map(|token| vec![token]),
        2 => (0..vocabulary).prop_map(|token| vec![token]),
    ];
    prop::collection::vec(part, 1..30).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn text_and_end_are_those_of_decoding_it_all(
        tokens in any_tokens(),
        stop in prop::collection::vec(
            prop::sample::select(vec!["ab", "ba b", "\n", "é", "本", "</search>", "🙂", "e日"]),
            0..4,
        ),
        stop_token in prop::option::of(0_u32..200),
    ) {
        let model = support::default_model();
        let stop: Vec<String> = stop.into_iter().map(String::from).collect();
        let stop_tokens: Vec<u32> = stop_token.into_iter().collect();
        let found = matched(&model.tokenizer, &tokens, &stop, &stop_tokens);
        let expected = plainly(&model.tokenizer, &tokens, &stop, &stop_tokens);
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_long_text_is_the_same_to_its_end() {
    let model = support::default_model();
    let mut draws = rng::stream(1, &["long text"]);
    let ends = |token: &u32| model.tokenizer.is_end(*token);
    let tokens: Vec<u32> =
        (0..20_000).map(|_| draws.random_range(0..49_152)).filter(|token| !ends(token)).collect();
    let stop = ["a string that is not there".to_string()];
    let (text, taken, reason) = matched(&model.tokenizer, &tokens, &stop, &[]);
    assert_eq!((taken, reason), (tokens.len(), None));
    assert_eq!(text, model.tokenizer.decode(&tokens));
}

#[test]
fn the_model_s_end_and_the_request_s_tokens_are_no_text() {
    let model = support::default_model();
    let end = (0..49_152).find(|token| model.tokenizer.is_end(*token)).unwrap();
    let mut tokens = model.tokenizer.encode("One two");
    tokens.push(end);
    let found = matched(&model.tokenizer, &tokens, &[], &[]);
    assert_eq!(found, ("One two".to_string(), tokens.len(), Some(StopReason::EndOfText)));
    let two = *model.tokenizer.encode(" two").last().unwrap();
    let found = matched(&model.tokenizer, &tokens, &[], &[two]);
    assert_eq!(found.2, Some(StopReason::EndOfText));
    assert!(found.0.starts_with("One") && !found.0.contains("two"), "{}", found.0);
}
