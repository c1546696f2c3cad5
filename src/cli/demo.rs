//! `nightschool demo`: one short night on the corpus that comes with the program.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::Global;
use super::Json;
use super::Output;
use super::night;
use super::places;
use crate::clock::SystemClock;
use crate::config;
use crate::phase::home::Home;
use crate::phase::night::NightContext;
use crate::phase::night::SuiteSource;

/// What of the corpus folder is read: documents about everything, and the paragraphs that the
/// held-out questions are about.
const DOCUMENTS: [&str; 2] = ["default", "heldout/passages.jsonl"];
/// The questions that people wrote about those paragraphs; only the evaluation sees them.
const QUESTIONS: &str = "heldout/questions.jsonl";

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool demo
  nightschool demo --full --seed 2
  nightschool --home /tmp/try demo --model ~/models/SmolLM2-360M")]
pub(super) struct DemoArgs {
    /// A longer night, for a machine with more time
    #[arg(long)]
    full: bool,
    /// Seed of every random draw
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// A built-in name, a folder, a .gguf file or a hub id in place of the default model
    #[arg(long)]
    model: Option<String>,
    /// Folder with the bundled corpus, where the program does not find it itself
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, args: &DemoArgs) -> anyhow::Result<()> {
    let home = places::demo_home(global)?;
    let mut layers = vec![("schedules/demo.toml", config::DEMO)];
    if args.full {
        layers.push(("schedules/demo-full.toml", config::DEMO_FULL));
    }
    let mut flags: Vec<String> = places::model_flag(args.model.as_ref()).into_iter().collect();
    flags.extend(args.seed.map(|seed| format!("seed={seed}")));
    let settings = places::settings(global, &home, &layers, &flags)?;
    let (sources, suite) = bundled(args.corpus.as_deref())?;
    let context = NightContext {
        model: places::model_context(global)?,
        sources,
        suite: Some(suite),
        clock: Arc::new(SystemClock),
    };
    let report = night::run_told(&home, &settings, &context)?;
    Output::new(args.json.json)
        .show(&report, || format!("{}\n\n{}", report.render().trim_end(), what_next(&home)))
}

/// The bundled documents and the questions about some of them, in the folder that is given or else
/// found.
pub(super) fn bundled(given: Option<&Path>) -> anyhow::Result<(Vec<PathBuf>, SuiteSource)> {
    let corpus = find_corpus(given)?;
    let documents = DOCUMENTS.iter().map(|documents| corpus.join(documents)).collect();
    let questions = corpus.join(QUESTIONS);
    Ok((documents, SuiteSource { name: "bundled".to_string(), questions }))
}

fn what_next(home: &Home) -> String {
    let demo = match home.dir().ends_with("nightschool/demo") {
        true => "nightschool demo".to_string(),
        false => places::command_for(home, "demo"),
    };
    let mut text = String::from("Try next:\n");
    for (command, why) in [
        (places::command_for(home, "task list --origin model"), "questions the model wrote"),
        (places::command_for(home, "task stats"), "how often they are solved"),
        (
            places::command_for(home, "corpus search \"first steam engine\""),
            "what the solver finds",
        ),
        (places::command_for(home, "train steps"), "what training measured"),
        (places::command_for(home, "model list"), "versions, and which one is live"),
        (demo, "another night in the same home"),
        ("nightschool init".to_string(), "the same on documents of your own"),
    ] {
        text.push_str(&format!("  {command}\n      {why}\n"));
    }
    text
}

/// The folder of the bundled corpus: as given, else in the checkout that the current folder
/// belongs to, beside the program or above it, or where the program was built.
fn find_corpus(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let candidates = match given {
        Some(dir) => vec![dir.to_path_buf()],
        None => places_to_look(),
    };
    let whole =
        |dir: &&PathBuf| DOCUMENTS.iter().chain(&[QUESTIONS]).all(|inner| dir.join(inner).exists());
    if let Some(found) = candidates.iter().find(whole) {
        return Ok(found.clone());
    }
    let looked: Vec<String> = candidates.iter().map(|dir| dir.display().to_string()).collect();
    anyhow::bail!(
        "the bundled corpus ({} and {QUESTIONS}) is not at {}; give its folder with --corpus DIR",
        DOCUMENTS.join(", "),
        looked.join(", nor at ")
    )
}

fn places_to_look() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    if let Ok(here) = std::env::current_dir() {
        let checkout = here.ancestors().find(|dir| dir.join("Cargo.toml").exists());
        candidates.extend(checkout.map(|dir| dir.join("corpus")));
    }
    if let Ok(program) = std::env::current_exe() {
        let above = program.ancestors().skip(1).take(4);
        candidates.extend(
            above.flat_map(|dir| [dir.join("corpus"), dir.join("share/nightschool/corpus")]),
        );
    }
    candidates.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus"));
    let mut seen = std::collections::HashSet::new();
    candidates.retain(|dir| seen.insert(dir.clone()));
    candidates
}
