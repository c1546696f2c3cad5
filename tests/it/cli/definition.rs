//! What is made from the definition of the command line, and what has to agree with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use nightschool::cli;
use nightschool::cli::errors::Exit;

use super::Desk;

/// Every command by the words that call it; the program itself first.
fn commands() -> Vec<(String, clap::Command)> {
    fn collect(path: String, command: &clap::Command, all: &mut Vec<(String, clap::Command)>) {
        all.push((path.clone(), command.clone()));
        let for_people =
            |below: &&clap::Command| below.get_name() != "help" && !below.is_hide_set();
        for below in command.get_subcommands().filter(for_people) {
            collect(format!("{path} {}", below.get_name()), below, all);
        }
    }
    let mut all = Vec::new();
    collect("nightschool".to_string(), &cli::command(), &mut all);
    assert!(all.len() > 40, "only {} commands", all.len());
    all
}

fn text_of(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The command that a line calls, when the program takes the line. A shell's comment, pipe or
/// redirection ends it.
fn called(line: &str) -> Result<String, String> {
    let words = shlex::split(line).ok_or("quotes are not closed")?;
    let own = words.into_iter().take_while(|word| !["|", ">"].contains(&word.as_str()));
    let matches = cli::command().try_get_matches_from(own).map_err(|error| error.to_string())?;
    let mut path = "nightschool".to_string();
    let mut matches = &matches;
    while let Some((name, below)) = matches.subcommand() {
        path = format!("{path} {name}");
        matches = below;
    }
    Ok(path)
}

#[test]
fn every_command_has_examples_that_it_takes() {
    for (path, command) in commands() {
        let help = command.get_before_help().map(ToString::to_string).unwrap_or_default();
        let examples = help.strip_prefix("Examples:\n");
        let examples = examples.unwrap_or_else(|| panic!("{path}: help begins with no examples"));
        let mut own = 0;
        for line in examples.lines() {
            let line = line.strip_prefix("  ").unwrap_or_else(|| panic!("{path}: {line}"));
            let called = called(line).unwrap_or_else(|why| panic!("{path}: {line}\n{why}"));
            own += usize::from(called == path || called.starts_with(&format!("{path} ")));
        }
        assert!(own > 0, "{path}: no example calls it");
        let rest = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(!rest.contains("Examples:"), "{path}: examples stand first");
    }
}

#[test]
fn commands_in_the_readme_are_taken() {
    let readme = text_of("README.md");
    let lines: Vec<&str> = readme.lines().filter(|line| line.starts_with("nightschool ")).collect();
    assert!(lines.len() > 20, "{lines:?}");
    // Some lines of the text begin with the program's name.
    let prose = |line: &&&str| line.ends_with('.');
    for line in lines.iter().filter(|line| !prose(line)) {
        called(line).unwrap_or_else(|why| panic!("README.md: {line}\n{why}"));
    }
}

#[test]
fn exit_statuses_are_told_alike_everywhere() {
    let desk = Desk::new();
    let rows = Exit::ALL.map(|exit| format!("| {} | {} |", exit.code(), exit.meaning()));
    let docs = text_of("docs/cli-json.md");
    let told: Vec<&str> =
        docs.lines().filter(|line| line.starts_with("| ") && !line.contains("meaning")).collect();
    assert_eq!(told, rows);
    let help = desk.out(&["--help"]);
    let lines = Exit::ALL.map(|exit| format!("  {:3}  {}", exit.code(), exit.meaning()));
    assert!(help.trim_end().ends_with(&lines.join("\n")), "{help}");
    let page = desk.out(&["man"]);
    let (_, section) = page.split_once(".SH \"EXIT STATUS\"\n").unwrap();
    let lines = Exit::ALL.map(|exit| format!(".TP\n\\fB{}\\fR\n{}", exit.code(), exit.meaning()));
    assert_eq!(section.trim_end(), lines.join("\n").replace('-', "\\-"));
    let codes = Exit::ALL.map(Exit::code);
    assert!(codes.is_sorted(), "{codes:?}");
}

#[test]
fn every_json_is_described() {
    let docs = text_of("docs/cli-json.md");
    for (path, command) in commands() {
        let prints = |name| command.get_arguments().any(|one| one.get_long() == Some(name));
        let Some(name) = path.strip_prefix("nightschool ") else { continue };
        // Its options may stand behind it.
        let named = docs.contains(&format!("`{name}`")) || docs.contains(&format!("`{name} --"));
        assert!(named || !prints("json"), "docs/cli-json.md says nothing of `{name}`");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let desk = Desk::new();
    let commands = commands();
    let out = desk.out(&["man", "share/man1"]);
    assert_eq!(out, format!("{} pages are in share/man1\n", commands.len()));
    let mut names = BTreeSet::new();
    for (path, command) in &commands {
        let name = format!("{}.1", path.replace(' ', "-"));
        let page = fs::read_to_string(desk.path("share/man1").join(&name)).unwrap();
        for section in ["NAME", "SYNOPSIS", "OPTIONS", "EXAMPLES", "ENVIRONMENT"] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{name} lacks {section}");
        }
        assert!(page.contains("\n.SH \"EXIT STATUS\"\n"), "{name} lacks the exit status");
        let below = command.get_subcommands().filter(|below| below.get_name() != "help");
        for below in below.filter(|below| !below.is_hide_set()) {
            let named = format!("{}\\-{}(1)", path.replace(' ', "\\-"), below.get_name());
            assert!(page.contains(&named), "{name} does not name {named}");
        }
        names.insert(name);
    }
    let there = fs::read_dir(desk.path("share/man1")).unwrap();
    let there: BTreeSet<String> =
        there.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, names);
    let main = fs::read_to_string(desk.path("share/man1/nightschool.1")).unwrap();
    assert_eq!(desk.out(&["man"]).trim_end(), main.trim_end());
    let page = fs::read_to_string(desk.path("share/man1/nightschool-corpus-remove.1")).unwrap();
    insta::assert_snapshot!(page.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[test]
fn pages_that_cannot_be_written_are_an_error() {
    let desk = Desk::new();
    desk.write("share", "a file");
    let error = desk.error(1, &["man", "share/man1"]);
    assert!(error.contains("could not create the directory share/man1"), "{error}");
}

#[test]
fn shells_complete_commands() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = desk.out(&["completions", shell]);
        assert!(script.contains("lineage") && script.contains("no-pager"), "{shell}");
    }
    let (_, error) = desk.run(2, &["completions", "csh"]);
    assert!(error.contains("possible values: bash"), "{error}");

    let script = desk.write("nightschool.bash", desk.out(&["completions", "bash"]));
    // Not every machine has it.
    let Ok(checked) = Command::new("bash").arg("-n").arg(&script).output() else { return };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    for (words, replies) in [
        ("task li", "list lineage"),
        ("archive ba", "backup"),
        ("task list --bef", ""),
        ("task list --rej", "--rejected"),
        ("task lineage --format d", "dot"),
        ("completions z", "zsh"),
    ] {
        let all: Vec<&str> = ["nightschool"].into_iter().chain(words.split(' ')).collect();
        let [.., before, last] = all.as_slice() else { panic!("{words}") };
        let ask = format!(
            "source \"$0\"; COMP_WORDS=({}); COMP_CWORD={}; _nightschool nightschool {last} \
             {before}; echo \"${{COMPREPLY[@]}}\"",
            all.join(" "),
            all.len() - 1
        );
        let output = Command::new("bash").args(["-c", &ask]).arg(&script).output().unwrap();
        let offered = String::from_utf8(output.stdout).unwrap();
        let offered: BTreeSet<&str> = offered.split_whitespace().collect();
        let replies: BTreeSet<&str> = replies.split_whitespace().collect();
        assert_eq!(offered, replies, "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
