use std::path::PathBuf;
use nightschool::corpus::*;
#[test]
#[ignore]
fn look() {
    let t = std::time::Instant::now();
    let reading = read_paths(&[PathBuf::from(std::env::var("LOOK").unwrap())], &Default::default(), &|_, _| {}).unwrap();
    println!("read {:?} files {} documents {} skipped {:?}", t.elapsed(), reading.files.len(), reading.documents.len(), reading.skipped);
    let passages: Vec<_> = reading.documents.iter().flat_map(split).collect();
    println!("split {:?} passages {}", t.elapsed(), passages.len());
    let mut sizes: Vec<usize> = passages.iter().map(|p| p.text.split_whitespace().count()).collect();
    sizes.sort();
    println!("sizes min {} p5 {} p50 {} p95 {} max {}", sizes[0], sizes[sizes.len()/20], sizes[sizes.len()/2], sizes[sizes.len()*19/20], sizes[sizes.len()-1]);
    let graph = KnowledgeGraph::build(&passages);
    println!("graph {:?} {} passages {} candidates", t.elapsed(), graph.passage_count(), graph.candidate_count());
    for hops in 1..=4 {
        let mut rng = nightschool::rng::stream(7, &["look"]);
        let seeds = graph.seeds(&mut rng, 2000, hops);
        println!("hops {hops} {:?} seeds {}", t.elapsed(), seeds.len());
        for s in seeds.iter().take(if hops == 1 { 60 } else { 6 }) {
            println!("  {:?} {:?}", s.kind, s.answer);
            if hops > 1 { for (i, p) in s.path.iter().enumerate() { println!("      {} {:?}", graph.passage(p).unwrap().title, if i > 0 { graph.links(&s.path[i-1], p) } else { vec![] }); } }
        }
    }
    if std::env::var("SENT").is_ok() {
        for p in passages.iter().step_by(passages.len() / 25) { println!("== {} / {}", p.title, p.document_id); for s in sentences(&p.text) { println!("  | {s}"); }
         for c in graph.candidates(&p.id) { println!("     {:?} {:?}", c.kind, c.text); assert_eq!(c.text, p.text[c.start..c.end]); } }
    }
}
