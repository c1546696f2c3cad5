//! The program from the outside: what it prints and how it exits.

/// Holds a text to its snapshot, with ids, times and scores taken out.
macro_rules! assert_shape {
    ($text:expr) => {
        insta::with_settings!({ filters => [
            (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME"),
            (r#""score": \d+\.\d+"#, r#""score": SCORE"#),
            (r"[0-9a-f]{16}", "ID"),
        ] }, {
            insta::assert_snapshot!($text)
        })
    };
}

mod contracts;
mod definition;
mod export;
mod play;
mod review;
mod schedules;
#[cfg(target_os = "linux")]
mod terminal;

use std::path::Path;
use std::path::PathBuf;

use assert_cmd::Command;
use nightschool::phase::home::Home;
use serde_json::Value;

/// A temporary place for a person: documents, and where the program keeps its things.
pub(crate) struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn home(&self) -> Home {
        Home::at(self.path("home"))
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        Command::from_std(self.process(args))
    }

    /// The program with nothing of this machine's environment.
    fn process(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nightschool"));
        command.env_clear().current_dir(self.dir.path()).args(args);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("NIGHTSCHOOL_HOME", self.home().dir());
        command.env("NIGHTSCHOOL_CACHE", self.path("cache"));
        command.env("NIGHTSCHOOL_LOG", "warn");
        command
    }

    /// Runs the program; it must exit with `code`. Returns standard output and error with the
    /// place taken out of them.
    pub(crate) fn run(&self, code: i32, args: &[&str]) -> (String, String) {
        let output = self.command(args).output().unwrap();
        let text = |bytes: &[u8]| self.placeless(std::str::from_utf8(bytes).unwrap());
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
        (out, err)
    }

    /// Standard output of a run that goes well and has nothing to say on stderr.
    pub(crate) fn out(&self, args: &[&str]) -> String {
        let (out, err) = self.run(0, args);
        assert_eq!(err, "", "{args:?}");
        out
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.out(&[args, &["--json"]].concat())).unwrap()
    }

    /// The one line on stderr of a run that fails.
    pub(crate) fn error(&self, code: i32, args: &[&str]) -> String {
        let (out, err) = self.run(code, args);
        assert_eq!(out, "", "{args:?}");
        err.trim_end().to_string()
    }

    fn placeless(&self, text: &str) -> String {
        let real = self.dir.path().canonicalize().unwrap();
        let text = text.replace(&real.display().to_string(), "DESK");
        text.replace(&self.dir.path().display().to_string(), "DESK")
    }
}

pub(crate) const STEAM: &str = "\
# The steam engine

Thomas Newcomen built the first practical steam engine in 1712 to pump water out of mines.
James Watt patented the separate condenser in 1769, which saved three quarters of the coal.
";

pub(crate) const SEA: &str = "\
The Pacific Ocean covers about 165 million square kilometres. Its deepest point is the Challenger
Deep, 10,935 metres below the surface, which Jacques Piccard and Don Walsh reached in 1960.
";

/// A desk with two documents added.
pub(crate) fn with_corpus() -> Desk {
    let desk = Desk::new();
    desk.write("docs/steam.md", STEAM);
    desk.write("docs/sea.txt", SEA);
    desk.out(&["corpus", "add", "docs"]);
    desk
}

fn names(value: &Value, list: &str, member: &str) -> Vec<String> {
    let items = value[list].as_array().unwrap().iter();
    items.map(|item| item[member].as_str().unwrap().to_string()).collect()
}

#[test]
fn help_names_every_command_and_exit_status() {
    let desk = Desk::new();
    insta::assert_snapshot!(desk.out(&["--help"]));
    let (_, err) = desk.run(2, &["tsak"]);
    assert!(err.contains("unrecognized subcommand 'tsak'") && err.contains("'task'"), "{err}");
    assert!(desk.out(&["corpus", "add", "--help"]).contains("[PATH]..."));
    assert!(desk.out(&["--version"]).starts_with("nightschool "));
}

#[test]
fn init_writes_settings_once() {
    let desk = Desk::new();
    let out = desk.out(&["init", "--model", "./weights.gguf"]);
    insta::assert_snapshot!(out, @r"
    Wrote DESK/home/nightschool.toml: every setting with its default and what it means.

    Next:
      nightschool corpus add DIR
          .md, .txt, .rst, .html and .jsonl files
      nightschool night --now
          teach ./weights.gguf from them
    ");
    let config = std::fs::read_to_string(desk.home().config()).unwrap();
    assert!(config.contains("model = \"./weights.gguf\"\n# Every random draw"), "{config}");
    let error = desk.error(1, &["init"]);
    insta::assert_snapshot!(
        error,
        @"error: DESK/home/nightschool.toml is there already; edit it, or replace it with --force"
    );
    assert_eq!(std::fs::read_to_string(desk.home().config()).unwrap(), config);
    let value = desk.json(&["init", "--force"]);
    insta::assert_json_snapshot!(value, @r#"
    {
      "schema_version": 1,
      "home": "DESK/home",
      "config": "DESK/home/nightschool.toml",
      "model": "smollm2-135m",
      "next": [
        "nightschool corpus add DIR",
        "nightschool night --now"
      ]
    }
    "#);
    let error = desk.error(1, &["init", "--force", "--model", "no such thing"]);
    assert!(error.contains("`no such thing` is not a model"), "{error}");
}

#[test]
fn the_corpus_follows_the_files() {
    let desk = Desk::new();
    desk.write("docs/steam.md", STEAM);
    desk.write("docs/inner/sea.txt", SEA);
    desk.write("docs/copy/sea.txt", SEA);
    desk.write("docs/plan.pdf", "%PDF");
    desk.write("docs/image.txt", b"\0\x01\x02");
    desk.write(
        "docs/rows.jsonl",
        "{\"title\": \"Row\", \"text\": \"One row of text.\"}\n{broken\n",
    );
    let report = desk.json(&["corpus", "add", "docs"]);
    let mut counts = report.clone();
    counts.as_object_mut().unwrap().remove("skipped");
    insta::assert_json_snapshot!(counts);
    let at_fault: Vec<_> = report["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|skipped| {
            let line = skipped["line"].as_u64().unwrap_or(0);
            format!("{}:{line} {}", skipped["path"].as_str().unwrap(), skipped["reason"])
        })
        .collect();
    assert_eq!(
        at_fault,
        [
            "docs/image.txt:0 \"binary\"",
            "docs/plan.pdf:0 \"not_read_yet\"",
            "docs/rows.jsonl:2 \"broken_json\"",
        ]
    );

    // Without a path, what was added before is looked at again.
    let again = desk.json(&["corpus", "add"]);
    assert_eq!((&again["files_read"], &again["unchanged"]), (&0.into(), &4.into()));
    desk.write("docs/steam.md", STEAM.replace("1712", "the year 1712"));
    std::fs::remove_file(desk.path("docs/inner/sea.txt")).unwrap();
    let changed = desk.json(&["corpus", "add"]);
    for (member, count) in [
        ("files_read", 1),
        ("unchanged", 2),
        ("vanished", 1),
        ("documents_added", 0),
        ("documents_retired", 1),
        ("passages_added", 1),
        ("passages_retired", 1),
        ("passages_active", 3),
    ] {
        assert_eq!(changed[member], count, "{member} of {changed}");
    }
    let list = desk.json(&["corpus", "list"]);
    assert_eq!(
        names(&list, "files", "path"),
        [
            "docs/copy/sea.txt",
            "docs/image.txt",
            "docs/inner/sea.txt",
            "docs/plan.pdf",
            "docs/rows.jsonl",
            "docs/steam.md",
        ]
    );
    assert_eq!(
        names(&list, "files", "state"),
        ["read", "skipped", "vanished", "skipped", "read", "read",]
    );
    insta::assert_snapshot!(desk.out(&["corpus", "list"]));

    // A folder that is gone sets its documents aside, with a warning; back, they are back.
    std::fs::rename(desk.path("docs"), desk.path("away")).unwrap();
    let (_, err) = desk.run(1, &["corpus", "add"]);
    assert!(err.contains("DESK/docs is gone") && err.contains("corpus is empty"), "{err}");
    std::fs::rename(desk.path("away"), desk.path("docs")).unwrap();
    let back = desk.json(&["corpus", "add"]);
    assert_eq!((&back["documents_restored"], &back["documents_added"]), (&3.into(), &0.into()));
}

#[test]
fn search_finds_passages() {
    let desk = with_corpus();
    let question = "who patented the condenser?";
    assert_shape!(desk.out(&["corpus", "search", question, "-k", "1", "--json"]));
    let text = desk.out(&["corpus", "search", "\"deepest\" AND (point", "-k", "3"]);
    assert!(text.starts_with("1. sea  ["), "{text}");
    assert_eq!(desk.out(&["corpus", "search", "zebra"]), "No passage has any of these words.\n");
    let documents = desk.json(&["corpus", "list", "--documents"]);
    assert_eq!(
        names(&documents, "documents", "split").iter().filter(|s| *s == "heldout").count(),
        1
    );
}

#[test]
fn status_says_what_to_do_next() {
    let desk = Desk::new();
    let next = |desk: &Desk| desk.json(&["status"])["next"].clone();
    assert_eq!(next(&desk), serde_json::json!(["nightschool init", "nightschool corpus add DIR"]));
    assert!(!desk.home().dir().exists());
    let desk = with_corpus();
    assert_eq!(next(&desk)[0], "nightschool night --now");
    insta::assert_snapshot!(desk.out(&["status"]));
    assert_shape!(desk.out(&["status", "--json"]));
    let (out, _) = desk.run(0, &["--home", "other place", "status"]);
    assert!(out.contains("nightschool --home 'other place' init"), "{out}");
}

#[test]
fn homes_and_their_order() {
    let desk = Desk::new();
    let home_of = |command: &mut Command| {
        let output = command.args(["status", "--json"]).output().unwrap();
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        value["home"].as_str().unwrap().to_string()
    };
    let variables = [
        ("HOME", "/h", "/h/.local/state/nightschool"),
        ("XDG_STATE_HOME", "/x", "/x/nightschool"),
        ("STATE_DIRECTORY", "/s:/t", "/s"),
        ("NIGHTSCHOOL_HOME", "/n", "/n"),
    ];
    let mut command = desk.command(&[]);
    command.env_remove("NIGHTSCHOOL_HOME");
    let output = command.args(["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    for until in 0..variables.len() {
        let mut command = desk.command(&[]);
        command.env_remove("NIGHTSCHOOL_HOME");
        for (name, value, _) in &variables[..=until] {
            command.env(name, value);
        }
        assert_eq!(home_of(&mut command), variables[until].2);
    }
    assert_eq!(home_of(desk.command(&[]).args(["--home", "/f"])), "/f");
}

#[test]
fn models_are_listed_without_a_home() {
    let desk = Desk::new();
    insta::assert_snapshot!(desk.out(&["model", "list"]), @r"
    MODEL         SIZE   FETCHED
    smollm2-135m  98 MB  no

    No versions in DESK/home yet.
    ");
    assert!(!desk.home().dir().exists() && !Path::new(&desk.path("cache")).exists());
}

#[test]
fn retrieval_is_measured() {
    let desk = Desk::new();
    let corpus = desk.write(
        "corpus.jsonl",
        "{\"id\": \"a\", \"title\": \"Steam\", \"text\": \"Watt patented the condenser.\"}\n\
         {\"id\": \"b\", \"title\": \"Sea\", \"text\": \"The Pacific is the largest ocean.\"}\n",
    );
    let questions = "{\"question\": \"largest ocean?\", \"supporting\": [\"b\"]}\n";
    let questions = desk.write("questions.jsonl", questions);
    let queries = desk.write("queries.tsv", "q1\tlargest ocean\n");
    let qrels = desk.write("qrels.tsv", "q1\t0\tb\t1\n");
    let text = |path: &PathBuf| path.display().to_string();
    let base = ["bench", "retrieve", "--corpus", &text(&corpus)];
    let by_questions = desk.json(&[&base[..], &["--questions", &text(&questions)]].concat());
    let judged = ["--queries", &text(&queries), "--qrels", &text(&qrels)];
    let by_judgements = desk.json(&[&base[..], &judged].concat());
    for report in [&by_questions, &by_judgements] {
        for member in ["ndcg10", "map", "recall100"] {
            assert_eq!(report[member], 1.0, "{member}");
        }
        for member in ["schema_version", "queries_per_s", "p50_ms", "p99_ms"] {
            assert!(report[member].is_number(), "{member}");
        }
    }
    desk.run(2, &base);
}
