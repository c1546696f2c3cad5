//! Where a continuation ends, against decoding all of it and searching.

use std::path::Path;

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

#[test]
fn a_token_s_bytes_are_those_the_decoder_lays_end_to_end() {
    let tokenizer = &support::default_model().tokenizer;
    assert!(tokenizer.is_byte_level());
    // Beyond the vocabulary, too.
    for id in 0..tokenizer.vocab_size() as u32 + 2 {
        let bytes = tokenizer.token_bytes(id).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), tokenizer.decode(&[id]), "token {id}");
    }
}

/// Tokens that are parts of characters, one after another: whole, cut and wrong bytes of any kind.
#[test]
fn the_text_is_that_of_decoding_after_every_token() {
    let tokenizer = &support::default_model().tokenizer;
    let torn = |id: &u32| tokenizer.decode(&[*id]).contains(char::REPLACEMENT_CHARACTER);
    let mut parts: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(torn).collect();
    assert!(parts.len() > 50, "only {} tokens are parts of characters", parts.len());
    parts.extend(tokenizer.encode("a日本語 🙂🙃 ÄÖé €"));
    parts.retain(|id| !tokenizer.is_end(*id));
    let mut draws = rng::stream(1, &["parts of characters"]);
    for _ in 0..400 {
        let n = draws.random_range(1..30);
        let tokens: Vec<u32> = (0..n).map(|_| parts[draws.random_range(0..parts.len())]).collect();
        let mut matcher = StopMatcher::new(&[], &[]);
        for end in 1..=n {
            assert_eq!(matcher.push(tokenizer, tokens[end - 1]), None);
            assert_eq!(matcher.text(), tokenizer.decode(&tokens[..end]), "{:?}", &tokens[..end]);
        }
    }
}

/// One whose text of a token depends on the tokens beside it.
#[test]
fn other_decoders_are_asked_for_the_whole_text() {
    let family = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/llama3");
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer_config.json", "generation_config.json", "config.json"] {
        if family.join(name).exists() {
            std::fs::copy(family.join(name), folder.path().join(name)).unwrap();
        }
    }
    let text = std::fs::read_to_string(family.join("tokenizer.json")).unwrap();
    let mut description: serde_json::Value = serde_json::from_str(&text).unwrap();
    description["decoder"] = serde_json::json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "Ġ" }, "content": " " },
        { "type": "ByteFallback" },
        { "type": "Fuse" },
        { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
    ]});
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, description.to_string()).unwrap();
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    assert!(!tokenizer.is_byte_level() && tokenizer.token_bytes(5).is_none());
    let tokens = tokenizer.encode(" some words and some more words");
    assert!(tokenizer.decode(&tokens).starts_with("some"));
    for stop in [vec![], vec!["and", "more"], vec!["so"], vec![" s"], vec!["rds a"]] {
        let stop: Vec<String> = stop.into_iter().map(String::from).collect();
        let expected = plainly(&tokenizer, &tokens, &stop, &[]);
        assert_eq!(matched(&tokenizer, &tokens, &stop, &[]), expected, "{stop:?}");
    }
}
