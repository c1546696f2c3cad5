//! Rollouts in which the model searched by itself: the whole exchange is what a row shows.

use nightschool::export::Format;
use nightschool::export::Shape;
use nightschool::export::Side;
use nightschool::export::Turns;
use nightschool::protocol::blocks;
use nightschool::rollout::Owner;
use nightschool::rollout::Step;

use super::*;

fn tokenizer() -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat/llama3");
    Tokenizer::from_file(&folder.join("tokenizer.json")).unwrap()
}

/// Two documents, one of them held out, and a rollout of a task on the first that searched and
/// was shown `found`.
fn searched(found: &[usize]) -> School {
    let school = School::new();
    let texts: Vec<String> = (1..3).map(text).collect();
    let split = [Split::Train, Split::Heldout];
    let documents = (0..2).map(|n| document(&format!("d{n}"), split[n], &texts[n..=n]));
    school.add(documents.collect());
    let shown: Vec<&String> = found.iter().map(|n| &texts[*n]).collect();
    let tokenizer = tokenizer();
    let passages = shown.iter().map(|text| Passage {
        id: String::new(),
        document_id: String::new(),
        title: "Tower".into(),
        text: (*text).clone(),
        ordinal: 0,
    });
    let passages: Vec<Passage> = passages.collect();
    let spoken = [
        (Owner::Tool, blocks::instruction("When was tower aa built?")),
        (Owner::Model, "<think>I look it up.</think><search>tower of town 1</search>".to_string()),
        (Owner::Tool, blocks::information(&passages)),
        (Owner::Model, "<think>There it is.</think><answer>1701</answer>".to_string()),
    ];
    let steps = spoken.into_iter().map(|(owner, text)| {
        let tokens = tokenizer.encode(&text);
        let own = if owner == Owner::Model { tokens.len() } else { 0 };
        Step { owner, tokens, logprobs: vec![-0.5; own] }
    });
    let (mut rollout, score) = rollout("aa", 0, "1701", 1.0, &shown);
    rollout.steps = steps.collect();
    school.store(&[accepted("aa", "1701", &[&texts[0]], Split::Train)], &[(rollout, score)]);
    school
}

fn sft(turns: Turns, format: Format) -> ExportOptions {
    ExportOptions { turns, sides: Sides { validation: 0.0 }, ..options(Shape::Sft, format) }
}

#[test]
fn a_conversation_is_shown_whole() {
    let school = searched(&[0]);
    let jsonl = school.rows(&sft(Turns::All, Format::Jsonl), "jsonl");
    assert_eq!(jsonl, school.rows(&sft(Turns::All, Format::Parquet), "parquet"));
    let row = &jsonl[&Side::Train][0];
    insta::assert_json_snapshot!(row["messages"]);
    assert_eq!((&row["model_version"], &row["reward"]), (&json!("base"), &json!(1.0)));

    let row = &school.rows(&sft(Turns::Answer, Format::Jsonl), "answer")[&Side::Train][0];
    assert_eq!(row["messages"].as_array().unwrap().len(), 2);
    assert_eq!(row["messages"][1]["content"], "1701");
}

#[test]
fn a_conversation_shows_no_words_of_a_stricter_split() {
    let school = searched(&[0, 1]);
    let error = school.export(&sft(Turns::All, Format::Jsonl), "all").unwrap_err().to_string();
    assert!(error.contains("1 whose conversation shows what this split must not"), "{error}");
    // The answer alone shows the passages that it may.
    let rows = school.rows(&sft(Turns::Answer, Format::Jsonl), "answer");
    assert!(!rows[&Side::Train][0].to_string().contains("town 2"));
}

#[test]
fn a_conversation_whose_tokens_were_removed_is_told_by_its_answer() {
    let school = searched(&[0]);
    school.archive.finish_night(1, &json!({})).unwrap();
    school.archive.begin_night(2, &json!({})).unwrap();
    let unit = Unit { night: 2, phase: "retention", key: "tokens" };
    school.archive.record_token_removal(&unit, 1).unwrap();
    let error = school.export(&sft(Turns::All, Format::Jsonl), "all").unwrap_err().to_string();
    let why = "1 whose conversation was removed (retention.rollout_nights)";
    assert!(error.contains(why), "{error}");
    let rows = school.rows(&sft(Turns::Answer, Format::Jsonl), "answer");
    assert_eq!(rows[&Side::Train][0]["messages"][1]["content"], "1701");
}
