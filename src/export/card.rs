//! The dataset card: front matter for the hub and for `datasets`, then words for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::ExportOptions;
use super::ExportSummary;
use super::Shape;
use super::Shown;
use super::Target;
use super::feature;
use super::rows;
use super::sides::Side;
use super::sink::data_file;

/// The text of `README.md`.
///
/// `bytes` are the lengths of the data files.
pub(super) fn card(
    options: &ExportOptions,
    summary: &ExportSummary,
    bytes: &BTreeMap<Side, u64>,
) -> String {
    let mut text = front_matter(options, summary, bytes);
    // Writing to a string does not fail.
    let _ = write!(text, "\n# {}\n\n{}\n\n", title(options.shape), purpose(options));
    let _ = writeln!(text, "| split | rows |\n|---|---|");
    for (side, rows) in &summary.rows {
        let _ = writeln!(text, "| {} | {rows} |", side.as_str());
    }
    let file = data_file(*summary.rows.keys().next().unwrap_or(&Side::Train), options.format);
    let _ = write!(
        text,
        "\nThe data are in `{file}` and the files beside it; `datasets.load_dataset` reads the \
         folder.\n\n## How it was made\n\n{}",
        how(options, summary)
    );
    text
}

fn front_matter(
    options: &ExportOptions,
    summary: &ExportSummary,
    bytes: &BTreeMap<Side, u64>,
) -> String {
    // A JSON string is a YAML string, whatever is in it.
    let license = serde_json::Value::from(options.license.as_str());
    let total: u64 = summary.rows.values().sum();
    let mut text = format!(
        "---\nlicense: {license}\ntask_categories:\n- {}\ntags:\n- nightschool\n- synthetic\n\
         size_categories:\n- {}\nconfigs:\n- config_name: default\n  data_files:\n",
        category(options.shape),
        size(total)
    );
    for side in summary.rows.keys() {
        let (name, path) = (side.as_str(), data_file(*side, options.format));
        let _ = writeln!(text, "  - split: {name}\n    path: {path}");
    }
    text += "dataset_info:\n  config_name: default\n  features:\n";
    feature::write_yaml(&rows::columns(options), &mut text, 2);
    text += "  splits:\n";
    for (side, rows) in &summary.rows {
        let (name, bytes) = (side.as_str(), bytes.get(side).copied().unwrap_or_default());
        let _ =
            writeln!(text, "  - name: {name}\n    num_bytes: {bytes}\n    num_examples: {rows}");
    }
    text + "---\n"
}

fn category(shape: Shape) -> &'static str {
    match shape {
        Shape::Tasks => "question-answering",
        Shape::Sft | Shape::Preference => "text-generation",
        Shape::RlTrl | Shape::RlVerl => "reinforcement-learning",
    }
}

/// The hub's classes of sizes.
fn size(rows: u64) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        _ => "1M<n<10M",
    }
}

fn title(shape: Shape) -> &'static str {
    match shape {
        Shape::Sft => "Conversations for supervised fine-tuning",
        Shape::Preference => "Preference pairs",
        Shape::RlTrl => "Prompts for reinforcement learning with TRL",
        Shape::RlVerl => "Prompts for reinforcement learning with verl",
        Shape::Tasks => "Questions with their evidence",
    }
}

fn purpose(options: &ExportOptions) -> String {
    let trl = "The columns are those of TRL's";
    match options.shape {
        Shape::Sft => format!("{trl} `SFTTrainer`: `messages`."),
        Shape::Preference => format!("{trl} `DPOTrainer`: `prompt`, `chosen`, `rejected`."),
        Shape::RlTrl => {
            format!("{trl} `GRPOTrainer`: `prompt`, and `answer` for a reward function.")
        }
        Shape::RlVerl => format!(
            "The columns are those of verl's `RLHFDataset`: `data_source` (`{}`), `prompt`, \
             `ability`, `reward_model`, `extra_info`.",
            options.data_source
        ),
        Shape::Tasks => "Each row is a task with all that `nightschool task import` needs to have \
                         it again."
            .to_string(),
    }
}

fn how(options: &ExportOptions, summary: &ExportSummary) -> String {
    let mut points = vec![format!(
        "Written by nightschool {} with `task export --as {} --format {}`.",
        env!("CARGO_PKG_VERSION"),
        options.shape.as_str(),
        options.format.as_str()
    )];
    points.extend(options.date.iter().map(|date| format!("Date: {}.", plain(date))));
    let filter = match options.filter_words.as_str() {
        "" => "all tasks".to_string(),
        words => format!("tasks with `{}`", plain(words)),
    };
    let played = options.shape != Shape::Tasks && options.filter.state.is_none();
    let filter = if played { format!("{filter} that are active") } else { filter };
    points.push(format!("Filters: {filter}; {} tasks.", summary.tasks));
    for (why, n) in &summary.left_out {
        points.push(format!("Left out: {n} tasks {why}."));
    }
    points.push(format!(
        "Splits are made by document. The archive's held-out documents are the test; of the \
         others a share of {}, by a hash of their ids, is the validation. A task with evidence in \
         several documents stands in the strictest of their splits, and no row shows words of a \
         document that belongs to a stricter split.",
        options.sides.validation
    ));
    points.extend(content(options));
    points.push(format!("Questions by: {}.", versions(&summary.proposed_by)));
    if !summary.answered_by.is_empty() {
        points.push(format!("Answers by: {}.", versions(&summary.answered_by)));
    }
    points.iter().map(|point| format!("- {point}\n")).collect()
}

fn content(options: &ExportOptions) -> Vec<String> {
    if options.shape == Shape::Tasks {
        return Vec::new();
    }
    let shown = match options.shown {
        Shown::Retrieved => "the passages that search found, or the evidence where nobody searched",
        Shown::Evidence => "the passages of the evidence",
        Shown::Nothing => "no passages",
    };
    let mut points = vec![format!("Prompts: template `{}`, with {shown}.", plain(&options.prompt))];
    match (options.shape, options.target) {
        (Shape::Sft, Target::Rollout) => points.push(format!(
            "The assistant's turn is the answer with the highest reward (token F1), of at least \
             {}.",
            options.min_reward
        )),
        (Shape::Sft, Target::Reference) => {
            points.push("The assistant's turn is the task's reference answer.".to_string());
        }
        (Shape::Preference, _) => points.push(format!(
            "Chosen and rejected are the best and the worst answer of one group of rollouts, with \
             rewards (token F1) that differ by at least {}.",
            options.margin
        )),
        _ => {}
    }
    points
}

fn versions(counts: &BTreeMap<String, u64>) -> String {
    let named = counts.iter().map(|(version, n)| format!("`{}` ({n})", plain(version)));
    named.collect::<Vec<_>>().join(", ")
}

/// A text on one line that ends no code span.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('`', "'")
}
