use std::path::PathBuf;
use nightschool::retrieval::bench::*;
use nightschool::retrieval::*;
use nightschool::corpus::*;

#[test]
#[ignore]
fn figures() {
    let data = PathBuf::from("/work/shared/data");
    for soft in std::env::var("SOFTS").unwrap_or("1.0".into()).split(',') {
        unsafe { std::env::set_var("SOFT", soft) };
        let sci = run(&data.join("ir/scifact/corpus.jsonl"), &Judgements::Tsv{queries: data.join("ir/scifact/queries.tsv"), qrels: data.join("ir/scifact/qrels.tsv")}).unwrap();
        println!("{soft} scifact {}", serde_json::to_string(&sci).unwrap());
        for s in ["hotpotqa", "squad"] {
        let r = run(&data.join(format!("corpora/dev_{s}.jsonl")), &Judgements::Questions(data.join(format!("eval/dev_{s}.jsonl")))).unwrap();
        println!("{soft} {s} {}", serde_json::to_string(&r).unwrap());
        }
    }
}

fn norm(s: &str) -> String {
    let s: String = s.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    format!(" {} ", s.split_whitespace().filter(|w| !["a","an","the"].contains(w)).collect::<Vec<_>>().join(" "))
}

#[test]
#[ignore]
fn answers() {
    let data = PathBuf::from("/work/shared/data");
    for soft in std::env::var("SOFTS").unwrap_or("1.0".into()).split(',') {
    unsafe { std::env::set_var("SOFT", soft) };
    let reading = read_paths(&[data.join("corpora/dev_squad.jsonl")], &Default::default(), &|_, _| {}).unwrap();
    let passages: Vec<_> = reading.documents.iter().flat_map(split).collect();
    println!("documents {} passages {}", reading.documents.len(), passages.len());
    let index = LexicalIndex::in_memory(passages).unwrap();
    let mut n = 0.0; let mut top = [0.0; 5];
    for line in std::fs::read_to_string(data.join("eval/dev_squad.jsonl")).unwrap().lines() {
        let q: serde_json::Value = serde_json::from_str(line).unwrap();
        let hits = index.search(q["question"].as_str().unwrap(), 5).unwrap();
        n += 1.0;
        let found = hits.iter().position(|h| q["answers"].as_array().unwrap().iter().any(|a| norm(&h.passage.text).contains(&norm(a.as_str().unwrap()))));
        if let Some(f) = found { for t in &mut top[f..] { *t += 1.0; } }
    }
    println!("{soft} squad answer recall {:?}", top.map(|t| t / n));
    }
}
